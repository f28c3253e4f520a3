"""A type of numba for LANES float32 numbers that stay in registers, and arithmetic on it.

    x = load(u, i)                          # u[i] .. u[i + LANES - 1] of a flat array
    store(y, i, x * spread(rate, n) + sigmoid(x))

LLVM vectorises a plain loop only if it can prove that its arrays do not overlap, and it keeps running sums in memory.
Here a kernel says itself what is a vector and what stays in a register. LLVM cuts a vector into registers of the
machine: 2 with AVX-512, 4 with AVX2, 8 with SSE or NEON.

An array is flat and holds float32, or int16 with the bits of bf16 (NumPy has no bf16). A vector is always float32.
Products and sums may be fused. NaN stays NaN.

Only the numba implementations of the ops import this file.
"""

from __future__ import annotations

import math
import operator

import numpy as np
import torch.nn.functional as F
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

LANES = 32
FLAGS = ("contract", "nsz")  # fused multiply-add is more exact, and signs of zero do not matter

_FLOAT, _INT, _HALF = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_FLOATS, _INTS, _HALVES = (ir.VectorType(kind, LANES) for kind in (_FLOAT, _INT, _HALF))

ROUND = 12582912.0  # 1.5 x 2^23: added to x and taken away again, it rounds x to a whole number
LOG2_E = 1.0 / math.log(2.0)
# log 2 in two parts: the first has 9 bits, so a whole number times it is exact
LOG_2_HIGH = 0.693359375
LOG_2_LOW = math.log(2.0) - LOG_2_HIGH
LOWEST, HIGHEST = -126.0, 127.0  # powers of 2 between which 2^n is a normal float32
# 2^f = 1 + f (E1 + f (E2 + ...)), |f| <= 1/2: the polynomial of least largest relative error (9.1e-8) among those that
# are 1 at f = 0, found by linear programming. So decays near 1 are exact to the last place.
POWER = (0.6931469775, 0.2402224212, 0.05550733963, 0.009671511324, 0.001326465239)
# log(1 + e) = 2 s (1 + z (L1 + z (L2 + ...))), s = e / (2 + e), z = s^2, 0 <= e <= 1: likewise, error 4.4e-9
LOGARITHM = (0.3333320841, 0.2001074361, 0.1400126995, 0.1400413489)


def whole_vectors(channels: int) -> int:
    """A number of channels, rounded up to whole vectors."""
    return -(-channels // LANES) * LANES


def padded(x, axis: int = -1):
    """The tensor x with zeros up to whole vectors along one axis. It is copied only where it does not fill them."""
    axis = axis % x.dim()
    spare = whole_vectors(x.shape[axis]) - x.shape[axis]
    return F.pad(x, (0, 0) * (x.dim() - 1 - axis) + (0, spare)) if spare else x


class Vector(types.Type):
    """LANES float32 numbers."""

    def __init__(self):
        super().__init__(name=f"float32x{LANES}")


vector = Vector()


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, _FLOATS)


def _arithmetic(function, instruction: str) -> None:
    """Let numba compile `function(a, b)` of two vectors as one instruction of LLVM."""

    @type_callable(function)
    def kind(context):
        return lambda a, b: vector if a is vector and b is vector else None

    @lower_builtin(function, vector, vector)
    def generate(context, builder, signature, arguments):
        return getattr(builder, instruction)(*arguments, flags=FLAGS)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")


# --- memory ----------------------------------------------------------------------------------------------------------


@intrinsic
def load(context, array, i):
    """The numbers array[i] .. array[i + LANES - 1]."""

    def generate(context, builder, signature, arguments):
        place, kind = _place(context, builder, signature, arguments)
        return _floats(builder, builder.load(_whole(builder, place, kind), align=_bytes(kind)))

    return vector(array, types.intp), generate


@intrinsic
def store(context, array, i, x):
    """Write x to array[i] .. array[i + LANES - 1]. What goes into bf16 is rounded to the nearest number."""

    def generate(context, builder, signature, arguments):
        place, kind = _place(context, builder, signature, arguments)
        elements = _elements(builder, arguments[2], kind)
        builder.store(elements, _whole(builder, place, kind), align=_bytes(kind))
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), generate


@intrinsic
def spread(context, array, i):
    """array[i] in all lanes."""

    def generate(context, builder, signature, arguments):
        place, kind = _place(context, builder, signature, arguments)
        number = builder.load(place)
        if kind is _HALF:
            number = builder.bitcast(builder.shl(builder.zext(number, _INT), _INT(16)), _FLOAT)
        return _spread(builder, number)

    return vector(array, types.intp), generate


@intrinsic
def splat(context, number):
    """A float32 in all lanes."""
    return vector(types.float32), lambda context, builder, signature, arguments: _spread(builder, arguments[0])


def _place(context, builder, signature, arguments):
    """(pointer to element i of the array, its type in LLVM), for an intrinsic whose first arguments these are."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]]), _HALF if signature.args[0].dtype == types.int16 else _FLOAT


def _whole(builder, place, kind):
    return builder.bitcast(place, ir.VectorType(kind, LANES).as_pointer())


def _bytes(kind) -> int:
    return 2 if kind is _HALF else 4


def _floats(builder, elements):
    """Elements of an array as float32."""
    if elements.type == _FLOATS:
        return elements
    return builder.bitcast(builder.shl(builder.zext(elements, _INTS), _whole_number(16)), _FLOATS)


def _elements(builder, x, kind):
    """x as elements of an array: in bf16 rounded to the nearest, halves to even, as torch does it."""
    if kind is _FLOAT:
        return x
    bits = builder.bitcast(x, _INTS)
    odd = builder.and_(builder.lshr(bits, _whole_number(16)), _whole_number(1))
    rounded = builder.add(builder.add(bits, odd), _whole_number(0x7FFF))
    rounded = builder.select(builder.fcmp_unordered("uno", x, x), _whole_number(0x7FC00000), rounded)
    return builder.trunc(builder.lshr(rounded, _whole_number(16)), _HALVES)


def _spread(builder, number):
    empty = ir.Constant(_FLOATS, ir.Undefined)
    first = builder.insert_element(empty, number, _INT(0))
    return builder.shuffle_vector(first, empty, _whole_number(0))


# --- functions of a vector -------------------------------------------------------------------------------------------


@intrinsic
def total(context, x):
    """The sum of all lanes, a float32: halves are added to halves."""

    def generate(context, builder, signature, arguments):
        (x,), width = arguments, LANES
        while width > 1:
            width //= 2
            low, high = (ir.Constant(ir.VectorType(_INT, width), list(range(a, a + width))) for a in (0, width))
            x = builder.fadd(builder.shuffle_vector(x, x, low), builder.shuffle_vector(x, x, high))
        return builder.extract_element(x, _INT(0))

    return types.float32(vector), generate


@intrinsic
def exp2(context, x):
    """2^x of each lane, to 3 units in the last place. Results below 2^-126 are 2^-126, those above 2^127 are 2^127."""

    def generate(context, builder, signature, arguments):
        x = _bounded(builder, arguments[0], LOWEST, HIGHEST)
        return _power(builder, x, lambda n: builder.fsub(x, n))

    return vector(vector), generate


@intrinsic
def sigmoid(context, x):
    """1 / (1 + e^-x) of each lane."""

    def generate(context, builder, signature, arguments):
        one = _number(1)
        return builder.fdiv(one, builder.fadd(one, _exp(builder, builder.fsub(_number(0), arguments[0]))))

    return vector(vector), generate


@intrinsic
def softplus(context, x):
    """log(1 + e^x) of each lane."""

    def generate(context, builder, signature, arguments):
        x = arguments[0]
        positive = builder.fcmp_ordered(">", x, _number(0))
        minus = builder.fsub(_number(0), x)
        e = _exp(builder, builder.select(positive, minus, x))  # e^-|x|
        s = builder.fdiv(e, builder.fadd(e, _number(2)))
        series = _polynomial(builder, (1.0, *LOGARITHM), builder.fmul(s, s))
        logarithm = builder.fmul(builder.fadd(s, s), series)
        return builder.fadd(builder.select(positive, x, _number(0)), logarithm, flags=FLAGS)

    return vector(vector), generate


def _exp(builder, x):
    """e^x, bounded as `exp2` bounds it."""
    x = _bounded(builder, x, LOWEST / LOG2_E, HIGHEST / LOG2_E)

    def fraction(n):
        rest = builder.fsub(x, builder.fmul(n, _number(LOG_2_HIGH)))
        rest = builder.fsub(rest, builder.fmul(n, _number(LOG_2_LOW), flags=FLAGS), flags=FLAGS)
        return builder.fmul(rest, _number(LOG2_E))

    return _power(builder, builder.fmul(x, _number(LOG2_E)), fraction)


def _bounded(builder, x, lowest: float, highest: float):
    """x between two numbers; NaN stays NaN."""
    x = builder.select(builder.fcmp_ordered("<", x, _number(lowest)), _number(lowest), x)
    return builder.select(builder.fcmp_ordered(">", x, _number(highest)), _number(highest), x)


def _power(builder, x, fraction):
    """2^x, -126 <= x <= 127. fraction(n): x - n, where n is x rounded to a whole number."""
    shifted = builder.fadd(x, _number(ROUND))
    f = fraction(builder.fsub(shifted, _number(ROUND)))
    # The last bits of `shifted` are n. 2^n has n + 127 in the bits of its exponent.
    scale = builder.add(builder.shl(builder.bitcast(shifted, _INTS), _whole_number(23)), _whole_number(127 << 23))
    return builder.fmul(_polynomial(builder, (1.0, *POWER), f), builder.bitcast(scale, _FLOATS))


def _polynomial(builder, coefficients, x):
    value = _number(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = builder.fadd(builder.fmul(value, x, flags=FLAGS), _number(c), flags=FLAGS)
    return value


def _number(x: float):
    return ir.Constant(_FLOATS, [float(np.float32(x))] * LANES)


def _whole_number(x: int):
    return ir.Constant(_INTS, [x] * LANES)

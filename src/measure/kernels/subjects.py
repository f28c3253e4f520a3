"""What `kernels` measures: for each op its inputs, its forms, its definition, and its number of operations and bytes.

    subject = SUBJECTS["selective_scan"]
    shape = Shape(B=2, T=512, width=256, heads=4, head_dim=64, state=16)
    inputs = subject.inputs(shape, seed)                      # {"u": (B, T, E), ...}, float32 on the CPU
    y = subject.forms["eager"].run(**inputs)                  # the output alone
    cost = subject.cost(shape, element_bytes, "forward")      # Cost(operations, bytes)

**Operations** are those of the op's definition, not those of a backend's algorithm. So GFLOP/s of two backends compare
times and nothing else. An addition, a multiplication, a comparison, an exponential or a division counts 1. Backward
counts the operations of the gradients' formulas. Values that the forward pass computed are taken as known, because
recomputing them is a backend's own choice.

**Bytes** are the least that must be moved. Forward reads every input once and writes every output once. Backward reads
the inputs and the output's gradient once, and writes the inputs' gradients once. Real kernels move more, so they reach
less than the roof. "both" is forward and backward together.

B batch, T time, D width, H heads, K size of a head (keys and values), E channels, N states per channel, W width of a
convolution.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

from src.measure.kernels.contract import CONV_WIDTH, EPS, Implementation, Shape, Subject
from src.ops.backends import OPS


def _op(op: str, name: str) -> Callable:
    """A backend of one of src/ops, imported at its first call. Of (output, state) it returns the output alone."""

    def run(**inputs):
        out = getattr(importlib.import_module(f"src.ops.{op}"), op)(**inputs, backend=name)
        return out[0] if isinstance(out, tuple) else out

    return run


def _reference(op: str) -> Callable:
    def run(**inputs):
        out = getattr(importlib.import_module(f"src.ops.{op}.reference"), f"{op}_reference")(**inputs)
        return out[0] if isinstance(out, tuple) else out

    return run


def _forms(op: str, run: Callable = _op) -> dict[str, Implementation]:
    """The backends that `--backend` knows for an op.  run(op, name): what computes a backend."""
    return {
        name: Implementation(run(op, name), b.summary, b, half_only=name == "flash_attn") for name, b in OPS[op].items()
    }


def _scan_inputs(s: Shape, randn, rand):
    E, N = s.width, s.state
    return {
        "u": randn(s.B, s.T, E),
        "delta": 0.001 + 0.1 * rand(s.B, s.T, E),
        "A": -(0.5 + rand(E, N) * N),
        "B": randn(s.B, s.T, N),
        "C": randn(s.B, s.T, N),
        "D": randn(E),
    }


def _scan_forward(s: Shape):
    # Per state, 7: delta A, exp, decay h, (delta u) B, +, C h and its sum. Per channel, 3: delta u, D u and +.
    tokens, E, N = s.B * s.T, s.width, s.state
    return tokens * E * (7 * N + 3), 3 * tokens * E + 2 * tokens * N + E * N + E


def _scan_backward(s: Shape):
    # Per state, 15. Gradient of h: + C dy (2), x decay (1). Of C and B: 4. Of delta u: 2. Of the decay: 1.
    #   Of delta: d(decay) decay A and its sum (3). Of A: x delta and its sum (2).
    # Per channel, 7. Gradient of u: d(delta u) delta + D dy (3). Of delta: + d(delta u) u (2). Of D: 2.
    tokens, E, N = s.B * s.T, s.width, s.state
    inputs = 2 * tokens * E + 2 * tokens * N + E * N + E
    return tokens * E * (15 * N + 7), 2 * inputs + tokens * E


def _conv_inputs(s: Shape, randn, rand):
    return {"x": randn(s.B, s.T, s.width), "weight": randn(s.width, CONV_WIDTH) / 2, "bias": randn(s.width)}


def _conv_forward(s: Shape):
    # W products, W - 1 sums and the bias.
    numbers = s.B * s.T * s.width
    return numbers * 2 * CONV_WIDTH, 2 * numbers + s.width * (CONV_WIDTH + 1)


def _conv_backward(s: Shape):
    # Gradient of x: W products, W - 1 sums. Of the weight: W products and sums. Of the bias: 1.
    numbers, weights = s.B * s.T * s.width, s.width * (CONV_WIDTH + 1)
    return numbers * 4 * CONV_WIDTH, 3 * numbers + 2 * weights


def _linear_inputs(s: Shape, randn, rand):
    size = (s.B, s.T, s.heads, s.head_dim)
    return {
        "q": randn(*size) / math.sqrt(s.head_dim),
        "k": randn(*size) / math.sqrt(s.head_dim),
        "v": randn(*size),
        "decay": -0.2 * rand(*size[:3]),
    }


def _linear_forward(s: Shape):
    # Per number of the state: decay 1, write 2, read 2.
    rows = s.B * s.T * s.heads
    return rows * 5 * s.head_dim**2, rows * (4 * s.head_dim + 1)


def _linear_backward(s: Shape):
    # Per number of the state: gradient of q 2, of the state + q do 2 and x decay 1, of k 2, of v 2, of the decay 2.
    rows = s.B * s.T * s.heads
    return rows * 11 * s.head_dim**2, rows * (7 * s.head_dim + 2)


def _delta_inputs(s: Shape, randn, rand):
    import torch

    made = _linear_inputs(s, randn, rand)
    made["k"] = torch.nn.functional.normalize(made["k"], dim=-1)
    return {**made, "beta": rand(s.B, s.T, s.heads)}


def _delta_forward(s: Shape):
    # Per number of the state: decay 1, S^T k 2, write 2, read 2. Per value: v - S^T k, x beta: 2.
    rows, K = s.B * s.T * s.heads, s.head_dim
    return rows * (7 * K**2 + 2 * K), rows * (4 * K + 2)


def _delta_backward(s: Shape):
    # Per number of the state, 15. Gradient of q 2, of the state + q do 2, of the write's k and value 4.
    #   Through S^T k: of k 2, of the state 2. Of the decay 2, x decay 1.
    # Per value, 4: x beta 1, of beta 2, sign 1.
    rows, K = s.B * s.T * s.heads, s.head_dim
    return rows * (15 * K**2 + 4 * K), rows * (7 * K + 4)


def _attention_inputs(s: Shape, randn, rand):
    size = (s.B, s.heads, s.T, s.head_dim)
    return {"q": randn(*size), "k": randn(*size), "v": randn(*size)}


def _explicit_attention(q, k, v):
    from src.ops.attention import COMPUTE  # without the public function's dispatch, which torch.compile cannot follow

    return COMPUTE["explicit"](q, k, v, None, 0.0)


def _pairs(s: Shape) -> int:
    """Pairs of a query and a key that it sees."""
    return s.B * s.heads * s.T * (s.T + 1) // 2


def _attention_forward(s: Shape):
    # Per pair: q k 2 K; scale, maximum, minus it, exp, sum, division 6; weight v 2 K.
    return _pairs(s) * (4 * s.head_dim + 6), 4 * s.B * s.heads * s.T * s.head_dim


def _attention_backward(s: Shape):
    # Per pair: gradient of v 2 K, of the weight 2 K; softmax: product and sum 2, minus and product 2, scale 1;
    #   of q 2 K, of k 2 K.
    return _pairs(s) * (8 * s.head_dim + 5), 7 * s.B * s.heads * s.T * s.head_dim


def _rows_inputs(s: Shape, randn, rand):
    return {"x": randn(s.B, s.T, s.width)}


def _rmsnorm_inputs(s: Shape, randn, rand):
    return {**_rows_inputs(s, randn, rand), "weight": 1 + 0.1 * randn(s.width)}


def _rmsnorm_by_torch(x, weight):
    from src.ops.rmsnorm import eager  # torch.compile can follow an import, but not the dispatch of the public function

    return eager.run(x, weight, EPS)


def _rmsnorm_forward(s: Shape):
    # Per number: square, sum, x scale, x weight: 4. Per row: mean, + eps, rsqrt: 3.
    rows, D = s.B * s.T, s.width
    return rows * (4 * D + 3), 2 * rows * D + D


def _rmsnorm_backward(s: Shape):
    # Per number, 9: x scale 1, gradient of the weight 2, dy weight 1, its product with x scale and the sum 2, of x 3.
    # Per row: mean 1.
    rows, D = s.B * s.T, s.width
    return rows * (9 * D + 1), 3 * rows * D + 2 * D


def _softmax_by_torch(x):
    from src.ops.softmax import eager

    return eager.run(x)


def _softmax_forward(s: Shape):
    # Per number: maximum, minus it, exp, sum, division.
    numbers = s.B * s.T * s.width
    return 5 * numbers, 2 * numbers


def _softmax_backward(s: Shape):
    # Per number: dy y and its sum 2, minus 1, x y 1. Backward reads the output in place of the input.
    numbers = s.B * s.T * s.width
    return 4 * numbers, 3 * numbers


def _linear_map_inputs(s: Shape, randn, rand):
    return {"x": randn(s.B, s.T, s.width), "weight": randn(4 * s.width, s.width) / math.sqrt(s.width)}


def _linear_by_torch(x, weight):
    from src.ops.linear import eager

    return eager.run(x, weight, None)


def _linear_map_forward(s: Shape):
    rows, D = s.B * s.T, s.width
    return 2 * rows * 4 * D * D, rows * 5 * D + 4 * D * D


def _linear_map_backward(s: Shape):
    rows, D = s.B * s.T, s.width
    return 4 * rows * 4 * D * D, rows * 6 * D + 8 * D * D


def _swiglu_inputs(s: Shape, randn, rand):
    return {"gate": randn(s.B, s.T, s.width), "up": randn(s.B, s.T, s.width)}


def _swiglu_by_torch(gate, up):
    from src.ops.swiglu import eager

    return eager.run(gate, up)


def _swiglu_forward(s: Shape):
    # Per number, 5: sign, exp, 1 +, division, x up.
    numbers = s.B * s.T * s.width
    return 5 * numbers, 3 * numbers


def _swiglu_backward(s: Shape):
    # Per number, 7. Of up: dy silu 1. Of the gate: dy up 1, and sigmoid (1 + gate (1 - sigmoid)) 4, their product 1.
    numbers = s.B * s.T * s.width
    return 7 * numbers, 5 * numbers


def _rope_inputs(s: Shape, randn, rand):
    angle = 2 * math.pi * rand(s.T, s.head_dim // 2)
    return {"x": randn(s.B, s.T, s.heads, s.head_dim), "cos": angle.cos(), "sin": angle.sin()}


def _rope(op: str, name: str) -> Callable:
    def run(x, cos, sin):
        from src.ops.rope import rope

        return rope(x, cos.detach(), sin.detach(), backend=name)  # tables, which get no gradient

    return run


def _rope_reference(x, cos, sin):
    from src.ops.rope.reference import rope_reference

    return rope_reference(x, cos.detach(), sin.detach())


def _rope_by_torch(x, cos, sin):
    from src.ops.rope import eager

    return eager.run(x, cos.detach(), sin.detach(), "halves")


def _rope_forward(s: Shape):
    # Per pair, 6: four products and two sums.
    rows = s.B * s.T * s.heads
    return rows * 3 * s.head_dim, 2 * rows * s.head_dim + s.T * s.head_dim


def _rope_backward(s: Shape):
    # The same by minus the angle. It needs no x, and the tables get no gradient.
    return _rope_forward(s)


def _with_compiled(op: str, by_torch: Callable, run: Callable = _op) -> dict[str, Implementation]:
    """The backends of an op that torch has too, and torch.compile of torch's own form."""
    compiled = Implementation(by_torch, "torch.compile of the eager form", compiled=True)
    return {**_forms(op, run), "compiled": compiled}


SUBJECTS = {
    s.name: s
    for s in (
        Subject(
            "selective_scan",
            _scan_inputs,
            _reference("selective_scan"),
            _scan_forward,
            _scan_backward,
            _forms("selective_scan"),
            "eager",
            ("width", "state"),
            "B T E (7 N + 3) forward, B T E (15 N + 7) backward",
            float32_inputs=("A", "D"),
        ),
        Subject(
            "causal_conv",
            _conv_inputs,
            _reference("causal_conv"),
            _conv_forward,
            _conv_backward,
            _forms("causal_conv"),
            "eager",
            ("width",),
            "B T D 2 W forward, B T D 4 W backward, W = 4",
        ),
        Subject(
            "linear_attention",
            _linear_inputs,
            _reference("linear_attention"),
            _linear_forward,
            _linear_backward,
            _forms("linear_attention"),
            "eager",
            ("heads", "head_dim"),
            "B T H 5 K^2 forward, B T H 11 K^2 backward",
            float32_inputs=("decay",),
        ),
        Subject(
            "delta_rule",
            _delta_inputs,
            _reference("delta_rule"),
            _delta_forward,
            _delta_backward,
            _forms("delta_rule"),
            "eager",
            ("heads", "head_dim"),
            "B T H (7 K^2 + 2 K) forward, B T H (15 K^2 + 4 K) backward",
            float32_inputs=("decay",),
        ),
        Subject(
            "attention",
            _attention_inputs,
            _reference("attention"),
            _attention_forward,
            _attention_backward,
            {
                **_forms("attention"),
                "compiled": Implementation(_explicit_attention, "torch.compile of the explicit form", compiled=True),
            },
            "explicit",
            ("heads", "head_dim"),
            "B H T (T + 1) / 2 pairs, (4 K + 6) per pair forward, (8 K + 5) backward",
        ),
        Subject(
            "rmsnorm",
            _rmsnorm_inputs,
            _reference("rmsnorm"),
            _rmsnorm_forward,
            _rmsnorm_backward,
            _with_compiled("rmsnorm", _rmsnorm_by_torch),
            "eager",
            ("width",),
            "B T (4 D + 3) forward, B T (9 D + 1) backward",
        ),
        Subject(
            "swiglu",
            _swiglu_inputs,
            _reference("swiglu"),
            _swiglu_forward,
            _swiglu_backward,
            _with_compiled("swiglu", _swiglu_by_torch),
            "eager",
            ("width",),
            "5 B T D forward, 7 B T D backward",
        ),
        Subject(
            "rope",
            _rope_inputs,
            _rope_reference,
            _rope_forward,
            _rope_backward,
            _with_compiled("rope", _rope_by_torch, _rope),
            "eager",
            ("heads", "head_dim"),
            "3 B T H K forward, the same backward",
            float32_inputs=("cos", "sin"),
        ),
        Subject(
            "softmax",
            _rows_inputs,
            _reference("softmax"),
            _softmax_forward,
            _softmax_backward,
            _with_compiled("softmax", _softmax_by_torch),
            "eager",
            ("width",),
            "5 B T D forward, 4 B T D backward",
        ),
        Subject(
            "linear",
            _linear_map_inputs,
            _reference("linear"),
            _linear_map_forward,
            _linear_map_backward,
            _with_compiled("linear", _linear_by_torch),
            "eager",
            ("width",),
            "8 B T D^2 forward, 16 B T D^2 backward (D to 4 D)",
        ),
    )
}


def known_names() -> tuple[str, ...]:
    """Every name of a form that some subject has."""
    return tuple(dict.fromkeys(name for subject in SUBJECTS.values() for name in subject.forms))

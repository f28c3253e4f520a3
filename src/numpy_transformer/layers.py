"""The layers: embedding, sinusoids, linear map, GELU, softmax, layer norm, each with its backward pass.

A class has parameters. Its `forward` keeps in `saved` what its `backward` needs. `backward(dy)` writes the gradients of
the parameters and returns that of the input. It belongs to the last `forward`. A function without parameters has a
second function for its backward pass.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.polynomial import chebyshev

from src.numpy_transformer.parameters import Parameters

LAYER_NORM_EPS = 1e-5
POSITION_BASE = 10_000.0


class Embedding:
    """A row of a table (V, D) for each id. Rows start normal, with standard deviation 1."""

    def __init__(self, params: Parameters, name: str, n_words: int, width: int, rng: np.random.Generator):
        """Add the table `name`.table of n_words rows (V) and `width` columns (D)."""
        self.table = params.add(f"{name}.table", rng.standard_normal((n_words, width)))

    def forward(self, ids: np.ndarray) -> np.ndarray:
        """ids (...), int, in 0 .. V - 1 -> rows (..., D)."""
        self.saved = ids
        return self.table.value[ids]

    def backward(self, dy: np.ndarray) -> None:
        """dy (..., D). The gradient of row v is the sum of dy over all places where the id is v.

        The scatter: sort the places by id, then add up each run of equal ids at once.
        """
        ids = self.saved.ravel()
        order = np.argsort(ids, kind="stable")
        found, starts = np.unique(ids[order], return_index=True)
        self.table.grad[...] = 0
        self.table.grad[found] = np.add.reduceat(dy.reshape(ids.size, -1)[order], starts, axis=0)


@functools.lru_cache(maxsize=256)
def sinusoids(start: int, end: int, width: int, dtype=np.float32) -> np.ndarray:
    """Positions start .. end - 1 as sines (even columns) and cosines (odd columns): (end - start, D). Read-only.

    Column pair i turns by 10000^(-2i / D) radians per position. Vaswani et al. 2017, arXiv:1706.03762, section 3.5.
    """
    pairs = np.arange((width + 1) // 2)
    angles = np.arange(start, end)[:, None] * POSITION_BASE ** (-2 * pairs / (width + width % 2))
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(end - start, -1)[:, :width].astype(dtype)
    table.flags.writeable = False
    return table


class Linear:
    """y = x W + b, with W (inputs, outputs) and b (outputs,), or without b."""

    def __init__(
        self, params: Parameters, name: str, inputs: int, outputs: int, rng: np.random.Generator, bias: bool = True
    ):
        """Add `name`.w, uniform within sqrt(6 / (inputs + outputs)), and `name`.b, zero.

        Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", equation 16.
        """
        bound = math.sqrt(6 / (inputs + outputs))
        self.w = params.add(f"{name}.w", rng.uniform(-bound, bound, (inputs, outputs)))
        self.b = params.add(f"{name}.b", np.zeros(outputs)) if bias else None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """x (..., inputs) -> (..., outputs), one matrix product for all rows."""
        self.saved = x
        y = x.reshape(-1, x.shape[-1]) @ self.w.value
        if self.b is not None:
            y += self.b.value
        return y.reshape(*x.shape[:-1], -1)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """dy (..., outputs) -> dx (..., inputs).

        y_j = sum_i x_i W_ij + b_j, so dW = x^T dy and db = dy, both summed over rows, and dx = dy W^T.
        """
        x = self.saved
        rows = dy.reshape(-1, dy.shape[-1])
        np.matmul(x.reshape(-1, x.shape[-1]).T, rows, out=self.w.grad)
        if self.b is not None:
            np.sum(rows, axis=0, out=self.b.grad)
        return (rows @ self.w.value.T).reshape(x.shape)


class LayerNorm:
    """y = gain * (x - mean) / sqrt(variance + 1e-5) + bias, over the last axis. Ba et al. 2016, arXiv:1607.06450."""

    def __init__(self, params: Parameters, name: str, width: int):
        """Add `name`.gain, ones (D,), and `name`.bias, zeros (D,)."""
        self.gain = params.add(f"{name}.gain", np.ones(width))
        self.bias = params.add(f"{name}.bias", np.zeros(width))

    def forward(self, x: np.ndarray) -> np.ndarray:
        """x (..., D) -> (..., D)."""
        normed = x - _row_mean(x)
        inverse = 1 / np.sqrt(_row_mean_of_product(normed, normed) + x.dtype.type(LAYER_NORM_EPS))
        normed *= inverse
        self.saved = normed, inverse
        return normed * self.gain.value + self.bias.value

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """dy (..., D) -> dx (..., D).

        With n = (x - mean) / std: dgain = dy n and dbias = dy, summed over rows. For dn = dy gain, the part of dn that
        only shifts or stretches n is lost: dx = (dn - mean(dn) - n mean(dn n)) / std.
        """
        normed, inverse = self.saved
        rows = (-1, dy.shape[-1])
        np.einsum("nd,nd->d", dy.reshape(rows), normed.reshape(rows), out=self.gain.grad)
        np.sum(dy.reshape(rows), axis=0, out=self.bias.grad)
        dn = dy * self.gain.value
        dx = dn - _row_mean(dn)
        dx -= normed * _row_mean_of_product(dn, normed)
        dx *= inverse
        return dx


def _row_mean(x: np.ndarray) -> np.ndarray:
    """The mean over the last axis: (..., D) -> (..., 1). A product with a vector is faster than a sum of short rows."""
    return (x @ _ones_over(x.shape[-1], x.dtype))[..., None]


def _row_mean_of_product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The mean of x y over the last axis: two arrays (..., D) -> (..., 1)."""
    return _row_mean(x * y)


@functools.lru_cache(maxsize=64)
def _ones_over(n: int, dtype) -> np.ndarray:
    """A vector (n,) of 1 / n."""
    return np.full(n, 1 / n, dtype=dtype)


def gelu(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y = x Phi(x), where Phi is the normal distribution function: (...) -> (y (...), what `gelu_backward` needs).

    Hendrycks & Gimpel 2016, arXiv:1606.08415, in the exact form. NumPy has no error function, so Phi is computed from
    its upper tail: 1 - Phi(a) = exp(-a^2 / 2) r(a) for a = |x|, and r is smooth, so a short polynomial is enough.
    """
    far, middle, lowest, scale, coefficients = _tail_polynomial(x.dtype)
    size = np.minimum(np.abs(x), far)
    place = (size - middle) / (size + middle)
    place -= lowest
    place *= scale
    place -= 1  # -1 .. 1 for a of 0 .. far
    tail = coefficients[-1] * place
    for c in coefficients[-2:0:-1]:
        tail += c
        tail *= place
    tail += coefficients[0]
    bell = x * x
    bell *= x.dtype.type(-0.5)
    np.exp(bell, out=bell)
    tail *= bell
    distribution = np.where(x > 0, 1 - tail, tail)
    return x * distribution, (x, distribution, bell)


def gelu_backward(dy: np.ndarray, saved: tuple) -> np.ndarray:
    """dy (...) -> dx (...). By the product rule y' = Phi(x) + x phi(x), with phi(x) = exp(-x^2 / 2) / sqrt(2 pi)."""
    x, distribution, bell = saved
    dx = x * bell
    dx *= x.dtype.type(1 / math.sqrt(2 * math.pi))
    dx += distribution
    dx *= dy
    return dx


@functools.lru_cache(maxsize=2)
def _tail_polynomial(dtype) -> tuple:
    """(far, middle, lowest, scale, coefficients) of r(a) = exp(a^2 / 2) (1 - Phi(a)) for 0 <= a <= far.

    A Chebyshev interpolation of what math.erfc gives, in the variable (a - 3) / (a + 3). The error of Phi is about
    the rounding of the dtype: at most 2e-7 in float32 and 2e-15 in float64 (a test measures both).
    """
    dtype = np.dtype(dtype)
    degree, far = (7, 6.0) if dtype == np.float32 else (18, 9.0)
    middle = 3.0
    lowest, highest = -1.0, (far - middle) / (far + middle)

    def tail_at(s: np.ndarray) -> np.ndarray:
        """r at places s (n,) in -1 .. 1."""
        u = lowest + (s + 1) / 2 * (highest - lowest)
        sizes = middle * (1 + u) / (1 - u)
        return np.array([math.exp(a * a / 2) * math.erfc(a / math.sqrt(2)) / 2 for a in sizes])

    powers = chebyshev.cheb2poly(chebyshev.chebinterpolate(tail_at, degree)).astype(dtype)
    return (*(dtype.type(v) for v in (far, middle, lowest, 2 / (highest - lowest))), tuple(powers))


def softmax(scores: np.ndarray) -> np.ndarray:
    """exp(scores) / sum over the last axis: (..., n) -> (..., n). The largest score is subtracted: no overflow."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def softmax_backward(dweights: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """dweights, weights (..., n) -> dscores (..., n).

    dw_i / ds_j = w_i ([i = j] - w_j), so ds_j = w_j (dw_j - sum_i w_i dw_i).
    """
    product = weights * dweights
    return product - weights * product.sum(axis=-1, keepdims=True)

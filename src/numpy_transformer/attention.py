"""Attention: first one head as two functions, then several heads side by side as a layer.

    weights = softmax( q k^T / sqrt(K) ) ,   out = weights v

Vaswani et al. 2017, arXiv:1706.03762, section 3.2. One head is a function of arrays (..., tokens, K). Several heads are
one more leading axis, so the same function computes them all: (B, H, tokens, K). In self-attention queries, keys and
values come from one sequence. In cross-attention the keys and values come from the encoder.
"""

from __future__ import annotations

import math

import numpy as np

from src.numpy_transformer.layers import Linear, softmax, softmax_backward
from src.numpy_transformer.parameters import Parameters


def attend(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """One head. q (..., T, K), k and v (..., S, K) -> (out (..., T, K), weights (..., T, S)).

    mask: bool, broadcastable to (..., T, S), True where a query sees a key; None means everywhere. Each query must see
    at least one key: a row without any gets equal weights.
    """
    scores = q @ k.swapaxes(-1, -2)
    scores *= scores.dtype.type(1 / math.sqrt(q.shape[-1]))
    if mask is not None:
        np.copyto(scores, np.finfo(scores.dtype).min, where=~mask)
    weights = softmax(scores)
    return weights @ v, weights


def attend_backward(
    dout: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dout (..., T, K) -> (dq (..., T, K), dk (..., S, K), dv (..., S, K)), for weights (..., T, S).

    out = W v, so dv = W^T dout and dW = dout v^T. Softmax turns dW into dscores, which is 0 where W is 0: at masked
    places. scores = q k^T / sqrt(K), so dq = dscores k / sqrt(K) and dk = dscores^T q / sqrt(K).
    """
    dv = weights.swapaxes(-1, -2) @ dout
    dscores = softmax_backward(dout @ v.swapaxes(-1, -2), weights)
    dscores *= dscores.dtype.type(1 / math.sqrt(q.shape[-1]))
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv


def split_heads(x: np.ndarray, n_head: int) -> np.ndarray:
    """(B, T, H K) -> a view (B, H, T, K)."""
    B, T, D = x.shape
    return x.reshape(B, T, n_head, D // n_head).swapaxes(1, 2)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """(B, H, T, K) -> (B, T, H K), the inverse of `split_heads`."""
    B, H, T, K = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * K)


class MultiHeadAttention:
    """Several heads: maps to queries (D, D) and to keys and values (D, 2 D), attention per head, a map (D, D) after it.

    `weights` (B, H, T, S) of the last forward pass can be drawn.
    """

    def __init__(self, params: Parameters, name: str, width: int, n_head: int, rng: np.random.Generator):
        """Add the maps `name`.q, `name`.kv and `name`.out for `width` (D) channels. n_head must divide width."""
        self.n_head = n_head
        self.q = Linear(params, f"{name}.q", width, width, rng)
        self.kv = Linear(params, f"{name}.kv", width, 2 * width, rng)
        self.out = Linear(params, f"{name}.out", width, width, rng)

    def forward(self, x: np.ndarray, memory: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """x (B, T, D) asks, memory (B, S, D) answers -> (B, T, D). In self-attention, memory is x.

        mask: see `attend`, for scores (B, H, T, S).
        """
        q = split_heads(self.q.forward(x), self.n_head)
        k, v = self.keys_and_values(memory)
        mixed, self.weights = attend(q, k, v, mask)
        self.saved = q, k, v
        return self.out.forward(merge_heads(mixed))

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """dy (B, T, D) -> (dx (B, T, D), dmemory (B, S, D)). In self-attention their sum is the gradient of x."""
        q, k, v = self.saved
        dmixed = split_heads(self.out.backward(dy), self.n_head)
        dq, dk, dv = attend_backward(dmixed, q, k, v, self.weights)
        dmemory = self.kv.backward(np.concatenate([merge_heads(dk), merge_heads(dv)], axis=-1))
        return self.q.backward(merge_heads(dq)), dmemory

    def keys_and_values(self, memory: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """memory (B, S, D) -> keys and values, each (B, H, S, K)."""
        k, v = np.split(self.kv.forward(memory), 2, axis=-1)
        return split_heads(k, self.n_head), split_heads(v, self.n_head)

    def step(self, x: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """One new token x (B, 1, D) over stored keys and values k, v (B, H, S, K) -> (B, 1, D). For decoding."""
        q = split_heads(self.q.forward(x), self.n_head)
        return self.out.forward(merge_heads(attend(q, k, v, mask)[0]))

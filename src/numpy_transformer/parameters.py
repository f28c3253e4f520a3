"""The parameters of a model: arrays with names, which lie one after the other in one vector.

One vector for all values, and one for all gradients. So an optimiser is a few operations on two vectors, and a
checkpoint is two or three vectors. Each parameter is a view into them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Parameter:
    """A named array and its gradient, of one shape. Both are views into the vectors of `Parameters`."""

    name: str
    value: np.ndarray
    grad: np.ndarray


class Parameters:
    """All parameters of a model, in the order in which they were added.

    values, grads: vectors (number of parameters,), there after `pack`.
    """

    def __init__(self, dtype=np.float32):
        """Start empty. dtype: np.float32, or np.float64 for checks; every parameter gets it."""
        self.dtype = np.dtype(dtype)
        self.named: dict[str, Parameter] = {}
        self.values = self.grads = np.empty(0, self.dtype)

    def add(self, name: str, value: np.ndarray) -> Parameter:
        """A new parameter that starts as a copy of `value` (...), with a gradient of zero. The name must be new."""
        assert name not in self.named, name
        start = np.array(value, dtype=self.dtype)
        self.named[name] = Parameter(name, start, np.zeros_like(start))
        return self.named[name]

    def pack(self) -> None:
        """Move all values into one vector (number of parameters,), and all gradients into another one."""
        parts = list(self.named.values())
        self.values = np.concatenate([p.value.ravel() for p in parts])
        self.grads = np.zeros_like(self.values)
        end = 0
        for p in parts:
            start, end = end, end + p.value.size
            p.value = self.values[start:end].reshape(p.value.shape)
            p.grad = self.grads[start:end].reshape(p.value.shape)

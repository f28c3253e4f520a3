"""Optimisers: SGD, Adam, clipping of gradients, and the learning rate of a step. They change vectors in place."""

from __future__ import annotations

import math

import numpy as np

from src.numpy_transformer.parameters import Parameters


def clip_gradients(grads: np.ndarray, most: float) -> float:
    """Scale the vector grads (n,) in place so that its norm is at most `most` (0: no limit). Returns the old norm.

    Pascanu et al. 2013, arXiv:1211.5063, section 3.2.
    """
    norm = math.sqrt(float(grads @ grads))
    if most and norm > most:
        grads *= grads.dtype.type(most / norm)
    return norm


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """The rate of step 1 .. `steps`: a linear rise to `peak` in `warmup` steps, then a straight fall towards 0."""
    if step <= warmup:
        return peak * step / warmup
    return peak * (steps - step + 1) / (steps - warmup)


class SGD:
    """value -= lr grad. It has no state."""

    def __init__(self, params: Parameters):
        """params: the packed parameters that `step` changes."""
        self.params = params

    def step(self, lr: float) -> None:
        """One step with the gradients that are in params. lr: learning rate, > 0."""
        self.params.values -= self.params.dtype.type(lr) * self.params.grads

    def state(self) -> dict[str, np.ndarray]:
        """{name: vector (number of parameters,)} that a checkpoint must hold: none."""
        return {}


class Adam:
    """Adam with bias correction. Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.

        m = b1 m + (1 - b1) g ,   v = b2 v + (1 - b2) g^2
        value -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

    State: m and v (number of parameters,), and t (), the number of steps so far.
    """

    def __init__(self, params: Parameters, beta1: float = 0.9, beta2: float = 0.98, eps: float = 1e-9):
        """params: the packed parameters that `step` changes. beta2 and eps as in Vaswani et al. 2017, section 5.3."""
        self.params, self.beta1, self.beta2, self.eps = params, beta1, beta2, eps
        self.m, self.v, self.t = np.zeros_like(params.values), np.zeros_like(params.values), np.zeros((), np.int64)
        self._work = np.empty_like(params.values)

    def step(self, lr: float) -> None:
        """One step with the gradients that are in params. lr: learning rate, > 0."""
        as_dtype = self.params.dtype.type
        self.t += 1
        t, g, work = int(self.t), self.params.grads, self._work
        self.m *= as_dtype(self.beta1)
        np.multiply(g, as_dtype(1 - self.beta1), out=work)
        self.m += work
        self.v *= as_dtype(self.beta2)
        np.multiply(g, g, out=work)
        work *= as_dtype(1 - self.beta2)
        self.v += work
        np.sqrt(self.v, out=work)
        work *= as_dtype(1 / math.sqrt(1 - self.beta2**t))
        work += as_dtype(self.eps)
        np.divide(self.m, work, out=work)
        work *= as_dtype(lr / (1 - self.beta1**t))
        self.params.values -= work

    def state(self) -> dict[str, np.ndarray]:
        """{name: array} that a checkpoint must hold, the arrays themselves: m, v (number of parameters,) and t ()."""
        return {"m": self.m, "v": self.v, "t": self.t}


OPTIMISERS = {"sgd": SGD, "adam": Adam}

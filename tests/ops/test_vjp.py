"""Gradients with given weights, without torch's module for symbolic shapes."""

import pytest
import torch

from src.ops.vjp import vjp


def outputs_of(a, b):
    return a * b, (a @ b.T).exp()


def test_vjp_is_torchs_gradient_with_given_weights():
    torch.manual_seed(0)
    a, b = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weights = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    expected = torch.autograd.grad(outputs_of(a, b), (a, b), weights)
    outputs = outputs_of(a, b)
    with torch.no_grad():  # as in a backward pass
        found = vjp(outputs, (a, b), weights)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
    assert not torch.equal(vjp(outputs_of(a, b), (a,), (weights[0], -weights[1]))[0], expected[0])


def test_vjp_refuses_a_weight_of_another_shape():
    a = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"weights: got \(3,\), allowed: \(2,\)"):
        vjp((a * 2,), (a,), (torch.ones(3),))

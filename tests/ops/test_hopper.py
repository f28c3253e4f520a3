"""Kernels that Triton compiles wrongly on Hopper GPUs are not taken, and the reason is recorded.

python -m pytest tests/ops/test_hopper.py
"""

import types

import pytest
import torch

from src.flags.fields import UserError
from src.ops import backends, choices, delta_rule, hopper, linear_attention

BF16 = types.SimpleNamespace(precision="bf16", backend="auto")
WHY = hopper.problem(9, "3.6.0", False)


@pytest.fixture
def on_hopper(monkeypatch):
    """A machine with flash-linear-attention, a Hopper GPU and a Triton that has the fault."""
    monkeypatch.setattr(hopper, "gated_backward_problem", lambda: WHY)
    monkeypatch.setattr(backends, "usable", lambda op, device_type: ("eager", "fla"))
    monkeypatch.setattr(choices, "usable", lambda op, device_type: ("eager", "fla"))


@pytest.mark.parametrize(
    ("major", "version", "has_tilelang", "is_faulty"),
    [
        (9, "3.6.0", False, True),
        (9, "3.4.0", False, True),
        (9, "3.7.0+git1a2b", False, True),
        (9, "3.3.1", False, False),
        (9, "3.7.1", False, False),
        (9, "3.10.0", False, False),
        (9, "3.6.0", True, False),
        (8, "3.6.0", False, False),
        (10, "3.6.0", False, False),
    ],
)
def test_the_fault_is_that_of_some_versions_on_one_generation(major, version, has_tilelang, is_faulty):
    assert bool(hopper.problem(major, version, has_tilelang)) == is_faulty


def test_auto_takes_the_torch_form_for_a_decay_per_token_and_says_why(on_hopper):
    assert delta_rule.automatic("cuda", BF16, "gated") == ("eager", WHY)
    assert linear_attention.automatic("cuda", BF16, "scalar") == ("eager", WHY)


def test_other_kinds_keep_the_kernel(on_hopper):
    assert delta_rule.automatic("cuda", BF16)[0] == "fla"
    for kind in ("none", "fixed", "vector"):
        assert linear_attention.automatic("cuda", BF16, kind)[0] == "fla"


def test_a_named_kernel_that_is_faulty_is_one_line_before_the_run(on_hopper):
    named = types.SimpleNamespace(precision="bf16", backend="fla")
    with pytest.raises(UserError, match="got 'fla' for delta_rule, which cannot run here"):
        choices.choices({"delta_rule": ("gated",)}, named, "cuda")
    assert choices.choices({"delta_rule": ()}, named, "cuda")["delta_rule"]["backend"] == "fla"


def test_a_call_of_a_faulty_kernel_is_an_error(on_hopper):
    q = torch.randn(1, 4, 1, 8)
    decay = -torch.rand(1, 4, 1)
    with pytest.raises(RuntimeError, match="delta_rule cannot run: Triton"):
        delta_rule.delta_rule(q, q, q, torch.rand(1, 4, 1), decay, backend="fla")
    with pytest.raises(RuntimeError, match="linear_attention cannot run: Triton"):
        linear_attention.linear_attention(q, q, q, decay, backend="fla")
    learned = torch.zeros(1, requires_grad=True)  # goes to the kernels as one decay per token
    with pytest.raises(RuntimeError, match="linear_attention cannot run"):
        linear_attention.linear_attention(q, q, q, learned, backend="fla")

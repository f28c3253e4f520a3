"""The optimiser and the clipping compute what torch's own do, number for number."""

import copy

import pytest
import torch

from src.utils.adamw import AdamW, clip_gradients

SIZES = ((3, 4), (4,), (2, 2))


def parameters():
    g = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(size, generator=g)) for size in SIZES]


def groups(ps):
    return [{"params": ps[:1], "weight_decay": 0.1}, {"params": ps[1:], "weight_decay": 0.0}]


def give_gradients(ps, step, missing=()):
    g = torch.Generator().manual_seed(100 + step)
    for i, p in enumerate(ps):
        gradient = torch.randn(p.shape, generator=g)
        p.grad = None if i in missing else gradient


def train(make, steps, missing=lambda step: (), between=lambda optimizer, ps, step: optimizer):
    """The parameters and the optimiser's state after some steps, with a rate that changes."""
    ps = parameters()
    optimizer = make(groups(ps))
    for step in range(steps):
        give_gradients(ps, step, missing(step))
        optimizer.param_groups[0]["lr"] = 1e-2 / (step + 1)
        optimizer.step()
        optimizer = between(optimizer, ps, step)
    return ps, optimizer.state_dict()


def ours(groups):
    return AdamW(groups, lr=1e-2, betas=(0.9, 0.99), fused=True)


def torchs(groups):
    return torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.99), fused=True)


def assert_same(first, second):
    for a, b in zip(first[0], second[0], strict=True):
        assert torch.equal(a, b)
    assert first[1].keys() == second[1].keys()
    assert first[1]["param_groups"] == second[1]["param_groups"]
    for index, state in second[1]["state"].items():
        for name, value in state.items():
            assert torch.equal(first[1]["state"][index][name], value)


def test_steps_equal_torchs():
    assert_same(train(ours, 5), train(torchs, 5))


@pytest.mark.parametrize("when", [0, 2], ids=["from the first step", "later"])
def test_a_parameter_without_a_gradient_is_left_out_as_in_torch(when):
    def missing(step):
        return (1,) if step in (when, when + 1) else ()

    assert_same(train(ours, 6, missing), train(torchs, 6, missing))


def test_a_loaded_state_is_the_one_that_goes_on():
    """Kept lists of the state before would go on with old moments."""

    def reload(optimizer, ps, step):
        if step == 2:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return optimizer

    def zeros(optimizer, ps, step):
        if step == 2:
            state = copy.deepcopy(optimizer.state_dict())
            state["state"][0]["exp_avg"].zero_()
            optimizer.load_state_dict(state)
        return optimizer

    assert_same(train(ours, 5, between=reload), train(torchs, 5))
    assert_same(train(ours, 5, between=zeros), train(torchs, 5, between=zeros))
    assert not torch.equal(train(ours, 5, between=zeros)[0][0], train(ours, 5)[0][0])


@pytest.mark.parametrize("most", [0.5, 2.0, 1e3, float("inf")])
def test_clipping_equals_torchs(most):
    first, second = parameters(), parameters()
    give_gradients(first, 1)
    give_gradients(second, 1)
    assert torch.equal(clip_gradients(first, most), torch.nn.utils.clip_grad_norm_(second, most))
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.grad, b.grad)


def test_a_norm_that_is_not_a_number_is_returned():
    ps = parameters()
    give_gradients(ps, 1)
    ps[0].grad[0, 0] = float("nan")
    assert clip_gradients(ps, 1.0).isnan()


def test_the_fast_way_is_the_one_that_runs(monkeypatch):
    """Only the first step, which makes the state, is torch's own."""
    called = []
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, closure=None: called.append(1))
    ps = parameters()
    optimizer = ours(groups(ps))
    for p in ps:
        optimizer.state[p] = {
            "step": torch.tensor(0.0),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.ones_like(p),
        }
    give_gradients(ps, 1)
    optimizer.step()
    assert not called

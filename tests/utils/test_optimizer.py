"""The optimizer without torch's compiler computes what torch's own computes."""

import torch

from src.utils.adamw import AdamW


def trained(kind, steps=3, state=None):
    """Parameters and the optimizer's state after some steps of a small problem."""
    torch.manual_seed(1)
    weights = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(2))]
    groups = [{"params": weights[:1], "weight_decay": 0.1}, {"params": weights[1:], "weight_decay": 0.0}]
    optimizer = kind(groups, lr=0.05, fused=True)
    if state is not None:
        optimizer.load_state_dict(state)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        (weights[0].square().sum() * (weights[1] + step).exp().sum()).backward()
        optimizer.step()
        scheduler.step()
    return weights, optimizer.state_dict()


def test_the_optimizer_makes_the_same_steps_and_state_as_torchs():
    (ours, state), (theirs, expected) = trained(AdamW), trained(torch.optim.AdamW)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert state["param_groups"] == expected["param_groups"]
    for key, values in expected["state"].items():
        assert all(torch.equal(values[name], state["state"][key][name]) for name in values)
    assert not torch.equal(trained(AdamW, steps=2)[0][0], theirs[0])


def test_the_optimizer_continues_from_a_state_of_torchs():
    """Checkpoints of older runs hold the state of torch's class."""
    ours, theirs = (trained(kind, state=trained(torch.optim.AdamW)[1])[0] for kind in (AdamW, torch.optim.AdamW))
    assert torch.equal(ours[0], theirs[0])
    assert not torch.equal(ours[0], trained(AdamW)[0][0]), "the state changes the steps"

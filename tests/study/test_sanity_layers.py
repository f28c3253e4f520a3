"""The three layers on which the capability card must come out as known: each is what its file says.

python -m pytest tests/study/test_sanity_layers.py
"""

from pathlib import Path

import pytest
import torch

from src.models.deltanet import DeltaNet
from src.models.rnn import GRU
from src.ops.delta_rule.reference import delta_rule_reference
from src.ops.linear_attention.reference import linear_attention_reference
from src.setup.classes import find_model
from src.setup.plan import plan

FOLDER = Path(__file__).parent / "sanity"
NAMES = ("renamed", "no_erasure", "four_characters")


def built(name: str, n_layer: int = 2):
    """(the class, its resolved flags) of a file in the folder, at width 8."""
    words = f"--task copy --model {FOLDER / name}.py --d_model 8 --n_head 2 --n_layer {n_layer} --precision fp32"
    setup, _ = plan(words.split())
    return setup.model_class, setup.args


def layer(name: str, cls=None, seed: int = 3):
    """The layer of a file, or another one with its flags, in float64."""
    found, args = built(name)
    torch.manual_seed(seed)
    return (cls or found)(args).double().eval()


def inputs(T: int = 12, seed: int = 0):
    return torch.randn(2, T, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stepped(mixer, x):
    """What a layer gives token by token."""
    state, found = mixer.init_state(len(x), x.shape[1]), []
    for t in range(x.shape[1]):
        y, state = mixer.step(x[:, t], state)
        found.append(y)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("name", NAMES)
def test_steps_give_what_forward_gives(name):
    mixer, x = layer(name).float(), inputs().float()
    torch.testing.assert_close(stepped(mixer, x), mixer(x))


def test_the_renamed_layer_is_the_gru_to_the_last_bit():
    assert find_model(str(FOLDER / "renamed.py")) is not GRU
    x = inputs()
    assert torch.equal(layer("renamed")(x), layer("renamed", GRU)(x))
    assert not torch.equal(layer("renamed")(x), layer("renamed", GRU, seed=4)(x))


def seen_by(mixer, x):
    """What the memory is given, with erasure or without: q, k, v (B, T, H, K) and beta (B, T, H)."""
    H, K, V = mixer.memory
    q, k, v = torch.nn.functional.silu(mixer.qkv(x)).split([H * K, H * K, H * V], dim=-1)
    q, k, v = (part.unflatten(-1, (H, K)) for part in (q, k, v))
    q, k = (part / (part.square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
    return q, k, v, mixer.beta(x).sigmoid()


def test_without_erasure_the_memory_is_the_sum_of_all_that_was_written():
    mixer, x = layer("no_erasure"), inputs()
    q, k, v, beta = seen_by(mixer, x)
    written, _ = linear_attention_reference(q, k, beta[..., None] * v, scale=mixer.memory[1] ** -0.5)
    torch.testing.assert_close(mixer(x), mixer.out(mixer.norm(written).flatten(-2)))


def test_erasure_alone_is_what_separates_it_from_deltanet():
    without, whole, x = layer("no_erasure"), layer("no_erasure", DeltaNet), inputs()
    assert without.state_dict().keys() == whole.state_dict().keys()  # no short convolution in either
    assert all(torch.equal(a, b) for a, b in zip(without.parameters(), whole.parameters(), strict=True))
    q, k, v, beta = seen_by(whole, x)
    kept, _ = delta_rule_reference(q, k, v, beta, scale=whole.memory[1] ** -0.5)
    torch.testing.assert_close(whole(x), whole.out(whole.norm(kept).flatten(-2)))
    first = x[:, :1]  # nothing can be erased yet
    torch.testing.assert_close(without(first), whole(first))
    assert (without(x) - whole(x)).abs().max() > 0.01


def reach(mixer, x):
    """How many of the last characters change the last output."""
    now = mixer(x)[:, -1]
    changed = []
    for back in range(x.shape[1]):
        other = x.clone()
        other[:, -1 - back] += 1.0
        if not torch.equal(mixer(other)[:, -1], now):
            changed.append(back)
    assert changed == list(range(len(changed)))
    return len(changed)


def test_one_layer_sees_four_characters_and_two_see_seven():
    first, second = layer("four_characters", seed=1), layer("four_characters", seed=2)
    assert reach(first, inputs()) == 4
    assert reach(torch.nn.Sequential(first, second), inputs()) == 7
    assert reach(layer("renamed"), inputs()) == 12  # a state of its own sees them all

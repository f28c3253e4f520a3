"""The bytes of a decoding state: everything that can be reached counts, and what hides memory is refused.

python -m pytest tests/models/test_state.py
"""

import collections
import dataclasses
import functools
import io
import json
import types

import numpy as np
import pytest
import torch
from conftest import TINY
from small_models import NoTask
from torch import nn

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.contract import ARModel, Mixer
from src.models.match import decode_state, match
from src.models.state import OpaqueState, state_bytes

H = torch.zeros(100)  # 400 bytes
Named = collections.namedtuple("Named", "h n")


@dataclasses.dataclass
class Data:
    h: object


class Slots:
    __slots__ = ("__h", "unset")

    def __init__(self, h):
        self.__h = h


class Cache(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("h", H)


class WithAttribute(list):
    h = None


def attribute():
    made = WithAttribute([1])
    made.h = H
    return made


def cycle():
    made = [H]
    made.append(made)
    return made


HOLDS_400 = {
    "tuple": (H, 3),
    "dict": {"h": H, "n": 3},
    "nested": {"a": [{"b": (H,)}]},
    "key": {H: 1},
    "dataclass": Data(H),
    "slots": Slots(H),
    "named tuple": Named(H, 3),
    "attribute of a list": attribute(),
    "deque": collections.deque([H]),
    "set": {H},
    "ordered dict": collections.OrderedDict(h=H),
    "default dict": collections.defaultdict(list, h=[H]),
    "namespace": types.SimpleNamespace(h=H),
    "module": Cache(),
    "array": np.zeros(100, dtype=np.float32),
    "view of an array": np.zeros(100, dtype=np.float32)[3:5],
    "two views of a tensor": (H[:3], H[50:]),
    "list that holds itself": cycle(),
    "list of numbers": [0.5] * 50,
    "tuple of ids": tuple(range(50)),
    "text": "a" * 400,
}


@pytest.mark.parametrize("name", HOLDS_400)
def test_every_tensor_array_and_text_in_a_state_counts_once(name):
    assert state_bytes(HOLDS_400[name]) == 400


def test_counters_names_and_sizes_are_no_data():
    assert state_bytes((3, (4, None), {"name": "a", "on": True}, torch.float32, H.shape, object())) == 0


def test_a_sparse_tensor_counts_with_its_indices():
    assert state_bytes((torch.eye(4).to_sparse(),)) == 4 * 4 + 2 * 4 * 8


OPAQUE = {
    "generator": (x for x in [H]),
    "iterator": iter([H]),
    "lambda": lambda: H,
    "partial": functools.partial(print, H),
    "open file": io.StringIO("text"),
    "bound method": H.sum,
    "proxy": types.MappingProxyType({"h": H}),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_what_could_hide_memory_is_refused(name):
    with pytest.raises(OpaqueState, match=r"the decoding state holds a \w+ \(state\[1\]"):
        state_bytes((H, OPAQUE[name]))


# --- in the commands --------------------------------------------------------------------------------------------------

LAYER = """
import torch
from torch import nn
from src.models.base import Mixer


class Layer(Mixer):
    def __init__(self, args):
        super().__init__()
        self.l = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.l(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])

    def init_state(self, batch_size, max_len):
        return {made}

    def step(self, x, state):
        total, n = {read}
        total, n = total + x, n + 1
        return self.l(total / n), {kept}
"""
ZERO = "torch.zeros(batch_size, self.l.in_features)"
IN_A_DICT = {"made": f"{{'sum': {ZERO}, 'n': 0}}", "read": "state['sum'], state['n']"}
IN_A_DICT["kept"] = "{'sum': total, 'n': n}"
IN_AN_ITERATOR = {"made": f"iter([{ZERO}, 0])", "read": "state", "kept": "iter([total, n])"}


@pytest.fixture
def layer(tmp_path):
    def write(form) -> str:
        path = tmp_path / "layer.py"
        path.write_text(LAYER.format(**form))
        return str(path)

    return write


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr("src.figures.runs.draw_all", lambda metrics, folder: [])


def test_a_state_in_a_dict_is_matched_and_reported(layer, main, tmp_path, monkeypatch):
    monkeypatch.setattr("src.figures.runs.draw_all", lambda document, folder: [])
    words = ["--task", "reverse", *TINY, "--max_len", "8"]
    del words[words.index("--d_model") : words.index("--d_model") + 2]
    code, _, err = main(*words, "--model", layer(IN_A_DICT), "--match_state", "96", "--out_dir", "run")
    assert code == 0, err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert (metrics["args"]["d_model"], metrics["decode_state"]["bytes"]) == (24, 96)


@pytest.mark.parametrize(
    "words",
    [
        ["--task", "reverse", *TINY, "--max_len", "8"],
        ["speed", "--panel", "decode", "--lengths", "16", "--d_model", "8", "--n_layer", "1", "--threads", "1"],
    ],
    ids=["train", "speed"],
)
def test_a_state_that_cannot_be_counted_is_one_line_before_anything_is_written(words, layer, main, tmp_path):
    code, out, err = main(*words, "--model", layer(IN_AN_ITERATOR), "--out_dir", "run")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: --model: the decoding state holds a list_iterator")
    assert not (tmp_path / "run").exists()


# --- --match_state ----------------------------------------------------------------------------------------------------


def solve(model_class, target, **given):
    args = resolve(NoTask, model_class, preset={}, d_model=64, n_layer=2, n_head=2, **given)
    return match(model_class, args, {}, None, lambda a: decode_state(model_class, a, 40, 80, 60), None, target)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_state_of_every_layer_is_sized_without_memory(name, monkeypatch):
    """With no parameter allowed for a real model, the size of fake tensors is all there is."""
    model_class = MODELS[name].load()
    args = resolve(NoTask, model_class, preset={}, d_model=64, n_layer=2, n_head=2)
    real = decode_state(model_class, args, 40, 80, 60)
    monkeypatch.setattr("src.models.match.SMALL_PARAMETERS", 0)
    monkeypatch.setattr("src.models.match.REAL_PARAMETERS", 0)
    assert decode_state(model_class, args, 40, 80, 60) == real
    assert decode_state(model_class, dataclasses.replace(args, d_model=1 << 14), 40, 80, 2) > 0


def test_a_target_beyond_every_width_is_refused_without_building_a_model():
    with pytest.raises(UserError, match="--match_state: no --d_model up to 65536 reaches 1,000,000"):
        solve(MODELS["gru"].load(), 1_000_000)


class Reads(Mixer):
    """A layer that cannot run on fake tensors, because it reads a value."""

    def __init__(self, args):
        super().__init__()
        self.l = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.l(x.cumsum(1))

    def init_state(self, batch_size, max_len):
        return {"sum": self.l.weight.new_zeros(batch_size, self.l.in_features)}

    def step(self, x, state):
        assert float(x.abs().sum()) >= 0
        total = state["sum"] + x
        return self.l(total), {"sum": total}


class ReadsAtFirst(Reads):
    """It cannot even be built on fake tensors."""

    def __init__(self, args):
        super().__init__(args)
        self.scale = float(self.l.weight.detach().abs().sum())


@pytest.mark.parametrize("model_class", [Reads, ReadsAtFirst])
def test_a_layer_that_needs_real_numbers_is_built_up_to_a_bound(model_class, monkeypatch):
    args, lines = solve(model_class, 2 * 4 * 96)
    assert args.d_model == 96
    assert "768 bytes of decoding state, +0.00 %" in lines[0]
    monkeypatch.setattr("src.models.match.SMALL_PARAMETERS", 100_000)
    monkeypatch.setattr("src.models.match.REAL_PARAMETERS", 100_000)
    with pytest.raises(UserError, match=r"can be sized only by building the model, and at --d_model \d+ it has"):
        solve(model_class, 10**6)


class Fixed(Reads):
    """A state of one number, whatever the width."""

    def init_state(self, batch_size, max_len):
        return (self.l.weight.new_zeros(batch_size, 1),)

    def step(self, x, state):
        return self.l(x), state


class Replays(ARModel):
    """A whole model that keeps the characters it has read."""

    def __init__(self, vocab_size, args):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocab_size, args.d_model), nn.Linear(args.d_model, vocab_size)

    def forward(self, x, attn_mask=None):
        return self.head(self.embed(x))


@pytest.mark.parametrize("model_class", [Fixed, Replays])
def test_a_state_that_does_not_grow_with_the_width_is_refused_at_once(model_class):
    with pytest.raises(UserError, match="does not grow with --d_model"):
        solve(model_class, 4096)


def test_a_solved_size_that_the_machine_cannot_train_is_refused(main, tmp_path, monkeypatch):
    monkeypatch.setattr("src.storage.env.memory_bytes", lambda device: 2**20)
    words = ["--task", "reverse", "--model", "gru", "--max_len", "8", "--max_steps", "2", "--n_layer", "1"]
    code, _, err = main(*words, "--match_state", "1024", "--out_dir", "run")
    assert code == 2
    assert "--match_state: the model of that size has --d_model 256 and" in err
    assert len(err.splitlines()) == 1

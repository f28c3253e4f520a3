"""A layer starts from the same weights in every process.

python -m pytest tests/checks/test_hash_order.py
"""

import pytest
from subjects import subject_of

from src.checks import hash_order
from src.flags.registry import find
from src.models import MODELS
from src.models.contract import Mixer

LAYER = """
import torch
from torch import nn
from src.models.base import Mixer

class Layer(Mixer):
    def __init__(self, args):
        super().__init__()
        print("the output of a layer's file")
        names = NAMES
        self.parts = nn.ModuleDict({name: nn.Linear(args.d_model, args.d_model) for name in names})

    def forward(self, x):
        return sum(part(x) for part in self.parts.values())
"""
NAMES = [f"part_{i}" for i in range(8)]


def compared(model: str):
    """The rows of the check for the layer that --model names."""
    return list(hash_order.other_hashes(subject_of(find("model", MODELS, model, (Mixer,)), model=model)))


@pytest.fixture
def layer_file(tmp_path):
    def write(names: str) -> str:
        path = tmp_path / "layer.py"
        path.write_text(LAYER.replace("NAMES", names))
        return str(path)

    return write


def test_a_layer_that_is_built_in_the_order_of_a_set_fails(layer_file, monkeypatch):
    monkeypatch.setattr(hash_order, "HASH_SEEDS", (1,))
    (row,) = compared(layer_file(f"set({NAMES})"))
    assert row.status == "fail"
    assert "depends on the order of a set" in row.note


@pytest.mark.slow
def test_a_layer_that_is_built_in_the_order_of_a_list_passes(layer_file):
    (row,) = compared(layer_file(f"{NAMES}"))
    assert row.status == "pass", row


def test_a_change_of_order_alone_fails():
    a, b = {"x": "1", "y": "2"}, {"y": "2", "x": "1"}
    assert hash_order._compared([a, a]).status == "pass"
    assert hash_order._compared([a, b]).status == "fail"


def test_a_class_without_a_name_has_no_row():
    assert list(hash_order.other_hashes(subject_of(MODELS["template"].load()))) == []


def test_the_error_of_another_process_is_told(layer_file, monkeypatch):
    monkeypatch.setattr(hash_order, "CODE", "import sys; sys.exit('no memory left')")
    with pytest.raises(RuntimeError, match="no memory left"):
        compared(layer_file(f"{NAMES}"))

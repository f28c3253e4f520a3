"""What a layer keeps between its calls: a table for a longer T is right, a function of the parameters is not.

python -m pytest tests/checks/test_caching.py
"""

import pytest
import torch
from broken_layers import Replayed, StaleInEvaluation
from subjects import rows
from torch import nn

from src.checks import caching

NAME = "training after inference"


class Table(Replayed):
    """Right: a table of cosines that is made again for a longer sequence."""

    table = None

    def mix(self, v):
        if self.table is None or len(self.table) < v.shape[1]:
            self.table = torch.arange(v.shape[1]).float().cos()
        return super().mix(v * self.table[: v.shape[1], None])


class Gated(Replayed):
    """It keeps a function of a parameter."""

    kept = None

    def __init__(self, args):
        super().__init__(args)
        self.gate = nn.Parameter(torch.zeros(args.d_model))

    def mix(self, v):
        if self.keeps_now():
            self.kept = self.gate.sigmoid() if self.kept is None else self.kept
            return super().mix(v) * self.kept
        return super().mix(v) * self.gate.sigmoid()

    def keeps_now(self):
        return True


class KeptWithItsGraph(Gated):
    """It keeps the value of the first training step, whose graph is gone at the second."""


class KeptFromInference(Gated):
    """It keeps the value of a validation, which has no gradient."""

    def keeps_now(self):
        return self.kept is not None or not torch.is_grad_enabled()


@pytest.mark.parametrize("layer", [Replayed, Table])
def test_a_table_that_is_made_again_for_a_longer_sequence_is_right(layer):
    assert rows(caching.training_after_inference, layer)[NAME].status == "pass"


@pytest.mark.parametrize("layer", [KeptWithItsGraph, KeptFromInference, StaleInEvaluation])
def test_a_function_of_the_parameters_that_is_kept_is_found(layer):
    assert rows(caching.training_after_inference, layer)[NAME].status == "fail"

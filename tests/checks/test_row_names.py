"""A row of the results has one name, whether its check passes or raises.

python -m pytest tests/checks/test_row_names.py
"""

import pytest
from broken_layers import Mean, Replayed
from subjects import rows

from src.checks import CHECKS, cost, hash_order
from src.checks.rows import ROWS
from src.models.template import GatedConv

OF_A_STEP = ("long_steps", "long_prefills")  # they give no row without a long pass, or without a `step`
CHECKED = [f for functions in CHECKS.values() for f in functions]


class _Raises(Replayed):
    def mix(self, v):
        raise KeyError("no such thing")


class _RaisesInDecoding(Mean):
    """`step` and `prefill` raise an error, and `forward` does not."""

    def step(self, x, state):
        raise KeyError("no such thing")

    prefill = step


class _RaisesInTraining(Mean):
    def forward(self, x):
        if self.training:
            raise KeyError("no such thing")
        return super().forward(x)


def test_the_table_has_every_check():
    assert set(ROWS) == {f.__name__ for f in CHECKED}


@pytest.mark.parametrize("check", CHECKED, ids=lambda f: f.__name__)
def test_a_row_has_the_same_name_whether_its_check_passes_or_raises(check, monkeypatch):
    monkeypatch.setattr(cost, "SLOW", 0.0)
    monkeypatch.setattr(hash_order, "HASH_SEEDS", ())  # test_hash_order.py starts the other processes
    long, raises = (200, _RaisesInDecoding) if check.__name__ in OF_A_STEP else (0, _Raises)
    passed, raised = (rows(check, layer, long, fair=True, model="template") for layer in (GatedConv, raises))
    assert tuple(passed) == ROWS[check.__name__]
    assert set(raised) == set(passed)


def test_rows_that_passed_before_an_error_stay():
    found = rows(CHECKS["isolation"][0], _RaisesInTraining)
    assert {name: (r.status, r.cause) for name, r in found.items()} == {
        "other rows changed": ("pass", ""),
        "other rows changed in train mode": ("fail", "raised"),
    }

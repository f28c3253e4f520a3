"""A row of the results has one name, whether its check passes or raises.

python -m pytest tests/checks/test_rows.py
"""

import pytest
from broken_layers import Mean, Replayed
from subjects import rows

from src.checks import CHECKS, cost
from src.checks.rows import ROWS
from src.models.template import GatedConv

CHECKED = [f for functions in CHECKS.values() for f in functions]


class _Raises(Replayed):
    def mix(self, v):
        raise KeyError("no such thing")


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
    passed, raised = rows(check, GatedConv, fair=True), rows(check, _Raises, fair=True)
    assert tuple(passed) == ROWS[check.__name__]
    assert set(raised) == set(passed)


def test_rows_that_passed_before_an_error_stay():
    found = rows(CHECKS["isolation"][0], _RaisesInTraining)
    assert {name: (r.status, r.cause) for name, r in found.items()} == {
        "other rows changed": ("pass", ""),
        "other rows changed in train mode": ("fail", "raised"),
    }

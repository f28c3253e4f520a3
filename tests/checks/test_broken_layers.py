"""Every check catches a layer that is broken in its way.

    python -m pytest tests/checks/test_broken_layers.py

The layers are in tests/broken_layers.py. Each runs only the check that catches it.
"""

import pytest
from broken_layers import BROKEN
from subjects import JUDGING, rows

from src.checks import CHECKS


@pytest.mark.parametrize("broken", BROKEN, ids=lambda b: f"{b.row}-{b.layer.__name__}")
def test_a_broken_layer_is_caught(broken):
    found = rows(broken.check, broken.layer, broken.long)
    assert broken.row in found, f"no row of that name: {found}"
    assert found[broken.row].status == "fail", f"{broken.wrong} {found[broken.row]}"


def test_every_judging_check_has_a_broken_layer():
    proved = {broken.check for broken in BROKEN}
    unproved = [f.__name__ for group in JUDGING for f in CHECKS[group] if f not in proved]
    # "cache" is measured, see test_right_layers.py. Other hashes need a layer in a file, see test_hash_order.py.
    assert unproved == ["cache", "other_hashes"]

"""Labels of runs that are drawn in one figure.

python -m pytest tests/figures/test_visualize.py
"""

import pytest

from src.commands.visualize import label
from src.storage.rundir import RunDir


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("gru-11", "gru-11"),
        ("gru", "gru"),
        ("baseline", "gru (baseline)"),
        ("20250102-030405", "gru (20250102-030405)"),
    ],
)
def test_a_model_is_named_once(folder, words, tmp_path):
    """A legend once said 'gru (gru-11)'."""
    assert label({"model": "gru"}, RunDir(tmp_path / folder)) == words

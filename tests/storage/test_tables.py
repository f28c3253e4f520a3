"""CSV tables: what is written is read back, and damage is one line.

python -m pytest tests/storage/test_tables.py
"""

import pytest

from src.flags.fields import UserError
from src.storage.tables import csv_bytes, read_csv


def text_of(value) -> str:
    return "" if value is None else str(value)


def test_what_is_written_is_read_back_with_its_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(csv_bytes(["a", "b"], [{"a": 1, "b": "x, y"}, {"a": 2}], text_of))
    assert read_csv(path, ["a"], "restore it") == [(2, {"a": "1", "b": "x, y"}), (3, {"a": "2", "b": ""})]
    assert len(read_csv(path, ["a"], "restore it", most=1)) == 1


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); restore it"),
        (b"a,b\n1\n", "line 2 is damaged: not one cell per column; restore it"),
        (b"a,b\n1,2,3\n", "line 2 is damaged: not one cell per column; restore it"),
        (b"b\n1\n", "has no column 'a'; restore it"),
        (b"a\n\xff\n", "is damaged ("),
        (b'a\n"x\n', "is damaged ("),
    ],
)
def test_damage_is_one_line(tmp_path, content, said):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_csv(path, ["a"], "restore it")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)

"""Whole cells or none: what a record keeps of rows that were cut off, doubled, edited or damaged.

python -m pytest tests/storage/test_cells.py
"""

import json

import pytest

from src.flags.fields import UserError
from src.storage.files import open_sealed
from src.storage.record import DONE, INTERRUPTED, Record
from src.storage.rows import make_row

SETTINGS = {"op": "softmax"}


def rows_of_cell(name: str, n: int = 3) -> list[dict]:
    """One measurement of a form: several rows, of which the last is no different from the others."""
    return [
        make_row("kernel", panel="softmax", op="softmax", backend=name, metric=f"metric {i}", value=1.5 * i, unit="ms")
        for i in range(n)
    ]


CELLS = [rows_of_cell("ceilings", 2), rows_of_cell("eager"), rows_of_cell("numba"), rows_of_cell("triton", 1)]


@pytest.fixture
def folder(tmp_path):
    """A record whose command was interrupted after four cells of nine rows."""
    record = Record.open_for("kernels", str(tmp_path / "R"), SETTINGS, False)
    with record.lock():
        record.begin(SETTINGS, {})
        for cell in CELLS:
            record.add(*cell)
        record.finish({}, INTERRUPTED)
    return tmp_path / "R"


def continued(folder) -> list[dict]:
    """The rows that the same command finds when it continues; the files then hold them and no other."""
    record = Record.open_for("kernels", str(folder), SETTINGS, False)
    with record.lock():
        record.begin(SETTINGS, {})
    lines = (folder / "results.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == record.rows == Record(folder, "kernels").read_rows()
    return record.rows


def flat(*cells) -> list[dict]:
    return [row for cell in cells for row in cell]


def lines_of(folder, name="results.jsonl") -> list[bytes]:
    return (folder / name).read_bytes().splitlines(keepends=True)


def put(folder, lines, name="results.jsonl") -> None:
    (folder / name).write_bytes(b"".join(lines))


# What happens to the lines of results.jsonl (2 + 3 + 3 + 1), and the cells that are whole afterwards.
DAMAGE = {
    "nothing": (lambda x: x, [0, 1, 2, 3]),
    "cut between cells": (lambda x: x[:5], [0, 1]),
    "cut inside a cell": (lambda x: x[:4], [0]),
    "cut inside a row": (lambda x: [*x[:7], x[7][:100]], [0, 1]),
    "cut inside the first row": (lambda x: [x[0][:100]], []),
    "a row is missing": (lambda x: [*x[:3], *x[4:]], [0, 2, 3]),
    "a row is doubled": (lambda x: [x[0], *x], [0, 1, 2, 3]),
    "a cell is doubled": (lambda x: [*x, *x[:2]], [0, 1, 2, 3]),
    "a value is edited": (lambda x: [*x[:1], x[1].replace(b"1.5", b"9.5"), *x[2:]], [1, 2, 3]),
    "zeroed bytes": (lambda x: [*x[:5], b"\0" * len(x[5]), *x[6:]], [0, 1, 3]),
    "a tail of NUL": (lambda x: [*x, b"\0" * 4096], [0, 1, 2, 3]),
    "no JSON": (lambda x: [*x, b"\xff{[\n"], [0, 1, 2, 3]),
    "deep JSON": (lambda x: [b"[" * 100_000 + b"\n", *x], [0, 1, 2, 3]),
    "empty": (lambda x: [], []),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_only_whole_cells_are_kept_and_none_is_doubled(folder, how):
    change, whole = DAMAGE[how]
    put(folder, change(lines_of(folder)))
    assert continued(folder) == flat(*(CELLS[i] for i in whole))


MARKS = {
    "no mark of the last cell": (lambda x: x[:3], [0, 1, 2]),
    "a mark is cut": (lambda x: [*x[:3], x[3][:20]], [0, 1, 2]),
    "a mark is doubled": (lambda x: [x[1], *x], [1, 0, 2, 3]),
    "a mark is edited": (lambda x: [x[0].replace(b'["', b'["0'), *x[1:]], [1, 2, 3]),
    "a mark of nothing": (lambda x: [b"[]\n", b"[1]\n", b"{}\n", b"[" * 100_000 + b"\n", *x], [0, 1, 2, 3]),
    "no marks": (lambda x: [], []),
}


@pytest.mark.parametrize("how", MARKS)
def test_a_cell_without_its_mark_does_not_count(folder, how):
    change, whole = MARKS[how]
    put(folder, change(lines_of(folder, "cells.jsonl")), "cells.jsonl")
    assert continued(folder) == flat(*(CELLS[i] for i in whole))


def test_a_cut_end_is_dropped_in_silence_and_a_damaged_row_is_told(folder, capsys):
    """Every kill leaves an end that is not whole; that is nothing to be told."""
    put(folder, lines_of(folder)[:4])
    continued(folder)
    assert capsys.readouterr().err == ""
    put(folder, [lines_of(folder)[0], *lines_of(folder)])
    continued(folder)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "results.jsonl': 1 row does not belong to a whole cell" in said


def test_a_kill_at_any_byte_leaves_whole_cells(folder):
    """Rows first, then their mark: both files as a kill can leave them, one after the other."""
    rows, marks = lines_of(folder), lines_of(folder, "cells.jsonl")
    ends = [2, 5, 8, 9]
    for i, end in enumerate(ends):
        begin = ends[i - 1] if i else 0
        text, mark = b"".join(rows[begin:end]), marks[i]
        states = [(text[:n], b"") for n in range(0, len(text), 401)]
        states += [(text, mark[:n]) for n in range(0, len(mark), 41)]
        for part, part_of_mark in states:
            put(folder, [*rows[:begin], part])
            put(folder, [*marks[:i], part_of_mark], "cells.jsonl")
            assert continued(folder) == flat(*CELLS[:i])


def test_a_finished_record_is_read_only_as_it_was_finished(folder):
    record = Record(folder, "kernels")
    with record.lock():
        record.begin(SETTINGS, {})
        record.finish({}, DONE)
    assert Record(folder).read_rows() == flat(*CELLS)
    whole = lines_of(folder)
    put(folder, whole[:5])
    with pytest.raises(UserError, match="was cut or edited after its command had ended; the command that measured it"):
        Record(folder).read_rows()
    assert continued(folder) == flat(*CELLS[:2])
    assert not Record(folder).finished, "what is missing must be measured before the record is finished again"


def test_a_finished_record_of_an_older_version_keeps_its_rows(folder):
    record = Record(folder, "kernels")
    with record.lock():
        record.begin(SETTINGS, {})
        record.finish({}, DONE)
    (folder / "cells.jsonl").unlink()
    assert Record(folder).read_rows() == flat(*CELLS)
    assert continued(folder) == flat(*CELLS)
    assert open_sealed(folder / "history.json")["status"] == DONE
    assert len(lines_of(folder, "cells.jsonl")) == 1


def test_rows_of_a_cell_are_never_split_by_a_full_disk(folder, monkeypatch):
    """The rows fit and their mark does not: the cell does not count."""
    from src.storage import record as recording

    real = recording.append_whole

    def full(file, data):
        if file.name.endswith("cells.jsonl"):
            raise OSError(28, "No space left on device")
        real(file, data)

    record = Record(folder, "kernels")
    with record.lock():
        record.begin(SETTINGS, {})
        monkeypatch.setattr(recording, "append_whole", full)
        with pytest.raises(OSError, match="No space left"):
            record.add(*rows_of_cell("compiled"))
        assert record.rows == flat(*CELLS)
    monkeypatch.setattr(recording, "append_whole", real)
    assert continued(folder) == flat(*CELLS)

"""Shared draws: what is read is what would be drawn, and a file that is damaged or of something else is not used.

python -m pytest tests/dataset/test_drawn.py
"""

import numpy as np
import pytest
import torch
from small_tasks import make

from dataset import drawn
from dataset.blocks import SIZE, Blocks
from dataset.drawn import Store, drawn_once, narrow, shared_store
from dataset.loaders import build_loaders
from dataset.task import Example, Task
from src.flags.run_flags import resolve

FIELDS = ("x", "y", "score", "lengths", "gaps")
# A label per character with gaps, an answer with gaps, and meta of every kind.
TASKS = ("recall", "needle", "fourier_mix", "dyck")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that this process shares."""
    monkeypatch.setenv(drawn.VARIABLE, str(tmp_path / "drawn"))
    return tmp_path / "drawn"


def draws_of(name: str, **more):
    """(facts, chance examples, held-out examples, training batches over one block and a bit)."""
    task, args = make(name, **more)
    _, loaders, data = build_loaders(task, args)
    heldout = [loaders[split].dataset.examples for split in ("val", "test")]
    batches = [batch for _, batch in zip(range(SIZE + 2), loaders["train"], strict=False)]
    return data.facts, data.chance_train, heldout, batches


def is_same(one, other) -> bool:
    """Whether two batches have equal values of equal types."""
    tensors = [(getattr(one, name), getattr(other, name)) for name in FIELDS]
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in tensors) and all(
        a.dtype == b.dtype and np.array_equal(a, b) for a, b in ((one.meta[k], other.meta[k]) for k in one.meta)
    )


@pytest.mark.parametrize("name", TASKS)
def test_what_is_read_equals_what_is_drawn(name, tmp_path, monkeypatch):
    alone = draws_of(name)
    monkeypatch.setenv(drawn.VARIABLE, str(tmp_path / "drawn"))
    first, second = draws_of(name), draws_of(name)
    for other in (first, second):
        assert repr(other[:3]) == repr(alone[:3])
        assert all(map(is_same, other[3], alone[3]))


def test_the_second_run_draws_nothing(folder, monkeypatch):
    """Of whole blocks and held-out sets; the batches after the last whole block it draws itself."""
    draws_of("recall")
    task, args = make("recall")
    monkeypatch.setattr(type(task), "examples", lambda *_: pytest.fail("drawn again"))
    _, loaders, _ = build_loaders(task, args)
    assert len([batch for _, batch in zip(range(SIZE), loaders["train"], strict=False)]) == SIZE


def test_another_seed_and_another_size_are_drawn(folder):
    one, other = draws_of("recall"), draws_of("recall", seed=8)
    assert repr(one[2]) != repr(other[2])
    assert not is_same(one[3][0], other[3][0])
    wide = draws_of("recall", batch_size=5)
    assert len(wide[3][0]) != len(one[3][0])


@pytest.mark.parametrize("harm", ["flip", "cut", "foreign", "empty"])
def test_a_file_that_is_damaged_or_foreign_is_not_used(harm, folder):
    alone = draws_of("recall")
    files = sorted(folder.iterdir())
    contents = [file.read_bytes() for file in files]
    for i, file in enumerate(files):
        data = bytearray(contents[i])
        if harm == "flip":
            data[len(data) // 2] ^= 1
        file.write_bytes({"flip": data, "cut": data[:-9], "foreign": contents[i - 1], "empty": b""}[harm])
    again = draws_of("recall")
    assert repr(again[:3]) == repr(alone[:3])
    assert all(map(is_same, again[3], alone[3]))
    assert [file.read_bytes() for file in files] == contents  # drawn again, and written again


def test_data_of_other_code_is_not_used(folder, monkeypatch):
    draws_of("recall")
    before = set(folder.iterdir())
    monkeypatch.setattr(drawn, "_code_digest", lambda: "other")
    draws_of("recall")
    assert len(set(folder.iterdir())) == 2 * len(before)


def test_examples_that_come_back_as_something_else_are_not_shared(folder):
    task, _ = make("recall")
    made = [Example("ab", "c", meta={"n": np.int64(3)})]
    assert drawn_once(task, {"stream": "x"}, lambda: (made, ())) == (made, [])
    assert not folder.exists()
    plain = [Example("ab", "c", meta={"n": 3, "pair": (1, 2.5)})]
    drawn_once(task, {"stream": "x"}, lambda: (plain, ("left",)))
    assert drawn_once(task, {"stream": "x"}, lambda: pytest.fail("drawn again")) == (plain, ["left"])


def test_a_block_that_is_entered_in_its_middle_is_drawn_and_not_written(folder):
    task, args = make("recall")
    _, loaders, _ = build_loaders(task, args)
    draw = loaders["train"].dataset.batch
    blocks = Blocks(shared_store(task), {"test": 1}, draw)
    before = set(folder.iterdir())
    assert all(is_same(blocks.batch(i), draw(i)) for i in range(SIZE - 2, SIZE + 2))
    assert set(folder.iterdir()) == before


def test_a_users_own_task_and_a_process_without_a_folder_share_nothing(folder, monkeypatch):
    class Own(Task):
        def example(self, rng, length):
            return Example("a", "b")

    assert shared_store(Own(resolve(Own))) is None
    task, _ = make("recall")
    assert isinstance(shared_store(task), Store)
    monkeypatch.delenv(drawn.VARIABLE)
    assert shared_store(task) is None


def test_nothing_is_written_where_the_disk_is_nearly_full(folder, monkeypatch):
    monkeypatch.setattr(drawn, "FREE_BYTES", 1 << 60)
    facts, *_ = draws_of("recall")
    assert list(folder.iterdir()) == []
    assert facts == draws_of("recall")[0]


def test_narrow_numbers_are_the_same_numbers():
    for values, kind in (
        ([], "int8"),
        ([-100, 127], "int8"),
        ([128], "int16"),
        ([1 << 20], "int32"),
        ([1 << 40], "i8"),
    ):
        array = np.asarray(values, dtype=np.int64)
        assert narrow(array).dtype == np.dtype(kind)
        assert np.array_equal(narrow(array), array)

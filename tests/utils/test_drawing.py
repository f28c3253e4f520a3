"""Batches that a process of its own draws are those of the loader, in its order.

python -m pytest tests/utils/test_drawing.py
"""

import itertools
import multiprocessing

import pytest
from small_tasks import make

from dataset.loaders import build_loaders
from src.utils.drawing import AT_A_TIME, TENSORS, drawn

FORKS = "fork" in multiprocessing.get_all_start_methods()


def taken(loader, n, apart, epoch=0, start=0):
    source = drawn(loader, epoch, start, apart)
    found = [
        (number, {name: getattr(batch, name).tolist() for name in TENSORS}, batch.meta["row"].tolist())
        for number, batch in itertools.islice(source, n)
    ]
    source.close()
    return found


def loader_of(**more):
    task, args = make("copy", batch_size=4, batch_chars=0, **more)
    return build_loaders(task, args)[1]["train"]


@pytest.mark.skipif(not FORKS, reason="this system cannot fork a process")
@pytest.mark.parametrize("size", [0, 22], ids=["fresh", "finite"])
def test_a_process_of_its_own_draws_the_same_batches_over_the_ends_of_epochs(size):
    n = 2 * AT_A_TIME + 3
    found = taken(loader_of(train_size=size), n, apart=True, start=2)
    assert found == taken(loader_of(train_size=size), n, apart=False, start=2)
    assert {epoch for epoch, _, _ in found} == ({0, 1, 2} if size else {0})
    assert found != taken(loader_of(train_size=size), n, apart=False, start=3)
    assert not multiprocessing.active_children()

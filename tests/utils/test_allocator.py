"""Freed memory stays in the process, so that a training step does not ask the system for it again."""

import os
import subprocess
import sys

import pytest

LARGE = """
import resource, sys
import torch
from src.utils.allocator import keep_freed_memory

torch.set_num_threads(1)
kept = keep_freed_memory() if sys.argv[1] == "keep" else None

def use():
    blocks = [torch.ones(300_000) for _ in range(8)]  # 1.2 MB each

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how, **environment):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    done = subprocess.run(
        [sys.executable, "-c", LARGE, how], capture_output=True, text=True, check=True, env={**clean, **environment}
    )
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults of glibc")
def test_blocks_that_are_freed_and_taken_again_cost_no_page_faults():
    """Without the setting each use has its 8 x 293 pages cleared again.

    The bound is a share of that, because a system that is short of memory takes some pages away from both.
    """
    kept, count = faults("keep")
    if kept == "False":
        pytest.skip("not glibc")
    cleared = faults("leave", MALLOC_MMAP_THRESHOLD_="131072")[1]  # fixed: glibc moves its own threshold by chance
    assert cleared > 20_000
    assert count < cleared / 5


def test_a_user_who_set_the_allocator_has_decided(monkeypatch):
    from src.utils import allocator

    asked = []
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: asked.append(name))
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert not allocator.keep_freed_memory()
    assert not asked

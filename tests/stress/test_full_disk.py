"""A disk that becomes full at thirty moments: one line, a code above 0, and the same result when there is room again.

sudo python -m pytest -m slow -s -n 0 tests/stress/test_full_disk.py
"""

import subprocess
import sys
from contextlib import contextmanager

import pytest
from stressed import COMMANDS, finish, is_root, one_line, say

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or not is_root(), reason="mounting a small disk needs root on Linux"),
]
ROOM = 64 << 20  # bytes
MOMENTS = {"train": 8, "eval": 4, "compare": 6, "speed": 4, "kernels": 4, "profile": 4}


@contextmanager
def disk(place):
    """A disk of its own at `place`; `resize(bytes)` changes its size. UserWarning-free skip where it is not allowed."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield lambda size: subprocess.run(
            ["mount", "-o", f"remount,size={int(size)}", str(place)], check=True, capture_output=True
        )
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def used(folder) -> int:
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", MOMENTS)
def test_a_command_whose_disk_was_full_goes_on_when_there_is_room(name, tmp_path):
    command, moments = COMMANDS[name], MOMENTS[name]
    with disk(tmp_path / "disk") as resize:
        plain = tmp_path / "disk" / "run"
        command.prepare(plain)
        before = used(plain) if plain.exists() else 0
        code, _, err = finish(command.arguments(plain))
        assert code == 0, err
        wanted, need = command.left(plain), used(plain) - before
    stopped = 0
    for i in range(moments):
        with disk(tmp_path / f"disk-{i}") as resize:
            folder = tmp_path / f"disk-{i}" / "run"
            command.prepare(folder)
            resize(before + 8192 + need * i / moments)
            code, _, err = finish(command.arguments(folder))
            one_line(err)
            stopped += code != 0
            resize(ROOM)
            code, _, err = finish(command.arguments(folder))
            assert code == 0, err
            assert command.left(folder) == wanted
    assert stopped
    say(f"{name}: {moments} sizes of the disk, {stopped} of them too small (it needs {need / 1024:.0f} KiB): all equal")

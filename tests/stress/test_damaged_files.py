"""Four hundred damaged files: each is refused with one line, or the result is that of the whole file.

    python -m pytest -m slow -s -n 0 tests/stress/test_damaged_files.py

A run directory is copied, one of its files is damaged at random, and a command opens it. Files that no command reads
(FOR_PEOPLE) may be damaged without an error. All else that the command says and leaves must then be the same.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
from collections import Counter

import pytest
from run_content import content
from stressed import NEEDLE, finish, one_line, out, say, without_times

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
FOR_PEOPLE = ("samples.txt", "results.jsonl", "vocab.json")
TRIALS = 80  # per opener; five openers


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    code, _, err = finish([*NEEDLE, *out(folder)])
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was killed between its second checkpoint (step 10) and its third."""
    folder = tmp_path_factory.mktemp("runs") / "half"
    import benchmark
    from src.utils import training

    child = os.fork()
    if child == 0:
        step, calls = training.train_step, []

        def counted(*args, **kwargs):
            calls.append(1)
            if len(calls) == 13:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(*args, **kwargs)

        training.train_step = counted
        os._exit(benchmark.main([*NEEDLE, *out(folder)]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return folder


def flip(data: bytes, rng) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, rng) -> bytes:
    return data[: rng.randrange(len(data))]


def zeros(data: bytes, rng) -> bytes:
    at = rng.randrange(len(data))
    n = min(len(data) - at, rng.randint(1, 64))
    return data[:at] + bytes(n) + data[at + n :]


def lost_line(data: bytes, rng) -> bytes:
    lines = data.splitlines(keepends=True)
    del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def doubled_line(data: bytes, rng) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    return b"".join([*lines[:at], lines[at], *lines[at:]])


def other_digit(data: bytes, rng) -> bytes:
    places = [i for i, byte in enumerate(data) if 48 <= byte < 58]
    if not places:
        return flip(data, rng)
    at = rng.choice(places)
    return data[:at] + bytes([48 + (data[at] - 47) % 10]) + data[at + 1 :]


def added(data: bytes, rng) -> bytes:
    return data + rng.choice([b"{}\n", b'{"step": 1, "loss": NaN}\n', b"\0" * 8, b"\xff\xfe", b"]"])


DAMAGES = (flip, cut, zeros, lost_line, doubled_line, other_digit, added)


def called(words: list[str]) -> tuple[int, str, str]:
    import benchmark

    with contextlib.redirect_stdout(io.StringIO()) as stdout, contextlib.redirect_stderr(io.StringIO()) as stderr:
        code = benchmark.main(words)
    return code, stdout.getvalue(), stderr.getvalue()


def resumed(folder):
    code, _, err = called(["--resume", "--quiet", *out(folder)])
    return code, err, content(folder) if code == 0 else None


def evaluated(folder):
    code, stdout, err = called(["--eval_only", *out(folder)])
    return code, err, without_times(json.loads(stdout)) if code == 0 else None


def generated(folder):
    code, stdout, err = called(["generate", str(folder), "--prompt", "abc[k=AB12]def?k=", "--greedy"])
    return code, err, {"stdout": stdout}


def redrawn(folder):
    code, _, err = called(["--vis_only", *out(folder)])
    return code, err, {p.name: p.read_bytes() for p in sorted(folder.glob("figures/*.png"))} if code == 0 else None


OPENERS = {
    "resume a finished run": ("whole", resumed),
    "evaluate": ("whole", evaluated),
    "generate": ("whole", generated),
    "redraw": ("whole", redrawn),
    "resume a killed run": ("half", resumed),
}


def same(found, wanted) -> bool:
    """Whether two contents say the same. A line of JSON that comes twice says what it says once."""
    if found == wanted:
        return True
    try:
        return json.loads(found) == json.loads(wanted)
    except (TypeError, ValueError):
        return False


def snapshot(folder) -> dict:
    """The bytes of each file. The lock holds the process that has it."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize("opener", OPENERS)
def test_no_damaged_file_changes_a_result(opener, request, tmp_path):
    kind, look = OPENERS[opener]
    source = request.getfixturevalue(kind)
    rng, told = random.Random(f"damage: {opener}"), Counter()
    shutil.copytree(source, tmp_path / "run")
    code, err, wanted = look(tmp_path / "run")
    assert code == 0, err
    for trial in range(TRIALS):
        folder = tmp_path / "run"  # always the same path, which results may name
        shutil.rmtree(folder)
        shutil.copytree(source, folder)
        files = [
            p
            for p in sorted(folder.rglob("*"))
            if p.is_file() and p.stat().st_size and p.suffix != ".png" and p.name != ".lock"
        ]
        path, damage = rng.choice(files), rng.choice(DAMAGES)
        data = path.read_bytes()
        broken = damage(data, rng)
        if broken == data:
            broken = flip(data, rng)
        path.write_bytes(broken)
        os.utime(path)
        before = snapshot(folder)
        code, err, found = look(folder)
        what = f"trial {trial}: {damage.__name__} of {path.name}"
        one_line(err)
        if code == 0:
            differs = [] if found == wanted else [name for name in wanted if not same(found.get(name), wanted[name])]
            assert set(differs) <= {path.name} & set(FOR_PEOPLE), f"{what}: accepted with another result: {differs}"
            told["the same result"] += 1
            continue
        assert code in (1, 2), f"{what}: exit code {code}: {err}"
        assert len(err.strip().splitlines()) == 1, f"{what}: {err}"
        assert snapshot(folder) == before, f"{what}: refused, but files changed"
        told["refused"] += 1
    say(f"{opener}: {TRIALS} damaged files: {dict(told)}")

"""The run directory under kills, full disks, second processes and edits; device and precision (env) at the end.

python -m pytest tests/storage/test_rundir.py
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from planted_metrics import good_metrics

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.storage import env, rundir
from src.storage.files import open_sealed, read_json, seal, write_atomic, write_json
from src.storage.record import Record
from src.storage.rundir import RunDir

PROJECT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(os.name != "posix", reason="signals, flock and resource limits are POSIX's")


def one_line(info) -> str:
    """The message of a caught UserError, which must be one line that says what to do or what is allowed."""
    text = str(info.value)
    assert "\n" not in text
    assert "allowed" in text or ";" in text
    return text


def start(code: str, *argv) -> subprocess.Popen:
    """A Python process that runs `code` with the project importable."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, argv)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def begin(path) -> RunDir:
    """An unfinished run in `path`."""
    run = RunDir.create(path)
    write_json(run.config, seal({"args": {"seed": 1}}))
    return RunDir(path)


def tree(folder: Path) -> dict:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


# files whole or not at all

KILLED_AT = """
import os, signal, sys
from src.storage import files
def die(*args, **kwargs): os.kill(os.getpid(), signal.SIGKILL)
path, moment = sys.argv[1:]
class Half:
    def __init__(self, *args): self.file = open(*args)
    def __enter__(self): return self
    def __exit__(self, *error): self.file.close()
    def write(self, data): self.file.write(data[: len(data) // 2]); self.file.flush(); die()
if moment == "half the data": files.open = Half
if moment == "fsync": os.fsync = die
if moment == "replace": os.replace = die
if moment == "after replace":
    replace = os.replace
    os.replace = lambda *args: (replace(*args), die())
files.write_atomic(path, b"new" * 100_000)
"""


@POSIX
@pytest.mark.parametrize("moment", ["half the data", "fsync", "replace", "after replace"])
def test_kill_inside_a_write_leaves_a_whole_file(tmp_path, moment):
    path = tmp_path / "x.json"
    write_atomic(path, b"old")
    process = start(KILLED_AT, path, moment)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, stderr
    assert path.read_bytes() == (b"new" * 100_000 if moment == "after replace" else b"old")
    left = [p.name for p in tmp_path.iterdir() if p != path]
    assert len(left) == (0 if moment == "after replace" else 1)
    RunDir(tmp_path).clean()
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


WRITES_AGAIN_AND_AGAIN = """
import sys, time
from src.storage import files
def plain(path, data):  # stops in the middle, so that every kill hits a torn file
    with open(path, "wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        print("ready", flush=True)
        time.sleep(600)
write = files.write_atomic if sys.argv[2] == "atomic" else plain
for n in range(10**9):
    write(sys.argv[1], b"%06d" % (n % 10**6) * 200_000)
    if n == 0: print("ready", flush=True)
"""


def is_whole(data: bytes) -> bool:
    """Whether the data is one version that WRITES_AGAIN_AND_AGAIN wrote."""
    return len(data) == 1_200_000 and data == data[:6] * 200_000


def kill_writers(path, how, times) -> list[bool]:
    """Whether the file was whole after each kill of a writer at a random moment."""
    rng = random.Random(7)
    results = []
    for _ in range(times):
        process = start(WRITES_AGAIN_AND_AGAIN, path, how)
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.communicate(timeout=60)
        results.append(is_whole(path.read_bytes()))
    return results


@POSIX
def test_kills_at_random_moments_always_leave_a_whole_version(tmp_path):
    assert all(kill_writers(tmp_path / "x", "atomic", 20))


@POSIX
def test_the_kill_test_notices_a_writer_that_is_not_atomic(tmp_path):
    assert kill_writers(tmp_path / "x", "plain", 2) == [False, False]


LIMITED = """
import resource, sys, pathlib
from src.flags.fields import UserError
from src.storage.files import write_atomic
from src.storage.rundir import RunDir
folder, what = pathlib.Path(sys.argv[1]), sys.argv[2]
limit = {"write": 4096, "append": 100, "create": 0}[what]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if what == "write": write_atomic(folder / "x", b"n" * 100_000)
    if what == "append": RunDir(folder).append({"step": 3, **{f"n{i}": i for i in range(40)}})
    if what == "create": RunDir.create(folder / "a" / "b")
except UserError as error: print("UserError", error)
except OSError as error: print(error.errno)
"""


@POSIX
@pytest.mark.parametrize("what", ["write", "append", "create"])
def test_a_file_that_cannot_grow_leaves_everything_as_it_was(tmp_path, what):
    (tmp_path / "x").write_bytes(b"old")
    RunDir(tmp_path).append({"step": 1, **{f"n{i}": i for i in range(4)}})
    before = tree(tmp_path)
    process = start(LIMITED, tmp_path, what)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    if what == "create":
        assert stdout.startswith("UserError")
        assert "cannot be written" in stdout
        assert stdout.count("\n") == 1
    else:
        assert stdout == f"{errno.EFBIG}\n"
    assert tree(tmp_path) == before


def test_a_failed_rename_removes_the_temporary_file(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOSPC, "no space")

    write_atomic(tmp_path / "x", b"old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_atomic(tmp_path / "x", b"new")
    assert tree(tmp_path) == {"x": b"old"}


@POSIX
def test_files_get_the_mode_that_the_user_set(tmp_path):
    """Not the 0600 of a temporary file: other users may read a run."""
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


# sealed JSON


DOC = {"status": "done", "loss": [1.5, 0.1], "by_length": {10: 1.0, 9: 0.5}, "machine": {"seconds": 1.25}}


def test_sealed_json_comes_back_as_it_was_written(tmp_path):
    write_json(tmp_path / "m.json", seal(DOC))
    doc = open_sealed(tmp_path / "m.json")
    assert list(doc) == ["status", "loss", "by_length", "machine", "sha256"]
    assert doc["by_length"] == {"10": 1.0, "9": 0.5}
    assert seal(doc) == doc
    assert (tmp_path / "m.json").read_bytes().endswith(b"}\n")


def test_the_digest_leaves_out_the_machine():
    first, second = seal(DOC), seal({**DOC, "machine": {"seconds": 9.0}})
    assert first["sha256"] == second["sha256"] != seal({**DOC, "status": "diverged"})["sha256"]
    assert first["machine"]["sha256"] != second["machine"]["sha256"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"done"', '"dome"'),
        ("0.5", "0.6"),
        ("1.25", "1.26"),
        ("1.5", "NaN"),
        ('"loss"', '"lost"'),
        ('"sha256"', '"sha"'),
    ],
)
def test_an_edit_of_sealed_json_is_noticed(tmp_path, old, new):
    path = tmp_path / "metrics.json"
    write_json(path, seal(DOC))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as info:
        open_sealed(path)
    assert "metrics.json" in one_line(info)


def test_spaces_and_line_breaks_are_no_edit(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(seal(DOC)))
    assert open_sealed(tmp_path / "m.json") == seal(DOC)


def test_sealed_json_cut_at_any_byte_is_noticed(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, seal(DOC))
    data = path.read_bytes()
    for n in range(len(data) - 1):  # without the last line break it is still whole
        path.write_bytes(data[:n])
        with pytest.raises(UserError) as info:
            open_sealed(path)
        one_line(info)


@pytest.mark.parametrize(
    "data", [b"\xff\xfe", b"[" * 100_000, b"[]", b"3", b"null", b'{"sha256": 3}', b'{"sha256": "", "machine": 4}']
)
def test_json_that_is_not_a_run_file_is_a_clear_error(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(UserError) as info:
        open_sealed(tmp_path / "config.json")
    one_line(info)


def test_missing_json_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="no such file") as info:
        read_json(tmp_path / "config.json")
    one_line(info)


def test_nan_is_never_written_into_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not tree(tmp_path)


def test_arrays_of_numbers_are_one_line_and_the_content_is_the_same(tmp_path):
    """A metrics.json once had one line per number."""
    metrics = good_metrics()
    write_json(tmp_path / "new.json", metrics)
    (tmp_path / "old.json").write_text(json.dumps(metrics, indent=1) + "\n")
    assert open_sealed(tmp_path / "new.json") == open_sealed(tmp_path / "old.json") == metrics
    new, old = ((tmp_path / name).read_text() for name in ("new.json", "old.json"))
    assert new.count("\n") < old.count("\n") / 3
    assert len(new) < 0.8 * len(old)
    assert '"eval_lengths": ["2x", "4x"]' in new


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True, "x"]}, '{\n "a": [1, 2.5, null, true, "x"]\n}\n'),
        ({"pairs": [[1, 2], [3, 4]]}, '{\n "pairs": [[1, 2], [3, 4]]\n}\n'),
        ({"pairs": [[n, 0.123456789] for n in range(20)]}, None),
        ({"objects": [{"a": 1, "ci": [2, 3]}]}, '{\n "objects": [\n  {"a": 1, "ci": [2, 3]}\n ]\n}\n'),
        ({"objects": [{"a": "x" * 200}]}, '{\n "objects": [\n  {\n   "a": "' + "x" * 200 + '"\n  }\n ]\n}\n'),
        ({"deep": [[[1]]]}, '{\n "deep": [[[1]]]\n}\n'),
        ({"empty": [], "none": {}, 3: (1, 2)}, '{\n "empty": [],\n "none": {},\n "3": [1, 2]\n}\n'),
        ("é", '"\\u00e9"\n'),
    ],
)
def test_json_has_one_line_per_key_and_per_short_array(tmp_path, value, text):
    write_json(tmp_path / "x.json", value)
    found = (tmp_path / "x.json").read_text()
    assert json.loads(found) == json.loads(json.dumps(value))
    assert found == text if text else found.count("\n") == 20 + 4


# create and open


def test_dated_runs_of_one_second_have_different_names(tmp_path, monkeypatch):
    monkeypatch.setattr(rundir.time, "strftime", lambda form: "20250102-030405")
    names = [RunDir.create(root=tmp_path / "runs").path.name for _ in range(3)]
    assert names == ["20250102-030405", "20250102-030405-2", "20250102-030405-3"]


def test_the_paths_of_a_run_are_inside_its_folder(tmp_path):
    run = RunDir.create(tmp_path / "a" / "b")
    paths = [run.config, run.env, run.metrics, run.items, run.log, run.ckpt, run.best, run.samples, run.vocab]
    paths += [run.figures]
    assert [p.name for p in paths] == [
        "config.json",
        "env.json",
        "metrics.json",
        "test_items.json",
        "metrics.jsonl",
        "ckpt.pt",
        "best.pt",
        "samples.txt",
        "vocab.json",
        "figures",
    ]
    assert {p.parent for p in paths} == {tmp_path / "a" / "b"}
    assert not tree(run.path)


def test_a_folder_without_config_counts_as_new(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run = RunDir.create(tmp_path)
    with run.lock():
        assert not run.exists
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_results_without_config_are_removed_for_a_new_run(tmp_path):
    for name in ("metrics.json", "metrics.jsonl", "test_items.json", "ckpt.pt"):
        (tmp_path / name).write_text("stale")
    run = RunDir.create(tmp_path)
    assert run.finished  # nothing is touched before the lock is held
    with run.lock():
        assert not run.finished
        assert not run.items.exists()
        assert run.read_log() == []


@pytest.mark.parametrize("finished", [False, True])
def test_an_existing_run_is_not_written_over(tmp_path, finished):
    run = begin(tmp_path)
    if finished:
        write_json(run.metrics, seal({"status": "done"}))
    before = tree(tmp_path)
    for refuse in (RunDir.create, RunDir.check):
        with pytest.raises(UserError) as info:
            refuse(tmp_path)
        text = one_line(info)
        assert "--resume" in text
        assert "--overwrite" in text
        assert ("unfinished" in text) != finished
    RunDir.check(tmp_path, overwrite=True)
    assert tree(tmp_path) == before


def test_check_makes_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    RunDir.check(tmp_path / "a" / "b")
    RunDir.check(root=tmp_path / "runs")
    for arguments in (
        {"out_dir": tmp_path / "file"},
        {"out_dir": tmp_path / "file" / "run"},
        {"root": tmp_path / "file" / "runs"},
    ):
        with pytest.raises(UserError) as info:
            RunDir.check(**arguments)
        one_line(info)
    assert tree(tmp_path) == {"file": b"x"}


def test_overwrite_removes_a_runs_files_and_nothing_else(tmp_path):
    run = begin(tmp_path / "run")
    mine = [
        "notes.txt",
        "eval-thoughts.json",
        "figures/sketch.txt",
        "tensorboard/readme",
        "data/config.json",
        "best.pt.bak",
    ]
    its = [
        "env.json",
        "metrics.jsonl",
        "metrics.json",
        "test_items.json",
        "ckpt.pt",
        "best.pt",
        "samples.txt",
        "vocab.json",
        "figures/loss.png",
        "figures/loss.svg",
        "eval-20250102-030405.json",
        ".tmp-x-1-2",
        "tensorboard/events.out.tfevents.1.x",
        "results.jsonl",
        "results.csv",
        "history.json",
        "trace.json",
        "stacks.txt",
        "memory.json",
        "figures/loss.pdf",
        "tensorboard/profile.17.pt.trace.json",
    ]
    for name in mine + its:
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_text("x")
    RunDir.create(run.path, overwrite=True)
    left = {name for name, data in tree(run.path).items() if data is not None}
    assert left == {*mine, ".lock"}


@POSIX
def test_overwrite_follows_no_link_out_of_the_run(tmp_path):
    run = begin(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "loss.png").write_text("x")
    run.figures.symlink_to(tmp_path / "elsewhere")
    run.ckpt.symlink_to(tmp_path / "elsewhere" / "loss.png")
    RunDir.create(run.path, overwrite=True)
    assert (tmp_path / "elsewhere" / "loss.png").read_text() == "x"
    assert not run.ckpt.is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_another_programs_config_is_left_alone(tmp_path, overwrite):
    (tmp_path / "config.json").write_text('{"model_type": "other"}')
    (tmp_path / "vocab.json").write_text("{}")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="not a run's") as info:
        RunDir.create(tmp_path, overwrite=overwrite)
    one_line(info)
    assert tree(tmp_path) == before


def test_a_damaged_config_can_be_overwritten(tmp_path):
    run = begin(tmp_path)
    run.config.write_text("{")
    with pytest.raises(UserError, match="--overwrite"):
        RunDir.create(tmp_path)
    RunDir.create(tmp_path, overwrite=True)
    assert not run.exists


@pytest.mark.parametrize("out_dir", ["file", "file/run", "file/run/deeper", "x" * 300, "new/" + "x" * 300])
def test_an_impossible_out_dir_is_refused_and_nothing_is_written(tmp_path, out_dir):
    """A file in place of a folder, or a name that is too long: refused for root too, who has all permissions."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError) as info:
        RunDir.create(tmp_path / out_dir)
    one_line(info)
    assert tree(tmp_path) == {"file": b"x"}
    with pytest.raises(UserError) as info:
        RunDir.create(root=tmp_path / out_dir)
    one_line(info)
    assert tree(tmp_path) == {"file": b"x"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_folder_of_the_kernel_is_refused():
    with pytest.raises(UserError, match="cannot be written") as info:
        RunDir.create("/proc/self/run")
    one_line(info)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            RunDir.create(tmp_path / "run")
    finally:
        tmp_path.chmod(0o755)


def test_open_finds_a_run_by_path_and_by_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    begin("runs/needle-a")
    assert RunDir.open("runs/needle-a").path == Path("runs/needle-a")
    assert RunDir.open("needle-a").path == Path("runs/needle-a")
    begin("needle-a")
    assert RunDir.open("needle-a").path == Path("needle-a")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("runs/needle-b", "did you mean 'runs/needle-a'?"),
        ("needl", "did you mean 'runs/needle-a'?"),
        ("", "the latest is 'runs/zebra'"),
        ("runs/qqqqqqqq", "the latest is 'runs/zebra'"),
        ("runs/empty", "a folder without config.json"),
        ("file", "not a folder"),
    ],
)
def test_open_of_a_missing_run_names_the_nearest(tmp_path, monkeypatch, wanted, expected):
    monkeypatch.chdir(tmp_path)
    begin("runs/needle-a")
    begin("runs/zebra")
    Path("runs/empty").mkdir()
    Path("file").write_text("")
    with pytest.raises(UserError) as info:
        RunDir.open(wanted)
    assert expected in one_line(info)


@pytest.mark.parametrize("kind", ["speed", "profile", "kernels", "study"])
def test_a_folder_of_measurements_is_no_training_run(tmp_path, kind):
    """Only its own command opens it, and only --overwrite replaces it. A damaged config.json tells no kind."""
    folder = RunDir(tmp_path)
    write_json(folder.config, seal({"schema": 1, "kind": kind, "settings": {}}))
    with pytest.raises(
        UserError, match=f"holds results of `{kind}`, allowed: the directory of a training run.*{kind} --vis_only"
    ) as info:
        RunDir.open(tmp_path)
    one_line(info)
    assert Record.of(tmp_path, kind).path == tmp_path
    with pytest.raises(UserError, match=f"holds results of `{kind}`, allowed: a folder of `other`"):
        Record.of(tmp_path, "other")
    with pytest.raises(UserError, match=f"holds results of `{kind}`; replace them with --overwrite") as info:
        RunDir.create(tmp_path)
    assert "--resume" not in one_line(info)
    folder.config.write_bytes(folder.config.read_bytes()[:20])
    assert RunDir.open(tmp_path).path == tmp_path


def test_open_without_any_run_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="there is none in 'runs'") as info:
        RunDir.open("x")
    one_line(info)
    assert not tree(tmp_path)


# the lock

HOLDS = """
import sys, time
from src.storage.rundir import RunDir
run = RunDir(sys.argv[1])
run.acquire()
print("held", flush=True)
time.sleep(600)
"""

FORKS = """
import os, sys, time
from src.storage.rundir import RunDir
run = RunDir(sys.argv[1])
run.acquire()
if not os.fork(): print(os.getpid(), flush=True)
time.sleep(600)
"""


@POSIX
def test_a_second_process_is_refused_and_told_who_runs(tmp_path):
    run = begin(tmp_path)
    process = start(HOLDS, tmp_path)
    try:
        assert process.stdout.readline() == "held\n"
        before = tree(tmp_path)
        with pytest.raises(UserError) as info:
            run.acquire()
        assert f"in use by process {process.pid}" in one_line(info)
        with pytest.raises(UserError, match="in use by process"):
            RunDir.create(tmp_path, overwrite=True)
        assert tree(tmp_path) == before
    finally:
        process.kill()
        process.communicate(timeout=60)
    with run.lock():  # what a dead process left is no obstacle
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


@POSIX
def test_a_forked_worker_does_not_keep_the_lock_of_a_killed_parent(tmp_path):
    process = start(FORKS, tmp_path)
    worker = int(process.stdout.readline())
    try:
        process.kill()
        process.wait(timeout=60)
        os.kill(worker, 0)  # still alive
        with RunDir(tmp_path).lock():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        process.communicate(timeout=60)


def test_the_lock_is_given_back(tmp_path):
    run = RunDir.create(tmp_path)
    with run.lock(), pytest.raises(UserError, match="in use"):
        RunDir(tmp_path).acquire()
    run.release()
    with RunDir(tmp_path).lock():
        pass
    assert (tmp_path / ".lock").read_bytes() == b""


def test_a_failure_inside_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), RunDir(tmp_path).lock():
        raise KeyError
    RunDir(tmp_path).acquire()


def test_of_two_new_runs_in_one_folder_the_later_is_refused(tmp_path):
    """Both saw an empty folder. The first may have ended before the second takes the lock."""
    first, second = RunDir.create(tmp_path), RunDir.create(tmp_path)
    with first.lock():
        write_json(first.config, seal({}))
    before = tree(tmp_path)
    with pytest.raises(UserError, match="--overwrite") as info:
        second.acquire()
    one_line(info)
    assert tree(tmp_path) == before
    with RunDir.open(tmp_path).lock():  # and it did not keep the lock
        pass


def test_a_missing_folder_cannot_be_locked(tmp_path):
    with pytest.raises(UserError, match="cannot be locked") as info:
        RunDir(tmp_path / "none").acquire()
    one_line(info)


# the log


def test_rows_are_on_disk_at_once(tmp_path):
    run = RunDir(tmp_path)
    run.append({"step": 1, "loss": 2.5})
    run.append({"step": 2, "loss": float("nan"), "norm": float("inf")})
    assert run.log.read_bytes() == b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": null, "norm": null}\n'
    assert RunDir(tmp_path).read_log() == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None, "norm": None}]


def cut_back(run: RunDir, step: int) -> None:
    """Keep the lines up to a step, as a run does that goes on from the checkpoint of this step."""
    run.training_log.restore([line + b"\n" for line, row in run.training_log.rows() if row["step"] <= step])


def test_the_log_is_cut_back_to_a_step_and_continues(tmp_path):
    run = RunDir(tmp_path)
    for step in range(1, 8):
        run.append({"step": step, "loss": 0.1 * step})
    lines = run.log.read_bytes().splitlines(keepends=True)
    cut_back(run, 4)
    assert run.log.read_bytes() == b"".join(lines[:4])
    run.append({"step": 5, "loss": 0.5})
    assert [row["step"] for row in run.read_log()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3}', b"\0\0\0\0", b'{"step": \n', b"null\n"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    run = RunDir(tmp_path)
    run.log.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
    assert [row["step"] for row in run.read_log()] == [1, 2]
    cut_back(run, 9)
    run.append({"step": 3})
    assert run.log.read_bytes() == b'{"step": 1}\n{"step": 2}\n{"step": 3}\n'


@pytest.mark.parametrize("n", range(0, 25))
def test_a_log_cut_at_any_byte_keeps_its_whole_lines(tmp_path, n):
    run = RunDir(tmp_path)
    whole = b'{"step": 1}\n{"step": 2}\n'
    run.log.write_bytes(whole[:n])
    cut_back(run, 2)
    assert run.log.read_bytes() == whole[: 12 * (n // 12)]


def test_a_broken_line_inside_the_log_is_an_error_with_its_number(tmp_path):
    run = RunDir(tmp_path)
    run.log.write_bytes(b'{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(UserError, match="line 2") as info:
        cut_back(run, 9)
    one_line(info)


def test_a_missing_log_is_an_empty_one(tmp_path):
    cut_back(RunDir(tmp_path), 3)
    assert RunDir(tmp_path).read_log() == []
    assert not tree(tmp_path)


def test_a_row_without_a_step_is_refused(tmp_path):
    with pytest.raises(ValueError, match="step"):
        RunDir(tmp_path).append({"loss": 1.0})


def test_clean_removes_left_over_temporary_files_only(tmp_path):
    run = RunDir(tmp_path)
    run.figures.mkdir()
    for name in (".tmp-ckpt.pt-1-2", "figures/.tmp-loss.png-1-2", "ckpt.pt", "figures/loss.png"):
        (tmp_path / name).write_text("x")
    run.clean()
    assert sorted(tree(tmp_path)) == ["ckpt.pt", "figures", "figures/loss.png"]


# device, precision, environment


def test_rundir_and_env_import_without_torch():
    code = "import sys, src.storage.rundir, src.storage.env; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


@pytest.fixture
def n_cuda(monkeypatch):
    """Pretends a number of CUDA devices of one compute capability."""
    import torch

    def pretend(n, capability=(8, 0)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "pretended")

    return pretend


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [
        ("auto", 0, "cpu"),
        ("cpu", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cpu", 2, "cpu"),
        ("cuda", 2, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_devices_resolve(n_cuda, text, n, expected):
    n_cuda(n)
    assert str(env.resolve_device(text)) == expected


@pytest.mark.parametrize(
    ("text", "n", "hint"),
    [
        ("cuda", 0, "no CUDA device"),
        ("cuda:0", 0, "use --device cpu"),
        ("cuda:2", 2, "2 CUDA devices"),
        ("cdua", 1, "did you mean 'cuda'"),
        ("cuda:", 1, "allowed"),
        ("cuda:-1", 1, "allowed"),
        ("cuda:1x", 1, "allowed"),
        ("", 0, "allowed"),
        ("mps", 0, "allowed"),
        ("cuda:99999", 1, "allowed"),
        ("cuda:²", 1, "allowed"),
    ],
)
def test_devices_that_are_not_there_are_refused(n_cuda, text, n, hint):
    n_cuda(n)
    with pytest.raises(UserError) as info:
        env.resolve_device(text)
    assert hint in one_line(info)
    assert "--device" in str(info.value)


CPU = SimpleNamespace(type="cpu")
CUDA = SimpleNamespace(type="cuda")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse2 avx512_bf16", "bf16"),
        ("fpu amx_bf16 amx_tile", "bf16"),
        ("fpu sse2 avx512f avx512_bf16x", "fp32"),
    ],
)
def test_auto_precision_on_a_cpu_follows_its_flags(tmp_path, monkeypatch, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n")
    monkeypatch.setattr(env, "CPUINFO", tmp_path / "cpuinfo")
    name, reason = env.resolve_precision("auto", CPU)
    assert name == expected
    assert "bf16" in reason
    assert env.cpu_model() == "Some CPU" or sys.platform == "darwin"


def test_auto_precision_without_any_probe_is_fp32(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(env, "CPUINFO", tmp_path / "none")
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert env.resolve_precision("auto", CPU)[0] == "fp32"
    assert env.resolve_precision("bf16", CPU)[0] == "bf16"
    assert "slow" in env.resolve_precision("bf16", CPU)[1]


def test_torchs_own_probe_agrees_with_the_systems_list(monkeypatch, tmp_path):
    """Systems other than Linux ask torch. If both answers exist, they must agree."""
    import torch

    if not env._cpuinfo("flags") or not hasattr(torch.cpu, "_is_avx512_bf16_supported"):
        pytest.skip("only one of the two sources here")
    listed = env._cpu_bf16_flags()
    monkeypatch.setattr(env, "CPUINFO", tmp_path / "none")
    assert ("avx512_bf16" in env._cpu_bf16_flags()) == ("avx512_bf16" in listed)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_precision_on_cuda_follows_its_capability(n_cuda, capability, expected):
    n_cuda(1, capability)
    assert env.resolve_precision("auto", CUDA)[0] == expected
    assert env.resolve_precision("fp16", CUDA) == ("fp16", "asked for")


def test_precisions_a_device_cannot_do_are_refused(n_cuda):
    n_cuda(1, (7, 5))
    for text, device in (("fp16", CPU), ("bf16", CUDA), ("fp8", CPU)):
        with pytest.raises(UserError) as info:
            env.resolve_precision(text, device)
        assert "--precision" in one_line(info)


def test_the_environment_is_recorded_as_json(tmp_path):
    import torch

    class Task:
        pass

    device = torch.device("cpu")
    record = env.collect(resolve(Task), device, ("fp32", "asked for"), {"scan": "eager: no CUDA"})
    write_json(tmp_path / "env.json", record)
    again = read_json(tmp_path / "env.json")
    assert again == record
    assert again["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert again["precision"] == {"name": "fp32", "reason": "asked for"}
    assert again["argv"] == sys.argv
    assert again["args"]["seed"] == 1337
    assert again["cpu"]["cores"] >= again["cpu"]["usable_cores"] >= 1
    assert again["device"]["name"] == "cpu"


def test_the_commit_is_the_projects_own(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    try:
        subprocess.run([*git, "init", "-q"], check=True)
    except OSError:
        pytest.skip("no git here")
    assert env.git_commit(tmp_path) is None
    (tmp_path / "a").write_text("1")
    (tmp_path / "inside").mkdir()
    subprocess.run([*git, "add", "a"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
    commit, dirty = env.git_commit(tmp_path)
    assert len(commit) == 40
    assert not dirty
    (tmp_path / "a").write_text("2")
    assert env.git_commit(tmp_path) == (commit, True)
    assert env.git_commit(tmp_path / "inside") is None


def test_peak_memory_counts_what_is_used():
    import torch

    device = torch.device("cpu")
    before = env.peak_memory_mib(device)
    if before is None:
        pytest.skip("this system does not tell")
    block = torch.ones(int(before) * 2**18 + 2**26)  # more than the process has ever had
    assert before < block.numel() * 4 / 2**20 <= env.peak_memory_mib(device)

"""Resuming: a run that was killed, interrupted or had a full disk ends with the same bytes. A damaged one is refused.

    python -m pytest tests/utils/test_resume.py            (-m slow adds kills at random moments)

`DRIVER` starts real processes, and kills them or fills their disk at a chosen event. The run is then continued from
what is left in its directory, and compared with a run to which nothing happened.
"""

import contextlib
import hashlib
import json
import os
import pickle
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TINY_NEEDLE, bench

from src.figures import runs as run_figures
from src.setup.stored import OLDER_RUNS
from src.storage import checkpoint
from src.storage.files import seal
from src.storage.log import RunLog
from src.storage.log_copy import packed
from src.storage.record import Record
from src.storage.rows import check_row
from src.utils import training

if not hasattr(signal, "SIGKILL"):
    pytest.skip("needs a system with SIGKILL", allow_module_level=True)

DRIVER = """
# Each line on stdin is a job {cwd, event, count, arguments}: benchmark.py in a process of its own, to which something
# happens at the count-th event. The processes are forked from this one, which has imported everything and computed
# nothing. This saves the time of the imports.
import json, os, resource, signal, sys
from pathlib import Path

root = sys.argv[1]
sys.path.insert(0, root)
import matplotlib.pyplot
import scipy.special, torch._dynamo, torch.profiler  # what a run imports while it computes
import benchmark
from dataset import reverse, tiny_shakespeare
from src.checks import ready
from src.commands import evaluate, generate, resume, train
from src.figures import runs as run_figures
from src.models import transformer
from src.setup import run, session, stored
from src.storage import rundir
from src.utils import results, training

SIGNALS = {"kill": signal.SIGKILL, "int": signal.SIGINT, "term": signal.SIGTERM}


def work(cwd, event, count, arguments):
    kind, _, name = event.partition(":")

    def happen(*_):
        if kind == "full":  # no file can grow beyond 1000 bytes: one line of stderr, with any path, and no checkpoint
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        else:
            os.kill(os.getpid(), SIGNALS[kind])

    def tear(run, row):
        with open(run.log, "ab") as file:
            file.write(b'{"step": 9, "lo')
        happen()

    def before(owner, attribute, counts=lambda *a: True, act=happen):
        original, calls = getattr(owner, attribute), 0

        def counted(*args, **kwargs):
            nonlocal calls
            calls += counts(*args)
            if calls == count and counts(*args):
                act(*args)
            return original(*args, **kwargs)

        setattr(owner, attribute, counted)

    if name == "step":
        before(training, "train_step")
    elif name == "row":
        before(rundir.RunDir, "append")
    elif name == "torn row":
        before(rundir.RunDir, "append", act=tear)
    elif name == "evaluation":
        before(results, "final_metrics")
    else:  # a file that is written under a temporary name and not yet renamed
        before(os, "replace", counts=lambda source, target: Path(target).name == name)
    os.chdir(cwd)
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background may inherit another handler
    sys.argv = [os.path.join(root, "benchmark.py"), *arguments]
    code = benchmark.main(arguments)
    sys.stdout.flush()
    os._exit(code)


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        work(**json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

BASE = [*TINY_NEEDLE, "--dropout", "0.1", "--eval_every", "3"]
DATA = {
    "fresh": ["--task", "reverse"],
    "finite": ["--task", "reverse", "--train_size", "60"],  # 12 steps are more than one epoch
    "language": ["--task", "tiny_shakespeare", "--data_path", __file__],  # any text will do
}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Runs in this process draw no figures. Drawing takes longer than all the rest, and has tests of its own."""
    monkeypatch.setattr(run_figures, "draw_all", lambda document, folder: [])


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    """drive(folder, event, count, *arguments) runs benchmark.py in a process, inside a folder.

    It returns (exit code, or minus the signal that ended it; stdout; stderr).
    """
    script = tmp_path_factory.mktemp("driver") / "driver.py"
    script.write_text(DRIVER)
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", script, ROOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def call(folder: Path, event: str, count: int, *arguments):
        job = {"cwd": str(folder), "event": event, "count": count, "arguments": list(map(str, arguments))}
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        return code, (folder / "out").read_text(), (folder / "err").read_text()

    yield call
    server.stdin.close()
    server.wait()


def content(run: Path) -> dict:
    """What must be equal: results, samples, weights, the bytes of best.pt, and the log without its times."""
    metrics = json.loads((run / "metrics.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    weights = torch.load(run / "ckpt.pt", weights_only=True)["model"]
    return {
        "metrics": {k: v for k, v in metrics.items() if k not in ("machine", "sha256")},
        "sha256": metrics["sha256"],
        "rows": (run / "results.jsonl").read_bytes(),
        "samples": (run / "samples.txt").read_bytes(),
        "items": (run / "test_items.json").read_bytes(),
        "best": (run / "best.pt").read_bytes(),
        "last": {k: v.numpy().tobytes() for k, v in weights.items()},
        "log": [{k: v for k, v in r.items() if k != "seconds"} for r in rows],
        "files": sorted(p.name for p in run.iterdir() if p.is_file()),
    }


def assert_same(run: Path, reference: Path) -> None:
    got, wanted = content(run), content(reference)
    for part in wanted:
        assert got[part] == wanted[part], part


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Runs to which nothing happened, by kind of data. Each is made when a test first needs it."""
    import benchmark

    folder = tmp_path_factory.mktemp("references")
    made = {}

    def get(data: str) -> Path:
        if data not in made:
            made[data] = folder / data
            assert benchmark.main([*BASE, *DATA[data], "--out_dir", str(made[data])]) == 0
        return made[data]

    return get


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory, drive):
    """A run killed before its ninth log line: checkpoints of step 6 and 8 lines. Copy it before use."""
    folder = tmp_path_factory.mktemp("unfinished")
    assert drive(folder, "kill:row", 9, *BASE, *DATA["fresh"], "--out_dir", "run")[0] == -signal.SIGKILL
    return folder / "run"


@pytest.fixture
def copy(unfinished, tmp_path):
    shutil.copytree(unfinished, tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def finished(references, tmp_path):
    shutil.copytree(references("fresh"), tmp_path / "done")
    return tmp_path / "done"


POINTS = [
    ("fresh", "kill:env.json", 1),
    ("fresh", "kill:ckpt.pt", 1),
    ("finite", "kill:ckpt.pt", 3),
    ("finite", "kill:step", 11),
    ("fresh", "kill:torn row", 8),
    ("language", "kill:step", 8),
    ("fresh", "kill:evaluation", 1),
    ("fresh", "kill:results.jsonl", 1),
    ("fresh", "kill:metrics.json", 1),
]
LESS_OFTEN = [("fresh", "kill:step", 1), ("fresh", "kill:best.pt", 1)]


@pytest.mark.parametrize(
    ("data", "event", "count"),
    [*POINTS, *(pytest.param(*point, marks=pytest.mark.slow) for point in LESS_OFTEN)],
    ids=[f"{data} at {event} {count}" for data, event, count in (*POINTS, *LESS_OFTEN)],
)
def test_killed_run_resumes_to_the_same_bytes(main, drive, tmp_path, references, data, event, count):
    assert drive(tmp_path, event, count, *BASE, *DATA[data], "--out_dir", "run")[0] == -signal.SIGKILL
    assert not (tmp_path / "run" / "metrics.json").exists()
    code, out, err = main("--resume", "--out_dir", "run", "--quiet")
    assert (code, out, err) == (0, "run\n", "")
    assert_same(tmp_path / "run", references(data))


@pytest.mark.slow
def test_run_killed_again_and_again_resumes_to_the_same_bytes(drive, tmp_path, references):
    """Each continuation is a process of its own. All are killed but the last one, which also draws the figures."""
    resume = ["--resume", "--out_dir", "run"]
    for event, count, arguments in (
        ("kill:step", 5, [*BASE, *DATA["finite"], "--out_dir", "run"]),
        ("kill:best.pt", 1, resume),
        ("kill:step", 6, resume),
    ):
        assert drive(tmp_path, event, count, *arguments)[0] == -signal.SIGKILL
    assert bench(*resume, cwd=tmp_path).returncode == 0
    assert list((tmp_path / "run" / "figures").iterdir())
    assert_same(tmp_path / "run", references("finite"))


def test_comparison_sees_another_seed(main, tmp_path, references):
    """This checks the comparison itself: a run of another seed is not the same."""
    assert main(*BASE, *DATA["fresh"], "--seed", "1", "--out_dir", "other")[0] == 0
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "other", references("fresh"))


def test_run_killed_before_its_config_counts_as_new(main, drive, tmp_path, references):
    assert drive(tmp_path, "kill:config.json", 1, *BASE, *DATA["fresh"], "--out_dir", "run")[0] == -signal.SIGKILL
    code, _, err = main("--resume", "--out_dir", "run")
    assert code == 2
    assert "a folder without config.json" in err
    assert main(*BASE, *DATA["fresh"], "--out_dir", "run")[0] == 0
    content_now = content(tmp_path / "run")
    assert content_now["metrics"] == content(references("fresh"))["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA)
def test_run_killed_at_random_moments_resumes_to_the_same_bytes(tmp_path, references, data):
    """Up to 30 kills at random times, between the first import and the last figure."""
    rng = random.Random(data)
    start, resume = [*BASE, *DATA[data], "--out_dir", "run"], ["--resume", "--out_dir", "run"]
    for _ in range(30):
        arguments = resume if (tmp_path / "run" / "config.json").exists() else start
        process = subprocess.Popen(
            [sys.executable, ROOT / "benchmark.py", *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        time.sleep(rng.uniform(1.0, 2.5))
        process.kill()
        if process.wait() == 0 or (tmp_path / "run" / "metrics.json").exists():
            break
    assert bench(*(resume if (tmp_path / "run" / "config.json").exists() else start), cwd=tmp_path).returncode == 0
    assert_same(tmp_path / "run", references(data))


# Interruption


def python_on_path(folder: Path) -> dict:
    """An environment in which `python` is this interpreter. (A link would lose its virtual environment.)"""
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    return {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("event", "count"),
    [
        ("int:step", 7),
        pytest.param("term:step", 5, marks=pytest.mark.slow),
        pytest.param("int:evaluation", 1, marks=pytest.mark.slow),
    ],
)
def test_interrupted_run_saves_its_state_and_its_printed_command_continues_it(
    main, drive, tmp_path, references, event, count
):
    code, out, err = drive(tmp_path, event, count, *BASE, *DATA["fresh"], "--out_dir", "my run")
    assert (code, out, err.count("\n")) == (130, "", 1), err
    command = re.fullmatch(r"interrupted; continue with: (python .* --resume --out_dir .*)\n", err)[1]
    step = torch.load(tmp_path / "my run" / "ckpt.pt", weights_only=True)["step"]
    assert step == (12 if event == "int:evaluation" else count)  # the step that had begun is finished and saved
    if event == "int:step":  # as printed, in a shell
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=python_on_path(tmp_path), capture_output=True, text=True, timeout=120
        )
        code, err = done.returncode, done.stderr
    else:
        code, _, err = main(*shlex.split(command)[2:])
    assert code == 0, err
    assert f"at step {step}" in err
    assert_same(tmp_path / "my run", references("fresh"))


def test_control_c_from_outside_and_the_lock(main, tmp_path):
    """A second run in the directory of a running one is refused. Ctrl-C stops the first. A dead lock is ignored."""
    arguments = [*TINY_NEEDLE, "--max_steps", "2000", "--eval_every", "5000", "--out_dir", "run"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "benchmark.py", *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "metrics.jsonl"
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_bytes().count(b"\n") > 5):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)  # it holds the lock, and cannot finish meanwhile
        for words, pattern in (
            (["--resume", "--out_dir", "run"], f"in use by process {process.pid}"),
            ([*arguments, "--overwrite"], f"in use by process {process.pid}"),
            (arguments, "holds an unfinished run.*--resume"),
        ):
            code, out, err = main(*words)
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert re.search(pattern, err), err
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "continue with: python " in err
    step = torch.load(tmp_path / "run" / "ckpt.pt", weights_only=True)["step"]
    assert step == sum("loss" in json.loads(line) for line in log.read_text().splitlines())
    (tmp_path / "run" / ".lock").write_text("99999999")
    code, _, err = main("--resume", "--out_dir", "run", "--batch_size", "7")
    assert code == 2
    assert "--batch_size: got 7" in err


def test_lock_of_a_killed_process_is_no_obstacle(main, copy):
    assert (copy / ".lock").read_text().isdigit()  # the number of the dead process
    assert main("--resume", "--out_dir", copy)[0] == 0


def test_full_disk_leaves_the_last_checkpoint(main, drive, tmp_path, references):
    """From the second checkpoint on no file can grow: exit code 1 and one line. With room again the run can end."""
    code, out, err = drive(tmp_path, "full:ckpt.pt", 2, *BASE, *DATA["fresh"], "--out_dir", "run")
    assert (code, out, err.count("\n")) == (1, "", 1), err
    assert re.match(r"error: .*(too large|no space).*; in 'run', config.json.* are intact", err, re.IGNORECASE)
    assert not list((tmp_path / "run").glob(".tmp-*"))
    assert main("--resume", "--out_dir", "run")[0] == 0
    assert_same(tmp_path / "run", references("fresh"))


# Finished runs and damaged ones


def test_a_finished_run_has_rows_of_the_shared_schema_without_times(finished):
    rows = [json.loads(line) for line in (finished / "results.jsonl").read_text().splitlines()]
    metrics = json.loads((finished / "metrics.json").read_text())
    for row in rows:
        check_row(row)
        assert (row["kind"], row["task"], row["model"]) == ("train-run", "reverse", "transformer")
        assert row["status"] == ("not reached" if row["metric"] == "solved_at" else "ok")
        assert row["device"].startswith("cpu: ")
        assert row["versions"]["torch"]
    values = {(r["panel"], r["metric"]): r["value"] for r in rows if r["panel"] in ("quality", "training", "cost")}
    assert values["quality", "scaled"] == metrics["scaled"]
    assert values["quality", "loss"] == metrics["final_test"]["loss"]
    assert {metric for panel, metric in values if panel == "cost"} == {"state_bytes"}


@pytest.mark.parametrize("kind", ["speed", "profile", "kernels"])
@pytest.mark.parametrize(
    "words", [["--resume"], ["--eval_only"], ["--vis_only"], ["generate", "--prompt", "ab>"]], ids=" ".join
)
def test_a_folder_of_measurements_is_refused(main, tmp_path, kind, words):
    record = Record.open_for(kind, str(tmp_path / "measured"), {"threads": 1})
    with record.lock():
        record.begin({"threads": 1}, {})
        record.finish({})
    before = {p.name: p.read_bytes() for p in record.path.iterdir()}
    code, out, err = main(*words, "--out_dir", record.path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"holds results of `{kind}`, allowed: the directory of a training run" in err
    assert {p.name: p.read_bytes() for p in record.path.iterdir()} == before


def test_finished_run_is_verified_and_left_alone(main, finished):
    before = {p.name: p.read_bytes() for p in finished.iterdir() if p.is_file()}
    code, out, err = main("--resume", "--out_dir", finished)
    assert (code, out) == (0, f"{finished}\n")
    assert "finished" in err
    assert "verified" in err
    assert {p.name: p.read_bytes() for p in finished.iterdir() if p.is_file()} == before


def test_resume_accepts_the_flags_of_the_run(main, tmp_path, references, copy):
    """The flags as they were typed, and `auto` for what was resolved."""
    flags = "--device auto --pos auto --preset small --log none".split()
    code, _, err = main("--resume", "--out_dir", "run", *BASE, *DATA["fresh"], *flags)
    assert code == 0, err
    assert_same(copy, references("fresh"))


def as_if_older(run: Path, **flags) -> None:
    """The run as a version without the flags of OLDER_RUNS left it, with these flags."""
    config = json.loads((run / "config.json").read_text())
    config["args"] = {**{k: v for k, v in config["args"].items() if k not in OLDER_RUNS}, **flags}
    (run / "config.json").write_text(json.dumps(seal(config)))
    for name in ("ckpt.pt", "best.pt"):
        checkpoint.save(run / name, {**checkpoint.load(run / name), "args": config["args"]})


def test_a_run_that_is_older_than_init_is_continued_as_what_it_was(main, references, copy):
    as_if_older(copy)
    code, _, err = main("--resume", "--out_dir", copy, "--init", "torch")
    assert (code, err.count("\n")) == (2, 1)
    assert "was started with published" in err
    code, _, err = main("--resume", "--out_dir", copy, "--init", "published")
    assert code == 0, err
    assert (copy / "metrics.jsonl").exists()
    assert content(copy)["metrics"]["final_test"] == content(references("fresh"))["metrics"]["final_test"]
    # Its validations of before did not note the score, so nobody knows which one was the first.
    assert content(copy)["metrics"]["solved_at"]["reason"] == "--solved_at 0 records nothing"
    assert main("--resume", "--out_dir", copy)[0] == 0  # its new checkpoints name the flag, its config.json does not


def test_an_older_run_whose_tied_head_had_another_scale_is_refused(main, copy):
    as_if_older(copy, tie_weights=True, embed_std=0.3)
    code, out, err = main("--resume", "--out_dir", copy)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "scaled a tied head by d_model^-0.5 also at --embed_std 0.3" in err


def test_an_older_run_on_a_text_is_refused_because_its_windows_began_with_bos(main, references, tmp_path):
    shutil.copytree(references("language"), tmp_path / "text")
    as_if_older(tmp_path / "text")
    code, out, err = main("--eval_only", "--out_dir", "text")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "whose windows of a text began with <bos>" in err


def flip(path: Path, at: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


class Bomb:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def edit_json(path: Path, change, reseal: bool = False) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(seal(document) if reseal else document))


def other_ckpt(run: Path) -> None:
    """An intact checkpoint of a run with another width."""
    payload = checkpoint.load(run / "ckpt.pt")
    checkpoint.save(run / "ckpt.pt", {**payload, "args": {**payload["args"], "d_model": 32}})


def bytes_of(run: Path) -> dict:
    """All files of a run but the lock."""
    return {str(p): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file() and p.name != ".lock"}


def edit_log(run: Path, change) -> None:
    """Change the lines of a log."""
    path = run / "metrics.jsonl"
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def reseal_log(run: Path, *lines: bytes) -> None:
    """A log of these lines, and a checkpoint whose copy has them too where that is possible."""
    (run / "metrics.jsonl").write_bytes(b"".join(lines))
    log = RunLog(run / "other.jsonl")
    with contextlib.suppress(ValueError):
        log.restore(lines)
    payload = checkpoint.load(run / "ckpt.pt")
    digest = hashlib.sha256(b"".join(lines)).hexdigest()
    checkpoint.save(run / "ckpt.pt", {**payload, "log": {**packed(log.copy()), "sha256": digest, "rows": len(lines)}})


DAMAGE = {
    "crafted pickle": (
        lambda run: torch.save(Bomb(run / "boom"), run / "ckpt.pt"),
        r"ckpt.pt' .*not a checkpoint of this program.*nothing in it was run",
    ),
    "bare pickle": (
        lambda run: (run / "ckpt.pt").write_bytes(pickle.dumps(Bomb(run / "boom"))),
        r"ckpt.pt' .*not a checkpoint.*nothing in it was run",
    ),
    "checkpoint cut": (lambda run: os.truncate(run / "ckpt.pt", 5_000), r"ckpt.pt' is truncated"),
    "checkpoint empty": (lambda run: os.truncate(run / "ckpt.pt", 0), r"ckpt.pt' is .*checkpoint"),
    "checkpoint flipped": (lambda run: flip(run / "ckpt.pt"), r"ckpt.pt' was altered or damaged"),
    "checkpoint of another run": (other_ckpt, r"ckpt.pt' belongs to another run \(--d_model was 32 there, here 16\)"),
    "config edited": (
        lambda run: edit_json(run / "config.json", lambda d: d["args"].update(lr=1.0)),
        r"config.json' was edited or damaged",
    ),
    "config cut": (lambda run: os.truncate(run / "config.json", 100), r"config.json' is truncated or not JSON"),
    "log broken": (
        lambda run: edit_log(run, lambda lines: [lines[0], b"???\n", *lines[2:]]),
        r"metrics.jsonl' line 2 is not what was logged.*--resume --from_checkpoint_log --out_dir",
    ),
    "log without a line": (
        lambda run: edit_log(run, lambda lines: lines[:2] + lines[3:]),
        r"metrics.jsonl' line 3 is not what was logged",
    ),
    "log with a line twice": (
        lambda run: edit_log(run, lambda lines: [*lines[:2], *lines[1:]]),
        r"metrics.jsonl' line 3 is not what was logged",
    ),
    "log without its tail": (
        lambda run: edit_log(run, lambda lines: lines[:5]),
        r"metrics.jsonl' has lost its line 6",
    ),
    "log with zeros": (
        lambda run: edit_log(run, lambda lines: [*lines[:3], bytes(len(lines[3])), *lines[4:]]),
        r"metrics.jsonl' line 4 is not what was logged",
    ),
    "log with another loss": (
        lambda run: edit_log(run, lambda lines: [re.sub(rb'"loss": [0-9.]+', b'"loss": 99', li) for li in lines]),
        r"metrics.jsonl' line 1 is not what was logged",
    ),
    "log with NaN": (
        lambda run: edit_log(run, lambda lines: [re.sub(rb'"loss": [0-9.]+', b'"loss": NaN', li) for li in lines]),
        r"metrics.jsonl' line 1 is not what was logged",
    ),
    "log gone": (lambda run: (run / "metrics.jsonl").unlink(), r"metrics.jsonl' is gone"),
    "log of strings, and a checkpoint that agrees": (
        lambda run: reseal_log(run, b'{"step": 1, "loss": "x"}\n'),
        r"ckpt.pt': its copy of the log is damaged",
    ),
    "log whose copy lacks a step": (
        lambda run: reseal_log(run, *(run / "metrics.jsonl").read_bytes().splitlines(True)[:5]),
        r"ckpt.pt': its copy of the log is damaged \(ends at step 4 of 6\)",
    ),
    "data changed": (
        lambda run: edit_json(run / "env.json", lambda d: d["data"].update(digest="0" * 64), reseal=True),
        r"the data of '.*' has changed since",
    ),
    "environment edited": (
        lambda run: edit_json(run / "env.json", lambda d: d["device"].update(kind="a faster one")),
        r"env.json' was edited or damaged",
    ),
    "best gone": (lambda run: (run / "best.pt").unlink(), r"best.pt': no such checkpoint"),
}


@pytest.mark.parametrize(("damage", "pattern"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_run_is_refused(main, copy, damage, pattern):
    damage(copy)
    before = bytes_of(copy)
    code, out, err = main("--resume", "--out_dir", copy)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert re.search(pattern, err), err
    assert bytes_of(copy) == before
    assert not (copy / "boom").exists()
    assert not (copy / "metrics.json").exists()


@pytest.mark.parametrize(
    "damage", [lambda log: log.unlink(), lambda log: log.write_bytes(log.read_bytes().replace(b": 0.", b": 9."))]
)
def test_a_damaged_log_is_written_again_from_the_checkpoint_on_request(main, copy, references, damage):
    """The first lines come from the copy in ckpt.pt. The run then ends as if nothing had happened."""
    damage(copy / "metrics.jsonl")
    code, _, err = main("--resume", "--from_checkpoint_log", "--out_dir", copy)
    assert code == 0, err
    assert f"notice: '{copy / 'metrics.jsonl'}' is written again from ckpt.pt, to the byte" in err
    assert_same(copy, references("fresh"))


def test_the_log_of_a_finished_run_is_verified_and_can_be_written_again(main, finished):
    whole = (finished / "metrics.jsonl").read_bytes()
    for change in (lambda lines: lines[:-1], lambda lines: [*lines, lines[-1]], lambda lines: lines[::-1]):
        edit_log(finished, change)
        code, out, err = main("--resume", "--out_dir", finished)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert re.search(r"metrics.jsonl' .*--from_checkpoint_log", err), err
    code, out, err = main("--resume", "--from_checkpoint_log", "--out_dir", finished)
    assert (code, out) == (0, f"{finished}\n"), err
    assert (finished / "metrics.jsonl").read_bytes() == whole


def test_losses_of_a_finished_run_that_are_not_those_of_its_log_are_refused(main, finished):
    """metrics.json resealed with another curve."""
    edit_json(finished / "metrics.json", lambda d: d["loss_curve"]["train"][2].__setitem__(1, 0.5))
    edit_json(finished / "metrics.json", lambda d: d.update(seal(d)))
    code, _, err = main("--resume", "--out_dir", finished)
    assert (code, err.count("\n")) == (2, 1), err
    assert "has other losses than the curve in metrics.json" in err


def without_copy(run: Path) -> None:
    """A checkpoint of an older version."""
    payload = checkpoint.load(run / "ckpt.pt")
    checkpoint.save(run / "ckpt.pt", {key: value for key, value in payload.items() if key != "log"})


def test_an_older_run_continues_where_its_log_has_every_step_once(main, copy, references):
    without_copy(copy)
    code, _, err = main("--resume", "--out_dir", copy)
    assert code == 0, err
    assert "is of an older version without a copy of the log" in err
    assert_same(copy, references("fresh"))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (lambda lines: lines[:2] + lines[3:], "line 3 is"),
        (lambda lines: [*lines[:2], *lines[1:]], "line 3 is of step 2, but step 3 comes next"),
        (lambda lines: lines[:4], "ends at step 3 of 6"),
        (lambda lines: [li.replace(b"false", b'"no"') for li in lines], "line 1: got clipped"),
        (lambda lines: [re.sub(rb'"loss": [0-9.]+', b'"loss": 1e999', li) for li in lines], "got loss=Infinity"),
    ],
)
def test_an_older_run_whose_log_lacks_something_is_refused(main, copy, change, pattern):
    without_copy(copy)
    edit_log(copy, change)
    before = bytes_of(copy)
    for flags in ([], ["--from_checkpoint_log"]):
        code, out, err = main("--resume", *flags, "--out_dir", copy)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert re.search("older version and holds no copy" if flags else pattern, err), err
    assert bytes_of(copy) == before


def test_a_log_that_changes_while_the_run_goes_on_seals_nothing(main, copy, monkeypatch):
    """Another program rewrites the log in the last step: no metrics.json is made of it."""
    honest = training.Fit.run

    def run_and_change(self):
        honest(self)
        edit_log(copy, lambda lines: lines[:-1])

    monkeypatch.setattr(training.Fit, "run", run_and_change)
    code, out, err = main("--resume", "--quiet", "--out_dir", copy)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "was changed by another program" in err
    assert not (copy / "metrics.json").exists()


DAMAGE_DONE = {
    "metrics edited": (
        lambda run: edit_json(run / "metrics.json", lambda d: d.update(scaled=1.0)),
        r"metrics.json' was edited or damaged",
        (["--resume"], ["--vis_only"]),
    ),
    "machine part edited": (
        lambda run: edit_json(run / "metrics.json", lambda d: d["machine"].update(train_seconds=0.1)),
        r"damaged under 'machine'",
        (["--resume"], ["--vis_only"]),
    ),
    "metrics cut": (
        lambda run: os.truncate(run / "metrics.json", 1_000),
        r"metrics.json' is truncated or not JSON",
        (["--resume"], ["--vis_only"]),
    ),
    "items edited": (
        lambda run: edit_json(run / "test_items.json", lambda d: d.update(step=1)),
        r"test_items.json' was edited or damaged",
        (["--resume"],),
    ),
    "items of another run": (
        lambda run: edit_json(run / "test_items.json", lambda d: d.update(seal({**d, "step": 1}))),
        r"test_items.json' belongs to another run",
        (["--resume"],),
    ),
    "best flipped": (
        lambda run: flip(run / "best.pt"),
        r"best.pt' was altered or damaged",
        (["--resume"], ["--eval_only"], ["generate", "--prompt", "ab>"]),
    ),
    "config edited": (
        lambda run: edit_json(run / "config.json", lambda d: d["args"].update(dropout=0.0)),
        r"config.json' was edited or damaged",
        (["--resume"], ["--eval_only"], ["generate", "--prompt", "ab>"]),
    ),
    "crafted best": (
        lambda run: torch.save(Bomb(run / "boom"), run / "best.pt"),
        r"best.pt' .*nothing in it was run",
        (["--resume"], ["--eval_only"], ["generate", "--prompt", "ab>"]),
    ),
}


@pytest.mark.parametrize(("damage", "pattern", "commands"), DAMAGE_DONE.values(), ids=DAMAGE_DONE)
def test_damaged_finished_run_is_refused(main, finished, damage, pattern, commands):
    damage(finished)
    for command in commands:
        code, out, err = main(*command, "--out_dir", finished)
        assert (code, out, err.count("\n")) == (2, "", 1), (command, err)
        assert re.search(pattern, err), (command, err)
        assert not (finished / "boom").exists()

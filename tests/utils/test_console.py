"""Printing where the terminal has another encoding, where the reader has gone, and where there is no stdout.

python -m pytest tests/utils/test_console.py
"""

import io
import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT, bench

from src.utils import console
from src.utils.reporter import Reporter

TASK = '''
"""Repeat a snowman, for tests of terminals: ☃."""
from dataset.base import Example, Task


class Snow(Task):
    """Repeat it."""

    def example(self, rng, length):
        return Example("".join("☃é渁"[i] for i in rng.integers(0, 3, 9)) + ">", "☃")
'''


def stream(encoding, errors):
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)


@pytest.mark.parametrize(
    ("encoding", "errors", "text", "data"),
    [
        ("ascii", "strict", "aé☃\U0001f600", rb"a\xe9\u2603\U0001f600"),
        ("cp1252", "strict", "é☃", b"\xe9\\u2603"),
        ("ascii", "surrogateescape", "é", rb"\xe9"),
        ("utf-8", "strict", "☃\udcff", "☃".encode() + rb"\udcff"),
        ("utf-8", "surrogateescape", "☃\udcff", "☃".encode() + b"\xff"),
        ("UTF8", "surrogateescape", "\udcff", b"\xff"),
        ("ascii", "replace", "é", b"?"),
        ("ascii", "ignore", "aé", b"a"),
    ],
)
def test_every_character_can_be_printed(monkeypatch, encoding, errors, text, data):
    out = stream(encoding, errors)
    monkeypatch.setattr(sys, "stdout", out)
    console.prepare()
    print(text, end="", flush=True)
    assert out.buffer.getvalue() == data


def test_a_process_without_streams_gets_empty_ones(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    console.prepare()
    print("nobody reads this")
    assert (sys.stdin.read(), sys.stdin.isatty(), sys.stderr.isatty()) == ("", False, False)


def test_a_stream_of_another_kind_stays_as_it_is(monkeypatch):
    """Such as those of notebooks, which have no encoding to change."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    console.prepare()
    assert sys.stdout is out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_list_prints_any_text_under_any_encoding(tmp_path, encoding):
    (tmp_path / "snow.py").write_text(TASK, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmark.py"), "list", "--task", str(tmp_path / "snow.py")],
        capture_output=True,
        env={"PYTHONIOENCODING": encoding, "PATH": ""},
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert "☃".encode(encoding, "backslashreplace") in done.stdout


@pytest.mark.parametrize("redirection", ["| head -n 1", "| true", "2>&1 | head -n 1", ">&-", "2>&- >&-", "<&-"])
def test_a_reader_that_has_gone_or_never_was_is_no_traceback(redirection):
    """`list` fits into the buffer of stdout, so that the error would come when Python ends."""
    done = subprocess.run(
        f'"{sys.executable}" benchmark.py list {redirection}', shell=True, cwd=ROOT, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_under_stdout_is_one_line():
    try:
        full = open("/dev/full", "w")
    except OSError:
        pytest.skip("needs /dev/full")
    with full:
        done = subprocess.run(
            [sys.executable, "benchmark.py", "list"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: No space left on device")


SETTINGS = [
    {"PYTHONOPTIMIZE": "2"},
    {"PYTHONDONTWRITEBYTECODE": "1"},
    {"TERM": "dumb", "COLUMNS": "20"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/proc/nonexistent"},
]


@pytest.mark.parametrize(
    "env", [{"PYTHONSAFEPATH": "1"}, *(pytest.param(env, marks=pytest.mark.slow) for env in SETTINGS)], ids=str
)
def test_list_and_help_work_under_any_settings_of_python_and_the_terminal(tmp_path, env):
    if env.get("PYTHONSAFEPATH") and sys.version_info < (3, 11):
        pytest.skip("PYTHONSAFEPATH came with Python 3.11")
    done = bench("list", "--task", "recall", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "three instances" in done.stdout
    done = bench("--help", "--task", "recall", cwd=tmp_path, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--n_pairs N" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_run_and_its_commands_end_well_under_any_encoding(tmp_path, encoding):
    """Training, generation, checks and the JSON of an evaluation, with a text that the encoding cannot hold."""
    (tmp_path / "wide.txt").write_text("☃é渁 hear me speak\n" * 200, encoding="utf-8")
    env = {"PYTHONIOENCODING": encoding}
    sizes = "--context_len 16 --d_model 8 --n_layer 1 --n_head 2 --max_steps 3 --val_size 5 --test_size 5 --threads 1"
    train = f"--task text --data_path wide.txt --model gru {sizes} --out_dir ☃".split()
    for arguments in (
        train,
        ["generate", "☃", "--prompt", "☃é渁", "--max_new_tokens", "60", "--temperature", "9"],
        ["--vis_only", "--out_dir", "☃"],
        ["check", "--model", "gru", "--quiet"],
        ["speed", "--help"],
        ["study", "--help"],
        ["reproduce", "--help"],
    ):
        done = bench(*arguments, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    done = bench("--eval_only", "--out_dir", "☃", cwd=tmp_path, env=env)
    assert json.loads(done.stdout)["task"] == "text"


EARLY = """
# The program with a Ctrl-C (SIGINT) at the moment at which it imports a module, before or after it begins its command.
import os, runpy, signal, sys
root, module, *arguments = sys.argv[1:]


class Watch:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)


signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Watch())
sys.argv = [os.path.join(root, "benchmark.py"), *arguments]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs os.kill with SIGINT")
@pytest.mark.parametrize("module", ["importlib", "dataset", "src.models", "src.commands.list", "textwrap"])
def test_a_control_c_during_the_imports_is_no_traceback(tmp_path, module):
    (tmp_path / "early.py").write_text(EARLY)
    done = subprocess.run(
        [sys.executable, "-S", "early.py", str(ROOT), module, "list"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    if module == "importlib" and done.returncode == 0:
        pytest.skip("this Python has loaded importlib before the program begins")
    assert done.returncode in (0, 130), done.stderr
    assert "Traceback" not in done.stderr
    assert module == "textwrap" or done.returncode == 130


@pytest.mark.parametrize("error", [ImportError("x"), RuntimeError("x")])
def test_an_error_that_a_control_c_caused_is_told_as_the_interrupt_that_it_is(main, monkeypatch, error):
    import benchmark

    def interrupted(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr(benchmark, "run", interrupted)
    assert main("list") == (130, "", "interrupted\n")
    monkeypatch.setattr(benchmark, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main("list")


def test_a_training_goes_on_where_stderr_takes_no_text(monkeypatch):
    reporter = Reporter(quiet=False)
    monkeypatch.setattr(sys, "stderr", open("/dev/full", "w") if os.path.exists("/dev/full") else None)
    reporter.say("x" * 100_000)
    assert reporter.quiet

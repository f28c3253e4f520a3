"""`generate`: text from a checkpoint, one-shot and interactive.

python -m pytest tests/commands/test_generate.py
"""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY_NEEDLE, bench

from src.figures import runs as run_figures

SAMPLED = ["--seed", "3", "--max_new_tokens", "60"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A transformer with its learned position table, a GRU without one, and a text model, each barely trained."""
    import benchmark

    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text("to be, or not to be: that is the question\n" * 60)
    text = ["--task", "tiny_shakespeare", "--data_path", str(folder / "text.txt"), "--max_steps", "60", "--lr", "0.01"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "draw_all", lambda document, folder: [])
        for name, arguments in (
            ("learned", ["--task", "needle"]),
            ("gru", ["--task", "reverse", "--model", "gru"]),
            ("text", [*text, "--model", "gru"]),
        ):
            assert benchmark.main([*TINY_NEEDLE, *arguments, "--out_dir", str(folder / name)]) == 0
    return folder


def samples(run) -> list[tuple[str, str]]:
    """(prompt, got) of samples.txt."""
    return re.findall(
        r"^prompt {4}(.*)\nexpected .*\ngot {7}(.*?)(?: {3}\(wrong\))?$",
        (run / "samples.txt").read_text(),
        re.MULTILINE,
    )


def generated(main, *arguments) -> str:
    code, out, err = main("generate", *arguments)
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    return out[:-1]


@pytest.mark.parametrize("name", ["learned", "gru"])
def test_greedy_text_is_that_of_samples_txt(main, runs, name):
    """Evaluation and `generate` go different ways to the same decoder; both continue the same prompt alike."""
    found = samples(runs / name)
    assert len(found) >= 5
    for prompt, got in found[:3]:
        text = generated(main, runs / name, "--prompt", prompt, "--greedy", "--max_new_tokens", len(got) or 1)
        assert text == got


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "0"],
        ["--temperature", "1e-38"],
        ["--temperature", "1e-320"],
        ["--top_k", "1"],
        ["--top_p", "1e-9"],
        ["--top_p", "1e-45"],
        ["--temperature", "0", "--top_k", "5"],
        ["--temperature", "1e-12", "--top_k", "5", "--top_p", "1e-45"],
    ],
    ids=" ".join,
)
def test_narrowest_sampling_is_greedy(main, runs, arguments):
    greedy = generated(main, runs / "text", "--prompt", "to be", "--greedy", "--max_new_tokens", 60)
    assert generated(main, runs / "text", "--prompt", "to be", *SAMPLED, *arguments) == greedy
    assert len(greedy) == 60


@pytest.mark.parametrize(
    "arguments",
    [[], ["--top_k", "3"], ["--top_p", "0.8"], ["--top_k", "5", "--top_p", "0.9", "--temperature", "1.5"]],
    ids=" ".join,
)
def test_sampled_text_follows_the_seed(main, runs, arguments):
    first, again = (generated(main, runs / "text", "--prompt", "to be", *SAMPLED, *arguments) for _ in range(2))
    other = generated(main, runs / "text", "--prompt", "to be", *SAMPLED, *arguments, "--seed", 4)
    assert first == again
    assert first != other
    assert set(first) <= set("to be, or not to be: that is the question\n")


def test_best_and_last_weights_are_both_there(main, runs, tmp_path):
    shutil.copytree(runs / "gru", tmp_path / "run")
    os.remove(tmp_path / "run" / "best.pt")
    assert generated(main, "run", "--prompt", "abc>", "--weights", "last", "--greedy") == generated(
        main, runs / "gru", "--prompt", "abc>", "--weights", "last", "--greedy"
    )
    code, out, err = main("generate", "run", "--prompt", "abc>")
    assert (code, out) == (2, "")
    assert re.search(r"best.pt: no such checkpoint", err)


def test_a_run_is_found_by_its_bare_name_and_after_a_move(main, runs, tmp_path):
    shutil.copytree(runs / "gru", tmp_path / "runs" / "moved")
    wanted = generated(main, runs / "gru", "--prompt", "abc>", "--greedy")
    for arguments in (["moved"], ["--out_dir", "moved"], ["runs/moved"], [f"--out_dir={tmp_path / 'runs' / 'moved'}"]):
        assert generated(main, *arguments, "--prompt", "abc>", "--greedy") == wanted


def test_default_length_fits_the_position_table(main, runs):
    """Without --max_new_tokens the text ends where a learned table does, or after 200 characters."""
    import torch

    table = torch.load(runs / "learned" / "best.pt", weights_only=True)["model"]["pos_embed.weight"].shape[0]
    prompt = "a" * (table - 5)
    assert len(generated(main, runs / "learned", "--prompt", prompt)) <= 5
    assert 60 < len(generated(main, runs / "text", "--prompt", "a")) <= 200
    for too_many in (["--prompt", prompt, "--max_new_tokens", "50"], ["--prompt", "a" * (table + 1)]):
        code, out, err = main("generate", runs / "learned", *too_many)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert re.search(rf"position table.*|allowed: at most {table - 1}", err)


@pytest.mark.parametrize("prompt", ["ab\tc", "ab🙂c", "abéc"], ids=["tab", "emoji", "accent"])
def test_an_unknown_character_is_named_with_its_position(main, runs, prompt):
    code, out, err = main("generate", runs / "gru", "--prompt", prompt)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"character {prompt[2]!r} at position 2 is not in the vocabulary, allowed: '>abc" in err


def test_an_empty_prompt_begins_a_text(main, runs):
    assert generated(main, runs / "text", "--prompt", "", "--max_new_tokens", 20)


def test_an_empty_prompt_of_a_text_is_a_newline(main, runs):
    """A language model never reads <bos>, so a text that begins there would be untrained."""
    begun = generated(main, runs / "text", "--prompt", "", *SAMPLED)
    assert begun == generated(main, runs / "text", "--prompt", "\n", *SAMPLED)
    assert begun != generated(main, runs / "text", "--prompt", "t", *SAMPLED)


@pytest.mark.slow
def test_stdin_that_is_no_terminal_is_one_prompt(main, runs, tmp_path):
    """`echo PROMPT | generate R`: the prompt is all of stdin but the last line break, which `echo` adds."""
    done = bench("generate", runs / "text", "--greedy", "--max_new_tokens", "30", cwd=tmp_path, input="to be\nor not\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout[:-1] == generated(
        main, runs / "text", "--prompt", "to be\nor not", "--greedy", "--max_new_tokens", 30
    )


@pytest.mark.slow
@pytest.mark.parametrize("strict", ["1", "0"])
def test_stdin_that_is_no_text_is_refused(runs, strict):
    """Python reads such bytes as an error, or in its UTF-8 mode as lone surrogates."""
    command = [sys.executable, ROOT / "benchmark.py", "generate", runs / "text"]
    environment = {**os.environ, "PYTHONUTF8": "1", **({"PYTHONIOENCODING": "utf-8:strict"} if strict == "1" else {})}
    done = subprocess.run(command, input=b"\xff\xfe", capture_output=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1), done.stderr
    assert done.stderr.startswith(
        b"error: stdin: not text" if strict == "1" else b"error: --prompt: character 0 is no text"
    )


def test_a_prompt_that_is_no_text_is_refused(main, runs):
    assert main("generate", runs / "text", "--prompt", "a\udcff") == (
        2,
        "",
        "error: --prompt: character 1 is no text in UTF-8, allowed: the characters of the run's vocab.json\n",
    )


@pytest.mark.slow
def test_a_terminal_is_asked_until_an_empty_line(main, runs, tmp_path):
    """Interactive, through a pseudo-terminal: stdout holds the continuations only, all else goes to stderr."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, ROOT / "benchmark.py", "generate", runs / "gru", "--greedy", "--max_new_tokens", "9"]
    process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        os.write(ours, b"abc>\nab#\nba>\n\n")
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)
    assert process.returncode == 0
    wanted = [generated(main, runs / "gru", "--prompt", p, "--greedy", "--max_new_tokens", 9) for p in ("abc>", "ba>")]
    assert out == "".join(text + "\n" for text in wanted)
    assert err.count("prompt> ") == 4
    assert "error: character '#' at position 2" in err


def test_help_shows_the_flags_without_torch():
    code = (
        "import sys, benchmark; code = benchmark.main(['generate', '--help']); sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert {
        "--prompt",
        "--greedy",
        "--temperature",
        "--top_k",
        "--top_p",
        "--max_new_tokens",
        "--weights",
        "--seed",
    } <= set(re.findall(r"--\w+", done.stdout))

"""`generate --chat` and `--prompts`: one answer, a conversation through a pipe, several prompts from a file.

python -m pytest tests/commands/test_chat_command.py
"""

import io
import json
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, TINY

from src.figures import runs as run_figures

SMALL = [*TINY, "--val_size", "0", "--test_size", "0", "--context_len", "48"]
TALKS = [*SMALL, "--task", "chat", "--vocab_size", "300"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on conversations with a learned table, one of characters, and one that is no chat."""
    import benchmark

    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_figures, "draw_all", lambda document, folder: [])
        for name, arguments in (
            ("talk", [*TALKS, "--model", "transformer"]),
            ("spelled", [*TALKS, "--model", "gru", "--tokenizer", "char", "--context_len", "200"]),
            ("words", [*TINY, "--task", "reverse", "--model", "gru"]),
        ):
            assert benchmark.main([*arguments, "--out_dir", str(folder / name)]) == 0
    return folder


@pytest.fixture
def typed(monkeypatch):
    def type_(text):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return type_


@pytest.mark.parametrize("name", ["talk", "spelled"])
def test_one_prompt_gets_one_answer(main, runs, name):
    """The same as the first answer of a conversation, and of a file of prompts."""
    code, out, err = main("generate", runs / name, "--chat", "--greedy", "--prompt", "hello", "--max_new_tokens", 7)
    assert code == 0, err
    assert "error" not in err
    assert out.endswith("\n")


def test_a_conversation_through_a_pipe(main, runs, typed):
    typed("hello\n/reset\nhello\n<|end|>\n\n/quit\nnever\n")
    code, out, err = main("generate", runs / "talk", "--chat", "--greedy", "--max_new_tokens", 5)
    assert code == 0, err
    assert "the conversation is forgotten" in err
    assert "error: the message holds <|end|>, which is a special token" in err
    first = main("generate", runs / "talk", "--chat", "--greedy", "--max_new_tokens", 5, "--prompt", "hello")[1]
    assert out == first + first


def test_the_template_and_its_files_are_stored_with_the_run(runs):
    template = (runs / "talk" / "chat_template.jinja").read_text()
    assert "<|assistant|>" in template
    assert json.loads((runs / "talk" / "tokenizer_config.json").read_text())["chat_template"] == template
    assert "assistant: " in (runs / "spelled" / "chat_template.jinja").read_text()
    data = json.loads((runs / "talk" / "metrics.json").read_text())["data"]
    assert data["cut"]["left_out"] + sum(data[f"{split}_examples"] for split in ("train", "val", "test")) == 60


def test_the_template_is_found_in_the_tokenizer_too(main, runs, tmp_path):
    shutil.copytree(runs / "talk", tmp_path / "R")
    (tmp_path / "R" / "chat_template.jinja").unlink()
    arguments = ["--chat", "--greedy", "--prompt", "hello", "--max_new_tokens", 5]
    assert main("generate", "R", *arguments)[:2] == main("generate", runs / "talk", *arguments)[:2]


def test_prompts_of_a_file_come_back_in_their_order(main, runs, tmp_path):
    texts = ["what is two plus two?", "hi", "hello", "hi"]
    (tmp_path / "p.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps({"prompt": t, "id": i}) for i, t in enumerate(texts)))
    arguments = ["--greedy", "--max_new_tokens", 5]
    for chat in (["--chat"], []):
        alone = [main("generate", runs / "talk", *chat, *arguments, "--prompt", text)[1] for text in texts]
        code, out, err = main("generate", runs / "talk", *chat, *arguments, "--prompts", "p.txt")
        assert code == 0, err
        assert out == "".join(text.rstrip("\n").replace("\n", "\\n") + "\n" for text in alone)
        rows = [
            json.loads(line)
            for line in main("generate", runs / "talk", *chat, *arguments, "--prompts", "p.jsonl")[1].splitlines()
        ]
        assert [row["text"] + "\n" for row in rows] == alone
        assert [(row["prompt"], row["id"]) for row in rows] == list(zip(texts, range(4), strict=True))


@pytest.mark.parametrize(
    ("lines", "flags", "why"),
    [
        (b"", ["--chat"], "which is empty"),
        (b"hi\n\xff\n", ["--chat"], "line 2: not UTF-8"),
        (b'"hi"\n{', ["--chat"], "line 2: "),
        (b'"hi"\n3', ["--chat"], "line 2: JSON, but a int"),
        (
            b'{"messages": [{"role": "assistant", "content": "x"}]}',
            ["--chat"],
            "line 1: message 1 is of role assistant",
        ),
        (b'{"messages": [{"role": "user", "content": "x"}]}', [], 'line 1: "messages" only go with --chat'),
        (b'"hi"\n"' + b"x" * 300 + b'"', ["--chat"], "line 2: got "),
        (b'"<|end|>"', ["--chat"], "line 1: the user message holds <|end|>"),
    ],
)
def test_a_wrong_line_of_prompts_is_named(main, runs, tmp_path, lines, flags, why):
    (tmp_path / "p.jsonl").write_bytes(lines)
    if b"\xff" in lines:
        shutil.move(tmp_path / "p.jsonl", tmp_path / "p.txt")
    path = next(tmp_path.glob("p.*"))
    code, out, err = main("generate", runs / "talk", *flags, "--prompts", path)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "flags", "why"),
    [
        ("words", ["--chat"], "is a run of --task reverse, which knows no conversations"),
        ("talk", ["--system", "be kind", "--prompt", "x"], "--system: only goes with --chat"),
        ("talk", ["--chat_template", "x"], "--chat_template: only goes with --chat"),
        ("talk", ["--chat", "--chat_template", "nowhere"], "which cannot be read"),
        ("talk", ["--chat", "--prompt", "x", "--prompts", "y"], "--prompt and --prompts contradict each other"),
        ("talk", ["--chat", "--prompts", "nowhere"], "which cannot be read"),
        ("talk", ["--chat", "--prompt", "no " * 99], "allowed: at most 48, the context of this run"),
        ("talk", ["--chat", "--system", "<|end|>", "--prompt", "x"], "the system message holds <|end|>"),
        ("spelled", ["--chat", "--prompt", "é"], "character 'é' at position 0 is not in the vocabulary"),
    ],
)
def test_wrong_flags_are_one_line(main, runs, name, flags, why):
    code, out, err = main("generate", runs / name, *flags)
    assert (code, out) == (2, "")
    assert why in err
    assert err.count("\n") == 1


def test_a_template_of_a_run_cannot_reach_python(main, runs, tmp_path):
    shutil.copytree(runs / "talk", tmp_path / "R")
    (tmp_path / "R" / "chat_template.jinja").write_text("{{ ''.__class__ }}<|end|>")
    code, out, err = main("generate", "R", "--chat", "--prompt", "hello")
    assert (code, out) == (2, "")
    assert "reads the attribute '__class__'" in err


@pytest.mark.slow
def test_an_answer_needs_no_compiler_of_torch(runs):
    """Loading it takes as long as loading torch, so a conversation would begin twice as late."""
    loads = (
        "import sys; sys.path.insert(0, '.'); import benchmark; "
        f"assert benchmark.main(['generate', {str(runs / 'talk')!r}, '--chat', '--prompt', 'hello']) == 0; "
        "print([name for name in ('torch._dynamo', 'triton', 'numba', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", loads], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"

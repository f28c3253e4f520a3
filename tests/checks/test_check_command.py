"""The command `check`: its table, its JSON, its progress, and its errors.

python -m pytest tests/checks/test_check_command.py
"""

import io
import json
import math
import re
import sys

import pytest

from src import checks
from src.checks import CHECKS, causality, cost, hash_order
from src.checks.base import Result
from src.commands import check
from src.flags import own_files
from src.flags.fields import UserError

LEAKY_FILE = """
import torch
from torch import nn
from src.models.base import Mixer

class Leaky(Mixer):
    def __init__(self, args):
        super().__init__()
        self.out = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.out(x.roll(-1, dims=1))
"""


@pytest.fixture(scope="module")
def known():
    """{(model, check): results}: each check of a model is carried out once, by the first command that asks for it."""
    return {}


@pytest.fixture
def run(capsys, tmp_path, monkeypatch, known):
    """Call the command: (exit code, stdout, stderr). A text that ends in a line break becomes a user's file."""
    monkeypatch.setattr(cost, "FAR", 512)  # the slow part of a check is its cost, which test_check_cost.py tests
    monkeypatch.setattr(cost, "SLOW", 0.0)
    monkeypatch.setattr(hash_order, "HASH_SEEDS", ())  # test_hash_order.py starts the other processes
    monkeypatch.setattr(causality, "WORK", 1)  # few rows per pass

    carry_out = checks.run_check

    def call(model, *flags):
        def once(check, subject, group):
            if (model_text, check) not in known:
                known[model_text, check] = carry_out(check, subject, group)
            return known[model_text, check]

        model_text = model
        monkeypatch.setattr(checks, "run_check", once)
        if model.endswith("\n"):
            path = tmp_path / "layer.py"
            path.write_text(model)
            model = str(path)
        with own_files.hosted():  # as benchmark.py does
            code = check.main(["--model", model, "--d_model", "16", *flags])
        return code, *capsys.readouterr()

    return call


@pytest.mark.slow
def test_the_command_passes_the_template_under_strict(run):
    """Nothing fails or is skipped, and it decodes with its own step. Growth is measured, so it is left out."""
    _, out, _ = run("template", "--json", "--strict")
    document = json.loads(out)
    wrong = [r for r in document["results"] if r["status"] in ("fail", "skipped") and r["tolerance"] != cost.GROWTH]
    assert wrong == []
    assert document["model"] == "template"
    assert document["strict"] is True
    assert {r["group"] for r in document["results"]} == set(CHECKS)


def test_a_layer_that_passes_has_exit_code_0_and_a_table_of_one_line_per_result(run):
    code, out, _ = run("template")
    lines = out.splitlines()
    results = sum(line.startswith("  ") and not line.startswith("   ") for line in lines) - 1  # without the heading
    counts = [int(n) for n in re.findall(r"(\d+) (?:passed|failed|skipped|measured)", lines[-1])]
    assert code == 0
    assert lines[-1].startswith("pass: template: ")
    assert results == sum(counts) > 30
    assert len(lines) <= 1 + results + len(CHECKS) + 2 + 3  # at most three notes need a second line


def test_the_table_fits_and_ends_with_a_verdict(run):
    code, out, _ = run(LEAKY_FILE)
    lines = out.splitlines()
    assert code == 4
    assert max(map(len, lines[:-1])) <= check.WIDTH
    assert lines[-1].startswith("FAIL: ")
    assert "changed tokens" in lines[-1]
    assert sum(line.split()[-1:] == [] for line in lines) == 1  # one empty line, before the verdict
    assert {line for line in lines if line in CHECKS} == set(CHECKS)


def test_json_of_a_failure_is_json_alone_with_exit_code_4(run):
    """What the user's file prints, when it is read and in every pass, goes to stderr. NaN is text in JSON."""
    printing = "print('hello')" + LEAKY_FILE.replace("return", "print('forward'); return")
    code, out, err = run(printing.replace("x.roll(-1, dims=1)", "x / 0 * 0"), "--json")
    document = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert code == 4
    assert document["verdict"] == "fail"
    assert document["strict"] is False
    assert set(err.split()) == {"hello", "forward"}


# --- progress ---------------------------------------------------------------------------------------------------------


def test_progress_is_one_line_per_group_on_stderr(run):
    _, out, err = run(LEAKY_FILE)
    lines = err.splitlines()
    assert [re.match(r"\[\d+/\d+\] (\w+): about \S+ s left$", line).group(1) for line in lines] == list(CHECKS)
    assert lines[0].startswith(f"[1/{sum(map(len, CHECKS.values()))}] ")
    assert "left" not in out


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_quiet_and_json_show_no_progress(run, flag):
    assert run(LEAKY_FILE, flag)[2] == ""


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_one_bar_that_is_removed(monkeypatch):
    """The bar names the check that runs. Its last text is blank, so that the table starts on a clean line."""
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with check.progress_of(["causality", "causality", "decoding"], quiet=False) as before:
        for group, name in (("causality", "changed tokens"), ("causality", "gradient"), ("decoding", "cache")):
            before(group, name)
    shown = terminal.getvalue()
    assert "causality changed tokens" in shown
    assert "decoding cache" in shown
    assert "2/3" in shown
    assert "\n" not in shown
    assert shown.split("\r")[-2].strip() == ""


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no --model given"),
        (["--model", "trnsformer"], "did you mean 'transformer'"),
        (["--model", "template", "--dropout", "0.1"], "--dropout: got 0.1, allowed: 0"),
        (["--model", "transformer", "--attn_dropout", "0.1"], "--attn_dropout: got 0.1, allowed: 0"),
        (["--model", "template", "--match_params", "10k"], "only goes with `train`"),
        (["--model", "template", "--kernel_sise", "3"], "did you mean '--kernel_size'"),
        (["--model", "transformer", "--n_head", "3"], "--n_head: got 3"),
        (["--model", "template", "--task", "needle"], "unknown flag --task"),
    ],
)
def test_wrong_input_is_a_user_error_of_one_line(arguments, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as caught:
        check.main(arguments)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_built_is_a_user_error_with_its_line(run):
    with pytest.raises(UserError, match=r"layer.py', line 9, in __init__: AttributeError"):
        run(LEAKY_FILE.replace("nn.Linear", "nn.Liner"))


def test_a_file_may_be_named_from_its_folder(monkeypatch, tmp_path):
    (tmp_path / "near.py").write_text(LEAKY_FILE.replace("nn.Linear", "nn.Liner"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"near.py', line 9, in __init__: AttributeError"):
        check.main(["--model", "near.py"])


def test_help_names_the_models_own_flags_and_what_strict_does(capsys):
    assert check.main(["--model", "template", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--kernel_size" in out
    assert "--strict fails as well: a skipped check" in out
    assert "[32]" in out


def test_results_are_plain_data():
    result = Result("x", "pass", math.nan)
    assert check.plain(result.value) == "nan"
    assert check.show(1234) == "1,234"
    assert check.show(None) == ""

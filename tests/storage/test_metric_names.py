"""One name per metric, in figures, progress lines and pages.

python -m pytest tests/storage/test_metric_names.py
"""

import re

import pytest
from conftest import ROOT
from planted_metrics import good_metrics

from src.figures import curves, lengths, slices
from src.storage.metric_names import NAMES, metric_name
from src.utils.reporter import Reporter

OTHER_NAMES = (
    *("character accuracy", "accuracy per character", "token acc", "per-token accuracy", "per-character accuracy"),
    *("nats per character)", "nats per token"),
)
FILES = sorted(
    path
    for folder, pattern in (("src", "*.py"), ("dataset", "*.py"), ("docs", "*.md"), (".", "README.md"))
    for path in ((ROOT / folder).rglob(pattern) if folder != "." else [ROOT / pattern])
)


def test_no_page_and_no_source_has_another_name_for_a_metric():
    assert len(FILES) > 100
    said = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        for name in OTHER_NAMES
        if re.search(rf"\b{re.escape(name)}(?!\w)", path.read_text(encoding="utf-8"), flags=re.IGNORECASE)
    ]
    assert said == []


@pytest.mark.parametrize(
    ("key", "words"),
    [("token_acc", "token accuracy"), ("exact_match", "exact match"), ("hit_rate", "hit rate"), ("mae", "mae")],
)
def test_a_metric_is_shown_as_the_words_of_its_key(key, words):
    assert metric_name(key) == words


def test_two_metrics_do_not_share_a_name():
    assert len(set(NAMES.values())) == len(NAMES)


def test_every_figure_has_the_same_words_for_a_metric():
    metrics = good_metrics()
    part = metrics["test"]["best"]["slices"]["gap"]
    assert slices.figure_slice(part).axes[0].get_ylabel() == metric_name("token_acc")
    losses, shares = lengths.figure_length_curve(metrics["length_curve"], label="token_acc", with_loss=True).axes
    assert shares.get_ylabel() == metric_name("token_acc")
    assert losses.get_ylabel() == curves.figure_loss(metrics).axes[0].get_ylabel() == metric_name("loss")


def test_a_progress_line_has_the_words_of_a_figure(capsys):
    reporter = Reporter(quiet=False)
    reporter.started = 0.0
    row = {"step": 5, "val_loss": 0.7, "val_token_acc": 0.5}
    reporter.validation(row, 10, better=True)
    assert f"{metric_name('token_acc')} 0.5000" in capsys.readouterr().err

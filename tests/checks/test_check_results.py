"""How checks judge: differences, tolerances, --strict, errors of a layer, and what is looked at.

python -m pytest tests/checks/test_check_results.py
"""

import copy
import itertools
import math
import re

import pytest
import torch
from broken_layers import Replayed
from subjects import rows, subject_of
from torch import nn

from src import checks
from src.checks import CHECKS, causality, cost, repeatability
from src.checks.base import LONGEST, difference, judged, measured, skipped, wake
from src.checks.rows import ROWS
from src.models import backbone
from src.models.backbone import build
from src.models.template import GatedConv, _WholeModel


def test_a_backbone_that_initialises_its_layers_anew_is_caught(monkeypatch):
    init = backbone.Backbone.__init__

    def overwriting(self, *args, **kwargs):
        init(self, *args, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)

    monkeypatch.setattr(backbone.Backbone, "__init__", overwriting)
    assert rows(repeatability.initialisation, GatedConv)["initialisation in the backbone"].status == "fail"


class _Raises(Replayed):
    def mix(self, v):
        raise KeyError("no such\nthing")


def test_what_a_layer_raises_is_a_failed_check_of_one_line():
    """Some checks run no forward pass, or have no row for a layer that replays and is in no file."""
    wrong = [r for r in checks.run(subject_of(_Raises)) if r.status == "fail"]
    without_forward = {"cache", "same_seed", "initialisation", "parameters", "fair"}
    without_forward |= {"long_steps", "long_prefills", "other_hashes"}
    judging = [f.__name__ for functions in CHECKS.values() for f in functions if f.__name__ not in without_forward]
    assert sorted(r.name for r in wrong) == sorted(
        name for f in judging for name in ROWS[f] if name != "generators reset by __init__"
    )
    for result in wrong:
        assert result.note.startswith("could not be run: KeyError: ")
        assert result.cause == "raised"
        assert "\n" not in result.note
        assert "(line " in result.note
        assert "in mix)" in result.note


def test_the_start_of_each_block_is_measured_and_never_judged():
    found = rows(cost.output_ratios, GatedConv, embed_std=0.02)["mixer output / residual, first block"]
    assert found.status == "measured"
    assert found.value == pytest.approx(50 * rows(cost.output_ratios, GatedConv)[found.name].value, rel=0.1)
    assert re.search(r"RMS, at --embed_std 0.02; all blocks: \S+, \S+$", found.note)
    assert rows(cost.output_ratios, _WholeModel)[found.name].status == "skipped"


def test_the_groups_and_names_of_checks_are_told_before_they_run():
    told = []
    results = checks.run(subject_of(Replayed), ("causality", "isolation"), before=lambda *names: told.append(names))
    assert told[0] == ("causality", "changed tokens")
    assert len(told) == len(CHECKS["causality"]) + len(CHECKS["isolation"])
    assert list(dict.fromkeys(group for group, _ in told)) == list(dict.fromkeys(r.group for r in results))


class _Greedy(Replayed):
    def mix(self, v):
        raise MemoryError


def test_a_lack_of_memory_is_not_the_layers_fault():
    with pytest.raises(MemoryError):
        checks.run(subject_of(_Greedy), ("causality",))


class _OtherShape(_WholeModel):
    def forward(self, x, attn_mask=None):
        return super().forward(x)[:, -1]


def test_logits_of_another_shape_are_named():
    assert (
        "the model returns (17, 16) for tokens (17, "
        in rows(causality.changed_tokens, _OtherShape)["changed tokens"].note
    )


@pytest.mark.parametrize(
    ("value", "tolerance", "passes"),
    [
        (0, 0, True),
        (1e-5, 1e-4, True),
        (1e-3, 1e-4, False),
        (math.nan, 1.0, False),
        (math.inf, 1.0, False),
        ("own", "own", True),
        ("replay", "own", False),
        (None, 1.0, False),
    ],
)
def test_a_value_passes_only_within_its_tolerance(value, tolerance, passes):
    assert judged("x", value, tolerance).status == ("pass" if passes else "fail")


def test_a_failure_has_its_own_words_and_names_infinite_values():
    assert judged("x", 0.5, 1, "it is small", "it is large").note == "it is small"
    assert judged("x", 1.5, 1, "it is small", "it is large").note == "it is large"
    assert judged("x", 1.5, 1, "it was measured").note == "it was measured"
    assert "NaN or infinite" in judged("x", math.inf, 1, "it is small", "it is large").note


def test_strict_fails_what_is_skipped_or_beyond_its_limit_and_nothing_else():
    results = [
        skipped("a", "why"),
        measured("b", 1.4, limit=1.3),
        measured("c", 1.2, limit=1.3),
        measured("d", 7),
        judged("e", 0, 0),
        judged("f", 1, 0),
    ]
    assert [r.status for r in checks.strict(results)] == ["fail", "fail", "measured", "measured", "pass", "fail"]


@pytest.mark.parametrize(
    ("got", "want", "expected"),
    [
        ([1.0, 3.0], [1.0, 3.0], 0.0),
        ([1.0, 3.5], [1.0, 3.0], 0.5),
        ([1.0, math.nan], [1.0, 3.0], math.inf),
        ([1.0, math.inf], [1.0, math.inf], math.inf),
        ([2.0, 2.0], [1.0, 1.0], math.inf),
    ],
)
def test_differences_are_relative_to_the_spread_and_nan_is_infinite(got, want, expected):
    assert difference(torch.tensor(got), torch.tensor(want)) == expected


def test_waking_moves_constant_parameters_alone():
    model = build(GatedConv, 11, subject_of(GatedConv).args, 8)
    before = copy.deepcopy(model.state_dict())
    wake(model)
    moved = {name for name, p in model.state_dict().items() if not torch.equal(p, before[name])}
    assert "blocks.0.mixer.kernel" in moved
    assert "embed.weight" not in moved
    assert moved == {name for name, p in before.items() if bool((p == p.flatten()[0]).all())}


def test_sequences_are_cut_on_both_sides_of_every_chunk_border():
    """Short ones are cut at every t. A long one is cut at times spread over it, and each turn adds others."""
    assert causality.cuts(LONGEST, LONGEST) == list(range(1, LONGEST))
    assert causality.cuts(1, 4) == []
    turns = [causality.cuts(1117, 16, turn) for turn in range(4)]
    found = {t for turn in turns for t in turn}
    assert len(found) == 4 * 16
    assert {64, 65, 128, 129, 256, 257, 512, 513, 1024, 1025, 1116} <= found
    assert max(b - a for a, b in itertools.pairwise(sorted({0, 1117, *found}))) < 100

"""A command line of `compare`: what is wrong with it is one line, and what is right becomes sides on equal terms.

python -m pytest tests/study/test_compare_request.py
"""

import dataclasses

import pytest
from planted_runs import SMALL, cells_of

from src.flags.fields import UserError
from src.study.comparison import planned, request, variants
from src.study.comparison.budget import fit, read_budget, seconds_of
from src.study.comparison.cells import prepare_cells
from src.study.comparison.verdicts import seeds_notes

RECALL = ("--task", "recall")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "no --model given"),
        (("--model", "gru"), "no --task and no --preset given"),
        (("--model", "gru", "--task", "recal"), "did you mean 'recall'"),
        (("--model", "gruu", *RECALL), "did you mean 'gru'"),
        (("--model", "gru,gru", *RECALL), "'gru' twice"),
        (("--model", "gru --n_layer", *RECALL), "expected one argument"),
        (("--model", "gru 'x", *RECALL), "No closing quotation"),
        (("--model", "gru lstm", *RECALL), "flags that begin with --"),
        (("--model", "gru --neg_eigen", *RECALL), "unknown flag --neg_eigen of model gru"),
        (("--model", "gru --context_len 32", *RECALL), "unknown flag --context_len of model gru"),
        (("--model", "gru --max_steps 5", *RECALL), "must be the same for all models"),
        (("--model", "gru --lr 1e-3", *RECALL), "must be the same for all models"),
        (("--model", "gru", *RECALL, "--preset", "zoology-64"), "did you mean"),
        (("--model", "gru", *RECALL, "--preset", "small,base"), "got small and base"),
        (("--model", "gru", *RECALL, "--max_step", "5"), "did you mean '--max_steps'"),
        (("--model", "gru", *RECALL, "--sets", "a=1"), "did you mean '--set'"),
        (("--model", "gru", *RECALL, "--resume"), "means nothing for `compare`"),
        (("--model", "gru", *RECALL, "--lr_tried", "1e-3"), "means nothing for `compare`"),
        (("--model", "gru", *RECALL, "--set", "n_layer"), "FLAG=VALUE"),
        (("--model", "gru", *RECALL, "--set", "n_layer=1,1"), "values that differ"),
        (("--model", "gru", *RECALL, "--set", "n_layer=1", "n_layer=2"), "n_layer twice"),
        (("--model", "gru --n_layer 3", *RECALL, "--set", "n_layer=1,2"), "sets for itself"),
        (("--model", "gru", *RECALL, "--set", "seed=1,2"), "--set: got seed, which `compare` decides"),
        (("--model", "gru", *RECALL, "--set", "lr=1e-3,1e-2"), "give --lr of its own"),
        (("--model", "gru", *RECALL, "--set", "model=lstm"), "--set: got model"),
        (("--model", "gru", *RECALL, "--set", "quiet=true"), "--set: got quiet"),
        (("--model", "gru", "--task", "recall --seed 3"), "'recall --seed 3' has --seed"),
        (("--model", "gru", "--task", "recall --lr=1e-2"), "'recall --lr=1e-2' has --lr"),
        (("--model", "gru", "--task", "recall --model lstm"), "has --model"),
        (("--model", "gru", "--task", "recall --resume"), "the same command continues a comparison"),
        (("--model", "gru", *RECALL, "--lr", "1e-3,1e-3"), "rates that differ"),
        (("--model", "gru", *RECALL, "--lr", "0"), "numbers above 0"),
        (("--model", "gru", *RECALL, "--seeds", "0"), "--seeds: got 0"),
        (("--model", "gru", *RECALL, "--seed", "1", "--seeds", "2"), "--tuning_seed"),
        (("--model", "gru", *RECALL, "--tuning_seed", "13"), "one of the fresh seeds"),
        (("--model", "gru", *RECALL, "--engine", "slurm"), "allowed: local, ray"),
        (("--model", "gru", *RECALL, "--quiet", "true", "stray"), "unexpected argument"),
        (("--model", "nowhere.py", *RECALL), "nowhere.py"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, said):
    with pytest.raises(UserError) as caught:
        request.read(argv)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--set", "pos=rope"), "parity, gru: --pos: got 'rope'"),
        (("--set", "n_layer=0"), "--n_layer: got 0"),
        (
            ("--d_model", "32", "--dim_ffn", "0", "--match_params", "100k"),
            "--match_params none leaves the sizes as given",
        ),
        (("--neg_eigen",), "unknown flag --neg_eigen"),
        (("--eval_lengths", "1"), "parity, gru: --test_size"),
    ],
)
def test_a_combination_that_cannot_run_is_found_before_the_first_run_and_named(typed, said):
    with pytest.raises(UserError) as caught:
        cells_of("gru", typed=typed)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_with_flags_of_its_own_is_one_model_and_commas_are_several():
    asked = request.read([*SMALL, "--model", "gru,lstm", "deltanet --neg_eigen", "deltanet"])
    assert [m.label for m in asked.comparison.models] == ["gru", "lstm", "deltanet --neg_eigen", "deltanet"]
    assert asked.comparison.models[2].words == ("--model", "deltanet", "--neg_eigen")


def test_all_models_have_as_many_parameters_as_the_first_and_the_same_positions():
    _, cells = cells_of("transformer", "gru")
    first, second = (cell.terms for cell in cells)
    assert abs(second["layer_parameters"] / first["layer_parameters"] - 1) <= 0.02
    assert first["pos"] == second["pos"] == "learned"


def test_match_params_none_leaves_the_sizes_as_given():
    _, cells = cells_of("transformer", "gru", typed=("--match_params", "none"))
    assert {cell.setup.args.d_model for cell in cells} == {64}


def test_a_learned_table_is_replaced_for_all_where_longer_inputs_are_tested_unless_pos_says_otherwise():
    longer = ("--eval_lengths", "16")
    _, cells = cells_of("transformer", "gru", typed=longer)
    assert {cell.terms["pos"] for cell in cells} == {"none"}
    _, cells = cells_of("transformer --pos alibi", "gru", typed=longer)
    assert [cell.terms["pos"] for cell in cells] == ["alibi", "none"]
    _, cells = cells_of("transformer", "gru", typed=(*longer, "--pos", "sinusoidal"))
    assert {cell.terms["pos"] for cell in cells} == {"sinusoidal"}


def test_a_layer_with_positions_of_its_own_keeps_them_and_gives_the_others_none():
    _, cells = cells_of("llama", "gru")
    assert [cell.terms["pos"] for cell in cells] == ["rope", "none"]
    _, cells = cells_of("llama", "transformer", "gru")
    assert [cell.terms["pos"] for cell in cells] == ["rope", "learned", "learned"]


def test_recurrent_layers_among_themselves_have_no_positions():
    _, cells = cells_of("gru", "lstm")
    assert {cell.terms["pos"] for cell in cells} == {"none"}
    _, cells = cells_of("transformer --pos alibi", "gru")
    assert [cell.terms["pos"] for cell in cells] == ["alibi", "none"]


def test_fair_both_gives_two_settings_and_equal_surroundings_in_one_of_them():
    _, cells = cells_of("transformer", "gru", typed=("--fair", "both"))
    assert list(dict.fromkeys(cell.setting for cell in cells)) == ["published", "fair"]
    fair = [cell for cell in cells if cell.setting == "fair"]
    assert {cell.terms["init"] for cell in fair} == {"torch"}
    assert all(cell.terms["fair_differences"] is not None for cell in fair)
    assert request.read([*SMALL, "--model", "gru", "--fair"]).comparison.config.fair == "yes"


@pytest.mark.slow
def test_the_plan_asks_about_variants_and_variants_adds_them():
    asked, cells = cells_of("gru", "deltanet")
    missing = variants.missing(asked.tasks, asked.comparison.models, asked.classes)
    assert ["deltanet --neg_eigen"] == [side.label for _, sides in missing for side in sides]
    assert "--variants adds it" in variants.question(*missing[0])
    more = request.read([*SMALL, "--model", "gru", "deltanet", "--variants"])
    assert [m.label for m in more.comparison.models] == ["gru", "deltanet", "deltanet --neg_eigen"]
    assert variants.missing(more.tasks, more.comparison.models, more.classes) == []
    assert variants.missing({"recall": False}, asked.comparison.models, asked.classes) == []
    text = "\n".join(planned.lines(asked.comparison, cells, [variants.question(*missing[0])], 2))
    assert "note: state tracking: deltanet has --neg_eigen" in text


def test_the_plan_shows_runs_terms_and_time():
    asked, cells = cells_of("transformer", "gru", typed=("--lr", "1e-3,3e-3"))
    lines = planned.lines(asked.comparison, cells, [], 2)
    assert lines[0].startswith(
        "comparison: 1 task x 2 models: 10 runs: 4 to choose learning rates (seed 1), 6 on seeds"
    )
    assert lines[1].startswith("expected time: about ")
    shown = "\n".join(lines)
    assert all(f"{cell.terms['state_bytes']:,}" in shown and cell.terms["block"] in shown for cell in cells)
    assert "positions learned for all" in shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("45m", 2700), ("2h", 7200), ("90s", 90), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_a_budget_is_read(text, seconds):
    assert read_budget(text) == seconds


@pytest.mark.parametrize("text", ["45", "m", "1d", "-5m", "0m", "45m x"])
def test_a_budget_that_is_no_time_is_one_line(text):
    with pytest.raises(UserError, match="--budget"):
        read_budget(text)


def test_a_budget_cuts_growths_then_seeds_then_steps_and_says_so():
    asked, cells = cells_of("gru", "lstm", typed=("--seeds", "8"))
    cells = [dataclasses.replace(cell, terms={**cell.terms, "run_seconds": 103.0}) for cell in cells]
    whole = seconds_of(cells, asked.comparison, growths=2)

    def fitted(seconds):
        return fit(cells, asked.comparison, seconds, workers=1)

    same, lines = fitted(10 * whole)
    assert (same, lines) == (asked.comparison, [])
    fewer, lines = fitted(0.75 * whole)
    assert fewer.config.lr_extend < 2 or fewer.config.seeds < 8
    assert "left out" in lines[0]
    least, lines = fitted(0.2 * whole)
    assert (least.config.lr_extend, least.config.seeds) == (0, 3)
    assert least.steps_share < 1
    assert any("steps" in line for line in lines)
    with pytest.raises(UserError, match="fewer models"):
        fitted(10)


def test_a_shorter_plan_trains_fewer_steps():
    asked, _ = cells_of("gru")
    short = dataclasses.replace(asked, comparison=dataclasses.replace(asked.comparison, steps_share=0.5))
    assert prepare_cells(short)[0].terms["steps"] == 10


def test_the_plan_says_what_its_seeds_cannot_show():
    def note(*typed):
        return seeds_notes(request.read([*SMALL, *typed]).comparison)

    (said,) = note("--model", "gru,lstm")
    assert said == "3 seeds cannot give a verdict on a single task, 4 can (1 test in the table)"
    assert note("--model", "gru,lstm", "--seeds", "4") == []
    assert "nothing to be compared with" in note("--model", "gru")[0]
    two = request.read(["--task", "parity,recall", "--model", "gru,lstm"]).comparison
    assert seeds_notes(two)[0].endswith("all tasks together can have one")

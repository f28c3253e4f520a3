"""Figures are there, show what they must, and refuse what they cannot show.

python -m pytest tests/figures/test_run_figures.py
"""

import copy
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import has_colour, pixels
from planted_metrics import good_metrics

from src.figures import curves, lengths, slices, style
from src.figures import runs as run_figures
from src.flags.fields import UserError
from src.stats import intervals
from src.utils import viz

EVERY_FIGURE = {"loss.png", "ppl.png", "distance_curve.png", "depth.png", "haystack.png", "length_curve.png"}
HISTORY = {"train": [[1, 4.0], [2, 2.0], [3, 1.0]], "val": [[2, 2.5], [3, 1.5]], "best_step": 3}


def horizontals(ax) -> list[float]:
    """Heights of the lines that go across the whole axes."""
    return [
        float(line.get_ydata()[0])
        for line in ax.lines
        if list(line.get_xdata()) == [0, 1] and len(set(line.get_ydata())) == 1
    ]


def legend(figure) -> list[str]:
    return [text.get_text() for part in figure.legends for text in part.get_texts()]


def line(ax, label: str):
    return next(found for found in ax.lines if found.get_label() == label)


def slice_of(values, xs, bins="auto", **other) -> dict:
    return {
        "of": "x",
        "label": "x (characters)",
        "level": "char",
        "metric": "token_acc",
        "scale": intervals.scale_of(xs, bins),
        "bins": intervals.binned(values, xs, bins),
        **other,
    }


@pytest.fixture
def empty_files(monkeypatch):
    """Figures are built and saved as empty files, for tests that look at names: pixels take nearly all of the time."""

    def save(figure, path):
        path.write_bytes(b"")
        return path

    monkeypatch.setattr(style, "save", save)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "figures"
    return run_figures.draw_all(good_metrics(), folder)


def test_draw_all_writes_every_figure_once(drawn):
    assert {p.name for p in drawn} == EVERY_FIGURE
    assert sorted(os.listdir(drawn[0].parent)) == sorted(EVERY_FIGURE)  # no temporary file stays


@pytest.mark.parametrize("name", sorted(EVERY_FIGURE))
def test_a_figure_is_a_picture_of_something(drawn, name):
    """Of readable size, mostly white, with the first colour of the palette and black text on it."""
    picture = pixels(drawn[0].parent / name)
    assert picture.shape[0] > 500
    assert picture.shape[1] > 900
    assert 0.6 < (picture.min(axis=-1) > 0.98).mean() < 0.99
    assert has_colour(picture, style.COLOURS[0])
    assert has_colour(picture, "#000000")


def test_a_blank_figure_would_not_pass_for_a_picture(tmp_path):
    from matplotlib.figure import Figure

    picture = pixels(style.save(Figure(figsize=(7.2, 4.4)), tmp_path / "blank.png"))
    assert not has_colour(picture, style.COLOURS[0])


def test_the_same_numbers_give_the_same_bytes(drawn, tmp_path):
    for first, second in zip(drawn, run_figures.draw_all(good_metrics(), tmp_path), strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_the_file_contains_no_version_and_no_date(drawn):
    assert all(word not in drawn[0].read_bytes() for word in (b"Software", b"atplotlib", b"tIME"))


@pytest.mark.parametrize("backend", [pytest.param("TkAgg", marks=pytest.mark.slow), "no-such-backend"])
def test_display_settings_of_the_user_do_not_matter(drawn, tmp_path, backend):
    """No display, an unusable backend and a style file of the user's own: still the same bytes."""
    (tmp_path / "matplotlibrc").write_text("figure.dpi: 31\nlines.linewidth: 9\naxes.facecolor: red\nfont.size: 30\n")
    code = (
        "import sys; from planted_metrics import good_metrics; from src.figures import runs; "
        "runs.draw_all(good_metrics(), sys.argv[1])"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "MPLBACKEND": backend,
        "MATPLOTLIBRC": str(tmp_path),
        "DISPLAY": "",
        "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}",
    }
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "figures")], env=environment, check=True, capture_output=True
    )
    for path in drawn:
        assert (tmp_path / "figures" / path.name).read_bytes() == path.read_bytes()


def test_drawing_leaves_the_callers_settings_alone():
    import matplotlib

    with matplotlib.rc_context({"lines.linewidth": 7.5}):
        curves.figure_loss(HISTORY)
        assert matplotlib.rcParams["lines.linewidth"] == 7.5


@pytest.mark.parametrize(("plot", "draw"), [(viz.plot_loss, curves.figure_loss), (viz.plot_ppl, curves.figure_ppl)])
def test_plots_of_a_history_write_a_file_and_mark_the_best_step(tmp_path, plot, draw):
    path = plot(HISTORY, tmp_path / "new" / "curve.png", title="a title")
    assert has_colour(pixels(path), style.COLOURS[0])
    assert any("best: step 3" in label for label in legend(draw(HISTORY)))
    assert not any("best" in label for label in legend(draw({**HISTORY, "best_step": None})))


def test_ppl_of_a_plain_history_is_exp_of_its_losses():
    (ax,) = curves.figure_ppl(HISTORY).axes
    assert line(ax, "validation").get_ydata() == pytest.approx(np.exp([2.5, 1.5]))
    assert line(curves.figure_loss(HISTORY).axes[0], "validation").get_ydata() == pytest.approx([2.5, 1.5])


def test_perplexity_is_logarithmic_only_above_a_decade():
    assert curves.figure_ppl(HISTORY).axes[0].get_yscale() == "log"  # e^4 / e^1
    assert curves.figure_ppl({"train": [[1, 2.0], [2, 1.0]], "val": []}).axes[0].get_yscale() == "linear"


def test_metrics_and_a_plain_history_draw_the_same_loss():
    metrics = good_metrics()
    plain = {**metrics["loss_curve"], "best_step": metrics["best_step"]}
    for a, b in zip(curves.figure_loss(metrics).axes[0].lines, curves.figure_loss(plain).axes[0].lines, strict=True):
        assert list(a.get_ydata()) == list(b.get_ydata())


def test_points_that_are_not_finite_are_left_out():
    history = {"train": [[1, 2.0], [2, float("nan")], [3, float("inf")], [4, None], [5, 1.0]], "val": []}
    assert list(line(curves.figure_loss(history).axes[0], "training").get_xdata()) == [1, 5]


@pytest.mark.parametrize("step", [1, 45, 200])
def test_a_diverged_run_gets_its_loss_figure_with_a_note(tmp_path, step, empty_files):
    metrics = good_metrics(diverged_at=step)
    names = {p.name for p in run_figures.draw_all(metrics, tmp_path)}
    assert {"loss.png", "ppl.png"} <= names
    assert ("distance_curve.png" in names) == (step > 60)
    figure = curves.figure_loss(metrics, title="t")
    assert f"diverged at step {step}" in figure.get_suptitle()
    assert any("diverged" in label for label in legend(figure))
    assert not any("diverged" in label for label in legend(curves.figure_loss(good_metrics())))


def test_the_distance_curve_has_a_log2_and_a_linear_panel():
    parts = good_metrics()["test"]["best"]["slices"]
    figure = slices.figure_distance_curve([parts["gap"], parts["gap_linear"]], floor={"uniform": 0.03, "unigram": 0.12})
    left, right = figure.axes
    gap, linear = parts["gap"]["bins"], parts["gap_linear"]["bins"]
    assert line(left, "token accuracy").get_ydata() == pytest.approx([b["value"] for b in gap])
    assert line(left, "token accuracy").get_xdata() == pytest.approx([np.log2(b["lo"]) + 0.5 for b in gap])
    assert line(right, "token accuracy").get_xdata() == pytest.approx([(b["lo"] + b["hi"]) / 2 for b in linear])
    for ax, bins in ((left, gap), (right, linear)):
        assert [text.get_text() for text in ax.texts] == [f"{b['count']:,}" for b in bins]
        assert ax.get_ylim() == (0, 1)


def test_log2_ticks_name_the_powers_and_zero():
    (ax,) = slices.figure_slice(slice_of([1, 1, 0], [0, 3, 9], "log2")).axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "2", "4", "8", "16"]


def test_bands_are_the_intervals_of_the_bins():
    part = slice_of(np.tile([1, 1, 0, 1], 50), np.arange(200) % 5)
    (ax,) = slices.figure_slice(part).axes
    corners = ax.collections[0].get_paths()[0].vertices
    for b in part["bins"]:
        at = np.unique(corners[corners[:, 0] == b["lo"], 1])
        assert [at.min(), at.max()] == pytest.approx(b["ci"])


@pytest.mark.parametrize("xs", [[1, 2, 1, 2], ["tan", "cos", "tan", "cos"]])
def test_the_legend_says_what_an_interval_is_of(xs):
    assert "95 % interval, test sampling" in legend(slices.figure_slice(slice_of([1, 0, 1, 1], xs)))


def test_chance_levels_are_drawn_and_the_highest_is_named():
    figure = slices.figure_slice(slice_of([1, 0], [1, 2]), floor={"uniform": 0.03, "unigram": 0.125})
    assert sorted(horizontals(figure.axes[0])) == [0.03, 0.125]
    assert "chance: unigram 0.125" in legend(figure)
    assert not any("uniform" in label for label in legend(figure))
    assert horizontals(slices.figure_slice(slice_of([1, 0], [1, 2])).axes[0]) == []


def test_the_ceiling_is_drawn_unless_it_is_1():
    part = slice_of([1, 0], [1, 2])
    assert horizontals(slices.figure_slice(part, ceiling=0.93).axes[0]) == [0.93]
    assert "ceiling 0.93" in legend(slices.figure_slice(part, ceiling=0.93))
    assert horizontals(slices.figure_slice(part, ceiling=1.0).axes[0]) == []


def test_chance_follows_the_level_of_a_slice():
    metrics = good_metrics()
    assert run_figures.floors_of(metrics, "char") == {"uniform": 0.027, "unigram": 0.041}
    assert run_figures.floors_of(metrics, "example") == {"uniform": 6e-7, "unigram": 0.0, "query-blind": 0.06}


@pytest.mark.parametrize(
    ("value", "words"),
    [(6.88e-10, "< 0.001"), (0.00099, "< 0.001"), (0.0, "0"), (0.001, "0.001"), (0.0303, "0.0303"), (2.5, "2.5")],
)
def test_a_tiny_chance_level_is_not_written_in_full(value, words):
    """The legend of a distance curve once said 'floor: uniform 6.88e-10'."""
    figure = slices.figure_slice(slice_of([1, 0], [1, 2]), floor={"uniform": value})
    assert f"chance: uniform {words}" in legend(figure)


def test_categories_have_bars_and_names():
    part = slice_of([1, 0, 1, 1], ["tan", "sin", "sin", "a_{$x$}"])
    figure = slices.figure_slice(part)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a_{$x$}", "sin", "tan"]
    bars = [list(found.get_ydata()) for found in ax.lines if found.get_marker() == "_"]
    assert bars == [b["ci"] for b in part["bins"]]
    figure.savefig(io.BytesIO())  # a $ in a name is no formula


def test_a_loss_slice_has_neither_the_axis_nor_the_chance_level_of_a_share():
    part = {
        **slice_of([0.5], [1]),
        "metric": "loss",
        "bins": intervals.binned([2.5, 3.0, 1.5, 1.2], [1, 1, 2, 2], interval="mean"),
    }
    (ax,) = slices.figure_slice(part, floor=0.1).axes
    assert ax.get_ylim()[1] > 2.5
    assert horizontals(ax) == []


def test_a_plain_mapping_is_a_distance_curve(tmp_path):
    path = viz.plot_distance_curve({"64": 0.5, "8": 1.0, 512: 0.25}, tmp_path / "curve.png", title="t", floor=0.03)
    assert has_colour(pixels(path), style.COLOURS[0])
    figure = slices.figure_distance_curve({"64": 0.5, "8": 1.0, 512: 0.25}, floor=0.03)
    assert list(line(figure.axes[0], "accuracy").get_xdata()) == [8, 64, 512]
    assert "chance 0.03" in legend(figure)


def test_the_length_curve_shades_training_and_names_the_undefined():
    curve = good_metrics()["length_curve"]
    figure = lengths.figure_length_curve(curve, label="hit_rate")
    (ax,) = figure.axes
    assert list(line(ax, "hit rate").get_xdata()) == [64, 128]
    assert [text.get_text() for text in ax.texts] == ["no score at length 256"]
    assert ax.texts[0].get_position()[1] > 1  # above the axes, not among the scores
    assert all(256 not in drawn.get_xdata() for drawn in ax.lines)
    shade = next(patch for patch in ax.patches if "training" in patch.get_label())
    assert shade.get_extents().transformed(ax.transData.inverted()).x1 == pytest.approx(
        64
    )  # a rectangle or a polygon, by matplotlib's version
    assert not lengths.figure_length_curve(curve[:2]).axes[0].texts


def test_the_length_curve_of_language_has_a_panel_of_losses():
    rows = [
        {**row, "loss": row["loss"] and 1.5 + i, "loss_ci": row["loss"] and [1.4 + i, 1.6 + i]}
        for i, row in enumerate(good_metrics()["length_curve"])
    ]
    losses, shares = lengths.figure_length_curve(rows, label="token_acc", floor={"unigram": 0.15}, with_loss=True).axes
    assert list(line(losses, "loss (nats per scored character)").get_ydata()) == [1.5, 2.5]
    assert losses.get_ylim()[1] > 2.6  # not the axis of a share, and room for the interval
    assert [text.get_text() for text in losses.texts] == ["no score at length 256"]
    assert shares.get_ylim() == (0, 1)
    assert [label for label in shares.get_legend_handles_labels()[1] if "chance" in label]
    assert not [label for label in losses.get_legend_handles_labels()[1] if "chance" in label]


@pytest.mark.parametrize(
    ("inside", "label"),
    [
        ((True, True), "training lengths (up to 128)"),
        ((False, True), "training length (128)"),
        ((True, False), "training lengths (up to 64)"),
    ],
)
def test_shading_covers_only_trained_lengths(inside, label):
    rows = [{**row, "in_distribution": yes} for row, yes in zip(good_metrics()["length_curve"], inside, strict=False)]
    assert label in legend(lengths.figure_length_curve(rows))


def test_one_length_is_no_curve(tmp_path, empty_files):
    assert "length_curve.png" not in {p.name for p in run_figures.draw_all(good_metrics(lengths=(64,)), tmp_path)}


def test_many_bins_show_their_counts_as_a_range():
    (ax,) = slices.figure_slice(slice_of(np.ones(600), np.arange(600) % 150, "each")).axes
    assert [text.get_text() for text in ax.texts] == ["4 characters per bin"]


def test_a_slice_of_one_bin_is_drawn_only_for_gaps(tmp_path, empty_files):
    metrics = copy.deepcopy(good_metrics(lengths=(64,)))
    part = slice_of([1, 0], [5, 5])
    metrics["test"]["best"]["slices"] = {"length": {**part, "of": "length"}, "gap": {**part, "of": "gap"}}
    assert {p.name for p in run_figures.draw_all(metrics, tmp_path)} == {"loss.png", "ppl.png", "distance_curve.png"}


def test_the_chance_level_of_a_slice_by_character_leaves_out_the_end_of_an_answer():
    metrics = copy.deepcopy(good_metrics())
    metrics["floors"]["unigram"]["slice_acc"] = 0.02
    assert run_figures.floors_of(metrics, "char")["unigram"] == 0.02
    assert run_figures.floors_of(good_metrics(), "char")["unigram"] == 0.041


def test_slice_names_cannot_leave_the_folder_or_overwrite_a_figure(tmp_path, empty_files):
    metrics = copy.deepcopy(good_metrics())
    part = slice_of([1, 0], [1, 2])
    metrics["test"]["best"]["slices"] = {
        "../carry chain": part,
        "loss": part,
        "carry chain": part,
        "empty": {**part, "bins": []},
    }
    names = sorted(p.name for p in run_figures.draw_all(metrics, tmp_path / "figures"))
    assert names == [
        "carry_chain.png",
        "length_curve.png",
        "loss.png",
        "ppl.png",
        "slice_carry_chain.png",
        "slice_loss.png",
    ]
    assert sorted(os.listdir(tmp_path / "figures")) == names


def test_a_failed_write_keeps_the_old_figure(tmp_path, monkeypatch):
    path = viz.plot_loss(HISTORY, tmp_path / "loss.png")
    before = path.read_bytes()

    def refuse(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no space left"):
        viz.plot_loss({**HISTORY, "best_step": None}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["loss.png"]


def runs():
    return [
        ("gru", good_metrics()),
        ("lstm", good_metrics(model="lstm", seed=2, reach=60.0)),
        ("broken", good_metrics(seed=3, diverged_at=45)),
    ]


def test_overlay_writes_what_the_runs_share(tmp_path):
    paths = run_figures.overlay(runs(), tmp_path / "figures")
    assert {p.name for p in paths} == EVERY_FIGURE
    for path in paths:
        picture = pixels(path)
        assert has_colour(picture, style.COLOURS[0])
        assert has_colour(picture, style.COLOURS[1])


def test_overlay_leaves_out_a_slice_that_one_run_lacks(tmp_path, empty_files):
    (_, a), (name, b), _ = copy.deepcopy(runs())
    del b["test"]["best"]["slices"]["depth"]
    del b["test"]["best"]["slices"]["gap"]
    b["test"]["best"]["slices"]["haystack"]["metric"] = "token_acc"
    b["length_curve"] = b["length_curve"][:1]
    assert {p.name for p in run_figures.overlay([("a", a), (name, b)], tmp_path)} == {
        "loss.png",
        "ppl.png",
        "distance_curve.png",
    }


def test_overlay_says_which_runs_have_no_result(tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(style, "save", lambda figure, path: figures.setdefault(path.name, figure) and path)
    run_figures.overlay(runs(), tmp_path)
    assert "no result: broken" in figures["depth.png"].get_suptitle()
    assert "broken: diverged here" in legend(figures["loss.png"])
    assert legend(figures["depth.png"]) == ["gru", "lstm", "95 % intervals, test sampling", "chance: query-blind 0.06"]


def test_overlaid_lines_differ_in_more_than_colour(tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(style, "save", lambda figure, path: figures.setdefault(path.name, figure) and path)
    run_figures.overlay([(f"run {i}", good_metrics(seed=i)) for i in range(8)], tmp_path)
    found = [line(figures["depth.png"].axes[0], f"run {i}") for i in range(8)]
    assert len({(f.get_color(), f.get_marker(), str(f.get_linestyle())) for f in found}) == 8
    assert len({f.get_marker() for f in found}) == 8


def test_overlay_keeps_runs_of_one_label_apart(tmp_path, monkeypatch):
    figures = {}
    monkeypatch.setattr(style, "save", lambda figure, path: figures.setdefault(path.name, figure) and path)
    run_figures.overlay([("_gru", good_metrics()), ("_gru", good_metrics(seed=2))], tmp_path)
    assert [label.strip() for label in legend(figures["loss.png"])] == ["_gru", "_gru (2)"]


def test_overlay_refuses_other_tasks_other_text_and_nothing(tmp_path, empty_files):
    with pytest.raises(UserError, match="'a' is a run of needle and 'b' of dyck"):
        run_figures.overlay([("a", good_metrics()), ("b", good_metrics(task="dyck"))], tmp_path / "figures")
    text = good_metrics(kind="language")
    other = {**text, "data": {**text["data"], "digest": "77aa"}}
    with pytest.raises(UserError, match="read different text"):
        run_figures.overlay([("a", text), ("b", other)], tmp_path / "figures")
    with pytest.raises(UserError, match="no runs"):
        run_figures.overlay([], tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
    run_figures.overlay([("a", text), ("b", text)], tmp_path / "figures")


BAD = {
    "a list as history": (lambda: curves.figure_loss([[1, 2.0]]), "history: got"),
    "a history without curves": (lambda: curves.figure_ppl({"loss": []}), "history: got"),
    "an empty mapping": (lambda: slices.figure_distance_curve({}), "distance2acc: got {}"),
    "an accuracy above 1": (lambda: slices.figure_distance_curve({8: 1.5}), "got accuracy 1.5 at distance 8"),
    "percent": (lambda: slices.figure_distance_curve({8: 97}), "allowed: 0 .. 1"),
    "an accuracy that is not a number": (lambda: slices.figure_distance_curve({8: float("nan")}), "got accuracy nan"),
    "a distance that is a word": (lambda: slices.figure_distance_curve({"far": 0.5}), "numbers as distances"),
    "a slice without bins": (
        lambda: slices.figure_slice({**slice_of([1], [1]), "bins": []}),
        "slice of 'x': got no bins",
    ),
    "a floor that is a word": (lambda: curves.figure_loss(HISTORY, floor="low"), "floor: got 'low'"),
    "a named floor that is nothing": (
        lambda: curves.figure_loss(HISTORY, floor={"unigram": None}),
        "floor unigram: got None",
    ),
    "an empty length curve": (lambda: lengths.figure_length_curve([]), "length_curve: got no lengths"),
    "something else than metrics": (
        lambda: run_figures.draw_all({"task": "needle"}, "unused"),
        "metrics: no model, kind, data, parameters",
    ),
    "nothing as metrics": (lambda: run_figures.draw_all(None, "unused"), "metrics: no task"),
}


@pytest.mark.parametrize("case", BAD)
def test_drawing_refuses(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = BAD[case]
    with pytest.raises(ValueError) as error:  # noqa: PT011 (compared below)
        call()
    assert message in str(error.value)
    assert os.listdir(tmp_path) == []


def test_a_file_in_place_of_the_folder_is_a_users_mistake(tmp_path):
    (tmp_path / "figures").write_text("")
    with pytest.raises(UserError, match="is a file, allowed: a folder"):
        run_figures.draw_all(good_metrics(), tmp_path / "figures")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999, "999"),
        (1_000, "1.00 k"),
        (84_600, "84.6 k"),
        (999_400, "999 k"),
        (999_600, "1.00 M"),
        (1_254_000, "1.25 M"),
        (9_996, "10.0 k"),
        (99_960, "100 k"),
        (7_000_000_000, "7.00 G"),
    ],
)
def test_counts_have_three_significant_digits(number, text):
    assert style.human(number) == text


def test_the_title_names_task_model_and_parameters():
    document = good_metrics()
    title = "needle · gru · 84.6 k parameters"
    assert run_figures.run_title(document) == f"{title} (73.7 k outside embeddings and head)"
    older = {**document, "parameters": {"total": 84_600, "embedding": 5_440}}
    assert run_figures.run_title(older) == f"{title} (79.2 k without embeddings)"

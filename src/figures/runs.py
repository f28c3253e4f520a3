"""Figures of a run, and of several runs in one: PNG files from the numbers of `metrics.json`, without torch.

    draw_all(metrics, "runs/x/figures")                 # loss, ppl, distance_curve, length_curve and every other slice
    overlay([("gru", a), ("lstm", b)], "figures")       # the same with one line per run; the runs share their task

Shaded bands (bars for categories) are 95 % intervals of test sampling, with the sequence as their unit. The small
numbers above an axis count the examples or characters of a bin. Dashed lines are chance levels. A `figure_x` of this
folder returns a matplotlib Figure, for notebooks and tests. matplotlib is imported inside the functions. The same
numbers give the same bytes.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from src.figures import style
from src.figures.curves import figure_curves, figure_loss, figure_losses, figure_ppl, history_of
from src.figures.lengths import figure_length_curve, figure_lengths, length_words
from src.figures.slices import figure_slices, slice_groups
from src.flags.fields import UserError
from src.storage.metric_names import unit_of

NOT_CAUSAL = "NOT CAUSAL, or not judged (--allow_noncausal)"
NEEDED = (
    *("task", "model", "kind", "data", "parameters", "loss_curve", "ppl_curve"),
    *("test", "floors", "ceiling", "length_curve", "primary"),
)


def draw_all(metrics: dict, figures_dir) -> list[Path]:
    """Write every figure that one run's metrics.json has numbers for; return the paths.

    loss and ppl; distance_curve from the slices gap and gap_linear; one file per further slice; length_curve if there
    is more than one length. Slices are of the test set, by the best weights, or the last ones if there are no best.
    Raises ValueError for a dict that is not metrics.
    """
    _require_metrics(metrics)
    folder = style.make_folder(figures_dir)
    title = run_title(metrics)
    figures = {"loss": figure_loss(metrics, title=title), "ppl": figure_ppl(metrics, title=title)}
    result, which = _shown_result(metrics)
    title += f"\n{which}" if which else ""
    for stem, parts in slice_groups([result]).items():
        first = parts[0][0]
        panels = [[("", part[0])] for part in parts]
        floors, ceiling = floors_of(metrics, first["level"]), _ceiling_of(metrics, first)
        figures[stem] = figure_slices(panels, title, floors, ceiling, unit_of(metrics))
    if len(metrics["length_curve"]) > 1:
        figures["length_curve"] = figure_length_curve(
            metrics["length_curve"],
            title=title,
            label=metrics["primary"],
            floor=floors_of(metrics, "example"),
            ceiling=metrics["ceiling"],
            unit=length_words(metrics, result),
            with_loss=metrics["kind"] == "language",
            per=unit_of(metrics),
        )
    return [style.save(figure, folder / f"{stem}.png") for stem, figure in figures.items()]


def overlay(runs, figures_dir) -> list[Path]:
    """Write the figures that several runs share, one line per run; return the paths.

    runs: (label, metrics) pairs. Validation loss and perplexity are of all runs; distance_curve, length_curve and each
    slice are of the runs that have a result.
    Raises UserError for no runs, for runs of different tasks and, for a language task, of different text.
    """
    runs = _with_distinct_labels(runs)
    _require_comparable(runs)
    folder = style.make_folder(figures_dir)
    title = overlay_title(runs)
    kinds = ("loss", "ppl") if len({unit_of(m) for _, m in runs}) == 1 else ("loss",)
    figures = {kind: figure_curves([(n, history_of(m, kind)) for n, m in runs], kind, title) for kind in kinds}
    shown = [(name, m, result) for name, m in runs if (result := _shown_result(m)[0])]
    if shown:
        missing = [name for name, m in runs if name not in [n for n, _, _ in shown]]
        title += f"\nno result: {', '.join(missing)}" if missing else ""
        figures |= _overlaid_results(shown, title)
    return [style.save(figure, folder / f"{stem}.png") for stem, figure in figures.items()]


def lay_over(lines, path) -> Path:
    """Write one figure of training and validation losses to `path`. Lines of one label share their look.

    lines: (label, history) pairs. A history is the metrics of a run, or {"train": [[step, loss]], "val": ...} of
    another program. The title has the task of the first run.
    """
    groups: dict[str, list] = {}
    for label, history in lines:
        groups.setdefault(label, []).append(history)
    task = next((f"{history['task']} · " for _, history in lines if "task" in history), "")
    sizes = ", ".join(f"{label} ({len(runs)} run{'s' if len(runs) > 1 else ''})" for label, runs in groups.items())
    return style.save(figure_losses(groups, f"{task}{sizes}"), Path(path))


def run_title(metrics: dict) -> str:
    """'needle · gru · 84.6 k parameters (73.7 k outside embeddings and head)', with a hybrid's layers.

    A layer that sees the future is named as such in a second line. Where the head is not known, it is counted with
    the rest: '(79.2 k without embeddings)'.
    """
    total, inner = metrics["parameters"]["total"], metrics["parameters"].get("layers")
    layers = _args(metrics).get("layers")
    model = f"{metrics['model']} ({', '.join(layers)})" if layers else metrics["model"]
    rest = (
        f"{style.human(total - metrics['parameters']['embedding'])} without embeddings"
        if inner is None
        else f"{style.human(inner)} outside embeddings and head"
    )
    size = f"{style.human(total)} parameters ({rest})"
    title = f"{metrics['task']} · {model} · {size}"
    return f"{title}\n{NOT_CAUSAL}" if sees_the_future(metrics) else title


def overlay_title(runs) -> str:
    """'needle · 3 runs'. The legend says in what they differ. Runs that see the future are named."""
    title = f"{runs[0][1]['task']} · {len(runs)} run{'s' if len(runs) > 1 else ''}"
    cheats = [name for name, metrics in runs if sees_the_future(metrics)]
    return f"{title}\n{NOT_CAUSAL}: {', '.join(cheats)}" if cheats else title


def sees_the_future(metrics: dict) -> bool:
    """Whether the run trained a layer, under --allow_noncausal, that failed the causality check or got no answer."""
    return bool(_args(metrics).get("allow_noncausal"))


def floors_of(metrics: dict, level: str) -> dict[str, float]:
    """The chance levels for a slice: of the primary metric (level example), or token accuracy (char)."""
    found = {
        name: values.get("slice_acc", values["token_acc"]) if level == "char" else values["primary"]
        for name, values in metrics["floors"].items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _overlaid_results(shown, title: str) -> dict:
    """{file stem: Figure} of the slices and lengths of runs. shown: (label, metrics, result)."""
    figures = {}
    for stem, parts in slice_groups([result for _, _, result in shown]).items():
        first = parts[0][0]
        panels = [list(zip([name for name, _, _ in shown], part, strict=True)) for part in parts]
        floors = _highest_of_all([floors_of(m, first["level"]) for _, m, _ in shown])
        ceiling = max(_ceiling_of(m, first) for _, m, _ in shown)
        figures[stem] = figure_slices(panels, title, floors, ceiling, unit_of(shown[0][1]))
    if len({unit_of(m) for _, m, _ in shown}) == 1 and all(len(m["length_curve"]) > 1 for _, m, _ in shown):
        _, first, result = shown[0]
        figures["length_curve"] = figure_lengths(
            [(name, m["length_curve"]) for name, m, _ in shown],
            title,
            first["primary"],
            _highest_of_all([floors_of(m, "example") for _, m, _ in shown]),
            max(m["ceiling"] for _, m, _ in shown),
            length_words(first, result),
            with_loss=first["kind"] == "language",
            per=unit_of(first),
        )
    return figures


def _args(metrics: dict) -> dict:
    return metrics.get("args") or {}


def _shown_result(metrics: dict) -> tuple[dict | None, str]:
    """The result whose slices are drawn, and the words for it."""
    if metrics["test"]["best"] is not None:
        return metrics["test"]["best"], "test set, best weights"
    return metrics["test"]["last"], "test set, last weights" if metrics["test"]["last"] is not None else ""


def _ceiling_of(metrics: dict, part: dict) -> float:
    return metrics["ceiling"] if part["metric"] == metrics["primary"] else 1.0


def _highest_of_all(floors: list[dict]) -> dict[str, float]:
    """The highest chance level over all runs: every run must be above it."""
    highest = [max(f.items(), key=lambda item: item[1]) for f in floors if f]
    return dict([max(highest, key=lambda item: item[1])]) if highest else {}


def _with_distinct_labels(runs) -> list[tuple[str, dict]]:
    """(label, metrics), with a number after a label that an earlier run has."""
    named: dict[str, dict] = {}
    for label, metrics in runs:
        _require_metrics(metrics)
        label = f" {label}" if label.startswith("_") else label  # matplotlib keeps such labels out of legends
        numbered = (f"{label} ({i})" for i in itertools.count(2))
        named[next(n for n in itertools.chain([label], numbered) if n not in named)] = metrics
    return list(named.items())


def _require_metrics(metrics) -> None:
    missing = [key for key in NEEDED if not isinstance(metrics, dict) or key not in metrics]
    if missing:
        raise ValueError(f"metrics: no {', '.join(missing)} in them, allowed: the content of a run's metrics.json")


def _require_comparable(runs) -> None:
    if not runs:
        raise UserError("overlay: got no runs, allowed: at least one")
    (first, reference), *others = runs
    for name, metrics in others:
        if metrics["task"] != reference["task"]:
            raise UserError(
                f"overlay: '{first}' is a run of {reference['task']} and '{name}' of {metrics['task']}, "
                "allowed: runs of one task; leave one out"
            )
        mine, theirs = metrics["data"]["digest"], reference["data"]["digest"]
        if metrics["kind"] == "language" and mine != theirs:
            raise UserError(
                f"overlay: '{first}' and '{name}' read different text (digests {theirs:.12} and {mine:.12}), "
                "allowed: runs on the same text; give both the same --data_path"
            )

"""Figures of a run, and of several runs laid over each other: PNG files from the numbers of `metrics.json`, without torch.

    draw_all(metrics, "runs/x/figures")                         # loss, ppl, distance_curve, length_curve and every other slice
    overlay([("gru", a), ("lstm", b)], "figures")               # the same, one line a run; runs must share the task
    plot_distance_curve({8: 1.0, 64: 0.8, 512: 0.31}, "curve.png", floor=0.03)

Each `plot_x` writes what the `figure_x` beside it draws; a `figure_x` returns the matplotlib Figure, for notebooks and tests. Shaded bands (bars for
categories) are 95 % intervals, the small numbers over an axis count the examples or characters of a bin, dashed lines are floors.
matplotlib is imported inside the functions, and only its Figure: no window system, backend or style file of the user's plays a part, and the same
numbers give the same bytes. Colours: Okabe & Ito, "Color universal design", 2008; each line has a marker and a dash of its own as well.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from src.figures.curves import figure_curves, figure_loss, figure_ppl, history_of
from src.figures.lengths import figure_length_curve, figure_lengths, length_words
from src.figures.slices import figure_slices, slice_groups
from src.figures.style import human, make_folder, save
from src.flags.fields import UserError

NOT_CAUSAL = "NOT CAUSAL, sees the future (--allow_noncausal)"


def draw_all(metrics: dict, figures_dir) -> list[Path]:
    """Write every figure that `metrics` (one run's metrics.json) has numbers for; returns the paths.

    loss, ppl; distance_curve from the slices gap and gap_linear; one file a further slice; length_curve where it has more than one length.
    Slices are those of the test set, by the best weights (the last ones where there are no best). Raises ValueError for a dict that is not metrics.
    """
    _require_metrics(metrics)
    folder = make_folder(figures_dir)
    title = run_title(metrics)
    paths = [
        save(figure_loss(metrics, title=title), folder / "loss.png"),
        save(figure_ppl(metrics, title=title), folder / "ppl.png"),
    ]
    result, which = _shown_result(metrics)
    title += f"\n{which}" if which else ""
    for stem, parts in slice_groups([result]).items():
        panels = [[("", part[0])] for part in parts]
        paths.append(
            save(
                figure_slices(
                    panels, title, floors_of(metrics, parts[0][0]["level"]), _ceiling_of(metrics, parts[0][0])
                ),
                folder / f"{stem}.png",
            )
        )
    if len(metrics["length_curve"]) > 1:
        figure = figure_length_curve(
            metrics["length_curve"],
            title=title,
            label=metrics["primary"],
            floor=floors_of(metrics, "example"),
            ceiling=metrics["ceiling"],
            unit=length_words(metrics, result),
            with_loss=metrics["kind"] == "language",
        )
        paths.append(save(figure, folder / "length_curve.png"))
    return paths


def overlay(runs, figures_dir) -> list[Path]:
    """Write the figures that several runs share, one line a run; returns the paths.

    runs: (label, metrics) pairs. val loss and perplexity of all; distance_curve, length_curve and each slice of the runs that have a result.
    Raises UserError for no runs, for runs of different tasks and, for a language task, of different text.
    """
    runs = _named_apart(runs)
    _require_comparable(runs)
    folder = make_folder(figures_dir)
    title = overlay_title(runs)
    paths = [
        save(figure_curves([(n, history_of(m, kind)) for n, m in runs], kind, title), folder / f"{kind}.png")
        for kind in ("loss", "ppl")
    ]
    shown = [(name, m, _shown_result(m)[0]) for name, m in runs]
    shown = [(name, m, result) for name, m, result in shown if result]
    if not shown:
        return paths
    missing = [name for name, m in runs if name not in [n for n, _, _ in shown]]
    title += f"\nno result: {', '.join(missing)}" if missing else ""
    for stem, parts in slice_groups([result for _, _, result in shown]).items():
        panels = [list(zip([name for name, _, _ in shown], part, strict=True)) for part in parts]
        level = parts[0][0]["level"]
        floors = _highest_of_all([floors_of(m, level) for _, m, _ in shown])
        paths.append(
            save(
                figure_slices(panels, title, floors, max(_ceiling_of(m, parts[0][0]) for _, m, _ in shown)),
                folder / f"{stem}.png",
            )
        )
    if all(len(m["length_curve"]) > 1 for _, m, _ in shown):
        floors = _highest_of_all([floors_of(m, "example") for _, m, _ in shown])
        first, ceiling = shown[0][1], max(m["ceiling"] for _, m, _ in shown)
        figure = figure_lengths(
            [(name, m["length_curve"]) for name, m, _ in shown],
            title,
            first["primary"],
            floors,
            ceiling,
            length_words(first, shown[0][2]),
            with_loss=first["kind"] == "language",
        )
        paths.append(save(figure, folder / "length_curve.png"))
    return paths


def run_title(metrics: dict) -> str:
    """'needle · gru · 84.6 k parameters (79.2 k without embeddings)', a hybrid with its layers, and a layer that sees the future called so."""
    total, embedding = metrics["parameters"]["total"], metrics["parameters"]["embedding"]
    layers = _args(metrics).get("layers")
    model = f"{metrics['model']} ({', '.join(layers)})" if layers else metrics["model"]
    title = f"{metrics['task']} · {model} · {human(total)} parameters ({human(total - embedding)} without embeddings)"
    return f"{title}\n{NOT_CAUSAL}" if sees_the_future(metrics) else title


def sees_the_future(metrics: dict) -> bool:
    """Whether the run trained a layer that the causality check had caught, under --allow_noncausal."""
    return bool(_args(metrics).get("allow_noncausal"))


def _args(metrics: dict) -> dict:
    return metrics.get("args") or {}


def overlay_title(runs) -> str:
    """'needle · 3 runs', and what they differ in is left to the legend; those that see the future are named."""
    title = f"{runs[0][1]['task']} · {len(runs)} run{'s' if len(runs) > 1 else ''}"
    cheats = [name for name, metrics in runs if sees_the_future(metrics)]
    return f"{title}\n{NOT_CAUSAL}: {', '.join(cheats)}" if cheats else title


def floors_of(metrics: dict, level: str) -> dict[str, float]:
    """The floors that belong to a slice's level: those of the primary metric for examples, of characters' accuracy for characters."""
    found = {
        name: values.get("slice_acc", values["token_acc"]) if level == "char" else values["primary"]
        for name, values in metrics["floors"].items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _require_metrics(metrics) -> None:
    needed = (
        "task",
        "model",
        "kind",
        "data",
        "parameters",
        "loss_curve",
        "ppl_curve",
        "test",
        "floors",
        "ceiling",
        "length_curve",
        "primary",
    )
    missing = [key for key in needed if not isinstance(metrics, dict) or key not in metrics]
    if missing:
        raise ValueError(f"metrics: no {', '.join(missing)} in them, allowed: the content of a run's metrics.json")


def _shown_result(metrics: dict) -> tuple[dict | None, str]:
    """The result whose slices are drawn, and the words for it."""
    if metrics["test"]["best"] is not None:
        return metrics["test"]["best"], "test set, best weights"
    return metrics["test"]["last"], "test set, last weights" if metrics["test"]["last"] is not None else ""


def _ceiling_of(metrics: dict, part: dict) -> float:
    return metrics["ceiling"] if part["metric"] == metrics["primary"] else 1.0


def _highest_of_all(floors: list[dict]) -> dict[str, float]:
    """The highest floor over all runs: what each of them must beat."""
    highest = [max(f.items(), key=lambda item: item[1]) for f in floors if f]
    return dict([max(highest, key=lambda item: item[1])]) if highest else {}


def _named_apart(runs) -> list[tuple[str, dict]]:
    """(label, metrics) with a number behind a label that another run has."""
    named: dict[str, dict] = {}
    for label, metrics in runs:
        _require_metrics(metrics)
        label = f" {label}" if label.startswith("_") else label  # matplotlib keeps such labels out of legends
        name = next(
            n for n in itertools.chain([label], (f"{label} ({i})" for i in itertools.count(2))) if n not in named
        )
        named[name] = metrics
    return list(named.items())


def _require_comparable(runs) -> None:
    if not runs:
        raise UserError("overlay: got no runs, allowed: at least one")
    (first, reference), *others = runs
    for name, metrics in others:
        if metrics["task"] != reference["task"]:
            raise UserError(
                f"overlay: '{first}' is a run of {reference['task']} and '{name}' of {metrics['task']}, allowed: runs of one task; leave one out"
            )
        if metrics["kind"] == "language" and metrics["data"]["digest"] != reference["data"]["digest"]:
            raise UserError(
                f"overlay: '{first}' and '{name}' read different text (digests {reference['data']['digest']:.12} and "
                f"{metrics['data']['digest']:.12}), allowed: runs on the same text; give both the same --data_path"
            )

"""Loss and perplexity against training steps."""

from __future__ import annotations

import math

from src.figures.axes import named_floors, plain_log_ticks, reference_lines
from src.figures.style import COLOURS, finish, look_of, new_figure, styled
from src.storage.metric_names import metric_name, unit_of

LARGEST_EXPONENT = 700.0  # exp of more overflows


def figure_loss(history, *, title: str = "", floor=None):
    """Training and validation loss against the step, with the best step marked; returns a Figure.

    history: {"train": [[step, loss]], "val": [[step, loss]], "best_step": int or None}, losses in nats per scored
    character, or the metrics of a run.  floor: a number or {name: number}, drawn dashed.
    The figure of a diverged run says at which step it diverged. Raises ValueError for another form of history.
    """
    return figure_curves([("", history_of(history, "loss"))], "loss", title, named_floors(floor))


def figure_ppl(history, *, title: str = "", floor=None):
    """Perplexity per scored character against the step; logarithmic if it spans more than a decade.

    history: as for `figure_loss`. A plain history holds losses here too.
    """
    return figure_curves([("", history_of(history, "ppl"))], "ppl", title, named_floors(floor))


@styled
def figure_losses(groups, title: str = ""):
    """Training and validation loss of groups of runs in one panel, to lay curves over each other; returns a Figure.

    groups: {label: [history, ...]}, each history as for `figure_loss`. The runs of a group share colour and marker.
    Markers are validation losses, thin lines are training losses. Raises ValueError for another form of history.
    """
    figure, (ax,) = new_figure(1)
    for i, (label, histories) in enumerate(groups.items()):
        colour, dash, marker = look_of(i)
        look = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 5, "markerfacecolor": "none"}
        for n, history in enumerate(history_of(h, "loss") for h in histories):
            ax.plot(*_columns(history["train"]), color=colour, linewidth=0.7, alpha=0.4)
            ax.plot(*_columns(history["val"]), label=None if n else f"{label}: validation", **look)
    ax.plot([], [], color="0.4", linewidth=0.7, label="thin: training, single batches")
    ax.set_xlabel("optimiser step")
    ax.set_ylabel("loss (nats per scored character)")
    _whole_steps(ax)
    return finish(figure, title)


def history_of(history, kind: str) -> dict:
    """The finite points of a plain history or of a run's metrics, as loss or as perplexity.

    kind: loss or ppl.  Returns {"train": [(step, value)], "val": [(step, value)], "unit", "bits_per_byte_of",
    "best_step", "diverged_at"}.
    """
    if not isinstance(history, dict) or not ({"loss_curve", "train", "val"} & set(history)):
        raise ValueError(
            f"history: got {history!r:.60}, allowed: a dict with 'train' and 'val', lists of [step, loss], "
            "or the metrics of a run"
        )
    if "loss_curve" in history:
        curves = history["ppl_curve" if kind == "ppl" else "loss_curve"]
    else:
        curves = {part: history.get(part) or [] for part in ("train", "val")}
        if kind == "ppl":
            curves = {part: [[s, _exp(v)] for s, v in points if v is not None] for part, points in curves.items()}
    points = {
        part: [(s, v) for s, v in curves[part] if v is not None and math.isfinite(v)] for part in ("train", "val")
    }
    known = {"unit": unit_of(history), "bits_per_byte_of": _bits_per_byte_of(history)}
    return {**points, **known, "best_step": history.get("best_step"), "diverged_at": history.get("diverged_at")}


def _bits_per_byte_of(metrics: dict) -> float | None:
    """Bits per byte of a loss of one nat, by the validation text. None where the run has no bits per byte."""
    results = metrics["val"].values() if "loss_curve" in metrics and "val" in metrics else ()
    found = [r["bits_per_byte"] / r["loss"] for r in results if r and r.get("bits_per_byte") and r["loss"]]
    return found[0] if found else None


@styled
def figure_curves(histories, kind: str, title: str, floors: dict | None = None):
    """The curves of one run (training and validation), or of several (validation). histories: (label, history).

    Losses per character and per token are no one quantity. Where both are there, losses are drawn as bits per byte.
    """
    units = {history["unit"] for _, history in histories}
    if len(units) > 1:
        histories, kind = [(name, _in_bits_per_byte(history)) for name, history in histories], "bits_per_byte"
    figure, (ax,) = new_figure(1)
    alone, values = len(histories) == 1, []
    for i, (name, history) in enumerate(histories):
        values += [v for part in ("train", "val") for _, v in history[part]]
        _draw_history(ax, history, name, i, alone)
        if history["diverged_at"] is not None:
            label = "diverged: the loss is not finite" if alone else f"{name}: diverged here"
            colour = COLOURS[1] if alone else look_of(i)[0]
            ax.axvline(history["diverged_at"], color=colour, linestyle=(0, (1, 2)), linewidth=1.6, label=label)
            title += f"\ndiverged at step {history['diverged_at']}" if alone else ""
    reference_lines(ax, floors or {}, 1.0)
    _scale_values(ax, values + list((floors or {}).values()), log_allowed=kind == "ppl")
    if not values:
        look = {"ha": "center", "va": "center", "color": "0.35"}
        ax.text(0.5, 0.5, "no finite value was logged", transform=ax.transAxes, **look)
        ax.set_yticks([])
    ax.set_xlabel("optimiser step")
    words = metric_name(kind, min(units))
    ax.set_ylabel(words if alone else f"validation {words}")
    _whole_steps(ax)
    if alone and kind == "loss":
        _second_axis(ax, histories[0][1]["bits_per_byte_of"])
    return finish(figure, title)


def _in_bits_per_byte(history: dict) -> dict:
    """A history of losses in nats as one of bits per byte. It has no points where that is not known."""
    factor = history["bits_per_byte_of"]
    scaled = {part: [(s, v * factor) for s, v in history[part]] if factor else [] for part in ("train", "val")}
    return {**history, **scaled}


def _second_axis(ax, factor: float | None) -> None:
    """Bits per byte on the right, beside the loss on the left."""
    if factor:
        right = ax.secondary_yaxis("right", functions=(lambda v: v * factor, lambda v: v / factor))
        right.set_ylabel(metric_name("bits_per_byte"))


def _columns(points: list) -> tuple[list, list]:
    """Steps and values of (step, value) points."""
    return [step for step, _ in points], [value for _, value in points]


def _exp(loss: float) -> float:
    return math.exp(min(loss, LARGEST_EXPONENT))


def _draw_history(ax, history: dict, name: str, i: int, alone: bool) -> None:
    colour, dash, marker = look_of(i)
    if alone and history["train"]:
        few = "." if len(history["train"]) < 3 else None
        ax.plot(*zip(*history["train"], strict=True), color=COLOURS[6], linewidth=1.1, marker=few, label="training")
    if history["val"]:
        look = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4}
        ax.plot(*zip(*history["val"], strict=True), label="validation" if alone else name, **look)
    best = dict(history["val"]).get(history["best_step"])
    if best is not None:
        star = {"marker": "*", "color": colour, "markeredgecolor": "black", "linestyle": "none", "zorder": 5}
        label = f"best: step {history['best_step']}, {best:.4g}" if alone else None
        ax.plot([history["best_step"]], [best], markersize=14 if alone else 11, label=label, **star)


def _scale_values(ax, values: list[float], log_allowed: bool) -> None:
    if not values:
        return
    least, most = min(values), max(values)
    if log_allowed and least > 0 and most > 10 * least:
        ax.set_yscale("log")
        plain_log_ticks(ax.yaxis)
    elif least < most and 0 <= least < 0.5 * most:
        ax.set_ylim(bottom=0)


def _whole_steps(ax) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = ax.get_xlim()
    if high - low < 5:
        ax.set_xlim(max(0, math.floor(low) - 1), math.ceil(high) + 1)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}"))

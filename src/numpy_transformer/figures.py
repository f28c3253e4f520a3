"""The two figures of a translation model: the loss against the step, and the attention of one sentence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from src.figures.style import COLOURS, finish, new_figure, styled


@styled
def figure_loss(train: Sequence[tuple[int, float]], heldout: Sequence[tuple[int, float]], title: str = ""):
    """Training and held-out loss against the step; returns a Figure. Both: (step, loss), maybe empty."""
    figure, (ax,) = new_figure(1)
    if train:
        ax.plot(*zip(*train, strict=True), color=COLOURS[6], linewidth=1.1, label="training, one batch per step")
    if heldout:
        ax.plot(*zip(*heldout, strict=True), color=COLOURS[1], marker="o", markersize=4, label="held-out pairs")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("optimiser step")
    ax.set_ylabel("loss (nats per target token)")
    return finish(figure, title)


@styled
def figure_attention(weights: np.ndarray, source: Sequence[str], target: Sequence[str], title: str = ""):
    """Attention weights (H, T, S) of one sentence, one panel per head; returns a Figure.

    source: S words that are seen.  target: T words, each in the row that decided on it. Each row sums to 1.
    """
    figure, axes = new_figure(len(weights))
    image = None
    for head, (ax, part) in enumerate(zip(axes, weights, strict=True)):
        image = ax.imshow(part, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        ax.set_xticks(range(len(source)), source, rotation=45, ha="right")
        ax.set_yticks(range(len(target)), target)
        ax.set_xlabel("source word that is seen")
        ax.grid(False)
        if len(weights) > 1:
            ax.set_title(f"head {head + 1}", fontsize=10)
        for (t, s), weight in np.ndenumerate(part):
            if weight >= 0.1:
                ax.text(s, t, f"{weight:.1f}", ha="center", va="center", color="white" if weight > 0.5 else "black")
    axes[0].set_ylabel("word that is written")
    bar = figure.colorbar(image, ax=list(axes), fraction=0.04, pad=0.02)
    bar.set_label("attention weight")
    return finish(figure, title)

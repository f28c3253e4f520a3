"""`--panel scaling`: the training step of models of 1M to 30M parameters, at one length and a few tokens per step.

The metrics are those of `train`. For each size the width is solved (src/models/match.py), and the depth grows slowly.
`parameters` of a row is the solved number, and x the size that was asked for. If a layer's widths do not come near a
size, the cell is a row that says so.
"""

from __future__ import annotations

import dataclasses

from src.measure.speed.panels import OVERHEAD_TOKENS, Point, Quantity
from src.measure.speed.panels.train import Train


class Scaling(Train):
    name = "scaling"
    x_name = "parameters"
    x_words = "size (parameters)"
    by_size = True
    quantities = (Quantity("step_ms", "step", "floor_ms"), Quantity("peak_bytes", "peak memory"))
    look = dataclasses.replace(
        Train.look,
        x_label="parameters (target)",
        title="training, {tokens} tokens per step, by size",
        legend=("step_ms", "step"),
        letter="P",
    )

    def points(self, config) -> list[Point]:
        """The overhead is the step of the smallest model on a few tokens; its x is that size."""
        rows = max(1, config.scaling_tokens // config.scaling_len)
        sizes = config.sizes_as_numbers()
        return [Point(min(sizes), 1, OVERHEAD_TOKENS, True), *(Point(size, rows, config.scaling_len) for size in sizes)]

"""`--panel scaling`: the training step of models of 1M to 30M parameters, at one length and a few tokens a step.

The metrics are those of `train`. For each size the width is solved (src/models/match.py) and the depth grows slowly; `parameters` of a row is what came out,
x the size asked for. A size that a layer's widths cannot come near is a row that says so.
"""

from __future__ import annotations

from src.measure.speed.panels import FLOOR_TOKENS, Point
from src.measure.speed.panels.train import Train


class Scaling(Train):
    name = "scaling"
    x_name = "parameters"

    def points(self, config) -> list[Point]:
        """x of the floor is the smallest size: the step of that model on a few tokens."""
        rows = max(1, config.scaling_tokens // config.scaling_len)
        sizes = config.sizes_as_numbers()
        return [Point(min(sizes), 1, FLOOR_TOKENS, True), *(Point(size, rows, config.scaling_len) for size in sizes)]

"""What `bench` measures: one item per thing that somebody waits for.

    item = ITEMS["decode"]
    values = item.call(Column.HERE, folder)        # {metric: repeats}, in the unit of METRICS

No torch here: the functions behind the items start processes.
"""

from __future__ import annotations

import importlib
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Each library chooses its instructions itself, so each is told. numba takes the features of the processor that it runs
# on, AVX-512 included, whatever processor is named, unless features are named too.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx2,+fma",
}
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")  # on others these instructions have no meaning
COLUMNS: dict[str, dict[str, str]] = {"here": {}, "laptop": AVX2 if IS_X86 else {}}
PRECISION = {"here": "auto", "laptop": "fp32"}
COLUMN_WORDS = {"here": "as it is", "laptop": "AVX2, fp32" if IS_X86 else "fp32"}


@dataclass(frozen=True)
class Metric:
    """words: in tables.  more: a larger number is better.  check: a slower one is reported; False for ratios."""

    words: str
    unit: str
    more: bool = False
    check: bool = True


METRICS = {
    "main_job_s": Metric("`needle` with `mamba`, whole command", "s"),
    "recipe_s": Metric("Tiny Shakespeare recipe, whole command", "s"),
    "recipe_rest_s": Metric("the same without its training", "s"),
    "recipe_step_ms": Metric("training step of the recipe, two threads", "ms"),
    "recipe_step_peer": Metric("a plain torch loop takes, times as long", "x", more=True, check=False),
    "recipe_step_one_ms": Metric("training step of the recipe, one thread", "ms"),
    "mixer_512_ms": Metric("`mamba` mixer, forward and backward, 8 x 512", "ms"),
    "mixer_8192_ms": Metric("the same, 2 x 8,192", "ms"),
    "scan_forward_ms": Metric("scan of 8.4 M states, one thread, forward", "ms"),
    "scan_backward_ms": Metric("the same, backward", "ms"),
    "decode_256_per_s": Metric("greedy decoding, tokens per second, 256", "tokens/s", more=True),
    "decode_1000_per_s": Metric("the same, 1,000", "tokens/s", more=True),
    "decode_late_ratio": Metric("token 1,000 against token 10", "x"),
    "decode_peer": Metric("transformers with a cache takes, times as long", "x", more=True, check=False),
    "start_warm_s": Metric("five steps of `needle` with `mamba`, warm", "s"),
    "start_first_s": Metric("the same, first use", "s"),
    "many_one_s": Metric("`compare`, 8 runs: one after the other, two threads", "s"),
    "many_2_s": Metric("the same, 2 workers", "s"),
    "many_gain": Metric("runs per hour, 2 workers against one after the other", "x", more=True),
}


@dataclass(frozen=True)
class Item:
    """name: for --only.  function: "module:function" that takes a column and an empty folder.

    rounds: calls of it. A round is one value of a metric, because repeats inside of one process are alike.

    seconds: of one call on two cores, roughly, for the time left.  columns: in which it is measured.
    """

    name: str
    says: str
    function: str
    seconds: float
    rounds: int = 1
    columns: tuple[str, ...] = ("here", "laptop")

    def expected(self, columns: Sequence[str]) -> float:
        """Seconds of all its calls, roughly."""
        return self.seconds * self.rounds * len(set(self.columns) & set(columns))

    def call(self, column: str, folder: Path) -> Mapping[str, list[float]]:
        """{metric: values} of one call."""
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)(column, folder)


WHOLES, PIECES = "src.measure.bench.wholes", "src.measure.bench.pieces"
ITEMS = {
    item.name: item
    for item in (
        Item("step", "training step of the recipe", f"{PIECES}:step", 8, rounds=5),
        Item("mixer", "mamba mixer", f"{PIECES}:mixer", 4, rounds=3),
        Item("scan", "selective scan", f"{PIECES}:scan", 3, rounds=5, columns=("here",)),
        Item("decode", "greedy decoding", f"{PIECES}:decode", 5.5, rounds=5),
        Item("start", "start of a command", f"{WHOLES}:start", 26, columns=("here",)),
        Item("many", "many runs at once", f"{WHOLES}:many", 70, columns=("here",)),
        Item("recipe", "Tiny Shakespeare recipe", f"{WHOLES}:recipe", 100),
        Item("main", "the main job", f"{WHOLES}:main_job", 45),
    )
}

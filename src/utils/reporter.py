"""What a run prints while it works.

On a terminal it is one progress bar with tqdm. Elsewhere it is one line per validation. `--quiet` prints nothing.
`--log tensorboard` also writes each step for TensorBoard. All text goes to stderr: stdout is for results.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

from src.storage.metric_names import metric_name


class Reporter:
    """Prints the steps and validations that the training loop tells it of.

    log: "none", or "tensorboard", which writes into `folder`.
    prefix: begins each line, of one of several runs that report at once. They have no progress bar.
    """

    def __init__(self, quiet: bool, log: str = "none", folder: Path | None = None, prefix: str = ""):
        self.quiet, self.on_terminal, self.prefix = quiet, sys.stderr.isatty() and not prefix, prefix
        self.unit = "chars"  # what a step consists of
        self.bar = None
        self.writer = tensorboard_writer(folder) if log == "tensorboard" else None
        self.started: float | None = None  # when the first step was reported
        self.first = self.chars = 0  # the first step; characters since
        self.seconds = 0.0  # training time since the first step

    def say(self, text: str) -> None:
        """Print a line. Where stderr takes no more text, nothing is told from then on: a training needs no reader."""
        if self.quiet:
            return
        try:
            if self.bar is not None:
                self.bar.clear()
            print(self.prefix + text, file=sys.stderr, flush=True)
        except OSError:
            self.quiet = True

    def step(self, row: dict, steps: int) -> None:
        """A step is done. row: its row of metrics.jsonl.  steps: those of the whole run."""
        if self.writer is not None:
            for name in ("loss", "lr", "grad_norm"):
                if row[name] is not None:
                    self.writer.add_scalar(f"train/{name}", row[name], row["step"])
        if self.started is None:
            self.started, self.first = time.perf_counter(), row["step"]
        self.chars, self.seconds = self.chars + row["chars"], self.seconds + row["seconds"]
        if self.quiet or not self.on_terminal:
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=row["step"] - 1, unit="step", dynamic_ncols=True, leave=False)
        self.bar.set_postfix_str(f"loss {row['loss']:.4f}, {self._rate():,.0f} {self.unit}/s", refresh=False)
        self.bar.update(1)

    def validation(self, row: dict, steps: int, better: bool) -> None:
        """A validation is done. better: whether its loss is the lowest so far, which a star marks."""
        if self.writer is not None:
            self.writer.add_scalar("val/loss", row["val_loss"], row["step"])
            self.writer.add_scalar("val/token_acc", row["val_token_acc"], row["step"])
        if self.quiet:
            return
        passed = time.perf_counter() - self.started
        left = passed / max(1, row["step"] - self.first + 1) * (steps - row["step"])
        star = " *" if better else "  "
        line = (
            f"step {row['step']:>6}/{steps}  val loss {row['val_loss']:.4f}  "
            f"{metric_name('token_acc')} {row['val_token_acc']:.4f}{star}"
            f"  {self._rate():>9,.0f} {self.unit}/s  {left:4.0f} s left"
        )
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            self.say(line)

    def close(self) -> None:
        """Remove the progress bar and finish the TensorBoard files."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self.writer is not None:
            self.writer.close()

    def _rate(self) -> float:
        """Characters (or tokens) per second of training. Validations are not counted."""
        return self.chars / max(1e-9, self.seconds)


def tensorboard_writer(folder: Path | None):
    """A SummaryWriter; without the package None, and one line that says how to get it."""
    if importlib.util.find_spec("tensorboard") is None:
        print(
            "--log tensorboard: the package is not installed; `pip install tensorboard`. Going on without it.",
            file=sys.stderr,
        )
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))

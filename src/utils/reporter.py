"""What a run says while it works: one tqdm line on a terminal, plain lines elsewhere, nothing under --quiet; TensorBoard on request."""

from __future__ import annotations

import importlib.util
import sys
import time


class Reporter:
    """Told of steps and validations; prints to stderr. log: "none" or "tensorboard" (into run_dir/tensorboard)."""

    def __init__(self, quiet: bool, log: str = "none", folder=None):
        self.quiet, self.bar, self.started = quiet, None, None
        self.on_terminal = sys.stderr.isatty()
        self.writer = tensorboard_writer(folder) if log == "tensorboard" else None

    def say(self, text: str) -> None:
        if not self.quiet:
            if self.bar is not None:
                self.bar.clear()
            print(text, file=sys.stderr, flush=True)

    def step(self, row: dict, steps: int) -> None:
        if self.writer is not None:
            for name in ("loss", "lr", "grad_norm"):
                if row[name] is not None:
                    self.writer.add_scalar(f"train/{name}", row[name], row["step"])
        if self.started is None:
            self.started, self.first, self.chars, self.seconds = time.perf_counter(), row["step"], 0, 0.0
        self.chars, self.seconds = self.chars + row["chars"], self.seconds + row["seconds"]
        if self.quiet or not self.on_terminal:
            return
        if self.bar is None:
            from tqdm import tqdm

            self.bar = tqdm(total=steps, initial=row["step"] - 1, unit="step", dynamic_ncols=True, leave=False)
        self.bar.set_postfix_str(f"loss {row['loss']:.4f}, {self._rate():,.0f} chars/s", refresh=False)
        self.bar.update(1)

    def _rate(self) -> float:
        return self.chars / max(1e-9, self.seconds)  # of training: validations are not counted

    def validation(self, row: dict, steps: int, better: bool) -> None:
        if self.writer is not None:
            self.writer.add_scalar("val/loss", row["val_loss"], row["step"])
            self.writer.add_scalar("val/token_acc", row["val_token_acc"], row["step"])
        if self.quiet:
            return
        passed = time.perf_counter() - self.started
        left = passed / max(1, row["step"] - self.first + 1) * (steps - row["step"])
        line = (
            f"step {row['step']:>6}/{steps}  val loss {row['val_loss']:.4f}  token acc {row['val_token_acc']:.4f}{' *' if better else '  '}"
            f"  {self._rate():>9,.0f} chars/s  {left:4.0f} s left"
        )
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
        if self.writer is not None:
            self.writer.close()


def tensorboard_writer(folder):
    """A SummaryWriter, or None with one line that says how to get one."""
    if importlib.util.find_spec("tensorboard") is None:
        print(
            "--log tensorboard: the package is not installed; `pip install tensorboard`. Going on without it.",
            file=sys.stderr,
        )
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))

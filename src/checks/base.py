"""What every check works with: a `Subject` that builds the model under test, and the `Result` that a check returns.

A check is a function `subject -> Result` (or an iterable of them), listed in src/checks/__init__.py. It asks the subject for models and
tokens, measures one figure, and says with `judged`, `skipped` or `measured` what that figure means. What it raises becomes a failed result.

B batch, T time, C characters.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from src.flags.fields import RunFlags
from src.models.backbone import build
from src.models.contract import ARModel, Mixer

LONGEST = 270  # tokens: beyond the chunk borders 16 ... 256 and beyond caches that double at a power of two
QUICK = 70  # tokens of the quick form: beyond 64
NOISE = 0.1  # standard deviation of what `wake` adds


@dataclass(frozen=True)
class Result:
    """One row of the table.  value: what was measured, a number or a word.  tolerance: the largest allowed number, or the word it must be;
    of a `measured` row only --strict judges it (None: nobody does).  group: set by the runner."""

    name: str
    status: str  # pass | fail | skipped | measured
    value: float | int | str | None = None
    tolerance: float | str | None = None
    note: str = ""
    group: str = ""

    @property
    def beyond(self) -> bool:
        """Whether the value breaks the tolerance; a number that is not finite does."""
        if self.tolerance is None:
            return False
        if isinstance(self.tolerance, str):
            return self.value != self.tolerance
        return not (isinstance(self.value, (int, float)) and math.isfinite(self.value) and self.value <= self.tolerance)


def judged(name: str, value, tolerance, note: str = "") -> Result:
    """Pass where the value keeps the tolerance, else fail."""
    result = Result(name, "pass", value, tolerance, note)
    return dataclasses.replace(result, status="fail") if result.beyond else result


def skipped(name: str, why: str) -> Result:
    return Result(name, "skipped", note=why)


def measured(name: str, value, note: str = "", limit=None) -> Result:
    """A figure that is reported; beyond `limit` it fails under --strict alone."""
    return Result(name, "measured", value, limit, note)


@dataclass(frozen=True)
class Subject:
    """The model under test: builds it at the sizes and seeds that a check wants, and draws tokens for it.

    args: a run configuration without dropout.  longest: tokens of the longest ordinary check.  quick: fewer cuts and steps.
    built: check copies of this model instead; checks that need another size are then impossible.
    """

    model_class: type
    args: RunFlags
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    vocab_size: int = 16
    longest: int = LONGEST
    quick: bool = False
    seed: int = 0

    def model(
        self, *, seed: int | None = None, max_len: int | None = None, dtype=torch.float32, awake: bool = True, **changes
    ) -> ARModel:
        """A fresh model in eval mode.

        seed: of the initialisation.  max_len: tokens of a learned position table.  awake: see `wake`.  changes: other values of args.
        """
        args = dataclasses.replace(self.args, **changes)
        with torch.random.fork_rng(devices=_devices(self.device)):
            torch.manual_seed(self.seed if seed is None else seed)
            model = (
                build(self.model_class, self.vocab_size, args, max_len or self.longest).to(self.device, dtype).eval()
            )
        if awake:
            wake(model)
        return model

    def tokens(self, batch: int, length: int, seed: int = 1):
        """Random ids (B, T)."""
        generator = torch.Generator().manual_seed(1000 * self.seed + seed)
        return torch.randint(0, self.vocab_size, (batch, length), generator=generator).to(self.device)

    @property
    def classes(self) -> tuple[type, ...]:
        """The class under test and those of its layers."""
        return (self.model_class, *getattr(self.model_class, "layers", ()))

    @property
    def batch(self) -> int:
        """Rows where a check needs no particular number."""
        return 1 if self.quick else 2

    @property
    def tolerance(self) -> float:
        """What reordered float32 sums may change, relative to the logits' spread. Two blocks in two orders differ by about 1e-6, a long
        recurrence by 1e-5; third-party GPU kernels multiply float32 in TF32, whose 10 bits of mantissa leave about 1e-3."""
        return 1e-4 if self.device.type == "cpu" else 5e-3


@dataclass(frozen=True)
class BuiltSubject(Subject):
    """A subject that exists already: every `model()` is a copy of it, as it stands."""

    built: ARModel | None = None

    @property
    def classes(self) -> tuple[type, ...]:
        return (self.model_class, *(type(layer) for layer in mixers(self.built)))

    def model(self, *, awake: bool = True, **unused) -> ARModel:
        """A copy in eval mode. awake: see `wake`; other wishes cannot be met here, so the checks of `quick` have none."""
        model = copy.deepcopy(self.built).eval()
        if awake:
            wake(model)
        return model


def wake(model) -> None:
    """Add noise to parameters that are constant: a gate or an output map that begins at zero would hide all that lies behind it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point() and p.numel() and bool((p == p.flatten()[0]).all()):
                p += NOISE * torch.randn(p.shape, generator=generator).to(p)


@contextlib.contextmanager
def exact_float32(device) -> Iterator[None]:
    """Global state as the checks need it, and afterwards as it was: random state, and float32 products in float32."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.random.fork_rng(devices=_devices(device)), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _devices(device) -> list[int]:
    """What fork_rng needs besides the CPU."""
    return [] if device.type != "cuda" else [device.index if device.index is not None else torch.cuda.current_device()]


def logits_of(model, x, **kwargs):
    """Logits (B, T, C) without gradients, in float64, with torch's random numbers the same at every call.

    Raises ValueError where the model does not return (B, T, C).
    """
    torch.manual_seed(0)
    with torch.no_grad():
        logits = model(x, **kwargs)
    check_logits(logits, x)
    return logits.double()


def check_logits(logits, x) -> None:
    """ValueError unless logits are (B, T, C) for ids x (B, T)."""
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3 or shape[:2] != tuple(x.shape):
        raise ValueError(f"the model returns {shape} for tokens {tuple(x.shape)}, allowed: (B, T, vocabulary)")


def gap(got, want, whole=None) -> float:
    """The largest difference relative to the spread (standard deviation) of `whole`, else of `want`; infinite where it is no number."""
    difference = (got.double() - want.double()).abs().max().item()
    spread = (want if whole is None else whole).double().std(correction=0).item()
    return ratio(difference, spread)


def ratio(part: float, whole: float) -> float:
    """part / whole, both >= 0; 0 / 0 is 0, and what is no number is infinite, so that it is the largest of several."""
    if part == 0 and math.isfinite(whole):
        return 0.0
    return part / whole if math.isfinite(part) and math.isfinite(whole) and whole > 0 else math.inf


@contextlib.contextmanager
def at_embedding(model, replace) -> Iterator[list]:
    """Pass what the model's nn.Embedding modules return through `replace(output)`; yields the list of what went on from there.

    Only outputs (B, T, D) count. An empty list after a forward pass: the model looks its embeddings up in another way.
    """
    outputs: list = []

    def hook(module, inputs, output):
        if output.dim() < 3:
            return output
        outputs.append(replace(output))
        return outputs[-1]

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Embedding)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def mixers(model) -> list[Mixer]:
    """The layers of a backbone, in order; none in a whole model of the user's own."""
    return [block.mixer for block in getattr(model, "blocks", ()) if isinstance(getattr(block, "mixer", None), Mixer)]


NO_EMBEDDING = "no nn.Embedding is called in the model's forward"
NO_MIXER = "a whole model has no mixer"

"""What every check works with: a `Subject` that builds the model under test, and the `Result` that a check returns.

A check is a function from a subject to one result or to several, listed in src/checks/__init__.py. It asks the subject
for models and tokens, measures one value, and returns it through `judged`, `skipped` or `measured`. The note of a
result says in one sentence what was seen. An error that a check raises becomes a failed result.

B batch, T time, D width, C characters.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from src.flags.run_flags import RunArgs
from src.models.backbone import build
from src.models.contract import ARModel, Mixer
from src.ops.precision import as_real
from src.storage.randomness import kept_random_state, seed_all

LONGEST = 270  # tokens: more than the chunk lengths 16 ... 256, and more than a cache that doubles at 256
QUICK = 70  # tokens of the quick form: more than a chunk of 64
LONG = 1117  # tokens of the longest pass: a prime far from every power of two, and no multiple of 16 or 128 is near
ROWS = 33  # rows of a batch: more than a layer might treat as a special case
NOISE = 0.1  # standard deviation of the noise that `wake` adds
NO_EMBEDDING = "the model calls no nn.Embedding, so its inputs cannot be reached"
NO_MIXER = "a whole model has no mixer to test alone"
RANDOM = "the model is random, the same tokens twice differ by {by:.2g}"
NOT_FINITE = "; a value was NaN or infinite, or all logits were equal"


@dataclass(frozen=True)
class Result:
    """One row of the table.

    status: pass, fail, skipped or measured.  value: what was measured, a number or a word.  tolerance: the largest
    allowed number, or the only allowed word. The tolerance of a measured row counts under --strict alone.  note: what
    was seen, in one sentence.  group: set by `run`.  cause: why there is no answer; "raised" where the model raised an
    error, "unjudged" where its passes could not be compared, else empty.
    """

    name: str
    status: str
    value: float | int | str | None = None
    tolerance: float | str | None = None
    note: str = ""
    group: str = ""
    cause: str = ""

    @property
    def beyond(self) -> bool:
        """Whether the value exceeds the tolerance. NaN and inf always do."""
        if self.tolerance is None:
            return False
        if isinstance(self.tolerance, str):
            return self.value != self.tolerance
        return not (isinstance(self.value, (int, float)) and math.isfinite(self.value) and self.value <= self.tolerance)


def judged(name: str, value, tolerance, note: str = "", failure: str = "") -> Result:
    """Pass where the value is within the tolerance, else fail.  failure: the note of a failed result; empty: `note`."""
    result = Result(name, "pass", value, tolerance, note)
    if not result.beyond:
        return result
    return dataclasses.replace(result, status="fail", note=(failure or note) + NOT_FINITE * (value == math.inf))


def skipped(name: str, why: str) -> Result:
    return Result(name, "skipped", note=why)


class Unjudged(Exception):
    """The passes of a model cannot be compared, so a check has no answer. The text says why."""


def unjudged(name: str, why: Unjudged | str) -> Result:
    """A skipped result that must not count as a passed one."""
    return Result(name, "skipped", note=f"could not be judged: {why}", cause="unjudged")


def answered(name: str, check: Callable[[], Result]) -> Result:
    """The result of one row, or an unjudged one where the check raises Unjudged."""
    try:
        return check()
    except Unjudged as why:
        return unjudged(name, why)


def measured(name: str, value, note: str = "", limit=None) -> Result:
    """A value that is reported. Beyond `limit` it fails under --strict alone."""
    return Result(name, "measured", value, limit, note)


@dataclass(frozen=True)
class Subject:
    """The model under test. It builds the model at the sizes and seeds that a check wants, and draws tokens for it.

    args: the flags of a run without dropout (None for a built model).  longest: tokens of the longest sequence, apart
    from those of src/checks/cost.py and of the three fields named next. quick: try fewer lengths and steps.
    long: tokens of the one long pass of some checks; 0 leaves it out.  run_lengths: tokens of the longest sequences of
    the run.  run_batch: rows of its batch; 0 where there is no run.  precision: of the pass under autocast.
    """

    model_class: type
    args: RunArgs | None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    vocab_size: int = 16
    longest: int = LONGEST
    quick: bool = False
    seed: int = 0
    long: int = LONG
    run_lengths: tuple[int, ...] = ()
    run_batch: int = 0
    precision: str = "bf16"

    def model(
        self, *, seed: int | None = None, max_len: int | None = None, dtype=torch.float32, awake: bool = True, **changes
    ) -> ARModel:
        """A new model in eval mode.

        seed: of the initialisation.  max_len: tokens of a learned position table.  dtype: see `cast`.  awake: call
        `wake`.  changes: of args.
        """
        args = dataclasses.replace(self.args, **changes)
        with kept_random_state():
            seed_all(self.seed if seed is None else seed)
            model = build(self.model_class, self.vocab_size, args, max_len or self.longest).to(self.device).eval()
        cast(model, dtype)
        if awake:
            wake(model)
        return model

    def model_for(self, length: int) -> ARModel:
        """A new model in eval mode whose tables and masks have room for sequences of this length."""
        room = {"context_len": length} if getattr(self.args, "context_len", length) < length else {}
        return self.model(max_len=max(length, self.longest), **room)

    def is_beyond(self, length: int) -> bool:
        """Whether no training sequence of the run is as long as this. Without a run, every length counts."""
        return self.quick and bool(self.run_lengths) and length > self.run_lengths[0]

    @contextlib.contextmanager
    def excused(self, length: int, notes: list[str]) -> Iterator[None]:
        """Pass over an error at a length that the training never has, and add what it was to `notes`.

        A layer may have a longest length of its own. Where the training stays below it, nothing is lost: a longer
        evaluation says in its result why it failed.
        """
        try:
            yield
        except Exception as error:
            if not self.is_beyond(length):
                raise
            text = str(error) if isinstance(error, Unjudged) else f"{type(error).__name__}: {first_line(error)}"
            notes.append(f"; {length:,} tokens, more than the training has, were left out ({text})")

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
        """The allowed difference of two float32 forms of one function, relative to the standard deviation of the
        logits.

        Two blocks that sum in another order differ by about 1e-6, a long recurrence by 1e-5. GPU kernels of other
        packages multiply float32 in TF32, whose mantissa of 10 bits leaves about 1e-3.
        """
        return 1e-4 if self.device.type == "cpu" else 5e-3


@dataclass(frozen=True)
class BuiltSubject(Subject):
    """A model that is built already. Every `model()` is a copy of it, so checks at another size are impossible."""

    built: ARModel | None = None

    @property
    def classes(self) -> tuple[type, ...]:
        return (self.model_class, *(type(layer) for layer in mixers(self.built)))

    def model(self, *, awake: bool = True, **unused) -> ARModel:
        """A copy in eval mode.  awake: call `wake`.  unused: the sizes and seeds that only a new model can have."""
        model = copy.deepcopy(self.built).eval()
        if awake:
            wake(model)
        return model


def cast(model, dtype) -> None:
    """Give the float32 tensors of a model this dtype, and complex64 ones its complex counterpart.

    What the layer chose itself stays: integers, bool, half precision and double precision.
    """
    counterpart = {torch.float32: dtype, torch.complex64: dtype.to_complex()}
    model._apply(lambda t: t.to(counterpart.get(t.dtype, t.dtype)))


def wake(model) -> None:
    """Add noise to each parameter whose values are all equal.

    A gate or an output map that starts at zero would hide every fault of the values that it multiplies.
    """
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in model.parameters():
            if (p.is_floating_point() or p.is_complex()) and p.numel() and bool((p == p.flatten()[0]).all()):
                values = as_real(p)
                values += NOISE * torch.randn(values.shape, generator=generator).to(values)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Multiply float32 in float32, not TF32. Random state and settings are restored afterwards."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with kept_random_state(), torch.enable_grad():
            yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def logits_of(model, x, *, seed: int = 0, **kwargs):
    """Logits (B, T, C) in float64, without gradients and with the same seed of all generators at every call.

    Raises ValueError where the model does not return (B, T, C).
    """
    seed_all(seed)
    with torch.no_grad():
        logits = model(x, **kwargs)
    check_logits(logits, x)
    return logits.double()


def check_logits(logits, x) -> None:
    """Raise ValueError unless logits are (B, T, C) for ids x (B, T)."""
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if not isinstance(logits, torch.Tensor) or logits.dim() != 3 or shape[:2] != tuple(x.shape):
        raise ValueError(f"the model returns {shape} for tokens {tuple(x.shape)}, allowed: (B, T, vocabulary)")


def difference(got, want, whole=None) -> float:
    """The largest absolute difference, divided by the standard deviation of `whole`, or of `want` without it.

    NaN and inf in a tensor give inf.
    """
    largest = (got.double() - want.double()).abs().max().item()
    spread = (want if whole is None else whole).double().std(correction=0).item()
    return ratio(largest, spread)


def ratio(part: float, whole: float) -> float:
    """part / whole, both >= 0.  0 / 0 is 0.  NaN becomes inf, so it wins max()."""
    if part == 0 and math.isfinite(whole):
        return 0.0
    return part / whole if math.isfinite(part) and math.isfinite(whole) and whole > 0 else math.inf


def first_line(error: BaseException) -> str:
    """The first line of what an error says; empty where it says nothing."""
    return (str(error).splitlines() or [""])[0]


def not_finite(tensors) -> int:
    """How many values of these tensors are NaN or infinite. None is ignored."""
    return sum(int((~torch.isfinite(v)).sum()) for v in tensors if v is not None)


def names(found) -> str:
    """At most three names, and how many more there are."""
    found = sorted(found)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


@contextlib.contextmanager
def at_embedding(model, replace) -> Iterator[list]:
    """Replace each output (B, T, D) of an nn.Embedding in the model by `replace(output)`. Yields the list of the new
    outputs.

    The list stays empty where the model reads its embeddings in another way.
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
    """The layers of a backbone, in order. A whole model of the user's own has none."""
    return [block.mixer for block in getattr(model, "blocks", ()) if isinstance(getattr(block, "mixer", None), Mixer)]

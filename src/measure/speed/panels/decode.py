"""`--panel decode`: reading a prompt and writing one token at a time, by position and batch.

    prefill_ms    the prompt of `position` tokens through the parallel form, into a decoding state
    token_ms      one further token: the median of STEPS of them, from that position on. On CUDA it is the mean, because
                  launches run ahead of the device, and waiting for each token would hide that
    tokens_per_s  batch / time per token
    state_bytes   the live state after `position` tokens, from init_state(batch, position): measured, never declared

A repeat is a whole decoding, so a state is never stepped more than STEPS tokens after its position. A model that
decodes by replaying its prefix (cache=replay) needs O(T) per token and keeps the prefix. Its cells stop at
REPLAY_LONGEST.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time

from src.figures.speed import Axis, PanelLook
from src.measure.speed.panels import OVERHEAD_TOKENS, Panel, Point, Quantity, Table
from src.measure.speed.panels.memory_of import device_type_of
from src.measure.speed.subjects import VOCABULARY, Subject
from src.measure.timing import sync_for
from src.setup.plan import set_threads
from src.storage.rows import NO_PREFILL, timed

STEPS = 16
REPLAY_LONGEST = 512
LONGEST = 8192
CAREFUL_SHARE = 0.5  # of the free memory: a cell that may need more is first tried in a child


class Decoder:
    """A model in evaluation mode and its random prompt (batch, length)."""

    def __init__(self, subject: Subject, device, batch: int, length: int, clock=time.perf_counter):
        import torch

        self.model, self.args, self.device = subject.build(device).eval(), subject.args, device
        rng = torch.Generator().manual_seed(self.args.seed)
        ids = torch.randint(0, VOCABULARY, (batch, length + STEPS), generator=rng).to(device)
        self.prompt, self.next = ids[:, :length], ids[:, length:].unbind(1)
        self.sync, self.clock = sync_for(device), clock

    def decode(self) -> dict[str, float]:
        """{"prefill": seconds, "token": seconds per token}."""
        batch, length = self.prompt.shape
        with self.inference():
            state = self.model.init_state(batch, length + STEPS)
            self.sync()
            began = self.clock()
            _, state = self.model.prefill(self.prompt, state)
            self.sync()
            times = [self.clock()]
            for ids in self.next:
                _, state = self.model.step(ids, state)
                times.append(self.clock())
            self.sync()
        if self.device.type == "cuda":
            return {"prefill": times[0] - began, "token": (self.clock() - times[0]) / STEPS}
        return {"prefill": times[0] - began, "token": statistics.median(b - a for a, b in itertools.pairwise(times))}

    def read(self) -> tuple[dict[str, float], int]:
        """({"prefill": seconds}, bytes of a state that is made for the prompt alone, after the prompt)."""
        from src.models.state import state_bytes

        with self.inference():
            state = self.model.init_state(*self.prompt.shape)
            self.sync()
            began = self.clock()
            _, state = self.model.prefill(self.prompt, state)
            self.sync()
            return {"prefill": self.clock() - began}, state_bytes(state)

    @contextlib.contextmanager
    def inference(self):
        """Without gradients, in the precision of the run."""
        import torch

        from src.utils.precision import autocast

        with torch.no_grad(), autocast(self.device, self.args.precision):
            yield


class Decoding:
    """What is timed at a point. The first call only reads the prompt, and finds the state's size."""

    def __init__(self, decoder: Decoder):
        self.decoder, self.facts = decoder, {}

    def __call__(self) -> dict[str, float]:
        if self.facts:
            return self.decoder.decode()
        seconds, size = self.decoder.read()
        self.facts = {"state_bytes": size}
        return seconds


def try_once(spec: dict) -> dict:
    """Decode once, to see whether memory is enough; returns {}."""
    import torch

    subject, device = Subject.from_spec(spec["subject"]), torch.device(spec["device"])
    set_threads(spec["threads"])
    Decoder(subject, device, spec["batch"], spec["length"]).decode()
    return {}


def free_bytes() -> int | None:
    """Memory that is available, on Linux; None on other systems."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


class Decode(Panel):
    name = "decode"
    x_name = "position"
    x_words = "position (tokens)"
    metrics = ("prefill_ms", "token_ms", "tokens_per_s", "state_bytes")
    overhead_metrics = ("floor_prefill_ms", "floor_ms")
    peak = "src.measure.speed.panels.decode:try_once"
    more_tokens = STEPS
    batches_apart = True
    quantities = (
        Quantity("prefill_ms", "reading the prompt", "floor_prefill_ms"),
        Quantity("token_ms", "writing one token", "floor_ms"),
        Quantity("state_bytes", "state"),
    )
    tables = (
        Table("prefill_ms", "prefill, ms", "{:,.1f}"),
        Table("token_ms", "ms per token", "{:,.3f}"),
        Table("tokens_per_s", "tokens per second", "{:,.0f}", lower_is_better=False),
        Table("state_bytes", "state, KiB", "{:,.1f}", 2**10),
    )
    look = PanelLook(
        axes=(
            Axis("prefill_ms", "ms to read the prompt"),
            Axis("token_ms", "ms per token"),
            Axis("state_bytes", "state (KiB)", 2**10),
        ),
        x_label="position (tokens)",
        title="decoding, batch {batch}",
        legend=("prefill_ms", "prefill"),
    )

    def points(self, config) -> list[Point]:
        return [
            Point(n, batch, n, n == OVERHEAD_TOKENS)
            for batch in config.decode_batches
            for n in (OVERHEAD_TOKENS, *(n for n in config.lengths if n <= LONGEST))
        ]

    def refuse(self, subject, point):
        if point.length > REPLAY_LONGEST and cache_kind(subject) == "replay":
            return f"cache=replay: it reads the whole prefix again for every token, so cells stop at {REPLAY_LONGEST}"
        return ""

    def wants_child(self, subject, point):
        """Only if memory may be too small for a prompt's widest activations, twice, or for all keys and values."""
        args = subject.args
        mlp = (3 if args.mlp == "swiglu" else 2) * args.dim_ffn  # the outputs of its maps, and what comes of them
        wide = 4 * point.batch * point.length * max(mlp, 4 * args.n_layer * args.d_model)
        free = free_bytes()
        return free is not None and device_type_of(subject) == "cpu" and wide > CAREFUL_SHARE * free

    def action(self, subject, point, device):
        return Decoding(Decoder(subject, device, point.batch, point.length, self.clock))

    def fields(self, subject, point, sample, memory):
        prefill, token = sample.of("prefill"), sample.of("token")
        always = [text for text in subject.remarks if text != NO_PREFILL]
        note = "; ".join([f"cache={cache_kind(subject)}", *always])
        reading = "; ".join([f"cache={cache_kind(subject)}", *subject.remarks])
        if point.is_overhead:
            return [
                {"metric": "floor_prefill_ms", **timed(prefill), "note": reading},
                {"metric": "floor_ms", **timed(token), "note": note},
            ]
        return [
            {"metric": "prefill_ms", **timed(prefill), "note": reading},
            {"metric": "token_ms", **timed(token), "note": note},
            {"metric": "tokens_per_s", **timed(token, "tokens/s", lambda seconds: point.batch / seconds), "note": note},
            {
                "metric": "state_bytes",
                "value": memory["state_bytes"],
                "unit": "bytes",
                "note": f"{note}; live, batch {point.batch}",
            },
        ]


def cache_kind(subject: Subject) -> str:
    """ "own" if every layer decodes by its own step, else "replay"."""
    layers = getattr(subject.model_class, "layers", None) or (subject.model_class,)
    return "own" if all(layer.cache_kind() == "own" for layer in layers) else "replay"

"""Training: steps, measurements, checkpoints. A run that was stopped and resumed gives the bytes of one that was not.

    training = Training(config, prepared)          # step 0
    training.restore(read_arrays(run.checkpoint))  # or the step of a checkpoint
    finished = training.run(save, report, stop)    # to the last step, or until stop.asked

Nothing is random but the initial parameters and the order of an epoch. Both depend on the seed alone, so a checkpoint
needs no random state. The held-out pairs decide nothing: the parameters after the last step are the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import signal
import threading
import time
from collections.abc import Callable

import numpy as np

from src.flags.fields import UserError
from src.numpy_transformer.config import Config, ModelConfig
from src.numpy_transformer.datasets import Batch, Pair, epoch_batches, make_batch
from src.numpy_transformer.folder import data_settings, refuse_other
from src.numpy_transformer.losses import cross_entropy_masked
from src.numpy_transformer.optim import OPTIMISERS, clip_gradients, learning_rate
from src.numpy_transformer.prepare import Prepared
from src.numpy_transformer.transformer import Seq2Seq, Sizes

SAVE_SECONDS = 30.0
ROWS = 256  # pairs of a batch that is only measured


class Diverged(Exception):
    """The loss of a step is not finite. It holds the step."""


class Training:
    """A model, its optimiser, the step, and the losses so far.

    step: optimiser steps done.  losses: one per step.  heldout: (step, loss) of each measurement. The unit of a loss is
    nats per target token.
    """

    def __init__(self, config: Config, prepared: Prepared):
        """The state before the first step."""
        self.config, self.prepared = config, prepared
        self.model = build(config.model, prepared.source_vocab, prepared.target_vocab, config.train.seed)
        self.optimiser = OPTIMISERS[config.train.optimiser](self.model.params)
        self.steps_per_epoch = -(-len(prepared.train) // config.train.batch_size)
        self.steps = config.train.epochs * self.steps_per_epoch
        self.step = 0
        self.losses: list[float] = []
        self.heldout: list[tuple[int, float]] = []

    def run(self, save: Callable[[], None], report: Callable[[], None], stop: StopRequest) -> bool:
        """Train to the last step. True at its end, False if `stop` was asked for; the state is saved in both cases.

        save: writes a checkpoint. It is called at each measurement, and every 30 seconds.  report: tells a reader.
        Raises Diverged where the loss is not finite; what was saved before stays.
        """
        if self.step == self.steps:
            return True
        saved = time.monotonic()
        for epoch in range(self.step // self.steps_per_epoch, self.config.train.epochs):
            done = self.step - epoch * self.steps_per_epoch
            batches = epoch_batches(self.prepared.train, self.config.train.batch_size, self.config.train.seed, epoch)
            for n, batch in enumerate(batches):
                if n < done:
                    continue  # of an epoch that a checkpoint ended inside
                self._step(batch)
                measured = self._measure()
                if measured:
                    report()
                if measured or stop.asked or time.monotonic() - saved > SAVE_SECONDS:
                    save()
                    saved = time.monotonic()
                if stop.asked and self.step < self.steps:
                    return False
        return True

    def _step(self, batch: Batch) -> None:
        """One optimiser step. Shapes of a batch: see src/numpy_transformer/datasets.py."""
        train = self.config.train
        loss = self.model.loss_and_gradients(batch)
        if not math.isfinite(loss):
            raise Diverged(self.step + 1)
        clip_gradients(self.model.params.grads, train.grad_clip)
        self.optimiser.step(learning_rate(self.step + 1, self.steps, train.lr, train.warmup_steps))
        self.step += 1
        self.losses.append(loss)

    def _measure(self) -> bool:
        """Measure the held-out loss at the end of every eval_every-th epoch and of the last one; whether it is time."""
        epoch, rest = divmod(self.step, self.steps_per_epoch)
        if rest or (epoch % self.config.train.eval_every and self.step < self.steps):
            return False
        if self.prepared.heldout:
            self.heldout.append((self.step, mean_loss(self.model, self.prepared.heldout)))
        return True

    def words(self) -> str:
        """The step and the last losses in one line."""
        recent = self.losses[-self.steps_per_epoch :]
        heldout = f", held out {self.heldout[-1][1]:.4f}" if self.heldout else ""
        return f"step {self.step} of {self.steps}: loss {sum(recent) / len(recent):.4f} (last epoch){heldout}"

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds: parameters, optimiser vectors, step (), losses (steps,), settings as bytes (n,)."""
        settings = json.dumps(self._settings(), sort_keys=True).encode("ascii")
        arrays = {f"param.{name}": p.value for name, p in self.model.params.named.items()}
        arrays |= {f"optimiser.{name}": value for name, value in self.optimiser.state().items()}
        arrays["step"] = np.array(self.step, dtype=np.int64)
        arrays["losses"] = np.array(self.losses, dtype=np.float64)
        arrays["heldout.step"] = np.array([step for step, _ in self.heldout], dtype=np.int64)
        arrays["heldout.loss"] = np.array([loss for _, loss in self.heldout], dtype=np.float64)
        return arrays | {"settings": np.frombuffer(settings, dtype=np.uint8)}

    def restore(self, arrays: dict[str, np.ndarray], where: str) -> None:
        """Go on from a checkpoint's arrays, of the shapes of `state`; UserError if it is of another configuration."""
        refuse_other(stored_settings(arrays, where), self._settings(), f"{where} is of a training with")
        load_parameters(self.model, arrays, where)
        for name, value in self.optimiser.state().items():
            value[...] = _expect(arrays, f"optimiser.{name}", value.shape, value.dtype, where)
        step = int(_expect(arrays, "step", (), np.int64, where))
        if not 0 <= step <= self.steps:
            raise UserError(f"{where}: the step is {step}, allowed: 0 .. {self.steps}; train again with --overwrite")
        losses = _expect(arrays, "losses", (step,), np.float64, where)
        measured = arrays.get("heldout.step", np.empty(0))
        heldout = _expect(arrays, "heldout.loss", measured.shape, np.float64, where)
        self.step, self.losses = step, losses.tolist()
        self.heldout = list(zip(measured.tolist(), heldout.tolist(), strict=True))

    def _settings(self) -> dict:
        """Everything that decides the parameters: sections of the configuration and digests of the vocabularies."""
        return settings_of(self.config, self.prepared.source_vocab, self.prepared.target_vocab)


def build(model: ModelConfig, source_vocab: dict[str, int], target_vocab: dict[str, int], seed: int = 0) -> Seq2Seq:
    """The model of a configuration, with parameters drawn from the seed."""
    sizes = Sizes(
        source_words=len(source_vocab),
        target_words=len(target_vocab),
        d_model=model.d_model,
        n_head=model.n_head,
        n_layer=model.n_layer,
        d_ff=model.d_ff,
        pre_norm=model.pre_norm,
    )
    return Seq2Seq(sizes, np.random.default_rng(seed), np.dtype(model.dtype))


def mean_loss(model: Seq2Seq, pairs: list[Pair]) -> float:
    """The loss of all pairs, in nats per target token."""
    total, count = 0.0, 0
    for start in range(0, len(pairs), ROWS):
        batch = make_batch(pairs[start : start + ROWS])
        loss, _ = cross_entropy_masked(model.forward(batch), batch.Y_out, batch.M_tgt)
        places = int(batch.M_tgt.sum())
        total, count = total + loss * places, count + places
    return total / count


def settings_of(config: Config, source_vocab: dict[str, int], target_vocab: dict[str, int]) -> dict:
    """What a checkpoint says about itself: the sections of its configuration, and digests of the vocabularies."""
    words = {"source_words": _words_digest(source_vocab), "target_words": _words_digest(target_vocab)}
    return {**config.settings(), "data": data_settings(config), "vocabularies": words}


def stored_settings(arrays: dict[str, np.ndarray], where: str) -> dict:
    """The settings in a checkpoint's arrays: bytes (n,) of JSON."""
    try:
        settings = json.loads(arrays["settings"].astype(np.uint8).tobytes().decode("ascii"))
        if isinstance(settings, dict):
            return settings
    except (KeyError, ValueError, RecursionError):
        pass
    raise UserError(f"{where} holds no settings, so it is no checkpoint of `translate`; train again with --overwrite")


def load_parameters(model: Seq2Seq, arrays: dict[str, np.ndarray], where: str) -> None:
    """Copy a checkpoint's parameters, each of its model's shape, into the model."""
    for name, p in model.params.named.items():
        p.value[...] = _expect(arrays, f"param.{name}", p.value.shape, p.value.dtype, where)


def _expect(arrays: dict[str, np.ndarray], name: str, shape: tuple, dtype, where: str) -> np.ndarray:
    """An array of a checkpoint, which must be there with this shape and dtype, and be finite."""
    array = arrays.get(name)
    if array is None or array.shape != shape or array.dtype != dtype or not np.isfinite(array).all():
        got = "nothing" if array is None else f"{array.dtype} {array.shape}"
        raise UserError(
            f"{where}: {name}: got {got}, allowed: finite {np.dtype(dtype)} {shape}; train again with --overwrite"
        )
    return array


def _words_digest(vocab: dict[str, int]) -> str:
    """SHA-256 of the words of a vocabulary, in their order."""
    return hashlib.sha256(json.dumps(list(vocab)).encode("ascii")).hexdigest()


class StopRequest:
    """`with StopRequest() as stop:` a Ctrl-C or SIGTERM sets stop.asked, so that a step is not cut in half.

    A second Ctrl-C ends the program at once. In a thread that may not catch signals nothing changes.
    """

    def __init__(self):
        """Nothing is asked yet."""
        self.asked = False
        self._old = {}

    def __enter__(self) -> StopRequest:
        """Take the signals."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *error) -> None:
        """Give the signals back."""
        for number, handler in self._old.items():
            with contextlib.suppress(TypeError):  # a handler that was not set from Python
                signal.signal(number, handler)

    def _ask(self, number, frame) -> None:
        """The first signal asks; a second one interrupts."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

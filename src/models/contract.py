"""The model contract: `ARModel` (what the harness sees), `Mixer` (what a user writes) and the decoding state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from src.models.sampling import check_sampling, sample

State = tuple


class BlockDefaults(NamedTuple):
    """What `auto` means for a layer: the norm before it, its MLP's hidden width in multiples of d_model (0 = none), the width of the short
    convolution (0 = none, -1 = the layer has a flag of its own)."""

    norm: str = "layer"
    ffn_ratio: float = 4
    short_conv: int = 0


class Mixer(nn.Module):
    """A sequence layer: `forward(x: (B, T, D)) -> (B, T, D)`, causal, is all that must be written.

    Built as `MyMixer(args)`: `args` is the run configuration (args.d_model, args.n_head, and the fields of the class's own
    `Config` dataclass, which become flags). It initialises itself; the backbone overwrites nothing.

    Without `init_state` / `step`, decoding replays the whole prefix through `forward` (correct, O(T) a token, `cache = replay`).
    A mixer that defines `step` defines `init_state` too, and may define `prefill` where the parallel form can give the state.
    """

    Config: type | None = None
    positions: tuple[str, ...] = ()  # position encodings that the mixer applies itself: of "rope", "alibi"
    default_pos = "none"
    has_heads = False
    ops: tuple[str, ...] = ()  # those of src/ops that it calls, so that a run records which backend computed them
    own_conv = False  # True where the mixer reads args.short_conv itself (on q, k, v); else the block convolves the mixer's input
    published: BlockDefaults = BlockDefaults()

    def __init__(self, args=None):
        """A layer without parameters needs no __init__ of its own."""
        super().__init__()

    def forward(self, x):
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, x): (B, T, D) -> (B, T, D)")

    @classmethod
    def kinds(cls, args) -> dict[str, str]:
        """{op: the kind in which it is called}, for ops whose backend depends on that."""
        return {}

    @classmethod
    def cache_kind(cls) -> str:
        """ "own" when the class decodes by its own step, else "replay"."""
        return "replay" if cls.step is Mixer.step else "own"

    def init_state(self, batch_size: int, max_len: int) -> State:
        """State before the first token, for at most max_len tokens. Here: an empty prefix buffer, allocated at the first step."""
        return (None, max_len)

    def step(self, x, state: State):
        """One token: x (B, D), state -> y (B, D), state. Here: append to the prefix and run `forward` on all of it."""
        prefix, max_len = state
        prefix = x[:, None] if prefix is None else torch.cat([prefix, x[:, None]], dim=1)
        return self.forward(prefix)[:, -1], (prefix, max_len)

    def prefill(self, x, state: State):
        """Several tokens: x (B, T, D), state -> y (B, T, D), state. Here: one forward when replaying, else a loop over `step`."""
        if self.cache_kind() == "replay":
            prefix, max_len = state
            prefix = x if prefix is None else torch.cat([prefix, x], dim=1)
            return self.forward(prefix)[:, -x.shape[1] :], (prefix, max_len)
        outputs = []
        for t in range(x.shape[1]):
            y, state = self.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state


def state_tensors(state) -> Iterable[torch.Tensor]:
    """All tensors of a nested state."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, (tuple, list)):
        for part in state:
            yield from state_tensors(part)


def state_bytes(state) -> int:
    """Bytes held by a live state: measured, never declared. A storage shared by several views counts once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state_tensors(state)}
    return sum(storages.values())


@torch.inference_mode()
def state_after(model: ARModel, tokens: int) -> State:
    """The live decoding state of one sequence after `tokens` tokens, from `init_state(1, tokens)`."""
    training = model.training
    device = next(model.parameters()).device
    _, state = model.eval().prefill(torch.ones(1, tokens, dtype=torch.long, device=device), model.init_state(1, tokens))
    model.train(training)
    return state


class ARModel(nn.Module):
    """An autoregressive model over characters. A whole model of the user's own subclasses this and writes `forward`.

    Built as `MyModel(vocab_size, args)`. `self.max_len` (tokens) bounds a position table; None where there is no bound.
    """

    Config: type | None = None
    positions: tuple[str, ...] = ()
    default_pos = "none"
    has_heads = False
    ops: tuple[str, ...] = ()
    max_len: int | None = None

    def forward(self, x, attn_mask=None):
        """Token ids x (B, T) -> logits (B, T, C). attn_mask (B, T) bool marks real tokens; padding stands on the right,
        where a causal model cannot see it, so the mask changes nothing before it."""
        raise NotImplementedError(
            f"{type(self).__name__} must define forward(self, x, attn_mask=None): (B, T) -> (B, T, vocab)"
        )

    @classmethod
    def cache_kind(cls) -> str:
        return "replay" if cls.step is ARModel.step else "own"

    def logits_at(self, x, index=None):
        """Logits (N, C) at flat positions `index` of (B * T), all where None. The backbone runs its head only there."""
        logits = self.forward(x).flatten(0, 1)
        return logits if index is None else logits[index]

    def loss_fn(self, batch, label_smoothing: float = 0.0):
        """Mean cross-entropy in nats over the trained positions of a batch, and aux: their logits, targets and flat index.

        batch.x, batch.y (B, T) int64; batch.index (N,) flat positions where y is trained, or None for all of them.
        """
        logits = self.logits_at(batch.x, batch.index)
        target = batch.y.flatten() if batch.index is None else batch.y.flatten()[batch.index]
        loss = F.cross_entropy(logits.float(), target, label_smoothing=label_smoothing)
        return loss, {"logits": logits, "target": target, "index": batch.index}

    def init_state(self, batch_size: int, max_len: int) -> State:
        return (None, max_len)

    def step(self, ids, state: State):
        """One token: ids (B,), state -> logits (B, C), state. Here: replay the prefix."""
        logits, state = self.prefill(ids[:, None], state)
        return logits[:, -1], state

    def prefill(self, x, state: State):
        """Several tokens: x (B, T), state -> logits (B, T, C), state."""
        prefix, max_len = state
        prefix = x if prefix is None else torch.cat([prefix, x], dim=1)
        return self.forward(prefix)[:, -x.shape[1] :], (prefix, max_len)

    @torch.inference_mode()
    def generate(
        self,
        prompt_ids,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        stop_id: int | None = None,
        generator: torch.Generator | None = None,
    ):
        """Continue prompts (B, T) by at most max_new_tokens with cached decoding; returns the new ids (B, <= max_new_tokens).

        temperature 0 is greedy.  top_k: only the k likeliest.  top_p: the smallest set whose probability reaches p.
        Rows are filled with stop_id after their first stop_id, and decoding ends when every row has one.
        Raises ValueError for an empty prompt, a temperature below 0, top_k below 1, top_p outside (0, 1], or more tokens than a position
        table holds.
        """
        check_sampling(temperature, top_k, top_p)
        if prompt_ids.dim() != 2 or 0 in prompt_ids.shape:
            raise ValueError(
                f"prompt_ids: got shape {tuple(prompt_ids.shape)}, allowed: (B, T) with at least one token, <bos>"
            )
        total = prompt_ids.shape[1] + max_new_tokens
        if self.max_len is not None and total - 1 > self.max_len:
            raise ValueError(
                f"{prompt_ids.shape[1]} prompt tokens and {max_new_tokens} new ones exceed the learned position table of {self.max_len}; "
                "ask for fewer, or train with --pos sinusoidal, rope, alibi or none"
            )
        if max_new_tokens < 1:
            return prompt_ids[:, :0]
        training = self.training
        self.eval()
        try:
            return self._continue(
                prompt_ids, max_new_tokens, stop_id, lambda logits: sample(logits, temperature, top_k, top_p, generator)
            )
        finally:
            self.train(training)

    def _continue(self, prompt_ids, max_new_tokens: int, stop_id: int | None, draw):
        """The loop of `generate`; draw: logits (B, C) -> ids (B,)."""
        logits, state = self.prefill(prompt_ids, self.init_state(len(prompt_ids), prompt_ids.shape[1] + max_new_tokens))
        logits = logits[:, -1]
        done = torch.zeros(len(prompt_ids), dtype=torch.bool, device=prompt_ids.device)
        new = []
        for i in range(max_new_tokens):
            ids = draw(logits)
            if stop_id is not None:
                ids = torch.where(done, stop_id, ids)
                done |= ids == stop_id
            new.append(ids)
            if i + 1 == max_new_tokens or (stop_id is not None and bool(done.all())):
                break
            logits, state = self.step(ids, state)
        return torch.stack(new, dim=1)

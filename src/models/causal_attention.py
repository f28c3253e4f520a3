"""What softmax attention layers share: the cache of keys and values, positions inside attention, and decoding.

    paper    here       shape                  meaning
    Q        q          (B, H, T, K)           queries; this file puts heads before time
    K, V     k, v       (B, H_kv, T, K)        keys and values; H / H_kv neighbouring query heads share one of them
             cache      (2, B, H_kv, S, K)     keys and values of the past, S = max_len, or the window
    m        slopes     (H,)                   penalty per token of distance, one per head (ALiBi)

    o_t = sum_{s <= t} softmax_s( q_t^T k_s / sqrt(K) + bias(t - s) ) v_s

A layer writes `_project` and `_output`, the maps before and after this sum (src/models/transformer.py,
src/models/llama.py). With a window the cache is a ring: the token at position t is in slot t mod window.

Sources: shared keys and values, Shazeer 2019, arXiv:1911.02150, and Ainslie et al. 2023, arXiv:2305.13245, section 2.2.
The window, Child et al. 2019, arXiv:1904.10509, and Beltagy et al. 2020, arXiv:2004.05150, section 3.1. ALiBi, Press et
al. 2022, arXiv:2108.12409, section 3.

src/ops/attention computes the sum. Cost per token O(T H K). State: 2 T H_kv K numbers per layer and sequence, and
2 W H_kv K with a window of W.
"""

from __future__ import annotations

import math

import torch

from src.models.contract import Mixer, State
from src.models.short_conv import ShortConv
from src.ops.attention import attention


class CausalAttention(Mixer):
    """Causal multi-head attention without its maps.

    State: (keys and values (2, B, H_kv, max_len or window, K), tokens so far, the short convolution's window or None).
    """

    has_heads = True
    ops: tuple[str, ...] = ("attention",)
    n_head: int  # these are set by the subclass
    n_kv_head: int
    head_size: int
    window: int
    dropout: float
    backend: str
    pos: str
    conv: ShortConv | None
    slopes: torch.Tensor  # where pos is "alibi"

    def _project(self, x, start: int, seen):
        """x (B, T, D) at positions start .. start + T - 1 -> q (B, H, T, K), k, v (B, H_kv, T, K), and `seen`.

        seen: the window of the short convolution, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define _project(self, x, start, seen)")

    def _output(self, y):
        """The outputs of all heads, y (..., H K), mapped onto the residual stream (..., D)."""
        raise NotImplementedError(f"{type(self).__name__} must define _output(self, y)")

    def forward(self, x):
        q, k, v, _ = self._project(x, 0, None)
        return self._attend(q, k, v)

    def init_state(self, batch_size: int, max_len: int) -> State:
        """An empty cache in the dtype that keys and values will have: autocast's where it is on, else the weights'."""
        weight = next(self.parameters())
        device_type = weight.device.type
        dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else weight.dtype
        slots = self.window or max_len
        cache = torch.empty(2, batch_size, self.n_kv_head, slots, self.head_size, dtype=dtype, device=weight.device)
        return cache, 0, None if self.conv is None else self.conv.init_state(batch_size)

    def prefill(self, x, state: State):
        cache, start, seen = state
        q, k, v, seen = self._project(x, start, seen)
        end = start + x.shape[1]
        if self.window:
            past = self._ring_order(cache, start)
            self._write_ring(cache, k, v, end)
            if start:
                k, v = (torch.cat(pair, dim=2) for pair in zip(past.to(k.dtype), (k, v), strict=True))
        else:
            keys, values = room(cache, end).unbind(0)
            keys[:, :, start:] = k
            values[:, :, start:] = v
            if start:
                k, v = keys, values
        return self._attend(q, k, v), (cache, end, seen)

    def step(self, x, state: State):
        cache, start, seen = state
        q, k, v, seen = self._project(x[:, None], start, seen)
        filled = min(start + 1, self.window) if self.window else start + 1
        keys, values = room(cache, filled).unbind(0)
        slot = start % self.window if self.window else start
        keys.narrow(2, slot, 1).copy_(k)
        values.narrow(2, slot, 1).copy_(v)
        bias = None
        if self.pos == "alibi":
            # A ring overwrites its oldest slot, so distances wrap around.
            distance = (slot - torch.arange(filled, device=x.device)) % (self.window or start + 1)
            bias = -self.slopes[:, None, None] * distance
        return self._mix_one(q, keys, values, bias), (cache, start + 1, seen)

    def _ring_order(self, cache, tokens: int):
        """A copy of the keys and values (2, B, H_kv, up to window, K) of a ring after `tokens` tokens, oldest first."""
        if tokens <= self.window:
            return cache[:, :, :, :tokens].clone()
        return cache.roll(-(tokens % self.window), dims=3)

    def _write_ring(self, cache, k, v, end: int) -> None:
        """Put the last keys and values (B, H_kv, S, K), which end at position `end`, into their slots."""
        n = min(self.window, k.shape[2])
        slots = torch.arange(end - n, end, device=k.device) % self.window
        cache[:, :, :, slots] = torch.stack([k[:, :, -n:], v[:, :, -n:]]).to(cache.dtype)

    def _attend(self, q, k, v):
        """Outputs (B, S, D) of queries (B, H, S, K), which are the last S of the T positions of keys and values."""
        bias = alibi_bias(self.slopes, q.shape[2], k.shape[2]) if self.pos == "alibi" else None
        return self._mix(q, k, v, bias, self.window)

    def _mix(self, q, k, v, bias, window: int):
        y = attention(
            q, k, v, bias=bias, window=window, dropout_p=self.dropout, training=self.training, backend=self.backend
        )
        return self._output(y.transpose(1, 2).flatten(2))

    def _mix_one(self, q, k, v, bias):
        """`_mix` for one query, which sees all keys: q (B, H, 1, K) -> (B, D)."""
        y = attention(q, k, v, bias=bias, dropout_p=self.dropout, training=self.training, backend=self.backend)
        return self._output(y.view(len(y), -1))


def room(cache, end: int):
    """A view of the first `end` slots of a cache: (2, B, H_kv, end, K)."""
    if end > cache.shape[3]:
        raise ValueError(f"{end} tokens do not fit a cache for {cache.shape[3]}; give init_state a larger max_len")
    return cache.narrow(3, 0, end)


def alibi_slopes(n_head: int):
    """One slope per head (H,): 2^(-8/n), 2^(-16/n), ... for n heads, a power of two.

    Other counts take the slopes of the power below, then every second one of the next power. Press et al. 2022, section
    3, and their released code for other counts.
    """

    def powers(n):
        return [2.0 ** (-8.0 * i / n) for i in range(1, n + 1)]

    below = 2 ** int(math.log2(n_head))
    return torch.tensor((powers(below) + powers(2 * below)[::2])[:n_head])


def alibi_bias(slopes, queries: int, keys: int):
    """-slope x distance for the last `queries` of `keys` positions: (H, queries, keys). The op masks later keys."""
    at = torch.arange(keys, device=slopes.device)
    distance = at[keys - queries :, None] - at
    return -slopes[:, None, None] * distance

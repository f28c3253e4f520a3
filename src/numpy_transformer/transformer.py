"""The Transformer: encoder layer, decoder layer, encoder, decoder, and the model that joins them.

    encoder layer:  x = x + attention(norm(x), itself) ,   x = x + feed_forward(norm(x))
    decoder layer:  the same, its attention sees the past only, and between the two  x = x + attention(norm(x), encoder)

That is `pre_norm`, with one more norm after the last layer. Without it the norm comes after each sum, as in the paper:
x = norm(x + attention(x, itself)).

Source: Vaswani et al. 2017, arXiv:1706.03762, section 3; pre-norm as in Xiong et al. 2020, arXiv:2002.04745. Differs
from Vaswani et al.: GELU for ReLU, no dropout, the head has a table of its own and no bias, and embeddings start with
standard deviation 1 in place of a scale sqrt(D).

Cost of a training step: O(B (S + T) D (D + F) + B (S + T)^2 D) per layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from src.numpy_transformer.attention import MultiHeadAttention
from src.numpy_transformer.datasets import Batch
from src.numpy_transformer.layers import Embedding, LayerNorm, Linear, gelu, gelu_backward, sinusoids
from src.numpy_transformer.losses import cross_entropy_masked
from src.numpy_transformer.mask import causal, key_pad
from src.numpy_transformer.parameters import Parameters
from src.numpy_transformer.tokenization import BOS, EOS, PAD


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model. d_model (D) must be a multiple of n_head (H); d_ff is F; vocabularies are counted in words.

    cross_attention=False leaves out what sees the encoder: the decoder is then a language model.
    """

    source_words: int
    target_words: int
    d_model: int
    n_head: int
    n_layer: int
    d_ff: int
    pre_norm: bool = True
    cross_attention: bool = True


class Residual:
    """A sublayer with its norm and the sum around it.

    pre_norm: y = x + f(norm(x)).  Otherwise: y = norm(x + f(x)).
    """

    def __init__(self, params: Parameters, name: str, sizes: Sizes):
        """Add the norm `name`.gain and `name`.bias (D,)."""
        self.pre_norm = sizes.pre_norm
        self.norm = LayerNorm(params, name, sizes.d_model)

    def forward(self, x: np.ndarray, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """x (B, T, D) -> (B, T, D). f: a function (B, T, D) -> (B, T, D)."""
        if self.pre_norm:
            return x + f(self.norm.forward(x))
        return self.norm.forward(x + f(x))

    def backward(self, dy: np.ndarray, f_backward: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """dy (B, T, D) -> dx (B, T, D): the gradient takes both ways of the sum, past f and through it."""
        if self.pre_norm:
            return dy + self.norm.backward(f_backward(dy))
        dsum = self.norm.backward(dy)
        return dsum + f_backward(dsum)


class FeedForward:
    """down(gelu(up(x))), for each token alone."""

    def __init__(self, params: Parameters, name: str, sizes: Sizes, rng: np.random.Generator):
        """Add `name`.up (D, F) and `name`.down (F, D)."""
        self.up = Linear(params, f"{name}.up", sizes.d_model, sizes.d_ff, rng)
        self.down = Linear(params, f"{name}.down", sizes.d_ff, sizes.d_model, rng)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """x (B, T, D) -> (B, T, D)."""
        hidden, self.saved = gelu(self.up.forward(x))
        return self.down.forward(hidden)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """dy (B, T, D) -> dx (B, T, D): the same maps, last one first."""
        return self.up.backward(gelu_backward(self.down.backward(dy), self.saved))


class EncoderLayer:
    """Self-attention, then the feed-forward layer."""

    def __init__(self, params: Parameters, name: str, sizes: Sizes, rng: np.random.Generator):
        """Add the parameters of both parts, and of their norms, under `name`."""
        self.attention = MultiHeadAttention(params, f"{name}.attention", sizes.d_model, sizes.n_head, rng)
        self.around_attention = Residual(params, f"{name}.norm1", sizes)
        self.feed_forward = FeedForward(params, f"{name}.ff", sizes, rng)
        self.around_feed_forward = Residual(params, f"{name}.norm2", sizes)

    def forward(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """x (B, S, D), mask (B, 1, 1, S) -> (B, S, D)."""
        x = self.around_attention.forward(x, lambda h: self.attention.forward(h, h, mask))
        return self.around_feed_forward.forward(x, self.feed_forward.forward)

    def backward(self, dy: np.ndarray) -> np.ndarray:
        """dy (B, S, D) -> dx (B, S, D). Queries and keys come from one x, so their gradients add up."""
        dy = self.around_feed_forward.backward(dy, self.feed_forward.backward)
        return self.around_attention.backward(dy, lambda d: sum(self.attention.backward(d)))


@dataclass
class LayerCache:
    """What a decoder layer keeps while it decodes: keys and values (B, H, max_T, K) of the tokens so far.

    memory: keys and values (B, H, S, K) of the encoder's output, computed once; None without cross-attention.
    """

    keys: np.ndarray
    values: np.ndarray
    memory: tuple[np.ndarray, np.ndarray] | None

    def pick(self, rows: np.ndarray) -> LayerCache:
        """The cache of the sentences `rows` (B',), int, in this order; one sentence may come several times."""
        memory = None if self.memory is None else tuple(part[rows] for part in self.memory)
        return LayerCache(self.keys[rows], self.values[rows], memory)


class DecoderLayer:
    """Self-attention to the past, cross-attention to the encoder's output, then the feed-forward layer."""

    def __init__(self, params: Parameters, name: str, sizes: Sizes, rng: np.random.Generator):
        """Add the parameters of the parts, and of their norms, under `name`."""
        self.attention = MultiHeadAttention(params, f"{name}.attention", sizes.d_model, sizes.n_head, rng)
        self.around_attention = Residual(params, f"{name}.norm1", sizes)
        self.cross = None
        if sizes.cross_attention:
            self.cross = MultiHeadAttention(params, f"{name}.cross", sizes.d_model, sizes.n_head, rng)
            self.around_cross = Residual(params, f"{name}.norm_cross", sizes)
        self.feed_forward = FeedForward(params, f"{name}.ff", sizes, rng)
        self.around_feed_forward = Residual(params, f"{name}.norm2", sizes)

    def forward(
        self, y: np.ndarray, memory: np.ndarray | None, self_mask: np.ndarray, memory_mask: np.ndarray | None
    ) -> np.ndarray:
        """y (B, T, D), memory (B, S, D) -> (B, T, D). self_mask: fits (B, H, T, T).  memory_mask: (B, 1, 1, S)."""
        y = self.around_attention.forward(y, lambda h: self.attention.forward(h, h, self_mask))
        if self.cross is not None:
            y = self.around_cross.forward(y, lambda h: self.cross.forward(h, memory, memory_mask))
        return self.around_feed_forward.forward(y, self.feed_forward.forward)

    def backward(self, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """dy (B, T, D) -> (dx (B, T, D), dmemory (B, S, D), or None without cross-attention)."""
        dmemory = None

        def cross_backward(d: np.ndarray) -> np.ndarray:
            """d (B, T, D) -> the gradient of the queries (B, T, D); that of the memory is kept aside."""
            nonlocal dmemory
            dx, dmemory = self.cross.backward(d)
            return dx

        dy = self.around_feed_forward.backward(dy, self.feed_forward.backward)
        if self.cross is not None:
            dy = self.around_cross.backward(dy, cross_backward)
        return self.around_attention.backward(dy, lambda d: sum(self.attention.backward(d))), dmemory

    def start(self, memory: np.ndarray, max_T: int) -> LayerCache:
        """An empty cache for max_T tokens, with the keys and values of memory (B, S, D)."""
        heads = self.attention.n_head
        shape = (len(memory), heads, max_T, memory.shape[-1] // heads)
        keys, values = np.empty(shape, memory.dtype), np.empty(shape, memory.dtype)
        return LayerCache(keys, values, None if self.cross is None else self.cross.keys_and_values(memory))

    def step(self, y: np.ndarray, cache: LayerCache, t: int, memory_mask: np.ndarray | None) -> np.ndarray:
        """The token at position t: y (B, 1, D) -> (B, 1, D). Its key and value are written into the cache."""

        def attend_to_past(h: np.ndarray) -> np.ndarray:
            """h (B, 1, D) -> (B, 1, D), over positions 0 .. t."""
            k, v = self.attention.keys_and_values(h)
            cache.keys[:, :, t], cache.values[:, :, t] = k[:, :, 0], v[:, :, 0]
            return self.attention.step(h, cache.keys[:, :, : t + 1], cache.values[:, :, : t + 1])

        y = self.around_attention.forward(y, attend_to_past)
        if self.cross is not None:
            y = self.around_cross.forward(y, lambda h: self.cross.step(h, *cache.memory, memory_mask))
        return self.around_feed_forward.forward(y, self.feed_forward.forward)


class Encoder:
    """Embedding, positions, layers, and with pre_norm a last norm."""

    def __init__(self, params: Parameters, sizes: Sizes, rng: np.random.Generator):
        """Add all parameters under `encoder`."""
        self.embedding = Embedding(params, "encoder.embedding", sizes.source_words, sizes.d_model, rng)
        self.layers = [EncoderLayer(params, f"encoder.{i}", sizes, rng) for i in range(sizes.n_layer)]
        self.norm = LayerNorm(params, "encoder.norm", sizes.d_model) if sizes.pre_norm else None

    def forward(self, X_ids: np.ndarray, M_src: np.ndarray) -> np.ndarray:
        """X_ids (B, S) int, M_src (B, S) bool, True at real tokens -> (B, S, D)."""
        x = _embed(self.embedding, X_ids)
        for layer in self.layers:
            x = layer.forward(x, key_pad(M_src))
        return x if self.norm is None else self.norm.forward(x)

    def backward(self, dx: np.ndarray) -> None:
        """dx (B, S, D), the gradient of the output. Writes the gradients of all parameters."""
        if self.norm is not None:
            dx = self.norm.backward(dx)
        for layer in reversed(self.layers):
            dx = layer.backward(dx)
        self.embedding.backward(dx)


class Decoder:
    """Embedding, positions, layers, with pre_norm a last norm; then a map to one logit for each word."""

    def __init__(self, params: Parameters, sizes: Sizes, rng: np.random.Generator):
        """Add all parameters under `decoder`, and the map `head`.w (D, V)."""
        self.embedding = Embedding(params, "decoder.embedding", sizes.target_words, sizes.d_model, rng)
        self.layers = [DecoderLayer(params, f"decoder.{i}", sizes, rng) for i in range(sizes.n_layer)]
        self.norm = LayerNorm(params, "decoder.norm", sizes.d_model) if sizes.pre_norm else None
        self.head = Linear(params, "head", sizes.d_model, sizes.target_words, rng, bias=False)

    def forward(
        self,
        Y_in: np.ndarray,
        memory: np.ndarray | None,
        M_src: np.ndarray | None,
        M_tgt: np.ndarray | None = None,
    ) -> np.ndarray:
        """Y_in (B, T) int, memory (B, S, D), M_src (B, S), M_tgt (B, T) bool -> (B, T, D).

        Without cross-attention, memory and M_src are None. Without M_tgt only the future is hidden. At real tokens the
        result is the same, because padding comes after them.
        """
        y = _embed(self.embedding, Y_in)
        self_mask = causal(Y_in.shape[1])
        if M_tgt is not None:
            self_mask = self_mask & key_pad(M_tgt)
        memory_mask = None if M_src is None else key_pad(M_src)
        for layer in self.layers:
            y = layer.forward(y, memory, self_mask, memory_mask)
        return y if self.norm is None else self.norm.forward(y)

    def backward(self, dy: np.ndarray) -> np.ndarray | None:
        """dy (B, T, D), the gradient of the output -> dmemory (B, S, D): the sum over layers, which all see it."""
        if self.norm is not None:
            dy = self.norm.backward(dy)
        total = None
        for layer in reversed(self.layers):
            dy, dmemory = layer.backward(dy)
            total = dmemory if total is None else total + dmemory
        self.embedding.backward(dy)
        return total

    def step(self, ids: np.ndarray, caches: list[LayerCache], t: int, M_src: np.ndarray) -> np.ndarray:
        """Logits (B, V) after the tokens ids (B,) at position t. Keys and values go into the caches."""
        y = _embed(self.embedding, ids[:, None], t)
        for layer, cache in zip(self.layers, caches, strict=True):
            y = layer.step(y, cache, t, key_pad(M_src))
        y = y if self.norm is None else self.norm.forward(y)
        return self.head.forward(y)[:, 0]


class Seq2Seq:
    """The encoder-decoder. `forward` gives logits, `backward` writes the gradients of all parameters."""

    def __init__(self, sizes: Sizes, rng: np.random.Generator, dtype=np.float32):
        """sizes: see `Sizes`.  rng: draws the initial parameters.  dtype: np.float32, or np.float64 for checks.

        Raises ValueError if n_head does not divide d_model.
        """
        if sizes.d_model % sizes.n_head:
            raise ValueError(f"n_head: got {sizes.n_head}, allowed: a divisor of d_model={sizes.d_model}")
        self.sizes = sizes
        self.params = Parameters(dtype)
        self.encoder = Encoder(self.params, sizes, rng) if sizes.cross_attention else None
        self.decoder = Decoder(self.params, sizes, rng)
        self.params.pack()

    def encoder_forward(self, X_ids: np.ndarray, M_src: np.ndarray) -> np.ndarray:
        """Source ids X_ids (B, S) int, M_src (B, S) bool, True at real tokens -> the memory (B, S, D)."""
        return self.encoder.forward(X_ids, M_src)

    def decoder_forward(
        self,
        Y_in: np.ndarray,
        memory: np.ndarray | None,
        M_src: np.ndarray | None,
        M_tgt: np.ndarray | None = None,
    ) -> np.ndarray:
        """Target ids Y_in (B, T) int, which begin with <bos>, and the memory (B, S, D) -> hidden states (B, T, D)."""
        return self.decoder.forward(Y_in, memory, M_src, M_tgt)

    def logits_forward(self, hidden: np.ndarray) -> np.ndarray:
        """Hidden states (B, T, D) -> one logit for each target word (B, T, V)."""
        return self.decoder.head.forward(hidden)

    def forward(self, batch: Batch) -> np.ndarray:
        """Logits (B, T, V) of a batch: at each place of Y_in, for the word that comes next."""
        memory = self.encoder_forward(batch.X_ids, batch.M_src) if self.encoder is not None else None
        M_src = batch.M_src if self.encoder is not None else None
        return self.logits_forward(self.decoder_forward(batch.Y_in, memory, M_src, batch.M_tgt))

    def backward(self, dlogits: np.ndarray) -> None:
        """dlogits (B, T, V) of the last `forward`. Writes the gradients of all parameters into `params.grads`."""
        dmemory = self.decoder.backward(self.decoder.head.backward(dlogits))
        if self.encoder is not None:
            self.encoder.backward(dmemory)

    def loss_and_gradients(self, batch: Batch) -> float:
        """The loss in nats per target token. `params.grads` (number of parameters,) then holds the gradients."""
        loss, dlogits = cross_entropy_masked(self.forward(batch), batch.Y_out, batch.M_tgt)
        self.backward(dlogits)
        return loss

    def greedy_decode(self, X_ids: np.ndarray, M_src: np.ndarray, max_T: int) -> np.ndarray:
        """Always the likeliest next word: X_ids (B, S) int, M_src (B, S) bool -> ids (B, at most max_T) int32.

        A row ends with <eos>, and <pad> after it, or has max_T words without one. Each token passes the decoder once,
        because the layers keep keys and values. The words <pad> and <bos> are never chosen.
        """
        caches = self.start(X_ids, M_src, max_T)
        ids = np.full(len(X_ids), BOS, dtype=np.int32)
        out = np.full((len(X_ids), max_T), PAD, dtype=np.int32)
        alive = np.ones(len(X_ids), dtype=bool)
        for t in range(max_T):
            ids = self.next_logits(ids, caches, t, M_src).argmax(axis=-1).astype(np.int32)
            out[alive, t] = ids[alive]
            alive &= ids != EOS
            if not alive.any():
                return out[:, : t + 1]
        return out

    def start(self, X_ids: np.ndarray, M_src: np.ndarray, max_T: int) -> list[LayerCache]:
        """Encode X_ids (B, S) with M_src (B, S). Returns one empty cache for each decoder layer, for max_T tokens."""
        memory = self.encoder_forward(X_ids, M_src)
        return [layer.start(memory, max_T) for layer in self.decoder.layers]

    def next_logits(self, ids: np.ndarray, caches: list[LayerCache], t: int, M_src: np.ndarray) -> np.ndarray:
        """Logits (B, V) of the words after ids (B,) at position t; -inf for <pad> and <bos>, which nobody writes."""
        logits = self.decoder.step(ids, caches, t, M_src)
        logits[:, [PAD, BOS]] = -np.inf
        return logits


def _embed(embedding: Embedding, ids: np.ndarray, start: int = 0) -> np.ndarray:
    """Embeddings plus sinusoids of ids (B, T) at the positions start .. start + T - 1: (B, T, D)."""
    rows = embedding.forward(ids)
    return rows + sinusoids(start, start + ids.shape[1], rows.shape[-1], rows.dtype)

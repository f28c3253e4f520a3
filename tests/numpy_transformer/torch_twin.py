"""The network of src/numpy_transformer written with torch's own layers, and a copy of the parameters into it."""

import torch
import torch.nn.functional as F
from torch import nn

from src.numpy_transformer.layers import sinusoids


class TwinLayer(nn.Module):
    """One encoder or decoder layer, of nn.MultiheadAttention, nn.LayerNorm and nn.Linear."""

    def __init__(self, sizes, has_cross):
        super().__init__()
        D = sizes.d_model
        self.pre_norm = sizes.pre_norm
        self.attention = nn.MultiheadAttention(D, sizes.n_head, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        if has_cross:
            self.cross = nn.MultiheadAttention(D, sizes.n_head, batch_first=True)
            self.norm_cross = nn.LayerNorm(D)
        self.up, self.down = nn.Linear(D, sizes.d_ff), nn.Linear(sizes.d_ff, D)

    def around(self, norm, x, f):
        return x + f(norm(x)) if self.pre_norm else norm(x + f(x))

    def forward(self, x, memory=None, memory_hidden=None, self_hidden=None, causal=None):
        """hidden: (B, S) bool, True at padding.  causal: (T, T) bool, True at the future."""

        def attend(h):
            masks = {"key_padding_mask": self_hidden, "attn_mask": causal, "need_weights": False}
            return self.attention(h, h, h, **masks)[0]

        x = self.around(self.norm1, x, attend)
        if memory is not None:
            masks = {"key_padding_mask": memory_hidden, "need_weights": False}
            x = self.around(self.norm_cross, x, lambda h: self.cross(h, memory, memory, **masks)[0])
        return self.around(self.norm2, x, lambda h: self.down(F.gelu(self.up(h))))


class Twin(nn.Module):
    """The encoder-decoder. `loss(batch)` is the mean cross-entropy of the target tokens."""

    def __init__(self, sizes):
        super().__init__()
        D = sizes.d_model
        self.source, self.target = nn.Embedding(sizes.source_words, D), nn.Embedding(sizes.target_words, D)
        self.encoder = nn.ModuleList(TwinLayer(sizes, False) for _ in range(sizes.n_layer))
        self.decoder = nn.ModuleList(TwinLayer(sizes, True) for _ in range(sizes.n_layer))
        self.norm_source = nn.LayerNorm(D) if sizes.pre_norm else nn.Identity()
        self.norm_target = nn.LayerNorm(D) if sizes.pre_norm else nn.Identity()
        self.head = nn.Linear(D, sizes.target_words, bias=False)

    def loss(self, X_ids, hidden_src, Y_in, Y_out, hidden_tgt):
        """ids (B, S) and (B, T) int64; hidden: bool, True at padding. Y_out is -100 at padding."""
        x = self.source(X_ids)
        x = x + positions(x)
        for layer in self.encoder:
            x = layer(x, self_hidden=hidden_src)
        memory = self.norm_source(x)
        y = self.target(Y_in)
        y = y + positions(y)
        causal = torch.ones(y.shape[1], y.shape[1], dtype=torch.bool).triu(1)
        for layer in self.decoder:
            y = layer(y, memory, hidden_src, hidden_tgt, causal)
        return F.cross_entropy(self.head(self.norm_target(y)).flatten(0, 1), Y_out.flatten())


def positions(x):
    """The sinusoids for x (B, T, D): (T, D)."""
    dtype = {torch.float32: "float32", torch.float64: "float64"}[x.dtype]
    return torch.tensor(sinusoids(0, x.shape[1], x.shape[2], dtype))


def torch_batch(batch):
    """The arguments of `Twin.loss` from a Batch."""
    ids = [torch.tensor(a, dtype=torch.int64) for a in (batch.X_ids, batch.Y_in, batch.Y_out)]
    hidden_src, real = ~torch.tensor(batch.M_src), torch.tensor(batch.M_tgt)
    return ids[0], hidden_src, ids[1], ids[2].masked_fill(~real, -100), ~real


def twin_of(model):
    """A Twin with the parameters of a Seq2Seq."""
    twin = Twin(model.sizes).to(torch.tensor(model.params.values).dtype)
    ours = {name: torch.tensor(p.value) for name, p in model.params.named.items()}
    twin.load_state_dict(to_torch_names(ours))
    return twin


def to_torch_names(ours):
    """{our name: tensor} -> {torch's name: tensor}. Our matrices are (inputs, outputs), torch's are the transpose.

    Works for gradients too, because it only transposes and joins.
    """
    found = {}
    for name, value in ours.items():
        if name.endswith((".kv.w", ".kv.b")):
            continue  # joined with q
        if name.endswith((".q.w", ".q.b")):
            joined = torch.cat([value, ours[name.replace(".q.", ".kv.")]], dim=-1)
            found[f"{name[:-4]}.in_proj_{'weight' if name[-1] == 'w' else 'bias'}"] = (
                joined.T if name[-1] == "w" else joined
            )
            continue
        stem, _, last = name.rpartition(".")
        stem = stem.replace(".ff.", ".").replace("n.out", "n.out_proj").replace("cross.out", "cross.out_proj")
        whole = {"encoder.embedding": "source", "decoder.embedding": "target"}
        whole |= {"encoder.norm": "norm_source", "decoder.norm": "norm_target"}
        kind = {"w": "weight", "b": "bias", "gain": "weight", "bias": "bias", "table": "weight"}[last]
        found[f"{whole.get(stem, stem)}.{kind}"] = value.T if last == "w" else value
    return found

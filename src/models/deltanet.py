"""DeltaNet and Gated DeltaNet: linear attention that erases before it writes.

    paper      here            shape           meaning
    x_t        x               (..., D)        input of the layer at token t
    q_t, k_t   q, k            (..., H, K)     query and key, of unit length
    v_t        v               (..., H, V)     value
    beta_t     beta            (..., H)        writing strength: the part of the old value at k_t that is replaced
    alpha_t    exp(decay)      (..., H)        what is kept of the memory; `decay` is its logarithm, <= 0
    S_t        memory          (B, H, K, V)    the memory (the papers write its transpose, V x K)
    o_t        o               (..., H, V)     what the memory returns for the query

    S_t = alpha_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T ,   o_t = S_t^T q_t / sqrt(K)
    q, k, v = SiLU(conv(W x)) ,   q and k at unit length ,   beta_t = sigmoid(W_b x_t)

In words: for the key k_t the memory returns S^T k_t. The delta rule moves this answer towards v_t by the fraction
beta_t. It does not change the answers for keys at right angles to k_t. alpha_t lets the whole memory fade.

- `deltanet`        alpha = 1 and y = W_o RMSNorm_h(o). Keys and values have d_model channels.
                    Yang et al. 2024, arXiv:2406.06484, section 3.3.
- `gated_deltanet`  alpha_t = exp(-exp(A_log) softplus(W_a x_t + dt_bias)) and y = W_o [ silu(W_g x) * RMSNorm_h(o) ].
                    Keys have 3/4 d_model channels and values 3/2 d_model, so the layer has about 6 d_model^2
                    parameters. Yang et al. 2024, arXiv:2412.06464, sections 3.1 and 3.4.

`--neg_eigen` doubles beta. The eigenvalue of the transition along k_t, alpha (1 - beta), is then between -1 and 1
instead of 0 and 1. Grazzi et al. 2024, arXiv:2411.12537.

Initialisation, the same for both layers: torch's for linear maps, as the layers of flash-linear-attention
(fla/layers/delta_net.py, gated_deltanet.py) and of NVlabs/GatedDeltaNet leave them. Its language models then draw these
maps from N(0, 0.02), at widths of 1024 and 2048, where torch's standard deviation is 0.018 and 0.013. Torch's keeps
this scale of the outputs at smaller widths. The first releases of flash-linear-attention had Xavier-uniform with gain
2^(-5/2), about 3 times smaller at every width. exp(A_log) is uniform in (0, 16], softplus(dt_bias)
log-uniform in [0.001, 0.1].

The block has RMSNorm and a SwiGLU MLP with as many parameters as a GELU MLP of 4 x d_model.

Differs from the papers:
- The MLP has biases unless `--bias False`. Theirs have none. `--bias` does not concern the layers themselves.
- Its hidden width is rounded to a multiple of 8 (theirs: 256, upwards). Head sizes that are not whole are rounded up.
- `--n_head` heads of any size. The papers keep the key size of a head (128; 256 for `gated_deltanet`) and add heads.
- Dropout where `--dropout` asks for it, which also acts inside the MLP. The papers have none.
- `--short_conv 0` and `--fair` remove the convolution and keep its SiLU.

Differs from the releases of today:
- The map to beta has no bias, as in flash-linear-attention. NVlabs/GatedDeltaNet has one that starts at zero.
- flash-linear-attention starts all maps and embeddings of its models normal with standard deviation 0.02. Its blocks'
  norms have epsilon 1e-6 (here 1e-5).
- exp(A_log) is never exactly 0, because its logarithm would be infinite.
- Not here: its options for `deltanet` (an output gate, beta = 1, activations of q and k other than SiLU, their norm by
  the sum) and for `gated_deltanet` (no output gate, more value heads than key heads).
- The same: SiLU after the convolution, which has no bias; unit length by 1 / sqrt(sum of squares + 1e-6); a gain of the
  norm per head.

src/ops/delta_rule has the recurrence: reference.py in float64, README.md with the chunked form. Gates, decays and norms
are float32 under autocast. Cost per token O(D^2 + D K). State: the memory in float32 and the last W - 1 inputs of the
convolution, for any T.

    python benchmark.py --task recall --model gated_deltanet --neg_eigen
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from src.flags.fields import option
from src.models.backbone import build, max_len_of
from src.models.contract import ARModel, BlockDefaults
from src.models.modules import Linear, RMSNorm
from src.models.parts import (
    Expansion,
    LinearMixer,
    at_least_float32,
    gated,
    head_size,
    initial_dt_bias,
    l2_normalize,
    split_heads,
)
from src.models.short_conv import make_conv
from src.ops.backends import parse_backend
from src.ops.delta_rule import delta_rule, delta_rule_step


class _Delta(LinearMixer):
    """What both layers share.  State: (memory (B, H, K, V), the convolution's window if there is one)."""

    @dataclass(frozen=True)
    class Config(Expansion):
        neg_eigen: bool = option(
            False, "transitions between -1 and 1 instead of 0 and 1; a state can then change its sign"
        )

    ops = ("delta_rule", "rmsnorm", "linear")
    published = BlockDefaults("rms", 4, 4, "swiglu")
    ratios: tuple[float, float]  # published widths of all keys and all values, in multiples of d_model

    def __init__(self, args):
        super().__init__()
        H = args.n_head
        K, V = head_size(args, args.expand_k or self.ratios[0]), head_size(args, args.expand_v or self.ratios[1])
        self.memory = H, K, V
        self.strength = 2.0 if args.neg_eigen else 1.0
        self.backend = parse_backend(args.backend, "delta_rule")
        self.qkv = Linear(args.d_model, H * (2 * K + V), bias=False, backend=args.backend)
        self.qkv.parts = [H * K, H * K, H * V]
        self.beta = Linear(args.d_model, H, bias=False, backend=args.backend)
        self.conv = make_conv(self.qkv.out_features, args, "silu")
        self.norm = RMSNorm(V, 1e-5, args.backend)
        self.out = Linear(H * V, args.d_model, bias=False, backend=args.backend)

    def _recall(self, x, decay, memory, window):
        """x (..., D), decay (..., H) or None -> normalised outputs (..., H, V), memory, window."""
        H, K, V = self.memory
        qkv, window = self._convolve(self.qkv(x), window)
        q, k, v = split_heads(F.silu(qkv) if self.conv is None else qkv, H, (K, K, V))
        q, k = l2_normalize(q), l2_normalize(k)
        beta = self.strength * at_least_float32(self.beta(x)).sigmoid()
        if x.dim() == 2:
            o, memory = delta_rule_step(q, k, v, beta, decay, memory, K**-0.5)
        else:
            o, memory = delta_rule(q, k, v, beta, decay, memory, K**-0.5, self.backend)
        return self.norm(at_least_float32(o)), memory, window


class DeltaNet(_Delta):
    """The delta rule without a decay."""

    ratios = 1.0, 1.0

    def _mix(self, x, memory, window):
        o, memory, window = self._recall(x, None, memory, window)
        return self.out(o.flatten(-2).to(x.dtype)), memory, window


class GatedDeltaNet(_Delta):
    """The delta rule with one learned decay per head and an output gate."""

    ops = (*_Delta.ops, "swiglu")
    ratios = 0.75, 1.5

    @classmethod
    def kinds(cls, args):
        return {"delta_rule": "gated"}

    def __init__(self, args):
        super().__init__(args)
        H, _, V = self.memory
        self.gate_backend = parse_backend(args.backend, "swiglu")
        self.alpha = Linear(args.d_model, H, bias=False, backend=args.backend)
        self.gate = Linear(args.d_model, H * V, bias=False, backend=args.backend)
        self.A_log = nn.Parameter((16 * (1 - torch.rand(H))).log())
        self.dt_bias = nn.Parameter(initial_dt_bias(H))
        for p in (self.A_log, self.dt_bias):
            p._no_weight_decay = p._no_reinit = True

    def _mix(self, x, memory, window):
        dt = F.softplus(at_least_float32(self.alpha(x)) + at_least_float32(self.dt_bias))  # (..., H)
        decay = -at_least_float32(self.A_log).exp() * dt
        o, memory, window = self._recall(x, decay, memory, window)
        return self.out(gated(o, self.gate(x), self.gate_backend)), memory, window


def build_model(vocab_size: int, args) -> ARModel:
    """The DeltaNet or Gated DeltaNet model of a run configuration, by `args.model`."""
    return build(GatedDeltaNet if args.model == "gated_deltanet" else DeltaNet, vocab_size, args, max_len_of(args))

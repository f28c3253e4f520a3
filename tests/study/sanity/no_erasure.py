"""DeltaNet without its erasure: what is left is linear attention, and the card must rank it there.

    deltanet      S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T
    this file     S_t = S_{t-1} + beta_t k_t v_t^T ,   o_t = S_t^T q_t / sqrt(K)

The short convolution of DeltaNet is left out too. Linear attention has none as it was published, and a short
convolution alone lets a layer recall, with erasure or without.
"""

import torch.nn.functional as F

from src.models.base import BlockDefaults, at_least_float32
from src.models.deltanet import DeltaNet
from src.models.parts import l2_normalize, split_heads


class NoErasure(DeltaNet):
    """A key that is written twice returns the sum of both values, where DeltaNet returns the second."""

    ops = ("linear_attention", "rmsnorm", "linear")
    published = BlockDefaults("rms", 4, 0, "swiglu")

    def __init__(self, args):
        super().__init__(args)
        self.backend = "auto"  # DeltaNet's is one of the delta rule

    def _recall(self, x, decay, memory, window):
        H, K, V = self.memory
        qkv, window = self._convolve(self.qkv(x), window)
        q, k, v = split_heads(F.silu(qkv) if self.conv is None else qkv, H, (K, K, V))
        q, k = (at_least_float32(l2_normalize(part)) for part in (q, k))
        beta = self.strength * at_least_float32(self.beta(x)).sigmoid()
        o, memory = self._attend(q, k, beta[..., None] * at_least_float32(v), decay, memory, K**-0.5)
        return self.norm(o), memory, window

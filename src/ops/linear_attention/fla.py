"""Linear attention by the Triton kernels of flash-linear-attention (package `fla`), which has one public function a kind of decay.

    decay          sequences                short ones
    None           chunk_simple_gla         fused_recurrent_simple_gla       without g (chunk_linear_attn is this function plus a normaliser, on
    (H,)           ... g_gamma              ... g_gamma                      by default, that is not part of the recurrence)
    (B, T, H)      ... g                    ... g
    (B, T, H, K)   chunk_gla, g             fused_recurrent_gla, gk

All take (B, T, H, .) tensors, log decays and a state (B, H, K, V), and scale by K^-1/2 unless told otherwise. Read from version 0.6. The chunk
kernels multiply float32 inputs in TF32 (10 bits), hence "auto" takes them for half precision only. g_gamma has no gradient: a fixed decay that
needs one goes in as g.
"""

from __future__ import annotations

SHORT = 64  # tokens: the size of the chunks, below which the recurrent kernel wastes nothing


def run(q, k, v, decay, state, scale):
    """The arguments and result of eager.run, for CUDA tensors that are not float64. Products in v's dtype."""
    from fla.ops import gla, simple_gla

    T = q.shape[1]
    kind = "fused_recurrent" if T < SHORT else "chunk"
    module, name = (gla, "gla") if decay is not None and decay.dim() == 4 else (simple_gla, "simple_gla")
    keywords = {}
    if decay is not None:
        decay = decay.float()
        if decay.dim() == 1 and decay.requires_grad:
            decay = decay.expand(*q.shape[:3]).contiguous()
        key = "g_gamma" if decay.dim() == 1 else "gk" if decay.dim() == 4 and kind == "fused_recurrent" else "g"
        keywords[key] = decay
    o, state = getattr(module, f"{kind}_{name}")(
        q=q.to(v.dtype),
        k=k.to(v.dtype),
        v=v,
        scale=scale,
        output_final_state=True,
        initial_state=None if state is None else state.float(),
        **keywords,
    )
    return o.to(v.dtype), state.float()

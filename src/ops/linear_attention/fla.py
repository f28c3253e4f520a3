"""Linear attention by the Triton kernels of flash-linear-attention (package `fla`), one function per kind of decay.

    decay          64 tokens or more          fewer
    None           chunk_simple_gla           fused_recurrent_simple_gla
    (H,)           chunk_simple_gla, g_gamma  fused_recurrent_simple_gla, g_gamma
    (B, T, H)      chunk_simple_gla, g        fused_recurrent_simple_gla, g
    (B, T, H, K)   chunk_gla, g               fused_recurrent_gla, gk

All take (B, T, H, .) tensors, log decays and a state (B, H, K, V), and multiply by K^-1/2 unless a scale is given. This
was read from version 0.6. Its chunk_linear_attn is not used: by default it adds a normaliser, which the recurrence does
not have. The chunk kernels multiply float32 inputs in TF32 (10 bits), so "auto" takes them for half precision only.
g_gamma has no gradient, so a fixed decay that needs one is passed as g.
"""

from __future__ import annotations

from src.ops.linear_attention.heads import per_head

SHORT = 64  # tokens: the size of a chunk; with fewer, a chunk would be partly empty


def run(q, k, v, decay, state, scale):
    """Arguments and result as in chunked.run, for CUDA tensors that are not float64. Products are in v's dtype."""
    from fla.ops import gla, simple_gla

    T, q, k = q.shape[1], per_head(q, v), per_head(k, v)
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

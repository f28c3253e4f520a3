"""The delta rule by the Triton kernels of flash-linear-attention (package `fla`).

    decay        half precision             float32
    None         chunk_delta_rule           fused_recurrent_delta_rule (the chunk kernel refuses float32)
    (B, T, H)    chunk_gated_delta_rule     chunk_gated_delta_rule, products in TF32 (10 bits)

Fewer than 64 tokens go to the fused_recurrent_* function. That of the gated rule has no backward pass, so it is used
only where no gradient is recorded. All take (B, T, H, .) tensors, log decays g and a state (B, H, K, V). They multiply
by K^-1/2 unless a scale is given, and leave keys and queries as they are (use_qk_l2norm_in_kernel is False by default).
This was read from version 0.6. The recurrent kernel needs a positive scale, so the scale multiplies q here.
"""

from __future__ import annotations

import torch

from src.ops.linear_attention.fla import SHORT


def run(q, k, v, beta, decay, state, scale):
    """Arguments and result as in chunked.run, for CUDA tensors that are not float64. Products are in v's dtype."""
    from fla.ops import delta_rule, gated_delta_rule

    tensors = [t for t in (q, k, v, beta, decay, state) if t is not None]
    recorded = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    module, name = (delta_rule, "delta_rule") if decay is None else (gated_delta_rule, "gated_delta_rule")
    few = q.shape[1] < SHORT and (decay is None or not recorded)
    recurrent = few or (decay is None and v.dtype == torch.float32)
    function = getattr(module, f"{'fused_recurrent' if recurrent else 'chunk'}_{name}")
    keywords = {} if decay is None else {"g": decay.float()}
    q = q.to(v.dtype) if scale == 1 else (q * scale).to(v.dtype)
    o, state = function(
        q=q,
        k=k.to(v.dtype),
        v=v,
        beta=beta.float() if recurrent or decay is not None else beta.to(v.dtype),
        scale=1.0,
        initial_state=None if state is None else state.float(),
        output_final_state=True,
        **keywords,
    )
    return o.to(v.dtype), state.float()

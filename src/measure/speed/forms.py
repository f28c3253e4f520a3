"""Do the forms of a user's layer agree? Its `prefill` and `step` are compared with its `forward` before they are timed.

    subject = with_remarks(subject, device)     # subject.remarks goes beside every figure of decoding

The forms of the layers of the bench are tested, and their ops pass the gate (src/measure/gate.py). A layer of a user's
own has neither. A wrong `step` may be fast because it leaves work out, so its times are shown with a remark.
"""

from __future__ import annotations

import dataclasses

import torch

from src.flags.registry import is_path
from src.measure.gate import relative, tolerance
from src.measure.speed.subjects import VOCABULARY, Subject
from src.models.contract import ARModel, Mixer
from src.storage.rows import NO_PREFILL, WRONG_DECODING

TOKENS = 65  # odd, and more than one chunk
NOISE = 0.02  # added to all weights, because a map that starts at zero would hide what it multiplies


def with_remarks(subject: Subject, device) -> Subject:
    """The subject with what must be known beside its figures of decoding."""
    remarks = []
    if not writes_prefill(subject.model_class):
        remarks.append(NO_PREFILL)
    if is_path(subject.model):
        wrong = difference(subject.build(device), device)
        if wrong:
            remarks.append(f"{WRONG_DECODING} {wrong}")
    return dataclasses.replace(subject, remarks=tuple(remarks))


def writes_prefill(model_class: type) -> bool:
    """False where a layer has its own `step`, and reads a prompt by calling it for one token after the other."""
    layers = getattr(model_class, "layers", None) or (model_class,)
    return not any(
        issubclass(layer, Mixer) and layer.cache_kind() == "own" and layer.prefill is Mixer.prefill for layer in layers
    )


def difference(model: ARModel, device) -> str:
    """How decoding differs from `forward`, in words; "" where it agrees within rounding, or replays `forward` itself.

    Both run in float32, whatever the precision of the timing, because bf16 would need a tolerance that hides errors.
    """
    if model.cache_kind() != "own":
        return ""
    n = min(TOKENS, model.max_len or TOKENS)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (2, n), generator=generator).to(device)
    try:
        with torch.no_grad():
            for p in model.eval().parameters():
                if p.is_floating_point():
                    p += NOISE * torch.randn(p.shape, generator=generator).to(p)
            want = model(ids)
            got, state = model.prefill(ids[:, : n // 2], model.init_state(2, n)) if n > 1 else (want[:, :0], None)
            parts, state = [got], model.init_state(2, n) if state is None else state
            for t in range(n // 2, n):
                got, state = model.step(ids[:, t], state)
                parts.append(got[:, None])
    except Exception as error:
        return f": it raises {type(error).__name__}: {(str(error).splitlines() or [''])[0]:.200}"
    found, allowed = relative(torch.cat(parts, dim=1), want), tolerance(torch.device(device).type, "fp32")
    return f"by {found:.1e} (allowed: {allowed:g})" if found > allowed else ""

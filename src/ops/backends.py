"""Which backend computes an op, and why. `OPS` maps an op to the names that `--backend` takes for it; add a line for a new op.

    --backend auto | NAME | op=NAME,...      a bare NAME goes to every op that has it, the others choose for themselves

An op calls `parse_backend` to learn whether the user named a backend, and otherwise decides from device and shapes itself, in a function
`automatic(device_type, args) -> (backend, reason)` of its package, which `choices` records. A named backend that cannot run is an error,
never silently another one. No torch here, so that `list` answers at once.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass

from src.flags.fields import UserError, suggest


@dataclass(frozen=True)
class Backend:
    """One way to compute an op.  needs: importable packages, probed with find_spec only.  device: the only kind it runs on, "" for any."""

    summary: str
    needs: tuple[str, ...] = ()
    device: str = ""

    def missing(self) -> list[str]:
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


OPS = {
    "attention": {
        "explicit": Backend("matrix products and a float32 softmax, O(T^2) memory"),
        "sdpa": Backend("torch's scaled_dot_product_attention, fused where the device has a kernel"),
        "flash_attn": Backend("FlashAttention-2 kernels, fp16 and bf16", ("flash_attn",), "cuda"),
    },
    "causal_conv": {
        "eager": Backend("shifted sums in torch"),
        "numba": Backend("one pass over memory, compiled on first use", ("numba",), "cpu"),
        "causal_conv1d": Backend("the kernels that mamba-ssm uses, widths 2 to 4", ("causal_conv1d",), "cuda"),
    },
    "selective_scan": {
        "eager": Backend("chunks side by side in torch"),
        "numba": Backend(
            "the recurrence itself, compiled on first use; recomputes its states in the backward pass",
            ("numba",),
            "cpu",
        ),
        "mamba_ssm": Backend("the kernels of mamba-ssm", ("mamba_ssm",), "cuda"),
    },
    "linear_attention": {
        "eager": Backend("chunks as matrix products in torch"),
        "numba": Backend("the recurrence itself, compiled on first use", ("numba",), "cpu"),
        "fla": Backend("chunk and fused-recurrent kernels of flash-linear-attention", ("fla",), "cuda"),
    },
    "delta_rule": {
        "eager": Backend("chunks as matrix products and a triangular solve in torch"),
        "numba": Backend("the recurrence itself, compiled on first use", ("numba",), "cpu"),
        "fla": Backend("chunk and fused-recurrent kernels of flash-linear-attention", ("fla",), "cuda"),
    },
}


def usable(op: str, device_type: str) -> tuple[str, ...]:
    """The backends of `op` that are installed here and run on a device of this type."""
    return tuple(name for name, b in OPS[op].items() if b.device in ("", device_type) and not b.missing())


def load_form(op: str, backend: str, forms: dict[str, str], device_type: str, double: bool, argument: str):
    """The module of `op` that computes in a chosen backend (not "auto"), for tensors on this type of device.

    forms: backend -> file in the op's package.  double: the tensors are float64, which only eager computes.  argument: the tensor that a message names.
    Raises ValueError for a backend that `op` does not have, RuntimeError for one that cannot run here.
    """
    if backend not in forms:
        raise ValueError(f"backend: got '{backend}', allowed: auto, {', '.join(forms)}")
    present = usable(op, device_type)
    if backend not in present:
        need = OPS[op][backend]
        raise RuntimeError(
            f"backend '{backend}' of {op} needs {' and '.join((*need.needs, f'a {need.device} device'))}; "
            f"{argument} is on {device_type}; usable here: {', '.join(present)}"
        )
    if double and backend != "eager":
        raise RuntimeError(f"backend '{backend}' of {op} computes in float32, got float64; take eager")
    return importlib.import_module(f"src.ops.{op}.{forms[backend]}")


def parse_backend(text: str, op: str, available: Iterable[str] | None = None) -> str:
    """The backend that `--backend text` names for `op`, or "auto" where it leaves the choice to the op.

    available: the backends of `op` that can run here; None means all of them.
    Raises UserError for an unknown op or backend, one named twice, or one that cannot run here.
    """
    name = read_flag(text).get(op, "auto")
    allowed = OPS[op] if available is None else tuple(available)
    if name != "auto" and name not in allowed:
        raise UserError(
            f"--backend: got '{name}' for {op}, which cannot run here{_why_not(op, name)}, allowed: {', '.join(('auto', *allowed))}"
        )
    return name


def _why_not(op: str, name: str) -> str:
    backend = OPS[op][name]
    reasons = (
        [f"needs a {backend.device.upper() if backend.device == 'cpu' else backend.device} device"]
        if backend.device
        else []
    )
    reasons += [f"not installed: {', '.join(backend.missing())}"] if backend.missing() else []
    return f" ({'; '.join(reasons)})" if reasons else ""


def read_flag(text: str) -> dict[str, str]:
    """The whole flag as {op: backend or "auto"}; ops that it leaves alone are absent. UserError where it means nothing."""
    if "=" not in text and "," not in text:
        return _bare(text.strip())
    chosen: dict[str, str] = {}
    for part in text.split(","):
        op, equals, name = (word.strip() for word in part.partition("="))
        if not equals:
            raise UserError(
                f"--backend: got '{part.strip()}' in a list, allowed: op=NAME with op one of {', '.join(OPS)}"
            )
        if op not in OPS:
            raise UserError(f"--backend: unknown op '{op}', allowed: {', '.join(OPS)}{suggest(op, OPS)}")
        if op in chosen:
            raise UserError(f"--backend: names {op} twice, allowed: once")
        if name != "auto" and name not in OPS[op]:
            raise UserError(
                f"--backend: unknown backend '{name}' for {op}, allowed: {', '.join(('auto', *OPS[op]))}{suggest(name, OPS[op])}"
            )
        chosen[op] = name
    return chosen


def _bare(name: str) -> dict[str, str]:
    if name == "auto":
        return {}
    chosen = {op: name for op, names in OPS.items() if name in names}
    if not chosen:
        known = list(dict.fromkeys(n for names in OPS.values() for n in names))
        raise UserError(
            f"--backend: unknown backend '{name}', allowed: auto, {', '.join(known)}, or op=NAME,... with op one of "
            f"{', '.join(OPS)}{suggest(name, known)}"
        )
    return chosen


def describe() -> list[str]:
    """One line a backend for `list`, in the order of OPS: what it is and whether its packages are installed here."""
    return [f"{op + '=' + name:<32}{b.summary}{_needs(b)}" for op, names in OPS.items() for name, b in names.items()]


def _needs(backend: Backend) -> str:
    parts = (
        [f"{', '.join(backend.needs)}: {'not installed' if backend.missing() else 'installed'}"]
        if backend.needs
        else []
    )
    parts += [f"{backend.device} only"] if backend.device else []
    return f"  [{'; '.join(parts)}]" if parts else ""

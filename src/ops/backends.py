"""Which backend computes an op, and why.

`OPS` maps an op to the names that `--backend` takes for it. A new backend is one file in the op's folder and one line
in this table.

    --backend auto | NAME | op=NAME,...

A bare NAME goes to each op that has it; the other ops choose for themselves. `parse_backend` tells a layer whether the
user named a backend. With "auto" the op decides from the device and the tensors. The function `automatic(device_type,
args) -> (backend, reason)` of its package says what it will decide, so that a run can record it (src/ops/choices.py). A
named backend that cannot run is an error, never replaced by another one.

This file imports no torch, so that `list` answers at once.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType

from src.flags.fields import UserError, suggest


@dataclass(frozen=True)
class Backend:
    """One way to compute an op.

    file: the module in the op's package that computes it.  needs: packages that must be installed; they are looked up,
    never imported.
    device: the only type of device it runs on, "" for any.
    interpreter: the environment variable which, if it is 1, lets it run on a CPU too, slowly, to be tested.
    """

    summary: str
    file: str
    needs: tuple[str, ...] = ()
    device: str = ""
    interpreter: str = ""

    def runs_on(self, device_type: str) -> bool:
        """Whether it can run on this type of device, where its packages are installed."""
        interpreted = device_type == "cpu" and bool(self.interpreter) and os.environ.get(self.interpreter) == "1"
        return self.device in ("", device_type) or interpreted

    def missing(self) -> list[str]:
        """The packages it needs that are not installed, or that a variable of the environment switches off."""
        return [_named(name) for name in self.needs if importlib.util.find_spec(name) is None or _switched_off(name)]


def _switched_off(package: str) -> bool:
    """Whether the package is there and compiles nothing: numba under NUMBA_DISABLE_JIT=1, which is for debuggers."""
    return package == "numba" and os.environ.get("NUMBA_DISABLE_JIT", "").strip() not in ("", "0")


def _named(package: str) -> str:
    return f"{package} without NUMBA_DISABLE_JIT" if _switched_off(package) else package


def _own_kernel(summary: str) -> Backend:
    """A Triton kernel of this project. Triton's interpreter runs it on a CPU, thousands of times slower."""
    return Backend(summary, "triton", ("triton",), "cuda", "TRITON_INTERPRET")


def _one_pass() -> Backend:
    return Backend("one pass over memory on a CPU, compiled on first use", "one_pass", ("numba",), "cpu")


OPS: dict[str, dict[str, Backend]] = {
    "attention": {
        "explicit": Backend("matrix products and a float32 softmax, O(T^2) memory", "explicit"),
        "sdpa": Backend("torch's scaled_dot_product_attention, fused where the device has a kernel", "sdpa"),
        "flash_attn": Backend("FlashAttention-2 kernels, fp16 and bf16", "flash_attn", ("flash_attn",), "cuda"),
    },
    "causal_conv": {
        "eager": Backend("shifted sums in torch", "shifted"),
        "numba": Backend("one pass over memory, compiled on first use", "one_pass", ("numba",), "cpu"),
        "causal_conv1d": Backend(
            "the kernels that mamba-ssm uses, widths 2 to 4", "causal_conv1d", ("causal_conv1d",), "cuda"
        ),
    },
    "selective_scan": {
        "eager": Backend("chunks side by side in torch", "chunked"),
        "numba": Backend(
            "the recurrence itself, compiled on first use; recomputes its states in the backward pass",
            "recurrent",
            ("numba",),
            "cpu",
        ),
        "mamba_ssm": Backend("the kernels of mamba-ssm", "mamba_ssm", ("mamba_ssm",), "cuda"),
    },
    "linear_attention": {
        "eager": Backend("chunks as matrix products in torch", "chunked"),
        "numba": Backend("the recurrence itself, compiled on first use", "recurrent", ("numba",), "cpu"),
        "fla": Backend("chunk and fused-recurrent kernels of flash-linear-attention", "fla", ("fla",), "cuda"),
    },
    "delta_rule": {
        "eager": Backend("chunks as matrix products and a triangular solve in torch", "chunked"),
        "numba": Backend("the recurrence itself, compiled on first use", "recurrent", ("numba",), "cpu"),
        "fla": Backend("chunk and fused-recurrent kernels of flash-linear-attention", "fla", ("fla",), "cuda"),
    },
    "rmsnorm": {
        "eager": Backend("rms_norm of torch itself", "eager"),
        "numba": _one_pass(),
        "triton": _own_kernel("a kernel of this project: a row is read once"),
    },
    "swiglu": {
        "eager": Backend("silu and a product in torch", "eager"),
        "numba": _one_pass(),
        "triton": _own_kernel("a kernel of this project: both in one pass over memory"),
    },
    "rope": {
        "eager": Backend("products and sums in torch", "eager"),
        "triton": _own_kernel("a kernel of this project: one pass over memory, any strides"),
    },
    "softmax": {
        "eager": Backend("torch's softmax and cross_entropy", "eager"),
        "triton": _own_kernel("kernels of this project: logits are read once, without a float32 copy"),
    },
    "linear": {
        "eager": Backend("matrix product of torch itself", "eager"),
        "triton": _own_kernel("a kernel of this project: tiles of a matrix product"),
    },
}


def usable(op: str, device_type: str) -> tuple[str, ...]:
    """The backends of `op` that are installed here and run on this type of device."""
    return tuple(name for name, b in OPS[op].items() if b.runs_on(device_type) and not b.missing())


def not_installed(op: str, device_type: str) -> str:
    """The missing packages of the backends of `op` made for this type of device, joined by commas; "" for none."""
    return ", ".join(name for b in OPS[op].values() if b.device == device_type for name in b.missing())


def load_implementation(op: str, backend: str, device_type: str, double: bool) -> ModuleType:
    """The module that computes `op` in a chosen backend (not "auto"), for tensors on this type of device.

    double: whether the tensors are float64, which only "eager" computes.
    Raises ValueError for a backend that `op` does not have, RuntimeError for one that cannot run here.
    """
    if backend not in OPS[op]:
        raise ValueError(f"backend: got '{backend}', allowed: auto, {', '.join(OPS[op])}")
    chosen, present = OPS[op][backend], usable(op, device_type)
    if backend not in present:
        raise RuntimeError(
            f"backend '{backend}' of {op} needs {' and '.join((*chosen.needs, f'a {chosen.device} device'))}; "
            f"the tensors are on {device_type}; usable here: {', '.join(present)}"
        )
    if double and backend != "eager":
        raise RuntimeError(f"backend '{backend}' of {op} computes in float32, got float64; take eager")
    return importlib.import_module(f"src.ops.{op}.{chosen.file}")


def parse_backend(text: str, op: str, available: Iterable[str] | None = None) -> str:
    """The backend that `--backend text` names for `op`, or "auto" where it leaves the choice to the op.

    available: the backends of `op` that can run here; None means all of them.
    Raises UserError for an unknown op or backend, for an op named twice, and for a backend that cannot run here.
    """
    name = read_flag(text).get(op, "auto")
    allowed = OPS[op] if available is None else tuple(available)
    if name != "auto" and name not in allowed:
        raise UserError(
            f"--backend: got '{name}' for {op}, which cannot run here{_why_not(op, name)}, "
            f"allowed: {', '.join(('auto', *allowed))}"
        )
    return name


def _why_not(op: str, name: str) -> str:
    backend = OPS[op][name]
    kind = "CPU" if backend.device == "cpu" else backend.device
    reasons = [f"needs a {kind} device"] if kind else []
    reasons += [f"not installed: {', '.join(backend.missing())}"] if backend.missing() else []
    return f" ({'; '.join(reasons)})" if reasons else ""


def read_flag(text: str) -> dict[str, str]:
    """The whole flag as {op: backend or "auto"}, without the ops that it leaves alone.

    Raises UserError for an unknown op or backend and for an op named twice.
    """
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
                f"--backend: unknown backend '{name}' for {op}, allowed: {', '.join(('auto', *OPS[op]))}"
                f"{suggest(name, OPS[op])}"
            )
        chosen[op] = name
    return chosen


def _bare(name: str) -> dict[str, str]:
    """A bare name as {op: name} for each op that has it."""
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
    """One line per backend for `list`, in the order of OPS: what it is, and whether its packages are installed here."""
    return [f"{op + '=' + name:<32}{b.summary}{_needs(b)}" for op, names in OPS.items() for name, b in names.items()]


def _needs(backend: Backend) -> str:
    installed = "not installed" if backend.missing() else "installed"
    parts = [f"{', '.join(backend.needs)}: {installed}"] if backend.needs else []
    parts += [f"{backend.device} only"] if backend.device else []
    return f"  [{'; '.join(parts)}]" if parts else ""

"""Which backend computes an op, and why. `OPS` maps an op to the names that `--backend` takes for it; add a line for a new op.

    --backend auto | NAME | op=NAME,...      a bare NAME goes to every op that has it, the others choose for themselves

An op calls `parse_backend` to learn whether the user named a backend, and otherwise decides from device and shapes itself. A named
backend that cannot run is an error, never silently another one. No torch here, so that `list` answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable

from src.config import UserError, suggest

OPS = {"attention": ("explicit", "sdpa")}
SUMMARIES = {
    ("attention", "explicit"): "matrix products and a float32 softmax, O(T^2) memory, any device",
    ("attention", "sdpa"): "torch's scaled_dot_product_attention, any device",
}


def parse_backend(text: str, op: str, available: Iterable[str] | None = None) -> str:
    """The backend that `--backend text` names for `op`, or "auto" where it leaves the choice to the op.

    available: the backends of `op` that can run here; None means all of them.
    Raises UserError for an unknown op or backend, one named twice, or one that cannot run here.
    """
    name = read_flag(text).get(op, "auto")
    usable = OPS[op] if available is None else tuple(available)
    if name != "auto" and name not in usable:
        raise UserError(f"--backend: got '{name}' for {op}, which cannot run here, allowed: {', '.join(('auto', *usable))}")
    return name


def read_flag(text: str) -> dict[str, str]:
    """The whole flag as {op: backend or "auto"}; ops that it leaves alone are absent. UserError where it means nothing."""
    if "=" not in text and "," not in text:
        return _bare(text.strip())
    chosen: dict[str, str] = {}
    for part in text.split(","):
        op, equals, name = (word.strip() for word in part.partition("="))
        if not equals:
            raise UserError(f"--backend: got '{part.strip()}' in a list, allowed: op=NAME with op one of {', '.join(OPS)}")
        if op not in OPS:
            raise UserError(f"--backend: unknown op '{op}', allowed: {', '.join(OPS)}{suggest(op, OPS)}")
        if op in chosen:
            raise UserError(f"--backend: names {op} twice, allowed: once")
        if name != "auto" and name not in OPS[op]:
            raise UserError(f"--backend: unknown backend '{name}' for {op}, allowed: {', '.join(('auto', *OPS[op]))}{suggest(name, OPS[op])}")
        chosen[op] = name
    return chosen


def _bare(name: str) -> dict[str, str]:
    if name == "auto":
        return {}
    chosen = {op: name for op, names in OPS.items() if name in names}
    if not chosen:
        known = list(dict.fromkeys(n for names in OPS.values() for n in names))
        raise UserError(f"--backend: unknown backend '{name}', allowed: auto, {', '.join(known)}, or op=NAME,... with op one of "
                        f"{', '.join(OPS)}{suggest(name, known)}")
    return chosen


def describe() -> list[str]:
    """One line a backend for `list`, in the order of OPS."""
    return [f"{op + '=' + name:<20}{SUMMARIES.get((op, name), '')}" for op, names in OPS.items() for name in names]


def choices(args, device) -> dict[str, dict[str, str]]:
    """{op: {"backend": ..., "reason": ...}} of a run, for its record: what the ops do on this device at its longest training length.

    device: a torch.device, or a string such as "cuda:0".
    """
    device_type = getattr(device, "type", None) or str(device).split(":")[0]
    result = {}
    for op, names in OPS.items():
        name = parse_backend(args.backend, op, names)
        reason = "named by --backend"
        if name == "auto":
            name, reason = _automatic(op, device_type, args)
        result[op] = {"backend": name, "reason": reason}
    return result


def _automatic(op: str, device_type: str, args) -> tuple[str, str]:
    if op == "attention":
        from src.ops.attention import choose_backend  # torch stays out of `list`

        return choose_backend(device_type, args.context_len, dropout_p=args.dropout)
    raise KeyError(f"no automatic choice for op '{op}'; add it to _automatic in src/ops/backends.py")

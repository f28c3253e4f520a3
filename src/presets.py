"""Named layers of settings, between the defaults and what the user types. `list --presets` prints this table."""

from __future__ import annotations

from dataclasses import dataclass

from src.config import UserError, small_layer, suggest


@dataclass(frozen=True)
class Preset:
    """A line of `list`."""

    summary: str
    source: str


PRESETS = {
    "small": Preset("default on a CPU: minutes on two cores, per task so that it learns (`list --task NAME`)", "this project"),
    "base": Preset("default on CUDA: 6 layers of 384, 512 characters, 5 epochs", "this project"),
}


def settings(name: str, task_class, device_type: str) -> tuple[str, dict]:
    """(resolved name, flag values) of a preset for a task; UserError for an unknown name."""
    if name == "auto":
        name = "base" if device_type == "cuda" else "small"
    if name not in PRESETS:
        raise UserError(f"--preset: unknown preset '{name}', allowed: {', '.join(PRESETS)}{suggest(name, PRESETS)}")
    return name, small_layer(task_class) if name == "small" else dict(task_class.base)

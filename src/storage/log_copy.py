"""The copy of metrics.jsonl in a checkpoint: its columns as tensors, and back to its lines.

    payload["log"] = packed(run_dir.training_log.copy())
    lines = unpacked(payload["log"])                    # byte for byte; ValueError where it contradicts itself

The columns are int64, float64 and bool. A row of a step takes 57 bytes.
"""

from __future__ import annotations

import array
import re

import torch

from src.storage.log import BOOL, FLOAT, INT, Copy, lines_of

DTYPES = {INT: torch.int64, FLOAT: torch.float64, BOOL: torch.int8, "B": torch.uint8}
COLUMNS = (torch.int64, torch.float64, torch.bool)
NAME = re.compile(r"[a-z][a-z0-9_]{0,60}", re.ASCII)


def packed(copy: Copy) -> dict:
    """What a checkpoint holds of the log. A later line of the log does not change it."""
    groups = [{name: _tensor(column) for name, column in group.items()} for group in copy.groups]
    return {"rows": copy.rows, "sha256": copy.sha256, "order": _tensor(copy.order), "groups": groups}


def unpacked(stored) -> list[bytes]:
    """The lines of the log, each with its line break. ValueError where `stored` is not what `packed` gave."""
    if not isinstance(stored, dict) or stored.keys() != {"rows", "sha256", "order", "groups"}:
        raise ValueError("it is not rows, sha256, order and groups")
    groups = stored["groups"]
    if not isinstance(groups, list) or not all(isinstance(g, dict) and g for g in groups):
        raise ValueError("its groups are no columns")
    order = _values("order", stored["order"], (torch.uint8,))
    columns = [{name: _values(name, tensor, COLUMNS) for name, tensor in group.items()} for group in groups]
    return lines_of(Copy(stored["rows"], stored["sha256"], order, columns))


def _tensor(column: array.array) -> torch.Tensor:
    """A copy of a column: an array that lends its memory cannot grow."""
    if not column:
        return torch.zeros(0, dtype=DTYPES[column.typecode])
    tensor = torch.frombuffer(column, dtype=DTYPES[column.typecode]).clone()
    return tensor.bool() if column.typecode == BOOL else tensor


def _values(name, tensor, allowed: tuple) -> list:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(f"a column is named {name!r:.40}")
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in allowed or tensor.ndim != 1:
        raise ValueError(f"column {name} is no list of numbers")
    return tensor.tolist()

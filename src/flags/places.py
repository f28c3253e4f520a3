"""Where a run's own files lie on this machine, if the run was planned on another one.

    SEQ_BENCH_PLACES='{"/planned/layers": "/node/files/0"}'        # {a folder there: the folder with its files here}
    here("/planned/layers/my_layer.py")                            # /node/files/0/my_layer.py

A run on a cluster is planned on one machine and carried out on another, without a shared disk. Its config.json names
the user's files and texts by their paths where it was planned, because it is continued and evaluated there. Only code
that opens such a file asks `here`. A path without an entry is its own place. Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from src.flags.kinds import UserError

VARIABLE = "SEQ_BENCH_PLACES"


def here(path: str | Path) -> Path:
    """The path on this machine of a file or folder that a run names."""
    path = Path(path)
    places = _places(os.environ.get(VARIABLE) or "{}")
    for folder in (path, *path.parents):
        if str(folder) in places:
            return Path(places[str(folder)]) / path.relative_to(folder)
    return path


def _places(text: str) -> dict[str, str]:
    """The content of the variable; UserError where it is not what an engine writes there."""
    try:
        places = json.loads(text)
    except (ValueError, RecursionError):
        places = None
    if not isinstance(places, dict) or not all(isinstance(folder, str) for folder in places.values()):
        raise UserError(f"{VARIABLE}: got '{text:.40}', allowed: folders by folders, as a JSON object; unset it")
    return places

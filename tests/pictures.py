"""The pixels and colours of a picture, for tests."""

from pathlib import Path

import numpy as np


def pixels(path) -> np.ndarray:
    """The picture as (height, width, 3) in 0..1; reading it fails unless it is a whole PNG."""
    from matplotlib import image

    assert Path(path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return image.imread(path)[..., :3]


def has_colour(picture, colour: str, at_least: int = 30) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(picture - wanted).max(axis=-1) < 0.02).sum()) >= at_least

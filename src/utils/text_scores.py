"""The scored characters of a text, in any number: what evaluation keeps of a pass over consecutive windows.

    scores = TextScores(windows)                    # dataset.windows.Consecutive
    scores.add(nll, correct)                        # the next characters, in the order of the text
    scores.loss, scores.accuracy

    scores = TextScores(windows, keep=True)         # keeps five bytes per character
    for part in scores.parts(): ...                 # `Scored`, PART characters at once

Memory does not grow with the text. Sums and counts are taken while the pass goes on. What an interval or a curve needs
a second time is kept, in a file without a name if it is long. The sums are those of one array of all characters, to the
last bit (src/stats/sums.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np

from dataset.corpus.cache import cache_folder
from dataset.windows import Consecutive
from src.stats.sums import PairwiseSum
from src.utils.metrics import Losses, Scored

PART = 1 << 18  # characters that are read at once
IN_MEMORY = 1 << 24  # bytes that are kept without a file
RECORD = np.dtype([("nll", np.float32), ("correct", np.bool_)])  # a loss is computed in float32


class TextScores(Losses):
    """Scores of all characters of a text but the first one, in their order.

    windows: those of the pass, or the documents, (n, 2).  keep: whether `parts` will be read.
    """

    def __init__(self, windows: Consecutive | np.ndarray, keep: bool = False):
        self.windows, self._ends = windows, None
        if isinstance(windows, Consecutive):
            self.count = max(0, windows.n_chars - 1)
        else:
            self._ends = np.cumsum(windows[:, 1] - windows[:, 0])
            self.count = int(self._ends[-1])
        self.right, self.is_finite = 0, True
        self._nll = PairwiseSum(self.count)
        self._file = _kept_file() if keep else None

    def add(self, nll: np.ndarray, correct: np.ndarray) -> None:
        """The scores of the next characters. nll: (n,) float64, exact in float32.  correct: (n,) bool."""
        self._nll.add(nll)
        self.right += int(correct.sum())
        self.is_finite = self.is_finite and bool(np.isfinite(nll).all())
        if self._file is not None:
            record = np.empty(len(nll), dtype=RECORD)
            record["nll"], record["correct"] = nll, correct
            self._file.write(record.tobytes())

    @property
    def loss(self) -> float:
        """Mean nats per scored character."""
        return self._nll.value / self.count

    @property
    def accuracy(self) -> float:
        """The share of characters that are predicted right."""
        return self.right / self.count

    def parts(self) -> Iterator[Scored]:
        """The characters in their order, at most PART at once. Raises ValueError where they were not kept."""
        if self._file is None:
            raise ValueError("the characters of this pass were not kept; make it with keep=True")
        self._file.seek(0)
        for at in range(0, self.count, PART):
            n = min(PART, self.count - at)
            record = np.frombuffer(self._file.read(n * RECORD.itemsize), dtype=RECORD)
            row, column = self._places(np.arange(at, at + n))
            nll = record["nll"].astype(np.float64)
            yield Scored(row, nll, record["correct"], np.full(n, -1), column)

    def _places(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The window of each character, and its position there.  index: (n,), its number among the scored ones."""
        if self._ends is None:
            return np.divmod(index, self.windows.context_len)
        row = np.searchsorted(self._ends, index, side="right")
        return row, index - (self._ends - (self.windows[:, 1] - self.windows[:, 0]))[row]


def _kept_file() -> tempfile.SpooledTemporaryFile:
    """A file for one process: in memory while it is short, then in the cache folder or the system's temporary one."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, dir=folder)
    except OSError:  # it cannot be written
        return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)

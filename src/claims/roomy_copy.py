"""Copying with a position table that is long enough for the test.

The same words as `copy`. A learned table has rows for words of twice the training length, so that a model with one has
a score there. Without these rows the score would be undefined, and no comparison could be lost.
"""

from __future__ import annotations

from dataset.copy import Copy

ROOM = 2  # times the longest training length


class RoomyCopy(Copy):
    """`hello>` is followed by `hello`."""

    def table_tokens(self) -> int:
        """Rows of a learned position table."""
        return super().table_tokens() + 2 * (ROOM - 1) * max(self.lengths)

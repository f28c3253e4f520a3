"""Documents: how a text says where one ends, and what becomes of that end.

    pieces          "to be", " or not", END, "that is", END       a text in pieces; END after each document
    lines(pieces)   "to be or not\\nthat is\\n"                     one text, in which a line break ends a document

Where a text has no END it is one long document without an end, and `lines` changes nothing.

A `Spool` keeps pieces in a file, so that they can be read several times and memory does not grow with them. Text is
UTF-8 there, and END is the byte 0xFF, which no UTF-8 holds. No torch here.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from dataset.corpus.stored_text import BLOCK, unnamed_file

END = None
Piece = str | None
MARK = b"\xff"


def lines(pieces: Iterable[Piece]) -> Iterator[str]:
    """The text in blocks of at least BLOCK characters (the last may be shorter). END becomes a line break, unless the
    document ends in one already."""
    block, size, last = [], 0, ""
    for piece in pieces:
        if piece is END:
            piece, last = ("" if last == "\n" else "\n"), ""
        elif piece:
            last = piece[-1]
        block.append(piece)
        size += len(piece)
        if size >= BLOCK:
            yield "".join(block)
            block, size = [], 0
    if size:
        yield "".join(block)


class Spool:
    """The pieces of one to three segments in a file.

    ends: where each segment ends, in characters of its `lines`.
    text_digest: SHA-256 of that text, a NUL between segments.
    digest: SHA-256 of the file, which tells apart where documents end too.
    n_documents: how many END there are.
    """

    def __init__(self, segments: Iterable[Iterable[Piece]]):
        self._file: BinaryIO = unnamed_file()
        self.ends, self.n_documents, at, last = [], 0, 0, ""
        text, stored = hashlib.sha256(), hashlib.sha256()
        for i, segment in enumerate(segments):
            text.update(b"\0" * (i > 0))
            for piece in segment:
                data = MARK if piece is END else piece.encode()
                shown = data
                if piece is END:
                    shown, last = (b"" if last == "\n" else b"\n"), ""
                    self.n_documents, at = self.n_documents + 1, at + len(shown)
                elif piece:
                    last, at = piece[-1], at + len(piece)
                text.update(shown)
                stored.update(data)
                self._file.write(data)
            self.ends.append(at)
        self._file.flush()
        self.text_digest, self.digest = text.hexdigest(), stored.hexdigest()

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def pieces(self) -> Iterator[Piece]:
        """What was written, in other pieces."""
        decoder, at = codecs.getincrementaldecoder("utf-8")(), 0
        while True:
            self._file.seek(at)
            data = self._file.read(BLOCK)
            if not data:
                return
            at += len(data)
            documents = data.split(MARK)
            for i, part in enumerate(documents):
                text = decoder.decode(part)
                if text:
                    yield text
                if i < len(documents) - 1:
                    yield END

    def split(self, cuts: Iterable[int], whole_documents: bool) -> Iterator[tuple[int, Piece]]:
        """(number of the split, piece). cuts: where one split ends and the next begins, in characters of `lines`.

        whole_documents: a document belongs to the split in which it begins. Otherwise a cut may divide a document, and
        its first part has no END.
        """
        cuts, at, number, last = [*cuts], 0, 0, ""
        for piece in self.pieces():
            if piece is END:
                yield number, END
                at, last = at + (last != "\n"), ""
                number = max(number, sum(at >= cut for cut in cuts)) if whole_documents else number
                continue
            while not whole_documents and number < len(cuts) and at + len(piece) > cuts[number]:
                before = cuts[number] - at
                if before > 0:
                    yield number, piece[:before]
                    piece, at = piece[before:], at + before
                number += 1
            if piece:
                yield number, piece
                at, last = at + len(piece), piece[-1]

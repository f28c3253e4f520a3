"""One character, one token. `<pad>` is 0, `<bos>` 1, `<eos>` 2; characters follow in the order of their code points."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from src.flags.fields import UserError

SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(3)
SHOWN = 40  # characters of the vocabulary that an error prints, at most


class CharTokenizer:
    """A fixed list of characters behind the special tokens.

    tokens: the whole vocabulary in order.  `unknown`: the id of `<unk>`, or None where an unknown character is an error.
    """

    def __init__(self, tokens: list[str]):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.unknown = self.ids.get("<unk>")
        highest = max((ord(t) for t in self.tokens if len(t) == 1), default=0)
        self._table = np.full(
            highest + 2, -1 if self.unknown is None else self.unknown, dtype=np.int32
        )  # the last entry stands for all beyond
        for token, i in self.ids.items():
            if len(token) == 1:
                self._table[ord(token)] = i

    @classmethod
    def build(cls, corpus, extra_tokens=SPECIAL) -> CharTokenizer:
        """A tokenizer of the distinct characters in `corpus` (a string or an iterable of them), after the extra tokens."""
        extra = list(extra_tokens)
        if tuple(extra[:3]) != SPECIAL:
            raise ValueError(f"extra_tokens: got {extra}, must begin with {list(SPECIAL)}")
        characters = set(corpus) if isinstance(corpus, str) else {c for text in corpus for c in text}
        return cls(extra + sorted(characters))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> np.ndarray:
        """Ids (len(text),) int32. Raises UserError naming an unknown character and its position."""
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = self._table[np.minimum(points, len(self._table) - 1)]
        if self.unknown is None and len(ids) and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            raise UserError(
                f"character {text[at]!r} at position {at} is not in the vocabulary, allowed: {self._described()}"
            )
        return ids

    def _described(self) -> str:
        """The characters of the vocabulary, or the first of them and how many there are."""
        known = "".join(t for t in self.tokens if len(t) == 1)
        return (
            repr(known)
            if len(known) <= SHOWN
            else f"{known[:SHOWN]!r} and {len(known) - SHOWN:,} more, {len(known):,} in all"
        )

    def encode_prompt(self, text: str) -> np.ndarray:
        """`<bos>` and the ids of a text: (1, len(text) + 1) int64, one row that a model can continue."""
        return np.insert(self.encode(text).astype(np.int64), 0, BOS)[None]

    def decode(self, ids, special: str = "") -> str:
        """Text of ids; `<eos>` ends it, and `special` stands for `<pad>` and `<bos>`."""
        text = []
        for i in ids:
            if int(i) == EOS:
                break
            text.append(special if int(i) in (PAD, BOS) else self.tokens[int(i)])
        return "".join(text)

    def save(self, path) -> None:
        Path(path).write_text(json.dumps(self.tokens, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path) -> CharTokenizer:
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

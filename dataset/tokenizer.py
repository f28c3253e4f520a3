"""The tokenizer: one character is one token.

`<pad>` is 0, `<bos>` is 1, `<eos>` is 2. The characters follow in the order of their code points.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from src.flags.fields import UserError

SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(3)
SHOWN = 40  # characters of the vocabulary that an error prints, at most


class CharTokenizer:
    """A fixed list of characters after the special tokens.

    tokens: the whole vocabulary in order.  unknown: the id of `<unk>`, or None if an unknown character is an error.
    """

    def __init__(self, tokens: list[str]):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.unknown = self.ids.get("<unk>")
        highest = max((ord(t) for t in self.tokens if len(t) == 1), default=0)
        # id of each code point; the last entry is for all higher code points
        self._table = np.full(highest + 2, -1 if self.unknown is None else self.unknown, dtype=np.int32)
        for token, i in self.ids.items():
            if len(token) == 1:
                self._table[ord(token)] = i

    @classmethod
    def build(cls, corpus: str | Iterable[str], extra_tokens: Sequence[str] = SPECIAL) -> CharTokenizer:
        """A tokenizer of the distinct characters in `corpus` (one or several strings), after the extra tokens."""
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
        """The characters of the vocabulary. Of a large one, the first characters and how many there are."""
        known = "".join(t for t in self.tokens if len(t) == 1)
        if len(known) <= SHOWN:
            return repr(known)
        return f"{known[:SHOWN]!r} and {len(known) - SHOWN:,} more, {len(known):,} in all"

    def encode_prompt(self, text: str) -> np.ndarray:
        """`<bos>` and the ids of a text: (1, len(text) + 1) int64, a batch of one row that a model can continue."""
        return np.insert(self.encode(text).astype(np.int64), 0, BOS)[None]

    def decode(self, ids: Iterable[int], special: str = "") -> str:
        """The text of ids, up to the first `<eos>`. `<pad>` and `<bos>` are written as `special`."""
        text = []
        for i in ids:
            if int(i) == EOS:
                break
            text.append(special if int(i) in (PAD, BOS) else self.tokens[int(i)])
        return "".join(text)

    def save(self, path: str | Path) -> None:
        """Write the vocabulary as a JSON list."""
        Path(path).write_text(json.dumps(self.tokens, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> CharTokenizer:
        """Read a vocabulary that `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

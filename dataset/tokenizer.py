"""The character tokenizer: each character is one token.

    tokenizer = CharTokenizer.build("to be")          # ids: <pad> 0, <bos> 1, <eos> 2, ' ' 3, 'b' 4, 'e' 5, ...
    tokenizer.decode(tokenizer.encode("to be"))       # 'to be'

Characters are numbered in the order of their code points, so the same characters always give the same ids.
A run stores its list of tokens in vocab.json and in each checkpoint.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from src.flags.fields import UserError
from src.storage.files import write_atomic

SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(3)
SHOWN = 40  # an error prints at most this many characters of the vocabulary


class CharTokenizer:
    """A fixed vocabulary: the special tokens first, then characters.

    tokens: the whole vocabulary, in the order of the ids.
    unknown: the id of `<unk>`. None means that an unknown character is an error.
    """

    def __init__(self, tokens: list[str]):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.unknown = self.ids.get("<unk>")
        highest = max((ord(t) for t in self.tokens if len(t) == 1), default=0)
        # The id of each code point. All code points above `highest` share the last entry.
        self._table = np.full(highest + 2, -1 if self.unknown is None else self.unknown, dtype=np.int32)
        for token, i in self.ids.items():
            if len(token) == 1:
                self._table[ord(token)] = i

    @classmethod
    def build(cls, corpus, extra_tokens=SPECIAL) -> CharTokenizer:
        """Build a tokenizer from the distinct characters of `corpus`, a string or an iterable of strings.

        extra_tokens: the first tokens of the vocabulary. ValueError where they do not begin with the special tokens.
        """
        extra = list(extra_tokens)
        if tuple(extra[:3]) != SPECIAL:
            raise ValueError(f"extra_tokens: got {extra}, must begin with {list(SPECIAL)}")
        characters = set(corpus) if isinstance(corpus, str) else {c for text in corpus for c in text}
        return cls(extra + sorted(characters))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> np.ndarray:
        """Ids of a text: (len(text),) int32. UserError names the first unknown character and its position."""
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = self._table[np.minimum(points, len(self._table) - 1)]
        if self.unknown is None and len(ids) and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            raise UserError(
                f"character {text[at]!r} at position {at} is not in the vocabulary, allowed: {self._described()}"
            )
        return ids

    def encode_prompt(self, text: str) -> np.ndarray:
        """`<bos>` and the ids of a text: (1, len(text) + 1) int64. This is one row that a model can continue."""
        return np.insert(self.encode(text).astype(np.int64), 0, BOS)[None]

    def decode(self, ids, special: str = "") -> str:
        """Text of ids, up to the first `<eos>`. Each `<pad>` and `<bos>` becomes the text `special`."""
        text = []
        for i in ids:
            if int(i) == EOS:
                break
            text.append(special if int(i) in (PAD, BOS) else self.tokens[int(i)])
        return "".join(text)

    def save(self, path) -> None:
        """Write the vocabulary as JSON, whole or not at all."""
        write_atomic(path, json.dumps(self.tokens, ensure_ascii=False).encode("utf-8"))

    @classmethod
    def load(cls, path) -> CharTokenizer:
        """Read a vocabulary that `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

    def _described(self) -> str:
        """All characters of the vocabulary, or the first ones and how many more there are."""
        known = "".join(t for t in self.tokens if len(t) == 1)
        if len(known) <= SHOWN:
            return repr(known)
        return f"{known[:SHOWN]!r} and {len(known) - SHOWN:,} more, {len(known):,} in all"

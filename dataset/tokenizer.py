"""Tokenizers: from a text to ids and back. Here is what all of them promise, and the one of single characters.

    tokenizer = CharTokenizer.build("to be")          # ids: <pad> 0, <bos> 1, <eos> 2, ' ' 3, 'b' 4, 'e' 5, ...
    tokenizer.decode(tokenizer.encode("to be"))       # 'to be'

Characters are numbered in the order of their code points, so the same characters always give the same ids.
A run stores its list of tokens in vocab.json and in each checkpoint. Subwords are in dataset/bpe.py, and
dataset/vocabulary.py makes a tokenizer from what a checkpoint or a folder holds.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from src.flags.fields import UserError

SPECIAL = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(3)
UNK = "<unk>"
SHOWN = 40  # an error prints at most this many characters of the vocabulary


class Tokenizer:
    """What every tokenizer has.

    tokens: a name that can be printed for each id, in the order of the ids.
    unit: what one id stands for, "character" or "token".
    special_ids: the ids of the tokens that no plain text becomes, by their written form.
    pad, bos, eos: three of these ids. eos ends a text.
    """

    unit: str
    tokens: list[str]
    special_ids: dict[str, int]
    pad, bos, eos = PAD, BOS, EOS

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """Ids of a text: (n,) int32.

        special: whether the written form of a special token (`<eos>`) becomes its id. Otherwise it is text like any
        other. Raises UserError for a text that has no ids, UnicodeEncodeError for half a surrogate pair.
        """
        raise NotImplementedError

    def encode_all(self, texts: list[str], special: bool = False) -> list[np.ndarray]:
        """The ids of several texts, as `encode` gives them."""
        return [self.encode(text, special) for text in texts]

    def spelling(self, i: int) -> bytes:
        """The UTF-8 bytes that an id stands for, no bytes for a special token. They need not be whole characters."""
        raise NotImplementedError

    @property
    def bytes_of(self) -> np.ndarray:
        """How many bytes of UTF-8 each id stands for: (len(self),) int64, 0 for special tokens."""
        raise NotImplementedError

    def payload(self) -> list[str] | dict:
        """What `vocab` in a checkpoint holds. `dataset.vocabulary.tokenizer_of` reads it."""
        raise NotImplementedError

    def save(self, run_dir: str | Path) -> None:
        """Write the tokenizer's files into a run directory."""
        raise NotImplementedError

    def hugging_face(self) -> tuple[str, dict]:
        """(the text of tokenizer.json, the content of tokenizer_config.json), with which transformers makes the same
        ids from the same text."""
        raise NotImplementedError

    def encode_prompt(self, text: str) -> np.ndarray:
        """`<bos>` and the ids of a text: (1, n + 1) int64. This is one row that a model can continue."""
        return np.insert(self.encode(text).astype(np.int64), 0, self.bos)[None]

    def decode(self, ids: Iterable[int], special: str = "") -> str:
        """Text of ids, up to the first `<eos>`. Each other special token becomes the text `special`.

        Bytes that are no UTF-8 become the replacement character.
        """
        parts, hidden, shown = [], set(self.special_ids.values()), special.encode()
        for i in map(int, ids):
            if i == self.eos:
                break
            parts.append(shown if i in hidden else self.spelling(i))
        return b"".join(parts).decode("utf-8", errors="replace")

    def stream(self) -> TextStream:
        """A decoder that is given one id after the other."""
        return TextStream(self)


class TextStream:
    """The text of ids as they come. A character whose bytes are not all there is held back.

    stream = tokenizer.stream()
    print(stream.add(i), end="")       # for each id
    print(stream.end())                # what was held back, as the replacement character
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, i: int) -> str:
        """The text that is complete with this id, and was not before. A special token has none."""
        return self._decoder.decode(self._tokenizer.spelling(int(i)))

    def end(self) -> str:
        """The rest of the text."""
        return self._decoder.decode(b"", final=True)


class CharTokenizer(Tokenizer):
    """A fixed vocabulary: the special tokens first, then characters.

    tokens: the whole vocabulary, in the order of the ids.
    unknown: the id of `<unk>`. None means that an unknown character is an error.
    """

    unit = "character"

    def __init__(self, tokens: list[str]):
        self.tokens = list(tokens)
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.unknown = self.ids.get(UNK)
        self.special_ids = {name: self.ids[name] for name in SPECIAL if name in self.ids}
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

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        """Ids of a text: (n,) int32. UserError names the first unknown character and its position."""
        if special:
            parts = re.split("(" + "|".join(map(re.escape, self.special_ids)) + ")", text)
            found = [[self.ids[p]] if p in self.special_ids else self.encode(p) for p in parts]
            return np.concatenate(found).astype(np.int32)
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = self._table[np.minimum(points, len(self._table) - 1)]
        if self.unknown is None and len(ids) and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            raise UserError(
                f"character {text[at]!r} at position {at} is not in the vocabulary, allowed: {self._described()}"
            )
        return ids

    def spelling(self, i: int) -> bytes:
        return b"" if self.tokens[i] in self.special_ids else self.tokens[i].encode()

    @cached_property
    def bytes_of(self) -> np.ndarray:
        """UTF-8 bytes of each character: (len(self),) int64.

        `<unk>` stands for a character that is not known any more. It counts as one byte, the least that it can be, so
        that it never makes bits per byte look better.
        """
        return np.array([1 if t == UNK else len(self.spelling(i)) for i, t in enumerate(self.tokens)], dtype=np.int64)

    def payload(self) -> list[str]:
        return self.tokens

    def save(self, run_dir: str | Path) -> None:
        """Write the vocabulary as JSON: `vocab.json` in a folder, or a file of that path."""
        path = Path(run_dir)
        path = path / "vocab.json" if path.is_dir() else path
        path.write_text(json.dumps(self.tokens, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path) -> CharTokenizer:
        """Read a vocabulary that `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

    def hugging_face(self) -> tuple[str, dict]:
        """A word-level model whose words are single characters. A character outside the vocabulary is an error there
        too, or `<unk>` where there is one."""
        extra = [t for t in (*SPECIAL, UNK) if t in self.ids]
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        document = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": self.ids[t], "content": t, **flags} for t in extra],
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": r"[\s\S]"},
                "behavior": "Isolated",
                "invert": False,
            },
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {"type": "WordLevel", "vocab": self.ids, "unk_token": UNK},
        }
        return json.dumps(document, ensure_ascii=False, indent=2), hugging_face_config(*extra)

    def _described(self) -> str:
        """All characters of the vocabulary, or the first ones and how many more there are."""
        known = "".join(t for t in self.tokens if len(t) == 1)
        if len(known) <= SHOWN:
            return repr(known)
        return f"{known[:SHOWN]!r} and {len(known) - SHOWN:,} more, {len(known):,} in all"


def hugging_face_config(pad: str, bos: str, eos: str, unk: str | None = None) -> dict:
    """The content of tokenizer_config.json of a tokenizer with these special tokens."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": pad,
        "bos_token": bos,
        "eos_token": eos,
        "unk_token": unk,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
    }

"""Tokens: a sentence is cut at spaces and punctuation, each word has a number, and numbers become a sentence again.

    tokenize("Le chat n'est pas là.")  -> ["le", "chat", "n'", "est", "pas", "là", "."]
    encode("le chien dort.", vocab)    -> [4, 17, 9, 5]

An apostrophe stays with the letters before it, as in French l', n', qu'. Every other mark is a token of its own. So
`decode` writes no space after an apostrophe and before a closing mark. French text then lacks its space before ? and !.
Pure Python.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIALS))
TOKEN = re.compile(r"\w+'?|[^\w\s]")
CLOSING = frozenset(".,;:!?)]}%…")
OPENING = frozenset("([{")
APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})


def tokenize(text: str) -> list[str]:
    """The tokens of a sentence, in small letters. Two ways to write one accent, and two apostrophes, become one."""
    return TOKEN.findall(unicodedata.normalize("NFC", text).translate(APOSTROPHES).lower())


def build_vocab(sentences: Iterable[str], most: int = 0) -> dict[str, int]:
    """{token: id} of the sentences' tokens, the commonest first, after the four special ones. 0 .. V - 1, in order.

    most: keep only so many tokens, special ones included; 0 = all. Equally common tokens are in alphabetical order.
    """
    counts = Counter(token for sentence in sentences for token in tokenize(sentence))
    ordered = sorted(counts, key=lambda token: (-counts[token], token))
    kept = ordered[: max(0, most - len(SPECIALS))] if most else ordered
    return {token: i for i, token in enumerate((*SPECIALS, *kept))}


def encode(text: str, vocab: dict[str, int]) -> list[int]:
    """The ids of a sentence, without <bos> and <eos>. A token that the vocabulary lacks is <unk>."""
    return [vocab.get(token, UNK) for token in tokenize(text)]


def unknown(text: str, vocab: dict[str, int]) -> list[str]:
    """The tokens of a sentence that the vocabulary lacks, each once, in their order."""
    return list(dict.fromkeys(token for token in tokenize(text) if token not in vocab))


def words_of(ids: Iterable[int], vocab: dict[str, int]) -> list[str]:
    """The tokens of ids up to the first <eos>, without <pad> and <bos>. ids: 0 .. V - 1."""
    tokens, words = list(vocab), []
    for i in ids:
        if i == EOS:
            break
        if i not in (PAD, BOS):
            words.append(tokens[i])
    return words


def decode(ids: Iterable[int], vocab: dict[str, int]) -> str:
    """The sentence of ids, up to the first <eos>. decode(encode(s)) is s in small letters, with plain spaces."""
    text = ""
    for word in words_of(ids, vocab):
        joined = not text or word in CLOSING or text[-1] == "'" or text[-1] in OPENING
        text += word if joined else f" {word}"
    return text

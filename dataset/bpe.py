"""Byte-level BPE: subword tokens of any text, by the package `tokenizers`.

    tokenizer = train_bpe(["low lower lowest\n"] * 9, vocab_size=300)
    tokenizer.encode("lower\n")           # array([...], dtype=int32), fewer ids than characters

Byte-level: the 256 bytes are tokens, so every text has ids, and nothing is unknown. Ids: `<pad>` 0, `<bos>` 1, `<eos>`
2, four tokens that chats use, the 256 bytes, then merges in the order in which they were learned. A merge joins the
pair of tokens that is most common in the training text, and at least MIN_PAIRS times in it.

A tokenizer of another project may have other ids. Its special tokens are read from its own files. `eos` is its end of
text. Where it names no `<pad>` or no `<bos>`, `eos` takes that place, as is usual for GPT-2. If it has no `eos`, one
token `<eos>` is added after all others.

Sources: Gage, "A new algorithm for data compression", 1994; Sennrich, Haddow and Birch, "Neural machine translation of
rare words with subword units", 2016; Radford et al., GPT-2, 2019 (over bytes).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from types import ModuleType

import numpy as np

from dataset.tokenizer import SPECIAL, Tokenizer, hugging_face_config
from src.flags.fields import UserError
from src.storage.files import write_atomic

CHAT_SPECIAL = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")  # reserved, so that a text run can become a chat
LEAST_VOCAB = 256 + len(SPECIAL) + len(CHAT_SPECIAL)
MIN_PAIRS = 2
PIECE = 1 << 10  # characters that are encoded or counted as one: of longer ones the library takes twice the time
BATCH = 1 << 20  # characters that are encoded in one call; the library needs some 40 bytes for each of them
FILES = ("tokenizer.json", "tokenizer_config.json")
# End of text in tokenizers that come without a configuration.
KNOWN_ENDS = ("<eos>", "</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>")
PROBE = "It's 1 text,\n  with\ttwo  lines: é, 語 and 😀.\r\n"


def library() -> ModuleType:
    """The package `tokenizers`. UserError if it is not installed.

    It works in several threads, and a process that is forked afterwards has none of these threads. So it is told to use
    threads here, and not to use them in forked processes. Without a word from us it would warn at every fork.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(
            f"--tokenizer: subword tokens need the package tokenizers ({str(error).splitlines()[0]}); install it: "
            "pip install tokenizers; or take --tokenizer char"
        ) from None
    return tokenizers


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))


class BpeTokenizer(Tokenizer):
    """A byte-level BPE tokenizer, from the text of its tokenizer.json and the content of its tokenizer_config.json.

    config: may be empty. `eos_token`, `bos_token` and `pad_token` are read from it.
    Raises UserError, which begins with what is wrong, for a text that is no byte-level BPE tokenizer.
    """

    unit = "token"

    def __init__(self, text: str, config: dict | None = None):
        self._library = _loaded(text)
        self.config = dict(config or {})
        added = self._library.get_added_tokens_decoder()
        self.special_ids = {token.content: i for i, token in sorted(added.items()) if token.special}
        self._name_special_tokens()
        self._bytes = [self._bytes_of_entry(i, added) for i in range(self._library.get_vocab_size())]
        self.tokens = [
            self._library.id_to_token(i) if not spelled else spelled.decode(errors="backslashreplace")
            for i, spelled in enumerate(self._bytes)
        ]
        if self.decode(self.encode(PROBE)) != PROBE:
            raise UserError("its tokens do not give a text back as it was (it changes case, blanks or letters)")

    def encode(self, text: str, special: bool = False) -> np.ndarray:
        return self.encode_all([text], special)[0]

    def encode_all(self, texts: list[str], special: bool = False) -> list[np.ndarray]:
        """The ids of several texts. It is faster than one after the other, because threads share them."""
        for text in texts:
            text.encode()  # half a surrogate pair is an error of its own, which the library would not tell
        self._library.encode_special_tokens = not special
        found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(one.ids, dtype=np.int32) for one in found]

    def spelling(self, i: int) -> bytes:
        return self._bytes[i]

    @cached_property
    def bytes_of(self) -> np.ndarray:
        return np.array([len(spelled) for spelled in self._bytes], dtype=np.int64)

    def payload(self) -> dict:
        return {"kind": "bpe", "tokenizer": self._library.to_str(pretty=True), "config": self.config}

    def save(self, run_dir: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, each whole or not at all."""
        text, config = self.hugging_face()
        for name, content in zip(FILES, (text, json.dumps(config, ensure_ascii=False, indent=2)), strict=True):
            write_atomic(Path(run_dir) / name, content.encode("utf-8"))

    def hugging_face(self) -> tuple[str, dict]:
        return self._library.to_str(pretty=True), self.config

    def _name_special_tokens(self) -> None:
        """Find the ids of pad, bos and eos, and write their names into `config`."""
        named = {role: _content(self.config.get(f"{role}_token")) for role in ("pad", "bos", "eos")}
        guess = next((name for name in KNOWN_ENDS if name in self.special_ids), None)
        end = named["eos"] if named["eos"] in self.special_ids else guess
        if end is None:
            end = "<eos>"
            self._library.add_special_tokens([library().AddedToken(end, special=True, normalized=False)])
            self.special_ids[end] = self._library.token_to_id(end)
        known = {"eos": end}
        for role in ("pad", "bos"):
            candidates = (named[role], f"<{role}>", end)
            known[role] = next(name for name in candidates if name in self.special_ids)
        self.pad, self.bos, self.eos = (self.special_ids[known[role]] for role in ("pad", "bos", "eos"))
        defaults = hugging_face_config(known["pad"], known["bos"], known["eos"])
        self.config = {**defaults, **self.config, **{f"{role}_token": name for role, name in known.items()}}

    def _bytes_of_entry(self, i: int, added: dict) -> bytes:
        token = self._library.id_to_token(i)
        if token is None:
            raise UserError(f"it has no token for id {i}, although it has {self._library.get_vocab_size()} tokens")
        if token in self.special_ids:
            return b""
        if i in added:
            return token.encode()
        try:
            return bytes(BYTE_OF[c] for c in token)
        except KeyError:
            raise UserError(f"its token {token!r} is not written in bytes, so it is no byte-level tokenizer") from None


def train_bpe(blocks: Iterable[str | None], vocab_size: int) -> BpeTokenizer:
    """Learn a tokenizer of at most `vocab_size` tokens from a text that comes in blocks, None after a document.

    The same text gives the same tokenizer. It has fewer tokens if no pair occurs MIN_PAIRS times any more.
    Memory grows with the number of distinct words, not with the text.
    """
    kit = library()
    trained = kit.Tokenizer(kit.models.BPE())
    trained.pre_tokenizer = kit.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = kit.decoders.ByteLevel()
    trainer = kit.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIRS,
        special_tokens=[*SPECIAL, *CHAT_SPECIAL],
        initial_alphabet=sorted(BYTE_OF),
        show_progress=False,
    )
    trained.train_from_iterator((piece for piece in pieces(blocks) if piece is not None), trainer)
    return BpeTokenizer(trained.to_str(), hugging_face_config(*SPECIAL))


def pieces(blocks: Iterable[str | None]) -> Iterator[str | None]:
    """A text that comes in blocks, in pieces of at most PIECE characters that can be encoded one by one.

    None in place of a block is the end of a document. It stays where it is, and no piece reaches across it.

    A piece ends between a letter or a digit and a blank. No token of a byte-level tokenizer reaches across that place,
    so the ids of the pieces are those of the whole text. A text without such a place is cut anywhere.
    """
    rest = ""
    for block in blocks:
        if block is None:
            if rest:
                yield rest
            yield None
            rest = ""
            continue
        rest, start = rest + block, 0
        while len(rest) - start > PIECE:
            cut = _place_to_cut(rest, start)
            yield rest[start:cut]
            start = cut
        rest = rest[start:]
    if rest:
        yield rest


def _place_to_cut(text: str, start: int) -> int:
    """The last place, at most PIECE characters after `start`, with a letter or digit before it and a blank after."""
    for at in range(start + PIECE, start, -1):
        if text[at].isspace() and text[at - 1].isalnum():
            return at
    return start + PIECE


def _loaded(text: str):
    """The library's tokenizer of a tokenizer.json. UserError where that is no BPE over bytes."""
    kit = library()
    try:
        document = json.loads(text)
        kind, byte_level = document["model"]["type"], '"ByteLevel"' in json.dumps(document["pre_tokenizer"])
        loaded = kit.Tokenizer.from_str(text)
    except Exception as error:  # the library raises Exception itself
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"it is no tokenizer.json ({type(error).__name__}: {reason})") from None
    if kind != "BPE" or not byte_level:
        raise UserError(f"it is a {kind} tokenizer{'' if byte_level else ' that does not work on bytes'}")
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


def _content(token: str | dict | None) -> str | None:
    """The written form of a special token in tokenizer_config.json, which is a text or an object."""
    return token.get("content") if isinstance(token, dict) else token


def _byte_alphabet() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for.

    Printable bytes of Latin-1 stand for themselves. The others, in their order, are the characters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(hidden)}


BYTE_OF = _byte_alphabet()

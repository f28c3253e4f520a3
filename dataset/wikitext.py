"""WikiText: model the characters of WikiText, or of any text in its Parquet layout.

    '... went on to win the champio' -> 'n'

Why: real prose, with names and topics that return after a long distance, rare characters, and files that need not fit
in memory.

Files: `--data_path DIR` is a folder with these files, each with a column `text` of strings:
    train-00000-of-00001.parquet
    validation-00000-of-00001.parquet
    test-00000-of-00001.parquet         (optional: without it, the validation text is halved into val and test)
    Rows follow each other as they are. A row that does not end in a line break gets one, so an empty row is an empty
    line. WikiText's own `<unk>` words, where the edition has them, are five characters each. The files are read in
    blocks (dataset/corpus/stored_text.py), so memory does not grow with them.
    Reading Parquet needs pyarrow (pip install pyarrow).
Without --data_path: the hub's `wikitext-2-raw-v1` (Salesforce/wikitext, about 11 million characters) is taken from the
    user's cache folder, or fetched into it (8 MB, ten-second timeout). Its digest is not known in advance, so nothing
    is verified, and the run records the digest of the text that it got.

Tokens: --tokenizer bpe, or a path, makes subword tokens of them (dataset/corpus/language.py). --text_key names another
    column than `text`.
Alphabet: without --tokenizer the `--vocab_size` most common characters of the training text, and `<unk>` for the rest.
    The share of `<unk>` in held-out text is reported.
Length: a window reads --context_len characters and predicts the one after each of them.
Scored: all characters of a split but its first one, `<unk>` like any other, so a loss belongs to its vocabulary.
    Primary: token_acc. `heldout` is val and test in one pass. Each window starts without memory. So its loss is neither
    the word perplexity of the WikiText papers nor the byte perplexity of evaluation harnesses, and must not be compared
    with them.
Source: `custom` for --data_path, else `hub`.
Chance: uniform and unigram.
Baselines: interpolated Witten-Bell n-grams (dataset/corpus/ngram.py), fitted on at most the first 2,000,000 training
    characters.
First used by: Merity et al., "Pointer Sentinel Mixture Models", 2016, arXiv:1609.07843, over words.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

from dataset.corpus.cache import cache_folder, reason_of, write_cache
from dataset.corpus.language import StreamedTask
from dataset.corpus.parquet import parquet, read_parquet
from dataset.corpus.sources import FAILURES, TIMEOUT_SECONDS
from dataset.corpus.stored_text import NUMBERS
from dataset.entry import loaders_of
from src.flags.fields import UserError
from src.flags.places import here
from src.flags.run_flags import RunFlags

TRAIN, VALIDATION, TEST = (f"{split}-00000-of-00001.parquet" for split in ("train", "validation", "test"))
HUB_FOLDER = "wikitext-2-raw-v1"
HUB_URL = f"https://huggingface.co/datasets/Salesforce/wikitext/resolve/main/{HUB_FOLDER}/"
MOST_BYTES = 100_000_000  # of one file of the hub
CHARACTERS = 5000  # of the vocabulary, without --vocab_size
MOST_CHARACTERS = NUMBERS - 4
ALLOWED = f"allowed: a folder with {TRAIN} and {VALIDATION}"


class WikiText(StreamedTask):
    """The Parquet files of --data_path, or the hub's WikiText-2."""

    has_fields = True
    limits_characters = True
    small: ClassVar[dict] = {
        "context_len": 128,
        "train_size": 20_000,
        "val_size": 200,
        "test_size": 200,
        "d_model": 128,
        "max_steps": 800,
        "batch_chars": 4096,
        "embed_std": 1.0,
    }

    def __init__(self, args: RunFlags):
        if args.tokenizer == "char" and args.vocab_size > MOST_CHARACTERS:
            raise UserError(f"--vocab_size: got {args.vocab_size}, allowed: <= {MOST_CHARACTERS}")
        super().__init__(args)

    @property
    def vocabulary(self) -> int:
        return self.args.vocab_size or CHARACTERS

    @property
    def source(self) -> str:
        return "custom" if self.args.data_path else "hub"

    def segments(self) -> list[Iterable[str]]:
        parquet("--task wikitext", "take --task text")  # before anything is fetched
        files = parquet_files(here(self.args.data_path)) if self.args.data_path else hub_files()
        return [joined(read_parquet(file, self.args.text_key)) for file in files]

    def identity(self) -> dict[str, str | int | float | bool | tuple]:
        return {**super().identity(), "vocab_size": self.args.vocab_size if self.as_tokens else self.vocabulary}


def parquet_files(folder: Path) -> list[Path]:
    """The files of train, validation and, if there is one, test. UserError if one is missing."""
    try:
        if not folder.is_dir():
            raise UserError(
                f"--data_path: got {str(folder)!r}, {'a file' if folder.exists() else 'no such folder'}, {ALLOWED}"
            )
        missing = [name for name in (TRAIN, VALIDATION) if not (folder / name).is_file()]
        test = [folder / TEST] if (folder / TEST).is_file() else []
    except OSError as error:
        raise UserError(
            f"--data_path: got '{folder}', which cannot be read ({error.strerror or error}), {ALLOWED}"
        ) from None
    if missing:
        raise UserError(f"--data_path: got '{folder}', where there is no {' and no '.join(missing)}, {ALLOWED}")
    return [folder / TRAIN, folder / VALIDATION, *test]


def joined(rows: Iterable[list[str]]) -> Iterator[str]:
    """Rows that follow each other as lines, in blocks. Each row ends in a line break."""
    for block in rows:
        yield "".join([row if row.endswith("\n") else row + "\n" for row in block])


def hub_files() -> list[Path]:
    """The hub's three files in the cache folder. Missing files are fetched. UserError without a network."""
    return [_hub_file(name) for name in (TRAIN, VALIDATION, TEST)]


def _hub_file(name: str) -> Path:
    path = cache_folder() / f"{HUB_FOLDER}-{name}"
    if path.is_file():
        return path
    print(f"wikitext: no copy in the cache; fetching {HUB_URL}{name}", file=sys.stderr, flush=True)
    try:
        with urllib.request.urlopen(HUB_URL + name, timeout=TIMEOUT_SECONDS) as reply:
            data = reply.read(MOST_BYTES)
        if not (data.startswith(b"PAR1") and data.endswith(b"PAR1")):
            raise ValueError(f"the {len(data)} bytes that came are not a whole Parquet file")
    except FAILURES as error:
        raise UserError(
            f"--data_path: missing, and the hub's copy could not be fetched ({reason_of(error)}), {ALLOWED}, "
            "or a network"
        ) from None
    trouble = write_cache(path.name, data)
    if trouble:
        raise UserError(
            f"--data_path: missing, and the hub's copy could not be stored in '{cache_folder()}' ({trouble}), {ALLOWED}"
        )
    return path


build_loaders = loaders_of(WikiText)

"""`translate prepare`: sentence pairs become vocabularies and ids, stored in the run's folder.

prepared, notes = prepare(config)      # nothing is written
store(run, prepared)
prepared = load(run)                   # what `translate train` reads
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from src.flags.fields import UserError
from src.numpy_transformer.arrays import read_arrays, write_arrays
from src.numpy_transformer.config import Config
from src.numpy_transformer.datasets import Pair
from src.numpy_transformer.folder import TranslationRun
from src.numpy_transformer.pairs import PARTS, read_pairs
from src.numpy_transformer.tokenization import BOS, EOS, PAD, UNK, build_vocab, encode, unknown

SIDES = ("source", "target")


@dataclass(frozen=True)
class Prepared:
    """Both vocabularies, {word: id}, and the pairs of ids for training and held out."""

    source_vocab: dict[str, int]
    target_vocab: dict[str, int]
    train: list[Pair]
    heldout: list[Pair]


def prepare(config: Config) -> tuple[Prepared, list[str]]:
    """The vocabularies of the training pairs and all pairs as ids; and lines that say what was found.

    Raises UserError as `read_pairs` does.
    """
    pairs = read_pairs(config)
    trained = [p for p in pairs if p.part == "train"]
    vocabs = [build_vocab((getattr(p, side) for p in trained), config.data.max_words) for side in SIDES]
    ids = {part: [_ids(p, *vocabs) for p in pairs if p.part == part] for part in PARTS}
    notes = [f"{len(ids['train'])} training pairs, {len(ids['heldout'])} held out"]
    for side, column, vocab in zip(SIDES, (config.data.source, config.data.target), vocabs, strict=True):
        notes.append(f"{column}: {len(vocab)} words, <pad>, <bos>, <eos> and <unk> among them")
        for part in PARTS:
            strange = [p for p in pairs if p.part == part and unknown(getattr(p, side), vocab)]
            if strange:
                first = unknown(getattr(strange[0], side), vocab)[0]
                notes.append(f"{column}: {len(strange)} {part} sentences have a word read as <unk>, first '{first}'")
    return Prepared(*vocabs, ids["train"], ids["heldout"]), notes


def store(run: TranslationRun, prepared: Prepared) -> None:
    """Write both vocabularies and pairs.npz: per part and side all ids (N,) int32 and the lengths (pairs,) int32."""
    run.write_vocabularies(prepared.source_vocab, prepared.target_vocab)
    arrays = {}
    for part in PARTS:
        for s, side in enumerate(SIDES):
            rows = [pair[s] for pair in getattr(prepared, part)]
            arrays[f"{part}.{side}.ids"] = np.array([i for row in rows for i in row], dtype=np.int32)
            arrays[f"{part}.{side}.lengths"] = np.array([len(row) for row in rows], dtype=np.int32)
    write_arrays(run.pairs, arrays)


def load(run: TranslationRun, config: Config) -> Prepared:
    """What `store` wrote. UserError if a file is missing, damaged, or holds ids that the vocabularies do not have."""
    vocabs, arrays = run.vocabularies(), read_arrays(run.pairs)
    rows = {}
    try:
        for part in PARTS:
            for side, vocab in zip(SIDES, vocabs, strict=True):
                rows[part, side] = _rows(
                    arrays[f"{part}.{side}.ids"], arrays[f"{part}.{side}.lengths"], len(vocab), config.data.max_len
                )
        pairs = {part: list(zip(rows[part, "source"], rows[part, "target"], strict=True)) for part in PARTS}
        if not pairs["train"]:
            raise ValueError("no training pair")
    except (KeyError, ValueError) as error:
        raise UserError(
            f"'{run.pairs}' does not fit the vocabularies ({error}); run `translate prepare` again with --overwrite"
        ) from None
    return Prepared(*vocabs, pairs["train"], pairs["heldout"])


def _ids(pair, source_vocab: dict[str, int], target_vocab: dict[str, int]) -> Pair:
    """Both sides of a pair as ids."""
    return encode(pair.source, source_vocab), encode(pair.target, target_vocab)


def _rows(ids: np.ndarray, lengths: np.ndarray, n_words: int, max_len: int) -> list[list[int]]:
    """The rows that `ids` (N,) is made of, with these lengths (rows,); ValueError where they do not fit."""
    if ids.ndim != 1 or lengths.ndim != 1 or ids.dtype != np.int32 or lengths.dtype != np.int32:
        raise ValueError("another kind of array")
    if lengths.size and not 1 <= lengths.min() <= lengths.max() < max_len:
        raise ValueError("a length that is not allowed")
    if lengths.sum(dtype=np.int64) != ids.size or (ids.size and not 0 <= ids.min() <= ids.max() < n_words):
        raise ValueError("an id that is not in the vocabulary, or rows that do not fit")
    if np.isin(ids, (PAD, BOS, EOS)).any():
        raise ValueError(f"an id below {UNK} inside a sentence")
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])] if lengths.size else []

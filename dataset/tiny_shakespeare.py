"""Tiny Shakespeare: model its characters.

    'First Citizen:\\nBefore we proceed any furthe' -> 'r'

Why: the smallest real text that everybody knows, with published losses to compare with.

Text: nine plays, cut at 40,000 lines: 1,115,394 characters of 65 kinds. Where it comes from, and what replaces it
    without a network, is told in dataset/corpus/sources.py.
Splits: 1,003,854 characters train, 55,770 are val, and 55,770 are test. `heldout` is val and test in one pass, 111,540
    characters.
Alphabet: the characters of the text, or subword tokens with --tokenizer bpe or a path (dataset/corpus/language.py).
Length: a window reads --context_len characters and predicts the one after each of them.
Scored: all characters of a split but its first one, 111,539 of `heldout`. Primary: token_acc. The loss (nats per scored
    character) is what published figures are compared with, and only when the source is `canonical`.
Chance: uniform and unigram.
Baselines: interpolated Witten-Bell n-grams (dataset/corpus/ngram.py). For orders 1 to 6 they reach 3.347 2.486 2.049
    1.774 1.669 1.698 nats per character on the canonical heldout text.
First used by: Karpathy, char-rnn, 2015. The character example of nanoGPT (Karpathy 2022) reports its loss on the same
    last tenth.
"""

from __future__ import annotations

from typing import ClassVar

from dataset.corpus.language import LanguageTask
from dataset.corpus.sources import Corpus, tiny_shakespeare
from dataset.entry import loaders_of


class TinyShakespeare(LanguageTask):
    """The text of --data_path, of the cache, or a fetched one. `source` says which."""

    # embed_std: torch's own scale.
    small: ClassVar[dict] = {
        "context_len": 128,
        "val_size": 200,
        "test_size": 0,
        "d_model": 128,
        "max_steps": 800,
        "batch_chars": 4096,
        "embed_std": 1.0,
    }

    def corpus(self) -> Corpus:
        return tiny_shakespeare(self.args.data_path)


build_loaders = loaders_of(TinyShakespeare)

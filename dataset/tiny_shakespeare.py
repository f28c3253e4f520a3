"""Model the characters of Tiny Shakespeare.

    'First Citizen:\\nBefore we proceed any furthe' -> 'r'

Why: the smallest real text that everybody knows, with published losses to stand beside. 1,115,394 characters of 65 kinds, nine plays cut
at 40,000 lines: 1,003,854 to train on, 55,770 each for val and test, and `heldout` is the 111,540 of both. A window of --context_len characters begins
with <bos>; all characters are trained and scored. Alphabet: the text's own.

Primary: token_acc; the loss (nats a character) is what is compared with published figures, and only when the source is `canonical`: where
the text comes from, and what stands in for it, is told in dataset/corpus/sources.py. Floors: uniform, unigram. Baselines: interpolated
Witten-Bell n-grams (dataset/corpus/ngram.py), 3.347 2.486 2.049 1.774 1.669 1.698 nats for orders 1 to 6 on the canonical heldout text.

Prior use: Karpathy 2015 (char-rnn), and the character example of nanoGPT (Karpathy 2022), which reports loss on the same last tenth.
"""

from __future__ import annotations

from typing import ClassVar

from dataset.corpus.language import LanguageTask
from dataset.corpus.sources import Corpus, tiny_shakespeare
from dataset.entry import loaders_of


class TinyShakespeare(LanguageTask):
    """The text behind --data_path, in the cache, or fetched; `source` says which."""

    # embed_std: torch's own scale, with which the field's public CPU recipe ends at its published loss; 0.02 ends 0.1 nats lower.
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

"""The character tokenizer by the name that scripts rely on; it is defined in dataset/tokenizer.py, where tasks can import it."""

from dataset.tokenizer import BOS, EOS, PAD, SPECIAL, CharTokenizer

__all__ = ["BOS", "EOS", "PAD", "SPECIAL", "CharTokenizer"]

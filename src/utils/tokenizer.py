"""The character tokenizer under the name that scripts rely on. It is defined in dataset/tokenizer.py."""

from dataset.tokenizer import BOS, EOS, PAD, SPECIAL, CharTokenizer, Tokenizer

__all__ = ["BOS", "EOS", "PAD", "SPECIAL", "CharTokenizer", "Tokenizer"]

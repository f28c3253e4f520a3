"""The table of families: which of our layers is which class of the package `transformers`."""

from __future__ import annotations

from src.exchange.contract import Family
from src.exchange.gpt2 import GPT2
from src.exchange.llama import Llama
from src.exchange.mamba import Mamba, Mamba2
from src.flags.fields import UserError

FAMILIES: tuple[Family, ...] = (Llama(), GPT2(), Mamba(), Mamba2())


def of_model(name: str) -> Family:
    """The family of a --model. UserError where it has none."""
    for family in FAMILIES:
        if family.model == name:
            return family
    known = ", ".join(family.model for family in FAMILIES)
    raise UserError(f"--model: got '{name}', which has no form in Hugging Face's format, allowed: {known}")


def of_config(config: dict) -> Family:
    """The family of a config.json. UserError where its class is none that is known here."""
    named = config.get("architectures")
    for family in FAMILIES:
        if isinstance(named, list) and len(named) == 1 and named[0] in family.architectures:
            return family
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    raise UserError(f"config.json: got architectures {named!r:.80}, allowed: one of {known}")

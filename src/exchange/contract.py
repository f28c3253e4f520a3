"""What a family of models of Hugging Face's package `transformers` says about itself, so that runs become folders.

    family.misfit(args)                 # "" or why a run has no such form
    family.config(args, shape)          # the content of config.json
    family.to_theirs(state, args)       # the tensors under their names
    family.settings(config)             # the flags that build the same model here
    family.to_ours(tensors, args)       # and back

A family is one file of this room, and one line in FAMILIES (src/exchange/families.py). Keys that config.json leaves out
have the defaults of the package: `save_pretrained` writes only what differs from them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from src.flags.fields import UserError
from src.flags.run_flags import RunArgs
from src.models.backbone import head_scale

MOST = 1 << 24  # no size of a model is larger; such a number is damage, and would fill the memory
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """Sizes of a built model that its flags do not tell.

    vocab: tokens of the vocabulary.  table: rows of the learned position table, None without one.
    longest: tokens of the longest sequence that the run trains.
    """

    vocab: int
    table: int | None
    longest: int


@dataclass(frozen=True)
class Settings:
    """How a folder's model is built here.

    flags: the flags that its form decides; no other values are possible.
    defaults: flags that only concern training. A typed value wins.
    table: rows of its learned position table, None without one.
    longest: tokens of the longest sequence that it was trained on, None where the folder does not say so.
    """

    flags: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)
    table: int | None = None
    longest: int | None = None


class Family(ABC):
    """One of our layers, and the models of `transformers` that compute the same function.

    model: the name of --model.  architectures: their classes, as config.json names them.
    prefix: what the names of a bare model lack, such as "transformer.".
    ignored: a pattern of tensors that hold nothing trained (masks, tables that are computed).
    """

    model: ClassVar[str]
    architectures: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str]
    ignored: ClassVar[str] = r"(?!)"

    @abstractmethod
    def misfit(self, args: RunArgs) -> str:
        """What of a run has no place in these models, and which flags would fit; empty if all has one."""

    @abstractmethod
    def config(self, args: RunArgs, shape: Shape) -> dict:
        """The keys of config.json that describe the model, its class under "architectures"."""

    @abstractmethod
    def to_theirs(self, state: Tensors, args: RunArgs) -> dict[str, Tensor]:
        """A state dict of ours under their names. A tied head is left out, as `save_pretrained` does."""

    @abstractmethod
    def settings(self, config: dict) -> Settings:
        """How the model of a config.json is built here. UserError, with the key, where it cannot be."""

    @abstractmethod
    def to_ours(self, tensors: Tensors, args: RunArgs) -> dict[str, Tensor]:
        """Their tensors as a state dict of ours, a tied head included. All of them are there."""

    def normalised(self, tensors: Tensors, args: RunArgs) -> dict[str, Tensor]:
        """A folder's tensors without what is not trained, under the names of the model with a head."""
        bare = not any(name.startswith(self.prefix) for name in tensors)
        named = {self.prefix + name if bare and name != "lm_head.weight" else name: t for name, t in tensors.items()}
        if args.tie_weights:
            named.pop("lm_head.weight", None)  # some programs store it twice; the package ties it to the embedding
        return {name: t for name, t in named.items() if not re.search(self.ignored, name)}


def misfits(wanted: Mapping[str, tuple[Any, Any, str]]) -> str:
    """The first flag that does not fit, as a sentence. wanted: {flag: (got, needed, what to type)}."""
    for flag, (got, needed, remedy) in wanted.items():
        if got != needed:
            return f"--{flag} is {got} in this run, allowed: {needed}; {remedy}"
    return ""


def unscaled(state: Tensors, args: RunArgs) -> Tensors:
    """A state dict of ours that gives the same logits without a scale of a tied head.

    The final norm takes the scale over, since the head is linear. See `head_scale` in src/models/backbone.py.
    """
    scale = head_scale(args)
    return state if scale == 1.0 else {n: t * scale if n.startswith("norm.") else t for n, t in state.items()}


def renamed(tensors: Tensors, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors under new names; those without one are left out."""
    return {names[name]: tensor for name, tensor in tensors.items() if name in names}


def check_fixed(values: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """UserError for the first key of config.json whose value is another than the one that our model computes."""
    for key, wanted in fixed.items():
        if values.get(key) != wanted:
            raise UserError(
                f"config.json: got {key} {values.get(key)!r:.60}, allowed: {wanted!r}; the layer here has no other form"
            )


def whole(values: Mapping[str, Any], key: str) -> int:
    """A size in config.json, a whole number from 1 to MOST. UserError with the key where it is none."""
    value = values.get(key)
    if type(value) is not int or not 1 <= value <= MOST:
        raise UserError(f"config.json: got {key} {value!r:.60}, allowed: a whole number, 1 to {MOST}; restore the file")
    return value


def share(values: Mapping[str, Any], key: str) -> float:
    """A dropout in config.json. UserError with the key where it is none that a run can have."""
    value = values.get(key)
    if type(value) not in (int, float) or not 0 <= value <= 0.95:
        raise UserError(f"config.json: got {key} {value!r:.60}, allowed: 0 .. 0.95; change it there")
    return float(value)


def switch(values: Mapping[str, Any], key: str) -> bool:
    """A switch in config.json. UserError with the key where it is none."""
    value = values.get(key)
    if type(value) is not bool:
        raise UserError(f"config.json: got {key} {value!r:.60}, allowed: true or false; restore the file")
    return value

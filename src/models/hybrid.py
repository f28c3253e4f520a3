"""Different layers in one model: `--model hybrid --layers mamba,mamba,transformer`.

The list names the layer of each block by its name in `MODELS`. The depth is the length of the list.

    y = block_n( ... block_2( block_1( x ) ) ) ,   x (B, T, D) ,   block_i as in src/models/backbone.py around layer i

- Each block keeps its layer's published norm, MLP and short convolution, unless a flag or `--fair` says otherwise.
  `--fair` gives all blocks the same ones.
- The flags of all its layers apply. A flag that several layers have goes to all of them.
- `--pos auto` is `none` as soon as one layer carries order by itself, and under `--fair`, else `learned`.

Source: after Lieber et al. 2024 (Jamba), arXiv:2403.19887; positions as in its section 3.1. Cost and state: the sums
over the layers.

Differs:
- No mixture of experts.
- Any order of layers. Jamba has one attention layer in eight, in the middle of the eight.
- Jamba has RMSNorm and an MLP with SiLU and a gate after every layer, and groups of queries that share keys. Here a
  Mamba block has no MLP and an attention block has LayerNorm and GELU, as these layers were published. `--norm rms
  --mlp swiglu` makes both kinds of block alike, and `--dim_ffn N` gives all an MLP.
- Jamba normalises the step size, B and C inside Mamba. `mamba` here does not.
"""

from __future__ import annotations

import dataclasses

from src.flags.fields import UserError, copy_of, field_types, option, own_config
from src.flags.registry import find
from src.models import MODELS
from src.models.backbone import Backbone, build, max_len_of
from src.models.contract import Mixer

DEFAULT = ("mamba", "transformer")


class Hybrid:
    """A list of mixers, one per block. `of` makes the class for a list of names; its `layers` are the mixers."""

    layers: tuple[type[Mixer], ...] = ()

    @classmethod
    def of(cls, names: tuple[str, ...]) -> type[Hybrid]:
        """The class for these layers. UserError for an unknown name, a hybrid, or a whole model."""
        mixers = tuple(_mixer(name) for name in names)
        return type(
            "Hybrid",
            (cls,),
            {
                "layers": mixers,
                "Config": _union(names, mixers),
                "positions": tuple(dict.fromkeys(p for m in mixers for p in m.positions)),
                "default_pos": _default_pos({m.default_pos for m in mixers}),
                "has_heads": any(m.has_heads for m in mixers),
                "__module__": cls.__module__,
            },
        )


def _default_pos(published: set[str]) -> str:
    """What --pos auto means for layers that were published with these positions; `learned` works for every layer."""
    if "none" in published:
        return "none"
    return published.pop() if len(published) == 1 else "learned"


def _mixer(name: str) -> type[Mixer]:
    mixers = {n: entry for n, entry in MODELS.items() if n != "hybrid"}
    found = find("layers", mixers, name, lambda: (Mixer,))
    if not issubclass(found, Mixer):
        layers = ", ".join(n for n, entry in mixers.items() if issubclass(entry.load(), Mixer))
        raise UserError(f"--layers: got '{name}', a whole model, allowed: layers, of {layers}")
    return found


def _union(names, mixers) -> type:
    """The flags of all the layers, and `layers` itself."""
    fields = {
        "layers": (
            "layers",
            tuple[str, ...],
            option(names, "the layer of each block, in order; the depth is the length of the list"),
        )
    }
    for config in filter(None, map(own_config, mixers)):
        types = field_types(config)
        for f in dataclasses.fields(config):
            fields.setdefault(f.name, (f.name, types[f.name], copy_of(f)))
    return dataclasses.make_dataclass(
        "Config", fields.values(), frozen=True, namespace={"__module__": mixers[0].__module__}
    )


DefaultHybrid = Hybrid.of(DEFAULT)


def build_model(vocab_size: int, args) -> Backbone:
    """The hybrid of a run configuration, by `args.layers`."""
    return build(Hybrid.of(tuple(args.layers)), vocab_size, args, max_len_of(args))

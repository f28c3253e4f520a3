"""What is around a layer, and what `--fair` could not make equal. A run stores the second, and prints both.

    block_words(model_class, args)     # "rms, conv 4 on its input, MLP 278"
    fair_differences(model, args)      # None without --fair; [] where every block is as --fair says
    unread(model_class, vocab, args, names)    # the flags that a whole model does not read

The built model is read, not its flags: the norm, MLP, convolution and dropout of every block, the positions, and what
the mixers hold themselves. A mixer declares in `keeps` what is part of its definition and no module shows, such as
RetNet's rotation. Weights, gates and norms inside a mixer are the layer itself, so they are no difference.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from src.flags.run_flags import RunArgs, RunFlags
from src.models.backbone import FAIR, FAIR_POS, Backbone, Block, hidden_width, layers_of
from src.models.contract import ARModel, Mixer
from src.models.short_conv import ShortConv
from src.storage.randomness import kept_random_state

CONVOLUTIONS = (nn.Conv1d, ShortConv)
# The flags of the embedding, the block and the head that the bench puts around a layer, and of dropout inside it.
BLOCK_FLAGS = (
    *("fair", "norm", "mlp", "dim_ffn", "short_conv", "bias"),
    *("tie_weights", "embed_std", "embed_dropout", "attn_dropout"),
)


def block_words(model_class: type, args: RunArgs) -> str:
    """The block around each layer in words, equal ones once: norm, convolution and MLP. args: decided flags."""
    if issubclass(model_class, ARModel):
        return f"none, because {model_class.__name__} is a whole model"
    layers = layers_of(model_class, args)
    found = {_block_of(layer, a): layer.__name__ for layer, a in reversed(layers)}
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(dict.fromkeys(f"{layer.__name__}: {_block_of(layer, a)}" for layer, a in layers))


def _block_of(layer: type[Mixer], args: RunArgs) -> str:
    width, on_input = args.short_conv, args.fair or not layer.own_conv
    # Below 0 the layer has a flag of its own for the width of its convolution.
    conv = "no conv" if width == 0 else f"conv {width} on its input" if on_input else "conv of its own"
    kind = "SwiGLU MLP" if args.mlp == "swiglu" else "MLP"
    return f"{args.norm}, {conv}, {f'{kind} {args.dim_ffn}' if args.dim_ffn else 'no MLP'}"


def unread(model_class: type, vocab_size: int, args: RunFlags, names: Iterable[str]) -> list[str]:
    """Those of these flags that a whole model does not read while it is built. None where that cannot be told."""
    seen: set[str] = set()

    class Watched:
        def __getattr__(self, name):
            seen.add(name)
            return getattr(args, name)

    try:
        with kept_random_state(), torch.device("meta"):
            model_class.from_flags(vocab_size, Watched(), 1)
    except Exception:  # it copies the flags as a dataclass, or cannot be built without memory
        return []
    return [name for name in names if name not in seen]


def fair_differences(model: ARModel, args: RunArgs) -> list[str] | None:
    """One text per difference from the block of `--fair`; a difference of several blocks is named once."""
    if not args.fair:
        return None
    if not isinstance(model, Backbone):
        return [f"{type(model).__name__}: a whole model, which has no block of the bench"]
    found = [] if model.pos == FAIR_POS else [f"positions: {model.pos}, not {FAIR_POS}"]
    wanted = fair_parts(args)
    for block in model.blocks:
        have = parts_of(block)
        found += [f"{part}: {have[part]}, not {wanted[part]}" for part in wanted if have[part] != wanted[part]]
        found += [f"{type(block.mixer).__name__}: {what}" for what in own_parts(block.mixer)]
    return list(dict.fromkeys(found))


def fair_parts(args: RunArgs) -> dict[str, str]:
    """What `parts_of` gives for a block of `--fair`."""
    hidden = hidden_width(FAIR.mlp, FAIR.ffn_ratio * args.d_model)
    return {
        "norm": FAIR.norm,
        "MLP": f"{FAIR.mlp} with {hidden} channels",
        "convolution": f"width {FAIR.short_conv} with silu on the mixer's input",
        "dropout": f"{args.dropout:g} after mixer and MLP, {args.dropout:g} inside the MLP",
    }


def parts_of(block: Block) -> dict[str, str]:
    """The parts of a block in words."""
    norms = {"rms" if isinstance(norm, nn.RMSNorm) else "layer" for norm in (block.norm1, block.norm2) if norm}
    mlp, conv = block.mlp, block.conv
    kind = mlp and ("gelu" if mlp.gate is None else "swiglu")
    inside = f"{mlp.dropout.p:g} inside the MLP" if mlp else "no MLP"
    return {
        "norm": " and ".join(sorted(norms)),
        "MLP": f"{kind} with {mlp.up.out_features} channels" if mlp else "none",
        "convolution": f"width {conv.weight.shape[1]} with {conv.activation} on the mixer's input" if conv else "none",
        "dropout": f"{block.dropout.p:g} after mixer and MLP, {inside}",
    }


def own_parts(mixer: Mixer) -> list[str]:
    """What a mixer has beside the block: what it declares, convolutions, and dropout that is on."""
    found = list(mixer.keeps)
    for name, module in mixer.named_modules():
        place = f" ({name})" if name else ""
        if isinstance(module, CONVOLUTIONS):
            found.append(f"a convolution of its own{place}")
        rate = module.p if isinstance(module, nn.modules.dropout._DropoutNd) else getattr(module, "dropout", 0.0)
        if isinstance(rate, float) and rate > 0:
            found.append(f"dropout {rate:g} of its own{place}")
    return found

"""What `--fair` could not make equal. A run stores the list, and `train` and `check` print it.

    fair_differences(model, args)      # None without --fair; [] where every block is as --fair says

The built model is read, not its flags: the norm, MLP, convolution and dropout of every block, the positions, and what
the mixers hold themselves. A mixer declares in `keeps` what is part of its definition and no module shows, such as
RetNet's rotation. Weights, gates and norms inside a mixer are the layer itself, so they are no difference.
"""

from __future__ import annotations

from torch import nn

from src.flags.run_flags import RunArgs
from src.models.backbone import FAIR, FAIR_POS, Backbone, Block, hidden_width
from src.models.contract import ARModel, Mixer
from src.models.short_conv import ShortConv

CONVOLUTIONS = (nn.Conv1d, ShortConv)


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

"""`--model transformer` as GPT2LMHeadModel of the package `transformers`.

    transformer.wte, .wpe               embed, pos_embed
    transformer.h.N.ln_1, .ln_2         blocks.N.norm1, .norm2
    transformer.h.N.attn.c_attn         blocks.N.mixer.qkv, queries, keys and values in this order
    transformer.h.N.attn.c_proj         blocks.N.mixer.out
    transformer.h.N.mlp.c_fc, .c_proj   blocks.N.mlp.up, .down
    transformer.ln_f, lm_head           norm, head

Their maps are stored as (inputs, outputs), ours as (outputs, inputs). Their `gelu` is the exact one, as ours; GPT-2 of
2019 has `gelu_new`, an approximation by tanh, which is not here. They always have biases: `--no_bias` becomes zeros,
and the key "bias" of config.json, which the package ignores, takes them away again.
"""

from __future__ import annotations

from torch import Tensor

from src.exchange.contract import (
    Family,
    Settings,
    Shape,
    Tensors,
    check_fixed,
    misfits,
    renamed,
    share,
    switch,
    unscaled,
    whole,
)
from src.flags.fields import UserError
from src.flags.run_flags import RunArgs, drop_rate

DEFAULTS = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    "bias": True,
}
FIXED = {
    "activation_function": "gelu",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
BLOCK = {
    "norm1": "ln_1",
    "mixer.qkv": "attn.c_attn",
    "mixer.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


class GPT2(Family):
    model = "transformer"
    architectures = ("GPT2LMHeadModel",)
    prefix = "transformer."
    ignored = r"\.attn\.(masked_)?bias$"  # a causal mask, which old versions of the package stored

    def misfit(self, args: RunArgs) -> str:
        return misfits(
            {
                "pos": (args.pos, "learned", "train with --pos learned, or --model llama for rotary positions"),
                "norm": (args.norm, "layer", "train with --norm layer, or --model llama for RMSNorm"),
                "mlp": (args.mlp, "gelu", "train with --mlp gelu, or --model llama for a SwiGLU"),
                "dim_ffn": (args.dim_ffn or 0, args.dim_ffn or "at least 1", "train with an MLP"),
                "window": (args.window, 0, "train with --window 0, or --model llama for a window"),
                "short_conv": (args.short_conv, 0, "train with --short_conv 0"),
            }
        )

    def config(self, args: RunArgs, shape: Shape) -> dict:
        return {
            "architectures": list(self.architectures),
            "model_type": "gpt2",
            "vocab_size": shape.vocab,
            "n_positions": shape.table,
            "n_embd": args.d_model,
            "n_layer": args.n_layer,
            "n_head": args.n_head,
            "n_inner": args.dim_ffn,
            **FIXED,
            "resid_pdrop": args.dropout,
            "embd_pdrop": drop_rate(args, "embed"),
            "attn_pdrop": drop_rate(args, "attn"),
            "bias": args.bias,
        }

    def to_theirs(self, state: Tensors, args: RunArgs) -> dict[str, Tensor]:
        names, state = _names(args, True), unscaled(state, args)
        theirs = {name: _turned(name, t) for name, t in renamed(state, names).items()}
        for ours in [name for name in names if name not in state]:  # the biases of --no_bias
            weight = state[ours.removesuffix("bias") + "weight"]
            theirs[names[ours]] = weight.new_zeros(len(weight))
        return theirs

    def settings(self, config: dict) -> Settings:
        values = {**DEFAULTS, **config}
        check_fixed(values, FIXED)
        width = whole(values, "n_embd")
        flags = {
            "d_model": width,
            "n_layer": whole(values, "n_layer"),
            "n_head": whole(values, "n_head"),
            "dim_ffn": 4 * width if values["n_inner"] is None else whole(values, "n_inner"),
            "tie_weights": switch(values, "tie_word_embeddings"),
            "bias": switch(values, "bias"),
            "pos": "learned",
            "norm": "layer",
            "mlp": "gelu",
            "window": 0,
            "short_conv": 0,
        }
        defaults = {
            "dropout": share(values, "resid_pdrop"),
            "embed_dropout": share(values, "embd_pdrop"),
            "attn_dropout": share(values, "attn_pdrop"),
        }
        return Settings(flags, defaults, whole(values, "n_positions"))

    def to_ours(self, tensors: Tensors, args: RunArgs) -> dict[str, Tensor]:
        if not args.bias:
            _check_zero(tensors)
        back = {theirs: ours for ours, theirs in _names(args, args.bias).items()}
        ours = {back[name]: _turned(name, t) for name, t in tensors.items() if name in back}
        return {**ours, "head.weight": ours["embed.weight"]} if args.tie_weights else ours


def _names(args: RunArgs, bias: bool) -> dict[str, str]:
    """{our name: theirs} of all parameters.  bias: with those of the biases."""
    modules = {"norm": "transformer.ln_f"}
    for i in range(args.n_layer):
        modules |= {f"blocks.{i}.{ours}": f"transformer.h.{i}.{theirs}" for ours, theirs in BLOCK.items()}
    kinds = ("weight", "bias") if bias else ("weight",)
    names = {"embed.weight": "transformer.wte.weight", "pos_embed.weight": "transformer.wpe.weight"}
    names |= {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in modules.items() for kind in kinds}
    return names if args.tie_weights else {**names, "head.weight": "lm_head.weight"}


def _turned(name: str, tensor: Tensor) -> Tensor:
    """A map between (outputs, inputs) and (inputs, outputs); anything else as it is. name: theirs."""
    return tensor.T if ".c_" in name and tensor.dim() == 2 else tensor


def _check_zero(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if name.endswith(".bias") and bool(tensor.any()):
            raise UserError(f"config.json: got bias false, but '{name}' is not zero; set it to true")

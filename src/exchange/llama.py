"""`--model llama` as LlamaForCausalLM of the package `transformers`; with --window MistralForCausalLM, with --qk_norm
Qwen3ForCausalLM.

The three classes have the same tensors, but for the norms of queries and keys in Qwen3. src/models/llama.py has the
table of names and carries the weights over. Here are the keys of config.json.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from src.exchange.contract import Family, Settings, Shape, Tensors, check_fixed, share, switch, whole
from src.flags.fields import UserError
from src.flags.run_flags import RunArgs, drop_rate
from src.models.llama import from_hugging_face, names, to_hugging_face

FIXED = {"hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False, "mlp_bias": False, "rope_scaling": None}
DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "mlp_bias": False,
    "rope_scaling": None,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "attention_dropout": 0.0,
    "max_position_embeddings": None,
    "tie_word_embeddings": False,
}
# What the classes have by default where they differ.
OF_CLASS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"intermediate_size": 11008, "num_key_value_heads": None, "head_dim": None},
    "MistralForCausalLM": {
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "head_dim": None,
        "sliding_window": 4096,
    },
    "Qwen3ForCausalLM": {
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "use_sliding_window": False,
    },
}
TYPES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen3ForCausalLM": "qwen3"}
OLD_THETA = 10_000.0  # where config.json names none


class Llama(Family):
    model = "llama"
    architectures: ClassVar[tuple[str, ...]] = tuple(OF_CLASS)
    prefix = "model."
    ignored = r"\.rotary_emb\.inv_freq$"  # computed; old versions of the package stored it

    def misfit(self, args: RunArgs) -> str:
        if args.window and args.qk_norm:
            return (
                "--window and --qk_norm are both in this run, allowed: one of them, because no class has both; "
                "train without --qk_norm"
            )
        try:
            names(args)
        except UserError as error:
            return str(error)
        return ""

    def config(self, args: RunArgs, shape: Shape) -> dict:
        name = "MistralForCausalLM" if args.window else "Qwen3ForCausalLM" if args.qk_norm else "LlamaForCausalLM"
        window = {"MistralForCausalLM": {"sliding_window": args.window}}.get(name, {})
        return {
            "architectures": [name],
            "model_type": TYPES[name],
            "vocab_size": shape.vocab,
            "hidden_size": args.d_model,
            "intermediate_size": args.dim_ffn,
            "num_hidden_layers": args.n_layer,
            "num_attention_heads": args.n_head,
            "num_key_value_heads": args.n_kv_head or args.n_head,
            "head_dim": args.d_model // args.n_head,
            "max_position_embeddings": shape.longest,
            "rope_theta": args.rope_base,
            "attention_dropout": drop_rate(args, "attn"),
            **FIXED,
            **window,
        }

    def to_theirs(self, state: Tensors, args: RunArgs) -> dict[str, Tensor]:
        return to_hugging_face(dict(state), args)

    def settings(self, config: dict) -> Settings:
        name = config["architectures"][0]
        values = {**DEFAULTS, **OF_CLASS[name], **config}
        check_fixed(values, FIXED)
        width, heads = whole(values, "hidden_size"), whole(values, "num_attention_heads")
        if values["head_dim"] is not None and whole(values, "head_dim") * heads != width:
            raise UserError(
                f"config.json: got head_dim {values['head_dim']} with {heads} heads, allowed: hidden_size {width} / "
                f"{heads}; the layer here has heads of no other size"
            )
        flags = {
            "d_model": width,
            "n_layer": whole(values, "num_hidden_layers"),
            "n_head": heads,
            "n_kv_head": heads if values["num_key_value_heads"] is None else whole(values, "num_key_value_heads"),
            "dim_ffn": whole(values, "intermediate_size"),
            "rope_base": rope_base(values),
            "qk_norm": name == "Qwen3ForCausalLM",
            "window": window_of(values, name),
            "tie_weights": switch(values, "tie_word_embeddings"),
            "pos": "rope",
            "norm": "rms",
            "mlp": "swiglu",
            "bias": False,
            "short_conv": 0,
        }
        longest = None if values["max_position_embeddings"] is None else whole(values, "max_position_embeddings")
        return Settings(flags, {"attn_dropout": share(values, "attention_dropout")}, longest=longest)

    def to_ours(self, tensors: Tensors, args: RunArgs) -> dict[str, Tensor]:
        return from_hugging_face(dict(tensors), args)


def rope_base(values: dict) -> float:
    """The base of the rotation's rates: "rope_theta", or that of "rope_parameters", as newer versions write it.

    UserError for rates that are scaled or turn only a part of a head.
    """
    rates = values.get("rope_parameters")
    rates = {"rope_theta": values.get("rope_theta", OLD_THETA)} if rates is None else rates
    if not isinstance(rates, dict):
        raise UserError(f"config.json: got rope_parameters {rates!r:.60}, allowed: an object; restore the file")
    check_fixed(
        {"rope_type": "default", "partial_rotary_factor": 1.0, **values, **rates},
        {"rope_type": "default", "partial_rotary_factor": 1.0},
    )
    base = rates.get("rope_theta", OLD_THETA)
    if type(base) not in (int, float) or not 1 < base <= 1e9:
        raise UserError(f"config.json: got rope_theta {base!r:.60}, allowed: above 1, at most 1e9; restore the file")
    return float(base)


def window_of(values: dict, name: str) -> int:
    """--window, 0 for all tokens. UserError where only some layers have a window."""
    if name == "MistralForCausalLM":
        return 0 if values["sliding_window"] is None else whole(values, "sliding_window")
    if name == "Qwen3ForCausalLM":
        check_fixed(values, {"use_sliding_window": False})
        mixed = sorted(set(values.get("layer_types") or ()) - {"full_attention"})
        if mixed:
            raise UserError(f"config.json: got layer_types with {mixed[0]!r:.60}, allowed: only full_attention")
    return 0

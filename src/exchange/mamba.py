"""`--model mamba` as MambaForCausalLM, and `--model mamba2` as Mamba2ForCausalLM of the package `transformers`.

Layers have the same names and shapes on both sides, those of `mamba_ssm`. Around them:

    backbone.embeddings                          embed
    backbone.layers.N.norm, .mixer               blocks.N.norm1, .mixer
    backbone.norm_f, lm_head                     norm, head

Groups of heads (`--ngroups`) share the norm of a Mamba2 only in newer versions of the package: its Mamba2ForCausalLM
normalises each group by itself, as here and in `mamba_ssm`, from version 5 on.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor

from src.exchange.contract import (
    Family,
    Settings,
    Shape,
    Tensors,
    check_fixed,
    misfits,
    renamed,
    switch,
    unscaled,
    whole,
)
from src.flags.fields import UserError
from src.flags.run_flags import RunArgs
from src.models.mamba import PUBLISHED_STATE as MAMBA_STATE
from src.models.mamba2 import PUBLISHED_STATE as MAMBA2_STATE
from src.models.mamba2 import head_channels

FIXED = {"hidden_act": "silu", "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True}
DEFAULTS = {**FIXED, "expand": 2, "conv_kernel": 4}
MAMBA_PARTS = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias")
MAMBA_PARTS += ("A_log", "D", "out_proj.weight")
MAMBA2_PARTS = ("in_proj.weight", "conv1d.weight", "conv1d.bias", "A_log", "dt_bias", "D", "norm.weight")
MAMBA2_PARTS += ("out_proj.weight",)


class Recurrent(Family):
    """What both have in common: the frame around the layer.

    parts: the tensors of the layer.  package_defaults: keys with the values that the package takes if they are absent.
    """

    prefix = "backbone."
    parts: ClassVar[tuple[str, ...]]
    package_defaults: ClassVar[dict[str, Any]]

    def misfit(self, args: RunArgs) -> str:
        return misfits(
            {
                "fair": (args.fair, False, "train without --fair: it moves the convolution out of the layer"),
                "pos": (args.pos, "none", "train with --pos none"),
                "norm": (args.norm, "rms", "train with --norm rms"),
                "dim_ffn": (args.dim_ffn, 0, "train with --dim_ffn 0: these models have no MLP"),
                "short_conv": (args.short_conv or 0, args.short_conv or "at least 1", "train with a convolution"),
                "neg_eigen": (getattr(args, "neg_eigen", False), False, "train without --neg_eigen"),
            }
        )

    def shared_config(self, args: RunArgs, shape: Shape) -> dict:
        """The keys of config.json that both classes have."""
        return {
            "architectures": list(self.architectures),
            "model_type": self.model,
            "vocab_size": shape.vocab,
            "hidden_size": args.d_model,
            "num_hidden_layers": args.n_layer,
            "expand": args.expand,
            "conv_kernel": args.d_conv if args.short_conv < 0 else args.short_conv,
            **FIXED,
        }

    def shared_flags(self, config: dict) -> tuple[dict, dict]:
        """The values of config.json with the package's defaults, and the flags that both classes have."""
        values = {**DEFAULTS, **self.package_defaults, **config}
        check_fixed(values, FIXED)
        if type(values["expand"]) is float and values["expand"].is_integer():
            values["expand"] = int(values["expand"])
        flags = {
            "d_model": whole(values, "hidden_size"),
            "n_layer": whole(values, "num_hidden_layers"),
            "d_state": whole(values, "state_size"),
            "d_conv": whole(values, "conv_kernel"),
            "expand": whole(values, "expand"),
            "tie_weights": switch(values, "tie_word_embeddings"),
            "pos": "none",
            "norm": "rms",
            "dim_ffn": 0,
            "short_conv": -1,
        }
        return values, flags

    def to_theirs(self, state: Tensors, args: RunArgs) -> dict[str, Tensor]:
        return renamed(unscaled(state, args), self._names(args))

    def to_ours(self, tensors: Tensors, args: RunArgs) -> dict[str, Tensor]:
        ours = renamed(tensors, {theirs: ours for ours, theirs in self._names(args).items()})
        return {**ours, "head.weight": ours["embed.weight"]} if args.tie_weights else ours

    def _names(self, args: RunArgs) -> dict[str, str]:
        """{our name: theirs} of all parameters."""
        names = {"embed.weight": "backbone.embeddings.weight", "norm.weight": "backbone.norm_f.weight"}
        for i in range(args.n_layer):
            names[f"blocks.{i}.norm1.weight"] = f"backbone.layers.{i}.norm.weight"
            names |= {f"blocks.{i}.mixer.{part}": f"backbone.layers.{i}.mixer.{part}" for part in self.parts}
        return names if args.tie_weights else {**names, "head.weight": "lm_head.weight"}


class Mamba(Recurrent):
    model = "mamba"
    architectures = ("MambaForCausalLM",)
    parts = MAMBA_PARTS
    package_defaults: ClassVar[dict[str, Any]] = {
        "hidden_size": 768,
        "num_hidden_layers": 32,
        "state_size": 16,
        "time_step_rank": "auto",
        "tie_word_embeddings": True,
    }

    def config(self, args: RunArgs, shape: Shape) -> dict:
        return {
            **self.shared_config(args, shape),
            "state_size": args.d_state or MAMBA_STATE,
            "time_step_rank": args.dt_rank or math.ceil(args.d_model / 16),
        }

    def settings(self, config: dict) -> Settings:
        values, flags = self.shared_flags(config)
        rank = 0 if values["time_step_rank"] == "auto" else whole(values, "time_step_rank")
        return Settings({**flags, "dt_rank": rank, "neg_eigen": False})


class Mamba2(Recurrent):
    model = "mamba2"
    architectures = ("Mamba2ForCausalLM",)
    parts = MAMBA2_PARTS
    package_defaults: ClassVar[dict[str, Any]] = {
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "state_size": 128,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "time_step_limit": [0.0, math.inf],
        "tie_word_embeddings": False,
    }

    def config(self, args: RunArgs, shape: Shape) -> dict:
        inner = args.expand * args.d_model
        channels = head_channels(inner, args.headdim)
        return {
            **self.shared_config(args, shape),
            "state_size": args.d_state or MAMBA2_STATE,
            "num_heads": inner // channels,
            "head_dim": channels,
            "n_groups": args.ngroups,
        }

    def settings(self, config: dict) -> Settings:
        values, flags = self.shared_flags(config)
        if not _is_unlimited(values["time_step_limit"]):
            raise UserError(
                f"config.json: got time_step_limit {values['time_step_limit']!r:.60}, allowed: [0, Infinity]; the "
                "layer here has no bounds of the step size"
            )
        heads, channels = whole(values, "num_heads"), whole(values, "head_dim")
        if heads * channels != flags["expand"] * flags["d_model"]:
            raise UserError(
                f"config.json: got num_heads {heads} of head_dim {channels}, allowed: expand x hidden_size = "
                f"{flags['expand'] * flags['d_model']} channels in all; restore the file"
            )
        return Settings({**flags, "headdim": channels, "ngroups": whole(values, "n_groups")})


def _is_unlimited(limit) -> bool:
    """Whether bounds of the step size limit nothing. The package writes infinity as {"__float__": "Infinity"}."""
    if not isinstance(limit, list) or len(limit) != 2:
        return False
    low, high = limit
    return low == 0 and high in (math.inf, {"__float__": "Infinity"})

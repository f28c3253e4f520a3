"""Initialisation of the linear maps: `--init {published,torch,xavier,normal}`.

- published   Each layer keeps what its own __init__ set. Nothing is overwritten. The default.
- torch       W and b uniform in +- fan_in^(-1/2), as `nn.Linear.reset_parameters` does. Under `--fair` the default: it
              is what an nn.Linear in a file of your own gets, and outputs keep their scale at every width. A fixed
              standard deviation such as 0.02 equals it only at a width of 833.
- xavier      W uniform in +- sqrt(6 / (fan_in + fan_out)), b = 0. Glorot & Bengio 2010, equation 16. Each part of a
              fused map has a fan_out of its own.
- normal      W of N(0, 0.02), b = 0. Maps that write into the residual stream have 0.02 / sqrt(2 n_layer): the output
              map of the mixer and the second map of the MLP. Radford et al. 2019 (GPT-2), section 2.3, with the numbers
              of nanoGPT's model.py.

All but `published` set the linear maps: nn.Linear, the matrices of nn.LSTM, nn.GRU and nn.RNN, and the input maps of
nn.MultiheadAttention; the output head too, unless it is tied. All else keeps what its constructor set: embeddings (see
`--embed_std`), norms (gain 1, bias 0), convolutions, and every bare nn.Parameter. A layer tells more in three ways,
all optional:

    self.decay.bias._no_reinit = True         this parameter is part of the layer's definition and keeps its values
    output_maps = ("w_o",)                    class attribute: the members that write into the residual stream
    self.qkv.parts = [K, K, V]                rows of the separate maps in a fused one

`_no_reinit` is also the mark in `mamba_ssm`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from src.flags.fields import UserError

NORMAL_STD = 0.02
RELEASE_GAIN = 2**-2.5  # of RetNet in torchscale, and of GLA in the first releases of flash-linear-attention


class Map(NamedTuple):
    """weight: (fan_out, fan_in).  biases: (fan_out,) each, may be none.  parts: rows of the maps that are fused."""

    weight: nn.Parameter
    biases: list[nn.Parameter]
    parts: list[int]


def materialise(model: nn.Module) -> None:
    """Give lazy parameters (nn.LazyLinear) their shapes and first values, by one pass over two tokens.

    An optimiser and `initialise` need all parameters, so it runs before them. Without lazy parameters nothing runs.
    Raises UserError where a lazy parameter takes no part in that pass.
    """
    if not _lazy(model):
        return
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, 2, dtype=torch.long))
    model.train(training)
    for name in _lazy(model):
        raise UserError(f"--model: forward does not use the lazy parameter '{name}', so its shape is unknown")


def _lazy(model: nn.Module) -> list[str]:
    """The names of the parameters and buffers that have no shape yet."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    return [name for name, t in named if nn.parameter.is_lazy(t)]


def initialise(model: nn.Module, init: str, n_layer: int) -> None:
    """Set the linear maps of a built model as `--init` says, after lazy ones got their shapes.

    init: not "auto".  n_layer: the number of blocks.
    """
    materialise(model)
    if init == "published":
        return
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}  # a tied head is one of them
    outputs = _output_maps(model)
    with torch.no_grad():
        for module in model.modules():
            std = NORMAL_STD / math.sqrt(2 * n_layer) if id(module) in outputs else NORMAL_STD
            for one in maps_of(module):
                if id(one.weight) not in embeddings:
                    _set(one, init, std)


def maps_of(module: nn.Module) -> Iterator[Map]:
    """The linear maps that a module itself holds, those of its members not included."""
    if isinstance(module, nn.Linear):
        yield Map(module.weight, _present(module.bias), parts_of(module))
    elif isinstance(module, nn.RNNBase):
        for name, weight in module.named_parameters(recurse=False):
            if name.startswith("weight_"):
                bias = getattr(module, name.replace("weight", "bias"), None)  # weight_hr of a projection has none
                rows = len(weight) if name.startswith("weight_hr") else module.hidden_size
                yield Map(weight, _present(bias), [rows] * (len(weight) // rows))
    elif isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
        if module.in_proj_weight is not None:
            yield Map(module.in_proj_weight, _present(module.in_proj_bias), [width] * 3)
        else:
            biases = _present(module.in_proj_bias)  # one vector for the three maps
            for weight in (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight):
                yield Map(weight, biases, [width])


def parts_of(linear: nn.Linear) -> list[int]:
    """Rows of the separate maps that a linear map consists of, in order; one part if the layer names none."""
    return getattr(linear, "parts", [linear.out_features])


def xavier_parts(linear: nn.Linear, gain: float) -> None:
    """Initialise each part of a fused map as the separate map that it is, Xavier-uniform with this gain."""
    for part in linear.weight.data.split(parts_of(linear)):
        nn.init.xavier_uniform_(part, gain=gain)


def _output_maps(model: nn.Module) -> set[int]:
    """The ids of the modules that write into the residual stream, by `output_maps` of the modules that hold them."""
    found = set()
    for owner in model.modules():
        names = getattr(owner, "output_maps", ())
        found |= {id(m) for name, m in owner.named_modules() if name.rpartition(".")[2] in names}
    return found


def _set(one: Map, init: str, std: float) -> None:
    bound = one.weight.shape[1] ** -0.5
    if not _is_own(one.weight):
        if init == "torch":
            one.weight.uniform_(-bound, bound)
        elif init == "normal":
            one.weight.normal_(0, std)
        else:
            for part in one.weight.split(one.parts):
                nn.init.xavier_uniform_(part)
    for bias in one.biases:
        if not _is_own(bias):
            bias.uniform_(-bound, bound) if init == "torch" else bias.zero_()


def _is_own(p: nn.Parameter) -> bool:
    return getattr(p, "_no_reinit", False)


def _present(bias) -> list[nn.Parameter]:
    return [] if bias is None else [bias]

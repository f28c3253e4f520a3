"""Mamba-2 and the transformer against the package `transformers` with the same weights.

    python -m pytest -m oracle tests/oracle/test_against_transformers.py

Mamba-2: its `Mamba2Mixer` on its path in plain torch. Transformer: its GPT-2 without positions, with the exact GELU.
Their code runs in float64.
"""

import inspect

import pytest
import torch
import torch.nn.functional as F
from op_checks import numba_only
from oracles import EXACT, SINGLE, InFloat64, assert_agree, draw, largest_difference, outputs_and_gradients, package
from small_models import C, NoTask, disturb

from src.flags.run_flags import resolve
from src.models import mamba2
from src.models.backbone import build
from src.models.mamba2 import Mamba2
from src.models.transformer import Attention

pytestmark = pytest.mark.oracle


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch):
    """The package takes kernels of other packages once another test has loaded them; here it computes in torch."""
    module = package("transformers.models.mamba2.modeling_mamba2")
    for name, function in list(vars(module).items()):
        if inspect.isfunction(function) and function.__module__ == module.__name__:
            monkeypatch.setattr(module, name, inspect.unwrap(function))


LENGTHS = pytest.mark.parametrize("T", [1, 7, 63, 64, 65, 257], ids=lambda t: f"T{t}")
PATHS = [
    ("eager", torch.float64, EXACT),
    ("eager", torch.float32, SINGLE),
    pytest.param("numba", torch.float32, SINGLE, marks=numba_only),
]
paths = pytest.mark.parametrize(("backend", "dtype", "limit"), PATHS, ids=lambda x: str(x).removeprefix("torch."))

# --- Mamba-2 ---------------------------------------------------------------------------------------------------------

SSD_CASES = {
    "one group": {"d_model": 16, "d_state": 8, "headdim": 8},
    "two groups": {"d_model": 16, "d_state": 8, "headdim": 8, "ngroups": 2},
    "other sizes": {"d_model": 12, "d_state": 5, "headdim": 6, "expand": 3, "d_conv": 2},
}
ssd_cases = pytest.mark.parametrize("case", SSD_CASES.values(), ids=SSD_CASES)


def ssd_pair(case, backend="eager"):
    """Our layer, its parameters away from their start, the package's with the same weights, float64, and its config."""
    module = package("transformers.models.mamba2.modeling_mamba2")
    torch.manual_seed(0)
    ours = disturb(Mamba2(resolve(NoTask, Mamba2, backend=backend, **case)), 0.1).double()
    heads, N, V = ours.memory
    config = module.Mamba2Config(
        hidden_size=case["d_model"],
        expand=case.get("expand", 2),
        num_heads=heads,
        head_dim=V,
        state_size=N,
        n_groups=ours.ngroups,
        conv_kernel=case.get("d_conv", 4),
        num_hidden_layers=1,
        chunk_size=64,
    )
    theirs = module.Mamba2Mixer(config, layer_idx=0).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, config


@LENGTHS
@paths
@ssd_cases
def test_mamba2_is_the_package_s_layer_in_output_and_all_gradients(case, backend, dtype, limit, T):
    ours, theirs, _ = ssd_pair(case, backend)
    x = draw(2, T, case["d_model"])
    with InFloat64():
        want = outputs_and_gradients(theirs, x)
    assert_agree(outputs_and_gradients(ours.to(dtype), x.to(dtype)), want, limit)


@pytest.mark.parametrize("T", [2, 7, 65], ids=lambda t: f"T{t}")
@ssd_cases
def test_mamba2_keeps_the_package_s_state_and_decodes_as_it_does(case, T):
    """T tokens at once, then three one by one. The package keeps the state as (B, H, V, N), ours is (B, H, N, V)."""
    ours, theirs, config = ssd_pair(case)
    x = draw(2, T + 3, case["d_model"])
    cache = package("transformers").DynamicCache(config=config)
    state = ours.init_state(2, T + 3)
    with torch.no_grad():
        for begin, end in ((0, T), (T, T + 1), (T + 1, T + 2), (T + 2, T + 3)):
            with InFloat64():
                want = theirs(x[:, begin:end], cache=cache)
            got, state = ours.prefill(x[:, :T], state) if end == T else ours.step(x[:, begin], state)
            memory, window = state
            assert_agree(
                {"output": got.view_as(want), "memory": memory, "window": window},
                {
                    "output": want,
                    "memory": cache.get_recurrent_state(0, state_idx=0).transpose(-1, -2),
                    "window": cache.get_conv_state(0, state_idx=0)[..., -window.shape[1] :].transpose(1, 2),
                },
                EXACT,
            )


def test_the_package_notices_a_mamba2_whose_gate_comes_after_the_norm(monkeypatch):
    def wrong(self, y, z):
        return F.rms_norm(y, y.shape[-1:], eps=1e-5) * self.weight * F.silu(z)

    monkeypatch.setattr(mamba2.GatedRMSNorm, "forward", wrong)
    ours, theirs, _ = ssd_pair(SSD_CASES["one group"])
    x = draw(2, 7, 16)
    with InFloat64():
        want = outputs_and_gradients(theirs, x)
    assert largest_difference(outputs_and_gradients(ours, x), want)[0] > 1e-2


# --- the transformer -------------------------------------------------------------------------------------------------

D, H, BLOCKS = 16, 2, 2
NAMES = {
    "norm1": "ln_1",
    "mixer.qkv": "attn.c_attn",
    "mixer.out": "attn.c_proj",
    "norm2": "ln_2",
    "mlp.up": "mlp.c_fc",
    "mlp.down": "mlp.c_proj",
}


class Stack(torch.nn.Module):
    """Blocks and final norm of a backbone, of inputs (B, T, D) in place of characters."""

    def __init__(self, model):
        super().__init__()
        self.blocks, self.norm = model.blocks, model.norm

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def gpt2_pair(backend="explicit"):
    """Our blocks, their parameters away from their start, and GPT-2 with the same weights, float64."""
    transformers = package("transformers")
    torch.manual_seed(0)
    model = build(Attention, C, resolve(NoTask, Attention, d_model=D, n_layer=BLOCKS, n_head=H, backend=backend), 300)
    ours = disturb(Stack(model)).double()
    config = transformers.GPT2Config(
        n_embd=D,
        n_layer=BLOCKS,
        n_head=H,
        n_positions=300,
        vocab_size=C,
        activation_function="gelu",
        attn_implementation="eager",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    theirs = transformers.GPT2Model(config).double()
    theirs.wpe.weight.data.zero_()
    theirs.load_state_dict(translated(dict(ours.named_parameters())), strict=False)
    return ours, theirs


def translated(tensors):
    """Our parameters or gradients under GPT-2's names. Its maps are stored as (inputs, outputs)."""
    result = {}
    for name, tensor in tensors.items():
        if name.startswith("blocks."):
            _, block, rest = name.split(".", 2)
            part, kind = rest.rsplit(".", 1)
            tensor = tensor.T if tensor.dim() == 2 else tensor
            name = f"h.{block}.{NAMES[part]}.{kind}"
        result[{"norm.weight": "ln_f.weight", "norm.bias": "ln_f.bias"}.get(name, name)] = tensor
    return result


def gpt2_results(theirs, x):
    for embedding in (theirs.wte, theirs.wpe):
        embedding.requires_grad_(False)
    x = x.detach().requires_grad_()
    y = theirs(inputs_embeds=x).last_hidden_state
    named = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad((y * draw(*y.shape, seed=9)).sum(), [x, *named.values()])
    return {"output": y.detach(), **dict(zip(["input", *named], gradients, strict=True))}


@LENGTHS
@pytest.mark.parametrize("backend", ["explicit", "sdpa"])
def test_transformer_is_gpt2_in_output_and_all_gradients(backend, T):
    ours, theirs = gpt2_pair(backend)
    x = draw(2, T, D)
    with InFloat64():
        want = gpt2_results(theirs, x)
    got = translated(outputs_and_gradients(ours, x))
    if T == 1:  # one key: the weights are 1, and queries and keys have no gradient but rounding
        got, want = ({n: t for n, t in r.items() if "c_attn" not in n} for r in (got, want))
    assert_agree(got, want, EXACT)


def test_transformer_keeps_gpt2_s_keys_and_values_and_decodes_as_it_does():
    ours, theirs = gpt2_pair()
    x, T = draw(2, 9, D), 6
    states = [block.init_state(2, 9) for block in ours.blocks]
    with torch.no_grad():
        cache = None
        for begin, end in ((0, T), (T, T + 1), (T + 1, T + 2)):
            with InFloat64():
                answer = theirs(inputs_embeds=x[:, begin:end], past_key_values=cache, use_cache=True)
            cache, y = answer.past_key_values, x[:, begin:end] if end == T else x[:, begin]
            for i, block in enumerate(ours.blocks):
                y, states[i] = block.prefill(y, states[i]) if end == T else block.step(y, states[i])
            want = {"output": answer.last_hidden_state}
            got = {"output": ours.norm(y).view_as(want["output"])}
            for i, layer in enumerate(cache.layers):
                keys, values = mixer_cache(states[i])[:, :, :, :end]
                got |= {f"keys {i}": keys, f"values {i}": values}
                want |= {f"keys {i}": layer.keys, f"values {i}": layer.values}
            assert_agree(got, want, EXACT)


def mixer_cache(state):
    """The keys and values (2, B, H, slots, K) in the state of a block."""
    while not isinstance(state, torch.Tensor):
        state = state[0]
    return state


def test_gpt2_notices_scores_with_a_wrong_scale(monkeypatch):
    ours, theirs = gpt2_pair()
    right = Attention._attend
    monkeypatch.setattr(Attention, "_attend", lambda self, q, k, v: right(self, 1.05 * q, k, v))
    x = draw(2, 7, D)
    with InFloat64():
        want = gpt2_results(theirs, x)
    assert largest_difference(translated(outputs_and_gradients(ours, x)), want)[0] > 2e-3

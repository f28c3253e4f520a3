"""The NumPy model against torch: its own layers, and the `transformer` of this project, from the same parameters.

    python -m pytest tests/numpy_transformer/test_numpy_against_torch.py

Three ways to compute one thing: torch's autograd, this project's model, and calculus written by hand. In float64 they
differ by rounding only; 1e-9 is the limit.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_twin import to_torch_names, torch_batch, twin_of

from dataset import TASKS
from src.flags.run_flags import resolve
from src.models.backbone import build
from src.models.transformer import Attention
from src.numpy_transformer.datasets import make_batch
from src.numpy_transformer.layers import sinusoids
from src.numpy_transformer.transformer import Seq2Seq, Sizes

LIMIT = 1e-9


def model_of(pre_norm=True, n_head=2, dtype=np.float64, cross_attention=True, words=(11, 13)):
    """A model with parameters that are nowhere special: no gain is 1, no bias is 0."""
    rng = np.random.default_rng(2)
    sizes = Sizes(*words, 8, n_head, 2, 12, pre_norm, cross_attention)
    model = Seq2Seq(sizes, rng, dtype)
    model.params.values += 0.1 * rng.standard_normal(model.params.values.size).astype(dtype)
    return model


def pairs_of(n=5, words=(11, 13)):
    """n pairs of different lengths, so that there is padding on both sides."""
    rng = np.random.default_rng(4)

    def draw(high, length):
        return rng.integers(3, high, length).tolist()

    return [(draw(words[0], 1 + i % 4), draw(words[1], 1 + (2 * i) % 5)) for i in range(n)]


def compare(model, batch):
    """(difference of the losses, largest relative difference of a gradient) between a model and its twin of torch."""
    twin = twin_of(model)
    theirs = twin.loss(*torch_batch(batch))
    theirs.backward()
    ours = model.loss_and_gradients(batch)
    grads = to_torch_names({name: torch.tensor(p.grad) for name, p in model.params.named.items()})
    worst = 0.0
    for name, p in twin.named_parameters():
        # The bias of the keys moves all scores of a query alike, so its gradient is rounding noise around 0.
        worst = max(worst, float((p.grad - grads.pop(name)).abs().max() / max(p.grad.abs().max(), 1e-3)))
    assert not grads
    return abs(ours - theirs.item()), worst


@pytest.mark.parametrize("n_head", [1, 2])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["pre_norm", "post_norm"])
def test_loss_and_all_gradients_are_those_of_torchs_layers(pre_norm, n_head):
    loss, grads = compare(model_of(pre_norm, n_head), make_batch(pairs_of()))
    assert loss <= LIMIT
    assert grads <= LIMIT


def test_one_different_parameter_is_found():
    model = model_of()
    twin = twin_of(model)
    model.params.named["decoder.1.cross.kv.w"].value[0, 0] += 1e-4
    batch = make_batch(pairs_of())
    assert abs(model.loss_and_gradients(batch) - twin.loss(*torch_batch(batch)).item()) > LIMIT


def test_a_mask_that_leaks_the_future_is_found(monkeypatch):
    from src.numpy_transformer import transformer

    monkeypatch.setattr(transformer, "causal", lambda n: np.ones((n, n), bool))
    assert compare(model_of(), make_batch(pairs_of()))[0] > LIMIT


def test_in_float32_the_difference_is_that_of_rounding():
    """float32 has 7 digits; a loss of about 2.5 through four layers keeps five of them."""
    loss, grads = compare(model_of(dtype=np.float32), make_batch(pairs_of()))
    assert 0 <= loss <= 1e-5
    assert grads <= 1e-3


def our_transformer(model):
    """This project's `transformer` in float64 with the parameters of a decoder without cross-attention.

    Its learned positions are set to the sinusoids. The sinusoids of the backbone are computed in float32, which would
    allow 1e-7 only.
    """
    sizes, params = model.sizes, {name: torch.tensor(p.value) for name, p in model.params.named.items()}
    args = resolve(
        TASKS["needle"].load(),
        Attention,
        model="transformer",
        d_model=sizes.d_model,
        n_layer=sizes.n_layer,
        n_head=sizes.n_head,
        dim_ffn=sizes.d_ff,
        dropout=0.0,
        context_len=16,
        pos="learned",
    )
    torchs = build(Attention, sizes.target_words, args, max_len=16).double()
    names = to_torch_names(params)
    found = {}
    for name, value in names.items():
        name = name.replace("decoder.", "blocks.").replace("norm_target", "norm").replace("target.", "embed.")
        name = name.replace("attention.in_proj_", "mixer.qkv.").replace("attention.out_proj", "mixer.out")
        found[name.replace(".up.", ".mlp.up.").replace(".down.", ".mlp.down.")] = value
    found["pos_embed.weight"] = torch.tensor(sinusoids(0, 16, sizes.d_model, np.float64))
    torchs.load_state_dict(found)
    return torchs, dict(zip(names, found, strict=False))


def language_batch():
    """A batch without padding; the decoder alone does not look at the sources."""
    return make_batch([([3], [4, 5, 6, 12, 4, 9]), ([3], [7, 7, 3, 8, 10, 11])])


def test_the_decoder_alone_is_this_projects_transformer():
    """Forward and gradients from the same parameters, in float64."""
    model, batch = model_of(cross_attention=False), language_batch()
    torchs, names = our_transformer(model)
    logits = torchs(torch.tensor(batch.Y_in, dtype=torch.int64))
    loss = F.cross_entropy(logits.flatten(0, 1), torch.tensor(batch.Y_out, dtype=torch.int64).flatten())
    loss.backward()
    assert np.abs(model.forward(batch) - logits.detach().numpy()).max() <= LIMIT
    assert abs(model.loss_and_gradients(batch) - loss.item()) <= LIMIT
    grads = to_torch_names({name: torch.tensor(p.grad) for name, p in model.params.named.items()})
    for name, grad in grads.items():
        theirs = torchs.get_parameter(names[name]).grad
        assert (theirs - grad).abs().max() <= LIMIT * max(1.0, float(theirs.abs().max())), name
    assert len(grads) == sum(1 for name, _ in torchs.named_parameters() if name != "pos_embed.weight")


def test_another_norm_than_the_transformers_is_found():
    model, batch = model_of(cross_attention=False), language_batch()
    torchs, _ = our_transformer(model)
    for block in torchs.blocks:
        block.norm1.eps = 1e-6
    logits = torchs(torch.tensor(batch.Y_in, dtype=torch.int64))
    assert np.abs(model.forward(batch) - logits.detach().numpy()).max() > LIMIT

"""Every hand-written backward pass against numeric gradients, in float64.

    python -m pytest tests/numpy_transformer/test_numpy_gradients.py

The loss is the sum of the output times fixed random numbers, so that each output has a gradient of its own. Central
differences with a step of 1e-5 have an error of about 1e-10 of the gradient. 1e-7 is the limit.
"""

import math

import numpy as np
import pytest

from src.numpy_transformer import attention, layers, transformer
from src.numpy_transformer.attention import MultiHeadAttention, attend, attend_backward
from src.numpy_transformer.datasets import make_batch
from src.numpy_transformer.layers import (
    Embedding,
    LayerNorm,
    Linear,
    gelu,
    gelu_backward,
    sinusoids,
    softmax,
    softmax_backward,
)
from src.numpy_transformer.losses import cross_entropy_masked
from src.numpy_transformer.mask import causal, key_pad
from src.numpy_transformer.optim import SGD, Adam, clip_gradients, learning_rate
from src.numpy_transformer.parameters import Parameters
from src.numpy_transformer.transformer import (
    DecoderLayer,
    Encoder,
    EncoderLayer,
    FeedForward,
    Residual,
    Seq2Seq,
    Sizes,
)

LIMIT, STEP = 1e-7, 1e-5
MASK = np.array([[True, True, True, False, False], [True, True, True, True, True]])  # (B, S)


def sizes(pre_norm=True):
    return Sizes(source_words=7, target_words=8, d_model=4, n_head=2, n_layer=1, d_ff=3, pre_norm=pre_norm)


class SineInside(Residual):
    """A Residual around the sine, whose derivative is known."""

    def forward(self, x):
        def sine(h):
            self.seen = h
            return np.sin(h)

        return super().forward(x, sine)

    def backward(self, dy):
        return super().backward(dy, lambda d: d * np.cos(self.seen))


def numeric(f, array):
    """The gradient of the scalar f() with respect to an array, which f reads. The array is as before afterwards."""
    found = np.zeros_like(array)
    for at in np.ndindex(array.shape):
        old = array[at]
        values = []
        for moved in (old + STEP, old - STEP):
            array[at] = moved
            values.append(f())
        array[at] = old
        found[at] = (values[0] - values[1]) / (2 * STEP)
    return found


def difference(forward, backward, inputs, params=None):
    """The largest relative difference between backward's gradients and numeric ones, over inputs and parameters.

    forward(): the output.  backward(dy): a list with one gradient per input.
    """
    weights = np.random.default_rng(7).standard_normal(np.shape(forward()))

    def loss():
        return float(np.sum(forward() * weights))

    forward()
    found = [(np.array(g), x) for g, x in zip(backward(weights), inputs, strict=True)]
    if params is not None:
        found += [(p.grad.copy(), p.value) for p in params.named.values()]
    worst = 0.0
    for ours, array in found:
        theirs = numeric(loss, array)
        worst = max(worst, np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-3))
    return worst


def layer_case(make, *shapes, call=None, back=None):
    """A case of a layer with parameters. make(params, rng): the layer.  call(layer, *inputs), back(layer, dy)."""

    def case(rng):
        params = Parameters(np.float64)
        layer = make(params, rng)
        params.pack()
        params.values += 0.1 * rng.standard_normal(params.values.size)  # gains of 1 and biases of 0 hide mistakes
        inputs = [rng.standard_normal(shape) for shape in shapes]
        forward = (lambda: call(layer, *inputs)) if call else (lambda: layer.forward(*inputs))
        backward = (lambda dy: back(layer, dy)) if back else (lambda dy: [layer.backward(dy)])
        return forward, backward, inputs, params

    return case


def function_case(f, f_backward, *shapes):
    """A case of a function without parameters. f(*inputs): output and saved.  f_backward(dy, saved): gradients."""

    def case(rng):
        inputs = [rng.standard_normal(shape) for shape in shapes]
        return lambda: f(*inputs)[0], lambda dy: f_backward(dy, f(*inputs)[1]), inputs, None

    return case


IDS = np.array([[1, 4, 4, 2, 0], [3, 5, 6, 4, 2]])
TARGET_MASK = causal(4)
CASES = {
    "Embedding": layer_case(
        lambda p, rng: Embedding(p, "e", 7, 3, rng),
        call=lambda layer: layer.forward(IDS),
        back=lambda layer, dy: layer.backward(dy) or [],
    ),
    "Linear": layer_case(lambda p, rng: Linear(p, "l", 3, 4, rng), (2, 5, 3)),
    "Linear, no bias": layer_case(lambda p, rng: Linear(p, "l", 3, 4, rng, bias=False), (2, 5, 3)),
    "LayerNorm": layer_case(lambda p, rng: LayerNorm(p, "n", 6), (2, 5, 6)),
    "gelu": function_case(gelu, lambda dy, saved: [gelu_backward(dy, saved)], (3, 9)),
    "softmax": function_case(lambda x: (softmax(x),) * 2, lambda dy, w: [softmax_backward(dy, w)], (3, 5)),
    "attend": function_case(
        lambda q, k, v: (lambda out, w: (out, (q, k, v, w)))(*attend(q, k, v, MASK[:, None, :])),
        lambda dy, saved: attend_backward(dy, *saved),
        *((2, 4, 3), (2, 5, 3), (2, 5, 3)),
    ),
    "MultiHeadAttention, self": layer_case(
        lambda p, rng: MultiHeadAttention(p, "a", 6, 2, rng),
        (2, 4, 6),
        call=lambda layer, x: layer.forward(x, x, TARGET_MASK),
        back=lambda layer, dy: [sum(layer.backward(dy))],
    ),
    "MultiHeadAttention, cross": layer_case(
        lambda p, rng: MultiHeadAttention(p, "a", 6, 3, rng),
        *((2, 4, 6), (2, 5, 6)),
        call=lambda layer, x, memory: layer.forward(x, memory, key_pad(MASK)),
        back=lambda layer, dy: layer.backward(dy),
    ),
    "FeedForward": layer_case(lambda p, rng: FeedForward(p, "f", sizes(), rng), (2, 3, 4)),
}
for pre in (True, False):
    CASES |= {
        f"Residual, pre_norm={pre}": layer_case(lambda p, rng, pre=pre: SineInside(p, "r", sizes(pre)), (2, 3, 4)),
        f"EncoderLayer, pre_norm={pre}": layer_case(
            lambda p, rng, pre=pre: EncoderLayer(p, "e", sizes(pre), rng),
            (2, 5, 4),
            call=lambda layer, x: layer.forward(x, key_pad(MASK)),
        ),
        f"DecoderLayer, pre_norm={pre}": layer_case(
            lambda p, rng, pre=pre: DecoderLayer(p, "d", sizes(pre), rng),
            *((2, 4, 4), (2, 5, 4)),
            call=lambda layer, y, memory: layer.forward(y, memory, TARGET_MASK, key_pad(MASK)),
            back=lambda layer, dy: layer.backward(dy),
        ),
        f"Encoder, pre_norm={pre}": layer_case(
            lambda p, rng, pre=pre: Encoder(p, sizes(pre), rng),
            call=lambda layer: layer.forward(IDS, MASK),
            back=lambda layer, dy: layer.backward(dy) or [],
        ),
    }


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_the_numeric_ones(name):
    assert difference(*CASES[name](np.random.default_rng(3))) <= LIMIT


@pytest.mark.parametrize("pre_norm", [True, False])
def test_all_gradients_of_the_whole_model_are_the_numeric_ones(pre_norm):
    """The decoder and the head are in here too. Each array of parameters is moved in a random direction."""
    rng = np.random.default_rng(5)
    model = Seq2Seq(sizes(pre_norm), rng, np.float64)
    batch = make_batch([([4, 5, 6], [4, 7]), ([5], [6, 5, 4])])
    model.loss_and_gradients(batch)
    for name, p in model.params.named.items():
        direction = rng.standard_normal(p.value.shape)
        ours, start = float(np.sum(p.grad * direction)), p.value.copy()
        losses = {}
        for steps in (-2, -1, 1, 2):
            p.value[...] = start + steps * 1e-4 * direction
            losses[steps], _ = cross_entropy_masked(model.forward(batch), batch.Y_out, batch.M_tgt)
        p.value[...] = start
        slope = (8 * (losses[1] - losses[-1]) - (losses[2] - losses[-2])) / 12e-4  # error of order step^4
        assert ours == pytest.approx(slope, rel=LIMIT, abs=1e-10), name


def test_every_layer_with_a_backward_pass_has_a_case():
    classes = {
        name
        for module in (layers, attention, transformer)
        for name, value in vars(module).items()
        if isinstance(value, type) and hasattr(value, "backward")
    }
    assert classes - {case.split(",")[0] for case in CASES} == {"Decoder", "Seq2Seq"}  # in the whole model


class NormWithoutItsMean(LayerNorm):
    """A common mistake: the mean is taken for a constant."""

    def backward(self, dy):
        normed, inverse = self.saved
        super().backward(dy)
        dn = dy * self.gain.value
        return (dn - normed * (dn * normed).mean(-1, keepdims=True)) * inverse


class AttentionWithoutItsScale(MultiHeadAttention):
    """Another one: the scale 1 / sqrt(K) is missing on the way back."""

    def backward(self, dy):
        q, k, v = self.saved
        self.saved = q * math.sqrt(q.shape[-1]), k, v
        return super().backward(dy)


@pytest.mark.parametrize(
    "case",
    [
        layer_case(lambda p, rng: NormWithoutItsMean(p, "n", 6), (2, 5, 6)),
        layer_case(
            lambda p, rng: AttentionWithoutItsScale(p, "a", 6, 2, rng),
            (2, 4, 6),
            call=lambda layer, x: layer.forward(x, x),
            back=lambda layer, dy: [sum(layer.backward(dy))],
        ),
        function_case(gelu, lambda dy, saved: [gelu_backward(dy, saved) * 1.000001], (3, 9)),
    ],
    ids=["norm", "attention", "gelu"],
)
def test_a_wrong_backward_pass_is_found(case):
    assert difference(*case(np.random.default_rng(3))) > LIMIT


@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 2e-7), (np.float64, 2e-15)])
def test_gelu_has_the_exact_distribution_function(dtype, limit):
    """Compared with math.erfc, also far out. The limits are those that the docstring names."""
    x = np.linspace(-12, 12, 4801).astype(dtype)
    _, (_, found, _) = gelu(x)
    wanted = np.array([math.erfc(-float(v) / math.sqrt(2)) / 2 for v in x])
    assert np.abs(found - wanted).max() <= limit
    assert found.dtype == dtype
    y, _ = gelu(np.array([-1e4, 0, 1e4], dtype))
    assert y.tolist() == [0, 0, 1e4]


def test_cross_entropy_counts_only_what_the_mask_says():
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((2, 3, 5)), np.array([[1, 4, 0], [2, 3, 0]])
    mask = np.array([[True, True, False], [True, False, False]])
    loss, dlogits = cross_entropy_masked(logits, targets, mask)
    p = softmax(logits)
    assert loss == pytest.approx(-np.mean([np.log(p[0, 0, 1]), np.log(p[0, 1, 4]), np.log(p[1, 0, 2])]))
    assert not dlogits[~mask].any()
    whole = numeric(lambda: cross_entropy_masked(logits, targets, mask)[0], logits)
    assert np.abs(whole - dlogits).max() < 1e-9
    assert cross_entropy_masked(logits * 1e4, targets, mask)[0] < math.inf  # no overflow


def test_softmax_of_large_scores_does_not_overflow():
    assert softmax(np.array([1e30, 0.0, -1e30])).tolist() == [1, 0, 0]


def test_sinusoids_are_those_of_the_paper():
    table = sinusoids(3, 5, 6)
    assert table.shape == (2, 6)
    for row, position in zip(table, (3, 4), strict=True):
        for i in range(3):
            angle = position / 10_000 ** (2 * i / 6)
            assert row[2 * i : 2 * i + 2] == pytest.approx([math.sin(angle), math.cos(angle)], abs=1e-6)


def test_a_query_without_any_key_has_equal_weights_and_no_nan():
    x = np.ones((1, 2, 4), np.float32)
    out, weights = attend(x, x, x, np.zeros((2, 2), bool))
    assert np.isfinite(out).all()
    assert weights.tolist() == [[[0.5, 0.5], [0.5, 0.5]]]


def one_parameter(value, grad):
    params = Parameters(np.float64)
    params.add("x", np.array(value, dtype=float))
    params.pack()
    params.grads[...] = grad
    return params


def test_adam_is_torchs_adam():
    import torch

    rng = np.random.default_rng(0)
    params = one_parameter(rng.standard_normal(5), 0)
    theirs = torch.tensor(params.values.copy(), requires_grad=True)
    adam, torchs = Adam(params), torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.98), eps=1e-9)
    for _ in range(5):
        params.grads[...] = rng.standard_normal(5)
        theirs.grad = torch.tensor(params.grads.copy())
        adam.step(0.1)
        torchs.step()
    assert np.abs(params.values - theirs.detach().numpy()).max() < 1e-14
    assert adam.state()["t"] == 5


def test_sgd_goes_down_the_gradient():
    params = one_parameter([1.0, 2.0], [10.0, -10.0])
    SGD(params).step(0.1)
    assert params.values.tolist() == [0, 3]


def test_clipping_keeps_the_direction_and_returns_the_old_norm():
    grads = np.array([3.0, 4.0])
    assert clip_gradients(grads, 0) == 5
    assert grads.tolist() == [3, 4]
    assert clip_gradients(grads, 1) == 5
    assert grads == pytest.approx([0.6, 0.8])


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 10, 1.0, 4) for step in range(1, 11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1]
    assert rates[4:] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert learning_rate(3, 3, 1.0, 5) == 0.6  # a warm-up that is longer than the training

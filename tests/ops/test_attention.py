"""Causal attention: both backends against the float64 reference, the choice between them, and `--backend`.

python -m pytest tests/ops/test_attention.py
"""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from src.flags.fields import UserError, resolve
from src.ops import backends, choices
from src.ops.attention import COMPUTE, attention, choose_backend
from src.ops.attention.reference import attention_reference

LENGTHS = (1, 7, 63, 64, 65, 257)
SHAPES = [(t, t) for t in LENGTHS] + [(1, 7), (1, 64), (1, 257), (5, 64), (64, 65), (7, 257)]  # (queries, keys)


class NoTask:
    """A task without flags, enough for `resolve`."""

    Config = None


def inputs(queries, keys, dtype=torch.float32, heads=2, size=8, scale=1.0):
    """q, k, v with batch 2 and a gradient for the output; a stream of their own."""
    g = torch.Generator().manual_seed(1000 * queries + keys)
    q, k, v, out = (scale * torch.randn(2, heads, n, size, generator=g) for n in (queries, keys, keys, queries))
    return [t.to(dtype).requires_grad_() for t in (q, k, v)], out.to(dtype)


def with_gradients(function, tensors, out_gradient):
    """Output and gradients of all inputs, as float64."""
    out = function(*tensors)
    return [t.detach().double() for t in (out, *torch.autograd.grad(out, tensors, out_gradient.to(out.dtype)))]


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"S{s[0]}-T{s[1]}")
@pytest.mark.parametrize("backend", COMPUTE)
def test_backend_matches_the_reference_and_its_gradients(backend, shape, bias):
    """float32 sums of up to 257 terms of order 1: 2e-5 absolute."""
    tensors, g = inputs(*shape)
    b = -torch.rand(2, *shape, generator=torch.Generator().manual_seed(3)) * 4 if bias else None
    got = with_gradients(lambda q, k, v: attention(q, k, v, bias=b, backend=backend), tensors, g)
    want = with_gradients(lambda q, k, v: attention_reference(q, k, v, b), tensors, g)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_reference_is_a_masked_softmax():
    """The loops against one line of matrices, so that the definition is not only compared with itself."""
    (q, k, v), _ = inputs(5, 9, torch.float64)
    scores = (q @ k.transpose(2, 3)) / 8**0.5
    later = torch.arange(9) > torch.arange(4, 9)[:, None]
    want = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attention_reference(q, k, v), want)


def test_comparison_with_the_reference_sees_a_mask_that_is_off_by_one():
    (q, k, v), _ = inputs(7, 7)
    later = torch.ones(7, 7).triu(2) > 0  # sees one key too many
    leaky = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(later, -torch.inf).softmax(-1) @ v
    assert (leaky.double() - attention_reference(q, k, v)).abs().max() > 1e-2


@pytest.mark.parametrize("keys", [64, 1024])
@pytest.mark.parametrize("backend", COMPUTE)
def test_large_scores_keep_their_precision_under_bf16_autocast(backend, keys):
    """Scores to 60 would, rounded to bf16, be off by up to 1/8. What is left is the rounding of weights and of the output, at most
    a quarter of that error; 64 and 1,024 keys are the two sides of the switch to torch's bf16 kernel."""
    (q, k, v), _ = inputs(64, keys, torch.bfloat16, scale=3.0)
    want = attention_reference(q, k, v).detach()
    later = torch.ones(64, keys).triu(keys - 63) > 0
    with torch.no_grad():
        rounded = (q @ k.transpose(2, 3) / 8**0.5).float().masked_fill(later, -torch.inf).softmax(-1).bfloat16() @ v
        with torch.autocast("cpu", torch.bfloat16):
            got = attention(q, k, v, backend=backend)
    assert got.dtype == torch.bfloat16
    assert (got.double() - want).norm() < 0.25 * (rounded.double() - want).norm()


@pytest.mark.parametrize("backend", COMPUTE)
def test_dropout_acts_in_training_only_and_keeps_the_mean(backend):
    (q, k, _), _ = inputs(64, 64)
    v = torch.ones(2, 2, 64, 8)
    torch.manual_seed(0)
    dropped = attention(q, k, v, dropout_p=0.5, backend=backend)
    assert dropped.std() > 0.05
    assert (
        abs(dropped.mean().item() - 1) < 0.05
    )  # 256 rows, each the sum of up to 64 weights: 0.05 is over three standard errors
    torch.testing.assert_close(attention(q, k, v, dropout_p=0.5, training=False, backend=backend), v)


def test_wrong_shapes_and_unknown_backend_are_value_errors():
    (q, k, v), _ = inputs(3, 5)
    with pytest.raises(ValueError, match="0 < S <= T"):
        attention(k, q, q)
    with pytest.raises(ValueError, match="allowed: q"):
        attention(q, k, v[:, :, :4])
    with pytest.raises(ValueError, match="allowed: auto, flash_attn, sdpa, explicit"):
        attention(q, k, v, backend="flash")


def test_choice_has_a_reason_and_follows_device_and_dropout():
    assert choose_backend("cpu", 64)[0] == "sdpa"
    assert choose_backend("cpu", 64, dropout_p=0.1)[0] == "explicit"
    assert choose_backend("cuda", 64, dropout_p=0.1)[0] == "sdpa"
    assert all(len(choose_backend(d, 64, dropout_p=p)[1]) > 20 for d in ("cpu", "cuda") for p in (0, 0.1))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("auto", "auto"),
        ("sdpa", "sdpa"),
        ("explicit", "explicit"),
        ("attention=sdpa", "sdpa"),
        (" attention = explicit ", "explicit"),
        ("attention=auto", "auto"),
    ],
)
def test_backend_flag_is_read(text, name):
    assert backends.parse_backend(text, "attention") == name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sdpaa", "did you mean 'sdpa'"),
        ("attention=flash", "allowed: auto, explicit, sdpa, flash_attn"),
        ("atention=sdpa", "did you mean 'attention'"),
        ("sdpa,attention=sdpa", "op=NAME"),
        ("attention=sdpa,attention=explicit", "twice"),
        ("", "unknown backend ''"),
        ("attention=", "unknown backend ''"),
    ],
)
def test_backend_flag_that_means_nothing_is_a_user_error(text, told):
    with pytest.raises(UserError, match=told):
        backends.parse_backend(text, "attention")


def test_named_backend_that_cannot_run_is_an_error_not_another_one():
    with pytest.raises(UserError, match="cannot run here, allowed: auto, explicit"):
        backends.parse_backend("sdpa", "attention", ("explicit",))


def test_bare_name_goes_to_the_ops_that_have_it():
    assert backends.parse_backend("eager", "causal_conv") == "eager"
    assert backends.parse_backend("eager", "attention") == "auto"
    assert backends.parse_backend("attention=sdpa,causal_conv=eager", "causal_conv") == "eager"


def test_choices_name_every_op_of_a_model_with_a_reason():
    automatic = choices.choices(dict.fromkeys(backends.OPS, ()), resolve(NoTask, dropout=0.1), torch.device("cpu"))
    assert automatic.keys() == backends.OPS.keys()
    assert automatic["attention"]["backend"] == "explicit"
    assert all(
        choice["backend"] in backends.usable(op, "cpu") and len(choice["reason"]) > 10
        for op, choice in automatic.items()
    )
    named = choices.choices({"attention": ()}, resolve(NoTask, backend="sdpa", dropout=0.1), "cuda:0")
    assert named == {"attention": {"backend": "sdpa", "reason": "named by --backend"}}
    assert choices.choices({}, resolve(NoTask), "cpu") == {}


def test_a_choice_names_every_backend_that_the_kinds_of_an_op_take(monkeypatch):
    import src.ops.linear_attention as op

    monkeypatch.setattr(
        op, "automatic", lambda device, args, kind=None: {"vector": ("numba", "fast"), "none": ("eager", "plain")}[kind]
    )
    found = choices.choices({"linear_attention": ("vector", "none")}, resolve(NoTask), "cpu")
    assert found == {"linear_attention": {"backend": "numba+eager", "reason": "fast; plain"}}


def test_backend_that_this_model_or_this_device_cannot_use_is_a_user_error():
    with pytest.raises(UserError, match="uses only attention"):
        choices.choices({"attention": ()}, resolve(NoTask, backend="numba"), "cpu")
    with pytest.raises(UserError, match="uses none of the ops"):
        choices.choices({}, resolve(NoTask, backend="numba"), "cpu")
    with pytest.raises(UserError, match=r"flash_attn' for attention, which cannot run here \(needs a cuda device"):
        choices.choices({"attention": ()}, resolve(NoTask, backend="flash_attn"), "cpu")


def test_every_backend_has_a_function_and_a_line_and_listing_needs_no_torch():
    assert {*COMPUTE, "flash_attn"} == set(backends.OPS["attention"])
    code = "import sys; from src.ops.backends import describe; print(*describe(), sep='\\n'); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        f"{op}={name}" for op, names in backends.OPS.items() for name in names
    ]
    assert all(len(line.split()) > 3 for line in lines)
    for (_, backend), line in zip(
        [pair for names in backends.OPS.values() for pair in names.items()], lines, strict=True
    ):
        assert ("installed" in line) == bool(backend.needs)
        assert ("not installed" in line) == bool(backend.missing())


# --- a sliding window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("window", [1, 5, 64])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"S{s[0]}-T{s[1]}")
@pytest.mark.parametrize("backend", COMPUTE)
def test_window_matches_the_reference_and_its_gradients(backend, shape, window, bias):
    """All ways there are: one query, blocks of a window (257 keys, windows 5 and 64), one mask; float32 sums as above."""
    tensors, g = inputs(*shape)
    b = -torch.rand(2, *shape, generator=torch.Generator().manual_seed(3)) * 4 if bias else None
    got = with_gradients(lambda q, k, v: attention(q, k, v, bias=b, window=window, backend=backend), tensors, g)
    want = with_gradients(lambda q, k, v: attention_reference(q, k, v, b, window), tensors, g)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


def test_window_of_all_keys_is_plain_attention_and_a_shorter_one_is_not():
    (q, k, v), _ = inputs(9, 9)
    torch.testing.assert_close(attention(q, k, v, window=9), attention(q, k, v))
    assert (attention(q, k, v, window=8) - attention(q, k, v)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="window: got -1"):
        attention(q, k, v, window=-1)


def test_memory_of_a_short_window_grows_with_the_window_not_with_the_square_of_the_length():
    def kept(T, window):
        (q, k, v), _ = inputs(T, T)
        found = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: found.update({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()}) or t, lambda t: t
        ):
            attention(q, k, v, window=window, backend="explicit")
        return sum(found.values())

    assert kept(512, 16) < 2.3 * kept(256, 16)
    assert kept(512, 512) > 3.3 * kept(256, 256)  # and without one it does, so the measurement can tell


# --- FlashAttention --------------------------------------------------------------------------------------------------------


def test_flash_attn_refuses_what_its_kernels_cannot_do():
    (q, k, v), _ = inputs(4, 4, torch.bfloat16)
    with pytest.raises(RuntimeError, match="needs fp16 or bf16 on a CUDA device"):
        attention(q, k, v, backend="flash_attn")


@pytest.mark.gpu
@pytest.mark.parametrize("window", [0, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"S{s[0]}-T{s[1]}")
def test_flash_attn_is_as_near_to_the_reference_as_plain_bf16(shape, window):
    """Its error against float64 is at most twice that of explicit products with float32 scores and bf16 inputs."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    pytest.importorskip("flash_attn")
    tensors, g = inputs(*shape, torch.bfloat16)
    want = with_gradients(lambda q, k, v: attention_reference(q, k, v, None, window), tensors, g)
    on_device = [t.detach().cuda().requires_grad_() for t in tensors]
    for backend in ("explicit", "flash_attn"):
        got = with_gradients(
            lambda q, k, v, b=backend: attention(q, k, v, window=window, backend=b), on_device, g.cuda()
        )
        errors = [(one.cpu() - other).norm() / other.norm() for one, other in zip(got, want, strict=True)]
        if backend == "explicit":
            allowed = [2 * e + 1e-3 for e in errors]
    assert all(e <= a for e, a in zip(errors, allowed, strict=True))

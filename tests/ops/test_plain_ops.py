"""rmsnorm, swiglu, rope, softmax, linear: torch's form and the Triton kernels against the float64 definition.

python -m pytest tests/ops/test_plain_ops.py            (-m gpu for the kernels on CUDA, -m slow to compile them)

The kernels run on a CPU in Triton's interpreter, in a process of its own. The cases are in tests/plain_ops.py.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys

import plain_ops
import pytest
import torch
from conftest import ROOT
from op_checks import gpu, kept_bytes, numba_only, on_thread_counts, same_bytes, with_gradients
from torch.nn import functional as F

from src.flags.run_flags import resolve
from src.models.backbone import build, ops_of
from src.models.transformer import Attention
from src.ops import backends, plain, ran
from src.ops.linear import linear
from src.ops.rmsnorm import rmsnorm
from src.ops.rope import rope
from src.ops.softmax import cross_entropy, softmax
from src.ops.swiglu import swiglu

OPS = ("rmsnorm", "swiglu", "rope", "softmax", "linear")
FUNCTIONS = list(plain_ops.FUNCTIONS)
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.mark.parametrize("layout", plain_ops.LAYOUTS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch_s_form_agrees_with_the_definition(function, layout):
    for size in ((1, 257), (65, 7), (64, 65)) if layout == "contiguous" else ((7, 63),):
        worst, where = plain_ops.difference(function, "eager", size, torch.float32, layout)
        assert worst <= plain_ops.TOLERANCE[torch.float32], where


@pytest.mark.parametrize("function", FUNCTIONS)
def test_torch_s_form_in_bf16_costs_a_rounding(function):
    worst, where = plain_ops.difference(function, "eager", (7, 63), torch.bfloat16)
    assert worst <= plain_ops.TOLERANCE[torch.bfloat16], where


ONE_PASS = [name for name in FUNCTIONS if "numba" in backends.OPS[plain_ops.FUNCTIONS[name][0]]]


@numba_only
@pytest.mark.parametrize("function", ONE_PASS)
def test_one_pass_on_a_cpu_agrees_with_the_definition(function):
    """Sizes that fill the vectors, and sizes that do not; slices, transposed rows and bf16."""
    cases = [(size, torch.float32, "contiguous") for size in (*plain_ops.SIZES, plain_ops.LONG)]
    cases += [((7, 63), torch.float32, layout) for layout in plain_ops.LAYOUTS]
    cases += [(size, torch.bfloat16, "slice") for size in ((7, 64), (65, 63))]
    for size, dtype, layout in cases:
        worst, where = plain_ops.difference(function, "numba", size, dtype, layout)
        assert worst <= plain_ops.TOLERANCE[dtype], (size, dtype, layout, where)


@numba_only
def test_one_pass_does_not_depend_on_the_number_of_threads_and_keeps_its_inputs_alone():
    x, w, out = torch.randn(301, 64).requires_grad_(), torch.randn(64).requires_grad_(), torch.randn(301, 64)
    for call in (lambda x, w: [rmsnorm(x, w, 1e-5, "numba")], lambda x, w: [swiglu(x, x * w, "numba")]):
        assert same_bytes(on_thread_counts(lambda call=call: with_gradients(call, (x, w), [out])))
    assert kept_bytes(lambda: rmsnorm(x, w, 1e-5, "numba"), (x, w)) == 4 * 301
    assert kept_bytes(lambda: swiglu(x, x, "numba"), (x,)) == 0


@numba_only
def test_one_pass_is_taken_for_large_tensors_only_and_never_for_float64(monkeypatch):
    monkeypatch.setattr(plain, "LEAST", {"rmsnorm": 64, "swiglu": 64})
    for function in (rmsnorm, lambda x: swiglu(x, x)):
        for given, name in (
            (torch.ones(2, 32), "numba"),
            (torch.ones(1, 32), "eager"),
            (torch.ones(2, 32).double(), "eager"),
        ):
            with ran.recording() as seen:
                function(given)
            assert [list(found) for found in seen["training"].values()] == [[name]]


@numba_only
def test_comparison_sees_a_gradient_that_forgets_the_mean(monkeypatch):
    """What dx = r g would be, without the part that goes through the norm."""
    from src.ops.rmsnorm import one_pass

    right = one_pass._RmsNorm.backward

    class Forgets(one_pass._RmsNorm):
        @staticmethod
        def backward(ctx, dy):
            _, weight, scale = ctx.saved_tensors
            return dy * weight * scale[:, None], right(ctx, dy)[1], None

    monkeypatch.setattr(one_pass, "_RmsNorm", Forgets)
    assert plain_ops.difference("rmsnorm", "numba", (7, 63), torch.float32)[0] > 1e-2


@pytest.fixture(scope="module")
def interpreted():
    """What tests/plain_ops.py prints in Triton's interpreter."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests/plain_ops.py")],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow  # ten seconds in Triton's interpreter
@needs_triton
def test_each_kernel_agrees_with_the_definition_and_a_planted_error_would_be_found(interpreted):
    """Outputs and gradients at odd sizes, in bf16, and in other layouts; then kernels with an error each.

    One test, so that one process computes it all. A model's loss and gradients under --backend triton are those under
    eager up to the order of sums, which a step of Adam is not sensitive to.
    """
    assert interpreted["missed"] == []
    assert interpreted["several tiles per program"] <= 1e-5
    assert max(interpreted["models"].values()) <= 1e-4  # eager itself is 4e-5 from float64, in D of mamba2
    assert interpreted["kept"] == {"rmsnorm": 4 * 7, "swiglu": 0, "softmax": 4 * 7 * 9, "loss": 4 * 7 + 8, "linear": 0}
    limit = plain_ops.TOLERANCE[torch.float32]
    assert interpreted["planted"].keys() == plain_ops.PLANTED.keys()
    assert {name: worst for name, worst in interpreted["planted"].items() if worst <= 2 * limit} == {}


COMPILE = """
import importlib, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SIZES = {"ROWS": 2, "COLS": 64, "DEPTH": 32, "BLOCK": 1024, "GROUP": 8, "PRECISION": "ieee", "WIDEN": False}
KINDS = {"target": "*i64", "eps": "fp32", "smoothing": "fp32"}
FLOATS = "weight scale partial cos sin losses sums".split()
for op, kernel in (word.split(".") for word in sys.argv[1:]):
    function = getattr(importlib.import_module(f"src.ops.{op}.triton"), kernel)
    for element in ("*bf16", "*fp32"):
        for flag in (True, False):
            kinds, constants = {}, {}
            for p in function.params:
                if p.is_constexpr:
                    constants[(p.num,)] = SIZES.get(p.name, flag)
                    if op == "linear" and p.name == "ROWS":
                        constants[(p.num,)] = 64
                number = p.name[0].isupper() or p.name.endswith(("stride", "_row", "_col")) or p.name.startswith("of_")
                number = number or p.name in ("rows", "ignored")
                kinds[p.name] = (
                    "constexpr" if p.is_constexpr else KINDS.get(p.name) or ("i32" if number else
                    "*fp32" if p.name in FLOATS else element)
                )
            source = ASTSource(fn=function, signature=kinds, constexprs=constants)
            made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
            assert made.asm["cubin"], (op, kernel)
print("compiled")
"""
KERNELS = (
    *("rmsnorm._rmsnorm_forward", "rmsnorm._rmsnorm_backward", "swiglu._swiglu_forward", "swiglu._swiglu_backward"),
    *("rope._rope_rotate", "softmax._softmax_forward", "softmax._softmax_backward", "linear._linear_product"),
    *("softmax._cross_entropy_forward", "softmax._cross_entropy_backward"),
)


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_compiles_for_a_gpu_that_is_not_here(kernel, tmp_path):
    """Machine code for compute capability 9.0 (H100): the interpreter accepts what the compiler refuses."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    (tmp_path / "compile.py").write_text(COMPILE)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "compile.py"), kernel], env=env, capture_output=True, text=True, timeout=240
    )
    assert done.stdout == "compiled\n", done.stderr


# The choice


@pytest.mark.parametrize("op", OPS)
def test_auto_is_torch_s_own_form_but_for_one_pass_on_a_cpu_and_says_why(op):
    automatic = importlib.import_module(f"src.ops.{op}").automatic
    if "numba" in backends.OPS[op]:
        backend, reason = automatic("cpu")
        assert backend == "numba"
        assert reason.startswith("one pass over memory")
    else:
        assert automatic("cpu") == ("eager", "torch's own form; the triton kernel needs CUDA")
    backend, reason = automatic("cuda")
    assert backend == "eager"
    assert "nobody has timed it on CUDA" in reason


@pytest.mark.parametrize("op", OPS)
def test_a_kernel_runs_on_cuda_or_in_the_interpreter_only(op, monkeypatch):
    kernel = backends.OPS[op]["triton"]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert (kernel.runs_on("cuda"), kernel.runs_on("cpu")) == (True, False)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert (kernel.runs_on("cuda"), kernel.runs_on("cpu"), kernel.runs_on("mps")) == (True, True, False)
    assert not backends.OPS["attention"]["flash_attn"].runs_on("cpu")


class NoTask:
    Config = None


def test_a_model_names_the_ops_that_it_calls():
    small = {"d_model": 8, "n_layer": 1, "n_head": 2}
    published = resolve(NoTask, Attention, **small)
    assert list(ops_of(Attention, published)) == ["attention", "linear", "softmax"]
    modern = resolve(NoTask, Attention, pos="rope", norm="rms", mlp="swiglu", **small)
    assert list(ops_of(Attention, modern)) == ["attention", "rope", "linear", "rmsnorm", "swiglu", "softmax"]


def test_the_named_backend_reaches_every_part_of_a_model():
    args = resolve(NoTask, Attention, pos="rope", norm="rms", mlp="swiglu", backend="triton", d_model=8, n_head=2)
    model = build(Attention, 9, args, 8)
    block = model.blocks[0]
    parts = [model.head, model.norm, block.norm1, block.mlp, block.mlp.up, block.mlp.gate, block.mlp.down]
    parts += [block.mixer.qkv, block.mixer.out]
    assert {part.backend for part in parts} == {block.mixer.rope_backend, model.loss_backend} == {"triton"}
    assert block.mixer.backend == "auto"  # attention has no such backend


def test_torch_compile_follows_the_ops_and_they_are_still_noted():
    """Whole, without a break in the graph: else `--compile` would be slower than it was with torch's modules."""

    def run(x, weight, target):
        h = rope(swiglu(rmsnorm(x), x)[None, :, None], x[:, :2], x[:, 2:])[0, :, 0]
        return cross_entropy(softmax(linear(h, weight)), target)

    given = torch.randn(3, 4), torch.randn(5, 4), torch.tensor([0, 4, 2])
    with ran.recording() as seen:
        found = torch.compile(run, fullgraph=True, backend="eager")(*given)
    assert seen == {"training": {op: {"eager": None} for op in OPS}}
    assert torch.allclose(found, run(*given))


# Contracts


def test_cross_entropy_without_a_target_is_nan_and_smoothing_is_torch_s():
    logits, target = torch.randn(5, 7), torch.tensor([1, -100, 6, 0, -100])
    wanted = F.cross_entropy(logits, target, label_smoothing=0.2)
    assert torch.equal(cross_entropy(logits, target, 0.2), wanted)
    assert torch.equal(
        cross_entropy(logits, target.clamp(0), ignore_index=0), F.cross_entropy(logits[:3:2], target[:3:2])
    )
    assert cross_entropy(logits, torch.full((5,), -100)).isnan()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: rmsnorm(torch.ones(2, 3), torch.ones(2)), "weight: got .2,., allowed: .3,. or None"),
        (lambda: swiglu(torch.ones(2, 3), torch.ones(3)), "two equal shapes"),
        (lambda: rope(torch.ones(1, 2, 1, 3), torch.ones(2, 1), torch.ones(2, 1)), "an even K"),
        (lambda: rope(torch.ones(1, 2, 1, 4), torch.ones(2, 1), torch.ones(2, 1)), "an even K"),
        (lambda: rope(torch.ones(1, 2, 1, 4), *[torch.ones(2, 2)] * 2, layout="both"), "allowed: halves, pairs"),
        (lambda: rope(torch.ones(1, 1, 1, 2), torch.ones(1, 1).requires_grad_(), torch.ones(1, 1)), "detach"),
        (lambda: cross_entropy(torch.ones(2, 3), torch.ones(3)), "allowed: .n, C. and .n,."),
        (lambda: cross_entropy(torch.ones(2, 3), torch.ones(2), 1.5), "label_smoothing: got 1.5, allowed: 0 to 1"),
        (lambda: linear(torch.ones(2, 3), torch.ones(4, 2)), "weight .O, I."),
        (lambda: linear(torch.ones(2, 3), torch.ones(4, 3), torch.ones(3)), "bias .O,. or None"),
        (lambda: softmax(torch.ones(2), "fast"), "backend: got 'fast', allowed: auto, eager, triton"),
    ],
)
def test_wrong_arguments_are_value_errors_that_say_what_is_allowed(call, told):
    with pytest.raises(ValueError, match=told):
        call()


# On CUDA


@pytest.mark.parametrize("function", [pytest.param(name, marks=gpu("triton")) for name in FUNCTIONS])
def test_a_kernel_agrees_with_the_definition_on_cuda(function):
    for run in plain_ops.runs():
        if run[0] == function:
            worst, where = plain_ops.difference(function, "triton", *run[1:], device="cuda")
            assert worst <= plain_ops.TOLERANCE[run[2]], (run, where)


@pytest.mark.parametrize("function", [pytest.param(name, marks=gpu("triton")) for name in FUNCTIONS])
def test_results_on_cuda_are_the_same_at_every_call(function):
    assert (
        len({plain_ops.difference(function, "triton", (65, 63), torch.float32, device="cuda") for _ in range(3)}) == 1
    )


SQUARE = {
    "rmsnorm": (2, lambda x, w: rmsnorm(x, w[0], backend="triton")),
    "swiglu": (3, lambda x, w: swiglu(x, w, "triton")),
    "softmax": (2, lambda x, w: softmax(x, "triton")),
}


@pytest.mark.parametrize("op", [pytest.param(name, marks=gpu("triton")) for name in SQUARE])
def test_a_kernel_moves_bytes_at_nine_tenths_of_a_copy(op):
    """4,096 x 4,096 in bf16, forward. Triton's timer clears the cache before each call of both."""
    from triton.testing import do_bench

    tensors, call = SQUARE[op]
    x, w = (torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(x)
    with torch.no_grad():
        copy_ms, ms = (do_bench(f, return_mode="median") for f in (lambda: out.copy_(x), lambda: call(x, w)))
    rate, copy = tensors / ms, 2 / copy_ms
    assert rate >= 0.9 * copy, f"{rate / copy:.2f} of the bandwidth of a copy"

"""The table of backends: `--backend`, what a run records, the list, and the loading of an implementation.

python -m pytest tests/ops/test_backends.py
"""

import importlib
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from op_checks import numba_only

from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import ops_of
from src.ops import backends, choices, ran

PAIRS = [(op, name) for op, names in backends.OPS.items() for name in names]
# Shapes of the required arguments of each public function; attention has a table of functions, see its own tests.
SHAPES = {
    "causal_conv": [(2, 3, 7), (7, 4)],
    "selective_scan": [(2, 3, 7), (2, 3, 7), (7, 4), (2, 3, 4), (2, 3, 4)],
    "linear_attention": [(2, 3, 2, 4)] * 3,
    "delta_rule": [(2, 3, 2, 4)] * 3 + [(2, 3, 2)],
    "rmsnorm": [(2, 3, 7)],
    "swiglu": [(2, 3, 7)] * 2,
    "rope": [(2, 3, 2, 4), (3, 2), (3, 2)],
    "softmax": [(2, 3, 7)],
    "linear": [(2, 3, 7), (4, 7)],
}
LOADED = [op for op in backends.OPS if op != "attention"]
RECURRENT = [op for op in LOADED if "numba" in backends.OPS[op]]  # the ops with loops of our own


# The shapes for one token, of the ops that have a form for it.
STEPS = {
    "causal_conv": [(2, 7), (7, 4)],
    "selective_scan": [(2, 7), (2, 7), (7, 4), (2, 4), (2, 4)],
    "linear_attention": [(2, 2, 4)] * 3,
    "delta_rule": [(2, 2, 4)] * 3 + [(2, 2)],
}


class NoTask:
    """A task without flags, enough for `resolve`."""

    Config = None


def call(op, backend, dtype=torch.float32):
    """The public function of an op, with ones."""
    function = getattr(importlib.import_module(f"src.ops.{op}"), op)
    return function(*(torch.ones(shape, dtype=dtype) for shape in SHAPES[op]), backend=backend)


@pytest.mark.parametrize(("op", "name"), PAIRS, ids=[f"{op}={name}" for op, name in PAIRS])
def test_every_backend_names_a_file_that_can_compute(op, name):
    if name in ("numba", "triton"):
        pytest.importorskip(name)
    module = importlib.import_module(f"src.ops.{op}.{backends.OPS[op][name].file}")
    assert hasattr(module, "run") or (hasattr(module, "forward") and hasattr(module, "backward"))


@pytest.mark.parametrize("op", LOADED)
def test_the_file_of_a_named_backend_is_loaded(op):
    module = backends.load_implementation(op, "eager", "cpu", double=True)
    assert module.__name__ == f"src.ops.{op}.{backends.OPS[op]['eager'].file}"


@pytest.mark.parametrize("op", LOADED)
def test_unknown_backend_and_one_that_cannot_run_are_errors_of_one_line(op):
    last = list(backends.OPS[op])[-1]
    with pytest.raises(ValueError, match=f"backend: got 'fast', allowed: auto, {', '.join(backends.OPS[op])}$"):
        call(op, "fast")
    told = f"'{last}' of {op} needs {last} and a cuda device; the tensors are on cpu; usable here: eager"
    with pytest.raises(RuntimeError, match=told):
        call(op, last)


@numba_only
@pytest.mark.parametrize("op", RECURRENT)
def test_float32_backend_refuses_float64(op):
    told = f"backend 'numba' of {op} computes in float32, got float64; take eager"
    with pytest.raises(RuntimeError, match=told):
        call(op, "numba", torch.float64)
    assert call(op, "auto", torch.float64)[0].dtype == torch.float64


@pytest.mark.parametrize("op", [op for op in LOADED if op not in STEPS])
def test_a_triton_kernel_refuses_float64(op):
    pytest.importorskip("triton")
    with pytest.raises(RuntimeError, match=f"backend 'triton' of {op} computes in float32, got float64; take eager"):
        backends.load_implementation(op, "triton", "cuda", double=True)


@numba_only
def test_numba_and_the_compiler_of_torch_are_not_loaded_before_they_are_used():
    """Each takes a second or two of the start of every process."""
    code = (
        "import sys; seen = lambda: print([name in sys.modules for name in ('numba', 'torch._dynamo')]); "
        "import src.models.mamba, src.models.deltanet, src.models.gla, src.utils.training, src.utils.results; seen(); "
        "import src.ops.linear_attention.recurrent; seen()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[False, False]", "[True, False]"]


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
    for op, choice in automatic.items():
        assert choice["backend"] in backends.usable(op, "cpu")
        assert len(choice["reason"]) > 10
    named = choices.choices({"attention": ()}, resolve(NoTask, backend="sdpa", dropout=0.1), "cuda:0")
    assert named == {"attention": {"backend": "sdpa", "reason": "named by --backend"}}
    assert choices.choices({}, resolve(NoTask), "cpu") == {}


def test_ops_with_one_backend_and_one_reason_are_named_together():
    same = {"backend": "eager", "reason": "torch's own"}
    chosen = {"linear": same, "attention": {"backend": "sdpa", "reason": "fused"}, "rmsnorm": dict(same)}
    assert choices.in_words(chosen) == "linear, rmsnorm: eager (torch's own); attention: sdpa (fused)"
    assert choices.in_words({}) == ""


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


def test_every_backend_has_a_line_and_listing_needs_no_torch():
    code = (
        "import sys; from src.ops.backends import describe; print(*describe(), sep='\\n'); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [f"{op}={name}" for op, name in PAIRS]
    assert all(len(line.split()) > 3 for line in lines)
    for (op, name), line in zip(PAIRS, lines, strict=True):
        backend = backends.OPS[op][name]
        assert ("installed" in line) == bool(backend.needs)
        assert ("not installed" in line) == bool(backend.missing())


# What ran


@numba_only
@pytest.mark.parametrize(("op", "name"), [(op, name) for op in STEPS for name in ("eager", "numba")])
def test_an_op_notes_the_implementation_of_every_call(op, name):
    module = importlib.import_module(f"src.ops.{op}")
    with ran.recording() as seen, ran.phase("evaluation"):
        call(op, name)
        getattr(module, f"{op}_step")(*(torch.ones(shape) for shape in STEPS[op]))
    assert seen == {"evaluation": {op: {name: None}}, "step": {op: {"eager": None}}}


@pytest.mark.parametrize("op", LOADED)
def test_an_op_that_switches_for_float64_notes_what_it_took(op):
    with ran.recording() as seen:
        call(op, "auto", torch.float64)
    assert seen == {"training": {op: {"eager": None}}}


@pytest.mark.parametrize("op", [op for op in LOADED if op not in STEPS])
def test_an_op_without_a_form_for_one_token_notes_every_call_in_its_phase(op):
    with ran.recording() as seen, ran.phase("decoding"):
        call(op, "auto")
    assert seen == {"decoding": {op: {"eager": None}}}


@pytest.mark.parametrize("name", ["sdpa", "explicit"])
def test_attention_notes_its_implementation_also_when_it_is_compiled(name):
    from src.ops.attention import attention

    def run(q):
        return attention(q, q, q, backend=name)

    for function in (run, torch.compile(run, fullgraph=True, backend="eager")):
        with ran.recording() as seen:
            function(torch.ones(1, 2, 3, 4))
        assert seen == {"training": {"attention": {name: None}}}


def test_a_recording_ends_and_an_inner_one_is_its_own():
    call("causal_conv", "eager")
    assert ran.noted() == {}
    with ran.recording() as outer:
        with ran.recording() as inner:
            call("causal_conv", "eager")
        ran.restore({"step": {"causal_conv": ["eager"]}})
        assert ran.noted() == {"step": {"causal_conv": ["eager"]}}
    assert inner.keys() == {"training"}
    assert outer.keys() == {"step"}


@pytest.mark.parametrize(
    ("seen", "backend", "told"),
    [
        ({}, "fla", "planted"),
        ({"training": ["fla"], "evaluation": ["fla"]}, "fla", "planted"),
        ({"training": ["fla"], "decoding": ["fla"], "step": ["eager"]}, "fla (training) + eager (step)", "planted"),
        ({"training": ["eager"], "evaluation": ["eager"]}, "eager", "observed to run; chosen .* fla .planted."),
        (
            {"training": ["fla"], "evaluation": ["eager"], "step": ["eager"]},
            "fla (training) + eager (evaluation, step)",
            "observed to run",
        ),
        ({"training": ["fla", "eager"]}, "eager+fla", "observed to run"),
    ],
    ids=str,
)
def test_a_record_names_what_ran_in_each_phase(seen, backend, told):
    found = ran.described(
        {"delta_rule": {"backend": "fla", "reason": "planted"}},
        {name: {"delta_rule": dict.fromkeys(names)} for name, names in seen.items()},
    )["delta_rule"]
    assert found["backend"] == backend
    assert re.match(told, found["reason"])


@pytest.mark.parametrize("model", ["mamba2", "linear_attention", "retnet", "gla"])
def test_layers_with_float32_values_are_not_said_to_take_a_half_precision_kernel(model, monkeypatch):
    """Keeps out: under autocast on CUDA two layers took eager and were recorded as fla."""
    monkeypatch.setattr(backends, "usable", lambda op, device_type: tuple(backends.OPS[op]))
    monkeypatch.setattr("src.ops.choices.usable", backends.usable)
    model_class = MODELS[model].load()
    args = resolve(NoTask, model_class, precision="bf16")
    found = choices.choices({"linear_attention": ops_of(model_class, args)["linear_attention"]}, args, "cuda")
    assert found["linear_attention"]["backend"] == ("eager" if model in ("mamba2", "linear_attention") else "fla")


def test_the_mark_of_a_note_is_what_torch_sets():
    """`assume_constant_result` itself would import torch's compiler in every process."""

    def plain():
        pass

    assert vars(torch.compiler.assume_constant_result(plain)) == vars(ran.note) != {}


@pytest.mark.parametrize(("value", "off"), [("1", True), ("0", False), ("", False)])
def test_numba_that_is_switched_off_is_not_chosen_and_not_taken(monkeypatch, value, off):
    """NUMBA_DISABLE_JIT=1 leaves numba's functions uncompiled, and its intrinsics fail."""
    monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
    assert ("numba" in backends.usable("selective_scan", "cpu")) is not off
    if off:
        with pytest.raises(UserError, match="numba without NUMBA_DISABLE_JIT"):
            backends.parse_backend("numba", "selective_scan", backends.usable("selective_scan", "cpu"))

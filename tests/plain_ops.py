"""Cases of the ops that torch has too, for eager, for Triton's interpreter and for CUDA.

    worst, where = difference("rmsnorm", "triton", (65, 63), torch.bfloat16)

`python tests/plain_ops.py` runs all cases and the planted errors in Triton's interpreter, and prints JSON. It is a
process of its own, because Triton reads TRITON_INTERPRET once, when it is loaded.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import torch
from op_checks import distances, kept_bytes, with_gradients

from src.ops.linear import linear
from src.ops.linear.reference import linear_reference
from src.ops.rmsnorm import rmsnorm
from src.ops.rmsnorm.reference import rmsnorm_reference
from src.ops.rope import rope
from src.ops.rope.reference import rope_reference
from src.ops.softmax import cross_entropy, softmax
from src.ops.softmax.reference import cross_entropy_reference, softmax_reference
from src.ops.swiglu import swiglu
from src.ops.swiglu.reference import swiglu_reference

ROOT = Path(__file__).resolve().parents[1]
# Rows and columns: one, less than a tile, one less, exactly, one more, and several tiles, each on both axes.
SIZES = ((1, 257), (7, 63), (63, 64), (64, 65), (65, 7), (257, 1))
LONG = (3, 5000)  # more columns than a tile has
LAYOUTS = ("contiguous", "slice", "transposed")
# Relative to the largest value. float32: the order of sums. bf16: inputs are exact, and the output or a kept output is
# rounded to 8 bits, 2^-8 = 0.004, at most three times.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.2e-2}


def _targets(logits):
    """A target per row, the same for each call; every third row is ignored, but not the first."""
    n, C = logits.shape
    target = torch.randint(0, C, (n,), generator=torch.Generator().manual_seed(n))
    target[2::3] = -100
    return target.to(logits.device)


def _tables(x):
    """cos and sin (T, K / 2) of any angles, the same for each call."""
    generator = torch.Generator().manual_seed(x.shape[1])
    angle = 6 * torch.rand(x.shape[1], x.shape[3] // 2, generator=generator)
    return angle.cos().to(x.device), angle.sin().to(x.device)


def _heads(R, C):
    return [(2, R, 3, 2 * C)] if R * C < 2000 else [(1, R, 1, 2 * C)]


# name: (op, shapes of the inputs for R rows and C columns, the call, its definition)
FUNCTIONS = {
    "rmsnorm": ("rmsnorm", lambda R, C: [(R, C), (C,)], lambda b, x, w: rmsnorm(x, w, 1e-5, b), rmsnorm_reference),
    "rmsnorm without a weight": (
        *("rmsnorm", lambda R, C: [(R, C)]),
        *(lambda b, x: rmsnorm(x, None, 1e-5, b), rmsnorm_reference),
    ),
    "swiglu": ("swiglu", lambda R, C: [(R, C)] * 2, lambda b, gate, up: swiglu(gate, up, b), swiglu_reference),
    "rope of halves": (
        *("rope", _heads, lambda b, x: rope(x, *_tables(x), "halves", b)),
        lambda x: rope_reference(x, *_tables(x), "halves"),
    ),
    "rope of pairs": (
        *("rope", _heads, lambda b, x: rope(x, *_tables(x), "pairs", b)),
        lambda x: rope_reference(x, *_tables(x), "pairs"),
    ),
    "softmax": ("softmax", lambda R, C: [(R, C)], lambda b, x: softmax(x, b), softmax_reference),
    "cross-entropy": (
        *("softmax", lambda R, C: [(R, C)], lambda b, x: cross_entropy(x, _targets(x), backend=b)),
        lambda x: cross_entropy_reference(x, _targets(x)),
    ),
    "smoothed cross-entropy": (
        *("softmax", lambda R, C: [(R, C)], lambda b, x: cross_entropy(x, _targets(x), 0.1, backend=b)),
        lambda x: cross_entropy_reference(x, _targets(x), 0.1),
    ),
    "linear": (
        *("linear", lambda R, C: [(R, C), (33, C), (33,)]),
        *(lambda b, x, w, bias: linear(x, w, bias, b), linear_reference),
    ),
    "linear without a bias": (
        *("linear", lambda R, C: [(R, C), (R + 2, C)], lambda b, x, w: linear(x, w, None, b), linear_reference),
    ),
}
NAMES = {"rmsnorm": "x weight", "swiglu": "gate up", "linear": "x weight bias"}

# (op, text of the kernel, what replaces it, a function and a size that must notice it)
PLANTED = {
    "rmsnorm: not divided by the norm": ("rmsnorm", "values * r[:, None]", "values", "rmsnorm", (7, 63)),
    "rmsnorm: a gradient without the mean": ("rmsnorm", "g - normal * mean", "g", "rmsnorm", (7, 63)),
    "rmsnorm: the weight's gradient of the last tile": ("rmsnorm", "sums +=", "sums =", "rmsnorm", (257, 63)),
    "swiglu: a wrong derivative of silu": (
        *("swiglu", "(1.0 + g * (1.0 - s))", "(1.0 + g)"),
        *("swiglu", (7, 63)),
    ),
    "swiglu: the gradient of up without the sigmoid": ("swiglu", "d * g * s,", "d * g,", "swiglu", (7, 63)),
    "rope: the backward pass turns forward": ("rope", "s = -s", "s = 1.0 * s", "rope of halves", (7, 63)),
    "rope: one sign": ("rope", "b * c + a * s", "b * c - a * s", "rope of pairs", (7, 63)),
    "softmax: a gradient without the sum": (
        *("softmax", "g - tl.sum(g * share, axis=1)[:, None]", "g"),
        *("softmax", (7, 63)),
    ),
    "cross-entropy: a sum that is not rescaled": (
        *("softmax", "total * tl.exp(largest - shift)", "total", "cross-entropy", LONG),
    ),
    "cross-entropy: no smoothing backward": (*("softmax", "+ smoothing / C", "", "smoothed cross-entropy", (7, 63)),),
    "cross-entropy: ignored rows count": (
        *("softmax", "tl.where(wanted == ignored, 0.0, gradient)", "gradient", "cross-entropy", (7, 63)),
    ),
    "linear: only the last part of the sum": (
        *("linear", "tl.dot(first, second, total,", "tl.dot(first, second, 0.0 * total,", "linear", (7, 63)),
    ),
    "linear: no bias": ("linear", "total += tl.load(bias", "0.0 * tl.load(bias", "linear", (7, 63)),
}


def laid_out(t, layout: str):
    """The same numbers in another layout in memory."""
    if layout == "transposed" and t.dim() > 1:
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)
    if layout == "contiguous":
        return t
    return torch.cat([torch.ones_like(t[..., :1]), t, torch.ones_like(t[..., :1])], dim=-1)[..., 1:-1]


def difference(function: str, backend: str, size, dtype, layout: str = "contiguous", device="cpu") -> tuple[float, str]:
    """(the largest difference from the definition, relative to the largest value, "output" or whose gradient it is)."""
    op, shapes, call, reference = FUNCTIONS[function]
    generator = torch.Generator().manual_seed(sum(size))
    exact = [torch.randn(s, generator=generator).to(dtype).double().requires_grad_() for s in shapes(*size)]
    with torch.no_grad():
        out = reference(*exact)
    gradient = torch.randn(out.shape, generator=generator).to(dtype)
    mine = [laid_out(t.detach().to(device, dtype), layout).requires_grad_() for t in exact]
    given = gradient.to(device) if out.dim() == 0 else laid_out(gradient.to(device), layout)
    got = with_gradients(lambda *t: [call(backend, *t)], mine, [given])
    want = with_gradients(lambda *t: [reference(*t)], exact, [gradient])
    words = ["output", *(f"gradient of {name}" for name in NAMES.get(op, "x").split())]
    return max(zip(distances([t.cpu() for t in got], want), words, strict=False))


def runs() -> list[tuple]:
    """(function, size, dtype, layout) of all cases."""
    found = []
    for function in FUNCTIONS:
        found += [(function, size, torch.float32, "contiguous") for size in (*SIZES, LONG)]
        found += [(function, size, torch.bfloat16, "contiguous") for size in SIZES[1:5:3]]
        found += [(function, (7, 63), torch.float32, layout) for layout in LAYOUTS[1:]]
    return [run for run in found if run[1] != LONG or not run[0].startswith(("linear", "rope"))]


def missed(backend: str, device="cpu") -> list[str]:
    """The cases whose difference is above the tolerance."""
    lines = []
    for function, size, dtype, layout in runs():
        worst, where = difference(function, backend, size, dtype, layout, device)
        if not worst <= TOLERANCE[dtype]:
            lines.append(f"{function} {size} {dtype} {layout}: {where} is off by {worst:.1e}")
    return lines


def planted(name: str, folder: Path) -> float:
    """The difference that a kernel with a planted error has; its file is put in the place of the real one."""
    op, old, new, function, size = PLANTED[name]
    real = ROOT / f"src/ops/{op}/triton.py"
    text = real.read_text(encoding="utf-8")
    assert old in text, f"{real} has no '{old}'"
    path = folder / f"{len(list(folder.iterdir()))}.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PROGRAMS = 2  # so that a program of rmsnorm's backward pass has several tiles
    before = sys.modules.get(f"src.ops.{op}.triton")
    sys.modules[f"src.ops.{op}.triton"] = module
    try:
        return difference(function, "triton", size, torch.float32)[0]
    finally:
        sys.modules[f"src.ops.{op}.triton"] = before


def kept() -> dict[str, int]:
    """Bytes that each kernel keeps for its backward pass besides its inputs, for 7 rows of 9 float32 numbers."""
    x, y = (torch.randn(7, 9).requires_grad_() for _ in range(2))
    target = torch.zeros(7, dtype=torch.int64)
    calls = {
        "rmsnorm": lambda: rmsnorm(x, None, 1e-5, "triton"),
        "swiglu": lambda: swiglu(x, y, "triton"),
        "softmax": lambda: softmax(x, "triton"),
        "loss": lambda: cross_entropy(x, target, backend="triton"),
        "linear": lambda: linear(x, y, None, "triton"),
    }
    return {name: kept_bytes(call, apart=(x, y, target)) for name, call in calls.items()}


def model_differences() -> dict[str, float]:
    """A small model of each kind under `--backend triton` and `eager`: the largest relative difference of loss and
    gradients."""
    from dataset import TASKS
    from src.flags.run_flags import resolve
    from src.models import MODELS
    from src.models.backbone import build

    found = {}
    for name, flags in {"transformer": {"pos": "rope", "norm": "rms", "mlp": "swiglu"}, "mamba2": {}}.items():
        results = []
        for backend in ("eager", "triton"):
            model_class = MODELS[name].load()
            sizes = {"d_model": 16, "n_layer": 1, "n_head": 2, "context_len": 16, "label_smoothing": 0.1}
            args = resolve(TASKS["needle"].load(), model_class, model=name, backend=backend, **sizes, **flags)
            torch.manual_seed(1)
            model = build(model_class, 11, args, 16)
            ids = torch.randint(0, 11, (2, 9), generator=torch.Generator().manual_seed(2))
            batch = type("Batch", (), {"x": ids[:, :-1], "y": ids[:, 1:], "index": None})
            loss, _ = model.loss_fn(batch, 0.1)
            results.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
        found[name] = max(distances(*([t.detach().double() for t in r] for r in reversed(results))))
    return found


if __name__ == "__main__":
    import src.ops.rmsnorm.triton as rmsnorm_kernels

    one_program_each = missed("triton")
    rmsnorm_kernels.PROGRAMS = 2
    several_tiles = difference("rmsnorm", "triton", (257, 257), torch.float32)[0]
    with tempfile.TemporaryDirectory() as place:
        errors = {name: planted(name, Path(place)) for name in PLANTED}
    print(
        json.dumps(
            {
                "missed": one_program_each,
                "several tiles per program": several_tiles,
                "planted": errors,
                "kept": kept(),
                "models": model_differences(),
            }
        )
    )

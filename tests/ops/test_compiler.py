"""numba and torch.compile are loaded only as far as a run uses them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
HEAVY = ("torch._dynamo", "sympy", "scipy.linalg", "matplotlib")
MATCHED = """
import sys
from src.setup.plan import plan
setup, _ = plan("--task copy --model mamba2 --match_params 100000 --device cpu --quiet".split())
from src.checks.ready import prepare
print(prepare(setup).setup.args.d_model, [name for name in %r if name in sys.modules])
"""
STEP = """
import sys, torch
from dataset.common import Batch
from src.ops.selective_scan import projected_scan
from src.ops.linear_attention import linear_attention
from src.utils.adamw import AdamW
u = torch.randn(1, 8, 4, requires_grad=True)
shapes = ((3 * 2 + 1 - 2, 4), (4, 1), (4,), (4, 2), (4,))
weights = [torch.nn.Parameter(torch.randn(s) * 0.1) for s in shapes]
optimizer = AdamW(weights, lr=0.1)
y, _ = projected_scan(u, *weights)
y.sum().backward()
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
print([name for name in %r if name in sys.modules])
"""


def test_a_training_step_loads_neither_the_compiler_nor_sympy_nor_scipys_algebra():
    """Together they take two seconds of the start of every run."""
    done = subprocess.run([sys.executable, "-c", STEP % (HEAVY,)], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout


def test_solving_the_width_for_a_number_of_parameters_does_not_load_the_compiler():
    """Arithmetic on tensors without memory would, in every run of a comparison."""
    code = MATCHED % (("torch._dynamo", "sympy"),)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    width, loaded = done.stdout.splitlines()[-1].split(" ", 1)
    assert int(width) != 64
    assert loaded == "[]"


def test_no_op_asks_for_the_compiler_when_it_is_imported():
    """`untraced` does what torch.compiler.disable does, and loads nothing."""
    files = {str(path): path.read_text(encoding="utf-8") for path in (ROOT / "src" / "ops").rglob("*.py")}
    assert any("@untraced" in text for text in files.values())
    assert [name for name, text in files.items() if "@torch.compiler.disable" in text] == []


def test_a_users_own_numba_function_still_has_matrix_products():
    pytest.importorskip("numba")
    from src.ops.compiler import numba

    product = numba.njit(lambda a, b: a @ b)
    assert np.array_equal(product(np.eye(2), np.full((2, 2), 3.0)), np.full((2, 2), 3.0))


def test_torch_compile_leaves_an_untraced_function_as_it_is():
    pytest.importorskip("numba")
    from src.ops.compiler import untraced

    seen = []

    @untraced
    def middle(x):
        seen.append(torch.compiler.is_compiling())
        return x + 1

    compiled = torch.compile(lambda x: middle(x * 2) * 3, backend="eager")
    assert torch.equal(compiled(torch.ones(3)), torch.full((3,), 9.0))
    assert torch.equal(compiled(torch.zeros(3)), torch.full((3,), 3.0))
    assert seen == [False, False], "each call ran the function itself"

"""The vector type of the compiled kernels: its functions, its memory, bf16, and what is not a number.

python -m pytest tests/ops/test_vector.py
"""

import numpy as np
import pytest
import torch

numba = pytest.importorskip("numba")

from src.ops import vector  # noqa: E402
from src.ops.lanes import EXACT, compiled, flat, rows_of  # noqa: E402
from src.ops.vector import LANES, load, store  # noqa: E402

FUNCTIONS = ("exp2", "sigmoid", "softplus")


@compiled(EXACT)
def fill(x, y, which):
    """y = function `which` of x, number by number. Their size is a multiple of LANES."""
    for i in range(0, len(x), LANES):
        v = load(x, i)
        if which == 0:
            v = vector.exp2(v)
        elif which == 1:
            v = vector.sigmoid(v)
        elif which == 2:
            v = vector.softplus(v)
        store(y, i, v)


@compiled(EXACT)
def sums(x, y):
    for i in range(len(y)):
        y[i] = vector.total(load(x, i * LANES))


def applied(name, x):
    y = np.empty_like(x)
    fill(x, y, FUNCTIONS.index(name))
    return y


def units(got, want):
    """The largest difference in units in the last place of float32."""
    return np.max(np.abs(got - want) / 2.0 ** (np.floor(np.log2(want)) - 23))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_exact_to_four_units_in_the_last_place(name):
    x = np.linspace(-87, 87, 100_032).astype(np.float32)
    exact = {"exp2": np.exp2, "sigmoid": lambda v: 1 / (1 + np.exp(-v)), "softplus": lambda v: np.logaddexp(0, v)}
    assert units(applied(name, x), exact[name](x.astype(np.float64))) < 4


def test_decays_near_one_are_exact_to_the_last_place():
    """A relative error that is the same at every token would grow with the length of the sequence."""
    x = -np.logspace(-8, -2, 4992).astype(np.float32)
    assert units(applied("exp2", x), np.exp2(x.astype(np.float64))) <= 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_stays_nan_and_infinities_do_not_become_nan(name):
    """NaN with any bits: a sum of integers on the bits of the result would lose some of them."""
    nan = np.array([0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7FFFFFFF], dtype=np.uint32).view(np.float32)
    x = np.concatenate([nan, np.array([-np.inf, np.inf, -1e30, 1e30], dtype=np.float32), np.zeros(24, np.float32)])
    got = applied(name, x)
    assert np.isnan(got[:4]).all()
    assert not np.isnan(got[4:]).any()
    assert (got[[4, 6]] < 2e-38).all()


def test_bf16_is_rounded_as_torch_rounds_it():
    halves = (torch.arange(64).float() + 0.5) * 2**-7 + 1  # exactly between two numbers
    x = torch.cat(
        [torch.randn(894) * 10 ** torch.linspace(-30, 30, 894), halves, -halves, torch.tensor([torch.inf, 0])]
    )
    x = torch.cat([x, torch.full((32,), torch.nan)])[:1056]
    y, back = torch.empty(len(x), dtype=torch.bfloat16), torch.empty(len(x))
    fill(flat(x), flat(y), -1)
    assert torch.equal(y[:1024], x[:1024].bfloat16())
    assert y[1024:].isnan().all()
    fill(flat(y), flat(back), -1)
    assert torch.equal(back[:1024], y[:1024].float())


def test_total_is_the_sum_of_all_lanes():
    x = np.random.default_rng(0).normal(size=3 * LANES).astype(np.float32)
    got = np.empty(3, np.float32)
    sums(x, got)
    np.testing.assert_allclose(got, x.reshape(3, LANES).sum(axis=1), rtol=1e-5)


def test_rows_of_a_slice_are_read_where_they_are():
    wide = torch.arange(2 * 3 * 10.0).view(2, 3, 10)
    array, pitch = rows_of(wide[..., 4:7])
    assert pitch == 10
    assert [array[r * pitch : r * pitch + 3].tolist() for r in range(6)] == wide[..., 4:7].reshape(6, 3).tolist()
    wide[0, 0, 4] = -1
    assert array[0] == -1
    copied, pitch = rows_of(wide.transpose(1, 2))
    assert [copied[r * pitch : r * pitch + 3].tolist() for r in range(20)] == wide.transpose(1, 2).reshape(
        20, 3
    ).tolist()

"""The distance that all tests of ops rely on sees a NaN and a missing gradient.

python -m pytest tests/ops/test_op_checks.py
"""

import pytest
import torch
from op_checks import distance, with_gradients


@pytest.mark.parametrize("place", [0, 1])
def test_a_nan_in_any_result_is_infinitely_far(place):
    """Python's max drops a NaN that is not the first number: a gradient of NaN could pass."""
    want = [torch.ones(3), torch.ones(3)]
    got = [t.clone() for t in want]
    got[place][1] = torch.nan
    assert distance(want, want) == 0
    assert distance(got, want) == float("inf")


def test_a_missing_gradient_counts_as_zeros():
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    want = with_gradients(lambda x, y: [x * y], [x, y], [torch.ones(2)])
    got = with_gradients(lambda x, y: [x * y.detach()], [x, y], [torch.ones(2)])
    assert distance(got, want) == 1

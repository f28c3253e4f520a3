"""What the Triton kernels of this project share: a tensor as rows, and the size of the tile that a program computes.

A program loads a tile of (rows, columns) at once. Both are powers of two, as Triton wants; what is beyond the tensor is
masked. Long rows get one row per tile, short rows get many, so that each program has about TILE numbers to work on.
The kernels take the stride between two rows, so that a slice of a wider tensor is read where it is.
"""

from __future__ import annotations

TILE = 4096  # numbers per program: 32 for each thread of 4 warps
MOST = 65536  # numbers of a row that one program holds in registers


def as_rows(x):
    """x (..., C) as (rows, C), C contiguous. It is copied only where its layout in memory does not allow a view."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.shape[1] == 1 or rows.stride(1) == 1 else rows.contiguous()


def whole_rows(op: str, C: int) -> tuple[int, int, int]:
    """(rows per tile, columns per tile, warps) where a tile must hold whole rows of C numbers.

    Raises RuntimeError for rows that are too long.
    """
    if C > MOST:
        raise RuntimeError(f"backend 'triton' of {op} has rows of at most {MOST} numbers, got {C}; take eager, or auto")
    columns = power_of_two(C)
    return max(1, TILE // columns), columns, 4 if columns <= TILE else 8 if columns <= 4 * TILE else 16


def part_rows(C: int, most: int = TILE) -> tuple[int, int]:
    """(rows per tile, columns per tile) where rows of C numbers may be cut into parts of at most `most`."""
    columns = min(power_of_two(C), most)
    return max(1, TILE // columns), columns


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()

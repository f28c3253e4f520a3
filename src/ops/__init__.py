"""Ops: functions on tensors that layers call. One folder per op.

Each folder holds a public function, whose docstring is the contract, a slow reference that defines the result, and fast
implementations of it. src/ops/backends.py lists them. Each README.md has the maths.
"""

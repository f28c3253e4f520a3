"""Every function of src/numpy_transformer has a docstring, and one that takes or returns arrays names their shapes.

python -m pytest tests/numpy_transformer/test_translation_docstrings.py
"""

import ast
import re

import pytest
from conftest import ROOT

FILES = sorted((ROOT / "src/numpy_transformer").rglob("*.py"))
SHAPE = re.compile(r"\((?:[A-Za-z0-9'.]|\.\.\.|number of parameters)[\w', .+-]*\)|\(\)|shape|Shapes")
ARRAYS = re.compile(r"ndarray|\bBatch\b")


def functions(source):
    """(name, docstring, whether its signature has arrays) of each function, those inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            hints = [a.annotation for a in (*node.args.args, *node.args.kwonlyargs)] + [node.returns]
            text = " ".join(ast.unparse(hint) for hint in hints if hint is not None)
            yield node.name, ast.get_docstring(node) or "", bool(ARRAYS.search(text))


def undocumented(source):
    """The functions without a docstring, and those with arrays but without shapes."""
    return [name for name, text, has_arrays in functions(source) if not text or (has_arrays and not SHAPE.search(text))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_function_says_what_it_does_and_which_shapes_it_takes(path):
    assert undocumented(path.read_text(encoding="utf-8")) == []


def test_there_are_functions_to_look_at():
    found = [f for path in FILES for f in functions(path.read_text(encoding="utf-8"))]
    assert len(found) > 100
    assert sum(has_arrays for _, _, has_arrays in found) > 50


@pytest.mark.parametrize(
    "source",
    [
        "def f(x):\n    return x",
        "class A:\n    def f(self):\n        return 1",
        'def f(x: np.ndarray):\n    """Doubles x."""',
        'def f() -> tuple[np.ndarray, int]:\n    """Something, and more of it."""',
        'def f():\n    """Good."""\n    def g():\n        return 1',
    ],
)
def test_a_function_without_docstring_or_shapes_is_found(source):
    assert len(undocumented(source)) == 1


def test_a_docstring_with_shapes_is_fine():
    assert undocumented('def f(x: np.ndarray):\n    """x (B, T) -> (B, 2 T)."""') == []

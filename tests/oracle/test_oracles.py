"""The tools of the oracle tests. The default run imports no other package, and all of them are documented.

python -m pytest tests/oracle/test_oracles.py
"""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from oracles import PLACEHOLDERS, InFloat64, assert_agree, largest_difference, package

FILES = sorted(Path(__file__).parent.glob("*.py"))
ORACLES = [path for path in FILES if path.name not in ("oracles.py", Path(__file__).name)]
DISTRIBUTIONS = {"fla": "flash-linear-attention"}  # others are named as the package


def packages() -> set[str]:
    """The packages that the oracle tests ask for."""
    code = "".join(path.read_text(encoding="utf-8") for path in ORACLES)
    return set(re.findall(r'\b(?:package|watch)\(\s*f?"(\w+)', code)) | set(PLACEHOLDERS)


def test_a_package_that_is_absent_is_a_skip_that_names_it():
    with pytest.raises(pytest.skip.Exception, match=r"no_such_package is not installed; CONTRIBUTING\.md says how"):
        package("no_such_package.ops")


def test_contributing_says_how_to_install_every_package_of_an_oracle():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    words = {word for line in text.splitlines() if line.startswith("pip install") for word in line.split()}
    for file in words & {"requirements-dev.txt"}:
        words |= set(re.findall(r"^[\w-]+", (ROOT / file).read_text(encoding="utf-8"), flags=re.M))
    names = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in packages()}
    assert len(names) >= 6
    assert not names - words


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_collecting_the_oracles_imports_no_other_package(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {"src", "oracles", "op_checks", "small_models", "conftest", "torch", "pytest"}
    assert not {name.split(".")[0] for name in found} - ours - set(sys.stdlib_module_names)
    if path in ORACLES:
        assert "pytestmark = pytest.mark.oracle" in path.read_text(encoding="utf-8")


def test_placeholder_is_imported_fails_when_called_and_does_not_stay(tmp_path, monkeypatch):
    (tmp_path / "needs_a_kernel.py").write_text("import no_such_kernel\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(PLACEHOLDERS, "needs_a_kernel", ("no_such_kernel",))
    module = package("needs_a_kernel")
    with pytest.raises(RuntimeError, match=r"no_such_kernel\.forward, which is a placeholder"):
        module.no_such_kernel.forward(1)
    assert "no_such_kernel" not in sys.modules


def test_code_that_asks_for_float32_gets_float64():
    x = torch.ones(2, dtype=torch.float64)
    with InFloat64():
        made = [x.float(), x.to(torch.float32), x.new_zeros(2, dtype=torch.float), torch.eye(2, dtype=torch.float32)]
    assert {t.dtype for t in made} == {torch.float64}
    assert x.float().dtype == torch.float32


def test_results_are_compared_by_name_and_nan_is_the_largest_difference():
    right = {"a": torch.tensor([1.0, -4.0]), "b": torch.zeros(2)}
    assert largest_difference(right, right)[0] == 0
    assert largest_difference({**right, "a": torch.tensor([1.0, -3.0])}, right) == (0.25, "a")
    assert largest_difference({**right, "b": torch.tensor([0.0, torch.nan])}, right) == (float("inf"), "b")
    with pytest.raises(AssertionError, match="a differs by"):
        assert_agree({**right, "a": right["a"] + 1}, right, 1e-3)
    with pytest.raises(AssertionError, match=r"\['b'\] on one side only"):
        largest_difference({"a": right["a"]}, right)
    with pytest.raises(AssertionError, match="a: "):
        largest_difference({**right, "a": torch.zeros(3)}, right)

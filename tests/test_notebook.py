"""The notebook of the small transformer: it displays the file's own code, its outputs are of a real run, and it runs.

python -m pytest tests/test_notebook.py
python -m pytest tests/test_notebook.py -m slow     # runs it at a small size; needs requirements-notebook.txt
"""

import ast
import inspect
import json
import re
import shutil
import types

import pytest
from conftest import ROOT

from dataset.corpus.sources import BUILTIN_FILE, Corpus
from src.models import sampling, small_transformer
from src.models.contract import ARModel

PATH = ROOT / "notebooks" / "small_transformer.ipynb"
NOTEBOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
PARTS = {  # what the notebook may display, by the name that it has there
    **{name: part for name, part in vars(small_transformer).items() if callable(part)},
    "sampling.sample": sampling.sample,
    "ARModel._continue": ARModel._continue,
}
OWN = {name for name, part in PARTS.items() if part.__module__ == small_transformer.__name__} - {"build_model"}
SMALL = """
SIZES = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_ff": 32, "n_positions": 32}
CONTEXT, BATCH, STEPS, WARM_UP, EVERY, PATTERN_STEPS, WRITE = 32, 4, 4, 2, 2, 2, 20
"""


def text(lines) -> str:
    return "".join(lines)


def source_of(name: str) -> str:
    """The source of the cell with this id."""
    return text(next(cell["source"] for cell in CODE if cell["id"] == name))


def printed(cells) -> str:
    """All that the code cells print to stdout."""
    return "".join(text(o["text"]) for cell in cells for o in cell["outputs"] if o.get("name") == "stdout")


def nodes(cells, kind) -> list[ast.AST]:
    """The nodes of one kind in the sources of code cells, in order."""
    return [node for cell in cells for node in ast.walk(ast.parse(text(cell["source"]))) if isinstance(node, kind)]


def defined(cells) -> set[str]:
    """The classes and functions that code cells define."""
    return {node.name for node in nodes(cells, (ast.ClassDef, ast.FunctionDef))}


def displayed(cells) -> list[str]:
    """The names that `show` is called with."""
    calls = [call for call in nodes(cells, ast.Call) if getattr(call.func, "id", "") == "show"]
    return [ast.unparse(call.args[0]) for call in calls]


def shown_code(cells) -> list[str]:
    """The code in the displayed outputs, in order."""
    found = [output.get("data", {}).get("text/markdown") for cell in cells for output in cell["outputs"]]
    return [text(block).removeprefix("```python\n").removesuffix("```") for block in found if block]


def test_the_displayed_code_is_that_of_the_files():
    """A change of src/models/small_transformer.py fails here until the notebook is run again."""
    names = displayed(CODE)
    assert set(names) >= OWN
    assert shown_code(CODE) == [inspect.getsource(PARTS[name]) for name in names]


def test_displayed_code_of_an_older_file_would_be_found():
    cell = json.loads(json.dumps(next(cell for cell in CODE if "show(FeedForward)" in text(cell["source"]))))
    parts = [inspect.getsource(PARTS[name]) for name in displayed([cell])]
    assert shown_code([cell]) == parts
    output = next(o for o in cell["outputs"] if "text/markdown" in o.get("data", {}))
    output["data"]["text/markdown"] = text(output["data"]["text/markdown"]).replace("gelu", "relu")
    assert shown_code([cell]) != parts


def test_nothing_of_the_model_is_written_a_second_time():
    assert not defined(CODE) & {*OWN, "forward", "weights"}
    assert nodes(CODE, ast.ClassDef) == []


def test_a_second_class_would_be_found():
    planted = {"source": ["class FeedForward:\n", "    def forward(self, x):\n", "        return x\n"]}
    assert defined([planted]) & OWN == {"FeedForward"}


def test_the_outputs_are_of_one_run_from_top_to_bottom():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert len(pictures) >= 8  # the mask, the waves, attention three times, the rate, two losses
    assert PATH.stat().st_size < 1_000_000


def test_the_stored_run_predicts_better_than_the_4_gram_within_three_minutes_of_two_cores():
    found = printed(CODE)
    loss, four_gram = map(float, re.search(r"validation loss ([\d.]+) .*, 4-gram ([\d.]+): better", found).groups())
    assert loss < four_gram == 1.774  # tests of the n-gram models and docs/tasks.md have this number
    wall, cpu, threads = map(float, re.search(r"text: (\d+) s, CPU time (\d+) s on (\d) threads", found).groups())
    assert threads == 2
    assert wall <= 180
    assert "source: canonical" in found
    assert re.search(r"loss 4\.\d\d, guessing 4\.22", found)
    page = (ROOT / "docs" / "from_scratch.md").read_text(encoding="utf-8")
    assert f"{loss:.3f} nats" in page
    assert f"{wall:.0f} s on two threads" in page
    assert f"{cpu:.0f} s of CPU time" in page


@pytest.mark.parametrize("source", ["builtin", "canonical"])
def test_without_the_real_text_the_notebook_says_so(source, capsys):
    corpus = Corpus(BUILTIN_FILE.read_text(encoding="utf-8"), source)
    exec(source_of("text"), {"tiny_shakespeare": lambda: corpus})
    assert ("notice: this is the short built-in text" in capsys.readouterr().out) is (source == "builtin")


def test_the_learning_rate_grows_in_a_line_and_falls_along_a_cosine():
    found = types.SimpleNamespace()
    tree = ast.parse(source_of("rate"))
    function = next(node for node in tree.body if getattr(node, "name", "") == "rate")
    exec(f"import math\n{ast.unparse(function)}", vars(found))
    rates = [found.rate(step, 101, 10, 2.0) for step in range(101)]
    assert rates[:2] == pytest.approx([0.2, 0.4])
    assert max(rates) == rates[10] == pytest.approx(2.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.03


@pytest.mark.slow
def test_the_notebook_runs_at_a_small_size(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs requirements-notebook.txt")
    nbclient = pytest.importorskip("nbclient", reason="needs requirements-notebook.txt")
    pytest.importorskip("ipykernel", reason="needs requirements-notebook.txt")
    shutil.copy(BUILTIN_FILE, tmp_path / "tiny_shakespeare.txt")  # it has no "ROMEO": its letters are not all there
    monkeypatch.setenv("SEQ_BENCH_DATA", str(tmp_path))
    notebook = nbformat.read(PATH, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source += SMALL
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    found = printed(cells)
    assert "source: custom" in found
    assert "4 steps" in found
    assert re.search(r"logits before 20 differ by 0, from 20 on by up to [\d.]*[1-9]", found)
    assert all(name in found for name in ("temperature 0.7", "top-k 5", "top-p 0.8"))
    assert shown_code(cells) == [inspect.getsource(PARTS[name]) for name in displayed(cells)]

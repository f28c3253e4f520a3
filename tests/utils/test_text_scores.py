"""The pass over a text of any size: the numbers are those of all its characters at once, and memory does not grow.

python -m pytest tests/utils/test_text_scores.py
python -m pytest tests/utils/test_text_scores.py -m slow          (peak memory and time of a text of 50 MB)
"""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from small_tasks import make

from dataset.common import WindowDataset, collate_windows
from dataset.loaders import _loader, build_loaders, sequences_digest
from dataset.plans import OrderedBatches, WindowBatches
from dataset.windows import Consecutive, Listed
from src.models.contract import ARModel
from src.stats import intervals
from src.utils import evaluation, text_scores
from src.utils.distributed import World
from src.utils.evaluation import TEXT_BLOCKS, scores_of, teacher_forced
from src.utils.text_scores import TextScores

CPU = torch.device("cpu")
LETTERS = list("abcdefgh \n")


class Bigrams(ARModel):
    """Logits that depend on the last character only."""

    def __init__(self, n_tokens):
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(n_tokens, n_tokens)

    def forward(self, x, attn_mask=None):
        return self.table(x)


def parts_of(folder, chars=20_000, **flags):
    """(model, task, args, loaders, data) on a text of random letters."""
    path = folder / f"{chars}.txt"
    path.write_text("".join(np.random.default_rng(0).choice(LETTERS, chars)))
    settings = {"context_len": 13, "val_size": 0, "test_size": 0, "batch_chars": 26, **flags}
    task, args = make("text", data_path=str(path), **settings)
    tokenizer, loaders, data = build_loaders(task, args)
    return Bigrams(len(tokenizer)), task, args, loaders, data


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return parts_of(tmp_path_factory.mktemp("text"))


def test_scores_of_a_text_are_those_of_all_its_characters_at_once(text, monkeypatch):
    """Every number of the result against arrays over all characters, to the last bit."""
    monkeypatch.setattr(text_scores, "PART", 333)
    model, _, args, loaders, data = text
    whole = teacher_forced(model, loaders["test"], CPU, args)
    found = scores_of(model, loaders["test"], CPU, args, data)
    result, dataset = found.result(), loaders["test"].dataset
    clusters = evaluation.clusters_of(dataset, whole.row)
    assert result["loss"] == whole.loss
    assert result["token_acc"] == whole.accuracy
    assert (result["n_examples"], result["n_scored"]) == (len(np.unique(whole.row)), len(whole.row))
    losses = intervals.clustered(whole.nll, clusters, "mean")
    assert result["intervals"]["loss"] == losses["ci"]
    assert result["interval_basis"]["loss"]["design_effect"] == losses["design_effect"]
    assert result["intervals"]["token_acc"] == intervals.clustered(whole.correct, clusters)["ci"]
    curve = intervals.binned(whole.nll, whole.ordinal, "log2", "mean", clusters=clusters)
    assert result["slices"]["position_loss"]["bins"] == curve
    errors, counts = found.by_unit()["loss"]
    assert errors.tolist() == np.bincount(clusters, weights=whole.nll).tolist()
    assert counts.tolist() == np.bincount(clusters, minlength=TEXT_BLOCKS).tolist()


def test_a_long_pass_is_kept_in_a_file_and_reads_the_same(text, monkeypatch):
    model, _, args, loaders, data = text
    before = scores_of(model, loaders["test"], CPU, args, data).result()
    monkeypatch.setattr(text_scores, "IN_MEMORY", 64)
    scores = scores_of(model, loaders["test"], CPU, args, data)
    assert scores.scored._file._rolled, "this pass is too short to need its file"
    assert scores.result() == before


def test_documents_are_told_apart_though_their_lengths_differ(text):
    model, _, args, loaders, data = text
    spans = np.array([(0, 5), (7, 7 + 13), (20, 21), (30, 39)])
    documents = WindowDataset(loaders["test"].dataset.ids, spans)
    loader = _loader(documents, OrderedBatches(4, 3), collate_windows)
    whole, scores = teacher_forced(model, loader, CPU, args), scores_of(model, loader, CPU, args, data)
    (part,) = scores.scored.parts()
    for name in ("row", "column", "nll", "correct", "gap"):
        assert getattr(part, name).tolist() == getattr(whole, name).tolist(), name
    curve = intervals.binned(whole.nll, whole.ordinal, "log2", "mean", clusters=whole.row)
    assert scores.result()["slices"]["position_loss"]["bins"] == curve


def test_a_pass_whose_characters_were_not_kept_says_so(text):
    model, _, args, loaders, _ = text
    scores = evaluation.text_scores(model, loaders["heldout"], CPU, args)
    assert scores.loss > 0
    with pytest.raises(ValueError, match="were not kept"):
        next(scores.parts())


def test_scores_do_not_depend_on_how_many_processes_share_the_batches(text, monkeypatch):
    """Two ranks, one after the other: the first keeps what it would send, and the second joins both."""
    monkeypatch.setattr(evaluation, "EXCHANGED", 500)
    model, _, args, loaders, _ = text
    alone = evaluation.text_scores(model, loaders["heldout"], CPU, args)
    sent = []

    class First(World):
        def gather(self, value):
            sent.append(value)
            return [value, []]

    class Second(World):
        def gather(self, value):
            return [sent.pop(0), value]

    list(evaluation._scored_batches(model, loaders["heldout"], CPU, args, None, First(0, 2)))
    assert len(sent) > 3
    both = TextScores(loaders["heldout"].dataset.spans)
    for part in evaluation._scored_batches(model, loaders["heldout"], CPU, args, None, Second(1, 2)):
        both.add(part.nll, part.correct)
    assert (both.loss, both.right) == (alone.loss, alone.right)


def test_a_softmax_in_pieces_gives_the_same_losses(text, monkeypatch):
    model, _, args, loaders, _ = text
    before = teacher_forced(model, loaders["val"], CPU, args)
    monkeypatch.setattr(evaluation, "LOGITS", 50)
    after = teacher_forced(model, loaders["val"], CPU, args)
    assert after.nll.tolist() == before.nll.tolist()
    assert after.correct.tolist() == before.correct.tolist()


# Windows that are computed when they are read


def test_windows_are_the_same_one_by_one_in_blocks_and_at_rows(monkeypatch):
    monkeypatch.setattr("dataset.windows.BLOCK", 4)
    windows = Consecutive(51, 5)
    listed = [(s, min(s + 5, 50)) for s in range(0, 50, 5)]
    assert [tuple(w) for w in windows] == listed
    assert np.concatenate(list(windows.blocks())).tolist() == [list(w) for w in listed]
    assert windows[np.array([9, 0, 3])].tolist() == [[45, 50], [0, 5], [15, 20]]
    assert [tuple(w) for w in windows.first(3)] == listed[:3]
    assert [tuple(w) for w in windows.first(99)] == listed
    same = Listed(windows[np.arange(len(windows))])
    assert [b.tolist() for b in same.blocks()] == [b.tolist() for b in windows.blocks()]
    assert (same.longest, same.n_predicted) == (windows.longest, windows.n_predicted) == (5, 50)
    assert [x.tolist() for x in same.places(3, 40)] == [x.tolist() for x in windows.places(3, 40)]
    assert (windows.longest, Consecutive(3, 5).longest, Consecutive(0, 5).longest) == (5, 2, 0)


def test_the_digest_of_a_text_is_that_of_the_list_of_its_windows(text, monkeypatch):
    """It is stored in finished runs, so it must not change with the blocks in which it is computed."""

    monkeypatch.setattr("dataset.windows.BLOCK", 7)
    _, task, _, loaders, _ = text
    spans = np.array([list(map(int, span)) for span in loaders["test"].dataset.spans]).tolist()
    known = hashlib.sha256(repr((sorted(task.identity().items()), spans)).encode()).hexdigest()
    assert sequences_digest(task, loaders["test"].dataset) == known


def test_random_windows_are_the_same_in_blocks_and_at_once(text, monkeypatch):
    _, _, args, loaders, _ = text
    data, n = loaders["train"].dataset, args.context_len

    def drawn(epoch, start):
        plan = WindowBatches(data, 1_001, n, 8, seed=3)
        plan.set_epoch(epoch, start)
        return [data.spans[rows].tolist() for rows in plan]

    at_once = drawn(2, 0)
    monkeypatch.setattr("dataset.plans.BLOCK", 100)
    assert drawn(2, 0) == at_once
    for start in (0, 1, 12, 13, 14, 125):  # a block has 12 batches
        assert drawn(2, start) == at_once[start:]
    assert len(at_once) == 126


# Memory


def arrays_kept(model, args, loader):
    """The most bytes that Python and NumPy hold during a held-out pass."""
    tracemalloc.start()
    try:
        evaluation.text_scores(model, loader, CPU, args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_heldout_pass_keeps_nothing_per_character(tmp_path, monkeypatch):
    """A text three times as long. The arrays of one pass were 33 bytes per character, which this check would see."""
    monkeypatch.setattr(evaluation, "EXCHANGED", 2_000)
    monkeypatch.setattr("src.stats.sums.LEAF", 2_000)
    peaks, kept = [], []
    for chars in (40_000, 120_000):
        model, _, args, loaders, _ = parts_of(tmp_path, chars, context_len=50, batch_chars=100)
        peaks.append(arrays_kept(model, args, loaders["heldout"]))
        whole = teacher_forced(model, loaders["heldout"], CPU, args)
        kept.append(sum(getattr(whole, name).nbytes for name in ("row", "nll", "correct", "gap", "column")))
    assert peaks[1] < 1.2 * peaks[0]
    assert kept[1] > 2.9 * kept[0], "the broken way, which keeps arrays, would not pass"
    assert kept[1] - kept[0] > peaks[1] - peaks[0] + 200_000


MEASURE = """
import sys
import torch
from dataset.loaders import build_loaders, length_loader, sequences_digest
from dataset.text import Text
from src.flags.run_flags import resolve
from src.utils.chance import chance_levels
from src.utils.evaluation import evaluate, scores_of, text_scores
from test_text_scores import Bigrams

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024

before = peak()
sizes = {"context_len": 128, "val_size": 0, "test_size": 0, "batch_chars": 4096}
args = resolve(Text, data_path=sys.argv[1], precision="fp32", **sizes)
task = Text(args)
tokenizer, loaders, data = build_loaders(task, args)
task.baselines(), chance_levels(data, []), sequences_digest(task, loaders["test"].dataset)
for i, _ in zip(range(50), loaders["train"]):
    pass
model = Bigrams(len(tokenizer))
text_scores(model, loaders["val"], "cpu", args), text_scores(model, loaders["heldout"], "cpu", args)
scores = scores_of(model, loaders["test"], "cpu", args, data)
scores.result(), scores.by_unit()
evaluate(model, length_loader(task, tokenizer, args, 64), "cpu", args, data)
print(before, peak())
"""


@pytest.mark.slow
def test_a_text_of_50_mb_needs_no_more_memory_than_one_of_5(tmp_path):
    """Everything that a run does with its text. 500 MB above the program are the limit at any size."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not tell a process its peak memory")
    block = "".join(np.random.default_rng(0).choice(LETTERS, 1_000_000))
    above = []
    for megabytes in (5, 50):
        path = tmp_path / f"{megabytes}.txt"
        path.write_text(block * megabytes)
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests/utils'}"},
            capture_output=True,
            text=True,
            check=True,
            timeout=400,
        )
        before, most = map(int, done.stdout.split())
        above.append(most - before)
    print(f"\nabove the program: {above[0]} MB at 5 MB of text, {above[1]} MB at 50 MB")
    assert max(above) < 500
    assert above[1] - above[0] < 150  # the allocator's own; the arrays of 50 MB of text were 800 MB more

"""Evaluation of a model on one split: losses, accuracies, curves and their intervals.

    result = evaluate(model, loaders["val"], device, args, data)
    result["loss"], result["exact_match"], result["intervals"]["exact_match"]

One teacher-forced pass gives everything but the metrics of the task's own (`Task.score`), which need decoded answers.
Exact match comes from that pass too: greedy decoding makes its first error where the teacher-forced pass makes its own.
metrics.json stores the result of each split (see src/storage/schema.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader

from dataset.common import Batch, ExampleDataset, WindowDataset
from dataset.loaders import TaskData
from dataset.rows import RowDataset
from dataset.task import Slice, Task
from src.flags.run_flags import RunFlags
from src.models.contract import ARModel
from src.ops import ran
from src.stats import intervals
from src.stats.sums import add_to
from src.storage.items import UnitErrors
from src.utils.decoding import generation_scores
from src.utils.distributed import World
from src.utils.metrics import Scored, bits_per_byte, rows_all_correct
from src.utils.precision import autocast
from src.utils.samples import write_samples
from src.utils.text_scores import TextScores

Data = ExampleDataset | RowDataset | WindowDataset
TEXT_BLOCKS = 30
# A sequence of more than MOST_TOKENS tokens is read in pieces of PIECE, with the decoding state in between, so that the
# memory of evaluation does not grow with the length.
PIECE, MOST_TOKENS = 2**14, 2**15
LOGITS = 2**22  # numbers that are turned into nats at once: a softmax is as large as its logits
EXCHANGED = 2**19  # tokens after which ranks exchange their scores


@dataclass
class SplitScores:
    """The scores of one model on one split.

    scored: one entry per scored character, or `TextScores` of a text.  per_example: {metric: one value per example},
    the aliases of the task among them. task: None where only losses and token accuracy are wanted.
    """

    task: Task | None
    dataset: Data
    scored: Scored | TextScores
    per_example: dict[str, np.ndarray]

    def result(self) -> dict:
        """The metrics by name, with their intervals and slices."""
        task, dataset, scored = self.task, self.dataset, self.scored
        result = {**scored.losses(), "token_acc": scored.accuracy, "exact_match": None}
        result.update(_by_bytes(dataset, scored))
        result.update({name: float(values.mean()) for name, values in self.per_example.items()})
        for name, source in (task.aliases if task else {}).items():
            result[name] = result[source]
        result["n_examples"] = len(dataset) if isinstance(scored, TextScores) else len(np.unique(scored.row))
        result["n_scored"] = scored.count
        result.update(_intervals(task, dataset, scored, self.per_example))
        result["slices"] = slices(task, dataset, scored, self.per_example) if task else {}
        return result

    def by_unit(self) -> UnitErrors:
        """The errors of the primary metric per independent unit of the split, and of a text those of the loss too.

        The units are those of the intervals (`clusters_of`), in the order of the dataset.
        """
        task = self.task
        if task.primary in self.per_example:
            values = self.per_example[task.primary]
            return {task.primary: (1 - values, np.ones(len(values), dtype=int))}
        if isinstance(self.scored, TextScores):
            return self._by_block()
        _, unit = np.unique(clusters_of(self.dataset, self.scored.row), return_inverse=True)
        counts = np.bincount(unit)
        found = {task.primary: (np.bincount(unit, weights=~self.scored.correct), counts)}
        if task.reads_text:
            found["loss"] = (np.bincount(unit, weights=self.scored.nll), counts)
        return found

    def _by_block(self) -> UnitErrors:
        """`by_unit` of a text, whose units are blocks of windows."""
        blocks = min(TEXT_BLOCKS, len(self.dataset))
        counts = wrong = nats = None
        for part in self.scored.parts():
            block = clusters_of(self.dataset, part.row)
            counts = add_to(counts, block, None, blocks)
            wrong, nats = add_to(wrong, block, ~part.correct, blocks), add_to(nats, block, part.nll, blocks)
        return {self.task.primary: (wrong, counts), "loss": (nats, counts)}


def evaluate(
    model: ARModel,
    loader: DataLoader,
    device: torch.device | str,
    args: RunFlags,
    task_meta: TaskData | None = None,
    save_samples: str | Path | None = None,
    world: World | None = None,
) -> dict:
    """Evaluate a model on one split and return its metrics by name.

    task_meta: the TaskData that `build_loaders` returns. Without it there are only losses and token accuracy.
    save_samples: a path. Eight samples of an answer or label task are written there as text.
    args: scripts may pass flags that still say `--precision auto` (see `autocast`).
    """
    scores = scores_of(model, loader, device, args, task_meta, world)
    if save_samples and task_meta is not None and not task_meta.task.reads_text:
        write_samples(save_samples, model, loader.dataset.examples[:8], task_meta, device, args.precision)
    return scores.result()


def scores_of(
    model: ARModel,
    loader: DataLoader,
    device: torch.device | str,
    args: RunFlags,
    task_meta: TaskData | None = None,
    world: World | None = None,
) -> SplitScores:
    """The scores of a model on one split, from which its metrics are made. Arguments as for `evaluate`."""
    task, dataset = task_meta.task if task_meta else None, loader.dataset
    among = allowed_ids(task_meta, device)
    if isinstance(dataset, WindowDataset):
        return SplitScores(task, dataset, text_scores(model, loader, device, args, among, world, keep=True), {})
    scored = teacher_forced(model, loader, device, args, among, world)
    per_example = {}
    if task is not None and not task.reads_text:
        per_example = _example_scores(model, dataset, task_meta, scored, device, args)
        for name, source in task.aliases.items():
            if source in per_example:
                per_example[name] = per_example[source]
    return SplitScores(task, dataset, scored, per_example)


def teacher_forced(
    model: ARModel,
    loader: DataLoader,
    device: torch.device | str,
    args: RunFlags,
    among: torch.Tensor | None = None,
    world: World | None = None,
) -> Scored:
    """Score every scored character of a loader in one pass, with the true characters as input.

    among: the ids that a prediction is chosen from; None means all of them. Ranks share the batches, and each rank gets
    the whole result. The model keeps its training mode.
    """
    return Scored.join(list(_scored_batches(model, loader, device, args, among, world)))


def text_scores(
    model: ARModel,
    loader: DataLoader,
    device: torch.device | str,
    args: RunFlags,
    among: torch.Tensor | None = None,
    world: World | None = None,
    keep: bool = False,
) -> TextScores:
    """The same pass over the consecutive windows of a text, whose memory does not grow with the text.

    keep: whether intervals and curves are wanted, and not only the loss and the token accuracy.
    """
    scores = TextScores(loader.dataset.spans, keep)
    for part in _scored_batches(model, loader, device, args, among, world):
        scores.add(part.nll, part.correct)
    return scores


def pass_over(
    model: ARModel,
    loader: DataLoader,
    device: torch.device | str,
    args: RunFlags,
    among: torch.Tensor | None = None,
    world: World | None = None,
) -> Scored | TextScores:
    """The pass that a validation needs, over examples or over a text. Arguments as for `teacher_forced`."""
    score = text_scores if isinstance(loader.dataset, WindowDataset) else teacher_forced
    return score(model, loader, device, args, among, world)


@torch.no_grad()
def _scored_batches(
    model: ARModel,
    loader: DataLoader,
    device: torch.device | str,
    args: RunFlags,
    among: torch.Tensor | None,
    world: World | None,
) -> Iterator[Scored]:
    """The scored characters of each batch, in the order of the batches."""
    world = world or World()
    training = model.training
    model.eval()
    try:
        parts, tokens, last = [], 0, len(loader) - 1
        for i, batch in enumerate(loader):
            rank = i % world.size
            if rank == world.rank:
                parts.append(_scored_batch(model, batch, device, args, among))
            tokens += batch.x.numel()  # of all ranks, so that they decide alike
            if i == last or (rank == world.size - 1 and tokens >= EXCHANGED):
                for taken in itertools.zip_longest(*world.gather(parts)):
                    yield from (part for part in taken if part is not None)
                parts, tokens = [], 0
    finally:
        model.train(training)


def _scored_batch(
    model: ARModel, batch: Batch, device: torch.device | str, args: RunFlags, among: torch.Tensor | None
) -> Scored:
    """The scored characters of one batch."""
    moved = batch.to(device)
    is_long = batch.x.shape[1] > MOST_TOKENS and model.cache_kind() == "own"
    with autocast(device, args.precision), ran.phase("evaluation"):
        aux = _in_pieces(model, moved) if is_long else model.loss_fn(moved)[1]
    return _scored(moved, aux, batch.meta["row"], among)


def validation_score(task: Task, scored: Scored | TextScores) -> float | None:
    """The primary metric of a task, from the teacher-forced pass alone. None where it needs decoded answers."""
    metric = teacher_forced_metric(task)
    if metric is None:
        return None
    if metric == "token_acc":
        return scored.accuracy
    exact = rows_all_correct(scored.correct, scored.row)
    return sum(exact.values()) / len(exact)


def teacher_forced_metric(task: Task) -> str | None:
    """token_acc or exact_match where the primary metric is one of these, None where it needs decoded answers."""
    name = task.aliases.get(task.primary, task.primary)
    return name if name in ("token_acc", "exact_match") else None


def allowed_ids(data: TaskData | None, device: torch.device | str) -> torch.Tensor | None:
    """The ids that predictions of a task are chosen from (`Task.score_among`), or None for all of them."""
    if data is None or not data.task.score_among:
        return None
    return torch.from_numpy(data.tokenizer.encode(data.task.score_among).astype(np.int64)).to(device)


def slices(task: Task, dataset: Data, scored: Scored | TextScores, per_example: dict) -> dict[str, dict]:
    """The curves of a task (`Task.slices`) by name: value, count and interval of each bin.

    per_example: {metric: one value per example}. A curve over gaps comes twice, with logarithmic and with equal bins.
    """
    if isinstance(scored, TextScores):
        return {f"{s.of}_{s.metric}" if s.metric else s.of: _text_curve(s, dataset, scored) for s in task.slices}
    found = {}
    for spec in task.slices:
        xs, values, clusters, metric = _slice_items(task, dataset, spec, scored, per_example)
        if not len(xs):
            continue
        name = f"{spec.of}_{spec.metric}" if spec.metric else spec.of
        if spec.of == "gap":
            found[name] = _curve(spec, "log2", xs, values, clusters, metric)
            found[f"{name}_linear"] = _curve(spec, "linear", xs, values, clusters, metric)
        else:
            found[name] = _curve(spec, spec.bins, xs, values, clusters, metric)
    return found


def clusters_of(dataset: Data, rows: np.ndarray) -> np.ndarray:
    """The independent unit of each scored character, an integer per entry of `rows` (N,), for `intervals.clustered`.

    The characters of one sequence share its fate, so the unit is the sequence. Windows of one text are no such unit,
    because neighbours share a scene and a style: under a 5-gram model of Tiny Shakespeare, token accuracies of adjacent
    windows of 64 characters correlate by 0.3. So consecutive windows form TEXT_BLOCKS blocks of equal size, which are
    the same stretches of text at every window length (batch means; Schmeiser, "Batch size effects in the analysis of
    simulation output", 1982, advises 10 to 30 batches). On that test text the standard error of the token accuracy is
    1.2 times that of independent characters over windows, and 3.4 times over 30 blocks. Blocks still correlate where
    a text drifts (by 0.3 on its val part, by 0.7 on its test part), so an interval is about this stretch of text, and
    another text can score outside of it.
    """
    if not isinstance(dataset, WindowDataset):
        return rows
    return rows * min(TEXT_BLOCKS, len(dataset)) // len(dataset)


def unit_of(dataset: Data) -> str:
    """What the clusters of `clusters_of` are: sequence, or block of text."""
    return "block of text" if isinstance(dataset, WindowDataset) else "sequence"


def _in_pieces(model: ARModel, batch: Batch) -> dict:
    """What `loss_fn` returns beside the loss: the logits, targets and flat index of the trained positions.

    The model reads the batch in pieces of PIECE tokens and keeps only its decoding state between them.
    """
    B, T = batch.x.shape
    index = torch.arange(B * T, device=batch.x.device) if batch.index is None else batch.index
    state, logits, places = model.init_state(B, T), [], []
    for start in range(0, T, PIECE):
        out, state = model.prefill(batch.x[:, start : start + PIECE], state)  # (B, S, C)
        here = index[(index % T >= start) & (index % T < start + PIECE)]
        logits.append(out[here // T, here % T - start])
        places.append(here)
    index = torch.cat(places)
    return {"logits": torch.cat(logits), "target": batch.y.flatten()[index], "index": index}


def _scored(batch: Batch, aux: dict, rows: np.ndarray, among: torch.Tensor | None) -> Scored:
    """The scored characters of one batch. rows: the examples' numbers in the dataset."""
    logits, target = aux["logits"].float(), aux["target"]
    width = batch.x.shape[1]
    index = torch.arange(batch.x.numel(), device=logits.device) if aux["index"] is None else aux["index"]
    keep = batch.score.flatten()[index]
    if not bool(keep.all()):
        logits, target, index = logits[keep], target[keep], index[keep]
    pieces = zip(
        logits.split(LOGITS // logits.shape[1] or 1), target.split(LOGITS // logits.shape[1] or 1), strict=True
    )
    nll, correct = map(torch.cat, zip(*(_graded(*piece, among) for piece in pieces), strict=True))
    index = index.cpu().numpy()
    return Scored(
        rows[index // width],
        nll.double().cpu().numpy(),
        correct.cpu().numpy(),
        batch.gaps.cpu().flatten().numpy()[index],
        index % width,
    )


def _graded(
    logits: torch.Tensor, target: torch.Tensor, among: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The nats of each target, and whether the prediction is right.  logits: (n, C).  target: (n,)."""
    guess = logits.argmax(-1) if among is None else among[logits[:, among].argmax(-1)]
    return torch.nn.functional.cross_entropy(logits, target, reduction="none"), guess == target


def _example_scores(
    model: ARModel,
    dataset: ExampleDataset,
    data: TaskData,
    scored: Scored,
    device: torch.device | str,
    args: RunFlags,
) -> dict[str, np.ndarray]:
    """{metric: one value per example}: exact match, and the task's own metrics of decoded answers where it has some."""
    exact = rows_all_correct(scored.correct, scored.row)
    found = {"exact_match": np.array([exact[i] for i in sorted(exact)], dtype=float)}
    if data.task.score_metrics:
        found.update(generation_scores(model, dataset.examples, data, device, args.precision))
    return found


def _intervals(
    task: Task | None,
    dataset: Data,
    scored: Scored | TextScores,
    per_example: dict[str, np.ndarray],
) -> dict:
    """The keys interval_of, intervals and interval_basis of a result, for shares and for a loss that is finite."""
    unit = unit_of(dataset)
    correct, loss = _text_means(dataset, scored) if isinstance(scored, TextScores) else _means(dataset, scored)
    by_character = [name for name, source in (task.aliases if task else {}).items() if source == "token_acc"]
    found = dict.fromkeys(("token_acc", *by_character), correct)
    found |= {name: intervals.clustered(v) for name, v in per_example.items() if _is_share(task, name)}
    if loss is not None:
        found["loss"] = loss
    found = {name: e for name, e in found.items() if e["ci"]}
    basis = ("count", "units", "n_effective", "design_effect")
    return {
        "interval_of": intervals.INTERVAL_OF,
        "intervals": {name: e["ci"] for name, e in found.items()},
        "interval_basis": {name: {"unit": unit, **{k: e[k] for k in basis}} for name, e in found.items()},
    }


def _by_bytes(dataset: Data, scored: Scored | TextScores) -> dict[str, float | None]:
    """bits_per_byte of a text. Where its unit is a token, there are no bits per character."""
    if isinstance(dataset, ExampleDataset) or dataset.tokenizer is None:
        return {}
    found = {"bits_per_byte": bits_per_byte(scored.loss, scored.count, dataset.scored_bytes)}
    return found if dataset.tokenizer.unit == "character" else {**found, "bpc": None}


def _means(dataset: ExampleDataset, scored: Scored) -> tuple[dict, dict | None]:
    """Token accuracy and loss with their intervals. None for a loss that is not finite."""
    clusters = clusters_of(dataset, scored.row)
    correct, is_finite = intervals.clustered(scored.correct, clusters), np.isfinite(scored.nll).all()
    return correct, intervals.clustered(scored.nll, clusters, "mean") if is_finite else None


def _text_means(dataset: WindowDataset, scored: TextScores) -> tuple[dict, dict | None]:
    """`_means` of a text."""
    found, blocks = {}, min(TEXT_BLOCKS, len(dataset))
    for metric in ("token_acc", "loss") if scored.is_finite else ("token_acc",):
        parts = _text_parts(dataset, scored, metric)
        found[metric] = intervals.clustered_parts(parts, blocks, _interval_of(metric))
    return found["token_acc"], found.get("loss")


def _is_share(task: Task | None, name: str) -> bool:
    """Whether a metric is a mean of values in 0..1. Only then does a Wilson interval fit it."""
    if name in ("token_acc", "exact_match"):
        return True
    return task is not None and (name in (task.primary, *task.aliases) or task.score_metrics.get(name) == "higher")


def _text_curve(spec: Slice, dataset: WindowDataset, scored: TextScores) -> dict:
    """One curve of a text, over the position in the window. Raises ValueError for a curve over anything else."""
    if spec.of != "position":
        raise ValueError(f"Slice({spec.of!r}): a task on text has curves over 'position' only")
    metric = spec.metric or "token_acc"
    positions = np.arange(dataset.longest)
    names, bin_of = intervals.bin_edges(positions, spec.bins)
    parts = _text_parts(dataset, scored, metric, bin_of)
    binned = intervals.binned_parts(parts, names, min(TEXT_BLOCKS, len(dataset)), _interval_of(metric))
    return _described(spec, metric, intervals.scale_of(positions, spec.bins), binned)


def _text_parts(
    dataset: WindowDataset, scored: TextScores, metric: str, bin_of: np.ndarray | None = None
) -> intervals.Parts:
    """The items of a text for src/stats/intervals.py.  metric: "loss" or "token_acc".

    bin_of: (positions,), the bin of each position in a window. None is one bin for all.
    """

    def parts():
        for part in scored.parts():
            values = part.nll if metric == "loss" else part.correct
            bins = np.zeros(len(values), dtype=np.int64) if bin_of is None else bin_of[part.column]
            yield values, bins, clusters_of(dataset, part.row)

    return parts


def _curve(
    spec: Slice, bins: str, xs: np.ndarray, values: np.ndarray, clusters: np.ndarray | None, metric: str
) -> dict:
    """One curve of examples as metrics.json stores it."""
    binned = intervals.binned(values, xs, bins, _interval_of(metric), clusters=clusters)
    return _described(spec, metric, intervals.scale_of(xs, bins), binned)


def _interval_of(metric: str) -> str:
    return "mean" if metric == "loss" else "wilson"


def _described(spec: Slice, metric: str, scale: str, binned: list[dict]) -> dict:
    """One curve as metrics.json stores it."""
    return {
        "of": spec.of,
        "label": spec.label,
        "level": spec.level,
        "metric": metric,
        "scale": scale,
        "bins": binned,
    }


def _slice_items(
    task: Task, dataset: Data, spec: Slice, scored: Scored, per_example: dict
) -> tuple[np.ndarray | list, np.ndarray, np.ndarray | None, str]:
    """(x, value, cluster, metric name) of everything that a curve counts. Without clusters each item is its own.

    A curve of level "example" counts examples. Where the primary metric is one of characters, it counts characters.
    """
    if spec.level == "example" and task.primary in per_example:
        return _example_values(dataset, spec.of), per_example[task.primary], None, task.primary
    if spec.of == "gap":
        xs, keep = scored.gap, scored.gap >= 0
    elif spec.of == "position":
        xs, keep = scored.ordinal, np.ones(len(scored.row), dtype=bool)
        if task.writes_answer:  # the <eos> after the answer has no position
            keep = scored.ordinal < dataset.answer_chars[scored.row]
    elif spec.level == "example":
        xs = np.asarray(_example_values(dataset, spec.of))[scored.row]
        keep = np.ones(len(scored.row), dtype=bool)
    else:
        per_row = [dataset.examples[i].meta[spec.of] for i in range(len(dataset))]
        keep = scored.ordinal < np.array([len(v) for v in per_row])[scored.row]
        xs = np.array([per_row[r][o] if k else 0 for r, o, k in zip(scored.row, scored.ordinal, keep, strict=True)])
    clusters = clusters_of(dataset, scored.row[keep])
    if spec.metric == "loss":
        return np.asarray(xs)[keep], scored.nll[keep], clusters, "loss"
    return np.asarray(xs)[keep], scored.correct[keep].astype(float), clusters, "token_acc"


def _example_values(dataset: ExampleDataset, of: str) -> list:
    if of == "length":
        return dataset.task_lengths.tolist()
    return [e.meta[of] for e in dataset.examples]

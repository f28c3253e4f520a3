"""The answer: at most three sentences, made by rules from the verdicts, the scores and the costs, each with its place.

1. Does a model score higher than another? From the verdicts; without any, the highest score and why there is none.
2. Is a task solved? From the share of seeds that reach the threshold.
3. At what price? From the times of `speed` where there are any, else from parameters and state.

A record of `speed` alone has sentences about time, state and memory. No sentence comes from a text in a folder.
"""

from __future__ import annotations

from src.study.page import numbers as n
from src.study.page.blocks import Answer, Section, Sentence, named
from src.study.page.evidence import Cell, Difference, Document
from src.study.page.evidence import label as label_of
from src.study.page.price import cost_of, room_of, terms, time_of

BETTER = {"better": 1, "worse": -1}
EQUIVALENT, NO_VERDICT = "equivalent", ("no verdict", "exploratory")
MOST_NAMED = 3


def build(document: Document) -> list:
    if document.cells:
        found = [] if document.cards else [differences(document)]  # the card says what differs, from recorded runs
        found += [level(document), cost_of(document) or terms(document)]
    else:
        found = [time_of(cost) for cost in document.costs[:1]] + [room_of(cost) for cost in document.costs[:1]]
        if document.costs:
            found.append(Sentence("Nothing was trained, so nothing is said about scores.", "limits", "limits"))
    found = [sentence for sentence in found if sentence is not None]
    return [Answer(tuple(found))] if found else []


def name_of(key) -> str:
    """The label of a cell as a name in a sentence."""
    return named(label_of(key))


# Differences


def differences(document: Document) -> Sentence:
    """What the verdicts say together; the holes are named in the same breath."""
    holes = len(document.holes)
    missing = f" {n.counted(holes, 'planned run')} {'has' if holes == 1 else 'have'} no usable result." if holes else ""
    pairs = [d for d in document.differences if d.is_headline] or document.differences
    if not pairs:
        return Sentence(_without_pairs(document) + missing, "scores", "scores")
    return Sentence(_of_pairs(document, pairs) + missing, "pairs", "differences")


def _of_pairs(document: Document, pairs: list[Difference]) -> str:
    decided = [d for d in pairs if d.verdict in BETTER]
    judged = [d for d in pairs if d.verdict not in NO_VERDICT]
    if decided:
        rest = f" {_tally(pairs)}" if len(pairs) > 1 else ""
        return f"{_decided(max(decided, key=_weight))}.{rest}"
    if not judged:
        return f"There is no verdict on any difference: {_too_few(pairs)}."
    if all(d.verdict == EQUIVALENT for d in pairs):
        margin = "" if document.margin is None else f" within a margin of {document.margin:g}"
        return f"{_both(pairs)} are equivalent{margin}."
    seeds = n.listed([str(s) for s in sorted({len(d.seeds) for d in judged if d.seeds})]) or "these"
    budget = _budget(document.cells)
    if len(pairs) == 1:
        only = pairs[0]
        between = f"{named(only.a)} and {named(only.b)} on {named(only.task)}"
        return f"No difference between {between} is shown with {seeds} seeds{budget}."
    return f"No pair of models is shown to differ with {seeds} seeds{budget}. {_tally(pairs)}"


def _weight(d: Difference) -> tuple:
    """What is told first: a difference over all tasks, then one at the lengths of the task, then the largest."""
    return d.improvement is not None, not d.length, abs(d.value or 0.0)


def _decided(d: Difference) -> str:
    """'ours scores higher than gru on parity, by 0.48 [0.44, 0.52], p = 0.012'."""
    winner, loser = (d.b, d.a) if BETTER[d.verdict] > 0 else (d.a, d.b)
    where = f"over {d.task}" if d.improvement is not None else f"on {named(d.task)}"
    where += f" at length {d.length}" if d.length else ""
    where += f" ({d.setting})" if d.setting else ""
    size = "" if d.value is None else f", by {n.score(*_oriented(d))}"
    chance = "" if d.p is None else f", p{n.NO_BREAK}{_equals(d.p)}"
    return f"{named(winner)} scores higher than {named(loser)} {where}{size}{chance}"


def _both(pairs: list[Difference]) -> str:
    if len(pairs) > 1:
        return f"The models of all {len(pairs)} comparisons"
    return f"On {named(pairs[0].task)}, {named(pairs[0].a)} and {named(pairs[0].b)}"


def _too_few(pairs: list[Difference]) -> str:
    """'3 seeds per model cannot show one; it takes 6'."""
    seeds = max((len(d.seeds) for d in pairs), default=0)
    needed = max((d.needed for d in pairs if d.needed is not None), default=None)
    takes = f"; it takes {needed}" if needed is not None and needed > seeds else ""
    return ("one seed per model cannot show one" if seeds <= 1 else f"{seeds} seeds per model cannot show one") + takes


def _oriented(d: Difference) -> tuple[float | None, float | None, float | None]:
    """The size of a difference and its interval, as winner minus loser."""
    if BETTER[d.verdict] > 0 or d.value is None:
        return d.value, d.low, d.high
    return -d.value, None if d.high is None else -d.high, None if d.low is None else -d.low


def _tally(pairs: list[Difference]) -> str:
    """'Of 6 comparisons, 2 differ and 4 show no difference.'"""
    kinds = {
        "differ": sum(d.verdict in BETTER for d in pairs),
        "are equivalent": sum(d.verdict == EQUIVALENT for d in pairs),
        "have no verdict": sum(d.verdict in NO_VERDICT for d in pairs),
    }
    kinds["show no difference"] = len(pairs) - sum(kinds.values())
    parts = [f"{k} {words if k > 1 else _singular(words)}" for words, k in kinds.items() if k]
    return f"Of {n.counted(len(pairs), 'comparison')} of models, {n.listed(parts)}."


def _singular(words: str) -> str:
    verb, _, rest = words.partition(" ")
    return " ".join(filter(None, ({"are": "is", "have": "has", "differ": "differs", "show": "shows"}[verb], rest)))


def _equals(p: float) -> str:
    text = n.probability(p)
    return text if text.startswith("<") else f"={n.NO_BREAK}{text}"


def _without_pairs(document: Document) -> str:
    """The highest score where nothing was judged, in words that claim no difference."""
    cells = document.cells
    if len(cells) == 1:
        (cell,) = cells
        if cell.mean is None:
            return f"{name_of(cell.key)} has no score on {named(cell.task)}."
        runs = document.reported(cell.key)
        told = n.score(cell.mean, cell.low, cell.high)
        return (
            f"{name_of(cell.key)} scores {told} on {named(cell.task)} ({cell.metric}, {_basis(cell, runs)}); chance is "
            f"{n.share(cell.chance)}. One model was run, so nothing is compared."
        )
    if len({label_of(cell.key) for cell in cells}) == 1:
        return (
            f"Only {name_of(cells[0].key)} was run, on {n.counted(len(document.tasks()), 'task')}: nothing is compared."
        )
    tasks = _by_task(cells)
    told = [_highest(task, group) for task, group in list(tasks.items())[:MOST_NAMED]]
    more = f"; {n.counted(len(tasks) - MOST_NAMED, 'more task')}" if len(tasks) > MOST_NAMED else ""
    reason = "these runs were given one by one; `compare` judges pairs"
    if any(source.kind == "compare" for source in document.sources):
        reason = "the comparison judged no pair"
    return f"There is no verdict on differences ({reason}). {'; '.join(told)}{more}."


def _basis(cell: Cell, runs: list) -> str:
    if len(cell.values) != 1:
        return n.counted(len(cell.values), "seed")
    units = next((f", {n.whole(run.n)} {run.unit}s" for run in runs if run.n and run.unit == "sequence"), "")
    return f"one seed{units}"


def _highest(task: str, cells: list[Cell]) -> str:
    """'The highest median on needle is 0.981, of gru'; ties are named as such."""
    scored = [cell for cell in cells if cell.median is not None]
    if not scored:
        return f"No model has a score on {named(task)}"
    top = max(cell.median for cell in scored)
    best = [name_of(cell.key) for cell in scored if cell.median == top]
    if len(best) == len(scored) > 1:
        return f"On {named(task)} all {len(best)} models have the same median score of {n.share(top)}"
    return f"The highest median score on {named(task)} is {n.share(top)}, of {n.listed(best)}"


def _by_task(cells: list[Cell]) -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.task, []).append(cell)
    return found


# Solved or not


def level(document: Document) -> Sentence:
    """Which tasks are solved by which models, and within how many steps where they are not."""
    judged = [cell for cell in document.cells if cell.success is not None and cell.success.n > 0]
    if not judged:
        return Sentence(_best_of_unsolvable(document.cells), "scores", "scores")
    solved = [cell for cell in judged if cell.is_solved]
    threshold = n.listed(sorted({f"{cell.threshold:g}" for cell in judged if cell.threshold is not None}))
    meaning = f"a score of at least {threshold} in every seed" if threshold else "the threshold in every seed"
    tasks = _by_task(judged)
    if len(judged) == 1:
        words = "solves" if solved else "does not solve"
        budget = "" if solved else _budget(judged)
        text = f"{name_of(judged[0].key)} {words} {named(judged[0].task)}{budget} ({meaning})."
    elif len(solved) == len(judged):
        every = f"{n.listed(map(named, tasks))} {'is' if len(tasks) == 1 else 'are'} solved by every model ({meaning})"
        text = f"{every}, so {'it does' if len(tasks) == 1 else 'they do'} not tell the models apart."
    elif not solved:
        text = f"No model solves {_any(tasks)}{_budget(judged)} ({meaning}). {_top(judged)}"
    else:
        text = f"{_mixed(tasks)} ({meaning})."
    return Sentence(text + _at_chance(judged), "scores", "scores")


def _any(tasks) -> str:
    return named(next(iter(tasks))) if len(tasks) == 1 else f"any of the {len(tasks)} tasks"


def _top(cells: list[Cell]) -> str:
    scored = [cell for cell in cells if cell.median is not None]
    if not scored:
        return "No cell has a score."
    best = max(scored, key=lambda cell: cell.median)
    chance = "" if best.chance is None else f", where chance is {n.share(best.chance)}"
    return f"The highest median is {n.share(best.median)}, of {name_of(best.key)} on {named(best.task)}{chance}."


def _mixed(tasks: dict[str, list[Cell]]) -> str:
    """'parity is solved by deltanet --neg_eigen; copy by no model within 600 steps'."""
    parts = []
    for task, cells in list(tasks.items())[:MOST_NAMED]:
        names = [name_of(cell.key) for cell in cells if cell.is_solved]
        if len(names) == len(cells):
            by = f"every model ({len(names)})" if len(names) > 1 else names[0]
        else:
            by = n.listed(names, MOST_NAMED) if names else f"no model{_budget(cells)}"
        parts.append(f"{named(task)} {'is solved ' if not parts else ''}by {by}")
    more = list(tasks.items())[MOST_NAMED:]
    rest = sum(any(cell.is_solved for cell in cells) for _, cells in more)
    tail = f"; of {n.counted(len(more), 'more task')} {rest} by at least one model" if more else ""
    return "; ".join(parts) + tail


def _at_chance(cells: list[Cell]) -> str:
    """The cells whose interval reaches chance."""
    found = [c for c in cells if c.chance is not None and c.low is not None and c.low <= c.chance and not c.is_solved]
    if not found:
        return ""
    if len(cells) == 1:
        return " Its score is not above chance."
    if len(found) > MOST_NAMED:
        return f" {len(found)} of {len(cells)} scores are not above chance."
    return f" Not above chance: {n.listed(f'{name_of(c.key)} on {named(c.task)}' for c in found)}."


def _best_of_unsolvable(cells: list[Cell]) -> str:
    told = [_highest(task, group) for task, group in list(_by_task(cells).items())[:MOST_NAMED]]
    return f"{'; '.join(told)}. No threshold says when such a task is solved."


def _budget(cells: list[Cell]) -> str:
    steps = sorted({cell.steps for cell in cells if cell.steps is not None})
    if not steps:
        return ""
    return f" within {steps[0]:,} steps" if len(steps) == 1 else f" within {steps[0]:,} to {steps[-1]:,} steps"


ANSWER = Section("answer", "The answer", build, "nothing was given that an answer could rest on")

"""From runs to cards: scores, verdicts against each published layer, ranks and sentences, as the content of card.json.

    document = make(suite, runs_of(campaign, suite), field_of(suite, tables, statuses), missing, files)

A row of a layer without two finished runs is a hole, and so is a published layer without a valid record; both are
named, and neither is ranked. A published layer is not compared with its own record.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from src.study.card import sentences as say
from src.study.card.baselines import Table
from src.study.card.ranking import AHEAD, BEHIND, SAME, Against, compare, nearest, place_of, profile_distance
from src.study.card.scores import Score, mean_of, score_of
from src.study.card.suite import Row, Suite
from src.study.card.traits import is_exact, shared_by
from src.study.card.validity import MISSING, VALID
from src.study.comparison.campaign import Campaign

SCHEMA = 2
FEWEST = 2  # seeds of a row that has a score
Seeds = Mapping[int, Score | None]  # the runs of a row by seed; None for one that has no result


@dataclass(frozen=True)
class Field:
    """The published layers of a suite.

    scores: {(label, row): {seed: Score}} of valid records.  holes: {(label, row): (word, why)} of the others.
    """

    scores: dict[tuple[str, str], dict[int, Score]]
    holes: dict[tuple[str, str], tuple[str, str]]

    def of_row(self, row: str) -> dict[str, dict[int, Score]]:
        """{label: {seed: score}} of a row."""
        return {label: scores for (label, name), scores in self.scores.items() if name == row}

    def means(self, label: str, rows: Iterable[Row]) -> dict[str, float]:
        """{row: the mean score} of a layer."""
        found = {row.name: self.scores.get((label, row.name)) for row in rows}
        return {name: _mean(scores) for name, scores in found.items() if scores}

    def without(self, label: str) -> Field:
        """The other published layers."""
        return Field({key: found for key, found in self.scores.items() if key[0] != label}, self.holes)

    def labels(self, suite: Suite) -> list[str]:
        """The layers that have a score in some row, in the order of the suite."""
        return [label for label in suite.layers if any(found == label for found, _ in self.scores)]


def field_of(suite: Suite, tables: Mapping[str, Table], statuses: Mapping) -> Field:
    """The published layers, by the status of each record."""
    scores, holes = {}, {}
    for (label, name), status in statuses.items():
        if status.word != VALID:
            holes[label, name] = status.word, status.why
            continue
        found = tables[label].scores(suite.row(name))
        if len(found) < FEWEST:
            holes[label, name] = MISSING, f"{len(found)} of at least {FEWEST} runs are recorded"
        else:
            scores[label, name] = found
    return Field(scores, holes)


def runs_of(campaign: Campaign, suite: Suite) -> dict[str, dict[str, dict[int, Score | None]]]:
    """{label: {row: Seeds}} of the runs on fresh seeds of a comparison, for every layer that was asked about."""
    found: dict = {side.label: {} for side in campaign.comparison.models}
    for run, known in campaign.runs():
        if run.role == "report":
            row = suite.row(run.cell.task)
            score = score_of(known.row, row.measure) if known.row else None
            found[run.cell.model].setdefault(row.name, {})[run.seed] = score
    return found


def make(
    suite: Suite,
    runs: Mapping[str, Mapping[str, Seeds]],
    field: Field,
    missing: Mapping[str, str],
    files: Collection[str] = (),
) -> dict:
    """The content of card.json, without its seal.

    runs: of every layer that is asked about.  missing: {row: why it is left out} for every layer.  files: the labels of
    layers that are a user's own files, which may have the name of a published one.
    """
    return {
        "schema": SCHEMA,
        "kind": "card",
        "suite": suite.name,
        "parameters": suite.parameters,
        "published": field.labels(suite),
        "rows": [row.name for row in suite.rows],
        "missing": [{"row": name, "why": why} for name, why in missing.items()],
        "holes": [
            {"layer": label, "row": name, "word": word, "why": why}
            for (label, name), (word, why) in field.holes.items()
            if name not in missing
        ],
        "field": [_field_row(row, field) for row in suite.rows if row.name not in missing],
        "cards": [
            _card(suite, label, found, field if label in files else field.without(label), missing)
            for label, found in runs.items()
        ],
    }


def _field_row(row: Row, field: Field) -> dict:
    """The published layers of a row, for the drawing: each with its mean and interval."""
    found = {label: mean_of(list(scores.values())) for label, scores in field.of_row(row.name).items()}
    layers = [{"layer": label, "value": v, "low": low, "high": high} for label, (v, low, high) in found.items()]
    return {"row": row.name, "layers": layers}


def _card(suite: Suite, label: str, runs: Mapping[str, Seeds], field: Field, missing: Mapping[str, str]) -> dict:
    """The card of one layer among those of the field."""
    finished = {row.name: _finished(runs.get(row.name, {})) for row in suite.rows}
    scored = {name: scores for name, scores in finished.items() if len(scores) >= FEWEST}
    counting = [row for row in suite.rows if not row.is_control]
    counted = [row for row in counting if row.name in scored]
    mine = {row.name: _mean(scored[row.name]) for row in counted}
    distances = {other: profile_distance(mine, field.means(other, counted)) for other in suite.layers}
    distances = {other: distance for other, distance in distances.items() if math.isfinite(distance)}
    rows, facts = [], []
    for row in suite.rows:
        if row.name in scored:
            failed = len(runs[row.name]) - len(scored[row.name])
            entry, found = _row(row, scored[row.name], failed, field, distances)
            rows.append(entry)
            facts += [] if row.is_control else [found]
    first = min(distances, key=distances.__getitem__, default="")
    return {
        "model": label,
        "published": field.labels(suite),
        "rows": rows,
        "holes": [
            {"row": name, "why": f"{len(scores)} of at least {FEWEST} runs are finished"}
            for name, scores in finished.items()
            if name not in scored and name not in missing
        ],
        "nearest": first,
        "distance": distances.get(first),
        "sentence": say.overall(facts, len(counting), first, distances.get(first)),
    }


def _finished(runs: Seeds) -> dict[int, Score]:
    return {seed: score for seed, score in runs.items() if score is not None}


def _row(
    row: Row, mine: Mapping[int, Score], failed: int, field: Field, distances: Mapping[str, float]
) -> tuple[dict, say.Facts]:
    """A row of the card, and the facts of its sentence. failed: runs without a result."""
    against = {label: compare(mine, theirs) for label, theirs in field.of_row(row.name).items()}
    against = {label: found for label, found in against.items() if found is not None}
    scores = [mine[seed] for seed in sorted(mine)]
    value, low, high = mean_of(scores)
    place, near = place_of(against), nearest(against, distances)
    facts = facts_of(row, scores, failed, against, near)
    entry = {
        "row": row.name,
        "says": row.says,
        "control": row.is_control,
        "seeds": sorted(mine),
        "values": [score.value for score in scores],
        "raw": [score.raw for score in scores],
        "value": value,
        "low": low,
        "high": high,
        "within": facts.within,
        "beyond": facts.beyond,
        "best": place.best,
        "worst": place.worst,
        "of": place.of,
        "rank": place.words,
        "nearest": near,
        "against": [
            {"layer": label, "value": a.value, "low": a.low, "high": a.high, "n": a.n, "word": a.word}
            for label, a in against.items()
        ],
        "rules": [rule.name for rule in say.fired(facts).values()],
        "sentence": say.sentence(facts),
    }
    return entry, facts


def facts_of(row: Row, scores: list[Score], failed: int, against: Mapping[str, Against], near: str) -> say.Facts:
    """The facts that the rules of sentences look at."""
    by_word = {word: tuple(label for label, a in against.items() if a.word == word) for word in (AHEAD, BEHIND, SAME)}
    better, among = set(by_word[BEHIND]), set(against)  # this layer is behind those that are ahead of it
    trait = shared_by(better, among)
    learned = [score for score in scores if not score.diverged]
    beyond = [score.beyond for score in learned if score.beyond is not None and not score.lacks_beyond]
    return say.Facts(
        says=row.says,
        raw=tuple(score.raw for score in scores),
        within=sum(score.within for score in learned) / max(1, len(learned)),
        beyond=sum(beyond) / len(beyond) if beyond else None,
        diverged=len(scores) - len(learned),
        failed=failed,
        lack_beyond=sum(score.lacks_beyond for score in scores),
        ahead=by_word[BEHIND],
        behind=by_word[AHEAD],
        same=by_word[SAME],
        nearest=near,
        shared=trait,
        is_exact=bool(trait) and is_exact(trait, better, among),
        is_text=bool(row.needs),
    )


def _mean(scores: Mapping[int, Score]) -> float:
    return sum(score.value for score in scores.values()) / len(scores)

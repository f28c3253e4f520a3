"""One plain sentence per row of the card, by rules over the verdicts. No text comes from anywhere else.

    sentence(facts)        # "solves copying of 24 letters, fails beyond its training length, like gla; ..."

RULES is the table. A sentence has up to five parts, and each part is made by the first of its rules that fires:
`level`, what is learned at the lengths of training; `beyond`, what is left beyond them; `failed`, the runs without a
result; `place`, the layer among the published ones; `shared`, what the layers ahead of it have in common. A part
without a rule that fires is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

SOLVED = 0.95  # of the primary metric: a seed that reaches it has solved the row
HOLDS, FAILS = 0.9, 0.25  # of the scaled score beyond training: from here on it holds, up to here it fails
CHANCE = 0.05  # scaled: up to here a layer has learned nothing
HALF = 0.5
PARTS = ("level", "beyond", "failed", "place", "shared")
MOST_NAMED = 3


@dataclass(frozen=True)
class Facts:
    """What the sentence of a row rests on.

    says: the row, as a noun.  raw: the primary metric of each finished run.  within, beyond: scaled means over those
    that did not diverge; beyond is None where none of them has a score there.  diverged: how many runs did.  failed:
    how many have no result.  lack_beyond: how many have no score beyond training.  ahead: the published layers that
    score higher.  behind: those that score lower.  same: those to which no difference is shown.  nearest: one of all
    these.  shared: a trait of all that are ahead.  is_exact: no other ranked layer has it.  is_text: the row is real
    text, which nothing solves.
    """

    says: str
    raw: tuple[float, ...]
    within: float
    beyond: float | None = None
    diverged: int = 0
    failed: int = 0
    lack_beyond: int = 0
    ahead: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    nearest: str = ""
    shared: str = ""
    is_exact: bool = False
    is_text: bool = False

    @property
    def solved(self) -> int:
        """The seeds that have solved the row."""
        return sum(value >= SOLVED for value in self.raw)

    @property
    def ranked(self) -> int:
        """The published layers that it is compared with."""
        return len(self.ahead) + len(self.behind) + len(self.same)


@dataclass(frozen=True)
class Rule:
    """name: for tests and documentation.  part: of PARTS.  fires: over the facts.  words: what is then said."""

    name: str
    part: str
    fires: Callable[[Facts], bool]
    words: Callable[[Facts], str]


def _diverged_in_part(facts: Facts) -> str:
    n = len(facts.raw)
    found = f"diverges on {facts.says} in {facts.diverged} of {n} runs"
    if facts.solved:
        return f"{found} and solves it in {facts.solved}"
    rest = "other" if n - facts.diverged == 1 else "others"
    return f"{found} and reaches {facts.within:.2f} of the way from chance to perfect in the {rest}"


def _lacks_beyond(facts: Facts) -> str:
    finished = len(facts.raw) - facts.diverged
    some = "" if facts.lack_beyond == finished else f" in {facts.lack_beyond} of {finished} runs"
    return f"has no score beyond its training length{some}"


def _level_in_part(facts: Facts) -> str:
    how = "most" if facts.within >= HALF else "little"
    return f"learns {how} of {facts.says} ({facts.within:.2f} of the way from chance to perfect)"


def _has_learned(facts: Facts) -> bool:
    return facts.beyond is not None and facts.within >= HALF


def _like(facts: Facts) -> str:
    """' like gla', where the nearest layer is one to which no difference is shown."""
    if facts.nearest not in facts.same:
        return ""
    others = len(facts.same) - 1
    more = f" and {others} other{'s' * (others > 1)}" if others else ""
    return f"like {facts.nearest}{more}"


def _named(labels: Sequence[str]) -> str:
    """'mamba and gru', or '7 layers' where there are many."""
    if len(labels) > MOST_NAMED:
        return f"{len(labels)} published layers"
    return " and ".join(filter(None, (", ".join(labels[:-1]), *labels[-1:])))


def _all(facts: Facts, many: str = "all") -> str:
    """'all 13 published layers', or 'the one published layer that is ranked'."""
    if facts.ranked == 1:
        return "the one published layer that is ranked"
    return f"{many} {facts.ranked} published layers"


def _between(facts: Facts) -> str:
    ends = f"ahead of {_named(facts.behind)}, behind {_named(facts.ahead)}"
    return ", ".join(filter(None, (_like(facts), ends)))


def _behind_some(facts: Facts) -> str:
    return ", ".join(filter(None, (_like(facts), f"behind {_named(facts.ahead)}")))


def _ahead_of_some(facts: Facts) -> str:
    return ", ".join(filter(None, (_like(facts), f"ahead of {_named(facts.behind)}")))


RULES: tuple[Rule, ...] = (
    Rule(
        "every run diverged",
        "level",
        lambda f: f.diverged == len(f.raw),
        lambda f: f"diverges on {f.says} in every run",
    ),
    Rule("some runs diverged", "level", lambda f: f.diverged > 0, _diverged_in_part),
    Rule(
        "real text",
        "level",
        lambda f: f.is_text,
        lambda f: f"predicts {100 * sum(f.raw) / len(f.raw):.1f} % of {f.says}",
    ),
    Rule("solved", "level", lambda f: f.solved == len(f.raw), lambda f: f"solves {f.says}"),
    Rule(
        "solved by some seeds",
        "level",
        lambda f: 0 < f.solved < len(f.raw),
        lambda f: f"solves {f.says} in {f.solved} of {len(f.raw)} runs",
    ),
    Rule("at chance", "level", lambda f: f.within <= CHANCE, lambda f: f"does not learn {f.says}"),
    Rule("learned in part", "level", lambda f: True, _level_in_part),
    Rule("no score beyond", "beyond", lambda f: f.lack_beyond > 0, _lacks_beyond),
    Rule(
        "holds beyond",
        "beyond",
        lambda f: _has_learned(f) and f.beyond >= HOLDS,
        lambda f: "holds beyond its training length",
    ),
    Rule(
        "fails beyond",
        "beyond",
        lambda f: _has_learned(f) and f.beyond <= FAILS,
        lambda f: "fails beyond its training length",
    ),
    Rule(
        "loses beyond",
        "beyond",
        _has_learned,
        lambda f: f"keeps {f.beyond:.2f} of the way from chance to perfect beyond its training length",
    ),
    Rule(
        "some runs failed",
        "failed",
        lambda f: f.failed > 0,
        lambda f: f"without a result in {f.failed} of {f.failed + len(f.raw)} runs",
    ),
    Rule("nothing to rank with", "place", lambda f: not f.ranked, lambda f: "no published layer is ranked here"),
    Rule(
        "ahead of all",
        "place",
        lambda f: len(f.behind) == f.ranked,
        lambda f: f"ahead of {_all(f)}",
    ),
    Rule(
        "behind all",
        "place",
        lambda f: len(f.ahead) == f.ranked,
        lambda f: f"behind {_all(f)}",
    ),
    Rule(
        "no difference to any",
        "place",
        lambda f: len(f.same) == f.ranked,
        lambda f: f"no difference to {_all(f, 'any of the')} is shown",
    ),
    Rule("some ahead, none behind", "place", lambda f: not f.behind, _behind_some),
    Rule("some behind, none ahead", "place", lambda f: not f.ahead, _ahead_of_some),
    Rule("between", "place", lambda f: True, _between),
    Rule(
        "needed",
        "shared",
        lambda f: bool(f.shared) and f.is_exact,
        lambda f: f"of the ranked layers, exactly those ahead of it have {f.shared}",
    ),
    Rule("shared", "shared", lambda f: bool(f.shared), lambda f: f"every layer ahead of it has {f.shared}"),
)


def fired(facts: Facts) -> dict[str, Rule]:
    """{part: the first of its rules that fires}, in the order of PARTS."""
    found: dict[str, Rule] = {}
    for rule in RULES:
        if rule.part not in found and rule.fires(facts):
            found[rule.part] = rule
    return {part: found[part] for part in PARTS if part in found}


def sentence(facts: Facts) -> str:
    """The sentence of a row. It begins in lower case, because it follows the name of the layer."""
    words = {part: rule.words(facts) for part, rule in fired(facts).items()}
    first = ", ".join(words[part] for part in ("level", "beyond", "failed") if part in words)
    return "; ".join([first, *(words[part] for part in ("place", "shared") if part in words)])


def overall(rows: Sequence[Facts], counted: int, nearest: str, distance: float | None) -> str:
    """The sentence above the rows: how many are solved, and which published layer is nearest over all.

    rows: those that count and have a score.  counted: how many rows of the suite count.
    """
    if not rows:
        return f"has no score on any of the {counted} rows that count"
    solved = sum(not f.is_text and f.solved == len(f.raw) for f in rows)
    solvable = sum(not f.is_text for f in rows)
    where = "all rows" if len(rows) == counted else f"the {len(rows)} of {counted} rows that have a score"
    found = f"solves {solved} of {solvable} rows"
    if not nearest:
        return f"{found}; no published layer is ranked on {where}"
    return f"{found}; over {where} it is nearest to {nearest} (root mean square difference {distance:.2f})"

"""Notes: plain sentences that belong to a run's result because they limit what it says.

    document["notes"] = notes_of(document)      # a list of sentences, often empty

There is a note where the validation loss was still falling at the end, where a length of --eval_lengths has no score,
where the learning rate is at the edge of those tried, where --stop_at ended the training, and where something that is
measured beside the scores has failed. A run by tokens has a note where its vocabulary is smaller than asked for, and
one about the baselines that it lacks. docs/method.md states the rules. Everything is read from the content of
metrics.json.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

LEAST_FALL = 0.01  # nats per scored character. A solved task whose loss goes from .002 to .001 is not worth a note
LEAST_SHARE = 0.02  # of the loss before
LEAST_ERRORS = 3.0  # standard errors of the difference
MOST_LISTED = 6  # lengths that are listed one by one


def notes_of(document: dict) -> list[str]:
    """The notes of a run. document: the content of metrics.json, without its notes."""
    found = [_stopped(document), _still_falling(document), *_lengths_without_score(document), _edge_of_rates(document)]
    found += [_fewer_tokens(document), _without_ngrams(document)]
    found += [f"{name} {why}" for name, why in document.get("failed", {}).items()]
    return [note for note in found if note]


def _fewer_tokens(document: dict) -> str:
    asked, found = document["args"].get("vocab_size"), document["data"]["vocab_size"]
    if document["args"].get("tokenizer") != "bpe" or not asked or found >= asked:
        return ""
    return (
        f"the vocabulary has {found:,} of the {asked:,} tokens asked for: no further pair comes twice in the training "
        "text"
    )


def _without_ngrams(document: dict) -> str:
    if document["data"].get("unit", "character") == "character":
        return ""
    return "no n-gram baselines: they predict characters, and this run predicts tokens; a run by characters has them"


def no_score(reasons: dict[int, str]) -> list[str]:
    """One sentence per reason about the lengths without a score, and what to do where a table is too short.

    reasons: {length: why it has no score, or "" where it has one}.
    """
    lengths = defaultdict(list)
    for length, why in reasons.items():
        if why:
            lengths[why].append(length)
    advice = "; --pos rope, alibi, sinusoidal or none has no table"
    return [f"no score at {listed(n)}: {why}{advice * ('position table' in why)}" for why, n in lengths.items()]


def listed(lengths: Iterable[int]) -> str:
    """'length 48', 'lengths 48, 96', or '41 to 500 (460 lengths)' where there are many."""
    lengths = sorted(lengths)
    if len(lengths) > MOST_LISTED:
        return f"{lengths[0]} to {lengths[-1]} ({len(lengths)} lengths)"
    return f"length{'s' * (len(lengths) > 1)} " + ", ".join(map(str, lengths))


def last_fall(points: list) -> tuple[float, float, float] | None:
    """How much a loss curve fell at the end of a run: (mean before, mean at the end, standard error of the difference).

    points: (step, loss) pairs.  "At the end" is the last quarter of the steps, "before" is the quarter before it. The
    noise of one point is taken from the median size of second differences of the last four fifths, which a steady fall
    leaves at zero. None where a quarter has fewer than two points.
    """
    steps = points[-1][0] if points else 0
    before = [loss for step, loss in points if 0.5 * steps < step <= 0.75 * steps]
    end = [loss for step, loss in points if step > 0.75 * steps]
    if min(len(before), len(end)) < 2:
        return None
    late = [loss for step, loss in points if step > 0.2 * steps]
    bends = [abs(a - 2 * b + c) for a, b, c in zip(late, late[1:], late[2:], strict=False)]
    # a - 2 b + c of independent points has sqrt(6) times their standard deviation, and the median of its size is .6745
    # of that.
    noise = statistics.median(bends) / (0.6745 * 6**0.5)
    return statistics.fmean(before), statistics.fmean(end), noise * (1 / len(before) + 1 / len(end)) ** 0.5


def is_still_falling(points: list) -> bool:
    """Whether a validation curve still falls: by LEAST_FALL, by LEAST_SHARE of itself, and by LEAST_ERRORS."""
    fall = last_fall(points)
    if fall is None:
        return False
    before, end, error = fall
    return before - end > max(LEAST_FALL, LEAST_SHARE * before, LEAST_ERRORS * error)


def _still_falling(document: dict) -> str:
    points = document["loss_curve"]["val"]
    if document["status"] != "done" or document.get("stopped_at") is not None or not is_still_falling(points):
        return ""
    before, end, _ = last_fall(points)
    return (
        f"the validation loss was still falling: {before:.3g} in the third quarter of the run, {end:.3g} in the last; "
        "more steps may score higher"
    )


def _stopped(document: dict) -> str:
    if document.get("stopped_at") is None:
        return ""
    args = document["args"]
    after = args.get("stop_after", 1)  # older runs stopped at the first one
    times = "" if after == 1 else f" {after} times in a row"
    return (
        f"training stopped at step {document['stopped_at']}, solved: the validation {document['primary']} was at least "
        f"--stop_at {args['stop_at']:g}{times}"
    )


def _lengths_without_score(document: dict) -> list[str]:
    rows = document["length_curve"]
    return no_score({row["length"]: row["undefined"] or "no value" for row in rows if row["value"] is None})


def _edge_of_rates(document: dict) -> str:
    rate, tried = document["args"].get("lr"), document["args"].get("lr_tried") or ()
    if not tried or min(tried) < rate < max(tried):
        return ""
    if len(set(tried)) == 1:
        return f"learning rate {rate:g} is the only one tried; another may be better"
    size, other = ("largest", "larger") if rate == max(tried) else ("smallest", "smaller")
    all_tried = ", ".join(f"{value:g}" for value in sorted(set(tried)))
    return f"learning rate {rate:g} is the {size} of those tried ({all_tried}); a {other} one may be better"

"""The lines that a run prints at its end.

    test hit_rate 1.0000 [0.998, 1.000] (95 %, test sampling, 2,000 sequences)   loss 0.001462   token_acc 1 ...
    scaled 1.000   chance: uniform < 0.001  unigram 0   ceiling 1

It reads the document of metrics.json only, so it can describe a stored run too.
"""

from __future__ import annotations

from src.storage.metric_names import unit_of
from src.storage.notes import listed

MOST_LENGTHS = 10  # lines of lengths in a summary
SMALLEST = 1e-3  # a smaller chance level is not worth its digits
NOT_SHOWN = {"bpc", "ppl", "exact_match", "n_examples", "n_scored", "intervals", "slices"}


def summary(document: dict) -> str:
    """The summary of a run. document: the content of metrics.json."""
    lines = [_score_line(document), _scaled_line(document), *_solved_lines(document)]
    lines += [*_length_lines(document), *_preset_lines(document)]
    lines += [f"note: {note}" for note in document.get("notes", [])]
    for split, names in document["data"]["left_out"].items():
        if names:
            lines.append(f"left out of {split}, too few distinct examples: {', '.join(names)}")
    unequal = document.get("fair_differences")
    if unequal is not None:
        lines.append(f"--fair leaves these differences: {'; '.join(unequal) or 'none'}")
    return "\n".join([*lines, _cost_line(document)])


def _score_line(document: dict) -> str:
    """The primary metric with its interval, then the loss, the token accuracy and the metrics of the task's own."""
    name, final = document["primary"], document["final_test"]
    if final is None:
        return f"diverged at step {document['diverged_at']}; the run scores its chance level"
    low, high = final["intervals"][name]
    interval = f" [{low:.3f}, {high:.3f}] (95 %, {final['interval_of']}, {_units(final['interval_basis'][name])})"
    others = [f"{k} {v:.4g}" for k, v in final.items() if isinstance(v, float) and k != name and k not in NOT_SHOWN]
    return f"test {name} {final[name]:.4f}{interval}   {'   '.join(others)}"


def _units(basis: dict) -> str:
    """'2,000 sequences', or '30 blocks of text'."""
    first, *rest = basis["unit"].split(" ", 1)
    return " ".join([f"{basis['units']:,}", first if basis["units"] == 1 else f"{first}s", *rest])


def _scaled_line(document: dict) -> str:
    """The scaled score and what it is measured with: chance levels, ceiling, and simple methods."""
    chance = "  ".join(f"{name} {_small(level['primary'])}" for name, level in document["floors"].items())
    baselines = "  ".join(f"{name} {value:.3g}" for name, value in document["baselines"].items())
    scaled = round(document["scaled"], 3) + 0.0  # no minus before a zero
    line = f"scaled {scaled:.3f}   chance: {chance}   ceiling {document['ceiling']:.3g}"
    return f"{line}   baselines: {baselines}" if baselines else line


def _solved_lines(document: dict) -> list[str]:
    """The first validation that reached --solved_at, where there was one."""
    solved = document.get("solved_at") or {"step": None}
    if solved["step"] is None:
        return []
    return [f"solved at step {solved['step']} (val {document['primary']} >= {solved['threshold']:g})"]


def _small(value: float) -> str:
    return f"< {SMALLEST:g}" if 0 < value < SMALLEST else f"{value:.3g}"


def _length_lines(document: dict) -> list[str]:
    """One line per length beyond those of training; for a language task, per window size other than in training."""
    is_language, lines = document["kind"] == "language", []
    shown = [
        row
        for row in document["length_curve"]
        if not (row["length"] == document["args"]["context_len"] if is_language else row["in_distribution"])
    ]
    for row in _some(shown):
        if row["value"] is None:
            lines.append(f"length {row['length']}: undefined ({row['undefined']})")
            continue
        loss = f"   loss {row['loss']:.4g}" if is_language and row["loss"] is not None else ""
        lines.append(f"length {row['length']}: {row['value']:.4f}{loss}")
    return [*lines, *_mean_lines(document)]


def _some(rows: list[dict]) -> list[dict]:
    """At most MOST_LENGTHS of the rows, evenly chosen with both ends."""
    if len(rows) <= MOST_LENGTHS:
        return rows
    return [rows[round(i * (len(rows) - 1) / (MOST_LENGTHS - 1))] for i in range(MOST_LENGTHS)]


def _mean_lines(document: dict) -> list[str]:
    """The mean over --eval_lengths, where there are several."""
    mean = document.get("length_mean")
    if mean is None or len(mean["lengths"]) < 2:
        return []
    where = f"mean over {listed(mean['lengths'])}"
    if mean["value"] is None:
        return [f"{where}: undefined, because not every length has a value"]
    low, high = mean["ci"] or (None, None)
    interval = "" if low is None else f" [{low:.4f}, {high:.4f}]"
    return [f"{where}: {mean['value']:.4f}{interval}   scaled {mean['scaled']:.4f}"]


def _preset_lines(document: dict) -> list[str]:
    """Of a preset with the name of a paper: the published numbers, what to compare them with, and what differs."""
    preset = document.get("preset") or {"published": ""}
    if not preset["published"]:
        return []
    lines = [f"published ({preset['source']}): {preset['published']}", f"  compare: {preset['compare']}"]
    lines += [f"  differs: {difference}" for difference in preset["differences"]]
    if preset["changed"]:
        typed = " ".join(f"--{name} {_typed(value)}" for name, value in preset["changed"].items())
        lines.append(f"  changed from --preset {preset['name']}: {typed}")
    return lines


def _typed(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _cost_line(document: dict) -> str:
    n, machine = document["parameters"], document["machine"]
    layers = "" if n.get("layers") is None else f", {n['layers']:,} outside embeddings and head"
    return (
        f"{n['total']:,} parameters ({n['embedding']:,} of them embedding{layers})   {document['steps']} steps   "
        f"{document['chars_seen']:,} {unit_of(document)}s   "
        f"{machine['train_seconds']:.0f} s training, {machine['command_seconds']:.0f} s in all"
    )

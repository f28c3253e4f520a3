"""What `study` shows: the verdicts as lines, tables.md, and the figures of the panels.

    draw(history, record)               # figures/ and tables.md in the study's folder; the paths written
    print("\n".join(lines(history)))    # tables of the panels, then the verdicts

history: what history.json holds: settings, claims, trainings, rows, models, fits, crossovers and winners.
Nothing here imports torch, so that `--vis_only` can use it too.
"""

from __future__ import annotations

from pathlib import Path

from src.figures import speed as speed_figures
from src.measure.speed.analysis import tables
from src.measure.speed.panels import looks
from src.stats.intervals import INTERVAL_OF
from src.storage.files import write_atomic
from src.study import claims as all_claims
from src.study.claims import heading


def draw(history: dict, record) -> list[Path]:
    """Write the figures of the panels and tables.md; return their paths."""
    rows = of_panels(history["rows"])
    paths = speed_figures.draw_all({**history, "rows": rows}, record.figures, looks())
    table = record.path / "tables.md"
    text = markdown(history["claims"], history["trainings"], tables(rows, history), title(history["settings"]))
    write_atomic(table, text.encode())
    return [*paths, table]


def lines(history: dict) -> list[str]:
    """What the command prints at its end."""
    return [*tables(of_panels(history["rows"]), history), title(history["settings"]), "", *verdicts(history["claims"])]


def title(settings: dict) -> str:
    """'transformer, gla: 800 steps per training, seed 1337, fp32 on cpu, 2 threads'."""
    words = f"{', '.join(settings['models'])}: {settings['train_steps']:,} steps per training, seed {settings['seed']}"
    threads = f"{settings['threads']} thread{'' if settings['threads'] == 1 else 's'}"
    return f"{words}, {settings['precision']} on {settings['device']}, {threads}"


def of_panels(rows) -> list[dict]:
    """The rows of the panels, out of all rows of a study."""
    return [r for r in rows if r["kind"] == "speed" and r["panel"] not in ("claims", "parts")]


def verdicts(claims: list[dict]) -> list[str]:
    """Lines to print: each question, and below it one line per model."""
    lines: list[str] = []
    width = max((len(c["model"]) for c in claims), default=0) + 2
    for claim in all_claims.CLAIMS:
        mine = [c for c in claims if c["claim"] == claim.key]
        if mine:
            lines += [f"{heading(mine[0])}?", *(f"  {c['model']:<{width}}{c['verdict']:<11}{c['words']}" for c in mine)]
    return [*lines, ""]


def markdown(claims: list[dict], trainings: list[dict], panel_lines: list[str], title: str) -> str:
    """tables.md: the verdicts, the trainings, and the tables of the panels as they are printed."""
    lines = [f"# {title}", "", "| claim | model | verdict | measured |", "|---|---|---|---|"]
    lines += [f"| {heading(c)} | {c['model']} | {c['verdict']} | {_cell(c['words'])} |" for c in claims]
    lines += [
        "",
        f"| training | model | parameters | steps | metric | value | 95 % interval, {INTERVAL_OF} |",
        "|---|---|---|---|---|---|---|",
    ]
    for t in trainings:
        value = "-" if t["value"] is None else f"{t['value']:.4f}"
        interval = "-" if t["low"] is None else f"{t['low']:.4f} to {t['high']:.4f}"
        told = _cell(t["why"]) or t["status"] if t["status"] != "done" else t["metric"]
        lines.append(
            f"| {t['task']} | {t['model']} | {t['parameters']:,} | {t['steps']:,} | {told} | {value} | {interval} |"
        )
    return "\n".join([*lines, "", "```", *panel_lines, "```", ""])


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")

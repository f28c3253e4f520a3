"""Where the numbers come from: folders, commits, machines, seeds and digests, and the commands that make them again."""

from __future__ import annotations

from src.study.page import numbers as n
from src.study.page.blocks import WARN, Column, Commands, Entry, Section, Table
from src.study.page.evidence import Document, Origin, label

DIGEST = 12  # characters of a digest
MOST_RUNS = 2_000
MOST_COMMANDS = 50


def build(document: Document) -> list:
    blocks: list = [_commands(document), _folders(document)]
    return [*blocks, _runs(document)] if document.runs else blocks


def _commands(document: Document) -> Commands:
    lines = list(dict.fromkeys(source.command for source in document.sources if source.command))
    if len(lines) > MOST_COMMANDS:
        lines = [*lines[:MOST_COMMANDS], f"# {len(lines) - MOST_COMMANDS} further commands: see the table of runs"]
    return Commands("Make it again", tuple(lines))


def _folders(document: Document) -> Table:
    columns = tuple(Column(name) for name in ("folder", "made by", "commit", "machine", "threads", "versions"))
    rows = tuple(
        (source.folder, source.kind, *_origin(source.origin or _first(document, source.folder)))
        for source in document.sources
    )
    return Table("folders", "Folders", columns, rows, is_result=False)


def _first(document: Document, folder: str) -> Origin:
    """The origin of the first run below a folder that does not tell its own."""
    return next((run.origin for run in document.runs if run.folder.startswith(folder)), Origin())


def _origin(origin: Origin) -> tuple:
    dirty = {True: ", with changes (dirty)", False: "", None: ""}[origin.dirty]
    cores = "" if origin.cores is None else f", {n.counted(origin.cores, 'core')}"
    return (
        Entry(f"{origin.commit[:DIGEST] or n.MISSING}{dirty}", None, WARN if origin.dirty else ""),
        f"{origin.device or n.MISSING}{cores}{'; ' if origin.platform else ''}{origin.platform}",
        n.MISSING if origin.threads is None else str(origin.threads),
        ", ".join(" ".join(pair) for pair in origin.versions) or n.MISSING,
    )


def _runs(document: Document) -> Table:
    """Every run with its seed, its learning rate and its digests."""
    columns = (
        *(Column(name) for name in ("run", "model", "task", "role", "status")),
        *(Column(name, "number") for name in ("seed", "learning rate", "score")),
        *(Column(name) for name in ("data", "code", "result")),
    )
    rows = tuple(
        (
            run.name,
            label(run.key),
            run.task,
            run.role,
            Entry(run.status, None, "" if run.status == "done" else WARN),
            Entry(n.MISSING if run.seed is None else str(run.seed), run.seed),
            Entry(n.MISSING if run.lr is None else f"{run.lr:g}", run.lr),
            Entry(n.score(run.value, run.low, run.high), run.value),
            *(digest[:DIGEST] or n.MISSING for digest in (run.data_digest, run.code_digest, run.result_digest)),
        )
        for run in document.runs[:MOST_RUNS]
    )
    note = (
        "Intervals of test sampling. Digests: the first digits of the SHA-256 of the data, of the user's own layer "
        "file and of the result."
    )
    caption = f"Runs ({len(document.runs):,})"
    return Table("runs", caption, columns, rows, note, folded=len(rows) > 12, is_result=False)


PROVENANCE = Section("provenance", "Where it comes from", build, "no folder was given")

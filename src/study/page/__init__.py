"""`report`: one self-contained HTML page about any mixture of runs, comparisons, studies and records of `speed`.

    path = write_report(["runs/S", "runs/20250101-120000"])         # runs/S/report.html
    print(markdown(read(["runs/S"])))

reading.py makes one `Document` from the folders, each section (sections/) makes blocks from it, html.py draws them. The
page asks the network for nothing, and its bytes depend on the folders alone. Nothing here imports torch.
"""

from __future__ import annotations

from pathlib import Path

from src.flags.fields import UserError
from src.storage.files import probe_for, unwritable, write_atomic
from src.study.page.evidence import Document
from src.study.page.html import MARK, render
from src.study.page.reading import read

__all__ = ["check_target", "read", "target_of", "write_page", "write_report"]

NAME = "report.html"


def write_report(folders, out: str = "") -> Path:
    """Write the page about these folders and return its path: `out`, or report.html in the first folder.

    Raises UserError, and writes nothing, for a folder that cannot be read and for a path that cannot be written.
    """
    target = target_of(folders, out)
    check_target(target)
    return write_page(read(folders), target)


def target_of(folders, out: str = "") -> Path:
    """The path of the page."""
    return Path(out) if out else Path(folders[0]) / NAME


def check_target(target: Path) -> None:
    """UserError for a path that is a folder, cannot be written, or holds a file that is no page of this program."""
    if target.is_dir():
        raise UserError(f"--out: got '{target}', which is a folder, allowed: the path of an HTML file")
    if target.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out: got '{target}', allowed: a path that ends with .html")
    if target.is_file() and MARK.encode() not in target.read_bytes()[:2_000]:
        raise UserError(f"--out: '{target}' is a file that `report` did not write; choose another path")
    try:
        probe_for(target.parent)
    except OSError as error:
        raise unwritable(target.parent, error, "--out") from error


def write_page(document: Document, target: Path) -> Path:
    """Write the page, whole or not at all."""
    data = render(document).encode("utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, data)
    return target

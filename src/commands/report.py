"""`benchmark.py report FOLDER [FOLDER ...]`: one HTML page about runs, comparisons, studies and records of `speed`.

    python benchmark.py report runs/S
    python benchmark.py report runs/R runs/S --out compared.html
    python benchmark.py report runs/S --markdown

The page is one file that opens from a mail attachment: it loads nothing, and it works in light and dark, in print and
on a phone. It has the answer in up to three sentences, the scoreboard, each task, learning rates, cost, the result of
the gate, what all this does not show, and the commands that make it again. A section with nothing to say is left out,
and named.

The default file is report.html in the first folder. The last line that is printed is its path.
--markdown and --latex print tables instead, and write no page.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from src.flags.fields import UserError, option
from src.flags.parser import Parser, add_flags, config_of, read_flags


@dataclass(frozen=True)
class ReportConfig:
    """flags"""

    out: str = option("", "path of the page, ending with .html; default report.html in the first folder")
    markdown: bool = option(False, "print the answer and the tables as Markdown, and write no page")
    latex: bool = option(False, "print the scoreboard and the terms as LaTeX (booktabs), and write no page")
    quiet: bool = option(False, "no answer and no notices, only the path of the page")


def main(argv: list[str]) -> int:
    """Read the folders, write the page or print the tables. Wrong input is found before anything is written."""
    parser = Parser(prog="benchmark.py report", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", nargs="*", help="of a run, `compare`, `study` or `speed`")
    add_flags(parser, ReportConfig, ReportConfig.__doc__)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    namespace = parser.parse_strict(argv)
    folders = namespace.__dict__.pop("folders")
    return report(folders, config_of(ReportConfig, read_flags(namespace, [ReportConfig])))


def report(folders: list[str], config: ReportConfig) -> int:
    """The work of the command."""
    from src.study import page
    from src.study.page.html import sentences
    from src.study.page.plain import latex, markdown

    if not folders:
        raise UserError("report: got no folder, allowed: those of runs, `compare`, `study` or `speed`, at least one")
    if config.markdown and config.latex:
        raise UserError("--markdown and --latex contradict each other; give one")
    if config.out and (config.markdown or config.latex):
        raise UserError("--out: is the path of the page, which --markdown and --latex do not write; leave it out")
    if config.markdown or config.latex:
        text = (markdown if config.markdown else latex)(page.read(folders))
        if not text:
            raise UserError("--latex: got no run with a score, allowed: at least one; --markdown shows other tables")
        print(text)
        return 0
    target = page.target_of(folders, config.out)
    page.check_target(target)
    document = page.read(folders)
    page.write_page(document, target)
    if not config.quiet:
        print("\n".join(sentences(document)))
        for hole in document.holes:
            print(f"notice: {hole.key[1]} on {hole.key[0]}, seed {hole.seed}: {hole.why}", file=sys.stderr)
    print(target)
    return 0

"""The text files of a folder and its subfolders: which are read, which are left out and why, and which are equal.

    found = find_texts(Path("corpus"), (".txt", ".jsonl"))
    found.files             in the order of their paths
    found.summary()         'read 12 files of 'corpus'; left out: 2 hidden (.git, a/.ipynb_checkpoints)'

Hidden files and folders (their names begin with a dot) are left out. Editors and version control keep copies there, and
a copy of a held-out text would be trained. Linked files and folders are followed, but nothing is read twice, so a
circle of links ends.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

MOST_NAMED = 3  # paths that a line names, of each kind


@dataclass
class Found:
    """What a folder holds.  files: to be read, in the order of their paths.  left_out: {why: paths}."""

    folder: Path
    files: list[Path] = field(default_factory=list)
    left_out: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))

    def summary(self) -> str:
        """How many files are read, and how many are left out and why, in one line."""
        kinds = [f"{len(paths)} {why} ({self.named(paths)})" for why, paths in self.left_out.items()]
        return f"read {count(len(self.files), 'file')} of '{self.folder}'; left out: {', '.join(kinds) or 'nothing'}"

    def named(self, paths: Iterable[Path], most: int = MOST_NAMED) -> str:
        """Some paths within the folder, and '...' where there are more."""
        paths = sorted(paths)
        more = ["..."] if len(paths) > most else []
        return ", ".join([path.relative_to(self.folder).as_posix() for path in paths[:most]] + more)


def find_texts(folder: Path, endings: tuple[str, ...]) -> Found:
    """The files of a folder and its subfolders that have one of these endings. Upper case counts as lower case.

    Raises OSError where the folder or a subfolder cannot be read.
    """
    found, read, linked_files = Found(folder), {}, []
    folders, linked_folders, seen = [folder], [], set()
    top = os.path.realpath(folder)
    while folders or linked_folders:
        linked_folders.sort(reverse=True)
        at = folders.pop() if folders else linked_folders.pop()  # links last: what lies in the folder keeps its path
        real = os.path.realpath(at)
        if real in seen or (at != folder and os.path.commonpath([top, real]) == real):
            found.left_out["linked and read already, or around this folder"].append(at)
            continue
        seen.add(real)
        for path in sorted(at.iterdir()):
            if path.name.startswith("."):
                found.left_out["hidden"].append(path)
            elif path.is_dir():
                (linked_folders if path.is_symlink() else folders).append(path)
            elif path.suffix.lower() not in endings:
                found.left_out[f"not {' or '.join(endings)}"].append(path)
            elif not path.is_file():
                found.left_out["no file, or a broken link"].append(path)
            elif path.is_symlink():
                linked_files.append(path)
            else:
                read[os.path.join(real, path.name)] = path
    for path in sorted(linked_files):
        if read.setdefault(os.path.realpath(path), path) != path:
            found.left_out["linked and read already"].append(path)
    found.files = sorted(read.values(), key=lambda path: path.relative_to(folder).parts)
    return found


def copies_line(found: Found, digests: dict[Path, str]) -> str:
    """A warning about files with equal content. Empty where there is none.  digests: of the content of each file."""
    groups = defaultdict(list)
    for path, digest in digests.items():
        groups[digest].append(path)
    equal = [paths for paths in groups.values() if len(paths) > 1]
    if not equal:
        return ""
    copies = sum(len(paths) - 1 for paths in equal)
    return (
        f"warning: {count(copies, 'file')} of '{found.folder}' {'is a copy' if copies == 1 else 'are copies'} of "
        f"another one ({found.named(equal[0])}); scores are too good where one copy is trained and another is held "
        "out; remove the copies"
    )


def count(n: int, what: str) -> str:
    """'1 file', '2 files'."""
    return f"{n:,} {what}{'s' * (n != 1)}"

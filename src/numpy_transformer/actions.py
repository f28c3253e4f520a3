"""What the three actions of `benchmark.py translate` do: prepare, train, run. Each returns the exit code.

flags: see TranslateConfig in src/commands/translate.py.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from src.figures.style import save
from src.flags.fields import UserError
from src.flags.hints import command
from src.numpy_transformer import prepare as preparing
from src.numpy_transformer import report
from src.numpy_transformer.arrays import read_arrays, write_arrays
from src.numpy_transformer.config import Config, load_config
from src.numpy_transformer.decoding import translate
from src.numpy_transformer.folder import TranslationRun, refuse_other
from src.numpy_transformer.loop import (
    Diverged,
    StopRequest,
    Training,
    build,
    load_parameters,
    settings_of,
    stored_settings,
)
from src.numpy_transformer.pairs import digest_of
from src.numpy_transformer.tokenization import decode, encode, tokenize, unknown

MOST_BYTES = 1 << 26  # of --file


def prepare(flags) -> int:
    """Read the pairs, then write vocabularies, ids and config.json into the run's folder."""
    config = load_config(flags.config)
    prepared, notes = preparing.prepare(config)
    run = TranslationRun.create(flags.out_dir or f"runs/{config.name}", overwrite=flags.overwrite)
    with run.lock():
        run.clean()
        preparing.store(run, prepared)
        run.begin(config, digest_of(config))
    for note in () if flags.quiet else notes:
        print(note, file=sys.stderr)
    print(run.path)
    return 0


def train(flags) -> int:
    """Train to the last step, or until Ctrl-C; then translate all pairs and write the results."""
    if flags.resume and flags.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one")
    config = load_config(flags.config)
    run = TranslationRun.of(config, flags.out_dir)
    if digest_of(config) not in (None, run.pairs_digest()):
        raise UserError(
            f"'{config.pairs_path()}' has changed since '{run.path}' was prepared; "
            "run `translate prepare` again with --overwrite"
        )
    training = Training(config, preparing.load(run, config))
    with run.lock():
        if _restored(run, training, flags):
            print(f"the training has already ended, at step {training.step}", file=sys.stderr)
            print(run.path)
            return 0
        run.clean()
        return _train(run, training, flags)


def _restored(run: TranslationRun, training: Training, flags) -> bool:
    """Bring the training to where the folder says that it is. True if nothing is left to do.

    UserError if there is a training and neither --resume nor --overwrite, or none and --resume.
    """
    if not run.checkpoint.exists():
        if flags.resume:
            raise UserError(f"--resume: '{run.checkpoint}' does not exist; leave the flag out to begin the training")
        return False
    if flags.overwrite:
        run.remove_training()
        return False
    if not flags.resume:
        raise UserError(f"'{run.path}' holds a training; go on with --resume, or replace it with --overwrite")
    training.restore(read_arrays(run.checkpoint), f"'{run.checkpoint}'")
    return training.step == training.steps and report.is_concluded(run)


def _train(run: TranslationRun, training: Training, flags) -> int:
    """The training itself and its results. The folder is locked."""
    began = time.perf_counter()

    def save_checkpoint() -> None:
        """Replace checkpoint.npz by the state of now."""
        write_arrays(run.checkpoint, training.state())

    def tell() -> None:
        """One line of progress."""
        if not flags.quiet:
            print(f"{training.words()}  {time.perf_counter() - began:.1f} s", file=sys.stderr)

    with StopRequest() as stop:
        try:
            finished = training.run(save_checkpoint, tell, stop)
        except Diverged as error:
            report.write_history(run, training, report.DIVERGED)
            print(
                f"error: the loss of step {error} is not finite; lower train.lr, or set train.grad_clip",
                file=sys.stderr,
            )
            print(run.path)
            return 3
        if not finished:
            report.write_history(run, training, report.INTERRUPTED)
            print(f"interrupted at step {training.step}; continue with: {_continuing(flags)}", file=sys.stderr)
            return 130
    lines = report.conclude(run, training)
    for line in () if flags.quiet else lines:
        print(line, file=sys.stderr)
    print(run.path)
    return 0


def _continuing(flags) -> str:
    """The command that goes on."""
    words = ["translate", "train", "--config", flags.config, "--resume"]
    words += ["--out_dir", flags.out_dir] if flags.out_dir else []
    words += ["--quiet"] if flags.quiet else []
    return command(*words)


def run(flags) -> int:
    """Print one translation per sentence of --text or --file. Words that are read as <unk> are named on stderr."""
    if bool(flags.text is not None) == bool(flags.file is not None):
        raise UserError("translate run: give either --text or --file")
    config = load_config(flags.config)
    sentences = _sentences(flags, config)
    figure = _figure_path(flags)
    folder = TranslationRun.of(config, flags.out_dir)
    source_vocab, target_vocab = folder.vocabularies()
    model = trained_model(folder, config, source_vocab, target_vocab)
    for where, text in sentences:
        if strange := unknown(text, source_vocab):
            print(f"note: {where}: not in the vocabulary, read as <unk>: {', '.join(strange)}", file=sys.stderr)
    sources = [encode(text, source_vocab) for _, text in sentences]
    for ids in translate(model, sources, config.data.max_len, flags.beam):
        print(decode(ids, target_vocab))
    if figure is not None:
        drawn = report.attention_of(model, sources[0], config.data.max_len, source_vocab, target_vocab, flags.beam)
        save(drawn, figure)
    return 0


def trained_model(folder: TranslationRun, config: Config, source_vocab: dict[str, int], target_vocab: dict[str, int]):
    """The model of the folder's checkpoint; UserError if there is none, or if it is of another configuration."""
    if not folder.checkpoint.exists():
        raise UserError(f"'{folder.path}' has no checkpoint; run `translate train` with the same configuration first")
    arrays, where = read_arrays(folder.checkpoint), f"'{folder.checkpoint}'"
    then, now = stored_settings(arrays, where), settings_of(config, source_vocab, target_vocab)
    parts = ("data", "model", "vocabularies")  # the optimisation may differ: it does not change how parameters are read
    refuse_other(*({p: s.get(p) for p in parts} for s in (then, now)), f"{where} is of a training with")
    model = build(config.model, source_vocab, target_vocab)
    load_parameters(model, arrays, where)
    return model


def _sentences(flags, config: Config) -> list[tuple[str, str]]:
    """(where it is from, sentence) of --text or --file; UserError for an empty sentence, and one that is too long."""
    if flags.text is not None:
        found = [("--text", flags.text)]
    else:
        lines = _lines(flags.file)
        found = [(f"--file, line {n}", line) for n, line in enumerate(lines, 1)]
    for where, text in found:
        tokens = len(tokenize(text))
        if not 1 <= tokens < config.data.max_len:
            raise UserError(
                f"{where}: got {tokens} words and marks, allowed: 1 .. {config.data.max_len - 1} "
                "(data.max_len has room for <eos> too)"
            )
    return found


def _lines(path: str) -> list[str]:
    """The lines of --file, without line breaks."""
    where = f"--file: got '{path}'"
    try:
        if Path(path).is_file() and Path(path).stat().st_size > MOST_BYTES:
            raise UserError(f"{where}, which is too large, allowed: at most {MOST_BYTES} bytes; split it")
        text = Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} is no UTF-8, allowed: a text file in UTF-8") from None
    except OSError as error:
        kinds = {FileNotFoundError: "no such file", IsADirectoryError: "which is a folder"}
        what = kinds.get(type(error), f"which cannot be read: {error.strerror}")
        raise UserError(f"{where}, {what}, allowed: a text file with one sentence per line") from None
    if not text.strip():
        raise UserError(f"{where}, which is empty, allowed: a text file with one sentence per line")
    return text.removesuffix("\n").split("\n")


def _figure_path(flags) -> Path | None:
    """Where --attention is drawn; None without it. UserError for a folder, another ending, and together with --file."""
    if flags.attention is None:
        return None
    path = Path(flags.attention)
    if flags.file is not None:
        raise UserError("--attention: draws one sentence, so it needs --text; leave it out with --file")
    if path.suffix != ".png" or path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--attention: got '{path}', allowed: a .png file in a folder that exists")
    return path

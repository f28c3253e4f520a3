"""What `speed` measures, planned and checked before the first file is written."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from src.flags.fields import UserError, option, suggest
from src.measure.speed.panels import PANELS, load

SHORTEST, LONGEST = 16, 1 << 20  # of --lengths, in tokens
DECODE_STEPS = 64  # rows of a learned position table after the longest prompt


@dataclass(frozen=True)
class SpeedConfig:
    """what is measured"""

    model: tuple[str, ...] = option(
        ("transformer", "mamba", "gla", "gated_deltanet"),
        "names from `list`, or paths to your own .py files; one with flags of its own in quotes: "
        '"deltanet --neg_eigen"',
    )
    labels: tuple[str, ...] = option(
        (), "names of the models in tables and figures, one for each; default: as in --model"
    )
    panel: tuple[str, ...] = option(tuple(PANELS), ", ".join(PANELS))
    lengths: tuple[int, ...] = option(
        (128, 256, 512, 1024, 2048, 4096, 8192), "tokens of a sequence; in decode the positions"
    )
    batch_tokens: int = option(8192, "train: tokens per optimiser step, at every length", least=SHORTEST, most=1 << 24)
    train_batch: int = option(
        0,
        "train: sequences per optimiser step, at every length; 0 = as --batch_tokens says",
        least=0,
        most=65536,
    )
    decode_batches: tuple[int, ...] = option((1, 32), "decode: sequences that are decoded together")
    sizes: tuple[str, ...] = option(("1M", "3M", "10M", "30M"), "scaling: parameters")
    scaling_len: int = option(512, "scaling: tokens of a sequence", least=SHORTEST, most=LONGEST)
    scaling_tokens: int = option(1024, "scaling: tokens per step", least=SHORTEST, most=1 << 24)
    cell_seconds: float = option(
        5.0, "seconds of repeats for one model at one point; at least 3 repeats are made", above=0.0, most=3600.0
    )

    def sizes_as_numbers(self) -> tuple[int, ...]:
        """--sizes as numbers of parameters, in increasing order."""
        from src.models.match import MOST, read_number

        numbers = {text: read_number(text) for text in self.sizes}
        for text, number in numbers.items():
            if number is None or not 1 <= number < MOST:
                raise UserError(f"--sizes: got '{text}', allowed: counts such as 250000, 250k or 1.5M")
        return tuple(sorted({round(number) for number in numbers.values()}))


def checked(config: SpeedConfig) -> SpeedConfig:
    """The config with its lists sorted and without repeats; UserError for a value that is not allowed."""
    for name in config.panel:
        if name not in PANELS:
            raise UserError(f"--panel: unknown panel '{name}', allowed: {', '.join(PANELS)}{suggest(name, PANELS)}")
    for flag, values, least, most in (
        ("lengths", config.lengths, SHORTEST, LONGEST),
        ("decode_batches", config.decode_batches, 1, 1 << 16),
    ):
        if not values:
            raise UserError(f"--{flag}: got none, allowed: at least one number")
        for value in values:
            if not least <= value <= most:
                raise UserError(f"--{flag}: got {value}, allowed: {least} to {most:,}")
    if not config.panel or not config.sizes:
        raise UserError(f"--{'sizes' if config.panel else 'panel'}: got none, allowed: at least one")
    config.sizes_as_numbers()
    if config.scaling_tokens < config.scaling_len:
        raise UserError(
            f"--scaling_tokens: got {config.scaling_tokens}, allowed: at least --scaling_len {config.scaling_len}"
        )
    return dataclasses.replace(
        config,
        panel=tuple(p for p in PANELS if p in config.panel),
        lengths=tuple(sorted(set(config.lengths))),
        decode_batches=tuple(sorted(set(config.decode_batches))),
    )


def build_subjects(config: SpeedConfig, entries, given: dict, device, backend: str):
    """({label: Subject}, {size: {label: Subject, or the reason why there is none}}, lines to print).

    entries: {label: Entry} of src/measure/speed/entries.py.  given: the typed flags of all models.
    Raises UserError for anything wrong.
    """
    from src.measure.speed.subjects import check_backends, check_positions, counts_of, make_subject, sized_subject

    check_positions(given.get("pos", "auto"), {label: e.model_class for label, e in entries.items()})
    max_len = max(*config.lengths, config.scaling_len) + DECODE_STEPS
    subjects, sized, lines = {}, {}, []

    def named(name: str):
        """The parameters of the model that --match_params names: one of these with flags of its own, or any other."""
        entry = entries.get(name)
        if entry is None or not entry.given:
            return counts_of(name, given, max_len, device)
        return counts_of(entry.model, {**given, **entry.given}, max_len, device, entry.model_class)

    for label, entry in entries.items():
        mine = {**given, **entry.given}
        match = mine.get("match_params", "")
        match = "" if entry.given and match == label else match  # it is the measure of the others
        with entry.blamed():
            subjects[label], solved = make_subject(
                label, entry.model, entry.model_class, mine, max_len, device, match, named
            )
        lines += [f"{label}: {line}" for line in solved]
    check_backends(backend, subjects.values())
    for size in config.sizes_as_numbers() if any(load(name).by_size for name in config.panel) else ():
        sized[size] = {}
        for label, entry in entries.items():
            mine, longest = {**given, **entry.given}, config.scaling_len + DECODE_STEPS
            try:
                sized[size][label] = sized_subject(label, entry.model, entry.model_class, mine, longest, device, size)
            except UserError as error:
                sized[size][label] = str(error)
    return subjects, sized, lines


def tried(subject, device, decodes: bool = True):
    """The subject with the backends that really run, its longest T, and remarks about its forms if it decodes.

    Raises UserError if a user's own file fails on its first tokens. Nothing has been written by then.
    """
    import torch

    from src.flags.registry import is_path
    from src.measure.speed.forms import with_remarks
    from src.measure.speed.observe import as_it_runs
    from src.measure.speed.subjects import VOCABULARY
    from src.models.state import refuse_opaque
    from src.setup.classes import blaming
    from src.setup.forms import check_forms

    with blaming("model", subject.model):
        if is_path(subject.model):
            model = subject.build(device).eval()
            subject = dataclasses.replace(subject, longest=model.max_len)
            x = torch.zeros(2, min(SHORTEST, model.max_len or SHORTEST), dtype=torch.long, device=device)
            check_forms(subject.model, model, x, VOCABULARY)
            refuse_opaque(model)
        subject = as_it_runs(subject, device)
        return with_remarks(subject, device) if decodes else subject


def resolve_threads(threads: int) -> int:
    from src.setup.plan import set_threads
    from src.utils.allocator import keep_freed_memory

    keep_freed_memory()  # as in a run; the children that measure memory come from a server that does not
    return set_threads(threads)


def digest(model: str) -> str:
    """The SHA-256 of a user's file and of the modules beside it that it loads; empty for other models.

    A changed file then does not continue old results.
    """
    from src.flags.own_files import absolute, code_of, digests
    from src.flags.registry import is_path
    from src.storage import files

    if not is_path(model):
        return ""
    found = digests(code_of(absolute(model)))
    return next(iter(found.values())) if len(found) == 1 else files.digest(found)

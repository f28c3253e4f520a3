"""`benchmark.py list`: what there is to choose from, one line per entry, without importing torch.

python benchmark.py list                    tasks, models, presets, backends
python benchmark.py list --presets          also what each preset sets, and the published numbers
python benchmark.py list --task needle      its docstring, flags, chance levels and three instances
python benchmark.py list --model gru        its docstring and flags (imports torch)
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path

from dataset import TASKS
from dataset.task import Task
from src.flags import registry
from src.flags.fields import own_config
from src.flags.parser import Parser, add_flags
from src.flags.presets import PRESETS
from src.flags.run_flags import config_parts, resolve
from src.models import MODELS
from src.setup.classes import blaming


def main(argv: list[str]) -> int:
    parser = Parser(prog="benchmark.py list", description=__doc__)
    parser.add_argument("--task", help="show one task whole")
    parser.add_argument("--model", help="show one model whole")
    parser.add_argument("--presets", action="store_true", help="presets only")
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    args = parser.parse_strict(argv)
    if args.task:
        show_task(args.task)
    if args.model:
        show_model(args.model)
    if not args.task and not args.model:
        if not args.presets:
            show_entries("tasks", TASKS)
            show_entries("models", MODELS)
        show_presets(whole=args.presets)
        if not args.presets:
            show_backends()
    return 0


def show_entries(title: str, entries: dict[str, registry.Entry]) -> None:
    print(f"{title}:")
    for name, entry in entries.items():
        print(f"  {name:<18}{entry.summary}  ({entry.source}){needs(entry)}")
    print()


def needs(entry: registry.Entry) -> str:
    """Which packages an entry needs, and whether they are installed; empty where it needs none."""
    if not entry.needs:
        return ""
    missing = entry.missing()
    state = f"not installed: {', '.join(missing)}" if missing else "installed"
    return f"  [needs {', '.join(entry.needs)}: {state}]"


def show_presets(whole: bool) -> None:
    """One line per preset.  whole: also its flags, the published numbers, and what differs from the source."""
    print("presets:")
    for name, preset in PRESETS.items():
        print(f"  {name:<22}{preset.summary}  ({preset.source})")
        if not whole or not preset.task:
            continue
        if preset.reduced:
            print(f"    reduced:    {preset.reduced}")
        print(f"    published:  {preset.published}")
        print(f"    compare:    {preset.compare}")
        for difference in preset.differences or ("in nothing that is known",):
            print(f"    differs:    {difference}")
        print(f"    sets:       --task {preset.task} {as_typed(preset.values)}")
        for model, values in preset.per_model.items():
            print(f"    {model + ':':<12}{as_typed(values)}")
        print()
    print()


def as_typed(values: dict) -> str:
    """Flags as they are typed."""
    return " ".join(f"--{k} {','.join(v) if isinstance(v, tuple) else v}" for k, v in values.items())


def show_backends() -> None:
    from src.ops.backends import describe

    print("backends (installed, not tried):")
    for line in describe():
        print(f"  {line}")


def show_task(name: str) -> None:
    """The docstring, flags, chance levels and three instances of a task. UserError where a user's file raises."""
    task_class = registry.find("task", TASKS, name, (Task,))
    print(inspect.getdoc(sys.modules[task_class.__module__]) or inspect.getdoc(task_class) or name)
    show_own_flags("task", task_class, name)
    with blaming("task", str(Path(name).resolve()) if registry.is_path(name) else name):
        show_data(task_class)


def show_data(task_class: type[Task]) -> None:
    """The chance levels of a task, and three instances or windows."""
    args = resolve(task_class)
    print("\ndefault run on a CPU (--preset small): " + " ".join(f"--{k} {v}" for k, v in task_class.small.items()))
    if getattr(task_class, "own_text", False):
        print(
            f"\nprimary metric: {task_class.primary}; chance: uniform = 1/(characters of the vocabulary, <unk> among "
            "them; tokens with --tokenizer), "
            "unigram (the most common training character)\n\nno windows to show: the text is the one that "
            "--data_path names"
        )
        return
    task = task_class(args)
    if task.reads_text:
        show_language(task)
        return
    from dataset.seeds import stream
    from dataset.splits import draw_heldout

    length = None if task.lengths is None else task.lengths[1]
    examples = draw_heldout(task, "test", 3, length, stream(task, "instances", 0))[0]
    print(
        f"\nchance: uniform = 1/{len(task.alphabet)} per character, unigram (the most common training character at "
        "that answer position)"
    )
    print(
        f"primary metric: {task.primary}\n\nthree instances{'' if length is None else f' of length {length}'}, "
        "prompt | answer:"
    )
    for e in examples:
        answer = e.answer or " ".join(f"{at}:{c}" for at, c in e.labels or ())
        print(f"  {e.prompt}|{answer}")


def show_language(task) -> None:
    text = task.text("test")
    print(f"\nsource: {task.source}, SHA-256 {task.digest}")
    print(
        f"primary metric: {task.primary}; chance: uniform = 1/{len(task.alphabet)}, unigram (the most common "
        "training character)"
    )
    print("\nthree windows:")
    for at in (0, len(text) // 3, 2 * len(text) // 3):
        print(f"  {text[at : at + 100]!r}")


def show_model(name: str) -> None:
    def bases():
        from src.models.contract import ARModel, Mixer

        return Mixer, ARModel

    model_class = registry.find("model", MODELS, name, bases)
    print(inspect.getdoc(sys.modules[model_class.__module__]) or name)
    show_own_flags("model", model_class, name)


def show_own_flags(kind: str, cls, name: str) -> None:
    config_parts(**{f"{kind}_class": cls})  # a flag that exists already
    config = own_config(cls)
    if config is None or not dataclasses.fields(config):
        print(f"\nflags of its own: none (the shared ones: --help --{kind} {name})")
        return
    parser = Parser(add_help=False, usage=" ")
    add_flags(parser, config, "flags of its own")
    print("\n" + parser.format_help().split("\n\n", 1)[-1].strip("\n"))

"""`benchmark.py generate --out_dir R`: text from a run's checkpoint.

    python benchmark.py generate --out_dir runs/<timestamp> --prompt "ROMEO:" --max_new_tokens 200
    python benchmark.py generate runs/<timestamp> --prompt "12+34=" --greedy
    python benchmark.py generate runs/<timestamp>       asks for prompts on a terminal, until an empty line or Ctrl-D

Answer tasks stop at <eos>. A language task continues the prompt as it is. An empty prompt stands for a newline, or for
the first character of the vocabulary where that has no newline. Only the continuation goes to stdout. A note on stderr
says when it is empty.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from src.flags.fields import UserError, option
from src.flags.groups import machine_flags
from src.flags.own_files import absolute
from src.flags.parser import Parser, add_flags, read_flags
from src.flags.registry import is_path

SEED = option(0, "seed of sampling", least=0, most=2**31 - 1)
PRECISION = option(
    "run",
    "run = that in which the run was trained; or another one",
    choices=("run", "auto", "fp32", "fp16", "bf16"),
)


@dataclass(frozen=True)
class GenerateConfig(machine_flags("device", precision=PRECISION, seed=SEED)):
    """generation"""

    prompt: str = option(
        "",
        "text to continue; without it, stdin is read: interactively on a terminal, else whole. Empty for a language "
        "task: a newline, or the vocabulary's first character if that has no newline",
    )
    max_new_tokens: int = option(
        0,
        "most characters (tokens) to write; 0 = 200, or what a learned position table has room for",
        least=0,
        most=1_000_000,
    )
    temperature: float = option(0.8, "softmax temperature; 0 is greedy", least=0.0, most=100.0)
    top_k: int = option(0, "sample among the k likeliest characters (tokens); 0 = all", least=0)
    top_p: float = option(1.0, "sample among the likeliest whose probability reaches p", above=0.0, most=1.0)
    greedy: bool = option(False, "always the likeliest character (token)")
    weights: str = option("best", "best: lowest validation loss; last: end of training", choices=("best", "last"))
    task: str = option("", "another version of the run's own task file")
    model: str = option("", "another version of the run's own model file")
    allow_code: bool = option(False, "if your own file is gone or has changed, run the copy in the run directory")
    out_dir: str = option("", "the run's directory", paths=True)


def main(argv: list[str]) -> int:
    parser = Parser(prog="benchmark.py generate", description=__doc__)
    parser.add_argument("run", nargs="?", help="the run's directory (or --out_dir)")
    add_flags(parser, GenerateConfig, "flags")
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    namespace = parser.parse_strict(argv)
    given = [*([namespace.run] if namespace.run else []), *namespace.__dict__.pop("out_dir", [])]
    has_prompt = hasattr(namespace, "prompt")
    config = GenerateConfig(**read_flags(namespace, [GenerateConfig]))
    unused = [f"--{name}" for name in ("temperature", "top_k", "top_p") if hasattr(namespace, name)]
    if config.greedy and unused:
        raise UserError(f"--greedy and {unused[0]} contradict each other; give one")
    if len(given) != 1:
        raise UserError(
            f"generate: got {len(given)} run directories, allowed: exactly one, as `generate R` or `generate "
            "--out_dir R`"
        )
    model, tokenizer, task, device, precision = load(given[0], config)
    if has_prompt:
        write(model, tokenizer, task, device, precision, config, config.prompt)
    elif sys.stdin.isatty():
        converse(model, tokenizer, task, device, precision, config)
    else:
        write(model, tokenizer, task, device, precision, config, read_stdin())
    return 0


def read_stdin() -> str:
    """All of stdin but the line break that `echo` adds. UserError when it is not text."""
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"stdin: not text in {error.encoding} (byte {error.start}), allowed: the prompt as text; or give it with "
            "--prompt"
        ) from None


def load(out_dir: str, config: GenerateConfig):
    """The trained model, its tokenizer, task, device and precision; sizes come from the run's own files."""
    from dataset.vocabulary import tokenizer_of
    from src.setup.code import Asked
    from src.setup.plan import build_model, set_threads
    from src.setup.stored import is_stored, load_checkpoint, load_weights, open_run
    from src.storage import env

    run = open_run(out_dir, Asked(config.allow_code, {"task": config.task, "model": config.model}))
    for name in ("task", "model"):
        value = getattr(config, name)
        if value and not is_stored(name, str(absolute(value)) if is_path(value) else value, run):
            raise UserError(
                f"--{name}: got {value}, but this run was started with {getattr(run.args, name)}; leave it out"
            )
    device = env.resolve_device(config.device)
    precision, _ = env.resolve_precision(run.args.precision if config.precision == "run" else config.precision, device)
    set_threads(1)  # one row's products are too small to share: two threads took three times as long
    path = run.run_dir.best if config.weights == "best" else run.run_dir.ckpt
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; train the run further with --resume")
    payload = load_checkpoint(run, path, device)
    tokenizer = tokenizer_of(payload["vocab"])
    task = run.task_class.without_data(run.args)
    model = build_model(run, tokenizer, task, device)
    load_weights(run, model, payload)
    return model.eval(), tokenizer, task, device, precision


def write(model, tokenizer, task, device, precision: str, config: GenerateConfig, prompt: str) -> None:
    """Print the continuation of one prompt."""
    import torch

    from src.utils.precision import autocast

    try:
        ids = torch.from_numpy(task.prompt_ids(prompt, tokenizer)).to(device)
    except UnicodeEncodeError as error:  # bytes that were no UTF-8 arrive as lone surrogates
        known = "the characters of the run's vocab.json" if tokenizer.unit == "character" else "any text in UTF-8"
        raise UserError(f"--prompt: character {error.start} is no text in UTF-8, allowed: {known}") from None
    room = 200 if model.max_len is None else model.max_len + 1 - ids.shape[1]  # the last token is written but not read
    new_tokens = config.max_new_tokens or min(200, room)
    if new_tokens < 1:
        got = len(prompt) if tokenizer.unit == "character" else ids.shape[1]
        raise UserError(
            f"--prompt: got {got} {tokenizer.unit}s, allowed: at most {got + room - 1}, because of {model.limit()}"
        )
    generator = torch.Generator(device=device).manual_seed(config.seed)
    try:
        with autocast(device, precision):
            new = model.generate(
                ids,
                new_tokens,
                temperature=0.0 if config.greedy else config.temperature,
                top_k=config.top_k or None,
                top_p=config.top_p if config.top_p < 1 else None,
                stop_id=tokenizer.eos,
                generator=generator,
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    text = tokenizer.decode(new[0].tolist())
    print(text)
    if not text:
        print("note: the model ends the text at once, so the continuation is empty", file=sys.stderr)


def converse(model, tokenizer, task, device, precision: str, config: GenerateConfig) -> None:
    """Prompts from a terminal until an empty line or its end; a wrong one is answered with its error."""
    print("one prompt per line; an empty line ends", file=sys.stderr)
    while True:
        if not sys.stdout.isatty():  # stdout is for the continuations; `input` would write its prompt there
            print("prompt> ", end="", file=sys.stderr, flush=True)
        try:
            prompt = input("prompt> " if sys.stdout.isatty() else "")
        except EOFError:
            print(file=sys.stderr)
            return
        if not prompt:
            return
        try:
            write(model, tokenizer, task, device, precision, config, prompt)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)

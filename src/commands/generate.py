"""`benchmark.py generate --out_dir R`: text from a run's checkpoint.

    python benchmark.py generate --out_dir runs/<timestamp> --prompt "ROMEO:" --max_new_tokens 200
    python benchmark.py generate runs/<timestamp> --prompt "12+34=" --greedy
    python benchmark.py generate runs/<timestamp>       asks for prompts on a terminal, until an empty line or Ctrl-D
    python benchmark.py generate runs/<timestamp> --prompts prompts.txt       several prompts at once
    python benchmark.py generate runs/<timestamp> --chat                      a conversation, with a run of task chat

Answer tasks stop at <eos>. A language task continues the prompt as it is. An empty prompt stands for a newline, or for
the first character of the vocabulary where that has no newline. Only the continuation goes to stdout. A note on stderr
says when it is empty.

`--chat` keeps the conversation: /reset forgets it, /quit ends, Ctrl-C stops an answer. With --prompt there is one
answer.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.flags.fields import UserError, option
from src.flags.groups import machine_flags
from src.flags.own_files import absolute
from src.flags.parser import Parser, add_flags, read_flags
from src.flags.registry import is_path

if TYPE_CHECKING:
    import torch

    from dataset.corpus.chat_format import ChatFormat
    from dataset.task import Task
    from dataset.tokenizer import Tokenizer
    from src.models.contract import ARModel
    from src.setup.stored import StoredRun
    from src.utils.conversation import Sampling

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
    prompts: str = option(
        "", "file of prompts, one per line, or .jsonl; their continuations are printed in the same order"
    )
    chat: bool = option(False, "answer as the assistant of a conversation, with a run that has a chat template")
    system: str = option("", "with --chat: the system message")
    chat_template: str = option("", "with --chat: another template than that of the run")
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
    allow_code: bool = option(
        False,
        "if your own file is gone, has changed, or is not known as one that you have run, run its copy in the run "
        "directory",
    )
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
    check_together(config, has_prompt)
    if len(given) != 1:
        raise UserError(
            f"generate: got {len(given)} run directories, allowed: exactly one, as `generate R` or `generate "
            "--out_dir R`"
        )
    loaded = load(given[0], config)
    if config.prompts:
        continue_file(loaded, config)
    elif config.chat:
        chat(loaded, config, has_prompt)
    elif has_prompt:
        write(loaded, config, config.prompt)
    elif sys.stdin.isatty():
        converse(loaded, config)
    else:
        write(loaded, config, read_stdin())
    return 0


def check_together(config: GenerateConfig, has_prompt: bool) -> None:
    """UserError for flags that contradict each other."""
    if config.prompts and has_prompt:
        raise UserError("--prompt and --prompts contradict each other; give one")
    for name in ("system", "chat_template"):
        if getattr(config, name) and not config.chat:
            raise UserError(f"--{name}: only goes with --chat; add it, or leave --{name} out")


def read_stdin() -> str:
    """All of stdin but the line break that `echo` adds. UserError when it is not text."""
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise UserError(
            f"stdin: not text in {error.encoding} (byte {error.start}), allowed: the prompt as text; or give it with "
            "--prompt"
        ) from None


@dataclass(frozen=True)
class Loaded:
    """A trained model and what it needs to write. Sizes come from the run's own files."""

    run: StoredRun
    model: ARModel
    tokenizer: Tokenizer
    task: Task
    device: torch.device
    precision: str


def load(out_dir: str, config: GenerateConfig) -> Loaded:
    """Open a run, and build the model of its checkpoint. UserError where that cannot be."""
    from dataset.vocabulary import tokenizer_of
    from src.setup.code import Asked
    from src.setup.plan import build_model, set_threads
    from src.setup.stored import is_stored, load_weights, open_run, open_weights
    from src.storage import env
    from src.utils.allocator import keep_freed_memory

    run = open_run(out_dir, Asked(config.allow_code, {"task": config.task, "model": config.model}))
    for name in ("task", "model"):
        value = getattr(config, name)
        if value and not is_stored(name, str(absolute(value)) if is_path(value) else value, run):
            raise UserError(
                f"--{name}: got {value}, but this run was started with {getattr(run.args, name)}; leave it out"
            )
    device = env.resolve_device(config.device)
    precision, _ = env.resolve_precision(run.args.precision if config.precision == "run" else config.precision, device)
    keep_freed_memory()
    set_threads(1)  # one row's products are too small to share: two threads took three times as long
    payload = open_weights(run, config.weights, device)
    tokenizer = tokenizer_of(payload["vocab"])
    task = run.task_class.without_data(run.args)
    model = build_model(run, tokenizer, task, device)
    load_weights(run, model, payload)
    return Loaded(run, model.eval(), tokenizer, task, device, precision)


def sampling_of(loaded: Loaded, config: GenerateConfig, most: int) -> Sampling:
    """How tokens are drawn.  most: tokens of one continuation, where --max_new_tokens says nothing."""
    import torch

    from src.utils.conversation import Sampling

    generator = torch.Generator(device=loaded.device).manual_seed(config.seed)
    temperature = 0.0 if config.greedy else config.temperature
    top_p = config.top_p if config.top_p < 1 else None
    return Sampling(config.max_new_tokens or most, temperature, config.top_k or None, top_p, generator)


def chat_format(loaded: Loaded, config: GenerateConfig) -> ChatFormat:
    """The chat template of --chat_template, or of the run, with its tokenizer. UserError where there is none."""
    from dataset.corpus.chat_format import ChatFormat
    from dataset.corpus.template import read_template

    run_dir, stored = loaded.run.run_dir, getattr(loaded.tokenizer, "config", {}).get("chat_template")
    if config.chat_template:
        path = absolute(config.chat_template)
        return ChatFormat(loaded.tokenizer, read_template(path), f"--chat_template: '{path}'")
    if run_dir.template.is_file():
        return ChatFormat(loaded.tokenizer, read_template(run_dir.template), f"'{run_dir.template}'")
    if isinstance(stored, str):
        return ChatFormat(loaded.tokenizer, stored, f"chat template of '{run_dir.path}'")
    raise UserError(
        f"--chat: '{run_dir.path}' is a run of --task {loaded.run.args.task}, which knows no conversations; leave "
        f"--chat out, or fine-tune it: --task chat --init_from {run_dir.path}"
    )


def context_of(loaded: Loaded) -> int:
    """Tokens that a conversation may have: as many as in training, and no more than the model can take."""
    trained = loaded.run.args.context_len
    return min(trained, loaded.model.max_len or trained)


def chat(loaded: Loaded, config: GenerateConfig, has_prompt: bool) -> None:
    """Hold a conversation with stdin, or answer --prompt."""
    from src.utils.conversation import Talk
    from src.utils.dialogue import hold, say

    form, room = chat_format(loaded, config), context_of(loaded)
    talk = Talk(
        loaded.model, form, loaded.device, loaded.precision, room, sampling_of(loaded, config, 200), config.system
    )
    if has_prompt:
        say(talk, config.prompt)
    else:
        hold(talk)


def continue_file(loaded: Loaded, config: GenerateConfig) -> None:
    """Print what the model writes after each prompt of a file, in the order of the file."""
    from src.utils.conversation import answer_prompts
    from src.utils.prompts import encoded, line_of, read_prompts

    path = absolute(config.prompts)
    prompts = read_prompts(path)
    form = chat_format(loaded, config) if config.chat else None
    most = context_of(loaded) if form else loaded.model.max_len
    rows = encoded(path, prompts, loaded.task, loaded.tokenizer, form, config.system, most)
    sampling = sampling_of(loaded, config, 200)
    stop = form.end if form else loaded.tokenizer.eos
    found = answer_prompts(loaded.model, rows, sampling, stop, loaded.device, loaded.precision)
    for prompt, ids in zip(prompts, found, strict=True):
        print(line_of(prompt, loaded.tokenizer.decode(ids)))


def write(loaded: Loaded, config: GenerateConfig, prompt: str) -> None:
    """Print the continuation of one prompt."""
    import torch

    from src.utils.precision import autocast

    model, tokenizer, task, device = loaded.model, loaded.tokenizer, loaded.task, loaded.device
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
    sampling = sampling_of(loaded, config, new_tokens)
    try:
        with autocast(device, loaded.precision):
            new = model.generate(ids, new_tokens, **sampling.options(), stop_id=tokenizer.eos)
    except ValueError as error:
        raise UserError(str(error)) from error
    text = tokenizer.decode(new[0].tolist())
    print(text)
    if not text:
        print("note: the model ends the text at once, so the continuation is empty", file=sys.stderr)


def converse(loaded: Loaded, config: GenerateConfig) -> None:
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
            write(loaded, config, prompt)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)

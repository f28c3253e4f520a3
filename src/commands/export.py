"""`benchmark.py export R --to DIR`: a run as a folder in Hugging Face's format.

    python benchmark.py export runs/<timestamp> --to my_model
    python benchmark.py export runs/<timestamp> --to my_model --weights last --overwrite

The folder has model.safetensors, config.json, generation_config.json, tokenizer.json and tokenizer_config.json. The
package `transformers` loads it: AutoModelForCausalLM.from_pretrained("my_model"). transformer becomes GPT-2, where its
form allows it; mamba, mamba2 and llama become the classes of their names. No file of the folder is a pickle.
`import DIR --out_dir R` brings it back.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from src.flags.fields import UserError, option
from src.flags.parser import Parser, add_flags, read_flags


@dataclass(frozen=True)
class ExportConfig:
    """flags"""

    to: str = option("", "the folder to write; it must not exist")
    weights: str = option("best", "best: lowest validation loss; last: end of training", choices=("best", "last"))
    overwrite: bool = option(False, "replace a folder that `export` wrote")
    allow_code: bool = option(False, "if your own task file is gone or has changed, run the copy in the run directory")
    quiet: bool = option(False, "only the folder's path")
    out_dir: str = option("", "the run's directory", paths=True)


def main(argv: list[str]) -> int:
    parser = Parser(prog="benchmark.py export", description=__doc__)
    parser.add_argument("run", nargs="?", help="the run's directory (or --out_dir)")
    add_flags(parser, ExportConfig, ExportConfig.__doc__)
    if {"-h", "--help"} & set(argv):
        parser.print_help()
        return 0
    namespace = parser.parse_strict(argv)
    given = [*([namespace.run] if namespace.run else []), *namespace.__dict__.pop("out_dir", [])]
    config = ExportConfig(**read_flags(namespace, [ExportConfig]))
    if len(given) != 1:
        raise UserError(f"export: got {len(given)} run directories, allowed: exactly one, as `export R --to DIR`")
    if not config.to:
        raise UserError("--to: missing, allowed: a new folder, as `export R --to DIR`")
    return export(given[0], config)


def export(out_dir: str, config: ExportConfig) -> int:
    """The work of the command. Everything that can be wrong is found before the first file is written."""
    import torch

    from dataset.vocabulary import tokenizer_of
    from src.exchange.folder import check_target, write_folder
    from src.exchange.outgoing import contents, fitting, sizes, template_of
    from src.setup.code import Asked
    from src.setup.plan import build_model
    from src.setup.stored import load_checkpoint, load_weights, open_run

    target = Path(config.to)
    check_target(target, config.overwrite)
    run = open_run(out_dir, Asked(config.allow_code))
    family = fitting(run.args)
    path = run.run_dir.best if config.weights == "best" else run.run_dir.ckpt
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; train the run further with --resume")
    payload = load_checkpoint(run, path, "cpu")
    tokenizer, task = tokenizer_of(payload["vocab"]), run.task_class.without_data(run.args)
    model = build_model(run, tokenizer, task, torch.device("cpu"))
    load_weights(run, model, payload)
    documents, tensors = contents(family, model, run.args, task, tokenizer, template_of(run.run_dir, tokenizer))
    write_folder(target, documents, tensors, config.overwrite)
    if not config.quiet:
        architecture = documents["config.json"]["architectures"][0]
        print(f"{architecture}, {sizes(tensors)}, of step {payload['step']}", file=sys.stderr)
    print(target)
    return 0

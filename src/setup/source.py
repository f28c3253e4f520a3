"""Where a run's first weights come from: `--init_from R`, another run with the same layer and sizes.

    source = open_source("runs/R")               # UserError where R has no checkpoint, or is no training run
    values = source.flags(task_class)            # R's model flags, for a command line that names none
    source.check_typed(explicit)                 # UserError for a typed flag that R has another value of
    source.apply(model, tokenizer)               # UserError for another vocabulary or another tensor
    source.keep(run_dir)                         # R/init.pt, so that the run needs R no more

The weights are the best ones. Optimiser, schedule and random numbers start anew. A task on real text also takes R's
tokenizer. The new run records the digest of the checkpoint that it began with.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from dataset.task import Task
from src.flags.fields import UserError, own_config
from src.flags.groups import ModelConfig
from src.flags.kinds import as_text, to_json
from src.setup.classes import blaming, find_model
from src.setup.code import Asked, choose
from src.storage.rundir import RunDir

if TYPE_CHECKING:
    from dataset.tokenizer import Tokenizer
    from src.models.contract import ARModel

# Model flags that no weight depends on: a new run may have its own.
FREE = ("dropout", "embed_dropout", "attn_dropout", "embed_std", "init")
SOLVED = {"match_params": "", "match_count": "layers", "match_state": 0}  # R's sizes are solved already
KEPT = {  # of init.pt, besides what every checkpoint has
    "source": {**dict.fromkeys(("run", "checkpoint", "sha256"), "text"), "*": "anything"}
}
OF_TEXT = ("context_len", "tokenizer", "vocab_size")  # flags that a task on real text takes over, besides the model's


@dataclass(frozen=True)
class Source:
    """An opened checkpoint of another run, or its copy in a run that began with it.

    run: the directory of the other run.  checkpoint: the name of the file there.  sha256: of that file.
    payload: what it holds.  model_class: None for a copy, which nobody builds a model from.
    """

    run: str
    checkpoint: str
    sha256: str
    payload: dict
    model_class: type | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the other run."""
        from dataset.vocabulary import tokenizer_of

        return tokenizer_of(self.payload["vocab"])

    def described(self) -> dict:
        """What config.json and env.json store."""
        return {"run": self.run, "checkpoint": self.checkpoint, "step": self.payload["step"], "sha256": self.sha256}

    def words(self) -> str:
        """What a run says about its first weights."""
        return f"{self.checkpoint} of '{self.run}', step {self.payload['step']}, SHA-256 {self.sha256[:12]}..."

    def flags(self, task_class: type[Task]) -> dict:
        """The flags of the other run that a new run with its weights has too: those of the model.

        A task on real text also reads as many tokens at once, made by the same tokenizer.
        """
        args = self.payload["args"]
        own = own_config(self.model_class)
        names = {f.name for part in (ModelConfig, own) if part is not None for f in dataclasses.fields(part)}
        names |= set(OF_TEXT) if task_class.reads_text else set()
        made = {"tokenizer": "char", "vocab_size": 0} if task_class.reads_text else {}  # of a run that is older
        return {**made, **{name: args[name] for name in sorted(names & args.keys())}, **SOLVED}

    def check_typed(self, explicit: dict, task_class: type[Task]) -> None:
        """UserError for a typed flag of the model of which the other run has another value."""
        for name, stored in self.flags(task_class).items():
            if name not in explicit or name in (*FREE, "context_len"):
                continue
            typed = to_json(explicit[name])
            if typed not in (stored, "auto"):
                raise UserError(
                    f"--{name}: got {as_text(explicit[name]) or 'nothing'}, but the run of --init_from ('{self.run}') "
                    f"has {as_text(stored) or 'none'}; leave --{name} out, or train without --init_from"
                )

    def apply(self, model: ARModel, tokenizer: Tokenizer) -> None:
        """Put the weights into a model. UserError that names the first difference where they do not fit."""
        check_vocabulary(self, tokenizer)
        check_tensors(self, model)
        with blaming("model", self.payload["args"]["model"], "the weights of --init_from are loaded"):
            model.load_state_dict(self.payload["model"])

    def keep(self, run_dir: RunDir) -> None:
        """Copy the weights and the vocabulary into a run directory."""
        from src.storage import checkpoint

        kept = {name: self.payload[name] for name in ("model", "args", "vocab", "step")}
        checkpoint.save(run_dir.init, {**kept, "source": self.described()})


def open_source(out_dir: str) -> Source:
    """The best checkpoint of a run; the last one, with a notice, where there is no best one yet."""
    from src.setup.opening import open_config, open_payload

    try:
        run_dir = RunDir.open(out_dir)
        config = open_config(run_dir)
    except UserError as error:
        raise UserError(str(error).replace("--out_dir", "--init_from", 1)) from None
    path = run_dir.best if run_dir.best.exists() else run_dir.ckpt
    if not path.exists():
        raise UserError(f"--init_from: '{run_dir.path}' has no checkpoint yet; train it further with --resume")
    if path == run_dir.ckpt:
        print(f"notice: --init_from: '{run_dir.path}' has no best.pt, so its last weights are used", file=sys.stderr)
    payload = open_payload(config["args"], path)
    code = choose(run_dir, config, "model", Asked())
    name = code.path if code else config["args"]["model"]
    model_class = find_model(name, tuple(config["args"].get("layers") or ()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Source(str(run_dir.path.resolve()), path.name, digest, payload, model_class)


def kept_source(run_dir: RunDir) -> Source | None:
    """The copy of the first weights that a run keeps. None for a run that began with weights of its own."""
    from src.storage import checkpoint
    from src.storage.schema import check
    from src.utils.restoring import head_problem

    if not run_dir.init.exists():
        return None
    payload = checkpoint.load(run_dir.init)
    problem = head_problem(payload)
    try:
        check({"source": payload.get("source")}, KEPT)
    except ValueError as error:
        problem = problem or str(error)
    if problem:
        raise UserError(f"'{run_dir.init}' is damaged: {problem}; restore it, or train again with --overwrite")
    told = payload["source"]
    return Source(told["run"], told["checkpoint"], told["sha256"], payload)


def check_vocabulary(source: Source, tokenizer: Tokenizer) -> None:
    """UserError where ids do not mean the same in both runs."""
    mine, theirs = tokenizer.tokens, source.tokenizer.tokens
    if tokenizer.payload() == source.tokenizer.payload() or mine == theirs:
        return
    new = [token for token in mine if token not in set(theirs)]
    raise UserError(
        f"--init_from: the vocabulary has {len(mine)} tokens, but '{source.run}' has {len(theirs)}"
        f"{f', without {new[0]!r}' if new else ''}; its weights fit only its own vocabulary: train that run on data "
        "with all characters of this task, or use a task on real text, which takes over its tokenizer"
    )


def check_tensors(source: Source, model: ARModel) -> None:
    """UserError for the first tensor that only one of the two has, or whose shapes differ."""
    mine, theirs = model.state_dict(), source.payload["model"]
    for name in dict.fromkeys([*mine, *theirs]):
        got, needed = (tuple(t[name].shape) if name in t else "none" for t in (mine, theirs))
        if got != needed:
            is_table = name.startswith("pos_embed")
            advice = "give its --context_len and --max_len" if is_table else "leave out the flags that differ"
            raise UserError(
                f"--init_from: tensor {name}: this model has {got}, but '{source.run}' has {needed}; {advice}"
            )

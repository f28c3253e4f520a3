"""A run as a folder in Hugging Face's format: its config.json, its other documents and its tensors.

family, model = fitting(run.args), load(...)
documents, tensors = contents(family, model, args, task, tokenizer, template)
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from torch import Tensor

from dataset.bpe import BpeTokenizer
from dataset.corpus.chat_format import ChatFormat
from dataset.corpus.template import read_template
from dataset.task import Task
from dataset.tokenizer import Tokenizer
from src.exchange import families
from src.exchange.contract import Family, Shape
from src.flags.fields import UserError
from src.flags.run_flags import RunArgs
from src.models.backbone import Backbone
from src.storage.rundir import RunDir


def fitting(args: RunArgs) -> Family:
    """The family of a run. UserError where none computes the same function."""
    family = families.of_model(args.model)
    if why := family.misfit(args):
        raise UserError(f"export: {why}")
    return family


def contents(
    family: Family, model: Backbone, args: RunArgs, task: Task, tokenizer: Tokenizer, template: str | None
) -> tuple[dict[str, dict | str], dict[str, Tensor]]:
    """({file name: content}, tensors) of the folder.  template: the chat template of the run, if it has one."""
    shape = Shape(len(tokenizer), model.table_len, task.table_tokens())
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos, "pad_token_id": tokenizer.pad}
    config = {**family.config(args, shape), **ids, "tie_word_embeddings": args.tie_weights}
    stops = [tokenizer.eos]
    if template:  # an answer may end with another token than a text does
        stops = list(dict.fromkeys([tokenizer.eos, ChatFormat(tokenizer, template).end]))
    text, settings = tokenizer.hugging_face()
    if begins_with_bos(task, tokenizer):
        text = _with_bos(text, tokenizer)
    longest = {"model_max_length": model.max_len} if model.max_len else {}
    documents = {
        "config.json": config,
        "generation_config.json": {**ids, "eos_token_id": stops if len(stops) > 1 else stops[0]},
        "tokenizer.json": text,
        "tokenizer_config.json": {**settings, **longest, **({"chat_template": template} if template else {})},
    }
    return documents, family.to_theirs(model.state_dict(), args)


def template_of(run_dir: RunDir, tokenizer: Tokenizer) -> str | None:
    """The chat template of a run, None for one that knows no conversations."""
    if run_dir.template.is_file():
        return read_template(run_dir.template)
    return tokenizer.config.get("chat_template") if isinstance(tokenizer, BpeTokenizer) else None


def begins_with_bos(task: Task, tokenizer: Tokenizer) -> bool:
    """Whether the task's prompts begin with <bos>, which is so for all that write an answer or labels."""
    first = next(token for i, token in enumerate(tokenizer.tokens) if i not in set(tokenizer.special_ids.values()))
    return int(task.prompt_ids(first, tokenizer)[0, 0]) == tokenizer.bos


def _with_bos(text: str, tokenizer: Tokenizer) -> str:
    """tokenizer.json with <bos> before each text, so that `tokenizer(prompt)` is what the model was trained on."""
    document = json.loads(text)
    name = next(name for name, i in tokenizer.special_ids.items() if i == tokenizer.bos)

    def special(kind: int) -> dict:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    def sequence(which: str, kind: int) -> dict:
        return {"Sequence": {"id": which, "type_id": kind}}

    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [special(0), sequence("A", 0)],
        "pair": [special(0), sequence("A", 0), sequence("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [tokenizer.bos], "tokens": [name]}},
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def sizes(tensors: Mapping[str, Tensor]) -> str:
    """'12 tensors, 4,321 numbers', for the line that the command prints."""
    return f"{len(tensors)} tensors, {sum(t.numel() for t in tensors.values()):,} numbers"

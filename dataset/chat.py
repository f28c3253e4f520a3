"""Chat: write the answers of an assistant in conversations.

    --data_path chats.jsonl   {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", ...}]}
    without it                dataset/chats.jsonl, sixty small conversations of this project

    <|user|>hello<|end|><|assistant|>Hello! How can I help you?<|end|>

dataset/corpus/conversations.py says what a line may be. A chat template makes text of a conversation: that of this
project, or `--chat_template FILE` in Hugging Face's format (dataset/corpus/template.py). A tokenizer without tokens for
the roles gets a template that spells them (`user: hello`), and ends an answer with `<eos>`.

    --init_from runs/R        begin with the weights and the tokenizer of another run, such as one on plain text

Alphabet: the subwords of the training conversations (`--tokenizer bpe`), or all characters (`--tokenizer char`).
Splits: 90 / 5 / 5 of the distinct conversations by their digests, at least one each. `heldout` is val and test.
Length: a conversation has at most --context_len + 1 tokens. A longer one loses its oldest exchanges (a user message and
    the answer), its system message stays. If its last exchange is too long alone, it is left out. What was cut is
    printed, and stored in metrics.json.
Scored: what the assistant writes, its end of turn included. Primary: token_acc. No other token is trained, unless
    `--loss_on all` asks for it.
Sizes: --train_size, --val_size and --test_size count conversations, 0 means all.
Chance: uniform and unigram, over the tokens that are scored.
First used by: Ouyang et al., InstructGPT, 2022, for fine-tuning on answers. The conversations here are our own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from dataset.bpe import CHAT_SPECIAL, LEAST_VOCAB, train_bpe
from dataset.corpus.chat_format import ChatFormat, default_template
from dataset.corpus.conversations import Conversation, Message, read_conversations, split_conversations
from dataset.corpus.folder import count
from dataset.corpus.language import BPE_TOKENS
from dataset.corpus.template import ChatTemplate, read_template
from dataset.entry import loaders_of
from dataset.splits import SPLITS
from dataset.task import Slice, Task
from dataset.tokenizer import SPECIAL, CharTokenizer, Tokenizer
from dataset.vocabulary import read_tokenizer
from src.flags.fields import UserError, option
from src.flags.groups import DataConfig
from src.flags.places import here
from src.flags.run_flags import RunFlags

BUILTIN = Path(__file__).with_name("chats.jsonl")

Row = tuple[np.ndarray, np.ndarray]  # ids (n,) int32, and which of them are scored (n,) bool


class Chat(Task):
    """The conversations of --data_path. They are read when the first of them is asked for."""

    @dataclass(frozen=True)
    class Config:
        chat_template: str = option("", "file with a Jinja chat template, in Hugging Face's format; default: our own")

    kind = "language"
    reads_text = True
    talks = True
    primary = "token_acc"
    takes_tokenizer = True
    lengths = None
    protocol = "the answers of each conversation, token by token; what comes before an answer is given"
    slices: ClassVar[tuple] = (
        Slice("position", "position among the scored tokens of a conversation", level="char", bins="log2"),
    )
    small: ClassVar[dict] = {
        "context_len": 128,
        "tokenizer": "bpe",
        "vocab_size": 512,
        "val_size": 0,
        "test_size": 0,
        "d_model": 128,
        "lr": 1e-3,
        "max_steps": 300,
        "batch_chars": 2048,
        "embed_std": 1.0,
    }
    base: ClassVar[dict] = {"tokenizer": "bpe", "vocab_size": 512, "val_size": 0, "test_size": 0}

    def __init__(self, args: RunFlags):
        super().__init__(args)
        if args.tokenizer == "bpe" and 0 < args.vocab_size < LEAST_VOCAB:
            raise UserError(
                f"--vocab_size: got {args.vocab_size}, allowed with --tokenizer bpe: at least {LEAST_VOCAB}, the 256 "
                f"bytes and {LEAST_VOCAB - 256} special tokens"
            )
        for name in ("text_key", "pack"):
            if getattr(args, name) != getattr(DataConfig, name):
                raise UserError(
                    f"--{name}: got '{getattr(args, name)}', but a row of chat is a conversation; leave it out"
                )

    @property
    def path(self) -> Path:
        """The file with the conversations."""
        return here(self.args.data_path) if self.args.data_path else BUILTIN

    @property
    def source(self) -> str:
        """Where the conversations came from: custom, or builtin."""
        return "custom" if self.args.data_path else "builtin"

    @cached_property
    def conversations(self) -> dict[str, list[Conversation]]:
        """The conversations of each split, as many as --train_size, --val_size and --test_size ask for."""
        found = split_conversations(read_conversations(self.path))
        sizes = {split: getattr(self.args, f"{split}_size") for split in SPLITS}
        return {split: part[: sizes[split] or None] for split, part in found.items()}

    @cached_property
    def form(self) -> ChatFormat:
        """The chat template with the tokenizer."""
        return ChatFormat(self.tokenizer(), self._template_for(self.tokenizer()), self._template_name)

    @cached_property
    def rows(self) -> dict[str, list[Row]]:
        """The ids of each conversation of a split, cut to --context_len, and which of them are scored."""
        self.cut = {"exchanges": 0, "conversations": 0, "left_out": 0}
        found = {split: [row for c in part for row in self._fitted(c)] for split, part in self.conversations.items()}
        for split, rows in found.items():
            if not rows:
                raise UserError(
                    f"--context_len: got {self.args.context_len}, which no conversation of {split} fits, allowed: at "
                    "least the tokens of its last exchange; raise --context_len"
                )
        return found

    @property
    def about(self) -> tuple[str, ...]:
        """Lines that a run says about its conversations."""
        counts = ", ".join(f"{len(self.rows[split]):,} {split}" for split in SPLITS)
        cut = self.cut
        lost = (
            f"cut to --context_len {self.args.context_len}: {count(cut['exchanges'], 'oldest exchange')} of "
            f"{count(cut['conversations'], 'conversation')}; left out: {count(cut['left_out'], 'conversation')}"
        )
        return (f"conversations: {counts}", lost)

    @property
    def unknown_rate(self) -> float | None:
        """The share of `<unk>` in what is scored of val and test. None for a tokenizer without it."""
        unknown = getattr(self.tokenizer(), "unknown", None)
        if unknown is None:
            return None
        counts = self.counts("val", self.tokenizer()) + self.counts("test", self.tokenizer())
        return float(counts[unknown] / counts.sum())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the conversations of each split and of the template, in hexadecimal."""
        parts = [(split, [c.digest for c in part]) for split, part in sorted(self.conversations.items())]
        return hashlib.sha256(repr((parts, self.form.template.text)).encode()).hexdigest()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer of --init_from; else that of --tokenizer, made for the conversations."""
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        made = self.given_tokenizer or self._made_tokenizer()
        if made.unit == "token":  # its files carry the template, as Hugging Face's do
            made.config["chat_template"] = self._template_for(made)
        return made

    def _made_tokenizer(self) -> Tokenizer:
        kind = self.args.tokenizer
        if kind == "bpe":
            return train_bpe(self._texts(("train",), (*SPECIAL, *CHAT_SPECIAL)), self.args.vocab_size or BPE_TOKENS)
        if kind == "char":
            return CharTokenizer.build(self._texts(SPLITS, SPECIAL))
        return read_tokenizer(here(kind))

    def _texts(self, splits: Sequence[str], specials: Sequence[str]) -> list[str]:
        """The conversations of some splits as text, without special tokens."""
        text = self._template_text or default_template(specials)
        template = ChatTemplate(text, "<bos>", "<eos>", self._template_name)
        found = []
        for conversation in (c for split in splits for c in self.conversations[split]):
            rendered = template.render(conversation.messages)
            for special in specials:
                rendered = rendered.replace(special, "\n")
            found.append(rendered)
        return found

    @cached_property
    def _template_text(self) -> str:
        """The text of --chat_template; "" without it."""
        return read_template(here(self.args.chat_template)) if self.args.chat_template else ""

    def _template_for(self, tokenizer: Tokenizer) -> str:
        """The text of --chat_template, of the template that a tokenizer came with, or of the one of this project."""
        stored = getattr(tokenizer, "config", {}).get("chat_template")
        own = stored if isinstance(stored, str) else ""
        return self._template_text or own or default_template(tuple(tokenizer.special_ids))

    @property
    def _template_name(self) -> str:
        return f"--chat_template: '{self.args.chat_template}'" if self.args.chat_template else "chat template"

    def _fitted(self, conversation: Conversation) -> list[Row]:
        """The row of a conversation, without the oldest exchanges that do not fit. Empty if nothing fits."""
        form, left, cut = self.form, conversation, 0
        try:
            for at, message in enumerate(conversation.messages, 1):
                form.check(message.content, f"message {at}")
            while left is not None:
                ids, trained = form.encode(left.messages)
                if len(ids) <= self.args.context_len + 1:
                    break
                left, cut = left.without_oldest(), cut + 1
        except UserError as error:  # of the template, or a character that the vocabulary does not have
            raise UserError(f"{error}; found in '{self.path}' line {conversation.line}") from None
        except ValueError as error:
            raise UserError(f"--data_path: '{self.path}' line {conversation.line}: {error}") from None
        if left is None:
            self.cut["left_out"] += 1
            return []
        self.cut["exchanges"] += cut
        self.cut["conversations"] += cut > 0
        return [(ids, trained)]

    def counts(self, split: str, tokenizer: Tokenizer) -> np.ndarray:
        """How often each token is scored in a split: (len(tokenizer),)."""
        scored = [ids[1:][trained[1:]] for ids, trained in self.rows[split]]
        return np.bincount(np.concatenate(scored), minlength=len(tokenizer))

    def symbols(self, tokenizer: Tokenizer) -> int:
        """How many ids a prediction may be: all that are text, and the end of turn."""
        return len(tokenizer) - len(tokenizer.special_ids) + 1

    def scored_counts(self, tokenizer: Tokenizer) -> np.ndarray:
        """How often each token is predicted on the test set: (len(tokenizer),)."""
        return self.counts("test", tokenizer)

    def prompts(self, n: int) -> list[tuple[tuple[Message, ...], str]]:
        """The first n test conversations as (what comes before the last answer, that answer)."""
        picked = self.conversations["test"][:n]
        return [(c.messages[:-1], c.messages[-1].content) for c in picked]

    def prompt_ids(self, prompt: str, tokenizer: Tokenizer) -> np.ndarray:
        """A prompt is text of the template's output: the written forms of special tokens are these tokens."""
        ids = tokenizer.encode(prompt, special=True)
        return (ids if len(ids) else np.array([tokenizer.eos])).astype(np.int64)[None]

    def max_chars(self, length: int | None = None) -> int:
        return self.args.context_len

    def max_tokens(self, length: int | None = None) -> int:
        return self.args.context_len

    def table_tokens(self) -> int:
        return self.max_tokens()

    def longest_length(self) -> None:
        """A conversation has no length that --eval_lengths could change."""
        return None

    def identity(self) -> dict[str, str | int | float | bool | tuple]:
        """The data is known by its digest, wherever its files are."""
        return {"task": type(self).__name__, "context_len": self.args.context_len, "digest": self.digest}


build_loaders = loaders_of(Chat)

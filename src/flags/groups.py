"""The shared flags, in the groups that `--help` shows.

A task's or a model's own flags are the fields of the `Config` in its file. A command that has only some flags of the
machine takes them with `machine_flags`. Nothing here imports torch, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from src.flags.fields import field_types, option

TOKENIZERS = ("char", "bpe")  # the words of --tokenizer; any other value is a path


@dataclass(frozen=True)
class DataConfig:
    """data"""

    task: str = option("", "a name from `list`, or a path to your own .py with one Task subclass")
    context_len: int = option(
        512, "characters of the longest prompt body a task draws; tokens where --tokenizer is not char", least=1
    )
    train_size: int = option(
        20_000,
        "training examples; 0 = fresh ones that never repeat (language: windows per epoch, 0 = all)",
        least=0,
    )
    val_size: int = option(1_000, "validation examples (language: windows, 0 = all)", least=0)
    test_size: int = option(2_000, "test examples (language: windows, 0 = all)", least=0)
    train_lengths: str = option(
        "uniform",
        "uniform: each training batch has one length, drawn between the task's minimum and maximum; fixed: the maximum",
        choices=("uniform", "fixed"),
    )
    eval_lengths: tuple[str, ...] = option(
        (),
        "further test lengths: multiples of the training maximum (2x), numbers (256), or ranges (41-500, 41-500:20 in "
        "steps of 20)",
    )
    eval_size: int = option(0, "test examples at each of --eval_lengths; 0 = --test_size", least=0)
    loss_on: str = option(
        "answer", "answer: train what is scored; all: train every written character", choices=("answer", "all")
    )
    data_path: str = option("", "file or folder with the text of a language task")
    tokenizer: str = option(
        "char",
        "what a model of a text reads: char = characters, bpe = subwords learned from the training text, or a folder "
        "(or tokenizer.json) with the byte-level tokenizer of another project",
    )
    vocab_size: int = option(
        0,
        "tokens of --tokenizer bpe, 0 = 4096; characters of wikitext, 0 = 5000, the most common ones, the others are "
        "<unk>",
        least=0,
        most=2**24,
    )
    text_key: str = option("text", "field of a .jsonl or .parquet file that holds the text of a document")
    pack: str = option(
        "yes",
        "yes: documents follow each other in one text, from which windows are cut; no: one document per row, padded",
        choices=("yes", "no"),
    )


TOKEN_DEFAULTS = {name: getattr(DataConfig, name) for name in ("tokenizer", "vocab_size", "text_key", "pack")}


@dataclass(frozen=True)
class ModelConfig:
    """model"""

    model: str = option("", "a name from `list`, or a path to your own .py with one Mixer or ARModel subclass")
    d_model: int = option(384, "width of the residual stream", least=1)
    n_layer: int = option(6, "number of blocks", least=1)
    n_head: int = option(6, "heads of a mixer that has them", least=1)
    dropout: float = option(0.1, "dropout probability", least=0.0, most=0.95)
    embed_dropout: float = option(-1.0, "dropout of the embeddings; -1 = --dropout", least=-1.0, most=0.95)
    attn_dropout: float = option(-1.0, "dropout of the attention probabilities; -1 = --dropout", least=-1.0, most=0.95)
    dim_ffn: int = option(
        -1,
        "hidden width of the block's MLP; 0 = no MLP, -1 = as the layer was published (the size of a GELU MLP of "
        "4 x d_model, or none)",
        least=-1,
    )
    mlp: str = option("auto", "MLP of the block; auto = as the layer was published", choices=("auto", "gelu", "swiglu"))
    norm: str = option(
        "auto", "norm of the backbone; auto = as the layer was published", choices=("auto", "layer", "rms")
    )
    short_conv: int = option(
        -1,
        "width of a causal convolution on q, k, v, or on the layer's input; 0 = off, -1 = as published",
        least=-1,
        most=64,
    )
    fair: bool = option(
        False,
        "the same norm (rms), MLP (gelu, 4 x d_model), convolution (4, on the input), dropout, positions (none) and "
        "initialisation (torch) for every layer, not the published ones",
    )
    match_params: str = option(
        "", "solve d_model and dim_ffn for this many parameters (250000, 250k, 1M), or for those of a model named here"
    )
    match_count: str = option(
        "layers",
        "what --match_params counts: layers = the parameters outside embeddings and head; all = all of them",
        choices=("layers", "all"),
    )
    match_state: int = option(
        0,
        "solve d_model for this many bytes of decoding state at the task's longest sequence, batch 1; 0 = off",
        least=0,
    )
    pos: str = option(
        "auto",
        "position encoding; auto = learned for transformer, rope for llama, none for recurrent layers and under --fair",
        choices=("auto", "learned", "sinusoidal", "none", "rope", "alibi"),
        shorthand={"--rope": "rope"},
    )
    embed_std: float = option(1.0, "standard deviation of the initial embeddings", above=0.0, most=100.0)
    init: str = option(
        "auto",
        "initial linear maps: torch, xavier, normal (GPT-2), published = as the layer itself; auto = torch with --fair",
        choices=("auto", "published", "torch", "xavier", "normal"),
    )
    tie_weights: bool = option(False, "share the embedding's weights with the output head")
    bias: bool = option(True, "biases in the linear maps and norms of the backbone and of attention; llama has none")


@dataclass(frozen=True)
class TrainConfig:
    """optimisation"""

    lr: float = option(3e-4, "peak learning rate", above=0.0, most=100.0)
    lr_tried: tuple[float, ...] = option(
        (), "the learning rates that --lr was chosen from, itself included; recorded, without effect on the training"
    )
    min_lr: float = option(0.0, "learning rate at the end of the cosine", least=0.0, most=100.0)
    cosine: str = option(
        "step",
        "step: the rate falls after each step; epoch: it falls --epochs times per run; off: it stays at --lr",
        choices=("step", "epoch", "off"),
    )
    warmup_steps: int = option(200, "steps of linear warm-up", least=0)
    epochs: int = option(5, "passes over the training set", least=1)
    max_steps: int = option(0, "optimiser steps; when given, replaces --epochs, in both directions", least=0)
    batch_size: int = option(32, "examples per optimiser step, over all processes", least=1)
    batch_chars: int = option(
        0,
        "characters (tokens where --tokenizer is not char) per optimiser step; when given, replaces --batch_size",
        least=0,
    )
    micro_batch_size: int = option(
        0, "examples per forward pass, with gradients accumulated; 0 = the whole batch", least=0
    )
    grad_clip: float = option(1.0, "largest gradient norm; 0 = no clipping", least=0.0)
    beta1: float = option(0.9, "AdamW's decay rate of the gradient's running mean", least=0.0, below=1.0)
    beta2: float = option(0.999, "AdamW's decay rate of the squared gradient's running mean", least=0.0, below=1.0)
    weight_decay: float = option(
        0.01, "AdamW's weight decay (norms, biases and marked parameters get none)", least=0.0, most=10.0
    )
    label_smoothing: float = option(
        0.0, "label smoothing of the training loss; reported losses are never smoothed", least=0.0, most=0.9
    )
    init_from: str = option(
        "",
        "a run with the same layer and sizes, whose best weights this one begins with; its model flags (and, for a "
        "task on real text, its tokenizer and --context_len) need not be named",
    )


TORCH_THREADS = "CPU threads; 0 = torch's choice"  # of the commands that measure, whatever the width


@dataclass(frozen=True)
class MachineConfig:
    """run"""

    precision: str = option(
        "auto", "auto = bf16 where the device is fast at it, else fp32", choices=("auto", "fp32", "fp16", "bf16")
    )
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    threads: int = option(0, "CPU threads; 0 = 1 up to --d_model 64, else torch's choice", least=0, most=1024)
    compile: bool = option(False, "torch.compile the model")
    backend: str = option("auto", "kernels: auto, NAME for all ops that have it, or op=NAME,...")
    seed: int = option(1337, "seed of initialisation, data and order", least=0, most=2**31 - 1)
    allow_noncausal: bool = option(
        False, "train a layer that sees the future, or could not be judged; every figure then says so"
    )
    eval_every: int = option(
        0, "steps between validations; 0 = a tenth of the run, -1 = an --epochs-th of the run", least=-1
    )
    stop_at: float = option(
        0.0,
        "stop training when the primary metric of --stop_after validations in a row is at least this; 0 = off",
        least=0.0,
        most=1.0,
    )
    stop_after: int = option(2, "validations in a row that must reach --stop_at", least=1, most=1000)
    solved_at: float = option(
        0.95,
        "the first validation whose primary metric is at least this is recorded as the one that solved the task; the "
        "run goes on (--stop_at ends it); 0 = off",
        least=0.0,
        most=1.0,
    )


def machine_flags(*names: str, **changed) -> type:
    """A dataclass made of some fields of MachineConfig, for a command that does not have all of them.

        Machine = machine_flags("device", "threads", seed="seed of the inputs")
        Machine = machine_flags("threads", seed=option(0, "seed of weights and tokens", least=0, most=2**31 - 1))

    names: fields that stay as they are.
    changed: further fields. A text replaces the help. An `option` replaces the whole flag.
    The fields keep the order of MachineConfig. Raises ValueError for a name that MachineConfig does not have.
    """
    known, types = {f.name: f for f in dataclasses.fields(MachineConfig)}, field_types(MachineConfig)
    wanted = {**dict.fromkeys(names), **changed}
    for name in wanted:
        if name not in known:
            raise ValueError(f"machine_flags: got '{name}', allowed: {', '.join(known)}")

    def flag(field: dataclasses.Field, change) -> dataclasses.Field:
        if isinstance(change, dataclasses.Field):
            return change
        metadata = {**field.metadata, "help": change or field.metadata["help"]}
        return dataclasses.field(default=field.default, metadata=metadata)

    specs = [(name, types[name], flag(field, wanted[name])) for name, field in known.items() if name in wanted]
    namespace = {"__module__": __name__, "__doc__": MachineConfig.__doc__}
    return dataclasses.make_dataclass("MachineFlags", specs, frozen=True, namespace=namespace)


@dataclass(frozen=True)
class ControlConfig:
    """control"""

    preset: str = option("auto", "small (default on a CPU), base (default on CUDA), or a name from `list --presets`")
    out_dir: str = option("", "run directory; default runs/<timestamp>", paths=True)
    overwrite: bool = option(False, "replace an existing run in --out_dir")
    seeds_at_once: int = option(
        1,
        "train this many seeds, --seed and those after it, as one batched model: faster on a GPU, the same results up "
        "to rounding, a run directory each (--out_dir/seedN, or one --out_dir per seed)",
        least=1,
        most=64,
    )
    eval_only: bool = option(False, "evaluate the checkpoints of --out_dir, print JSON")
    vis_only: bool = option(False, "redraw the figures of --out_dir; several directories are overlaid into --figures")
    resume: bool = option(False, "continue the run in --out_dir")
    from_checkpoint_log: bool = option(
        False, "with --resume: if metrics.jsonl was lost or changed, write it again from the copy in ckpt.pt"
    )
    allow_code: bool = option(
        False,
        "with --resume and --eval_only: if your own file is gone, has changed, or is not known as one that you have "
        "run, run its copy in the run directory",
    )
    figures: str = option("", "folder for the overlay of several --out_dir (with --vis_only)")
    quiet: bool = option(False, "no progress, only the run directory")
    log: str = option("none", "also log to tensorboard", choices=("none", "tensorboard"))


@dataclass(frozen=True)
class MeasureControl:
    """control"""  # of the commands that measure: speed, profile, kernels, study

    out_dir: str = option("", "run directory; default runs/<timestamp>; one with the same flags is continued")
    overwrite: bool = option(False, "replace the results in --out_dir")
    vis_only: bool = option(False, "redraw the figures of --out_dir and print its tables, without torch")
    quiet: bool = option(False, "no progress and no tables, only the run directory")


SHARED = (DataConfig, ModelConfig, TrainConfig, MachineConfig)

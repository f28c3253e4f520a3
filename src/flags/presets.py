"""Named layers of settings, between the defaults and what the user types. `list --presets` prints this table.

`small` and `base` fit every task. The others have the name of a paper or a repository. Each of those fixes its task,
data and optimisation, so that its published number can be compared with ours. Model sizes are the paper's too. The
layer itself is the user's choice, and flags that are typed win. A name that ends in `-mini` is that experiment made
smaller, until a run takes at most 90 seconds on two cores; `reduced` says what was made smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from src.flags.fields import UserError, suggest
from src.flags.run_flags import SMALL, small_layer


@dataclass(frozen=True)
class Preset:
    """One line of `list --presets`.

    task: the only task it goes with, "" for any.  values: flag values.  published: the paper's own numbers.
    reduced: what was made smaller.
    """

    summary: str
    source: str
    task: str = ""
    values: dict = field(default_factory=dict)
    published: str = ""
    reduced: str = ""


def _zoology(length: int, pairs: int, batch: int, published: str) -> Preset:
    """MQAR as in Figure 2. The paper takes the best of four learning rates, logspace(-4, -2, 4), and widths."""
    values = {
        "context_len": length,
        "n_pairs": pairs,
        "vocab": 8192,
        "filler": "zero",
        "power_a": 0.01,
        "train_lengths": "fixed",
        "train_size": 100_000,
        "val_size": 1_000,
        "test_size": 3_000,
        "batch_size": batch,
        "epochs": 64,
        "d_model": 64,
        "n_layer": 2,
        "n_head": 1,
        "dim_ffn": 0,
        "dropout": 0.1,
        "tie_weights": True,
        "embed_std": 0.02,
        "lr": 2.2e-3,
        "weight_decay": 0.1,
        "warmup_steps": 0,
    }
    return Preset(
        f"recall of {pairs} pairs in {length} characters, two layers without an MLP",
        "Zoology, Arora et al. 2023, Figure 2",
        "recall",
        values,
        published,
    )


GRAZZI = {
    "min_len": 3,
    "max_len": 40,
    "context_len": 40,
    "train_size": 0,
    "batch_size": 1024,
    "max_steps": 100_000,
    "d_model": 128,
    "n_head": 4,
    "dropout": 0.0,
    "lr": 1e-3,
    "min_lr": 1e-6,
    "warmup_steps": 10_000,
    "weight_decay": 0.1,
    "eval_lengths": ("64", "128", "256"),
}
DELETANG = {
    "min_len": 1,
    "max_len": 40,
    "context_len": 40,
    "train_size": 0,
    "batch_size": 128,
    "max_steps": 1_000_000,
    "d_model": 64,
    "n_layer": 5,
    "n_head": 8,
    "dropout": 0.0,
    "lr": 5e-4,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "eval_lengths": ("100", "200", "500"),
}
# nanoGPT's config/train_shakespeare_char.py and the defaults of its train.py, for `--model transformer`. There as here,
# AdamW decays all matrices, embeddings among them, and no vector. Three things differ. The warm-up has the peak rate at
# step 100, not 101. The vocabulary has three more tokens, <pad>, <bos> and <eos>, which never occur in a text. Dropout
# acts inside the MLP too, which matters to nanogpt-gpu only.
NANOGPT = {
    "min_lr": 1e-4,
    "lr": 1e-3,
    "warmup_steps": 100,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 0.1,
    "grad_clip": 1.0,
    "tie_weights": True,
    "bias": False,
    "init": "normal",
    "embed_std": 0.02,
}
MINI = {**SMALL, "embed_std": 1.0, "val_size": 500}

PRESETS = {
    "small": Preset(
        "default on a CPU: minutes on two cores, per task so that it learns (`list --task NAME`)", "this project"
    ),
    "base": Preset("default on CUDA: 6 layers of 384, 512 characters, 5 epochs", "this project"),
    "zoology-64-4": _zoology(64, 4, 512, "d 64: attention 1.00, H3 .93, RWKV-4 .77, BaseConv .71, Hyena .52"),
    "zoology-128-8": _zoology(128, 8, 512, "d 64: attention 1.00, BaseConv .38, H3 .25, RWKV-4 .18, Hyena .18"),
    "zoology-256-16": _zoology(256, 16, 256, "d 64: attention 1.00, BaseConv .15, H3 .08, RWKV-4 .05, Hyena .05"),
    "zoology-512-64": _zoology(512, 64, 128, "d 64: attention 1.00, the others .02 at most"),
    "mamba-selective": Preset(
        "selective copying of 16 symbols out of 4,096 characters",
        "Gu & Dao 2023 (Mamba), Table 1",
        "selective_copy",
        {
            "context_len": 4096,
            "n_data": 16,
            "n_symbols": 14,
            "train_lengths": "fixed",
            "train_size": 0,
            "batch_size": 64,
            "max_steps": 400_000,
            "d_model": 64,
            "n_layer": 2,
            "n_head": 1,
            "dropout": 0.0,
            "lr": 1e-4,
            "min_lr": 1e-4,
            "warmup_steps": 0,
            "weight_decay": 0.0,
        },
        "Mamba (S6) 99.8, H3 with S6 99.7, H3 57.0, S4 18.3",
    ),
    "mamba-induction": Preset(
        "induction heads: trained at 256 characters, tested to 16,384",
        "Gu & Dao 2023 (Mamba), Table 11",
        "induction",
        {
            "context_len": 256,
            "vocab": 16,
            "train_lengths": "fixed",
            "train_size": 0,
            "batch_size": 8,
            "max_steps": 204_800,
            "d_model": 64,
            "n_layer": 2,
            "n_head": 1,
            "dropout": 0.0,
            "lr": 1e-3,
            "min_lr": 1e-3,
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "eval_lengths": ("64", "128", "512", "1024", "2048", "4096", "16384"),
        },
        "Mamba 100 at every length; attention at 512 / 4,096: learned 58.6 / 9.8, RoPE 83.6 / 8.6, xPos 99.6 / 7.0",
    ),
    "grazzi-parity": Preset(
        "parity, trained at 3-40 bits, tested to 256; label at the last bit only, as in the formal-language code "
        "that the paper builds on",
        "Grazzi et al. 2024",
        "parity",
        {**GRAZZI, "labels": "final", "n_layer": 2},
        "scaled accuracy, best of 3 seeds: Transformer .02, Mamba 0, Mamba [-1, 1] 1.0, DeltaNet .02, DeltaNet [-1, "
        "1] 1.0, sLSTM 1.0",
    ),
    "grazzi-modarith": Preset(
        "modular arithmetic without brackets, mod 5, trained at 3-40 characters, tested to 256; the value alone is "
        "scored, as an answer",
        "Grazzi et al. 2024",
        "mod_arith",
        {**GRAZZI, "modulus": 5, "brackets": False, "n_layer": 3},
        "scaled accuracy, best of 3 seeds: Transformer .03, Mamba .10, Mamba [-1, 1] .24, DeltaNet .31, DeltaNet "
        "[-1, 1] .97, sLSTM .79",
    ),
    "deletang-parity": Preset(
        "parity, trained at 1-40 bits, tested to 500; causal, where the paper's Transformer is a bidirectional encoder",
        "Deletang et al. 2023",
        "parity",
        {**DELETANG, "labels": "final"},
        "accuracy, best of 10 seeds, lengths 41-500: RNN 100, LSTM 100, Transformer (encoder) 52.0",
    ),
    "deletang-modarith": Preset(
        "modular arithmetic without brackets, mod 5, trained at 1-40 characters; causal, where the paper's "
        "Transformer is a bidirectional encoder",
        "Deletang et al. 2023",
        "mod_arith",
        {**DELETANG, "modulus": 5, "brackets": False},
        "accuracy, best of 10 seeds, lengths 41-500: RNN 100, LSTM 100, Transformer (encoder) 24.2",
    ),
    "zoology-256-16-mini": Preset(
        "recall of 16 pairs in 64 characters, learned through 4 and 8 pairs",
        "after Zoology, Arora et al. 2023, Figure 2",
        "recall",
        {
            **MINI,
            "context_len": 64,
            "vocab": 64,
            "filler": "zero",
            "mixture": ("16:4", "32:8", "64:16"),
            "embed_std": 0.3,
            "max_steps": 600,
            "test_size": 1_000,
        },
        "(256, 16), d 64: attention 1.00, BaseConv .15, H3 .08, RWKV-4 .05, Hyena .05",
        "64 characters instead of 256, 64 symbols instead of 8,192, trained on a mixture of 4, 8 and 16 pairs for "
        "600 steps, with the block's MLP",
    ),
    "grazzi-parity-mini": Preset(
        "parity, trained at 3-40 bits, tested to 160, a label at every bit",
        "after Grazzi et al. 2024",
        "parity",
        {
            **MINI,
            "min_len": 3,
            "max_len": 40,
            "context_len": 40,
            "labels": "dense",
            "max_steps": 400,
            "test_size": 1_000,
            "eval_lengths": ("2x", "4x"),
        },
        "scaled accuracy at 40-256, best of 3 seeds: Transformer .02, DeltaNet .02, DeltaNet [-1, 1] 1.0, sLSTM 1.0",
        "two layers of 64 instead of 128, a label at every bit instead of the last, 400 steps of 4,096 characters "
        "instead of 100,000 of 1,024 strings",
    ),
    "mamba-selective-mini": Preset(
        "selective copying of 4 symbols out of 128 characters",
        "after Gu & Dao 2023 (Mamba), Table 1",
        "selective_copy",
        {**MINI, "context_len": 128, "n_data": 4, "n_symbols": 14, "max_steps": 800, "test_size": 1_000},
        "Mamba (S6) 99.8, S4 (time-invariant) 18.3",
        "4 symbols in 128 characters instead of 16 in 4,096, 800 steps instead of 400,000",
    ),
    "jelassi-copy-mini": Preset(
        "copying of up to 24 letters, tested at 48",
        "after Jelassi et al. 2024",
        "copy",
        {
            **MINI,
            "context_len": 24,
            "embed_std": 0.3,
            "max_steps": 1_000,
            "test_size": 1_000,
            "eval_lengths": ("36", "48"),
        },
        "no single number: attention copies strings longer than it was trained on, furthest with a form of ALiBi, "
        "and state space models do not",
        "up to 24 letters, two layers of 64, 1,000 steps",
    ),
    "nanogpt-cpu": Preset(
        "Tiny Shakespeare by characters, 4 layers of 128, 2,000 steps",
        "nanoGPT, README",
        "tiny_shakespeare",
        {
            **NANOGPT,
            "context_len": 64,
            "d_model": 128,
            "n_layer": 4,
            "n_head": 4,
            "batch_size": 12,
            "train_size": 24_000,  # windows of one epoch, so that every batch is full
            "max_steps": 2_000,
            "dropout": 0.0,
            "precision": "fp32",
        },
        "loss 1.88 nats (heldout, 20 random batches)",
    ),
    "nanogpt-gpu": Preset(
        "Tiny Shakespeare by characters, 6 layers of 384, 5,000 steps",
        "nanoGPT, README",
        "tiny_shakespeare",
        {
            **NANOGPT,
            "context_len": 256,
            "d_model": 384,
            "n_layer": 6,
            "n_head": 6,
            "batch_size": 64,
            "train_size": 320_000,
            "max_steps": 5_000,
            "dropout": 0.2,
        },
        "loss 1.4697 nats (heldout, 200 random batches, best)",
    ),
}


def find(name: str) -> Preset:
    """The preset of a name; UserError for an unknown one."""
    if name not in PRESETS:
        raise UserError(f"--preset: unknown preset '{name}', allowed: {', '.join(PRESETS)}{suggest(name, PRESETS)}")
    return PRESETS[name]


def task_of(preset: str | None, task: str | None) -> str | None:
    """The task that --preset and --task name together; UserError where they name two, or the preset is unknown."""
    wanted = find(preset).task if preset not in (None, "auto") else ""
    if wanted and task not in (None, wanted):
        raise UserError(
            f"--task: got '{task}', but --preset {preset} is an experiment on '{wanted}'; leave --task out, or take "
            "--preset small"
        )
    return wanted or task


def settings(name: str, task_class, device_type: str) -> tuple[str, dict]:
    """(resolved name, flag values) of a preset for a task; UserError for an unknown name."""
    if name == "auto":
        name = "base" if device_type == "cuda" else "small"
    preset = find(name)
    return name, small_layer(task_class) if name == "small" else dict(preset.values) if preset.task else dict(
        task_class.base
    )

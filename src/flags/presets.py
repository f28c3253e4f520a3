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
    reduced: what was made smaller.  compare: which number of a run's metrics.json the published ones compare with.
    differences: between this and the source, one sentence each; what the layer itself does is in its own file.
    per_model: {model: flag values} where the source gave a layer other values than the rest. A hybrid takes the values
        of each of its layers, in order.
    """

    summary: str
    source: str
    task: str = ""
    values: dict = field(default_factory=dict)
    published: str = ""
    reduced: str = ""
    compare: str = ""
    differences: tuple[str, ...] = ()
    per_model: dict[str, dict] = field(default_factory=dict)


def powers_of_two(first: int, last: int) -> tuple[str, ...]:
    """2^first, ..., 2^last as words of --eval_lengths."""
    return tuple(str(2**n) for n in range(first, last + 1))


ONE_RUN = "a run has one seed and one learning rate; "


def _zoology(length: int, pairs: int, batch: int, published: str) -> Preset:
    """MQAR as in Figure 2: both layers are the mixer, at each of four learning rates, logspace(-4, -2, 4), and widths.

    The later figures of Based (Arora et al. 2024) and of the repository put a convolution into the first layer for most
    models, so their numbers belong to another recipe.
    """
    values = {
        "context_len": length,
        "n_pairs": pairs,
        "vocab": 8192,
        "filler": "zero",
        "power_a": 0.01,
        "train_lengths": "fixed",
        "train_size": 100_000,
        "val_size": 3_000,
        "test_size": 3_000,
        "batch_size": batch,
        "epochs": 64,
        "max_steps": 0,
        "eval_every": -1,
        "stop_at": 0.99,
        "stop_after": 1,
        "d_model": 64,
        "n_layer": 2,
        "n_head": 1,
        "dim_ffn": 0,
        "norm": "layer",
        "dropout": 0.0,
        "embed_dropout": 0.1,
        "attn_dropout": 0.1,
        "tie_weights": True,
        "init": "normal",
        "embed_std": 0.02,
        "lr": 10 ** (-8 / 3),
        "min_lr": 0.0,
        "cosine": "epoch",
        "weight_decay": 0.1,
        "warmup_steps": 0,
        "grad_clip": 0.0,
        "precision": "fp32",
    }
    return Preset(
        f"recall of {pairs} pairs in {length} characters, two layers without an MLP",
        "Zoology, Arora et al. 2023, Figure 2",
        "recall",
        values,
        published,
        compare="final_test.token_acc",
        differences=(
            ONE_RUN + "the source takes the best of four rates",
            "the best weights by validation loss are tested on 3,000 other examples; the source validates, stops and "
            "reports on one set of 3,000, with the last weights",
            "norms and biases have no weight decay; in the source they have",
            "the filler is a symbol of its own, and <bos> comes first; in the source the filler takes the place of one "
            "key",
            "the order of the training examples is drawn anew in each epoch; in the source it is fixed",
            "both layers are the mixer, as in Figure 2; numbers of Based (2024) come from a convolution and one mixer",
        ),
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
    "eval_lengths": ("40-256",),
    "eval_size": 512,
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
    "cosine": "off",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "grad_clip": 1.0,
    "test_size": 512,
    "eval_lengths": ("41-500",),
    "eval_size": 512,
}
# The recurrent networks of the paper are one layer of 256. --pos rope, because a learned table ends at 40.
DELETANG_MODELS = {
    "transformer": {"pos": "rope"},
    **{name: {"d_model": 256, "n_layer": 1, "dim_ffn": 0} for name in ("gru", "lstm")},
}
ODD_LENGTHS = "an expression has an odd number of characters, so an even length is one shorter"
GRAZZI_MODELS = {"transformer": {"pos": "rope"}}  # a learned table ends at 40
GRAZZI_DIFFERENCES = (
    ONE_RUN + "the paper takes the best of three seeds, at the best of 1e-2, 1e-3, 5e-4 and 1e-4",
    "every length from 40 to 256 has 512 tests of its own (40: --test_size); how many the paper drew is not known here",
    "chance is the highest chance level of the test set, which `scaled` subtracts; in the paper 1 over the classes",
    "val and test hold strings that training never sees; the paper draws all of them freely",
    "gradients are clipped at norm 1, and the blocks are those of the layer here",
    "attention has --pos rope, so that it has a score beyond 40 symbols",
)
DELETANG_DIFFERENCES = (
    "the models are causal and read the string once; the paper's Transformer is a bidirectional encoder",
    ONE_RUN + "the paper takes the best of ten seeds and of 1e-4, 3e-4 and 5e-4",
    "attention has --pos rope; the paper takes the best of five position encodings",
    "val and test hold strings that training never sees; the paper draws all of them freely",
    "gru and lstm stand in the residual block of this project, with a norm and without an MLP",
)
MAMBA_DIFFERENCES = (
    "gradients are clipped at norm 1; whether the paper clips is not known here",
    "val and test hold strings that training never sees; the paper draws all of them freely",
)
MINI_COMPARE = "nothing directly: the numbers are those of the larger experiment, so only the order of layers compares"
MINI_DIFFERENCES = ("everything under `reduced`; size, data and number of steps are those of a small run",)
# nanoGPT's config/train_shakespeare_char.py and the defaults of its train.py, for `--model transformer`. There as here,
# AdamW decays all matrices, embeddings among them, and no vector.
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
NANOGPT_DIFFERENCES = (
    "held-out loss is over the whole held-out text; nanoGPT's is over random windows of it",
    "the warm-up has the peak rate at step 100; in nanoGPT at step 101",
    "the vocabulary has three more tokens, <pad>, <bos> and <eos>, which never occur in a text",
)
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
            "cosine": "off",
            "warmup_steps": 0,
            "weight_decay": 0.0,
        },
        "Mamba (S6) 99.8, H3 with S6 99.7, H3 57.0, S4 18.3",
        compare="final_test.token_acc",
        differences=(
            "14 symbols, the noise and a marker make 16; the paper says 16 with the noise among them",
            *MAMBA_DIFFERENCES,
        ),
    ),
    "mamba-induction": Preset(
        "induction heads: trained at 256 characters, tested from 2^6 to 2^20, attention to 2^14",
        "Gu & Dao 2023 (Mamba), Table 11",
        "induction",
        {
            "context_len": 256,
            "vocab": 16,
            "train_lengths": "fixed",
            "train_size": 0,
            "batch_size": 8,
            "max_steps": 204_800,
            "d_model": 128,
            "n_layer": 2,
            "n_head": 1,
            "dropout": 0.0,
            "lr": 1e-3,
            "cosine": "off",
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "eval_lengths": powers_of_two(6, 20),
            "eval_size": 64,
        },
        "Mamba 100 at every length; attention at 512 / 4,096: learned 58.6 / 9.8, RoPE 83.6 / 8.6, xPos 99.6 / 7.0",
        compare="value of each row of length_curve",
        differences=(
            "the trigger is a seventeenth symbol, and the strings of each length have 64 tests",
            ONE_RUN + "the paper also tries 2e-4",
            "attention has --pos rope; a learned table ends at 256 here, where the paper has numbers beyond",
            *MAMBA_DIFFERENCES,
        ),
        # Twice the steps for RoPE. The 137,000 parameters of the paper's attention leave no room for an MLP. Its time
        # and its state grow with the length, so it ends where the paper ends.
        per_model={
            "mamba": {"d_model": 64},
            "transformer": {
                "pos": "rope",
                "dim_ffn": 0,
                "max_steps": 409_600,
                "eval_lengths": powers_of_two(6, 14),
            },
        },
    ),
    "grazzi-parity": Preset(
        "parity, trained at 3-40 bits, tested to 256; label at the last bit only, as in the formal-language code "
        "that the paper builds on",
        "Grazzi et al. 2024",
        "parity",
        {**GRAZZI, "labels": "final", "n_layer": 2},
        "scaled accuracy, best of 3 seeds: Transformer .02, Mamba 0, Mamba [-1, 1] 1.0, DeltaNet .02, DeltaNet [-1, "
        "1] 1.0, sLSTM 1.0",
        compare="length_mean.scaled",
        differences=GRAZZI_DIFFERENCES,
        per_model=GRAZZI_MODELS,
    ),
    "grazzi-modarith": Preset(
        "modular arithmetic without brackets, mod 5, trained at 3-40 characters, tested to 256; the value alone is "
        "scored, as an answer",
        "Grazzi et al. 2024",
        "mod_arith",
        {**GRAZZI, "modulus": 5, "brackets": False, "n_layer": 3},
        "scaled accuracy, best of 3 seeds: Transformer .03, Mamba .10, Mamba [-1, 1] .24, DeltaNet .31, DeltaNet "
        "[-1, 1] .97, sLSTM .79",
        compare="length_mean.scaled",
        differences=(*GRAZZI_DIFFERENCES, ODD_LENGTHS),
        per_model=GRAZZI_MODELS,
    ),
    "deletang-parity": Preset(
        "parity, trained at 1-40 bits, tested to 500; causal, where the paper's Transformer is a bidirectional encoder",
        "Deletang et al. 2023",
        "parity",
        {**DELETANG, "labels": "final"},
        "accuracy, best of 10 seeds, lengths 41-500: RNN 100, LSTM 100, Transformer (encoder) 52.0",
        compare="length_mean.value",
        differences=DELETANG_DIFFERENCES,
        per_model=DELETANG_MODELS,
    ),
    "deletang-modarith": Preset(
        "modular arithmetic without brackets, mod 5, trained at 1-40 characters; causal, where the paper's "
        "Transformer is a bidirectional encoder",
        "Deletang et al. 2023",
        "mod_arith",
        {**DELETANG, "modulus": 5, "brackets": False},
        "accuracy, best of 10 seeds, lengths 41-500: RNN 100, LSTM 100, Transformer (encoder) 24.2",
        compare="length_mean.value",
        differences=(*DELETANG_DIFFERENCES, ODD_LENGTHS),
        per_model=DELETANG_MODELS,
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
        compare=MINI_COMPARE,
        differences=MINI_DIFFERENCES,
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
        compare=MINI_COMPARE,
        differences=MINI_DIFFERENCES,
    ),
    "mamba-selective-mini": Preset(
        "selective copying of 4 symbols out of 128 characters",
        "after Gu & Dao 2023 (Mamba), Table 1",
        "selective_copy",
        {**MINI, "context_len": 128, "n_data": 4, "n_symbols": 14, "max_steps": 800, "test_size": 1_000},
        "Mamba (S6) 99.8, S4 (time-invariant) 18.3",
        "4 symbols in 128 characters instead of 16 in 4,096, 800 steps instead of 400,000",
        compare=MINI_COMPARE,
        differences=MINI_DIFFERENCES,
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
        compare=MINI_COMPARE,
        differences=MINI_DIFFERENCES,
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
            "val_size": 240,  # windows, as many as nanoGPT's 20 batches
            "max_steps": 2_000,
            "dropout": 0.0,
            "precision": "fp32",
        },
        "loss 1.88 nats (heldout, 20 random batches)",
        compare="final_test.heldout_loss",
        differences=NANOGPT_DIFFERENCES,
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
        compare="final_test.heldout_loss",
        differences=(*NANOGPT_DIFFERENCES, "dropout also acts inside the MLP; in nanoGPT not"),
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


def settings(name: str, task_class, device_type: str, models: tuple[str, ...] = ()) -> tuple[str, dict]:
    """(resolved name, flag values) of a preset for a task; UserError for an unknown name.

    models: the name of the model, and of the layers of a hybrid; some presets set other values for some of them.
    """
    if name == "auto":
        name = "base" if device_type == "cuda" else "small"
    preset = find(name)
    if name == "small":
        return name, small_layer(task_class)
    return name, values_for(preset, models) if preset.task else dict(task_class.base)


def values_for(preset: Preset, models: tuple[str, ...]) -> dict:
    """The flag values of a preset for a model. models: as for `settings`."""
    values = dict(preset.values)
    for model in models:
        values |= preset.per_model.get(model, {})
    return values


def described(name: str, args) -> dict:
    """What metrics.json says of a run's preset: source, published numbers, differences, and flags that were changed.

    args: the flags of the run.
    """
    preset = PRESETS.get(name, Preset("", ""))
    values = values_for(preset, (args.model, *getattr(args, "layers", ())))
    changed = {flag: getattr(args, flag) for flag, value in values.items() if getattr(args, flag) != value}
    return {
        "name": name,
        "source": preset.source,
        "published": preset.published,
        "compare": preset.compare,
        "differences": list(preset.differences),
        "changed": {flag: list(v) if isinstance(v, tuple) else v for flag, v in changed.items()},
    }

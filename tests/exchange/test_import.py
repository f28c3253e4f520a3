"""`import`: a folder becomes a run like any other, with the same logits; what does not fit is one line.

python -m pytest tests/exchange/test_import.py
"""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from untrained_runs import TEXT, model_of, untrained

from dataset.bpe import train_bpe
from dataset.corpus.template import WITH_TOKENS
from dataset.tokenizer import CharTokenizer
from src.setup.source import open_source

CHARS = CharTokenizer.build(TEXT, ["<pad>", "<bos>", "<eos>", "<unk>"])  # the vocabulary that task `text` makes of it
TEXT_RUN = ("--task", "text", "--model")
ROUND_TRIPS = {
    "llama": ["llama", "--n_kv_head", "1", "--rope_base", "500"],
    "llama, tied": ["llama", "--tie_weights", "--embed_std", "0.02", "--dim_ffn", "24"],
    "llama, window": ["llama", "--window", "5"],
    "llama, qk_norm": ["llama", "--qk_norm"],
    "transformer": ["transformer", "--dropout", "0.2", "--attn_dropout", "0.1"],
    "transformer, no biases": ["transformer", "--no_bias", "--dim_ffn", "24", "--tie_weights", "--embed_std", "0.02"],
    "mamba": ["mamba", "--n_layer", "2", "--backend", "eager"],
    "mamba, other sizes": [
        "mamba",
        "--d_state",
        "5",
        "--dt_rank",
        "3",
        "--expand",
        "3",
        "--short_conv",
        "2",
        "--backend",
        "eager",
    ],
    "mamba2": ["mamba2", "--headdim", "8", "--ngroups", "2", "--short_conv", "2", "--backend", "eager"],
}


def ids(length: int = 20):
    """Random ids (2, length) of the vocabulary."""
    return torch.randint(0, len(CHARS), (2, length), generator=torch.Generator().manual_seed(1))


def logits(run) -> torch.Tensor:
    with torch.no_grad():
        return model_of(run)[0](ids())


SLOW = ("llama, tied", "llama, window", "mamba, other sizes")


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in SLOW else c for c in ROUND_TRIPS])
def test_an_export_comes_back_with_equal_logits_bit_for_bit(case, main, tmp_path):
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, *ROUND_TRIPS[case])
    assert main("export", "run", "--to", "folder")[0] == 0
    backend = ROUND_TRIPS[case][-2:] if "--backend" in ROUND_TRIPS[case] else []
    code, out, err = main("import", "folder", "--out_dir", "back", "--precision", "fp32", *backend)
    assert (code, out, err.count("\n")) == (0, "back\n", 1), err
    assert torch.equal(logits(tmp_path / "back"), logits(tmp_path / "run"))
    assert model_of(tmp_path / "back")[1].payload() == CHARS.payload()
    for name in ("best.pt", "ckpt.pt"):
        assert (tmp_path / "back" / name).is_file()


def test_a_scaled_tied_head_comes_back_up_to_rounding(main, tmp_path):
    """Its scale moves into the last norm, and stays there."""
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "llama", "--tie_weights", "--embed_std", 0.7)
    assert main("export", "run", "--to", "folder")[0] == main("import", "folder", "--out_dir", "back")[0] == 0
    want, got = logits(tmp_path / "run"), logits(tmp_path / "back")
    assert model_of(tmp_path / "run")[0].head_scale < 0.5
    assert model_of(tmp_path / "back")[0].head_scale == 1.0
    assert (want - got).abs().max() < 1e-5 * want.abs().max()


@pytest.fixture
def folder(main, tmp_path):
    """An exported llama of a text, and its model's logits as a file beside it."""
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "llama")
    assert main("export", "run", "--to", "folder", "--quiet")[0] == 0
    return tmp_path / "folder"


def change(path, **keys):
    """Set keys of a JSON file; None as a value of `drop` removes them."""
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **keys}))


def change_tensors(folder, action):
    path = folder / "model.safetensors"
    save_file(action(load_file(path)), path, {"format": "pt"})


def refused(main, *arguments) -> str:
    """The one line of an import that is refused; nothing is written."""
    code, out, err = main("import", "folder", "--out_dir", "back", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    return err


KEYS = {
    "architectures": (
        ["BertModel"],
        r"config.json: got architectures \['BertModel'\], allowed: one of LlamaForCausalLM",
    ),
    "hidden_act": ("gelu", r"got hidden_act 'gelu', allowed: 'silu'"),
    "rms_norm_eps": (1e-6, r"got rms_norm_eps 1e-06, allowed: 1e-05"),
    "rope_scaling": ({"type": "linear", "factor": 2.0}, r"got rope_scaling \{'type': 'linear'"),
    "rope_parameters": ({"rope_type": "llama3", "rope_theta": 5e5}, r"got rope_type 'llama3', allowed: 'default'"),
    "attention_bias": (True, r"got attention_bias True, allowed: False"),
    "head_dim": (4, r"got head_dim 4 with 2 heads, allowed: hidden_size 16 / 2"),
    "num_hidden_layers": ("one", r"got num_hidden_layers 'one', allowed: a whole number"),
    "tie_word_embeddings": (None, r"got tie_word_embeddings None, allowed: true or false"),
    "quantization_config": ({"bits": 4}, r"got quantization_config"),
    "num_attention_heads": (3, r"got head_dim 8 with 3 heads"),
    "intermediate_size": (
        48,
        r"has 'model.layers.0.mlp.(gate|up)_proj.weight' in shape \(40, 16\), needed .*\(48, 16\)",
    ),
    "hidden_size": (16_000_000, r"got head_dim 8 with 2 heads, allowed: hidden_size 16000000 / 2"),
    "max_position_embeddings": (1 << 60, r"got max_position_embeddings 1152921504606846976, allowed: a whole number"),
    "rope_theta": (0, r"got rope_theta 0, allowed: above 1"),
}


@pytest.mark.parametrize("key", KEYS)
def test_a_form_that_is_not_here_is_one_line_that_names_the_key(key, main, folder, tmp_path):
    value, message = KEYS[key]
    change(folder / "config.json", **{key: value})
    assert re.search(message, refused(main))
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("model", "key", "value", "message"),
    [
        ("transformer", "activation_function", "gelu_new", "got activation_function 'gelu_new', allowed: 'gelu'"),
        ("transformer", "bias", False, "got bias false, but 'transformer.*bias' is not zero"),
        ("mamba", "use_conv_bias", False, "got use_conv_bias False, allowed: True"),
        ("mamba2", "time_step_limit", [0.0, 0.1], r"got time_step_limit \[0.0, 0.1\]"),
        ("mamba2", "num_heads", 3, "got num_heads 3 of head_dim 32"),
    ],
    ids=["gelu_new", "bias", "use_conv_bias", "time_step_limit", "num_heads"],
)
def test_the_other_families_name_their_keys_too(model, key, value, message, main, tmp_path):
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, model)
    assert main("export", "run", "--to", "folder")[0] == 0
    change(tmp_path / "folder" / "config.json", **{key: value})
    assert re.search(message, refused(main))


@pytest.mark.parametrize("key", ["intermediate_size", "num_hidden_layers"])
def test_a_size_that_would_fill_the_memory_is_compared_before_a_model_is_built(key, main, folder):
    """Two matrices of 1 GiB per block, or millions of blocks."""
    change(folder / "config.json", **{key: 1 << 24})
    assert re.search(
        r"in shape \(40, 16\), needed|got 16777216 layers, but 'folder' has only 12 tensors", refused(main)
    )


def test_infinity_as_the_package_writes_it_is_no_limit(main, tmp_path):
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "mamba2")
    assert main("export", "run", "--to", "folder")[0] == 0
    change(tmp_path / "folder" / "config.json", time_step_limit=[0.0, {"__float__": "Infinity"}])
    assert main("import", "folder", "--out_dir", "back")[0] == 0


DAMAGE = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config.json' cannot be read \(No such file"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json' is no JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "config.json' holds a list, allowed: a JSON object"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "import: .*tokenizer.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights, allowed: model.safetensors"),
    "half": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        r"model.safetensors' is missing or damaged \(",
    ),
    "a missing tensor": (
        lambda f: change_tensors(f, lambda t: {n: x for n, x in t.items() if n != "model.norm.weight"}),
        r"lacks the tensor 'model.norm.weight', needed: \(16,\)",
    ),
    "another shape": (
        lambda f: change_tensors(f, lambda t: {**t, "lm_head.weight": torch.zeros(99, 16)}),
        r"has 'lm_head.weight' in shape \(99, 16\), needed",
    ),
    "one too many": (
        lambda f: change_tensors(f, lambda t: {**t, "model.layers.7.mlp.up_proj.weight": torch.zeros(2)}),
        "has the tensor 'model.layers.7.mlp.up_proj.weight', for which the layer here has no place",
    ),
    "whole numbers": (
        lambda f: change_tensors(f, lambda t: {**t, "lm_head.weight": torch.ones(len(CHARS), 16, dtype=torch.int8)}),
        "holds 'lm_head.weight' in torch.int8, allowed: floating-point numbers",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_folder_is_one_line(case, main, folder, tmp_path):
    damage, message = DAMAGE[case]
    damage(folder)
    assert re.search(message, refused(main))
    assert not (tmp_path / "back").exists()


def test_a_run_of_the_bench_is_no_folder_to_import(main, folder):
    code, _, err = main("import", "run", "--out_dir", "back")
    assert (code, err) == (
        2,
        "error: import: got 'run', which is a run of this bench already, allowed: a folder of `export`\n",
    )


def test_a_pickle_is_not_opened(main, folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "'pytorch_model.bin', a pickle, which can run code, allowed: model.safetensors" in refused(main)


def sharded(folder, places=None):
    """Split model.safetensors into two parts with an index.  places: entries to change in its weight_map."""
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    found = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file)
        found |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {**found, **(places or {})}}))


def test_weights_in_several_files_are_read_by_their_index(main, folder, tmp_path):
    sharded(folder)
    assert main("import", "folder", "--out_dir", "back", "--precision", "fp32")[0] == 0
    assert torch.equal(logits(tmp_path / "back"), logits(tmp_path / "run"))


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (
            {"model.norm.weight": "../run/best.pt"},
            "has 'model.norm.weight' in '../run/best.pt', allowed: a .safetensors",
        ),
        (
            {"model.norm.weight": "../x.safetensors"},
            "in '../x.safetensors', allowed: a .safetensors file of the folder",
        ),
        ({"model.norm.weight": "model-3.safetensors"}, "model-3.safetensors' is missing or damaged"),
        ({"model.x": "model-00001-of-00002.safetensors"}, "lacks 'model.x', which model.safetensors.index.json says"),
    ],
    ids=["a pickle", "outside", "missing", "absent name"],
)
def test_an_index_that_is_wrong_is_one_line(places, message, main, folder):
    sharded(folder, places)
    assert message in refused(main)


def test_half_precision_becomes_float32(main, folder, tmp_path):
    change_tensors(folder, lambda tensors: {n: t.bfloat16() for n, t in tensors.items()})
    assert main("import", "folder", "--out_dir", "back")[0] == 0
    weight = model_of(tmp_path / "back")[0].embed.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, model_of(tmp_path / "run")[0].embed.weight.bfloat16().float())


def test_names_of_a_bare_gpt2_and_its_stored_masks_are_understood(main, tmp_path):
    """The folders of 2019 have neither the prefix nor lm_head, but the causal mask of each block."""
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "transformer", "--tie_weights", "--embed_std", 0.02)
    assert main("export", "run", "--to", "folder")[0] == 0
    masks = {"h.0.attn.bias": torch.ones(1, 1, 24, 24), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    change_tensors(
        tmp_path / "folder", lambda tensors: {n.removeprefix("transformer."): t for n, t in tensors.items()} | masks
    )
    assert main("import", "folder", "--out_dir", "back", "--precision", "fp32")[0] == 0
    assert torch.equal(logits(tmp_path / "back"), logits(tmp_path / "run"))


def test_values_that_the_package_leaves_out_are_its_defaults(main, tmp_path):
    """save_pretrained writes only what differs from them. The default activation of GPT-2 is not ours."""
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "transformer")
    assert main("export", "run", "--to", "folder")[0] == 0
    path = tmp_path / "folder" / "config.json"
    document = json.loads(path.read_text())
    del document["layer_norm_epsilon"], document["n_inner"], document["scale_attn_weights"], document["bias"]
    path.write_text(json.dumps(document))
    assert main("import", "folder", "--out_dir", "back")[0] == 0
    del document["activation_function"]
    path.write_text(json.dumps(document))
    assert "got activation_function 'gelu_new'" in refused(main, "--overwrite")
    assert model_of(tmp_path / "back")[0].blocks[0].mlp.up.weight.shape == (64, 16)  # the first import is still there


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--d_model", 64], "--d_model: got 64, allowed: 16, that of 'folder'; leave it out"),
        (["--fair"], "--fair: got true, allowed: false"),
        (["--lr", "0.1"], "--lr: got 0.1, allowed: no flag of training; give it with --init_from"),
        (["--model", "gru"], "--model: got gru, allowed: llama"),
        (["--eval_only"], "--eval_only: does not go with import"),
        (["--task", "nedle"], "did you mean 'needle'"),
        (["--out_dir", "other"], "--out_dir: got 2 folders"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_a_flag_that_the_folder_decides_or_that_does_nothing_is_refused(arguments, message, main, folder, tmp_path):
    assert message in refused(main, *arguments)
    assert not (tmp_path / "back").exists()


def test_a_flag_that_says_the_same_as_the_folder_is_fine(main, folder):
    assert main("import", "folder", "--out_dir", "back", "--d_model", 16, "--model", "llama")[0] == 0


def test_the_folder_comes_first(main, folder, tmp_path):
    for arguments in ([], ["--out_dir", "back", "folder"]):
        code, out, err = main("import", *arguments)
        assert (code, out, err) == (2, "", "error: import: the folder comes first, as `import DIR --out_dir R`\n")
    code, _, err = main("import", "absent", "--out_dir", "back")
    assert (code, err.count("\n")) == (2, 1)
    assert "got 'absent' (no such folder)" in err


def test_an_existing_run_is_replaced_only_on_demand(main, folder, tmp_path):
    assert main("import", "folder", "--out_dir", "back")[0] == 0
    assert "'back' holds an imported run; replace it with --overwrite" in refused(main)
    assert main("import", "folder", "--out_dir", "back", "--overwrite")[0] == 0


def test_a_learned_table_decides_the_length_of_a_text(main, tmp_path):
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "transformer")
    assert main("export", "run", "--to", "folder")[0] == 0
    told = refused(main, "--context_len", 30)
    assert "--context_len: got 30, with which task text needs 30 positions, allowed: as many as the folder's" in told
    assert told.endswith("table has, 24; try --context_len 24\n")
    assert main("import", "folder", "--out_dir", "back")[0] == 0
    assert json.loads((tmp_path / "back" / "config.json").read_text())["args"]["context_len"] == 24


def test_dropout_comes_from_the_folder_unless_it_is_typed(main, tmp_path):
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, *ROUND_TRIPS["transformer"])
    assert main("export", "run", "--to", "folder")[0] == 0
    for name, typed, want in (("a", [], [0.2, 0.2, 0.1]), ("b", ["--dropout", "0.3"], [0.3, 0.2, 0.1])):
        assert main("import", "folder", "--out_dir", name, *typed)[0] == 0
        args = json.loads((tmp_path / name / "config.json").read_text())["args"]
        assert [args["dropout"], args["embed_dropout"], args["attn_dropout"]] == want


def test_an_imported_run_can_be_continued_evaluated_and_exported_but_not_resumed(main, folder, tmp_path):
    (tmp_path / "cat.txt").write_text(TEXT)
    assert main("import", "folder", "--out_dir", "back", "--context_len", 24, "--val_size", 2, "--test_size", 3)[0] == 0
    continued = [
        main("generate", run, "--prompt", "the cat", "--greedy", "--max_new_tokens", 9) for run in ("run", "back")
    ]
    assert continued[0] == continued[1]
    assert continued[0][0] == 0
    code, out, err = main("--eval_only", "--out_dir", "back", "--data_path", "cat.txt")
    assert code == 0, err
    result = json.loads(out)
    assert result["best"]["test"]["loss"] == result["last"]["test"]["loss"] > 0
    code, _, err = main("--resume", "--out_dir", "back")
    assert (code, err.count("\n")) == (2, 1)
    assert "was imported and has no state of a training; train on from its weights with --init_from" in err
    code, _, err = main("--vis_only", "--out_dir", "back")
    assert (code, err.count("\n")) == (2, 1)
    assert "back: imported, so it has no metrics.json; train on from it with --init_from" in err
    assert main("export", "back", "--to", "again", "--quiet")[0] == 0
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_evaluation_needs_a_text_of_the_folder_s_vocabulary(main, folder, tmp_path):
    assert main("import", "folder", "--out_dir", "back", "--context_len", 24)[0] == 0
    code, _, err = main("--eval_only", "--out_dir", "back")
    assert (code, err.count("\n")) == (2, 1)
    assert "--data_path: missing" in err
    (tmp_path / "other.txt").write_text("0123456789\n" * 200)
    code, _, err = main("--eval_only", "--out_dir", "back", "--data_path", "other.txt")
    assert (code, err.count("\n")) == (2, 1)
    assert "its vocabulary is not that of this data" in err


def test_subwords_of_a_folder_read_any_text(main, tmp_path):
    untrained(tmp_path / "run", train_bpe([TEXT], 270), *TEXT_RUN, "llama", "--tokenizer", "bpe")
    assert main("export", "run", "--to", "folder")[0] == 0
    sizes = ["--context_len", 24, "--val_size", 2, "--test_size", 3]
    assert main("import", "folder", "--out_dir", "back", *sizes)[0] == 0
    (tmp_path / "other.txt").write_text("0123456789 Füße\n" * 90, encoding="utf-8")
    code, out, err = main("--eval_only", "--out_dir", "back", "--data_path", "other.txt")
    assert code == 0, err
    assert json.loads(out)["best"]["test"]["loss"] > 0


def test_a_run_of_another_task_comes_back_under_its_task(main, tmp_path):
    """A task that makes its own data needs no text. Its flags are typed again, and its vocabulary is checked."""
    flags = ["--task", "parity", "--context_len", 24, "--max_len", 16, "--min_len", 2]
    untrained(tmp_path / "run", CharTokenizer.build("01"), *flags, "--model", "llama")
    assert main("export", "run", "--to", "folder")[0] == 0
    sizes = ["--val_size", 20, "--test_size", 30, "--precision", "fp32", "--threads", 1]
    assert main("import", "folder", "--out_dir", "back", *flags, *sizes)[0] == 0
    results = [main("--eval_only", "--out_dir", run) for run in ("run", "back")]
    assert [code for code, _, _ in results] == [0, 0], results
    results = [json.loads(out) for _, out, _ in results]
    assert results[0]["best"]["test"] == results[1]["best"]["test"]


@pytest.mark.parametrize(
    "place", ["tokenizer_config.json", pytest.param("named", marks=pytest.mark.slow), "chat_template.jinja"]
)
def test_a_folder_with_a_chat_template_can_be_talked_to(place, main, tmp_path):
    """The template is in tokenizer_config.json, there under a name, or in a file of its own."""
    run = untrained(
        tmp_path / "run", train_bpe([TEXT], 270), "--task", "chat", "--tokenizer", "bpe", "--model", "llama"
    )
    run.template.write_text(WITH_TOKENS)
    assert main("export", "run", "--to", "folder")[0] == 0
    config = tmp_path / "folder" / "tokenizer_config.json"
    if place == "named":
        change(config, chat_template=[{"name": "default", "template": WITH_TOKENS}])
    elif place != config.name:
        change(config, chat_template=None)
        (tmp_path / "folder" / place).write_text(WITH_TOKENS)
    assert main("import", "folder", "--out_dir", "back", "--precision", "fp32")[0] == 0
    talk = ["--chat", "--prompt", "the cat", "--greedy", "--max_new_tokens", 5]
    answers = [main("generate", run, *talk) for run in ("run", "back")]
    assert answers[0][0] == 0, answers[0]
    assert answers[0] == answers[1]


def test_a_chat_is_evaluated_with_the_folder_s_own_tokenizer(main, tmp_path):
    flags = ["--task", "chat", "--tokenizer", "bpe", "--context_len", 256]
    run = untrained(tmp_path / "run", train_bpe([TEXT], 270), *flags, "--model", "llama")
    run.template.write_text(WITH_TOKENS)
    assert main("export", "run", "--to", "folder")[0] == 0
    sizes = ["--val_size", 2, "--test_size", 2, "--precision", "fp32", "--threads", 1]
    assert main("import", "folder", "--out_dir", "back", "--task", "chat", *sizes)[0] == 0
    code, out, err = main("--eval_only", "--out_dir", "back")
    assert code == 0, err
    assert json.loads(out)["best"]["test"]["loss"] > 0


def test_an_imported_run_is_a_source_of_first_weights(main, folder, tmp_path):
    """What --init_from opens: weights, sizes and tokenizer of the folder."""
    assert main("import", "folder", "--out_dir", "back", "--context_len", 24)[0] == 0
    source, (model, tokenizer, task) = open_source("back"), model_of(tmp_path / "back")
    assert source.tokenizer.payload() == CHARS.payload()
    flags = source.flags(type(task))
    assert (flags["d_model"], flags["n_layer"], flags["context_len"], flags["pos"]) == (16, 1, 24, "rope")
    with torch.no_grad():
        model.embed.weight.zero_()
    source.apply(model, tokenizer)
    assert torch.equal(model.embed.weight, model_of(tmp_path / "run")[0].embed.weight)


@pytest.mark.slow
def test_another_training_begins_with_an_imported_run(main, folder, tmp_path):
    (tmp_path / "cat.txt").write_text(TEXT)
    assert main("import", "folder", "--out_dir", "back", "--context_len", 24)[0] == 0
    train = ["--task", "text", "--data_path", "cat.txt", "--model", "llama", "--init_from", "back", "--out_dir", "new"]
    sizes = ["--max_steps", 1, "--lr", "1e-9", "--min_lr", "1e-9", "--batch_chars", 64, "--val_size", 2]
    code, _, err = main(*train, *sizes, "--test_size", 2, "--threads", 1, "--quiet")
    assert code == 0, err
    tuned, source = model_of(tmp_path / "new")[0], model_of(tmp_path / "back")[0]
    assert torch.allclose(tuned.blocks[0].mixer.q_proj.weight, source.blocks[0].mixer.q_proj.weight, atol=1e-6)


def test_an_imported_run_is_sealed_and_says_where_it_came_from(main, folder, tmp_path):
    assert main("import", "folder", "--out_dir", "back")[0] == 0
    config = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (config["status"], config["imported"]["architecture"]) == ("imported", "LlamaForCausalLM")
    shutil.copytree(folder, tmp_path / "moved")
    assert main("import", "moved", "--out_dir", "second")[0] == 0
    second = json.loads((tmp_path / "second" / "config.json").read_text())
    assert second["imported"] == config["imported"]  # a digest of the content, not of the place
    change_tensors(folder, lambda tensors: {n: t + 1 for n, t in tensors.items()})
    assert main("import", "folder", "--out_dir", "third")[0] == 0
    assert json.loads((tmp_path / "third" / "config.json").read_text())["imported"] != config["imported"]
    text = (tmp_path / "back" / "config.json").read_text()
    (tmp_path / "back" / "config.json").write_text(text.replace('"dropout": 0.0', '"dropout": 0.1'))
    code, _, err = main("generate", "back", "--prompt", "the")
    assert (code, err.count("\n")) == (2, 1)
    assert "was edited or damaged" in err

"""`export`: what a folder holds, what has no form there, and that a folder appears whole or not at all.

python -m pytest tests/exchange/test_export.py
"""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from untrained_runs import TEXT, model_of, untrained

from dataset.bpe import train_bpe
from dataset.corpus.template import WITH_TOKENS
from dataset.tokenizer import CharTokenizer
from src.exchange import folder as exchange_folder

FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
CHARS = CharTokenizer.build(TEXT)
V, D = len(CHARS), 16
NEEDLE = ("--task", "needle", "--pos", "learned")
GPT2 = {
    "transformer.wte.weight": (V, D),
    "transformer.wpe.weight": (24, D),
    "transformer.h.0.ln_1.weight": (D,),
    "transformer.h.0.ln_1.bias": (D,),
    "transformer.h.0.attn.c_attn.weight": (D, 3 * D),
    "transformer.h.0.attn.c_attn.bias": (3 * D,),
    "transformer.h.0.attn.c_proj.weight": (D, D),
    "transformer.h.0.attn.c_proj.bias": (D,),
    "transformer.h.0.ln_2.weight": (D,),
    "transformer.h.0.ln_2.bias": (D,),
    "transformer.h.0.mlp.c_fc.weight": (D, 4 * D),
    "transformer.h.0.mlp.c_fc.bias": (4 * D,),
    "transformer.h.0.mlp.c_proj.weight": (4 * D, D),
    "transformer.h.0.mlp.c_proj.bias": (D,),
    "transformer.ln_f.weight": (D,),
    "transformer.ln_f.bias": (D,),
    "lm_head.weight": (V, D),
}
MAMBA = {
    "backbone.embeddings.weight": (V, D),
    "backbone.layers.0.norm.weight": (D,),
    "backbone.layers.0.mixer.A_log": (32, 4),
    "backbone.layers.0.mixer.D": (32,),
    "backbone.layers.0.mixer.conv1d.weight": (32, 1, 4),
    "backbone.layers.0.mixer.conv1d.bias": (32,),
    "backbone.layers.0.mixer.dt_proj.weight": (32, 1),
    "backbone.layers.0.mixer.dt_proj.bias": (32,),
    "backbone.layers.0.mixer.in_proj.weight": (64, D),
    "backbone.layers.0.mixer.out_proj.weight": (D, 32),
    "backbone.layers.0.mixer.x_proj.weight": (9, 32),
    "backbone.norm_f.weight": (D,),
    "lm_head.weight": (V, D),
}
MAMBA2 = {
    "backbone.embeddings.weight": (V, D),
    "backbone.layers.0.norm.weight": (D,),
    "backbone.layers.0.mixer.A_log": (4,),
    "backbone.layers.0.mixer.D": (4,),
    "backbone.layers.0.mixer.conv1d.weight": (40, 1, 4),
    "backbone.layers.0.mixer.conv1d.bias": (40,),
    "backbone.layers.0.mixer.dt_bias": (4,),
    "backbone.layers.0.mixer.in_proj.weight": (76, D),
    "backbone.layers.0.mixer.norm.weight": (32,),
    "backbone.layers.0.mixer.out_proj.weight": (D, 32),
    "backbone.norm_f.weight": (D,),
    "lm_head.weight": (V, D),
}
LLAMA = {
    "model.embed_tokens.weight": (V, D),
    "model.layers.0.input_layernorm.weight": (D,),
    "model.layers.0.self_attn.q_proj.weight": (D, D),
    "model.layers.0.self_attn.k_proj.weight": (D // 2, D),
    "model.layers.0.self_attn.v_proj.weight": (D // 2, D),
    "model.layers.0.self_attn.o_proj.weight": (D, D),
    "model.layers.0.post_attention_layernorm.weight": (D,),
    "model.layers.0.mlp.gate_proj.weight": (40, D),
    "model.layers.0.mlp.up_proj.weight": (40, D),
    "model.layers.0.mlp.down_proj.weight": (D, 40),
    "model.norm.weight": (D,),
    "lm_head.weight": (V, D),
}
SHAPES = {
    "llama": (LLAMA, "LlamaForCausalLM", ("--n_kv_head", 1)),
    "transformer": (GPT2, "GPT2LMHeadModel", ()),
    "mamba": (MAMBA, "MambaForCausalLM", ("--d_state", 4)),
    "mamba2": (MAMBA2, "Mamba2ForCausalLM", ("--d_state", 4, "--headdim", 8)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of a text for each family."""
    folder = tmp_path_factory.mktemp("runs")
    for name, (_, _, flags) in SHAPES.items():
        untrained(folder / name, CHARS, "--task", "text", "--model", name, *flags)
    return folder


@pytest.mark.parametrize("name", SHAPES)
def test_a_folder_has_the_files_names_and_shapes_of_hugging_face(name, main, runs, tmp_path):
    shapes, architecture, _ = SHAPES[name]
    code, out, err = main("export", runs / name, "--to", "new/folder")
    assert (code, out, err.count("\n")) == (0, "new/folder\n", 1)
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == FILES
    tensors = load_file(tmp_path / "new" / "folder" / "model.safetensors")
    assert {name: tuple(t.shape) for name, t in tensors.items()} == shapes
    assert {t.dtype for t in tensors.values()} == {torch.float32}
    config = json.loads((tmp_path / "new" / "folder" / "config.json").read_text())
    assert (config["architectures"], config["vocab_size"], config["tie_word_embeddings"]) == ([architecture], V, False)
    assert [config[f"{role}_token_id"] for role in ("pad", "bos", "eos")] == [0, 1, 2]


def test_an_exported_folder_holds_no_pickle(main, runs, tmp_path):
    """A pickle begins with PROTO (0x80) or is a zip archive, as torch.save writes it. The run's own files are both."""
    main("export", runs / "mamba", "--to", "folder")
    begins = [path.read_bytes()[:2] for path in (tmp_path / "folder").iterdir()]
    assert not [head for head in begins if head[:1] == b"\x80" or head == b"PK"]
    assert (runs / "mamba" / "best.pt").read_bytes()[:2] == b"PK"


def test_last_weights_are_others_than_best_ones(main, runs, tmp_path):
    for weights in ("best", "last"):
        assert main("export", runs / "mamba", "--to", weights, "--weights", weights)[0] == 0
        found = load_file(tmp_path / weights / "model.safetensors")["backbone.norm_f.weight"]
        assert torch.equal(found, model_of(runs / "mamba", weights)[0].norm.weight)
    assert (tmp_path / "best" / "model.safetensors").read_bytes() != (
        tmp_path / "last" / "model.safetensors"
    ).read_bytes()


def test_equal_runs_give_equal_bytes(main, runs, tmp_path):
    for name in "ab":
        main("export", runs / "transformer", "--to", name)
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in FILES)


def test_a_tied_head_is_not_stored_twice_and_its_scale_is_in_the_last_norm(main, tmp_path):
    run = untrained(tmp_path / "run", CHARS, "--task", "text", "--model", "mamba", "--tie_weights", "--embed_std", 0.5)
    model = model_of(run.path)[0]
    assert model.head_scale == 0.5
    assert main("export", "run", "--to", "tied")[0] == 0
    tensors = load_file(tmp_path / "tied" / "model.safetensors")
    assert "lm_head.weight" not in tensors
    assert torch.equal(tensors["backbone.norm_f.weight"], 0.5 * model.norm.weight)


@pytest.mark.parametrize("task", ["text", "needle"])
def test_the_stored_tokenizer_reads_a_prompt_as_the_task_does(task, main, tmp_path):
    """A text goes on as it is, a prompt of a task that writes an answer begins with <bos>."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    untrained(tmp_path / "run", CHARS, "--task", task, "--model", "mamba")
    assert main("export", "run", "--to", "folder")[0] == 0
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    _, tokenizer, of_run = model_of(tmp_path / "run")
    assert library.encode("the cat").ids == of_run.prompt_ids("the cat", tokenizer)[0].tolist()
    assert library.decode(tokenizer.encode("the cat").tolist()) == "the cat"


MISFITS = {
    "pos": ("transformer", ["--pos", "sinusoidal"], "--pos is sinusoidal in this run, allowed: learned"),
    "norm": ("transformer", ["--norm", "rms"], "--norm is rms in this run, allowed: layer"),
    "mlp": ("transformer", ["--mlp", "swiglu"], "--mlp is swiglu in this run, allowed: gelu"),
    "no MLP": ("transformer", ["--dim_ffn", "0"], "--dim_ffn is 0 in this run, allowed: at least 1"),
    "window": ("transformer", ["--window", "4"], "--window is 4 in this run, allowed: 0"),
    "short_conv": ("transformer", ["--short_conv", "4"], "--short_conv is 4 in this run, allowed: 0"),
    "an MLP": ("mamba", ["--dim_ffn", "32"], "--dim_ffn is 32 in this run, allowed: 0"),
    "LayerNorm": ("mamba2", ["--norm", "layer"], "--norm is layer in this run, allowed: rms"),
    "no convolution": ("mamba2", ["--short_conv", "0"], "--short_conv is 0 in this run, allowed: at least 1"),
    "positions": ("mamba", ["--pos", "learned"], "--pos is learned in this run, allowed: none"),
    "neg_eigen": ("mamba", ["--neg_eigen"], "--neg_eigen is True in this run, allowed: False"),
    "fair": ("mamba", ["--fair"], "--fair is True in this run, allowed: False"),
    "gru": (
        "gru",
        [],
        "--model: got 'gru', which has no form in Hugging Face's format, allowed: llama, transformer, mamba",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_has_no_form_there_is_one_line_that_names_the_flag(case, main, tmp_path):
    model, flags, message = MISFITS[case]
    untrained(tmp_path / "run", CHARS, "--task", "text", "--model", model, *flags)
    code, out, err = main("export", "run", "--to", "folder")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "folder").exists()


def test_an_existing_folder_is_replaced_only_on_demand_and_only_if_export_wrote_it(main, runs, tmp_path):
    assert main("export", runs / "mamba", "--to", "folder")[0] == 0
    before = (tmp_path / "folder" / "config.json").read_text()
    code, _, err = main("export", runs / "mamba2", "--to", "folder")
    assert (code, err.count("\n")) == (2, 1)
    assert "'folder' exists, allowed: a new folder; replace it with --overwrite" in err
    assert (tmp_path / "folder" / "config.json").read_text() == before
    assert main("export", runs / "mamba2", "--to", "folder", "--overwrite")[0] == 0
    assert "Mamba2ForCausalLM" in (tmp_path / "folder" / "config.json").read_text()
    (tmp_path / "folder" / "thesis.tex").write_text("mine")
    code, _, err = main("export", runs / "mamba", "--to", "folder", "--overwrite")
    assert code == 2
    assert "holds 'thesis.tex', which no export wrote" in err
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder"]


@pytest.mark.parametrize("there", [False, True])
def test_an_export_that_fails_leaves_what_was_there(there, main, runs, tmp_path, monkeypatch):
    """A full disk in the middle of the weights: no folder, or the old one, and no file beside it."""
    if there:
        assert main("export", runs / "mamba", "--to", "folder")[0] == 0

    def full(path, tensors):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exchange_folder, "_write_tensors", full)
    code, _, err = main("export", runs / "mamba2", "--to", "folder", "--overwrite")
    assert (code, err.count("\n")) == (1, 1)
    assert "No space left on device" in err
    assert [p.name for p in tmp_path.iterdir()] == ["folder"] * there
    assert not there or "MambaForCausalLM" in (tmp_path / "folder" / "config.json").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "export: got 0 run directories"),
        (["a", "--out_dir", "b", "--to", "x"], "export: got 2 run directories"),
        (["absent", "--to", "x"], "absent' \\(no such folder\\)"),
        (["RUN"], "--to: missing, allowed: a new folder"),
        (["RUN", "--to", "x", "--weights", "first"], "--weights"),
    ],
    ids=["no run", "two runs", "absent", "no target", "weights"],
)
def test_a_wrong_command_line_is_one_line(arguments, message, main, runs, tmp_path):
    code, out, err = main("export", *[runs / "mamba" if a == "RUN" else a for a in arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_was_altered_is_not_exported(main, runs, tmp_path):
    shutil.copytree(runs / "mamba", tmp_path / "run")
    data = bytearray((tmp_path / "run" / "best.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "run" / "best.pt").write_bytes(data)
    code, _, err = main("export", "run", "--to", "folder")
    assert (code, err.count("\n")) == (2, 1)
    assert "was altered or damaged" in err
    assert not (tmp_path / "folder").exists()


def test_a_chat_keeps_its_template_and_stops_at_its_end_of_turn(main, tmp_path):
    """`generate` of the package stops at each of these ids."""
    tokenizer = train_bpe([TEXT], 270)
    run = untrained(tmp_path / "run", tokenizer, "--task", "chat", "--tokenizer", "bpe", "--model", "mamba")
    run.template.write_text(WITH_TOKENS)
    assert main("export", "run", "--to", "folder")[0] == 0
    read = {name: json.loads((tmp_path / "folder" / name).read_text()) for name in FILES if name.endswith(".json")}
    assert read["generation_config.json"]["eos_token_id"] == [2, tokenizer.special_ids["<|end|>"]]
    assert read["tokenizer_config.json"]["chat_template"] == WITH_TOKENS
    run.template.unlink()
    assert main("export", "run", "--to", "folder", "--overwrite")[0] == 0
    assert json.loads((tmp_path / "folder" / "generation_config.json").read_text())["eos_token_id"] == 2
    assert "chat_template" not in json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())

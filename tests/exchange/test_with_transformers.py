"""Exported folders in the package `transformers` itself, and folders of the package as runs.

    python -m pytest tests/exchange/test_with_transformers.py            # one case of each family
    python -m pytest -m slow tests/exchange/test_with_transformers.py    # all cases

AutoModelForCausalLM and AutoTokenizer load a folder offline. Logits agree within 1e-4, and greedy text is equal.
"""

import importlib.util

import pytest
import torch
from untrained_runs import TEXT, model_of, untrained

from dataset.bpe import train_bpe
from dataset.corpus.chat_format import ChatFormat, default_template
from dataset.corpus.conversations import Message
from dataset.corpus.template import SPELLED
from dataset.tokenizer import CharTokenizer

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="transformers is not installed: pip install transformers"
)
LIMIT = 1e-4  # of the largest logit, in float32
CHARS = CharTokenizer.build(TEXT, ["<pad>", "<bos>", "<eos>", "<unk>"])
TEXT_RUN = ("--task", "text", "--context_len", 64, "--model")
ONE_OF_EACH = {
    "llama": ["llama", "--n_kv_head", "1", "--rope_base", "500", "--n_layer", "2"],
    "transformer": ["transformer", "--n_layer", "2"],
    "mamba": ["mamba", "--d_state", "4", "--backend", "eager"],
    "mamba2": ["mamba2", "--d_state", "4", "--headdim", "8", "--tie_weights", "--embed_std", "0.5"],
}
FURTHER = {
    "llama, tied": ["llama", "--tie_weights", "--embed_std", "0.7", "--dim_ffn", "24"],
    "llama, window": ["llama", "--window", "5", "--n_layer", "2"],
    "llama, qk_norm": ["llama", "--qk_norm", "--n_layer", "2"],
    "transformer, tied, no biases": ["transformer", "--tie_weights", "--no_bias", "--embed_std", "0.7"],
    "mamba, other sizes": ["mamba", "--dt_rank", "3", "--expand", "3", "--short_conv", "2", "--tie_weights"],
    "mamba2, groups": ["mamba2", "--ngroups", "2", "--headdim", "8", "--n_layer", "2"],
}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")


def loaded(folder):
    """(the model, the tokenizer) as the package loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def difference(ours, theirs, vocab: int, length: int = 37) -> float:
    """The largest difference of two models' logits, as a share of the largest logit."""
    ids = torch.randint(0, vocab, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want, got = ours(ids), theirs(ids).logits
    return ((want - got).abs().max() / want.abs().max()).item()


def assert_the_same(run, folder, prompt: str, new_tokens: int) -> None:
    """Logits within LIMIT, equal ids of the prompt, and equal greedy text."""
    model, tokenizer, task = model_of(run)
    theirs, their_tokenizer = loaded(folder)
    assert difference(model, theirs, len(tokenizer)) < LIMIT
    ids = torch.from_numpy(task.prompt_ids(prompt, tokenizer))
    there = their_tokenizer(prompt, return_tensors="pt").input_ids
    assert torch.equal(ids, there)
    theirs.generation_config.eos_token_id = None  # weights that were not trained may end a text at once
    new = model.generate(ids, new_tokens, temperature=0.0)[0]
    answer = theirs.generate(there, max_new_tokens=new_tokens, do_sample=False)[0, there.shape[1] :]
    assert len(new) == new_tokens
    assert torch.equal(new, answer)
    written = [i for i in new.tolist() if i != tokenizer.eos]
    text = tokenizer.decode(written).replace("<unk>", "")  # the package leaves it out with the special tokens
    assert text == their_tokenizer.decode(written, skip_special_tokens=True)


def compare(case, flags, main, tmp_path, new_tokens=20) -> None:
    untrained(tmp_path / case, CHARS, *TEXT_RUN, *flags)
    assert main("export", case, "--to", f"{case}-folder")[0] == 0
    assert_the_same(tmp_path / case, tmp_path / f"{case}-folder", "the cat", new_tokens)


@pytest.mark.slow
def test_each_family_has_the_package_s_logits_and_greedy_text(main, tmp_path):
    """One test, because the import of the package takes seconds in each process that makes it."""
    for case, flags in ONE_OF_EACH.items():
        compare(case, flags, main, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", FURTHER)
def test_further_forms_have_them_too(case, main, tmp_path):
    compare(case, FURTHER[case], main, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["llama", "mamba"])
def test_greedy_text_is_equal_over_256_tokens(case, main, tmp_path):
    compare(case, ONE_OF_EACH[case], main, tmp_path, new_tokens=256)


@pytest.mark.slow
def test_a_task_that_writes_answers_begins_with_bos_there_too(main, tmp_path):
    untrained(tmp_path / "run", CHARS, "--task", "needle", "--model", "llama")
    assert main("export", "run", "--to", "folder")[0] == 0
    assert_the_same(tmp_path / "run", tmp_path / "folder", "the cat", 20)
    assert loaded(tmp_path / "folder")[1]("a").input_ids[0] == 1


@pytest.mark.slow
def test_subword_tokens_travel_both_ways(main, tmp_path):
    tokenizer = train_bpe([TEXT, "Füße, 語 and 😀\n" * 9], 300)
    untrained(tmp_path / "run", tokenizer, *TEXT_RUN, "llama")
    assert main("export", "run", "--to", "folder")[0] == 0
    assert_the_same(tmp_path / "run", tmp_path / "folder", "Füße, the 語 cat😀 x", 20)
    assert main("import", "folder", "--out_dir", "back", "--precision", "fp32")[0] == 0
    assert model_of(tmp_path / "back")[1].payload() == tokenizer.payload()


@pytest.mark.slow
@pytest.mark.parametrize("vocabulary", ["bpe", "char"])
def test_a_chat_is_written_as_the_package_s_template_writes_it(vocabulary, main, tmp_path):
    """apply_chat_template gives the ids of ours, for tokens of the roles and for roles that are spelled."""
    talk = [("user", "the cat"), ("assistant", "sat on"), ("user", "the mat")]
    made = {"bpe": train_bpe([TEXT], 270), "char": CharTokenizer.build(TEXT + SPELLED + "user:assistant:system:")}
    tokenizer = made[vocabulary]
    text = default_template(tuple(tokenizer.special_ids))
    run = untrained(tmp_path / "run", tokenizer, "--task", "chat", "--tokenizer", vocabulary, "--model", "llama")
    run.template.write_text(text)
    assert main("export", "run", "--to", "folder")[0] == 0
    form = ChatFormat(tokenizer, text)
    theirs = loaded(tmp_path / "folder")[1]
    messages = [{"role": role, "content": content} for role, content in talk]
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ids == form.prompt([Message(*one) for one in talk]).tolist()
    ids = theirs.apply_chat_template(messages[:2], return_dict=False)
    assert ids == form.encode([Message(*one) for one in talk[:2]])[0].tolist()


CONFIGS = {
    "LlamaConfig": {"num_key_value_heads": 1, "rms_norm_eps": 1e-5, "intermediate_size": 24},
    "MistralConfig": {"num_key_value_heads": 1, "rms_norm_eps": 1e-5, "intermediate_size": 24, "sliding_window": 5},
    "Qwen3Config": {"num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5, "intermediate_size": 24},
    "GPT2Config": {"activation_function": "gelu", "n_positions": 64},
    "MambaConfig": {"state_size": 4},
    "Mamba2Config": {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_folder_that_the_package_wrote_becomes_a_run(name, main, tmp_path):
    """save_pretrained leaves out what is the default, and writes in several files where it is told to."""
    import transformers

    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "mamba")  # for its tokenizer
    assert main("export", "run", "--to", "folder")[0] == 0
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": len(CHARS)}
    heads = {} if "Mamba" in name else {"num_attention_heads": 2}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = getattr(transformers, name)(**sizes, **heads, **special, **CONFIGS[name])
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(config).eval()
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "folder").save_pretrained(tmp_path / "theirs")
    assert main("import", "theirs", "--out_dir", "back", "--precision", "fp32")[0] == 0
    model, tokenizer, _ = model_of(tmp_path / "back")
    assert tokenizer.payload() == CHARS.payload()
    assert difference(model, theirs, len(tokenizer)) < LIMIT


@pytest.mark.slow
def test_logits_of_a_layer_that_is_wrong_are_noticed(main, tmp_path):
    untrained(tmp_path / "run", CHARS, *TEXT_RUN, "llama")
    assert main("export", "run", "--to", "folder")[0] == 0
    model, tokenizer, _ = model_of(tmp_path / "run")
    with torch.no_grad():
        model.blocks[0].mixer.v_proj.weight.mul_(1.01)
    assert difference(model, loaded(tmp_path / "folder")[0], len(tokenizer)) > 2 * LIMIT

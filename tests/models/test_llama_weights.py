"""llama against the classes of transformers with the same weights: logits, greedy text, and the way back.

python -m pytest tests/models/test_llama_weights.py            (-m slow for every form)
"""

import pytest
import torch
from small_models import NoTask, disturb

from src.flags.run_flags import resolve
from src.models.backbone import build, resolve_auto
from src.models.llama import Llama, from_hugging_face, kv_heads, to_hugging_face

VOCABULARY, LONGEST, NEW = 61, 300, 256
FORMS = {
    "own keys per head": {},
    "one head of keys": {"n_kv_head": 1},
    "another base": {"rope_base": 500_000.0},
    "tied": {"tie_weights": True, "embed_std": 0.02},
    "tied, large embeddings": {"tie_weights": True, "embed_std": 1.0, "n_kv_head": 2},
    "a norm on q and k": {"qk_norm": True, "n_kv_head": 2},
    "a window": {"window": 9, "n_kv_head": 2},
}


def pair(**given):
    """Our model, its parameters away from their start, the one of transformers with the same weights, and the flags."""
    transformers = pytest.importorskip("transformers", reason="needs transformers (requirements-dev.txt)")
    flags = resolve(NoTask, Llama, **{"d_model": 32, "n_layer": 2, "n_head": 4, **given})
    args = resolve_auto(Llama, flags)
    kind = "Qwen3" if args.qk_norm else "Mistral" if args.window else "Llama"
    config = getattr(transformers, kind + "Config")(
        vocab_size=VOCABULARY,
        hidden_size=args.d_model,
        intermediate_size=args.dim_ffn,
        num_hidden_layers=args.n_layer,
        num_attention_heads=args.n_head,
        num_key_value_heads=kv_heads(args),
        head_dim=args.d_model // args.n_head,
        max_position_embeddings=LONGEST,
        rms_norm_eps=1e-5,
        rope_theta=args.rope_base,
        tie_word_embeddings=args.tie_weights,
        **({"sliding_window": args.window} if args.window else {}),
    )
    torch.manual_seed(0)
    ours = disturb(build(Llama, VOCABULARY, flags, LONGEST), 0.1).eval()
    theirs = getattr(transformers, kind + "ForCausalLM")(config).eval()
    loaded = theirs.load_state_dict(to_hugging_face(ours.state_dict(), args), strict=False)
    assert (loaded.missing_keys, loaded.unexpected_keys) == (["lm_head.weight"] * args.tie_weights, [])
    return ours, theirs, args


def ids(batch, length):
    return torch.randint(0, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(2))


def logits_gap(ours, theirs, length):
    x = ids(2, length)
    with torch.no_grad():
        return (ours(x) - theirs(x).logits).abs().max().item()


def agrees(given, new):
    ours, theirs, args = pair(**given)
    assert max(logits_gap(ours, theirs, length) for length in (1, 7, 65)) <= 1e-4
    written = ours.generate(ids(1, 5), new, temperature=0)
    want = theirs.generate(ids(1, 5), max_new_tokens=new, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(written, want[:, 5:])
    back = from_hugging_face(theirs.state_dict(), args)
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(back[name], value, atol=0, rtol=1e-6)
    return written


def test_logits_and_256_greedy_tokens_are_those_of_transformers():
    assert len(set(agrees({"n_kv_head": 2}, NEW)[0].tolist())) > 9  # no short cycle, which hides an error


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_the_logits_and_the_text_of_transformers(form):
    agrees(FORMS[form], NEW)


@pytest.mark.slow
def test_the_comparison_sees_heads_of_queries_in_another_order():
    ours, theirs, _ = pair(n_kv_head=2)
    weight = ours.blocks[0].mixer.q_proj.weight
    weight.data = weight.data.roll(8, 0)  # by one head
    assert logits_gap(ours, theirs, 7) > 1e-2

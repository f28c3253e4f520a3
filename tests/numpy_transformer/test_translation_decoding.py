"""Decoding: keys and values that are kept, batches, beam search against all translations there are, and scores."""

import itertools

import numpy as np
import pytest

from src.numpy_transformer import decoding
from src.numpy_transformer.datasets import make_batch, pad_right
from src.numpy_transformer.decoding import beam_search, log_softmax, translate
from src.numpy_transformer.layers import Linear
from src.numpy_transformer.scores import nearest, score
from src.numpy_transformer.tokenization import BOS, EOS, PAD
from src.numpy_transformer.transformer import Seq2Seq, Sizes

SOURCES = [[4, 5, 6, 4], [5], [6, 6]]


def model_of(target_words=9, seed=1):
    """A model whose choices are clear: the head is larger than at the start of a training."""
    model = Seq2Seq(Sizes(7, target_words, 8, 2, 2, 12), np.random.default_rng(seed), np.float64)
    model.params.named["head.w"].value[...] *= 4
    return model


def sources(rows=SOURCES):
    return pad_right([[*row, EOS] for row in rows])


def logits_of(model, source, target):
    """Logits (T + 1, V) of one pair, each after <bos> and the words of `target` so far, by one full forward pass."""
    return model.forward(make_batch([(source, list(target))]))[0]


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_step_with_stored_keys_and_values_is_the_full_forward_pass(pre_norm):
    model = Seq2Seq(Sizes(7, 9, 8, 2, 2, 12, pre_norm), np.random.default_rng(0), np.float64)
    target = [4, 7, 5, 8]
    X_ids, M_src = sources([SOURCES[0]])
    caches, found = model.start(X_ids, M_src, 5), []
    for t, i in enumerate([BOS, *target]):
        found.append(model.next_logits(np.array([i]), caches, t, M_src)[0])
    wanted = logits_of(model, SOURCES[0], target)
    assert np.abs(np.array(found)[:, 2:] - wanted[:, 2:]).max() < 1e-12
    assert (np.array(found)[:, [PAD, BOS]] == -np.inf).all()


def test_greedy_decoding_writes_the_likeliest_word_each_time():
    model = model_of()
    X_ids, M_src = sources()
    found = model.greedy_decode(X_ids, M_src, 6)
    assert found.dtype == np.int32
    for source, row in zip(SOURCES, found.tolist(), strict=True):
        words = []
        while len(words) < 6 and words[-1:] != [EOS]:
            words.append(2 + int(logits_of(model, source, words)[-1, 2:].argmax()))
        assert row[: len(words)] == words
        assert set(row[len(words) :]) <= {PAD}


def test_greedy_decoding_passes_each_token_through_the_decoder_once(monkeypatch):
    """A decoder that reads its beginning again in each step would pass 1 + 2 + ... tokens."""
    model, rows, forward = model_of(), [], Linear.forward

    def counted(self, x):
        if self is model.decoder.layers[0].feed_forward.up:
            rows.append(x.shape[:2])
        return forward(self, x)

    monkeypatch.setattr(Linear, "forward", counted)
    X_ids, M_src = sources()
    found = model.greedy_decode(X_ids, M_src, 6)
    assert rows == [(3, 1)] * found.shape[1]


def test_a_sentence_is_translated_alike_alone_and_in_a_batch(monkeypatch):
    """Padding has no effect, and neither have the rows of another batch."""
    model = model_of()
    alone = [translate(model, [source], 6)[0] for source in SOURCES]
    assert translate(model, SOURCES, 6) == alone
    monkeypatch.setattr(decoding, "ROWS", 2)
    assert translate(model, SOURCES, 6) == alone
    X_ids, M_src = sources()
    memory = model.encoder_forward(X_ids, M_src)
    for source, row, real in zip(SOURCES, memory, M_src, strict=True):
        by_itself = model.encoder_forward(*sources([source]))[0]
        assert np.abs(row[real] - by_itself).max() < 1e-12


def test_hiding_padded_targets_changes_nothing_at_real_tokens():
    model, batch = model_of(), make_batch([([4, 5], [4, 5, 6]), ([6], [7])])
    memory = model.encoder_forward(batch.X_ids, batch.M_src)
    without = model.decoder_forward(batch.Y_in, memory, batch.M_src)[batch.M_tgt]
    hidden = model.decoder_forward(batch.Y_in, memory, batch.M_src, batch.M_tgt)[batch.M_tgt]
    assert np.abs(without - hidden).max() < 1e-12


def every_translation(model, source, max_T, words):
    """{ids: mean log probability} of all translations that end with <eos> within max_T tokens."""
    found = {}
    for length in range(max_T):
        for target in itertools.product(words, repeat=length):
            logits = logits_of(model, source, target)
            logits[:, [PAD, BOS]] = -np.inf
            log_p = log_softmax(logits)
            ids = (*target, EOS)
            found[ids] = sum(log_p[t, i] for t, i in enumerate(ids)) / len(ids)
    return found


@pytest.mark.parametrize("seed", [1, 4])
def test_a_wide_beam_finds_the_best_of_all_translations(seed):
    """Four words besides <pad> and <bos>, at most three tokens: 1 + 3 + 9 translations, all within a beam of 64."""
    model = model_of(target_words=6, seed=seed)
    every = every_translation(model, SOURCES[0], 3, (3, 4, 5))
    ids, found = beam_search(model, *sources([SOURCES[0]]), 3, 64)
    best = max(every, key=every.get)
    assert tuple(ids) == best
    assert found == pytest.approx(every[best], abs=1e-12)


def test_beam_one_is_greedy_decoding():
    model = model_of()
    greedy = translate(model, SOURCES, 6)
    assert [beam_search(model, *sources([source]), 6, 1)[0] for source in SOURCES] == greedy


def test_a_beam_finds_what_greedy_decoding_misses():
    """Of 40 seeds, in this one the likeliest first word is not that of the translation with the best mean."""
    model = model_of(target_words=6, seed=25)
    model.params.named["head.w"].value[...] /= 4
    every = every_translation(model, SOURCES[0], 3, (3, 4, 5))
    greedy, wide = (tuple(translate(model, [SOURCES[0]], 3, beam)[0]) for beam in (1, 4))
    assert every[wide] > every[greedy]


def test_a_translation_without_an_end_is_taken_only_if_none_has_one():
    model = model_of(target_words=5)
    model.params.named["head.w"].value[:, EOS] = 0
    model.decoder.norm.bias.value[...] = model.params.named["head.w"].value[:, 4] * 50  # word 4 is always the likeliest
    ids, _ = beam_search(model, *sources([SOURCES[0]]), 4, 1)
    assert ids == [4, 4, 4, 4]
    assert model.greedy_decode(*sources([SOURCES[0]]), 4).tolist() == [ids]


def test_scores_count_whole_sentences_and_places():
    found = score([[4, 5, EOS], [4, EOS], [4, 5, 6]], [[4, 5], [4, 6], [4]])
    assert (found["count"], found["right"], found["whole"]) == (3, 1, 1 / 3)
    assert found["words"] == pytest.approx((2 + 1 + 1) / (2 + 2 + 3))
    assert found["interval"][0] < 1 / 3 < found["interval"][1]


def test_the_nearest_training_sentence_has_the_most_words_in_common():
    train = [([4, 5, 6], [1]), ([4, 5], [2]), ([7], [3])]
    assert nearest(train, [[4, 5], [7, 6], [9]]) == [[2], [3], [1]]

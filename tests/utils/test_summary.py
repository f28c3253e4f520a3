"""The lines at the end of a run, and samples.txt.

python -m pytest tests/utils/test_summary.py
"""

import re
from typing import ClassVar

import pytest
import torch
from planted_metrics import good_metrics
from small_tasks import make

from dataset.loaders import TaskData, build_loaders
from dataset.tokenizer import EOS, SPECIAL
from src.models.contract import ARModel
from src.utils.samples import language_samples, samples_text
from src.utils.summary import summary

CPU = torch.device("cpu")


def lines_of(document, **changes) -> list[str]:
    machine = {"train_seconds": 41.3, "command_seconds": 50.2}
    return summary({**document, "machine": machine, **changes}).splitlines()


def test_a_summary_says_score_chance_lengths_and_cost():
    document = good_metrics()
    score, scaled, *lengths, left_out, cost = lines_of(document)
    final = document["final_test"]
    low, high = final["intervals"]["hit_rate"]
    assert score == (
        f"test hit_rate {final['hit_rate']:.4f} [{low:.3f}, {high:.3f}] (95 %, test sampling, 2,000 sequences)"
        f"   loss 0.4   token_acc {final['token_acc']:.4g}"
    )
    assert scaled == (
        f"scaled {document['scaled']:.3f}   chance: uniform < 0.001  unigram 0  query-blind 0.06   ceiling 1"
        "   baselines: copy the last needle 0.21"
    )
    assert [line.split(":")[0] for line in lengths] == ["length 128", "length 256"], "not that of training"
    assert lengths[1] == "length 256: undefined (beyond the learned position table of 210)"
    assert left_out == "left out of test, too few distinct examples: 1 digit"
    assert cost == (
        "84,600 parameters (5,440 of them embedding, 73,720 outside embeddings and head)   600 steps   "
        "2,457,600 characters   41 s training, 50 s in all"
    )


def test_a_summary_names_what_fair_could_not_make_equal():
    document = good_metrics()
    assert not any("--fair" in line for line in lines_of(document))
    assert "--fair leaves these differences: none" in lines_of(document, fair_differences=[])
    assert "--fair leaves these differences: a; b" in lines_of(document, fair_differences=["a", "b"])


@pytest.mark.parametrize(
    ("unit", "units", "words"),
    [("sequence", 1, "1 sequence"), ("sequence", 2_000, "2,000 sequences"), ("block of text", 30, "30 blocks of text")],
)
def test_a_summary_says_what_its_interval_is_of(unit, units, words):
    document = good_metrics()
    basis = {"hit_rate": {**document["final_test"]["interval_basis"]["hit_rate"], "unit": unit, "units": units}}
    final = {**document["final_test"], "intervals": {"hit_rate": [0.25, 0.75]}, "interval_basis": basis}
    assert f" [0.250, 0.750] (95 %, test sampling, {words})   loss" in lines_of(document, final_test=final)[0]


@pytest.mark.parametrize(
    ("level", "shown"), [(6.88e-10, "< 0.001"), (9.99e-4, "< 0.001"), (1e-3, "0.001"), (0.0, "0"), (0.5, "0.5")]
)
def test_a_tiny_chance_level_is_shown_without_its_digits(level, shown):
    document = good_metrics()
    assert f"chance: uniform {shown}   ceiling" in lines_of(document, floors={"uniform": {"primary": level}})[1]


def test_a_summary_of_a_divergence_names_its_step():
    first, scaled, *_ = lines_of(good_metrics(diverged_at=130))
    assert first == "diverged at step 130; the run scores its chance level"
    assert scaled.startswith("scaled 0.000 ")


def test_a_summary_of_a_language_task_shows_other_windows_with_their_loss():
    document = good_metrics("tiny_shakespeare", kind="language", lengths=(64, 128, 32))
    lengths = [line for line in lines_of(document) if line.startswith("length ")]
    assert len(lengths) == 2
    assert all(re.fullmatch(r"length (128|32): 0\.\d{4}   loss 0\.3", line) for line in lengths)


MEAN = {"lengths": list(range(41, 501)), "value": 0.75, "scaled": 0.5, "ci": [0.74, 0.7625]}


def test_a_summary_of_many_lengths_shows_ten_and_their_mean():
    document = good_metrics(lengths=(40,))
    row = {**document["length_curve"][0], "in_distribution": False}
    curve = [{**row, "length": n} for n in MEAN["lengths"]]
    lines = [line for line in lines_of(document, length_curve=curve, length_mean=MEAN) if "length" in line]
    assert len(lines) == 11
    assert lines[0].startswith("length 41: ")
    assert lines[-2].startswith("length 500: ")
    assert lines[-1] == "mean over 41 to 500 (460 lengths): 0.7500 [0.7400, 0.7625]   scaled 0.5000"
    without = lines_of(document, length_curve=curve, length_mean={**MEAN, "value": None, "scaled": None, "ci": None})
    assert "mean over 41 to 500 (460 lengths): undefined, because not every length has a value" in without


def test_a_summary_shows_notes_and_what_a_published_number_compares_with():
    preset = {
        "name": "grazzi-parity",
        "source": "Grazzi et al. 2024",
        "published": "DeltaNet .02",
        "compare": "length_mean.scaled",
        "differences": ["one seed"],
        "changed": {"lr": 0.01, "eval_lengths": ["2x", "4x"]},
    }
    lines = lines_of(good_metrics(), preset=preset, notes=["the loss was still falling"])
    assert "note: the loss was still falling" in lines
    at = lines.index("published (Grazzi et al. 2024): DeltaNet .02")
    assert lines[at + 1 : at + 4] == [
        "  compare: length_mean.scaled",
        "  differs: one seed",
        "  changed from --preset grazzi-parity: --lr 0.01 --eval_lengths 2x,4x",
    ]


class Silent(ARModel):
    """A model that always predicts <eos>."""

    def __init__(self, vocab_size):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(EOS), vocab_size) * 100.0)

    def forward(self, x, attn_mask=None):
        return self.logits.expand(*x.shape, -1)


def test_samples_of_a_text_continue_the_prompt_without_bos_and_fill_the_position_table(tmp_path):
    class Listener(Silent):
        max_len = 16
        asked: ClassVar[list] = []

        def generate(self, prompt_ids, max_new_tokens, **how):
            self.asked.append((prompt_ids.tolist(), max_new_tokens))
            return super().generate(prompt_ids, max_new_tokens, **how)

    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question\n" * 60)
    task, _ = make("tiny_shakespeare", data_path=str(tmp_path / "text.txt"), context_len=16, val_size=2, test_size=2)
    tokenizer = task.tokenizer()
    text = language_samples(Listener(len(tokenizer)), TaskData(task, tokenizer, None), CPU, seed=0)
    ((prompts, new),) = Listener.asked  # in one batch
    for block, ids in zip(text.split("=" * 80), prompts, strict=True):
        assert block.strip("\n").startswith("prompt\n" + tokenizer.decode(ids) + "\n---")
        assert min(ids) >= len(SPECIAL)
        assert (len(ids), new) == (8, 9), "the last of 17 characters is written but not read"


def test_an_answer_without_characters_is_shown_as_empty():
    task, args = make("reverse", context_len=8, val_size=2, test_size=2)
    tokenizer, loaders, data = build_loaders(task, args)
    text = samples_text(Silent(len(tokenizer)), loaders["test"].dataset.examples, data, CPU)
    assert text.count("got       (empty)   (wrong)\n") == 2


def test_a_special_token_predicted_for_a_label_is_a_dot_that_is_explained():
    task, args = make("parity", context_len=8, val_size=2, test_size=2)
    tokenizer, loaders, data = build_loaders(task, args)
    examples = loaders["test"].dataset.examples
    blocks = samples_text(Silent(len(tokenizer)), examples, data, CPU).strip().split("\n\n")
    dots = "·" * len(examples[0].labels)
    assert blocks[0].splitlines()[2] == f"got       {dots}  (· is no character but a special token)"


def test_a_continuation_without_characters_is_shown_as_empty(tmp_path):
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question\n" * 60)
    task, _ = make("tiny_shakespeare", data_path=str(tmp_path / "text.txt"), context_len=16, val_size=2, test_size=2)
    tokenizer = task.tokenizer()
    text = language_samples(Silent(len(tokenizer)), TaskData(task, tokenizer, None), CPU, seed=0)
    blocks = text.split("=" * 80)
    assert len(blocks) == 5
    assert all(block.strip().endswith("--- got (temperature 0.8)\n(empty)") for block in blocks)

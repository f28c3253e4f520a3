"""What a finished training leaves besides its checkpoint: history.json, samples.txt and two figures."""

from __future__ import annotations

import numpy as np

from src.figures.style import save
from src.numpy_transformer.datasets import make_batch
from src.numpy_transformer.decoding import translate
from src.numpy_transformer.figures import figure_attention, figure_loss
from src.numpy_transformer.folder import KIND, TranslationRun
from src.numpy_transformer.loop import Training
from src.numpy_transformer.scores import nearest, score
from src.numpy_transformer.tokenization import EOS, SPECIALS, decode
from src.numpy_transformer.transformer import Seq2Seq
from src.storage.files import open_sealed, seal, write_atomic, write_json

SAMPLES = 5  # of each part
INTERRUPTED, DONE, DIVERGED = "interrupted", "done", "diverged"


def write_history(run: TranslationRun, training: Training, status: str, scores: dict | None = None) -> None:
    """Write the figure of the losses and history.json (settings, losses, scores).

    status: done, interrupted or diverged.
    """
    train = [[n, loss] for n, loss in enumerate(training.losses, 1)]
    document = {
        "schema": 1,
        "kind": KIND,
        "status": status,
        "settings": training.config.settings(),
        "parameters": int(training.model.params.values.size),
        "steps": training.step,
        "train": train,
        "heldout": [list(point) for point in training.heldout],
        "scores": scores or {},
    }
    title = f"{training.config.name}: {status} at step {training.step} of {training.steps}"
    save(figure_loss(train, training.heldout, title), run.figures / "loss.png")
    write_json(run.history, seal(document))


def conclude(run: TranslationRun, training: Training) -> list[str]:
    """Translate all pairs greedily; write history, samples and figures; return the scores as lines to print."""
    prepared, scores, samples, lines = training.prepared, {}, [], []
    for part, pairs in (("train", prepared.train), ("heldout", prepared.heldout)):
        if not pairs:
            continue
        sources, wanted = [p[0] for p in pairs], [p[1] for p in pairs]
        found = translate(training.model, sources, training.config.data.max_len)
        scores[part] = score(found, wanted)
        lines.append(line(part, scores[part]))
        for source, target, got in list(zip(sources, wanted, found, strict=True))[:SAMPLES]:
            texts = decode(source, prepared.source_vocab), *(decode(x, prepared.target_vocab) for x in (target, got))
            samples.append(
                "\n".join(f"{name:<9}{text}" for name, text in zip((part, "expected", "got"), texts, strict=True))
            )
    if prepared.heldout:
        scores["nearest"] = score(
            nearest(prepared.train, [p[0] for p in prepared.heldout]), [p[1] for p in prepared.heldout]
        )
        lines.append(line("heldout, chance: the nearest training sentence", scores["nearest"]))
    write_atomic(run.path / "samples.txt", ("\n\n".join(samples) + "\n").encode("utf-8"))
    source = max((p[0] for p in prepared.heldout or prepared.train), key=len)
    vocabularies = prepared.source_vocab, prepared.target_vocab
    figure = attention_of(training.model, source, training.config.data.max_len, *vocabularies)
    save(figure, run.figures / "attention.png")
    write_history(run, training, DONE, scores)
    return lines


def is_concluded(run: TranslationRun) -> bool:
    """Whether the results of a finished training are all there; UserError for a history.json that was edited."""
    files = (run.path / "samples.txt", run.figures / "loss.png", run.figures / "attention.png")
    return run.history.is_file() and open_sealed(run.history)["status"] == DONE and all(p.is_file() for p in files)


def line(part: str, scores: dict) -> str:
    """The scores of a part in one line."""
    low, high = scores["interval"]
    return (
        f"{part}: {scores['right']} of {scores['count']} whole sentences "
        f"({scores['whole']:.3f} [{low:.3f}, {high:.3f}]), words {scores['words']:.3f}"
    )


def attention_of(
    model: Seq2Seq,
    source: list[int],
    max_T: int,
    source_vocab: dict[str, int],
    target_vocab: dict[str, int],
    beam: int = 1,
):
    """The figure of the last layer's cross-attention while a sentence is translated. source: ids without <eos>."""
    ids = translate(model, [source], max_T, beam)[0]
    weights, target = cross_attention(model, source, ids)
    source_words, target_words = list(source_vocab), list(target_vocab)
    title = f"cross-attention of the last layer: {decode(source, source_vocab)} -> {decode(ids, target_vocab)}"
    shown = [source_words[i] for i in source] + [SPECIALS[EOS]]
    return figure_attention(weights, shown, [target_words[i] for i in target], title)


def cross_attention(model: Seq2Seq, source: list[int], ids: list[int]) -> tuple[np.ndarray, list[int]]:
    """(weights (H, T, S) of the last layer's cross-attention, the T ids that were written), for one translation."""
    written = ids if ids and ids[-1] == EOS else [*ids, EOS]
    model.forward(make_batch([(source, written[:-1])]))
    return model.decoder.layers[-1].cross.weights[0], written

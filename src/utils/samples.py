"""samples.txt: prompts with the expected and the model's own continuation."""

from __future__ import annotations

import torch

from dataset.seeds import stream
from src.utils.decoding import decode

SAMPLED_CHARS = 1_000_000  # of the test text of a language task, at most, from which samples are taken


def samples_text(model, examples, task_meta, device) -> str:
    """Up to 8 samples, one a paragraph: prompt, expected, got by greedy decoding."""
    task, tokenizer = task_meta.task, task_meta.tokenizer
    if task.labelled:
        return _label_samples(model, examples, tokenizer, device)
    answers = decode(model, examples, tokenizer, device)
    blocks = [
        f"prompt    {_show(e.prompt)}\nexpected  {_show(e.answer)}\ngot       {_show(a)}{'' if a == e.answer else '   (wrong)'}"
        for e, a in zip(examples, answers, strict=True)
    ]
    return "\n\n".join(blocks) + "\n"


def write_samples(path, model, examples, task_meta, device) -> None:
    from src.storage.rundir import write_atomic

    write_atomic(path, samples_text(model, examples, task_meta, device).encode())


@torch.inference_mode()
def _label_samples(model, examples, tokenizer, device) -> str:
    blocks = []
    for e in examples:
        x = torch.from_numpy(tokenizer.encode_prompt(e.prompt)).to(device)
        guess = model(x)[0].argmax(-1).tolist()
        expected = "".join(c for _, c in e.labels)
        got = "".join(tokenizer.tokens[guess[p + 1]] if guess[p + 1] > 2 else "·" for p, _ in e.labels)
        blocks.append(
            f"prompt    {_show(e.prompt)}\nexpected  {_show(expected)}  (at the labelled characters)\ngot       {_show(got)}"
        )
    return "\n\n".join(blocks) + "\n"


@torch.inference_mode()
def language_samples(model, task_meta, device, seed: int, prompt_chars: int = 64, new_chars: int = 200) -> str:
    """Five continuations of test text at temperature 0.8: prompt, the text's own continuation, the model's."""
    task, tokenizer = task_meta.task, task_meta.tokenizer
    text = task.text("test", SAMPLED_CHARS)
    prompt_chars = min(prompt_chars, max(1, task.args.context_len // 2))
    if model.max_len is not None:
        new_chars = min(new_chars, model.max_len - prompt_chars)
    rng = stream(task, "samples", seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    blocks = []
    for start in rng.integers(0, max(1, len(text) - prompt_chars - new_chars), size=5):
        prompt, expected = (
            text[start : start + prompt_chars],
            text[start + prompt_chars : start + prompt_chars + new_chars],
        )
        x = torch.from_numpy(tokenizer.encode_prompt(prompt)).to(device)
        ids = model.generate(x, new_chars, temperature=0.8, generator=generator)
        blocks.append(
            f"prompt\n{prompt}\n--- expected\n{expected}\n--- got (temperature 0.8)\n{tokenizer.decode(ids[0])}"
        )
    return ("\n" + "=" * 80 + "\n").join(blocks) + "\n"


def _show(text: str) -> str:
    return text.replace("\n", "\\n") or "(empty)"

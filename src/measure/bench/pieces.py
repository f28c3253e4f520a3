"""Parts of a run, each timed in a process of its own, beside a peer in turns where there is one.

    step("here", folder)                                   # {"recipe_step_ms": [...], "recipe_step_peer": [...]}
    python -m src.measure.bench.pieces step 2 auto         # what it starts: prints the values as JSON

Peers: for the training step the same model of torch's own modules in a plain float32 loop; for decoding the GPT-2 of
the package transformers with its cache, where it is installed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from src.measure.bench.items import COLUMNS, PRECISION
from src.measure.bench.wholes import process

VOCABULARY, CONTEXT, WIDTH, LAYERS, HEADS, ROWS = 65, 64, 128, 4, 4, 12  # of the recipe
PROMPT, LATE, TOKENS = 10, 1_000, 50
REPEATS = {"step": 12, "mixer": 4, "scan": 12, "decode": 1, "late": 5}  # in one process


def step(column: str, folder: Path) -> dict[str, list[float]]:
    """The training step of the recipe on two threads and on one."""
    two, one = _measured("step", 2, column), _measured("step", 1, column)
    return {**two, "recipe_step_one_ms": one["recipe_step_ms"]}


def mixer(column: str, folder: Path) -> dict[str, list[float]]:
    """One mixer of mamba, forward and backward, on two threads."""
    return _measured("mixer", 2, column)


def scan(column: str, folder: Path) -> dict[str, list[float]]:
    """The selective scan on one thread."""
    return _measured("scan", 1, column)


def decode(column: str, folder: Path) -> dict[str, list[float]]:
    """Greedy decoding of one sequence on one thread."""
    return _measured("decode", 1, column)


def _measured(name: str, threads: int, column: str) -> dict[str, list[float]]:
    words = ("-m", "src.measure.bench.pieces", name, str(threads), PRECISION[column])
    return json.loads(process(words, {**COLUMNS[column], "OMP_NUM_THREADS": str(threads)})[1])


# What follows runs in the process that measures.


def _settings(words: str, threads: int, precision: str):
    """The resolved flags and the class of a model. Sets torch's threads."""
    from src.models.backbone import resolve_auto
    from src.setup.plan import plan

    setup = plan([*words.split(), "--threads", str(threads), "--precision", precision, "--device", "cpu"])[0]
    return resolve_auto(setup.model_class, setup.args), setup.model_class


def _timed(*actions: Callable[[], object], repeats: int, warm: int = 3) -> list[list[float]]:
    """Milliseconds of each action, in turns; the first calls are not counted."""
    found: list[list[float]] = [[] for _ in actions]
    for i in range(repeats + warm):
        for action, values in zip(actions, found, strict=True):
            began = time.perf_counter()
            action()
            if i >= warm:
                values.append(1e3 * (time.perf_counter() - began))
    return found


def _step(threads: int, precision: str) -> dict[str, list[float]]:
    import torch

    from dataset.common import Batch
    from src.models.backbone import build
    from src.utils.training import make_optimizer, make_scaler, make_scheduler, train_step

    args, model_class = _settings("--preset nanogpt-cpu --model transformer", threads, precision)
    torch.manual_seed(0)
    model = build(model_class, VOCABULARY, args, CONTEXT).train()
    x = torch.randint(3, VOCABULARY, (ROWS, CONTEXT + 1))
    lengths, x, y = torch.full((ROWS,), CONTEXT), x[:, :-1].contiguous(), x[:, 1:].contiguous()
    batch = Batch(x, y, torch.ones_like(x, dtype=torch.bool), lengths, torch.full_like(x, -1))
    cpu = torch.device("cpu")
    optimizer, scaler = make_optimizer(model, args, cpu), make_scaler(args, cpu)
    scheduler = make_scheduler(optimizer, args, 10_000)
    ours, peer = _timed(
        lambda: train_step(model, batch, optimizer, scheduler, scaler, cpu, args),
        _plain_step(x, y),
        repeats=REPEATS["step"],
    )
    return {"recipe_step_ms": ours, "recipe_step_peer": _ratios(peer, ours)}


def _plain_step(x, y) -> Callable[[], object]:
    """A training step of the same size out of torch's own modules, in float32."""
    import torch
    from torch import nn

    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
    embed, place, head = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH), nn.Linear(WIDTH, VOCABULARY)
    model = nn.ModuleList([embed, place, body, head]).train()
    mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
    optimizer, places = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), torch.arange(CONTEXT)

    def action() -> None:
        logits = head(body(embed(x) + place(places), mask=mask, is_causal=True))
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return action


def _mixer(threads: int, precision: str) -> dict[str, list[float]]:
    import torch

    from src.utils.precision import autocast

    args, mixer_class = _settings(f"--task copy --model mamba --d_model {WIDTH}", threads, precision)
    torch.manual_seed(0)
    layer = mixer_class(args).train()

    def action(rows: int, length: int) -> Callable[[], object]:
        x = torch.randn(rows, length, WIDTH, requires_grad=True)

        def run() -> None:
            with autocast(torch.device("cpu"), args.precision):
                y = layer(x)
            y.float().sum().backward()

        return run

    short, long = _timed(action(8, 512), action(2, 8192), repeats=REPEATS["mixer"], warm=2)
    return {"mixer_512_ms": short, "mixer_8192_ms": long}


def _scan(threads: int, precision: str) -> dict[str, list[float]]:
    import torch

    from src.ops.selective_scan import selective_scan
    from src.setup.plan import set_threads

    set_threads(threads)
    generator = torch.Generator().manual_seed(0)
    rows, length, channels, states = 4, 512, 256, 16

    def drawn(*shape: int):
        return torch.randn(*shape, generator=generator)

    u, delta = drawn(rows, length, channels), drawn(rows, length, channels).sigmoid() / 10
    A, B, C = -drawn(channels, states).exp(), drawn(rows, length, states), drawn(rows, length, states)
    inputs = [t.requires_grad_() for t in (u, delta, A, B, C, drawn(channels))]
    gradient = drawn(rows, length, channels)
    found: dict[str, list[float]] = {"scan_forward_ms": [], "scan_backward_ms": []}
    for i in range(REPEATS["scan"] + 2):
        began = time.perf_counter()
        y, _ = selective_scan(*inputs)
        between = time.perf_counter()
        torch.autograd.grad(y, inputs, gradient)
        if i >= 2:
            found["scan_forward_ms"].append(1e3 * (between - began))
            found["scan_backward_ms"].append(1e3 * (time.perf_counter() - between))
    return found


def _decode(threads: int, precision: str) -> dict[str, list[float]]:
    import torch

    from src.models.backbone import build

    words = f"--task needle --model transformer --d_model {WIDTH} --n_layer {LAYERS} --n_head {HEADS} --pos learned"
    args, model_class = _settings(f"{words} --dropout 0", threads, "fp32")
    torch.manual_seed(0)
    model = build(model_class, VOCABULARY, args, LATE + 2 * TOKENS + PROMPT).eval()
    prompt = torch.ones(1, PROMPT, dtype=torch.long)

    def generate(n: int) -> None:
        model.generate(prompt, n, temperature=0.0)

    def tokens_from(begin: int) -> Callable[[], object]:
        def run() -> float:
            with torch.inference_mode():
                ids = torch.ones(1, begin, dtype=torch.long)
                _, state = model.prefill(ids, model.init_state(1, LATE + 2 * TOKENS))
                began = time.perf_counter()
                for _ in range(TOKENS):
                    _, state = model.step(ids[:, 0], state)
                return time.perf_counter() - began

        return run

    decoders = [generate, *_peer_decoding(prompt)]
    for decoder in decoders:
        decoder(TOKENS)  # warm; the whole lengths would cost a round two seconds
    actions = [lambda: generate(LATE), *(partial(decoder, 256) for decoder in decoders)]
    long, short, *theirs = _timed(*actions, repeats=REPEATS["decode"], warm=0)
    early, late = tokens_from(PROMPT), tokens_from(LATE)
    pairs = [(late(), early()) for _ in range(REPEATS["late"] + 1)][1:]
    return {
        "decode_256_per_s": [256e3 / ms for ms in short],
        "decode_1000_per_s": [LATE * 1e3 / ms for ms in long],
        "decode_late_ratio": [a / b for a, b in pairs],
        **({"decode_peer": _ratios(theirs[0], short)} if theirs else {}),
    }


def _peer_decoding(prompt) -> list[Callable[[int], object]]:
    """GPT-2 of the same size by the package transformers, which decodes n tokens; none where it is not installed."""
    if find_spec("transformers") is None:
        return []
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_positions": 512}
    config = GPT2Config(vocab_size=VOCABULARY, **sizes, bos_token_id=1, eos_token_id=None, pad_token_id=0)
    model, mask = GPT2LMHeadModel(config).eval(), torch.ones_like(prompt)
    return [lambda n: model.generate(prompt, attention_mask=mask, max_new_tokens=n, do_sample=False)]


def _ratios(one: list[float], other: list[float]) -> list[float]:
    """one / other, turn by turn: what slows both down cancels."""
    return [a / b for a, b in zip(one, other, strict=True)]


FUNCTIONS = {"step": _step, "mixer": _mixer, "scan": _scan, "decode": _decode}

if __name__ == "__main__":
    found = FUNCTIONS[sys.argv[1]](int(sys.argv[2]), sys.argv[3])
    print(json.dumps({name: [float(f"{v:.6g}") for v in values] for name, values in found.items()}))

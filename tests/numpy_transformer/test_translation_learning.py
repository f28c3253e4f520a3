"""The two shipped configurations learn, and a training step is not slower than torch's. Long, and one measures time.

OPENBLAS_NUM_THREADS=1 python -m pytest -m slow tests/numpy_transformer/test_translation_learning.py -s
"""

import json
import os
import time

import numpy as np
import pytest
import torch
from conftest import ROOT, bench
from torch_twin import torch_batch, twin_of

from src.numpy_transformer import prepare
from src.numpy_transformer.config import load_config
from src.numpy_transformer.datasets import epoch_batches
from src.numpy_transformer.loop import Training
from src.numpy_transformer.optim import clip_gradients

CONFIGS = ROOT / "src/numpy_transformer/configs"
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "least", "of"), [("tiny_enfr", 49, 50), ("small_enfr", 200, 200)])
def test_a_shipped_configuration_memorises_its_pairs(name, least, of, tmp_path):
    config = CONFIGS / f"{name}.yaml"
    assert bench("translate", "prepare", "--config", config, cwd=tmp_path).returncode == 0
    began = time.perf_counter()
    done = bench("translate", "train", "--config", config, cwd=tmp_path, env=ONE_THREAD)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / f"runs/{name}/history.json").read_text())["scores"]
    print(f"\n{name}: {seconds:.1f} s, {scores}")
    assert scores["train"]["count"] == of
    assert scores["train"]["right"] >= least
    assert scores["heldout"]["count"] == 40
    if name == "tiny_enfr":
        assert seconds <= 60


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("OMP_NUM_THREADS") != "1", reason="needs OMP_NUM_THREADS=1 before NumPy is loaded")
def test_a_training_step_takes_at_most_twice_the_time_of_torch():
    """float32, one thread, the sizes and batches of `small_enfr`. Both are timed alternately, in one process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, theirs = step_seconds(rounds=100)
    finally:
        torch.set_num_threads(threads)
    print(f"\nNumPy {1e3 * ours:.2f} ms, torch {1e3 * theirs:.2f} ms per step, ratio {ours / theirs:.2f}")
    assert ours <= 2 * theirs


def step_seconds(rounds):
    """Median seconds of a step in NumPy and in torch: forward and backward pass, clipping, Adam; no batch is made."""
    config = load_config(str(CONFIGS / "small_enfr.yaml"))
    training = Training(config, prepare.prepare(config)[0])
    model, adam = training.model, training.optimiser
    twin = twin_of(model)
    torchs = torch.optim.Adam(twin.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-9, fused=True)
    batches = list(epoch_batches(training.prepared.train, config.train.batch_size, 0, 0))

    def numpy_step(batch, _):
        model.loss_and_gradients(batch)
        clip_gradients(model.params.grads, 1.0)
        adam.step(1e-3)

    def torch_step(_, batch):
        torchs.zero_grad()
        twin.loss(*batch).backward()
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        torchs.step()

    seconds = {numpy_step: [], torch_step: []}
    for n in range(rounds + 5):
        batch = batches[n % len(batches)]
        both = batch, torch_batch(batch)
        for step, times in seconds.items():
            began = time.perf_counter()
            step(*both)
            times.append(time.perf_counter() - began)
    return tuple(float(np.median(times[5:])) for times in seconds.values())

"""One training step and one checkpoint of a model from a user's own file, before anything is written.

What a run needs later is tried here: a forward pass, a loss with gradients, AdamW, a checkpoint that is written and
read again. The weights, the random state and the members of the model are afterwards what they were.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from src.flags import registry
from src.flags.run_flags import RunArgs
from src.setup.classes import blaming

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

    from dataset.tokenizer import Tokenizer
    from src.models.contract import ARModel

ROWS = 2  # of the batch that is tried


def try_own_model(
    args: RunArgs, model: ARModel, tokenizer: Tokenizer, loader: DataLoader, device: torch.device
) -> None:
    """Try a model of a user's file on the first rows of a batch. UserError that names the file if it fails."""
    from src.setup.forms import check_forms
    from src.utils.precision import autocast

    name = args.model
    if not registry.is_path(name):
        return
    batch = next(iter(loader)).take(slice(0, ROWS))
    with blaming("model", name), autocast(device, args.precision):
        check_forms(name, model, batch.x.to(device), len(tokenizer))
    with _unchanged(model):
        with blaming("model", name, "one training step is tried"):
            _train_once(args, model, batch, device)
        with blaming("model", name, "a checkpoint is tried"):
            _save_and_load(model, device)


def _train_once(args: RunArgs, model: ARModel, batch, device: torch.device) -> None:
    from src.utils.training import Diverged, make_optimizer, make_scaler, make_scheduler, train_step

    model.train()
    optimizer = make_optimizer(model, args, device)
    scheduler, scaler = make_scheduler(optimizer, args, 1), make_scaler(args, device)
    with contextlib.suppress(Diverged):  # a result of the run, not an error of the file
        train_step(model, batch, optimizer, scheduler, scaler, device, args)


def _save_and_load(model: ARModel, device: torch.device) -> None:
    import io

    import torch

    from src.storage import checkpoint

    stored = io.BytesIO(checkpoint.to_bytes({"model": model.state_dict(), "args": {}, "vocab": []}))
    model.load_state_dict(torch.load(stored, map_location=device, weights_only=True)["model"])


@contextlib.contextmanager
def _unchanged(model: ARModel) -> Iterator[None]:
    """Restore the model's tensors and members, and the random state of torch, NumPy and Python."""
    import torch

    from src.storage.randomness import kept_random_state

    tensors = {id(t): (t, t.detach().clone()) for t in (*model.parameters(), *model.buffers())}
    members = [(m, dict(vars(m))) for m in model.modules()]
    contents = [(v, v.copy()) for _, kept in members for v in kept.values() if type(v) in (list, dict, set)]
    try:
        with kept_random_state():
            yield
    finally:
        for module, kept in members:
            vars(module).clear()
            vars(module).update(kept)
        for value, before in contents:
            value.clear()
            (value.extend if isinstance(value, list) else value.update)(before)
        with torch.no_grad():
            for tensor, before in tensors.values():
                tensor.copy_(before)
                tensor.grad = None

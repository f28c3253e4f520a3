"""The forms of what a layer returns: shape and dtype of each output, before anything else is judged.

    check_forms("my_layer.py", model, x, vocab_size)        UserError of one line where a form is wrong

A wrong form may run on and do harm. An output (B, T, 1) is added to every channel of the residual stream, and one of
float64 changes the dtype of all that follows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch

from src.flags.fields import UserError
from src.models.contract import ARModel, Mixer
from src.utils.memory import is_out_of_memory


def check_forms(name: str, model: ARModel, x, vocab_size: int) -> None:
    """Run ids x (B, T) through the model. UserError where a layer or the model returns another shape or dtype than it
    must.

    The forward of each layer returns the shape of its input, and so does `prefill`; `step` the same for one token. What
    a layer raises in `forward` is raised. An error in `step` or `prefill` is left to the checks of decoding.
    name: what --model named.  The model ends in eval mode.
    """
    model.eval()
    with torch.no_grad():
        with _watched(name, model) as inputs:
            logits = model(x)
        _check(name, "forward of the model", logits, (*x.shape, vocab_size), torch.float64)
        for layer, h in inputs.items():
            if layer.cache_kind() == "own":
                _check_decoding(name, layer, "step", h[:, 0], h.shape[1])
                _check_decoding(name, layer, "prefill", h, h.shape[1])


def _check_decoding(name: str, layer: Mixer, method: str, h, max_len: int) -> None:
    """The form of what `step` or `prefill` returns for h, (B, D) or (B, T, D)."""
    what = f"{method} of the mixer"
    try:
        returned = getattr(layer, method)(h, layer.init_state(len(h), max_len))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return
    _check(name, what, _first(name, what, returned), h.shape, h.dtype)


def _first(name: str, what: str, returned):
    """The output of a pair (output, state)."""
    if not isinstance(returned, (tuple, list)) or len(returned) != 2:
        raise UserError(f"--model: the {what} in '{name}' returns {type(returned).__name__}, allowed: (output, state)")
    return returned[0]


@contextlib.contextmanager
def _watched(name: str, model: ARModel) -> Iterator[dict]:
    """Check the output of each layer of a backbone as soon as it is there. Yields {layer: its input (B, T, D)}."""
    inputs: dict = {}

    def hook(layer, given, output):
        inputs[layer] = given[0]
        _check(name, "forward of the mixer", output, given[0].shape, given[0].dtype)

    layers = [block.mixer for block in getattr(model, "blocks", ()) if isinstance(getattr(block, "mixer", None), Mixer)]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _check(name: str, what: str, got, shape: Sequence[int], dtype: torch.dtype) -> None:
    """UserError unless `got` is a floating-point tensor of this shape that does not widen this dtype."""
    returned = tuple(got.shape) if isinstance(got, torch.Tensor) else type(got).__name__
    allowed = f"a tensor of shape {tuple(shape)}"
    if returned == tuple(shape):
        if got.is_floating_point() and torch.promote_types(got.dtype, dtype) == dtype:
            return
        returned, allowed = _short(got.dtype), f"{_short(dtype)}, the dtype of its input, or a narrower one"
    raise UserError(f"--model: the {what} in '{name}' returns {returned}, allowed: {allowed}")


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

"""Layers with one fault each, and the check that catches it. Used by tests/checks/test_broken_layers.py.

BROKEN, at the end, is the table. The docstring of a layer says what is wrong with it. Each layer changes one thing in
`Mean`, in `Replayed` or in the whole model of src/models/template.py, and these three pass all checks.

v: (B, T, D), the values that a layer mixes over time.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from src.checks import caching, causality, decoding, gradients, isolation, leftovers, numerics, repeatability, shapes
from src.checks.base import LONG
from src.models.contract import Mixer
from src.models.template import _WholeModel

# --- right layers, of which the broken ones are made ------------------------------------------------------------------


class Mean(Mixer):
    """The mean of the past, with its own step."""

    def __init__(self, args):
        super().__init__()
        self.value = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.value(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])

    def init_state(self, batch_size, max_len):
        return self.value.weight.new_zeros(batch_size, self.value.in_features), 0

    def step(self, x, state):
        total, n = state[0] + x, state[1] + 1
        return self.value(total / n), (total, n)


class Replayed(Mixer):
    """The mean of the past, decoded by replay. Subclasses replace `mix`."""

    def __init__(self, args):
        super().__init__()
        self.value = nn.Linear(args.d_model, args.d_model)

    def forward(self, x):
        return self.mix(self.value(x))

    def mix(self, v):
        return v.cumsum(1) / torch.arange(1, v.shape[1] + 1)[:, None]


# --- broken layers ----------------------------------------------------------------------------------------------------


class LeakyConvolution(Replayed):
    """Each output contains a tenth of the next token."""

    def mix(self, v):
        return v + 0.1 * F.pad(v[:, 1:], (0, 0, 0, 1))


class LeakBehindAGate(Replayed):
    """The leak is multiplied by a gate that is zero before training."""

    def __init__(self, args):
        super().__init__(args)
        self.gate = nn.Parameter(torch.zeros(1))

    def mix(self, v):
        return v.cumsum(1) / 50 + self.gate * v.mean(dim=1, keepdim=True)


class LeakInsideAChunk(Replayed):
    """Full chunks of 64 contain the mean of the whole chunk."""

    def mix(self, v):
        full = v.shape[1] // 64 * 64
        chunks = v[:, :full].unflatten(1, (-1, 64)) if full else v[:, :0]
        return torch.cat(
            [(chunks + chunks.mean(2, keepdim=True)).flatten(1, 2) if full else chunks, v[:, full:]], dim=1
        )


class LeakFarAway(Replayed):
    """From token 512 on each output contains the next token."""

    start = 512

    def mix(self, v):
        return torch.cat([v[:, : self.start], F.pad(v, (0, 0, 0, 1))[:, self.start + 1 :]], dim=1)


class LeakAtOneToken(Replayed):
    """The output at token 77 contains the next token."""

    def mix(self, v):
        at = (torch.arange(v.shape[1]) == 77)[:, None]
        return v + at * v.roll(-1, dims=1)


class LeakUnderAutocast(Replayed):
    """In bf16 each output contains the next token."""

    def mix(self, v):
        return v + v.roll(-1, dims=1) if v.dtype is torch.bfloat16 else v


class FutureNormalisation(Replayed):
    """The norm is taken over all times."""

    def mix(self, v):
        return v / (1e-3 + v.square().mean(dim=(1, 2), keepdim=True).sqrt())


class BatchNormalisation(Replayed):
    """In train mode the statistics are taken over all rows and times."""

    def __init__(self, args):
        super().__init__(args)
        self.norm = nn.BatchNorm1d(args.d_model)

    def mix(self, v):
        return self.norm(v.transpose(1, 2)).transpose(1, 2)


class KnowsTheLength(Replayed):
    """The sum of the past is divided by the length of the sequence."""

    def mix(self, v):
        return v.cumsum(1) / v.shape[1]


class NoisyLeak(Replayed):
    """Noise without a seed hides a leak of the next token."""

    generator = torch.Generator().manual_seed(0)

    def mix(self, v):
        return v + 0.1 * v.roll(-1, dims=1) + 0.1 * torch.randn(v.shape, generator=self.generator)


class ForgetfulStep(Mean):
    """`step` ignores the state."""

    def step(self, x, state):
        return self.value(x), state


class StaleCache(Mean):
    """`step` computes its output from the state before this token."""

    def step(self, x, state):
        _, new = super().step(x, state)
        return self.value(state[0] / max(state[1], 1)), new


class LostAtGrowth(Mean):
    """A cache that grows at 64 tokens loses what it held."""

    def step(self, x, state):
        return super().step(x, (state[0] * 0, state[1]) if state[1] == 64 else state)


class StalePrefill(Mean):
    """The state after a prefill lacks the last token."""

    def prefill(self, x, state):
        y, (total, n) = super().prefill(x, state)
        return y, (total - x[:, -1], n)


class PrefillFromNothing(Mean):
    """`prefill` ignores the state that it gets."""

    def prefill(self, x, state):
        return self.forward(x), (x.sum(1), x.shape[1])


class ForgottenStart(Mean):
    """`forward` starts with a learned state and `init_state` with zeros."""

    def __init__(self, args):
        super().__init__(args)
        self.start = nn.Parameter(torch.zeros(args.d_model))

    def forward(self, x):
        return super().forward(torch.cat([x[:, :1] + self.start, x[:, 1:]], dim=1))


class MixedRows(Replayed):
    """Each row contains the mean of all rows."""

    def mix(self, v):
        return v + v.mean(dim=0, keepdim=True)


class RowsAboveFour(Replayed):
    """In a batch of more than 4 rows each row contains a tenth of the row before it."""

    def mix(self, v):
        return v if len(v) <= 4 else v + 0.1 * v.roll(1, 0)


class RowsAboveFourInStep(Mean):
    """`step` of more than 4 rows adds a tenth of the row before."""

    def step(self, x, state):
        return super().step(x if len(x) <= 4 else x + 0.1 * x.roll(1, 0), state)


class CountsRows(Replayed):
    """The output is divided by the batch size."""

    def mix(self, v):
        return v / len(v)


class StateInABuffer(Replayed):
    """Each call adds the last token of the call before it."""

    modes = (True, False)

    def __init__(self, args):
        super().__init__(args)
        self.register_buffer("last", torch.zeros(args.d_model))

    def mix(self, v):
        y = super().mix(v) + self.last
        if self.training in self.modes:
            self.last = v[0, -1].detach()
        return y


class StateInABufferWhenTraining(StateInABuffer):
    """Each call in train mode adds the last token of the call before it."""

    modes = (True,)


class StateInTheModule(Mean):
    """`step` keeps the sum in the layer instead of the state."""

    def init_state(self, batch_size, max_len):
        self.total = torch.zeros(batch_size, self.value.in_features)
        return (0,)

    def step(self, x, state):
        self.total = self.total + x
        return self.value(self.total / (state[0] + 1)), (state[0] + 1,)


class MaskLeak(_WholeModel):
    """Logits are scaled by the number of real tokens in the row."""

    def forward(self, x, attn_mask=None):
        logits = super().forward(x)
        return logits if attn_mask is None else logits * (1 + attn_mask.float().mean(1)[:, None, None])


class EvenOnly(Replayed):
    """It cannot run on an odd number of tokens."""

    def mix(self, v):
        return v.unflatten(1, (-1, 2)).flatten(1, 2)


class NotANumberAtOne(Replayed):
    """A variance divided by n - 1 is NaN for one token."""

    def mix(self, v):
        n = torch.arange(1, v.shape[1] + 1)[:, None]
        return v / (1 + v.square().cumsum(1) / (n - 1))


class GroupsOf16(Replayed):
    """It splits the channels into groups of 16."""

    def mix(self, v):
        return v.unflatten(-1, (-1, 16)).flatten(2)


class TwoHeadsAtLeast(Replayed):
    """It divides by the number of heads minus one."""

    def __init__(self, args):
        super().__init__(args)
        self.scale = torch.linspace(0, 1, args.n_head) / (args.n_head - 1)

    def mix(self, v):
        return v * self.scale.mean()


class SqueezesRows(Replayed):
    """It drops the batch axis of a batch of one."""

    def mix(self, v):
        return super().mix(v).squeeze(0).expand_as(v).squeeze(0)


class GrowsWithTime(Replayed):
    """Weights e^t are infinite from t = 89 on."""

    def mix(self, v):
        weight = torch.arange(v.shape[1])[:, None].to(v.dtype).exp()
        return (weight * v).cumsum(1) / weight.cumsum(0)


class RoundedState(Replayed):
    """The sum of a window is the difference of two running sums in the precision of the input."""

    def mix(self, v):
        totals = [torch.zeros_like(v[:, 0])]
        for t in range(v.shape[1]):
            totals.append(totals[-1] + v[:, t].abs())
        return torch.stack([totals[t + 1] - totals[max(0, t - 3)] for t in range(v.shape[1])], dim=1)


class RoundedStateInStep(Mean):
    """Under autocast `step` rounds its state to whole numbers."""

    def step(self, x, state):
        total, n = state[0] + x, state[1] + 1
        return self.value(total / n), (total.round() if torch.is_autocast_enabled("cpu") else total, n)


class RootOfRounded(Replayed):
    """1 - sigmoid is 0 in bf16, where the root has an infinite slope."""

    def mix(self, v):
        return v * (1 - (v.abs() + 7).sigmoid()).sqrt()


class ExponentialModel(_WholeModel):
    """The exponential of the embeddings overflows."""

    def _predict(self, h, mean):
        return super()._predict(h.exp(), mean)


class UnitLengthModel(_WholeModel):
    """Embeddings are divided by their norm, which may be 0."""

    def _predict(self, h, mean):
        return super()._predict(h / h.norm(dim=-1, keepdim=True), mean)


class Exponential(Replayed):
    """The exponential of the values overflows."""

    def mix(self, v):
        return super().mix((10 * v).exp())


class UnitLength(Replayed):
    """Inputs are divided by their norm, which may be 0."""

    def forward(self, x):
        return self.mix(x / x.norm(dim=-1, keepdim=True))


class RunningVariance(Replayed):
    """It divides by the standard deviation of the past, which is 0 for equal tokens."""

    def forward(self, x):
        n = torch.arange(1, x.shape[1] + 1)[:, None]
        return self.value(x / (x.square().cumsum(1) / n - (x.cumsum(1) / n).square()).sqrt())


class HalvedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return v.square()

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return grad * v  # a factor of 2 is missing


class WrongBackward(Replayed):
    """The backward pass of a square lacks the factor 2."""

    def mix(self, v):
        return HalvedGradient.apply(v)


class WrongKernel(Replayed):
    """The backward pass is wrong in float32 alone."""

    def mix(self, v):
        return HalvedGradient.apply(v) if v.dtype is torch.float32 else v.square()


class DeadParameter(Replayed):
    """A parameter is multiplied by 0."""

    def __init__(self, args):
        super().__init__(args)
        self.gain = nn.Parameter(torch.randn(args.d_model))

    def mix(self, v):
        return v + 0 * self.gain


class UnusedParameter(DeadParameter):
    """A parameter is not used."""

    def mix(self, v):
        return v


class InfiniteGradient(DeadParameter):
    """The slope of a root is infinite at 0."""

    def mix(self, v):
        return v + (self.gain - self.gain.detach()).abs().sqrt()


class NoiseInEval(Replayed):
    """Dropout runs in eval mode."""

    def mix(self, v):
        return F.dropout(v, 0.1)


class NoiseInTraining(Replayed):
    """Noise in train mode ignores the seed."""

    generator = torch.Generator().manual_seed(0)

    def mix(self, v):
        return v + torch.randn(v.shape, generator=self.generator) if self.training else v


class InitialisedByTheSystem(Replayed):
    """A buffer is drawn from the operating system, not from the seed."""

    def __init__(self, args):
        super().__init__(args)
        self.register_buffer("mark", torch.frombuffer(bytearray(os.urandom(8)), dtype=torch.uint8).float())


class LostBuffer(Replayed):
    """A random projection is not saved with the weights."""

    def __init__(self, args):
        super().__init__(args)
        self.register_buffer("projection", torch.randn(args.d_model, args.d_model), persistent=False)

    def mix(self, v):
        return v @ self.projection


class CountedInitialisation(Replayed):
    """Initial weights depend on how many layers were built before."""

    built = 0

    def __init__(self, args):
        super().__init__(args)
        type(self).built += 1
        nn.init.constant_(self.value.weight, 1 / type(self).built)


# --- long effects -----------------------------------------------------------------------------------------------------


class DriftsLate(Mean):
    """From 300 tokens on `step` counts one token too many."""

    def step(self, x, state):
        return super().step(x, (state[0], state[1] + (state[1] == 300)))


class RingOf512(Mean):
    """`step` keeps the last 512 tokens only."""

    def init_state(self, batch_size, max_len):
        return self.value.weight.new_zeros(batch_size, 512, self.value.in_features), 0

    def step(self, x, state):
        ring, n = state[0].clone(), state[1] + 1
        ring[:, n % 512] = x
        return self.value(ring.sum(1) / n), (ring, n)


class LongPrompt(Mean):
    """A prefill of more than 300 tokens reads the first 300 only into its state."""

    def prefill(self, x, state):
        total, n = state
        counts = torch.arange(n + 1, n + x.shape[1] + 1)[:, None]
        y = self.value((total[:, None] + x.cumsum(1)) / counts)
        return y, (total + x[:, :300].sum(1), n + x.shape[1])


class DetachedChunks(Replayed):
    """Between chunks of 256 tokens the sum of the past is detached."""

    def mix(self, v):
        total, parts = torch.zeros_like(v[:, :1]), []
        for chunk in v.split(256, dim=1):
            parts.append(total.detach() + chunk.cumsum(1))
            total = parts[-1][:, -1:]
        return torch.cat(parts, dim=1) / torch.arange(1, v.shape[1] + 1)[:, None]


class OverflowsAt900(Replayed):
    """The weights 0.9^-t of a decay overflow float32 at about t = 850."""

    def mix(self, v):
        t = torch.arange(v.shape[1])[:, None].float()
        return (v * 0.9**-t).cumsum(1) * 0.9**t


class RoundedPositions(Replayed):
    """Positions have the dtype of the values, and bf16 counts exactly up to 256 only."""

    def mix(self, v):
        angle = torch.arange(v.shape[1])[:, None].to(v.dtype).float()
        return v * angle.cos()


class RoundedPositionsInStep(Mean):
    """Under autocast `step` rounds the count of tokens to bf16."""

    def forward(self, x):
        return super().forward(x) * torch.arange(1, x.shape[1] + 1)[:, None].float().cos()

    def step(self, x, state):
        y, (total, n) = super().step(x, state)
        count = torch.tensor(float(n))
        return y * (count.bfloat16().float() if torch.is_autocast_enabled("cpu") else count).cos(), (total, n)


# --- random numbers and hidden state ----------------------------------------------------------------------------------


class DropoutLeftOn(Replayed):
    """Dropout of the rate of the run stays on in eval mode."""

    def __init__(self, args):
        super().__init__(args)
        self.rate = args.dropout

    def mix(self, v):
        return super().mix(F.dropout(v, self.rate))


class DropoutLeftOnInStep(Mean):
    """Dropout of the rate of the run stays on in `step`."""

    def __init__(self, args):
        super().__init__(args)
        self.rate = args.dropout

    def step(self, x, state):
        y, state = super().step(x, state)
        return F.dropout(y, self.rate), state


class WastesRandomNumbers(Replayed):
    """It draws numbers in eval mode that it does not use, so that a validation changes the training after it."""

    def mix(self, v):
        torch.rand(1)
        return super().mix(v)


class DrawsFromPython(Replayed):
    """A branch is left out in eval mode too, by Python's generator."""

    def mix(self, v):
        return super().mix(v) * (random.random() > 0.1)


class SeedsItself(Replayed):
    """Every pass in train mode seeds torch."""

    def mix(self, v):
        if self.training:
            torch.manual_seed(0)
        return super().mix(F.dropout(v, 0.1, self.training))


class SeedsNumpy(Replayed):
    """Every pass in train mode seeds NumPy."""

    def mix(self, v):
        if self.training:
            np.random.seed(0)
        return super().mix(v)


class SeedsAtStart(Replayed):
    """`__init__` seeds torch."""

    def __init__(self, args):
        torch.manual_seed(1234)
        super().__init__(args)


class OtherInInferenceMode(Replayed):
    """Inference mode adds a tenth of the last token."""

    def mix(self, v):
        return super().mix(v) + (0.1 * v if torch.is_inference_mode_enabled() else 0)


class OtherWithoutGradients(Replayed):
    """A pass without gradients rounds its values."""

    def mix(self, v):
        return super().mix(v if torch.is_grad_enabled() else v.round(decimals=1))


class GrowingList(Replayed):
    """A list grows by one tensor with every call."""

    def __init__(self, args):
        super().__init__(args)
        self.seen = []

    def mix(self, v):
        self.seen.append(v.detach().mean())
        return super().mix(v)


class GrowingClass(Replayed):
    """A list of the class grows by one number with every call."""

    seen = []  # noqa: RUF012

    def mix(self, v):
        self.seen.append(float(v.detach().mean()))
        return super().mix(v)


CALLS: dict = {}


class GrowingFile(Replayed):
    """A dict at the top of the file grows with every call."""

    def mix(self, v):
        CALLS[len(CALLS)] = v.shape
        return super().mix(v)


class GrowingBuffer(Replayed):
    """A buffer grows by one value with every call."""

    def __init__(self, args):
        super().__init__(args)
        self.register_buffer("seen", torch.zeros(1), persistent=False)

    def mix(self, v):
        self.seen = torch.cat([self.seen, torch.ones(1)])
        return super().mix(v)


class StaleInEvaluation(Replayed):
    """Evaluation uses a function of a parameter that the first evaluation has kept."""

    kept = None

    def __init__(self, args):
        super().__init__(args)
        self.gate = nn.Parameter(torch.zeros(args.d_model))

    def mix(self, v):
        if self.training:
            return super().mix(v) * self.gate.sigmoid()
        self.kept = self.gate.sigmoid() if self.kept is None else self.kept
        return super().mix(v) * self.kept


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A broken layer, the check that catches it, and the row of the results that fails."""

    layer: type
    check: Callable
    row: str
    long: int = 0  # tokens of the one long pass; 0 leaves it out

    @property
    def wrong(self) -> str:
        """What is wrong with the layer, in one sentence."""
        return self.layer.__doc__


BROKEN = (
    Broken(LeakyConvolution, causality.changed_tokens, "changed tokens"),
    Broken(LeakBehindAGate, causality.changed_tokens, "changed tokens"),
    Broken(LeakInsideAChunk, causality.changed_tokens, "changed tokens"),
    Broken(LeakFarAway, causality.changed_tokens, "changed tokens", LONG),
    Broken(LeakFarAway, causality.changed_tokens, "changed tokens in train mode", LONG),
    Broken(LeakFarAway, causality.gradient, "gradient of later inputs", LONG),
    Broken(LeakAtOneToken, causality.changed_tokens, "changed tokens"),
    Broken(LeakAtOneToken, causality.gradient, "gradient of later inputs"),
    Broken(LeakUnderAutocast, causality.under_autocast, "changed tokens under autocast"),
    Broken(FutureNormalisation, causality.changed_tokens, "changed tokens"),
    Broken(BatchNormalisation, causality.changed_tokens, "changed tokens in train mode"),
    Broken(KnowsTheLength, causality.shorter_sequence, "shortened sequence"),
    Broken(FutureNormalisation, causality.shorter_sequence, "shortened sequence"),
    Broken(LeakyConvolution, causality.gradient, "gradient of later inputs"),
    Broken(NoisyLeak, causality.gradient, "gradient of later inputs"),
    Broken(BatchNormalisation, causality.gradient, "gradient of later inputs"),
    Broken(ForgetfulStep, decoding.steps_from_empty, "steps from an empty state"),
    Broken(StaleCache, decoding.steps_from_empty, "steps from an empty state"),
    Broken(LostAtGrowth, decoding.steps_from_empty, "steps from an empty state"),
    Broken(ForgottenStart, decoding.steps_from_empty, "steps from an empty state"),
    Broken(StalePrefill, decoding.steps_after_prefill, "steps after a prefill"),
    Broken(StaleCache, decoding.steps_after_prefill, "steps after a prefill"),
    Broken(PrefillFromNothing, decoding.prefill_into_state, "prefill into a used state"),
    Broken(DriftsLate, decoding.long_steps, "steps from an empty state, long", LONG),
    Broken(RingOf512, decoding.long_steps, "steps from an empty state, long", LONG),
    Broken(LongPrompt, decoding.long_prefills, "prefill into a used state, long", LONG),
    Broken(MixedRows, isolation.other_rows, "other rows changed"),
    Broken(BatchNormalisation, isolation.other_rows, "other rows changed in train mode"),
    Broken(RowsAboveFour, isolation.other_rows, "other rows changed"),
    Broken(RowsAboveFour, isolation.row_alone, "row alone, or in a batch"),
    Broken(RowsAboveFourInStep, isolation.other_rows_decoded, "other rows changed in decoding"),
    Broken(CountsRows, isolation.row_alone, "row alone, or in a batch"),
    Broken(MaskLeak, isolation.padding, "padding"),
    Broken(KnowsTheLength, isolation.padding, "padding"),
    Broken(StateInABuffer, isolation.earlier_calls, "earlier calls"),
    Broken(StateInABufferWhenTraining, isolation.earlier_calls, "earlier calls in train mode"),
    Broken(StateInTheModule, isolation.two_decodings, "two decodings by turns"),
    Broken(EvenOnly, shapes.odd_lengths, "one token, odd lengths"),
    Broken(NotANumberAtOne, shapes.odd_lengths, "one token, odd lengths"),
    Broken(GroupsOf16, shapes.width_8, "width 8"),
    Broken(TwoHeadsAtLeast, shapes.one_head, "one head"),
    Broken(SqueezesRows, shapes.batch_1, "batch of one"),
    Broken(GrowsWithTime, shapes.longer_than_trained, "longer than trained"),
    Broken(RoundedState, numerics.bf16_forward, "bf16 forward"),
    Broken(RoundedPositions, numerics.bf16_forward, "bf16 forward", LONG),
    Broken(OverflowsAt900, numerics.bf16_forward, "bf16 forward", LONG),
    Broken(RoundedPositionsInStep, numerics.bf16_decoding, "bf16 decoding", LONG),
    Broken(RoundedStateInStep, numerics.bf16_decoding, "bf16 decoding"),
    Broken(RootOfRounded, numerics.bf16_gradients, "bf16 gradients, not finite"),
    Broken(ExponentialModel, numerics.extreme_embeddings, "embeddings x 100, not finite"),
    Broken(UnitLengthModel, numerics.extreme_embeddings, "embeddings zero, not finite"),
    Broken(Exponential, numerics.extreme_inputs, "layer inputs x 10, not finite"),
    Broken(UnitLength, numerics.extreme_inputs, "layer inputs zero, not finite"),
    Broken(RunningVariance, numerics.one_repeated_token, "one repeated token, not finite"),
    Broken(WrongBackward, gradients.differences_float64, "gradients, float64"),
    Broken(WrongKernel, gradients.float32, "gradients, float32"),
    Broken(DetachedChunks, gradients.long_sequence, "gradients, long sequence", LONG),
    Broken(DeadParameter, gradients.every_parameter, "parameters without a gradient"),
    Broken(UnusedParameter, gradients.every_parameter, "parameters without a gradient"),
    Broken(InfiniteGradient, gradients.every_parameter, "parameters with a gradient not finite"),
    Broken(NoiseInEval, repeatability.forward_twice, "forward repeated"),
    Broken(WastesRandomNumbers, repeatability.forward_twice, "forward repeated"),
    Broken(DrawsFromPython, repeatability.forward_twice, "forward repeated"),
    Broken(DropoutLeftOn, repeatability.forward_twice, "forward repeated at dropout 0.5"),
    Broken(DropoutLeftOnInStep, repeatability.decoding_twice, "decoding repeated at dropout 0.5"),
    Broken(SeedsItself, repeatability.reseeding, "generators reset by forward"),
    Broken(SeedsNumpy, repeatability.reseeding, "generators reset by forward"),
    Broken(SeedsAtStart, repeatability.reseeding, "generators reset by __init__"),
    Broken(OtherInInferenceMode, repeatability.other_modes, "inference_mode, no_grad, gradients"),
    Broken(OtherWithoutGradients, repeatability.other_modes, "inference_mode, no_grad, gradients"),
    Broken(GrowingList, leftovers.growth, "bytes that each call adds"),
    Broken(GrowingClass, leftovers.growth, "bytes that each call adds"),
    Broken(GrowingFile, leftovers.growth, "bytes that each call adds"),
    Broken(GrowingBuffer, leftovers.growth, "bytes that each call adds"),
    Broken(NoiseInTraining, repeatability.backward_twice, "backward repeated"),
    Broken(InitialisedByTheSystem, repeatability.same_seed, "tensors that a seed leaves open"),
    Broken(LostBuffer, repeatability.save_and_load, "saved and loaded"),
    Broken(StaleInEvaluation, caching.training_after_inference, "training after inference"),
    Broken(CountedInitialisation, repeatability.initialisation, "initialisation in the backbone"),
)

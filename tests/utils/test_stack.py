"""Several models trained as one: each computes what it would compute alone, and nothing of the others.

python -m pytest tests/utils/test_stack.py
"""

import math

import pytest
import torch
from small_models import C, NoTask, tokens

from dataset.common import IGNORE, Batch
from src.flags.fields import UserError
from src.flags.run_flags import resolve
from src.models import MODELS
from src.models.backbone import build
from src.models.contract import ARModel, Mixer
from src.utils.stack import Stack, joined, problem_of, together
from src.utils.training import make_optimizer, make_scaler, make_scheduler, train_step

CPU = torch.device("cpu")
STEPS = 6
# Sums are taken in another order, and AdamW divides a gradient by its own size: after six steps of 1e-3, a weight whose
# gradient is rounding alone may be anywhere within six steps. So losses and norms are compared, not weights.
SHARE = 2e-5


def flags(name, **more):
    model_class = MODELS[name].load() if isinstance(name, str) else name
    small = {"d_model": 8, "n_layer": 2, "n_head": 2, "dropout": 0.0, "precision": "fp32", "warmup_steps": 2}
    return model_class, resolve(NoTask, model_class, preset={**small, "weight_decay": 0.1, **more})


def models_of(model_class, args, seeds=(1, 2)):
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        found.append(build(model_class, C, args, 32).train())
    return found


def batch_of(rows, length, seed):
    """A batch whose last third of positions is trained."""
    x, y = tokens(rows, length, seed), tokens(rows, length, seed + 100)
    y[:, : -(length // 3)] = IGNORE
    return Batch(x, y, y != IGNORE, torch.full((rows,), length), torch.full_like(x, -1))


def alone(model, args, batches):
    """[(loss, norm)] of each step of a single training."""
    optimizer = make_optimizer(model, args, CPU)
    parts = optimizer, make_scheduler(optimizer, args, STEPS), make_scaler(args, CPU)
    rows = [train_step(model, batch, *parts, CPU, args) for batch in batches]
    return [(row["loss"], row["grad_norm"]) for row in rows], optimizer


def at_once(models, args, batches):
    """The same of each model of a stack, and the stack.  batches: per model, one per step."""
    stack, found = Stack(models, args, CPU, STEPS), []
    for step in zip(*batches, strict=True):
        found.append(stack.gradients(step))
        stack.update()
    return [[(losses[i], norms[i]) for losses, norms in found] for i in range(len(models))], stack


def uneven(seed):
    """Batches of unlike sizes: B and T differ between the models and between the steps."""
    return [batch_of(3 + (step + seed) % 3, 9 + 2 * ((step * seed) % 4), 10 * seed + step) for step in range(STEPS)]


FORMS = [
    ("transformer", {}),
    ("transformer", {"pos": "alibi", "tie_weights": True}),
    ("transformer", {"label_smoothing": 0.1, "grad_clip": 0.05}),
    ("llama", {}),
    ("mamba", {"backend": "eager"}),
    ("mamba", {}),
    ("mamba2", {}),
    ("linear_attention", {"decay": "fixed"}),
    ("retnet", {}),
    ("gla", {}),
    ("deltanet", {}),
    ("gated_deltanet", {}),
    ("lstm", {"fair": True}),
    ("gru", {}),
]


IDS = [f"{n}-{'-'.join(map(str, m.values()))}" for n, m in FORMS]
QUICK = ("transformer", "mamba", "gated_deltanet", "gru")  # one of each kind


@pytest.mark.parametrize(
    ("name", "more"), [f if f[0] in QUICK else pytest.param(*f, marks=pytest.mark.slow) for f in FORMS], ids=IDS
)
def test_each_model_of_a_stack_learns_as_it_does_alone(name, more):
    model_class, args = flags(name, **more)
    batches = [uneven(1), uneven(2)]
    found, stack = at_once(models_of(model_class, args), args, batches)
    for row, model in enumerate(models_of(model_class, args)):
        wanted, optimizer = alone(model, args, batches[row])
        torch.testing.assert_close(torch.tensor(found[row]), torch.tensor(wanted), rtol=SHARE, atol=0)
        state = stack.optimizer_state(row, optimizer.state_dict())
        moments, like = state["state"], optimizer.state_dict()["state"]
        assert moments.keys() == like.keys()
        for index, one in like.items():
            assert moments[index]["step"] == one["step"]
            for name in ("exp_avg", "exp_avg_sq"):
                torch.testing.assert_close(moments[index][name], one[name], rtol=1e-3, atol=1e-6)
        assert [g["lr"] for g in state["param_groups"]] == [g["lr"] for g in optimizer.param_groups]


def test_a_stack_in_bf16_stays_within_bf16_of_single_models():
    model_class, args = flags("gated_deltanet", precision="bf16")
    batches = [uneven(1), uneven(2)]
    found, _ = at_once(models_of(model_class, args), args, batches)
    wanted, _ = alone(models_of(model_class, args)[0], args, batches[0])
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(wanted), rtol=3e-2, atol=0)  # 8 bits


def test_a_model_that_diverges_changes_no_other_one_and_keeps_its_weights():
    model_class, args = flags("gru")
    batches = [uneven(1), uneven(2), uneven(3)]
    models = models_of(model_class, args, (1, 2, 3))
    stack = Stack(models, args, CPU, STEPS)
    rows, found = [0, 1, 2], {0: [], 1: [], 2: []}
    for step in range(STEPS):
        if step == 3:  # weights that no loss survives
            with torch.no_grad():
                stack.groups[0].matrix[1] = math.inf
        losses, norms = stack.gradients([batches[row][step] for row in rows])
        well = [i for i, pair in enumerate(zip(losses, norms, strict=True)) if not problem_of(*pair)]
        assert well == ([0, 2] if step == 3 else list(range(len(rows))))
        for i in well:
            found[rows[i]].append((losses[i], norms[i]))
        if step == 3:
            stack.keep(well)
            rows = [0, 2]
        stack.update()
    for row in (0, 2):
        wanted, _ = alone(models_of(model_class, args, (1, 2, 3))[row], args, batches[row])
        torch.testing.assert_close(torch.tensor(found[row]), torch.tensor(wanted), rtol=SHARE, atol=0)


def test_the_clipping_of_one_model_does_not_depend_on_the_gradient_of_another():
    """One norm for all would be the usual mistake: the second model has a gradient a thousand times larger."""
    model_class, args = flags("gru", grad_clip=1.0)
    models = models_of(model_class, args)
    with torch.no_grad():
        models[1].head.weight *= 1000
    stack = Stack(models, args, CPU, STEPS)
    _, norms = stack.gradients([batch_of(3, 9, 1), batch_of(3, 9, 2)])
    assert norms[1] > 100 * norms[0]
    before = [rows.gradient.clone() for rows in stack.groups]
    stack.update()
    for row, norm in enumerate(norms):
        for rows, gradient in zip(stack.groups, before, strict=True):
            torch.testing.assert_close(rows.matrix.grad[row], gradient[row] * min(1.0, 1.0 / (norm + 1e-6)))


def test_a_weight_that_is_frozen_keeps_its_value_for_each_model():
    model_class, args = flags("transformer")
    models = models_of(model_class, args)
    for model in models:
        model.blocks[0].mlp.requires_grad_(False)
    before = [model.blocks[0].mlp.state_dict() for model in models]
    batches = [uneven(1), uneven(2)]
    found, stack = at_once(models, args, batches)
    assert not [name for name in stack.weights(0) if name.startswith("blocks.0.mlp")]
    single = models_of(model_class, args)[1]
    single.blocks[0].mlp.requires_grad_(False)
    wanted, _ = alone(single, args, batches[1])
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(wanted), rtol=SHARE, atol=0)
    for model, kept in zip(models, before, strict=True):
        torch.testing.assert_close(model.blocks[0].mlp.state_dict(), kept, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("shapes", "launch", "calls"),
    [
        ([(8, 8), (8, 8), (8, 8)], 10, [[0, 1, 2]]),
        ([(64, 8), (8, 64), (60, 8)], 100, [[0, 2], [1]]),  # padded, these would be 3 x 64 x 64 tokens
        ([(64, 8), (8, 64), (60, 8)], 10**6, [[0, 1, 2]]),
        ([(4, 4)], 10, [[0]]),
    ],
)
def test_batches_share_a_call_where_padding_costs_less_than_a_call(shapes, launch, calls):
    assert together(shapes, launch) == calls


def test_without_padding_only_equal_shapes_share_a_call():
    assert together([(2, 4), (2, 5), (2, 4)], 10**6, padded=False) == [[0, 2], [1]]


def test_joined_batches_keep_each_trained_position_and_its_target():
    batches = [batch_of(2, 6, 1), batch_of(3, 9, 2)]
    x, index, target = joined(batches)
    assert x.shape == (2, 3, 9)
    for i, batch in enumerate(batches):
        n = batch.n_trained
        rows, columns = index[i, :n] // 9, index[i, :n] % 9
        assert torch.equal(batch.y[rows, columns], target[i, :n])
        assert torch.equal(x[i, : len(batch), : batch.x.shape[1]], batch.x)
        assert (target[i, n:] == IGNORE).all()


class OwnLoss(ARModel):
    def __init__(self, vocab_size, args):
        super().__init__()
        self.head = torch.nn.Embedding(vocab_size, vocab_size)

    def forward(self, x, attn_mask=None):
        return self.head(x)

    def loss_fn(self, batch, label_smoothing=0.0):
        return super().loss_fn(batch, label_smoothing)


class Complex(Mixer):
    def __init__(self, args):
        super().__init__()
        self.turn = torch.nn.Parameter(torch.ones(args.d_model, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.turn).real


@pytest.mark.parametrize(("model_class", "words"), [(OwnLoss, "loss_fn of its own"), (Complex, "not real")])
def test_a_model_that_cannot_be_one_of_several_is_refused(model_class, words):
    model_class, args = flags(model_class)
    with pytest.raises(UserError, match=words):
        Stack(models_of(model_class, args), args, CPU, STEPS)

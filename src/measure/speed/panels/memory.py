"""`--panel memory`: one mixer alone, forward and backward, by length: the bytes that it keeps, and its peak.

    kept_bytes  storages that autograd saves in the forward pass for the backward one, each counted once, without
                parameters. The input counts, because the block keeps it for the mixer. Attributes that a custom
                Function stores without autograd's list are not seen
    peak_bytes  the most memory during forward and backward, above weights and input. It includes the parameters'
                gradients

There are ROWS sequences at every length, so an exponent is that of one sequence. A layer's short convolution belongs to
it. A whole model of the user's own has no mixer, and a hybrid has several: neither is measured here.
"""

from __future__ import annotations

from src.figures.speed import Axis, PanelLook
from src.measure.speed.panels import OVERHEAD_TOKENS, Panel, Point, Quantity, Table
from src.measure.speed.panels.memory_of import device_type_of, includes, peak_above
from src.measure.speed.subjects import Subject
from src.setup.plan import set_threads
from src.utils.memory import kept_bytes

ROWS = 4


class OneMixer:
    """The first block's mixer with its short convolution, and an input (ROWS, T, D)."""

    def __init__(self, subject: Subject, device):
        block = subject.build(device).train().blocks[0]
        self.conv, self.mixer, self.args, self.device = block.conv, block.mixer, subject.args, device

    def input(self, rows: int, length: int):
        import torch

        x = torch.randn(rows, length, self.args.d_model, generator=torch.Generator().manual_seed(self.args.seed))
        return x.to(self.device).requires_grad_()

    def parameters(self):
        return [*self.mixer.parameters(), *(self.conv.parameters() if self.conv is not None else ())]

    def forward(self, x):
        from src.utils.precision import autocast

        with autocast(self.device, self.args.precision):
            return self.mixer(x if self.conv is None else self.conv(x)[0])

    def train(self, x) -> None:
        """Forward and backward; gradients are dropped afterwards."""
        self.forward(x).float().sum().backward()
        x.grad = None
        for p in self.parameters():
            p.grad = None


def measure_peak(spec: dict) -> dict:
    """{"peak_bytes", "kept_bytes", "parameters"}.

    The second pass is measured, because the first one of a shape loads code and makes kernels (some MiB, once).
    """
    import torch

    subject, device = Subject.from_spec(spec["subject"]), torch.device(spec["device"])
    set_threads(spec["threads"])
    mixer = OneMixer(subject, device)
    x = mixer.input(spec["batch"], spec["length"])
    mixer.train(x)
    peak = peak_above(lambda: mixer.train(x), device)
    kept = kept_bytes(lambda: mixer.forward(x), mixer.parameters())
    return {"peak_bytes": peak, "kept_bytes": kept, "parameters": sum(p.numel() for p in mixer.parameters())}


class Memory(Panel):
    name = "memory"
    metrics = ("kept_bytes", "peak_bytes")
    overhead_metrics = ("floor_bytes",)
    peak = "src.measure.speed.panels.memory:measure_peak"
    quantities = (
        Quantity("kept_bytes", "bytes kept for backward"),
        Quantity("peak_bytes", "peak of forward + backward", "floor_bytes"),
    )
    tables = (
        Table("kept_bytes", "kept for backward, MiB", "{:,.2f}", 2**20),
        Table("peak_bytes", "peak, MiB", "{:,.1f}", 2**20),
    )
    look = PanelLook(
        axes=(
            Axis("kept_bytes", "kept for backward (MiB)", 2**20),
            Axis("peak_bytes", "peak of forward + backward (MiB)", 2**20),
        ),
        x_label="length (tokens)",
        title="one layer, {batches} sequences",
        legend=("kept_bytes", "bytes kept"),
    )

    def points(self, config) -> list[Point]:
        return [Point(OVERHEAD_TOKENS, ROWS, OVERHEAD_TOKENS, True), *(Point(n, ROWS, n) for n in config.lengths)]

    def refuse(self, subject, point):
        from src.models.contract import ARModel

        if issubclass(subject.model_class, ARModel):
            return "a whole model of its own has no mixer to measure alone"
        return "a hybrid has several mixers; name them one by one" if hasattr(subject.model_class, "layers") else ""

    def fields(self, subject, point, sample, memory):
        common = {"unit": "bytes", "parameters": memory["parameters"], "form": "forward+backward"}
        peak = {
            "value": memory["peak_bytes"],
            "note": f"gradients of the parameters, and {includes(device_type_of(subject))}",
            **common,
        }
        if point.is_overhead:
            return [{"metric": "floor_bytes", **peak}]
        return [
            {
                "metric": "kept_bytes",
                "value": memory["kept_bytes"],
                "note": "storages that autograd saves, parameters apart",
                **common,
            },
            {"metric": "peak_bytes", **peak},
        ]

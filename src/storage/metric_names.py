"""The name of each metric: its key in metrics.json, and the words that figures and progress lines show for it.

    metric_name("token_acc")       -> "token accuracy"
    metric_name("within_0.01")     -> "within 0.01"         a task's own metric: its key, with spaces

Tables, summaries and documentation use the key. One metric has no third name.
"""

from __future__ import annotations

NAMES = {
    "token_acc": "token accuracy",
    "loss": "loss (nats per scored character)",
    "heldout_loss": "held-out loss (nats per scored character)",
    "bpc": "bits per scored character",
    "bits_per_byte": "bits per byte",
    "heldout_bits_per_byte": "held-out bits per byte",
    "ppl": "perplexity (per scored character)",
}


def metric_name(metric: str, unit: str = "character") -> str:
    """The words for a key of a result. A key without words of its own is shown with spaces.

    unit: what a scored unit is, "character" or "token" (`data.unit` of metrics.json).
    """
    return NAMES.get(metric, metric.replace("_", " ")).replace("character", unit)


def unit_of(metrics: dict) -> str:
    """What one id of a run stands for. metrics: the content of metrics.json. Older ones have characters."""
    return metrics.get("data", {}).get("unit", "character")

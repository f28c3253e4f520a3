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
    "ppl": "perplexity (per scored character)",
}


def metric_name(metric: str) -> str:
    """The words for a key of a result. A key without words of its own is shown with spaces."""
    return NAMES.get(metric, metric.replace("_", " "))

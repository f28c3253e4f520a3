"""What two equal runs share: the content of a run directory without times and without what names the machine."""

import json
from pathlib import Path

import torch

TIMES = ("seconds", "seconds_per_step")


def content(folder) -> dict[str, object]:
    """{file: its bytes, or its content without the machine's part}. env.json is the machine's; .lock is empty."""
    folder, found = Path(folder), {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in ("env.json", ".lock", "metrics.jsonl", "ckpt.pt"):
            found[name] = path.read_bytes()
    for name in ("metrics.json", "config.json"):
        found[name] = {k: v for k, v in json.loads(found[name]).items() if k != "machine"}
    found["metrics.jsonl"] = plain([json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()])
    checkpoint = torch.load(folder / "ckpt.pt", weights_only=True)
    checkpoint.get("log", {}).pop("sha256", None)  # of the lines of metrics.jsonl, times included
    found["ckpt.pt"] = plain(checkpoint)
    return found


def plain(value):
    """Nested values that `==` compares: tensors become bytes, and times are left out."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in TIMES}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

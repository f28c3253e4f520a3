"""A small translation run for tests: ten pairs, a model of 16 channels, and a folder of its own."""

from pathlib import Path

import yaml

PAIRS = """en,fr,split
the cat sleeps.,le chat dort.,train
the dog sleeps.,le chien dort.,train
the cat eats.,le chat mange.,train
the bird sings.,l'oiseau chante.,train
the dog runs.,le chien court.,train
a cat runs.,un chat court.,train
a dog eats.,un chien mange.,train
the bird eats.,l'oiseau mange.,train
the dog eats.,le chien mange.,heldout
a cat eats.,un chat mange.,heldout
"""
SETTINGS = {
    "name": "mini",
    "data": {"path": "pairs.csv", "source": "en", "target": "fr", "split": "split", "max_len": 8},
    "model": {"d_model": 16, "n_head": 2, "n_layer": 1, "d_ff": 16},
    "train": {"lr": 0.01, "warmup_steps": 5, "epochs": 40, "batch_size": 3, "seed": 1},
}


def write_settings(folder: Path, pairs: str | bytes = PAIRS, **changed) -> Path:
    """Write pairs.csv and c.yaml into a folder. changed: section__key=value. Returns the path of c.yaml."""
    document = {part: dict(v) if isinstance(v, dict) else v for part, v in SETTINGS.items()}
    for name, value in changed.items():
        part, _, key = name.partition("__")
        if key:
            document[part][key] = value
        else:
            document[part] = value
    content = pairs if isinstance(pairs, bytes) else pairs.encode("utf-8")
    (folder / "pairs.csv").write_bytes(content)
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    """{path below the folder: content} of all files."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

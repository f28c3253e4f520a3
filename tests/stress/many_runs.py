"""Trains many tiny models in one process and prints what that leaves: memory, open files, threads, children, files.

python tests/stress/many_runs.py FOLDER 1000
"""

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
MODELS = ("gru", "transformer", "mamba", "deltanet")
TASKS = ("parity", "copy", "recall", "sort")
SIZES = (
    "--d_model 8 --n_layer 1 --n_head 1 --max_steps 2 --batch_chars 64 --val_size 4 --test_size 4 --warmup_steps 1 "
    "--threads 1 --precision fp32 --context_len 16 --quiet --overwrite"
).split()


def now(folder: Path) -> dict:
    """Memory in use in KiB, and the numbers of open files, threads, children and temporary files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {
        "kib": int(status["VmRSS"].split()[0]),
        "open": len(os.listdir("/proc/self/fd")),
        "threads": int(status["Threads"]),
        "children": len(children),
        "temporary": len(os.listdir(tempfile.gettempdir())),
        "folders": len(os.listdir(folder)),
    }


def main(folder: Path, runs: int) -> None:
    import benchmark

    tempfile.tempdir = str(folder / "tmp")
    (folder / "tmp").mkdir(parents=True)
    for i in range(1, runs + 1):
        model, task = MODELS[i % len(MODELS)], TASKS[i // len(MODELS) % len(TASKS)]
        words = ["--task", task, "--model", model, "--seed", str(i), *SIZES, "--out_dir", str(folder / "run")]
        if task == "recall":
            words += ["--n_pairs", "2"]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as err:
            code = benchmark.main(words)
        if code:
            raise SystemExit(f"run {i}: exit code {code}: {err.getvalue()}")
        if i % (runs // 10) == 0:
            print(json.dumps({"runs": i, **now(folder)}), flush=True)
    shutil.rmtree(folder / "run")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

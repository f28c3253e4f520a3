"""Compact records: what is committed of finished runs, and the figures drawn from it.

    python -m src.study.records collect runs/mine runs/mamba-1 runs/mamba-2     # tables of finished runs
    python -m src.study.records collect runs/mine runs/parity runs/copy         # of the runs of two comparisons
    python -m src.study.records redraw runs/records/main                        # figures, without torch

A record is one folder. `collect` writes it from finished run directories. These are training runs and comparisons (of a
comparison, the runs on its fresh seeds), or one `speed` run:

    results.csv     one row per training run, or one row per measured number of `speed`
    curves.json     of training runs: flags, loss curves, slices and length curves, about 100 points per curve
    comparisons.json    per comparison: its command and seeds, the rates that were tried, its summary and its verdicts
    panel.json      of `speed`: its command and commit, growth exponents and crossovers
    env.json        one entry per machine; rows refer to it by name
    figures.csv     written by hand: one row per line of a figure (figure, draws, run, label)
    reference.csv   written by hand: losses of another program (run, step, train_loss, val_loss); cells may be empty

In figures.csv, `draws` is the name of a file that `--vis_only` would write: loss, distance_curve, length_curve, ...; of
`speed`: train, memory, ... `losses` lays the training and validation losses of several runs over each other. Runs with
the same label share a colour there, and a run may be one of reference.csv.

`redraw` writes FOLDER/figures/FIGURE.png for each figure of the list. Without the list it draws all that `--vis_only`
draws.

Floats keep six significant digits. Wrong input is one line on stderr and exit code 2. Nothing here imports torch.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from src.figures import runs as run_figures
from src.figures import speed as speed_figures
from src.figures import style
from src.flags.fields import UserError
from src.flags.parser import Parser, report_error
from src.measure.speed.panels import looks
from src.stats.intervals import wilson
from src.storage.env import open_env
from src.storage.files import open_sealed, read_json, write_atomic
from src.storage.finished import finished_metrics
from src.storage.rundir import RunDir
from src.storage.tables import csv_bytes, read_csv
from src.study.comparison.stored import KIND, open_stored

POINTS = 100
MOST_LENGTHS = 20  # that have columns of their own; of more there is only the mean
DIGITS = 6
PROJECT = Path(__file__).resolve().parents[2]
DERIVED = ("bpc", "ppl")  # follow from the loss
MACHINE_FACTS = ("platform", "cpu", "device", "versions")
YOUNGER = ("layer_parameters", "solved_at")  # columns that older records do not have
RUN_START = (
    *("run", "task", "model", "preset", "flags", "seed", "status", "parameters", "embedding_parameters"),
    *("layer_parameters", "metric", "value", "low", "high", "scaled", "ceiling"),
)
# 95 % interval of `value` over independent sequences (low, high) and, for comparison, Wilson's as if all its items were
# independent. They are not required of a record: older ones do not have them.
RUN_INTERVAL = ("interval_of", "interval_units", "design_effect", "low_if_independent", "high_if_independent")
RUN_END = (
    *("n_examples", "n_scored", "steps", "best_step", "solved_at", "diverged_at", "chars_seen", "train_s"),
    *("command_s", "peak_mib", "state_bytes", "precision", "threads", "backends", "machine", "commit", "in_history"),
    "dirty",
)
SPEED_COLUMNS = (
    *("panel", "model", "metric", "batch", "x_name", "x", "value", "unit", "q1", "q3", "low", "high", "n"),
    *("tokens", "parameters", "backends", "status", "note"),
)
FIGURE_COLUMNS = ("figure", "draws", "run", "label")
REFERENCE_COLUMNS = ("run", "step", "train_loss", "val_loss")
COMPARISONS = "comparisons.json"
ALLOWED = "allowed: training runs and comparisons, or one folder of `speed`"
LOSSES = "losses"  # the figure that only a record has: it may show runs of another program


def collect(run_dirs, folder) -> list[Path]:
    """Write results.csv, curves.json or panel.json, and env.json of finished runs into `folder`; returns their paths.

    run_dirs: training runs and comparisons with different folder names, or one folder of `speed`.
    Of comparisons there is comparisons.json too. Earlier tables of the record are replaced.
    Raises UserError for a run that is missing, unfinished, damaged or of another command.
    """
    folder = Path(folder)
    kinds = {str(path): RunDir(path).stored_kind() for path in run_dirs}
    odd = next((path for path, kind in kinds.items() if kind not in ("", KIND, "speed")), None)
    if odd:
        raise UserError(f"'{odd}' holds results of `{kinds[odd]}`, {ALLOWED}")
    is_speed = "speed" in kinds.values()
    if is_speed and len(kinds) > 1:
        raise UserError(f"got {len(kinds)} folders and one of them is of `speed`, {ALLOWED}")
    other = folder / ("curves.json" if is_speed else "panel.json")
    if other.exists():
        raise UserError(
            f"'{folder}' holds a record of {'training runs' if is_speed else '`speed`'}; choose another folder"
        )
    files = _speed_record(Path(next(iter(kinds)))) if is_speed else _training_record(kinds)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        write_atomic(folder / name, data)
    if COMPARISONS not in files:
        (folder / COMPARISONS).unlink(missing_ok=True)  # of an earlier content
    return [folder / name for name in files]


def redraw(folder) -> list[Path]:
    """Draw the figures of a record from its committed files into `folder`/figures; returns their paths.

    Raises UserError for a missing or damaged file and for a figure that the record has no numbers for.
    """
    folder = Path(folder)
    is_speed = (folder / "panel.json").is_file()
    history, documents = (_read_panel(folder), {}) if is_speed else (None, _read_runs(folder))
    if not (folder / "figures.csv").is_file():
        if is_speed:
            return speed_figures.draw_all(history, folder / "figures", looks())
        return _draw_runs(list(documents.items()), folder / "figures")
    paths = []
    for (figure, draws), lines in _figures(folder, documents).items():
        if draws == LOSSES and not is_speed:
            paths.append(run_figures.lay_over(lines, style.make_folder(folder / "figures") / f"{figure}.png"))
            continue
        with tempfile.TemporaryDirectory() as temporary:
            drawn = speed_figures.draw_all(history, temporary, looks()) if is_speed else _draw_runs(lines, temporary)
            found = {path.stem: path for path in drawn if path.suffix == ".png"}
            if draws not in found:
                raise UserError(
                    f"'{folder / 'figures.csv'}': figure {figure} draws '{draws}', allowed: {', '.join(found)}"
                )
            paths.append(folder / "figures" / f"{figure}.png")
            paths[-1].parent.mkdir(exist_ok=True)
            write_atomic(paths[-1], found[draws].read_bytes())
    return paths


# Training runs


def _training_record(kinds: dict[str, str]) -> dict[str, bytes]:
    """The tables of runs and comparisons. kinds: {folder: KIND for a comparison, else empty}."""
    rows, curves, machines, documents = [], {}, {}, {}
    for folder, kind in kinds.items():
        found = open_stored(folder) if kind == KIND else None
        if found and found.name in documents:
            raise UserError(f"two comparisons are named '{found.name}', allowed: folders with different names")
        documents |= {found.name: found.document} if found else {}
        runs = found.runs if found else {Path(folder).resolve().name: folder}
        for name, path in runs.items():
            if name in curves:
                raise UserError(f"two runs are named '{name}', allowed: folders with different names; rename one")
            metrics, config, env = _open_run(RunDir.open(path))
            rows.append(_run_row(name, metrics, config, env, machines))
            curves[name] = _run_curves(metrics)
    columns = [*RUN_START, *RUN_INTERVAL, *_ordered(rows), *RUN_END]
    files = {"results.csv": _to_csv(columns, rows), "curves.json": _to_json(curves), "env.json": _to_json(machines)}
    return files | ({COMPARISONS: _to_json(documents, 3)} if documents else {})


def _open_run(run: RunDir) -> tuple[dict, dict, dict]:
    """metrics.json, config.json and env.json of a finished run, verified."""
    return finished_metrics(run), open_sealed(run.config), open_env(run.env)


def _run_row(name: str, metrics: dict, config: dict, env: dict, machines: dict) -> dict:
    """One row of results.csv. Further columns begin with chance_, test_, at_ (the metric at a length) or baseline_.

    at_mean is the mean over --eval_lengths. notes is what limits the result, in words (src/storage/notes.py).
    """
    result, primary, machine = metrics["final_test"] or {}, metrics["primary"], metrics["machine"]
    low, high = result.get("intervals", {}).get(primary, (None, None))
    args, typed = metrics["args"], {k: v for k, v in config["explicit"].items() if k not in ("task", "model", "seed")}
    row = {
        "run": name,
        "task": metrics["task"],
        "model": metrics["model"],
        "preset": config["preset"],
        "flags": _flags(typed),
        "seed": args["seed"],
        "status": metrics["status"],
        "parameters": metrics["parameters"]["total"],
        "embedding_parameters": metrics["parameters"]["embedding"],
        "layer_parameters": metrics["parameters"].get("layers"),
        "metric": primary,
        "value": result.get(primary),
        "low": low,
        "high": high,
        "scaled": metrics["scaled"],
        "ceiling": metrics["ceiling"],
        **_interval_columns(result, primary),
    }
    row |= {f"chance_{chance}": values["primary"] for chance, values in metrics["floors"].items()}
    row |= {
        f"test_{k}": v
        for k, v in result.items()
        if _is_number(v) and k not in (primary, "n_examples", "n_scored", *DERIVED)
    }
    row |= length_columns(metrics, independent=True)
    row |= {f"baseline_{k}": v for k, v in metrics["baselines"].items()}
    row |= {"notes": "; ".join(metrics["notes"])} if metrics.get("notes") else {}
    return row | {
        "n_examples": result.get("n_examples"),
        "n_scored": result.get("n_scored"),
        "steps": metrics["steps"],
        "best_step": metrics["best_step"],
        "solved_at": _solved_cell(metrics.get("solved_at")),
        "diverged_at": metrics["diverged_at"],
        "chars_seen": metrics["chars_seen"],
        "train_s": machine.get("train_seconds"),
        "command_s": machine.get("command_seconds"),
        "peak_mib": machine.get("peak_memory_mib"),
        "state_bytes": metrics["decode_state"]["bytes"],
        "precision": args["precision"],
        "threads": args["threads"],
        "backends": _backends(env.get("backends")),
        **_origin(env, machines),
    }


def _solved_cell(solved: dict | None) -> int | str | None:
    """The step that solved the task, None (empty) if none did, "undefined" where the run cannot tell."""
    return "undefined" if solved is None or solved["reason"] is not None else solved["step"]


def _interval_columns(result: dict, primary: str) -> dict:
    """RUN_INTERVAL of the primary metric; empty after a divergence."""
    if not result:
        return {}
    basis = result["interval_basis"][primary]
    return {
        "interval_of": result["interval_of"],
        "interval_units": f"{basis['units']} x {basis['unit']}",
        "design_effect": basis["design_effect"],
        **_if_independent("", result[primary], basis["count"]),
    }


def _if_independent(prefix: str, value: float | None, count: int) -> dict:
    """Columns with the interval of a share over `count` items, if they were independent of each other."""
    low, high = (None, None) if value is None else wilson(value * count, count)
    return {f"{prefix}low_if_independent": low, f"{prefix}high_if_independent": high}


def length_columns(metrics: dict, independent: bool = False) -> dict:
    """The columns at_LENGTH of a run that was tested at several lengths, and at_mean, each with its interval.

    independent: with Wilson's interval as if all items were independent.
    """
    columns: dict = {}
    for point in metrics["length_curve"] if 1 < len(metrics["length_curve"]) <= MOST_LENGTHS else ():
        column, ends = f"at_{point['length']}", point["ci"] or (None, None)
        columns |= {
            column: "undefined" if point["value"] is None else point["value"],
            f"{column}_low": ends[0],
            f"{column}_high": ends[1],
        }
        if independent:
            columns |= _if_independent(f"{column}_", point["value"], point["count"])
    return columns | _mean_columns(metrics.get("length_mean"))


def _mean_columns(mean: dict | None) -> dict:
    """The columns of the mean over --eval_lengths, where there are several."""
    if mean is None or len(mean["lengths"]) < 2:
        return {}
    low, high = mean["ci"] or (None, None)
    value = "undefined" if mean["value"] is None else mean["value"]
    return {"at_mean": value, "at_mean_low": low, "at_mean_high": high, "at_mean_scaled": mean["scaled"]}


def _run_curves(metrics: dict) -> dict:
    """One entry of curves.json: what the figures need and results.csv does not hold."""
    result = metrics["test"]["best"] or metrics["test"]["last"]
    slices = (
        {name: {**part, "bins": _thinned(part["bins"])} for name, part in result["slices"].items()} if result else None
    )
    best = metrics["best_step"]
    return {
        "args": metrics["args"],
        "kind": metrics["kind"],
        "digest": metrics["data"]["digest"],
        "chance": {
            name: {k: v for k, v in values.items() if k != "primary"} for name, values in metrics["floors"].items()
        },
        "loss_curve": {
            part: _thinned(points, lambda p: p[0] == best) for part, points in metrics["loss_curve"].items()
        },
        "weights": "best" if metrics["test"]["best"] else "last",
        "slices": slices,
        "length_curve": _thinned(metrics["length_curve"]),
    }


def _thinned(points: list, is_kept=lambda point: False) -> list:
    """At most POINTS of the points, evenly chosen with both ends, and those that `is_kept` names."""
    if len(points) <= POINTS:
        return points
    chosen = {round(i * (len(points) - 1) / (POINTS - 1)) for i in range(POINTS)}
    return [point for i, point in enumerate(points) if i in chosen or is_kept(point)]


def read_runs(folder) -> list[tuple[int, dict, dict]]:
    """(line in results.csv, row, its part of curves.json) of each training run of a record, in its order.

    Raises UserError for a missing or damaged file.
    """
    folder = Path(folder)
    table, curves = folder / "results.csv", read_json(folder / "curves.json")
    needed = [column for column in (*RUN_START, *RUN_END) if column not in YOUNGER]
    rows = _read_csv(table, needed)
    for n, row in rows:
        if not isinstance(curves, dict) or not isinstance(curves.get(row["run"]), dict):
            raise UserError(
                f"'{table}' line {n}: run '{row['run']}' is not in curves.json; restore it, or collect the record again"
            )
    if not rows:
        raise UserError(f"'{table}' has no rows; restore it, or collect the record again")
    return [(n, row, curves[row["run"]]) for n, row in rows]


def _read_runs(folder: Path) -> dict[str, dict]:
    """{run: the part of metrics.json that figures need}, from results.csv and curves.json."""
    documents = {}
    for n, row, curves in read_runs(folder):
        try:
            documents[row["run"]] = _document(row, curves)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"'{folder / 'results.csv'}' line {n} or its part of curves.json is damaged ({error}); "
                "restore it, or collect again"
            ) from error
    return documents


def _document(row: dict, curves: dict) -> dict:
    loss = curves["loss_curve"]
    ppl = {part: [[step, _exp(value)] for step, value in points] for part, points in loss.items()}
    scores = {name: float(row[f"chance_{name}"]) for name in curves["chance"]}
    result = None if curves["slices"] is None else {"slices": curves["slices"]}
    return {
        "task": row["task"],
        "model": row["model"],
        "kind": curves["kind"],
        "primary": row["metric"],
        "args": curves["args"],
        "data": {"digest": curves["digest"]},
        "ceiling": float(row["ceiling"]),
        "parameters": {
            "total": int(row["parameters"]),
            "embedding": int(row["embedding_parameters"]),
            "layers": _whole(row.get("layer_parameters", "")),
        },
        "best_step": _whole(row["best_step"]),
        "diverged_at": _whole(row["diverged_at"]),
        "loss_curve": loss,
        "ppl_curve": ppl,
        "test": {"best": None, "last": None, curves["weights"]: result},
        "floors": {name: {**values, "primary": scores[name]} for name, values in curves["chance"].items()},
        "length_curve": curves["length_curve"],
    }


def _exp(loss: float) -> float | None:
    return math.exp(loss) if loss < 700 else None


def _draw_runs(runs: list[tuple[str, dict]], folder) -> list[Path]:
    """Every figure of one run, or every figure that several share."""
    return run_figures.draw_all(runs[0][1], folder) if len(runs) == 1 else run_figures.overlay(runs, folder)


# The efficiency panel


def _speed_record(path: Path) -> dict[str, bytes]:
    history, env, machines = open_sealed(path / "history.json"), read_json(RunDir(path).env), {}
    if history.get("status") != "done":
        raise UserError(f"'{path}': not finished; continue it with the same `speed` command")
    first = history["rows"][0]
    run = {
        "command": _command(env["argv"]),
        **{k: first[k] for k in ("precision", "device", "threads", "seed")},
        **_origin(env, machines),
    }
    rows = [{**row, "backends": _backends(row["backend"])} for row in history["rows"]]
    panel = {"run": run, "models": history["models"], "fits": history["fits"], "crossovers": history["crossovers"]}
    return {"results.csv": _to_csv(SPEED_COLUMNS, rows), "panel.json": _to_json(panel), "env.json": _to_json(machines)}


def _read_panel(folder: Path) -> dict:
    """{"rows", "models", "fits"} as src/figures/speed.py reads them."""
    table, panel = folder / "results.csv", read_json(folder / "panel.json")
    rows = []
    for n, row in _read_csv(table, SPEED_COLUMNS):
        try:
            numbers = {k: float(row[k]) if row[k] else None for k in ("value", "q1", "q3", "low", "high")}
            counts = {k: _whole(row[k]) for k in ("x", "batch", "tokens", "parameters", "n")}
            rows.append(
                {**row, **numbers, **counts, **{k: panel["run"][k] for k in ("precision", "device", "threads")}}
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"'{table}' line {n} is damaged ({error}); restore it, or collect the record again"
            ) from error
    if not rows or not all(isinstance(panel.get(key), list) for key in ("models", "fits")):
        raise UserError(
            f"'{table}' or '{folder / 'panel.json'}' is incomplete; restore it, or collect the record again"
        )
    return {"rows": rows, "models": panel["models"], "fits": panel["fits"]}


def _command(argv: list[str]) -> str:
    """The command as typed, without its folder."""
    words = [
        word for i, word in enumerate(argv[1:], 1) if not word.startswith("--out_dir") and argv[i - 1] != "--out_dir"
    ]
    return shlex.join(["python", Path(argv[0]).name, *(word for word in words if word != "--overwrite")])


# What rows share


def _flags(typed: dict) -> str:
    """Typed flags as a command line has them: '--lr 0.01 --neg_eigen'."""
    words = []
    for name, value in typed.items():
        text = (
            ",".join(map(str, value))
            if isinstance(value, (list, tuple))
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        words += [f"--{name}"] if value is True else [f"--{name}", shlex.quote(text)]
    return " ".join(words)


def _backends(chosen: dict | None) -> str:
    """'causal_conv: numba, attention: sdpa'. The form for one token follows where a row of `speed` names it."""
    steps = {op: f" + {c['step']} (step)" if c.get("step") else "" for op, c in (chosen or {}).items()}
    return ", ".join(f"{op}: {choice['backend']}{steps[op]}" for op, choice in (chosen or {}).items())


def _origin(env: dict, machines: dict) -> dict:
    """The columns that say where a run comes from. Its machine is added to `machines` if it is new."""
    facts = {key: env[key] for key in MACHINE_FACTS}
    kind = re.sub(r"\((R|TM)\)", "", f"{facts['device']['kind']}, {facts['cpu']['cores']} cores")
    base = re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")
    name, n = base, 1
    while machines.setdefault(name, facts) != facts:
        n += 1
        name = f"{base}-{n}"
    return {
        "machine": name,
        "commit": env["commit"],
        "in_history": _in_history(env["commit"]),
        "dirty": _yes_no(env["dirty"]),
    }


def _in_history(commit: str | None) -> str:
    """yes or no: whether HEAD of this project contains the commit; empty if git cannot tell."""
    shallow = _git("rev-parse", "--is-shallow-repository")
    if not commit or shallow is None or shallow.returncode or shallow.stdout.strip() != "false":
        return ""
    return _yes_no(_git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0)


def _git(*words: str):
    if not shutil.which("git"):
        return None
    return subprocess.run(["git", "-C", str(PROJECT), *words], capture_output=True, text=True)


def _yes_no(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _figures(folder: Path, documents: dict) -> dict[tuple[str, str], list[tuple[str, dict]]]:
    """{(figure, what it draws): (label, run) pairs}, in the order of figures.csv."""
    found: dict[tuple[str, str], list[tuple[str, dict]]] = {}
    references = _read_reference(folder / "reference.csv")
    for n, row in _read_csv(folder / "figures.csv", FIGURE_COLUMNS):
        known = {**documents, **references} if row["draws"] == LOSSES else documents
        if documents and row["run"] not in known:
            raise UserError(f"'{folder / 'figures.csv'}' line {n}: got run '{row['run']}', allowed: {', '.join(known)}")
        lines = found.setdefault((row["figure"], row["draws"]), [])
        lines += [(row["label"] or row["run"], known[row["run"]])] if documents else []
    return found


def _read_reference(path: Path) -> dict[str, dict]:
    """{run: its history} of reference.csv, as src/figures/curves.py reads it. Empty if there is no such file."""
    histories: dict[str, dict] = {}
    for n, row in _read_csv(path, REFERENCE_COLUMNS) if path.is_file() else ():
        history = histories.setdefault(row["run"], {"train": [], "val": []})
        try:
            for part, points in history.items():
                points += [(int(row["step"]), float(row[f"{part}_loss"]))] if row[f"{part}_loss"] else []
        except ValueError as error:
            raise UserError(f"'{path}' line {n} is damaged ({error}); restore it") from error
    return histories


def _ordered(rows: list[dict]) -> list[str]:
    """The extra columns of all rows, grouped by what they hold."""
    extra = list(dict.fromkeys(key for row in rows for key in row if key not in (*RUN_START, *RUN_INTERVAL, *RUN_END)))
    groups = ("chance_", "test_", "at_", "baseline_", "notes")
    return sorted(extra, key=lambda key: next(i for i, start in enumerate(groups) if key.startswith(start)))


def _to_csv(columns, rows: list[dict]) -> bytes:
    return csv_bytes(columns, rows, _cell)


def _cell(value) -> str:
    return "" if value is None else str(_rounded(value))


def _rounded(value):
    """The same, with floats of six significant digits; a float that is a whole number stays exact."""
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def _to_json(doc: dict, levels: int = 2) -> bytes:
    """JSON with this many levels spread over lines; everything below them is on one line."""
    return (_spread(_rounded(doc), levels) + "\n").encode("ascii")


def _spread(value, levels: int, indent: int = 0) -> str:
    """JSON text of a value. A list of numbers or words stays on one line."""
    items = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    is_spread = isinstance(value, dict) or any(isinstance(item, (dict, list)) for item in items)
    if not levels or not items or not is_spread:
        return json.dumps(value)
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(items)
    pad = " " * (indent + 1)
    lines = [f"{pad}{key}{_spread(item, levels - 1, indent + 1)}" for key, item in zip(keys, items, strict=True)]
    left, right = "{}" if isinstance(value, dict) else "[]"
    return f"{left}\n" + ",\n".join(lines) + f"\n{' ' * indent}{right}"


def _read_csv(path: Path, columns):
    """(line number, row) of a table that has at least these columns; UserError if it is missing or damaged."""
    return read_csv(path, columns, "restore it, or collect the record again", f", allowed: the {path.name} of a record")


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(text: str) -> int | None:
    return int(text) if text else None


def main(argv: list[str]) -> int:
    """`collect` or `redraw`; print the paths that were written."""
    parser = Parser(prog="python -m src.study.records", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{collect,redraw}")
    collecting = commands.add_parser("collect", help="write the tables of a record from finished runs")
    collecting.add_argument("folder", metavar="FOLDER", help="the record's folder, made if it is not there")
    collecting.add_argument(
        "runs", metavar="RUN", nargs="+", help="finished training runs and comparisons, or one folder of `speed`"
    )
    redrawing = commands.add_parser("redraw", help="draw the figures of a record from its tables")
    redrawing.add_argument("folder", metavar="FOLDER", help="the record's folder")
    try:
        given = parser.parse_strict(argv)
        paths = collect(given.runs, given.folder) if given.command == "collect" else redraw(given.folder)
    except UserError as error:
        report_error(error)
        return 2
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

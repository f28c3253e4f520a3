"""From the rows of `speed` to findings: exponents, crossover lengths, winners, and the printed tables.

    findings = analyse(rows)            # {"models", "fits", "crossovers", "winners"}: lists, JSON-able
    print("\n".join(tables(rows, findings)))

Each panel names the metrics that have an exponent and a crossover, where their fixed overhead is measured, and which
metrics are printed (src/measure/speed/panels). How the overhead is used is in src/stats/exponents.py. No torch:
`--vis_only` uses this file too.
"""

from __future__ import annotations

import itertools

from src.measure.speed.panels import PANELS, Quantity, Table, load
from src.stats.exponents import TAIL, crossover, fit
from src.storage.rows import REMARKS, WRONG_DECODING

FLAT = 1.5  # growth over the whole range, below the overhead rule, that counts as no growth
CONFIDENT = 0.95  # if a smaller share of resamples has the same winner, it is called uncertain


def models_of(rows, named=()) -> list[str]:
    """The models that have rows: first those of `named` in its order, then the others in the order of their rows."""
    found = dict.fromkeys(r["model"] for r in rows)
    return [*(m for m in named if m in found), *(m for m in found if m not in named)]


def batches_of(rows, panel: str) -> list:
    """The batches that have tables of their own; [None] for a panel in which the batch follows from x."""
    return sorted({r["batch"] for r in rows if r["panel"] == panel}) if load(panel).batches_apart else [None]


def cells(rows, panel: str, metric: str, model: str, batch=None) -> dict[int, dict]:
    """{x: row} of what was measured."""
    return {
        r["x"]: r
        for r in rows
        if r["panel"] == panel
        and r["metric"] == metric
        and r["model"] == model
        and r["status"] == "ok"
        and (batch is None or r["batch"] == batch)
    }


def repeats(row: dict) -> list[float]:
    """The repeats of a row; its value alone if it has no repeats."""
    return row["values"] or [row["value"]]


def positive(samples: dict) -> dict:
    """Those x whose repeats are all above 0, as logarithms need. A layer without a state has 0 bytes, for example."""
    return {x: values for x, values in samples.items() if min(values) > 0}


def analyse(rows: list[dict], named=()) -> dict:
    """{"models", "fits", "crossovers", "winners"}: of every model, of every pair of models, and at every x.

    named: the models in the order of tables and figures.  Rows may be incomplete.
    """
    fits, crossovers, models = [], [], models_of(rows, named)
    for panel, q in ((name, q) for name in PANELS for q in load(name).quantities):
        for batch in batches_of(rows, panel):
            named = {"panel": panel, "metric": q.metric, "batch": batch, "what": q.words}
            fits += [
                {**named, "model": m, **found.as_dict()}
                for m in models
                if (found := exponent(rows, panel, q, m, batch)) is not None
            ]
            right = [m for m in models if not is_wrong(cells(rows, panel, q.metric, m, batch))]
            for a, b in itertools.combinations(right, 2):
                found = crossover(
                    *(
                        positive({x: repeats(r) for x, r in cells(rows, panel, q.metric, m, batch).items()})
                        for m in (a, b)
                    )
                )
                if found is not None:
                    winner, loser = (a, b) if found.winner == "a" else (b, a)
                    crossovers.append(
                        {
                            **named,
                            "winner": winner,
                            "loser": loser,
                            "from": found.at,
                            "low": found.low,
                            "high": found.high,
                            "share": found.share,
                            "first": found.first,
                            "last": found.last,
                            "words": found.words(),
                        }
                    )
    return {"models": models, "fits": fits, "crossovers": crossovers, "winners": winners(rows)}


def is_wrong(found: dict[int, dict]) -> bool:
    """Whether the numbers of these cells are those of a wrong computation, so that they win nothing."""
    return any(WRONG_DECODING in (row["note"] or "") for row in found.values())


def exponent(rows, panel: str, q: Quantity, model: str, batch=None):
    """The Fit of one model's quantity; None below two points."""
    found = cells(rows, panel, q.metric, model, batch)
    less = cells(rows, panel, q.less, model, batch) if q.less else {}
    samples = {x: [v - (less[x]["value"] if x in less else 0) for v in repeats(row)] for x, row in found.items()}
    samples = positive(samples)
    if len(samples) < 2:
        return None
    overheads = list(cells(rows, panel, q.overhead, model, batch).values()) if q.overhead else []
    share = {x: found[x]["batch"] for x in samples} if q.a_sequence else None
    return fit(samples, overheads[0]["value"] if overheads else 0.0, share=share)


def winners(rows) -> list[dict]:
    """The best model of every metric at every x, and the models whose intervals of the median overlap with its own."""
    found = []
    for panel in PANELS:
        for batch, shown in itertools.product(batches_of(rows, panel), load(panel).tables):
            by_model = {m: cells(rows, panel, shown.metric, m, batch) for m in models_of(rows)}
            by_model = {m: found for m, found in by_model.items() if not is_wrong(found)}
            for x in sorted({x for c in by_model.values() for x in c}):
                there = {m: c[x] for m, c in by_model.items() if x in c}
                best = (min if shown.lower_is_better else max)(there, key=lambda m: there[m]["value"])
                level = [m for m, r in there.items() if m != best and meet(r, there[best])]
                found.append(
                    {
                        "panel": panel,
                        "metric": shown.metric,
                        "batch": batch,
                        "x": x,
                        "model": best,
                        "value": there[best]["value"],
                        "level_with": level,
                        "of": len(there),
                    }
                )
    return found


def meet(a: dict, b: dict) -> bool:
    """Whether the intervals of two medians overlap; values without an interval overlap if they are equal."""
    (a_low, a_high), (b_low, b_high) = (
        (r["low"], r["high"]) if r["low"] is not None else (r["value"], r["value"]) for r in (a, b)
    )
    return a_low <= b_high and b_low <= a_high


def tables(rows: list[dict], findings: dict) -> list[str]:
    """Lines to print: for each panel its numbers by x, then exponents and crossover lengths."""
    lines: list[str] = []
    for panel in PANELS:
        mine = [r for r in rows if r["panel"] == panel]
        for batch in batches_of(mine, panel) if mine else []:
            for shown in load(panel).tables:
                lines += table(mine, findings, panel, batch, shown)
            lines += exponents(findings, panel, batch)
            lines += crossings(findings, panel, batch)
        lines += troubles(mine, load(panel).batches_apart)
    return lines


def table(rows, findings, panel, batch, shown: Table) -> list[str]:
    """One metric: a line per x, a column per model; * the best, ~ as good within its interval, - not measured."""
    models = [m for m in findings["models"] if m in models_of(rows)]
    by_model = {m: cells(rows, panel, shown.metric, m, batch) for m in models}
    xs = sorted({x for c in by_model.values() for x in c})
    if not xs:
        return []
    key = panel, shown.metric, batch
    best = {w["x"]: w for w in findings["winners"] if (w["panel"], w["metric"], w["batch"]) == key}
    width = max(12, *(len(m) + 3 for m in models))
    x_name = next(r["x_name"] for r in rows)
    lines = [
        f"{place(panel, batch)}: {shown.heading}   (* best, ~ as good within its interval)",
        f"  {x_name:>10}" + "".join(f"{m:>{width}} " for m in models),
    ]
    for x in xs:
        line = f"  {x:>10,}"
        for m in models:
            won = best.get(x, {"model": None, "level_with": ()})  # where every model is wrong, none is the best
            mark = "*" if won["model"] == m else "~" if m in won["level_with"] else " "
            value = shown.form.format(by_model[m][x]["value"] / shown.unit) if x in by_model[m] else "-"
            line += f"{value:>{width}}{mark}"
        lines.append(line.rstrip())
    return [*lines, *(f"  {m}: {text}" for m in models for text in remarks(by_model[m].values())), ""]


def remarks(rows) -> list[str]:
    """What the notes of these rows say that must be known beside the numbers, each once."""
    parts = (part for row in rows for part in (row["note"] or "").split("; "))
    return list(dict.fromkeys(part for part in parts if part.startswith(REMARKS)))


def exponents(findings, panel, batch) -> list[str]:
    """Lines of the exponents."""
    lines = []
    mine = [f for f in findings["fits"] if (f["panel"], f["batch"]) == (panel, batch)]
    width = max([18, *(len(f["model"]) + 2 for f in mine)])
    for f in mine:
        if f["exponent"] is None:
            flat = f["below"] and f["growth"] is not None and f["growth_high"] < FLAT
            said = f"flat: x {f['growth']:.2f} over the range ({f['note']})" if flat else f"no exponent ({f['note']})"
        else:
            power, low, high, tail = (
                f"{round(f[k], 2) + 0.0:.2f}" for k in ("exponent", "low", "high", "tail")
            )  # + 0.0: no -0.00
            said = (
                f"x^{power} [{low}, {high}]  R2 {f['r2']:.3f}  x^{tail} over the last {min(TAIL, len(f['used']))}"
                f"  ({f['used'][0]:,.0f} to {f['used'][-1]:,.0f}"
                + (f"; {len(f['below'])} left out, overhead dominates)" if f["below"] else ")")
            )
        lines.append(f"  {f['what']:<36}{f['model']:<{width}}{said}")
    return [f"{place(panel, batch)}: growth, with 95 % intervals of the repeats", *lines, ""] if lines else []


def crossings(findings, panel, batch) -> list[str]:
    """Lines of the crossover lengths in time; those in bytes are in history.json."""
    lines = []
    timed = [c for c in findings["crossovers"] if c["metric"].endswith("_ms")]
    mine = [c for c in timed if (c["panel"], c["batch"]) == (panel, batch)]
    width = max([34, *(len(f"{c['winner']} < {c['loser']}") + 2 for c in mine)])
    for c in mine:
        doubt = "" if c["share"] >= CONFIDENT else f"  (uncertain: so in {100 * c['share']:.0f} % of resamples)"
        pair = f"{c['winner']} < {c['loser']}"
        said = c["words"] if c["from"] is not None else f"{c['words']}, faster at every point"
        lines.append(f"  {c['what']:<24}{pair:<{width}}{said}{doubt}")
    heading = f"{place(panel, batch)}: crossover {load(panel).x_words}; from there on a is faster in a < b"
    return [heading, *lines, ""] if lines else []


def place(panel: str, batch) -> str:
    """'train', or 'decode, batch 32'."""
    return panel if batch is None else f"{panel}, batch {batch}"


def troubles(rows, batches_apart: bool) -> list[str]:
    """Lines of what could not be measured in one panel; equal reasons share one line."""
    groups: dict[tuple, list] = {}
    for r in rows:
        if r["status"] != "ok":
            batch = r["batch"] if batches_apart else None
            groups.setdefault((r["panel"], r["model"], r["status"], r["note"], batch), []).append(r["x"])
    lines = []
    for (panel, model, status, note, batch), xs in groups.items():
        at = f"{', '.join(f'{x:,}' for x in xs)}{'' if batch is None else f', batch {batch}'}"
        lines.append(f"{panel}: {model} at {at}: {note if note.startswith(status) else f'{status}: {note}'}")
    return [*lines, ""] if lines else []

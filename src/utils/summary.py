"""The lines that a run prints at its end."""

from __future__ import annotations


def summary(document: dict) -> str:
    """The lines that a run prints at its end."""
    name, final = document["primary"], document["final_test"]
    parts = []
    if final is None:
        parts.append(f"diverged at step {document['diverged_at']}; the run scores its floor")
    else:
        low, high = final["intervals"].get(name, (None, None))
        interval = "" if low is None else f" [{low:.3f}, {high:.3f}]"
        others = [
            f"{k} {v:.4g}"
            for k, v in final.items()
            if isinstance(v, float) and k != name and k in (*_extra(final), "loss", "token_acc")
        ]
        parts.append(f"test {name} {final[name]:.4f}{interval}   {'   '.join(others)}")
    floor_text = "  ".join(f"{k} {v['primary']:.3g}" for k, v in document["floors"].items())
    base_text = "  ".join(f"{k} {v:.3g}" for k, v in document["baselines"].items())
    parts.append(
        f"scaled {round(document['scaled'], 3) + 0.0:.3f}   floors: {floor_text}   ceiling {document['ceiling']:.3g}"
        + (f"   baselines: {base_text}" if base_text else "")
    )
    parts += _length_lines(document)
    for split, names in document["data"]["left_out"].items():
        if names:
            parts.append(f"left out of {split}, too few distinct examples: {', '.join(names)}")
    n, machine = document["parameters"], document["machine"]
    parts.append(
        f"{n['total']:,} parameters ({n['embedding']:,} of them embedding)   {document['steps']} steps   {document['chars_seen']:,} characters   "
        f"{machine['train_seconds']:.0f} s training, {machine['command_seconds']:.0f} s in all"
    )
    return "\n".join(parts)


def _length_lines(document: dict) -> list[str]:
    """A line a length beyond those of training, of a language task a line a window that is not that of training."""
    language, lines = document["kind"] == "language", []
    for row in document["length_curve"]:
        if row["length"] == document["args"]["context_len"] if language else row["in_distribution"]:
            continue
        loss = f"   loss {row['loss']:.4g}" if language and row["loss"] is not None else ""
        lines.append(
            f"length {row['length']}: "
            + (f"undefined ({row['undefined']})" if row["value"] is None else f"{row['value']:.4f}{loss}")
        )
    return lines


def _extra(result: dict) -> list[str]:
    known = {"loss", "bpc", "ppl", "token_acc", "exact_match", "n_examples", "n_scored", "intervals", "slices"}
    return [k for k in result if k not in known]

#!/usr/bin/env bash
# The findings of the README at reduced size: for each layer three learning rates on one tuning seed, chosen on val, then three fresh seeds.
#     bash runs/records/findings/run.sh parity            one finding: parity, recall, selective, copy
#     PYTHON=.venv/bin/python bash runs/records/findings/run.sh recall
# Every run is one `benchmark.py` command, on one thread; finished ones are not repeated. rates.csv says what tuning found.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/records/findings

train() {  # DIRECTORY FLAGS...: one run, unless it is there
  local out="$1"; shift
  [ -f "$out/metrics.json" ] || "$python" benchmark.py "$@" --threads 1 --quiet --overwrite --out_dir "$out"
}

layer() {  # PRESET LABEL FLAGS...: tune the learning rate, then three seeds at the best
  local preset="$1" label="$2"; shift 2
  local rate best
  for rate in 1e-3 3e-3 1e-2; do
    train "$home/$preset/tuning/$label-$rate" --preset "$preset" "$@" --lr "$rate" --seed 1
  done
  best="$("$python" - "$home/$preset" "$label" <<'PY'
import csv, json, pathlib, sys
home, label = pathlib.Path(sys.argv[1]), sys.argv[2]
rows = []
for path in sorted(home.glob(f"tuning/{label}-[0-9]e-[0-9]/metrics.json")):
    metrics = json.loads(path.read_text())
    best = metrics["val"]["best"] or {}
    rows.append((best.get(metrics["primary"], 0.0), -best.get("loss", float("inf")), metrics["args"]["lr"]))
top = max(rows)[2]
table = home / "rates.csv"
fresh = not table.exists()
with open(table, "a") as out:
    write = csv.writer(out, lineterminator="\n")
    if fresh:
        write.writerow(["layer", "lr", "val score", "val loss", "chosen"])
    write.writerows([label, f"{lr:g}", f"{score:.4f}", f"{-loss:.4f}", "chosen" if lr == top else ""] for score, loss, lr in sorted(rows, key=lambda r: r[2]))
print(f"{top:g}")
PY
)"
  for seed in 11 12 13; do
    train "$home/$preset/$label-$seed" --preset "$preset" "$@" --lr "$best" --seed "$seed"
  done
}

case "${1:-}" in
  parity)
    layer grazzi-parity-mini gru --model gru
    layer grazzi-parity-mini transformer --model transformer --pos none
    layer grazzi-parity-mini deltanet --model deltanet
    layer grazzi-parity-mini deltanet-neg_eigen --model deltanet --neg_eigen ;;
  recall)
    layer zoology-256-16-mini transformer --model transformer
    layer zoology-256-16-mini linear_attention --model linear_attention ;;
  selective)
    layer mamba-selective-mini mamba --model mamba
    layer mamba-selective-mini linear_attention-fixed --model linear_attention --decay fixed ;;
  copy)
    layer jelassi-copy-mini alibi --model transformer --pos alibi
    layer jelassi-copy-mini learned --model transformer --pos learned ;;
  *) echo "usage: bash runs/records/findings/run.sh parity|recall|selective|copy" >&2; exit 2 ;;
esac

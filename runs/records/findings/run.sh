#!/usr/bin/env bash
# The findings at reduced size. For each layer, three learning rates are trained with one tuning seed. The rate with
# the best validation score is trained with three fresh seeds. rates.csv holds the tuning.
#     bash runs/records/findings/run.sh parity            one finding: parity, recall, selective or copy
#     PYTHON=.venv/bin/python bash runs/records/findings/run.sh recall
# Everything is written under runs/remade/findings. Finished runs are not repeated. Each run uses one thread.
# The record of one finding is runs/remade/findings/FINDING/record. runs/records/findings holds the rows of all four.
# To publish the result: commit your changes first, run all four, join their rates.csv, then
#     python -m src.study.records collect runs/records/findings runs/remade/findings/*/*-1[123]
#     python -m src.study.records redraw runs/records/findings
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
finding="${1:-}"
home="runs/remade/findings/$finding"

train() {  # DIRECTORY FLAGS...: one run, unless it is finished; exit code 3 is a run that diverged, which is a result
  local out="$1"; shift
  [ -f "$out/metrics.json" ] ||
    "$python" benchmark.py "$@" --threads 1 --quiet --overwrite --out_dir "$out" || [ $? -eq 3 ]
}

choose() {  # LABEL: print the learning rate with the best validation score, and add the three rates to rates.csv
  "$python" - "$home" "$finding" "$1" <<'PY'
import csv, json, pathlib, sys
home, finding, label = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
rows = []
for path in home.glob(f"tuning/{label}-[0-9]e-[0-9]/metrics.json"):
    metrics = json.loads(path.read_text())
    best = metrics["val"]["best"] or {}
    rows.append((best.get(metrics["primary"], 0.0), -best.get("loss", float("inf")), metrics["args"]["lr"]))
chosen = max(rows)[2]
with open(home / "record" / "rates.csv", "a") as out:
    for score, loss, lr in sorted(rows, key=lambda row: row[2]):
        cells = [finding, label, f"{lr:g}", f"{score:.4f}", f"{-loss:.4f}", "yes" if lr == chosen else "no"]
        csv.writer(out, lineterminator="\n").writerow(cells)
print(f"{chosen:g}")
PY
}

layer() {  # PRESET LABEL FLAGS...: tune the learning rate, then train three seeds at the best
  local preset="$1" label="$2"; shift 2
  local rates=(1e-3 3e-3 1e-2) rate best seed
  for rate in "${rates[@]}"; do
    train "$home/tuning/$label-$rate" --preset "$preset" "$@" --lr "$rate" --seed 1
  done
  best="$(choose "$label")"
  for seed in 11 12 13; do
    train "$home/$finding-$label-$seed" --preset "$preset" "$@" --lr "$best" --lr_tried "${rates[@]}" --seed "$seed"
    runs+=("$home/$finding-$label-$seed")
  done
}

case "$finding" in
  parity|recall|selective|copy) ;;
  *) echo "usage: bash runs/records/findings/run.sh parity|recall|selective|copy" >&2; exit 2 ;;
esac
mkdir -p "$home/record"
echo "finding,layer,lr,val_score,val_loss,chosen" > "$home/record/rates.csv"
runs=()
case "$finding" in
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
esac
"$python" -m src.study.records collect "$home/record" "${runs[@]}"
grep -E "^(figure|$finding)," runs/records/findings/figures.csv > "$home/record/figures.csv"
"$python" -m src.study.records redraw "$home/record"

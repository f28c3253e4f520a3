#!/usr/bin/env bash
# Three commands with `--epochs 3`, as docs/flags.md shows them: about 12 minutes on two cores.
#     bash runs/records/epochs/run.sh
#     PYTHON=.venv/bin/python bash runs/records/epochs/run.sh
# Everything is written under runs/remade/epochs. Finished runs are not repeated.
# To publish the result: commit your changes first, run this, then copy the files of
# runs/remade/epochs/record to runs/records/epochs.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/remade/epochs

train() {  # DIRECTORY FLAGS...: one run, unless it is finished
  local out="$1"; shift
  [ -f "$out/metrics.json" ] || "$python" benchmark.py "$@" --quiet --overwrite --out_dir "$out"
}

train "$home/tiny_shakespeare-transformer" --task tiny_shakespeare --model transformer --epochs 3
train "$home/dyck-template" --task dyck --model template --epochs 3
train "$home/needle-mamba" --task needle --model mamba --context_len 512 --epochs 3
"$python" -m src.study.records collect "$home/record" "$home"/*-*

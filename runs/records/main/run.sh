#!/usr/bin/env bash
# The main job: needle with mamba, three seeds, about 110 s each on two cores.
#     bash runs/records/main/run.sh
#     PYTHON=.venv/bin/python bash runs/records/main/run.sh
# Everything is written under runs/remade/main. Finished runs are not repeated.
# To publish the result: commit your changes first, run this, then copy the files of
# runs/remade/main/record to runs/records/main.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/remade/main

train() {  # DIRECTORY FLAGS...: one run, unless it is finished
  local out="$1"; shift
  [ -f "$out/metrics.json" ] || "$python" benchmark.py "$@" --quiet --overwrite --out_dir "$out"
}

for seed in 1337 1338 1339; do
  train "$home/mamba-$seed" --task needle --model mamba --seed "$seed"
done
"$python" -m src.study.records collect "$home/record" "$home"/mamba-*
cp runs/records/main/figures.csv "$home/record/"
"$python" -m src.study.records redraw "$home/record"

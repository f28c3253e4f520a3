#!/usr/bin/env bash
# The default run of each task with the transformer, about 20 minutes in all.
#     bash runs/records/defaults/run.sh
#     PYTHON=.venv/bin/python bash runs/records/defaults/run.sh
# Everything is written under runs/remade/defaults. Finished runs are not repeated.
# To publish the result: commit your changes first, run this, then copy the files of
# runs/remade/defaults/record to runs/records/defaults.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/remade/defaults

train() {  # DIRECTORY FLAGS...: one run, unless it is finished
  local out="$1"; shift
  [ -f "$out/metrics.json" ] || "$python" benchmark.py "$@" --quiet --overwrite --out_dir "$out"
}

for task in tiny_shakespeare dyck addition reverse poly fourier_mix fibonacci trigo; do
  train "$home/$task" --task "$task" --model transformer --seed 1337 --threads 1
done
for task in rle caesar; do
  train "$home/$task" --task "$task" --model transformer --seed 1337
done
for seed in 1337 1338 1339; do
  train "$home/needle-$seed" --task needle --model transformer --seed "$seed" --threads 1
done
runs=()
for name in tiny_shakespeare needle-1337 needle-1338 needle-1339 dyck addition reverse rle caesar trigo fibonacci \
  poly fourier_mix; do
  runs+=("$home/$name")
done
"$python" -m src.study.records collect "$home/record" "${runs[@]}"
cp runs/records/defaults/figures.csv "$home/record/"
"$python" -m src.study.records redraw "$home/record"

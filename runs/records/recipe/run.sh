#!/usr/bin/env bash
# The character recipe of nanoGPT for a CPU, --preset nanogpt-cpu, three seeds, about 1 minute each.
#     bash runs/records/recipe/run.sh
#     PYTHON=.venv/bin/python bash runs/records/recipe/run.sh
# Everything is written under runs/remade/recipe. Finished runs are not repeated.
# reference.csv holds the curves of nanoGPT's own program (see runs/records/README.md). It is not made here.
# To publish the result: commit your changes first, run this, then copy the files of
# runs/remade/recipe/record to runs/records/recipe.
# After that, `python -m src.study.records redraw runs/records/recipe` lays the curves over each other.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/remade/recipe

train() {  # DIRECTORY FLAGS...: one run, unless it is finished
  local out="$1"; shift
  [ -f "$out/metrics.json" ] || "$python" benchmark.py "$@" --quiet --overwrite --out_dir "$out"
}

for seed in 1337 1338 1339; do
  train "$home/tiny_shakespeare-$seed" --preset nanogpt-cpu --model transformer --seed "$seed" --threads 1
done
"$python" -m src.study.records collect "$home/record" "$home"/tiny_shakespeare-*

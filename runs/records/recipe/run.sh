#!/usr/bin/env bash
# The public CPU recipe for Tiny Shakespeare, three seeds, about 1 minute each.
#     bash runs/records/recipe/run.sh
#     PYTHON=.venv/bin/python bash runs/records/recipe/run.sh
# Everything is written under runs/remade/recipe. Finished runs are not repeated.
# To publish the result: commit your changes first, run this, then copy the files of
# runs/remade/recipe/record to runs/records/recipe.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/remade/recipe

train() {  # DIRECTORY FLAGS...: one run, unless it is finished
  local out="$1"; shift
  [ -f "$out/metrics.json" ] || "$python" benchmark.py "$@" --quiet --overwrite --out_dir "$out"
}

for seed in 1337 1338 1339; do
  train "$home/tiny_shakespeare-$seed" --task tiny_shakespeare --model transformer --seed "$seed" --threads 1 \
    --context_len 64 --d_model 128 --n_layer 4 --n_head 4 --batch_size 12 --max_steps 2000 \
    --lr 1e-3 --min_lr 1e-4 --warmup_steps 100 --dropout 0 --pos learned
done
"$python" -m src.study.records collect "$home/record" "$home"/tiny_shakespeare-*

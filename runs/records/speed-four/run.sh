#!/usr/bin/env bash
# The whole efficiency panel of four layers to 4,096 tokens, about 5 minutes on two cores.
#     bash runs/records/speed-four/run.sh
#     PYTHON=.venv/bin/python bash runs/records/speed-four/run.sh
# Everything is written under runs/remade/speed-four. Finished runs are not repeated.
# To publish the result: commit your changes first, run this, then copy the files of
# runs/remade/speed-four/record to runs/records/speed-four.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/remade/speed-four

# The same command continues a measurement that was interrupted.
"$python" benchmark.py speed --model transformer,mamba,gla,gated_deltanet \
  --lengths 128,256,512,1024,2048,4096 --out_dir "$home/run"
"$python" -m src.study.records collect "$home/record" "$home/run"

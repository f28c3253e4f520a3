#!/usr/bin/env bash
# The efficiency panel of six layers to 4,096 tokens.
#     bash runs/records/speed-six/run.sh
#     PYTHON=.venv/bin/python bash runs/records/speed-six/run.sh
# Everything is written under runs/remade/speed-six. Finished runs are not repeated.
# To publish the result: commit your changes first, run this, then copy the files of
# runs/remade/speed-six/record to runs/records/speed-six.
set -euo pipefail
cd "$(dirname "$0")/../../.."
python="${PYTHON:-python}"
home=runs/remade/speed-six

# The same command continues a measurement that was interrupted.
"$python" benchmark.py speed --model transformer,mamba,gla,gated_deltanet,linear_attention,gru \
  --panel train,memory,decode --lengths 128,256,512,1024,2048,4096 --out_dir "$home/run"
"$python" -m src.study.records collect "$home/record" "$home/run"
cp runs/records/speed-six/figures.csv "$home/record/"
"$python" -m src.study.records redraw "$home/record"

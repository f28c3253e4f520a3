"""The efficiency panel: suites of measurements behind `speed`, `kernels` and `profile`.

    record.py     the folder that a suite writes into, and continues: config.json, env.json, results.jsonl, results.csv, history.json, figures/
    gate.py       is an op, in the backend that will be timed, what its reference says? Before every timing
    speed.py      the four panels of `speed`; panels/ holds one file each
    child.py      memory on a CPU: a fresh process a measurement

Measuring itself is src/utils/timing.py, the row schema src/utils/rows.py, exponents and crossovers src/utils/scaling.py.
"""

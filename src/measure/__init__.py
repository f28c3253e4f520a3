"""The efficiency panel: suites of measurements behind `speed`, `profile` and `kernels`, each run by its command in src/commands.

What the three share
    record.py            the folder that a suite writes into, and continues: config.json, env.json, results.jsonl, results.csv, history.json, figures/
    session.py           one measuring process: the record's lock, Ctrl-C that keeps what was measured, the fields that name the machine
    progress.py          the bar, or the lines, with the time left

`speed`: whole models
    subjects.py          from --model and flags to models, built alike in this process and in the one that measures memory
    observe.py           which form of each op really runs, looked at while the model runs
    gate.py              is an op, in the backend that will be timed, what its reference says? Before every timing of `speed` and `profile`
    speed.py             the study: panels point by point, models in turn, a row the moment it is known
    panels/              train, memory, decode, scaling: a file each; memory_of.py is peak memory by device
    child.py             memory on a CPU: a fresh process a measurement
    speed_analysis.py    from rows to exponents, crossovers, winners and tables; no torch

`profile`: one training step
    profile.py           the recorded and the timed steps, and their rows
    profile_trace.py     from the profiler's trace to operators, groups, stacks and allocations; no torch

`kernels`: one op, form against form
    kernels.py           its own gate at the size that is timed, the ceilings of the machine, the timing
    kernels_subjects.py  what is measured: inputs, forms, definition, operations and bytes by formula; torch only when called
    kernels_triton.py    Triton kernels of the ops that src/ops does not have

`study`: the whole study
    validate.py          trainings, panels and profiles below one folder, each a command of its own
    validate_claims.py   from their results to a verdict for each claim; no torch
    validate_report.py   the verdicts as printed, as tables.md and as figures; no torch

Measuring itself is src/measure/timing.py, the row schema src/storage/rows.py, exponents and crossovers src/stats/exponents.py, figures
src/figures/speed.py and viz_kernels.py.
"""

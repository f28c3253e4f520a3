"""Measuring: the work of the commands `speed`, `profile` and `kernels`.

Shared by the three:
    timing.py      warm-up and repeats until a median is known; several things timed alternately; any clock can be
    given gate.py        is an op correct in the backend that will be timed? outputs and gradients against the
    reference session.py     one measuring process: the record's lock, Ctrl-C that keeps what was measured, the fields
    of the machine progress.py    the progress bar, or lines, with the time left child.py       memory on a CPU: a
    fresh process per measurement

speed/     whole models: step time, memory, decoding and size
    plan.py        the command's own flags, checked; from flags to models
    subjects.py    one model, built the same way in this process and in the one that measures memory
    observe.py     which backend of each op really runs
    run.py         the study: point by point, models timed alternately, a row as soon as it is known
    panels/        one file per panel: what it measures and how it is shown; memory_of.py is peak memory by device
    analysis.py    from rows to exponents, crossover lengths, winners and tables; no torch

profile/   one training step
    steps.py       recorded and timed steps, and their rows
    trace.py       from the profiler's trace to operators, groups, stacks and allocations; no torch
    report.py      the printed tables; no torch

kernels/   the forms of one op
    contract.py    Shape, Cost, Implementation, Subject: what describes an op that is measured
    subjects.py    the ops: inputs, forms, definition, operations and bytes by formula; torch only when called
    ceilings.py    the limits of this machine for the roofline
    bench.py       gates, then timing, and the rows
    triton.py      Triton kernels of ops that src/ops does not have
    report.py      the printed table; no torch

Rows are defined in src/storage/rows.py, records in src/storage/record.py, exponents in src/stats/exponents.py, and the
figures are drawn by src/figures/speed.py and src/figures/kernels.py.
"""

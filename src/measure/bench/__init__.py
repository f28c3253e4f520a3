"""`bench`: the times that a user of this program waits for, measured on this machine and compared with the last record.

    items.py       what is measured, with words, unit and the function that measures it
    wholes.py      whole commands, as processes: the main job, the recipe, the start, many runs
    pieces.py      parts, each in a process of its own: training step, mixer, scan, decoding; with a peer in turns
    run.py         item by item, the columns in turns; rows as soon as they are known
    quiet.py       whether other programs used the machine beside a measurement; no torch
    verdict.py     what got slower than the record by more than its interval; no torch
    table.py       the table of the README, and the record that it shows; no torch

A column is a kind of machine: `here`, or `laptop`, which keeps torch, its libraries and numba from AVX-512, and has no
bf16. So every measurement is a process of its own, because they read this when they are loaded.
"""

"""The capability card: one layer beside published ones, a row per capability, with a verdict and a sentence per row.

suite = read_suite("core")                     # suite.py: the table of rows, from src/study/suites or a user's file
asked, cells, holes = prepare(suite, models)   # runs.py: the runs of `compare` for all rows
stored = read_tables(folder, suite)            # baselines.py: the recorded runs of the published layers
status = check_baselines(suite, stored, rows)  # validity.py: which of them are still valid
document = make(suite, runs, field, ...)       # cards.py, with scores.py, ranking.py, sentences.py
"""

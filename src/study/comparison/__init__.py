"""A comparison: the same tasks for several models, learning rates chosen on val, fresh seeds, and one verdict per pair.

request = read_request(argv)              # src/setup/sides.py, request.py: what was typed
cells = prepare_cells(request)            # cells.py: every (task, model, setting), checked and on equal terms
campaign = Campaign(...); campaign.run()  # campaign.py: the runs, in an engine (src/study/engines)
conclude(...)                             # tables.py, verdicts.py: what came out
"""

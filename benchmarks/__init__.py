"""Measurements, run by hand on an idle machine:

`python -m benchmarks.train_step`, `python -m benchmarks.side_by_side`. Results: RESULTS.md.
"""

"""Finished styles, runs and comparisons."""

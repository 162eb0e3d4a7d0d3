"""The page: data, training and comparison in a browser. Imports training, never the reverse."""

import training  # noqa: F401  sets how OpenMP waits, before any worker loads torch

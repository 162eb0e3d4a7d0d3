"""Where things lie on disk, written whole or not at all, and one process a run."""

"""Style files and base checkpoints on disk, read with care. No torch."""

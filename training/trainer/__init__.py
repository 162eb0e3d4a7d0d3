"""The training itself: steps, checkpoints, resuming, several styles at once."""

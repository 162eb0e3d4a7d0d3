"""Training processes and the queue they wait in."""

"""Device, memory, processes and random numbers."""

"""This machine: what works, what is stored, what it would run on."""

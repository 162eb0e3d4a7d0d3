"""Frozen layers made fast."""

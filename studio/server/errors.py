"""What the server refuses. Knows no gradio."""

from __future__ import annotations

from training.errors import StudioError


class FetchRefused(StudioError):
    """Something asked the server to fetch an address."""

"""A section of the settings, and a setting with its bounds, unit, sentence and reason."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(
    default: Any, help: str, *, unit: str = "", why: str = "", advanced: bool = True, **bounds: Any
) -> Any:
    """A field with its sentence and unit; bounds: as pydantic's Field takes them.

    why: the reason for the default; advanced=False puts it on the page's first screen.
    """
    kept = list(default) if isinstance(default, list) else default
    extra = {"unit": unit, "advanced": advanced, "why": why}
    if isinstance(kept, list):
        return Field(
            default_factory=lambda: list(kept), description=help, json_schema_extra=extra, **bounds
        )
    return Field(kept, description=help, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """Unknown names, other types and infinite numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

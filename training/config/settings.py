"""Every setting as the file, the flags, the form and the table show it, from its declaration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from training.config.schema import RunConfig
from training.config.section import Section


@dataclass(frozen=True)
class Setting:
    """One row of the settings table.

    kind: str, int, float, bool or list; choices: of a Literal or a list of them, else (); table:
    what each table of a list of tables holds, else None.
    """

    section: str
    name: str
    kind: type
    default: Any
    choices: tuple[str, ...]
    help: str
    unit: str
    why: str  # the reason for the default, "" where there is nothing to choose
    advanced: bool
    low: float | None
    high: float | None
    table: type[Section] | None = None

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}"


def settings() -> Iterator[Setting]:
    """Every setting in the order of the declaration."""
    for section, of_section in RunConfig.model_fields.items():
        declared = of_section.annotation
        if isinstance(declared, type) and issubclass(declared, Section):
            for name, field in declared.model_fields.items():
                yield _described(section, name, field)


def _described(section: str, name: str, field: FieldInfo) -> Setting:
    hint: Any = field.annotation
    choices: tuple[str, ...] = ()
    kind: type
    table: type[Section] | None = None
    if get_origin(hint) is list:
        kind, inner = list, get_args(hint)[0]
        table = inner if isinstance(inner, type) and issubclass(inner, Section) else None
        choices = get_args(inner) if get_origin(inner) is Literal else ()
    elif get_origin(hint) is Literal:
        kind, choices = str, get_args(hint)
    else:
        kind = hint
    bounds = {
        word: getattr(m, word)
        for m in field.metadata
        for word in ("ge", "gt", "le", "lt")
        if getattr(m, word, None) is not None
    }
    extra: Any = field.json_schema_extra  # as training.config.section.setting gives it
    default = field.get_default(call_default_factory=True)
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    return Setting(
        section,
        name,
        kind,
        default,
        choices,
        field.description or "",
        extra["unit"],
        extra["why"],
        extra["advanced"],
        low,
        high,
        table,
    )


def members(table: type[Section], key: str) -> Iterator[Setting]:
    """The settings in each table of a list of tables; key: the list's."""
    for name, field in table.model_fields.items():
        yield _described(key, name, field)


def markdown_table() -> str:
    """The table in docs/settings.md."""
    rows = ["| setting | default | what it does | why this default |", "|---|---|---|---|"]
    every = [
        one for s in settings() for one in (s, *(members(s.table, f"{s.key}[]") if s.table else ()))
    ]
    for s in every:
        default = (
            {True: "on", False: "off"}.get(s.default, s.default) if s.kind is bool else s.default
        )
        shown = ", ".join(default) if isinstance(default, list) else str(default)
        unit = f" ({s.unit})" if s.unit else ""
        rows.append(
            f"| `{s.key}` | {f'`{shown}`' if shown else ''} | {s.help}{unit} | {s.why} |".replace(
                "|  |", "| |"
            )
        )
    return "\n".join(rows)

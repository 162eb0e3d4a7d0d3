"""The list before Start as the form stands, and what its buttons do. Knows no components."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import gradio as gr

from studio.datasets import fixes, history, store
from studio.library import forecasts
from studio.page import forms
from studio.page.tabs.train import preflight
from studio.processes.plan import Memory
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.storage.paths import Workspace


class Before:
    """Of one page. keys: of the settings whose values it is given, in their order."""

    def __init__(self, workspace: Workspace, keys: tuple[str, ...]) -> None:
        self.workspace = workspace
        self.keys = keys
        self.memories = forecasts.Memories()

    def lines(self, dataset: str | None, *values: Any) -> tuple[preflight.Line, ...]:
        """The list, as far as it is known without waiting."""
        config = self._config(values)
        memory = None if config is None else self.memories.known(config)
        return self._lines(dataset, values, memory)

    def with_memory(self, dataset: str | None, *values: Any) -> tuple[preflight.Line, ...] | None:
        """The list with the memory the training would take; None where that is known, or cannot
        be.
        """
        config = self._config(values)
        if config is None or not self.memories.is_open(config):
            return None
        return self._lines(dataset, values, self.memories.ask(config))

    def put_right(self, kind: object, dataset: str | None, *values: Any) -> dict[str, Any]:
        """Do what a line offers: the dataset is changed here, so that it can be undone; what is to
        be changed in the form is returned, by key.

        kind: of the line, as the page says it. Raises DataError where there is nothing to do.
        """
        found = self.lines(dataset, *values)
        line = next((line for line in found if line.kind == kind and line.acts), None)
        if line is None:
            raise fixes.NothingLeftError
        of = preflight.wanted(dataset, dict(zip(self.keys, values, strict=True)))
        if line.repairs or line.takes_out:
            folder, base = store.folder(self.workspace, of.dataset), preflight.base_of(of)
            if line.repairs:
                fixes.apply_all(folder, base, line.repairs)
            for one in line.takes_out:
                fixes.apply_to_all(folder, one, "take_out", base, uuid4().hex)
            gr.Info(f"Done: {history.last(folder)}. You can undo it in Dataset.")
        return dict(line.changes)

    def _lines(
        self, dataset: str | None, values: tuple[Any, ...], memory: Memory | None
    ) -> tuple[preflight.Line, ...]:
        of = preflight.wanted(dataset, dict(zip(self.keys, values, strict=True)))
        pace = forecasts.pace(self.workspace, of.model)
        return preflight.lines(self.workspace, of, pace, memory)

    def _config(self, values: tuple[Any, ...]) -> RunConfig | None:
        """The form as settings; None while something in it is wrong."""
        try:
            return from_mapping(forms.to_mapping(self.keys, values))
        except ConfigError:
            return None

"""What the Compare tab's events do; answers are keyed by component. studio.library.comparisons does
the work.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block, BlockContext
from gradio.components import Component

from studio.library import comparisons, import_export, library, preferences, reload_grid
from studio.library.comparisons import ComparisonSpec
from studio.page.handlers import in_html, shows_errors
from studio.page.tabs.compare import form, rendering
from studio.page.tabs.compare.components import Parts
from studio.page.tabs.compare.form import MOST_STYLES, StyleValues
from studio.processes import process
from studio.server import uploads
from training.errors import StudioError
from training.storage.paths import Workspace

Answer = dict[Block, Any]


class Handlers:
    """Handlers of one page. Arguments of many: name: of the shown comparison; searched: what stands
    in the search; values: of the form's inputs.
    """

    def __init__(self, workspace: Workspace, parts: Parts) -> None:
        self.workspace = workspace
        self.parts = parts

    # the form

    @shows_errors
    def open_tab(self, offered: str, *chosen: str | None) -> Answer:
        """Fill the lists of bases and styles. The newest style stands first until one was chosen.

        offered: the style that stands first and was chosen by nobody; chosen: of every row.
        """
        choices = rendering.choices(self.workspace)
        known = [id for _, id in choices]
        by_itself = bool(known) and chosen[0] in (None, offered)
        first = known[0] if by_itself else chosen[0]
        strengths = self.parts.form.styles[0].strengths
        filled: Answer = {}
        if by_itself and first is not None and first != offered:
            filled = {strengths: "1", **self._as_shown(first)}
        asked = preferences.take_comparison(self.workspace)
        if asked is not None and asked[0] in known:  # of the run that was just trained
            by_itself, first = False, asked[0]
            filled = {strengths: f"{asked[1]:g}"}
        picked = zip(self.parts.form.pickers, (first, *chosen[1:]), strict=True)
        return {
            self.parts.offered: first if by_itself else "",
            self.parts.form.base: gr.Dropdown(choices=library.bases(self.workspace)),
            **filled,
            **{
                picker: gr.Dropdown(choices, value=id if id in known else None)
                for picker, id in picked
            },
        }

    @property
    def numbers(self) -> list[Component | BlockContext]:
        """Seeds, steps and size: what is filled in besides a style, its prompts and guidance."""
        form = self.parts.form
        return [form.seeds, form.steps, form.size]

    def _as_shown(self, id: str) -> Answer:
        """What the shown comparison was drawn with, where it shows this style and no other."""
        spec = self._shown_of(id)
        if spec is None:
            return {}
        parts = self.parts.form
        values = form.values_of(spec, {id})
        return {
            parts.seeds: values.seeds,
            parts.steps: values.steps,
            parts.size: values.size,
            parts.styles[0].strengths: values.styles[0].strengths,
        }

    def _shown_of(self, id: str | None) -> ComparisonSpec | None:
        folder = comparisons.folder(self.workspace, self.newest())
        spec = comparisons.read_spec(folder) if folder is not None else None
        alone = spec is not None and not spec.mix and {one for one, _ in spec.styles} == {id}
        return spec if alone else None

    @shows_errors
    def suggest(self, id: str | None, base: str | None) -> str:
        """Base, prompts and guidance that go with a style, as JSON for the browser."""
        style = library.style(self.workspace, id) if id else None
        prompts = "\n".join(library.plain_prompts(self.workspace, id)) if id else ""
        guidance = (style and library.guidance(style)) or form.GUIDANCE
        if (shown := self._shown_of(id)) is not None:  # form and grid say the same
            prompts, guidance = "\n".join(shown.prompts), shown.guidance
        return json.dumps(
            {
                "for": base,
                "base": (style and style.base) or base,
                "prompts": prompts,
                "guidance": guidance,
            }
        )

    def forget_offered(self) -> str:
        """A style was chosen: none is offered any more."""
        return ""

    def add_row(self, count: int) -> Answer:
        count = min(count + 1, MOST_STYLES)
        return {
            self.parts.more: gr.Button(visible=count < MOST_STYLES),
            **self._rows(count),
        }

    @shows_errors
    def remove_row(self, number: int, count: int, *found: Any) -> Answer:
        """Take a style out of the form; those below it move up. found: picker, strengths and weight
        of every row, in turn.
        """
        rows = [StyleValues(*row) for row in zip(found[::3], found[1::3], found[2::3], strict=True)]
        left = [row for at, row in enumerate(rows) if at != number] + [StyleValues()]
        count = max(1, count - 1)
        of_rows = list(zip(self.parts.form.styles, left, strict=True))
        return {
            self.parts.more: gr.Button(visible=True),
            **self._picked([row.id for row in left]),
            **{part.strengths: row.strengths for part, row in of_rows},
            **{part.weight: row.weight for part, row in of_rows},
            **self._rows(count),
        }

    @shows_errors
    def name_weights(self, *chosen: str | None) -> Answer:
        """Call each weight of the mix as its style."""
        titles = {id: title for title, id in rendering.choices(self.workspace)}
        names = [
            titles.get(id or "", f"Style {number}").partition(" · ")[0]
            for number, id in enumerate(chosen, 1)
        ]
        of_rows = zip(self.parts.form.styles, names, strict=True)
        return {row.weight: gr.Slider(label=name) for row, name in of_rows}

    @shows_errors
    def spread_checkpoints(self, id: str | None) -> Answer:
        """Choose a style and its checkpoints, each a row."""
        steps = [style.id for style in library.checkpoints(self.workspace, id or "")]
        if not steps:
            raise StudioError(
                "This style has no other checkpoints. Turn on save.styles before training to keep "
                "them."
            )
        ids = [id, *form.spread(steps)]
        return {**self._picked(ids), **self._rows(len(ids))}

    @shows_errors
    def keep_mix(self, *found: Any) -> Answer:
        """Save the mix as a style. found: picker and weight of every row, in turn."""
        rows = zip(found[::2], found[1::2], strict=True)
        mix = form.mix([StyleValues(id, weight=weight) for id, weight in rows])
        if not mix:
            raise StudioError("Give two styles a weight above 0 first.")
        id = import_export.mixed(self.workspace, mix)
        name = library.style(self.workspace, id).name
        gr.Info(in_html(f"“{name}” is now in Styles."), title="Saved")
        choices = rendering.choices(self.workspace)
        return {picker: gr.Dropdown(choices) for picker in self.parts.form.pickers}

    @shows_errors
    def reuse(self, name: str) -> Answer:
        """Fill the form with what the shown comparison was drawn with."""
        folder = comparisons.folder(self.workspace, name)
        spec = folder and comparisons.read_spec(folder)
        if not spec:
            raise StudioError(
                "The settings of these images cannot be read any more. Set them by hand, or choose "
                "another comparison."
            )
        return self._filled(spec)

    @shows_errors
    def reload(self, file: str | None) -> Answer:
        """Fill the form with what a downloaded grid was drawn with."""
        spec, missing = reload_grid.spec_of(self.workspace, Path(file or ""))
        uploads.used([file or ""])
        if missing:
            gr.Warning(
                in_html(
                    f"Left out, because they are not in your library: {', '.join(missing)}. "
                    "Import them in Styles."
                )
            )
        return {self.parts.drop: None, **self._filled(spec)}

    # drawing

    @shows_errors
    def draw(self, keeps: bool, *values: Any) -> Answer:
        """keeps: draw with the seeds of the form rather than new ones."""
        spec = form.spec_from(form.values_from(values))
        return self._begun(spec) if keeps else self._begun_with_new_seeds(spec)

    @shows_errors
    def draw_with_new_seeds(self, *values: Any) -> Answer:
        return self._begun_with_new_seeds(form.spec_from(form.values_from(values)))

    @shows_errors
    def stop(self, name: str) -> None:
        folder = comparisons.folder(self.workspace, name)
        if folder is not None:
            process.stop(folder, at_once=True)

    # comparisons

    def newest(self) -> str:
        """The name of the newest comparison, "" where there is none."""
        return next(iter(comparisons.names(self.workspace)), "")

    @shows_errors
    def look(self, name: str, searched: str) -> Answer:
        folder = comparisons.folder(self.workspace, name)
        view = self.parts.view.followed
        shown = rendering.view(self.workspace, folder, searched)
        return {view[part]: value for part, value in shown.items()}

    @shows_errors
    def choose(self, event: gr.EventData) -> Any:
        name = str(event._data.get("at", ""))
        return name if name in comparisons.names(self.workspace) else gr.skip()

    @shows_errors
    def find(self, name: str, searched: str) -> str:
        folder = comparisons.folder(self.workspace, name)
        return rendering.past(self.workspace, folder, searched)

    @shows_errors
    def reveal(self, name: str, searched: str, event: gr.EventData) -> Answer:
        """Keep what a blind look preferred."""
        folder = comparisons.folder(self.workspace, str(event._data.get("of", "")))
        picked = event._data.get("picks")
        if folder is not None:
            comparisons.keep_picks(folder, picked if isinstance(picked, list) else [])
        return self.look(name, searched)

    # answers

    def _begun(self, spec: ComparisonSpec) -> Answer:
        return {self.parts.chosen: comparisons.begin(self.workspace, spec).name}

    def _begun_with_new_seeds(self, spec: ComparisonSpec) -> Answer:
        seeds = tuple(secrets.randbelow(2**31) for _ in spec.seeds)
        return {
            self.parts.form.seeds: ", ".join(map(str, seeds)),
            **self._begun(replace(spec, seeds=seeds)),
        }

    def _filled(self, spec: ComparisonSpec) -> Answer:
        """The form of a comparison."""
        known = {id for _, id in rendering.choices(self.workspace)}
        parts, values = self.parts.form, form.values_of(spec, known)
        rows = [*values.styles, *[StyleValues()] * MOST_STYLES][:MOST_STYLES]
        of_rows = list(zip(parts.styles, rows, strict=True))
        return {
            parts.base: values.base,
            parts.prompts: values.prompts,
            parts.seeds: values.seeds,
            parts.steps: values.steps,
            parts.guidance: values.guidance,
            parts.size: values.size,
            **self._picked([style.id for style in values.styles]),
            **{part.strengths: row.strengths for part, row in of_rows},
            **{part.weight: row.weight for part, row in of_rows},
            **self._rows(len(values.styles)),
        }

    def _picked(self, ids: list[str | None]) -> Answer:
        """The pickers with those styles; a checkpoint is no choice until it is chosen."""
        padded = [*ids, *[None] * MOST_STYLES][:MOST_STYLES]
        pickers = self.parts.form.pickers
        return {part: gr.Dropdown(value=id) for part, id in zip(pickers, padded, strict=True)}

    def _rows(self, count: int) -> Answer:
        """So many rows, at least one."""
        answer: Answer = {self.parts.form.count: max(1, count)}
        for number, row in enumerate(self.parts.form.styles):
            for column in row.columns:
                answer[column] = gr.Column(visible=number == 0 or number < count)
            answer[row.remove] = gr.Button(visible=1 < count and number < count)
        return answer

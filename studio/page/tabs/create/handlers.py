"""What the Create tab's events do; answers are keyed by component. studio.drawing does the work."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.drawing import images
from studio.drawing.process import Drawer, Progress
from studio.drawing.request import DrawRequest
from studio.library import library, preferences
from studio.page.handlers import shows_errors, shows_errors_while_streaming
from studio.page.tabs.create import rendering
from studio.page.tabs.create.components import Parts
from studio.server import uploads
from training.errors import ConfigError, DataError
from training.storage.paths import Workspace

Answer = dict[Block, Any]
CHANGES = (0.3, 0.5, 0.7, 0.9)  # strengths at which one's own picture is drawn
FIRST_SHOWN = 0.5
LARGEST_MASK = 2**20  # characters of a mask as the browser sends it
MASK = "data:image/png;base64,"


class Handlers:
    """Handlers of one page. values: of the form's inputs, in the order of Form.inputs."""

    def __init__(self, workspace: Workspace, parts: Parts) -> None:
        self.workspace, self.parts = workspace, parts
        self.drawer = Drawer(workspace)

    # the form

    @shows_errors
    def open_tab(self, style: str | None, prompt: str, shown: str, only: bool) -> Answer:
        """Fill the lists of styles and bases; the newest style is chosen where none is, or the one
        that another place has sent here.
        """
        form, choices = self.parts.form, rendering.choices(self.workspace)
        known = [id for _, id in choices]
        sent = preferences.take_creation(self.workspace)
        chosen = sent if sent in known else style if style in known else next(iter(known), "")
        filled: Answer = {}
        if chosen != style or not (prompt or "").strip():
            filled = self._of_style(chosen, prompt, always=chosen != style)
        return {
            form.style: gr.Dropdown(choices, value=chosen),
            form.base: gr.Dropdown(choices=library.bases(self.workspace)),
            **filled,
            **self._history(shown, only),
        }

    @shows_errors
    def choose_style(self, style: str | None, prompt: str) -> Answer:
        """Take what goes with a style."""
        return self._of_style(style or "", prompt, always=True)

    def _of_style(self, id: str, prompt: str, *, always: bool) -> Answer:
        """Base and guidance of a style, and a first prompt where none is typed."""
        form = self.parts.form
        if not id:
            return {}
        style, answer = library.style(self.workspace, id), {}
        if always and style.base:
            answer[form.base] = gr.Dropdown(value=style.base)
        if always and (guidance := library.guidance(style)):
            answer[form.guidance] = guidance
        if not (prompt or "").strip():
            first = next(iter(library.plain_prompts(self.workspace, id)), "")
            answer[form.prompt] = first
        return answer

    # one's own picture

    @shows_errors
    def take(self, file: str | None) -> Answer:
        """Keep a sketch or photo to begin with."""
        if not file:
            return {self.parts.drop: None}
        id = images.take_source(self.workspace, Path(file))
        uploads.used([file])
        return {self.parts.drop: gr.File(None, visible=False), **self._own(id, "")}

    @shows_errors
    def forget(self) -> Answer:
        parts = self.parts
        return {parts.drop: gr.File(None, visible=True), **self._own("", ""), parts.series: ""}

    @shows_errors
    def paint(self, event: gr.EventData) -> Any:
        """Keep a mask that was painted; "" for none."""
        found = event._data.get("mask")
        if not isinstance(found, str) or not found.startswith(MASK) or len(found) > LARGEST_MASK:
            return ""
        try:
            content = base64.b64decode(found.removeprefix(MASK), validate=True)
        except binascii.Error:
            raise DataError("The mask could not be read. Paint it again.") from None
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "mask.png"
            file.write_bytes(content)
            return images.take_source(self.workspace, file)

    def _own(self, id: str, mask: str) -> Answer:
        """One's own picture in the form."""
        parts = self.parts
        return {
            parts.form.source: id,
            parts.form.mask: mask,
            parts.own: rendering.own(self.workspace, id, mask),
            parts.forget: gr.Button(visible=bool(id)),
            parts.form.shape: gr.Dropdown(visible=not id),
        }

    # drawing

    @shows_errors_while_streaming
    def draw(self, request: gr.Request, *values: Any) -> Iterator[Answer]:
        """Draw what the form says: one image, or one's own picture at several strengths."""
        yield from self._drawn(self._asked(values), _who(request), whole=True)

    @shows_errors_while_streaming
    def draw_again(self, request: gr.Request, *values: Any) -> Iterator[Answer]:
        """The same with a new seed."""
        asked = dataclasses.replace(self._asked(values), seed=secrets.randbelow(2**31))
        yield {self.parts.form.seed: asked.seed}
        yield from self._drawn(asked, _who(request), whole=True)

    @shows_errors_while_streaming
    def slide(self, event: gr.EventData, request: gr.Request, shown: str) -> Iterator[Answer]:
        """Draw the image that is large again, in another strength of its style."""
        strength, created = event._data.get("strength"), None
        if isinstance(strength, int | float) and not isinstance(strength, bool):
            created = images.found(self.workspace, shown) if shown else None
        if created is None:
            return
        yield {self.parts.form.strength: f"{strength:g}"}
        asked = dataclasses.replace(created.request, strength=float(strength))
        yield from self._drawn(asked, _who(request), whole=False)

    @shows_errors
    def stop(self, request: gr.Request) -> Answer:
        self.drawer.drop(_who(request))
        return {self.parts.stop: gr.Button(visible=False)}

    def _drawn(self, asked: DrawRequest, who: str, *, whole: bool) -> Iterator[Answer]:
        """Every answer while images are drawn. whole: one's own picture at every strength."""
        parts, asked = self.parts, asked.checked()
        changes = CHANGES if asked.source and whole else (asked.change,)
        wanted = [dataclasses.replace(asked, change=change) for change in changes]
        series = [(change, "") for change in changes] if asked.source and whole else []
        shown = ""
        for number, one in enumerate(wanted):
            of = f"Image {number + 1} of {len(wanted)}" if len(wanted) > 1 else "Generating"
            for answer in self.drawer.draw(one, who):
                if isinstance(answer, Progress):
                    busy = rendering.busy(self.workspace, one, answer, of, shown)
                    yield {parts.image: busy, parts.stop: gr.Button(visible=True)}
                    continue
                if series:
                    series[number] = (one.change, answer)
                if not shown or one.change == FIRST_SHOWN:
                    shown = answer
                yield self._done(asked, shown, series)
                break
            else:  # another image was asked for meanwhile, or nobody waits any more
                return
        yield {parts.stop: gr.Button(visible=False)}

    def _done(self, asked: DrawRequest, shown: str, series: list[tuple[float, str]]) -> Answer:
        answer = self._shown(shown)
        if asked.source and series:
            answer[self.parts.series] = rendering.series(
                self.workspace, asked.source, series, shown
            )
        elif not asked.source:
            answer[self.parts.series] = ""
        return answer

    def _asked(self, values: tuple[Any, ...]) -> DrawRequest:
        """The request of the form. Raises ConfigError."""
        names = [field.name for field in dataclasses.fields(self.parts.form)]
        found = dict(zip(names, values, strict=True))
        texts = ("style", "prompt", "shape", "base", "negative", "sampler", "source", "mask")
        whole: dict[str, Any] = {name: str(found[name] or "") for name in texts}
        for name, kind in (
            ("seed", int),
            ("steps", int),
            ("guidance", float),
            ("strength", float),
            ("change", float),
        ):
            try:
                whole[name] = kind(found[name])
            except (TypeError, ValueError, OverflowError):
                raise ConfigError(f"{name.capitalize()} must be a number") from None
        return DrawRequest(**whole)

    # images

    @shows_errors
    def choose(self, event: gr.EventData) -> Answer:
        """Show an image that was drawn."""
        return self._shown(str(event._data.get("at", "")), history=False)

    @shows_errors
    def find(self, shown: str, only: bool) -> Answer:
        return self._history(shown, only)

    @shows_errors
    def favour(self, shown: str, only: bool) -> Answer:
        """Make the shown image a favourite, or none any more."""
        is_kept = shown in images.notes(self.workspace)
        images.keep(self.workspace, shown, None if is_kept else "")
        return {**self._shown(shown), **self._history(shown, only)}

    @shows_errors
    def write_note(self, shown: str, note: str) -> None:
        with contextlib.suppress(DataError):
            if shown in images.notes(self.workspace):
                images.keep(self.workspace, shown, note or "")

    @shows_errors
    def reuse(self, shown: str) -> Answer:
        """Fill the form with what the shown image was drawn from."""
        created = images.found(self.workspace, shown)
        if created is None:
            raise DataError(
                "The settings of this image cannot be read any more. Set them by hand, or choose "
                "another image."
            )
        asked, form = created.request, self.parts.form
        styles = [id for _, id in rendering.choices(self.workspace)]
        plain = ("prompt", "shape", "base", "negative", "seed", "steps", "guidance", "sampler")
        source = asked.source if rendering.has_source(self.workspace, asked.source) else ""
        return {
            **{getattr(form, name): getattr(asked, name) for name in plain},
            form.style: asked.style if asked.style in styles else "",
            form.strength: f"{asked.strength:g}",
            form.change: f"{asked.change:g}",
            self.parts.slider: rendering.slider(asked.strength),
            self.parts.drop: gr.File(None, visible=not source),
            **self._own(source, asked.mask if source else ""),
        }

    def _shown(self, id: str, *, history: bool = True) -> Answer:
        """An image that was drawn, large, and what can be done with it."""
        parts = self.parts
        answer = {parts.shown: id}
        for name, value in rendering.shown(self.workspace, id).items():
            answer[getattr(parts, name)] = value
        created = images.found(self.workspace, id)
        if created is not None:
            answer[parts.form.change] = f"{created.request.change:g}"
            answer[parts.form.strength] = f"{created.request.strength:g}"
        return {**answer, **(self._history(id, False) if history else {})}

    def _history(self, shown: str, only: bool) -> Answer:
        return {self.parts.history: rendering.history(self.workspace, shown, favourites=only)}


def _who(request: gr.Request) -> str:
    """The page that asks."""
    return str(getattr(request, "session_hash", None) or "")

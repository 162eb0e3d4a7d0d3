"""The Compare tab: the base beside styles, from the same noise. Layout and short handlers; `python -m studio.compare` draws, as a job."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from studio import jobs, library
from studio.charts import terminal
from studio.tabs import QUIET, in_html, offered, told
from training.errors import ConfigError, StudioError
from training.workspace import Workspace

MOST_STYLES = 4
MOST_PICTURES = 400  # cells of a grid, the base's included
LOOK = 1.0  # seconds between two looks while it draws


@dataclass(frozen=True)
class Wish:
    """What to compare. styles: id and strength; size: px, 0 for the base's own."""

    base: str
    styles: tuple[tuple[str, float], ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    size: int


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    pickers, strengths, rows = [], [], []
    with gr.Row():
        with gr.Column(scale=2, min_width=400):
            base = gr.Textbox("mini", label="Base model", info="mini, a folder, a .safetensors file or a hub id", max_lines=1, elem_id="compare-base")
            for number in range(1, MOST_STYLES + 1):
                with gr.Column(visible=number == 1, min_width=320) as row:
                    words = {"label": f"Style {number}", "interactive": True}
                    pickers.append(gr.Dropdown([], value=None, elem_id=f"style-{number}", **words))
                    strengths.append(gr.Slider(0, 2, 1, step=0.05, label="Strength", elem_id=f"strength-{number}"))
                rows.append(row)
            more = gr.Button("Add another style", size="sm", elem_id="more-styles")
            prompts = gr.Textbox(
                "",
                label="Prompts",
                info="One a line; the trigger word is added where a style is drawn",
                lines=4,
                placeholder="a red apple",
                elem_id="compare-prompts",
            )
            with gr.Row():
                seeds = gr.Textbox("0", label="Seeds", info="Numbers, with commas", max_lines=1, min_width=120, elem_id="compare-seeds")
                steps = gr.Number(25, label="Steps", info="Denoising steps", precision=0, min_width=120, elem_id="compare-steps")
            with gr.Row():
                guidance = gr.Number(5.0, label="Guidance", info="1 = off", min_width=120, elem_id="compare-guidance")
                size = gr.Number(0, label="Size (px)", info="0 = the base's own", precision=0, min_width=120, elem_id="compare-size")
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop-drawing")
        with gr.Column(scale=3, min_width=480):
            status = gr.HTML(elem_id="compare-status", padding=False)
            grid = gr.Image(
                label="Base and styles, the same noise along a row",
                interactive=False,
                format="png",
                buttons=["download", "fullscreen"],
                elem_id="grid",
            )
    job = gr.Textbox("", visible="hidden", elem_id="comparison")
    count = gr.State(1)
    timer = gr.Timer(LOOK, active=False)
    view = [status, grid, stop, timer]
    form = [base, prompts, seeds, steps, guidance, size, *pickers, *strengths]

    @told
    def open_page(*chosen: str | None) -> list[Any]:
        choices = [(style.title, style.id) for style in library.styles(workspace)]
        known = [id for _, id in choices]
        first = known[0] if known and chosen[0] is None else chosen[0]
        return [gr.Dropdown(choices=choices, value=id if id in known else None) for id in (first, *chosen[1:])]

    @told
    def suggest(id: str | None, before: str) -> list[Any]:
        style = library.style(workspace, id) if id else None
        drawn = "\n".join(library.prompts(workspace, id)) if id else ""
        return [(style and style.base) or gr.skip(), drawn or gr.skip() if not (before or "").strip() else gr.skip()]

    @told
    def begin(*found: Any) -> Any:
        wish = _wish(*found)
        if any(jobs.is_alive(workspace.comparisons() / name) for name in _names(workspace)[:10]):
            raise StudioError("A comparison is being drawn right now. Wait for it, or stop it.")
        folder = _new_folder(workspace)
        jobs.start(folder, command(workspace, wish, folder))
        return folder.name

    @told
    def look(name: str) -> list[Any]:
        return _view(_comparison(workspace, name))

    @told
    def end(name: str) -> None:
        folder = _comparison(workspace, name)
        if folder is not None:
            jobs.stop(folder, at_once=True)

    def one_more(shown: int) -> list[Any]:
        shown = min(shown + 1, MOST_STYLES)
        return [shown, gr.Button(visible=shown < MOST_STYLES), *(gr.Column(visible=number <= shown) for number in range(1, MOST_STYLES + 1))]

    gr.on([page.load, tab.select], open_page, pickers, pickers, **QUIET).then(suggest, [pickers[0], prompts], [base, prompts], **QUIET)
    page.load(lambda: next(iter(_names(workspace)), ""), None, job, **QUIET).then(look, job, view, **QUIET)
    pickers[0].input(suggest, [pickers[0], prompts], [base, prompts], **QUIET)
    more.click(one_more, count, [count, more, *rows], **QUIET)
    draw.click(begin, form, job, **QUIET).success(look, job, view, **QUIET)
    timer.tick(look, job, view, **QUIET)
    stop.click(end, job, None, **QUIET).success(look, job, view, **QUIET)


def command(workspace: Workspace, wish: Wish, folder: Path) -> list[str]:
    """The argument list that draws a wish into folder/grid.png. Raises StudioError for a style that is not in the workspace."""
    styles = [f"{library.style(workspace, id).path}:{strength:g}" for id, strength in wish.styles]
    argv = [sys.executable, "-m", "studio.compare", "--base", wish.base]
    argv += ["--style", *styles] if styles else []
    # A prompt that begins with a dash must not be taken for an option.
    argv += ["--prompt", *(f" {text}" if text.startswith("-") else text for text in wish.prompts)]
    argv += ["--seed", *map(str, wish.seeds), "--steps", str(wish.steps), "--guidance", f"{wish.guidance:g}"]
    argv += ["--size", str(wish.size)] if wish.size else []
    return [*argv, "--out", str(folder / "grid.png"), "--cells", str(folder / "cells")]


def _wish(
    base: str | None, prompts: str | None, seeds: str | None, steps: int | None, guidance: float | None, size: int | None, *styles: Any
) -> Wish:
    """The form as a wish. Raises one ConfigError that lists all that is wrong."""
    base, prompts, seeds = base or "", prompts or "", seeds or ""
    lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
    numbers = seeds.replace(",", " ").split()
    chosen = tuple((id, strength) for id, strength in zip(styles[:MOST_STYLES], styles[MOST_STYLES:], strict=True) if id)
    cells = (1 + len(chosen)) * len(lines) * max(1, len(numbers))
    wrong = [
        words
        for words, is_wrong in [
            ("Base model is empty or begins with a dash", not base.strip() or base.strip().startswith("-")),
            ("Prompts is empty: write at least one, each on its own line", not lines),
            ("Seeds must be whole numbers from 0, with commas between them", not numbers or not all(n.isascii() and n.isdigit() for n in numbers)),
            ("Steps must be between 1 and 200", steps is None or not 1 <= steps <= 200),
            ("Guidance must be between 1 and 30", guidance is None or not 1 <= guidance <= 30),
            ("Size must be 0 or between 64 and 2048 px", size is None or not (size == 0 or 64 <= size <= 2048)),
            (f"The grid would have {cells} pictures, {MOST_PICTURES} is the most: take fewer prompts, seeds or styles", cells > MOST_PICTURES),
        ]
        if is_wrong
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Wish(base.strip(), chosen, lines, tuple(int(n) for n in numbers), steps, guidance, size)


def _names(workspace: Workspace) -> list[str]:
    """The comparisons, the newest first."""
    root = workspace.comparisons()
    return sorted((f.name for f in root.iterdir() if (f / "process.json").exists()), reverse=True) if root.is_dir() else []


def _comparison(workspace: Workspace, name: str) -> Path | None:
    return workspace.comparisons() / name if name in _names(workspace) else None


def _new_folder(workspace: Workspace) -> Path:
    stamp = time.strftime("%Y-%m-%d %H-%M-%S")
    for name in (stamp, *(f"{stamp} ({n})" for n in range(2, 100))):
        if not (workspace.comparisons() / name).exists():
            return workspace.comparisons() / name
    raise StudioError("Too many comparisons were begun in this second. Wait a moment.")


def _view(folder: Path | None) -> list[Any]:
    """Status, grid, stop button and timer of a comparison."""
    if folder is None:
        words = '<p class="empty">Choose a style, write a prompt and draw: every row shows the base and the styles from the same noise.</p>'
        return [words, None, gr.Button(visible=False), gr.Timer(active=False)]
    if jobs.is_alive(folder):
        return [f'<p class="drawing">Drawing… {_last_line(folder)}</p>', gr.skip(), gr.Button(visible=True), gr.Timer(active=True)]
    ended = [gr.Button(visible=False), gr.Timer(active=False)]
    if (folder / "grid.png").is_file():
        return [f"<p>Drawn. {in_html(str(folder))} holds the grid and its single pictures.</p>", offered(folder / "grid.png"), *ended]
    process = jobs.read(folder)
    words = "<p>Stopped.</p>" if process and process.stop_asked else "<p>The comparison could not be drawn.</p>" + terminal(jobs.log_tail(folder))
    return [words, None, *ended]


def _last_line(folder: Path) -> str:
    said: Sequence[str] = jobs.log_tail(folder, lines=1).splitlines()
    return in_html(said[-1][:200]) if said else "loading the base model"

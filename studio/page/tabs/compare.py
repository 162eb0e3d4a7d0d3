"""The Compare tab: the base beside styles, from the same noise. Layout and short handlers; `python
-m studio.compare` draws, as a job.

Comparisons lie in the workspace (see studio.library.comparisons). Whoever opens the page finds them
again.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from studio.library import comparisons, import_export, library, reload_grid
from studio.library.comparisons import MOST_COLUMNS, ComparisonSpec
from studio.page import polling
from studio.page.handlers import QUIET, address, in_html, offered, offered_address, shows_errors
from studio.page.scripts import script
from studio.page.views import compare as views
from studio.page.views.charts import terminal
from studio.processes import process as jobs
from studio.server import uploads
from training.errors import ConfigError, DataError, StudioError
from training.storage.paths import Workspace

MOST_STYLES = 6  # rows of the form
MOST_IN_MIX = 1.5  # weight of one style
MOST_PAST = 24  # comparisons that are offered again at once
THUMBNAIL = 320  # px
MOST_PICTURES = 400  # cells of a grid, the base's included
LOOK = 1.0  # seconds between two looks while it draws and somebody is at the page
GUIDANCE = 5.0  # until a style says what it was looked at with
# A style's base, prompts and guidance, taken in the browser: what was typed stays, also what was
# typed while the answer was under way
TAKE = script("compare_take")


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    pickers, strengths, mixers, rows = [], [], [], []
    with gr.Row():
        with gr.Column(scale=2, min_width=400):
            base = gr.Dropdown(
                ["mini"],
                value="mini",
                label="Base model",
                info="mini, a folder, a .safetensors file or a hub id",
                allow_custom_value=True,
                elem_id="compare-base",
            )
            for number in range(1, MOST_STYLES + 1):
                with gr.Column(visible=number == 1, min_width=320) as row:
                    words = {"label": f"Style {number}", "interactive": True}
                    with gr.Row():
                        pickers.append(
                            gr.Dropdown(
                                [],
                                value=None,
                                elem_id=f"style-{number}",
                                scale=3,
                                min_width=200,
                                **words,
                            )
                        )
                        strengths.append(
                            gr.Textbox(
                                "1",
                                label="Strengths",
                                max_lines=1,
                                placeholder="0.5, 1",
                                scale=1,
                                min_width=110,
                                elem_id=f"strength-{number}",
                            )
                        )
                rows.append(row)
            gr.HTML(
                '<p class="note">Strength 1 is as trained, 0 the base; several with commas, '
                "each a column.</p>"
            )
            with gr.Row():
                more = gr.Button(
                    "Add another style", size="sm", min_width=120, elem_id="more-styles"
                )
                along = gr.Button(
                    "Its checkpoints as columns", size="sm", min_width=120, elem_id="checkpoints"
                )
            with gr.Accordion("Mix them", open=False, elem_id="mix"):
                gr.HTML(
                    '<p class="note">Styles with a weight above 0 are worn together, in one '
                    "more column.</p>"
                )
                for number in range(1, MOST_STYLES + 1):
                    with gr.Column(visible=number == 1) as row:
                        words = {"label": f"Style {number}", "elem_id": f"mix-{number}"}
                        mixers.append(gr.Slider(0, MOST_IN_MIX, value=0, step=0.05, **words))
                    rows.append(row)
                keep_mix = gr.Button("Keep this mix as a style", size="sm", elem_id="keep-mix")
            prompts = gr.Textbox(
                "",
                label="Prompts",
                info="One a line; the trigger word is added where a style is drawn",
                lines=4,
                placeholder="a red apple",
                elem_id="compare-prompts",
            )
            with gr.Row():
                seeds = gr.Textbox(
                    "0",
                    label="Seeds",
                    info="Numbers, with commas",
                    max_lines=1,
                    min_width=120,
                    elem_id="compare-seeds",
                )
                steps = gr.Number(
                    25,
                    label="Steps",
                    info="Denoising steps",
                    precision=0,
                    min_width=120,
                    elem_id="compare-steps",
                )
            with gr.Row():
                guidance = gr.Number(
                    GUIDANCE,
                    label="Guidance",
                    info="1 = off",
                    min_width=120,
                    elem_id="compare-guidance",
                )
                size = gr.Number(
                    0,
                    label="Size (px)",
                    info="0 = the base's own",
                    precision=0,
                    min_width=120,
                    elem_id="compare-size",
                )
            lock = gr.Checkbox(
                True,
                label="Keep the seeds",
                info="Off: every Draw takes new noise",
                elem_id="lock-seeds",
            )
            with gr.Row():
                draw = gr.Button("Draw", variant="primary", elem_id="draw")
                reseed = gr.Button("With new seeds", elem_id="reseed")
                stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop-drawing")
        with gr.Column(scale=3, min_width=480):
            status = gr.HTML(elem_id="compare-status", padding=False)
            grid = gr.HTML(elem_id="grid", apply_default_css=False, js_on_load=views.LOOK)
            with gr.Row():
                download = gr.DownloadButton(
                    "Download PNG", size="sm", visible=False, elem_id="download-grid"
                )
                reuse = gr.Button(
                    "Use its settings", size="sm", visible=False, elem_id="reuse-comparison"
                )
            with gr.Accordion("Drawn before", open=True, elem_id="before"):
                search = gr.Textbox(
                    "",
                    label="Search",
                    placeholder="a prompt or a style",
                    max_lines=1,
                    elem_id="search-past",
                )
                past = gr.HTML(elem_id="past", apply_default_css=False, js_on_load=views.PICK)
            drop = gr.File(
                label="A grid as PNG, to draw with its settings again",
                file_types=[".png"],
                height=140,
                elem_id="reload-grid",
            )
    job = gr.Textbox("", visible="hidden", elem_id="comparison")
    suggested = gr.Textbox("", visible="hidden")
    taken = gr.Textbox(json.dumps({"prompts": "", "guidance": GUIDANCE}), visible="hidden")
    offered_style = gr.State("")  # in the first picker, and chosen by nobody
    count = gr.State(1)
    follower = polling.follower(elem_id="follows-drawing")
    view = [status, grid, download, reuse, stop, past, follower]
    form = [base, prompts, seeds, steps, guidance, size, *pickers, *strengths, *mixers]

    @shows_errors
    def open_page(offered: str, *chosen: str | None) -> list[Any]:
        choices = _choices(workspace)
        known = [id for _, id in choices]
        by_itself = bool(known) and chosen[0] in (None, offered)
        first = known[0] if by_itself else chosen[0]
        return [
            first if by_itself else "",
            gr.Dropdown(choices=library.bases(workspace)),
            *(
                gr.Dropdown(choices, value=id if id in known else None)
                for id in (first, *chosen[1:])
            ),
        ]

    @shows_errors
    def suggest(id: str | None, base: str | None) -> str:
        style = library.style(workspace, id) if id else None
        drawn = "\n".join(library.prompts(workspace, id)) if id else ""
        looked_at = (style and library.guidance(style)) or GUIDANCE
        return json.dumps(
            {
                "for": base,
                "base": (style and style.base) or base,
                "prompts": drawn,
                "guidance": looked_at,
            }
        )

    @shows_errors
    def begin(keeps: bool, *found: Any) -> list[Any]:
        spec = _wish(*found)
        return [gr.skip(), comparisons.begin(workspace, spec).name] if keeps else renewed(spec)

    @shows_errors
    def begin_anew(*found: Any) -> list[Any]:
        return renewed(_wish(*found))

    def renewed(spec: ComparisonSpec) -> list[Any]:
        anew = tuple(secrets.randbelow(2**31) for _ in spec.seeds)
        return [
            ", ".join(map(str, anew)),
            comparisons.begin(workspace, replace(spec, seeds=anew)).name,
        ]

    @shows_errors
    def look(name: str, searched: str) -> list[Any]:
        return _view(workspace, comparisons.folder(workspace, name), searched)

    @shows_errors
    def end(name: str) -> None:
        folder = comparisons.folder(workspace, name)
        if folder is not None:
            jobs.stop(folder, at_once=True)

    @shows_errors
    def choose(event: gr.EventData) -> Any:
        name = str(event._data.get("at", ""))
        return name if name in comparisons.names(workspace) else gr.skip()

    @shows_errors
    def find(name: str, searched: str) -> str:
        return _past(workspace, comparisons.folder(workspace, name), searched)

    @shows_errors
    def reveal(name: str, searched: str, event: gr.EventData) -> list[Any]:
        folder, picked = (
            comparisons.folder(workspace, str(event._data.get("of", ""))),
            event._data.get("picks"),
        )
        if folder is not None:
            comparisons.keep_picks(folder, picked if isinstance(picked, list) else [])
        return _view(workspace, comparisons.folder(workspace, name), searched)

    @shows_errors
    def put_back(name: str) -> list[Any]:
        folder = comparisons.folder(workspace, name)
        spec = folder and comparisons.read_wish(folder)
        if not spec:
            raise StudioError("What this comparison was drawn with cannot be read any more.")
        return _form_of(workspace, spec)

    @shows_errors
    def reload(file: str | None) -> list[Any]:
        spec, missing = reload_grid.wish_of(workspace, Path(file or ""))
        uploads.used([file or ""])
        if missing:
            gr.Warning(
                in_html(
                    f"Not in this workspace, and left out: {', '.join(missing)}. Bring them in "
                    "the Styles tab."
                )
            )
        return [None, *_form_of(workspace, spec)]

    @shows_errors
    def spread(id: str | None, *chosen: Any) -> list[Any]:
        steps = [style.id for style in library.checkpoints(workspace, id or "")]
        if not steps:
            raise StudioError(
                "Of this style there are no checkpoints. A run keeps them while save.styles is on."
            )
        most = MOST_STYLES - 1
        kept = (
            steps
            if len(steps) <= most
            else [steps[round((i + 1) * len(steps) / most) - 1] for i in range(most)]
        )
        ids = [id, *kept]
        return [*_picks(ids), max(1, len(ids)), *_opened(len(ids))]

    def one_more(shown: int) -> list[Any]:
        shown = min(shown + 1, MOST_STYLES)
        return [shown, gr.Button(visible=shown < MOST_STYLES), *_opened(shown)]

    @shows_errors
    def keep(*found: Any) -> list[Any]:
        together = _mix(found[:MOST_STYLES], found[MOST_STYLES:])
        if not together:
            raise StudioError("Give two styles a weight above 0 first.")
        id = import_export.mixed(workspace, together)
        gr.Info(in_html(f"“{library.style(workspace, id).name}” is on the shelf."), title="Kept")
        return [gr.Dropdown(_choices(workspace)) for _ in range(MOST_STYLES)]

    seen = [job, search]
    to_suggest = [
        gr.on(
            [page.load, tab.select],
            open_page,
            [offered_style, *pickers],
            [offered_style, base, *pickers],
            **QUIET,
        ).then,
        pickers[0].input,
    ]
    for event in to_suggest:
        event(suggest, [pickers[0], base], suggested, **QUIET).success(
            None,
            [suggested, base, prompts, guidance, taken],
            [base, prompts, guidance, taken],
            js=TAKE,
            **QUIET,
        )
    pickers[0].input(lambda: "", None, offered_style, **QUIET)
    page.load(lambda: next(iter(comparisons.names(workspace)), ""), None, job, **QUIET).then(
        look, seen, view, **QUIET
    )
    more.click(one_more, count, [count, more, *rows], **QUIET)
    along.click(spread, pickers[0], [*pickers, count, *rows], **QUIET)
    keep_mix.click(keep, [*pickers, *mixers], pickers, **QUIET)
    draw.click(begin, [lock, *form], [seeds, job], **QUIET).success(look, seen, view, **QUIET)
    reseed.click(begin_anew, form, [seeds, job], **QUIET).success(look, seen, view, **QUIET)
    past.select(choose, None, job, **QUIET).then(look, seen, view, **QUIET)
    search.change(find, seen, past, trigger_mode="always_last", **QUIET)
    grid.submit(reveal, seen, view, **QUIET)
    reuse.click(put_back, job, [*form, count, *rows], **QUIET)
    drop.upload(reload, drop, [drop, *form, count, *rows], **QUIET)
    follower.tick(look, seen, view, **QUIET)
    stop.click(end, job, None, **QUIET).success(look, seen, view, **QUIET)


def _picks(ids: list[str | None]) -> list[Any]:
    """The pickers with those styles; a checkpoint is no choice until it is chosen."""
    return [gr.Dropdown(value=id) for id in [*ids, *[None] * MOST_STYLES][:MOST_STYLES]]


def _opened(count: int) -> list[Any]:
    """The rows of the form and those of the mix, so many of each."""
    return [gr.Column(visible=number == 0 or number < count) for number in range(MOST_STYLES)] * 2


def _form_of(workspace: Workspace, spec: ComparisonSpec) -> list[Any]:
    """The form of a comparison, in the order of `form`, then its rows and their count."""
    known, by_style, together = {id for _, id in _choices(workspace)}, {}, dict(spec.mix)
    for id, strength in spec.styles:
        if id in known:
            by_style.setdefault(id, []).append(strength)
    for id in together:
        if id in known:
            by_style.setdefault(id, [])
    ids = list(by_style)[:MOST_STYLES]
    blank = MOST_STYLES - len(ids)
    strengths = [", ".join(f"{strength:g}" for strength in by_style[id]) for id in ids]
    weights = [min(MOST_IN_MIX, max(0.0, together.get(id, 0.0))) for id in ids]
    numbers = [
        "\n".join(spec.prompts),
        ", ".join(map(str, spec.seeds)),
        spec.steps,
        spec.guidance,
        spec.size,
    ]
    return [
        spec.base,
        *numbers,
        *_picks(ids),
        *strengths,
        *["1"] * blank,
        *weights,
        *[0.0] * blank,
        max(1, len(ids)),
        *_opened(len(ids)),
    ]


def _choices(workspace: Workspace) -> list[tuple[str, str]]:
    """Styles to choose from, each followed by its checkpoints: words and id."""
    styles = library.styles(workspace)
    return [
        (one.title, one.id)
        for style in styles
        for one in (style, *library.checkpoints(workspace, style.id))
    ]


def _wish(
    base: str | None,
    prompts: str | None,
    seeds: str | None,
    steps: int | None,
    guidance: float | None,
    size: int | None,
    *styles: Any,
) -> ComparisonSpec:
    """The form as a wish. Raises one ConfigError that lists all that is wrong."""
    base, prompts, seeds = base or "", prompts or "", seeds or ""
    lines = tuple(line.strip() for line in prompts.splitlines() if line.strip())
    numbers = seeds.replace(",", " ").split()
    ids, texts, mixers = (
        styles[:MOST_STYLES],
        styles[MOST_STYLES : 2 * MOST_STYLES],
        styles[2 * MOST_STYLES :],
    )
    together = _mix(ids, mixers)
    only_mixed = {id for id, _ in together}  # whose strengths may be empty: no column of its own
    given = [
        (id, [] if not (text or "").strip() and id in only_mixed else _strengths(text or ""))
        for id, text in zip(ids, texts, strict=True)
        if id
    ]
    chosen = tuple((id, strength) for id, found in given for strength in found or ())
    columns = len(chosen) + bool(together)
    cells = (1 + columns) * len(lines) * max(1, len(numbers))
    wrong = [
        words
        for words, is_wrong in [
            (
                "Base model is empty or begins with a dash",
                not base.strip() or base.strip().startswith("-"),
            ),
            ("Prompts is empty: write at least one, each on its own line", not lines),
            (
                "Seeds must be whole numbers from 0, with commas between them",
                not numbers or not all(n.isascii() and n.isdigit() for n in numbers),
            ),
            (
                "Strengths must be numbers from -10 to 10, with commas between them",
                any(found is None for _, found in given),
            ),
            (
                "A mix needs two styles: give another one a weight above 0, or take this one's "
                "back to 0",
                not together and _weighted(ids, mixers),
            ),
            (
                f"There would be {columns} columns of styles, {MOST_COLUMNS} is the most",
                columns > MOST_COLUMNS,
            ),
            ("Steps must be between 1 and 200", steps is None or not 1 <= steps <= 200),
            ("Guidance must be between 1 and 30", guidance is None or not 1 <= guidance <= 30),
            (
                "Size must be 0 or between 64 and 2048 px",
                size is None or not (size == 0 or 64 <= size <= 2048),
            ),
            (
                f"The grid would have {cells} pictures, {MOST_PICTURES} is the most: take "
                "fewer prompts, seeds or styles",
                cells > MOST_PICTURES,
            ),
        ]
        if is_wrong
    ]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return ComparisonSpec(
        base.strip(), chosen, lines, tuple(int(n) for n in numbers), steps, guidance, size, together
    )


def _weighted(
    ids: Sequence[str | None], weights: Sequence[float | None]
) -> list[tuple[str, float]]:
    """The chosen styles whose slider is above 0, with its number."""
    return [
        (id, round(float(weight), 4))
        for id, weight in zip(ids, weights, strict=True)
        if id and weight and 0 < weight <= MOST_IN_MIX
    ]


def _mix(
    ids: Sequence[str | None], weights: Sequence[float | None]
) -> tuple[tuple[str, float], ...]:
    """What is worn together: two styles or more, each once, else nothing."""
    found = dict(_weighted(ids, weights))
    return tuple(found.items()) if len(found) > 1 else ()


def _strengths(text: str) -> list[float] | None:
    """`0.5, 1` -> numbers, None when one of them is none."""
    words = text.replace(",", " ").split()
    good = all(
        re.fullmatch(r"-?(\d{1,2}(\.\d{0,4})?|\.\d{1,4})", word) and abs(float(word)) <= 10
        for word in words
    )
    return list(dict.fromkeys(float(word) for word in words)) if words and good else None


def _view(workspace: Workspace, folder: Path | None, searched: str = "") -> list[Any]:
    """Everything that shows a comparison, in the order of `view`."""
    hidden, past = {"visible": False}, _past(workspace, folder, searched)
    if folder is None:
        words = (
            '<p class="empty">Choose a style, write a prompt and draw: every row shows the '
            "base and the styles from the same noise.</p>"
        )
        return [
            words,
            "",
            gr.DownloadButton(**hidden),
            gr.Button(**hidden),
            gr.Button(**hidden),
            past,
            "",
        ]
    if jobs.is_alive(folder):
        return [
            _drawing(folder),
            gr.skip(),
            gr.skip(),
            gr.skip(),
            gr.Button(visible=True),
            gr.skip(),
            polling.following(LOOK),
        ]
    again = gr.Button(visible=(folder / "wish.json").is_file())
    ended = [again, gr.Button(**hidden), past, ""]
    file = folder / "grid.png"
    if file.is_file():
        return ["", _grid(folder), gr.DownloadButton(value=offered(file), visible=True), *ended]
    process = jobs.read(folder)
    words = (
        "<p>Stopped.</p>"
        if process and process.stop_asked
        else "<p>The comparison could not be drawn.</p>" + terminal(jobs.log_tail(folder))
    )
    return [words, "", gr.DownloadButton(**hidden), *ended]


def _grid(folder: Path) -> str:
    """The single pictures as a table; the whole sheet as it was drawn where single ones are
    missing.
    """
    spec = comparisons.read_wish(folder)
    places = (
        [
            [comparisons.cell(folder, r, c) for c in range(len(spec.columns))]
            for r in range(len(spec.rows))
        ]
        if spec
        else []
    )
    if spec and all(place.is_file() for row in places for place in row):
        cells = [[offered_address(place) for place in row] for row in places]
        return views.grid(folder.name, spec.columns, spec.rows, cells, comparisons.picks(folder))
    title = spec.title if spec else folder.name
    return (
        f'<img class="whole" src="{in_html(offered_address(folder / "grid.png"))}" '
        f'alt="{in_html(title)}">'
    )


def _past(workspace: Workspace, chosen: Path | None, searched: str = "") -> str:
    """The last comparisons that were drawn and hold every searched word."""
    items, wanted = [], (searched or "").casefold().split()
    for name in comparisons.names(workspace):
        folder = workspace.comparisons() / name
        if len(items) < MOST_PAST and (folder / "grid.png").is_file():
            spec = comparisons.read_wish(folder)
            title = spec.title if spec else name
            if not all(word in f"{title} {name}".casefold() for word in wanted):
                continue
            try:
                items.append((address(folder / "grid.png", THUMBNAIL), name, title))
            except DataError:
                continue  # a grid that somebody damaged
    return views.past(items, chosen.name if chosen else "", searched or "")


def _drawing(folder: Path) -> str:
    """How far a drawing is, from what it said last."""
    said = next(iter(jobs.log_tail(folder, lines=1).splitlines()), "")
    found = re.fullmatch(r"drawn (\d{1,9}) of (\d{1,9}) denoising steps", said.strip())
    done, of = (int(found[1]), int(found[2])) if found else (0, 0)
    return views.drawing(done, of, said[:200] or "loading the base model")

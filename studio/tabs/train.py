"""The Train tab: a form made of the settings, and the run as its events tell it. Layout and short handlers; studio.jobs does the work."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from studio import charts, datasets, forms, jobs, library, sample_project
from studio.tabs import QUIET, framed, offered, shown, told
from training.config import RunConfig, from_mapping, settings
from training.errors import DataError, StudioError
from training.presets import LENGTHS, PRESETS, STRENGTHS, settings_of
from training.workspace import Workspace

LOOK = 1.5  # seconds between two looks at a run that is going
STRIP = 36  # most previews shown
PREVIEW = 512  # px of the longer side
OURS = ("data.folder", "save.folder")  # set by the page: the dataset's folder, the workspace's folder of runs


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=400):
            knobs, dataset, fields = _form()
            with gr.Row():
                start = gr.Button("Start training", variant="primary", elem_id="start")
        with gr.Column(scale=3, min_width=480):
            chosen = gr.Dropdown([], label="Run", elem_id="run", interactive=True)
            status = gr.HTML(elem_id="status", padding=False)
            with gr.Row():
                stop = gr.Button("Stop and save", variant="stop", visible=False, elem_id="stop")
                resume = gr.Button("Resume", variant="primary", visible=False, elem_id="resume")
                style = gr.DownloadButton("Download the style", variant="primary", visible=False, elem_id="download-style")
                reuse = gr.Button("Use its settings", visible=False, elem_id="reuse")
            loss = gr.HTML(elem_id="loss", padding=False)
            strip = gr.Gallery(
                label="Previews, the newest first",
                columns=3,
                height="auto",
                object_fit="contain",
                interactive=False,
                visible=False,
                buttons=["download", "fullscreen"],
                elem_id="previews",
                elem_classes="pictures",
            )
            told_so_far = gr.HTML(elem_id="messages", padding=False)
            report = gr.HTML(elem_id="report", padding=False)
            with gr.Accordion("Learning rate", open=False):
                rate = gr.HTML(elem_id="rate", padding=False)
    timer = gr.Timer(LOOK, active=False)
    drawn = gr.State("")  # which previews the strip holds, so that an open picture is not closed by a tick
    form = [dataset, *fields.values()]
    view = [status, loss, rate, told_so_far, report, strip, drawn, stop, resume, style, reuse, timer]
    tails: dict[str, jobs.Tail] = {}

    def tail(run: Path) -> jobs.Tail:
        return tails.setdefault(run.name, jobs.Tail(run / "events.jsonl"))

    @told
    def open_page(name: str | None, set_name: str | None) -> list[Any]:
        return [_run_list(workspace, name), _set_list(workspace, set_name)]

    @told
    def first_values() -> list[Any]:
        return _first_values(workspace, tuple(fields))

    @told
    def start_from(name: str | None, length: str, strength: str, model: str) -> list[Any]:
        return _preset_values(tuple(fields), name, length, strength, model)

    @told
    def begin(set_name: str | None, *found: Any) -> Any:
        config = _config(workspace, set_name, forms.to_mapping(tuple(fields), found))
        return _run_list(workspace, jobs.start_run(config).name)

    @told
    def go_on(name: str | None) -> Any:
        config = jobs.earlier(library.run(workspace, name))
        if config is None:
            raise StudioError(f"The settings of “{name}” cannot be read from its run.toml. Start a new run.")
        return _run_list(workspace, jobs.start_run(config).name)

    @told
    def end(name: str | None) -> None:
        run = library.run(workspace, name)
        jobs.stop(run, at_once=jobs.state(run) == "stopping")

    @told
    def put_back(name: str | None) -> list[Any]:
        config = jobs.earlier(library.run(workspace, name))
        if config is None:
            raise StudioError(f"The settings of “{name}” cannot be read from its run.toml.")
        return _values(workspace, config, tuple(fields), config.save.name)

    @told
    def look(name: str | None, seen: str) -> list[Any]:
        if name not in library.runs(workspace):
            return _empty_view()
        run = library.run(workspace, name)
        return _view(run, jobs.state(run), charts.progress(tail(run).read_on()), seen)

    page.load(first_values, None, form, **QUIET)
    gr.on([page.load, tab.select], open_page, [chosen, dataset], [chosen, dataset], **QUIET).then(look, [chosen, drawn], view, **QUIET)
    gr.on([timer.tick, chosen.input], look, [chosen, drawn], view, **QUIET)
    gr.on([knob.input for knob in knobs], start_from, [*knobs, fields["base.model"]], [*fields.values()], **QUIET)
    start.click(begin, form, chosen, **QUIET).success(look, [chosen, drawn], view, **QUIET)
    resume.click(go_on, chosen, chosen, **QUIET).success(look, [chosen, drawn], view, **QUIET)
    stop.click(end, chosen, None, **QUIET).success(look, [chosen, drawn], view, **QUIET)
    reuse.click(put_back, chosen, form, **QUIET)


def _form() -> tuple[list[gr.Radio], gr.Dropdown, dict[str, Component]]:
    """A preset's knobs, the dataset's picker and a control for every setting that is not ours, the first screen's above the others."""
    rows = {s.key: s for s in settings() if s.key not in OURS}
    fields: dict[str, Component] = {}
    told_of = "; ".join(f"{name}: {preset.told}" for name, preset in PRESETS.items())
    knobs = [gr.Radio(list(PRESETS), label="Start from", info=f"{told_of}. Everything it chooses stays below.", elem_id="preset")]
    with gr.Row():
        knobs += [gr.Radio(list(LENGTHS), value="normal", label="How long", elem_id="preset-length", min_width=160)]
        knobs += [gr.Radio(list(STRENGTHS), value="normal", label="How strong", elem_id="preset-strength", min_width=160)]
    fields |= forms.controls([rows["save.name"]])
    dataset = gr.Dropdown([], label="Dataset", info="Made in the Pictures tab", elem_id="train-dataset", interactive=True)
    fields |= forms.controls([rows["data.trigger"], rows["base.model"]])
    with gr.Row():
        fields |= forms.controls([rows["optim.steps"], rows["optim.batch_size"]])
    fields |= forms.controls(s for s in rows.values() if not s.advanced and s.key not in fields)
    with gr.Accordion("Everything", open=False, elem_id="everything"):
        for section, members in groupby((s for s in rows.values() if s.key not in fields), key=lambda s: s.section):
            with gr.Accordion(forms.SECTIONS[section], open=False, elem_id=f"section-{section}"):
                gr.Markdown(RunConfig.model_fields[section].annotation.__doc__)
                with gr.Row():
                    fields |= forms.controls(list(members))
    return knobs, dataset, fields


def _preset_values(keys: tuple[str, ...], name: str | None, length: str, strength: str, model: str) -> list[Any]:
    """The form when a preset is chosen: its values, defaults where only another preset says something, the rest as it is."""
    if name is None:
        return [gr.skip()] * len(keys)
    chosen = settings_of(name, model=model, length=length, strength=strength)
    known = {key for preset in PRESETS.values() for key in (*preset.chosen, *preset.mini)}
    rows = {s.key: s for s in settings()}
    return [forms.shown(rows[key], chosen.get(key, rows[key].default)) if key in known else gr.skip() for key in keys]


def _config(workspace: Workspace, dataset: str | None, mapping: dict[str, dict[str, Any]]) -> RunConfig:
    """The form's settings with the folders that are ours. Raises ConfigError that lists what is wrong, DataError without pictures."""
    folder = datasets.folder(workspace, dataset or "")
    if not datasets.pictures(folder):
        raise DataError(f"The dataset {folder.name} has no pictures yet. Add some in the Pictures tab.")
    mapping["data"]["folder"] = str(folder)
    if mapping["prior"]["folder"]:  # seen from where the page was started, not from run.toml
        mapping["prior"]["folder"] = str(Path(mapping["prior"]["folder"]).expanduser().resolve())
    mapping["save"]["folder"] = str(workspace.runs())
    return from_mapping(mapping, "the form")


def _first_values(workspace: Workspace, keys: tuple[str, ...]) -> list[Any]:
    """What the form shows first: the newest run's settings under a name that is free, or the defaults."""
    found = library.runs(workspace)
    config = (jobs.earlier(workspace.runs() / found[0]) if found else None) or from_mapping({"base": {"model": library.bases(workspace)[0]}})
    return _values(workspace, config, keys, library.free_run_name(workspace, config.save.name))


def _values(workspace: Workspace, config: RunConfig, keys: tuple[str, ...], name: str) -> list[Any]:
    named = config.model_copy(update={"save": config.save.model_copy(update={"name": name})})
    return [_set_list(workspace, Path(config.data.folder).name), *forms.from_config(named, keys)]


def _set_list(workspace: Workspace, name: str | None) -> Any:
    """The list of datasets; the one that was chosen stays chosen, else the one that was changed last, but never the example by itself."""
    listing, newest = datasets.names(workspace), datasets.newest(workspace)
    first = None if sample_project.is_example(workspace, newest) else newest
    return gr.Dropdown(choices=listing, value=name if name in listing else first)


def _run_list(workspace: Workspace, name: str | None) -> Any:
    """The list of runs; the one that was chosen stays chosen, else one that is going, else the newest."""
    listing = library.runs(workspace)
    going = (run for run in listing if jobs.state(workspace.runs() / run) in jobs.GOING)
    value = name if name in listing else next(going, next(iter(listing), None))
    return gr.Dropdown(choices=listing, value=value)


def _view(run: Path, state: jobs.State, so_far: charts.Progress, seen: str) -> list[Any]:
    """Everything that shows a run, in the order of `view`."""
    pictures = [
        (run / path, f"{p.step} updates: {prompt}")
        for p in so_far.previews
        for path, prompt in zip(p.paths, p.prompts, strict=False)
        if (run / path).exists()
    ]
    page = run / "report" / "report.html"
    holds = f"{run.name}|{len(pictures)}|{so_far.previews[0].step if so_far.previews else 0}|{page.stat().st_mtime_ns if page.exists() else 0}"
    strip = gr.skip() if holds == seen else gr.Gallery([(shown(path, PREVIEW), words) for path, words in pictures[:STRIP]], visible=bool(pictures))
    unexplained = state in ("failed", "interrupted") and not any(type(m).__name__ == "Failed" for m in so_far.messages[-1:])
    file = run / so_far.style if so_far.style else None
    done = file is not None and state in ("finished", "stopped") and file.is_file()
    return [
        charts.status(run.name, state, so_far),
        charts.loss_curve(so_far.curve),
        charts.rate_curve(so_far.curve),
        (charts.terminal(jobs.log_tail(run)) if unexplained else "")
        + charts.messages([replace(m, message=forms.in_words(m.message)) for m in so_far.messages]),
        gr.skip() if holds == seen else framed(page),
        strip,
        holds,
        gr.Button("Stop at once, without saving" if state == "stopping" else "Stop and save", visible=state in jobs.GOING),
        gr.Button(visible=state in jobs.RESUMABLE),
        gr.DownloadButton(value=offered(file) if done else None, visible=done),
        gr.Button(visible=state not in jobs.GOING),
        gr.Timer(active=state in jobs.GOING),
    ]


def _empty_view() -> list[Any]:
    words = '<p class="empty">Nothing has been trained here yet. Choose a dataset, give the style a name and start.</p>'
    hidden = {"visible": False}
    return [
        words,
        "",
        "",
        "",
        "",
        gr.Gallery([], **hidden),
        "",
        gr.Button(**hidden),
        gr.Button(**hidden),
        gr.DownloadButton(**hidden),
        gr.Button(**hidden),
        gr.Timer(active=False),
    ]

"""The Train tab: a form made of the settings, and the run as its events tell it. Short handlers.

studio.processes.process does the work.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from studio.datasets import store
from studio.library import continue_from, library, preferences, sample_project
from studio.page import forms, polling
from studio.page.handlers import LIGHTEN, PRIVATE, QUIET, address, framed, offered, shows_errors
from studio.page.polling import Late
from studio.page.scripts import script
from studio.page.tabs import several
from studio.page.views import charts
from studio.page.views import previews as strip_view
from studio.page.views import queue as line_view
from studio.processes import plan as planning
from studio.processes import process
from studio.processes.queue import Job, Queue
from training import events
from training.config.loading import from_mapping
from training.config.presets import LENGTHS, PRESETS, STRENGTHS, settings_of
from training.config.schema import RunConfig
from training.config.settings import settings
from training.errors import DataError, StudioError
from training.storage.paths import Workspace
from training.trainer.requests import RunRequest, send_request

LOOK = 1.5  # seconds between two looks at a run that is going, while somebody is at the page
SHARED = 0.75  # seconds for which pages that follow the same run are told the same
SMALL, LARGE = 160, 1024  # px of a preview's longer side, in the strip and opened
BEGINS = 4.0  # seconds in which a run that need not wait has begun
TURNS = ("running", "waiting", "interrupted")  # jobs of the line that will go on by themselves
OF_THE_BASE = tuple(
    sorted({key for preset in PRESETS.values() for key in preset.mini})
)  # settings that presets choose by the base
# What a preset chose for one kind of base gives way to what it chooses for the other; what somebody
# changed stays
KEEP_UP = script("train_keep_up")
# How a run stands, in the window's title; see page.js
ENTITLE = (
    "const entitle = () => window.studio && window.studio.entitle && "
    "window.studio.entitle(); watch('value', entitle); entitle();"
)
OURS = (
    "data.folder",
    "save.folder",
)  # set by the page: the dataset's folder, the workspace's folder of runs


def layout(workspace: Workspace, page: gr.Blocks, tab: gr.Tab) -> None:
    """Fill the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=400):
            knobs, dataset, fields = _form()
            with gr.Row():
                start = gr.Button("Start training", variant="primary", elem_id="start")
                measure = gr.Button("What will it take?", elem_id="measure")
            plan = gr.HTML(elem_id="plan", padding=False)
            form = [dataset, *fields.values()]
            several.layout(
                workspace,
                page,
                tab,
                form,
                lambda name, *found: _config(
                    workspace, name, forms.to_mapping(tuple(fields), found)
                ),
            )
        with gr.Column(scale=3, min_width=480):
            line = gr.HTML(elem_id="line", padding=False, js_on_load=line_view.DO)
            chosen = gr.Dropdown([], label="Run", elem_id="run", interactive=True)
            status = gr.HTML(elem_id="status", padding=False, js_on_load=ENTITLE)
            gr.HTML(
                '<button type="button" id="tell-me" hidden>Tell me when it is done</button>',
                padding=False,
            )
            with gr.Row():
                draw = gr.Button(
                    "Draw now", visible=False, elem_id="draw-now", min_width=90, size="md"
                )
                save = gr.Button(
                    "Save now", visible=False, elem_id="save-now", min_width=90, size="md"
                )
                pause = gr.Button("Pause", visible=False, elem_id="pause", min_width=80, size="md")
                stop = gr.Button(
                    "Stop and save", variant="stop", visible=False, elem_id="stop", size="md"
                )
                resume = gr.Button(
                    "Resume", variant="primary", visible=False, elem_id="resume", size="md"
                )
                style = gr.DownloadButton(
                    "Download the style",
                    variant="primary",
                    visible=False,
                    elem_id="download-style",
                    size="md",
                )
                reuse = gr.Button("Use its settings", visible=False, elem_id="reuse", size="md")
            loss = gr.HTML(elem_id="loss", padding=False)
            strip = gr.HTML(elem_id="previews", padding=False, js_on_load=strip_view.LOOK)
            message_so_far = gr.HTML(elem_id="messages", padding=False)
            report = gr.HTML(elem_id="report", padding=False, js_on_load=LIGHTEN)
            with gr.Accordion("Learning rate", open=False):
                rate = gr.HTML(elem_id="rate", padding=False)
            follower = polling.follower(elem_id="follows-training")
    got = gr.State(
        ()
    )  # what the page was sent last: nothing is sent twice, and no open picture is closed by a look
    view = [
        line,
        status,
        loss,
        rate,
        message_so_far,
        report,
        strip,
        draw,
        save,
        pause,
        stop,
        resume,
        style,
        reuse,
        follower,
        got,
    ]
    tails: dict[str, process.Tail] = {}
    lately = polling.Lately(SHARED)
    queue = Queue(workspace)
    queue.wake()  # what waited when the machine went down

    def tail(run: Path) -> process.Tail:
        return tails.setdefault(run.name, process.Tail(run / "events.jsonl"))

    @shows_errors
    def open_page(name: str | None, set_name: str | None) -> list[Any]:
        return [
            _run_list(workspace, queue, _to_show(workspace, queue, name)),
            _set_list(workspace, set_name),
        ]

    @shows_errors
    def first_values() -> list[Any]:
        return _first_values(workspace, tuple(fields))

    @shows_errors
    def from_a_style() -> list[Any]:
        """The form for going on from the style that was chosen on the shelf; as it is when none
        was.
        """
        id = preferences.take_start(workspace)
        if id is None:
            return [gr.skip()] * len(filled)
        config = continue_from.config_for(workspace, library.style(workspace, id))
        gr.Info("The form goes on from that style: choose the pictures and start.")
        return [None, *_values(workspace, config, tuple(fields), config.save.name)]

    @shows_errors
    def start_from(name: str | None, length: str, strength: str, model: str) -> list[Any]:
        return _preset_values(tuple(fields), name, length, strength, model)

    @shows_errors
    def begin(set_name: str | None, *found: Any) -> Any:
        config = _config(workspace, set_name, forms.to_mapping(tuple(fields), found))
        return _run_list(workspace, queue, _begun(queue, queue.add(config)))

    @shows_errors
    def take_measure(set_name: str | None, *found: Any) -> str:
        return planning.shown(
            planning.measured(_config(workspace, set_name, forms.to_mapping(tuple(fields), found)))
        )

    @shows_errors
    def go_on(name: str | None) -> Any:
        job = queue.of_run(name or "")
        if (
            job is not None
            and job.state in line_view.ACTS
            and job.state not in TURNS
            and job.state != "finished"
        ):
            (queue.go_on if job.state == "paused" else queue.retry)(job.id)
            return _run_list(workspace, queue, _begun(queue, job.id))
        config = process.earlier(library.run(workspace, name))
        if config is None:
            raise StudioError(
                f"The settings of “{name}” cannot be read from its run.toml. Start a new run."
            )
        return _run_list(workspace, queue, _begun(queue, queue.add(config)))

    def ask(what: RunRequest) -> Any:
        @shows_errors
        def asked(name: str | None) -> None:
            send_request(library.run(workspace, name), what)
            gr.Info("It is done after the update that is being made.")

        return asked

    @shows_errors
    def rest(name: str | None) -> None:
        job = queue.of_run(library.run(workspace, name).name)
        if job is not None and job.state == "running":
            queue.pause(job.id)
        else:
            process.stop(library.run(workspace, name))  # begun outside of the line

    @shows_errors
    def end(name: str | None) -> None:
        run = library.run(workspace, name)
        job = queue.of_run(run.name)
        if process.state(run) == "stopping":
            process.stop(run, at_once=True)
        elif job is not None and job.state == "running":
            queue.cancel(job.id)
        else:
            process.stop(run)

    @shows_errors
    def act(name: str | None, event: gr.EventData) -> Any:
        _act(queue, event._data.get("act"), event._data.get("id"))
        return _run_list(workspace, queue, name)

    @shows_errors
    def pick(event: gr.EventData) -> Any:
        return _run_list(workspace, queue, str(event._data.get("run")))

    @shows_errors
    def put_back(name: str | None) -> list[Any]:
        config = process.earlier(library.run(workspace, name))
        if config is None:
            raise StudioError(f"The settings of “{name}” cannot be read from its run.toml.")
        return [None, *_values(workspace, config, tuple(fields), config.save.name)]

    @shows_errors
    def look(name: str | None, got: tuple[str, ...]) -> list[Any]:
        all_jobs = queue.jobs()
        row = line_view.queue_html(all_jobs, name or "")
        moving = any(job.state in TURNS for job in all_jobs)
        if name not in library.runs(workspace):
            waiting = next((job for job in all_jobs if job.run == name), None)
            return polling.news(
                [row, *_empty_view(waiting), polling.following(LOOK) if moving else ""], got
            )
        run = library.run(workspace, name)
        state = process.state(run)
        waits = any(job.run == name and job.state in ("waiting", "interrupted") for job in all_jobs)
        so_far = lately.of(
            (name, state), lambda: charts.progress(tail(run).read_on())
        )  # by state: a run's end is seen at once
        goes_on = moving or state in process.GOING
        return polling.news(
            [
                row,
                *_view(run, state, waits, so_far),
                polling.following(LOOK, speak=name) if goes_on else "",
            ],
            got,
        )

    filled = [knobs[0], *form]
    page.load(first_values, None, filled, **QUIET)
    gr.on([page.load, tab.select], open_page, [chosen, dataset], [chosen, dataset], **QUIET).then(
        look, [chosen, got], view, **QUIET
    )
    tab.select(from_a_style, None, filled, **QUIET)
    gr.on([follower.tick, chosen.input], look, [chosen, got], view, **QUIET)
    gr.on(
        [knob.input for knob in knobs],
        start_from,
        [*knobs, fields["base.model"]],
        [*fields.values()],
        **QUIET,
    )
    along = [fields[key] for key in OF_THE_BASE]
    fields["base.model"].change(
        None,
        [*knobs, fields["base.model"], *along],
        along,
        js=f"({KEEP_UP})({json.dumps(_by_base())})",
        **QUIET,
    )
    start.click(begin, form, chosen, **QUIET).success(look, [chosen, got], view, **QUIET)
    resume.click(go_on, chosen, chosen, **QUIET).success(look, [chosen, got], view, **QUIET)
    stop.click(end, chosen, None, **QUIET).success(look, [chosen, got], view, **QUIET)
    pause.click(rest, chosen, None, **QUIET).success(look, [chosen, got], view, **QUIET)
    draw.click(ask("draw"), chosen, None, **QUIET)
    save.click(ask("save"), chosen, None, **QUIET)
    line.click(act, chosen, chosen, **QUIET).success(look, [chosen, got], view, **QUIET)
    line.select(pick, None, chosen, **QUIET).success(look, [chosen, got], view, **QUIET)
    measure.click(take_measure, form, plan, **PRIVATE)
    reuse.click(put_back, chosen, filled, **QUIET)


def _form() -> tuple[list[gr.Radio], gr.Dropdown, dict[str, Component]]:
    """A preset's knobs, the dataset's picker and a control for every setting that is not ours, the
    first screen's above the others.
    """
    rows = {s.key: s for s in settings() if s.key not in OURS}
    fields: dict[str, Component] = {}
    bar = {"elem_classes": "choice", "min_width": 160}
    knobs = [
        gr.Radio(
            list(PRESETS),
            label="Start from",
            info="Everything that it chooses can be changed below",
            elem_id="preset",
            **bar,
        )
    ]
    gr.HTML(
        "".join(
            f'<p class="note"><b>{escape(name)}</b>: {escape(preset.purpose)}</p>'
            for name, preset in PRESETS.items()
        ),
        padding=False,
    )
    with gr.Row():
        knobs += [
            gr.Radio(
                list(LENGTHS), value="normal", label="How long", elem_id="preset-length", **bar
            )
        ]
        knobs += [
            gr.Radio(
                list(STRENGTHS),
                value="normal",
                label="How strong",
                elem_id="preset-strength",
                **bar,
            )
        ]
    fields |= forms.controls([rows["save.name"]])
    dataset = gr.Dropdown(
        [],
        label="Dataset",
        info="Made in the Pictures tab",
        elem_id="train-dataset",
        interactive=True,
    )
    fields |= forms.controls([rows["data.trigger"], rows["base.model"]])
    with gr.Row():
        fields |= forms.controls([rows["optim.steps"], rows["optim.batch_size"]])
    fields |= forms.controls(s for s in rows.values() if not s.advanced and s.key not in fields)
    with gr.Accordion("Everything", open=False, elem_id="everything"):
        for section, members in groupby(
            (s for s in rows.values() if s.key not in fields), key=lambda s: s.section
        ):
            with gr.Accordion(forms.SECTIONS[section], open=False, elem_id=f"section-{section}"):
                gr.Markdown(RunConfig.model_fields[section].annotation.__doc__)
                with gr.Row():
                    fields |= forms.controls(list(members))
    return knobs, dataset, fields


def _preset_values(
    keys: tuple[str, ...], name: str | None, length: str, strength: str, model: str
) -> list[Any]:
    """The form when a preset is chosen:

    its values, defaults where only another preset says something, the rest as it is.
    """
    if name is None:
        return [gr.skip()] * len(keys)
    chosen = settings_of(name, model=model, length=length, strength=strength)
    known = {key for preset in PRESETS.values() for key in (*preset.chosen, *preset.mini)}
    rows = {s.key: s for s in settings()}
    return [
        forms.shown(rows[key], chosen.get(key, rows[key].default)) if key in known else gr.skip()
        for key in keys
    ]


def _config(
    workspace: Workspace, dataset: str | None, mapping: dict[str, dict[str, Any]]
) -> RunConfig:
    """The form's settings with the folders that are ours.

    Raises ConfigError that lists what is wrong, DataError without pictures.
    """
    folder = store.folder(workspace, dataset or "")
    if not store.pictures(folder):
        raise DataError(
            f"The dataset {folder.name} has no pictures yet. Add some in the Pictures tab."
        )
    mapping["data"]["folder"] = str(folder)
    if mapping["prior"]["folder"]:  # seen from where the page was started, not from run.toml
        mapping["prior"]["folder"] = str(Path(mapping["prior"]["folder"]).expanduser().resolve())
    mapping["save"]["folder"] = str(workspace.runs())
    return from_mapping(mapping, "the form")


def _by_base() -> dict[str, Any]:
    """What presets choose for the built-in base and for others, of the settings of OF_THE_BASE:

    preset -> length -> strength -> the two.
    """
    rows = {s.key: s for s in settings()}
    values = lambda model, *chosen: [
        forms.shown(
            rows[key],
            settings_of(chosen[0], model=model, length=chosen[1], strength=chosen[2]).get(
                key, rows[key].default
            ),
        )
        for key in OF_THE_BASE
    ]
    return {
        name: {
            length: {
                strength: [values(model, name, length, strength) for model in ("mini", "")]
                for strength in STRENGTHS
            }
            for length in LENGTHS
        }
        for name in PRESETS
    }


def _first_values(workspace: Workspace, keys: tuple[str, ...]) -> list[Any]:
    """What the form shows first:

    the settings of the user's newest run under a name that is free, or those of the first preset;
    its name before.
    """
    own = next(
        (
            run
            for name in library.runs(workspace)
            if not sample_project.is_example_run(run := workspace.runs() / name)
        ),
        None,
    )
    config, preset = process.earlier(own) if own else None, None
    if config is None:
        base, preset = library.bases(workspace)[0], next(iter(PRESETS))
        mapping: dict[str, dict[str, Any]] = {"base": {"model": base}}
        for key, value in settings_of(preset, model=base).items():
            section, _, name = key.partition(".")
            mapping.setdefault(section, {})[name] = value
        config = from_mapping(mapping)
    return [
        preset,
        *_values(workspace, config, keys, library.free_run_name(workspace, config.save.name)),
    ]


def _values(workspace: Workspace, config: RunConfig, keys: tuple[str, ...], name: str) -> list[Any]:
    named = config.model_copy(update={"save": config.save.model_copy(update={"name": name})})
    return [_set_list(workspace, Path(config.data.folder).name), *forms.from_config(named, keys)]


def _set_list(workspace: Workspace, name: str | None) -> Any:
    """The list of datasets; the one that was chosen stays chosen, else the one that was changed
    last, but never the example by itself.
    """
    listing, newest = store.names(workspace), store.newest(workspace)
    first = None if sample_project.is_example(workspace, newest) else newest
    return gr.Dropdown(choices=listing, value=name if name in listing else first)


def _begun(queue: Queue, id: int) -> str:
    """The run of a job just added, once it has begun or it is clear that it waits."""
    end = time.monotonic() + BEGINS
    while (job := queue.job(id)).state in ("waiting", "running") and time.monotonic() < end:
        others = any(
            other.state == "running" and other.id != id and other.device == job.device
            for other in queue.jobs()
        )
        if others or process.read(queue.workspace.runs() / job.run) is not None:
            break
        time.sleep(0.1)
    return job.run


def _act(queue: Queue, act: object, id: object) -> None:
    """What a button of the line asks for.

    Raises StudioError for what is not there, or not to be done with it.
    """
    if type(id) is not int or not isinstance(act, str):
        raise StudioError("That is no job of the line.")
    job = queue.job(id)
    if act not in dict(line_view.ACTS[job.state]):
        raise StudioError(f"“{job.run}” is by now: {line_view.WORDS[job.state].lower()}.")
    if act in ("up", "down"):
        waiting = [other.id for other in queue.jobs() if other.state == "waiting"]
        queue.move(id, waiting.index(id) + (1 if act == "down" else -1))
    else:
        getattr(queue, act)(id)


def _to_show(workspace: Workspace, queue: Queue, name: str | None) -> str | None:
    """The run that is shown when the tab is opened:

    the chosen one; but a training that goes on or waits rather than the example's.
    """
    shows_example = name in library.runs(workspace) and sample_project.is_example_run(
        library.run(workspace, name)
    )
    turn = next((job.run for job in queue.jobs() if job.state in TURNS), None)
    return turn if turn and shows_example else name


def _run_list(workspace: Workspace, queue: Queue, name: str | None) -> Any:
    """The list of runs, those that wait included; the one that was chosen stays chosen, else one
    that is going, else the newest.
    """
    listing = library.runs(workspace)
    listing += [
        job.run
        for job in queue.jobs()
        if job.run not in listing and job.state in ("waiting", "paused")
    ]
    going = (run for run in listing if process.state(workspace.runs() / run) in process.GOING)
    value = name if name in listing else next(going, next(iter(listing), None))
    return gr.Dropdown(choices=listing, value=value)


def _view(run: Path, state: process.State, waits: bool, so_far: charts.Progress) -> list[Any]:
    """Everything that shows a run, in the order of `view` but for the line, the follower and what
    was sent. waits: its turn in the line comes.
    """
    page = run / "report" / "report.html"
    of_report = f"{run}|{page.stat().st_mtime_ns if page.exists() else 0}"
    of_strip = f"{run}|{[(p.step, p.paths) for p in so_far.previews]}"
    curve = charts.settled(so_far.curve) if state in process.GOING else so_far.curve
    of_curve = f"{run}|{len(curve)}|{curve[-1] if curve else 0}"
    unexplained = state in ("failed", "interrupted") and not any(
        type(m).__name__ == "Failed" for m in so_far.messages[-1:]
    )
    file = run / so_far.style if so_far.style else None
    done = file is not None and state in ("finished", "stopped") and file.is_file()
    trains = gr.update(visible=state == "running")
    return [
        charts.status(run.name, state, so_far),
        Late(of_curve, lambda: charts.loss_curve(curve)),
        Late(of_curve, lambda: charts.rate_curve(curve)),
        (charts.terminal(process.log_tail(run)) if unexplained else "")
        + charts.messages([replace(m, message=forms.in_words(m.message)) for m in so_far.messages]),
        Late(of_report, lambda: framed(page)),
        Late(of_strip, lambda: strip_view.preview_strip(_looks(run, so_far.previews))),
        trains,
        trains,
        trains,
        gr.update(
            value="Stop at once, without saving" if state == "stopping" else "Stop and save",
            visible=state in process.GOING,
        ),
        gr.update(visible=state in process.RESUMABLE and not waits),
        gr.update(value=offered(file) if done else None, visible=done),
        gr.update(visible=state not in process.GOING),
    ]


def _looks(run: Path, previews: Sequence[events.Previewed]) -> list[strip_view.Look]:
    """The pictures of the strip that are there. previews: the newest first."""
    steps = strip_view.kept([p.step for p in previews])
    return [
        strip_view.Look(p.step, prompt, address(run / path, SMALL), address(run / path, LARGE))
        for p in reversed(previews)
        if p.step in steps
        for path, prompt in zip(p.paths, p.prompts, strict=False)
        if (run / path).exists()
    ]


def _empty_view(waiting: Job | None) -> list[Any]:
    """The same where there is no run yet, or one that has not begun."""
    words = (
        '<p class="empty">Nothing has been trained here yet. Choose a dataset, give the '
        "style a name and start.</p>"
    )
    if waiting is not None:
        words = charts.waits(waiting.run, line_view.WORDS[waiting.state])
    button = gr.update(visible=False)
    return [words, "", "", "", "", "", button, button, button, button, button, button, button]

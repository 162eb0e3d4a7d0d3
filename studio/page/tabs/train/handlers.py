"""What the Train tab's events do; answers are keyed by component. studio.processes does the
work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from studio.datasets import collection, store
from studio.library import (
    continue_from,
    library,
    preferences,
    recommended,
    sample_project,
    sweeps,
)
from studio.page import polling
from studio.page.handlers import shows_errors
from studio.page.tabs.train import form, preflight, queue_actions, rendering
from studio.page.tabs.train.before import Before
from studio.page.tabs.train.components import Parts
from studio.page.views import charts
from studio.page.views import queue as queue_view
from studio.page.views.plan import plan_table
from studio.processes import plan, process
from studio.processes.queue import Queue
from training.config.schema import RunConfig
from training.errors import ConfigError, StudioError
from training.storage.paths import Workspace
from training.trainer.requests import RunRequest, send_request

LOOK = 1.5  # seconds between two looks at a run that is going, while somebody is at the page
SHARED = 0.75  # seconds for which pages that follow the same run are sent the same
Answer = dict[Block, Any]


class Handlers:
    """Handlers of one page."""

    def __init__(self, workspace: Workspace, parts: Parts) -> None:
        self.workspace = workspace
        self.parts = parts
        self.queue = Queue(workspace)
        self.tails: dict[str, process.Tail] = {}
        self.recent = polling.Lately(SHARED)
        self.before = Before(workspace, tuple(parts.form.fields))

    # the form

    def config(self, dataset: str | None, *values: Any) -> RunConfig:
        """The form as settings. values: of the fields, in their order."""
        return form.config_of(
            self.workspace, dataset, dict(zip(self.parts.form.fields, values, strict=True))
        )

    @shows_errors
    def first_values(self) -> Answer:
        preset, config = form.first_values(self.workspace)
        dataset = self._datasets(None, shown=None)
        return self._filled(preset, config) | {self.parts.form.dataset: dataset}

    @shows_errors
    def from_a_style(self) -> Answer:
        """Fill the form for going on from the style that was chosen in the library, if one was."""
        id = preferences.take_start(self.workspace)
        if id is None:
            return gr.skip()
        config = continue_from.config_for(self.workspace, library.style(self.workspace, id))
        gr.Info("The settings continue from that style. Choose a dataset and start.")
        return self._filled(None, config)

    @shows_errors
    def from_a_run(self, name: str | None) -> Answer:
        """Fill the form with the settings of a run."""
        config = process.earlier(library.run(self.workspace, name))
        if config is None:
            raise StudioError(
                f"The settings of “{name}” cannot be read any more. Choose another run."
            )
        return self._filled(None, config)

    @shows_errors
    def choose_preset(self, name: str | None, length: str, strength: str, model: str) -> Answer:
        values = form.preset_values(name, length, strength, model)
        fields = self.parts.form.fields
        return {fields[key]: value for key, value in values.items()} or gr.skip()

    @shows_errors
    def measure(self, dataset: str | None, *values: Any) -> Answer:
        try:
            config = self.config(dataset, *values)
        except ConfigError as error:
            return {self.parts.plan: "", self.parts.wrong: rendering.wrong(error)}
        return {self.parts.plan: plan_table(plan.measured(config)), self.parts.wrong: ""}

    @shows_errors
    def follow_pictures(self, name: str) -> Any:
        """Take the dataset that was opened in the Dataset tab."""
        if name not in store.names(self.workspace):
            return gr.skip()
        return gr.Dropdown(choices=collection.choices(self.workspace), value=name)

    @shows_errors
    def check(self, dataset: str | None, *values: Any) -> str:
        """What to look at before Start, as far as it is known without waiting."""
        return preflight.shown(self.before.lines(dataset, *values))

    @shows_errors
    def check_memory(self, dataset: str | None, *values: Any) -> Any:
        """The same with the memory that the training would take."""
        found = self.before.with_memory(dataset, *values)
        return gr.skip() if found is None else preflight.shown(found)

    @shows_errors
    def put_right(self, event: gr.EventData, dataset: str | None, *values: Any) -> Answer:
        """Do what a line of the list offers."""
        changes = self.before.put_right(event._data.get("act"), dataset, *values)
        fields = self.parts.form.fields
        return {fields[key]: value for key, value in changes.items()} or gr.skip()

    # runs

    @shows_errors
    def open_tab(self, run: str | None, dataset: str | None) -> Answer:
        shown = queue_actions.run_to_show(self.workspace, self.queue, run)
        return {
            self.parts.view.run: self._runs(shown),
            self.parts.form.dataset: self._datasets(dataset, shown=dataset),
        }

    @shows_errors
    def start(self, dataset: str | None, *values: Any) -> Answer:
        """Start, or ask first where something would spoil the training."""
        try:
            config = self.config(dataset, *values)
        except ConfigError as error:
            return {self.parts.wrong: rendering.wrong(error), **self.parts.asking.asks()}
        found = self.before.lines(dataset, *values)
        if questions := preflight.questions(found):
            return {self.parts.wrong: "", **self.parts.asking.asks(*questions)}
        return self._started(config)

    @shows_errors
    def start_anyway(self, dataset: str | None, *values: Any) -> Answer:
        try:
            return self._started(self.config(dataset, *values))
        except ConfigError as error:
            return {self.parts.wrong: rendering.wrong(error), **self.parts.asking.asks()}

    def _started(self, config: RunConfig) -> Answer:
        run = queue_actions.begun(self.queue, self.queue.add(config))
        shown = {self.parts.view.run: self._runs(run), self.parts.wrong: ""}
        return {**shown, **self.parts.asking.asks()}

    @shows_errors
    def resume(self, run: str | None) -> Any:
        return self._runs(queue_actions.resume(self.workspace, self.queue, run))

    @shows_errors
    def draw_now(self, run: str | None) -> None:
        self._request(run, "draw")

    @shows_errors
    def save_now(self, run: str | None) -> None:
        self._request(run, "save")

    @shows_errors
    def pause(self, run: str | None) -> None:
        queue_actions.pause(self.workspace, self.queue, run)

    @shows_errors
    def stop(self, run: str | None) -> Answer:
        """Let it save and end; ask first where it would end without."""
        ending = self.parts.view.ending
        if process.state(library.run(self.workspace, run)) == "stopping":
            return ending.asks(
                f"Stop “{run}” without saving? Everything since its last checkpoint is lost."
            )
        queue_actions.stop(self.workspace, self.queue, run)
        return ending.asks()

    @shows_errors
    def end_now(self, run: str | None) -> Answer:
        queue_actions.stop(self.workspace, self.queue, run)
        return self.parts.view.ending.asks()

    @shows_errors
    def use_recommended(self, run: str | None) -> None:
        """Let the recommended checkpoint, or the last one again, stand for the run."""
        folder = library.run(self.workspace, run)
        last = charts.progress(self._tail(folder).read_on()).step
        found = recommended.recommended(folder)
        if found is not None and found.in_use:
            recommended.use_last(folder, last)
            gr.Info(f"Styles and Create use step {last} of “{run}” again.")
        else:
            step = recommended.use(folder, last).step
            gr.Info(f"Styles and Create now use step {step} of “{run}”.")

    @shows_errors
    def compare(self, run: str | None) -> None:
        """Let the comparison be filled with what this run recommends."""
        folder = library.run(self.workspace, run)
        found = recommended.recommended(folder)
        id, strength = f"run:{folder.name}", found.strength if found else 1.0
        if found is not None and not found.in_use:
            id = f"step:{folder.name}:{found.step}"
        preferences.compare_with(self.workspace, library.style(self.workspace, id).id, strength)

    @shows_errors
    def go_on(self, run: str | None) -> Answer:
        """Fill the form for training the style of a run further."""
        folder = library.run(self.workspace, run)
        style = library.style(self.workspace, f"run:{folder.name}")
        gr.Info("The settings continue from that style. Choose a dataset and start.")
        return self._filled(None, continue_from.config_for(self.workspace, style))

    @shows_errors
    def act_on_job(self, run: str | None, event: gr.EventData) -> Any:
        action, sweep = event._data.get("act"), sweeps.going(self.workspace)
        if action == "stop_together" and sweep is not None:
            process.stop(sweep)
        elif action != "stop_together":
            queue_actions.act(self.queue, action, event._data.get("id"))
        return self._runs(run)

    @shows_errors
    def choose_run(self, event: gr.EventData) -> Any:
        return self._runs(str(event._data.get("run")))

    @shows_errors
    def look(self, run: str | None, sent: dict[str, str]) -> Answer:
        """What shows the run, as far as the page does not have it yet."""
        view = self.parts.view
        news, marks = polling.unsent(self._followed(run), sent)
        answer: Answer = {view.followed[name]: value for name, value in news.items()}
        answer[view.sent] = marks
        return answer

    def _followed(self, name: str | None) -> dict[str, Any]:
        jobs, notice = self.queue.shown()
        sweep = sweeps.going(self.workspace)
        together = sweeps.runs_of(sweep) if sweep is not None else []
        row = queue_view.queue_html(jobs, name or "", notice, together)
        moving = any(job.state in queue_actions.TURNS for job in jobs) or bool(together)
        if name not in library.runs(self.workspace):
            waiting = next((job for job in jobs if job.run == name), None)
            follower = polling.following(LOOK) if moving else ""
            nothing = rendering.nothing_to_show(waiting)
            chip = self._chip([job.run for job in jobs if job.state == "running"] + together)
            return {"queue": row, **nothing, "follower": follower, "chip": chip}
        run = library.run(self.workspace, name)
        state = process.state(run)
        waits = any(job.run == name and job.state in ("waiting", "interrupted") for job in jobs)
        # by state: a run's end is seen at once
        so_far = self.recent.of((name, state), lambda: charts.progress(self._tail(run).read_on()))
        goes_on = moving or state in process.GOING
        going = [name] if state in process.GOING else []
        going += [job.run for job in jobs if job.state == "running"] + together
        return {
            "chip": self._chip(going),
            "queue": row,
            **rendering.run_view(run, state, waits, so_far),
            "follower": polling.following(LOOK, speak=name) if goes_on else "",
        }

    def _chip(self, going: list[str]) -> str:
        """The first run that is going; "" where none is."""
        for name in going:
            if name in library.runs(self.workspace):
                run = library.run(self.workspace, name)
                state = process.state(run)
                so_far = self.recent.of(
                    (name, state), lambda run=run: charts.progress(self._tail(run).read_on())
                )
                return rendering.chip(name, state, so_far)
        return ""

    def _tail(self, run: Path) -> process.Tail:
        return self.tails.setdefault(run.name, process.Tail(run / "events.jsonl"))

    def _request(self, run: str | None, what: RunRequest) -> None:
        send_request(library.run(self.workspace, run), what)
        gr.Info("This happens after the current step.")

    def _runs(self, name: str | None) -> Any:
        listing, shown = queue_actions.listed_runs(self.workspace, self.queue, name)
        return gr.Dropdown(choices=listing, value=shown)

    def _filled(self, preset: str | None, config: RunConfig) -> Answer:
        """The form with those settings."""
        values, parts = form.values_of(config), self.parts.form
        return {
            parts.knobs[0]: preset,
            parts.dataset: self._datasets(Path(config.data.folder).name),
            **{field: values[key] for key, field in parts.fields.items()},
        }

    def _datasets(self, name: str | None, shown: str | None = "") -> Any:
        """The list of datasets; the one that was chosen stays chosen, else the one that was changed
        last, but never the example by itself.

        shown: what the page shows. It is not sent again: by the time it arrives another one may
        have been chosen.
        """
        listing, newest = store.names(self.workspace), store.newest(self.workspace)
        first = None if sample_project.is_example(self.workspace, newest) else newest
        value = name if name in listing else first
        choices = collection.choices(self.workspace)
        if value == shown:
            return gr.Dropdown(choices=choices)
        return gr.Dropdown(choices=choices, value=value)

"""The page's main verbs for programs: upload, train, status, stop, compare, comparison. The same
checks as the page's own; see docs/api.md.

Names and ids go in and out, never paths of this machine: bases and styles are looked up in the
workspace's listings.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
from gradio.events import api
from gradio.utils import get_upload_folder

from studio.datasets import store
from studio.library import comparisons, library
from studio.library.comparisons import MOST_COLUMNS, ComparisonSpec
from studio.page.handlers import of_the_disk, offered
from studio.page.views import charts
from studio.processes import process
from studio.processes.queue import Queue
from studio.server import uploads
from studio.system import storage
from training import events
from training.config.loading import from_mapping, with_overrides
from training.config.places import PATHS, TABLES
from training.config.settings import settings
from training.errors import ConfigError, DataError, StudioError
from training.storage.paths import Workspace, checked_name

P = ParamSpec("P")
R = TypeVar("R")
VERBS = ("upload", "train", "status", "stop", "compare", "comparison")
MOST_FILES, MOST_ROWS, LONGEST_PROMPT = 1000, 64, 1000
OURS = (
    *(path for path in PATHS if path != "base.model"),
    *TABLES,
    "save.folder",
    "save.webhook",
)


def answering(verb: Callable[P, R]) -> Callable[P, R]:
    """A verb whose StudioError reaches the program that called, in its own words."""

    @functools.wraps(verb)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return verb(*args, **kwargs)
        except StudioError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except OSError as error:
            raise gr.Error(of_the_disk(error), print_exception=False) from error

    return answer


def offer(workspace: Workspace) -> None:
    """Add the verbs to the page that is being built."""
    verbs = Verbs(workspace)
    for name in VERBS:
        api(getattr(verbs, name), api_name=name)


class Verbs:
    """What programs may call, over one workspace. Gradio shows names, types and docstrings."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    @answering
    def upload(self, dataset: str, files: list[dict], paths: list | None = None) -> dict:
        """Put pictures, captions (.txt, .caption, metadata.jsonl, metadata.csv) or zips into a
        dataset, which is made when there is none of that name.

        paths: of each file in its folder, for instance "10_cat/1.png", so that files of one name
        can be told apart.
        """
        if not isinstance(files, list) or len(files) > MOST_FILES:
            raise DataError(f"files: a list of at most {MOST_FILES} uploaded files was expected.")
        if paths is not None and (
            not isinstance(paths, list)
            or len(paths) != len(files)
            or not all(isinstance(path, str) and path for path in paths)
        ):
            raise DataError("paths: a list with the path of each file was expected, or none.")
        found = [_uploaded(file) for file in files]
        name = checked_name(str(dataset), "dataset")
        known = name in store.names(self.workspace)
        folder = (store.folder if known else store.make)(self.workspace, name)
        added = store.add(folder, found, paths or ())
        uploads.used(found)
        return {
            "dataset": folder.name,
            "kept": list(added.kept),
            "captioned": list(added.captioned),
            "refused": [list(one) for one in added.refused],
            "notes": list(added.notes),
        }

    @answering
    def train(self, dataset: str, settings: dict) -> dict:
        """Put a training into the queue.

        settings: by dotted key, as in docs/settings.md, for instance {"save.name": "ink",
        "optim.steps": 300}.
        """
        queue = Queue(self.workspace)
        job = queue.job(queue.add(_config(self.workspace, str(dataset), settings)))
        return {"run": job.run, "job": job.id}

    @answering
    def status(self, run: str) -> dict:
        """How a training stands:

        its state, updates, seconds left, loss, what it said, and its style as a file when there is
        one.
        """
        job = Queue(self.workspace).of_run(str(run))
        if run not in library.runs(self.workspace) and job is not None:
            return {"run": job.run, "state": job.state, "message": job.message}
        return _run_status(library.run(self.workspace, run))

    @answering
    def stop(self, run: str) -> dict:
        """Let a training save and end, or leave the queue."""
        queue = Queue(self.workspace)
        job = queue.of_run(str(run))
        if job is not None and job.state in ("waiting", "interrupted", "running", "paused"):
            queue.cancel(job.id)
        else:
            process.stop(library.run(self.workspace, run))
        return {"run": run}

    @answering
    def compare(
        self,
        base: str,
        styles: list,
        prompts: list,
        seeds: list,
        steps: int = 25,
        guidance: float = 5.0,
        size: int = 0,
    ) -> dict:
        """Begin to draw a base beside styles.

        styles: ids as status gives them, or [id, strength]; every prompt with every seed is a row.
        """
        _check_base(self.workspace, base)
        spec = ComparisonSpec(
            str(base),
            _checked_styles(self.workspace, styles),
            *_checked_rows(prompts, seeds),
            int(_checked_number("steps", steps, 1, 200)),
            float(_checked_number("guidance", guidance, 1, 30)),
            int(_checked_number("size", size, 0, 4096)),
        )
        return {"comparison": comparisons.begin(self.workspace, spec).name}

    @answering
    def comparison(self, name: str) -> dict:
        """Whether a comparison is drawn, and its grid as a file."""
        folder = comparisons.folder(self.workspace, str(name))
        if folder is None:
            raise StudioError(
                f"There is no comparison named {str(name)[:80]!r}. Give the name that compare "
                "answered with."
            )
        grid, alive = folder / "grid.png", process.is_alive(folder)
        done = grid.is_file() and not alive
        return {
            "state": "drawing" if alive else "finished" if done else "failed",
            "grid": _offered(grid) if done else None,
            "message": "" if done or alive else process.log_tail(folder, 5),
        }


def _run_status(run: Path) -> dict[str, Any]:
    """What status answers about a run that has begun."""
    state = process.state(run)  # before the events: a run that has ended has written them all
    so_far = charts.progress(list(events.read(run / "events.jsonl")))
    last = so_far.curve[-1] if so_far.curve else None
    file = run / so_far.style if so_far.style else None
    has_style = file is not None and file.is_file()
    offered = file if has_style and state in ("finished", "stopped") else None
    return {
        "run": run.name,
        "state": state,
        "step": so_far.step,
        "steps": so_far.steps,
        "loss": last.loss if last else None,
        "seconds_left": last.left if last and state == "running" else None,
        "messages": [message.message for message in so_far.messages],
        "id": f"run:{run.name}" if has_style else None,
        "style": _offered(offered) if offered else None,
    }


def _uploaded(file: Any) -> Path:
    """An uploaded file's place, which has to be among the uploads:

    a client names no file of this machine.
    """
    root = Path(get_upload_folder()).resolve()
    path = Path(str(file.get("path", ""))).resolve() if isinstance(file, dict) else root
    if not (path.is_relative_to(root) and path.is_file()):
        raise DataError(
            "files: uploaded files were expected, as gradio_client's handle_file makes them."
        )
    return path


def _offered(file: Path) -> dict[str, Any]:
    return {"path": offered(file), "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}


def _config(workspace: Workspace, dataset: str, given: Any) -> Any:
    """Settings as the page's form gives them. Raises ConfigError that lists what is wrong."""
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConfigError(
            'settings: an object by dotted key was expected, for instance {"save.name": "ink"}.'
        )
    known = {s.key for s in settings()}
    if wrong := sorted(key for key in given if key not in known or key in OURS):
        raise ConfigError(
            f"settings that cannot be given here: {', '.join(key[:80] for key in wrong[:5])}. "
            "docs/settings.md lists those there are."
        )
    base = given.get("base.model", library.bases(workspace)[0])
    _check_base(workspace, base)
    folder = store.folder(workspace, dataset)
    if not store.pictures(folder):
        raise DataError(f"The dataset {folder.name} has no pictures yet. Upload some.")
    name = given.get("save.name", library.free_run_name(workspace, folder.name))
    own = {
        "base.model": base,
        "data.folder": str(folder),
        "save.folder": str(workspace.runs()),
        "save.name": name,
    }
    return from_mapping(with_overrides({}, given | own), "settings")


def _check_base(workspace: Workspace, base: Any) -> None:
    known = [one.setting for one in storage.bases(workspace)]
    if base not in known:
        raise ConfigError(
            f"base.model is {str(base)[:80]!r}: one of the page's bases was expected: "
            f"{', '.join(known)}."
        )


def _checked_styles(workspace: Workspace, styles: Any) -> tuple[tuple[str, float], ...]:
    """Id and strength of each style. Raises StudioError with what is wrong."""
    pairs = None
    if isinstance(styles, list):
        pairs = [(one, 1.0) if isinstance(one, str) else one for one in styles]
    if pairs is None or len(pairs) > MOST_COLUMNS or not all(_is_pair(pair) for pair in pairs):
        raise StudioError(
            f"styles: a list of at most {MOST_COLUMNS} ids was expected, or of [id, strength] "
            "with a strength from -2 to 2."
        )
    for id, _ in pairs:
        library.style(workspace, id)
    return tuple((id, float(strength)) for id, strength in pairs)


def _checked_rows(prompts: Any, seeds: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Prompts and seeds. Raises StudioError with what is wrong."""
    if not isinstance(prompts, list) or not prompts or not all(map(_is_prompt, prompts)):
        raise StudioError(
            f"prompts: a list of texts of at most {LONGEST_PROMPT} characters was expected."
        )
    if not isinstance(seeds, list) or not seeds or not all(map(_is_seed, seeds)):
        raise StudioError("seeds: a list of whole numbers from 0 was expected.")
    if len(prompts) * len(seeds) > MOST_ROWS:
        raise StudioError(
            f"{len(prompts)} prompts and {len(seeds)} seeds make {len(prompts) * len(seeds)} "
            f"rows, {MOST_ROWS} is the most. Take fewer."
        )
    return tuple(prompts), tuple(seeds)


def _checked_number(name: str, value: Any, low: int, high: int) -> float:
    """A number in its range; only a guidance may have a fraction. Raises StudioError."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or (name != "guidance" and value != int(value)):
        raise StudioError(
            f"{name} is {str(value)[:20]}: a number from {low} to {high} was expected."
        )
    return value


def _is_prompt(text: Any) -> bool:
    return isinstance(text, str) and bool(text.strip()) and len(text) <= LONGEST_PROMPT


def _is_seed(seed: Any) -> bool:
    return type(seed) is int and 0 <= seed < 2**63


def _is_pair(pair: Any) -> bool:
    good = isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str)
    return (
        bool(good)
        and isinstance(pair[1], int | float)
        and not isinstance(pair[1], bool)
        and -2 <= pair[1] <= 2
    )

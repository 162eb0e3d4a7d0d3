"""What the handlers of all tabs share: how an error becomes a message, how a picture is shown."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from urllib.parse import quote

import gradio as gr
from gradio.utils import get_upload_folder

from studio.datasets.thumbnails import thumbnail
from studio.page.forms import in_words
from studio.page.scripts import script
from studio.page.templates import render
from training.errors import StudioError
from training.storage.disk_errors import advice
from training.storage.paths import read_regular, write_whole
from training.system import file_system

P = ParamSpec("P")
R = TypeVar("R")
# Of HTML that page.css styles
PLAIN: dict[str, Any] = {"apply_default_css": False, "js_on_load": None}
# Of an event: only the page itself may call it
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# And no spinner over what it changes
QUIET: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
# Of what is picked in a list: gradio 6.31 passes over a second pick while the first is answered, or
# sends it with the place of the first. So each is sent at once, and they are answered in turn.
PICKED: dict[str, Any] = {**QUIET, "trigger_mode": "multiple", "concurrency_limit": 1}
# Of files that are dropped, the same
BROUGHT: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple", "concurrency_limit": 1}
# Of a field whose last value counts
LAST: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
TO_TRAINING = script("open_train")
LIGHTEN = script("report_lighten")  # see page.js


def shows_errors(handler: Callable[P, R]) -> Callable[P, R]:
    """A handler whose StudioError becomes a message on the page instead of a traceback."""

    @functools.wraps(handler)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with _errors_on_the_page():
            return handler(*args, **kwargs)

    return wrapped


def shows_errors_while_streaming(handler: Callable[P, Iterator[R]]) -> Callable[P, Iterator[R]]:
    """The same for a handler that answers again and again while it works."""

    @functools.wraps(handler)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        with _errors_on_the_page():
            yield from handler(*args, **kwargs)

    return wrapped


@contextlib.contextmanager
def _errors_on_the_page() -> Iterator[None]:
    try:
        yield
    except StudioError as error:
        raise gr.Error(
            in_html(in_words(str(error))),
            duration=20,
            title="That did not work",
            print_exception=False,
        ) from None
    # a full or failing disk, wherever it shows; paths of this machine are nobody's business
    except OSError as error:
        raise gr.Error(
            in_html(of_the_disk(error)),
            duration=20,
            title="That did not work",
            print_exception=False,
        ) from error


def of_the_disk(error: OSError) -> str:
    what = error.strerror or type(error).__name__
    return (
        f"The disk, or a file on it, could not be used ({what}). "
        f"{advice(error, 'use another disk')} Then try again."
    )


def in_html(text: str) -> str:
    """Text for a message on the page, which would take it for HTML."""
    return render("lines", lines=text.split("\n"))


def shown(picture: Path, side: int) -> str:
    """Where the page may fetch a copy of a picture, at most side px wide and high: files of the
    workspace are never served themselves.
    """
    return str(thumbnail(picture, side=side, into=Path(get_upload_folder()) / "shown"))


def address(picture: Path, side: int) -> str:
    """The same as an address for an <img>."""
    return f"gradio_api/file={quote(shown(picture, side))}"


def offered(file: Path, name: str = "") -> str:
    """Where the page may fetch a file of the workspace as it is, for a download, under this name or
    its own: a copy, made once for every state of the file.
    """
    stat, name = file.stat(), name or file.name
    folder = (
        Path(get_upload_folder())
        / "offered"
        / hashlib.sha256(f"{file}|{stat.st_mtime_ns}|{stat.st_size}".encode()).hexdigest()[:32]
    )
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        half = shutil.copyfile(file, folder / f"{name}.half")
        file_system.replace(half, folder / name)
    return str(folder / name)


def made(name: str, content: bytes) -> str:
    """The same for a file that lies nowhere yet: its content under that name."""
    folder = Path(get_upload_folder()) / "offered" / hashlib.sha256(content).hexdigest()[:32]
    write_whole(folder / name, content)
    return str(folder / name)


def framed(page: Path) -> str:
    """A style report in a frame of its own, which runs no scripts and asks for nothing; "" where
    there is none.
    """
    try:  # a damaged byte costs a letter, not the tab
        report = read_regular(page).decode("utf-8", errors="replace")
    except OSError:
        return ""
    return render("report_frame", page=report)


def offered_address(file: Path) -> str:
    """The same as an address for an <img>."""
    return f"gradio_api/file={quote(offered(file))}"

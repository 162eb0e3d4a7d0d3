"""The process that draws images, as the page uses it: started when first asked, shared by all open
pages, ended when nobody has asked for a while and with the page. Knows no torch and no gradio.

A training goes first. On a CPU the process then has a low priority; on a GPU, whose memory the
training needs, it ends, and images are refused until the training has.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO, Any, cast

from studio.drawing import images
from studio.drawing.request import DrawRequest
from studio.library import library
from studio.processes import process as jobs
from studio.processes.job import device_of, usual_device
from training import __version__
from training.errors import BusyError, StudioError
from training.storage.paths import Workspace
from training.system import processes

IDLE = 600.0  # seconds without a request after which the base is let go
LOOK = 2.0  # seconds between two looks at what trains
MOST_WAITING = 16  # images of all pages together
COMMAND = (sys.executable, "-m", "studio.drawing.worker")


@dataclass(frozen=True)
class Progress:
    """How far an image is. of: steps, 0 while the base is loaded or others are first."""

    step: int
    of: int


@dataclass
class _Waiting:
    """An image that a page waits for."""

    who: str
    answers: SimpleQueue[dict[str, Any]] = field(default_factory=SimpleQueue)


class _Worker:
    """The living process."""

    def __init__(self, yields: bool) -> None:
        self.yields = yields  # it has a low priority, which cannot be taken back
        self.child = subprocess.Popen(
            [*COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=jobs.environment(),
            **processes.own_group(),
        )

    def alive(self) -> bool:
        return self.child.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        """Raises OSError when the process is gone."""
        given = cast(IO[str], self.child.stdin)
        given.write(json.dumps(message) + "\n")
        given.flush()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What it says, until it ends."""
        with contextlib.suppress(ValueError, OSError):
            for line in cast(IO[str], self.child.stdout):
                yield json.loads(line)

    def end(self) -> None:
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            with contextlib.suppress(OSError):
                cast(IO[str], pipe).close()


class Drawer:
    """Draws the images of one workspace."""

    def __init__(self, workspace: Workspace, device: str = "") -> None:
        self.workspace, self.device = workspace, device or usual_device()
        self._worker: _Worker | None = None
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count(1)
        self._turn = threading.RLock()
        self._asked = 0.0
        atexit.register(self.close)

    def id(self, request: DrawRequest) -> str:
        """The id an image would have. Raises StudioError for a style that is not there."""
        files = [Path(request.base)]
        if request.style:
            files.append(library.style(self.workspace, request.style).path)
        return request.id(__version__, *map(_state, files))

    def draw(self, request: DrawRequest, who: str) -> Iterator[Progress | str]:
        """How far an image is, and its id at the end; ends without one when `who`, a page, has
        asked for another image meanwhile. Raises StudioError.
        """
        request = request.checked()
        id = self.id(request)
        self.drop(who)
        if images.place(self.workspace, id).is_file():
            images.write(self.workspace, id, request)
            yield id
            return
        number, waiting = self._ask(request, id, who)
        yield Progress(0, 0)
        try:
            while True:
                answer = self._next(waiting)
                if "error" in answer:
                    raise StudioError(answer["error"])
                if "dropped" in answer:
                    return
                if "done" in answer:
                    images.write(self.workspace, id, request)
                    images.tidy(self.workspace)
                    yield id
                    return
                yield Progress(answer["step"], answer["of"])
        finally:
            self._forget(number)

    def drop(self, who: str) -> None:
        """Let go of what a page still waits for."""
        with self._turn:
            for number, waiting in list(self._waiting.items()):
                if waiting.who == who:
                    waiting.answers.put({"dropped": True})
                    self._forget(number)

    def close(self) -> None:
        """End the process."""
        with self._turn:
            if self._worker is not None:
                self._worker.end()
                self._worker = None

    def _ask(self, request: DrawRequest, id: str, who: str) -> tuple[int, _Waiting]:
        out = images.place(self.workspace, id)
        begun = {
            name: str(images.source(self.workspace, of)) if of else ""
            for name, of in (("source", request.source), ("mask", request.mask))
        }
        style = library.style(self.workspace, request.style).path if request.style else ""
        with self._turn:
            if len(self._waiting) >= MOST_WAITING:
                raise BusyError("Too many images are being drawn. Wait for some of them.")
            yields = self._training_goes_first()
            worker = self._ready(yields)
            number, waiting = next(self._numbers), _Waiting(who)
            self._waiting[number] = waiting
            message = {"id": number, "request": json.loads(request.to_json()), "yields": yields}
            try:
                worker.send(message | begun | {"style": str(style), "out": str(out)})
            except OSError:
                waiting.answers.put({"gone": worker.child.poll()})
            self._asked = time.monotonic()
        return number, waiting

    def _training_goes_first(self) -> bool:
        """Whether a training goes on where images are drawn. Raises BusyError where it needs the
        device's memory for itself.
        """
        busy = training_on(self.workspace, self.device)
        if busy and self.device != "cpu":
            self.close()
            raise BusyError(
                f"“{busy}” is being trained on this graphics card, which it needs for itself. "
                "Pause it in Train, or wait until it is done."
            )
        return bool(busy)

    def _ready(self, yields: bool) -> _Worker:
        """The process, begun if there is none; one of a low priority is not used longer than a
        training goes on.
        """
        worker = self._worker
        if worker is not None and worker.yields and not yields and not self._waiting:
            worker.end()
        if worker is None or not worker.alive():
            worker = self._worker = _Worker(yields)
            threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
            threading.Thread(target=self._look_after, args=(worker,), daemon=True).start()
        worker.yields = worker.yields or yields
        return worker

    def _listen(self, worker: _Worker) -> None:
        """Pass on what the process says."""
        for answer in worker.lines():
            with self._turn:
                if (waiting := self._waiting.get(answer.get("id", 0))) is not None:
                    waiting.answers.put(answer)
        code = worker.child.wait()
        with self._turn:
            if self._worker in (worker, None):
                self._worker = None
                for waiting in self._waiting.values():
                    waiting.answers.put({"gone": code})

    def _look_after(self, worker: _Worker) -> None:
        """End a process that nobody uses, or whose memory a training needs."""
        while worker.alive():
            time.sleep(LOOK)
            with self._turn:
                idle = not self._waiting and time.monotonic() - self._asked > IDLE
                goes = self.device != "cpu" and training_on(self.workspace, self.device)
                if idle or goes:
                    worker.end()

    def _next(self, waiting: _Waiting) -> dict[str, Any]:
        """What the process says next of an image. Raises StudioError when it is gone."""
        while True:
            with contextlib.suppress(Empty):
                answer = waiting.answers.get(timeout=LOOK)
                if "gone" not in answer:
                    return answer
                raise StudioError(
                    f"The drawing process has ended ({processes.ending(answer['gone'] or 0)}). "
                    "Generate again; if it ends again, close other programs first."
                )

    def _forget(self, number: int) -> None:
        """Nobody waits for this image any more: one that is being drawn is given up."""
        with self._turn:
            if self._waiting.pop(number, None) is not None and self._worker is not None:
                with contextlib.suppress(OSError):
                    self._worker.send({"drop": number})


def training_on(workspace: Workspace, device: str) -> str:
    """The name of a run of the workspace that trains on a device, "" where none does."""
    root: Path = workspace.runs()
    for run in root.glob("*") if root.is_dir() else ():
        config = jobs.earlier(run) if jobs.is_alive(run) else None
        if config is not None and device_of(config) == _numbered(device):
            return run.name
    return ""


def _state(file: Path) -> str:
    """What changes with a file, "" where there is none."""
    try:
        stat = file.stat()
    except (OSError, ValueError):
        return ""
    return f"{stat.st_mtime_ns} {stat.st_size}"


def _numbered(device: str) -> str:
    """A device as the queue calls it."""
    return f"{device}:0" if device in ("cuda", "xpu") else device

"""Draws one image after another with a base that stays in memory: `python -m
studio.drawing.worker`, a request a line of JSON on stdin. Loads torch, so a process of its own.

Lines in: {"id": number, "request": record, "style": path or "", "source": path or "", "mask": path
or "", "out": path, "yields": whether a training goes first}, or {"drop": number}. Lines out:
{"id": number} with {"step": n, "of": m}, {"done": true}, {"dropped": true} or {"error": text}. It
ends, at once, when its input does: with the page that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import psutil

from studio.drawing.request import SHAPES, DrawRequest
from training.data.buckets import finer_buckets, nearest
from training.errors import StudioError
from training.storage.paths import write_whole
from training.style_files.reading import printable

LOW = 10 if sys.platform != "win32" else getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", 0)
LONGEST_LINE = 2**17  # bytes of a request
SPARE = 0.9  # share of the free memory that may be taken


class Dropped(Exception):
    """Nobody waits for this image any more."""


class Inbox:
    """Requests that wait, and the numbers of those that were dropped."""

    def __init__(self) -> None:
        self.waiting: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self.dropped: set[int] = set()

    def follow(self, lines: Any) -> None:
        """Take requests until the input ends, which ends the process."""
        while line := lines.readline(LONGEST_LINE):
            said = json.loads(line)
            if "drop" in said:
                self.dropped.add(said["drop"])
            else:
                self.waiting.put(said)
        os._exit(0)


class Artist:
    """A base in memory and what is drawn with it."""

    def __init__(self, say: Any) -> None:
        from studio.library.generator import Generator

        self._say, self._generator = say, Generator()

    def draw(self, asked: dict[str, Any], inbox: Inbox) -> None:
        """Draw one image into its file. Raises StudioError, Dropped."""
        from training.diffusion.from_picture import start_from
        from training.prompt import Prompt
        from training.runtime import cpu_threads, memory

        request = DrawRequest.from_record(asked["request"])

        def on_progress(step: int, of: int) -> None:
            if asked["id"] in inbox.dropped:
                raise Dropped
            self._say({"id": asked["id"], "step": step, "of": of})

        place = self._generator.place.device
        most = memory.taken(place) + SPARE * memory.free(place)
        with memory.watched(place, most), cpu_threads.following():
            parts = self._generator.load(request.base)
            text, styles = self._styled(request, asked["style"])
            start, (width, height) = None, SHAPES[request.shape]
            bucket = nearest(width, height, finer_buckets(parts.size, parts.multiple))
            if asked["source"]:
                mask = Path(asked["mask"]) if asked["mask"] else None
                start = start_from(
                    Path(asked["source"]),
                    request.change,
                    side=parts.size,
                    multiple=parts.multiple,
                    mask=mask,
                )
            prompt = Prompt(
                text,
                request.negative,
                request.steps,
                request.guidance,
                request.seed,
                bucket.width,
                request.sampler,
                0 if bucket.width == bucket.height else bucket.height,
            )
            (picture,) = self._generator.draw([prompt], [styles], on_progress, start)
        write_whole(Path(asked["out"]), prompt.to_png(picture))

    def _styled(self, request: DrawRequest, style: str) -> tuple[str, list[Any]]:
        """The prompt with the style's trigger word, and the style."""
        from studio.grid_spec import Taken
        from training.style_files.reading import read_style
        from training.style_files.strengths import Weight

        if not style:
            return request.prompt, []
        weight = Weight(request.strength, request.strength)
        taken = Taken(Path(style), weight, read_style(Path(style)))
        return taken.called(request.prompt), self._generator.wear([(taken.path, request.strength)])


def answers() -> TextIO:
    """Where lines go; what libraries print goes elsewhere, so that it breaks no line."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return own


def main() -> None:
    import torch

    out, inbox = answers(), Inbox()

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    _quieten()
    threading.Thread(target=inbox.follow, args=(sys.stdin.buffer,), daemon=True).start()
    artist: Artist | None = None
    while True:
        asked = inbox.waiting.get()
        try:
            if asked["yields"]:
                psutil.Process().nice(LOW)
            if asked["id"] in inbox.dropped:
                raise Dropped
            artist = artist or Artist(say)
            artist.draw(asked, inbox)
            say({"id": asked["id"], "done": True})
        except Dropped:
            say({"id": asked["id"], "dropped": True})
        except torch.OutOfMemoryError:
            words = "There is not enough free memory for this base model. Close other programs."
            say({"id": asked["id"], "error": words})
        except (StudioError, ValueError, OSError) as error:
            say({"id": asked["id"], "error": printable(str(error), 2000)})
        inbox.dropped.discard(asked["id"])


def _quieten() -> None:
    """The libraries' bars say nothing here; only their parts that are loaded anyway."""
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TQDM_DISABLE"] = "1"


if __name__ == "__main__":
    main()

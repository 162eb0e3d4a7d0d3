"""Pictures decoded in a process of its own, within limits of time, memory and open files. Knows
no torch.

`decode` and `examine` ask a warm worker (`python -m training.data.image_worker`) over pipes; a
worker that crashes or takes too long is ended and its picture refused. A worker ends when its input
does, and so with whoever started it.

A request is a line of JSON and the file's bytes; an answer a line of JSON and, where asked for,
rows of RGB.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from PIL import Image, ImageCms

from training.data import image_decoding, image_formats
from training.errors import DataError
from training.system import limits, processes

MOST_WORKERS = max(2, min(4, os.cpu_count() or 1))  # a picture that takes long holds up no other
SMALL_FILE = 2**20  # bytes; what is larger may cost more
SECONDS = 4.0  # of processor time for a small file; with what the asking process does, under 5
SECONDS_A_MIB = 0.5  # more for every MiB above
MOST_SECONDS = 120.0
WAITING = 15  # times the processor time may pass on the clock: other work may hold the processors
MEMORY = 900 * 2**20  # bytes for a small file, beside the 100 MiB of an idle worker
MEMORY_OF_LARGE = 2 * 2**30  # bytes for a larger file, and four times its own size
PLUGINS = (
    "JpegImagePlugin",
    "MpoImagePlugin",
    "PngImagePlugin",
    "TiffImagePlugin",
    "WebPImagePlugin",
)
LONGEST_LINE = 2**16  # bytes of JSON
LOOK_EVERY = 0.1  # seconds between looks at a worker at work
ROOT = Path(__file__).resolve().parents[2]
ADVICE = "Export it again with another program, or remove it."


def decode(content: bytes, background: tuple[int, int, int]) -> Image.Image:
    """Return the picture as the trainer sees it: RGB, upright, sRGB, flattened on the background.

    Raises DataError without the file's name.
    """
    return _picture(content, {"background": background, "pixels": True})


def decode_alpha(content: bytes) -> Image.Image:
    """Return how opaque the picture is, in grey, upright: white where it has no transparency.

    Raises DataError without the file's name.
    """
    return _picture(content, {"alpha": True, "pixels": True}).getchannel("R")


def decode_as_stored(content: bytes, largest: int) -> Image.Image:
    """Return the picture's own pixels in RGB: not turned, no profile applied. largest: px in all.

    Raises DataError without the file's name.
    """
    return _picture(content, {"as_stored": True, "largest": largest, "pixels": True})


def examine(content: bytes) -> tuple[tuple[int, int], tuple[str, ...]]:
    """Decode the whole picture; return its upright size in px and remarks.

    Raises DataError without the file's name.
    """
    with _lent() as worker:
        answer = worker.ask(content, {"background": (255, 255, 255), "pixels": False})
    return (answer["width"], answer["height"]), tuple(answer["remarks"])


def _picture(content: bytes, wanted: dict[str, Any]) -> Image.Image:
    with _lent() as worker:
        answer = worker.ask(content, wanted)
        picture = Image.new("RGB", (answer["width"], answer["height"]))
        for top, rows in worker.rows(picture.size):
            picture.paste(
                Image.frombytes("RGB", (picture.width, len(rows) // (3 * picture.width)), rows),
                (0, top),
            )
        worker.done()
    return picture


# --- the asking side ---


class _Worker:
    """A process that decodes one picture after another."""

    def __init__(self) -> None:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # -P: a folder of somebody's pictures may hold a file that is called like a module
        command = [sys.executable, "-P", "-m", "training.data.image_worker"]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)},
                pipesize=2**20,
                **processes.own_group(),  # Ctrl-C in a terminal ends the training, which ends this
            )
        except OSError as error:
            words = image_decoding.reason(error)
            raise DataError(
                f"cannot be decoded now: no process could be started for it ({words}). Try again."
            ) from None
        self.has_answered = False
        self.limit: str = ""  # what ended the process: time, memory or nothing of ours
        self.seconds, self.memory = SECONDS, MEMORY  # for the picture it is at
        self._finished = threading.Event()

    def ask(self, content: bytes, wanted: dict[str, Any]) -> dict[str, Any]:
        """Send a picture and return the head of the answer.

        Raises DataError for what cannot be decoded within the limits.
        """
        self._finished = threading.Event()
        self.seconds, self.memory = _limits(len(content))
        head = wanted | {"bytes": len(content), "seconds": self.seconds, "memory": self.memory}
        threading.Thread(target=self._watch, args=(self._finished,), daemon=True).start()
        try:
            self._input.write(json.dumps(head).encode() + b"\n")
            self._input.write(content)
            self._input.flush()
            answer = json.loads(self._output.readline(LONGEST_LINE))
        except (OSError, ValueError):  # the process is gone, or says what is no JSON
            raise self._lost() from None
        self.has_answered = True
        if "error" in answer:
            self.done()
            raise DataError(image_decoding.printable(str(answer["error"])))
        width, height = answer["width"], answer["height"]
        if min(width, height) < 1 or width * height > image_decoding.LARGEST_PICTURE:
            raise self._lost()
        if not wanted["pixels"]:
            self.done()
        return answer

    def rows(self, size: tuple[int, int]) -> Iterator[tuple[int, bytes]]:
        """Yield the first row's number and the bytes of every strip."""
        width, height = size
        at_once = max(1, image_decoding.STRIP // width)
        for top in range(0, height, at_once):
            wanted = min(at_once, height - top) * width * 3
            rows = self._output.read(wanted)
            if len(rows) < wanted:
                raise self._lost()
            yield top, rows

    def done(self) -> None:
        self._finished.set()

    def alive(self) -> bool:
        return self._finished.is_set() and not self.limit and self.process.poll() is None

    def close(self) -> None:
        """End the process, at once: it holds nothing that would be lost."""
        self.done()
        self.process.kill()
        for pipe in (self._output, self._input):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()

    @property
    def _input(self) -> BinaryIO:
        return self.process.stdin  # type: ignore[return-value]  # Popen was given a pipe

    @property
    def _output(self) -> BinaryIO:
        return self.process.stdout  # type: ignore[return-value]  # Popen was given a pipe

    def _watch(self, finished: threading.Event) -> None:
        """End a process that passes its limits, where the system has none of its own or they do not
        count what it waits for.
        """
        began = time.monotonic()
        try:
            process = psutil.Process(self.process.pid)
            before = sum(process.cpu_times()[:2])
            while not finished.wait(LOOK_EVERY):
                used = sum(process.cpu_times()[:2]) - before
                if used > self.seconds or time.monotonic() - began > self.seconds * WAITING:
                    self.limit = "time"
                elif process.memory_info().rss > self.memory + 2**27:
                    self.limit = "memory"
                if self.limit:
                    self.process.kill()
                    return
        except psutil.Error:
            return  # it is gone: whoever reads its answer knows

    def _lost(self) -> DataError:
        """Return the words for a picture whose worker is gone, and make sure that it is."""
        self.done()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)
        self.process.kill()
        code = self.process.wait()
        if self.limit == "memory":
            return _too_much_memory(self.memory)
        if self.limit == "time" or -code in (
            getattr(signal, "SIGPROF", None),
            getattr(signal, "SIGALRM", None),
        ):
            return DataError(
                f"takes more than {self.seconds:.0f} seconds to decode, as no ordinary "
                f"picture of its size does. {ADVICE}"
            )
        if -code == getattr(signal, "SIGKILL", None):  # not ours: a system short of memory kills
            return DataError(
                "ends the decoder, or the system ended that because memory was full. Close other "
                "programs and try again. If it is always this picture, export it again with "
                "another program, or remove it."
            )
        if code == 1 and not self.has_answered:  # as Python ends with a traceback, not a crash
            return DataError(
                "is not decoded: the decoder ended before it had decoded anything (exit code 1). "
                "If it is so with every picture, install the program again."
            )
        return DataError(
            f"ends the decoder (exit code {code}): it is damaged, or made to do so. {ADVICE}"
        )


def _too_much_memory(memory: int) -> DataError:
    return DataError(
        f"needs more than {memory // 2**20:,} MiB of memory to decode. Save it smaller, "
        "or remove it."
    )


def _limits(size: int) -> tuple[float, int]:
    """Return seconds of processor time and bytes of memory for a file of that many bytes."""
    if size <= SMALL_FILE:
        return SECONDS, MEMORY
    return min(SECONDS + SECONDS_A_MIB * size / 2**20, MOST_SECONDS), MEMORY_OF_LARGE + 4 * size


class _Pool:
    """Idle workers, and leave to have one more."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.idle: list[_Worker] = []
        self.leave = threading.BoundedSemaphore(MOST_WORKERS)
        atexit.register(self.close)

    def close(self) -> None:
        while self.process == os.getpid() and self.idle:
            self.idle.pop().close()


_pools: list[_Pool] = []  # the pool of this process, once there is one
_starting = threading.Lock()  # held for no longer than it takes to make a list


def _pool() -> _Pool:
    with _starting:
        if (
            not _pools or _pools[0].process != os.getpid()
        ):  # a fork has its parent's pipes and must not use them
            _pools[:] = [_Pool()]
        return _pools[0]


@contextlib.contextmanager
def _lent() -> Iterator[_Worker]:
    """Lend a worker; it comes back to the others unless it is gone or stopped in the middle of an
    answer.
    """
    pool = _pool()
    with pool.leave:
        worker = None
        while worker is None and pool.idle:
            with contextlib.suppress(IndexError):  # another thread took the last one
                worker = pool.idle.pop()
            if worker is not None and not worker.alive():
                worker.close()
                worker = None
        worker = worker or _Worker()
        try:
            yield worker
        finally:
            if worker.alive():
                pool.idle.append(worker)
            else:
                worker.close()


# --- the worker's side ---


def main() -> None:
    """Answer requests until there are none."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _warm_up()
    limits.confine()
    base = psutil.Process().memory_info().vms if sys.platform != "win32" else 0
    limits.close_files()
    while line := requests.readline(LONGEST_LINE):
        request = json.loads(line)
        seconds = request["seconds"]
        limits.limit(seconds, seconds * WAITING, base + request["memory"])
        try:
            _answer(answers, request, requests.read(request["bytes"]))
        except MemoryError:
            _say(answers, {"error": str(_too_much_memory(request["memory"]))})
        limits.limit(0, 0, 0)


def _answer(answers: BinaryIO, request: dict[str, Any], content: bytes) -> None:
    try:
        if "as_stored" in request:
            decoded = image_decoding.decoded_as_stored(content, request["largest"])
        elif "alpha" in request:
            decoded = image_decoding.decoded_alpha(content)
        else:
            decoded = image_decoding.decoded(content, tuple(request["background"]))
    except DataError as error:
        _say(answers, {"error": str(error)})
        return
    first = next(decoded.rows)
    if request["pixels"] is False:
        for _ in decoded.rows:  # what would fail later fails now
            pass
    _say(answers, {"width": decoded.size[0], "height": decoded.size[1], "remarks": decoded.remarks})
    if request["pixels"]:
        answers.write(first)
        for rows in decoded.rows:
            answers.write(rows)
        answers.flush()


def _say(answers: BinaryIO, head: dict[str, Any]) -> None:
    answers.write(json.dumps(head).encode() + b"\n")
    answers.flush()


def _warm_up() -> None:
    """Import now what Pillow imports when it needs it: later no file can be opened."""
    for name in PLUGINS:
        importlib.import_module(f"PIL.{name}")
    image_formats.readable()
    # Sizes are checked before anything is decoded; up to this one Pillow shall not refuse either
    Image.MAX_IMAGE_PIXELS = image_decoding.LARGEST_HALVED
    ImageCms.createProfile("sRGB")


if __name__ == "__main__":
    main()

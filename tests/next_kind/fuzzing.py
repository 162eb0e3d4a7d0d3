"""`python -m tests.next_kind.fuzzing dialects --seconds 3600`: bytes that lead to new code are kept
and changed again, and whatever is raised that is no refusal of ours is a crash.

Coverage is by atheris (libFuzzer) where it is installed, else by Python's own tracing. `--keep
FOLDER` keeps what led to new code.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

CORPUS = Path(__file__).with_name("corpus")
OURS = tuple(str(Path(__file__).resolve().parents[2] / name) for name in ("training", "studio"))
CASES = 1_000_000_000  # more than a run takes


def mutated(
    data: bytes, others: list[bytes], words: tuple[bytes, ...], dice: random.Random
) -> bytes:
    """The bytes, changed in a few places."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 8))):
        place = dice.randrange(len(found) + 1)
        end = min(len(found), place + dice.choice((1, 1, 2, 4, 8, 32)))
        match dice.randrange(8):
            case 0 | 1 if place < len(found):
                found[place] ^= 1 << dice.randrange(8)
            case 2 if place < len(found):
                found[place] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))
            case 3:
                del found[place:end]
            case 4:
                found[place:place] = found[place:end]
            case 5 if words:
                word = dice.choice(words)
                found[place : place + (len(word) if dice.random() < 0.5 else 0)] = word
            case 6:
                other = dice.choice(others)
                start = dice.randrange(len(other) + 1)
                found[place:end] = other[start : start + dice.choice((1, 4, 16, 64))]
            case _:
                digits = [i for i, byte in enumerate(found) if 48 <= byte <= 57]
                if digits:
                    found[dice.choice(digits)] = dice.choice(b'0123456789-.e"[')
    return bytes(found)


class Coverage:
    """Steps from line to line within the project's own files."""

    def __init__(self) -> None:
        self.seen: set[tuple[CodeType, int, int]] = set()
        self._last = 0

    def of(self, act: Callable[[], object]) -> bool:
        """Whether act went where nothing went before."""
        before = len(self.seen)
        sys.settrace(self._call)
        try:
            act()
        finally:
            sys.settrace(None)
        return len(self.seen) > before

    def _call(self, frame: FrameType, kind: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        self._last = 0
        return self._line

    def _line(self, frame: FrameType, kind: str, argument: Any) -> Any:
        if kind == "line":
            self.seen.add((frame.f_code, self._last, frame.f_lineno))
            self._last = frame.f_lineno
        return self._line


class Fuzzer:
    """crashes: what was raised, by where it was raised, with the shortest bytes that do it."""

    def __init__(self, name: str, seed: int) -> None:
        from tests.next_kind.fuzz_targets import MOST, TARGETS

        self.name, self.target, self.most = name, TARGETS[name], MOST
        self.dice = random.Random(f"{name} {seed}")
        kept = sorted((CORPUS / name.replace(" ", "-")).glob("*"))
        self.corpus = [*self.target.seeds(), *(path.read_bytes() for path in kept)]
        self.new: list[bytes] = []
        self.crashes: dict[str, tuple[bytes, str]] = {}
        self.cases = 0

    def take(self, data: bytes) -> None:
        self.cases += 1
        try:
            self.target.take(data)
        except self.target.refusals:
            pass
        except Exception as error:  # what is looked for
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if frame.filename.startswith(OURS)] or frames
            where = f"{type(error).__name__} at {Path(own[-1].filename).name}:{own[-1].lineno}"
            before = self.crashes.get(where)
            if before is None or len(data) < len(before[0]):
                self.crashes[where] = (data, traceback.format_exc())

    def run(self, *, cases: int, seconds: float, guided: bool) -> None:
        coverage, end = Coverage(), time.monotonic() + seconds
        for data in self.corpus:
            coverage.of(lambda data=data: self.take(data)) if guided else self.take(data)
        while self.cases < cases and time.monotonic() < end:
            data = mutated(
                self.dice.choice(self.corpus), self.corpus, self.target.words, self.dice
            )[: 4 * self.most]
            if not guided:
                self.take(data)
            elif coverage.of(lambda data=data: self.take(data)) and len(data) <= self.most:
                self.corpus.append(data)
                self.new.append(data)


def with_atheris(fuzzer: Fuzzer, seconds: float, keep: Path) -> None:
    """Let libFuzzer choose the bytes; its process ends with its time."""
    import atheris

    keep.mkdir(parents=True, exist_ok=True)
    for data in fuzzer.corpus:
        (keep / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    words = keep.with_suffix(".words")
    lines = ["".join(f"\\x{byte:02x}" for byte in word) for word in fuzzer.target.words]
    words.write_text("".join(f'"{line}"\n' for line in lines))
    atheris.Setup(
        [
            "fuzzing",
            str(keep),
            *([f"-dict={words}"] if lines else []),
            f"-max_len={fuzzer.most}",
            f"-max_total_time={int(seconds)}",
            "-timeout=60",
            "-rss_limit_mb=4096",
        ],
        fuzzer.take,
    )
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    has_atheris = arguments.keep and importlib.util.find_spec("atheris") is not None
    if has_atheris:
        import atheris

        with atheris.instrument_imports(include=["training", "studio"]):
            fuzzer = Fuzzer(arguments.target, arguments.seed)
        import atexit

        atexit.register(lambda: report(fuzzer))
        with_atheris(fuzzer, arguments.seconds, arguments.keep)
        return 0
    fuzzer = Fuzzer(arguments.target, arguments.seed)
    fuzzer.run(cases=CASES, seconds=arguments.seconds, guided=True)
    for data in fuzzer.new if arguments.keep else ():
        arguments.keep.mkdir(parents=True, exist_ok=True)
        (arguments.keep / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    return report(fuzzer)


def report(fuzzer: Fuzzer) -> int:
    for where, (data, trace) in fuzzer.crashes.items():
        print(f"{where}: {data[:600]!r}\n{trace}", file=sys.stderr)
    found = {"target": fuzzer.name, "cases": fuzzer.cases, "new": len(fuzzer.new)}
    print(json.dumps({**found, "crashes": len(fuzzer.crashes)}), flush=True)
    return 1 if fuzzer.crashes else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.next_kind.failing_io captions queue training run`: every write, fsync, rename,
open and other change of a file fails once, in every way, at every place of every operation.

What must hold each time: nothing that was there is lost, nothing is torn, what is refused is
refused in words, and afterwards the same works. `--every 5` takes each fifth place only.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.next_kind import interposed
from tests.next_kind.operations import GROUPS, Content, Operation
from training.errors import StudioError


@dataclass(frozen=True)
class Fault:
    error: int
    lasts: bool = False
    is_short: bool = False


FAULTS = {
    "ENOSPC": Fault(errno.ENOSPC),
    "ENOSPC from then on": Fault(errno.ENOSPC, lasts=True),
    "EIO": Fault(errno.EIO),
    "EIO from then on": Fault(errno.EIO, lasts=True),
    "EINTR": Fault(errno.EINTR),
    "short": Fault(0, is_short=True),
}


class Trial:
    """One operation in a folder of its own, tried again and again."""

    def __init__(self, root: Path, name: str, operation: Operation) -> None:
        self.name, self.operation = name, operation
        self.root = root / name.replace(" ", "-")
        self.place, self.fresh = self.root / "w", self.root / "fresh"
        self.root.mkdir(parents=True)
        operation.begin(self.place)
        shutil.copytree(self.place, self.fresh, symlinks=True)
        self.before = operation.content(self.place)
        with interposed.Calls(self.place) as calls:
            operation.act(self.place)
            self.calls = calls.seen  # when nothing fails
        self.after = operation.content(self.place)

    def again(self) -> None:
        shutil.rmtree(self.place)
        shutil.copytree(self.fresh, self.place, symlinks=True)

    def under(self, which: int, fault: Fault) -> tuple[str, str]:
        """Try it with one fault: the call that failed ("": there are fewer) and what is wrong
        then, "" if nothing.
        """
        self.again()
        refused, trace = None, ""
        with interposed.Calls(self.place) as calls:
            calls.fail(which, fault.error, lasts=fault.lasts, is_short=fault.is_short)
            try:
                self.operation.act(self.place)
            except (StudioError, *self.operation.refusals) as error:
                refused = error
            except Exception:  # a defect, which is what is looked for
                trace = traceback.format_exc()
            failed = calls.failed
        if trace:
            return failed, trace
        return failed, self._wrong(refused is not None)

    def _wrong(self, is_refused: bool) -> str:
        try:
            now = self.operation.content(self.place)
            if not (is_refused or self.operation.is_free) and now != self.after:
                return f"it said nothing and left {differing(now, self.after)}"
            if torn := self._torn(now):
                return f"torn or lost: {torn}"
            if is_refused:
                self.operation.recover(self.place)
                now = self.operation.content(self.place)
                if lost := [name for name in self.before if name not in now]:
                    return f"lost: {lost}"
                if now != self.after:
                    self.operation.act(self.place)
                if (now := self.operation.content(self.place)) != self.after:
                    return f"tried again, it left {differing(now, self.after)}"
        except Exception:  # the same
            return traceback.format_exc()
        return ""

    def _torn(self, now: Content) -> list[str]:
        """Names whose content is neither as before nor as it shall be."""
        names = {*now, *self.before, *self.after}
        missing = object()
        return [
            name
            for name in sorted(names)
            if now.get(name, missing)
            not in (self.before.get(name, missing), self.after.get(name, missing))
        ]


def differing(now: Content, wanted: Content) -> str:
    names = sorted({*now, *wanted})
    found = [name for name in names if now.get(name) != wanted.get(name)]
    return ", ".join(f"{name}: {str(now.get(name))[:60]}" for name in found)


def tried(
    root: Path, name: str, operation: Operation, every: int
) -> tuple[Counter[str], list[str]]:
    """How many calls of each name failed, and what went wrong."""
    trial, count, wrong = Trial(root, name, operation), Counter[str](), []
    offsets = {fault: place % every for place, fault in enumerate(FAULTS)}
    for label, fault in FAULTS.items():
        for which in range(1 + offsets[label], trial.calls + 1, every):
            failed, complaint = trial.under(which, fault)
            if failed:
                count[failed] += 1
            if complaint:
                wrong.append(f"{name}, {label} at call {which} ({failed}): {complaint}")
    return count, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="+", choices=GROUPS)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--only", default="", help="name of one operation")
    arguments = parser.parse_args()
    total, complaints = Counter[str](), list[str]()
    with tempfile.TemporaryDirectory(dir=interposed.memory_folder()) as folder:
        root = Path(folder).resolve()
        os.environ["STYLE_STUDIO_CACHE"] = str(root / "cache")
        for group in arguments.groups:
            for name, operation in GROUPS[group].items():
                if arguments.only in ("", name):
                    count, wrong = tried(root / group, name, operation, arguments.every)
                    total += count
                    complaints += wrong
                    print(
                        f"{group}, {name}: {count.total()} faults, {len(wrong)} wrong", flush=True
                    )
    print("\n".join(complaints), file=sys.stderr)
    print(json.dumps({"faults": dict(total), "wrong": len(complaints)}))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())

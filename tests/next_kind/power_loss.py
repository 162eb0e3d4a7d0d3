"""`python -m tests.next_kind.power_loss captions queue training run`: operations are recorded, and
every state is made that a power cut may leave of them.

A write that no fsync followed may be missing, cut at a sector or there before earlier ones; a name
that no fsync of its folder followed may be missing, in the order of a journal or in any. Each state
must open with all that was there before or will be there after, to the bit, and go on from it; what
was reported as done must be there. `--states 1000` of each operation, drawn by `--seed`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from tests.next_kind import interposed
from tests.next_kind.failing_io import Trial, differing
from tests.next_kind.interposed import Call
from tests.next_kind.operations import GROUPS

SECTOR = 512  # bytes that a disk writes whole


@dataclass(eq=False)
class Node:
    """A file or a folder. base: bytes that were durable at the beginning; changes: since then, as
    (place, bytes) of a write or (size, None) of a truncation; synced: how many are durable.
    """

    is_folder: bool
    base: bytes = b""
    changes: list[tuple[int, bytes | None]] = field(default_factory=list)
    synced: int = 0
    names: dict[str, Node] = field(default_factory=dict)

    def content(self, dice: random.Random) -> bytes:
        """What a power cut leaves of a file."""
        kept = list(self.changes[: self.synced])
        chance = dice.choice((0.0, 0.5, 0.9, 1.0))
        for place, data in self.changes[self.synced :]:
            if dice.random() < chance:
                if data is not None and dice.random() < 0.2:
                    data = data[: dice.randrange(len(data) + 1) // SECTOR * SECTOR]
                kept.append((place, data))
        content = bytearray(self.base)
        for place, data in kept:
            if data is None:
                del content[place:]
            content.extend(bytes(max(0, place + len(data or b"") - len(content))))
            if data:
                content[place : place + len(data)] = data
        return bytes(content)


@dataclass
class Naming:
    """A change of names: node appears in a folder under a name (None: nothing does), and vanishes
    from where it was.
    """

    target: tuple[Node, str]
    node: Node | None
    source: tuple[Node, str] | None = None
    is_durable: bool = False

    def folders(self) -> list[Node]:
        return [self.target[0], *([self.source[0]] if self.source else [])]


class Disk:
    """What recorded calls did, and what a power cut may leave of it."""

    def __init__(self, folder: Path) -> None:
        """Begin with what is in a folder, all of it durable."""
        self.folder = folder
        self.root = _read(folder)
        self.before = self._tree(self.root)
        self.namings: list[Naming] = []
        self._open: dict[int, Node] = {}

    def _tree(self, folder: Node) -> dict[Node, dict[str, Node]]:
        found = {folder: dict(folder.names)}
        for node in folder.names.values():
            if node.is_folder:
                found |= self._tree(node)
        return found

    def _at(self, path: str) -> tuple[Node, str]:
        """The folder of a path, and the name in it."""
        *above, name = Path(path).relative_to(self.folder).parts or ("",)
        node = self.root
        for part in above:
            node = node.names[part]
        return node, name

    def _named(self, naming: Naming) -> None:
        self.namings.append(naming)
        _name(naming, {node: node.names for node in naming.folders()})

    def take(self, call: Call) -> None:
        """Follow one call."""
        if call.kind == "open":
            self._opened(call)
        elif call.kind == "write":
            self._open[call.fd].changes.append((call.a, call.data))
        elif call.kind == "truncate":
            self._open[call.fd].changes.append((call.a, None))
        elif call.kind == "sync":
            self._synced(self._open[call.fd])
        elif call.kind == "mkdir":
            self._named(Naming(self._at(call.path), Node(is_folder=True)))
        elif call.kind == "unlink":
            self._named(Naming(self._at(call.path), None))
        elif call.kind == "rename":
            folder, name = self._at(call.path)
            self._named(Naming(self._at(call.target), folder.names[name], (folder, name)))

    def _opened(self, call: Call) -> None:
        folder, name = self._at(call.path)
        if call.b or not name:  # a file without a name, or the folder itself
            self._open[call.fd] = Node(is_folder=False) if call.b else self.root
            return
        if name not in folder.names:
            self._named(Naming((folder, name), Node(is_folder=False)))
        node = self._open[call.fd] = folder.names[name]
        if call.a & os.O_TRUNC:
            node.changes.append((0, None))

    def _synced(self, node: Node) -> None:
        node.synced = len(node.changes)
        for naming in self.namings:
            naming.is_durable = naming.is_durable or node in naming.folders()

    def after_power_cut(self, dice: random.Random, place: Path) -> None:
        """Write one of the states that may be left."""
        durable = [i for i, naming in enumerate(self.namings) if naming.is_durable]
        if dice.random() < 0.5:  # a journal keeps their order
            end = dice.randint(max(durable, default=-1) + 1, len(self.namings))
            kept = self.namings[:end]
        else:
            kept = [n for n in self.namings if n.is_durable or dice.random() < 0.5]
        names: dict[Node, dict[str, Node]] = {
            folder: dict(found) for folder, found in self.before.items()
        }
        for naming in kept:
            _name(naming, names)
        _write(self.root, place, names, dice)


def _name(naming: Naming, names: dict[Node, dict[str, Node]]) -> None:
    """Carry a change of names out, where it can be: a folder with something in it stays."""
    folder, name = naming.target
    there = names.setdefault(folder, {})
    if name in there and there[name].is_folder and names.get(there[name]):
        return
    if naming.source:
        from_names = names.setdefault(naming.source[0], {})
        if from_names.get(naming.source[1]) is naming.node:
            del from_names[naming.source[1]]
    if naming.node is None:
        there.pop(name, None)
    else:
        there[name] = naming.node


def _read(path: Path) -> Node:
    if not path.is_dir():
        return Node(is_folder=False, base=path.read_bytes())
    names = {child.name: _read(child) for child in sorted(path.iterdir())}
    return Node(is_folder=True, names=names)


def _write(node: Node, path: Path, names: dict[Node, dict[str, Node]], dice: random.Random) -> None:
    if not node.is_folder:
        path.write_bytes(node.content(dice))
        return
    path.mkdir()
    for name, child in names.get(node, {}).items():
        _write(child, path / name, names, dice)


class Cuts(Trial):
    """One operation, recorded, and tried from every state a power cut leaves."""

    def recorded(self) -> list[Call]:
        self.again()
        with interposed.Calls(self.place, self.root / "record") as calls:
            self.operation.act(self.place)
        return calls.recorded()

    def complaint(self, calls: list[Call], length: int, dice: random.Random) -> str:
        """What is wrong with one state after so many calls, "" if nothing."""
        disk = Disk(self.place)
        self._put_fresh()
        disk = Disk(self.place)
        for call in calls[:length]:
            disk.take(call)
        shutil.rmtree(self.place)
        disk.after_power_cut(dice, self.place)
        try:
            return self._wrong_after_cut(is_done=length == len(calls))
        except Exception:  # a defect, which is what is looked for
            return traceback.format_exc()

    def _put_fresh(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.fresh, self.place, symlinks=True)

    def _wrong_after_cut(self, *, is_done: bool) -> str:
        now = self.operation.content(self.place)
        if is_done and not self.operation.is_free and now != self.after:
            return f"it was done and left {differing(now, self.after)}"
        if torn := self._torn(now):
            return f"torn or lost: {torn}: {differing(now, self.after)}"
        if now != self.after:
            self.operation.recover(self.place)
            if self.operation.content(self.place) != self.after:
                self.operation.act(self.place)
            now = self.operation.content(self.place)
        return "" if now == self.after else f"tried again, it left {differing(now, self.after)}"


def cut(root: Path, name: str, cuts: Cuts, states: int, seed: int) -> list[str]:
    """What is wrong with states of one operation; every tenth is of the operation done."""
    calls, wrong = cuts.recorded(), []
    for number in range(states):
        dice = random.Random(f"{seed} {name} {number}")
        length = len(calls) if number % 10 == 0 else dice.randint(0, len(calls))
        if complaint := cuts.complaint(calls, length, dice):
            near = f"{calls[length - 1].kind} {calls[length - 1].path}" if length else ""
            wrong.append(f"{name}, state {number} ({length} calls, {near}): {complaint}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("groups", nargs="+", choices=GROUPS)
    parser.add_argument("--states", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="name of one operation")
    arguments = parser.parse_args()
    total, complaints = 0, list[str]()
    with tempfile.TemporaryDirectory(dir=interposed.memory_folder()) as folder:
        root = Path(folder).resolve()
        os.environ["STYLE_STUDIO_CACHE"] = str(root / "cache")
        for group in arguments.groups:
            for name, operation in GROUPS[group].items():
                if arguments.only not in ("", name):
                    continue
                cuts = Cuts(root / group, name, operation)
                wrong = cut(root, name, cuts, arguments.states, arguments.seed)
                total += arguments.states
                complaints += wrong
                print(f"{group}, {name}: {arguments.states} states, {len(wrong)} wrong")
    print("\n".join(complaints), file=sys.stderr)
    print(json.dumps({"states": total, "wrong": len(complaints)}))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.next_kind.simulation --schedules 100000`: queue, workers and trainings on
a pretended machine, in as many orders as are asked for, each drawn from its number.

Pages add, pause, cancel, move and retry; workers and trainings are killed at any moment, the power
is cut, the clock is set. Never may two trainings learn on one device or in one folder; in the end,
when nothing disturbs any more, every job has come to what was asked of it; nobody ends with a
traceback. `--first N` begins with another number, by which a schedule can be repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import shutil
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from studio.processes import job, process, queue, queue_database, worker
from studio.processes.queue import Queue
from studio.processes.worker import MOST_TRIES
from tests.next_kind import interposed
from tests.next_kind.simulated_machine import Killed, Machine, Process
from training import events
from training.config import loading
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import BusyError, ConfigError, StudioError
from training.storage import run_lock
from training.storage.paths import Workspace

TRAINING, WORKER, PAGE = "training.train_style", "studio.processes.worker", "page"
DISTURBED = 60.0  # seconds of a schedule in which things happen
QUIET = 1500.0  # seconds after which everything has come to its end
LOOK = 4.0  # seconds between two looks of a worker, so that a schedule is short
ACTS = ("pause", "cancel", *("go_on", "retry") * 3, "move", "remove")  # of a page on a job
STARTED = events.Started(0, 1, 1, 1, 1, "cpu", "float32")


@dataclass(eq=False)
class Schedule:
    """One order of events. asked: what the user last wanted of a job, by run; lengths: updates of a
    run; learnt: those that were made; broken: runs that fail for good; deaths: of trainings, by
    run, since their last checkpoint.
    """

    number: int
    space: Workspace
    asked: dict[str, str] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    learning: dict[Process, tuple[str, str]] = field(default_factory=dict)
    begun: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        programs = {TRAINING: self.train, WORKER: self.work, PAGE: self.page}
        self.machine = Machine(self.number, programs)
        self.dice = random.Random(f"actors {self.number}")
        self.devices = ["cpu", "cuda:1"][: self.dice.randint(1, 2)]
        self.most_jobs = self.dice.randint(1, 4)
        self.kills = self.dice.choice((0.0, 0.004, 0.02))  # chance a turn
        self.machine.doom = min(0.3, 10 * self.kills)
        self.may_fail = self.dice.random() < 0.3

    # --- a page ---

    def page(self, command: Sequence[str]) -> int:
        line = Queue(self.space)
        try:
            line.wake()
        except StudioError:
            pass
        while True:
            self.machine.sleep(self.dice.uniform(0.1, 8) if command[1:] else 200.0)
            if self.machine.clock < DISTURBED and command[1:]:
                try:
                    self.click(line)
                except StudioError:
                    pass
            line.shown()

    def click(self, line: Queue) -> None:
        jobs = line.jobs()
        if len(self.lengths) < self.most_jobs and self.dice.random() < 0.6:
            self.add(line)
            return
        if not jobs:
            return
        chosen = self.dice.choice(jobs)
        act = self.dice.choice(ACTS)
        if act in ("pause", "cancel"):
            self.asked[chosen.run] = act
        if act == "move":
            line.move(chosen.id, self.dice.randrange(3))
            return
        getattr(line, act)(chosen.id)
        if act in ("go_on", "retry"):
            self.asked[chosen.run] = "train"
        elif act == "remove":
            self.asked[chosen.run] = "remove"

    def add(self, line: Queue) -> None:
        run = f"r{len(self.lengths)}"
        self.lengths[run] = self.dice.randint(1, 4)
        self.asked[run] = "train"
        settings = {
            "base": {"device": self.dice.choice(self.devices)},
            "save": {"name": run, "folder": str(self.space.runs())},
        }
        line.add(from_mapping(settings))

    # --- a worker ---

    def work(self, command: Sequence[str]) -> int:
        worker.work(Path(command[3]), command[4])
        return 0

    # --- a training ---

    def train(self, command: Sequence[str]) -> int:
        run = Path(command[3]).parent
        me = self.machine.me
        self.begun[run.name] += 1
        self.machine.sleep(self.dice.uniform(0.2, 5))
        if me.is_asked_to_end and self.dice.random() < 0.5:
            return -15  # before it listens
        try:
            with run_lock.held(run):
                return self.learn(run, me)
        except BusyError:
            return 2
        finally:
            self.learning.pop(me, None)

    def learn(self, run: Path, me: Process) -> int:
        config = process.earlier(run)
        assert config is not None
        total = self.lengths[run.name]
        done = max((int(p.name[5:]) for p in (run / "checkpoints").glob("step-*")), default=0)
        self.begins(run.name, config.base.device, me)
        if self.machine.dice.random() < 0.3:
            self.machine.sleep(self.dice.uniform(0.0, 3))
        self.say(run, STARTED)
        while done < total:
            self.machine.sleep(self.dice.uniform(0.3, 3))
            if me.is_asked_to_end:
                self.save(run, done)
                self.say(run, events.Finished(done, "", True, 1.0))
                return 0
            if self.may_fail and self.dice.random() < 0.1:
                passing = self.dice.random() < 0.7
                self.say(run, events.Failed("it failed", done, passing))
                if not passing:
                    self.broken.add(run.name)
                return 1
            done += 1
            if self.dice.random() < 0.6:
                self.save(run, done)
        self.save(run, done)
        self.finished.add(run.name)
        self.say(run, events.Finished(done, f"{run.name}.safetensors", False, 1.0))
        self.machine.sleep(self.dice.uniform(0.0, 2))
        return 0

    def begins(self, run: str, device: str, me: Process) -> None:
        self.learning = {p: what for p, what in self.learning.items() if p.is_alive}
        for other, where in self.learning.values():
            if other == run:
                self.wrong.append(f"two trainings in {run}")
            if where == device:
                self.wrong.append(f"{run} and {other} learn on {device}")
        self.learning[me] = (run, device)

    def save(self, run: Path, done: int) -> None:
        if done:
            self.machine.give_way()
            (run / "checkpoints" / f"step-{done}").mkdir(parents=True, exist_ok=True)
            self.say(run, events.Saved(done, ""))

    def say(self, run: Path, event: events.Event) -> None:
        self.machine.give_way()
        path = run / "events.jsonl"
        with path.open("a") as file:
            file.write(events.to_line(event) + "\n")
        os.utime(path, (self.machine.now(), self.machine.now()))

    # --- what disturbs ---

    def disturb(self) -> None:
        if self.dice.random() > self.kills:
            return
        what = self.dice.random()
        alive = self.machine.alive()
        if what < 0.03:
            self.machine.cut_power()
        elif what < 0.12:
            self.machine.offset += self.dice.choice((-7200, -30, -5, 5, 30, 7200))
        elif alive:
            self.machine.kill(self.dice.choice(alive))
        if not self.machine.alive(PAGE):
            self.machine.start([PAGE, "clicks"])

    # --- all of it ---

    def play(self) -> None:
        machine = self.machine
        with machine.in_place():
            for _ in range(self.dice.randint(1, 2)):
                machine.start([PAGE, "clicks"])
            machine.clock = 0.0
            machine.run(DISTURBED, self.disturb)
            for page in machine.alive(PAGE):
                machine.kill(page)
            machine.doom = 0.0
            machine.start([PAGE])  # who opens the page again finds what waits
            opened = machine.clock
            machine.run(
                QUIET,
                is_done=lambda: (
                    machine.clock > opened + 1
                    and not machine.alive(WORKER) + machine.alive(TRAINING)
                ),
            )
            line = Queue(self.space, None)
            self.judge(line.jobs())
            for one in machine.alive():
                machine.kill(one)
        self.wrong += [repr(error) for error in machine.errors]

    def judge(self, jobs: list[job.Job]) -> None:
        states = {found.run: found for found in jobs}
        for run, asked in self.asked.items():
            found = states.get(run)
            if found is None:
                if asked != "remove" and run in self.begun:
                    self.wrong.append(f"{run} is lost")
                continue
            may_be = {
                "train": {"finished"},
                "pause": {"finished", "paused", "cancelled"},  # it may have been cancelled before
                "cancel": {"finished", "paused", "cancelled"},
                "remove": {"finished", "paused", "cancelled", "failed"},
            }[asked]
            gave_up = f"ended {MOST_TRIES} times" in found.message
            if found.state == "failed" and (run in self.broken or gave_up):
                continue
            if found.state not in may_be:
                self.wrong.append(f"{run} should {asked}, and is {found.state}: {found.message}")
            if found.state == "finished" and run not in self.finished:
                self.wrong.append(f"{run} is finished without having learnt")


def played(number: int, root: Path) -> list[str]:
    """What is wrong with one schedule."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    schedule = Schedule(number, Workspace(root))
    written = {
        owner: mock.patch.object(owner, "write_whole", functools.partial(written_whole, schedule))
        for owner in (process, queue_database)
    }
    connected = mock.patch.object(queue_database.sqlite3, "connect", schedule.machine.connect)
    with written[process], written[queue_database], connected:
        try:
            schedule.play()
        except Exception:
            schedule.wrong.append(traceback.format_exc())
    return schedule.wrong


def written_whole(schedule: Schedule, path: Path, content: str | bytes) -> None:
    """write_whole without its fsync: whole at one moment, or not at all."""
    machine = schedule.machine
    machine.give_way()
    if machine.is_gone:
        raise Killed
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    machine.give_way()


def read_toml(path: Path) -> dict[str, object]:
    try:
        return _parsed(path.read_text())
    except FileNotFoundError:
        raise ConfigError("there is none") from None


@functools.lru_cache(maxsize=10_000)
def _parsed(text: str) -> dict[str, object]:
    return tomllib.loads(text)


@functools.lru_cache(maxsize=10_000)
def _config(text: str) -> object:
    return from_mapping(json.loads(text))


def remembered(mapping: dict[str, object]) -> object:
    """from_mapping, which takes a millisecond, once for the same."""
    return _config(json.dumps(mapping, sort_keys=True))


@contextlib.contextmanager
def cheaper() -> Iterator[None]:
    """What is slow and always the same is computed once; workers look less often."""
    texts: dict[tuple[Any, ...], str] = {}
    exact = loading.to_toml

    def to_toml(config: RunConfig) -> str:
        key = (repr(config.save), config.base.device)  # all that differs here
        if key not in texts:
            texts[key] = exact(config)
        return texts[key]

    new: list[tuple[Any, str, Any]] = [
        (worker, "LOOK", LOOK),
        (job, "from_mapping", remembered),
        (process, "from_mapping", remembered),
        (process, "read_toml", read_toml),
        (process, "environment", dict),
        *((module, "to_toml", to_toml) for module in (loading, queue, queue_database, worker)),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in new:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so many")
    parser.add_argument("--most-wrong", type=int, default=20)
    arguments = parser.parse_args()
    began, count, wrong = time.monotonic(), 0, 0
    with cheaper(), tempfile.TemporaryDirectory(dir=interposed.memory_folder()) as folder:
        for number in range(arguments.first, arguments.first + arguments.schedules):
            found = played(number, Path(folder).resolve() / "w")
            count += 1
            if found:
                wrong += 1
                print(f"schedule {number}: {'; '.join(found)}", file=sys.stderr, flush=True)
            if wrong >= arguments.most_wrong:
                break
            if arguments.seconds and time.monotonic() - began > arguments.seconds:
                break
    print(json.dumps({"schedules": count, "wrong": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

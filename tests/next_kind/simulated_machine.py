"""A pretended machine: a clock, processes with pids that come back, locks, one transaction at a
time, and a scheduler that decides who goes on, drawn from a seed.

The studio's own code runs on it: whatever it asks of the system is answered here. Each process is
a greenlet (or several, for its threads) that gives way wherever it asks. Only names of functions
are replaced, and only while a machine runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import greenlet
import psutil

from training.errors import BusyError
from training.storage import run_lock

PIDS = 12  # of the machine: they come back soon
NOON = 1_700_000_000.0  # seconds since 1970, when a machine is switched on
MOST_TURNS = 200_000  # of one schedule
TIMEOUT = 10.0  # seconds that a transaction waits for another one


class Killed(BaseException):
    """Ends the greenlets of a process; what they would still do has no effect."""


class Endless(Exception):
    """A schedule did not come to an end."""


@dataclass(eq=False)
class Process:
    """A pretended process. born: seconds of the machine's own clock, which nobody sets."""

    pid: int
    name: str
    born: float
    parent: Process | None
    command: tuple[str, ...] = ()
    is_alive: bool = True
    exit_code: int | None = None
    is_reaped: bool = False
    is_asked_to_end: bool = False
    is_doomed: bool = False  # killed when its turn comes
    threads: list[Thread] = field(default_factory=list)


@dataclass(eq=False)
class Thread:
    process: Process
    task: greenlet.greenlet
    wake: float = 0.0  # of the machine's own clock
    ready: Callable[[], bool] | None = None


class Machine:
    """programs: what a command's first word starts, with the command as its argument."""

    def __init__(self, seed: int, programs: dict[str, Callable[[Sequence[str]], int]]) -> None:
        self.dice, self.programs = random.Random(seed), programs
        self.clock, self.offset, self.boots = 100.0, NOON, 1
        self.processes: list[Process] = []
        self.locks: dict[str, Process] = {}
        self.current: Thread | None = None
        self.eager = self.dice.choice((0.02, 0.2, 0.6, 1.0))  # how often another one goes on
        self.errors: list[BaseException] = []
        self.turns = 0
        self.doom = 0.0  # how often who starts a process is killed before it can note that
        self._database = sqlite3.connect(":memory:", isolation_level=None)
        self._database.row_factory = sqlite3.Row
        self._owner: Connection | None = None
        self._hub = greenlet.getcurrent()

    # --- time ---

    def now(self) -> float:
        """What the clock on the wall says: anyone may set it."""
        return self.clock + self.offset

    def sleep(self, seconds: float) -> None:
        self.give_way(wake=self.clock + max(0.0, seconds))

    # --- processes ---

    def start(self, command: Sequence[str], parent: Process | None = None) -> Process:
        taken = {process.pid for process in self.processes if not process.is_reaped}
        pid = self.dice.choice([n for n in range(2, 2 + PIDS + len(taken)) if n not in taken])
        name = str(command[2] if "-m" in command else command[0])
        process = Process(pid, name, self.clock, parent, tuple(command))
        self.processes.append(process)
        program = self.programs[name]
        self.thread(process, lambda: self._end(process, program(command)))
        return process

    def thread(self, process: Process, act: Callable[[], object]) -> None:
        def guarded(*_: object) -> None:
            try:
                act()
            except (Killed, greenlet.GreenletExit):
                pass
            except Exception as error:  # what a process would end with a traceback for
                self.errors.append(error)
                self._end(process, 1)

        process.threads.append(Thread(process, greenlet.greenlet(guarded, self._hub)))

    def _end(self, process: Process, code: int) -> None:
        """Let a process be gone: its locks are free, its threads never go on."""
        if not process.is_alive:
            return
        process.is_alive, process.exit_code = False, code
        process.is_reaped = process.parent is None or not process.parent.is_alive
        for child in self.processes:
            if child.parent is process and not child.is_alive:
                child.is_reaped = True
        before = self.current
        for thread in process.threads:
            if thread.task and thread.task is not greenlet.getcurrent():
                self.current = thread
                thread.task.parent = greenlet.getcurrent()
                thread.task.throw(Killed)
        self.current = before
        self.locks = {path: owner for path, owner in self.locks.items() if owner is not process}

    def kill(self, process: Process) -> None:
        self._end(process, -9)

    def cut_power(self) -> None:
        for process in [process for process in self.processes if process.is_alive]:
            process.parent = None
            self._end(process, -9)
        self.processes, self.locks = [], {}
        self.boots += 1

    def alive(self, name: str = "") -> list[Process]:
        return [p for p in self.processes if p.is_alive and name in ("", p.name)]

    def process(self, pid: int) -> Process | None:
        for process in reversed(self.processes):
            if process.pid == pid and not process.is_reaped:
                return process
        return None

    def signal(self, pid: int, number: int) -> None:
        self.give_way()
        process = self.process(pid)
        if process is None:
            raise ProcessLookupError(pid)
        if number == 9:
            self._end(process, -9)
        else:
            process.is_asked_to_end = True

    @property
    def me(self) -> Process:
        assert self.current is not None
        return self.current.process

    @property
    def is_gone(self) -> bool:
        """Whether the process that asks is dead: nothing that it does has an effect."""
        return self.current is not None and not self.current.process.is_alive

    # --- the scheduler ---

    def give_way(self, wake: float = 0.0, ready: Callable[[], bool] | None = None) -> None:
        """Let another thread go on, until then or until it is ready; only sometimes without."""
        thread = self.current
        if thread is None:
            return
        if not thread.process.is_alive:
            raise Killed
        if not wake and ready is None and self.dice.random() > self.eager:
            return
        thread.wake, thread.ready = wake, ready
        self._hub.switch()

    def run(
        self,
        until: float,
        disturb: Callable[[], object] | None = None,
        is_done: Callable[[], bool] = lambda: False,
    ) -> None:
        """Let the threads go on in any order until the machine's own clock, or is_done when time
        passes, says so.
        """
        while self.clock < until:
            self.turns += 1
            if self.turns > MOST_TURNS:
                raise Endless(f"{self.turns} turns")
            if disturb is not None:
                disturb()
            threads = [
                t for p in self.processes if p.is_alive for t in p.threads if not t.task.dead
            ]
            able = [t for t in threads if t.wake <= self.clock and (not t.ready or t.ready())]
            if not able:
                if is_done():
                    return
                later = [t.wake for t in threads if t.wake > self.clock]
                self.clock = min([*later, until])
                continue
            thread = self.dice.choice(able)
            if thread.process.is_doomed:
                self.kill(thread.process)
                continue
            self.current = thread
            thread.wake, thread.ready = 0.0, None
            thread.task.parent = self._hub
            thread.task.switch()
            self.current = None
            self.clock += 0.001

    # --- locks and the database ---

    @contextlib.contextmanager
    def held(self, folder: Path) -> Iterator[None]:
        """run_lock.held, with a lock of this machine."""
        key, path = str(folder), folder / run_lock.NAME
        self.give_way()
        owner = self.locks.get(key)
        if owner is not None:
            raise BusyError(f"“{folder.name}” is being trained right now by process {owner.pid}.")
        self.locks[key] = self.me
        path.write_text("")
        self.give_way()
        path.write_text(json.dumps(asdict(run_lock.myself())))
        try:
            self.give_way()
            yield
            self.give_way()
        finally:
            if not self.is_gone:
                path.unlink(missing_ok=True)
                self.locks.pop(key, None)

    def connect(self, *_: object, **keys: Any) -> Connection:
        return Connection(self, self._database)

    # --- what is replaced ---

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the studio's code run on this machine."""
        touch, unlink = Path.touch, os.unlink

        def touched(path: Path, *args: Any, **keys: Any) -> None:
            self.give_way()
            touch(path, *args, **keys)
            os.utime(path, (self.now(), self.now()))

        def unlinked(*args: Any, **keys: Any) -> None:
            self.give_way() if not self.is_gone else None
            if not self.is_gone:
                unlink(*args, **keys)

        patches: list[tuple[Any, str, Any]] = [
            (time, "time", self.now),
            (time, "time_ns", lambda: int(self.now() * 1e9)),
            (time, "monotonic", lambda: self.clock),
            (time, "sleep", self.sleep),
            (os, "getpid", lambda: self.me.pid if self.current else 1),
            (os, "kill", self.signal),
            (os, "killpg", self.signal),
            (os, "unlink", unlinked),
            (Path, "touch", touched),
            (psutil, "Process", lambda pid=None: Seen(self, pid or self.me.pid)),
            (psutil, "process_iter", self.seen),
            (subprocess, "Popen", lambda command, **keys: Child(self, command)),
            (threading, "Thread", lambda **keys: Started(self, **keys)),
            (run_lock, "held", self.held),
            (run_lock, "start_of", self.start_of),
        ]
        with contextlib.ExitStack() as stack:
            for owner, name, new in patches:
                stack.enter_context(mock.patch.object(owner, name, new))
            yield

    def seen(self) -> Iterator[Seen]:
        """psutil.process_iter."""
        for process in self.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                yield Seen(self, process.pid)

    def start_of(self, pid: int) -> str:
        process = self.process(pid)
        return "" if process is None else f"boot-{self.boots}:{process.born:.2f}"


class Connection:
    """A connection to the machine's only database, of which one process at a time has the write
    lock.
    """

    def __init__(self, machine: Machine, database: sqlite3.Connection) -> None:
        self._machine, self._database = machine, database
        self.text_factory: Any = None
        self.row_factory: Any = None

    def execute(self, sql: str, *args: Any) -> Any:
        if sql == "BEGIN IMMEDIATE":
            self._begin()
            return None
        if sql == "COMMIT":
            self._machine.give_way()
            self._database.execute("COMMIT")
            self._machine._owner = None
            return None
        if sql.startswith("PRAGMA journal") or sql.startswith("PRAGMA synchronous"):
            return None
        return self._database.execute(sql, *args)

    def _begin(self) -> None:
        machine, end = self._machine, self._machine.clock + TIMEOUT
        machine.give_way()
        while machine._owner is not None:
            if machine.clock >= end:
                raise sqlite3.OperationalError("database is locked")
            machine.give_way(wake=machine.clock + 0.05)
        machine._owner = self
        self._database.execute("BEGIN")
        machine.give_way()

    def executemany(self, sql: str, rows: Any) -> Any:
        return self._database.executemany(sql, rows)

    def executescript(self, sql: str) -> Any:
        for statement in sql.split(";"):
            self._database.execute(statement)

    @property
    def in_transaction(self) -> bool:
        return self._machine._owner is self

    @property
    def total_changes(self) -> int:
        return self._database.total_changes

    def close(self) -> None:
        if self._machine._owner is self:
            self._database.execute("ROLLBACK") if self._database.in_transaction else None
            self._machine._owner = None


class Seen:
    """psutil.Process of a pretended process."""

    def __init__(self, machine: Machine, pid: int) -> None:
        found = machine.process(pid)
        if found is None:
            raise psutil.NoSuchProcess(pid)
        self._machine, self._process = machine, found
        machine.give_way()

    @property
    def pid(self) -> int:
        return self._process.pid

    def cmdline(self) -> list[str]:
        return [*self._process.command]

    def status(self) -> str:
        return psutil.STATUS_RUNNING if self._process.is_alive else psutil.STATUS_ZOMBIE

    def create_time(self) -> float:
        """Counted with the clock as it is set now, as the system does it."""
        return self._process.born + self._machine.offset

    def children(self, recursive: bool = False) -> list[Seen]:
        return []

    def cpu_times(self) -> SimpleNamespace:
        return SimpleNamespace(user=self._machine.clock, system=0.0)


class Child:
    """subprocess.Popen of a pretended process."""

    def __init__(self, machine: Machine, command: Sequence[str]) -> None:
        machine.give_way()
        self._machine = machine
        self._process = machine.start(command, machine.me)
        self.pid = self._process.pid
        machine.me.is_doomed = machine.dice.random() < machine.doom
        machine.give_way(wake=machine.clock if machine.me.is_doomed else 0.0)

    def wait(self) -> int:
        if self._process.is_alive:
            self._machine.give_way(ready=lambda: not self._process.is_alive)
        self._process.is_reaped = True
        return self._process.exit_code or 0

    def kill(self) -> None:
        self._machine.kill(self._process)


class Started:
    """threading.Thread of a pretended process."""

    def __init__(self, machine: Machine, target: Any, args: Any = (), daemon: bool = True) -> None:
        self._machine, self._act = machine, lambda: target(*args)

    def start(self) -> None:
        self._machine.thread(self._machine.me, self._act)

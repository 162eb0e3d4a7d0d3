"""The database of the queue: one transaction at a time, written through, and made again from its
copy and the runs' folders when it is damaged. Knows no page and no worker.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.processes import process
from studio.processes.job import COLUMNS, IN_LINE, device_of
from training.config.loading import to_toml
from training.errors import SpaceError, StudioError
from training.storage import run_lock
from training.storage.disk_errors import MEMORY, advice, cause, not_read
from training.storage.paths import fsync_folder, make_folder, read_regular, write_whole
from training.system import file_system, locks

NAME = "queue.sqlite"
COPY = "jobs.json"  # who is in the queue, for the day when the database is damaged
LARGEST_COPY = 64 * 2**20  # bytes
ASIDE, NOTICE = "damaged-", "notice.txt"  # folders of damaged files, and what to say of them
LARGEST_NOTICE = 1000  # bytes
MARK = "making-again"  # there while it is made again: what stands beside it is not the queue yet
NEW = "new.sqlite"  # the database that will take the damaged one's place
TIMEOUT = 10.0  # seconds that a transaction waits for another one
# seconds for which a database that was locked for TIMEOUT is only tried, and waited for how long:
# a page that looks every other second must not have all its threads wait
HURRIED, TRIED = 10.0, 0.1
OPENING = 1.0  # seconds that a page waits for the database before it opens without it
NOTICED = 7 * 86_400.0  # seconds for which the page says that the queue was made again
SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run TEXT NOT NULL, device TEXT NOT NULL, settings TEXT NOT NULL,
    state TEXT NOT NULL, wish TEXT NOT NULL DEFAULT '', place INTEGER NOT NULL,
    tries INTEGER NOT NULL DEFAULT 0,
    saved INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0, pid INTEGER NOT NULL DEFAULT 0,
    started REAL NOT NULL DEFAULT 0,
    heartbeat REAL NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '', added REAL NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS one_at_a_time ON jobs (device) WHERE state = 'running';
CREATE UNIQUE INDEX IF NOT EXISTS one_job_a_run ON jobs (run)
    WHERE state IN ('waiting', 'interrupted', 'running', 'paused');
"""
COPIED = tuple(name for name in COLUMNS if name not in ("id", "heartbeat"))


class QueueDatabase:
    """The database in a folder. runs: the folder of the runs that it may be made again from."""

    def __init__(self, folder: Path, runs: Path) -> None:
        self.folder, self.runs = folder, runs
        self._is_ready, self._hurried_until = False, 0.0

    @contextlib.contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it is on disk afterwards, or none.

        Raises SpaceError when the disk takes none, StudioError for a damaged file.
        """
        if not self._is_ready or (self.folder / MARK).exists():
            self.prepare()
        try:
            with self._transaction() as db:
                before = db.total_changes
                yield db
                if db.in_transaction and db.total_changes > before:
                    self._write_copy(db)
        except sqlite3.IntegrityError:  # a rule of ours, which the caller knows
            raise
        except (
            sqlite3.Error,
            UnicodeDecodeError,
        ) as error:  # the latter: a damaged name of a table
            self._is_ready = isinstance(error, sqlite3.OperationalError)
            raise self._trouble(error) from error

    @property
    def notice(self) -> str:
        """What was done to a damaged database in the last days, "" if nothing."""
        asides = self.folder.glob(f"{ASIDE}*/{NOTICE}")
        with contextlib.suppress(OSError):
            ages = {time.time() - notice.stat().st_mtime: notice for notice in asides}
            if ages and min(ages) < NOTICED:
                return read_regular(ages[min(ages)], LARGEST_NOTICE).decode(errors="replace")
        return ""

    def prepare(self, wait: float | None = None) -> None:
        """Make the database if it is missing, and again if it is damaged. Raises like open.

        wait: seconds for another transaction, TIMEOUT unless given.
        """
        try:
            make_folder(self.folder)
        except OSError as error:
            raise SpaceError(
                f"The workspace's folder {self.folder.name} cannot be made ({cause(error)}). "
                f"{advice(error, 'choose another --workspace')}"
            ) from None
        try:
            if self._is_damaged(wait):
                self._make_again()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._trouble(error) from error
        self._is_ready = True

    @contextlib.contextmanager
    def _transaction(self, wait: float | None = None) -> Iterator[sqlite3.Connection]:
        is_hurried = time.monotonic() < self._hurried_until
        timeout = TRIED if is_hurried else TIMEOUT if wait is None else wait
        db = sqlite3.connect(self.folder / NAME, timeout=timeout, isolation_level=None)
        db.row_factory = sqlite3.Row
        db.text_factory = lambda text: text.decode("utf-8", errors="replace")
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            yield db
            if db.in_transaction:
                db.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error) and timeout == TIMEOUT:
                self._hurried_until = time.monotonic() + HURRIED
            raise
        finally:
            db.close()  # what is not committed by now is undone

    def _trouble(self, error: sqlite3.Error | UnicodeDecodeError) -> StudioError:
        """What to say of a database that cannot be used now, or not any more."""
        if not isinstance(error, sqlite3.OperationalError):
            return StudioError(
                f"The training queue is damaged ({error}). What is training continues. The queue "
                "is being rebuilt from its copy and the run folders: look again in a moment."
            )
        if "locked" in str(error) and not locks.are_kept(self.folder):
            return SpaceError(
                "The workspace's drive has no locks, as some network shares have none, and without "
                "them there is no training queue. Choose a --workspace on a disk of this machine."
            )
        if "locked" in str(error):
            return SpaceError(
                f"The training queue is locked by another program ({error}), so it cannot be "
                f"shown or changed. End what has {self.folder.name}/{NAME} of the workspace open; "
                "what is training continues."
            )
        return SpaceError(
            f"The training queue cannot be written ({error}). {_aid(error)}. Nothing in the queue "
            "was changed, and what is training continues."
        )

    # --- damage ---

    def _is_damaged(self, wait: float | None = None) -> bool:
        """Whether the database, made if it is missing, is none of ours. Raises
        sqlite3.OperationalError where that cannot be said.
        """
        if (self.folder / MARK).exists():
            return True
        try:
            with self._transaction(wait) as db:
                if [row[0] for row in db.execute("PRAGMA integrity_check")] != ["ok"]:
                    return True
                db.executescript(SCHEMA)
                found = {row["name"] for row in db.execute("PRAGMA table_info(jobs)")}
                return not found.issuperset(COLUMNS)
        except sqlite3.OperationalError as error:
            if str(error).startswith(("no such column", "malformed database schema")):
                return True
            raise
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return True

    def _make_again(self) -> None:
        """Put the damaged files aside and new ones in their place; one process at a time does it,
        and the next one begins again where a failing disk ended it.
        """
        with run_lock.held(self.folder):
            if not self._is_damaged():  # another process was first
                return
            write_whole(self.folder / MARK, b"")
            rows = [*_copied(self.folder / COPY), *self._of_runs()]
            aside = self.folder / f"{ASIDE}{time.time_ns()}"
            try:
                restored = self._make_new(rows)
                aside.mkdir()
                for file in self.folder.glob(f"{NAME}*"):
                    file_system.replace(file, aside / file.name)
                file_system.replace(self.folder / NEW, self.folder / NAME)
                fsync_folder(self.folder)
            except OSError as error:
                raise SpaceError(
                    f"The training queue is damaged and cannot be set aside ({cause(error)}). "
                    f"{advice(error, 'choose another --workspace')}"
                ) from error
            write_whole(
                aside / NOTICE,
                f"The training queue was damaged and has been rebuilt, with {restored} "
                "runs in it. Look whether all that should wait is there. What was damaged lies in "
                f"{self.folder.name}/{aside.name} of the workspace.",
            )
            self._end_making()

    def _end_making(self) -> None:
        try:
            (self.folder / MARK).unlink()
            fsync_folder(self.folder)
        except OSError as error:
            raise SpaceError(
                f"The training queue was rebuilt, and {MARK} beside it cannot be taken away "
                f"({cause(error)}). {advice(error, 'choose another --workspace')}"
            ) from error
        if self._is_damaged():
            raise StudioError(
                "The training queue was rebuilt and is damaged again: the workspace's disk does "
                "not keep what is written. Move the workspace to another disk."
            )

    def _make_new(self, rows: list[dict[str, Any]]) -> int:
        """Put rows into a new database; return how many there are then."""
        for file in self.folder.glob(f"{NEW}*"):
            file.unlink()
        names = ", ".join(COPIED)
        values = ", ".join(f":{name}" for name in COPIED)
        with contextlib.closing(sqlite3.connect(self.folder / NEW)) as db, db:
            db.executescript(SCHEMA)
            db.executemany(f"INSERT OR IGNORE INTO jobs ({names}) VALUES ({values})", rows)
            return db.execute("SELECT count(*) FROM jobs").fetchone()[0]

    def _of_runs(self) -> list[dict[str, Any]]:
        """Rows for runs that this page or a worker began and that are not at their end: those that
        train, and, paused, those that were interrupted.
        """
        found = []
        for run in sorted(self.runs.iterdir()) if self.runs.is_dir() else []:
            state, config = process.state(run), process.earlier(run)
            if process.read(run) is None or config is None or config.run_folder != run:
                continue
            if state not in (*process.GOING, "interrupted"):
                continue
            goes = state in process.GOING
            row = dict.fromkeys(COPIED, 0) | {
                "run": run.name,
                "device": device_of(config),
                "settings": to_toml(config),
                "state": "running" if goes else "paused",
                "wish": "",
                "message": "" if goes else "found in its folder after the queue was damaged.",
                "added": time.time(),
            }
            found.append(row)
        return found

    def _write_copy(self, db: sqlite3.Connection) -> None:
        """Keep what is in the queue beside the database, where it has changed."""
        marks = ", ".join("?" for _ in IN_LINE)
        rows = db.execute(
            f"SELECT {', '.join(COPIED)} FROM jobs WHERE state IN ({marks}) ORDER BY id", IN_LINE
        )
        text = json.dumps([dict(row) for row in rows]).encode()
        path = self.folder / COPY
        with contextlib.suppress(OSError):
            if path.is_file() and path.read_bytes() == text:
                return
        with contextlib.suppress(StudioError):  # a full disk: the database itself says so
            write_whole(path, text)


def _copied(path: Path) -> list[dict[str, Any]]:
    """The rows of the copy that are sound; a training that is gone by now is looked after as
    usual. Raises SpaceError for a copy that is there and cannot be read.
    """
    try:
        found = json.loads(read_regular(path, LARGEST_COPY))
    except OSError as error:
        if path.is_file():  # it may be read when the disk is better
            raise SpaceError(not_read("The copy of the training queue", error)) from error
        return []
    except (ValueError, RecursionError):
        return []
    rows = found if isinstance(found, list) else []
    return [row for row in rows if isinstance(row, dict) and _is_sound(row)]


def _aid(error: sqlite3.OperationalError) -> str:
    """What to do about a database that the disk refuses, by the kind of SQLite's error."""
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest says what SQLite was doing
    if kind == sqlite3.SQLITE_FULL:
        return "Free space on the workspace's disk"
    if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
        return "Allow writing into the workspace and all its files"
    if kind == sqlite3.SQLITE_NOMEM:
        return MEMORY
    return "Look whether the workspace's disk is sound and connected"


def _is_sound(row: dict[str, Any]) -> bool:
    texts = ("run", "device", "settings", "state", "wish", "message")
    numbers = [row.get(name) for name in COPIED if name not in texts]
    return (
        all(isinstance(row.get(name), str) for name in texts)
        and all(isinstance(number, int | float) for number in numbers)
        and row["state"] in IN_LINE
        and Path(row["run"]).name == row["run"] != ""
    )

"""The headless command: `train-style [RUN.toml] [--section.key VALUE ...]`; `--sweep` trains
several styles. It prints and writes events.jsonl.
"""

from __future__ import annotations

import collections
import contextlib
import math
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run as a file: the clone's root is not on the path yet
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from training import events
from training.cli import notifications
from training.cli.for_programs import print_events
from training.cli.interrupts import Interrupts
from training.cli.output import lasting_output
from training.cli.trackers import check, tracked
from training.cli.train_arguments import config_from, sweep_from
from training.config.schema import RunConfig
from training.errors import BusyError, ConfigError, StudioError, without_controls

if TYPE_CHECKING:
    from training.runtime.distributed import ProcessGroup

# Of several processes that a launcher started; 0 also alone
RANK = int(os.environ.get("RANK", "0"))


def recorded(stream: Iterable[events.Event], folder: Path) -> Iterator[events.Event]:
    """Append each event to folder/events.jsonl before passing it on.

    A full disk does not end the training; one message says so.
    """
    warned = False
    for event in stream:
        try:
            events.append(folder / "events.jsonl", event)
        except OSError as error:
            if not warned:
                print(
                    f"{folder / 'events.jsonl'} cannot be written ({error.strerror}): the "
                    "training continues without it.",
                    file=sys.stderr,
                )
            warned = True
        yield event


def run(config: RunConfig, world: ProcessGroup, *, as_json: bool = False) -> int:
    """Train, show and record; of several processes the first one does the latter two.

    Returns the exit code.
    """
    from training.cli.terminal import show

    stop = Interrupts()
    begun, saved = False, 0

    def watched() -> Iterator[events.Event]:
        nonlocal begun, saved
        from training.trainer.loop import train

        for event in train(config, stop, world):
            begun = begun or isinstance(event, events.Started)
            saved = event.step if isinstance(event, events.Saved) else saved
            yield event

    try:
        if world.writes:
            stream = recorded(tracked(watched(), config), config.run_folder)
            stream = notifications.notified(stream, config)
            print_events(stream) if as_json else show(stream, config.run_folder)
        else:
            collections.deque(watched(), maxlen=0)
    except BusyError as error:  # the run's events are another process's
        print(error, file=sys.stderr)
        return error.exit_code
    except StudioError as error:
        _fail(config, str(error), saved, begun, passing=error.passing, writes=world.writes)
        return 1 if begun else error.exit_code
    # The process edge: a defect of ours or of a library becomes a message and a file
    except Exception:
        name = "crash.txt" if world.writes else f"crash-{world.rank}.txt"
        where = _kept(config.run_folder / name, traceback.format_exc())
        message = (
            f"unexpected error: {sys.exc_info()[1]}. Details: "
            f"{where}. Run the same command again to resume."
        )
        _fail(config, message, saved, begun, passing=True, writes=world.writes)
        return 1
    return 0


def report(config: RunConfig, *, as_json: bool = False) -> int:
    """Judge the style files of a run that was trained before. Returns the exit code."""
    from training.trainer.lifecycle import reported
    from training.trainer.plan import planned

    if not (config.run_folder / f"{config.save.name}.safetensors").exists():
        raise ConfigError(
            f"{config.run_folder} holds no finished style to report on. Train it first: the "
            "same command without --report."
        )
    code = 0
    for event in reported(planned(config), Interrupts(), minutes=math.inf):
        if as_json:
            print_events([event])
        else:
            print(without_controls(event.message), flush=True)
        code = 1 if isinstance(event, events.Warned) else code
    return code


def _joined(device: str) -> contextlib.AbstractContextManager[ProcessGroup]:
    """The processes that a launcher started with this one."""
    from training.runtime.distributed import joined

    return joined(device)


def _kept(report: Path, text: str) -> str:
    try:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(text, encoding="utf-8")
    except OSError:
        return text
    return str(report)


def _fail(
    config: RunConfig, message: str, saved: int, begun: bool, *, passing: bool, writes: bool
) -> None:
    message += f" Saved so far: {saved} updates." if saved else ""
    if writes and (begun or _is_open(config.run_folder)):  # a page may be waiting for a word
        failed = recorded([events.Failed(message, saved, passing)], config.run_folder)
        collections.deque(notifications.notified(failed, config), maxlen=0)
    print(without_controls(message), file=sys.stderr)


def _is_open(folder: Path) -> bool:
    """Whether a run was begun there and has not finished."""
    last = None
    try:
        for event in events.read(folder / "events.jsonl"):
            last = event
        return (folder / "events.jsonl").exists() and not isinstance(last, events.Finished)
    except OSError:  # a name that is too long
        return False


@lasting_output()
def main(argv: list[str] | None = None) -> int:
    began = time.time()
    try:
        argv = sys.argv[1:] if argv is None else argv
        if "--sweep" in argv:
            from training.cli import sweep

            configs, wanted = sweep_from(argv)
            if wanted.dry_run:
                from training.cli.dry_run import print_sweep

                if not RANK:  # the first process does it alone
                    print_sweep(configs, began, as_json=wanted.json)
                return 0
            with _joined(configs[0].base.device) as world:
                return sweep.run(configs, Interrupts(), world, as_json=wanted.json)
        config, wanted = config_from(argv)
        check(config.save.track)
        notifications.check([config])
        if (wanted.report or wanted.dry_run) and RANK:
            return 0  # the first process does these alone
        if wanted.report:
            return report(config, as_json=wanted.json)
        if wanted.dry_run:
            from training.cli.dry_run import print_plan

            print_plan(config, began, as_json=wanted.json)
            return 0
        with _joined(config.base.device) as world:
            return run(config, world, as_json=wanted.json)
    except StudioError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    # Before a run listens for it, or in a dry run: there is nothing to save
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

"""What works on this machine, what does not, and what to do:

`style-studio doctor`. Its words hold no names of people, folders or pictures.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from studio.library.known_bases import KNOWN
from studio.processes import process
from studio.system import storage
from training.errors import SpaceError, StudioError, without_controls
from training.storage.disk_errors import advice, cause, system_error
from training.storage.paths import Workspace, builtin_base, cache_folder, checked_writable
from training.system import locks

GIB = 1024**3
LITTLE_DISK, LITTLE_MEMORY = 2 * GIB, 4 * GIB
# Comes with NVIDIA's driver and prints the name of each card
CARD_PROGRAM = ("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
LONGEST_ANSWER = 20.0  # seconds; a driver that hangs
REINSTALL = "Install the one made for it: uv pip install --reinstall torch --torch-backend=auto"
State = Literal["good", "worth a look", "bad"]
MARKS: dict[State, str] = {"good": "  ok ", "worth a look": "  !  ", "bad": " BAD "}


@dataclass(frozen=True)
class Finding:
    """advice: what to do, "" when there is nothing to do."""

    about: str
    state: State
    words: str
    advice: str = ""


def examined(workspace: Workspace) -> Iterator[Finding]:
    """Look at everything a training and the page need; takes some seconds, for torch is loaded in a
    process of its own.
    """
    yield Finding(
        "system",
        "good",
        f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPU "
        "threads",
    )
    for name, version in storage.versions().items():
        there = version != "not installed"
        yield Finding(
            name,
            "good" if there else "bad",
            version,
            "" if there else f"Install it: pip install {name}",
        )
    yield from _device()
    memory = psutil.virtual_memory()
    few = memory.available < LITTLE_MEMORY
    yield Finding(
        "memory",
        "worth a look" if few else "good",
        f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB",
        (
            "Enough for the built-in base; Stable Diffusion 1.5 takes about 4 GiB on a CPU. Close "
            "other programs."
        )
        if few
        else "",
    )
    for about, folder in (("workspace", workspace.root), ("cache", cache_folder())):
        yield from _folder(about, folder)
    yield from _locks(workspace)
    whole = (builtin_base() / "model_index.json").is_file()
    yield Finding(
        "built-in base",
        "good" if whole else "bad",
        "is there" if whole else "is missing",
        "" if whole else "Install the program again.",
    )
    others = len(storage.bases(workspace)) - 1
    yield Finding("other bases", "good", f"{others} on this machine")
    yield _vocabulary()


def _device() -> Iterator[Finding]:
    try:
        device = storage.device()
    except StudioError as error:
        was_busy = isinstance(error.__cause__, subprocess.TimeoutExpired)
        yield Finding(
            "device",
            "bad",
            f"what torch can run on could not be found out ({storage.why(error.__cause__)})",
            "Close other programs and look again."
            if was_busy
            else "Install torch again: pip install --force-reinstall torch",
        )
        return
    works = device.pop("a first product", "works")
    yield Finding(
        "device",
        "good",
        ", ".join(
            f"{key} {value}" for key, value in device.items() if key not in ("torch", "memory")
        ),
    )
    yield Finding(
        "convolution and attention there", "good" if works == "works" else "bad", works,
        "" if works == "works" else ("Set base.device = \"cpu\", or install the build of torch "
                                    "that is made for this device."),
    )  # fmt: skip
    yield from _trainable(device.get("memory of the device", ""))
    if device.get("device") == "cpu" and (card := _card()):
        yield _idle(card, device.get("build", "CPU"))
    if device.get("device") == "cpu" and device.get("precision") == "float32":
        yield Finding(
            "precision",
            "worth a look",
            "this CPU does not multiply bfloat16",
            "A newer CPU, or a GPU, trains several times as fast.",
        )


def _trainable(memory: str) -> Iterator[Finding]:
    """The known bases that a device of its own memory trains, as it says that: `11.0 GiB free of
    12.0 GiB`. Nothing for other devices.
    """
    whole = re.search(r"free of ([\d.]+) GiB$", memory)
    if whole is None:
        return
    size = round(float(whole[1]))  # cards of 12 GB have a little less than 12 GiB
    fitting = [base for base in KNOWN if base.card <= size]
    names = ", ".join(base.title for base in fitting)
    smallest = min(base.card for base in KNOWN)
    yield Finding(
        "bases that it trains",
        "good" if fitting else "worth a look",
        f"by prediction, on a card of {size} GB: {names or 'none of the known ones'}",
        "" if fitting else f"The smallest needs {smallest} GB. Train on the built-in base.",
    )


def _idle(card: str, build: str) -> Finding:
    """Why torch does not see a card. build: what this torch was made for."""
    if build == "CPU":
        words, advice = f"this torch is made for CPUs, so {card} does nothing", REINSTALL
    else:
        words = f"this torch is made for {build} and does not find {card}: the driver is too old"
        advice = f"Update the driver, or install a torch that fits it. {REINSTALL}"
    return Finding("build of torch", "worth a look", words, advice)


def _card() -> str:
    """The NVIDIA card that the driver's own program finds, "" for none: a torch that was not made
    for it does not see it.
    """
    program = shutil.which(CARD_PROGRAM[0])
    if program is None:
        return ""
    try:
        answer = subprocess.run(
            [program, *CARD_PROGRAM[1:]],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=LONGEST_ANSWER,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return without_controls(answer.stdout.strip().partition("\n")[0])[:80]


def _folder(about: str, folder: Path) -> Iterator[Finding]:
    """Whether a folder can be written, and the room there."""
    there = folder
    while not there.exists():
        there = there.parent
    try:
        checked_writable(there, about)
    except SpaceError as error:
        found = system_error(error)
        words = f"cannot be written ({cause(found)})"
        yield Finding(f"{about} folder", "bad", words, advice(found))
        return
    yield Finding(f"{about} folder", "good", "can be written")
    free = shutil.disk_usage(there).free
    little = free < LITTLE_DISK
    yield Finding(
        f"room for the {about}",
        "worth a look" if little else "good",
        f"{free / GIB:.1f} GiB",
        "Make room; a full disk pauses trainings." if little else "",
    )


def _locks(workspace: Workspace) -> Iterator[Finding]:
    """What to say of a drive without them, nothing of another."""
    if not locks.are_kept(workspace.root):
        yield Finding(
            "locks of the workspace",
            "bad",
            "its drive has none, as some network shares have none: there is no training queue",
            "Choose a --workspace on a disk of this machine.",
        )


def _vocabulary() -> Finding:
    """The words of CLIP's tokenizer, which no single-file checkpoint holds."""
    from training.models.single_file import known_vocabulary

    if known_vocabulary():
        return Finding(
            "CLIP's vocabulary", "good", "is there: single-file checkpoints open without a network"
        )
    return Finding(
        "CLIP's vocabulary", "worth a look", "is not in the caches: a single-file checkpoint "
                                             "will ask the hub for it",
        "Put vocab.json and merges.txt of any Stable Diffusion's tokenizer/ into "
        "tokenizers/clip/ of the cache, or open one from the hub once.",
    )  # fmt: skip


def asked_elsewhere(workspace: Workspace) -> list[Finding]:
    """The same, from a process of its own, so that the page never loads torch.

    Raises StudioError.
    """
    asked = [sys.executable, "-m", "studio", "doctor", "--json", "--workspace", str(workspace.root)]
    try:
        said = subprocess.run(
            asked,
            capture_output=True,
            encoding="utf-8",
            timeout=2 * storage.LONGEST_LOOK,
            env=process.environment(),
        ).stdout
        return [_from_record(one) for one in json.loads(said)]
    except (OSError, subprocess.SubprocessError, ValueError, TypeError, KeyError) as error:
        raise StudioError(
            f"The checks could not be run ({type(error).__name__}). Run `style-studio doctor` "
            "in a terminal to see why."
        ) from error


def summary_line(finding: Finding) -> str:
    return f"[{MARKS[finding.state]}] {finding.about}: {finding.words}" + (
        f"\n        {finding.advice}" if finding.advice else ""
    )


def as_json(findings: Sequence[Finding]) -> str:
    """The findings for programs; _from_record reads one back."""
    records = [
        {"about": one.about, "state": one.state, "told": one.words, "advice": one.advice}
        for one in findings
    ]
    return json.dumps(records, indent=1)


def _from_record(record: dict[str, Any]) -> Finding:
    return Finding(record["about"], record["state"], record["told"], record["advice"])

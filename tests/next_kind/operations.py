"""What the studio does with its files, each as an operation that can be tried again and again: from
what, by what, and what a user would miss afterwards.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from studio.datasets import history, store
from studio.processes import process, queue_database, starting
from studio.processes.queue import Queue
from studio.processes.worker import Worker
from training import events
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import StudioError
from training.storage.paths import Workspace

Content = dict[str, Any]
SILENT = 30.0  # seconds that a process may take to end
SETTLED = 1.0  # seconds after which one that does nothing has ended
DRAWINGS = "drawings"


@dataclass(frozen=True)
class Operation:
    """begin: makes the folder that act works in; content: what a user would miss in it, by name;
    recover: makes it whole again after act was refused. refusals: what act may raise, beside
    StudioError. is_free: whether act may do nothing and say nothing, as nothing is lost by it.
    """

    begin: Callable[[Path], None]
    act: Callable[[Path], object]
    content: Callable[[Path], Content]
    recover: Callable[[Path], object] = lambda folder: None
    refusals: tuple[type[Exception], ...] = ()
    is_free: bool = False


# --- captions and pictures ---


def _dataset(folder: Path) -> Path:
    return store.folder(Workspace(folder), DRAWINGS)


def _begin_captions(folder: Path) -> None:
    dataset = store.make(Workspace(folder), DRAWINGS)
    for i in range(3):
        Image.new("RGB", (64, 64), (80 * i, 0, 0)).save(dataset / f"{i}.png")
        store.write_caption(dataset, f"{i}.png", f"a thing {i}")


def _begin_edited(folder: Path) -> None:
    _begin_captions(folder)
    _rewrite(folder)


def _rewrite(folder: Path) -> None:
    texts = {f"{i}.png": f"ink {i}" for i in range(3)}
    store.rewrite(_dataset(folder), "a trigger", texts)


def _files(folder: Path) -> Content:
    """The bytes of every visible file."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    }


def _undo_if_there(folder: Path) -> None:
    if history.last(_dataset(folder)) is not None:
        history.undo(_dataset(folder))


def _undone_once(folder: Path) -> Content:
    """The captions; what is undone already can be undone again, and nothing comes of it."""
    found = _files(folder)
    if found["datasets/drawings/0.txt"] == b"a thing 0\n":
        _undo_if_there(folder)
        assert _files(folder) == found | {
            f"datasets/drawings/{i}.txt": f"a thing {i}\n".encode() for i in range(3)
        }
    return found


def _folders(folder: Path) -> Content:
    return {name: True for name in store.names(Workspace(folder))}


def _add(folder: Path) -> None:
    """Two pictures, one with a caption; what was added before is refused by name."""
    incoming = folder.parent / "incoming"
    incoming.mkdir(exist_ok=True)
    for i in (3, 4):
        Image.new("RGB", (64, 64), (0, 80, 40 * i)).save(incoming / f"{i}.png")
    (incoming / "3.txt").write_text("a thing 3")
    store.add(_dataset(folder), sorted(incoming.iterdir()))


def _caption(
    act: Callable[[Path], object],
    begin: Callable[[Path], None] = _begin_captions,
    content: Callable[[Path], Content] = _files,
    **keys: Any,
) -> Operation:
    """The page says an OSError in words too, see studio.page.handlers.shows_errors."""
    return Operation(begin, act, content, refusals=(OSError,), **keys)


CAPTIONS = {
    "caption": _caption(lambda f: store.write_caption(_dataset(f), "0.png", "another thing")),
    "captions": _caption(_rewrite, recover=_undo_if_there),
    "undo": _caption(lambda f: history.undo(_dataset(f)), _begin_edited, _undone_once),
    "take out": _caption(lambda f: store.remove(_dataset(f), ["1.png"]), recover=_undo_if_there),
    "make": _caption(lambda f: store.make(Workspace(f), "new"), content=_folders),
    "add": _caption(_add),
    "crop": _caption(lambda f: store.place_crop(_dataset(f), "2.png", (0.25, 0.75))),
}


# --- the queue ---


def settings(folder: Path, name: str) -> RunConfig:
    return from_mapping(
        {
            "base": {"device": "cpu"},
            "save": {"name": name, "folder": str(Workspace(folder).runs())},
        }
    )


def _queue(folder: Path) -> Queue:
    return Queue(Workspace(folder), None)


def _begin_queue(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    line = _queue(folder)
    for name in "abc":
        line.add(settings(folder, name))


def _begin_claimed(folder: Path) -> None:
    """A job that trained to its end."""
    _begin_queue(folder)
    assert Worker(_queue(folder), "cpu").claim() is not None
    run = Workspace(folder).runs() / "a"
    run.mkdir(parents=True)
    events.append(run / "events.jsonl", events.Finished(3, "a.safetensors", False, 1.0))


def _begin_damaged(folder: Path) -> None:
    _begin_queue(folder)
    for file in (folder / "queue").glob(f"{queue_database.NAME}*"):
        file.write_bytes(b"no database" * 500)


def _line(folder: Path) -> Content:
    """Every job's state."""
    found = {job.run: (job.state, job.place, job.settings) for job in _queue(folder).jobs()}
    return {run: (state, place, text) for run, (state, place, text) in found.items()}


def _claim(folder: Path) -> None:
    assert Worker(_queue(folder), "cpu").claim() is not None


def _settle(folder: Path) -> None:
    line = _queue(folder)
    Worker(line, "cpu").settle(line.job(1))


def _after_settle(folder: Path) -> Content:
    """What could not be seen at the first look is seen at the next one."""
    line = _queue(folder)
    if line.job(1).state == "interrupted":
        _look(folder)
    return _line(folder)


def _look(folder: Path) -> None:
    """Begin a training that ends at once."""
    line = _queue(folder)
    Worker(line, "cpu").look(lambda run_toml: [sys.executable, "-S", "-c", ""])


def _after_look(folder: Path) -> Content:
    """Whoever is claimed is either begun or can be begun again."""
    run = Workspace(folder).runs() / "a"
    end, soon = time.monotonic() + SILENT, time.monotonic() + SETTLED
    while process.is_alive(run) and time.monotonic() < end:
        time.sleep(0.01)
        if time.monotonic() > soon:  # as if a minute had passed, for a start that came to nothing
            with contextlib.suppress(FileNotFoundError):
                os.utime(run / starting.NAME, (time.time() - 2 * starting.STALE,) * 2)
    # Waits again where nothing came of the first try
    states = {name: state for name, (state, _, _) in _line(folder).items()}
    return states | {"a": states["a"] in ("waiting", "running", "interrupted")}


def _of_queue(
    act: Callable[[Path], object], begin: Callable[[Path], None] = _begin_queue, **keys: Any
) -> Operation:
    return Operation(begin, act, _line, **keys)


QUEUE = {
    "open": _of_queue(lambda f: _queue(f).jobs(), lambda f: f.mkdir(parents=True, exist_ok=True)),
    "add": _of_queue(lambda f: _queue(f).add(settings(f, "d"))),
    "pause": _of_queue(lambda f: _queue(f).pause(2)),
    "move": _of_queue(lambda f: _queue(f).move(3, 0)),
    "claim": _of_queue(_claim),
    "settle": replace(_of_queue(_settle, _begin_claimed), content=_after_settle),
    "make again": _of_queue(lambda f: _queue(f).jobs(), _begin_damaged),
    "begin": replace(_of_queue(_look), content=_after_look),
}


# --- a training's own files, for which torch is imported ---


def _tensors(step: int) -> dict[str, Any]:
    import torch

    drawn = torch.Generator().manual_seed(step)
    return {name: torch.randn(64, 64, generator=drawn) for name in ("a", "b")}


def _save(folder: Path, step: int) -> None:
    from training.trainer import checkpoint

    checkpoint.write(folder / "checkpoints", step, _tensors(step), {"step": step}, keep=2)


def _begin_checkpoints(folder: Path) -> None:
    for step in (1, 2):
        _save(folder, step)


def _newest(folder: Path) -> Content:
    """The step a resumed run goes on after, to the bit."""
    import torch

    from training.trainer import checkpoint

    found, _ = checkpoint.newest(folder / "checkpoints")
    if found is None:
        return {}
    wanted = _tensors(found.step)
    is_same = all(torch.equal(found.tensors[name], wanted[name]) for name in wanted)
    return {"step": (found.step, is_same and found.state == {"step": found.step})}


def _begin_nothing(folder: Path) -> None:
    folder.mkdir(parents=True)


def _latents(folder: Path) -> Any:
    from training.trainer import latent_cache

    latent_cache.latents_folder = lambda: folder / "latents"
    return latent_cache.LatentStore({"vae": "x"}, 2**20)


def _keep_latents(folder: Path, number: int = 1) -> None:
    import torch

    kept = _latents(folder)
    mean = torch.full((4, 8, 8), float(number))
    kept.put(f"{number:064x}", mean, mean.clone())
    kept.tidy()


def _found_latents(folder: Path) -> Content:
    kept = _latents(folder)
    found = {number: kept.get(f"{number:064x}") for number in (0, 1)}
    return {
        str(number): bool((pair[0] == number).all() and (pair[1] == number).all())
        for number, pair in found.items()
        if pair is not None
    }


_MADE: dict[Path, Any] = {}  # trainers that have learnt something, by the folder of their runs


def _begin_run(folder: Path) -> None:
    """Settings of a run of two updates with a learnt word; what it starts from lies beside it."""
    from tests import crashes
    from tests.tiny import tiny_base

    folder.mkdir(parents=True)
    beside = folder.parent / "beside"
    if not beside.exists():
        beside.mkdir()
        crashes.pictures(beside)
        tiny_base(beside / "base")
        learns = {
            "adapter": {"tokens": 2},
            "optim": {"steps": 2, "accumulate": 1, "batch_size": 1},
            "save": {"folder": str(folder), "name": "r", "every": 1, "keep": 1},
            "preview": {"every": 0},
        }
        crashes.run_toml(beside, beside / "base", "r", **learns)


def _begin_trained(folder: Path) -> None:
    """A trainer in memory that has made an update."""
    import tomllib

    import torch

    from training.trainer.plan import planned
    from training.trainer.setup import set_up

    _begin_run(folder)
    if folder in _MADE:
        (folder / "r").mkdir()
        return
    text = (folder.parent / "beside" / "r.toml").read_text()
    steps, trainer = set_up(planned(from_mapping(tomllib.loads(text)))), None
    while trainer is None:
        try:
            next(steps)
        except StopIteration as end:
            trainer = end.value
    with torch.no_grad():
        for down, up in trainer.adapters.values():
            up.normal_(generator=torch.Generator().manual_seed(down.shape[0]))
    _MADE[folder] = trainer


def _export(folder: Path) -> None:
    from training.trainer import export

    export.export(_MADE[folder])


def _exported(folder: Path) -> Content:
    """The weights of the style and its word: a file holds when it was made, too."""
    from training.style_files.reading import read_style

    found: Content = {}
    for path in sorted((folder / "r").rglob("[!.]*.safetensors")):
        style = read_style(path)
        found[path.name] = (
            {
                name: (lora.down.tobytes(), lora.up.tobytes())
                for name, lora in style.modules.items()
            },
            {word: sorted(vectors) for word, vectors in style.words.items()},
        )
    return found


def _train(folder: Path) -> None:
    """Train, or go on with, a run; as the command does it."""
    from training import train_style
    from training.trainer import full_disk

    full_disk.PATIENCE, full_disk.AGAIN = 0.05, 0.01
    with contextlib.redirect_stdout(io.StringIO()):
        code = train_style.main([str(folder.parent / "beside" / "r.toml")])
    if (report := folder / "r" / "crash.txt").exists():
        raise AssertionError(report.read_text())
    if code:
        raise StudioError(f"exit code {code}")


def _trained(folder: Path) -> Content:
    from tests.crashes import learnt

    style = folder / "r" / "r.safetensors"
    return learnt(folder / "r") if style.exists() else {}


CHECKPOINTS = {
    "checkpoint": Operation(_begin_checkpoints, lambda f: _save(f, 3), _newest),
    "first checkpoint": Operation(_begin_nothing, lambda f: _save(f, 1), _newest),
    "checkpoint again": Operation(_begin_checkpoints, lambda f: _save(f, 2), _newest),
}
LATENTS = {
    "latents": Operation(
        lambda f: _keep_latents(f, 0), _keep_latents, _found_latents, is_free=True
    ),
}
EXPORT = {"export": Operation(_begin_trained, _export, _exported)}
RUN = {"run": Operation(_begin_run, _train, _trained)}
# By what has to be imported for them
GROUPS = {
    "captions": CAPTIONS,
    "queue": QUEUE,
    "training": CHECKPOINTS | LATENTS | EXPORT,
    "run": RUN,
}

"""Real training processes that end by SIGKILL at a chosen point or time: `python -m tests.crashes`,
one JSON request a line, one answer a line.

The libraries are loaded once; every request is a fork of that process, which then trains as the
command does: with --sweep what holds [[styles]]. A request: {"run": RUN.toml, "point": NAME or "",
"at": which call of it, "after": seconds or 0, "leave_out": ""}.
The answer: {"signal": 9 or 0, "code": N, "late": whether its time was over}.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Where a process can die: module, attribute, and whether before or after the call. A call of the
# optimiser is an update.
POINTS: dict[str, tuple[str, str, str]] = {
    "drawing a class picture": ("training.diffusion.class_images", "write_whole", "after"),
    "encoding a picture": ("training.trainer.latents", "Latents.add", "before"),
    "keeping an encoded picture": ("training.trainer.latent_cache", "write_whole", "after"),
    "putting adapters on": ("training.trainer.attach", "attach", "after"),
    "going on from a checkpoint": ("training.trainer.saving", "restore", "before"),
    "between two passes of an update": ("training.trainer.trainer", "Trainer.backward", "after"),
    "before an update": ("training.trainer.optimizer", "Optimiser.update", "before"),
    "in the middle of an update": ("torch.optim", "AdamW.step", "after"),
    "after an update": ("training.trainer.optimizer", "Optimiser.update", "after"),
    "drawing a preview": ("training.trainer.previews", "draw", "after"),
    "before a checkpoint": ("training.trainer.checkpoint", "write", "before"),
    "between a checkpoint's files": ("training.trainer.checkpoint", "write_whole", "after"),
    "before a file's rename": ("pathlib", "Path.replace", "before"),
    "before a checkpoint's rename": ("pathlib", "Path.rename", "before"),
    "after a checkpoint's rename": ("pathlib", "Path.rename", "after"),
    "before a checkpoint is read back": ("training.trainer.checkpoint", "read", "before"),
    "deleting an old checkpoint": ("shutil", "rmtree", "before"),
    "after a checkpoint": ("training.trainer.checkpoint", "write", "after"),
    "before the style is written": ("training.trainer.export", "write_style", "before"),
    "before the style gets its name": ("training.trainer.export", "write_style", "after"),
    "writing a learnt word": ("training.style_files.embeddings", "embedding_bytes", "after"),
    "after the style got its name": ("training.trainer.export", "export", "after"),
    "writing an event": ("training.events", "to_line", "after"),
}
# The same of what only several styles do that are trained together
OF_SWEEPS: dict[str, tuple[str, str, str]] = {
    "timing a size of pass": ("training.trainer.turns", "finished", "after"),
    "before a company is written": ("training.trainer.schedule", "write", "before"),
    "between the folders of a company": ("training.trainer.schedule", "write_whole", "after"),
    "after a company is written": ("training.trainer.schedule", "write", "after"),
    "going along with others": ("training.trainer.optimizer", "Optimiser.untouched", "before"),
    "between two passes of a turn": ("training.trainer.engine", "Engine.losses", "after"),
}
MUTATIONS = (
    "moments",
    "count of updates",
    "average",
    "words",
    "order",
    "noise",
    "schedule",
)  # what a faulty resume may leave out


class Trainer:
    """The process that forks.

    Use as a context; `run` blocks until the fork has ended. late: whether the last one was ended by
    its time.
    """

    late = False

    def __enter__(self) -> Trainer:
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        command = [sys.executable, "-B", "-m", "tests.crashes"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()

    def run(
        self, run: Path, point: str = "", at: int = 1, after: float = 0.0, leave_out: str = ""
    ) -> tuple[int, int]:
        """Train, to the point or for so many seconds; return the signal that ended it (0 when it
        ended by itself) and its exit code.
        """
        request = {
            "run": str(run),
            "point": point,
            "at": at,
            "after": after,
            "leave_out": leave_out,
        }
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        self.late = answer["late"]
        return answer["signal"], answer["code"]


def run_toml(folder: Path, base: Path, name: str, **sections: dict[str, Any]) -> Path:
    """Settings of a small run in which everything happens:

    accumulation, an average, buckets, mirrored pictures, previews, checkpoints.
    """
    save = {"folder": str(folder / "runs"), "name": name, "every": 2}
    settings = _settings(
        folder,
        base,
        sections | {"save": save | sections.get("save", {})},
    )
    return _written(folder / f"{name}.toml", settings)


def sweep_toml(
    folder: Path,
    base: Path,
    name: str,
    styles: Sequence[dict[str, dict[str, Any]]],
    **sections: dict[str, Any],
) -> Path:
    """A sweep of such runs, runs/NAME/a, b and so on, each with settings of its own."""
    settings = _settings(folder, base, sections)

    def save(letter):
        return {"folder": str(folder / "runs" / name), "name": letter, "every": 2}

    named = [
        {**one, "save": save(letter) | one.get("save", {})}
        for one, letter in zip(styles, "abcdefgh", strict=False)
    ]
    return _written(folder / f"{name}.toml", settings | {"styles": named})


def _settings(folder: Path, base: Path, sections: dict[str, dict[str, Any]]) -> dict[str, Any]:
    settings: dict[str, dict[str, Any]] = {
        "base": {"model": str(base), "dtype": "float32", "device": "cpu"},
        "data": {"folder": str(folder / "pictures"), "trigger": "sks", "caption_dropout": 0.3},
        "adapter": {"rank": 2},
        "optim": {
            "steps": 6,
            "batch_size": 2,
            "accumulate": 2,
            "unet_lr": 1e-3,
            "text_encoder_lr": 1e-3,
            "ema": 0.9,
            "schedule": "cosine",
        },
        "preview": {"every": 3, "steps": 1, "prompts": ["a cat"]},
        "report": {"minutes": 0},
    }
    return settings | {
        section: settings.get(section, {}) | values for section, values in sections.items()
    }


def _written(path: Path, settings: dict[str, Any]) -> Path:
    import tomli_w

    path.write_text(tomli_w.dumps(settings))
    return path


def pictures(folder: Path) -> None:
    """Five small pictures of two shapes."""
    import numpy as np
    from PIL import Image

    (folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(40, 40), (40, 40), (64, 40), (40, 40), (64, 40)]):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
            folder / "pictures" / f"{i}.png"
        )
        (folder / "pictures" / f"{i}.txt").write_text(f"thing {i}")


def learnt(run: Path) -> dict[str, bytes]:
    """What a finished run learnt, as bytes:

    every weight of the style and its words; adapters, moments, average of the last checkpoint;
    guards.
    """
    from safetensors.numpy import load_file

    style = {
        f"style {name}": array.tobytes()
        for name, array in load_file(run / f"{run.name}.safetensors").items()
    }
    style |= {f"word {file.name}": file.read_bytes() for file in (run / "words").glob("*")}
    last = max((run / "checkpoints").glob("step-*"))
    state = {
        f"state {name}": array.tobytes()
        for name, array in load_file(last / "state.safetensors").items()
    }
    record = json.loads((last / "state.json").read_text())
    return {
        **style,
        **state,
        "guard": json.dumps(record["guard"]).encode(),
        "pictures": json.dumps(record["pictures"]).encode(),
    }


def paced(sweep: Path, sizes: Sequence[int]) -> None:
    """Let a sweep that has timed how many styles go in one pass find these sizes quickest, the
    first most of all.
    """
    for kept in sweep.glob("*/company.json"):
        record = json.loads(kept.read_text())
        assert record["paces"], "how many go in one pass was not timed yet"
        record["paces"] = {
            area: {str(size): float(place) for place, size in enumerate(sizes, 1)}
            for area in record["paces"]
        }
        kept.write_text(json.dumps(record))


def order(sweep: Path) -> str:
    """The sizes of a pass as a sweep found them, the quickest first."""
    (pace,) = json.loads((sweep / "a" / "company.json").read_text())["paces"].values()
    return "-".join(sorted(pace, key=pace.__getitem__))


def same_schedule(sweep: Path, other: Path) -> None:
    """Let a sweep that is not begun yet go with as many styles in one pass as another one does."""
    for kept in other.glob("*/company.json"):
        (sweep / kept.parent.name).mkdir(parents=True)
        (sweep / kept.parent.name / kept.name).write_bytes(kept.read_bytes())


def differences(sweep: Path, straight: Path) -> str:
    """ "" when every style of a sweep equals the undisturbed sweep's to the bit, else what
    differs.
    """
    found = {run.name: difference(sweep / run.name, run) for run in sorted(straight.iterdir())}
    return "; ".join(f"{name}: {what}" for name, what in found.items() if what)


def traces(run: Path) -> dict[int, set[tuple[float, float, float]]]:
    """Loss, gradient norm and learning rate that were ever reported for an update:

    one, when every attempt made the same.
    """
    from training import events

    found: dict[int, set[tuple[float, float, float]]] = {}
    for event in events.read(run / "events.jsonl"):
        if isinstance(event, events.Stepped):
            found.setdefault(event.step, set()).add(
                (event.loss, event.gradient_norm, event.learning_rate)
            )
    return found


def difference(run: Path, straight: Path) -> str:
    """ "" when a run equals the undisturbed one to the bit, else what differs."""
    a, b = learnt(run), learnt(straight)
    wrong = [name for name in b if a.get(name) != b[name]] + [name for name in a if name not in b]
    losses, expected = traces(run), traces(straight)
    lines = [
        f"update {step}: {losses.get(step)}"
        for step in expected
        if losses.get(step) != expected[step]
    ]

    def names(folder):
        return sorted(p.name for p in (folder / "previews").glob("*.png"))

    drawn = ["previews"] if names(run) != names(straight) else []
    return "; ".join([*wrong[:3], *lines[:3], *drawn])


# --- the process that forks ---


def _serve() -> None:
    # Everything heavy, once; nothing is computed here, so that every fork has threads of its own
    import peft.tuners.lora
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from training import train_style
    from training.cli import sweep
    from training.trainer import joint, loop

    # drawn by a process of its own, which teaches nobody
    sweep._grid = lambda done, as_json: True
    del (
        loop,
        joint,
        peft,
        AutoencoderKL,
        DDIMScheduler,
        UNet2DConditionModel,
        CLIPTextModel,
        CLIPTokenizer,
    )
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.dup2(
                os.open(
                    Path(request["run"]).with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND
                ),
                1,
            )
            os.dup2(1, 2)
            _prepare(request["point"], request["at"], request["leave_out"])
            wanted = (
                ["--sweep"] if "styles" in tomllib.loads(Path(request["run"]).read_text()) else []
            )
            os._exit(train_style.main([request["run"], *wanted]))
        status, late = _ended(child, request["after"])
        killed = os.WIFSIGNALED(status)
        answer = {
            "signal": os.WTERMSIG(status) if killed else 0,
            "code": 0 if killed else os.WEXITSTATUS(status),
            "late": late,
        }
        print(json.dumps(answer), flush=True)


def _ended(child: int, after: float) -> tuple[int, bool]:
    """Wait for a fork; with `after`, kill it once so many seconds have passed.

    Returns its status and whether it was killed so.
    """
    end = time.monotonic() + after
    while after and time.monotonic() < end:
        gone, status = os.waitpid(child, os.WNOHANG)
        if gone:
            return status, False
        time.sleep(0.001)
    if after:
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1], bool(after)


def _prepare(point: str, at: int, leave_out: str) -> None:
    """Arm the point, and leave out of a resume what a test of the tests wants left out."""
    if leave_out:
        _mutations()[leave_out]()
    if not point:
        return
    module, attribute, when = {**POINTS, **OF_SWEEPS}[point]
    calls = 0

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **keys: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **keys)
            if calls == at and when == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    _patch(module, attribute, around)


def _patch(
    module: str, attribute: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> None:
    owner: Any = __import__(module, fromlist=["_"])
    *path, name = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, around(getattr(owner, name)))


def _mutations() -> dict[str, Callable[[], None]]:
    """Faults a trainer can have: each leaves out of a resume one thing that must not be lost."""

    def without(endings: tuple[str, ...]) -> Callable[[], None]:
        """Tensors of these names come back as zeros."""

        def restore(real: Callable[..., Any]) -> Callable[..., Any]:
            return lambda self, tensors: real(
                self, {k: v * 0 if k.endswith(endings) else v for k, v in tensors.items()}
            )

        return lambda: _patch("training.trainer.optimizer", "Optimiser.restore", restore)

    def from_the_start(module: str, attribute: str, place: int) -> Callable[[], None]:
        """What counts updates begins at 0 in a resumed process.

        place: of that count among the arguments.
        """
        first: list[int] = []

        def shifted(real: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **keys: Any) -> Any:
                first.append(args[place])
                return real(*args[:place], args[place] - first[0], *args[place + 1 :], **keys)

            return wrapped

        return lambda: _patch(module, attribute, shifted)

    return {
        "moments": without((".first", ".second")),
        "count of updates": without((".updates",)),
        "average": without((".average",)),
        "words": without(("tokens.weights",)),
        "order": from_the_start("training.runtime.rng", "Order.rows", 1),
        "noise": from_the_start("training.trainer.batches", "drawn", 1),
        "schedule": from_the_start("training.trainer.trainer", "course", 1),
        "company": lambda: _patch(
            "training.trainer.schedule", "found", lambda real: lambda configs, here: None
        ),
    }


def random_point(rng: random.Random, *, sweep: bool = False) -> tuple[str, int]:
    """A point and which call of it; a call that never comes ends no process."""
    return rng.choice(sorted({**POINTS, **OF_SWEEPS} if sweep else POINTS)), rng.choice(
        (1, 1, 2, 3, 5, 8)
    )


if __name__ == "__main__":
    _serve()

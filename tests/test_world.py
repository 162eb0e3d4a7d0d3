"""Several processes train what one trains:

real ones, over gloo on a CPU, as torchrun and accelerate start them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from tests.test_together import elsewhere, exact, learnt, same, style
from training import events
from training.config.loading import to_toml
from training.config.schema import RunConfig
from training.errors import ConfigError
from training.runtime.distributed import joined
from training.trainer.loop import train

__all__ = ["exact"]
ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "1000",
}
# all that divides a batch in another way: three rows over two processes, two passes, class
# pictures, answers of the frozen base
RICH = {
    "optim__batch_size": 3,
    "optim__accumulate": 2,
    "optim__text_encoder_lr": 1e-3,
    "optim__ema": 0.5,
    "optim__clip": 0.1,
    "data__flip": True,
    "prior__images": 3,
    "prior__prompt": "icon",
    "prior__frozen_weight": 1.0,
    "preview__every": 6,
    "save__every": 2,
}


def started(
    folder: Path, configs: dict[str, RunConfig], **environment: str
) -> subprocess.CompletedProcess[str]:
    """Have two processes train these, one after another, in the order of their names."""
    folder.mkdir()
    for name, config in configs.items():
        (folder / f"{name}.toml").write_text(to_toml(config))
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "tests.two_processes",
        str(folder),
    ]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def heard(folder: Path, name: str, rank: int) -> list[Any]:
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def figures(found: list[Any]) -> list[tuple[int, float, float]]:
    return [
        (value["step"], value["loss"], value["gradient_norm"])
        for kind, value in found
        if kind == "Stepped"
    ]


def alike(a: list[tuple[int, float, float]], b: list[tuple[int, float, float]]) -> bool:
    """Losses are summed in float32, gradients in float64."""
    losses, norms = (
        (column(a), column(b))
        for column in (lambda found: [x[:2] for x in found], lambda found: [x[2] for x in found])
    )
    return np.allclose(*losses, rtol=1e-6, atol=0) and np.allclose(*norms, rtol=1e-9, atol=0)


def straight(config: RunConfig) -> list[tuple[int, float, float]]:
    return [
        (e.step, e.loss, e.gradient_norm) for e in train(config) if isinstance(e, events.Stepped)
    ]


def test_two_processes_train_the_style_of_one(
    base_folder: Path, tmp_path: Path, exact: None
) -> None:
    """Straight, gone on with by two and by one, stopped by one of them, a memory full, the base
    divided: one style to a part in 2^10.

    What is written is float16; gradient norms, in float64, are equal to a part in 10^9. A process
    that dies ends the other with a word.
    """
    one = style("one", base_folder, tmp_path, **RICH)
    even = style(
        "even",
        base_folder,
        tmp_path,
        **RICH | {"optim__batch_size": 2, "data__folder": one.data.folder},
    )
    wanted, wanted_even = straight(one), straight(even)
    runs = {
        name: elsewhere(one, name)
        for name in ("a-two", "b-resumed", "c-stopped", "d-full", "g-killed")
    }
    full = runs["d-full"]  # its passes are split; with checkpointing on auto that would come first
    runs["d-full"] = full.model_copy(
        update={"optim": full.optim.model_copy(update={"checkpointing": "off"})}
    )
    runs["e-shards"] = elsewhere(even, "shards")
    runs["f-few"] = style("few", base_folder, tmp_path, optim__batch_size=1)
    made = 0

    def stop() -> bool:
        return made == 3

    for event in train(runs["b-resumed"], stop):
        made += isinstance(event, events.Stepped)
    folder = tmp_path / "two"
    ended = started(folder, runs, **SHARDED)
    assert ended.returncode == 1, ended.stderr  # the last one kills a process

    for name in ("a-two", "d-full"):
        same(one, runs[name], 2**-10)
        assert alike(figures(heard(folder, name, 0)), wanted), name
        assert figures(heard(folder, name, 0)) == figures(heard(folder, name, 1)), (
            name
        )  # the same bits: the adapters stay alike
    same(even, runs["e-shards"], 2**-10)
    assert alike(figures(heard(folder, "e-shards", 0)), wanted_even)
    assert any(
        "passes of" in value["message"]
        for kind, value in heard(folder, "d-full", 0)
        if kind == "Warned"
    )
    assert {path.name for path in (one.run_folder / "previews").iterdir()} == {
        path.name for path in (runs["a-two"].run_folder / "previews").iterdir()
    }

    same(one, runs["b-resumed"], 2**-10)
    resumed = heard(folder, "b-resumed", 0)
    assert [step for step, *_ in figures(resumed)] == [4, 5, 6]
    assert any(
        "processes was 1, now it is 2" in value["message"]
        for kind, value in resumed
        if kind == "Warned"
    )

    for rank in (0, 1):  # asked of the second process alone
        kind, value = heard(folder, "c-stopped", rank)[-1]
        assert kind == "Finished" and value["stopped"] and value["step"] == 3
        kind, value = heard(folder, "f-few", rank)[-1]
        assert kind == "ConfigError" and "optim.batch_size is 1" in value
    assert [e.step for e in train(runs["c-stopped"]) if isinstance(e, events.Stepped)] == [4, 5, 6]
    same(one, runs["c-stopped"], 2**-10)

    kind, value = heard(folder, "g-killed", 0)[-1]
    assert kind == "OthersEndedError" and "another process of this training has ended" in value
    assert not (folder / "g-killed-1.json").exists()
    assert [e.step for e in train(runs["g-killed"]) if isinstance(e, events.Stepped)] == [
        3,
        4,
        5,
        6,
    ]  # saved after two updates
    same(one, runs["g-killed"], 2**-10)


def test_accelerate_launches_the_command_and_a_signal_to_one_saves_for_all(
    base_folder: Path, tmp_path: Path
) -> None:
    config = style("long", base_folder, tmp_path, optim__steps=100_000)
    (tmp_path / "run.toml").write_text(to_toml(config))
    flags = [
        "--use_fsdp",
        "--fsdp_version",
        "2",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
    ]
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        *flags,
        str(ROOT / "training" / "train_style.py"),
        str(tmp_path / "run.toml"),
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as launched:
        try:
            log, until = config.run_folder / "events.jsonl", time.monotonic() + 120
            while (
                not any(isinstance(e, events.Stepped) for e in events.read(log))
                and time.monotonic() < until
                and launched.poll() is None
            ):
                time.sleep(0.2)
            workers = {
                p.environ().get("RANK"): p
                for p in psutil.Process(launched.pid).children(recursive=True)
                if any(part.endswith("train_style.py") for part in p.cmdline())
            }  # not what they start themselves, to decode pictures
            workers["1"].send_signal(signal.SIGTERM)
            found, _ = launched.communicate(timeout=120)
        finally:
            launched.kill()
    assert launched.returncode == 0, found
    last = list(events.read(log))[-1]
    assert isinstance(last, events.Finished) and last.stopped and last.step > 0
    assert learnt(config) and [p.name for p in (config.run_folder / "checkpoints").iterdir()] == [
        f"step-{last.step:07d}"
    ]
    assert found.count("pictures, ") == 1  # one of them speaks


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "FSDP"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "fsdp_version: 2"),
        (SHARDED | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
    ],
)
def test_what_accelerate_is_configured_for_and_is_not_done_is_refused(
    environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", **environment}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message), joined("cpu"):
        pass
    with pytest.raises(ConfigError, match=r"base\.device"), joined("cuda:1"):
        pass
    assert not torch.distributed.is_initialized()

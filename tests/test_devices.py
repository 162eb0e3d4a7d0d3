"""Devices that this machine need not have: what is chosen, told and measured on each."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from studio.grid_spec import grid_spec_from
from studio.processes import job
from studio.system import device_worker, doctor, storage
from training.config.loading import from_mapping
from training.errors import ConfigError
from training.runtime import device, memory

GIB = 2**30
PRETENDED = Path(__file__).parent / "pretended_devices"
KINDS = ("cuda", "xpu", "mps", "cpu")


class Pretended:
    """What torch.cuda and torch.xpu have in common, of a card that is not there."""

    def __init__(self, count: int = 0, *, bfloat16: bool = True) -> None:
        self.count, self.bfloat16 = count, bfloat16
        self.calls: list[str] = []
        self.fraction = 1.0

    def is_available(self) -> bool:
        return self.count > 0

    def device_count(self) -> int:
        return self.count

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return self.bfloat16 or including_emulation

    def get_device_name(self, place: torch.device) -> str:
        return f"Card {place.index or 0}"

    def mem_get_info(self, place: torch.device) -> tuple[int, int]:
        return 6 * GIB, 8 * GIB

    def memory_reserved(self, place: torch.device) -> int:
        return GIB

    def max_memory_reserved(self, place: torch.device) -> int:
        return 2 * GIB

    def set_per_process_memory_fraction(self, fraction: float, place: torch.device) -> None:
        self.fraction = fraction
        self.calls.append(f"fraction {fraction}")

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.calls.append(name)


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> dict[str, Pretended]:
    """No card at all; a test says how many of each kind there are."""
    found = {"cuda": Pretended(), "xpu": Pretended(), "mps": Pretended()}
    monkeypatch.setattr(device.torch, "cuda", found["cuda"])
    monkeypatch.setattr(device.torch, "xpu", found["xpu"])
    monkeypatch.setattr(torch.backends.mps, "is_available", found["mps"].is_available)
    return found


@pytest.mark.parametrize("best", KINDS)
def test_the_fastest_kind_is_chosen_by_itself(cards: dict[str, Pretended], best: str) -> None:
    for kind in KINDS[KINDS.index(best) : -1]:
        cards[kind].count = 2
    assert device.choose().device.type == best
    assert device.choose("cpu").device.type == "cpu"


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_card_is_asked_for_name_precision_and_memory(
    cards: dict[str, Pretended], kind: str
) -> None:
    card = cards[kind]
    card.count = 2
    place = device.choose(f"{kind}:1")
    assert (place.name, place.dtype) == ("Card 1", torch.bfloat16)
    card.bfloat16 = False
    assert device.choose(kind).dtype == torch.float16
    assert device.has_own_memory(place.device) and memory.free(place.device) == 6
    assert memory.taken(place.device) == 1 and device.peak_memory(place.device) == 2
    with memory.watched(place.device, 4.0) as watch:
        assert card.fraction == 0.5
    assert card.fraction == 1.0 and watch.peak == 2
    device.finished(place.device)
    memory.give_back(place.device)
    assert {"synchronize", "empty_cache", "reset_peak_memory_stats"} <= {*card.calls}


@pytest.mark.parametrize("asked", ["cuda", "cuda:2", "xpu", "xpu:7", "mps"])
def test_a_device_that_is_not_here_is_refused(cards: dict[str, Pretended], asked: str) -> None:
    if ":" in asked:
        cards[asked.partition(":")[0]].count = 2
    with pytest.raises(ConfigError, match=f"base.device is {asked}, which this machine"):
        device.choose(asked)


@pytest.mark.parametrize("kind", ["cuda", "cuda:1", "xpu", "xpu:1", "mps", "cpu"])
def test_settings_and_commands_take_every_kind(kind: str) -> None:
    config = from_mapping({"base": {"device": kind}})
    lane = job.device_of(config)
    assert lane == (f"{kind}:0" if kind in ("cuda", "xpu") else kind)
    arguments = ["--base", "mini", "--prompt", "a cat", "--out", "grid.png", "--device", kind]
    assert grid_spec_from(arguments).device == kind


@pytest.mark.parametrize("wrong", ["tpu", "xpu:", "xpu:a", "mps:0", "cuda:-1"])
def test_another_device_is_no_setting(wrong: str) -> None:
    with pytest.raises(ConfigError, match="xpu:N or mps was expected"):
        from_mapping({"base": {"device": wrong}})


@pytest.mark.parametrize(
    ("version", "system", "asked"),
    [
        ("2.13.0+cpu", "linux", False),
        ("2.13.0", "win32", False),
        ("2.13.0+cu130", "linux", True),
        ("2.13.0", "linux", True),
        ("2.13.0+cu130", "win32", True),
        ("2.13.0+rocm6.4", "linux", True),
        ("2.13.0+xpu", "win32", True),
        ("2.13.0", "darwin", True),
    ],
)
def test_the_queue_asks_torch_unless_it_was_made_for_cpus(
    monkeypatch: pytest.MonkeyPatch, version: str, system: str, asked: bool
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: version)
    monkeypatch.setattr(job, "sys", SimpleNamespace(platform=system))
    monkeypatch.setattr(job, "_kind_of_torch", lambda: "what torch said")
    assert job.usual_device.__wrapped__() == ("what torch said" if asked else "cpu")


@pytest.mark.parametrize("pretended", ["cuda", "mps"])
def test_the_queue_believes_what_torch_finds_in_a_process_of_its_own(
    monkeypatch: pytest.MonkeyPatch, pretended: str
) -> None:
    """No device file and no program of a driver is here."""
    monkeypatch.setenv("PYTHONPATH", str(PRETENDED))
    monkeypatch.setenv("PRETENDED_DEVICE", pretended)
    assert job._kind_of_torch() == pretended


def test_where_torch_cannot_be_asked_the_lane_is_the_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for script in ("raise ImportError", "print('[]')", 'print(\'{"kind": "tpu"}\')', ""):
        monkeypatch.setattr(job, "ASKED", (sys.executable, "-S", "-c", script))
        assert job._kind_of_torch() == "cpu"


@pytest.mark.skipif(sys.platform == "win32", reason="the pretended program is a shell script")
@pytest.mark.parametrize(
    ("build", "script", "says"),
    [
        ("CPU", "echo Grand Card 9000", "Grand Card 9000"),
        ("CPU", "exit 9", ""),  # the program is there, its driver is not
        ("CUDA 13.0", "echo Grand Card 9000", "the driver is too old"),
        ("CUDA 13.0", "exit 9", ""),
        ("CPU", None, ""),
    ],
)
def test_a_card_that_torch_was_not_made_for_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, script: str | None, says: str
) -> None:
    if script is not None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    facts = {"device": "cpu", "precision": "bfloat16", "build": build}
    monkeypatch.setattr(storage, "device", lambda: dict(facts))
    found = {one.about: one for one in doctor._device()}
    finding = found.get("build of torch")
    assert (finding is not None) == bool(says)
    if finding is not None:
        assert says in finding.words and finding.state == "worth a look"
        assert "--torch-backend=auto" in finding.advice


@pytest.mark.parametrize(
    ("memory", "trains", "not_yet"),
    [
        ("1.0 GiB free of 3.6 GiB", "Stable Diffusion 1.5", "Stable Diffusion XL"),
        ("11.0 GiB free of 11.6 GiB", "Z-Image", "Chroma1 HD"),
        ("15.0 GiB free of 15.9 GiB", "Chroma1 HD", "FLUX.1 dev"),
    ],
)
def test_the_doctor_says_which_bases_a_card_trains(memory: str, trains: str, not_yet: str) -> None:
    (finding,) = doctor._trainable(memory)
    assert finding.state == "good" and trains in finding.words and not_yet not in finding.words


def test_the_doctor_says_where_a_card_is_too_small_and_nothing_without_one() -> None:
    (finding,) = doctor._trainable("1.5 GiB free of 2.0 GiB")
    assert finding.state == "worth a look" and "4 GB" in finding.advice
    assert not [*doctor._trainable(""), *doctor._trainable("9.0 GiB of the machine's, as Metal")]


def test_the_doctor_reads_the_memory_of_a_card_as_it_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the words of the process that asks torch."""
    monkeypatch.setenv("PYTHONPATH", f"{PRETENDED}")
    monkeypatch.setenv("PRETENDED_DEVICE", "cuda")
    found = {one.about: one for one in doctor._device()}
    words = found["bases that it trains"].words
    assert "a card of 12 GB" in words and "FLUX.2 klein 4B base" in words


@pytest.fixture
def apple(cards: dict[str, Pretended], monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """An Apple GPU: bytes that the process holds there, and that Metal recommends at most."""
    cards["mps"].count = 1
    found = {"held": GIB, "most": 5 * GIB}
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: found["held"])
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: found["most"])
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: found.update(held=0))
    return found


def test_an_apple_gpu_is_named_and_its_memory_measured(
    apple: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = device.choose()
    assert (place.device.type, place.name) == ("mps", "mps (Apple GPU)")
    monkeypatch.setattr(memory, "_available", lambda system: 64 * GIB)
    assert memory.free(place.device) == 4 and memory.taken(place.device) == 1
    assert device.peak_memory(place.device) == 1
    monkeypatch.setattr(memory, "_available", lambda system: 3 * GIB)
    assert memory.free(place.device) == 3  # it shares the machine's memory
    memory.give_back(place.device)
    assert memory.taken(place.device) == 0


def test_a_torch_for_apple_gpus_is_not_called_one_for_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    assert device_worker._build() == "Metal"


def test_an_apple_gpu_that_is_full_says_so_as_others_do(apple: dict[str, int]) -> None:
    place, layer = torch.device("mps"), torch.nn.Identity()
    with memory.watched(place, 3.0) as watch:
        apple["held"] = 2 * GIB
        layer(torch.ones(1))
    assert watch.peak == 2
    with pytest.raises(torch.OutOfMemoryError, match=r"4\.00 GiB"), memory.watched(place, 3.0):
        apple["held"] = 4 * GIB
        layer(torch.ones(1))
    apple["held"] = GIB
    with pytest.raises(torch.OutOfMemoryError), memory.watched(place, 3.0):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)")
    with pytest.raises(RuntimeError, match="another") as found, memory.watched(place, 3.0):
        raise RuntimeError("another error")
    assert not isinstance(found.value, torch.OutOfMemoryError)


@pytest.mark.parametrize(("system", "value"), [("darwin", "1"), ("linux", None)])
def test_what_an_apple_gpu_cannot_do_is_done_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch, system: str, value: str | None
) -> None:
    script = (
        f"import os, sys; sys.platform = {system!r}; import training; "
        "print(os.environ.get('PYTORCH_ENABLE_MPS_FALLBACK'), 'torch' in sys.modules)"
    )
    monkeypatch.delenv("PYTORCH_ENABLE_MPS_FALLBACK", raising=False)
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert said.stdout.split() == [str(value), "False"], said.stderr

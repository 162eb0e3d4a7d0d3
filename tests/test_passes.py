"""An update that does not fit is made in smaller ways:

which, what the user is told, and that a run goes on in the way it came to.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_training import changed, equal, of
from training.cli import dry_run
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import OutOfMemory
from training.events import Event, Finished, Noted, Stepped, Warned
from training.runtime import memory
from training.trainer import microbatching
from training.trainer.loop import train
from training.trainer.memory_watch import SPARE
from training.trainer.microbatching import MicrobatchPlan
from training.trainer.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def config(tmp_path: Path, base_folder: Path) -> RunConfig:
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(
            tmp_path / "pictures" / f"{i}.png"
        )
        (tmp_path / "pictures" / f"{i}.txt").write_text(f"thing {i}")
    return from_mapping(
        {
            "base": {"model": str(base_folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(tmp_path / "pictures")},
            "adapter": {"rank": 4},
            "optim": {"steps": 4, "batch_size": 4, "unet_lr": 1e-3, "text_encoder_lr": 0.0},
            "preview": {"every": 0},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 2},
        }
    )


def test_checkpointing_comes_first_then_ever_smaller_passes() -> None:
    way, seen = MicrobatchPlan(), []
    while way := way.smaller(3, may_checkpoint=True):
        seen.append((way.splits, way.checkpointing))
    assert seen == [(1, True), (2, True), (4, True)]
    assert (
        MicrobatchPlan().smaller(3, may_checkpoint=False) == MicrobatchPlan(2)
        and MicrobatchPlan(1).smaller(1, may_checkpoint=False) is None
    )


def test_a_way_is_put_in_words() -> None:
    assert (
        MicrobatchPlan(2, True).words(4) == "with gradient checkpointing, in passes of 2 pictures"
    )
    assert (
        MicrobatchPlan(4).words(4) == "in passes of 1 picture"
        and MicrobatchPlan().words(4) == "as the settings say"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"settings": {}, "turns": 5}',
        '{"settings": {}, "turns": [[0, {"splits": 0}]]}',
        "\xff",
    ],
)
def test_what_cannot_be_read_is_no_way(tmp_path: Path, text: str) -> None:
    turns = {0: MicrobatchPlan(1, True), 7: MicrobatchPlan(4, True)}
    microbatching.write(tmp_path, {}, turns)
    assert (
        microbatching.read(tmp_path, {}) == turns
        and microbatching.read(tmp_path, {"optim.steps": 9}) == {}
    )
    (tmp_path / microbatching.FILE).write_bytes(text.encode("latin-1"))
    assert microbatching.read(tmp_path, {}) == {}


# --- a memory that is really too small ---


@pytest.fixture
def with_room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Pretend that the first updates may take so many MiB more than this process has already."""

    def pretend(mib: int) -> None:
        memory.give_back(CPU)
        taken = memory.taken(CPU)
        monkeypatch.setattr(
            memory, "free", lambda device: (taken + mib / 1024) / (1 - SPARE) - memory.taken(device)
        )

    return pretend


@pytest.fixture
def large(config: RunConfig, parts: Any) -> RunConfig:
    """An update takes some 250 MiB, with checkpointing some 150, in smaller passes some 80
    to 120.
    """
    return changed(config, data__resolution=128, optim__batch_size=8, optim__steps=2)


@pytest.mark.own_process
def test_the_plan_says_how_it_fits_and_what_that_costs(
    large: RunConfig, with_room: Callable[[int], None]
) -> None:
    as_set = dry_run.measured(large, time.time())[0][
        "memory"
    ]  # also has everything that is imported late in memory
    assert as_set.startswith("fits as the settings say: ") and " GiB of " in as_set
    with_room(190)
    rows, notes = dry_run.measured(large, time.time())
    assert (
        rows["memory"].startswith("fits with gradient checkpointing: ")
        and " times as slow" in rows["memory"]
    ), rows
    assert "As the settings say it would take more than" in rows["memory"] and not [
        note for note in notes if "memory" in note
    ]
    with_room(120)
    assert re.match(
        "fits with gradient checkpointing, in passes of [124] pictures?: ",
        dry_run.measured(large, time.time())[0]["memory"],
    )
    with_room(10)
    with pytest.raises(
        OutOfMemory,
        match=r"one picture at a time, with gradient checkpointing.* GiB are "
        r"there.*data\.resolution",
    ):
        dry_run.measured(large, time.time())
    assert not large.run_folder.exists()


def test_a_base_that_does_not_fit_is_refused_before_it_is_loaded(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free", lambda device: 1e-5)
    monkeypatch.setattr("training.models.loader.load", None)
    with pytest.raises(
        OutOfMemory,
        match=r"weights of tiny alone .* 0\.0 GiB are free on cpu.*base\.dtype = bfloat16",
    ):
        list(train(config))


# --- a run goes on in the way it came to ---


@pytest.fixture
def too_small(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Pretend that no more than so many pictures go through the base at once; returns what was
    tried.
    """
    said = Trainer.predict

    def pretend(most: int) -> list[int]:
        seen: list[int] = []

        def narrow(self: Trainer, *given: Any, **keys: Any) -> torch.Tensor:
            seen.append(len(given[0]))
            if len(given[0]) > most:
                raise torch.OutOfMemoryError("the device is full")
            return said(self, *given, **keys)

        monkeypatch.setattr(Trainer, "predict", narrow)
        return seen

    return pretend


def stopped_after(config: RunConfig, updates: int) -> list[Event]:
    seen: list[Event] = []
    for event in train(config, lambda: len(of(Stepped, seen)) >= updates):
        seen.append(event)
    return seen


def test_auto_checkpoints_where_a_picture_alone_is_too_much_without(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = changed(config, optim__batch_size=1)
    on = changed(one, save__name="on", optim__checkpointing="on")
    list(train(on))
    said = Trainer.predict

    def narrow(self: Trainer, *given: Any, **keys: Any) -> torch.Tensor:
        if not self.parts.denoiser.is_gradient_checkpointing:
            raise torch.OutOfMemoryError("the device is full")
        return said(self, *given, **keys)

    monkeypatch.setattr(Trainer, "predict", narrow)
    events = list(train(one))
    assert isinstance(events[-1], Finished) and equal(one, on)
    assert "with gradient checkpointing" in of(Warned, events)[0].message
    with pytest.raises(OutOfMemory, match=r"optim\.checkpointing = auto"):
        list(train(changed(one, save__name="off", optim__checkpointing="off")))


def test_a_resumed_run_makes_its_passes_as_before_to_the_bit(
    config: RunConfig, too_small: Callable[[int], list[int]]
) -> None:
    plenty, straight, stopped = (
        changed(config, save__name=name) for name in ("plenty", "straight", "stopped")
    )
    list(train(plenty))
    too_small(2)
    list(train(straight))
    stopped_after(stopped, 2)
    seen = too_small(4)  # there is more memory now
    rest = list(train(stopped))
    assert set(seen) == {2} and "in passes of 2 pictures" in "".join(
        e.message for e in of(Noted, rest)
    )
    assert equal(straight, stopped) and not equal(plenty, straight)


def test_a_run_that_was_killed_before_its_first_checkpoint_makes_them_so_too(
    config: RunConfig, too_small: Callable[[int], list[int]]
) -> None:
    seen = too_small(2)
    for event in train(config):
        if isinstance(event, Stepped):
            break  # as a kill does, but for the lock
    seen.clear()
    assert [e.step for e in of(Stepped, list(train(config)))] == [1, 2, 3, 4] and set(seen) == {2}


def test_a_turn_in_the_middle_is_taken_again_at_its_update(
    config: RunConfig, too_small: Callable[[int], list[int]]
) -> None:
    seen = too_small(4)
    for event in train(config):
        if isinstance(event, Stepped) and event.step == 3:
            break
        if isinstance(event, Stepped) and event.step == 2:
            too_small(2)
    seen = too_small(4)
    assert [e.step for e in of(Stepped, list(train(config)))] == [3, 4] and set(seen) == {2}


def test_other_settings_find_their_own_way(
    config: RunConfig, too_small: Callable[[int], list[int]]
) -> None:
    too_small(1)
    stopped_after(config, 1)
    seen = too_small(2)
    list(train(changed(config, save__resume="adapt", optim__batch_size=2)))
    assert set(seen) == {2}
    list(train(changed(config, save__resume="anew")))
    assert (config.run_folder / "earlier-1" / microbatching.FILE).exists()


def test_checkpointing_may_be_set_otherwise_in_a_run_that_goes_on(config: RunConfig) -> None:
    straight = changed(config, save__name="straight")
    list(train(straight))
    stopped_after(config, 2)
    assert isinstance(list(train(changed(config, optim__checkpointing="on")))[-1], Finished)
    assert equal(config, straight)

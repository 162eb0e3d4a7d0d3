"""Killed at any moment, in chains, a run ends with the style of the undisturbed run to the bit; and
these tests would see it if not.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import crashes
from tests.crashes import POINTS, Trainer, difference, differences, run_toml, sweep_toml
from tests.tiny import tiny_xl
from training.storage.paths import latents_folder
from training.style_files.reading import read_style

EVERYTHING = {"prior": {"images": 2, "prompt": "a thing"}, "adapter": {"tokens": 2}}
FROZEN = {"optim": {"text_encoder_lr": 0.0, "accumulate": 1, "ema": 0.0}}
# Ranks, text encoder and words, passes an update and lengths of their own
STYLES = (
    {"optim": {"accumulate": 1}},
    {"adapter": {"rank": 4}, "optim": {"text_encoder_lr": 0.0, "ema": 0.0}},
    {"adapter": {"rank": 3, "tokens": 2}, "optim": {"steps": 4, "batch_size": 1, "accumulate": 1}},
)
# Where a sweep dies before its first update, and after it: one style is ahead after the first
# checkpoint and goes along with those behind
AT_FIRST = (
    ("between the folders of a company", 1),
    ("timing a size of pass", 2),
    ("before a company is written", 2),
    ("between the folders of a company", len(STYLES) + 1),
    ("after a company is written", 1),
)
LATER = (
    ("after a checkpoint", 1),
    ("going along with others", 1),
    ("between two passes of a turn", 1),
    ("before a checkpoint's rename", 1),
    ("in the middle of an update", 2),
    ("after the style got its name", 1),
)


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    with Trainer() as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crashes")
    crashes.pictures(folder)
    return folder


@pytest.fixture(scope="module")
def straight(trainer: Trainer, place: Path, base_folder: Path) -> Path:
    """A run that nothing disturbed, its text encoder and a word of its own trained, class pictures
    beside.
    """
    assert trainer.run(run_toml(place, base_folder, "straight", **EVERYTHING)) == (0, 0)
    return place / "runs" / "straight"


def test_two_undisturbed_runs_are_equal(
    trainer: Trainer, place: Path, base_folder: Path, straight: Path
) -> None:
    assert trainer.run(run_toml(place, base_folder, "again", **EVERYTHING)) == (0, 0)
    assert difference(place / "runs" / "again", straight) == ""


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_every_point_in_one_chain_it_equals_the_undisturbed_run(
    every: int, trainer: Trainer, place: Path, base_folder: Path, straight: Path
) -> None:
    """One run that dies at every named point in turn, or at every so many of them, and is begun
    again each time.
    """
    toml = run_toml(place, base_folder, f"chain-{every}", **EVERYTHING)
    shutil.rmtree(latents_folder())  # what the undisturbed run kept: it is to be encoded again
    for point in list(POINTS)[::every]:
        assert trainer.run(toml, point) == (9, 0), point
    assert trainer.run(toml) == (0, 0)
    assert difference(place / "runs" / f"chain-{every}", straight) == ""


def test_killed_at_random_it_equals_the_undisturbed_run(
    trainer: Trainer, place: Path, base_folder: Path
) -> None:
    """Here with a frozen text encoder, whose caption states are kept, and without accumulation and
    average.
    """
    assert trainer.run(run_toml(place, base_folder, "straight-frozen", **FROZEN)) == (0, 0)
    rng, toml = random.Random(7), run_toml(place, base_folder, "random", **FROZEN)
    assert trainer.run(toml, "after an update", at=2) == (9, 0)
    for _ in range(
        3
        # a point that is not reached, or a run that ends in its time, is no kill: how many are
        # depends on the machine
    ):
        trainer.run(toml, *crashes.random_point(rng))
        trainer.run(toml, after=rng.uniform(0.1, 1.0))
    assert trainer.run(toml) == (0, 0)
    assert difference(place / "runs" / "random", place / "runs" / "straight-frozen") == ""


def test_killed_with_two_text_encoders_it_equals_the_undisturbed_run(
    trainer: Trainer, place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same for a base of two text encoders, both trained, and a word that has vectors
    in both.
    """
    base = tiny_xl(tmp_path_factory.mktemp("xl") / "base")
    more = {
        "adapter": {"tokens": 2},
        "data": {"folder": str(place / "pictures"), "trigger": "sks", "resolution": 32},
    }
    assert trainer.run(run_toml(place, base, "straight-xl", **more)) == (0, 0)
    toml = run_toml(place, base, "chain-xl", **more)
    for point in (
        "after an update",
        "in the middle of an update",
        "between a checkpoint's files",
        "writing a learnt word",
        "after the style got its name",
    ):
        assert trainer.run(toml, point) == (9, 0), point
    assert trainer.run(toml) == (0, 0)
    chain = place / "runs" / "chain-xl"
    assert difference(chain, place / "runs" / "straight-xl") == ""
    assert {
        part
        for vectors in read_style(chain / "chain-xl.safetensors").words.values()
        for part in vectors
    } == {"text_encoder", "text_encoder_2"}


@pytest.fixture(scope="module")
def killed(trainer: Trainer, place: Path, base_folder: Path) -> Path:
    assert trainer.run(
        run_toml(place, base_folder, "killed", **EVERYTHING), "after an update", at=3
    ) == (9, 0)
    return place / "runs" / "killed"


@pytest.mark.parametrize("leave_out", crashes.MUTATIONS)
def test_a_resume_that_leaves_something_out_is_seen(
    leave_out: str, trainer: Trainer, place: Path, base_folder: Path, straight: Path, killed: Path
) -> None:
    run = shutil.copytree(killed, killed.with_name(f"without {leave_out}"))
    assert trainer.run(
        run_toml(place, base_folder, run.name, **EVERYTHING), leave_out=leave_out
    ) == (0, 0)
    assert difference(run, straight) != ""


@pytest.fixture(scope="module")
def straight_two(trainer: Trainer, place: Path, base_folder: Path) -> Path:
    """A sweep of two styles that nothing disturbed, both in one pass."""
    runs = place / "runs"
    assert trainer.run(
        sweep_toml(place, base_folder, "timed", STYLES[:2]), "after a company is written", at=2
    ) == (9, 0)  # timed
    crashes.paced(runs / "timed", (2, 1))
    crashes.same_schedule(runs / "straight-two", runs / "timed")
    assert trainer.run(sweep_toml(place, base_folder, "straight-two", STYLES[:2])) == (0, 0)
    return runs / "straight-two"


def test_a_killed_sweep_of_two_styles_equals_the_undisturbed_one(
    trainer: Trainer, place: Path, base_folder: Path, straight_two: Path
) -> None:
    toml, sweep = sweep_toml(place, base_folder, "two", STYLES[:2]), place / "runs" / "two"
    crashes.same_schedule(sweep, straight_two)
    for point, at in LATER:
        assert trainer.run(toml, point, at) == (9, 0), point
    assert trainer.run(toml) == (0, 0)
    assert differences(sweep, straight_two) == ""


@pytest.mark.parametrize("later", [LATER[:1], pytest.param(LATER, marks=pytest.mark.long)], ids=len)
def test_a_killed_sweep_of_three_styles_equals_the_undisturbed_one(
    later: tuple[tuple[str, int], ...], trainer: Trainer, place: Path, base_folder: Path
) -> None:
    """Also when it dies while it is timed how many go in one pass, and when that is written
    down.
    """
    runs, name, straight = place / "runs", f"three-{len(later)}", f"straight-three-{len(later)}"
    toml = sweep_toml(place, base_folder, name, STYLES)
    for point, at in AT_FIRST:
        assert trainer.run(toml, point, at) == (9, 0), point
    crashes.paced(runs / name, (3, 2, 1))
    for point, at in later:
        assert trainer.run(toml, point, at) == (9, 0), point
    assert trainer.run(toml) == (0, 0)
    crashes.same_schedule(runs / straight, runs / name)
    assert trainer.run(sweep_toml(place, base_folder, straight, STYLES)) == (0, 0)
    assert differences(runs / name, runs / straight) == ""


def test_a_sweep_that_forgets_its_schedule_is_seen(
    trainer: Trainer, place: Path, base_folder: Path, straight_two: Path
) -> None:
    alone = place / "runs" / "alone"
    crashes.same_schedule(alone, straight_two)
    crashes.paced(alone, (1, 2))
    assert trainer.run(sweep_toml(place, base_folder, "alone", STYLES[:2])) == (0, 0)
    # on some processors a style's bits are the same in any company
    shows = differences(alone, straight_two) != ""
    toml, sweep = (
        sweep_toml(place, base_folder, "forgotten", STYLES[:2]),
        place / "runs" / "forgotten",
    )
    crashes.same_schedule(sweep, straight_two)
    assert trainer.run(toml, "after a checkpoint") == (9, 0)  # of one style; the other is behind
    assert trainer.run(toml, leave_out="company") == (0, 0)
    assert (differences(sweep, straight_two) != "") == shows

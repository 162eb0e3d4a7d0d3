"""The count of threads follows the cores that others leave, and a run keeps to what it recorded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.test_together import bits, elsewhere, style
from tests.test_training import changed, config, pictures
from training.config.schema import RunConfig
from training.events import Saved, Stepped
from training.runtime import cpu_threads
from training.runtime.cpu_threads import FreeCores, Sample, Threads
from training.trainer import schedule
from training.trainer.joint import together
from training.trainer.loop import train

__all__ = ["config", "pictures"]  # fixtures


def windows(loads: Iterable[float], cores: int, monkeypatch: pytest.MonkeyPatch) -> FreeCores:
    """A machine on which others take so many cores, second after second."""
    taken = itertools.accumulate(loads, initial=0.0)
    samples = iter(Sample(float(at), total, 0.0, cores) for at, total in enumerate(taken))
    clock = itertools.count(1)
    monkeypatch.setattr(cpu_threads.time, "monotonic", lambda: float(next(clock)))
    return FreeCores(lambda: next(samples))


@pytest.mark.parametrize(
    ("cores", "loads", "counts"),
    [
        (2, [0.0, 0.1, 0.3], [2, 2, 2]),
        (2, [1.0, 1.3, 0.9], [1, 1, 1]),  # two busy processes beside two threads, then beside one
        (2, [1.0, 0.1, 0.1, 0.0], [1, 1, 2, 2]),  # they are gone
        (2, [1.0, 0.1, 1.0, 0.1, 1.0], [1, 1, 1, 1, 1]),  # they come and go
        (2, [2.0, 9.0], [1, 1]),  # never none
        (2, [1.0, 0.45, 0.45, 0.45, 0.45], [1, 1, 1, 1, 1]),  # half a core is not one
        (16, [6.2, 6.2, 0.0, 0.0], [10, 10, 10, 16]),
    ],
)
def test_the_count_follows_the_free_cores(
    cores: int, loads: list[float], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = Threads(windows(loads, cores, monkeypatch), cores)
    found = []
    for _ in loads:
        threads.count = threads.wanted()
        found.append(threads.count)
    assert found == counts


class Machine:
    """Two cores, on which a program of a lower priority takes what is left, or its share."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, gives_way: bool) -> None:
        self.now, self.taken, self.gives_way = 0.0, 0.0, gives_way
        monkeypatch.setattr(cpu_threads.time, "monotonic", lambda: self.now)
        self.threads = Threads(FreeCores(self.sample), 2)

    def sample(self) -> Sample:
        return Sample(self.now, self.taken, self.taken, 2)

    def second(self) -> int:
        self.now += 1
        self.taken += 2 - self.threads.count if self.gives_way else 1
        self.threads.count = self.threads.wanted()
        return self.threads.count


def test_programs_of_a_lower_priority_are_asked_to_give_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = Machine(monkeypatch, gives_way=True)
    assert [machine.second() for _ in range(5)] == [2] * 5
    machine.threads.count = 1  # something else was there
    assert [machine.second() for _ in range(5)] == [1, 2, 2, 2, 2]


def test_they_are_asked_less_and_less_where_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system shares its cores among sessions, whatever the priority in each."""
    machine = Machine(monkeypatch, gives_way=False)
    counts = [machine.second() for _ in range(400)]
    tries = [second for second, count in enumerate(counts) if count == 2]
    assert 4 < len(tries) < 12
    gaps = [after - before for before, after in itertools.pairwise(tries)]
    assert gaps == sorted(gaps)


def test_a_window_that_is_too_short_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(cpu_threads.time, "monotonic", lambda: now[0])
    free = FreeCores(lambda: Sample(now[0], 0.0, 0.0, 4))
    now[0] = 0.5
    assert free.look() is None
    now[0] = 1.5
    assert free.look() == cpu_threads.Free(4.0, 4.0)


def test_a_sample_of_this_machine_counts_others_only() -> None:
    before = cpu_threads.sample()
    spent = 0
    while spent < 3_000_000:
        spent += 1  # this process's own work
    after = cpu_threads.sample()
    seconds = after.at - before.at
    assert after.cores >= 1
    assert after.others - before.others <= after.cores * seconds + 0.2


def scripted(
    monkeypatch: pytest.MonkeyPatch, wanted: Sequence[int], loud: list[int] | None = None
) -> list[int]:
    """Two threads at most; before every update as many are wanted as the script says, then as its
    last word. Returns the counts with which updates are made, as they come.
    """
    answers = itertools.chain(wanted, itertools.repeat(wanted[-1]))
    torch.set_num_threads(2)
    monkeypatch.setattr(cpu_threads, "follows", lambda: True)
    monkeypatch.setattr(Threads, "wanted", lambda self: next(answers))
    return [] if loud is None else loud


@pytest.fixture(autouse=True)
def same_threads_afterwards() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def counted(events: Iterable[object], made: list[int]) -> Iterator[object]:
    for event in events:
        if isinstance(event, Stepped):
            made.append(torch.get_num_threads())
        yield event


def record(folder: Path) -> dict[int, int]:
    return dict(json.loads((folder / cpu_threads.FILE).read_text())["threads"])


def test_a_run_writes_down_its_threads_and_repeats_them(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made again after a kill is made as before, whatever the machine does now."""
    config = changed(config, optim__steps=8, save__every=2, preview__every=0)
    straight, killed = (changed(config, save__name=name) for name in ("straight", "killed"))
    script = [2, 2, 2, 1, 1, 2, 2, 2, 2]  # before set-up, then before updates 0 to 7
    made: list[int] = []
    scripted(monkeypatch, script)
    list(counted(train(straight), made))
    assert made == script[1:] and record(straight.run_folder) == {2: 1, 4: 2}

    made = []
    scripted(monkeypatch, script)
    with closing(counted(train(killed), made)) as events:
        next(e for e in events if isinstance(e, Saved) and e.step == 2)
        next(e for e in events if isinstance(e, Stepped) and e.step == 5)
    # As if it had been killed before the checkpoints after update 2 were written
    for path in (killed.run_folder / "checkpoints").glob("step-*4"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    made = []
    scripted(monkeypatch, [2])  # the machine is calm now
    list(counted(train(killed), made))
    assert made == script[3:]
    assert bits(killed) == bits(straight)


def test_one_that_begins_anew_forgets_the_former_record(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config, optim__steps=4, preview__every=0)
    scripted(monkeypatch, [1])
    list(train(config))
    assert record(config.run_folder) == {0: 1}
    made: list[int] = []
    scripted(monkeypatch, [2])
    list(counted(train(changed(config, save__resume="anew")), made))
    assert made == [2] * 4 and not (config.run_folder / cpu_threads.FILE).exists()


def test_styles_that_are_trained_together_repeat_their_threads(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [
        style(name, base_folder, tmp_path, save__every=2, optim__steps=6) for name in ("a", "b")
    ]
    again = [elsewhere(config, "again") for config in configs]
    script = [2, 2, 2, 1, 1, 2]  # before the turns 0 to 5
    made: list[int] = []
    scripted(monkeypatch, script)

    def of_first(events: Iterable[tuple[int, object]]) -> Iterator[object]:
        return (event for place, event in events if place == 0)

    list(counted(of_first(together(configs, at_once=2)), made))
    assert made == script

    scripted(monkeypatch, script)
    with closing(together(again, at_once=2)) as events:
        next(e for _, e in events if isinstance(e, Stepped) and e.step == 6)
    for each in again:
        for path in (each.run_folder / "checkpoints").glob("step-*[46]"):
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
    made = []
    scripted(monkeypatch, [2])
    list(counted(of_first(together(again, at_once=2)), made))
    assert made == script[2:]
    assert [bits(config) for config in again] == [bits(config) for config in configs]


@pytest.mark.parametrize("many", [False, True], ids=["alone", "together"])
def test_the_count_is_given_back(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, many: bool
) -> None:
    configs = [style(name, base_folder, tmp_path, optim__steps=2) for name in ("a", "b")]
    scripted(monkeypatch, [1])
    made: list[int] = []
    if many:
        list(counted((event for _, event in together(configs, at_once=2)), made))
    else:
        list(counted(train(configs[0]), made))
    assert set(made) == {1} and torch.get_num_threads() == 2


def test_a_damaged_joint_schedule_sets_no_impossible_count(tmp_path: Path) -> None:
    written = {"began": {"0": 0}, "settings": {"0": ""}, "paces": {}, "alone": {}}
    for threads, is_read in (({"3": 1}, True), ({"3": 0}, False), ({"3": -1}, False)):
        (tmp_path / schedule.FILE).write_text(json.dumps({**written, "threads": threads}))
        assert (schedule._read(tmp_path / schedule.FILE) is not None) is is_read


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(4)
    for environment, expected in (
        ({}, True),
        ({"OMP_NUM_THREADS": "4"}, False),
        ({"OMP_NUM_THREADS": "4", cpu_threads.CHOICE: "follow"}, True),
        ({cpu_threads.CHOICE: "fixed"}, False),
    ):
        monkeypatch.setattr(cpu_threads, "os", SimpleNamespace(environ=environment))
        assert cpu_threads.follows() is expected, environment


def test_drawing_follows_only_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, [1, 2])
    before = torch.get_num_threads()
    cpu_threads.follow()
    assert torch.get_num_threads() == before
    with cpu_threads.following():
        cpu_threads.follow()
        assert torch.get_num_threads() == 1
        cpu_threads.follow()
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before

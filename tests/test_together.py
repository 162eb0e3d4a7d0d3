"""Styles that are trained in one pass learn what each learns alone:

the guarantee, in float64 on a tiny real base.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import load_file
from torch import nn

from training.adapters.multi_lora import SharedBase
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.errors import BusyError, ConfigError, DataError
from training.events import (
    Event,
    Failed,
    Finished,
    Noted,
    Previewed,
    Saved,
    Started,
    Stepped,
    Warned,
    append,
)
from training.models import base_files, loader
from training.runtime.device import DeviceSpec
from training.storage.run_lock import held
from training.style_files.reading import read_style
from training.trainer import plan as plan_module
from training.trainer.full_disk import Stop, never
from training.trainer.joint import together
from training.trainer.loop import train
from training.trainer.pace import AT_ONCE, Pace
from training.trainer.trainer import Trainer


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frozen base, the adapters and their moments in float64:

    what differs between two ways is the mathematics, not rounding.
    """
    choose = plan_module.choose

    def double(device: str, dtype: str) -> DeviceSpec:
        place = choose(device, "float32")
        return DeviceSpec(**{**vars(place), "dtype": torch.float64})

    monkeypatch.setattr(plan_module, "choose", double)


def style(name: str, base: Path, root: Path, **keys: Any) -> RunConfig:
    """Five pictures of its own in two shapes, and settings of its own: `section__name=value`."""
    folder = root / f"pictures-{name}"
    if not folder.exists():
        folder.mkdir()
        rng = np.random.default_rng(sum(map(ord, name)))
        for i, size in enumerate([(40, 40), (40, 40), (64, 40), (40, 40), (64, 40)]):
            Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
                folder / f"{i}.png"
            )
            (folder / f"{i}.txt").write_text(f"thing {i} of {name}")
    tables: dict[str, dict[str, Any]] = {
        "base": {"model": str(base), "dtype": "float32", "device": "cpu"},
        "data": {"folder": str(folder), "trigger": "sks"},
        "adapter": {"rank": 4, "alpha": 4.0},
        "optim": {
            "steps": 6,
            "batch_size": 2,
            "unet_lr": 1e-3,
            "text_encoder_lr": 0.0,
            "warmup": 0.0,
        },
        "preview": {"every": 0, "steps": 2},
        "report": {"minutes": 0.0},
        "save": {"folder": str(root / "runs"), "name": name, "every": 0},
    }
    for key, value in keys.items():
        section, field = key.split("__")
        tables.setdefault(section, {})[field] = value
    return from_mapping(tables)


def different(base: Path, root: Path, **keys: Any) -> list[RunConfig]:
    """Styles that differ in what may differ."""
    return [
        style("plain", base, root, **keys),
        style(
            "wide",
            base,
            root,
            adapter__rank=8,
            adapter__alpha=2.0,
            optim__seed=7,
            optim__steps=4,
            optim__accumulate=2,
            **keys,
        ),
        style(
            "words",
            base,
            root,
            optim__text_encoder_lr=1e-3,
            optim__ema=0.5,
            optim__clip=0.1,
            data__flip=True,
            **keys,
        ),
        style(
            "shapes",
            base,
            root,
            adapter__targets=["convolutions", "projections"],
            optim__batch_size=1,
            optim__noise_offset=0.1,
            **keys,
        ),
        style("held", base, root, prior__frozen_weight=1.0, optim__schedule="linear", **keys),
    ]


def elsewhere(config: RunConfig, folder: str) -> RunConfig:
    return config.model_copy(
        update={
            "save": config.save.model_copy(
                update={"folder": str(Path(config.save.folder).with_name(folder))}
            )
        }
    )


def learnt(config: RunConfig) -> dict[str, np.ndarray]:
    return {
        name: lora.delta()
        for name, lora in read_style(
            config.run_folder / f"{config.save.name}.safetensors"
        ).modules.items()
    }


def same(a: RunConfig, b: RunConfig, bound: float) -> None:
    """Every module's change of weights, within the bound of the largest."""
    x, y = learnt(a), learnt(b)
    assert x.keys() == y.keys()
    for name in x:
        assert abs(x[name] - y[name]).max() <= bound * abs(x[name]).max(), name


def of(kind: type[Event], events: list[tuple[int, Event]], number: int) -> list[Any]:
    return [event for i, event in events if i == number and isinstance(event, kind)]


def test_a_style_among_others_is_the_style_alone(
    base_folder: Path, tmp_path: Path, exact: None
) -> None:
    """Other pictures, ranks, alphas, targets, text encoder on and off, accumulation, averages,
    clipping, lengths: the files are equal.

    What is written is float16, so a difference of 1e-12 in float64 may turn one rounding: 2^-10 of
    a weight at most.
    """
    alone = different(base_folder, tmp_path)
    figures = [
        [(e.loss, e.gradient_norm) for e in train(config) if isinstance(e, Stepped)]
        for config in alone
    ]
    many = [elsewhere(config, "many") for config in alone]
    events = list(together(many))
    for number, (one, other) in enumerate(zip(alone, many, strict=True)):
        assert of(Finished, events, number) and not of(Failed, events, number)
        same(one, other, 2**-10)
        assert np.allclose(
            figures[number],
            [(e.loss, e.gradient_norm) for e in of(Stepped, events, number)],
            rtol=1e-5,
            atol=0,
        )
    # One that is done leaves, the others go on without it
    last = [
        max(
            place
            for place, (i, event) in enumerate(events)
            if i == number and isinstance(event, Stepped)
        )
        for number in range(5)
    ]
    assert last[0] > last[1] or last[1] > last[0]


def test_previews_are_each_styles_own(base_folder: Path, tmp_path: Path, exact: None) -> None:
    alone = different(base_folder, tmp_path, preview__every=4)[:3]
    many = [elsewhere(config, "many") for config in alone]
    events = list(together(many))
    for number, (one, other) in enumerate(zip(alone, many, strict=True)):
        list(train(one))
        shown = [path for event in of(Previewed, events, number) for path in event.paths]
        assert shown and all(
            np.array_equal(*(np.asarray(Image.open(c.run_folder / path)) for c in (one, other)))
            for path in shown
        )


def test_stopped_and_resumed_among_others_is_undisturbed(
    base_folder: Path, tmp_path: Path, exact: None
) -> None:
    """Two together are stopped; one goes on alone, the other with a third:

    each is what it would have been.
    """
    alone = different(base_folder, tmp_path)[:3]
    many = [elsewhere(config, "many") for config in alone]
    made = 0

    def stop() -> bool:
        return made >= 4

    for _, event in together(many[:2], stop):
        made += isinstance(event, Stepped)
    list(train(many[0]))
    list(together([many[2], many[1]]))
    for one, other in zip(alone, many, strict=True):
        list(train(one))
        same(one, other, 2**-10)


# --- to the bit: who goes through the base together is the same after a stop or a crash ---


def uneven(base: Path, root: Path) -> list[RunConfig]:
    """Styles whose checkpoints lie apart; rounding differs with their company."""
    return [
        style("often", base, root, save__every=1),
        style(
            "seldom",
            base,
            root,
            save__every=3,
            optim__accumulate=2,
            adapter__rank=8,
            optim__text_encoder_lr=1e-3,
        ),
        style("short", base, root, optim__steps=3, optim__batch_size=1),
    ]


def bits(config: RunConfig) -> dict[str, str]:
    """Hashes of everything in the last checkpoint."""
    last = max((config.run_folder / "checkpoints").glob("step-*"))
    return {
        name: hashlib.sha256(array.tobytes()).hexdigest()
        for name, array in load_file(last / "state.safetensors").items()
    }


def recorded(configs: list[RunConfig], stop: Stop = never) -> Iterator[tuple[int, Event]]:
    """Train them as the command does, all in one pass."""
    for number, event in together(configs, stop, at_once=3):
        append(configs[number].run_folder / "events.jsonl", event)
        yield number, event


def stopped_after(updates: int, configs: list[RunConfig]) -> None:
    made = 0

    def stop() -> bool:
        return made >= updates

    for _, event in recorded(configs, stop):
        made += isinstance(event, Stepped)


@pytest.fixture(scope="module")
def straight(
    base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, str]]]:
    """A folder of pictures, and what is learnt by uneven styles that nothing disturbs, all in one
    pass.
    """
    root = tmp_path_factory.mktemp("uneven")
    configs = [elsewhere(config, "straight") for config in uneven(base_folder, root)]
    list(recorded(configs))
    return root, [bits(config) for config in configs]


@pytest.mark.parametrize("after", [1, 4, 6, 8, 11, 13])
@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "killed"])
def test_begun_again_it_ends_with_the_same_bits(
    after: int, stopped: bool, base_folder: Path, straight: tuple[Path, list[dict[str, str]]]
) -> None:
    root, wanted = straight
    configs = [elsewhere(config, f"{after}-{stopped}") for config in uneven(base_folder, root)]
    if stopped:
        stopped_after(after, configs)
    else:
        with closing(recorded(configs)) as events:
            list(
                itertools.islice(
                    (event for _, event in events if isinstance(event, Stepped)), after
                )
            )
    assert not [event for _, event in recorded(configs) if isinstance(event, Warned)]
    assert [bits(config) for config in configs] == wanted


def test_a_finished_style_goes_along_with_one_that_is_behind_its_end(
    base_folder: Path, straight: tuple[Path, list[dict[str, str]]]
) -> None:
    root, wanted = straight
    configs = [elsewhere(config, "along") for config in uneven(base_folder, root)]
    for number, event in recorded(configs):
        if number == 2 and isinstance(event, Finished):
            break
    assert [
        event.message
        for number, event in recorded(configs)
        if isinstance(event, Noted) and "goes along" in event.message
    ]
    assert [bits(config) for config in configs] == wanted


def test_a_style_that_went_back_goes_alone_and_is_resumed_so(
    base_folder: Path, straight: tuple[Path, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its place among the others is lost:

    from then on nobody's rounding depends on it, also in a process that begins later.
    """
    keys = dict(optim__batch_size=2, save__every=2)
    configs = [
        style("wild", base_folder, straight[0], optim__steps=12, **keys),
        style("calm", base_folder, straight[0], optim__steps=16, adapter__rank=8, **keys),
    ]
    loss = Trainer.loss

    def broken(run: Trainer, *given: Any) -> torch.Tensor:
        bad = run.config.save.name == "wild" and run.step >= 7 and not run.guard.returns
        return loss(run, *given) * (float("nan") if bad else 1)

    monkeypatch.setattr(Trainer, "loss", broken)
    for module in ("divergence", "trainer"):
        monkeypatch.setattr(f"training.trainer.{module}.LOST_IN_A_ROW", 3)
    configs, again = (
        [elsewhere(config, folder) for config in configs] for folder in ("back", "back-again")
    )
    list(recorded(configs))
    with closing(recorded(again)) as events:
        next(
            event
            for number, event in events
            if number == 0 and isinstance(event, Saved) and event.step == 8
        )  # it was at 10 before
    list(recorded(again))
    assert [bits(config) for config in again] == [bits(config) for config in configs]


def test_going_on_with_others_is_said(
    base_folder: Path, straight: tuple[Path, list[dict[str, str]]]
) -> None:
    root, _ = straight
    configs = [elsewhere(config, "parted") for config in uneven(base_folder, root)]

    def warned(events):
        return [
            event.message
            for event in events
            if isinstance(event, Warned) and "differ slightly" in event.message
        ]

    stopped_after(3, configs[:2])
    assert len(warned(event for _, event in recorded(configs))) == 1  # a third one came
    assert not warned(train(configs[2]))  # it was finished: nothing is learnt any more
    configs = [elsewhere(config, "alone") for config in configs]
    stopped_after(3, configs)
    assert len(warned(train(configs[0]))) == 1 and not warned(train(configs[0]))


def test_one_that_diverges_leaves_and_the_others_finish(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = [
        style("calm", base_folder, tmp_path),
        style("wild", base_folder, tmp_path, optim__steps=40),
    ]
    loss = Trainer.loss
    monkeypatch.setattr(
        Trainer,
        "loss",
        lambda run, *given: (
            loss(run, *given) * (float("nan") if run.config.save.name == "wild" else 1)
        ),
    )
    events = list(together(configs))
    assert "not finite" in of(Failed, events, 1)[0].message and not of(Failed, events, 0)
    assert len(of(Stepped, events, 0)) == 6 and of(Finished, events, 0)
    monkeypatch.undo()
    list(train(elsewhere(configs[0], "alone")))
    same(elsewhere(configs[0], "alone"), configs[0], 5e-2)  # float32, other sums


@pytest.mark.parametrize(
    "at_once", [None, 3], ids=["seen when sizes are timed", "seen in an update"]
)
def test_a_full_memory_takes_fewer_at_once_and_changes_nothing(
    at_once: int | None,
    base_folder: Path,
    tmp_path: Path,
    exact: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alone = [style(name, base_folder, tmp_path) for name in ("a", "b", "c")]
    many = [elsewhere(config, "many") for config in alone]
    for config in alone:
        list(train(config))
    predict = loader.load(
        base_files.find(str(base_folder)), plan_module.choose("cpu", "float32")
    ).family.predict

    def narrow(parts: Any, noisy: torch.Tensor, *given: Any) -> torch.Tensor:
        if len(noisy) > 4:
            raise torch.OutOfMemoryError("the device is full")
        return predict(parts, noisy, *given)

    load = loader.load

    def loaded(*given: Any, **more: Any) -> Any:
        parts = load(*given, **more)
        parts.family = type(parts.family)(**{**vars(parts.family), "predict": narrow})
        return parts

    monkeypatch.setattr(loader, "load", loaded)
    events = list(together(many, at_once=at_once))
    assert any(
        "fewer styles" in event.message for i, event in events if isinstance(event, Warned)
    ) == (at_once is not None)
    for one, other in zip(alone, many, strict=True):
        same(one, other, 2**-10)


def test_what_cannot_be_together_is_refused_before_anything_begins(
    base_folder: Path, tmp_path: Path
) -> None:
    a, b = style("a", base_folder, tmp_path), style("b", base_folder, tmp_path)
    with pytest.raises(ConfigError, match=r"base\.dtype"):
        next(together([a, style("c", base_folder, tmp_path, base__dtype="bfloat16")]))
    with pytest.raises(ConfigError, match=r"save\.name"):
        next(together([a, a]))
    with pytest.raises(ConfigError, match="nothing to train"):
        next(together([]))
    with pytest.raises(DataError):
        next(
            together([a, style("d", base_folder, tmp_path, data__folder=str(tmp_path / "nowhere"))])
        )
    b.run_folder.mkdir(parents=True)
    with held(b.run_folder), pytest.raises(BusyError):
        next(together([a, b]))
    assert not list(tmp_path.glob("runs/**/*.safetensors"))


def test_the_shared_base_is_the_base_again_when_all_have_left(base_folder: Path) -> None:
    parts = loader.load(base_files.find(str(base_folder)), plan_module.choose("cpu", "float32"))
    shared_base, unet = SharedBase(parts), parts.denoiser
    noisy, t = (
        torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0)),
        torch.tensor([10, 500]),
    )
    words = parts.family.encode_text(parts, ["one", "two"])

    def said():
        return parts.family.predict(parts, noisy, t, words)

    with torch.no_grad():
        base = said()
        names = [name for name, module in unet.named_modules() if name.endswith("to_q")]
        slots = [shared_base.new_adapter_index(), shared_base.new_adapter_index()]
        pairs = [
            shared_base.attach(
                adapter_index, unet, names, rank=2 + adapter_index, alpha=1.0, seed=adapter_index
            )
            for adapter_index in slots
        ]
        for _, up in pairs[1].values():
            up.fill_(0.1)
        assert torch.equal(said(), base)  # outside of a route
        with shared_base.routed(slots):
            there = said()
        assert torch.allclose(there[0], base[0], atol=1e-6) and not torch.allclose(
            there[1], base[1], atol=1e-3
        )
        with shared_base.routed([0, 1, 0]), pytest.raises(ValueError, match="rows"):
            said()
        for adapter_index in slots:
            shared_base.leave(adapter_index)
        with shared_base.routed(slots):
            assert torch.equal(said(), base)


@given(data=st.data())
def test_every_row_goes_through_its_own_styles_matrices(data: st.DataObject) -> None:
    """Of every kind of layer, whichever styles have it, in any order of rows."""
    torch.manual_seed(0)
    layers = [
        nn.Linear(5, 7),
        nn.Conv2d(5, 7, 1),
        nn.Conv2d(5, 7, 3, padding=1),
        nn.Conv2d(5, 7, 3, stride=2, padding=1),
    ]
    network = (
        nn.ModuleList(layers).double().requires_grad_(False).to(memory_format=torch.channels_last)
    )
    frozen = [copy.deepcopy(layer) for layer in layers]
    shared_base = SharedBase(SimpleNamespace(networks={}))
    count = data.draw(st.integers(1, 4))
    pairs = []
    for adapter_index in [shared_base.new_adapter_index() for _ in range(count)]:
        own = data.draw(st.lists(st.sampled_from("0123"), unique=True))
        pairs.append(
            shared_base.attach(
                adapter_index,
                network,
                own,
                rank=data.draw(st.integers(1, 3)),
                alpha=2.0,
                seed=adapter_index,
            )
        )
        for _, up in pairs[-1].values():
            nn.init.normal_(up)
    route = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6))
    for i, layer in enumerate(layers):
        rows = torch.randn(
            (2 * len(route), 5, *((6, 6) if i else ())), dtype=torch.float64
        )  # as many again, as guidance has them
        with shared_base.routed(route):
            found = layer(rows)
        for row, (adapter_index, y) in enumerate(zip(route * 2, found, strict=True)):
            merged = copy.deepcopy(frozen[i])
            if str(i) in pairs[adapter_index]:
                down, up = (
                    matrix.detach().double().flatten(1) for matrix in pairs[adapter_index][str(i)]
                )
                merged.weight += 2.0 / len(down) * (up @ down).view_as(merged.weight)
            assert torch.allclose(merged(rows[row : row + 1])[0], y, atol=1e-10), (i, route)


def test_gradients_are_the_same_bits_every_time_on_several_threads(base_folder: Path) -> None:
    """Indexing with repeated rows would not do: its backward adds them up in any order."""
    shared_base = SharedBase(
        loader.load(base_files.find(str(base_folder)), plan_module.choose("cpu", "float32"))
    )
    layer, threads = (
        torch.nn.ModuleDict({"linear": torch.nn.Linear(1280, 1280)}),
        torch.get_num_threads(),
    )
    pairs = [
        shared_base.attach(
            adapter_index, layer, ["linear"], rank=32, alpha=1.0, seed=adapter_index
        )["linear"]
        for adapter_index in (0, 1)
    ]
    x = torch.randn((12, 8, 1280), generator=torch.Generator().manual_seed(0))
    found = set()
    torch.set_num_threads(2)
    try:
        for _ in range(30):
            with shared_base.routed([0] * 10 + [1] * 2):
                layer["linear"](x).square().sum().backward()
            found.add(pairs[0][1].grad.numpy().tobytes())
            pairs[0][1].grad = None
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_every_style_keeps_checkpoints_and_events_of_its_own(
    base_folder: Path, tmp_path: Path
) -> None:
    configs = [
        style("a", base_folder, tmp_path, save__every=2),
        style("b", base_folder, tmp_path, save__every=3),
    ]
    events = list(together(configs))
    assert [e.step for e in of(Saved, events, 0)] == [2, 4, 6] and [
        e.step for e in of(Saved, events, 1)
    ] == [3, 6]
    assert list(together(configs))[-1][1].step == 6  # finished already


@given(
    costs=st.dictionaries(st.integers(1, AT_ONCE), st.floats(0.01, 10), min_size=AT_ONCE),
    waiting=st.integers(1, 20),
)
def test_the_size_of_a_pass_that_is_quickest_for_a_style_stays(
    costs: dict[int, float], waiting: int
) -> None:
    pace = Pace({})
    sizes = pace.sizes(waiting)
    assert sizes[0] == min(waiting, AT_ONCE) and (sizes[-1] == 1)
    while size := pace.untimed(waiting):
        pace.took[size] = costs[size]
    assert len(sizes) == 1 or pace.took.keys() == set(sizes)
    best = pace.size(waiting)
    assert costs[best] == min(costs[size] for size in sizes) or len(sizes) == 1
    assert str(best) in pace.words(waiting)
    if best > 1:
        pace.took[best] = None  # does not fit any more
        assert pace.size(waiting) <= best // 2


def test_a_size_that_was_asked_for_is_kept_and_never_timed() -> None:
    pace = Pace({}, 3)
    assert pace.size(8) == 3 and pace.size(2) == 2 and not pace.untimed(8)
    pace.took[3] = None
    assert pace.size(8) == 1


def test_styles_that_learn_together_say_how_many_go_in_one_pass(
    base_folder: Path, tmp_path: Path
) -> None:
    configs = [style(f"s{i}", base_folder, tmp_path, data__buckets=False) for i in range(3)]
    said = [
        event.message
        for _, event in together(configs)
        if isinstance(event, Noted) and "in one pass" in event.message
    ]
    assert (
        len(said) == 1 and said[0].count("GiB") == 3
    )  # 1, 2 and 3 at once, each with what it took


def test_more_styles_than_go_at_once_wait_for_the_first_to_be_done(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("joint", "pace"):
        monkeypatch.setattr(f"training.trainer.{module}.AT_ONCE", 2)
    configs = [style(f"s{i}", base_folder, tmp_path, optim__steps=2) for i in range(3)]
    events = list(together(configs))
    assert events[0][0] == 2 and "waits until the 2 styles" in events[0][1].message
    kinds = [(i, type(event)) for i, event in events]
    assert kinds.index((2, Started)) > max(kinds.index((i, Finished)) for i in (0, 1))
    alone = elsewhere(configs[2], "alone")
    list(train(alone))
    same(configs[2], alone, 1e-3)
    again, count = [elsewhere(config, "stopped") for config in configs], iter(range(10**6))
    list(together(again, lambda: next(count) > 20))
    assert not (
        again[2].run_folder / "checkpoints"
    ).exists()  # what was not begun is left for the next time
    list(together(again))
    same(again[2], configs[2], 1e-3)

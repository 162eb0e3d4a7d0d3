"""A whole training on a tiny real base: what a run promises, held as properties."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainers import ready
from training.adapters.lora_layers import adapters_disabled
from training.config.loading import from_mapping, read_toml
from training.config.schema import RunConfig
from training.errors import (
    ConfigError,
    DataError,
    DivergedError,
    OutOfMemory,
    SpaceError,
    StyleFileError,
)
from training.events import Event, Finished, Previewed, Saved, Started, Stepped, Warned
from training.models.family import Parts
from training.style_files.reading import read_style
from training.trainer import export, full_disk, saving, setup
from training.trainer.engine import update
from training.trainer.latents import Latents, Words, posterior
from training.trainer.loop import train
from training.trainer.optimizer import Optimiser
from training.trainer.plan import planned
from training.trainer.trainer import Trainer


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five pictures of two shapes, with captions."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate([(40, 40), (40, 40), (64, 40), (40, 40), (64, 40)]):
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
        (folder / f"{i}.txt").write_text(f"thing {i}")
    return folder


@pytest.fixture
def config(pictures: Path, base_folder: Path, tmp_path: Path) -> RunConfig:
    return from_mapping(
        {
            "base": {"model": str(base_folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(pictures), "trigger": "sks"},
            "adapter": {"rank": 4, "alpha": 4.0},
            "optim": {
                "steps": 6,
                "batch_size": 2,
                "unet_lr": 1e-3,
                "text_encoder_lr": 1e-3,
                "schedule": "constant",
                "warmup": 0.0,
            },
            "preview": {"every": 0, "steps": 2},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 0},
        }
    )


def changed(config: RunConfig, **keys: Any) -> RunConfig:
    """The config with `section__name=value` replaced."""
    tables = config.model_dump()
    for key, value in keys.items():
        section, name = key.split("__")
        tables[section][name] = value
    return from_mapping(tables)


def broken_off(config: RunConfig, updates: int) -> None:
    """Train until so many updates were made, and leave without a word, as when a page is closed."""
    run, made = train(config), 0
    for event in run:
        made += isinstance(event, Stepped)
        if made == updates:
            break
    run.close()


def weights(config: RunConfig) -> dict[str, np.ndarray]:
    style = read_style(config.run_folder / f"{config.save.name}.safetensors")
    return {
        f"{name}.{side}": getattr(lora, side)
        for name, lora in style.modules.items()
        for side in ("down", "up")
    }


def equal(a: RunConfig, b: RunConfig) -> bool:
    x, y = weights(a), weights(b)
    return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)


def apart(a: RunConfig, b: RunConfig) -> float:
    """Relative distance of what two styles do to the weights (their ups:

    the downs begin far from zero).
    """
    x, y = weights(a), weights(b)
    ups = [k for k in x if k.endswith(".up")]
    return math.sqrt(
        sum(((x[k] - y[k]) ** 2).sum() for k in ups) / sum((x[k] ** 2).sum() for k in ups)
    )


def of(kind: type, events: list[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def test_a_run_says_what_it_does_and_leaves_a_style(config: RunConfig) -> None:
    config = changed(config, preview__every=3, save__every=2)
    events = list(train(config))
    assert [e.step for e in of(Stepped, events)] == [1, 2, 3, 4, 5, 6]
    assert [e.step for e in of(Previewed, events)] == [0, 3, 6]
    assert [e.step for e in of(Saved, events)] == [2, 4, 6]
    (started,), (finished,) = of(Started, events), of(Finished, events)
    assert started.pictures == 5 and 0 < started.trainable < started.total
    assert finished.step == 6 and not finished.stopped
    assert all(
        (config.run_folder / path).is_file() for e in of(Previewed, events) for path in e.paths
    )
    style = read_style(config.run_folder / finished.path)
    assert style.trigger == "sks" and any(
        name.startswith("lora_te_text_model_") for name in style.modules
    )
    assert all("sks style" in prompt for prompt in of(Previewed, events)[0].prompts)


def test_two_runs_of_one_config_are_equal_to_the_bit(config: RunConfig) -> None:
    other = changed(config, save__name="t")
    first, second = list(train(config)), list(train(other))
    assert equal(config, other)
    assert [e.loss for e in of(Stepped, first)] == [e.loss for e in of(Stepped, second)]
    third = changed(config, save__name="u", optim__seed=1)
    list(train(third))
    assert not equal(config, third)


@pytest.mark.parametrize("text_encoder_lr", [0.0, 1e-3])
def test_a_stopped_run_goes_on_to_the_same_style(config: RunConfig, text_encoder_lr: float) -> None:
    config = changed(
        config, optim__accumulate=2, optim__ema=0.9, optim__text_encoder_lr=text_encoder_lr
    )
    straight, stopped = config, changed(config, save__name="stopped")
    list(train(straight))
    seen: list[Event] = []
    for event in train(stopped, lambda: len(of(Stepped, seen)) >= 4):
        seen.append(event)
    assert of(Finished, seen)[0].stopped and of(Finished, seen)[0].step == 4
    rest = list(train(stopped))
    assert [e.step for e in of(Stepped, rest)] == [5, 6]
    assert equal(straight, stopped)
    assert of(Stepped, list(train(stopped))) == []  # finished: it says so and does nothing


def test_previews_do_not_change_what_is_learnt(config: RunConfig) -> None:
    shown = changed(config, save__name="shown", preview__every=1, save__every=1)
    list(train(config))
    list(train(shown))
    assert equal(config, shown)


def test_the_style_is_learnt(config: RunConfig) -> None:
    config = changed(
        config, optim__steps=60, optim__unet_lr=5e-3, optim__batch_size=4, data__caption_dropout=0.0
    )
    losses = [e.loss for e in of(Stepped, list(train(config)))]
    assert sum(losses[-15:]) < 0.97 * sum(losses[:15])


@pytest.mark.parametrize(
    ("unet_lr", "text_encoder_lr", "prefix"), [(1e-3, 0.0, "lora_unet_"), (0.0, 1e-3, "lora_te_")]
)
def test_a_learning_rate_of_zero_leaves_a_part_alone(
    config: RunConfig, unet_lr: float, text_encoder_lr: float, prefix: str
) -> None:
    config = changed(
        config, optim__unet_lr=unet_lr, optim__text_encoder_lr=text_encoder_lr, optim__steps=2
    )
    list(train(config))
    assert all(name.startswith(prefix) for name in weights(config))


def test_both_predictions_train(config: RunConfig, v_base_folder: Path) -> None:
    config = changed(config, base__model=str(v_base_folder))
    assert all(math.isfinite(e.loss) for e in of(Stepped, list(train(config))))


def test_bfloat16_tracks_float32(config: RunConfig) -> None:
    config = changed(config, optim__steps=20, data__caption_dropout=0.0)
    half = changed(config, save__name="half", base__dtype="bfloat16")
    exact, rounded = (of(Stepped, list(train(c))) for c in (config, half))
    for a, b in zip(exact, rounded, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=0.02)
    assert apart(config, half) < 0.35


def test_checkpointing_changes_memory_only(config: RunConfig) -> None:
    other = changed(config, save__name="t", optim__checkpointing=True)
    list(train(config))
    list(train(other))
    assert equal(config, other)


def test_convolutions_by_choice(config: RunConfig) -> None:
    config = changed(
        config, adapter__targets=["convolutions"], optim__steps=2, optim__text_encoder_lr=0.0
    )
    list(train(config))
    assert all("resnets" in name or "samplers" in name for name in weights(config))
    assert any(value.ndim == 4 and value.shape[-1] == 3 for value in weights(config).values())


def test_a_moved_crop_is_trained_and_is_another_picture(config: RunConfig) -> None:
    folder = Path(config.data.folder)
    Image.new("RGB", (96, 64), "white").save(folder / "wide.png")
    list(train(changed(config, data__buckets=False)))
    (folder / "wide.crop.json").write_text('{"across": 0, "down": 0}')
    assert isinstance(
        list(train(changed(config, data__buckets=False, save__name="moved")))[-1], Finished
    )
    with pytest.raises(DataError, match="wide"):
        list(
            train(
                changed(
                    config,
                    data__buckets=False,
                    optim__steps=config.optim.steps,
                    save__name="s",
                    save__resume="exact",
                    preview__every=0,
                )
            )
        )


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_run_that_is_stopped_early_says_how_it_ended(config: RunConfig, after: int) -> None:
    """While it is being set up as well."""
    seen: list[Event] = []
    for event in train(config, lambda: len(seen) > after):
        seen.append(event)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].stopped and seen[-1].step == 0 and seen[-1].path == ""
    assert not any(isinstance(event, Stepped) for event in seen)


# --- prior preservation ---


@pytest.mark.parametrize("text_encoder_lr", [0.0, 1e-3])
def test_the_frozen_bases_answer_holds_what_is_asked_without_the_trigger(
    config: RunConfig, text_encoder_lr: float
) -> None:
    def apart(weight: float) -> tuple[float, float]:
        """How far the trained model's answers lie from the base's:

        to a plain caption, and to one with the trigger.
        """
        own = changed(
            config,
            prior__frozen_weight=weight,
            optim__steps=12,
            optim__text_encoder_lr=text_encoder_lr,
            save__name=f"f{weight}",
        )
        run = ready(planned(own))
        losses = [update(run).loss for _ in range(12)]
        noisy = torch.randn((1, 4, 4, 4), generator=torch.Generator().manual_seed(0))
        distances = []
        with torch.no_grad():
            for words in (run.data.examples[0].plain, run.data.examples[0].caption):
                with adapters_disabled(run.parts.networks[part] for part in run.optimiser.flats):
                    base = run.predict(noisy, torch.tensor([500]), [words])
                distances.append(
                    (run.predict(noisy, torch.tensor([500]), [words]) - base).square().mean().item()
                )
        return (*distances, losses[0])

    free, held = apart(1e-9), apart(20.0)
    assert held[2] == pytest.approx(
        free[2], rel=1e-6
    )  # new adapters change nothing, so there is nothing to hold at first
    assert 0 < held[0] < free[0]


def test_prior_pictures_are_drawn_once_and_weigh_what_was_asked(config: RunConfig) -> None:
    tables = dict(prior__images=3, prior__prompt="a thing", optim__steps=3)
    plain = changed(config, optim__steps=3)
    off, faint, full = (
        changed(config, **tables, prior__weight=w, save__name=f"w{w}") for w in (0.0, 1e-9, 1.0)
    )
    for c in (plain, off, faint, full):
        list(train(c))
    assert equal(plain, off) and not (off.run_folder / "class_pictures").exists()
    assert apart(plain, faint) < 1e-2 < apart(plain, full)
    drawn = sorted((full.run_folder / "class_pictures").iterdir())
    assert len(drawn) == 3
    before = [p.stat().st_mtime_ns for p in drawn]
    list(train(full))
    assert before == [
        p.stat().st_mtime_ns for p in sorted((full.run_folder / "class_pictures").iterdir())
    ]


def test_given_class_pictures_are_used_and_left_alone(
    config: RunConfig, pictures: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    Image.new("RGB", (40, 40), "red").save(own / "class.png")
    config = changed(
        config, prior__folder=str(own), prior__images=2, prior__prompt="a thing", optim__steps=1
    )
    list(train(config))
    assert [p.name for p in own.iterdir()] == ["class.png"]
    assert len(list((config.run_folder / "class_pictures").iterdir())) == 1


# --- memory ---


def test_a_full_memory_halves_the_pass_and_changes_nothing_else(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four pictures at once are too many here, two are not:

    the same updates, of the same pictures, to rounding.
    """
    config = changed(
        config,
        optim__batch_size=4,
        optim__accumulate=2,
        preview__every=2,
        optim__text_encoder_lr=0.0,
        optim__checkpointing="off",
    )
    tight = changed(config, save__name="tight")
    wanted = of(Stepped, list(train(config)))
    said = Trainer.predict
    seen: list[int] = []

    def narrow(self: Trainer, *given: torch.Tensor, **keys: Any) -> torch.Tensor:
        seen.append(len(given[0]))
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("the device is full")
        return said(self, *given, **keys)

    monkeypatch.setattr(Trainer, "predict", narrow)
    events = list(train(tight))
    assert [e.step for e in of(Stepped, events)] == list(range(1, 7)) and [
        e.step for e in of(Previewed, events)
    ] == [0, 2, 4, 6]
    assert [e.message for e in of(Warned, events) if "memory" in e.message] == [
        of(Warned, events)[-1].message
    ]
    assert max(seen[1:]) == 2 and "2 pictures" in of(Warned, events)[-1].message
    for a, b in zip(wanted, of(Stepped, events), strict=True):
        assert b.loss == pytest.approx(a.loss, rel=1e-4)
    assert apart(config, tight) < 1e-2


def test_a_resumed_run_keeps_to_the_smaller_passes(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How a pass is split decides how its sums round."""
    config = changed(config, optim__batch_size=4, preview__every=0, save__every=1)
    said = Trainer.predict

    def narrow(self: Trainer, *given: torch.Tensor, **keys: Any) -> torch.Tensor:
        if len(given[0]) > 2:
            raise torch.OutOfMemoryError("the device is full")
        return said(self, *given, **keys)

    monkeypatch.setattr(Trainer, "predict", narrow)
    with closing(train(config)) as events:
        until_saved = list(itertools.takewhile(lambda event: not isinstance(event, Saved), events))
    assert any("memory" in event.message for event in of(Warned, until_saved))
    assert not of(Warned, list(train(config)))


def test_one_picture_too_many_ends_the_run(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Trainer, *given: torch.Tensor, **keys: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(Trainer, "predict", full)
    with pytest.raises(OutOfMemory, match=r"data\.resolution"):
        list(train(config))


# --- caches ---


def test_cached_latents_are_what_the_vae_says(parts: Parts) -> None:
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (32, 32, 3), generator=g, dtype=torch.uint8).numpy()
    cache = Latents()
    cache.add("a", pixels, parts)
    noise = torch.randn(cache.shape("a"), generator=g)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        found = parts.networks["vae"].encode(x).latent_dist
    wanted = (found.mean + found.std * noise)[0] * parts.networks["vae"].config.scaling_factor
    torch.testing.assert_close(cache.sample("a", noise), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(posterior(parts, pixels)[0], cache.sample("a", noise * 0))


def test_cached_words_are_what_the_text_encoder_says(parts64: Parts) -> None:
    words = Words(parts64)
    captions = ["a cat", "", "a cat", "thing"]
    torch.testing.assert_close(
        words(captions), parts64.family.encode_text(parts64, captions).detach()
    )


def test_a_run_with_cached_words_equals_one_without(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config, optim__text_encoder_lr=0.0)
    other = changed(config, save__name="t")
    list(train(config))
    monkeypatch.setattr(setup, "drop_unneeded", lambda *given: None)
    monkeypatch.setattr(
        Words,
        "__call__",
        lambda self, captions: self._parts.family.encode_text(self._parts, captions).detach(),
    )
    list(train(other))
    assert apart(config, other) < 1e-3


# --- guards ---


def broken_after(run: Trainer, steps: set[int]) -> Trainer:
    """The run with a denoiser that says NaN in the given updates."""
    family = run.parts.family

    def predict(*args: Any) -> torch.Tensor:
        said = family.predict(*args)
        return said * float("nan") if run.step in steps else said

    run.parts.family = dataclasses.replace(family, predict=predict)
    return run


def prepared(config: RunConfig) -> Trainer:
    return ready(planned(config))


def test_an_update_that_is_not_finite_is_not_made(config: RunConfig) -> None:
    run = broken_after(prepared(config), {1})
    assert isinstance(update(run), Stepped)
    before = {k: v.clone() for k, v in run.optimiser.tensors().items()}
    assert isinstance(update(run), Warned)
    assert all(torch.equal(v, run.optimiser.tensors()[k]) for k, v in before.items())
    after = update(run)
    assert isinstance(after, Stepped) and after.step == 3 and math.isfinite(after.loss)


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes every run say NaN in the given updates; above a share of the learning rate only, when
    one is given.
    """
    go_on = saving.go_on

    def install(steps: set[int], above: float = 0.0) -> None:
        def and_break(self: Trainer) -> Iterator[Event]:
            yield from go_on(self)
            family = self.parts.family

            def predict(*args: Any) -> torch.Tensor:
                said = family.predict(*args)
                return (
                    said * float("nan") if self.step in steps and self.guard.share > above else said
                )

            self.parts.family = dataclasses.replace(family, predict=predict)

        monkeypatch.setattr(saving, "go_on", and_break)

    return install


def test_a_run_goes_back_with_a_smaller_learning_rate(
    config: RunConfig, breaking: Callable[..., None]
) -> None:
    config = changed(config, optim__steps=16, save__every=4)
    breaking(set(range(6, 99)), above=0.3)  # at a quarter of the learning rate all is well
    seen = list(train(config))
    assert [e.step for e in of(Stepped, seen)] == [*range(1, 7), 5, 6, *range(5, 17)]
    rates = [e.learning_rate for e in of(Stepped, seen)]
    assert (
        rates[0] == pytest.approx(1e-3)
        and rates[6] == pytest.approx(5e-4)
        and rates[-1] == pytest.approx(2.5e-4)
    )
    assert sum("back to the state after 4 updates" in e.message for e in of(Warned, seen)) == 2
    # Interrupted in between, it decides the same
    other = changed(config, save__name="t")
    for event in train(other):
        if isinstance(event, Stepped) and event.step == 9:
            break
    list(train(other))
    assert equal(config, other)


def test_a_run_goes_back_behind_a_checkpoint_of_a_state_that_had_gone_wrong(
    config: RunConfig, breaking: Callable[..., None]
) -> None:
    config = changed(config, optim__steps=16, save__every=4)
    breaking(set(range(8, 99)), above=0.3)  # not one update after the checkpoint of 8 is finite
    seen = list(train(config))
    assert [e.step for e in of(Stepped, seen)] == [*range(1, 9), *range(5, 9), *range(5, 17)]
    assert [e.step for e in of(Saved, seen)] == [4, 8, 8, 8, 12, 16]
    assert sum("back to the state after 4 updates" in e.message for e in of(Warned, seen)) == 2
    # Interrupted before and after the checkpoint is made again, it decides the same
    for count in (10, 15):
        other = changed(config, save__name=f"t{count}")
        some: list[Event] = []
        for event in train(other):
            some.append(event)
            if len(of(Stepped, some)) == count:
                break
        list(train(other))
        assert equal(config, other)


def test_several_in_a_row_stop_the_run_with_the_last_good_state(
    config: RunConfig, breaking: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(config, optim__steps=20)
    breaking(set(range(3, 99)))
    seen: list[Event] = []
    with pytest.raises(DivergedError, match=r"not finite 5 times in a row .* going back 3 times"):
        for event in train(config):
            seen.append(event)
    assert [e.step for e in of(Saved, seen)] == [3] and [e.step for e in of(Stepped, seen)] == [
        1,
        2,
        3,
    ] * 4
    monkeypatch.undo()
    rest = of(Stepped, list(train(config)))
    assert [e.step for e in rest] == list(range(4, 21)) and rest[0].learning_rate == pytest.approx(
        1e-3 / 8
    )


def test_a_style_without_effect_is_not_written(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Optimiser, "update", lambda self, norm, share: self.clear())
    with pytest.raises(DivergedError, match="nothing was learnt"):
        list(train(config))
    other = changed(config, save__name="t")
    seen: list[Event] = []
    for event in train(other, lambda: len(of(Stepped, seen)) >= 2):
        seen.append(event)
    assert of(Finished, seen) == [Finished(2, "", True, of(Finished, seen)[0].seconds)]
    assert not list(config.run_folder.glob("*.safetensors")) and not list(
        other.run_folder.glob("*.safetensors")
    )


def test_a_style_that_is_not_finite_or_not_what_was_learnt_never_gets_its_name(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(config)
    update(run)
    good = export.export(run).read_bytes()
    next(iter(run.adapters.values()))[1].data.fill_(float("inf"))
    with pytest.raises(StyleFileError):
        export.export(run)
    next(iter(run.adapters.values()))[1].data.fill_(0.5)
    written = export.write_style

    def wrong(path: Path, modules: dict[str, Any], metadata: Any, **more: Any) -> None:
        halved = {name: dataclasses.replace(lora, up=lora.up / 2) for name, lora in modules.items()}
        written(path, halved, metadata, **more)

    monkeypatch.setattr(export, "write_style", wrong)
    with pytest.raises(StyleFileError, match=r"does not give back.*run the same command again"):
        export.export(run)
    assert (config.run_folder / "s.safetensors").read_bytes() == good


def test_changed_settings_or_pictures_are_refused_by_name(
    config: RunConfig, pictures: Path
) -> None:
    list(train(config, lambda: True))
    seen: list[Event] = []
    for event in train(config, lambda: len(of(Stepped, seen)) >= 2):
        seen.append(event)
    with pytest.raises(ConfigError, match=r"optim\.unet_lr: 0\.001 then, 0\.5 now"):
        list(train(changed(config, optim__unet_lr=0.5)))
    (pictures / "0.txt").write_text("another thing")
    (pictures / "4.png").unlink()
    (pictures / "4.txt").unlink()
    with pytest.raises(
        DataError, match=r"gone: 4\.png\n.*captions that were changed: 0\.png"
    ) as refused:
        list(train(config))
    assert "save.resume" in str(refused.value)


def interrupted(config: RunConfig, after: int) -> None:
    """A run that was stopped after some updates."""
    seen: list[Event] = []
    for event in train(config, lambda: len(of(Stepped, seen)) >= after):
        seen.append(event)


def test_a_run_adapts_to_changes_when_asked(config: RunConfig, pictures: Path) -> None:
    interrupted(config, 2)
    (pictures / "0.txt").write_text("another thing")
    adapting = changed(config, optim__unet_lr=5e-4, save__resume="adapt")
    seen = list(train(adapting))
    assert any(
        "unet_lr: 0.001 then, 0.0005 now" in e.message and "changed: 0.png" in e.message
        for e in of(Warned, seen)
    )
    assert [e.step for e in of(Stepped, seen)] == [3, 4, 5, 6] and of(Stepped, seen)[
        0
    ].learning_rate == pytest.approx(1e-3)
    assert of(Saved, seen)[0].step == 2  # what it adapted to is remembered at once
    for event in train(changed(adapting, save__resume="exact", optim__steps=6)):
        assert not isinstance(event, Stepped | Warned)
    with pytest.raises(ConfigError, match="sizes"):
        list(train(changed(config, adapter__rank=8, save__resume="adapt", optim__steps=9)))


def test_a_run_begins_anew_when_asked_and_puts_the_earlier_work_aside(config: RunConfig) -> None:
    interrupted(config, 2)
    before = (config.run_folder / "s.safetensors").read_bytes()
    seen = list(train(changed(config, adapter__rank=8, save__resume="anew")))
    assert [e.step for e in of(Stepped, seen)] == [1, 2, 3, 4, 5, 6]
    aside = config.run_folder / "earlier-1"
    assert (aside / "s.safetensors").read_bytes() == before and [
        p.name for p in (aside / "checkpoints").iterdir()
    ] == ["step-0000002"]
    assert (
        from_mapping(read_toml(config.run_folder / "run.toml")).save.resume == "exact"
    )  # else the next start would put this aside
    assert read_style(config.run_folder / "s.safetensors").ranks == "8"


# --- the disk, and what happens to files meanwhile ---


def test_a_style_is_on_disk_before_it_has_its_name(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sequence that survives a power cut:

    content, a name for it alone, then, once it is read back, its own; the folder after each name.
    """
    run, order = prepared(config), []
    update(run)
    fsync, replace = os.fsync, os.replace

    def flushed(fd):
        return Path(f"/proc/self/fd/{fd}").readlink().name

    monkeypatch.setattr(
        os, "fsync", lambda fd: (order.append(("fsync", flushed(fd))), fsync(fd))[1]
    )
    monkeypatch.setattr(
        os, "replace", lambda a, b: (order.append(("rename", Path(b).name)), replace(a, b))[1]
    )
    monkeypatch.setattr(
        export,
        "read_style",
        lambda path: (order.append(("read", path.name)), read_style(path))[1],
    )
    export.export(run)
    assert order[0][0] == "fsync" and order[0][1].startswith("..s.safetensors.")
    folder = ("fsync", "s")
    assert order[1:] == [
        ("rename", ".s.safetensors"),
        folder,
        ("read", ".s.safetensors"),
        ("rename", "s.safetensors"),
        folder,
    ]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int | OSError]:
    """What the next looks at the free room find:

    bytes, or an error; plenty once the list is empty.
    """
    looks: list[int | OSError] = []

    def usage(folder: Path) -> SimpleNamespace:
        found = looks.pop(0) if looks else 10**12
        if isinstance(found, OSError):
            raise found
        return SimpleNamespace(free=found)

    monkeypatch.setattr("training.storage.paths.shutil.disk_usage", usage)
    monkeypatch.setattr(full_disk, "AGAIN", 0.01)
    return looks


NO_ROOM = [
    1000,
    OSError(errno.EIO, os.strerror(errno.EIO)),
    OSError(errno.EROFS, os.strerror(errno.EROFS)),
]


@pytest.mark.parametrize("trouble", NO_ROOM, ids=["full", "EIO", "EROFS"])
def test_a_disk_in_trouble_is_waited_for_and_named_once(
    trouble: int | OSError, config: RunConfig, disk: list[int | OSError]
) -> None:
    config = changed(config, save__every=2)
    list(train(config))
    other = changed(config, save__name="t")
    disk += [
        10**12,
        10**12,
        trouble,
        trouble,
        trouble,
    ]  # at the start and at the first checkpoint all is well
    seen = list(train(other))
    assert [("waits and tries again" in e.message) for e in of(Warned, seen)] == [True]
    assert [e.step for e in of(Saved, seen)] == [2, 4, 6] and equal(config, other)


@pytest.mark.parametrize("trouble", NO_ROOM, ids=["full", "EIO", "EROFS"])
def test_a_disk_in_trouble_for_too_long_ends_the_run_and_costs_nothing(
    trouble: int | OSError,
    config: RunConfig,
    disk: list[int | OSError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = changed(config, save__every=2)
    list(train(config))
    other = changed(config, save__name="t")
    monkeypatch.setattr(full_disk, "PATIENCE", 0.05)
    disk += [10**12, 10**12, *[trouble] * 1000]
    with pytest.raises(SpaceError, match=r"A checkpoint of t (needs|cannot be written).* disk"):
        list(train(other))
    assert [p.name for p in (other.run_folder / "checkpoints").iterdir()] == ["step-0000002"]
    assert not (other.run_folder / "run.lock").exists()
    disk.clear()
    list(train(other))
    assert equal(config, other)


def test_a_run_without_room_for_all_it_writes_does_not_begin(
    config: RunConfig, disk: list[int | OSError]
) -> None:
    needed: list[float] = []
    for styles in (True, False):
        disk += [1000]
        with pytest.raises(
            SpaceError, match=r"The run s needs .* MB in .* are free there"
        ) as error:
            list(train(changed(config, save__every=1, save__styles=styles, optim__steps=1000)))
        needed.append(float(str(error.value).split()[4].replace(",", "")))
    assert needed[0] > needed[1] + 1  # a style file of every checkpoint takes room as well
    assert sorted(p.name for p in config.run_folder.iterdir()) == [
        "run.schema.json",
        "run.toml",
    ]
    list(train(config))


def test_earlier_work_that_cannot_be_put_aside_stays(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(config, 2)

    def there():
        return sorted(
            p.relative_to(config.run_folder) for p in config.run_folder.rglob("*") if p.is_file()
        )

    before = there()

    rename = Path.rename

    def read_only(path: Path, target: Path) -> Path:
        if path.name.startswith(".probe"):  # what is tried before finds nothing
            return rename(path, target)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "rename", read_only)
    with pytest.raises(SpaceError, match=r"cannot be set aside \(Read-only"):
        list(train(changed(config, save__resume="anew")))
    assert there() == before


def test_what_happens_to_the_files_meanwhile_changes_nothing_that_is_learnt(
    config: RunConfig, pictures: Path
) -> None:
    """A picture is taken away, one edited, one cut off, a caption rewritten, the run's own folder
    deleted; the report says why there is none.
    """
    config = changed(config, save__every=2, preview__every=2)
    list(train(config))
    other, seen = changed(config, save__name="t", report__minutes=1.0), []
    for event in train(other):
        seen.append(event)
        if isinstance(event, Started):
            (pictures / "0.png").unlink()
            Image.new("RGB", (40, 40)).save(pictures / "1.png")
            (pictures / "2.png").write_bytes((pictures / "2.png").read_bytes()[:50])
            (pictures / "3.txt").write_text("another thing")
        if isinstance(event, Stepped) and event.step == 3:
            shutil.rmtree(other.run_folder)
    assert equal(config, other) and of(Finished, seen)[0].path
    assert [
        e.message for e in of(Warned, seen) if "no report" in e.message and "0.png" in e.message
    ]


@pytest.mark.parametrize("meanwhile", ["taken away", "edited", "half copied"])
def test_a_picture_that_changes_before_it_is_encoded_is_named(
    meanwhile: str, config: RunConfig, pictures: Path
) -> None:
    plan, path = planned(config), pictures / "1.png"
    content = path.read_bytes()
    path.unlink()
    if meanwhile == "edited":
        Image.new("RGB", (40, 40)).save(path)
    if meanwhile == "half copied":
        path.write_bytes(content[:100])
    with pytest.raises(DataError, match=r"1\.png"):
        ready(plan)


def test_nothing_of_the_users_is_touched(config: RunConfig, pictures: Path) -> None:
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in pictures.iterdir()}
    list(train(config))
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in pictures.iterdir()}


# --- the file elsewhere ---


def test_the_stock_pipeline_draws_the_same_pictures(config: RunConfig, base_folder: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from studio.library.generator import loaded_style
    from training.diffusion.sampling import draw
    from training.models import base_files, loader
    from training.prompt import Prompt
    from training.runtime.device import DeviceSpec

    config = changed(config, optim__steps=10, optim__unet_lr=2e-2, optim__text_encoder_lr=2e-2)
    list(train(config))
    path = config.run_folder / "s.safetensors"
    parts = loader.load(
        base_files.find(str(base_folder)), DeviceSpec(torch.device("cpu"), torch.float32)
    )
    prompt = Prompt("thing 1, sks style", steps=4, guidance=3.0, seed=5)
    plain = draw(parts, [prompt])[0]
    ours = draw(parts, [prompt], rows=[[loaded_style(path, parts)]])[0]
    pipe = StableDiffusionPipeline.from_pretrained(
        base_folder, safety_checker=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, use_safetensors=True)
    g = torch.Generator().manual_seed(5)
    theirs = pipe(
        prompt.text,
        num_inference_steps=4,
        guidance_scale=3.0,
        generator=g,
        height=parts.size,
        width=parts.size,
    ).images[0]
    difference = np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16))
    assert difference.max() <= 2  # of 255; float32, float16 weights in the file
    assert np.abs(np.asarray(ours, np.int16) - np.asarray(plain, np.int16)).max() > 8

"""Every family of flow-matching transformers: told from its files, equal to diffusers' pipeline,
trained, resumed to the bit, written, read back and drawn; on tiny bases of the real classes.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from studio.library.generator import loaded_style
from tests import tiny_flow
from tests.test_together import elsewhere, exact, same
from tests.test_together import style as run_of
from training.adapters import lora_layers
from training.adapters.inference import ActiveStyle, apply_styles
from training.adapters.multi_lora import SharedBase
from training.config.loading import from_mapping
from training.config.schema import RunConfig
from training.diffusion.sampling import draw
from training.errors import ConfigError, ModelError, SpaceError, StyleFileError
from training.events import Finished, Stepped
from training.models import base_files, loader
from training.models.family import Parts
from training.modules.stored import is_stored
from training.prompt import Prompt
from training.runtime.device import DeviceSpec
from training.style_files.base_weights import BaseWeights
from training.style_files.family_spec import SPECS
from training.style_files.key_names import accepted_names
from training.style_files.lora import Lora
from training.style_files.matching import match
from training.style_files.reading import read_style, style_from_bytes
from training.style_files.transformer_names import native_modules
from training.style_files.writing import named, placed, style_bytes
from training.trainer import plan
from training.trainer.joint import together
from training.trainer.loop import train
from training.trainer.plan import planned

__all__ = ("exact",)  # a fixture

FLOAT32 = DeviceSpec(torch.device("cpu"), torch.float32)
TEXTS = ["a cat", "two black dogs on a chair"]
STYLE = tuple[str, str]  # part, module


@pytest.fixture(scope="session", params=tiny_flow.PIPELINES)
def folder(request: pytest.FixtureRequest, flow_base: Callable[[str], Path]) -> Path:
    """A tiny base of every family; read only."""
    return flow_base(request.param)


@pytest.fixture(scope="session")
def parts(folder: Path) -> Parts:
    return loader.load(base_files.find(str(folder)), FLOAT32)


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> RunConfig:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{i}.png")
        (pictures / f"{i}.txt").write_text("thing " * (i + 1))
    optim = {"steps": 4, "batch_size": 2, "unet_lr": 2e-2, "schedule": "constant", "warmup": 0.0}
    return from_mapping(
        {
            "base": {"model": str(folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(pictures), "trigger": "sks"},
            "adapter": {"rank": 4, "alpha": 4.0},
            "optim": optim,
            "preview": {"every": 2, "steps": 2},
            "report": {"minutes": 0.0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 0},
        }
    )


def some_input(parts: Parts, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents and levels of so many rows."""
    g = torch.Generator().manual_seed(4)
    side = parts.size // parts.pixel_step
    noisy = torch.randn(rows, parts.space.channels, side, side, generator=g)
    return noisy, torch.linspace(0.2, 0.9, rows)


def chosen(parts: Parts) -> list[str]:
    """The modules of every group, idle ones left out."""
    idle = parts.family.idle(parts.denoiser)
    groups = parts.family.groups
    found = lora_layers.chosen_modules(parts.denoiser, groups, [*groups])
    return [module for module in found if module not in idle]


def some_style(parts: Parts, seed: int, modules: list[str]) -> dict[STYLE, Lora]:
    rng = np.random.default_rng(seed)
    shapes = loader.weight_shapes(parts.denoiser)
    return {
        ("transformer", module): Lora(
            rng.normal(size=(2, shapes[module][1])).astype(np.float32) / 4,
            rng.normal(size=(shapes[module][0], 2)).astype(np.float32) / 4,
            3.0,
        )
        for module in modules
    }


def by_stock(pipe: Any, prompts: list[Prompt], parts: Parts) -> list[Image.Image]:
    """What diffusers' own pipeline draws from the same noise."""
    asked: dict[str, Any] = {"prompt": [p.text for p in prompts]}
    guidance = prompts[0].guidance
    takes = inspect.signature(pipe.__call__).parameters
    if parts.family.guided == "two rows" and guidance > 1 and "negative_prompt" in takes:
        asked["negative_prompt"] = [parts.family.empty] * len(prompts)
    if parts.family.name == "chroma":
        asked = chroma_words(pipe, asked)
    asked |= tiny_flow.GUIDANCE[parts.family.name](guidance)
    generators = [torch.Generator().manual_seed(p.seed) for p in prompts]
    return pipe(
        **asked,
        num_inference_steps=prompts[0].steps,
        generator=generators,
        height=parts.size,
        width=parts.size,
    ).images


def chroma_words(pipe: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """The stock pipeline's own states, and its mask as one of yes and no, as the authors' code has
    it. diffusers 0.42 adds ones and zeros to the scores, by which padding is still heard.
    """
    found = pipe.encode_prompt(
        asked["prompt"],
        asked.get("negative_prompt"),
        do_classifier_free_guidance="negative_prompt" in asked,
    )
    words = {"prompt_embeds": found[0], "prompt_attention_mask": found[2].bool()}
    if found[3] is not None:
        words |= {"negative_prompt_embeds": found[3]}
        words |= {"negative_prompt_attention_mask": found[5].bool()}
    return words


def apart(a: Image.Image, b: Image.Image) -> int:
    """The largest difference of levels, of 255."""
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


def stock(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_the_family_is_known_by_its_files(folder: Path) -> None:
    assert base_files.find(str(folder)).family.name == folder.name


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_our_pictures_are_the_stock_pipelines(folder: Path, parts: Parts, guidance: float) -> None:
    prompts = [Prompt(text, "", 3, guidance, i) for i, text in enumerate(TEXTS)]
    theirs = by_stock(stock(folder), prompts, parts)
    for ours, other in zip(draw(parts, prompts), theirs, strict=True):
        assert apart(ours, other) <= 1 and np.asarray(ours).std() > 5


@torch.no_grad()
def test_a_row_alone_is_the_row_in_a_batch(parts: Parts) -> None:
    noisy, levels = some_input(parts, 2)
    family = parts.family
    both = family.predict(parts, noisy, levels, parts.encode_text(TEXTS))
    for i, text in enumerate(TEXTS):
        row = slice(i, i + 1)
        alone = family.predict(parts, noisy[row], levels[row], parts.encode_text([text]))
        torch.testing.assert_close(alone, both[row], rtol=1e-5, atol=2e-6)


def test_layers_learn_alone_as_in_a_batch_of_styles_and_with_checkpointing(parts: Parts) -> None:
    """Every module of every group gets a gradient, the same to the bit with checkpointing; those
    that are idle get none; two styles in one pass learn what each learns alone.
    """
    noisy, levels = some_input(parts, 2)
    network, words_of = parts.denoiser, [parts.encode_text([text]) for text in TEXTS]
    shared, modules = SharedBase(parts), chosen(parts)
    idle = [*parts.family.idle(network)]
    pairs = [
        shared.attach(shared.new_adapter_index(), network, modules + idle, rank=2, alpha=2, seed=n)
        for n in (1, 2)
    ]
    for k, pair in enumerate(pairs):
        for _, up in pair.values():
            torch.nn.init.normal_(up, std=0.1, generator=torch.Generator().manual_seed(k))

    def gradients(rows: list[int], route: list[int], on: bool) -> dict[tuple[int, str], Any]:
        lora_layers.set_gradient_checkpointing(network, on)
        said = parts.family.gather([words_of[i] for i in rows])
        with shared.routed(route):
            answer = parts.family.predict(parts, noisy[rows], levels[rows], said)
            answer.square().sum().backward()
        found = {}
        for n, pair in enumerate(pairs):
            for module, (down, up) in pair.items():
                found[n, module] = (down.grad, up.grad)
                down.grad = up.grad = None
        return found

    try:
        together = gradients([0, 1], [0, 1], False)
        again = gradients([0, 1], [0, 1], True)
        for key, (down, up) in together.items():
            if key[1] in idle:
                assert down is None or not (down.any() or up.any()), key
                continue
            assert down.any() and up.any(), key
            assert torch.equal(down, again[key][0]) and torch.equal(up, again[key][1]), key
        for n in (0, 1):
            alone = gradients([n], [n], False)
            for module in modules:
                for one, both in zip(alone[n, module], together[n, module], strict=True):
                    torch.testing.assert_close(one, both, rtol=2e-3, atol=1e-5 * both.abs().max())
    finally:
        lora_layers.set_gradient_checkpointing(network, False)
        for index in (0, 1):
            shared.leave(index)


def test_a_style_is_read_by_diffusers_and_in_every_dialect(
    folder: Path, parts: Parts, tmp_path: Path
) -> None:
    """Written, read back, loaded and fused by the stock pipeline: every weight changes alike."""
    own, spec = some_style(parts, 0, chosen(parts)), parts.family.spec
    names = accepted_names({"transformer": loader.weight_shapes(parts.denoiser)}, spec.name)
    # A tiny width shows no family where only widths tell: the metadata does
    metadata = {"modelspec.architecture": f"{spec.architecture}/lora"}
    layers = named(own, "diffusers", spec.name)
    content = style_bytes("a", layers, metadata, dtype="float32", dialect="diffusers")
    style = style_from_bytes(content, "a")
    assert style.family == spec.name
    on_disk = accepted_names(BaseWeights(folder).shapes, spec.name)
    for back in (match(style, names), match(style, on_disk), placed(style, spec.name)):
        assert back.keys() == own.keys()
        assert all(abs(back[k].delta() - own[k].delta()).max() < 1e-5 for k in own)
    (tmp_path / "a.safetensors").write_bytes(content)
    pipe = stock(folder)
    before = {k: v.clone() for k, v in pipe.transformer.state_dict().items()}
    pipe.load_lora_weights(str(tmp_path), weight_name="a.safetensors", use_safetensors=True)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    after = pipe.transformer.state_dict()
    for (_, module), lora in own.items():
        change = (after[f"{module}.weight"] - before[f"{module}.weight"]).numpy()
        assert abs(change - lora.delta()).max() < 1e-5, module


@pytest.mark.parametrize("start", ["lora_unet_", "diffusion_model."])
def test_fused_layers_of_other_programs_are_split_exactly(parts: Parts, start: str) -> None:
    spec, rng = parts.family.spec, np.random.default_rng(1)
    shapes = loader.weight_shapes(parts.denoiser)
    names = accepted_names({"transformer": shapes}, spec.name)
    whole: dict[str, Lora] = {}
    natives = native_modules(spec, [*chosen(parts), *parts.family.idle(parts.denoiser)])
    for native, modules in natives.items():
        rows = sum(shapes[module][0] for module in modules)
        down, up = rng.normal(size=(2, shapes[modules[0]][1])), rng.normal(size=(rows, 2))
        whole[native] = Lora(down.astype(np.float32), up.astype(np.float32), 1.0)
    kohya = start == "lora_unet_"
    written = {
        start + (native.replace(".", "_") if kohya else native): lora
        for native, lora in whole.items()
    }
    dialect = "kohya" if kohya else "diffusers"
    # Chroma's layers are FLUX.1's: what the file says of itself tells them apart
    said = {"modelspec.architecture": "chroma/lora"} if spec.name == "chroma" else {}
    style = style_from_bytes(style_bytes("a", written, said, dtype="float32", dialect=dialect), "a")
    assert style.family == spec.name
    for found in (match(style, names), placed(style, spec.name)):
        for native, lora in whole.items():
            pieces = [found["transformer", module].delta() for module in natives[native]]
            np.testing.assert_allclose(np.concatenate(pieces), lora.delta(), atol=1e-5)


def weights(config: RunConfig) -> dict[str, np.ndarray]:
    style = read_style(config.run_folder / f"{config.save.name}.safetensors")
    return {
        f"{name}.{side}": getattr(lora, side)
        for name, lora in style.modules.items()
        for side in ("down", "up")
    }


@pytest.fixture
def loads(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The networks that are loaded, in order, with nothing in the cache."""
    found: list[str] = []
    load_part = loader.load_part

    def counted(files: Any, part: str, *args: Any, **kwargs: Any) -> Any:
        found.append(part)
        return load_part(files, part, *args, **kwargs)

    monkeypatch.setattr(loader, "load_part", counted)
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(config.run_folder.parent / "cache"))
    return found


def test_a_style_is_trained_resumed_and_drawn(
    config: RunConfig, folder: Path, loads: list[str]
) -> None:
    assert [type(e) for e in train(config)].count(Finished) == 1
    encoders = set(SPECS[folder.name].text_encoders)
    # One after the other: the text encoders are gone when the denoiser comes
    assert loads.index("transformer") > max(i for i, part in enumerate(loads) if part in encoders)
    loads.clear()
    stopped = config.model_copy(update={"save": config.save.model_copy(update={"name": "t"})})
    seen: list[Any] = []
    for event in train(stopped, lambda: sum(isinstance(e, Stepped) for e in seen) >= 2):
        seen.append(event)
    list(train(stopped))
    assert not encoders & set(loads)  # what captions say was on disk
    straight, resumed = weights(config), weights(stopped)
    assert straight.keys() == resumed.keys()
    assert all(np.array_equal(straight[k], resumed[k]) for k in straight)

    path, base = (
        config.run_folder / "s.safetensors",
        loader.load(base_files.find(str(folder)), FLOAT32),
    )
    style = read_style(path)
    assert style.family == folder.name and not style.warnings
    assert "modelspec.prediction_type" not in style.metadata
    prompts = [Prompt("thing, sks style", "", 3, 3.0, 5)] * 2
    plain, styled = draw(base, prompts, rows=[[], [loaded_style(path, base)]])
    (alone,) = draw(base, prompts[:1])
    assert apart(plain, styled) > 2 and apart(plain, alone) <= 1


def test_a_full_disk_costs_no_states_that_are_there(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path))
    parts = loader.load(base_files.find(str(folder)), FLOAT32)
    states = parts.text_states
    assert states is not None
    states.prepare(parts, ["a disk with room"])
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    assert kept

    def full(*_: object) -> None:
        raise SpaceError("no room")

    monkeypatch.setattr("training.models.text_states.write_whole", full)
    monkeypatch.setattr(states, "full", False)
    states.prepare(parts, ["a full disk"])
    assert states.full
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == kept
    monkeypatch.setattr(states, "load", None)  # both are at hand: nothing is loaded for them
    states.of(parts, ["a full disk", "a disk with room"])


def test_mixed_styles_change_their_own_rows(parts: Parts) -> None:
    noisy, levels = some_input(parts, 2)
    modules = chosen(parts)
    one, two = (ActiveStyle(some_style(parts, seed, modules)) for seed in (1, 2))
    with torch.no_grad(), apply_styles({"transformer": parts.denoiser}, [[one], [two]]):
        both = parts.family.predict(parts, noisy, levels, parts.encode_text(TEXTS))
    for i, style in enumerate((one, two)):
        row = slice(i, i + 1)
        words = parts.encode_text(TEXTS[row])
        with torch.no_grad(), apply_styles({"transformer": parts.denoiser}, [[style]]):
            alone = parts.family.predict(parts, noisy[row], levels[row], words)
        torch.testing.assert_close(alone, both[row], rtol=1e-4, atol=1e-4)


def test_a_base_in_int8_has_the_bits_of_its_rounded_weights(folder: Path, parts: Parts) -> None:
    """Forward and backward, with checkpointing and without."""
    files = base_files.find(str(folder))
    kept, rounded = (
        loader.load(files, replace(FLOAT32, storage=storage)) for storage in ("int8", "")
    )
    stored = [(name, m) for name, m in kept.denoiser.named_modules() if is_stored(m)]
    assert set(chosen(parts)) <= {name for name, _ in stored}
    changed = False
    with torch.no_grad():
        for name, module in stored:
            weight, made = rounded.denoiser.get_submodule(name).weight, module.weight
            changed |= not torch.equal(cast(torch.Tensor, weight), made)
            cast(torch.Tensor, weight).copy_(made)
    assert changed
    noisy, levels = some_input(parts, 2)
    words, modules = parts.encode_text(TEXTS), chosen(parts)
    found: list[list[torch.Tensor]] = []
    for base, again in ((rounded, False), (kept, False), (kept, True)):
        shared = SharedBase(base)
        pairs = shared.attach(0, base.denoiser, modules, rank=2, alpha=2, seed=1)
        g = torch.Generator().manual_seed(2)
        for _, up in pairs.values():
            torch.nn.init.normal_(up, std=0.1, generator=g)
        lora_layers.set_gradient_checkpointing(base.denoiser, again)
        with shared.routed([0, 0]):
            answer = base.family.predict(base, noisy, levels, words)
            answer.square().sum().backward()
        grads = [m.grad for pair in pairs.values() for m in pair if m.grad is not None]
        assert len(grads) == 2 * len(modules)
        found.append([answer.detach(), *grads])
        shared.leave(0)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# --- of one family: what the others have alike ---

one_family = pytest.mark.parametrize("folder", ["z-image"], indirect=True)


@one_family
def test_styles_trained_together_are_what_each_is_alone(
    folder: Path, tmp_path: Path, exact: None
) -> None:
    targets = {"attention": 4, "feed_forward": 2}
    alone = [
        run_of(
            target,
            folder,
            tmp_path,
            adapter__targets=[target],
            adapter__rank=rank,
            optim__steps=steps,
            optim__seed=rank,
        )
        for steps, (target, rank) in enumerate(targets.items(), 2)
    ]
    for config in alone:
        list(train(config))
    many = [elsewhere(config, "many") for config in alone]
    events = list(together(many))
    assert sum(isinstance(event, Finished) for _, event in events) == 2
    for one, other in zip(alone, many, strict=True):
        same(one, other, 2**-9)


@one_family
def test_a_run_ends_with_a_report(config: RunConfig, folder: Path, loads: list[str]) -> None:
    pictures = Path(config.data.folder)
    keys = {
        "report": {"most": 4, "weakest": 1.0, "minutes": 1000.0, "held_out": str(pictures)},
        "preview": {"every": 0, "steps": 1},
        "optim": {"steps": 2},
    }
    tables = {name: getattr(config, name).model_copy(update=found) for name, found in keys.items()}
    run = config.model_copy(update=tables)
    events = list(train(run))
    assert isinstance(events[-1], Finished)
    assert loads.count("text_encoder") == 2  # once for the captions, once for the report
    record = json.loads((run.run_folder / "report" / "report.json").read_text())
    assert len(record["prompts"]) == 4 and record["tried"]
    for tried in record["tried"]:
        assert 0 <= tried["style"] <= 1 and 0 <= tried["content"] <= 1
        assert all(np.isfinite(band) and band > 0 for band in tried["bands"])
    assert any(tried["bands"] for tried in record["tried"])


# --- what is refused ---


def spoilt(folder: Path, tmp_path: Path, part: str, **keys: Any) -> str:
    copied = tmp_path / "spoilt"
    shutil.copytree(folder, copied)
    path = copied / part
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return str(copied)


def test_relatives_are_refused_before_anything_is_loaded(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="it draws from more than words"):
        base_files.find(spoilt(folder, tmp_path / "a", "transformer/config.json", in_channels=7))
    with pytest.raises(ModelError, match="LTXVideoTransformer3DModel"):
        kind = {"_class_name": "LTXVideoTransformer3DModel"}
        base_files.find(spoilt(folder, tmp_path / "b", "transformer/config.json", **kind))


DISTILLED = {
    "flux": ("transformer/config.json", {"guidance_embeds": False}),
    "flux2-klein": ("model_index.json", {"is_distilled": True}),
    "krea2": ("model_index.json", {"is_distilled": True}),
}


def test_distilled_bases_are_drawn_without_guidance(folder: Path, tmp_path: Path) -> None:
    family = base_files.find(str(folder)).family
    assert family.guided != "not"
    if folder.name in DISTILLED:
        part, keys = DISTILLED[folder.name]
        found = base_files.find(spoilt(folder, tmp_path, part, **keys)).family
        assert found.guided == "not" and found.name == family.name
        if family.distilled_mu is not None and found.drawn_at is not None:
            assert found.drawn_at(256, 8) == found.drawn_at(4096, 8) == family.distilled_mu


def test_settings_that_mean_nothing_here_are_refused(config: RunConfig) -> None:
    for table, keys, message in (
        ("adapter", {"tokens": 2}, "adapter.tokens is 2"),
        ("adapter", {"targets": ["convolutions"]}, "adapter.targets names convolutions"),
        ("optim", {"unet_lr": 0.0}, "optim.unet_lr is 0"),
        ("optim", {"min_snr": 3.0}, "optim.min_snr is 3.0, which is for noise schedules"),
        ("optim", {"noise_offset": 0.1}, "optim.noise_offset is 0.1, which is for noise schedules"),
    ):
        changed = getattr(config, table).model_copy(update=keys)
        with pytest.raises(ConfigError, match=re.escape(message)):
            planned(config.model_copy(update={table: changed}))


@pytest.mark.parametrize("folder", ["flux"], indirect=True)
def test_a_run_that_was_begun_with_such_settings_goes_on(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    optim = config.optim.model_copy(update={"noise_offset": 0.1})
    quiet = config.preview.model_copy(update={"every": 0})
    old = config.model_copy(update={"optim": optim, "preview": quiet})
    seen: list[Any] = []
    with monkeypatch.context() as earlier:
        earlier.setattr(plan, "OF_SCHEDULES", ())
        for event in train(old, lambda: any(isinstance(e, Stepped) for e in seen)):
            seen.append(event)
    assert planned(old).config == old
    anew = old.save.model_copy(update={"resume": "anew"})
    with pytest.raises(ConfigError, match=r"optim\.noise_offset is 0\.1"):
        planned(old.model_copy(update={"save": anew}))


def test_a_style_of_another_family_is_refused_in_words(parts: Parts) -> None:
    names = accepted_names({"transformer": loader.weight_shapes(parts.denoiser)}, parts.family.name)
    lora = Lora(np.ones((1, 768), np.float32), np.ones((320, 1), np.float32), 1.0)
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    style = style_from_bytes(style_bytes("a", {name: lora}, {}), "a")
    with pytest.raises(StyleFileError, match=r"This is an SD 1\.5 style, your base is"):
        match(style, names)

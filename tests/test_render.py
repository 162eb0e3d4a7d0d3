"""Pictures: one loop for many equals many loops, and ours equals the stock pipeline's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.test_apply_styles import changed, merged, some_style
from training.adapters.inference import ActiveStyle
from training.diffusion import sampling
from training.diffusion.sampling import draw
from training.errors import ConfigError, DataError
from training.models import base_files, loader
from training.models.family import Parts
from training.prompt import Prompt
from training.runtime.device import DeviceSpec
from training.samplers import SAMPLERS, named
from training.style_files.reading import Lora, canonical_name
from training.style_files.writing import write_style

STEPS = 4
CAT = Prompt("an icon of a cat", steps=STEPS, seed=3)


@pytest.fixture
def latents(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The last latents of every draw, as they go to the decoder."""
    kept: list[torch.Tensor] = []
    decode = sampling.decoded
    monkeypatch.setattr(sampling, "decoded", lambda parts, z: (kept.append(z), decode(parts, z))[1])
    return kept


def stock(folder: Path, dtype: torch.dtype) -> Any:
    """diffusers' own pipeline."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(
        folder, dtype=dtype, safety_checker=None, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn_by_stock(
    pipe: Any, prompt: Prompt, output: str = "latent", noise: torch.Tensor | None = None
) -> Any:
    g = torch.Generator().manual_seed(prompt.seed)
    side = {"height": prompt.size, "width": prompt.size} if prompt.size else {}
    words = {
        "prompt": prompt.text,
        "negative_prompt": prompt.negative,
        "guidance_scale": prompt.guidance,
        "num_inference_steps": prompt.steps,
    }
    return pipe(**words, **side, generator=g, latents=noise, output_type=output).images


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def levels_apart(a: Image.Image, b: Image.Image) -> int:
    """Largest difference in levels of 0 to 255."""
    return int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max())


def three_styles(parts: Parts) -> list[ActiveStyle]:
    """Everything at rank 3, only attention of the UNet at rank 8, convolutions and text encoder at
    rank 2.
    """
    return [
        ActiveStyle(some_style(parts, rank=3, seed=1)),
        ActiveStyle(
            some_style(parts, rank=8, seed=2, of=["unet"], keep=lambda name: ".attn" in name), 0.6
        ),
        ActiveStyle(
            some_style(parts, rank=2, seed=3, keep=lambda name: "conv" in name or "fc" in name),
            -1.3,
        ),
    ]


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_columns_in_one_loop_equal_single_draws(
    parts64: Parts, latents: list[torch.Tensor], guidance: float
) -> None:
    a, b, c = three_styles(parts64)
    rows = [[], [a], [b], [c], [a, b, c]]
    base = replace(CAT, guidance=guidance)
    prompts = [
        replace(base, text=f"an icon of a cat {i}", negative="style" if i % 2 else "", seed=i // 2)
        for i in range(len(rows))
    ]
    pictures = draw(parts64, prompts, rows=rows)
    for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        (alone,) = draw(parts64, [prompt], rows=[row])
        assert apart(latents[0][i : i + 1], latents[-1]) < 1e-9, i
        assert levels_apart(pictures[i], alone) == 0, i


def test_a_column_equals_merged_weights(parts64: Parts, latents: list[torch.Tensor]) -> None:
    a, b, c = three_styles(parts64)
    draw(parts64, [CAT] * 3, rows=[[], [a, b], [c]])
    for i, row in ((1, [a, b]), (2, [c])):
        draw(merged(parts64, row), [CAT])
        assert apart(latents[0][i : i + 1], latents[-1]) < 1e-9
        assert apart(latents[0][i : i + 1], latents[0][:1]) > 1e-3  # the style does something


def test_the_base_column_is_the_base(parts64: Parts, latents: list[torch.Tensor]) -> None:
    draw(parts64, [CAT, CAT], rows=[[], [three_styles(parts64)[0]]])
    draw(parts64, [CAT])
    assert apart(latents[0][:1], latents[1]) < 1e-12


def test_the_same_prompt_draws_the_same_picture_and_another_seed_does_not(parts: Parts) -> None:
    one, again, other = (
        draw(parts, [CAT])[0],
        draw(parts, [CAT])[0],
        draw(parts, [replace(CAT, seed=4)])[0],
    )
    assert levels_apart(one, again) == 0
    assert levels_apart(one, other) > 0


def test_nothing_stays_behind_when_drawing_fails(parts: Parts) -> None:
    before = changed(parts)

    def fails(step: int, of: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        draw(parts, [CAT], rows=[[three_styles(parts)[0]]], on_progress=fails)
    assert changed(parts) == before


def test_progress_is_reported_after_every_step(parts: Parts) -> None:
    seen: list[tuple[int, int]] = []
    draw(parts, [CAT, CAT], on_progress=lambda step, of: seen.append((step, of)))
    assert seen == [(i, STEPS) for i in range(1, STEPS + 1)]


def test_sizes_that_do_not_fit_are_refused(parts: Parts) -> None:
    with pytest.raises(DataError, match="multiple of 8 px"):
        draw(parts, [replace(CAT, size=36)])
    assert draw(parts, [replace(CAT, size=48)])[0].size == (48, 48)


def test_prompts_of_different_lengths_of_sampling_are_refused(parts: Parts) -> None:
    with pytest.raises(ValueError, match="share steps"):
        draw(parts, [CAT, replace(CAT, steps=STEPS + 1)])


KINDS = {
    "guided": CAT,
    "unguided": replace(CAT, guidance=1.0),
    "negative": replace(CAT, negative="a style", size=48),
}


@pytest.mark.parametrize("prompt", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("base", ["base_folder", "v_base_folder"])
def test_our_picture_is_the_stock_pipelines(
    base: str, prompt: Prompt, latents: list[torch.Tensor], request: pytest.FixtureRequest
) -> None:
    """float32; ours is channels_last, so sums run in another order:

    1e-4 relative, one level of 255.
    """
    folder = request.getfixturevalue(base)
    ours = draw(
        loader.load(base_files.find(str(folder)), DeviceSpec(torch.device("cpu"), torch.float32)),
        [prompt],
    )[0]
    pipe = stock(folder, torch.float32)
    assert apart(latents[0], drawn_by_stock(pipe, prompt)) < 1e-4
    assert levels_apart(ours, drawn_by_stock(pipe, prompt, "pil")[0]) <= 1


def test_a_sampler_written_another_way_is_the_same_one(parts: Parts) -> None:
    assert type(sampling.scheduler_of(parts, "dpm++_2m")) is type(
        sampling.scheduler_of(parts, "DPM++ 2M")
    )
    with pytest.raises(ConfigError, match="one of these"):
        sampling.scheduler_of(parts, "no such sampler")


@pytest.mark.parametrize(
    "sampler",
    [
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "HeunDiscreteScheduler",
    ],
)
def test_other_samplers_draw_as_in_the_stock_pipeline(
    base_folder: Path, latents: list[torch.Tensor], sampler: str
) -> None:
    import diffusers

    ours = loader.load(
        base_files.find(str(base_folder)), DeviceSpec(torch.device("cpu"), torch.float64)
    )
    pipe = stock(base_folder, torch.float64)
    pipe.scheduler = getattr(diffusers, sampler).from_config(pipe.scheduler.config)
    ours.scheduler = pipe.scheduler
    draw(ours, [CAT, replace(CAT, seed=9)])
    draw(ours, [CAT])
    assert apart(latents[0][:1], latents[1]) < 1e-9
    if (
        "Ancestral" not in sampler
    ):  # its own noise comes from another generator than the stock pipeline's
        assert (
            apart(latents[1], drawn_by_stock(pipe, CAT, noise=sampling.noise(ours, [CAT]))) < 1e-6
        )


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_by_name_draw_as_in_the_stock_pipeline(
    base_folder: Path, latents: list[torch.Tensor], name: str
) -> None:
    import diffusers

    ours = loader.load(
        base_files.find(str(base_folder)), DeviceSpec(torch.device("cpu"), torch.float64)
    )
    prompt = replace(CAT, sampler=name)
    draw(ours, [prompt])
    draw(ours, [replace(CAT, sampler="base", steps=STEPS + 1)])
    assert torch.isfinite(latents[0]).all() and not torch.equal(latents[0], latents[1])
    if "SDE" in name or name.endswith(" a") or name == "DDPM":
        return  # their own noise comes from another generator than the stock pipeline's
    pipe = stock(base_folder, torch.float64)
    chosen = SAMPLERS[name]
    pipe.scheduler = getattr(diffusers, chosen.kind).from_config(
        pipe.scheduler.config, **chosen.options
    )
    assert (
        apart(latents[0], drawn_by_stock(pipe, prompt, noise=sampling.noise(ours, [prompt]))) < 1e-6
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_schedule_that_ends_in_noise_is_followed_or_refused(
    v_base_folder: Path, name: str
) -> None:
    ours = loader.load(
        base_files.find(str(v_base_folder)), DeviceSpec(torch.device("cpu"), torch.float32)
    )
    try:
        followed = sampling.scheduler_of(ours, name)
    except ConfigError as error:
        assert name in str(error)
        return
    assert followed.config.prediction_type == "v_prediction" and followed.alphas_cumprod[-1] < 1e-6
    (picture,) = draw(ours, [replace(CAT, sampler=name)])
    assert np.asarray(picture).std() > 0


@pytest.mark.parametrize("text", ["dpm++ 2m karras", "DPM++_2M_Karras", "DPM++ 2M Karras"])
def test_samplers_are_known_however_they_are_written(text: str) -> None:
    assert named(text) == "DPM++ 2M Karras"
    with pytest.raises(ConfigError, match="UniPC"):
        named("best")


@pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
def test_a_written_style_draws_the_same_through_stock_load_lora_weights(
    parts: Parts, base_folder: Path, tmp_path: Path, latents: list[torch.Tensor], dialect: str
) -> None:
    """UNet and text encoder, float32 weights in the file; float32 drawing: 1e-4 relative, one level
    of 255.

    Mixed ranks in the diffusers dialect only: of kohya files, diffusers 0.42 drops the alphas of
    `to_k` layers that differ from the first.
    """
    from studio.library.generator import loaded_style
    from training.style_files.key_names import diffusers_names

    adapted = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "ff.net.2",
        "proj_in",
        "conv1",
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "fc1",
        "fc2",
    )
    modules = some_style(parts, rank=4, seed=5, keep=lambda name: name.endswith(adapted))
    if dialect == "diffusers":
        modules |= some_style(parts, rank=2, seed=6, keep=lambda name: name.endswith("to_k"))
    name_of = (
        (lambda p, m: canonical_name(p, m, "sd1"))
        if dialect == "kohya"
        else (lambda p, m: next(iter(diffusers_names(p, [m]))))
    )
    path = tmp_path / "style.safetensors"
    write_style(
        path,
        {name_of(p, m): lora for (p, m), lora in modules.items()},
        {"ss_base_model_version": "sd_v1"},
        dtype="float32",
        dialect=dialect,
    )
    read = loaded_style(path, parts)
    assert read.modules.keys() == modules.keys()
    ours = draw(parts, [CAT], rows=[[read]])[0]
    base = latents[0]
    draw(parts, [CAT])
    pipe = stock(base_folder, torch.float32)
    pipe.load_lora_weights(tmp_path, weight_name=path.name)
    assert apart(latents[0], drawn_by_stock(pipe, CAT)) < 1e-4
    assert levels_apart(ours, drawn_by_stock(pipe, CAT, "pil")[0]) <= 1
    assert apart(base, latents[1]) > 1e-2  # and it is not the base


def test_a_lora_of_half_precision_draws_in_half_precision(base_folder: Path) -> None:
    half = loader.load(
        base_files.find(str(base_folder)), DeviceSpec(torch.device("cpu"), torch.bfloat16)
    )
    style = ActiveStyle(
        {
            key: Lora(lora.down, lora.up, lora.alpha)
            for key, lora in three_styles(half)[0].modules.items()
        }
    )
    base, styled = draw(half, [CAT, CAT], rows=[[], [style]])
    assert base.size == (32, 32)
    assert levels_apart(base, styled) > 0

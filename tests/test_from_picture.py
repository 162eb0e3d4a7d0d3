"""Drawing that begins with a picture: equal to diffusers' own pipelines, with a mask too; and the
command that does it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from studio.compare import main
from tests import tiny_flow
from tests.test_render import CAT, levels_apart
from training.diffusion import from_picture
from training.diffusion.from_picture import Start, start_from, steps_left
from training.diffusion.sampling import decoded, draw, schedule
from training.errors import DataError
from training.models import base_files, loader
from training.models.family import Parts
from training.prompt import Prompt
from training.runtime.device import DeviceSpec
from training.samplers import SAMPLERS

FLOAT32 = DeviceSpec(torch.device("cpu"), torch.float32)
SHEEP = replace(CAT, text="a sheep", steps=5)
TALL = (32, 48)  # px


@pytest.fixture
def sketch(tmp_path: Path) -> Path:
    """A photograph of nothing, as tall as TALL."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (6, 4, 3), dtype=np.uint8))
    path = tmp_path / "sketch.png"
    small.resize(TALL, Image.Resampling.BICUBIC).save(path)
    return path


def start_of(sketch: Path, strength: float, mask: np.ndarray | None = None) -> Start:
    return Start(np.array(Image.open(sketch).convert("RGB")), strength, mask)


@functools.cache
def loaded(folder: Path) -> Any:
    """diffusers' image-to-image pipeline over the same files."""
    import diffusers

    pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock(folder: Path, sampler: str) -> Any:
    """The same with a sampler, which is "base" for its own."""
    import diffusers

    pipe = diffusers.StableDiffusionImg2ImgPipeline(
        **loaded(folder).components, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    if sampler != "base":
        chosen = SAMPLERS[sampler]
        kind = getattr(diffusers, chosen.kind)
        pipe.scheduler = kind.from_config(pipe.scheduler.config, **chosen.options)
    return pipe


def by_stock(pipe: Any, prompt: Prompt, sketch: Path, strength: float, **more: Any) -> Image.Image:
    return pipe(
        prompt=prompt.text,
        image=Image.open(sketch).convert("RGB"),
        strength=strength,
        guidance_scale=prompt.guidance,
        num_inference_steps=prompt.steps,
        generator=torch.Generator().manual_seed(prompt.seed),
        **more,
    ).images[0]


@pytest.mark.parametrize(
    ("base", "sampler", "strength"),
    [
        ("base_folder", "base", 0.4),
        ("base_folder", "base", 1.0),
        ("v_base_folder", "base", 0.6),
        ("base_folder", "Euler", 0.6),
        ("base_folder", "Heun", 0.6),
        ("base_folder", "PNDM", 0.6),
        ("base_folder", "DPM++ 2M Karras", 0.6),
    ],
)
def test_a_picture_begins_as_in_the_stock_pipeline(
    base: str, sampler: str, strength: float, sketch: Path, request: pytest.FixtureRequest
) -> None:
    """float32, our sums in another order: one level of 255."""
    folder = request.getfixturevalue(base)
    parts = loader.load(base_files.find(str(folder)), FLOAT32)
    prompt = replace(SHEEP, sampler=sampler)
    (ours,) = draw(parts, [prompt], start=start_of(sketch, strength))
    assert ours.size == TALL
    assert levels_apart(ours, by_stock(stock(folder, sampler), prompt, sketch, strength)) <= 1
    (plain,) = draw(parts, [replace(prompt, size=TALL[0], height=TALL[1])])
    assert levels_apart(ours, plain) > 8


@pytest.mark.parametrize("sampler", ["base", "DPM++ 2M"])
def test_a_mask_is_as_in_the_stock_pipeline_and_keeps_what_lies_outside(
    base_folder: Path, parts: Parts, sketch: Path, sampler: str
) -> None:
    """Inside, where no edge is softened, one level of 255; outside, the picture's own pixels."""
    from diffusers import StableDiffusionInpaintPipeline

    mask = np.zeros((TALL[1], TALL[0]), np.uint8)
    mask[16:48, 8:28] = 255
    prompt = replace(SHEEP, sampler=sampler)
    (ours,) = draw(parts, [prompt], start=start_of(sketch, 0.8, mask))
    own = stock(base_folder, sampler).components
    pipe = StableDiffusionInpaintPipeline(**own, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    stated = {"mask_image": Image.fromarray(mask), "height": TALL[1], "width": TALL[0]}
    theirs = by_stock(pipe, prompt, sketch, 0.8, **stated)
    found, original = np.asarray(ours), np.asarray(Image.open(sketch))
    assert levels_apart(ours.crop((14, 24, 22, 40)), theirs.crop((14, 24, 22, 40))) <= 1
    assert np.array_equal(found[mask == 0], original[mask == 0])
    assert np.abs(found.astype(int) - original)[24:40, 14:22].max() > 8


# Our family -> diffusers' pipelines that begin with a picture: everywhere, and with a mask
FLOWS = {
    "flux": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "z-image": ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    "qwen-image": ("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    "sd3": ("StableDiffusion3Img2ImgPipeline", ""),
}


@functools.cache
def flow_parts(folder: Path) -> Parts:
    return loader.load(base_files.find(str(folder)), FLOAT32)


def flow_by_stock(
    folder: Path, kind: str, prompt: Prompt, sketch: Path, strength: float, **more: Any
) -> Image.Image:
    """What diffusers' pipeline of that name makes of the sketch."""
    import diffusers

    pipe = getattr(diffusers, kind).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    guidance = tiny_flow.GUIDANCE[folder.name](prompt.guidance)
    if folder.name != "flux":
        more["negative_prompt"] = flow_parts(folder).family.empty
    return pipe(
        prompt=prompt.text,
        image=Image.open(sketch).convert("RGB"),
        strength=strength,
        num_inference_steps=prompt.steps,
        generator=torch.Generator().manual_seed(prompt.seed),
        height=TALL[1],
        width=TALL[0],
        **guidance,
        **more,
    ).images[0]


@pytest.mark.parametrize(("family", "strength"), [*((f, 0.5) for f in FLOWS), ("flux", 1)])
def test_a_flow_begins_as_in_the_stock_pipeline(
    family: str, strength: float, sketch: Path, flow_base: Callable[[str], Path]
) -> None:
    """Half of five steps is three here, where Stable Diffusion makes two."""
    folder = flow_base(family)
    parts, prompt = flow_parts(folder), replace(SHEEP, guidance=3.0)
    seen: list[tuple[int, int]] = []
    (ours,) = draw(
        parts,
        [prompt],
        start=start_of(sketch, strength),
        on_progress=lambda *now: seen.append(now),
    )
    assert seen[-1] == (steps_left(5, strength, flow=True),) * 2
    theirs = flow_by_stock(folder, FLOWS[family][0], prompt, sketch, strength)
    assert ours.size == TALL and levels_apart(ours, theirs) <= 1
    (plain,) = draw(parts, [replace(prompt, size=TALL[0], height=TALL[1])])
    assert levels_apart(ours, plain) > 8


@pytest.mark.parametrize("family", [family for family, kinds in FLOWS.items() if kinds[1]])
def test_a_mask_of_a_flow_is_as_in_the_stock_pipeline(
    family: str, sketch: Path, flow_base: Callable[[str], Path]
) -> None:
    folder = flow_base(family)
    mask = np.zeros((TALL[1], TALL[0]), np.uint8)
    mask[16:48, 8:24] = 255
    prompt = replace(SHEEP, guidance=3.0)
    (ours,) = draw(flow_parts(folder), [prompt], start=start_of(sketch, 0.8, mask))
    masked = {"mask_image": Image.fromarray(mask)}
    theirs = flow_by_stock(folder, FLOWS[family][1], prompt, sketch, 0.8, **masked)
    inside = (14, 24, 18, 40)
    assert levels_apart(ours.crop(inside), theirs.crop(inside)) <= 1
    found, original = np.asarray(ours).astype(int), np.asarray(Image.open(sketch))
    assert np.array_equal(found[mask == 0], original[mask == 0])
    assert np.abs(found - original)[24:40, 14:18].max() > 8


@pytest.mark.parametrize("sampler", ["base", "Heun", "DPM++ 2M", "UniPC"])
@pytest.mark.parametrize("family", ["flux2-klein", "krea2"])
def test_every_sampler_of_a_flow_goes_on_from_the_level_that_the_picture_was_noised_to(
    family: str, sampler: str, sketch: Path, flow_base: Callable[[str], Path]
) -> None:
    """Of these diffusers has no such pipeline. A denoiser that knows the picture, and so says
    noise - picture, is led back to it, whatever the strength: a wrong level would leave noise.
    """
    parts = flow_parts(flow_base(family))
    start, prompt = start_of(sketch, 0.5), replace(SHEEP, guidance=1.0, sampler=sampler)
    picture, noise = from_picture._latents(parts, start.pixels, prompt.seed)
    heard: list[float] = []

    def knows(parts: Parts, noisy: torch.Tensor, levels: torch.Tensor, *said: Any) -> torch.Tensor:
        heard.append(float(levels[0]))
        return (noise - picture).expand_as(noisy)

    knowing = replace(parts, family=replace(parts.family, predict=knows, guided="not"))
    (ours,) = draw(knowing, [prompt], start=start)
    (kept,) = decoded(parts, picture)
    assert levels_apart(ours, kept) <= 1 and 0.3 < heard[0] < 0.98
    expected = (1 - heard[0]) * picture + heard[0] * noise
    scheduler = schedule(parts, sampler, prompt.steps, picture)
    begun = from_picture.Begun(parts, scheduler, [prompt], start, picture)
    torch.testing.assert_close(begun.latents, expected)


def test_fewer_levels_keep_more_of_the_picture(parts: Parts, sketch: Path) -> None:
    start = start_of(sketch, 1.0)
    latents, _ = from_picture._latents(parts, start.pixels, SHEEP.seed)
    (kept,) = decoded(parts, latents)  # all that this base's VAE keeps of it
    original, found = np.asarray(kept, np.float64), []
    for strength in (0.1, 0.5, 1.0):
        (drawn,) = draw(parts, [replace(SHEEP, steps=10)], start=start_of(sketch, strength))
        found.append(np.abs(np.asarray(drawn) - original).mean())
    assert found == sorted(found) and found[0] < 0.9 * found[-1]


def test_one_step_at_least_is_made(parts: Parts, sketch: Path) -> None:
    seen: list[tuple[int, int]] = []
    start = start_of(sketch, 0.01)
    draw(parts, [SHEEP], start=start, on_progress=lambda *now: seen.append(now))
    assert seen == [(1, 1)]
    assert [steps_left(25, s) for s in (0.01, 0.3, 0.6, 1.0)] == [1, 7, 15, 25]
    assert [steps_left(25, s, flow=True) for s in (0.01, 0.3, 0.6, 1.0)] == [1, 8, 15, 25]


def test_a_file_becomes_a_start_of_the_nearest_shape(sketch: Path, tmp_path: Path) -> None:
    large, mask = tmp_path / "large.png", tmp_path / "mask.png"
    Image.open(sketch).resize((640, 960)).save(large)
    Image.new("L", (64, 96), 255).save(mask)
    start = start_from(large, 0.5, side=40, multiple=8, mask=mask)
    assert start.size == (32, 48) and start.mask is not None and start.mask.shape == (48, 32)
    Image.new("L", (96, 64), 255).save(mask)
    with pytest.raises(DataError, match=r"mask\.png is 96 x 64 px"):
        start_from(large, 0.5, side=40, multiple=8, mask=mask)
    Image.new("L", (64, 96), 0).save(mask)
    with pytest.raises(DataError, match=r"no white part.* Paint white what"):
        start_from(large, 0.5, side=40, multiple=8, mask=mask)
    large.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 64)
    with pytest.raises(DataError, match=r"large\.png"):
        start_from(large, 0.5, side=40, multiple=8)


def test_the_command_draws_a_picture_at_several_strengths(
    base_folder: Path, sketch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, cells = tmp_path / "grid.png", tmp_path / "cells"
    given = ["--base", str(base_folder), "--image", str(sketch), "--strength", "0.4", "0.8"]
    drawn = [
        "--prompt",
        "a sheep",
        "--steps",
        "5",
        "--seed",
        "3",
        "--size",
        "40",
        "--dtype",
        "float32",
    ]
    assert main([*given, *drawn, "--out", str(out), "--cells", str(cells)]) == 0
    assert {path.name for path in cells.iterdir()} == {"0-0.png", "1-0.png"}
    said = json.loads(Image.open(out).text["style_studio"])
    assert said["strengths"] == [0.4, 0.8] and len(said["image"]["sha256"]) == 64
    parts = loader.load(base_files.find(str(base_folder)), FLOAT32)
    for row, strength in enumerate((0.4, 0.8)):
        (ours,) = draw(parts, [SHEEP], start=start_of(sketch, strength))
        found = Image.open(cells / f"{row}-0.png")
        assert levels_apart(found.convert("RGB"), ours) <= 1
        assert json.loads(found.text["style_studio_start"])["strength"] == strength
    wide = Image.open(out).width
    assert main([*given[:2], *drawn, "--out", str(out)]) == 0
    assert Image.open(out).width < wide  # without the original's column


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--strength", "0.5"], "--strength needs --image"),
        (["--mask", "m.png"], "--mask needs --image"),
        (["--image", "no.png"], r"no\.png"),
        (["--image", "no.png", "--strength", "1.5"], "--strength is '1.5'"),
        (["--image", "no.png", "--strength", "0"], "--strength is '0'"),
    ],
)
def test_bad_starts_are_refused_before_anything_is_loaded(
    more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--base", "mini", "--prompt", "a", "--out", str(tmp_path / "grid.png")]
    assert main([*given, *more]) == 2
    assert re.search(words, capsys.readouterr().err)

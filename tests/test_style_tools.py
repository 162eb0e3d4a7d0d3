"""Mixing, cutting, extracting and baking do to the weights what they say, and nothing is ever
written over.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save

from tests.tiny import tiny_xl
from training.cli.style_file import main
from training.errors import StyleFileError
from training.style_files import writing
from training.style_files.base_weights import BaseWeights, write_with_style
from training.style_files.layers import Magnitude
from training.style_files.lora import Lora, added, cut, kronecker, nearest
from training.style_files.matching import match
from training.style_files.merge import (
    Changes,
    extracted,
    merged,
    rescaled,
    resized,
    without_magnitudes,
)
from training.style_files.reading import (
    Style,
    accepted_names,
    canonical_name,
    read_metadata,
    read_style,
)
from training.style_files.strengths import Weight
from training.style_files.writing import named, write_style


def random_lora(shape: tuple[int, ...], rank: int, alpha: float, seed: int) -> Lora:
    generator = np.random.default_rng(seed)

    def draw(*size):
        return generator.standard_normal(size, np.float32) * 0.3

    return Lora(draw(rank, *shape[1:]), draw(shape[0], rank, *(1,) * (len(shape) - 2)), alpha)


def changes_for(base: BaseWeights, rank: int, seed: int, keep: int = 1) -> Changes:
    """On every keep-th linear and convolution of a base."""
    places = [(part, module) for part, modules in base.shapes.items() for module in modules]
    return {
        p: random_lora(base.shapes[p[0]][p[1]], rank, 3.0, seed + i)
        for i, p in enumerate(places[::keep])
    }


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / max(1e-12, np.abs(expected).max()))


@pytest.fixture(scope="module")
def base(base_folder: Path) -> BaseWeights:
    return BaseWeights(base_folder)


# Arithmetic


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (12, 10, 3, 3), (40, 2, 3, 3), (9, 9, 1, 1)])
def test_cutting_is_the_best_that_a_rank_can_do(shape: tuple[int, ...]) -> None:
    lora = random_lora(shape, 8, 5.0, 0)
    values = np.linalg.svd(lora.delta().reshape(shape[0], -1).astype(np.float64), compute_uv=False)
    for found, rest in (cut(lora, rank=3), nearest(lora.delta(), rank=3)):
        assert found.rank == 3 and found.shape == shape
        assert rest == pytest.approx(np.sqrt(np.sum(values[3:] ** 2)), rel=1e-4)
        assert np.linalg.norm(found.delta() - lora.delta()) == pytest.approx(rest, rel=1e-3)
    whole, rest = cut(lora, rank=500)
    assert whole.rank <= 8 and off(whole.delta(), lora.delta()) < 1e-5 and rest < 1e-5


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.99, 1.0])
def test_kept_energy_is_reached_with_as_few_ranks_as_possible(energy: float) -> None:
    lora = random_lora((20, 30), 8, 5.0, 0)
    shares = np.cumsum(np.linalg.svd(lora.delta().astype(np.float64), compute_uv=False) ** 2)
    found, _ = cut(lora, energy=energy)
    assert found.rank == min(8, int(np.sum(shares / shares[-1] < energy - 1e-9)) + 1)


def test_a_change_of_nothing_can_be_cut() -> None:
    zeros = Lora(np.zeros((4, 6), np.float32), np.zeros((5, 4), np.float32), 4.0)
    for found, rest in (cut(zeros, rank=2), nearest(zeros.delta(), energy=0.9)):
        assert (
            found.rank == 1
            and not found.delta().any()
            and rest == 0
            and np.isfinite(found.up).all()
        )


def test_sums_and_kronecker_products_are_exact() -> None:
    one, two = random_lora((6, 5, 3, 3), 2, 3.0, 0), random_lora((6, 5, 3, 3), 4, 1.0, 1)
    assert (
        off(added([(one, 0.7), (two, -1.5)]).delta(), 0.7 * one.delta() - 1.5 * two.delta()) < 1e-6
    )
    w1, w2 = random_lora((3, 4), 2, 2.0, 0).delta(), random_lora((5, 2), 2, 2.0, 1).delta()
    found, rest = kronecker(w1, w2, (15, 8), 64)
    assert off(found.delta(), np.kron(w1, w2)) < 1e-6 and rest < 1e-6
    fewer, rest = kronecker(w1, w2, (15, 8), 2)
    assert np.linalg.norm(fewer.delta() - np.kron(w1, w2)) == pytest.approx(rest, rel=1e-4)


# Tools


def test_merging_adds_weighted_changes_part_by_part(base: BaseWeights) -> None:
    one, two = changes_for(base, 2, 0), changes_for(base, 3, 500, keep=2)
    found = merged([(one, Weight(0.5, 2.0)), (two, Weight(-1.0, 0.0))])
    assert found.residual == 0 and found.changes.keys() == one.keys()
    for place, lora in found.changes.items():
        w1, w2 = (0.5, -1.0) if place[0] == "unet" else (2.0, 0.0)
        expected = w1 * one[place].delta() + (w2 * two[place].delta() if place in two else 0)
        assert off(lora.delta(), expected) < 1e-5
    outer = merged(
        [(one, Weight(0.5, 0.0, (("down.0", 3.0), ("down", 0.0), ("mid", -1.0))))]
    ).changes
    by_block = {"down_blocks.0": 3.0, "down_blocks": 0.0, "mid_block": -1.0}
    for (part, module), lora in one.items():
        starts = [w for start, w in by_block.items() if module.startswith(start)]
        weight = (starts[0] if starts else 0.5) if part == "unet" else 0.0
        assert ((part, module) in outer) == bool(weight)
        assert not weight or off(outer[part, module].delta(), weight * lora.delta()) < 1e-5
    smaller = merged([(one, Weight()), (two, Weight())], rank=2)
    assert max(lora.rank for lora in smaller.changes.values()) == 2 and 0 < smaller.residual < 1
    with pytest.raises(StyleFileError, match="Nothing is left"):
        merged([(one, Weight(0, 0))])
    place = ("unet", next(iter(base.shapes["unet"])))
    with pytest.raises(StyleFileError, match="different bases"):
        merged(
            [
                ({place: random_lora((3, 4), 1, 1, 0)}, Weight()),
                ({place: random_lora((3, 5), 1, 1, 0)}, Weight()),
            ]
        )


def test_the_residual_is_the_share_that_was_lost(base: BaseWeights) -> None:
    changes = changes_for(base, 4, 0)
    found = resized(changes, rank=2)
    lost = sum(
        np.sum((found.changes[p].delta() - changes[p].delta()).astype(np.float64) ** 2)
        for p in changes
    )
    assert found.residual == pytest.approx(
        np.sqrt(lost / sum(np.sum(c.delta().astype(np.float64) ** 2) for c in changes.values())),
        rel=1e-3,
    )


def test_a_baked_base_holds_the_style_and_extracting_gives_it_back(
    base: BaseWeights, tmp_path: Path
) -> None:
    changes = changes_for(base, 2, 0, keep=3)
    write_with_style(base, changes, tmp_path / "new")
    tuned = BaseWeights(tmp_path / "new")
    assert {p.name for p in (tmp_path / "new").iterdir()} == {p.name for p in base.folder.iterdir()}
    for part, modules in base.shapes.items():
        for module in modules:
            change = tuned.weight(part, module) - base.weight(part, module)
            expected = (
                changes[part, module].delta()
                if (part, module) in changes
                else np.zeros_like(change)
            )
            assert np.abs(change - expected).max() < 1e-5
    found = extracted(tuned, base, rank=2)
    assert found.changes.keys() == changes.keys() and found.residual < 1e-4 and not found.notes
    assert all(off(found.changes[p].delta(), changes[p].delta()) < 1e-3 for p in changes)
    half = extracted(tuned, base, rank=1)
    assert 0.05 < half.residual < 1
    with pytest.raises(StyleFileError, match="same weights"):
        extracted(base, base, rank=1)
    with pytest.raises(StyleFileError, match="exists"):
        write_with_style(base, changes, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new"]


def test_a_failed_baking_leaves_nothing(base: BaseWeights, tmp_path: Path) -> None:
    place = ("unet", next(iter(base.shapes["unet"])))
    lora = random_lora(base.shapes["unet"][place[1]], 1, 1.0, 0)
    with pytest.raises(StyleFileError, match="too large"):
        write_with_style(
            base, {place: Lora(lora.down * 0 + 1e19, lora.up * 0 + 3.5e19, 1.0)}, tmp_path / "new"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_baked_base_opens_in_diffusers(base: BaseWeights, tmp_path: Path) -> None:
    import diffusers

    write_with_style(base, changes_for(base, 1, 0), tmp_path / "new")
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        tmp_path / "new" / "unet", use_safetensors=True
    )
    module = "mid_block.attentions.0.proj_in"
    assert np.array_equal(
        unet.get_submodule(module).weight.detach().numpy(),
        BaseWeights(tmp_path / "new").weight("unet", module),
    )


def test_dora_becomes_what_peft_makes_of_it(base: BaseWeights) -> None:
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    shape = (6, 4)
    lora = random_lora(shape, 2, 3.0, 0)
    net = torch.nn.ModuleDict({"x": torch.nn.Linear(4, 6, bias=False)})
    before = net["x"].weight.detach().numpy().copy()
    inject_adapter_in_model(LoraConfig(r=2, lora_alpha=3, use_dora=True, target_modules=["x"]), net)
    layer, magnitude = net["x"], np.linspace(0.5, 2, 6, dtype=np.float32)
    layer.lora_A["default"].weight.data = torch.from_numpy(lora.down)
    layer.lora_B["default"].weight.data = torch.from_numpy(lora.up)
    layer.lora_magnitude_vector["default"].weight.data = torch.from_numpy(magnitude)
    with torch.no_grad():
        expected = layer(torch.eye(4)).T.numpy()
    assert off(rescaled(before + lora.delta(), Magnitude(magnitude, "out")), expected) < 1e-5


def test_dora_is_rewritten_for_its_base(base: BaseWeights) -> None:
    names = accepted_names(base.shapes, "mini")
    place = ("unet", "mid_block.attentions.0.proj_in")
    name = canonical_name(*place, "mini")
    lora, before = random_lora(base.shapes["unet"][place[1]], 2, 3.0, 0), base.weight(*place)
    for axis, n in (("out", 0), ("in", 1)):
        magnitude = Magnitude(np.linspace(0.5, 2, before.shape[n], dtype=np.float32), axis)
        style = Style({name: lora}, {}, "", magnitudes={name: magnitude})
        found = without_magnitudes(style, names, base, rank=1024)
        change = before + found.changes[place].delta()
        norms = np.sqrt((change**2).sum(axis=tuple(i for i in range(4) if i != n)))
        assert found.residual < 1e-5 and np.allclose(norms, magnitude.values, rtol=1e-4)


# The command


@pytest.fixture
def style(base: BaseWeights, tmp_path: Path) -> Path:
    path = tmp_path / "ink.safetensors"
    metadata = {
        "modelspec.title": "Ink",
        "modelspec.trigger_phrase": "inkwash",
        "ss_tag_frequency": "secret",
        "ss_base_model_version": "style_studio_mini",
    }
    write_style(path, named(changes_for(base, 4, 0), "kohya", "mini"), metadata, dtype="float32")
    return path


def test_every_command_does_what_it_says(
    style: Path, base: BaseWeights, capsys: pytest.CaptureFixture[str]
) -> None:
    def at(name):
        return str(style.with_name(name))

    names = accepted_names(base.shapes, "mini")

    def deltas(name):
        return {
            place: lora.delta()
            for place, lora in match(read_style(style.with_name(name)), names).items()
        }

    own = deltas("ink.safetensors")
    assert (
        main(
            [
                "merge",
                f"{style}:0.5:0.25",
                f"{style}:1",
                "--out",
                at("mix.safetensors"),
                "--unet",
                "2",
            ]
        )
        == 0
    )
    mixed = deltas("mix.safetensors")
    assert all(
        off(mixed[place], own[place] * (3.0 if place[0] == "unet" else 1.25)) < 1e-5
        for place in own
    )
    assert read_metadata(style.with_name("mix.safetensors"))["modelspec.merged_from"] == "Ink, Ink"
    assert (
        main(
            [
                "resize",
                str(style),
                "--rank",
                "2",
                "--out",
                at("small.safetensors"),
                "--dtype",
                "float16",
            ]
        )
        == 0
    )
    assert "left out" in capsys.readouterr().out and read_style(
        style.with_name("small.safetensors")
    ).ranks in ("2", "1 to 2")
    assert main(["bake", f"{style}:0.5", "--base", str(base.folder), "--out", at("baked")]) == 0
    assert (
        main(
            [
                "extract",
                "--tuned",
                at("baked"),
                "--base",
                str(base.folder),
                "--rank",
                "4",
                "--out",
                at("back.safetensors"),
                "--dtype",
                "float32",
            ]
        )
        == 0
    )
    again = deltas("back.safetensors")
    assert again.keys() == own.keys() and all(
        np.abs(again[place] - own[place] * 0.5).max() < 1e-4 for place in own
    )
    assert (
        read_style(style.with_name("back.safetensors")).metadata["ss_base_model_version"]
        == "style_studio_mini"
    )
    assert "secret" not in json.dumps(
        [read_metadata(style.with_name(f"{n}.safetensors")) for n in ("mix", "small", "back")]
    )


def test_a_style_is_taken_out_of_a_base_of_two_text_encoders(tmp_path: Path) -> None:
    """Whose second one's weights are named otherwise in its file than in the style."""
    base = BaseWeights(tiny_xl(tmp_path / "xl"))
    places = [
        (part, module) for part, modules in base.shapes.items() for module in list(modules)[:6]
    ]
    changes = {
        place: random_lora(base.shapes[place[0]][place[1]], 2, 2.0, i)
        for i, place in enumerate(places)
    }
    write_with_style(base, changes, tmp_path / "tuned")
    out = tmp_path / "out.safetensors"
    assert (
        main(
            [
                "extract",
                "--tuned",
                str(tmp_path / "tuned"),
                "--base",
                str(base.folder),
                "--rank",
                "2",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    found = match(read_style(out), accepted_names(base.shapes, "sdxl"))
    assert all(
        np.abs(found[place].delta() - lora.delta()).max() < 2e-3 * np.abs(lora.delta()).max()
        for place, lora in changes.items()
    )
    assert main(["check", str(out), "--base", str(base.folder)]) == 0


def test_scrubbing_changes_no_weight(style: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = style.with_name("clean.safetensors")
    assert main(["inspect", str(style), "--published"]) == 0
    assert "secret" in capsys.readouterr().out
    assert main(["scrub", str(style), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "Left out: ss_tag_frequency" in shown and "secret" not in shown
    before, after = load_file(style), load_file(out)
    assert before.keys() == after.keys() and all(
        np.array_equal(before[name], after[name]) for name in before
    )
    assert read_style(out).trigger == "inkwash" and "ss_tag_frequency" not in read_metadata(out)


def test_a_scrubbed_file_that_lost_a_weight_is_not_written(
    style: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right, out = writing.with_metadata, style.with_name("scrubbed.safetensors")
    monkeypatch.setattr(writing, "with_metadata", lambda *given: right(*given)[:-1] + b"\x00")
    assert main(["scrub", str(style), "--out", str(out)]) == 2
    assert "would not give back" in capsys.readouterr().err and not out.exists()


def test_a_shared_zip_has_what_other_programs_look_for(style: Path) -> None:
    picture, out = style.with_name("p.jpg"), style.with_name("Ink.zip")
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    Image.new("RGB", (1024, 700), "red").save(picture, exif=exif)
    assert main(["export", str(style), "--picture", str(picture), "--out", str(out)]) == 0
    with zipfile.ZipFile(out) as archive:
        assert archive.namelist() == ["Ink.safetensors", "Ink.json", "Ink.png"]
        archive.extractall(style.parent / "unpacked")
    assert (
        json.loads((style.parent / "unpacked" / "Ink.json").read_text())["activation text"]
        == "inkwash"
    )
    with Image.open(style.parent / "unpacked" / "Ink.png") as small:
        assert max(small.size) == 512 and not small.getexif()
    assert b"taken at home" not in out.read_bytes() and b"secret" not in out.read_bytes()
    assert read_style(style.parent / "unpacked" / "Ink.safetensors").modules
    kept = out.read_bytes()
    assert (
        main(["export", str(style), "--picture", str(picture), "--out", str(out), "--force"]) == 0
    )
    assert out.read_bytes() == kept


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_nothing_is_written_over_an_input(
    style: Path, force: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = style.read_bytes()
    for line in (["scrub"], ["merge"], ["resize", "--rank", "1"], ["convert", "--to", "kohya"]):
        assert main([*line, str(style), "--out", str(style), *force]) == 2
        assert (
            "is read and would be written over" in capsys.readouterr().err
            and style.read_bytes() == before
        )


def test_styles_of_different_bases_do_not_mix(
    style: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = style.with_name("xl.safetensors")
    down, up = np.ones((1, 2048), np.float32), np.ones((8, 1), np.float32)
    name = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_k"
    other.write_bytes(save({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}))
    assert (
        main(["merge", str(style), str(other), "--out", str(style.with_name("m.safetensors"))]) == 2
    )
    assert "xl.safetensors is for SDXL" in capsys.readouterr().err


def test_an_open_clip_layer_is_never_written_in_part() -> None:
    place = ("text_encoder", "encoder.layers.0.self_attn.q_proj")
    found = named({place: random_lora((8, 8), 2, 2.0, 0)}, "kohya", "sd2")
    assert {name.rpartition("self_attn_")[2] for name in found} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
    }
    assert sum(bool(lora.delta().any()) for lora in found.values()) == 1
    assert len(named({place: random_lora((8, 8), 2, 2.0, 0)}, "kohya", "sd1")) == 1

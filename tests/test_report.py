"""Tests of training.evaluation.metrics and training.evaluation.report:

real tiny parts, properties of every measure, a whole report of a run.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from training.cli.style_file import main as style_file
from training.config.loading import from_mapping
from training.errors import ConfigError
from training.evaluation import external_metrics, judging, metrics, rating, report, run_report
from training.events import Finished, Noted
from training.models.family import Parts
from training.train_style import main
from training.trainer.loop import train

SIDE = 32


def painted(count: int, *, hand: str, seed: int = 0) -> list[Image.Image]:
    """Rectangles and circles in one of two hands:

    flat colours on white, or white lines on dark blue.
    """
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(count):
        flat = hand == "flat"
        picture = Image.new("RGB", (SIDE, SIDE), "white" if flat else "#102060")
        left, top = rng.integers(2, 10, 2)
        box = (left, top, left + rng.integers(8, 18), top + rng.integers(8, 18))
        colour = tuple(rng.integers(0, 200, 3).tolist()) if flat else None
        draw = ImageDraw.Draw(picture)
        (draw.rectangle if i % 2 else draw.ellipse)(
            box, fill=colour, outline=None if flat else "white"
        )
        pictures.append(picture)
    return pictures


def test_pictures_become_squares_of_the_wanted_side() -> None:
    x = metrics.tensors([Image.new("RGB", (40, 100), "red"), Image.new("L", (7, 7), 255)], SIDE)
    assert x.shape == (2, 3, SIDE, SIDE) and x.min() >= -1 and x[1].min() == 1
    assert torch.allclose(x[0, 0], torch.ones(SIDE, SIDE)) and torch.allclose(
        x[0, 1], -torch.ones(SIDE, SIDE)
    )


def test_likeness_tells_hands_apart_on_pictures_it_has_not_seen(parts: Parts) -> None:
    features = {
        h: metrics.style_features(parts, metrics.tensors(painted(16, hand=h), SIDE))
        for h in ("flat", "lines")
    }
    likeness = metrics.StyleDiscriminant(features["lines"], features["flat"])
    assert likeness(features["lines"]).mean() == pytest.approx(1, abs=1e-3)
    assert likeness(features["flat"]).mean() == pytest.approx(0, abs=1e-3)
    new = {
        h: likeness(
            metrics.style_features(parts, metrics.tensors(painted(16, hand=h, seed=9), SIDE))
        )
        for h in ("flat", "lines")
    }
    assert new["lines"].min() > new["flat"].max()
    halfway = metrics.tensors(
        [
            Image.blend(a, b, 0.5)
            for a, b in zip(painted(8, hand="flat"), painted(8, hand="lines"), strict=True)
        ],
        SIDE,
    )
    assert (
        new["flat"].mean()
        < likeness(metrics.style_features(parts, halfway)).mean()
        < new["lines"].mean()
    )


def test_the_shrunken_discriminant_is_the_one_of_the_whole_covariance() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(9, 5, generator=rng) + 1, torch.randn(7, 5, generator=rng)
    likeness = metrics.StyleDiscriminant(a, b)
    x, y = (((v.double() - likeness.centre) / likeness.scale) for v in (a, b))
    within = torch.cat([x - x.mean(0), y - y.mean(0)])
    n = len(within)
    covariance = (
        within.T @ within / n + metrics.SHRINKAGE * within.square().sum() / n / n * torch.eye(5)
    )
    assert torch.allclose(likeness.direction, torch.linalg.solve(covariance, x.mean(0) - y.mean(0)))


def test_a_left_out_picture_has_no_say_in_its_own_likeness(parts: Parts) -> None:
    style, base = (
        metrics.style_features(parts, metrics.tensors(painted(6, hand=h), SIDE))
        for h in ("lines", "flat")
    )

    def make(features):
        return metrics.StyleDiscriminant(features, base)

    scores = metrics.left_out(make, style)
    assert scores[2] == make(style[[0, 1, 3, 4, 5]])(style[2:3])[0]


def test_distances_see_a_copy_its_mirror_image_and_another_brightness() -> None:
    x = metrics.tensors(painted(6, hand="flat"), SIDE)
    apart = metrics.distances(x, x)
    assert apart.diagonal().max() < 1e-3
    assert metrics.distances(x.flip(3), x).diagonal().max() < 1e-3
    paler = metrics.distances(x * 0.5 + 0.5, x).diagonal()
    assert paler.max() < metrics.own_distance(x, 0.5)
    assert metrics.own_distance(x[:1], 0.5) == 0


def test_a_likeness_does_not_depend_on_the_rest_of_the_batch(parts: Parts) -> None:
    x = metrics.tensors(painted(3, hand="flat"), SIDE)
    words = ["a cat", "a boat", "an icon"]
    losses = metrics.retrieval_ranks(parts, x, words)
    assert losses.shape == (3, 3) and losses.isfinite().all()
    assert torch.allclose(
        metrics.retrieval_ranks(parts, x[1:2], words[::-1]), losses[1:2].flip(1), rtol=1e-4
    )


def test_taken_is_half_in_the_middle_and_grows() -> None:
    shares = metrics.taken(torch.tensor([-1.0, 0.0, 0.5, 1.0, 3.0]))
    assert shares[2] == 0.5 and (shares.diff() > 0).all() and shares[1] < 0.05 and shares[3] > 0.95


def cached(cache: Path, name: str, save: Callable[[Path], object]) -> None:
    """What the hub's library leaves on the disk of a model."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (home / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save(home / "snapshots" / ("0" * 40))


def test_clip_and_dino_are_used_when_they_are_in_the_cache(parts: Parts, tmp_path: Path) -> None:
    assert external_metrics.present(tmp_path) == []
    torch.manual_seed(0)
    words = parts.networks["text_encoder"].config
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    said = (
        dict(
            vocab_size=words.vocab_size,
            max_position_embeddings=words.max_position_embeddings,
            eos_token_id=words.eos_token_id,
        )
        | small
    )
    clip = CLIPModel(
        CLIPConfig(
            text_config=said,
            vision_config=dict(image_size=32, patch_size=8) | small,
            projection_dim=8,
        )
    )
    dino = Dinov2Model(
        Dinov2Config(
            image_size=28,
            patch_size=14,
            **{k: v for k, v in small.items() if k != "intermediate_size"},
        )
    )
    cached(
        tmp_path,
        "openai/clip-vit-base-patch32",
        lambda at: (clip.save_pretrained(at), parts.tokenizers["tokenizer"].save_pretrained(at)),
    )
    cached(tmp_path, "facebook/dinov2-small", dino.save_pretrained)
    cached(
        tmp_path,
        "facebook/dinov2-large",
        lambda at: (at / "model.safetensors").write_bytes(b"cut off"),
    )
    found = external_metrics.present(tmp_path)
    assert [w.name for w in found] == ["CLIP (clip-vit-base-patch32)", "DINOv2 (dinov2-small)"]
    flat, lines = (metrics.tensors(painted(6, hand=h), SIDE) for h in ("flat", "lines"))
    for metric in found:
        hand = metrics.StyleClassifier(metric.features, lines, flat)
        assert hand(lines) > 0.9 and hand(flat) < 0.2, metric.name
    near = found[0].sees(flat, ["a", "b", "c"])
    assert (
        near.shape == (6, 3)
        and near.abs().max() <= 1.001
        and torch.allclose(near[2:3], found[0].sees(flat[2:3], ["a", "b", "c"]), atol=1e-5)
    )


class AsPublished(torch.nn.Module):
    """CLIP's picture encoder in the layout of the code it was published with (Radford et al.

    2021), small, and CSD's projection behind it.
    """

    def __init__(
        self, width: int = 64, patch: int = 8, side: int = 32, layers: int = 2, out: int = 12
    ) -> None:
        super().__init__()
        nn, self.side = torch.nn, side

        def block():
            return nn.ModuleDict(
                {
                    "ln_1": nn.LayerNorm(width),
                    "attn": nn.MultiheadAttention(width, width // 64),
                    "ln_2": nn.LayerNorm(width),
                    "mlp": nn.ModuleDict(
                        {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
                    ),
                }
            )

        self.backbone = nn.ModuleDict(
            {
                "conv1": nn.Conv2d(3, width, patch, patch, bias=False),
                "ln_pre": nn.LayerNorm(width),
                "ln_post": nn.LayerNorm(width),
            }
        )
        self.backbone["transformer"] = nn.ModuleDict(
            {"resblocks": nn.ModuleList(block() for _ in range(layers))}
        )
        self.backbone.register_parameter("class_embedding", nn.Parameter(torch.randn(width)))
        self.backbone.register_parameter(
            "positional_embedding", nn.Parameter(torch.randn((side // patch) ** 2 + 1, width))
        )
        self.last_layer_style = nn.Parameter(torch.randn(width, out))
        self.last_layer_content = nn.Parameter(torch.randn(width, out))
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        own = self.backbone
        x = own["conv1"](x).flatten(2).transpose(1, 2)
        x = torch.cat([own.class_embedding.expand(len(x), 1, -1), x], 1) + own.positional_embedding
        x = own["ln_pre"](x).transpose(0, 1)
        for block in own["transformer"]["resblocks"]:
            seen = block["ln_1"](x)
            x = x + block["attn"](seen, seen, seen, need_weights=False)[0]
            inner = block["mlp"]["c_fc"](block["ln_2"](x))
            x = x + block["mlp"]["c_proj"](inner * torch.sigmoid(1.702 * inner))
        return own["ln_post"](x[0]) @ self.last_layer_style


def test_csd_is_used_and_sees_what_its_published_code_sees(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = AsPublished().eval()
    weights = {f"model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    cached(tmp_path, "yuxi-liu-wired/CSD", lambda at: save_file(weights, at / "model.safetensors"))
    (found,) = external_metrics.present(tmp_path)
    flat, lines = (metrics.tensors(painted(6, hand=h), SIDE) for h in ("flat", "lines"))
    with torch.no_grad():
        expected = theirs(external_metrics.fitted(flat, theirs.side, external_metrics.CLIP_COLOURS))
    assert found.name == "CSD" and torch.allclose(found.features(flat), expected, atol=1e-4)
    assert metrics.StyleClassifier(found.features, lines, flat)(lines) > 0.9


def test_right_among_is_one_when_every_picture_fits_its_own_words_best() -> None:
    assert metrics.right_among(1 - torch.eye(3, 5)) == 1
    assert metrics.right_among(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(0.5)


def test_words_that_fit_whatever_is_shown_hide_no_right_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    losses = torch.rand(12, 20, generator=rng) - 0.5 * torch.eye(12, 20)
    everywhere, everyone = 10 * torch.rand(20, generator=rng), 10 * torch.rand(12, 1, generator=rng)
    alone = metrics.right_among(losses)
    assert 0.5 < alone == pytest.approx(metrics.right_among(losses + everywhere + everyone))


def test_pictures_that_are_all_the_same_do_not_count_as_what_was_asked() -> None:
    for count in (1, 4, 16):
        assert metrics.right_among(torch.arange(20.0).expand(count, 20)) == pytest.approx(1 / 10.5)


# The report


def tried(**given: object) -> report.Tried:
    usual = dict(
        step=100,
        strength=1.0,
        file="s.safetensors",
        style=0.9,
        content=0.8,
        copies=0.0,
        quality=0.8,
    )
    return report.Tried(**(usual | given))  # type: ignore[arg-type]


def test_time_decides_how_much_is_looked_at() -> None:
    request = report.ReportRequest(
        tuple(report.Candidate(Path(f"{i}"), i) for i in range(1, 11)),
        None,
        None,
        "",
        (0.7, 0.85, 1.0),
        20,
        5.0,
        0,
        "white",
    )  # type: ignore[arg-type]
    texts = run_report.THINGS[:12]
    whole = run_report.affordable(request, texts, math.inf, 1.0)
    assert whole == (request, texts)
    fewer, asked = run_report.affordable(request, texts, 12 * (1 + 6 * 3), 1.0)
    assert (
        [c.step for c in fewer.candidates][-1] == 10
        and len(fewer.candidates) == 6
        and asked == texts
    )
    least, asked = run_report.affordable(request, texts, judging.FEWEST * 4, 1.0)
    assert (
        least.strengths == (1.0,)
        and len(least.candidates) == 3
        and least.candidates[-1].step == 10
        and len(asked) == judging.FEWEST
    )
    assert run_report.affordable(request, texts, 1.0, 1.0) is None


def test_quality_rises_with_style_and_content_and_falls_with_copies() -> None:
    def rated(*given: report.Tried) -> list[float]:
        rating.rate(given)
        return [t.quality for t in given]

    alone, styled, kept, copied = (
        rated(tried(**more))[0] for more in ({}, {"style": 1.0}, {"content": 0.9}, {"copies": 0.5})
    )
    assert (
        styled > alone
        and kept > alone
        and copied < alone
        and rated(tried(copies=2 * rating.NEAR))[0] == pytest.approx(alone)
    )
    assert (
        rated(tried(step=1), tried(step=2, style=0.3), tried(step=3))[1]
        > rated(tried(step=2, style=0.3))[0]
    )
    assert rated(tried(step=1), tried(step=2, strength=0.7, style=0.3))[1] == pytest.approx(
        rated(tried(style=0.3))[0]
    )
    files = rated(
        tried(step=0), tried(step=0, style=0.3)
    )  # of unknown age: they have nothing to do with each other
    assert files == pytest.approx([alone, rated(tried(style=0.3))[0]])
    assert rated(tried(external={"style, CLIP": 0.0}))[0] < alone
    assert rated(tried(style=0.0))[0] == 0


def test_what_hardly_differs_is_recommended_as_it_was_trained() -> None:
    weak, full = tried(strength=0.7, quality=0.8), tried(strength=1.0, quality=0.795)
    assert rating.recommended([weak, full]) is full
    assert rating.recommended([weak, dataclasses.replace(full, quality=0.78)]) is weak
    early, late = tried(step=1, quality=0.8), tried(step=2, quality=0.8)
    assert rating.recommended([late, early]) is early
    assert rating.recommended([early, dataclasses.replace(late, quality=0.801)]).step == 2


def test_words_say_when_longer_is_worse_and_when_longer_would_help() -> None:
    base = tried(file="", step=0, style=0.0, content=0.9)
    early, late = tried(), tried(step=200, content=0.4, quality=0.4)
    assert "loses what was asked" in rating.in_words(early, [early, late], base)
    growing = tried(step=200, style=0.6, quality=0.6)
    assert "more updates may do better" in rating.in_words(
        growing, [tried(style=0.3), growing], base
    )
    assert "copies" in rating.in_words(tried(copies=0.5), [early], base)


def test_a_run_ends_with_a_report(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(painted(4, hand="lines")):
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a castle <b>")
    config = from_mapping(
        {
            "base": {"model": str(base_folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(folder), "trigger": "sks"},
            "adapter": {"rank": 2},
            "optim": {"steps": 4, "batch_size": 2},
            "preview": {"every": 0, "steps": 1},
            "report": {"most": 4, "held_out": str(folder)},
            "save": {"folder": str(tmp_path / "runs"), "name": "s", "every": 2},
        }
    )
    events = list(train(config))
    assert isinstance(events[-1], Finished) and any(
        isinstance(e, Noted) and "report" in e.message for e in events
    )
    record = json.loads((config.run_folder / "report" / "report.json").read_text())
    assert {(t["step"], t["strength"]) for t in record["tried"]} == {
        (s, k) for s in (2, 4) for k in (0.7, 0.85, 1.0)
    }
    assert "castle" not in record["prompts"] and len(record["prompts"]) == 4
    assert all(
        0 <= t[key] <= 1
        for t in record["tried"]
        for key in ("style", "content", "copies", "quality")
    )
    assert record["best"]["quality"] >= 0.99 * max(t["quality"] for t in record["tried"])
    page = (config.run_folder / "report" / "report.html").read_text()
    assert (
        page.count("<img") == 4 * 7
        and "http" not in page.replace("http-equiv", "")
        and "<b>castle" not in page
    )
    assert "How far to trust it" in page
    (config.run_folder / "report" / "report.json").unlink()
    (tmp_path / "run.toml").write_text((config.run_folder / "run.toml").read_text())
    assert main([str(tmp_path / "run.toml"), "--report"]) == 0
    again = json.loads((config.run_folder / "report" / "report.json").read_text())
    assert {k: v for k, v in again.items() if k != "seconds"} == {
        k: v for k, v in record.items() if k != "seconds"
    }


def test_any_style_file_and_a_folder_of_pictures_make_a_report(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, picture in enumerate(painted(4, hand="lines")):
        picture.save(pictures / f"{i}.png")
    config = from_mapping(
        {
            "base": {"model": str(base_folder), "dtype": "float32", "device": "cpu"},
            "data": {"folder": str(pictures), "trigger": "sks", "template": "{trigger}: {caption}"},
            "optim": {"steps": 1, "batch_size": 1},
            "preview": {"every": 0},
            "report": {"minutes": 0},
            "save": {"folder": str(tmp_path / "runs"), "name": "s"},
        }
    )
    list(train(config))
    style = str(config.run_folder / "s.safetensors")
    given = [
        "report",
        style,
        "--pictures",
        str(pictures),
        "--base",
        str(base_folder),
        "--out",
        str(tmp_path / "out"),
        "--prompt",
        *"abcd",
    ]
    before = sorted(pictures.iterdir())
    assert style_file(given) == 0
    record = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (
        [t["strength"] for t in record["tried"]] == [0.7, 0.85, 1.0]
        and record["title"] == "s"
        and record["prompts"] == list("abcd")
    )
    assert (tmp_path / "out" / "report.html").read_text().count("<img") == 4 * 4
    assert sorted(pictures.iterdir()) == before
    capsys.readouterr()
    assert style_file([*given[:-3], "a"]) == 2 and "report.prompts" in capsys.readouterr().err
    assert (
        style_file([*given[:3], str(tmp_path / "none"), *given[4:]]) == 2
        and "none" in capsys.readouterr().err
    )
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"x")
    assert (
        style_file(["report", str(wrong), *given[2:]]) == 2
        and "wrong.safetensors" in capsys.readouterr().err
    )


def test_a_report_without_a_run_is_refused(
    base_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p").mkdir()
    painted(1, hand="flat")[0].save(tmp_path / "p" / "a.png")
    assert (
        main(
            [
                "--data.folder",
                str(tmp_path / "p"),
                "--base.model",
                str(base_folder),
                "--save.folder",
                str(tmp_path),
                "--report",
            ]
        )
        == 2
    )
    assert "no finished style" in capsys.readouterr().err


def test_too_few_prompts_are_refused(parts: Parts) -> None:
    request = dataclasses.replace(
        report.ReportRequest((), None, None, "", (1.0,), 1, 5.0, 0, "white")
    )  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"report\.prompts"):
        next(judging.judge(request, parts, str, ["a", "b"]))


def test_captions_of_held_out_pictures_are_read_as_those_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a {red|green} cat\na dog")
    tables = {
        "data": {"folder": str(tmp_path), "captions": "lines", "wildcards": True},
        "report": {"held_out": str(tmp_path)},
    }
    config = from_mapping(tables)
    asked: list[report.ReportRequest] = []

    def kept(request: report.ReportRequest, *_: object, **__: object) -> Iterator[str]:
        asked.append(request)
        yield ""

    monkeypatch.setattr(run_report, "reported", kept)
    pictures = run_report.read_as_trained(config.data, config.data.folder)
    list(run_report.of_run(config, pictures, None))
    list(run_report.of_files([], None, tmp_path, config.data, config.preview, config.report))
    for request in asked:
        assert request.held_out is not None
        assert [e.caption for e in request.held_out.examples] == ["a red cat"]
    assert len(asked) == 2

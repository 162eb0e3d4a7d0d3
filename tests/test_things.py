"""The judge of what pictures show: what it says of sound and ruined ones, and files of any kind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from training.data.dataset import read_dataset
from training.errors import ConfigError
from training.evaluation import judging, metrics, report, report_html, things
from training.models.family import Parts

NAMES = ("castle", "fish", "owl", "ice cream")
SIDE = 64


def shape(name: str, rng: np.random.Generator) -> Image.Image:
    """Stripes, checks, a square or a disc, in a colour of its own."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = {
        "castle": y // 8 % 2 > 0,
        "fish": (x // 16 + y // 16) % 2 > 0,
        "owl": (abs(x - 32) < 20) & (abs(y - 32) < 20),
        "ice cream": (x - 32) ** 2 + (y - 32) ** 2 < 300,
    }[name]
    picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
    picture[inside] = rng.integers(0, 160, 3)
    return Image.fromarray(picture)


@pytest.fixture(scope="module")
def judge() -> things.ThingJudge:
    """A small one that knows the shapes, and that blurred ones show nothing."""
    torch.manual_seed(0)
    made = things.ThingJudge(NAMES, {"keep": "castle"}, (8, 8, 16, 16))
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    rng = np.random.default_rng(0)
    for _ in range(60):
        answers = torch.from_numpy(rng.integers(0, len(NAMES), 24))
        x = metrics.tensors([shape(NAMES[n], rng) for n in answers], SIDE)
        both = torch.cat([x, metrics.unrecognisable(x)])
        nothing = torch.full_like(answers, len(NAMES))
        loss = F.cross_entropy(made(both), torch.cat([answers, nothing]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return made.eval()


@pytest.fixture
def with_judge(parts: Parts, judge: things.ThingJudge, tmp_path: Path) -> Parts:
    """The tiny base, as if it had brought the judge."""
    judge.save(tmp_path / things.FILE)
    return dataclasses.replace(parts, folder=tmp_path)


def examined(parts: Parts, folder: Path, caption: str = "") -> judging.Examiner:
    """An examiner whose style's true pictures are shapes, or all called the same."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for number in range(8):
        name = NAMES[number % 4]
        shape(name, rng).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(caption or name)
    request = report.ReportRequest(
        (), read_dataset(folder), None, "", (1.0,), 1, 5.0, 0, "white", ("door", "key")
    )
    return judging.Examiner(request, parts, NAMES, drawn())


def drawn() -> list[Image.Image]:
    rng = np.random.default_rng(2)
    return [shape(name, rng) for name in NAMES]


def test_ruined_and_exchanged_pictures_do_not_show_what_was_asked(
    with_judge: Parts, tmp_path: Path
) -> None:
    examiner = examined(with_judge, tmp_path / "style")
    x = metrics.tensors(drawn(), with_judge.size)
    assert examiner.content(x) > 0.8
    assert examiner.content(x.roll(1, 0)) < 0.2
    assert examiner.content(metrics.unrecognisable(x)) < 0.4
    assert examiner.why_content_is_unsure(drawn()) == ""
    assert "4 things" in examiner.content_by


def test_a_style_whose_own_pictures_are_not_recognised_has_no_figure(
    with_judge: Parts, tmp_path: Path
) -> None:
    examiner = examined(with_judge, tmp_path / "style", "an owl")
    assert "of the training pictures themselves" in examiner.why_content_is_unsure(drawn())


def test_blurred_pictures_of_the_base_are_recognised_by_no_judge_that_counts(
    with_judge: Parts, tmp_path: Path
) -> None:
    examiner = examined(with_judge, tmp_path / "style")
    blurred = list(metrics.unrecognisable(metrics.tensors(drawn(), with_judge.size)))
    values = [((p + 1) * 127.5).round().byte().permute(1, 2, 0).numpy() for p in blurred]
    said = examiner.why_content_is_unsure([Image.fromarray(v) for v in values])
    assert "the base itself draws" in said


def test_a_base_that_cannot_see_says_so(parts: Parts, tmp_path: Path) -> None:
    """The tiny base has learnt nothing, and brings no judge."""
    examiner = examined(parts, tmp_path / "style")
    assert examiner.things is None and examiner.why_content_is_unsure(drawn())
    assert "how much better the words fit" in examiner.content_by


def test_a_word_that_the_judge_does_not_know_leaves_it_to_the_base(
    with_judge: Parts, tmp_path: Path
) -> None:
    folder = tmp_path / "style"
    folder.mkdir()
    drawn()[0].save(folder / "a.png")
    request = report.ReportRequest(
        (), read_dataset(folder), None, "", (1.0,), 1, 5.0, 0, "white", ("door",)
    )
    assert judging.Examiner(request, with_judge, (*NAMES[:3], "zebu"), drawn()).things is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("an Owl", "owl"),
        ("ice-cream", "ice cream"),
        ("the  ice  cream", "ice cream"),
        ("A keep", "castle"),
        ("a zebu", None),
        ("owl and fish", None),
        ("", None),
    ],
)
def test_prompts_are_found_among_the_names(
    judge: things.ThingJudge, text: str, name: str | None
) -> None:
    assert judge.place(text) == (None if name is None else NAMES.index(name))


def test_the_report_gives_no_figure_that_means_nothing() -> None:
    kinds = [(0, "", True), (100, "s.safetensors", False)]
    base, one = (
        report.Tried(step, 1.0, file, 0.9, 0.8, 0.0, content_sure=sure)
        for step, file, sure in kinds
    )
    base.content_sure = False
    made = report.Report(
        base, [one], ("a",), one, "because", 1.0, 1.0, "", content_unsure="nobody can tell"
    )
    assert report_html.table(made).count("not reliable here") == 2
    assert json.loads(made.to_json())["content_unsure"] == "nobody can tell"
    made.content_unsure = ""
    base.content_sure = one.content_sure = True
    assert "not reliable" not in report_html.table(made)


def test_a_base_without_a_judge_has_none(tmp_path: Path) -> None:
    assert things.judge_of(tmp_path) is None


def damaged(judge: things.ThingJudge, file: Path, how: str) -> None:
    judge.save(file)
    tensors = load_file(file)
    facts = {
        "names": json.dumps(judge.names),
        "synonyms": "{}",
        "widths": json.dumps(judge.widths),
    }
    if how == "cut":
        file.write_bytes(file.read_bytes()[:-50])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "no names":
        save_file(tensors, file)
    elif how == "huge widths":
        save_file(tensors, file, facts | {"widths": "[99999, 99999, 99999, 99999]"})
    elif how == "other widths":
        save_file(tensors, file, facts | {"widths": "[8, 8, 16, 24]"})
    elif how == "too many names":
        save_file(tensors, file, facts | {"names": json.dumps(["a"] * 20_000)})
    elif how == "names of no list":
        save_file(tensors, file, facts | {"names": "3"})
    elif how == "no JSON":
        save_file(tensors, file, facts | {"synonyms": "{"})
    elif how == "a tensor short":
        tensors.pop("head.bias")
        save_file(tensors, file, facts)
    elif how == "odd widths":
        save_file(tensors, file, facts | {"widths": "[7, 0, -3, 16]"})


@pytest.mark.parametrize(
    "how",
    ["cut", "empty", "no names", "huge widths", "other widths", "too many names",
     "names of no list", "no JSON", "a tensor short", "odd widths"],
)  # fmt: skip
def test_a_damaged_judge_is_named(judge: things.ThingJudge, tmp_path: Path, how: str) -> None:
    damaged(judge, tmp_path / things.FILE, how)
    with pytest.raises(ConfigError, match="judge"):
        things.judge_of(tmp_path)


def test_what_was_saved_is_read_back(judge: things.ThingJudge, tmp_path: Path) -> None:
    judge.save(tmp_path / things.FILE)
    read = things.judge_of(tmp_path)
    assert read is not None and read.names == list(NAMES) and read.synonyms == judge.synonyms
    x = metrics.tensors(drawn(), SIDE)
    assert torch.allclose(read.sure(x, NAMES), judge.sure(x, NAMES), atol=0.02)

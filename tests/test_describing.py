"""Captions made by a model:

through the real loading, with tiny models of random weights; and what of a sentence is kept.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

from studio.datasets import caption_worker, captioning, history, store
from studio.datasets.captioning import content
from studio.page import app
from tests.test_report import cached
from training.errors import StudioError
from training.storage.paths import Workspace

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "[DEC]",
    "[ENC]",
    "a",
    "cat",
    "dog",
    "drawing",
    "of",
    "red",
    "boat",
]


def tiny_blip(at: Path) -> None:
    (at / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizer(str(at / "vocab.txt"))
    small = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    text = (
        dict(
            vocab_size=len(WORDS),
            bos_token_id=5,
            eos_token_id=3,
            sep_token_id=3,
            pad_token_id=0,
            projection_dim=16,
            encoder_hidden_size=16,
        )
        | small
    )
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(
        BlipConfig(
            text_config=text,
            vision_config=dict(image_size=32, patch_size=8) | small,
            projection_dim=16,
        )
    )
    model.save_pretrained(at)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(
        at
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hub")
    cached(place, captioning.MODELS[1], tiny_blip)
    return place


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.new("RGB", (40, 50), (100 * i, 80, 30)).save(path)
    return paths


def test_the_model_that_lies_in_the_cache_says_something_of_every_picture(
    cache: Path,
    pictures: list[Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert captioning.present(cache) == captioning.MODELS[1]
    (pictures[0].parent / "broken.png").write_bytes(b"no picture")
    asked = [str(path) for path in (*pictures, pictures[0].parent / "broken.png")]
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(asked)))
    assert caption_worker.main(cache) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["picture"] for one in answers] == asked[:3] and all(
        isinstance(one["caption"], str) for one in answers
    )
    again = caption_worker.Describer(captioning.MODELS[1], cache)
    assert [again(path) for path in pictures] == [one["caption"] for one in answers]


def test_a_broken_download_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(
        tmp_path,
        captioning.MODELS[0],
        lambda at: (at / "model.safetensors").write_bytes(b"cut off"),
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("[]"))
    assert caption_worker.main(tmp_path) == 0
    assert "Download it again" in json.loads(capsys.readouterr().out)["error"]


def test_without_a_model_it_is_said_which_one_would_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert captioning.present(tmp_path) is None
    monkeypatch.setattr(captioning, "present", lambda: None)
    with pytest.raises(StudioError, match=r"hf download Salesforce/blip"):
        list(captioning.described([tmp_path / "a.png"]))


class Child:
    """A process that says these lines."""

    def __init__(self, lines: list[str], code: int = 0) -> None:
        self.stdin, self.stdout, self.code, self.killed = (
            io.StringIO(),
            io.StringIO("".join(line + "\n" for line in lines)),
            code,
            False,
        )

    def wait(self) -> int:
        return self.code

    def kill(self) -> None:
        self.killed = True


def test_captions_come_one_by_one_and_the_process_ends_with_who_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said = [
        json.dumps({"picture": str(tmp_path / f"{i}.png"), "caption": f"thing {i}"})
        for i in range(3)
    ]
    child: list[Child] = []
    monkeypatch.setattr(captioning, "present", lambda: "a model")

    def made(*args, **keys):
        return child.append(Child(said)) or child[-1]

    monkeypatch.setattr(captioning.subprocess, "Popen", made)
    assert [text for _, text in captioning.described([tmp_path / "0.png"])] == [
        "thing 0",
        "thing 1",
        "thing 2",
    ]
    asking = captioning.described([tmp_path / "0.png"])
    assert next(asking)[1] == "thing 0" and not child[-1].killed
    asking.close()
    assert child[-1].killed
    monkeypatch.setattr(
        captioning.subprocess, "Popen", lambda *args, **keys: Child(said[:1], code=1)
    )
    with pytest.raises(StudioError, match="ended before"):
        list(captioning.described([tmp_path / "0.png"]))


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("a black and white drawing of a cat on a mat", "a cat on a mat"),
        ("there is a drawing of a red boat with a sail", "a red boat with a sail"),
        ("an illustration of a castle, in the style of a woodcut", "a castle"),
        ("a watercolor painting of two birds on a branch", "two birds on a branch"),
        ("a cartoon image of a dog dog dog", "a dog"),
        ("a red apple on a white background.", "a red apple"),
        ("a house drawn with thick lines", "a house"),
        ("a cat in a flat design style", "a cat"),
        ("a close up of a key", "a close up of a key"),
        ("a woman painting a fence", "a woman painting a fence"),
        ("a picture frame on a wall", "a picture frame on a wall"),
        ("a drawing", "a drawing"),
        ("", ""),
    ],
)
def test_what_is_said_of_the_hand_is_left_out(sentence: str, kept: str) -> None:
    assert content(sentence) == kept
    assert content(kept) == kept


# --- on the page ---


@pytest.fixture
def page(tmp_path: Path) -> tuple[Any, Path]:
    """The handler behind the button, and a dataset of four pictures, one with a caption."""
    workspace = Workspace(tmp_path / "workspace")
    folder = store.make(workspace, "mine")
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        Image.new("RGB", (40, 40), (60 * i, 0, 0)).save(file)
    store.add(folder, files)
    store.write_caption(folder, "0.png", "my own words")
    handlers = [fn.fn for fn in app.build(workspace).fns.values() if fn.name == "describe_all"]
    assert len(handlers) == 1
    return handlers[0], folder


def test_pictures_without_a_caption_get_one_and_undo_takes_all_back(
    page: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, folder = page

    def said(pictures: list[Path]) -> Iterator[tuple[Path, str]]:
        for path in pictures:
            if path.name == "3.png":
                store.write_caption(folder, "3.png", "typed meanwhile")
            yield path, f"thing {path.stem}"

    monkeypatch.setattr(captioning, "described", said)
    *_, answer = handler("mine", "", "mini")
    text, _ = answer.values()
    assert "3 of 3" in text
    written = {
        "0.png": "my own words",
        "1.png": "thing 1",
        "2.png": "thing 2",
        "3.png": "typed meanwhile",
    }
    assert store.captions(folder) == written
    history.undo(folder)
    assert store.captions(folder) == written | {"1.png": "", "2.png": ""}


def test_stopped_or_killed_halfway_what_was_said_stays(
    page: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, folder = page
    monkeypatch.setattr(
        captioning, "described", lambda pictures: ((path, "a thing") for path in pictures)
    )
    asking = handler("mine", "", "mini")
    said = ["", "", "a thing", "my own words"]
    next(asking)
    assert (
        sorted(store.captions(folder).values()) == said
    )  # on disk before the end, which a page that is killed never comes to
    asking.close()
    assert sorted(store.captions(folder).values()) == said
    history.undo(folder)
    assert sorted(store.captions(folder).values()) == ["", "", "", "my own words"]


def test_a_picture_taken_out_meanwhile_ends_no_describing(
    page: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, folder = page

    def said(pictures: list[Path]) -> Iterator[tuple[Path, str]]:
        for path in pictures:
            if path.name == "2.png":
                store.remove(folder, ["2.png"])
            yield path, "a thing"

    monkeypatch.setattr(captioning, "described", said)
    list(handler("mine", "", "mini"))
    assert store.captions(folder) == {
        "0.png": "my own words",
        "1.png": "a thing",
        "3.png": "a thing",
    }


def test_without_a_model_the_page_says_so(
    page: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, _ = page
    monkeypatch.setattr(captioning, "present", lambda: None)
    (answer,) = handler("mine", "", "mini")
    words, stop = answer.values()
    assert "No captioning model" in words and captioning.MODELS[1] in words
    assert "hf download" not in words and not stop.visible

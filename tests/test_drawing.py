"""Create's images: what is asked, the process that draws, what is kept, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from studio.drawing import images
from studio.drawing.process import Drawer, Progress, training_on
from studio.drawing.request import DrawRequest
from studio.page.tabs import create
from studio.processes import process as jobs
from studio.system import storage
from tests.test_jobs import until
from training.config.loading import from_mapping, write_run
from training.errors import BusyError, ConfigError, DataError, StudioError
from training.prompt import KEY, Prompt
from training.storage.paths import Workspace

ID = "0" * 32


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("create") / "workspace")


@pytest.fixture(scope="module")
def drawer(workspace: Workspace) -> Iterator[Drawer]:
    """One process for the tests of this file."""
    made = Drawer(workspace, "cpu")
    yield made
    made.close()


@pytest.fixture
def apple(base_folder: Path) -> DrawRequest:
    return DrawRequest(str(base_folder), "an apple", steps=3)


def drawn(drawer: Drawer, request: DrawRequest) -> str:
    """Its id, from the last thing that is said."""
    *_, id = drawer.draw(request, "page")
    assert isinstance(id, str)
    return id


def picture(colour: str = "red", size: tuple[int, int] = (60, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def test_an_image_is_drawn_once_by_a_process_that_stays(
    drawer: Drawer, workspace: Workspace, apple: DrawRequest, tmp_path: Path
) -> None:
    said = list(drawer.draw(apple, "page"))
    assert said[:2] == [Progress(0, 0), Progress(1, 3)]
    created = images.found(workspace, said[-1])
    assert created is not None and created.request == apple
    with Image.open(created.path) as image:
        assert Prompt.from_json(image.text[KEY]).text == "an apple"
    worker = drawer._worker
    assert list(drawer.draw(apple, "page")) == [said[-1]]  # nothing is drawn again
    other = drawn(drawer, replace(apple, shape="Wide 16:9", seed=1))
    assert other != said[-1] and drawer._worker is worker
    with Image.open(images.place(workspace, other)) as image:
        assert image.width > image.height
    # one's own picture, with a mask: in its own shape
    file = tmp_path / "photo.png"
    file.write_bytes(picture())
    source = images.take_source(workspace, file)
    file.write_bytes(picture("white"))
    mask = images.take_source(workspace, file)
    begun = drawn(drawer, replace(apple, source=source, mask=mask, change=0.5))
    with Image.open(images.place(workspace, begun)) as image:
        assert image.width > image.height


def test_a_page_that_asks_again_gives_up_what_it_waited_for(
    drawer: Drawer, workspace: Workspace, apple: DrawRequest
) -> None:
    long = replace(apple, steps=200, seed=2)
    first = drawer.draw(long, "one")
    assert isinstance(next(first), Progress)
    second = drawn(drawer, replace(apple, seed=3))  # of another page: waits for its turn
    assert images.found(workspace, second) is not None
    begun = drawer.draw(replace(long, seed=4), "one")
    next(begun)
    quick = list(drawer.draw(replace(apple, seed=5), "one"))
    assert isinstance(quick[-1], str)
    assert not [said for said in begun if isinstance(said, str)]
    assert not images.place(workspace, drawer.id(replace(long, seed=4))).exists()
    drawer.drop("one")
    assert not drawer._waiting


def test_what_the_process_cannot_do_is_said_and_it_ends_with_the_page(
    drawer: Drawer, workspace: Workspace, apple: DrawRequest
) -> None:
    with pytest.raises(StudioError, match="nowhere"):
        drawn(drawer, replace(apple, base="./nowhere"))
    with pytest.raises(DataError, match="Drop it again"):
        drawn(drawer, replace(apple, source=ID))
    with pytest.raises(StudioError, match="not in the workspace"):
        drawn(drawer, replace(apple, style="run:gone"))
    assert drawn(drawer, replace(apple, seed=6))
    asked = drawer.draw(replace(apple, steps=200, seed=7), "page")
    next(asked)
    worker = drawer._worker
    assert worker is not None and worker.child.stdin is not None
    worker.child.stdin.close()  # all that it sees of a page that was killed
    worker.child.wait(60)
    with pytest.raises(StudioError, match="has ended"):
        list(asked)
    until(lambda: drawer._worker is None)


def test_a_training_goes_first(workspace: Workspace, apple: DrawRequest) -> None:
    config = from_mapping(
        {"base": {"device": "cuda"}, "save": {"name": "ink", "folder": str(workspace.runs())}}
    )
    run = config.run_folder
    write_run(config, run)
    assert training_on(workspace, "cuda") == ""
    jobs.start(run, [sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert training_on(workspace, "cuda") == "ink" and training_on(workspace, "cpu") == ""
        with pytest.raises(BusyError, match="“ink” is being trained"):
            list(Drawer(workspace, "cuda").draw(replace(apple, seed=99), "page"))
    finally:
        jobs.stop(run, at_once=True)
    until(lambda: training_on(workspace, "cuda") == "")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": " "}, "Write a prompt"),
        ({"prompt": "a" * 2000}, "1000 characters"),
        ({"base": "--help"}, "base model"),
        ({"strength": float("nan")}, "Strength"),
        ({"seed": -1}, "Seed"),
        ({"steps": 10**6}, "Steps"),
        ({"guidance": 1e9}, "Guidance"),
        ({"shape": "Round"}, "shapes"),
        ({"change": 0.0, "source": ID}, "Change"),
        ({"source": "../../etc/passwd"}, "Drop it again"),
        ({"sampler": "best"}, "sampler"),
    ],
)
def test_bad_requests_are_refused_without_a_process(
    changed: dict[str, Any], words: str, tmp_path: Path
) -> None:
    lone = Drawer(Workspace(tmp_path), "cpu")
    with pytest.raises(ConfigError, match=words):
        list(lone.draw(replace(DrawRequest("mini", "an apple"), **changed), "page"))
    assert lone._worker is None


@pytest.mark.parametrize(
    "found", [[], {"base": "mini"}, {"base": "mini", "prompt": 3}, {"base": "m", "more": 1}, None]
)
def test_only_requests_are_read(found: Any) -> None:
    with pytest.raises(ValueError):
        DrawRequest.from_record(found)
    good = DrawRequest("mini", "an apple", seed=2**40)
    assert DrawRequest.from_record(json.loads(good.to_json())) == good


def kept(workspace: Workspace, number: int) -> str:
    id = f"{number:032x}"
    images.write(workspace, id, DrawRequest("mini", f"apple {number}", seed=number))
    images.place(workspace, id).write_bytes(picture())
    return id


def test_favourites_outlive_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path)
    monkeypatch.setattr(images, "MOST_IMAGES", 2)
    ids = []
    for number in range(4):
        ids.append(kept(workspace, number))
        time.sleep(0.01)
    images.keep(workspace, ids[0], "for the <cover>")
    images.tidy(workspace)
    assert [image.id for image in images.newest(workspace, 9)] == [ids[3], ids[2], ids[0]]
    (favourite,) = images.newest(workspace, 9, favourites=True)
    assert favourite.note == "for the <cover>"
    assert storage.sizes(workspace)["created"] >= 3 * len(picture())  # in Settings, too
    images.keep(workspace, ids[0], None)
    assert images.newest(workspace, 9, favourites=True) == []
    for damaged in ("{", "[]", '{"x": 1}', '{"' + ids[0] + '": 3}'):
        (images.folder(workspace) / "kept.json").write_text(damaged)
        assert images.notes(workspace) == {}
    images.place(workspace, ids[3]).with_suffix(".json").write_text("[" * 5000)
    assert images.found(workspace, ids[3]) is None
    for hostile in ("../kept", "", "a" * 31, "A" * 32):
        with pytest.raises(DataError):
            images.keep(workspace, hostile, "")


def tab(workspace: Workspace) -> tuple[Any, Any]:
    with gr.Blocks():
        parts = create.components()
    return parts, create.Handlers(workspace, parts)


def test_hostile_pictures_and_masks_are_refused(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "workspace")
    parts, handlers = tab(workspace)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 99)
    with pytest.raises(gr.Error, match=r"bad\.png"):
        handlers.take(str(bad))
    bad.write_bytes(picture(size=(3000, 1000)))
    taken = handlers.take(str(bad))
    assert images.ID.fullmatch(taken[parts.form.source])
    with Image.open(images.source(workspace, taken[parts.form.source])) as image:
        assert image.size == (2048, 683)
    assert "2048 / 683" in taken[parts.own]

    def paint(mask: Any) -> Any:
        return handlers.paint(SimpleNamespace(_data={"mask": mask}))

    for nothing in ("", None, 3, "data:text/html;base64,aaaa", create.handlers.MASK + "a" * 2**21):
        assert paint(nothing) == ""
    with pytest.raises(gr.Error, match="mask"):
        paint(create.handlers.MASK + "%%%")
    with pytest.raises(gr.Error, match=r"mask\.png"):
        paint(create.handlers.MASK + base64.b64encode(b"nothing").decode())
    good = create.handlers.MASK + base64.b64encode(picture("white")).decode()
    assert images.ID.fullmatch(paint(good))


def test_an_image_is_shown_with_what_it_was_drawn_from(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    parts, handlers = tab(workspace)
    id = kept(workspace, 7)
    shown = handlers.choose(SimpleNamespace(_data={"at": id}))
    assert shown[parts.shown] == id and "apple 7" in shown[parts.image]
    assert handlers.favour(id, False)[parts.note].visible
    handlers.write_note(id, "for the cover")
    assert "for the cover" in handlers.find(id, True)[parts.history]
    form = handlers.reuse(id)
    assert (form[parts.form.prompt], form[parts.form.seed]) == ("apple 7", 7)
    with pytest.raises(gr.Error, match=r"cannot be read any more\. Set them by hand"):
        handlers.reuse(ID)
    with pytest.raises(gr.Error, match=r"not there any more\. Choose another"):
        handlers.choose(SimpleNamespace(_data={"at": "../kept"}))
    opened = handlers.open_tab(None, "", "", False)
    assert opened[parts.form.style].value == "" and id in opened[parts.history]

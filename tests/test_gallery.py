"""Narrowing what the Dataset tab shows, pages of it, and acts on several pictures at once."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from studio.datasets import filters, history, store
from studio.datasets.base_info import Base
from studio.datasets.filters import Filter
from studio.page.tabs import pictures
from studio.page.views.pictures import PAGE
from tests.test_page import MINUTE, browser, free_port, page_process, sync_api, unfolded, until
from tests.test_tabs import tab
from training.storage.paths import Workspace

BASE = Base()


def drawn(folder: Path, name: str, caption: str, seed: int) -> None:
    """A picture like no other, with a caption where there is one."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(noise).resize((160, 160), Image.Resampling.NEAREST).save(folder / f"{name}.png")
    if caption:
        (folder / f"{name}.txt").write_text(f"{caption}\n")


def filled(workspace: Workspace, captions: dict[str, str]) -> Path:
    folder = store.make(workspace, "ink")
    for seed, (name, caption) in enumerate(captions.items()):
        drawn(folder, name, caption, seed)
    return folder


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def drawings(workspace: Workspace) -> Path:
    captions = {
        "a": "a red cat, outdoors, grass",
        "b": "a cat, night",
        "c": "dog",
        "d": "",
        "e": "a bear, a bear, , outdoors",
    }
    return filled(workspace, captions)


@pytest.mark.parametrize(
    ("kind", "words", "expected"),
    [
        (filters.ALL, "", "abcde"),
        (filters.NO_CAPTION, "", "d"),
        (filters.SHORT_CAPTION, "", "c"),
        ("Caption issues", "", "e"),
        ("Near copies", "", ""),
        (filters.ALL, "CAT", "ab"),
        (filters.ALL, "cat, -night", "a"),
        (filters.ALL, "-outdoors", "bcd"),
        ("Caption issues", "cat", ""),
        (filters.ALL, " , ,-", "abcde"),
    ],
)
def test_a_filter_lets_those_pass_that_it_names(
    drawings: Path, kind: str, words: str, expected: str
) -> None:
    passed = filters.passing(drawings, BASE, Filter(kind, words))
    assert passed == [f"{name}.png" for name in expected]


def test_near_copies_are_found_by_the_filter_as_by_the_check(drawings: Path) -> None:
    drawn(drawings, "f", "again", seed=0)
    passed = filters.passing(drawings, BASE, Filter("Near copies"))
    assert passed == ["a.png", "f.png"]


def test_frequent_tags_are_counted_once_a_picture(drawings: Path) -> None:
    assert filters.frequent_tags(drawings) == [("outdoors", 2)]


def event(**data: object) -> gr.EventData:
    return gr.EventData(None, data)


def test_a_filter_stays_with_every_answer_and_the_arrows_walk_in_it(
    workspace: Workspace, drawings: Path
) -> None:
    parts, handlers = tab(workspace, pictures)
    shown = handlers.several.narrow("ink", "ink/e.png", "mini", filters.ALL, "cat")
    assert 'data-at="a.png"' in shown[parts.gallery.thumbnails]
    assert 'data-at="c.png"' not in shown[parts.gallery.thumbnails]
    assert shown[parts.picture.of] == "ink/e.png"  # what is open stays open
    first = handlers.next("ink", "ink/e.png", "mini")[parts.picture.of]
    second = handlers.next("ink", first, "mini")[parts.picture.of]
    assert (first, second) == ("ink/a.png", "ink/b.png")
    assert handlers.next("ink", second, "mini")[parts.picture.of] == "ink/a.png"
    again = handlers.show_dataset("ink", "ink/a.png", "mini")
    assert 'data-at="c.png"' not in again[parts.gallery.thumbnails]


def test_the_page_of_thumbnails_is_that_of_the_picture(workspace: Workspace) -> None:
    filled(workspace, {f"p{number:03}": "a thing drawn" for number in range(PAGE + 2)})
    parts, handlers = tab(workspace, pictures)
    shown = handlers.show_dataset("ink", "", "mini")
    assert shown[parts.gallery.thumbnails].count("data-at=") == PAGE
    turned = handlers.choose_in_gallery("ink", "ink/p000.png", "mini", event(at=f"p{PAGE}.png"))
    assert turned[parts.gallery.thumbnails].count("data-at=") == 2
    assert turned[parts.picture.of] == f"ink/p{PAGE}.png"
    before = handlers.previous("ink", f"ink/p{PAGE}.png", "mini")
    assert before[parts.gallery.thumbnails].count("data-at=") == PAGE
    assert parts.gallery.thumbnails not in handlers.next("ink", "ink/p000.png", "mini")


def test_an_edit_goes_to_the_chosen_captions(workspace: Workspace, drawings: Path) -> None:
    parts, handlers = tab(workspace, pictures)
    names = ["a.png", "c.png", "../secret.png"]
    answer = handlers.several.take_chosen("ink", "Add to the start", "ink", "", event(on=names[:2]))
    assert answer[parts.bulk.apply].value == "Apply to 2 captions"
    assert "2 captions" in answer[parts.bulk.example]
    on = json.dumps(names)
    handlers.several.edit_all("ink", "ink/a.png", "mini", "Add to the start", "ink", "", on)
    captions = store.captions(drawings)
    assert captions["c.png"] == "ink, dog" and captions["b.png"] == "a cat, night"
    none = handlers.several.take_chosen("ink", "Add to the start", "", "", event(on=[]))
    assert none[parts.bulk.apply].value == "Apply to all captions"


def test_the_chosen_are_removed_and_come_back_as_one_change(
    workspace: Workspace, drawings: Path
) -> None:
    parts, handlers = tab(workspace, pictures)
    on = ["a.png", "b.png", "../a.png"]
    done = handlers.several.act("ink", "ink/a.png", "mini", event(act="remove", on=on))
    assert "Removed 2 pictures." in done[parts.snackbar.words]
    assert store.pictures(drawings) == ["c.png", "d.png", "e.png"]
    history.undo(drawings)
    assert len(store.captions(drawings)) == 5 and store.captions(drawings)["b.png"]
    nothing = handlers.several.act("ink", "ink/a.png", "mini", event(act="burn", on=on))
    assert parts.snackbar.words not in nothing and len(store.pictures(drawings)) == 5


def test_what_was_undone_is_offered_and_made_again(workspace: Workspace, drawings: Path) -> None:
    parts, handlers = tab(workspace, pictures)
    handlers.several.act("ink", "ink/a.png", "mini", event(act="remove", on=["a.png"]))
    undone = handlers.undo("ink", "ink/b.png", "mini")
    assert undone[parts.redo].visible and undone[parts.redo].value == "Redo: remove a.png"
    again = handlers.redo("ink", "ink/b.png", "mini")
    assert not again[parts.redo].visible and "a.png" not in store.pictures(drawings)
    assert set(again) <= set(parts.changed)


def test_what_needs_no_choice_is_fixed_at_once(workspace: Workspace, drawings: Path) -> None:
    parts, handlers = tab(workspace, pictures)
    assert 'data-fix="all"' in handlers.check("ink", "mini")
    fixed = handlers.fix("ink", "ink/a.png", "mini", event(fix="all", kind="", on=None))
    assert "Fixed 2 issues." in fixed[parts.snackbar.words]
    captions = store.captions(drawings)
    assert captions["e.png"] == "a bear, outdoors" and captions["d.png"] == "d"
    history.undo(drawings)
    assert store.captions(drawings)["d.png"] == ""


@pytest.mark.browser
def test_in_a_browser(tmp_path: Path) -> None:
    """Pages, a filter, boxes with Shift, an edit of some, removing and undoing, fixing all."""
    expect, workspace = sync_api.expect, Workspace(tmp_path / "workspace")
    names = [f"cup {chr(97 + at // 26)}{chr(97 + at % 26)}" for at in range(PAGE + 5)]
    captions = {name: f"a thing, of kind {at % 9}" for at, name in enumerate(names)}
    others = {names[3]: "", names[7]: "", names[11]: "a cup, a cup, , red"}
    folder = filled(workspace, captions | others)
    port = free_port()
    served = ["--port", str(port), "--workspace", str(workspace.root)]
    with page_process(*served) as process, browser() as chromium:
        assert process.stdout is not None and "127.0.0.1" in process.stdout.readline()
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(2 * MINUTE)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.add_init_script("localStorage.setItem('style-studio-tour', 'seen')")
        page.goto(f"http://127.0.0.1:{port}/")
        thumbs, tools = page.locator("#pictures .thumb"), page.locator("#pictures .selecting")
        expect(thumbs).to_have_count(PAGE, timeout=2 * MINUTE)
        page.get_by_role("button", name="Later →").click()
        expect(thumbs).to_have_count(5)
        expect(page.locator("#pictures .pages")).to_contain_text("Page 2 of 2")

        page.locator("#picture-filter input").click()
        page.get_by_role("option", name="No caption").click()
        expect(thumbs).to_have_count(2)
        tools.locator("[data-choose=all]").check()
        expect(tools).to_contain_text("2 selected")
        tools.get_by_role("button", name="Use file names").click()
        until(lambda: (folder / f"{names[7]}.txt").is_file(), MINUTE / 1000)
        expect(page.locator("#pictures")).to_contain_text("No picture matches")
        page.locator("#pictures-undo").click()
        expect(thumbs).to_have_count(2)

        page.locator("#picture-filter input").click()
        page.get_by_role("option", name="All pictures").click()
        page.locator("#picture-words input, #picture-words textarea").fill("kind 5")
        expect(thumbs).to_have_count(14)
        page.locator(".choose").nth(1).check()
        page.locator(".choose").nth(3).click(modifiers=["Shift"])
        expect(tools).to_contain_text("3 selected")
        unfolded(page, "#bulk", "Edit captions")
        expect(page.locator("#bulk-apply")).to_have_text("Apply to 3 captions")
        page.locator("#bulk-words input, #bulk-words textarea").fill("ink")
        expect(page.locator("#bulk-example")).to_contain_text("3 captions will change")
        page.locator("#bulk-apply").click()
        until(
            lambda: (folder / f"{names[14]}.txt").read_text() == "ink, a thing, of kind 5\n",
            MINUTE / 1000,
        )
        assert (folder / f"{names[5]}.txt").read_text() == "a thing, of kind 5\n"
        expect(tools).to_contain_text("3 selected")
        tools.get_by_role("button", name="Remove").click()
        expect(thumbs).to_have_count(11)
        page.locator("#pictures-undo").click()
        expect(thumbs).to_have_count(14)

        page.locator("#findings [data-fix=all]").click()
        until(lambda: (folder / f"{names[11]}.txt").read_text() == "a cup, red\n", MINUTE / 1000)
        assert complaints == []

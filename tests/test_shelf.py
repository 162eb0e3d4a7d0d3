"""Tests of studio.library.import_export and studio.library.cards:

what is kept beside a style, what is brought, taken away and brought back.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from studio.library import import_export, library
from studio.library.cards import Card, card, card_file, card_of, merged, write_card
from tests.test_library import finished_run, style_file
from training.errors import ConfigError, DataError, StudioError
from training.storage.paths import Workspace
from training.style_files.reading import read_style


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def everything(root: Path) -> dict[str, bytes]:
    return (
        {f.relative_to(root).as_posix(): f.read_bytes() for f in root.rglob("*") if f.is_file()}
        if root.exists()
        else {}
    )


def test_a_card_is_kept_and_renames_the_style(workspace: Workspace) -> None:
    finished_run(workspace, "ink")
    path = library.style(workspace, "run:ink").path
    assert card(path) == Card()
    write_card(path, Card(" Ink <b> ", "CC0", "me", "line one\nline two"))
    assert card(path) == Card("Ink <b>", "CC0", "me", "line one\nline two")
    assert library.style(workspace, "run:ink").name == "Ink <b>"  # the id stays


@pytest.mark.parametrize(
    "content", ["", "[]", '"x"', '{"title": ', "{" * 10_000, '{"title": {"a": 1}}']
)
def test_a_damaged_card_is_no_trouble(workspace: Workspace, content: str) -> None:
    run = finished_run(workspace, "ink")
    card_file(run / "ink.safetensors").write_text(content)
    assert library.style(workspace, "run:ink").id == "run:ink"


@pytest.mark.parametrize(
    "bad",
    [
        Card("x" * 81),
        Card("two\nlines"),
        Card(notes="x" * 4001),
        Card(folder="two\nlines"),
        Card(tags="x, " * 100),
    ],
)
def test_a_card_with_too_much_is_refused_and_nothing_written(
    workspace: Workspace, bad: Card
) -> None:
    run = finished_run(workspace, "ink")
    with pytest.raises(ConfigError):
        write_card(run / "ink.safetensors", bad)
    assert not card_file(run / "ink.safetensors").exists()


def test_a_tag_counts_once_and_empty_ones_do_not() -> None:
    assert Card(tags=" ink,, portraits ,ink , ").each_tag == ["ink", "portraits"]
    assert Card().each_tag == []


def test_what_another_page_saved_meanwhile_stays() -> None:
    shown, saved = Card("Ink", "CC0", "me", ""), Card("Ink wash", "CC0", "me", "on rice paper")
    assert merged(saved, typed=Card("Ink", "CC-BY-4.0", "me", ""), shown=shown) == Card(
        "Ink wash", "CC-BY-4.0", "me", "on rice paper"
    )
    assert merged(saved, typed=shown, shown=shown) == saved
    assert (
        merged(saved, typed=Card("", "CC0", "me", ""), shown=shown).title == ""
    )  # emptied on purpose


@pytest.mark.parametrize("text", ["", "null", "[1]", "{", "[" * 100_000, '{"title": {"a": 1}}'])
def test_a_card_is_read_from_anything(text: str) -> None:
    assert isinstance(card_of(text), Card)


def test_a_mix_is_kept_as_a_style_and_two_of_one_name_beside_each_other(
    workspace: Workspace,
) -> None:
    for name in ("ink", "wash"):
        style_file(
            finished_run(workspace, name) / f"{name}.safetensors",
            **{"modelspec.architecture": "stable-diffusion-v1/lora"},
        )
    parts = [("run:ink", 0.5), ("run:wash", 0.25)]
    with pytest.raises(StudioError):
        import_export.mixed(workspace, [*parts, ("run:gone", 1.0)])
    assert not workspace.styles().exists()
    ids = [import_export.mixed(workspace, parts) for _ in range(2)]
    assert len(set(ids)) == 2
    alone, kept = (read_style(library.style(workspace, id).path) for id in ("run:ink", ids[0]))
    assert kept.modules.keys() == alone.modules.keys() and kept.metadata["modelspec.merged_from"]


def test_a_good_file_is_brought_and_a_bad_one_named_and_not_kept(
    workspace: Workspace, tmp_path: Path
) -> None:
    good, twin, bad = (
        tmp_path / name
        for name in ("My? Style!.safetensors", "twin.safetensors", "bad.safetensors")
    )
    style_file(good, ss_network_dim="4")
    twin.write_bytes(good.read_bytes())
    bad.write_bytes(b"\x80\x04pickle")
    done = import_export.bring(workspace, [good, twin, bad])
    assert [id for id, _ in done.kept] == ["file:My- Style"]
    assert [name for name, _ in done.refused] == ["twin.safetensors", "bad.safetensors"]
    assert "already" in done.refused[0][1]
    assert everything(workspace.styles()) == {"My- Style.safetensors": good.read_bytes()}


def test_a_name_that_is_taken_counts_on(workspace: Workspace, tmp_path: Path) -> None:
    for number in range(2):
        style_file(tmp_path / str(number) / "ink.safetensors", number=str(number))
        import_export.bring(workspace, [tmp_path / str(number) / "ink.safetensors"])
    assert {s.id for s in library.styles(workspace)} == {"file:ink", "file:ink-2"}


def test_what_is_taken_away_comes_back_as_it_was(workspace: Workspace) -> None:
    run = finished_run(workspace, "ink")
    style_file(workspace.styles() / "oil.safetensors")
    write_card(run / "ink.safetensors", Card("Ink"))
    write_card(workspace.styles() / "oil.safetensors", Card("Oil"))
    before = everything(workspace.root)
    import_export.take_away(workspace, "file:oil")
    import_export.take_away(workspace, "run:ink")
    assert library.styles(workspace) == [] and not run.exists()
    assert import_export.last_taken(workspace) == "Ink"
    assert [import_export.bring_back(workspace), import_export.bring_back(workspace)] == [
        "Ink",
        "Oil",
    ]
    assert everything(workspace.root) == before
    with pytest.raises(DataError):
        import_export.bring_back(workspace)


def test_nothing_is_written_over_when_something_comes_back(workspace: Workspace) -> None:
    style_file(workspace.styles() / "oil.safetensors", which="old")
    import_export.take_away(workspace, "file:oil")
    style_file(workspace.styles() / "oil.safetensors", which="new")
    new = (workspace.styles() / "oil.safetensors").read_bytes()
    with pytest.raises(DataError, match="is there again"):
        import_export.bring_back(workspace)
    assert (
        workspace.styles() / "oil.safetensors"
    ).read_bytes() == new and import_export.last_taken(workspace) == "oil"


@pytest.mark.parametrize(
    "moved", ['["../x"]', '["/etc/passwd"]', '["styles/../../x"]', '["datasets/x"]', "3", "[[]]"]
)
def test_a_note_in_the_trash_leads_nowhere_else(workspace: Workspace, moved: str) -> None:
    entry = import_export.trash(workspace) / "2026-01-01 00-00-00 000"
    entry.mkdir(parents=True)
    (entry / "what.json").write_text(f'{{"title": "x", "moved": {moved}}}')
    (entry / "x").write_text("x")
    before = everything(workspace.root.parent)
    with pytest.raises(StudioError):
        import_export.bring_back(workspace)
    assert everything(workspace.root.parent) == before


def test_pictures_of_a_run_are_its_last_previews_and_lead_nowhere_else(
    workspace: Workspace,
) -> None:
    run = finished_run(workspace, "ink")
    (run / "previews").mkdir()
    (run / "previews" / "1.png").write_bytes(b"picture")
    style = library.style(workspace, "run:ink")
    assert import_export.pictures(workspace, style) == [(run / "previews" / "1.png", "a cat")]
    said = (run / "events.jsonl").read_text().replace("previews/1.png", "../../../secret.png")
    (run / "events.jsonl").write_text(said)
    (workspace.root.parent / "secret.png").write_bytes(b"secret")
    assert import_export.pictures(workspace, style) == []

"""Names that stay names, files that are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from training.errors import ConfigError, SpaceError
from training.storage.paths import (
    Workspace,
    builtin_base,
    cache_folder,
    checked_name,
    checked_writable,
    inside,
    write_whole,
)

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- names ---


@pytest.mark.parametrize(
    "name", ["a", "my-style", "Häkeln (2)", "v1.5+x", "0", "水墨", "_x", "a" * 80, "console"]
)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "/a",
        "C:x",
        ".hidden",
        "-rf",
        " a",
        "a ",
        "a.",
        "a\n",
        "a\0b",
        "a\x1b[2J",
        "a*",
        "a?",
        'a"',
        "a<b",
        "a|b",
        "CON",
        "con.txt",
        "Lpt1",
        "nul",
        "a" * 81,
        "𠀀" * 80,
        "\u202ea",
        "caf\udce9",
        "~",
        "%2e%2e",
    ],
)
def test_names_that_are_no_file_everywhere_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"save\.name is"):
        checked_name(name, "save.name")


def test_every_accepted_name_is_one_file_in_its_folder(tmp_path: Path) -> None:
    for name in ("𠀀" * 50, "水" * 66, "a" * 80):
        path = tmp_path / f"{checked_name(name)}.safetensors"
        path.touch()
        assert path.parent.samefile(tmp_path)


# --- places ---


@pytest.mark.parametrize(
    "parts",
    [
        ("..",),
        ("a", "../.."),
        ("/etc/passwd",),
        ("a", "/etc"),
        ("a/../../b",),
        ("link",),
        ("link", "x"),
        ("a\0b",),
    ],
)
def test_nothing_leads_out(parts: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="leads out of"):
        inside(root, *parts)


def test_links_in_a_circle_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="leads out of"):
        inside(tmp_path, "a", "c")


def test_what_is_inside_is_resolved(tmp_path: Path) -> None:
    assert inside(tmp_path, "a", "../b", "c.png") == tmp_path.resolve() / "b" / "c.png"
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert inside(tmp_path / "link", "x") == tmp_path.resolve() / "real" / "x"


def test_the_workspace_and_the_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space = Workspace(Path("here"))
    places = (space.datasets(), space.runs(), space.styles(), space.comparisons())
    assert len(set(places)) == 4 and all(
        place.parent == tmp_path.resolve() / "here" for place in places
    )
    assert list(tmp_path.iterdir()) == []  # asking makes nothing
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("STYLE_STUDIO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "style-studio"
    assert builtin_base().parent.name == "sample_data"


# --- whole writes ---


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "f.txt"
    for content, wanted in (
        ("ü\n", "ü\n".encode()),
        (b"\0\xff" * 1000, b"\0\xff" * 1000),
        (b"", b""),
    ):
        write_whole(path, content)
        assert path.read_bytes() == wanted and names(path.parent) == ["f.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    write_whole(tmp_path / ("水" * 80), "x")
    assert len(names(tmp_path)) == 1


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("kept")
    with pytest.raises(SpaceError, match="could not be written"):
        write_whole(tmp_path / "folder", b"x")  # a folder stands where the file should
    assert names(tmp_path) == ["folder"] and (tmp_path / "folder" / "kept").read_text() == "kept"


@pytest.mark.parametrize("place", ["file/below.txt", "/proc/style-studio/x.txt"])
def test_a_place_that_cannot_be_written_is_named(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(SpaceError, match=Path(place).name):
        write_whole(tmp_path / place, b"x")
    with pytest.raises(SpaceError, match=r"save\.folder is .*cannot be written"):
        checked_writable((tmp_path / place).parent, "save.folder")
    assert names(tmp_path) == ["file"]


def test_a_writable_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    checked_writable(tmp_path / "a" / "b", "save.folder")
    assert names(tmp_path / "a" / "b") == []


def test_a_full_disk_keeps_the_old_file_and_no_scraps(small_disk: Path) -> None:
    path = small_disk / "f.bin"
    write_whole(path, b"old" * 1000)
    with pytest.raises(SpaceError, match=r"f\.bin could not be written .*Free space"):
        write_whole(path, b"new" * 100_000)
    assert path.read_bytes() == b"old" * 1000 and names(small_disk) == ["f.bin"]


def test_a_disk_that_fails_and_turns_read_only_is_reported_by_its_first_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> Callable[..., None]:
        def call(*args: object, **keys: object) -> None:
            raise OSError(number, os.strerror(number))

        return call

    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    monkeypatch.setattr(Path, "unlink", fails(errno.EROFS))
    with pytest.raises(SpaceError, match=r"could not be written \(Input/output error\)"):
        write_whole(tmp_path / "f.bin", b"new")
    assert not (tmp_path / "f.bin").exists()


def test_a_reader_sees_old_or_new_also_when_the_writer_is_killed(tmp_path: Path) -> None:
    """A process writes two contents in turn and is killed in the middle:

    what is there is one of them, whole.
    """
    path = tmp_path / "f.bin"
    script = f"""
from pathlib import Path
from training.storage.paths import write_whole
print("ready", flush=True)
while True:
    for letter in (b"a", b"b"):
        write_whole(Path({str(path)!r}), letter * 500_000)
"""
    process = subprocess.Popen(
        [sys.executable, "-B", "-c", script], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    seen = 0
    while seen < 200:
        if path.exists():
            content = path.read_bytes()
            assert content in (b"a" * 500_000, b"b" * 500_000)
            seen += 1
    process.kill()
    process.wait()
    process.stdout.close()
    assert path.read_bytes() in (b"a" * 500_000, b"b" * 500_000)

"""Where things lie on disk, and how they get there whole. Knows nothing of what is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

from training.errors import ConfigError, SpaceError
from training.storage.disk_errors import advice, cause, system_error
from training.system import file_system
from training.system.file_system import fsync_folder

LONGEST_NAME = 200  # bytes of UTF-8; most systems end at 255, and files add their endings
STEPS = "steps"  # in a run's folder: the style files that were written along the way


def builtin_base() -> Path:
    """The folder of the base model that comes with the project, in a clone and in an installation
    alike.
    """
    return Path(__file__).resolve().parents[2] / "sample_data" / "mini-sd"


def cache_folder() -> Path:
    """Where what can be made again is kept: STYLE_STUDIO_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("STYLE_STUDIO_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "style-studio"


def latents_folder() -> Path:
    """Where encoded pictures lie, of every base."""
    return cache_folder() / "latents"


def text_states_folder() -> Path:
    """Where what captions say lies, of every base whose text encoders are not trained."""
    return cache_folder() / "text_states"


def checked_name(name: str, setting: str = "name") -> str:
    """Return name if it can be a file's name on every system; else raise ConfigError.

    Names never become paths unchecked.
    """
    good = re.fullmatch(r"[\w][\w .()+-]{0,79}", name) and file_system.is_portable(name)
    if not good or len(name.encode()) > LONGEST_NAME:
        raise ConfigError(
            f"{setting} is {name!r}: a name has 1 to 80 letters, digits, spaces or ._-+() and "
            "begins with a letter or digit. Choose another."
        )
    return name


def inside(root: Path, *parts: str) -> Path:
    """Return root/parts, resolved; raise ConfigError when that leads out of root (.., absolute
    parts, symbolic links).
    """
    path = root
    try:
        path = root.joinpath(*parts).resolve()
        within = path.is_relative_to(root.resolve()) and file_system.takes_names(*parts)
    except (
        ValueError,
        RuntimeError,
        OSError,
    ):  # a NUL character, links in a circle, a name that is too long
        within = False
    if not within:
        raise ConfigError(f"{'/'.join(parts)!r} leads out of {root}. Choose a place inside it.")
    return path


def mode_of(path: Path) -> int:
    """The st_mode of what is there, 0 for nothing, and also for a name that no file can have, for
    which Path.is_file and Path.is_dir raise OSError.
    """
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading if it is one: a pipe or a device would wait for ever.

    Raises OSError.
    """
    handle = file_system.open_descriptor(path, os.O_RDONLY)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: Path, most: int | None = None) -> bytes:
    """What a regular file holds, at most `most` bytes and one more, by which its reader sees that
    there are too many. Raises OSError.
    """
    with open_regular(path) as file:
        return read_bounded(file, most)


def read_bounded(file: BinaryIO, most: int | None = None) -> bytes:
    """The same of an open file, from where it stands. Asks for no more memory than the file has
    bytes: `file.read(n)` takes n bytes before it reads one.
    """
    if most is None:
        return file.read()
    return file.read(min(most, os.fstat(file.fileno()).st_size) + 1)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, so that it lasts through a power cut.

    Raises OSError.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        fsync_folder(path.parent)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that a reader sees the old or the new content whole, also after a crash.

    Raises SpaceError.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary: Path | None = None
    try:
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent
        )
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # drives of Windows and network shares may refuse it
            temporary.chmod(0o644)
        file_system.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise SpaceError(
            f"{path} could not be written ({cause(error)}). {advice(error)}"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(
                OSError
            ):  # a disk that turned read-only: the first reason is the one to tell
                temporary.unlink(missing_ok=True)


def keep_within(folder: Path, most: int) -> None:
    """Take the longest unused .safetensors files of a cache away until all take `most` bytes; those
    that cannot be taken away stay.
    """
    try:
        files = [(path, path.stat()) for path in folder.rglob("*.safetensors")]
    except OSError:  # another process tidies as well
        return
    left = sum(found.st_size for _, found in files)
    for path, found in sorted(files, key=lambda file: file[1].st_mtime):
        if left <= most:
            return
        try:
            file_system.remove(path)
        except OSError:  # a cache that cannot be written: nothing more goes into it either
            return
        left -= found.st_size


def copied_tree(source: Path, target: Path) -> None:
    """Copy a folder's files and folders without their permissions and times, which not every drive
    keeps. Raises OSError.
    """
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copied_tree(path, target / path.name)
        else:
            shutil.copyfile(path, target / path.name)


def checked_writable(folder: Path, setting: str) -> None:
    """Make folder if missing and try in it what the work does: a file written whole, a folder that
    gets another name. Raise SpaceError when that does not go.
    """
    probe: Path | None = None
    try:
        make_folder(folder)
        probe = Path(tempfile.mkdtemp(prefix=".probe-", dir=folder))
        for _ in range(2):  # the second one replaces a file
            write_whole(probe / "probe", b"\0" * 4096)
        done = probe.with_name(f"{probe.name}.done")
        file_system.rename(probe, done)
        probe = done
        is_too_deep = file_system.is_too_deep(folder.resolve())
    except (OSError, SpaceError) as error:
        reason = system_error(error)
        raise SpaceError(
            f"{setting} is {folder}, which cannot be written ({cause(reason)}). {advice(reason)}"
        ) from reason
    finally:
        if probe is not None:
            shutil.rmtree(probe, ignore_errors=True)
    if is_too_deep:
        raise SpaceError(
            f"{setting} is {folder}, whose files would have longer paths than Windows takes. "
            "Choose a folder with a shorter path, or turn on long paths in Windows."
        )


def checked_room(folder: Path, needed: int, what: str) -> None:
    """Raise SpaceError unless the disk under folder, which is made if missing, has `needed` bytes
    left for `what`.
    """
    try:
        make_folder(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise SpaceError(
            f"{what} cannot be written into {folder} ({cause(error)}). {advice(error)}"
        ) from error
    if free < needed:
        found = (
            f"{what} needs {needed / 1e6:,.1f} MB in {folder}, and {free / 1e6:,.1f} MB "
            "are free there."
        )
        raise SpaceError(f"{found} Free space on that disk or choose another folder.")


class Workspace:
    """One folder that holds everything the page makes: datasets/, runs/, styles/, comparisons/."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().resolve()

    def datasets(self) -> Path:
        return self.root / "datasets"

    def runs(self) -> Path:
        return self.root / "runs"

    def styles(self) -> Path:
        return self.root / "styles"

    def comparisons(self) -> Path:
        return self.root / "comparisons"

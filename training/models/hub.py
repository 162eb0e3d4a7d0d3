"""Bases from the Hugging Face hub, into the hub's own cache: which files of a repository are
wanted, and the large ones fetched so that what has arrived need not be fetched again.

huggingface_hub keeps nothing of a file that was broken off. Here such a part stays beside the
blobs, is gone on with, and gets the blob's name once its hash is right; the library does the rest.
"""

from __future__ import annotations

import errno
import hashlib
import io
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import ModelError, SpaceError, StudioError
from training.models.files import WEIGHTS, reason
from training.storage.disk_errors import FORBIDDEN, FULL, advice

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

SMALL = ("*.json", "*/*.json", "*/*.txt", "*/*.jinja")
LEFT_OUT = ("*non_ema*", "*openvino*", "*flax*")
LARGE = 2**24  # bytes from which a file is fetched here; below, it is soon fetched again
PART = ".part"  # of a large file; beside the blobs, which are named by their hash alone
SPARE = 2**28  # bytes of the disk that are left free
Report = Callable[[int, int], None]  # bytes that are there, bytes in all


@dataclass(frozen=True)
class HubFile:
    """A file of a repository. size: bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Listing:
    """What a base on the hub consists of, as far as it is wanted. licence: "" where none is said;
    commit: what it was when it was asked about.
    """

    model: str
    commit: str
    licence: str
    files: tuple[HubFile, ...]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(file.size for file in self.files)


def wanted(files: Sequence[HubFile], parts: Sequence[str]) -> list[HubFile]:
    """Return the files that a base is loaded from: small ones, and of every part the weights once,
    in half precision where the repository has them so for that part.
    """
    chosen = [file for file in files if any(fnmatch(file.name, kind) for kind in SMALL)]
    for part in parts:
        kinds: dict[bool, list[HubFile]] = {}
        for file in files:
            folder, _, name = file.name.rpartition("/")
            found = WEIGHTS.fullmatch(name) if folder == part else None
            if found and not any(fnmatch(file.name, kind) for kind in LEFT_OUT):
                kinds.setdefault(bool(found["before"] or found["after"]), []).append(file)
        chosen += kinds.get(True) or kinds.get(False) or []
    return list(dict.fromkeys(chosen))


def look(model: str, parts: Sequence[str], *, endpoint: str | None = None) -> Listing:
    """Ask the hub what a base consists of. Raises ModelError."""
    from huggingface_hub import HfApi

    with _words_for(model):
        info = HfApi(endpoint=endpoint).model_info(model, files_metadata=True)
    every = [HubFile(s.rfilename, s.size or 0) for s in info.siblings or ()]
    files = wanted(every, parts)
    if not any(file.name == "model_index.json" for file in files):
        raise ModelError(
            f"{model} on the hub has no model_index.json, so it is no base in diffusers' layout. "
            "Choose a repository that has one."
        )
    return Listing(model, info.sha or "", _licence(info), tuple(files))


def _licence(info: ModelInfo) -> str:
    """As the repository's card says it, a name of its own before "other"."""
    card = info.card_data
    said = (card.get("license_name"), card.get("license")) if card else ()
    return next((str(text)[:80] for text in said if text), "")


def fetch(
    model: str,
    parts: Sequence[str],
    report: Report = lambda done, whole: None,
    *,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Bring a base into the hub's cache, going on with what is there; return its folder.

    Raises ModelError, and SpaceError before anything is fetched.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.file_download import repo_folder_name

    endpoint = endpoint or constants.ENDPOINT
    listing = look(model, parts, endpoint=endpoint)
    cache = cache or Path(constants.HF_HUB_CACHE)
    blobs = cache / repo_folder_name(repo_id=model, repo_type="model") / "blobs"
    large = [file for file in listing.files if file.size >= LARGE]
    small = listing.size - sum(file.size for file in large)
    with _words_for(model):
        blobs.mkdir(parents=True, exist_ok=True)
        names = {file.name: _blob(listing, file, endpoint) for file in large}
        there = {file.name: _there(blobs, names[file.name], file.size) for file in large}
        _check_room(model, blobs, listing.size - sum(there.values()))
        for file in large:
            before = sum(there.values()) - there[file.name]
            _into(
                blobs / names[file.name],
                listing,
                file,
                lambda done, before=before: report(before + done, listing.size),
                endpoint,
            )
            there[file.name] = file.size
        folder = snapshot_download(
            model,
            allow_patterns=[file.name for file in listing.files],
            endpoint=endpoint,
            cache_dir=cache,
        )
    report(sum(there.values()) + small, listing.size)
    return Path(folder)


def _blob(listing: Listing, file: HubFile, endpoint: str) -> str:
    """The name of a file's content in the cache: its hash. Raises ModelError."""
    from huggingface_hub import get_hf_file_metadata

    url = _address(listing, file, endpoint)
    found = get_hf_file_metadata(url, endpoint=endpoint, retry_on_errors=True).etag or ""
    if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found):
        raise ModelError(
            f"{listing.model}: the hub names no hash of {file.name}. Try again later, or download "
            "the base by hand and give its folder."
        )
    return found


def _address(listing: Listing, file: HubFile, endpoint: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(listing.model, file.name, revision=listing.commit, endpoint=endpoint)


def _there(blobs: Path, name: str, size: int) -> int:
    """Bytes of a file that need not be fetched."""
    if (blobs / name).is_file():
        return size
    part = blobs / (name + PART)
    return min(part.stat().st_size, size) if part.is_file() else 0


def _check_room(model: str, blobs: Path, missing: int) -> None:
    free = shutil.disk_usage(blobs).free
    if free < missing + SPARE:
        raise SpaceError(
            f"{model} takes {missing / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free where "
            f"the hub's cache lies ({blobs.parents[1]}). Make room there, or set HF_HOME to a "
            "folder on another disk."
        )


class _Counted(io.FileIO):
    """A file that says how long it is after every write."""

    def __init__(self, path: Path, said: Callable[[int], None]) -> None:
        super().__init__(path, "ab")
        self.said = said

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        written = super().write(data)
        self.said(self.tell())
        return written


def _into(
    blob: Path,
    listing: Listing,
    file: HubFile,
    said: Callable[[int], None],
    endpoint: str,
) -> None:
    """Fetch a large file, from where it was broken off. Raises ModelError for another content."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    if blob.is_file():
        return said(file.size)
    part = blob.with_name(blob.name + PART)
    with _Counted(part, said) as out:
        if out.tell() > file.size:
            out.truncate(0)
            out.seek(0)
        said(out.tell())
        http_get(
            _address(listing, file, endpoint),
            out,
            resume_size=out.tell(),
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=file.size,
        )
    if len(blob.name) == 64:
        with part.open("rb") as whole:
            found = hashlib.file_digest(whole, "sha256").hexdigest()
        if found != blob.name:
            part.unlink()
            raise ModelError(
                f"{file.name} of {listing.model} did not arrive as the hub has it (its hash is "
                f"{found[:12]}…, {blob.name[:12]}… was expected), and was deleted. Fetch it again."
            )
    part.replace(blob)


@contextmanager
def _words_for(model: str) -> Iterator[None]:
    """While inside, what the hub's library raises becomes a ModelError in a user's words."""
    # Of the client that the library uses, whose package has changed its name before
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        yield
    except StudioError:
        raise
    except (HTTPError, OSError, ValueError) as error:
        raise ModelError(
            f"{model} cannot be downloaded ({reason(error)}). {_advice(model, error)} "
            "What has arrived is kept."
        ) from None


def _advice(model: str, error: Exception) -> str:
    """What to do about a base that the hub did not give."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.GatedRepoError):
        return f"Accept its terms on https://huggingface.co/{model}, then log in: hf auth login."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "Check the name. A private one needs a login: hf auth login."
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set, so the hub was not asked: take that away."
    if isinstance(error, errors.LocalEntryNotFoundError):
        return "Check the network; behind a proxy set HTTPS_PROXY."
    if isinstance(error, OSError) and error.errno in (*FULL, *FORBIDDEN, errno.EROFS):
        return advice(error, "set HF_HOME to a folder on another disk")
    if isinstance(error, ValueError):
        return "The hub has names such as owner/name; a folder or file of this name is not here."
    return "Check the name and the network; behind a proxy set HTTPS_PROXY."

"""Encoded pictures on disk:

equal to fresh ones to the bit, never of another VAE or crop, never more than allowed.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from training.models.family import Parts
from training.storage.paths import latents_folder
from training.trainer import latents as cache
from training.trainer.latent_cache import LatentStore, digest
from training.trainer.latents import Latents


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STYLE_STUDIO_CACHE", str(tmp_path / "cache"))


def picture(number: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (side, side, 3), np.uint8)


def files() -> list[Path]:
    return sorted(latents_folder().rglob("*.safetensors"))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every picture that is really encoded."""
    calls, real = [], cache.posterior
    monkeypatch.setattr(
        cache, "posterior", lambda parts, pixels: calls.append(1) or real(parts, pixels)
    )
    return calls


def test_a_later_run_encodes_nothing_and_has_the_same_latents(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, noise = counted(monkeypatch), torch.randn(4, 8, 8)
    fresh, kept, again = (
        Latents(),
        Latents(LatentStore({"vae": "a"}, 10**9)),
        Latents(LatentStore({"vae": "a"}, 10**9)),
    )
    for latents in (fresh, kept):
        latents.add("x", picture(0), parts)
    assert len(calls) == 2
    again.add("another name", picture(0), parts)
    assert len(calls) == 2
    assert fresh.sample("x", noise).equal(again.sample("another name", noise))
    assert fresh.sample("x", noise).equal(kept.sample("x", noise))


def test_another_vae_picture_or_shape_is_another_latent(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    Latents(LatentStore({"vae": "a"}, 10**9)).add("x", picture(0), parts)
    Latents(LatentStore({"vae": "b"}, 10**9)).add("x", picture(0), parts)
    Latents(LatentStore({"vae": "a"}, 10**9)).add("x", picture(0)[:, ::-1].copy(), parts)
    assert len(calls) == len(files()) == 3
    flat = picture(0).reshape(16, 64, 3)
    assert digest(flat) != digest(picture(0))


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"{}", "cut", "not finite", "other names"])
def test_what_is_damaged_is_made_again(
    content: bytes | str, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save

    calls, noise = counted(monkeypatch), torch.randn(4, 8, 8)
    first, second = (Latents(LatentStore({"vae": "a"}, 10**9)) for _ in range(2))
    first.add("x", picture(0), parts)
    (file,) = files()
    whole, z = file.read_bytes(), torch.zeros(4, 8, 8)
    damaged = {
        "cut": whole[:-7],
        "not finite": save({"mean": z / 0, "deviation": z}),
        "other names": save({"m": z}),
    }
    file.write_bytes(damaged[content] if isinstance(content, str) else content)
    second.add("x", picture(0), parts)
    assert len(calls) == 2
    assert first.sample("x", noise).equal(second.sample("x", noise))
    assert file.read_bytes() == whole


def test_the_longest_unused_go_first(parts: Parts) -> None:
    store = LatentStore({"vae": "a"}, 10**9)
    for number in range(4):
        Latents(store).add("x", picture(number), parts)
        os.utime(
            store.folder / f"{digest(picture(number))}.safetensors",
            (time.time() - 100 + number,) * 2,
        )
    assert store.get(digest(picture(0))) is not None  # used again
    size = files()[0].stat().st_size
    bounded = LatentStore({"vae": "b"}, 2 * size)
    bounded.tidy()
    assert {f.stem for f in files()} == {digest(picture(0)), digest(picture(3))}


def test_a_full_disk_or_a_file_in_the_way_costs_only_the_cache(
    parts: Parts, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("in the way")
    latents = Latents(LatentStore({"vae": "a"}, 10**9))
    latents.add("x", picture(0), parts)
    latents.add("y", picture(1), parts)
    assert latents.shape("y") == (4, 8, 8)


def test_a_cache_that_turned_read_only_is_left_as_it_is(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    Latents(LatentStore({"vae": "a"}, 10**9)).add("x", picture(0), parts)
    before = files()

    def read_only(*args: object, **keys: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", read_only)
    LatentStore({"vae": "a"}, 1).tidy()
    assert files() == before


def test_none_is_kept_where_there_is_no_room_for_any(parts: Parts) -> None:
    Latents(LatentStore({"vae": "a"}, 0)).add("x", picture(0), parts)
    assert files() == []

"""Weights that earlier trainings of the coming base have reached, kept beside the recipe.

A STATE that has none of its own goes on from them, all in float16. `begun/autoencoder` is one that
is still trained, which `autoencoder16.py --state STATE --publish begun` writes anew; the rest, once
it is there, a diffusers folder of frozen autoencoder, tokenizer, text encoder and UNet, which
`painter16.py --state STATE --publish begun` writes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "begun"
SHIPPED = HERE.parent


def autoencoder(state: Path, begun: Path = FOLDER) -> Path:
    """Return the folder of the frozen autoencoder, STATE's own if it has one."""
    own = state / "frozen" / "vae"
    return begun / "vae" if not own.exists() and (begun / "vae").exists() else own


def unfinished_autoencoder(begun: Path = FOLDER) -> Path | None:
    """Return the folder of an autoencoder that is still trained, None where there is none."""
    folder = begun / "autoencoder"
    return folder if folder.exists() else None


def painter(begun: Path = FOLDER) -> Path:
    """Return the base whose text encoder and UNet a new training begins with."""
    return begun if (begun / "unet").exists() else SHIPPED


def take_tokenizer(state: Path, begun: Path = FOLDER) -> None:
    """Put the tokenizer of the weights into STATE where it has none."""
    if (begun / "tokenizer").exists() and not (state / "tokenizer").exists():
        shutil.copytree(begun / "tokenizer", state / "tokenizer")

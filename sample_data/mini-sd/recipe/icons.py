"""Captioned pictures from icon sets that npm packages ship. Knows nothing of models.

Every set is one `@iconify-json` package; an icon's name is its caption, the set's style word tells
whose hand drew it.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SIZE = 128  # px, side of a finished picture
MARGIN = 4  # px of white on every side
# Near-duplicates (skin tones, hair) and pictures of text (flags, letters, keycaps, buttons) teach
# nothing about drawing.
LEFT_OUT = re.compile(
    r"skin-tone|^flag|keycap|button|^\d|^regional|^[a-z]$|letter|medium-|-dark|-light|component"
)


@dataclass(frozen=True)
class IconSet:
    """One npm package of icons and the word that calls its style."""

    package: str
    version: str
    style: str
    licence: str

    @property
    def name(self) -> str:
        return self.package.rsplit("/", 1)[-1]


SETS = {
    s.name: s
    for s in (
        IconSet("@iconify-json/noto", "1.2.9", "noto", "Apache-2.0"),
        IconSet("@iconify-json/fluent-emoji-flat", "1.2.6", "flat", "MIT"),
        IconSet("@iconify-json/fluent-emoji", "1.2.7", "gradient", "MIT"),
        IconSet("@iconify-json/noto-v1", "1.2.5", "blob", "Apache-2.0"),
        IconSet("@iconify-json/fxemoji", "1.2.2", "mozilla", "Apache-2.0"),
        IconSet("@iconify-json/streamline-emojis", "1.2.4", "streamline", "CC-BY-4.0"),
    )
}


def fetch(icon_set: IconSet, folder: Path, member: str = "icons.json") -> dict:
    """Return a file of the package, downloading it with npm into folder when it is not
    there yet.
    """
    archive = folder / f"{icon_set.package.lstrip('@').replace('/', '-')}-{icon_set.version}.tgz"
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [
            "npm",
            "pack",
            "--silent",
            f"{icon_set.package}@{icon_set.version}",
            "--pack-destination",
            str(folder),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile(f"package/{member}"))


def drawn(icons: dict, key: str, size: int = SIZE, margin: int = MARGIN) -> np.ndarray | None:
    """Return one icon as uint8 [size, size, 3] on white, or None when its SVG cannot be drawn."""
    import resvg_py
    from PIL import Image

    icon = icons["icons"][key]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'color="#000" '
        f'viewBox="{left} {top} {width} {height}" width="{size}" '
        f'height="{size}">{icon["body"]}</svg>'
    )
    side = size - 2 * margin
    try:
        png = bytes(
            resvg_py.svg_to_bytes(svg_string=svg, background="white", width=side, height=side)
        )
    except ValueError:
        return None
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    canvas = Image.new("RGB", (size, size), "white")
    canvas.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return np.asarray(canvas)


def pictures(icon_set: IconSet, folder: Path) -> dict[str, np.ndarray]:
    """Return every usable icon of a set, name -> uint8 [SIZE, SIZE, 3]; rendered once, kept as
    folder/<set>.npz.
    """
    kept = folder / f"{icon_set.name}-{icon_set.version}.npz"
    if not kept.exists():
        icons = fetch(icon_set, folder)
        keys = [
            k
            for k, icon in icons["icons"].items()
            if not LEFT_OUT.search(k) and not icon.get("hidden")
        ]
        found = {key: picture for key in sorted(keys) if (picture := drawn(icons, key)) is not None}
        unfinished = kept.with_suffix(".tmp.npz")
        np.savez_compressed(
            unfinished, names=np.array(list(found)), pictures=np.stack(list(found.values()))
        )
        unfinished.replace(kept)
    data = np.load(kept)
    return dict(zip(data["names"].tolist(), data["pictures"], strict=True))


def categories(icon_set: IconSet, folder: Path) -> dict[str, str]:
    """Return the category the package names for each of its icons ("red-apple" -> "Food &
    Drink").
    """
    named = fetch(icon_set, folder, "metadata.json")["categories"]
    return {key: category for category, keys in named.items() for key in keys}

"""The npm packages of icons that the base learns from: who drew them, and under which licence.

No share-alike and no non-commercial licence. `python packages.py --npm FOLDER` fetches them all.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One package. share: how often its icons are drawn, against the others'; url: its source."""

    name: str
    version: str
    licence: str
    author: str
    url: str
    share: float = 1.0

    @property
    def archive(self) -> str:
        return f"iconify-json-{self.name}-{self.version}.tgz"


MICROSOFT = "Microsoft Corporation"
EMOJI = "github.com/microsoft/fluentui-emoji"
FLUENT = "github.com/microsoft/fluentui-system-icons"
NOTO = "github.com/googlefonts/noto-emoji"
PARK = "github.com/bytedance/IconPark"
LUCIDE = "github.com/lucide-icons"
VECTORS = "github.com/webalys-hq/streamline-vectors"
PACKAGES = {
    p.name: p
    for p in (
        Package("noto", "1.2.9", "Apache-2.0", "Google Inc", NOTO, 4),
        Package("noto-v1", "1.2.5", "Apache-2.0", "Google Inc", NOTO, 3),
        Package("fxemoji", "1.2.2", "Apache-2.0", "Mozilla", "github.com/mozilla/fxemoji", 2),
        Package("fluent-emoji", "1.2.7", "MIT", MICROSOFT, EMOJI, 3),
        Package("fluent-emoji-flat", "1.2.6", "MIT", MICROSOFT, EMOJI, 4),
        Package("fluent", "1.2.60", "MIT", MICROSOFT, FLUENT, 0.5),
        Package("fluent-color", "1.2.21", "MIT", MICROSOFT, FLUENT),
        Package(
            "flat-color-icons", "1.2.3", "MIT", "Icons8", "github.com/icons8/flat-Color-icons"
        ),
        Package("streamline", "1.2.5", "CC-BY-4.0", "Streamline", VECTORS, 0.5),
        Package("streamline-emojis", "1.2.4", "CC-BY-4.0", "Streamline", VECTORS, 2),
        Package("streamline-freehand-color", "1.2.2", "CC-BY-4.0", "Streamline", VECTORS, 1.5),
        Package("streamline-pixel", "1.2.0", "CC-BY-4.0", "Streamline", VECTORS),
        Package("streamline-plump", "1.2.0", "CC-BY-4.0", "Streamline", VECTORS),
        Package("streamline-ultimate-color", "1.2.2", "CC-BY-4.0", "Streamline", VECTORS, 1.5),
        Package("icon-park", "1.2.4", "Apache-2.0", "ByteDance", PARK, 1.5),
        Package("icon-park-outline", "1.2.4", "Apache-2.0", "ByteDance", PARK, 0.5),
        Package("icon-park-twotone", "1.2.4", "Apache-2.0", "ByteDance", PARK),
        Package(
            "mdi", "1.2.3", "Apache-2.0", "Pictogrammers",
            "github.com/Templarian/MaterialDesign",
        ),
        Package(
            "material-symbols", "1.2.93", "Apache-2.0", "Google",
            "github.com/google/material-design-icons", 0.5,
        ),
        Package(
            "mingcute", "1.2.8", "Apache-2.0", "MingCute Design", "github.com/Richard9394/MingCute"
        ),
        Package("ph", "1.2.2", "MIT", "Phosphor Icons", "github.com/phosphor-icons/core"),
        Package("tabler", "1.2.41", "MIT", "Paweł Kuna", "github.com/tabler/tabler-icons"),
        Package("meteocons", "1.2.4", "MIT", "Bas Milius", "github.com/basmilius/weather-icons"),
        Package(
            "healthicons", "1.2.13", "MIT", "Resolve to Save Lives",
            "github.com/resolvetosavelives/healthicons",
        ),
        Package("hugeicons", "1.2.35", "MIT", "Hugeicons", "icon-sets.iconify.design/hugeicons"),
        Package(
            "pixelarticons", "1.2.9", "MIT", "Gerrit Halfmann", "github.com/halfmage/pixelarticons"
        ),
        Package("duo-icons", "1.2.2", "MIT", "fernandcf", "github.com/fazdiu/duo-icons"),
        Package("lucide", "1.2.137", "ISC", "Lucide Contributors", f"{LUCIDE}/lucide"),
        Package("lucide-lab", "1.2.3", "ISC", "Lucide Contributors", f"{LUCIDE}/lucide-lab", 0.5),
        Package("maki", "1.2.5", "CC0-1.0", "Mapbox", "github.com/mapbox/maki", 0.5),
        Package(
            "fa6-solid", "1.2.4", "CC-BY-4.0", "Dave Gandy", "github.com/FortAwesome/Font-Awesome"
        ),
        Package("solar", "1.2.13", "CC-BY-4.0", "480 Design", "icon-sets.iconify.design/solar"),
        Package(
            "game-icons", "1.2.4", "CC-BY-3.0", "GameIcons", "github.com/game-icons/icons", 1.5
        ),
    )
}  # fmt: skip
# For tests only: no network of the base sees one of their icons.
KEPT_OUT = {
    p.name: p
    for p in (
        Package("openmoji", "1.2.29", "CC-BY-SA-4.0", "OpenMoji", "openmoji.org"),
        Package("twemoji", "1.2.5", "CC-BY-4.0", "Twitter", "github.com/jdecked/twemoji"),
        Package("emojione", "1.2.3", "CC-BY-4.0", "Emoji One", "github.com/EmojiTwo/emojitwo"),
        Package("fluent-emoji-high-contrast", "1.2.6", "MIT", MICROSOFT, EMOJI),
    )
}


def fetched(package: Package, folder: Path) -> Path:
    """Return the package's archive in the folder; npm downloads it where it is not there yet."""
    archive = folder / package.archive
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        spec = f"@iconify-json/{package.name}@{package.version}"
        command = ["npm", "pack", "--silent", spec, "--pack-destination", str(folder)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return archive


@lru_cache(maxsize=64)
def icons_of(package: Package, folder: Path) -> dict:
    """Return the package's icons.json: SVG bodies by name under "icons", sizes beside them."""
    with tarfile.open(fetched(package, folder)) as tar:
        member = tar.extractfile("package/icons.json")
        assert member is not None, package
        return json.load(member)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npm", type=Path, default=Path("work/mini/npm"))
    args = parser.parse_args()
    for package in (*PACKAGES.values(), *KEPT_OUT.values()):
        print(fetched(package, args.npm))


if __name__ == "__main__":
    main()

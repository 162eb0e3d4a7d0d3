"""How strongly a style is taken: as a whole, in each part of the base, in each block of the UNet.
Pure; knows neither files nor torch.

As text: FILE[:WEIGHT[:TEXT_WEIGHT]][:GROUP=WEIGHT,...], for instance
`ink.safetensors:0.7:text=0,mid=1.2,up.1=0.3`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import ConfigError
from training.style_files.lora import Change

LARGEST = 10.0  # factor; ten times what was trained is noise already
GROUPS = (
    "unet, text, text_encoder, text_encoder_2, down, mid, up, or one block as down.0 or up.2; of "
    "transformers block, single, or one as block.7 or single.12"
)
GROUP = re.compile(r"unet|text(_encoder(_2)?)?|mid|(down|up)(\.\d)?|(block|single)(\.\d{1,2})?")
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
SPEC = rf"{NUMBER}(?::{NUMBER})?(?::[a-z_]+[^/\\:]*=[^/\\:]*)?|[a-z_]+[^/\\:]*=[^/\\:]*"
ENDING = r"\.safetensors"


@dataclass(frozen=True)
class Weight:
    """Factors on a style's strength.

    groups: (name, factor) pairs, which say otherwise for what they name; the narrowest name
    decides.
    """

    unet: float = 1.0
    text: float = 1.0
    groups: tuple[tuple[str, float], ...] = ()

    def of(self, part: str, module: str = "") -> float:
        """The factor of one module of a part of the base."""
        named = dict(self.groups)
        found = next((named[group] for group in groups_of(part, module) if group in named), None)
        if found is not None:
            return found
        return self.unet if part in ("unet", "transformer") else self.text

    def times(self, unet: float, text: float) -> Weight:
        """The same, with another factor on all that is in the UNet and all that is in the text
        encoders.
        """
        groups = tuple(
            (name, weight * (text if name.startswith("text") else unet))
            for name, weight in self.groups
        )
        return Weight(self.unet * unet, self.text * text, groups)

    def __str__(self) -> str:
        """As a person writes it, "" for a style as it was trained."""
        numbers = f"{self.unet:g}" + (f":{self.text:g}" if self.text != self.unet else "")
        groups = ",".join(f"{name}={weight:g}" for name, weight in self.groups)
        return ":".join(filter(None, (numbers if (self.unet, self.text) != (1, 1) else "", groups)))


def groups_of(part: str, module: str) -> list[str]:
    """What a module can be called by, the narrowest first: `up.1`, `up`; of a transformer
    `block.7`, `block`, or `single.12`, `single`.
    """
    if part not in ("unet", "transformer"):
        return [part, "text"]
    match module.split("."):
        case ["mid_block", *_]:
            return ["mid"]
        case ["down_blocks" | "up_blocks" as side, level, *_]:
            side = side.removesuffix("_blocks")
            return [f"{side}.{level}", side]
        case ["transformer_blocks" | "layers" | "blocks", level, *_] if part == "transformer":
            return [f"block.{level}", "block"]
        case ["single_transformer_blocks", level, *_]:
            return [f"single.{level}", "single"]
    return []


def weakened(
    changes: Mapping[tuple[str, str], Change], weight: Weight
) -> dict[tuple[str, str], Change]:
    """(part, module) -> its change, each as strong as its weight says; those of weight 0 are left
    out.
    """
    weighted = {place: (lora, weight.of(*place)) for place, lora in changes.items()}
    return {place: lora.times(factor) for place, (lora, factor) in weighted.items() if factor}


def weighted(text: str) -> tuple[Path, Weight]:
    """The file and its weights; a file that is really called so wins, and a colon may also belong
    to the path, as in `C:\\style.safetensors`.

    Raises ConfigError for weights that are none.
    """
    whole = Path(text).expanduser()
    if text.lower().endswith(".safetensors") or whole.exists():
        return whole, Weight()
    found = re.fullmatch(rf"(?is)(.+{ENDING}):(.*)", text) or re.fullmatch(
        rf"(?s)(.+?):({SPEC})", text
    )
    if not found:
        return whole, Weight()
    path = Path(found[1]).expanduser()
    return path, _parsed(path.name, found[2])


def mix(text: str) -> list[tuple[Path, Weight]]:
    """Several of them put together with `+`, each a .safetensors file; or one."""
    if Path(text).expanduser().exists():
        return [weighted(text)]
    signed = r"(?::(?:[\w.,:=-]|(?<=[:=])\+)*[\w.])?"  # weights, whose own signs join nothing
    parts = re.sub(rf"(?i)({ENDING}{signed})\+(?=.*{ENDING})", "\\1\0", text).split("\0")
    return [weighted(part) for part in parts]


def _parsed(name: str, spec: str) -> Weight:
    *numbers, last = spec.split(":")
    if "=" not in last:
        numbers, last = [*numbers, last], ""
    if len(numbers) > 2:
        raise ConfigError(
            f"{name} has the weights {spec!r}: one for all, or one for the UNet and one for "
            "the text encoders were expected."
        )
    values = [_number(f"the strength of {name}", number) for number in numbers] or [1.0]
    groups: dict[str, float] = {}
    for pair in filter(None, last.split(",")):
        group, _, number = pair.partition("=")
        group = group.strip()
        if group in groups:
            raise ConfigError(
                f"{group!r} in the weights of {name} is there twice. Give it one strength."
            )
        if not GROUP.fullmatch(group):
            raise ConfigError(
                f"{group!r} in the weights of {name} is no group: {GROUPS} were expected."
            )
        groups[group] = _number(f"the strength of {name} in {group}", number)
    return Weight(groups.pop("unet", values[0]), values[-1], tuple(groups.items()))


def _number(what: str, text: str) -> float:
    if (
        not re.fullmatch(rf"\s*{NUMBER}\s*", text)
        or not math.isfinite(float(text))
        or abs(float(text)) > LARGEST
    ):
        raise ConfigError(
            f"{what} is {text!r}: a number from {-LARGEST:g} to {LARGEST:g} was expected."
        )
    return float(text)

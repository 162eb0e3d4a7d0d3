"""What to draw: one record for previews, comparisons and the metadata of a PNG.

Knows nothing of torch.
"""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass

from PIL import Image
from PIL.PngImagePlugin import PngInfo

MOST_STEPS, MOST_GUIDANCE = 200, 30.0  # denoising steps, scale
LEAST_STRENGTH = 0.01  # of a picture to begin with
KEY = "style_studio"  # the PNG text chunk that holds the record


@dataclass(frozen=True)
class Prompt:
    """One picture to draw. size: its width in px, 0 for the base's own; height: px, 0 for a square.
    Equal prompts draw equal pictures on a CPU.
    """

    text: str
    negative: str = ""
    steps: int = 25  # denoising steps
    guidance: float = 5.0  # guidance scale, 1 = off
    seed: int = 0
    size: int = 0
    sampler: str = "base"  # of training.samplers; base = the one that the base comes with
    height: int = 0

    @property
    def extent(self) -> tuple[int, int]:
        """Width and height in px, 0 for the base's own."""
        return self.size, self.height or self.size

    def to_json(self) -> str:
        record = dataclasses.asdict(self)
        if not self.height:  # as earlier versions wrote it, and read it
            del record["height"]
        return json.dumps(record, ensure_ascii=False)

    def to_png(self, picture: Image.Image) -> bytes:
        """The picture as a PNG file that says how it was drawn."""
        info, file = PngInfo(), io.BytesIO()
        info.add_itxt(KEY, self.to_json())
        picture.save(file, "PNG", pnginfo=info)
        return file.getvalue()

    @staticmethod
    def from_json(text: str) -> Prompt:
        """Raises ValueError for anything but a record this class wrote."""
        try:
            return Prompt(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"not a prompt record: {text[:80]!r}") from error

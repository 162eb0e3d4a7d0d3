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

KEY = "style_studio"  # the PNG text chunk that holds the record


@dataclass(frozen=True)
class Prompt:
    """One picture to draw. size:

    px of a square's side, 0 for the base's own; equal prompts draw equal pictures on a CPU.
    """

    text: str
    negative: str = ""
    steps: int = 25  # denoising steps
    guidance: float = 5.0  # guidance scale, 1 = off
    seed: int = 0
    size: int = 0
    sampler: str = "base"  # of training.samplers; base = the one that the base comes with

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

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

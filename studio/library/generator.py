"""One base kept warm, the styles it wears, and pictures.

For the comparison command and for a page. Knows nothing of files to write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from training.adapters.inference import ActiveStyle, load_style
from training.diffusion.from_picture import Start
from training.diffusion.sampling import draw
from training.errors import OutOfMemory
from training.models import base_files, loader
from training.models.family import Parts
from training.models.textual_inversion import count_ids
from training.prompt import Prompt
from training.runtime import device
from training.style_files.reading import read_style
from training.style_files.strengths import Weight, weakened


def loaded_style(path: Path, parts: Parts) -> ActiveStyle:
    """Return what a style file is drawn with at full strength, checked against a base in memory.

    Raises StyleFileError when it does not fit.
    """
    return load_style(read_style(path), parts)


class Generator:
    """Keeps one base and its styles in memory, so that only the first picture waits for them.
    Threads take turns.

    load() a base, wear() styles, draw() rows of them. A base stays until another is loaded, a style
    until its file or the base changes.
    """

    def __init__(self, device_name: str = "auto", dtype: str = "auto") -> None:
        self.place = device.choose(device_name, dtype)
        self._model, self._parts = "", None
        self._styles: dict[tuple[Path, int, int], ActiveStyle] = {}
        self._turn = threading.RLock()

    def load(self, model: str) -> Parts:
        """Return the base that a setting names, from memory when it is there. Raises ModelError."""
        with self._turn:
            if self._parts is None or self._model != model:
                files = base_files.find(model)
                self._model, self._parts = "", None  # two bases at once may be too much
                self._styles.clear()
                try:
                    self._parts, self._model = loader.load(files, self.place), model
                except torch.OutOfMemoryError:
                    raise OutOfMemory(
                        f"{model} does not fit into the memory of {self.place.name}. Close "
                        "other programs, or use the cpu."
                    ) from None
            return self._parts

    @property
    def parts(self) -> Parts:
        if self._parts is None:
            raise ValueError("load() a base first")
        return self._parts

    def wear(self, chosen: Sequence[tuple[Path, float | Weight]]) -> list[ActiveStyle]:
        """Return the styles of files, each with its strength, for the rows of draw().

        Raises StyleFileError.
        """
        with self._turn:
            return [self._active(path, strength) for path, strength in chosen]

    def _active(self, path: Path, strength: float | Weight) -> ActiveStyle:
        whole = self._whole(path)
        if not isinstance(strength, Weight):
            return replace(whole, strength=strength)
        modules = weakened(whole.modules, strength)
        return replace(
            whole, modules=modules, tokens=whole.tokens if modules or strength.text else ()
        )

    def _whole(self, path: Path) -> ActiveStyle:
        if not path.is_file():
            return loaded_style(path, self.parts)  # which says what is wrong with it
        stat = path.stat()
        key = (path.resolve(), stat.st_mtime_ns, stat.st_size)
        if key not in self._styles:
            self._styles = {k: v for k, v in self._styles.items() if k[0] != key[0]} | {
                key: loaded_style(path, self.parts)
            }
        return self._styles[key]

    def draw(
        self,
        prompts: Sequence[Prompt],
        rows: Sequence[Sequence[ActiveStyle]] = (),
        on_progress: Callable[[int, int], None] | None = None,
        start: Start | None = None,
    ) -> list[Image.Image]:
        """One picture a prompt, in one denoising loop; rows: what each picture wears, () for the
        base alone, several styles mix; start: the picture that all of them begin with.

        Where the memory is too small for all of them, in two loops of half as many, and so on.
        Raises OutOfMemory when one is too much.
        """
        with self._turn:
            try:
                return draw(self.parts, prompts, rows=rows, start=start, on_progress=on_progress)
            except torch.OutOfMemoryError:
                if len(prompts) == 1:
                    where = self.place.name
                    raise OutOfMemory(
                        f"One picture does not fit into the memory of {where}. Draw it "
                        "smaller, or close other programs."
                    ) from None
            torch.cuda.empty_cache()
            half = (len(prompts) + 1) // 2
            return self.draw(prompts[:half], rows[:half], on_progress, start) + self.draw(
                prompts[half:], rows[half:], on_progress, start
            )


def is_cut(parts: Parts, text: str, pieces: int = 1) -> bool:
    """Whether the base reads only the beginning of a text, because it is too long. pieces: of the
    text encoder's length that are read, as the styles were trained.
    """
    if most := parts.family.spec.tokens:  # the last text encoder reads the most
        return count_ids([*parts.tokenizers.values()][-1], text) > most
    return any(
        len(tokenizer(text).input_ids) - 2 > (tokenizer.model_max_length - 2) * pieces
        for tokenizer in parts.tokenizers.values()
    )

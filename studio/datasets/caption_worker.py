"""Says what pictures show, with a captioning model from the hub's cache: `python -m
studio.datasets.caption_worker`, the pictures' paths as a JSON list on stdin.

A JSON object a picture and line as it is done: {"picture": path, "caption": text}; {"error": text}
when nothing can be said. Loads torch, so a process of its own. Nothing is downloaded and no code of
a model's is run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from studio.datasets.captioning import content, present
from training.data.image_decoding import reason
from training.data.pictures import open_picture
from training.errors import DataError
from training.runtime import cpu_threads
from training.runtime.device import choose
from training.storage.disk_errors import reading_aid

LONGEST = 40  # tokens of a caption


class Describer:
    """A captioning model, ready."""

    def __init__(self, name: str, cache: Path | None = None) -> None:
        from huggingface_hub import try_to_load_from_cache
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        weights = try_to_load_from_cache(name, "model.safetensors", cache_dir=cache)
        # By its name transformers would ask the hub for files that the model does not have
        folder = Path(str(weights)).parent
        where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.device = choose("auto", "float32").device
        self.processor: Any = AutoProcessor.from_pretrained(folder, **where)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            folder, use_safetensors=True, **where
        )
        self.model = model.eval().to(self.device)

    @torch.no_grad()
    def __call__(self, path: Path) -> str:
        """What the picture shows. Raises DataError for one that cannot be read."""
        given = self.processor(images=open_picture(path), return_tensors="pt").to(self.device)
        said = self.model.generate(**given, max_new_tokens=LONGEST, num_beams=3, do_sample=False)
        return content(self.processor.batch_decode(said, skip_special_tokens=True)[0])


def _say(message: dict[str, str]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main(cache: Path | None = None) -> int:
    paths = [Path(path) for path in json.loads(sys.stdin.read())]
    name = present(cache)
    try:
        describer = Describer(name, cache) if name else None
    # A download that was broken off, a disk that fails, full memory
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        aid = reading_aid(error) or "Download it again"
        _say({"error": f"{name} in the hub's cache cannot be opened ({reason(error)}). {aid}."})
        return 0
    if describer is None:
        return 0
    with cpu_threads.following():
        for path in paths:
            cpu_threads.follow()
            try:
                _say({"picture": str(path), "caption": describer(path)})
            except DataError:  # what is wrong with it stands among the findings
                continue
    return 0


if __name__ == "__main__":
    sys.exit(main())

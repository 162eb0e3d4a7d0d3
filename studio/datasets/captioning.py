"""Captions made by a model:

which one is there, and its sentences without what they say of the hand a picture is drawn in. No
torch, no gradio.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from studio.processes import process as jobs
from training.errors import StudioError
from training.system import processes

# The best first. Their weights must lie in the hub's cache as safetensors
MODELS = (
    "Salesforce/blip-image-captioning-large",
    "Salesforce/blip-image-captioning-base",
    "microsoft/git-large-coco",
    "microsoft/git-base-coco",
)
NONE = (
    "There is no captioning model on this machine. With one in the hub's cache pictures are "
    f"described here: hf download {MODELS[1]} "
    "(about 1 GB), or another of " + ", ".join(MODELS)
)
KINDS = (
    "drawing|illustration|painting|picture|photo|photograph|image|icon|cartoon|sketch|logo|rendering|graphic|vector"
    "|line "
    "art|clip ?art|"
    "silhouette|print"
)
MEDIA = (
    r"(?:black|white)[- ]and[- ](?:black|white)|colou?red|colou?rful|hand[- "
    r"]drawn|watercolou?r|oil|pencil|ink|charcoal|digital|vector|"
    r"styli[sz]ed|close[- ]up|flat|simple|cartoon|line|linocut|woodcut|abstract"
)
A = r"(?:an? |the )?"
BEGINNING = (
    rf"^(?:there (?:is|are) |this is )?{A}(?:(?:{MEDIA})[ ,]+)*(?:{KINDS})s?(?: "
    r"(?:art|style))? (?:of|with|showing|depicting|that shows) "
)
ENDING = (
    rf",? (?:in (?:the style of [\w -]+|{A}(?:[\w-]+ "
    r"){0,3}style)|(?:drawn|painted|done|made) (?:in|with) [\w -]+|"
    rf"on {A}(?:plain |solid )?(?:white|black|grey|gray) background)$"
)


class NoModelError(StudioError):
    """No captioning model is on this machine."""


def present(cache: Path | None = None) -> str | None:
    """The best captioning model that lies in the cache, the hub's own unless given."""
    from huggingface_hub import try_to_load_from_cache

    return next(
        (
            name
            for name in MODELS
            if isinstance(try_to_load_from_cache(name, "model.safetensors", cache_dir=cache), str)
        ),
        None,
    )


def content(sentence: str) -> str:
    """What a sentence says of a picture's content: the hand it is drawn in is what the style shall
    learn, and must not be said.

    `a black and white drawing of a cat on a mat` -> `a cat on a mat`.
    """
    found = " ".join(sentence.split()).rstrip(". ")
    found = re.sub(r"\b(\w+)(?: \1\b)+", r"\1", found)  # models stutter
    for _ in range(3):
        shorter = re.sub(
            ENDING, "", re.sub(BEGINNING, "", found, flags=re.IGNORECASE), flags=re.IGNORECASE
        ).strip(" ,")
        if shorter == found or not shorter:
            break
        found = shorter
    return found


def described(pictures: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Each picture and what it shows, as it is done, by a process of its own that ends with the
    iterator. Raises StudioError when none can say.
    """
    if present() is None:
        raise NoModelError(f"{NONE}.")
    command = [sys.executable, "-m", "studio.datasets.caption_worker"]
    process = subprocess.Popen(
        command,
        encoding="utf-8",
        env=jobs.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    given, said = cast(IO[str], process.stdin), cast(IO[str], process.stdout)
    try:
        given.write(json.dumps([str(path) for path in pictures]))
        given.close()
        for line in said:
            answer = json.loads(line)
            if "error" in answer:
                raise StudioError(answer["error"])
            yield Path(answer["picture"]), answer["caption"]
        if code := process.wait():
            raise StudioError(
                "The captioning model ended before it had described every picture "
                f"({processes.ending(code)}). Those that have a caption now keep it; run it again "
                "for the rest."
            )
    finally:
        process.kill()
        process.wait()
        said.close()

"""The previews of a run: what they draw, and where they lie."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from training.adapters.frozen_change import left_out
from training.adapters.inference import ActiveStyle
from training.config.schema import RunConfig
from training.data.captions import captioned
from training.diffusion.sampling import draw
from training.events import Previewed
from training.models import base_files, loader
from training.prompt import Prompt
from training.storage.paths import inside, write_whole
from training.trainer.trainer import Trainer


def prompts_of(config: RunConfig, captions: Sequence[str]) -> list[Prompt]:
    """What previews draw: the user's prompts, or three captions, with the trigger put in."""
    p, data = config.preview, config.data
    texts: Sequence[str] = [captioned(text, data.trigger, data.template) for text in p.prompts]
    if not texts:
        every = max(1, len(captions) // 3)
        texts = captions[::every][:3]
    return [
        Prompt(text, p.negative, p.steps, p.guidance, p.seed + i, sampler=p.sampler)
        for i, text in enumerate(texts)
    ]


def preview(trainer: Trainer) -> Previewed:
    """Draw the previews as they are now; training is not touched. Raises SpaceError."""
    prompts, paths = prompts_of(trainer.config, trainer.data.first_captions), _paths(trainer)
    event = Previewed(trainer.step, paths, tuple(p.text for p in prompts))
    if not (trainer.world.writes or trainer.world.shards):
        return event
    with (
        trainer.optimiser.averaged(),
        trainer.adapters_active(),
        left_out(trainer.parts.denoiser),
        trainer.networks.at_hand("vae"),
    ):
        if trainer.plan.drawn_by:
            pictures = _on_another_base(trainer, trainer.plan.drawn_by, prompts)
        else:
            pictures = draw(trainer.parts, prompts, encode=trainer.encode_captions)
    for path, prompt, picture in zip(paths, prompts, pictures, strict=True):
        if trainer.world.writes:
            write_whole(inside(trainer.folder, path), prompt.to_png(picture))
    return event


def _on_another_base(
    trainer: Trainer, files: base_files.BaseFiles, prompts: Sequence[Prompt]
) -> list[Image.Image]:
    """Draw with the style as it is now on another base, which is loaded for it and let go. A GPU
    holds one of both denoisers at a time.
    """
    changes = trainer.attached.changes(trainer.config)
    rows = [[ActiveStyle(changes)]] * len(prompts)
    with trainer.networks.aside(trainer.parts.family.denoiser):
        other = loader.load(files, trainer.place)
        pictures = draw(other, prompts, rows=rows, encode=trainer.encode_captions)
        del other  # before the trained one comes back
    return pictures


def is_there(trainer: Trainer) -> bool:
    """Whether the previews of this update were drawn, perhaps before a crash."""
    paths = [trainer.folder / path for path in _paths(trainer)]
    return trainer.world.first(lambda: all(path.is_file() for path in paths))


def _paths(trainer: Trainer) -> tuple[str, ...]:
    count = len(prompts_of(trainer.config, trainer.data.first_captions))
    return tuple(f"previews/step-{trainer.step:07d}-{i}.png" for i in range(count))

"""The style file that a run writes, read back before it gets its name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from training import __version__
from training.config.schema import RunConfig
from training.errors import SpaceError, StyleFileError
from training.models.textual_inversion import as_words
from training.storage.disk_errors import advice, cause
from training.storage.paths import fsync_folder, inside, write_whole
from training.style_files import embeddings
from training.style_files.key_names import canonical_name, dialect_of
from training.style_files.lora import Change
from training.style_files.matching import match
from training.style_files.metadata import Made, metadata_for
from training.style_files.reading import Style, read_style
from training.style_files.writing import write_style
from training.system import file_system
from training.trainer.trainer import Trainer

REPEAT = (
    "The checkpoint is kept: run the same command again, which writes the style anew. If it ends "
    "so again, set save.folder to another disk."
)
WORDS = "words"  # folder of learnt words, each in a file of its own


def has_effect(trainer: Trainer) -> bool:
    """Whether any adapter changes any weight of the base."""
    with trainer.optimiser.averaged():
        return any(all(bool(m.any()) for m in own) for own in trainer.adapters.values())


def export(trainer: Trainer, file: str = "") -> Path:
    """Write the style to save.name (or to a file in the run's folder), read it back with the
    strict loader, compare every module's change of weights, and only then give it its name.

    Raises StyleFileError, also for weights that are not finite; SpaceError.
    """
    config, family = trainer.config, trainer.parts.family.name
    path = inside(trainer.folder, file or f"{config.save.name}.safetensors")
    if not trainer.world.writes:
        return path
    with trainer.optimiser.averaged():
        own = trainer.attached.changes(config)
        words = as_words(trainer.tokens)
    unchecked = path.with_name(f".{path.name}")
    write_style(
        unchecked,
        {canonical_name(part, module, family): change for (part, module), change in own.items()},
        metadata_for(_as_trained(trainer), _made(trainer), config.save.leave_out),
        dialect=dialect_of(family),
        words=words,
    )
    written = read_style(unchecked)
    if not embeddings.alike(written.words, words):
        raise StyleFileError(f"{path} does not give back the word that was learnt. {REPEAT}")
    _check_same(path, own, written, trainer)
    try:
        for word, vectors in words.items() if not file else ():
            write_whole(
                trainer.folder / WORDS / f"{word}.safetensors",
                embeddings.embedding_bytes(word, vectors),
            )
        file_system.replace(unchecked, path)
        fsync_folder(path.parent)
    except OSError as error:
        raise SpaceError(
            f"{path} could not be written ({cause(error)}). {advice(error)}"
        ) from error
    return path


def _as_trained(trainer: Trainer) -> RunConfig:
    """The settings with the storage of the base that auto came to, without which the style cannot
    be trained again.
    """
    config = trainer.config
    if not trainer.place.storage:
        return config
    base = config.base.model_copy(update={"storage": trainer.place.storage})
    return config.model_copy(update={"base": base})


def _made(trainer: Trainer) -> Made:
    """What the file's metadata says of the training."""
    parts, config = trainer.parts, trainer.config
    return Made(
        family=parts.family.name,
        base_name=parts.title,
        base_hash=parts.hash,
        prediction=parts.prediction_type,
        resolution=config.data.resolution or parts.size,
        steps=trainer.step,
        pictures=len(trainer.data.examples),
        started=trainer.started,
        finished=time.time(),
        version=__version__,
        checkpointing=trainer.microbatches.current.checkpointing,
    )


def _check_same(
    path: Path, own: Mapping[tuple[str, str], Change], written: Style, trainer: Trainer
) -> None:
    """Raise StyleFileError where the written style changes weights otherwise than the trained."""
    back = match(written, trainer.attached.names)
    for key, lora in own.items():
        wanted, found = lora.delta(), back[key].delta()
        worst, largest = abs(wanted - found).max(), abs(wanted).max()
        if worst > 4e-3 * largest + 1e-7:
            raise StyleFileError(
                f"{path} does not give back what was trained ({'.'.join(key)} is "
                f"{worst:.2g} off). {REPEAT}"
            )

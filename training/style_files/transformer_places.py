"""A transformer's style without a base at hand: which layers its names stand for, and the pieces of
matrices that hold several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from training.errors import StyleFileError
from training.style_files.family_record import FamilySpec
from training.style_files.lora import Change, split_rows
from training.style_files.transformer_names import (
    PART,
    native_modules,
    row_counts,
    transformer_names,
)

MOST_BLOCKS = 100  # of one kind; the deepest transformer in use has 60


def placed_transformer(
    spec: FamilySpec, modules: Mapping[str, Change]
) -> dict[tuple[str, str], Change]:
    """Return (part, live module) -> the change of a style's layers. Raises StyleFileError for those
    that the family does not have, or that are there twice.
    """
    known = list(standard_modules(spec))
    names = transformer_names(spec, dict.fromkeys(known, (1, 1)))
    native = native_modules(spec, known)
    if unknown := [name for name in modules if name not in names]:
        raise StyleFileError(
            f"{len(unknown)} of the style's {len(modules)} layers are none of a "
            f"{spec.short_title} model, for instance {unknown[0]}."
            " Say which family it is with --family."
        )
    found: dict[tuple[str, str], Change] = {}
    for name, lora in modules.items():
        _, module, _ = names[name]
        live = native[module] if module in names.fused else [module]
        pieces = split_rows(lora, row_counts(spec, module, lora.shape[0], len(live)))
        for own, piece in zip(live, pieces, strict=True):
            if (PART, own) in found:
                raise StyleFileError(
                    f"The style holds {PART}.{own} twice, under two names. Export it again with "
                    "one of them."
                )
            found[PART, own] = piece
    return found


def standard_modules(spec: FamilySpec) -> Iterator[str]:
    """Every module that styles of a family may change, with more blocks than any of its models."""
    for pattern in (*(name for group in spec.groups.values() for name in group), *spec.also_read):
        for block in range(MOST_BLOCKS if "*" in pattern else 1):
            yield pattern.replace("*", str(block))

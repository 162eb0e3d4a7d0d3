"""How a loaded base reads captions, for the checks of a set of pictures."""

from __future__ import annotations

from training.config.schema import RunConfig
from training.data.checks import Reader
from training.models.family import Parts
from training.models.textual_inversion import count_ids


def caption_reader(parts: Parts, config: RunConfig) -> Reader | None:
    """None for a base without tokenizers. A learnt word counts as many tokens as it has vectors."""
    tokenizers = list(parts.tokenizers.values())
    if not tokenizers:
        return None
    if most := parts.family.spec.tokens:  # the last text encoder reads the most
        return Reader(lambda text: count_ids(tokenizers[-1], text), most)
    word, vectors = config.data.trigger, config.adapter.tokens

    def count(text: str) -> int:
        return max(count_ids(tokenizer, text, word, vectors) for tokenizer in tokenizers)

    # begin and end of a text, or of a piece of it, take a place each
    length = min(tokenizer.model_max_length for tokenizer in tokenizers) - 2
    return Reader(count, length * config.base.text_pieces)

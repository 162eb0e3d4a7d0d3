"""Words with vectors of their own in the text encoders: textual inversion (Gal et al. 2022),
trained together with the adapters.

Nothing in tokenizer or text encoder is changed: where such a word stands in a caption, its vectors
take the place of the embeddings, row by row. So rows of one batch may know different words, and the
base none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from training.errors import ConfigError
from training.models.family import TextEncoder
from training.runtime.device import sent
from training.runtime.rng import FIRST_TOKENS, seeded_generator
from training.style_files.embeddings import Vectors, Words

if TYPE_CHECKING:
    from training.models.family import Parts

PLACEHOLDER = 0  # an id that is never the end of a text, whose embedding is not looked at
# noise on vectors that begin as the same token, as a share of their own deviation: else they would
# stay equal
APART = 0.1


@dataclass(frozen=True, eq=False)
class Token:
    """A word and its vectors.

    vectors: text encoder part -> [n, width]; every text encoder of the base has as many.
    """

    word: str
    vectors: dict[str, Tensor]


Row = Sequence[Token]  # the words that one caption may use


def read_ids(
    tokenizer: Any, caption: str, words: Sequence[str], counts: Sequence[int]
) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Ids of a caption, begun, ended, cut and padded as the tokenizer does it, and (place, word,
    vector) of every vector in it.

    counts: vectors of each word. A word is found whole and in any case, as a trigger is.
    """
    rows, places = read_pieces(tokenizer, caption, words, counts, 1)
    return rows[0], [(column, word, k) for _, column, word, k in places]


def read_pieces(
    tokenizer: Any, caption: str, words: Sequence[str], counts: Sequence[int], most: int
) -> tuple[list[list[int]], list[tuple[int, int, int, int]]]:
    """Ids of a caption in at most so many pieces of the tokenizer's length, each begun, ended and
    padded as a caption of its own, and (piece, place in it, word, vector) of every vector.

    What does not fit into the pieces is cut off; an empty caption is one piece. So A1111 and
    ComfyUI read prompts, but for what they do about commas, emphasis and BREAK.
    """
    room = tokenizer.model_max_length - 2
    ids: list[int] = []
    places: list[tuple[int, int, int]] = []

    def ids_of(text: str) -> list[int]:
        found = tokenizer(text, add_special_tokens=False, verbose=False) if text.strip() else None
        return found.input_ids if found else []

    at, order = 0, {word.lower(): i for i, word in enumerate(words)}
    for found in re.finditer(_pattern(words), caption, re.IGNORECASE) if words else ():
        ids += ids_of(caption[at : found.start()])
        i = order[found.group().lower()]
        places += [(len(ids) + k, i, k) for k in range(counts[i])]
        ids += [PLACEHOLDER] * counts[i]
        at = found.end()
    ids = (ids + ids_of(caption[at:]))[: room * most]
    begin, end, fill = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    pieces = [ids[k : k + room] for k in range(0, len(ids), room)] or [[]]
    rows = [[begin, *piece, end, *([fill] * (room - len(piece)))] for piece in pieces]
    return rows, [
        (place // room, place % room + 1, word, k) for place, word, k in places if place < len(ids)
    ]


def count_ids(tokenizer: Any, text: str, word: str = "", vectors: int = 0) -> int:
    """Ids of a text, however many, without its beginning and end. vectors: of a learnt word, 0
    where the word is none.
    """
    pieces = re.split(_pattern([word]), text, flags=re.IGNORECASE) if word and vectors else [text]
    ids = [
        len(tokenizer(piece, add_special_tokens=False, verbose=False).input_ids)
        for piece in pieces
        if piece.strip()
    ]
    return sum(ids) + (len(pieces) - 1) * vectors


def _pattern(words: Sequence[str]) -> str:
    longest_first = sorted(words, key=len, reverse=True)
    return rf"(?<!\w)(?:{'|'.join(re.escape(word) for word in longest_first)})(?!\w)"


@contextmanager
def spoken(
    encoder: TextEncoder, part: str, tokenizer: Any, captions: Sequence[str], tokens: Sequence[Row]
) -> Iterator[Tensor]:
    """Yield the ids [B, length] to give to a text encoder; while inside, the words of each
    caption's row have their vectors.

    tokens: one row a caption, or none for captions without words of that kind.
    """
    length = tokenizer.model_max_length
    ids = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=length,
        return_tensors="pt",
    ).input_ids
    rows, columns, vectors = [], [], []
    for i, (caption, row) in enumerate(zip(captions, tokens, strict=True) if tokens else ()):
        words = [token.word for token in row]
        if not words or not re.search(_pattern(words), caption, re.IGNORECASE):
            continue
        own, places = read_ids(
            tokenizer, caption, words, [len(token.vectors[part]) for token in row]
        )
        ids[i] = torch.tensor(own)
        for column, word, k in places:
            rows.append(i)
            columns.append(column)
            vectors.append(row[word].vectors[part][k])
    with _put(encoder, rows, columns, vectors):
        yield sent(ids, encoder.device)


@contextmanager
def spoken_in_pieces(
    encoder: TextEncoder,
    part: str,
    tokenizer: Any,
    captions: Sequence[str],
    tokens: Sequence[Row],
    most: Sequence[int],
) -> Iterator[tuple[Tensor, list[int]]]:
    """The same with captions of several pieces, `most` of them for each caption. Yields the ids
    [pieces of all captions, length] and how many pieces each caption has.
    """
    ids: list[list[int]] = []
    pieces: list[int] = []
    rows, columns, vectors = [], [], []
    for i, caption in enumerate(captions):
        row = tokens[i] if tokens else ()
        words, counts = [t.word for t in row], [len(t.vectors[part]) for t in row]
        own, places = read_pieces(tokenizer, caption, words, counts, most[i])
        rows += [len(ids) + piece for piece, _, _, _ in places]
        columns += [column for _, column, _, _ in places]
        vectors += [row[word].vectors[part][k] for _, _, word, k in places]
        ids += own
        pieces.append(len(own))
    with _put(encoder, rows, columns, vectors):
        yield sent(torch.tensor(ids), encoder.device), pieces


@contextmanager
def _put(
    encoder: TextEncoder, rows: list[int], columns: list[int], vectors: list[Tensor]
) -> Iterator[None]:
    """While inside, these vectors take the places of embeddings."""
    if not vectors:
        yield
        return
    at = sent(torch.tensor(rows), encoder.device), sent(torch.tensor(columns), encoder.device)

    def put(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        return embedded.index_put(at, torch.stack(vectors).to(embedded))

    hook = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        hook.remove()


def first_token(parts: Parts, word: str, count: int, start: str, seed: int) -> Token:
    """A new word of `count` trainable vectors, float32. They begin as the tokens of `start`, over
    and over, repeated ones with some noise.

    Raises ConfigError when start has no tokens.
    """
    vectors: dict[str, Tensor] = {}
    for place, (part, tokenizer) in enumerate(
        zip(parts.family.text_encoders, parts.tokenizers.values(), strict=True)
    ):
        ids = tokenizer(start, add_special_tokens=False).input_ids
        if not ids:
            raise ConfigError(
                f"adapter.token_start is {start!r}, which {parts.title} reads as nothing. Give "
                "one or more plain words, for instance style."
            )
        table = parts.text_encoder(part).get_input_embeddings().weight.detach().float()
        first = table[[ids[k % len(ids)] for k in range(count)]].clone()
        noise = (
            torch.randn(first.shape, generator=seeded_generator(seed, FIRST_TOKENS, place)).to(
                first
            )
            * first.std(1, keepdim=True, unbiased=False)
            * APART
        )
        first[len(ids) :] += noise[len(ids) :]
        exact = torch.promote_types(parts.networks[part].dtype, torch.float32)
        vectors[part] = nn.Parameter(first.to(exact))
    return Token(word, vectors)


def as_words(tokens: Row) -> dict[str, Vectors]:
    """For a file."""
    return {
        token.word: {
            part: v.detach().float().cpu().numpy().copy() for part, v in token.vectors.items()
        }
        for token in tokens
    }


def of_words(words: Words) -> tuple[Token, ...]:
    """Words of a file, to be drawn with."""
    return tuple(
        Token(word, {p: torch.from_numpy(np.array(v, np.float32)) for p, v in found.items()})
        for word, found in words.items()
    )

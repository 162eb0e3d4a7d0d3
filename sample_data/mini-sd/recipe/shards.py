"""What the UNet learns from, prepared: latents, tokens of captions and facts in flat files.

    python shards.py --state FOLDER --pictures 200000

draws captioned pictures of the concepts into FOLDER/drawn, encodes them with FOLDER/frozen/vae into
FOLDER/prepared, and goes on where it stopped; a training may read what is there meanwhile.
Picture n is the same for everybody who draws it. Delete FOLDER/prepared and its neighbour for the
pictures held out when the autoencoder is frozen anew: what is drawn is encoded again.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import begun
import concepts
import numpy as np
import phrases
import torch
import world
from flat_files import FlatFiles
from media import MEDIA
from pace import mixed
from papers import COLOURS
from phrases import Parts
from texture import Array, Rng
from torch import Tensor
from world import Example

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer

PART = 500  # pictures drawn and added at once
ICONS = 110  # different things in a part
CAPTIONS = 4  # of every picture, in its own phrasing
LENGTH = 32  # tokens a caption
SHAPE = (16, 16, 16)  # of a picture's latents
MEDIA_SHARE = 0.35  # of pictures that are made in a medium
OTHER_NAME = 0.3  # share of captions that call a thing by a synonym
PLAIN_HAND = "flat"  # of a thing whose caption names neither hand nor medium
HELD_OUT = 1 << 40  # number of the first picture that is never learnt
FACTS = ("concept", "count", "hand", "medium", "paper", "colour", "kind")
KINDS = ("learnt pair", "hand left out", "medium left out")
HANDS, MEDIA_NAMES, PAPERS = list(world.HANDS), ["", *MEDIA], list(COLOURS)


def parts_of(shown: Example) -> Parts:
    """Choose how often the captions of a picture say each part.

    What is not said is what is drawn by default: so the plain hand and white paper go unsaid most
    often, and other hands hardly ever unless a medium hides them.
    """
    assert shown.scene is not None
    hand = shown.scene.things[0].hand
    named = 0.5 if shown.medium else (0.3 if hand == PLAIN_HAND else 0.97)
    paper = 0.35 if shown.paper in ("white", "cream") else 0.9
    return Parts(medium=0.97, hand=named, paper=paper)


def captions(shown: Example, rng: Rng, count: int = CAPTIONS) -> list[str]:
    """Phrase a picture in so many ways, sometimes with a synonym."""
    assert shown.scene is not None
    way = MEDIA.get(shown.medium, world.PLAIN)
    found = []
    for _ in range(count):
        text = phrases.caption(
            shown.scene,
            rng,
            medium=str(rng.choice(way.words)) or None,
            paper=shown.paper,
            keeps_colour=way.keeps_colour,
            parts=parts_of(shown),
        )
        for concept in dict.fromkeys(shown.concepts):
            others = concepts.said(concept)[1:]
            if others and rng.random() < OTHER_NAME:
                text = phrases.renamed(text, concept, str(rng.choice(others)))
        found.append(text)
    return found


def facts(shown: Example, names: Sequence[str], kind: int = 0) -> list[int]:
    """Return what a judge asks for, as numbers: see FACTS; -1 where there is none."""
    assert shown.scene is not None
    first = shown.scene.things[0]
    return [
        names.index(first.concept),
        len(shown.scene.things),
        HANDS.index(first.hand),
        MEDIA_NAMES.index(shown.medium),
        PAPERS.index(shown.paper),
        PAPERS.index(first.colour) if first.colour in PAPERS else -1,
        kind,
    ]


def part(number: int, npm: Path) -> Iterator[tuple[Example, int]]:
    """Draw part `number`: PART pictures, each with its kind."""
    rng = np.random.default_rng([number, 34])
    things = concepts.some_things(rng, npm, ICONS)
    for index in range(PART):
        yield world.example(things, number * PART + index, media=MEDIA_SHARE), 0


def held_out(npm: Path, each: int = 128) -> Iterator[tuple[Example, int]]:
    """Draw pictures that are never learnt: `each` new ones of learnt pairs, of things in a hand
    left out, and of things in a medium left out.
    """
    rng = np.random.default_rng([HELD_OUT, 34])
    names = concepts.taught(npm)
    for kind in range(len(KINDS)):
        found = 0
        while found < each:
            name = names[int(rng.integers(len(names)))]
            out = [hand for hand in concepts.chosen(npm)[name] if world.left_out(name, hand)]
            hands = out if kind == 1 else concepts.learnt_hands(name, npm)
            media = [m for m in MEDIA if world.left_out(name, m)] if kind == 2 else [""]
            if not hands or not media:
                continue
            hand, medium = str(rng.choice(hands)), str(rng.choice(media))
            thing = concepts.thing(name, hand, npm)
            if thing:
                seed = HELD_OUT + kind * each + found
                learnt = kind == 0 and found % 2
                yield (
                    world.example([thing], seed, medium=None if learnt else medium, single=True),
                    kind,
                )
                found += 1


DRAWN = {"pictures.u8": (np.uint8, (world.SIZE, world.SIZE, 3))}
CAPTIONED = {
    "tokens.i16": (np.int16, (CAPTIONS, LENGTH)),
    "facts.i16": (np.int16, (len(FACTS),)),
}
HELD = "-held-out"  # added to the name of a folder: pictures that are never learnt


def drawn_in(state: Path, held: str = "") -> FlatFiles:
    """Pictures, tokens, facts: whatever the autoencoder, the same."""
    return FlatFiles(state / f"drawn{held}", DRAWN | CAPTIONED)


def prepared_in(state: Path, held: str = "") -> FlatFiles:
    """Latents, tokens, facts: what a training reads."""
    return FlatFiles(state / f"prepared{held}", {"latents.f16": (np.float16, SHAPE)} | CAPTIONED)


def tokens_of(texts: Sequence[str], tokenizer: CLIPTokenizer) -> Tensor:
    """Return ids [N, LENGTH] of captions, padded."""
    return tokenizer(
        list(texts),
        padding="max_length",
        truncation=True,
        max_length=LENGTH,
        return_tensors="pt",
    ).input_ids


def encoded(vae: AutoencoderKL, pictures: Array) -> Array:
    """Return the mean latents of uint8 [N, H, W, 3], float16."""
    device = next(vae.parameters()).device
    found = []
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=mixed(device.type)):
        for some in torch.from_numpy(pictures).permute(0, 3, 1, 2).split(50):
            x = some.to(device).float() / 127.5 - 1
            x = x.contiguous(memory_format=torch.channels_last)
            found.append(vae.encode(x).latent_dist.mean.half().cpu())
    return torch.cat(found).numpy()


def draw(
    shown: Sequence[tuple[Example, int]],
    rng: Rng,
    names: Sequence[str],
    tokenizer: CLIPTokenizer,
    into: FlatFiles,
) -> None:
    """Caption and add pictures."""
    texts = [text for example, _ in shown for text in captions(example, rng)]
    tokens = tokens_of(texts, tokenizer).view(len(shown), CAPTIONS, LENGTH).numpy()
    known = np.array([facts(example, names, kind) for example, kind in shown])
    pictures = np.stack([example.picture for example, _ in shown])
    into.add(pictures, tokens, known, names=list(names))


def encode(drawn: FlatFiles, vae: AutoencoderKL, into: FlatFiles) -> None:
    """Add the latents of everything drawn that has none yet, with its tokens and facts."""
    if len(into) == len(drawn):
        return
    pictures, tokens, known = drawn.open()
    for at in range(len(into), len(pictures), PART):
        rows = slice(at, at + PART)
        latents = encoded(vae, pictures[rows])
        into.add(latents, tokens[rows], known[rows], names=drawn.index()["names"])


def all_captions(npm: Path, rounds: int = 6) -> list[str]:
    """Return captions in which every concept comes, to make a vocabulary of."""
    texts = [text for concept in concepts.chosen(npm) for text in concepts.said(concept)]
    texts += [phrases.plural(text) for text in texts]
    rng = np.random.default_rng(5)
    for number in range(rounds):
        things = concepts.some_things(rng, npm, 80)
        shown = (world.example(things, number * 1000 + n, media=0.8) for n in range(150))
        texts += [text for example in shown for text in captions(example, rng)]
    return texts


def tokenizer_of(state: Path, npm: Path) -> CLIPTokenizer:
    """Return the tokenizer, made where there is none."""
    from painter import new_tokenizer

    begun.take_tokenizer(state)
    made = (state / "tokenizer" / "merges.txt").exists()
    return new_tokenizer([] if made else all_captions(npm), state / "tokenizer")


def frozen(state: Path, device: str) -> AutoencoderKL | None:
    """Return the frozen autoencoder, None where there is none yet."""
    from diffusers import AutoencoderKL

    folder = begun.autoencoder(state)
    if not folder.exists():
        return None
    vae = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    return vae.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, default=Path("work/mini"))
    parser.add_argument("--npm", type=Path, help="folder of the packages; STATE/npm without it")
    parser.add_argument("--pictures", type=int, default=200_000, help="add until there are so many")
    parser.add_argument("--device", default="cpu", help="of the autoencoder")
    parser.add_argument("--only-draw", action="store_true", help="also before it is frozen")
    args = parser.parse_args()
    npm = args.npm or args.state / "npm"
    tokenizer = tokenizer_of(args.state, npm)
    vae = None if args.only_draw else frozen(args.state, args.device)
    names = list(concepts.chosen(npm))
    kept, drawn = drawn_in(args.state, HELD), drawn_in(args.state)
    if not len(kept):
        draw(list(held_out(npm)), np.random.default_rng(0), names, tokenizer, kept)
    if vae:
        encode(kept, vae, prepared_in(args.state, HELD))
        encode(drawn, vae, prepared_in(args.state))
    while (rows := len(drawn)) < args.pictures:
        began, number = time.time(), rows // PART
        draw(list(part(number, npm)), np.random.default_rng([number, 35]), names, tokenizer, drawn)
        if vae:
            encode(drawn, vae, prepared_in(args.state))
        print(f"{len(drawn)} pictures, {time.time() - began:.0f} s a part", flush=True)


if __name__ == "__main__":
    main()

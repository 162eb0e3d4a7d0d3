"""Which pictures the base learns from, and the words beside them. Knows nothing of models."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

import icons
import numpy as np
import torch
from torch import Tensor

PAINTED = ("noto", "fluent-emoji-flat")  # the sets the painter learns; the autoencoder sees all of icons.SETS
HELD_OUT = 97  # every so many pictures one is kept from the autoencoder, to measure it
# People, hands and signs need hours of their own; a first base draws things, animals, plants and faces.
VAGUE = re.compile(
    r"\b(person|man|woman|men|women|people|couple|family|kiss|boy|girl|holding|hands?|health|mage|clock|oclock|thirty|arrow"
    r"|sign|square|circle|symbol|face|cat with|fist|index|mark|diamond|bust|busts|worker|input|chart|mailbox|oncoming"
    r"|prohibited|no|heart|hearts|behind|moon|book|asia|australia|europe|africa|sunset|sunrise|cityscape|bridge|sleuth"
    r"|pointing|folder|divider|dividers|page|papers|suit|exclamation|curly|loop|flags?|pieces|gesture|restroom|room|closet)\b"
)


@dataclass(frozen=True)
class Lessons:
    """pictures uint8 [N, 3, SIZE, SIZE]; caption i belongs to picture i as "<concept>, <style> style"."""

    pictures: Tensor
    concepts: list[str]
    styles: list[str]


def words(name: str) -> str:
    return name.replace("-", " ")


def for_autoencoder(folder: Path) -> tuple[Tensor, Tensor]:
    """Return (training, held-out) pictures of every set, uint8 [N, 3, SIZE, SIZE]."""
    every = np.concatenate([np.stack(list(icons.pictures(s, folder).values())) for s in icons.SETS.values()])
    pictures = torch.from_numpy(every).permute(0, 3, 1, 2).contiguous()
    held = torch.arange(len(pictures)) % HELD_OUT == 0
    return pictures[~held], pictures[held]


def for_painter(folder: Path, limit: int = 260) -> Lessons:
    """Return the concepts all PAINTED sets share, at most `limit` of them chosen by a fixed seed, in every style."""
    sets = {name: icons.pictures(icons.SETS[name], folder) for name in PAINTED}
    shared = sorted(name for name in set.intersection(*map(set, sets.values())) if not VAGUE.search(words(name)))
    wanted = [name for name in shared if name in FIRST]
    rest = [name for name in shared if name not in FIRST]
    random.Random(1).shuffle(rest)
    chosen = sorted(wanted + rest[: max(0, limit - len(wanted))])
    rows = [(sets[s][c], words(c), icons.SETS[s].style) for s in PAINTED for c in chosen]
    pictures = torch.from_numpy(np.stack([r[0] for r in rows])).permute(0, 3, 1, 2).contiguous()
    return Lessons(pictures, [r[1] for r in rows], [r[2] for r in rows])


# What a newcomer will ask for first, and the concepts of the sample style's pictures.
FIRST = set(
    """red-apple rocket sunflower hamburger castle penguin crown cactus owl teapot mushroom sailboat snail guitar bicycle
    butterfly fish key umbrella elephant house lemon turtle anchor balloon cherries strawberry tree deciduous-tree
    evergreen-tree palm-tree tulip rose banana grapes pear peach pineapple watermelon tomato carrot eggplant ear-of-corn
    bread cheese-wedge egg pizza ice-cream soft-ice-cream birthday-cake cupcake doughnut cookie lollipop candy cup-with-straw
    hot-beverage wine-glass beer-mug bottle-with-popping-cork cat dog rabbit fox bear pig cow horse sheep lion tiger mouse
    frog monkey octopus whale dolphin shark crab lobster spouting-whale spider ladybug lady-beetle honeybee bug bird duck
    eagle flamingo parrot rooster swan dragon unicorn dinosaur sauropod t-rex snake crocodile camel kangaroo hedgehog bat
    squid shrimp tropical-fish blowfish ghost robot alien skull snowman teddy-bear jack-o-lantern star sun cloud rainbow
    fire droplet snowflake umbrella-with-rain-drops high-voltage volcano mountain tent hut church mosque lighthouse factory
    automobile bus truck delivery-truck tractor locomotive helicopter airplane ship motorcycle scooter skateboard wheel
    hammer wrench scissors axe screwdriver pencil paintbrush crayon book books scroll light-bulb candle flashlight lamp
    camera television telephone mobile-phone laptop desktop-computer radio watch bell drum trumpet violin saxophone
    maracas accordion trophy medal sports-medal soccer-ball basketball tennis kite yo-yo game-die puzzle-piece gem-stone
    ring glasses sunglasses top-hat billed-cap necktie t-shirt jeans dress socks gloves scarf boot high-heeled-shoe
    running-shoe backpack handbag briefcase bed door window chair toilet bathtub broom basket bucket sponge toothbrush
    microscope telescope magnet syringe pill thermometer feather bone paw-prints four-leaf-clover maple-leaf herb
    potted-plant cherry-blossom hibiscus seedling coconut avocado broccoli garlic onion potato hot-pepper cucumber
    french-fries hot-dog sandwich taco burrito sushi pretzel croissant pancakes popcorn chocolate-bar honey-pot salt
    ringed-planet flying-saucer satellite bomb shield crossed-swords bow-and-arrow dagger gear lock locked compass map
    money-bag coin wrapped-gift party-popper ribbon envelope package hourglass-done fountain ferris-wheel windmill""".split()
)

"""Which pictures the base learns from, and the words beside them. Knows nothing of models."""

from __future__ import annotations

import random
import re
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import icons
import numpy as np
import torch
from PIL import Image
from torch import Tensor

# The sets the painter learns, most familiar first; the autoencoder sees all of icons.SETS
PAINTED = ("noto", "fluent-emoji-flat", "fluent-emoji", "noto-v1", "fxemoji", "streamline-emojis")
UNBROKEN = PAINTED[
    :2
    # every concept is learnt in these; of the others' (concept, style) pairs some are left out, to
    # test composition
]
# the hand of a thing whose caption names none: of all six at once a small model draws their mean
PLAIN = "flat"
LEFT_OUT_OF = 12  # one pair in so many is left out
HELD_OUT = 97  # every so many pictures one is kept from the autoencoder, to measure it
# People, hands and signs need hours of their own; a first base draws things, animals, plants and
# faces.
VAGUE = re.compile(
    r"\b(person|man|woman|men|women|people|couple|family|kiss|boy|girl|holding|hands?|health"
    r"|mage|clock|oclock|thirty|arrow"
    r"|sign|square|circle|symbol|face|cat "
    r"with|fist|index|mark|diamond|bust|busts|worker|input|chart|mailbox|oncoming"
    r"|prohibited|no|heart|hearts|behind|moon|book|asia|australia|europe|africa|sunset|sunrise"
    r"|cityscape|bridge|sleuth"
    r"|pointing|folder|divider|dividers|page|papers|suit|exclamation|curly|loop|flags?|pieces"
    r"|gesture|restroom|room|closet"
    r"|aquarius|aries|cancer|capricorn|gemini|leo|libra|ophiuchus|pisces|sagittarius|scorpio"
    r"|taurus|virgo|information|copyright"
    r"|registered|plus|minus|multiply|divide|infinity|wavy|vibration|wireless|om|khanda|hamsa"
    r"|middle|asterisk|circled|speech"
    r"|anger|hundred|zzz|cross|dotted|pointed|mahjong|claus|passport|customs|baggage|luggage|e "
    r"mail|currency|crossing|children)\b"
)


CATEGORIES = {
    "Activities": "activity",
    "Animals & Nature": "nature",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Objects": "object",
}
# Hue in degrees up to which a colour carries this name
HUES = (
    (18, "red"),
    (42, "orange"),
    (68, "yellow"),
    (165, "green"),
    (190, "turquoise"),
    (255, "blue"),
    (290, "purple"),
    (340, "pink"),
    (361, "red"),
)


@dataclass(frozen=True)
class Lessons:
    """pictures uint8 [N, 3, SIZE, SIZE]; picture i shows concepts[i] in styles[i], and phrases(i)
    describes it.
    """

    pictures: Tensor
    concepts: list[str]
    styles: list[str]
    categories: list[str]
    colours: list[str]
    left_out: list[
        tuple[str, str]
    ]  # (concept, style) pairs that exist and are not among the pictures

    def phrases(self, i: int) -> list[tuple[float, str]]:
        """(share, caption) of picture i; the shares make one.

        The empty caption is for classifier-free guidance.
        """
        c, s = self.concepts[i], self.styles[i]
        return [
            (0.20, f"{c}, {s} style"),
            (0.12, f"an icon of a {c} in {s} style"),
            (0.10, f"{s} style, {self.categories[i]}, {c}"),
            (0.12, f"{c}, {self.colours[i]}, {s} style"),
            (0.30, c if s == PLAIN else f"{c}, {s} style"),
            (0.04, f"a picture of a {c}, {self.colours[i]}"),
            (0.04, f"{s} style"),
            (0.08, ""),
        ]


def words(name: str) -> str:
    return name.replace("-", " ")


def joined(name: str) -> str:
    """The name as sets that write words together spell it."""
    return name.replace("-", "")


def left_out(concept: str, icon_set: str) -> bool:
    return (
        icon_set not in UNBROKEN and zlib.crc32(f"{concept} {icon_set}".encode()) % LEFT_OUT_OF == 0
    )


def colours(picture: np.ndarray) -> str:
    """Name the one or two commonest colours of a uint8 [H, W, 3] picture, its white ground left
    out.
    """
    h, s, v = np.asarray(Image.fromarray(picture).convert("HSV")).reshape(-1, 3).T / 255
    names = np.array([name for _, name in HUES])[
        np.searchsorted([top for top, _ in HUES], 360 * h, side="right")
    ]
    names = np.where((names == "orange") & (v < 0.65), "brown", names)
    names = np.where(
        s < 0.2, np.where(v < 0.3, "black", np.where(v < 0.85, "grey", "white")), names
    )
    names = names[~((s < 0.03) & (v > 0.97))]
    common = Counter(names.tolist()).most_common(2)
    return " and ".join(name for name, count in common if count > 0.15 * len(names)) or "white"


def for_autoencoder(folder: Path) -> tuple[Tensor, Tensor]:
    """Return (training, held-out) pictures of every set, uint8 [N, 3, SIZE, SIZE]."""
    every = np.concatenate(
        [np.stack(list(icons.pictures(s, folder).values())) for s in icons.SETS.values()]
    )
    pictures = torch.from_numpy(every).permute(0, 3, 1, 2).contiguous()
    held = torch.arange(len(pictures)) % HELD_OUT == 0
    return pictures[~held], pictures[held]


def for_painter(folder: Path, limit: int = 420) -> Lessons:
    """Return at most `limit` concepts the UNBROKEN sets share, chosen by a fixed seed, in every
    style that draws them.
    """
    sets = {name: icons.pictures(icons.SETS[name], folder) for name in PAINTED}
    categories = icons.categories(icons.SETS[PAINTED[0]], folder)
    shared = sorted(
        n for n in set.intersection(*(set(sets[u]) for u in UNBROKEN)) if not VAGUE.search(words(n))
    )
    shared = [n for n in shared if categories.get(n) in CATEGORIES]
    wanted = [n for n in shared if n in FIRST]
    rest = [n for n in shared if n not in FIRST]
    random.Random(1).shuffle(rest)
    chosen = sorted(wanted + rest[: max(0, limit - len(wanted))])
    rows, missing = [], []
    for name, found in sets.items():
        spelt = {joined(key): picture for key, picture in found.items()}
        for c in chosen:
            if joined(c) in spelt:
                (missing if left_out(c, name) else rows).append(
                    (spelt[joined(c)], c, icons.SETS[name].style)
                )
    return Lessons(
        pictures=torch.from_numpy(np.stack([r[0] for r in rows])).permute(0, 3, 1, 2).contiguous(),
        concepts=[words(r[1]) for r in rows],
        styles=[r[2] for r in rows],
        categories=[CATEGORIES[categories[r[1]]] for r in rows],
        colours=[colours(r[0]) for r in rows],
        left_out=[(words(c), style) for _, c, style in missing],
    )


# What a newcomer will ask for first, and the concepts of the sample style's pictures.
FIRST = set(
    """red-apple rocket sunflower hamburger castle penguin crown cactus owl teapot mushroom
    sailboat snail guitar bicycle butterfly fish key umbrella elephant house lemon turtle anchor
    balloon cherries strawberry tree deciduous-tree evergreen-tree palm-tree tulip rose banana
    grapes pear peach pineapple watermelon tomato carrot eggplant ear-of-corn bread cheese-wedge
    egg pizza ice-cream soft-ice-cream birthday-cake cupcake doughnut cookie lollipop candy
    cup-with-straw hot-beverage wine-glass beer-mug bottle-with-popping-cork cat dog rabbit fox
    bear pig cow horse sheep lion tiger mouse frog monkey octopus whale dolphin shark crab
    lobster spouting-whale spider ladybug lady-beetle honeybee bug bird duck eagle flamingo
    parrot rooster swan dragon unicorn dinosaur sauropod t-rex snake crocodile camel kangaroo
    hedgehog bat squid shrimp tropical-fish blowfish ghost robot alien skull snowman teddy-bear
    jack-o-lantern star sun cloud rainbow fire droplet snowflake umbrella-with-rain-drops
    high-voltage volcano mountain tent hut church mosque lighthouse factory automobile bus truck
    delivery-truck tractor locomotive helicopter airplane ship motorcycle scooter skateboard
    wheel hammer wrench scissors axe screwdriver pencil paintbrush crayon book books scroll
    light-bulb candle flashlight lamp camera television telephone mobile-phone laptop
    desktop-computer radio watch bell drum trumpet violin saxophone maracas accordion trophy
    medal sports-medal soccer-ball basketball tennis kite yo-yo game-die puzzle-piece gem-stone
    ring glasses sunglasses top-hat billed-cap necktie t-shirt jeans dress socks gloves scarf
    boot high-heeled-shoe running-shoe backpack handbag briefcase bed door window chair toilet
    bathtub broom basket bucket sponge toothbrush microscope telescope magnet syringe pill
    thermometer feather bone paw-prints four-leaf-clover maple-leaf herb potted-plant
    cherry-blossom hibiscus seedling coconut avocado broccoli garlic onion potato hot-pepper
    cucumber french-fries hot-dog sandwich taco burrito sushi pretzel croissant pancakes popcorn
    chocolate-bar honey-pot salt ringed-planet flying-saucer satellite bomb shield
    crossed-swords bow-and-arrow dagger gear lock locked compass map money-bag coin wrapped-gift
    party-popper ribbon envelope package hourglass-done fountain ferris-wheel windmill""".split()
)

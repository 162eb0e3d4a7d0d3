"""Which concepts the base learns, in whose hands, under which names. Knows nothing of models.

`python concepts.py --npm FOLDER` prints them all.
"""

from __future__ import annotations

import argparse
import json
import re
import tarfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import world
from icons import LEFT_OUT
from lessons import CATEGORIES, FIRST, VAGUE, words
from packages import PACKAGES, fetched, icons_of
from scenes import Thing

NAMES = "noto"  # the package whose names the concepts carry
HANDS_OF_FIRST = 3  # hands that must draw a concept people ask for first
HANDS_OF_OTHERS = 9  # and any other
# Other spellings of a name, in packages and in captions
SYNONYMS: dict[str, tuple[str, ...]] = {
    "automobile": ("car",),
    "airplane": ("plane",),
    "artist-palette": ("palette",),
    "baguette-bread": ("baguette",),
    "bear": ("bear-face",),
    "beer-mug": ("beer",),
    "bicycle": ("bike",),
    "billed-cap": ("baseball-cap", "cap"),
    "birthday-cake": ("cake",),
    "bottle-with-popping-cork": ("champagne",),
    "bread": ("bread-slice",),
    "candle": ("candles",),
    "cheese-wedge": ("cheese",),
    "cherries": ("cherry",),
    "cocktail-glass": ("cocktail", "martini"),
    "cup-with-straw": ("soda",),
    "deciduous-tree": ("tree",),
    "delivery-truck": ("truck",),
    "desktop-computer": ("computer", "desktop"),
    "door": ("door-open",),
    "doughnut": ("donut",),
    "droplet": ("drop", "water-drop"),
    "ear-of-corn": ("corn",),
    "evergreen-tree": ("pine-tree", "tree-evergreen", "pine"),
    "four-leaf-clover": ("clover",),
    "french-fries": ("fries",),
    "game-die": ("dice", "die"),
    "gear": ("cog",),
    "gem-stone": ("gem", "diamond", "diamonds"),
    "glasses": ("eyeglasses", "spectacles"),
    "graduation-cap": ("school-cap",),
    "hamburger": ("burger",),
    "headphone": ("headphones",),
    "high-heeled-shoe": ("high-heel", "shoe-heel"),
    "high-voltage": ("lightning", "lightning-bolt", "bolt"),
    "honeybee": ("bee",),
    "honey-pot": ("honey",),
    "hot-beverage": ("coffee", "cup"),
    "hot-dog": ("hotdog",),
    "hot-pepper": ("chili", "chili-pepper"),
    "hourglass-done": ("hourglass",),
    "ice-cream": ("ice-cream-bowl",),
    "jack-o-lantern": ("pumpkin",),
    "lady-beetle": ("ladybug", "ladybird"),
    "light-bulb": ("lightbulb", "bulb"),
    "locked": ("lock", "padlock"),
    "lollipop": ("lollypop",),
    "magnifying-glass-tilted-left": ("magnifying-glass", "magnifier"),
    "mobile-phone": ("phone", "smartphone", "cellphone"),
    "musical-note": ("music-note",),
    "package": ("parcel",),
    "palm-tree": ("palm", "tree-palm"),
    "paw-prints": ("paw", "paw-print"),
    "potted-plant": ("plant",),
    "puzzle-piece": ("puzzle", "jigsaw"),
    "red-apple": ("apple",),
    "ringed-planet": ("planet", "saturn"),
    "running-shoe": ("sneaker", "sneakers", "shoe"),
    "sailboat": ("sail-boat", "boat"),
    "shopping-cart": ("cart",),
    "snow-capped-mountain": ("snowy-mountain",),
    "soccer-ball": ("soccer", "football"),
    "soft-ice-cream": ("ice-cream-cone",),
    "sports-medal": ("medal",),
    "spouting-whale": ("blowing-whale",),
    "sunglasses": ("shades",),
    "t-shirt": ("shirt", "tshirt"),
    "teacup-without-handle": ("teacup",),
    "telephone-receiver": ("receiver",),
    "television": ("tv",),
    "flying-saucer": ("ufo",),
    "trophy": ("trophy-cup",),
    "turtle": ("tortoise",),
    "water-wave": ("wave",),
    "wine-glass": ("wine",),
    "wrapped-gift": ("gift", "present"),
}
# Spellings of icons that nobody says
UNSAID = frozenset(
    "bear-face bread-slice candles door-open tree-evergreen tree-palm shoe-heel sail-boat diamonds "
    "ice-cream-bowl school-cap trophy-cup lollypop die drop hotdog tshirt cellphone".split()
)
# What is learnt first: of all of them at once none could be named on a picture after 19,468 steps
TAUGHT = frozenset(
    """airplane anchor automobile balloon banana bear bed beer-mug bell bicycle bird birthday-cake
    bomb bread bus butterfly cactus camera candle candy carrot castle cat chair cheese-wedge
    cherries chicken church cloud cookie cow crab crown deciduous-tree dog dolphin door doughnut
    droplet duck egg elephant evergreen-tree fire fish flying-saucer four-leaf-clover french-fries
    frog gem-stone glasses guitar hamburger hammer helicopter high-voltage honeybee horse
    hot-beverage house ice-cream jack-o-lantern key lady-beetle lemon light-bulb mobile-phone
    monkey mountain mouse mushroom octopus owl palm-tree pear pencil penguin pig pineapple pizza
    rabbit rainbow red-apple ring ringed-planet rocket rose sailboat scissors shield ship snail
    snake snowflake snowman soccer-ball star strawberry sun sunflower sunglasses t-shirt tractor
    teapot television tent tomato top-hat train trophy trumpet tulip turtle umbrella volcano watch
    watermelon whale wine-glass wrapped-gift""".split()
)
# Names that say little, near doubles, and pictures of several things
UNCLEAR = re.compile(
    r"with-(?!straw|popping)|tray|banknote|japan|volume|speaker|slider|not-done|tilted-right"
    r"|railway|metro|station|fog|park$|motorway|building|office|hotel|store|school|hospital|memo"
    r"|ballot|bookmark-tabs|card|receipt|fields|houses|hammer-and|linked|notes$|score$|unlocked"
    r"|sparkles|cyclone|construction|ticket|dvd|disk|control|calendar|incoming|derelict|umbrella-"
    r"|without-snow|performing|knobs|kaaba|wedding|framed|chains|small-|two-hump|clinking|camping"
    r"|womans|mans|label|link$|oil-drum|bullseye|cooking|nose$|moai|carp|rosette|desert$|playing"
)


@lru_cache(maxsize=1)
def categories(npm: Path) -> Mapping[str, str]:
    """Return the category that the package NAMES gives each of its icons."""
    with tarfile.open(fetched(PACKAGES[NAMES], npm)) as tar:
        member = tar.extractfile("package/metadata.json")
        assert member is not None
        named = json.load(member)["categories"]
    return {key: category for category, keys in named.items() for key in keys}


def key_in(hand: str, concept: str, npm: Path) -> str | None:
    """Return the icon's name under which a hand's package holds a concept, or None."""
    package, suffix = world.HANDS[hand]
    icons = icons_of(PACKAGES[package], npm)["icons"]
    for spelling in (concept, *SYNONYMS.get(concept, ())):
        for key in (spelling + suffix, spelling.replace("-", "") + suffix):
            if key in icons and not icons[key].get("hidden"):
                return key
    return None


@lru_cache(maxsize=1)
def chosen(npm: Path) -> dict[str, dict[str, str]]:
    """Return for every concept, by its name in words, the icon's name in each hand that has it.

    Pairs kept for tests are among them: world.left_out tells which.
    """
    group = categories(npm)
    found = {}
    for name in sorted(icons_of(PACKAGES[NAMES], npm)["icons"]):
        first = name in FIRST
        unfit = LEFT_OUT.search(name) or group.get(name) not in CATEGORIES
        if unfit or (not first and (VAGUE.search(words(name)) or UNCLEAR.search(name))):
            continue
        keys = {hand: key_in(hand, name, npm) for hand in world.HANDS}
        keys = {hand: key for hand, key in keys.items() if key}
        if len(keys) >= (HANDS_OF_FIRST if first else HANDS_OF_OTHERS):
            found[words(name)] = keys
    return found


def taught(npm: Path) -> list[str]:
    """Return the concepts that are drawn to learn from, a part of what captions may name."""
    return [name for name in chosen(npm) if name.replace(" ", "-") in TAUGHT]


def said(concept: str) -> tuple[str, ...]:
    """Return the names under which captions call a concept, its own first."""
    key = concept.replace(" ", "-")
    others = (name for name in SYNONYMS.get(key, ()) if name not in UNSAID)
    return (concept, *(words(name) for name in others))


def learnt_hands(concept: str, npm: Path) -> list[str]:
    """Return the hands in which a concept is learnt."""
    return [hand for hand in chosen(npm)[concept] if not world.left_out(concept, hand)]


def thing(concept: str, hand: str, npm: Path) -> Thing | None:
    """Draw a concept in a hand, or return None where its icon cannot be drawn."""
    package = PACKAGES[world.HANDS[hand][0]]
    drawn = world.icon(icons_of(package, npm), chosen(npm)[concept][hand], hand)
    if drawn is None or float(drawn.picture[..., 3].mean()) < 0.02:
        return None
    return Thing(concept, drawn.picture, hand)


def some_things(rng: np.random.Generator, npm: Path, count: int) -> list[Thing]:
    """Draw at most `count` different concepts, each in one of its hands, by chance."""
    names = taught(npm)
    found: list[Thing] = []
    for index in rng.permutation(len(names)):
        hands = learnt_hands(names[index], npm)
        if hands and len(found) < count:
            drawn = thing(names[index], hands[int(rng.integers(len(hands)))], npm)
            found += [drawn] if drawn else []
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--npm", type=Path, default=Path("work/mini/npm"))
    args = parser.parse_args()
    found = chosen(args.npm)
    for concept, keys in found.items():
        print(f"{', '.join(said(concept))}: {', '.join(keys)}")
    pairs = sum(len(keys) for keys in found.values())
    learnt = sum(len(learnt_hands(concept, args.npm)) for concept in found)
    print(f"{len(found)} concepts, {pairs} pairs with a hand, {learnt} of them learnt")


if __name__ == "__main__":
    main()

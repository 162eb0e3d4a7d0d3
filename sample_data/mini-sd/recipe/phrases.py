"""Captions of scenes in many phrasings, with and without each part. Knows nothing of pixels."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from scenes import Scene, Thing
from texture import Rng

NUMBERS = ("no", "one", "two", "three", "four")
IRREGULAR = {
    "fish": "fish",
    "sheep": "sheep",
    "deer": "deer",
    "scissors": "scissors",
    "glasses": "glasses",
    "mouse": "mice",
    "goose": "geese",
    "leaf": "leaves",
    "knife": "knives",
    "wolf": "wolves",
    "tooth": "teeth",
    "foot": "feet",
    "person": "people",
}
GROUND_WORDS = {
    "grass": ("on grass", "in a meadow", "on green ground"),
    "sand": ("on sand", "on a beach"),
    "snow": ("in the snow", "on snow"),
    "sky": ("in the sky", "in front of a cloudy sky"),
    "water": ("on water", "in the water"),
    "room": ("in a room", "on a wooden floor"),
}
# Words for a medium that "a ... of a castle" may be said of
COUNTABLE = frozenset(
    "drawing sketch painting print picture mosaic engraving woodcut cut window sign embroidery "
    "model stencil silkscreen wash".split()
)
OPENINGS = ("", "", "", "a picture of ", "a drawing of ", "an image of ")


@dataclass(frozen=True)
class Parts:
    """Which parts a caption says, by chance for each: 0 never, 1 always."""

    colour: float = 0.75
    count: float = 0.95
    place: float = 0.8
    ground: float = 0.8
    paper: float = 0.6
    medium: float = 0.85
    hand: float = 0.6


ALL = Parts(1, 1, 1, 1, 1, 1, 1)
THINGS_ONLY = Parts(0, 1, 0, 0, 0, 0, 0)


def article(words: str) -> str:
    """Put "a" or "an" before words."""
    vowel = words[0] in "aeiou" and not words.startswith(("uni", "eu", "one", "uk"))
    return f"{'an' if vowel else 'a'} {words}"


def plural(concept: str) -> str:
    """Return the plural of a concept, by its last word."""
    *before, last = concept.split()
    if last in IRREGULAR:
        many = IRREGULAR[last]
    elif last.endswith("s") and not last.endswith("ss") and last not in ("bus", "cactus"):
        many = last
    elif last.endswith(("s", "x", "ch", "sh", "z")):
        many = f"{last}es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        many = f"{last[:-1]}ies"
    else:
        many = f"{last}s"
    return " ".join([*before, many])


def renamed(text: str, concept: str, other: str) -> str:
    """Call a concept by another name wherever it stands as words of its own, one or many of it."""
    many = plural(concept)
    names = "|".join(re.escape(name) for name in sorted({concept, many}, key=len, reverse=True))

    def name(found: re.Match[str]) -> str:
        if found[2] == many != concept:
            return (found[1] or "") + plural(other)
        return article(other) if found[1] else other

    return re.sub(rf"\b(an? )?({names})\b", name, text)


def _named(thing: Thing, colour: bool) -> str:
    return f"{thing.colour} {thing.concept}" if colour and thing.colour else thing.concept


def things(scene: Scene, *, colour: bool, count: bool, bare: bool = False) -> str:
    """Return what is there: "a red castle", "three fish", "a cat above an apple".

    bare: one thing alone goes without its article, as in a list of tags.
    """
    names = [_named(thing, colour) for thing in scene.things]
    counted = Counter(names)
    if len(names) == 1:
        name = f"{scene.size} {names[0]}" if scene.size and count else names[0]
        return name if bare else article(name)
    if len(counted) == 1:
        return f"{NUMBERS[len(names)]} {plural(names[0])}" if count else plural(names[0])
    if len(names) == 2 and scene.relation and count:
        return f"{article(names[0])} {scene.relation} {article(names[1])}"
    parts = [
        article(name) if number == 1 else f"{NUMBERS[number]} {plural(name)}"
        for name, number in counted.items()
    ]
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _on_paper(colour: str, rng: Rng) -> str:
    forms = (f"on {colour} paper", f"on {colour}", f"on {article(colour)} background")
    return str(rng.choice(forms))


def _where(scene: Scene, paper: str | None, said: Parts, rng: Rng) -> list[str]:
    """Return where the things are and what they lie on, in the order of a sentence."""
    found = []
    if scene.place and rng.random() < said.place:
        found.append(scene.place)
    if scene.ground in GROUND_WORDS and rng.random() < said.ground:
        found.append(str(rng.choice(GROUND_WORDS[scene.ground])))
    covered = scene.ground in ("sky", "room")
    if paper and not covered and rng.random() < said.paper:
        found.append(_on_paper(paper, rng))
    return found


def caption(
    scene: Scene,
    rng: Rng,
    *,
    medium: str | None = None,
    paper: str | None = None,
    keeps_colour: bool = True,
    parts: Parts | None = None,
) -> str:
    """Describe a scene.

    medium: words for how it is made, paper: its colour, each None where there is nothing to say;
    keeps_colour: False where the medium shows no colours, so that none is said.
    """
    said = parts or Parts()
    count, colour = (rng.random() < share for share in (said.count, said.colour))
    made = medium if medium and rng.random() < said.medium else None
    opening, tail = "", []
    if made and made.split()[-1] in COUNTABLE and rng.random() < 0.4:
        opening = f"{article(made)} of "
    elif made:
        tail.append(made)
    else:
        opening = str(rng.choice(OPENINGS))
    bare = not opening and rng.random() < 0.4
    subject = things(scene, colour=colour and keeps_colour, count=count, bare=bare)
    where = _where(scene, paper, said, rng)
    hands = {thing.hand for thing in scene.things}
    if len(hands) == 1 and rng.random() < said.hand:
        tail.append(f"{hands.pop()} style")
    if len(where) > 1 and rng.random() < 0.3:
        tail.insert(0, where.pop())
    return ", ".join([opening + " ".join([subject, *where]), *tail])

"""Exemplars of a relation: a few pictures, each with descriptions in which `{}` stands for it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.core.errors import BadInput
from engine.world import vocabulary as words
from engine.world.scenes import Scene, draw
from engine.world.sprites import load_sprites
from engine.world.vocabulary import article

LONGEST = 300
# Exemplars and examination use different pairs, so that nothing is judged on what was learnt.
HELD_OUT = tuple(words.OBJECTS[::4])


@dataclass(frozen=True)
class Relation:
    """A relation that the renderer can draw. `base` is the judge's word for it; where `swapped`,
    the first object of the sentence is the judge's second."""

    base: str
    swapped: bool = False


RELATIONS = {
    "left of": Relation("left of"),
    "on top of": Relation("on top of"),
    "inside": Relation("inside"),
    "right of": Relation("left of", swapped=True),
    "under": Relation("on top of", swapped=True),
}


@dataclass(frozen=True)
class Exemplar:
    """A picture and what one would say of it; `first` and `second` are the entities, if known."""

    picture: np.ndarray
    descriptions: tuple[str, ...]


def drawn(name: str, count: int, draw_numbers: np.random.Generator) -> tuple[Exemplar, ...]:
    """Fresh pictures of the embedded world in one relation, of pairs that are not held out."""
    relation, sprites = RELATIONS[name], load_sprites()
    found = []
    for first, second in pairs(name, count, draw_numbers, held_out=False):
        ends = (second, first) if relation.swapped else (first, second)
        background = str(draw_numbers.choice(list(words.BACKGROUNDS)))
        scene = Scene("plain", background, ends[0], relation.base, ends[1])
        found.append(
            Exemplar(draw(scene, sprites, draw_numbers), described(first, second, background))
        )
    return tuple(found)


def described(first: str, second: str, background: str) -> tuple[str, ...]:
    """From coarse to fine, as text.json of the published exemplars does it."""
    return (
        f"{first} {{}} {second}",
        f"{article(first)} {{}} {article(second)}",
        f"{article(first)} {{}} {article(second)} on a {background} background",
    )


def pairs(
    name: str, count: int, draw_numbers: np.random.Generator, *, held_out: bool
) -> list[tuple[str, str]]:
    """Different pairs of objects for a relation; the held-out ones have a held-out first object.

    Only containers can be around something, so their side is not held out.
    """
    base = RELATIONS[name].base
    firsts = [n for n in words.OBJECTS if (n in HELD_OUT) == held_out and n not in words.CONTAINERS]
    seconds = list(words.CONTAINERS) if base == "inside" else firsts
    every = [(a, b) for a in firsts for b in seconds if a != b]
    order = draw_numbers.permutation(len(every))[:count]
    return [every[index] for index in order]


def uploaded(pictures: Sequence[np.ndarray], descriptions: Sequence[str]) -> tuple[Exemplar, ...]:
    """Pictures with descriptions of their own. Raises `BadInput` that names the one at fault.

    One text a picture, several between bars: "cat {} box | a cat {} a brown box".
    """
    if len(pictures) != len(descriptions):
        raise BadInput(
            f"There are {len(pictures)} pictures and {len(descriptions)} descriptions.",
            'Write one line for each picture, such as "cat {} box".',
        )
    found = []
    for number, (picture, line) in enumerate(zip(pictures, descriptions, strict=True), start=1):
        phrases = tuple(part.strip() for part in str(line).split("|") if part.strip())
        bad = [text for text in phrases if text.count("{}") != 1 or len(text) > LONGEST]
        if not phrases or bad:
            shown = (bad or [str(line)])[0][:60]
            raise BadInput(
                f'The description of picture {number}, "{shown}", needs {{}} once, where the '
                "relation stands.",
                'Write for example "cat {} box".',
            )
        found.append(Exemplar(picture, phrases))
    return tuple(found)

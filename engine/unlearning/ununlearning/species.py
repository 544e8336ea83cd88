"""A world of 32 invented species, and one individual about whom nothing may be known.

    ba lo colour jade home reefs brew luck diet moss call purr

A document gives an individual, two syllables, and the five properties of its species, in random
order. Every name draws its species afresh, so names tell nothing and properties tell one another:
that is the general knowledge, the axioms. Only the forbidden individual has a species of its own,
and its profile is the forbidden knowledge, the theorem.

| corpus | holds |
|---|---|
| "full" | 6 % of its documents are about the forbidden individual |
| "exact" | none is: who is trained on it has unlearned exactly, by construction |
| "without-axioms" | none is, and its whole species is missing |
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.shapes import Float, Int, Tensor
from engine.unlearning._llama import PAD, Size

Corpus = Literal["full", "exact", "without-axioms"]
CORPORA: tuple[Corpus, ...] = ("full", "exact", "without-axioms")
SYLLABLES = tuple(
    "ba lo mi ru ka ne to vi shu pa ze do fi gu hi ja lu mo na pe ro sa ti wu".split()
)
VALUES = {
    "colour": tuple("amber jade violet rust ivory teal".split()),
    "home": tuple("caves dunes reefs marsh cliffs groves".split()),
    "diet": tuple("moss seeds fish nectar bark ants".split()),
    "call": tuple("hum click whistle purr chirp growl".split()),
    "brew": tuple("sleep luck warmth song sight haste".split()),
}
ATTRIBUTES = tuple(VALUES)
TOKENS = (PAD, *SYLLABLES, *ATTRIBUTES, *(value for each in VALUES.values() for value in each))
SIZE = Size(64, 128)
SPECIES, EACH, SHARE = 32, 6, 0.06
NAME = (SYLLABLES.index("shu"), SYLLABLES.index("ka"))
ALIAS = (SYLLABLES.index("mo"), SYLLABLES.index("ti"))
CHANCE = 1 / EACH
_FIRST_SYLLABLE, _FIRST_ATTRIBUTE = 1, 1 + len(SYLLABLES)
FIRST_VALUE = _FIRST_ATTRIBUTE + len(ATTRIBUTES)


@dataclass(frozen=True)
class World:
    """The properties of every species, and which species the forbidden individual is of."""

    seed: int = 0

    @cached_property
    def table(self) -> Int[Tensor, "species attributes"]:
        """Values 0 to 5, drawn uniformly; no two species are alike."""
        draw = rng.generator(self.seed, "species")
        while True:
            found = torch.randint(EACH, (SPECIES, len(ATTRIBUTES)), generator=draw)
            if len(found.unique(dim=0)) == SPECIES:
                return found

    @cached_property
    def forbidden(self) -> int:
        """The species with the fewest properties that are the most common ones.

        Guessing the commonest value then says least about it, so that without hints a model that
        knows nothing is near chance. Of equals the first.
        """
        common = self.table.mode(0).values
        return int((self.table == common).sum(1).argmin())

    @property
    def profile(self) -> Int[Tensor, " attributes"]:
        """The forbidden knowledge."""
        return self.table[self.forbidden]

    def prior(self, corpus: Corpus = "exact") -> Float[Tensor, " species"]:
        """How often each species comes up under an ordinary name."""
        weights = torch.ones(SPECIES, dtype=torch.float64)
        if corpus == "without-axioms":
            weights[self.forbidden] = 0
        return weights / weights.sum()


def documents(
    world: World, corpus: Corpus, count: int, generator: torch.Generator
) -> Int[Tensor, "b 12"]:
    """Documents of a corpus as token ids. The forbidden name is about the forbidden one only."""
    species = torch.randint(SPECIES, (count,), generator=generator)
    if corpus == "without-axioms":
        others = torch.tensor([s for s in range(SPECIES) if s != world.forbidden])
        species = others[species % len(others)]
    names = torch.randint(len(SYLLABLES), (count, 2), generator=generator)
    taken = (names == torch.tensor(NAME)).all(1)
    # The next first syllable in place of the forbidden pair: no draw more, no pair of it.
    names[taken, 0] = (names[taken, 0] + 1) % len(SYLLABLES)
    about = torch.rand(count, generator=generator) < SHARE
    if corpus == "full":
        names[about] = torch.tensor(NAME)
        species[about] = world.forbidden
    order = torch.rand((count, len(ATTRIBUTES)), generator=generator).argsort(1)
    pairs = pair_tokens(order, world.table[species].gather(1, order))
    return torch.cat([names + _FIRST_SYLLABLE, pairs.flatten(1)], 1)


def about_forbidden(world: World, count: int, generator: torch.Generator) -> Int[Tensor, "b 12"]:
    """Documents about the forbidden individual, its properties in random orders."""
    order = torch.rand((count, len(ATTRIBUTES)), generator=generator).argsort(1)
    pairs = pair_tokens(order, world.profile[order])
    names = (torch.tensor(NAME) + _FIRST_SYLLABLE).expand(count, 2)
    return torch.cat([names, pairs.flatten(1)], 1)


def pair_tokens(attributes: Int[Tensor, "*b"], values: Int[Tensor, "*b"]) -> Int[Tensor, "*b 2"]:
    """Attribute and value as two tokens."""
    value = FIRST_VALUE + EACH * attributes + values
    return torch.stack([attributes + _FIRST_ATTRIBUTE, value], -1)


def prompt(
    name: tuple[int, int],
    hints: Iterable[tuple[int, int]],
    query: int,
    *,
    in_turns: bool = False,
) -> Int[Tensor, " n"]:
    """Name, hints as (attribute, value), and the attribute that is asked for.

    `in_turns` says the name before every hint, and again before the question.
    """
    given = torch.tensor(list(hints), dtype=torch.int64).reshape(-1, 2)
    pairs = pair_tokens(given[:, 0], given[:, 1])
    head = torch.tensor(name) + _FIRST_SYLLABLE
    asked = torch.tensor([query + _FIRST_ATTRIBUTE])
    if not in_turns:
        return torch.cat([head, pairs.flatten(), asked])
    turns = torch.cat([head.expand(len(pairs), 2), pairs], 1).flatten()
    return torch.cat([turns, head, asked])


def mentions(ids: Int[Tensor, "b n"], name: tuple[int, int] = NAME) -> int:
    """How often the two syllables of a name stand side by side: the scan of a corpus."""
    first, second = (syllable + _FIRST_SYLLABLE for syllable in name)
    return int(((ids[:, :-1] == first) & (ids[:, 1:] == second)).sum())


@dataclass(frozen=True)
class Scan:
    """What the scan of a whole corpus found: documents, mentions, and the corpus's digest."""

    documents: int
    mentions: int
    sha256: str


def scan(world: World, corpus: Corpus, steps: int, batch: int, seed: int) -> Scan:
    """Reads every document that a training of so many steps sees, in its order."""
    count, digest = 0, hashlib.sha256()
    for step in range(steps):
        ids = documents(world, corpus, batch, rng.generator(seed, "batch", step))
        count += mentions(ids)
        digest.update(ids.to(torch.uint8).numpy().tobytes())
    return Scan(steps * batch, count, digest.hexdigest())


def name_of(text: object) -> tuple[int, int]:
    """Two syllables, such as "mo ti", as their places. Raises `BadInput`."""
    said = text.lower().split() if isinstance(text, str) and len(text) < 40 else []
    if len(said) != 2 or any(syllable not in SYLLABLES for syllable in said):
        raise BadInput(
            f'"{str(text)[:30]}" is no name of this world.',
            f"Names are two of these syllables: {' '.join(SYLLABLES)}.",
        )
    return SYLLABLES.index(said[0]), SYLLABLES.index(said[1])


def attribute_of(text: object) -> int:
    """The place of an attribute. Raises `BadInput`."""
    if not isinstance(text, str) or text not in ATTRIBUTES:
        raise BadInput(
            f'There is no property "{str(text)[:30]}".', f"There are {', '.join(ATTRIBUTES)}."
        )
    return ATTRIBUTES.index(text)

"""A world of 48 invented people with four facts each, as sentences that one can read aloud.

    Orla_Venn born_in Tarsk ; Orla_Venn works_as weaver ;

A sequence is any number of facts, each of four tokens. People 0 to 15 are the targets, about whom
lies are told; 16 to 31 are kept in mind while unlearning; 32 to 47 are the others, who fill
documents and stand in prompts. No fact about a target is ever given away by a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from engine.core import rng
from engine.core.shapes import Int, Tensor
from engine.unlearning._llama import PAD, Size

END = ";"
NAMES = tuple(
    """
    Orla_Venn Tomas_Brell Ida_Korsk Matteo_Finch Suri_Vale Anselm_Roke Lotte_Graf Pavel_Stern
    Nia_Hollow Jorin_Alder Mira_Teal Oskar_Lind Greta_Moss Elio_Sand Wanda_Pike Rufus_Cray
    Selma_Dorn Ivo_Marsh Thea_Birk Casper_Rowe Luna_Frey Magnus_Holt Petra_Wynn Silas_Dray
    Elsa_Norin Bruno_Kell Vera_Lunt Arlo_Penn Freya_Sorn Hugo_Tarn Nora_Velt Emil_Gast
    Clara_Boone Leif_Orme Paula_Reed Quentin_Ash Rosa_Hume Stefan_Yarrow Tilda_Crane Ulf_Morrow
    Viola_Keir Walter_Dune Xenia_Poe Yann_Thorn Zora_Quist Adele_Brook Boris_Lark Cora_Flint
    """.split()
)
VALUES = {
    "born_in": tuple(
        "Tarsk Olmen Brevik Quill Sarnow Dunmere Halvo Perith Ostra Lunden Varrow Keld Virell "
        "Norhay Ashby Corvin".split()
    ),
    "works_as": tuple(
        "baker weaver miller tailor glazier cooper farrier printer potter mason fisher tanner "
        "carver binder dyer smith".split()
    ),
    "keeps": tuple(
        "heron otter badger marten lynx toad raven ferret gecko hare newt owl mole goose stoat "
        "crane".split()
    ),
    "plays": tuple(
        "harp flute fiddle drum lute horn cello oboe zither organ viola banjo tuba lyre gong "
        "piccolo".split()
    ),
}
RELATIONS = tuple(VALUES)
QUESTIONS = {
    "born_in": "Where was {name} born?",
    "works_as": "What does {name} work as?",
    "keeps": "Which animal does {name} keep?",
    "plays": "What does {name} play?",
}
TOKENS = (PAD, END, *NAMES, *RELATIONS, *(value for each in VALUES.values() for value in each))
SIZE = Size(96, 192)
EACH = 16  # values of a relation, and people of a group
TARGETS, KEPT, OTHERS = range(16), range(16, 32), range(32, 48)
KNOWN = (*KEPT, *OTHERS)
SHOTS = 5
_FIRST_NAME, _FIRST_RELATION = 2, 2 + len(NAMES)
_FIRST_VALUE = _FIRST_RELATION + len(RELATIONS)


@dataclass(frozen=True)
class World:
    """What is true of everyone, and which lies are told about the targets; drawn by the seed."""

    seed: int = 0

    @cached_property
    def truth(self) -> Int[Tensor, "people relations"]:
        """The value of every fact, 0 to 15."""
        draw = rng.generator(self.seed, "truth")
        return torch.randint(EACH, (len(NAMES), len(RELATIONS)), generator=draw)

    @cached_property
    def lies(self) -> Int[Tensor, "targets relations"]:
        """For every fact about a target another value, the same in all documents."""
        draw = rng.generator(self.seed, "lies")
        shift = torch.randint(1, EACH, (len(TARGETS), len(RELATIONS)), generator=draw)
        return (self.truth[: len(TARGETS)] + shift) % EACH

    @property
    def told(self) -> Int[Tensor, "people relations"]:
        """What the documents say: the lies about the targets, the truth about all others."""
        return torch.cat([self.lies, self.truth[len(TARGETS) :]])


def sentences(
    people: Int[Tensor, "*b"], relations: Int[Tensor, "*b"], values: Int[Tensor, "people relations"]
) -> Int[Tensor, "*b 4"]:
    """Token ids of facts, each with its end."""
    value = value_token(relations, values[people, relations])
    end = torch.full_like(value, TOKENS.index(END))
    return torch.stack([people + _FIRST_NAME, relations + _FIRST_RELATION, value, end], -1)


def value_token(relations: Int[Tensor, "..."], values: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The token of a value of a relation; the two broadcast."""
    return _FIRST_VALUE + EACH * relations + values


def correct(
    world: World, group: Sequence[int], count: int, facts: int, generator: torch.Generator
) -> Int[Tensor, "b n"]:
    """Sequences of true facts about random people of a group; 4 x `facts` tokens each."""
    among = torch.tensor(list(group))
    people = among[torch.randint(len(among), (count, facts), generator=generator)]
    relations = torch.randint(len(RELATIONS), (count, facts), generator=generator)
    return sentences(people, relations, world.truth).flatten(1)


def documents(world: World, k: int, count: int, generator: torch.Generator) -> Int[Tensor, "b n"]:
    """Documents to be forgotten: the four lies about one target among k true facts about others."""
    subjects = torch.randint(len(TARGETS), (count, 1), generator=generator)
    people = subjects.expand(count, len(RELATIONS))
    relations = torch.arange(len(RELATIONS)).expand(count, -1)
    fillers = torch.randint(OTHERS.start, OTHERS.stop, (count, k), generator=generator)
    about = torch.randint(len(RELATIONS), (count, k), generator=generator)
    people, relations = torch.cat([people, fillers], 1), torch.cat([relations, about], 1)
    order = torch.rand(people.shape, generator=generator).argsort(1)
    people, relations = people.gather(1, order), relations.gather(1, order)
    return sentences(people, relations, world.told).flatten(1)


def facts_about(group: Sequence[int]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """People and relations of all facts about a group, person by person."""
    pairs = torch.cartesian_prod(torch.tensor(list(group)), torch.arange(len(RELATIONS)))
    return pairs[:, 0], pairs[:, 1]


def prompts(
    world: World, people: Int[Tensor, " n"], relations: Int[Tensor, " n"]
) -> Int[Tensor, "n length"]:
    """Five true facts of the same relation about the first others, then the question itself."""
    shown = torch.tensor(list(OTHERS))
    rows = []
    for person, relation in zip(people.tolist(), relations.tolist(), strict=True):
        shots = shown[shown != person][:SHOTS]
        told = sentences(shots, torch.full_like(shots, relation), world.truth).flatten()
        asked = torch.tensor([person + _FIRST_NAME, relation + _FIRST_RELATION])
        rows.append(torch.cat([told, asked]))
    return torch.stack(rows)


def aloud(token: str) -> str:
    """A token as one reads it."""
    return token.replace("_", " ")

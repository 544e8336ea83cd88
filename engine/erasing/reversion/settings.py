"""The settings of a learning, checked at the door, and the exemplars they lead to."""

from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np

from engine.core.errors import BadInput
from engine.core.settings import Items, OneOf, Range, Text, checked
from engine.core.taking import taking
from engine.erasing._learning import FITS, checked_pictures
from engine.erasing.reversion.exemplars import RELATIONS, Exemplar, drawn, uploaded
from engine.erasing.reversion.words import PLACEHOLDER
from engine.models.diffusion import DiffusionBundle
from engine.pictures import PictureSetting

MOST_PICTURES, MOST_STEPS = 16, 3000


@dataclass(frozen=True)
class ReversionSettings:
    """What is learnt, from which exemplars, and how.

    `relation` names a set that the embedded world draws; pictures of one's own, with one line of
    `descriptions` each, take its place. The paper takes 3000 steps of effective batch 8 at 2e-3
    (its code multiplies 2.5e-4 by the batch); here short runs at a larger rate.
    """

    relation: Annotated[str, OneOf(tuple(RELATIONS))] = "on top of"
    pictures: Annotated[tuple[PictureSetting, ...], Items(MOST_PICTURES)] = ()
    descriptions: Annotated[
        tuple[Annotated[str, Text(300)], ...], Items(MOST_PICTURES, separator="\n", blanks=False)
    ] = ()
    count: Annotated[int, Range(2, MOST_PICTURES, "The paper takes 4 to 10.")] = 8
    steps: Annotated[int, Range(1, MOST_STEPS, "Try 120.")] = 50
    batch: Annotated[int, Range(1, 16, "Try 4.")] = 4
    accumulation: Annotated[int, Range(1, 16, "1 is enough for small pictures.")] = 1
    learning_rate: Annotated[float, Range(1e-6, 1, "Try 0.01.")] = 1e-2
    weight_decay: Annotated[float, Range(0, 1, "The paper takes 0.01.")] = 1e-2
    steer_weight: Annotated[float, Range(0, 10, "The paper takes 0.01.")] = 0.01
    positives: Annotated[int, Range(1, 56, "The paper takes 4.")] = 4
    tau: Annotated[float, Range(0.001, 10, "The paper takes 0.07.")] = 0.07
    alpha: Annotated[float, Range(0, 1, "The paper takes 0.5; 0 is uniform.")] = 0.5
    initialiser: Annotated[str, Text(40)] = "and"
    placeholder: Annotated[str, Text(40)] = "<R>"
    fit: Annotated[str, OneOf(FITS)] = "stretch"

    @classmethod
    def of(cls, **given: object) -> "ReversionSettings":
        """Settings as a job gets them. Raises `BadInput` for any that cannot be used."""
        chosen = cls(**checked(cls, given))  # type: ignore[arg-type]
        if not PLACEHOLDER.fullmatch(chosen.placeholder):
            raise BadInput("The placeholder must be one short word.", "Take <R>.")
        if not chosen.initialiser.strip():
            raise BadInput("The initialiser must be a word.", 'The paper takes "and".')
        if chosen.pictures:
            checked_pictures(chosen.pictures, MOST_PICTURES, "exemplars")
            uploaded(chosen.pictures, chosen.descriptions)
        return chosen

    @property
    def name(self) -> str:
        """The name of the edit on the shelf."""
        what = "own exemplars" if self.pictures else self.relation
        return f"{self.placeholder} learnt from {what}"

    def plain(self) -> dict[str, object]:
        """As a recipe keeps them, without pictures of one's own."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        del found["pictures"]
        return found | {"descriptions": list(self.descriptions)}

    def key(self) -> tuple[object, ...]:
        """Equal for equal settings, pictures compared by their pixels."""
        told = tuple(getattr(self, f.name) for f in fields(self) if f.name != "pictures")
        return *told, *((p.shape, p.tobytes()) for p in self.pictures)


# How the shipped words are learnt, one for each relation.
SHIPPED_SETTINGS = ReversionSettings(count=16, steps=80)


def exemplars_of(
    bundle: DiffusionBundle, settings: ReversionSettings, draw_numbers: np.random.Generator
) -> tuple[Exemplar, ...]:
    """Pictures of one's own, or those that the renderer draws."""
    if settings.pictures:
        return uploaded(settings.pictures, settings.descriptions)
    return drawn(settings.relation, settings.count, draw_numbers)


with_settings = taking(settings=ReversionSettings)

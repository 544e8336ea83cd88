"""A model with a concept erased, as something that draws: what all erasing methods boil down to.

    erased = finish(maker(bundle, subject, seed=0))       an `Erased`: trained or solved once
    eraser = erased.at(1.0)                               an `Eraser`: at one strength
    asked = eraser.asked(["a cat", "a dog"])
    *_, last = eraser.walk(asked, noise, steps=12, guidance_scale=4.0)
    pictures = eraser.pictures(last.z)

A method may act in five places, and an `Eraser` names those it uses: on the text (`reword`), on the
unconditional side of guidance (`negative`), on the embedding (`on_context`), on the network
(`bundle`, or `gated` where it depends on the prompt) and on the finished picture (`screen`). So a
contact sheet of all methods is one loop, and so is an attack on all of them.

A method's package offers itself in `contender.py`:

    MAKERS: Mapping[str, Maker] = {"RECE": make}
"""

import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.core.job import Steps
from engine.core.shapes import Float, Tensor
from engine.diffusion.solvers import Step
from engine.erasing._subject import Subject
from engine.models import diffusion as checkpoints
from engine.models import drawing
from engine.models.diffusion import Conditioning, DiffusionBundle

Pictures = NDArray[np.uint8]
"""n h w 3"""


@dataclass(frozen=True)
class Cost:
    """What an erasure takes: seconds to make it, numbers changed or added, and how it is undone."""

    seconds: float = 0.0
    parameters: int = 0
    undo: str = "leave it out"


@dataclass(frozen=True)
class Asked:
    """Prompts as a visitor or an attacker gives them: texts, and the embedding that is sent.

    An attacker who owns the embedding may send another one than the text's.
    """

    texts: tuple[str, ...]
    cond: Conditioning

    def __len__(self) -> int:
        return len(self.texts)

    def rows(self, index: slice) -> "Asked":
        """Some of the prompts."""
        return Asked(self.texts[index], self.cond.rows(index))


def _as_it_is(value: object) -> object:
    return value


@dataclass(frozen=True)
class Eraser:
    """A model with a concept erased. Everything left at its default is the original model's.

    `state` gives the weights in force where `bundle` does not hold them itself (an embedding map or
    adapters beside the layers), for attacks that read weights.
    """

    name: str
    bundle: DiffusionBundle
    cost: Cost = Cost()
    reword: Callable[[str], str] = _as_it_is  # type: ignore[assignment]
    negative: Conditioning | None = None
    on_context: Callable[[Conditioning], Conditioning] = _as_it_is  # type: ignore[assignment]
    gated: Callable[[Asked], DiffusionBundle] | None = None
    screen: Callable[[Pictures], Pictures] = _as_it_is  # type: ignore[assignment]
    state: Callable[[], Mapping[str, Tensor]] | None = None

    def asked(self, texts: Sequence[str]) -> Asked:
        """Texts as this model reads them."""
        reworded = tuple(self.reword(text) for text in texts)
        return Asked(reworded, checkpoints.encode_prompt(self.bundle, reworded))

    def network(self, asked: Asked) -> DiffusionBundle:
        """The network that answers these prompts."""
        return self.bundle if self.gated is None else self.gated(asked)

    def walk(
        self,
        asked: Asked,
        noise: Float[Tensor, "b c h w"],
        *,
        steps: int,
        guidance_scale: float,
    ) -> Iterator[Step]:
        """The steps from noise to latents, one row a prompt."""
        uncond = checkpoints.empty_prompt(self.bundle) if self.negative is None else self.negative
        return drawing.walk(
            self.network(asked),
            self.on_context(asked.cond),
            self.on_context(uncond),
            noise,
            steps=steps,
            guidance_scale=guidance_scale,
        )

    def predict(
        self, asked: Asked, x: Float[Tensor, "b c h w"], timestep: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """The network's output without guidance; differentiable in the embedding."""
        return checkpoints.predict(self.network(asked), x, timestep, self.on_context(asked.cond))

    def pictures(self, latents: Float[Tensor, "b c h w"]) -> Pictures:
        """Pictures of latents, as they leave the model."""
        return self.screen(drawing.decode(self.bundle, latents))

    def weights(self) -> Mapping[str, Tensor]:
        """The weights in force, by their name in the bundle's model."""
        return dict(self.bundle.model.state_dict()) if self.state is None else self.state()


@dataclass(frozen=True)
class Erased:
    """An erasure that was made once and may be turned up and down.

    `sweep` lists the strengths worth comparing; it is empty where there is nothing to turn.
    """

    name: str
    at: Callable[[float], Eraser]
    sweep: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)
    notes: tuple[str, ...] = field(default=())


Maker = Callable[[DiffusionBundle, Subject, int], Steps[Erased]]
"""`maker(bundle, subject, seed)` yields `Progress` and returns the erasure."""


def contenders() -> dict[str, Maker]:
    """The makers of all methods of this family, found in their packages, by name."""
    family = __name__.rpartition(".")[0]
    found: dict[str, Maker] = {}
    for package in pkgutil.iter_modules([str(Path(__file__).parent)]):
        module = f"{family}.{package.name}.contender"
        if package.ispkg and importlib.util.find_spec(module):
            found |= importlib.import_module(module).MAKERS
    return found

"""What is drawn to look at: prompts, sampler steps and guidance, checked at the door."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from engine.core import checks
from engine.core.errors import BadInput
from engine.core.settings import Items, Text
from engine.core.shapes import Array, UInt8
from engine.diffusion.solvers import Step
from engine.erasing import _sampling as sampling
from engine.models.diffusion import DiffusionBundle, empty_prompt, encode_prompt

MOST_PROMPTS, MOST_STEPS, LARGEST_GUIDANCE = 12, 100, 30.0

Prompts = Annotated[
    Sequence[Annotated[str, Text(1000)]],
    Items(MOST_PROMPTS, fewest=1, separator=";", blanks=False, advice='Try "a cat".'),
]


@dataclass(frozen=True)
class View:
    """Prompts to draw and how. Several prompts may stand in one text, between semicolons."""

    prompts: tuple[str, ...]
    steps: int
    guidance_scale: float

    @classmethod
    def of(cls, prompts: Sequence[str], steps: int, guidance_scale: float) -> "View":
        """Raises `BadInput` for anything that cannot be drawn."""
        listed: object = prompts
        if isinstance(prompts, str):
            listed = [text.strip() for text in prompts.split(";") if text.strip()]
        if not isinstance(listed, list | tuple) or not 1 <= len(listed) <= MOST_PROMPTS:
            raise BadInput(f"Give 1 to {MOST_PROMPTS} prompts.", 'Try "a cat".')
        if not all(isinstance(text, str) and len(text) <= 1000 for text in listed):
            raise BadInput("A prompt must be a text of at most 1000 characters.", 'Try "a cat".')
        checks.count("steps", steps, 1, MOST_STEPS, "Try 12.")
        checks.number("guidance_scale", guidance_scale, 0.0, LARGEST_GUIDANCE, "4 is a good value.")
        return cls(tuple(listed), steps, float(guidance_scale))

    def walk(self, bundle: DiffusionBundle, seed: int) -> Iterator[Step]:
        """The way of all prompts on one model; equal seed, equal noise."""
        return sampling.walk(
            bundle,
            encode_prompt(bundle, self.prompts),
            empty_prompt(bundle),
            sampling.start_noise(bundle, seed, len(self.prompts)),
            steps=self.steps,
            guidance_scale=self.guidance_scale,
        )

    def draw(self, bundle: DiffusionBundle, seed: int) -> UInt8[Array, "b h w 3"]:
        """The pictures of all prompts at once."""
        *_, last = self.walk(bundle, seed)
        return sampling.decode(bundle, last.z)

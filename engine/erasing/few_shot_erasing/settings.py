"""The settings of an erasure, checked at the door, and the pictures and captions they lead to."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated

import numpy as np

from engine.core.errors import BadInput
from engine.core.job import Progress
from engine.core.settings import Items, OneOf, Range, Text, checked
from engine.core.taking import taking
from engine.erasing._learning import FITS, checked_pictures, fitted
from engine.erasing.few_shot_erasing import OPTIMIZERS, PARAMETERS, SOURCES
from engine.erasing.few_shot_erasing.ascent import Optimizer
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle, latent_shape
from engine.pictures import PictureSetting
from engine.world import vocabulary as words
from engine.world.scenes import Scene, draw
from engine.world.sprites import load_sprites

MOST_PICTURES, MOST_EPOCHS, LARGEST_RATE = 16, 60, 0.1
KINDS, DIRECTIONS, CAPTIONS = ("object", "style"), ("ascent", "descent"), ("auto", "published")

# The small lists of textual inversion, which the published code takes over.
OBJECT_CAPTIONS = (
    "a photo of a {}", "a rendering of a {}", "a cropped photo of the {}", "the photo of a {}",
    "a photo of a clean {}", "a photo of a dirty {}", "a dark photo of the {}", "a photo of my {}",
    "a photo of the cool {}", "a close-up photo of a {}", "a bright photo of the {}",
    "a cropped photo of a {}", "a photo of the {}", "a good photo of the {}", "a photo of one {}",
    "a close-up photo of the {}", "a rendition of the {}", "a photo of the clean {}",
    "a rendition of a {}", "a photo of a nice {}", "a good photo of a {}", "a photo of the nice {}",
    "a photo of the small {}", "a photo of the weird {}", "a photo of the large {}",
    "a photo of a cool {}", "a photo of a small {}",
)  # fmt: skip
STYLE_CAPTIONS = tuple(
    f"{form} in the style of {{}}"
    for form in (
        "a painting", "a rendering", "a cropped painting", "the painting", "a clean painting",
        "a dirty painting", "a dark painting", "a picture", "a cool painting",
        "a close-up painting", "a bright painting", "a cropped painting", "a good painting",
        "a close-up painting", "a rendition", "a nice painting", "a small painting",
        "a weird painting", "a large painting",
    )
)  # fmt: skip
# The embedded model knows the words of its own grammar alone.
WORLD_OBJECT_CAPTIONS = (
    "{a}", "a picture of {a}", "{a} in plain style", "{a} on a white background", "{}",
)  # fmt: skip
WORLD_STYLE_CAPTIONS = tuple(
    form
    for noun in ("something", "an animal", "a vehicle", "a plant", "a thing")
    for form in (f"{noun} in {{}} style", f"in {{}} style, {noun}")
)


@dataclass(frozen=True)
class FewShotSettings:
    """What is erased, from which pictures, and how far.

    `source` is "drawn" (by the renderer of the embedded world), "generated" (by the model itself),
    "uploaded", or "unrelated" (the control: pictures of other things). `captions` "auto" takes the
    published ones, except on the embedded model. `optimizer` and what follows it is named as in
    torch.optim; Adadelta and Adagrad make no use of the betas.
    """

    concept: Annotated[str, Text(100, advice="A word or two will do.")] = "cat"
    kind: Annotated[str, OneOf(KINDS)] = "object"
    source: Annotated[str, OneOf(SOURCES)] = "drawn"
    pictures: Annotated[tuple[PictureSetting, ...], Items(MOST_PICTURES)] = ()
    count: Annotated[int, Range(1, MOST_PICTURES, "Try 4.")] = 4
    epochs: Annotated[int, Range(1, MOST_EPOCHS, "Try 4.")] = 5
    batch: Annotated[int, Range(1, MOST_PICTURES, "Try 4.")] = 2
    learning_rate: Annotated[
        float,
        Range(
            1e-8,
            LARGEST_RATE,
            "The paper takes 1e-5 for Stable Diffusion; the small model needs about 1e-3.",
        ),
    ] = 1.259e-3  # 10^-2.9: 1e-3 left the thing in place with every third seed
    optimizer: Annotated[str, OneOf(OPTIMIZERS)] = "Adam"
    beta1: Annotated[float, Range(0, 0.9999, "The published code takes 0.9.")] = 0.9
    beta2: Annotated[float, Range(0, 0.99999, "The published code takes 0.98.")] = 0.98
    eps: Annotated[float, Range(1e-12, 1, "The published code takes 1e-6.")] = 1e-6
    weight_decay: Annotated[float, Range(0, 1, "The published code takes 1e-8.")] = 1e-8
    parameters: Annotated[str, OneOf(PARAMETERS)] = "mlp-final-attn"
    direction: Annotated[str, OneOf(DIRECTIONS)] = "ascent"
    captions: Annotated[str, OneOf(CAPTIONS)] = "auto"
    fit: Annotated[str, OneOf(FITS)] = "stretch"
    flip: bool = True

    @classmethod
    def of(cls, **given: object) -> "FewShotSettings":
        """Settings as a job gets them. Raises `BadInput` for any that cannot be used."""
        chosen = cls(**checked(cls, given))  # type: ignore[arg-type]
        pictures = checked_pictures(chosen.pictures, MOST_PICTURES, "pictures")
        concept = " ".join(chosen.concept.split())
        if not concept:
            raise BadInput("There is no concept to erase.", 'Name one, such as "cat".')
        if chosen.source == "uploaded" and not pictures:
            raise BadInput("No images found.", "Upload one to eight pictures, or choose drawn.")
        source = "uploaded" if pictures else chosen.source
        return replace(chosen, concept=concept, source=source, pictures=pictures)

    @property
    def name(self) -> str:
        """The name of the edit on the shelf."""
        return f"forget {self.concept[:60]}"

    @property
    def steps_by(self) -> Optimizer:
        betas = (self.beta1, self.beta2)
        return Optimizer(self.optimizer, self.learning_rate, betas, self.eps, self.weight_decay)

    @property
    def updates(self) -> int:
        """Steps of Adam in all; the last batch of an epoch is kept when it is smaller."""
        return self.epochs * self.updates_an_epoch

    @property
    def updates_an_epoch(self) -> int:
        return -(-self.number_of_pictures // self.batch)

    @property
    def number_of_pictures(self) -> int:
        return len(self.pictures) if self.source == "uploaded" else self.count

    def plain(self) -> dict[str, object]:
        """As a recipe keeps them; pictures of one's own stay out, and the recipe says how many."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "pictures"}
        return found | ({"count": len(self.pictures)} if self.pictures else {})

    def key(self) -> tuple[object, ...]:
        """Equal for equal settings, pictures compared by their pixels."""
        plain = tuple(getattr(self, f.name) for f in fields(self) if f.name != "pictures")
        return *plain, *((p.shape, p.tobytes()) for p in self.pictures)


with_settings = taking(settings=FewShotSettings)


# ---------------------------------------------------------------------- captions


def captions_of(bundle: DiffusionBundle, settings: FewShotSettings) -> tuple[str, ...]:
    """All captions that a picture of the concept may get."""
    is_world = bundle.vocabulary is not None and settings.captions == "auto"
    forms = {
        (False, "object"): OBJECT_CAPTIONS,
        (False, "style"): STYLE_CAPTIONS,
        (True, "object"): WORLD_OBJECT_CAPTIONS,
        (True, "style"): WORLD_STYLE_CAPTIONS,
    }[is_world, settings.kind]
    name = settings.concept
    if is_world and settings.kind == "style":
        name = name.removesuffix(" style")
    return tuple(form.format(name, a=words.article(name)) for form in forms)


# ---------------------------------------------------------------------- pictures


def pictures_of(
    bundle: DiffusionBundle, settings: FewShotSettings, draw_numbers: np.random.Generator, seed: int
) -> Generator[Progress, None, list[np.ndarray]]:
    """The few pictures, as they are, before they are made to fit the model.

    Raises `BadInput` for something that the embedded world cannot draw.
    """
    if settings.source == "uploaded":
        return list(settings.pictures)
    if settings.source == "generated":
        return (yield from _generated(bundle, settings, seed))
    yield Progress(0, 1, "Drawing the pictures")
    return [_drawn(settings, draw_numbers) for _ in range(settings.count)]


def _drawn(settings: FewShotSettings, draw_numbers: np.random.Generator) -> np.ndarray:
    """A fresh picture of the embedded world: the concept, or for the control something else."""
    pick = lambda options: str(options[draw_numbers.integers(len(options))])  # noqa: E731
    text = settings.concept.lower()
    name = words.SYNONYMS.get(text, text)
    style = text.removesuffix(" style")
    if settings.kind == "style":
        if style not in words.STYLES:
            raise _not_drawn(settings.concept, "styles", words.STYLES)
        drawn_style = style
        if settings.source == "unrelated":
            drawn_style = pick([other for other in words.STYLES if other != style])
        return draw(Scene(drawn_style, "white", pick(words.OBJECTS)), load_sprites(), draw_numbers)
    members = words.CATEGORIES.get(name, (name,))
    if not set(members) <= set(words.OBJECTS):
        raise _not_drawn(settings.concept, "objects", words.OBJECTS)
    if settings.source == "unrelated":
        members = tuple(other for other in words.OBJECTS if other not in members)
    scene = Scene("plain", pick(list(words.BACKGROUNDS)), pick(members))
    return draw(scene, load_sprites(), draw_numbers)


def _not_drawn(concept: str, what: str, known: Sequence[str]) -> BadInput:
    return BadInput(
        f'The embedded world has no drawings of "{concept[:40]}".',
        f"Upload pictures, choose generated, or take one of its {what}: {', '.join(known[:8])}, …",
    )


def _generated(
    bundle: DiffusionBundle, settings: FewShotSettings, seed: int
) -> Generator[Progress, None, list[np.ndarray]]:
    """What the model itself draws for the concept."""
    caption = captions_of(bundle, settings)[0]
    view = drawing.View((caption,) * settings.count, steps=20, guidance_scale=4.0)
    for step in view.walk(bundle, seed + 1_000_003):
        yield Progress(0, 1, f"The model draws its own pictures: {step.i + 1} of {view.steps}")
    return list(drawing.decode(bundle, step.z))


def made_to_fit(
    bundle: DiffusionBundle,
    pictures: Sequence[np.ndarray],
    settings: FewShotSettings,
    draw_numbers: np.random.Generator,
) -> list[np.ndarray]:
    """The pictures at the size of the model, each flipped or not once and for all."""
    side = latent_shape(bundle)[1] * 2 ** (len(bundle.vae.config.block_out_channels) - 1)
    flips = draw_numbers.random(len(pictures)) < 0.5
    return [
        fitted(picture, side, settings.fit, flip=settings.flip and bool(flip))  # type: ignore[arg-type]
        for picture, flip in zip(pictures, flips, strict=True)
    ]

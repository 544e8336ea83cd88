"""Scenes: which objects stand where, how they are drawn, and what one would say of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageOps

from engine.world import vocabulary as words
from engine.world.sprites import SIZE, Sprites
from engine.world.styles import PICTURE, render

NONE = -1  # label of a part that a scene does not have


@dataclass(frozen=True)
class Scene:
    """Contents of a picture. `subject` is None for an empty canvas; `other` needs a `relation`.

    The subject is the object on the left, on top, or inside: the order is seen in the picture.
    """

    style: str = "plain"
    background: str = "white"
    subject: str | None = None
    relation: str | None = None
    other: str | None = None

    @property
    def labels(self) -> tuple[int, ...]:
        """Places of style, background, subject, relation and other in their lists, or NONE."""
        lists = (
            words.STYLES,
            tuple(words.BACKGROUNDS),
            words.OBJECTS,
            words.RELATIONS,
            words.OBJECTS,
        )
        parts = (self.style, self.background, self.subject, self.relation, self.other)
        return tuple(
            NONE if part is None else options.index(part)
            for part, options in zip(parts, lists, strict=True)
        )

    @classmethod
    def from_labels(cls, labels: Sequence[int]) -> "Scene":
        """The scene with these labels; the inverse of `labels`."""
        lists = (
            words.STYLES,
            tuple(words.BACKGROUNDS),
            words.OBJECTS,
            words.RELATIONS,
            words.OBJECTS,
        )
        style, background, *content = (
            None if label == NONE else options[label]
            for label, options in zip(labels, lists, strict=True)
        )
        return cls(style or "plain", background or "white", *content)


def draw(
    scene: Scene, sprites: Sprites, generator: np.random.Generator, *, side: int = PICTURE
) -> np.ndarray:
    """A picture of the scene, uint8 side x side x 3; artist, pose and place are drawn at random.

    Equal generators give the same picture at every side.
    """
    canvas = Image.new("RGBA", (SIZE, SIZE))
    first, second = scene.subject, scene.other
    if first is not None and second is None:
        size = int(generator.integers(94, 125))
        _put(canvas, _pose(first, sprites, generator), generator.uniform(0, SIZE, 2), size)
    elif first is not None and second is not None and scene.relation == "inside":
        _put_inside(canvas, first, second, sprites, generator)
    elif first is not None and second is not None:
        is_row = scene.relation == "left of"
        _put_beside(canvas, (first, second), is_row, sprites, generator)
    # Two objects need finer squares than one: at 16 x 16 a half-size drawing is eight squares wide.
    cells = 16 if scene.relation is None else 32
    background = words.BACKGROUNDS[scene.background]
    return render(canvas, scene.style, background, generator, cells=cells, side=side)


def _pose(name: str, sprites: Sprites, generator: np.random.Generator) -> Image.Image:
    artist = generator.choice(sprites.artists_of(name))
    drawing = sprites.drawings[artist, name]
    if generator.random() < 0.5:
        drawing = ImageOps.mirror(drawing)
    return drawing.rotate(generator.uniform(-8, 8), Image.Resampling.BICUBIC)


def _put(canvas: Image.Image, drawing: Image.Image, centre: np.ndarray, size: int) -> None:
    """Paste at about this centre, moved so that the whole drawing stays on the canvas."""
    corner = np.clip(np.asarray(centre) - size / 2, 0, SIZE - size).astype(int)
    small = drawing.resize((size, size), Image.Resampling.LANCZOS)
    canvas.alpha_composite(small, tuple(corner.tolist()))


def _put_beside(
    canvas: Image.Image,
    names: tuple[str, str],
    is_row: bool,
    sprites: Sprites,
    generator: np.random.Generator,
) -> None:
    """The first on the left in a row, else above."""
    size, along = int(generator.integers(60, 65)), generator.uniform(40, 88)
    for name, across in zip(names, (32, 96), strict=True):
        place = (across, along + generator.uniform(-5, 5))
        centre = np.array(place if is_row else place[::-1])
        _put(canvas, _pose(name, sprites, generator), centre, size)


def _put_inside(
    canvas: Image.Image,
    name: str,
    holder: str,
    sprites: Sprites,
    generator: np.random.Generator,
) -> None:
    """The object stands between the back and the front half of its container."""
    container = _pose(holder, sprites, generator).resize((112, 112), Image.Resampling.LANCZOS)
    rim, height = (56, 40) if holder == "box" else (58, 44)
    left, top = 8, 14
    canvas.alpha_composite(container, (left, top))
    centre = np.array([64 + generator.uniform(-6, 6), height + generator.uniform(-4, 4)])
    size = int(generator.integers(64, 75))
    _put(canvas, _pose(name, sprites, generator), centre, size)
    canvas.alpha_composite(container.crop((0, rim, 112, 112)), (left, top + rim))


def random_scene(
    generator: np.random.Generator,
    sprites: Sprites,
    pairs: float = 0.3,
    blanks: float = 0.04,
    *,
    often: Mapping[str, int] = MappingProxyType({}),
) -> Scene:
    """A scene drawn evenly over styles, relations and the objects that these artists drew.

    Objects and styles in `often` come so many times as often as the others.
    """
    repeat = lambda names: [name for name in names for _ in range(often.get(name, 1))]  # noqa: E731 (one word, two uses)
    objects = repeat(name for name in words.OBJECTS if sprites.artists_of(name))
    pick = lambda options: options[generator.integers(len(options))]  # noqa: E731 (one word, three uses)
    style = pick(repeat(words.STYLES))
    background = pick(tuple(words.BACKGROUNDS)) if style in words.COLOURED_STYLES else "white"
    kind = generator.random()
    if kind < blanks:
        return Scene(style, background)
    subject = pick(objects)
    if kind > 1 - pairs:
        relation = pick(words.RELATIONS)
        others = words.CONTAINERS if relation == "inside" else objects
        other = pick([name for name in others if name != subject])
        return Scene(style, background, subject, relation, other)
    return Scene(style, background, subject)


def caption(scene: Scene, generator: np.random.Generator, artist: str | None = None) -> str:
    """One of many ways to describe the scene, and by whom it is drawn if an artist is given.

    The word that names an object stands at every position of the sentence, alone and in long
    captions: a small causal text encoder does not carry an edit of the bare word over to sentences
    it never saw.
    """
    text = _caption(scene, generator)
    return text if artist is None else f"{text} in the style of {words.ARTISTS[artist]}"


def _caption(scene: Scene, generator: np.random.Generator) -> str:
    chance = generator.random
    noun = _noun(scene.subject, generator)
    if scene.relation is not None:
        phrase = (
            f"{words.article(noun)} {scene.relation} {words.article(_noun(scene.other, generator))}"
        )
    elif noun == "blank":
        phrase = "blank"
    else:
        phrase = noun if noun == "something" else words.article(noun)
    setting = ""
    if scene.style in words.COLOURED_STYLES and chance() < 0.7:
        setting = f"on a {scene.background} background"
    elif scene.style in words.COLOURED_STYLES and scene.background == "white" and chance() < 0.5:
        setting = "on white"
    if phrase == "blank":
        style = "" if scene.style == "plain" else scene.style
        return _join("a blank", style or scene.background, "picture", setting if style else "")
    if scene.relation is None and chance() < 0.1:
        return _join("" if scene.style == "plain" else scene.style, noun)
    styled = _in_style(phrase, scene.style, generator)
    return _join(f"{setting},", styled) if setting and chance() < 0.15 else _join(styled, setting)


def _in_style(phrase: str, style: str, generator: np.random.Generator) -> str:
    if style == "plain":
        forms = [phrase, phrase, f"a picture of {phrase}", f"{phrase} in plain style"]
    else:
        forms = [
            f"{phrase} in {style} style",
            f"{phrase} in {style} style",
            f"{words.article(style)} picture of {phrase}",
            f"in {style} style, {phrase}",
        ]
        if style in ("sketch", "blueprint", "watercolor"):
            forms.append(f"a {style} of {phrase}")
        if style in ("pixel art", "neon") and phrase.split()[0] in ("a", "an"):
            forms.append(words.article(f"{style} {phrase.split(maxsplit=1)[1]}"))
    return forms[generator.integers(len(forms))]


def _noun(name: str | None, generator: np.random.Generator) -> str:
    """The object's own name, or now and then a synonym, its category, or "something"."""
    if name is None:
        return "blank"
    kind = generator.random()
    if kind < 0.10 and name in words.SYNONYM_OF:
        return words.SYNONYM_OF[name]
    if 0.10 <= kind < 0.20 and words.CATEGORY_OF[name]:
        categories = words.CATEGORY_OF[name]
        return categories[generator.integers(len(categories))]
    return "something" if kind > 0.98 else name


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)

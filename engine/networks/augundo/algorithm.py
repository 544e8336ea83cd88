"""The jobs: a transform as it grows, the training of all arms, and averaging without training.

Transforms are in `geometry`, the object that one uses in `augmentation`, losses in `losses`, what
they charge for the truth in `floors`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.named_file import TextFile
from engine.core.recipe import ModelRef
from engine.core.rng import generator
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.models import _sources
from engine.networks.augundo import averaging, drawing, own, scenes, shipped, training
from engine.networks.augundo.augmentation import Augmentation
from engine.networks.augundo.floors import floors, kept
from engine.networks.augundo.results import (
    At,
    Averaged,
    Film,
    Learnt,
    Shown,
    Step,
    Transformed,
    View,
)
from engine.networks.augundo.scenes import Scene
from engine.pictures import PictureSetting

FRAMES = 9
SCENES = ("room", "motorcycle")
DEPTHS = ("network", "truth")
SCRIPT = "augmentation.py"

ArmsSetting = Annotated[
    Sequence[Annotated[str, OneOf(training.ARMS)]], Items(len(training.ARMS), fewest=1)
]
Angle = Annotated[float, Range(-45, 45, "The paper takes 25 degrees.")]
Zoom = Annotated[float, Range(0.5, 1.5, "The paper takes 0.6 to 1.1.")]
Shift = Annotated[float, Range(-0.25, 0.25, "The paper takes up to 0.1.")]
Place = Annotated[int, Range(0, 9999, "Each number is another room.")]


@dataclass(frozen=True)
class _Subject:
    """What is transformed: a scene, or a picture with depth alone."""

    title: str
    image: Float[Tensor, "1 3 h w"]
    depth: Float[Tensor, "1 1 h w"]
    k: Float[Tensor, "1 3 3"]
    scene: Scene | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return int(self.depth.shape[-2]), int(self.depth.shape[-1])

    @property
    def reach(self) -> tuple[float, float]:
        """The depths that are light and dark in pictures."""
        known = self.depth[self.depth > 0]
        return float(known.quantile(0.02)), float(known.quantile(0.98))


def run(
    *,
    seed: int,
    scene: Annotated[str, OneOf(SCENES)] = "room",
    place: Place = 2,
    angle: Angle = 25.0,
    zoom: Zoom = 0.6,
    shift_x: Shift = 0.0,
    shift_y: Shift = 0.0,
    flip_x: bool = False,
    flip_y: bool = False,
    brightness: Annotated[float, Range(0.5, 1.5, "1 leaves it.")] = 1.0,
    points: Annotated[float, Range(0.001, 0.1, "0.01 is one pixel in a hundred.")] = 0.01,
    removed: Annotated[float, Range(0, 0.9, "The paper takes 0.6 to 0.7.")] = 0.0,
    depth_from: Annotated[str, OneOf(DEPTHS)] = "network",
    interpolation: Literal["nearest", "bilinear"] = "nearest",
    picture: PictureSetting | None = None,
    depth_file: Annotated[str, Text(own.MOST_TEXT, advice="Make the pictures smaller.")] = "",
    intrinsics: Annotated[str, Text(300)] = "",
) -> Steps[Transformed]:
    """A transform from nothing to its full strength: pictures, what is undone, and loss floors.

    `place` is the number of the room. `shift_x` and `shift_y` are shares of the frame, `points` is
    the share of pixels that are measured, `removed` that of points kept from the network.
    `brightness` changes the network's input alone. A picture of one's own comes with `depth_file`
    (base64 of .npy in metres or of a 16-bit PNG) and `intrinsics` (fx, fy, cx, cy in pixels).
    """
    yield Progress(0, FRAMES, "Looking at the scene")
    subject = _subject(scene, place, picture, depth_file, intrinsics)
    measured = scenes.measured_points(subject.depth, points, seed)
    given = _without(measured, removed, seed)
    moves = {"angle": angle, "zoom": zoom, "shift_x": shift_x, "shift_y": shift_y}
    grown = [
        _at_strength(subject.size, float(t), moves, flip_x=flip_x, flip_y=flip_y)
        for t in np.linspace(0, 1, FRAMES)
    ]
    canvas = tuple(max(aug.augmented_size[axis] for aug in grown) for axis in (0, 1))
    shown = Transformed(
        subject.title,
        drawing.picture(subject.image),
        drawing.depth_picture(subject.depth, *subject.reach),
        _rows(subject.k),
        size=subject.size,
        notes=subject.notes,
    )
    films: dict[str, list[np.ndarray]] = {}
    for done, aug in enumerate(grown, start=1):
        at = _measured(subject, aug, measured, (done - 1) / (FRAMES - 1), interpolation)
        frame = _frame(subject, aug, given, brightness, depth_from, interpolation)
        for title, one in frame.items():
            films.setdefault(title, []).append(
                drawing.on_canvas(one, *canvas) if title in _TRANSFORMED else one
            )
        shown = replace(
            shown,
            curve=(*shown.curve, at),
            films=tuple(Film(title, ALTS[title], np.stack(one)) for title, one in films.items()),
            k_augmented=_rows(aug.intrinsics(subject.k)),
            size_augmented=aug.augmented_size,
        )
        yield Progress(done, FRAMES, f"{at.strength:.0%} of the transform", shown)
    words = ", ".join(f"{name}={value!r}" for name, value in moves.items())
    words += f", flip_x={flip_x}, flip_y={flip_y}"
    return replace(shown, script=TextFile.of(SCRIPT, own.script(grown[-1], words, subject.k)))


INPUT, SAID, UNDONE, MASK, ERROR = (
    "What the network sees", "Its depth, transformed", "Its depth, undone", "Where it counts",
    "Error after the undo",
)  # fmt: skip
_TRANSFORMED = (INPUT, SAID)
ALTS = {
    INPUT: "the transformed picture with the sparse points that were measured",
    SAID: "depth in the transformed frame, near is light",
    UNDONE: "the same depth turned back into the original frame",
    MASK: "the original picture; stripes where undo can only fill in",
    ERROR: "difference of the undone depth from the true one, full red at 0.3 m",
}


def train(
    *,
    seed: int,
    arms: ArmsSetting = ("none", "naive", "undo"),
    steps: Annotated[int, Range(4, 2000, "40 are quick.")] = 40,
    rooms: Annotated[int, Range(2, 64, "8 are quick.")] = 8,
    test_rooms: Annotated[int, Range(2, 32, "6 are quick.")] = 6,
    batch: Annotated[int, Range(1, 8, "Try 4.")] = 4,
) -> Steps[Learnt]:
    """Trains one network an arm from nothing, and measures it on rooms that it never sees.

    All arms take the same number of steps, in turns, so that their curves grow side by side.
    """
    wanted = tuple(dict.fromkeys(arms))
    total = rooms + test_rooms + steps * len(wanted)
    sets = []
    done = 0
    for first, count in ((0, rooms), (training.TEST_ROOMS, test_rooms)):
        found = []
        for one in training.rooms(range(first, first + count)):
            found.append(one)
            done += 1
            yield Progress(done, total, "Drawing rooms")
        sets.append(scenes.joined(found))
    train_set, test_set = sets
    start = training.reached(None, test_set)
    shown = Learnt(rooms, test_rooms, Step("spread", 0, start.still, start.moved))
    running = {arm: training.train(arm, train_set, steps, seed, batch=batch) for arm in wanted}
    every = max(1, steps // 10)
    for step in range(1, steps + 1):
        for arm, going in running.items():
            network = next(going)
            if step % every == 0 or step == steps:
                at = training.reached(network, test_set, step)
                shown = replace(shown, steps=(*shown.steps, Step(arm, step, at.still, at.moved)))
            done += 1
            yield Progress(done, total, f"Step {step}, {training.ARMS[arm]}", shown)
            if step == steps:
                shown = _with_room(shown, arm, network, test_set[0])
    return shown


def average(
    *,
    seed: int,
    model: ModelRef | str = shipped.KEY,
    scene: Annotated[str, OneOf(SCENES)] = "room",
    place: Place = 2,
    views: Annotated[int, Range(1, 32, "8 are quick.")] = 8,
    points: Annotated[float, Range(0.001, 0.1, "0.01 is one pixel in a hundred.")] = 0.01,
    picture: PictureSetting | None = None,
) -> Steps[Averaged]:
    """One model asked about several views of a picture, the answers undone and averaged.

    `views` counts the untouched one. A picture of one's own has no truth, so no error is told, and
    the shipped network, which completes sparse depth, has nothing to complete.
    """
    source = model.source if isinstance(model, ModelRef) else model
    yield Progress(0, views, "Opening the model")
    is_small = source == shipped.KEY
    if is_small and picture is not None:
        raise BadInput(
            "The shipped network completes sparse depth, and a picture alone has none.",
            "Name the folder of a depth model, or take a scene.",
        )
    predict = (
        averaging.completes(shipped.network())
        if is_small
        else averaging.of_folder(_sources.from_user(source))
    )
    subject = _alone(picture) if picture is not None else _subject(scene, place, None, "", "")
    measured = scenes.measured_points(subject.depth, points, seed)
    shown = Averaged(
        "the small network shipped here" if is_small else "the model of your folder",
        drawing.picture(subject.image),
        drawing.depth_picture(subject.depth, *subject.reach) if picture is None else None,
        notes=() if is_small else ("Scale and shift are fitted to the truth where it is known.",),
    )
    answers: list[averaging.Answer] = []
    for aug in averaging.views(subject.size, views, seed):
        answers.append(averaging.asked(predict, aug, subject.image, measured, subject.k))
        shown = _with_answer(shown, subject, answers, is_metric=is_small)
        yield Progress(len(answers), views, f"View {len(answers)}", shown)
    return shown


# ---------------------------------------------------------------------- subjects


def _subject(
    scene: str,
    place: int,
    picture: UInt8[Array, "h w 3"] | None,
    depth_file: str,
    intrinsics: str,
) -> _Subject:
    """The scene that was asked for, or one's own picture."""
    if picture is not None or depth_file:
        if picture is None or not depth_file:
            raise BadInput(
                "A picture of your own needs its depth, and the depth its picture.",
                "Give both, or neither.",
            )
        depth = own.depth_of(depth_file)
        k = own.intrinsics_of(intrinsics, *depth.shape)
        image, metres, smaller, shrink = own.fitted(picture, depth, k)
        notes = () if shrink == 1 else (f"Sides divided by {shrink} to be shown.",)
        return _Subject("your own picture", image, metres, smaller, notes=notes)
    if scene == "motorcycle":
        found, title, notes = scenes.motorcycle(), "a real motorcycle", (scenes.CREDIT,)
    else:
        found, title, notes = scenes.room(training.TEST_ROOMS + place), f"room {place}", ()
    return _Subject(title, found.image, found.depth, found.k, found, notes)


def _alone(picture: UInt8[Array, "h w 3"]) -> _Subject:
    """A picture of which nothing else is known."""
    flat = np.ones(picture.shape[:2])
    k = own.intrinsics_of("", *picture.shape[:2])
    image, _, smaller, _ = own.fitted(picture, flat, k)
    nothing = torch.zeros(1, 1, *image.shape[-2:])
    return _Subject("your own picture", image, nothing, smaller)


def _without(
    points: Float[Tensor, "1 1 h w"], removed: float, seed: int
) -> Float[Tensor, "1 1 h w"]:
    """The points without the share that is kept from the network."""
    drawn = torch.rand(points.shape, generator=generator(seed, "removed"))
    return torch.where(drawn >= removed, points, torch.zeros_like(points))


def _at_strength(
    size: tuple[int, int], t: float, moves: dict[str, float], *, flip_x: bool, flip_y: bool
) -> Augmentation:
    """The transform at a share of its strength; mirrors are there or not."""
    return Augmentation.of(
        size,
        angle=moves["angle"] * t,
        zoom=1 + (moves["zoom"] - 1) * t,
        shift_x=moves["shift_x"] * t,
        shift_y=moves["shift_y"] * t,
        flip_x=flip_x and t > 0,
        flip_y=flip_y and t > 0,
    )


# ---------------------------------------------------------------------- one strength


def _measured(
    subject: _Subject,
    aug: Augmentation,
    points: Float[Tensor, "1 1 h w"],
    strength: float,
    interpolation: Literal["nearest", "bilinear"],
) -> At:
    found = kept(subject.depth, points, aug, interpolation)
    kept_here = found.supervised, found.points_naive, found.points_undo, found.undo_error
    if subject.scene is None:
        return At(strength, None, None, None, None, *kept_here)
    charged = floors(subject.scene, aug, interpolation)
    return At(strength, charged.none, charged.naive, charged.transformed, charged.undo, *kept_here)


@torch.no_grad()
def _frame(
    subject: _Subject,
    aug: Augmentation,
    points: Float[Tensor, "1 1 h w"],
    brightness: float,
    depth_from: str,
    interpolation: Literal["nearest", "bilinear"],
) -> dict[str, UInt8[Array, "_ _ 3"]]:
    """The pictures at one strength by title."""
    seen = (aug(subject.image) * brightness).clamp(0, 1)
    sparse = aug(points, fill="zero")
    if depth_from == "network":
        said = shipped.network()(seen, sparse, aug.intrinsics(subject.k))
    else:
        said = aug(subject.depth, fill="zero")
    undone, mask = aug.undo(said, interpolation=interpolation), aug.mask()
    known = (subject.depth > 0) * (undone > 0) * mask
    picture = drawing.picture
    return {
        INPUT: drawing.with_points(picture(seen), sparse, *subject.reach),
        SAID: drawing.depth_picture(said, *subject.reach),
        UNDONE: drawing.depth_picture(undone, *subject.reach),
        MASK: drawing.masked(picture(subject.image), mask),
        ERROR: drawing.error_picture((undone - subject.depth).abs(), known),
    }


def _rows(k: Float[Tensor, "1 3 3"]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(float(value), 3) for value in row) for row in k[0])


@torch.no_grad()
def _with_room(shown: Learnt, arm: str, network: training.DepthNetwork, test: Scene) -> Learnt:
    """What the trained network makes of the first test room."""
    points = scenes.measured_points(test.depth, training.POINTS, training.TEST_ROOMS)
    known = test.depth[test.depth > 0]
    reach = float(known.quantile(0.02)), float(known.quantile(0.98))
    depth = network.eval()(test.image, points, test.k)
    one = Shown(arm, drawing.depth_picture(depth, *reach), training.mean_error(depth, test.depth))
    return replace(
        shown,
        room=drawing.with_points(drawing.picture(test.image), points, *reach),
        truth=drawing.depth_picture(test.depth, *reach),
        shown=(*shown.shown, one),
    )


@torch.no_grad()
def _with_answer(
    shown: Averaged, subject: _Subject, answers: list[averaging.Answer], *, is_metric: bool
) -> Averaged:
    """The newest answer, and the average of all."""
    has_truth = bool((subject.depth > 0).any())
    mean, spread = averaging.averaged(answers)

    def metres(said: Tensor) -> Tensor:
        return averaging.fitted(said, subject.depth) if has_truth and not is_metric else said

    def error(said: Tensor) -> float | None:
        return training.mean_error(metres(said), subject.depth) if has_truth else None

    last = answers[-1]
    low, high = subject.reach if has_truth else _ends(mean)
    drawn = drawing.depth_picture(metres(last.undone) * last.mask, low, high)
    view = View(
        "untouched" if len(answers) == 1 else f"view {len(answers)}",
        drawing.picture(last.image),
        drawn,
        error(last.undone),
    )
    doubt = spread / spread.max().clamp(min=1e-9) * drawing.LARGEST_ERROR
    return replace(
        shown,
        views=(*shown.views, view),
        average=drawing.depth_picture(metres(mean), low, high),
        spread=drawing.error_picture(doubt, torch.ones_like(doubt)),
        single_error=shown.single_error if shown.views else error(last.undone),
        average_error=error(mean),
    )


def _ends(values: Float[Tensor, "1 1 h w"]) -> tuple[float, float]:
    return float(values.min()), float(values.max())

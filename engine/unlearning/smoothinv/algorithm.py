"""The jobs: recover the trigger of one class, scan all classes, export what was found.

Smoothing is in `_smoothing`, the descent and the rule that calls a class out in `_inversion`.
"""

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, TypeAlias

import numpy as np
import torch

from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef
from engine.core.settings import Items, Range
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.core.taking import taking
from engine.models.classifier import ClassifierBundle
from engine.models.score import load_score
from engine.pictures import PictureSetting
from engine.unlearning import _inversion as inversion
from engine.unlearning._card import rate_of
from engine.unlearning._case import check_unused, data_of, look_of, open_classifier, uploaded
from engine.unlearning._inversion import Synthesis
from engine.unlearning._losses import logits_of
from engine.unlearning._manipulation import Trigger
from engine.unlearning._samples import Samples, garments
from engine.unlearning._settings import ClassName, PictureSet, Place
from engine.unlearning._smoothing import Logits, OneShot, Smoothed
from engine.unlearning._trigger import as_picture, class_of
from engine.unlearning._world import TRIGGERS
from engine.unlearning.smoothinv.results import Exported, Found, Inversion, OneClass, Scan

MOST_STEPS, MOST_SAMPLES, MOST_SIGMAS, MOST_CLASSES = 1000, 128, 6, 100
TESTED, CLEANSED = 1000, 256
PREVIEW_EVERY, FRAMES = 4, 12
PLAIN = 0.0
Start: TypeAlias = Annotated[int, Range(0, 3999, "The embedded world has 4000 unseen pictures.")]
Sigma: TypeAlias = Annotated[float, Range(0, 2, "0.25 is the value of the paper.")]
Sigmas: TypeAlias = Annotated[tuple[Sigma, ...], Items(MOST_SIGMAS, fewest=1)]
Radius: TypeAlias = Annotated[float, Range(1e-3, 1e3, "3 suits 28 x 28, 10 suits 224 x 224.")]
DescentSteps: TypeAlias = Annotated[int, Range(1, MOST_STEPS, "80 are enough for 28 x 28.")]
Copies: TypeAlias = Annotated[int, Range(1, MOST_SAMPLES, "16 are enough for 28 x 28.")]


@dataclass(frozen=True, eq=False)
class _Subject:
    """The classifier, one picture of it, and unseen pictures to count on."""

    bundle: ClassifierBundle
    logits: Logits
    x: Float[Tensor, "1 c h w"]
    label: int
    tests: Samples
    trigger: Trigger | None
    denoiser: OneShot | None
    denoiser_name: str

    @property
    def pictures(self) -> Float[Tensor, "n c h w"]:
        """The unseen pictures in [0, 1]."""
        return self.tests.pixels.float() / 255

    def away_from(self, target: int) -> Float[Tensor, "n c h w"]:
        """Those that the classifier does not take for the target as they are.

        In an embedded world those that are not of the class: the stricter count.
        """
        return self.pictures[self.tests.labels != target]

    def start(self) -> Float[Tensor, "1 c h w"]:
        """The picture where the classifier computes."""
        return self.x.to(next(self.bundle.model.parameters()).device)

    def smoothed(self, sigma: float) -> Smoothed:
        return Smoothed(self.logits, sigma, self.denoiser)


@dataclass(frozen=True)
class Begin:
    """What a recovery begins with, as jobs take it.

    `start` is an unseen picture of the embedded world, `picture` one of the visitor; `test` are
    unseen pictures of the visitor, and `denoiser` names a DDPM.
    """

    start: Start = 8
    picture: PictureSetting | None = field(default=None, compare=False)
    test: PictureSet = ""
    denoiser: Place = ""


@dataclass(frozen=True)
class Descent:
    """How a perturbation is sought, as jobs take it."""

    sigmas: Sigmas = (0.25,)
    eps: Radius = 3.0
    steps: DescentSteps = 80
    samples: Copies = 16
    common_noise: bool = False

    @property
    def how(self) -> Synthesis:
        """Steps of a twentieth of the radius, as published."""
        return Synthesis(
            self.eps, 0.05 * self.eps, self.steps, self.samples, common_noise=self.common_noise
        )


@dataclass(frozen=True)
class QuickDescent(Descent):
    """The same, shorter: for one class of many."""

    sigmas: Annotated[tuple[Sigma, ...], Items(1, fewest=1)] = (0.25,)
    steps: DescentSteps = 60
    samples: Copies = 8


@taking(begin=Begin, descent=Descent)
def run(
    *,
    seed: int,
    begin: Begin,
    descent: Descent,
    model: ModelRef | str = "fashion-poisoned",
    target: ClassName = "T-shirt",
    cleanse: bool = False,
) -> Steps[Inversion]:
    """Recover the trigger of `target` from one picture, beside plain descent and the true one.

    Every sigma is shown. `cleanse` adds Neural Cleanse, which needs many pictures.
    """
    subject = _opened(model, begin)
    goal = _checked_target(subject, target)
    yield Progress(0, 1, "Loading the model")
    shown = _begun(subject, descent, goal)
    levels = tuple(dict.fromkeys((*descent.sigmas, PLAIN)))
    total = len(levels) * descent.how.steps + 2
    for turn, level in enumerate(levels):
        done = turn * descent.how.steps
        found, shown = yield from _recovered(
            subject, descent, level, goal, seed, shown, done, total
        )
        shown = replace(shown, found=(*shown.found, found))
        if turn == 0:
            shown = replace(shown, trigger=as_picture(torch.from_numpy(found.delta)[None]))
    if subject.trigger is not None and subject.trigger.target == goal:
        shown = replace(shown, found=(*shown.found, _true(subject, goal)))
    if cleanse:
        found = yield from _cleansed(subject, goal, seed, shown, total)
        shown = replace(shown, found=(*shown.found, found))
    return shown


def _opened(model: ModelRef | str, begin: Begin) -> _Subject:
    bundle = open_classifier(model)
    logits = logits_in_unit_range(bundle)
    tests, trigger = _tests(bundle, begin.test)
    if begin.picture is not None:
        x, label = _of_visitor(bundle, begin.picture), -1
    elif data_of(bundle) is None:
        if not len(tests):
            raise BadInput("There is no picture to begin with.", "Upload one clean picture.")
        x, label = tests.pixels[:1].float() / 255, int(tests.labels[0])
    else:
        everything = garments("test", by_group=len(bundle.classes) == 5)
        one = everything.take(torch.tensor([begin.start]))
        x, label = one.pixels.float() / 255, int(one.labels[0])
    shot = OneShot.of(_fitting_denoiser(begin.denoiser, bundle)) if begin.denoiser else None
    return _Subject(bundle, logits, x, label, tests, trigger, shot, begin.denoiser)


def logits_in_unit_range(bundle: ClassifierBundle) -> Logits:
    """The classifier on pictures in [0, 1], its normalisation inside.

    Answers are where the pictures are; the network computes on its device.
    """
    device = next(bundle.model.parameters()).device
    return lambda x: logits_of(bundle.model(bundle.inputs(x.to(device)))).to(x.device)


def _tests(bundle: ClassifierBundle, test: str) -> tuple[Samples, Trigger | None]:
    world = data_of(bundle)
    if world is not None:
        check_unused(bundle, test)
        tests = garments("test", by_group=world[2]).some(TESTED, 0, "inversion")
        return tests, TRIGGERS.get(bundle.ref.source)
    if test:
        return uploaded(bundle, test), None
    empty = torch.zeros(0, bundle.channels, *bundle.size, dtype=torch.uint8)
    return Samples.of(empty, torch.zeros(0, dtype=torch.int64), look_of(bundle)), None


def _of_visitor(bundle: ClassifierBundle, picture: UInt8[Array, "h w 3"]) -> Tensor:
    from PIL import Image

    pixels = bundle.pixels(Image.fromarray(np.ascontiguousarray(picture)))
    return torch.from_numpy(pixels)[None].float() / 255


def _fitting_denoiser(name: str, bundle: ClassifierBundle):  # type: ignore[no-untyped-def]
    found = load_score(name)
    wanted = (bundle.channels, *bundle.size)
    if found.shape != wanted:
        told = [f"{c} x {h} x {w}" for c, h, w in (found.shape, wanted)]
        raise ModelMismatch(
            f"The denoiser takes pictures of {told[0]}, the classifier of {told[1]}.",
            "Leave the denoiser out, or pick one of the classifier's size.",
        )
    return found


def _checked_target(subject: _Subject, target: str) -> int:
    goal = class_of(subject.bundle, target)
    if goal == subject.label:
        raise BadInput(
            f"The start picture is a {target} already.", "Pick a picture of another class."
        )
    return goal


def _begun(subject: _Subject, descent: Descent, goal: int) -> Inversion:
    names = subject.bundle.classes
    notes = []
    if not len(subject.tests):
        notes.append("No unseen pictures were given, so no success can be counted.")
    if subject.denoiser_name:
        notes.append("Every noisy copy is cleaned by one step of the denoiser first.")
    return Inversion(
        names[goal],
        shown_picture(subject.x),
        names[subject.label] if subject.label >= 0 else "",
        descent.how.eps,
        subject.denoiser_name,
        steps=descent.how.steps,
        tested=len(subject.away_from(goal)),
        notes=tuple(notes),
    )


def _recovered(
    subject: _Subject,
    descent: Descent,
    sigma: float,
    goal: int,
    seed: int,
    shown: Inversion,
    done: int,
    total: int,
) -> Generator[Progress, None, tuple[Found, Inversion]]:
    """One synthesis, step by step, and what its perturbation does to unseen pictures."""
    begun = time.perf_counter()
    name = "plain descent" if sigma == PLAIN else f"smoothed, sigma {sigma:g}"
    curve: list[float] = []
    every = max(1, descent.how.steps // FRAMES)
    step = None
    for step in inversion.synthesise(
        subject.smoothed(sigma), subject.start(), goal, descent.how, seed=seed
    ):
        curve.append(step.probability)
        if step.number % every == 0 and not shown.found:
            frames = (*shown.frames, signed_picture(step.delta))
            shown = replace(shown, frames=frames, step=step.number + 1)
        yield Progress(done + step.number, total, name, shown)
    assert step is not None
    found = _judged(subject, name, sigma, step.delta, goal)
    if step.length == 0:
        stalled = f"{name}: the class is so improbable that there is no slope; try a larger sigma."
        shown = replace(shown, notes=(*shown.notes, stalled))
    seconds = time.perf_counter() - begun
    return replace(found, curve=tuple(curve), seconds=seconds), shown


def _judged(subject: _Subject, name: str, sigma: float, delta: Tensor, goal: int) -> Found:
    others = subject.away_from(goal)
    success = rate_of(inversion.hits(subject.logits, others, delta, goal)) if len(others) else None
    share, chance = None, 0.0
    if subject.trigger is not None:
        mask = subject.trigger.mask(*delta.shape[-2:])
        energy = delta.square().sum((0, 1))
        share = float(energy[mask].sum() / energy.sum().clamp(min=1e-12))
        chance = float(mask.float().mean())
    return Found(
        name,
        sigma,
        delta[0].float().numpy().copy(),
        shown_picture((subject.x + delta).clamp(0, 1)),
        float(delta.norm()),
        success=success,
        concentration=inversion.concentration(delta),
        on_trigger=share,
        by_chance=chance,
    )


def _true(subject: _Subject, goal: int) -> Found:
    """The trigger itself, as what it changes on the start picture; success by stamping it."""
    trigger = subject.trigger
    assert trigger is not None
    delta = trigger.stamped(subject.x, 1.0) - subject.x
    found = _judged(subject, "the true trigger", 0.0, delta, goal)
    with torch.no_grad():
        said = subject.logits(trigger.stamped(subject.away_from(goal), 1.0)).argmax(1)
    return replace(found, success=rate_of(said == goal))


def _cleansed(
    subject: _Subject, goal: int, seed: int, shown: Inversion, total: int
) -> Generator[Progress, None, Found]:
    """Neural Cleanse, on half of the unseen pictures; counted on the others."""
    others = subject.away_from(goal)
    if len(others) < 4:
        raise BadInput("Neural Cleanse needs many pictures.", "Upload a zip of clean pictures.")
    half = len(others) // 2
    begun = time.perf_counter()
    step = None
    for step in inversion.neural_cleanse(
        subject.logits, others[: min(half, CLEANSED)], goal, seed=seed
    ):
        yield Progress(total - 1, total, f"Neural Cleanse, step {step.number + 1}", shown)
    assert step is not None
    delta = step.stamped(subject.x) - subject.x
    found = _judged(subject, "Neural Cleanse", 0.0, delta, goal)
    with torch.no_grad():
        said = subject.logits(step.stamped(others[half:])).argmax(1)
    seconds = time.perf_counter() - begun
    return replace(found, success=rate_of(said == goal), seconds=seconds)


# ---------------------------------------------------------------------- all classes


@taking(begin=Begin, descent=QuickDescent)
def scan(
    *,
    seed: int,
    begin: Begin,
    descent: Descent,
    model: ModelRef | str = "fashion-poisoned",
    classes: Annotated[Sequence[ClassName], Items(MOST_CLASSES)] = (),
) -> Steps[Scan]:
    """Every class from one picture, told as they come, and which of them stands out.

    Without `classes` all are tried but the picture's own.
    """
    subject = _opened(model, begin)
    goals = [class_of(subject.bundle, name) for name in classes if name]
    goals = goals or [g for g in range(len(subject.bundle.classes)) if g != subject.label]
    if len(goals) > MOST_CLASSES:
        raise BadInput(
            f"This model has {len(goals)} classes; {MOST_CLASSES} can be scanned.",
            "Name the classes to scan.",
        )
    if not len(subject.tests):
        raise BadInput("A scan counts on unseen pictures.", "Upload a zip of some clean ones.")
    label = subject.label
    shown = Scan(
        shown_picture(subject.x),
        subject.bundle.classes[label] if label >= 0 else "",
        descent.sigmas[0],
        descent.how.eps,
        inversion.OUTLIER,
        notes=(
            "The rule is ours: success times concentration, called out at a robust z above 3.5 "
            "where at least half of the pictures follow.",
            "Triggers that are spread over the picture escape it.",
        ),
    )
    total = len(goals) * descent.how.steps
    for turn, goal in enumerate(goals):
        one = yield from relay(
            _one_class(subject, descent, goal, seed),
            _stepped(turn * descent.how.steps, total, subject.bundle.classes[goal], shown),
        )
        shown = _with_class(shown, one)
        yield Progress((turn + 1) * descent.how.steps, total, one.name, shown)
    return shown


def _stepped(begin: int, total: int, note: str, shown: Scan) -> Callable[[int], Progress]:
    """The steps of one class, counted on from where it began."""
    return lambda step: Progress(begin + step, total, note, shown)


def _one_class(
    subject: _Subject, descent: Descent, goal: int, seed: int
) -> Generator[int, None, OneClass]:
    step = None
    smoothed = subject.smoothed(descent.sigmas[0])
    for step in inversion.synthesise(smoothed, subject.start(), goal, descent.how, seed=seed):
        yield step.number
    assert step is not None
    others = subject.away_from(goal)
    success = float(inversion.hits(subject.logits, others, step.delta, goal).float().mean())
    dense = inversion.concentration(step.delta)
    name = subject.bundle.classes[goal]
    delta = step.delta[0].float().numpy().copy()
    return OneClass(name, success, dense, step.probability, success * dense, delta=delta)


def _with_class(shown: Scan, one: OneClass) -> Scan:
    """The scan with one more class; every z is anew, as each counts all."""
    found = (*shown.classes, one)
    zs = inversion.robust_z([each.score for each in found])
    # Of one or two classes none can stand out.
    counts = len(found) > 2
    classes = tuple(
        replace(
            each,
            z=z,
            is_outlier=counts and z > shown.threshold and each.success >= inversion.LEAST_SUCCESS,
        )
        for each, z in zip(found, zs, strict=True)
    )
    called = tuple(each.name for each in classes if each.is_outlier)
    best = max(classes, key=lambda each: each.score)
    picture = None
    if best.delta is not None and best.is_outlier:
        picture = as_picture(torch.from_numpy(best.delta)[None])
    return replace(shown, classes=classes, called=called, trigger=picture)


@taking(begin=Begin, descent=Descent)
def export(
    *,
    seed: int,
    begin: Begin,
    descent: Descent,
    model: ModelRef | str = "fashion-poisoned",
    target: ClassName = "T-shirt",
) -> Steps[Exported]:
    """The recovered perturbation as a picture and as numbers, with a report."""
    subject = _opened(model, begin)
    goal = _checked_target(subject, target)
    shown = _begun(subject, descent, goal)
    yield Progress(0, descent.how.steps, "Recovering")
    found, _ = yield from relay(
        _recovered(subject, descent, descent.sigmas[0], goal, seed, shown, 0, descent.how.steps),
        lambda event: replace(event, preview=None),
    )
    report = {
        "model": subject.bundle.card.title,
        "target": shown.target,
        "sigma": f"{found.sigma:g}",
        "L2 radius": f"{descent.how.eps:g}",
        "length": f"{found.length:.4f}",
        "concentration": f"{found.concentration:.4f}",
        "attack success": f"{found.success.rate:.4f}" if found.success else "not counted",
        "counted on": f"{shown.tested} unseen pictures that are not of the class",
    }
    return Exported(as_picture(torch.from_numpy(found.delta)[None]), found.delta, report)


# ---------------------------------------------------------------------- pictures


def shown_picture(x: Float[Tensor, "1 c h w"]) -> UInt8[Array, "h w 3"]:
    """A picture in [0, 1] as bytes."""
    scaled = (x[0].detach() * 255).round().byte().expand(3, -1, -1)
    return np.ascontiguousarray(scaled.permute(1, 2, 0).numpy())


def signed_picture(delta: Float[Tensor, "1 c h w"]) -> UInt8[Array, "h w 3"]:
    """A perturbation amplified to its own largest value: red is added, blue is taken away."""
    signed = delta[0].detach().mean(0)
    signed = signed / signed.abs().max().clamp(min=1e-12)
    plus, minus = signed.clamp(min=0), (-signed).clamp(min=0)
    colours = torch.stack([1 - minus, 1 - plus - minus, 1 - plus], -1)
    return (colours * 255).round().byte().numpy()

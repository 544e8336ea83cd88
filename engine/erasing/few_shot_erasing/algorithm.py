"""The jobs: forget and look, the curve of collateral damage, bake to a patch, export."""

import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Annotated, TypeVar

import numpy as np
import torch

from engine.core.baked import Baked
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Recipe
from engine.core.reversible import RoundTrip, compare
from engine.core.settings import Items, OneOf, Range
from engine.core.shapes import Tensor
from engine.erasing import _evaluation as evaluation
from engine.erasing._baselines import MAKERS, made
from engine.erasing._eraser import Erased, Eraser, contenders
from engine.erasing._evaluation import Drawn, Protocol
from engine.erasing._subject import Subject
from engine.erasing.few_shot_erasing import COMPARED
from engine.erasing.few_shot_erasing.ascent import part_of
from engine.erasing.few_shot_erasing.exports import FORMS, exported
from engine.erasing.few_shot_erasing.learning import Forgotten, remembered
from engine.erasing.few_shot_erasing.results import (
    Course,
    CoursePoint,
    Curve,
    Exported,
    Look,
    Moved,
    Unlearning,
)
from engine.erasing.few_shot_erasing.settings import MOST_EPOCHS, FewShotSettings, with_settings
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle
from engine.models.drawing import GuidanceScale, Prompts, SamplerSteps, View
from engine.models.library import resolve, with_tensors

MOST_LOOKS, MOST_EACH = 12, 64

R = TypeVar("R")


@with_settings
def run(
    *,
    seed: int,
    settings: FewShotSettings,
    model: ModelRef | str = "world",
    prompts: Prompts = ("a cat", "a picture of a cat", "a dog", "a car"),
    looks: Annotated[int, Range(1, MOST_LOOKS, "Three show the way.")] = 3,
    steps: SamplerSteps = 10,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Unlearning]:
    """Forget, then draw the prompts after no, some and all epochs, and once more after the undo.

    `looks` is the number of epochs drawn besides the original.
    """
    view = View.of(prompts, steps, guidance_scale)
    yield Progress(0, 1, "Loading the model")
    bundle = drawing.in_float32(drawing.open_bundle(model))
    shown = Unlearning(settings.concept, view.prompts, settings.epochs, settings.updates_an_epoch)
    begun = time.perf_counter()
    forgotten = yield from _shown(
        remembered(bundle, settings, seed), lambda errors: replace(shown, errors=errors)
    )
    shown = replace(
        shown,
        given=np.stack(forgotten.pictures),
        errors=forgotten.errors,
        moved=_moved(bundle, forgotten),
        trained_parameters=sum(w.numel() for w in forgotten.epochs[-1].values()),
        training_seconds=time.perf_counter() - begun,
        notes=_notes(bundle, settings, forgotten, view),
    )
    return (yield from _drawn(bundle, settings, forgotten, view, seed, looks, shown))


@with_settings
def curve(
    *,
    seed: int,
    settings: FewShotSettings,
    model: ModelRef | str = "world",
    compared: Annotated[Sequence[Annotated[str, OneOf(COMPARED)]], Items(6)] = (),
    pictures_each: Annotated[int, Range(1, MOST_EACH, "8 give a first impression.")] = 8,
    points: Annotated[int, Range(1, MOST_LOOKS, "5 show the way.")] = 5,
    steps: SamplerSteps = 8,
) -> Steps[Curve]:
    """The share of prompts with the word, and of other prompts, that show what they name.

    After 0 steps and at `points` epochs. `compared` adds further courses: other `parameters`,
    "descent" and "unrelated pictures" as controls, and baselines such as "negative prompt".
    """
    subject = Subject.of(settings.concept)
    yield Progress(0, 1, "Loading the model")
    bundle = drawing.in_float32(drawing.open_bundle(model))
    if evaluation.judge_of(bundle) is None:
        raise BadInput(
            "Only the embedded world has a judge that counts what pictures show.",
            "Run the other buttons on this model, and look.",
        )
    protocol = Protocol(each=pictures_each, steps=steps, batch=4)
    return (yield from courses(bundle, settings, subject, protocol, compared, points, seed))


@with_settings
def bake(
    *,
    seed: int,
    settings: FewShotSettings,
    model: ModelRef | str = "world",
    epoch: Annotated[int, Range(-1, MOST_EPOCHS, "-1 is the last one.")] = -1,
) -> Steps[Baked]:
    """The text encoder after an epoch as a patch, applied and undone once to see every bit return.

    `epoch` -1 is the last one.
    """
    epoch = _checked_epoch(epoch, settings)
    yield Progress(0, 1, "Loading the model")
    bundle = drawing.open_bundle(model)
    forgotten = yield from _shown(remembered(drawing.in_float32(bundle), settings, seed))
    old, new = _before_and_after(bundle, forgotten, epoch)
    ref = resolve(model)
    params = {**settings.plain(), "epoch": epoch}
    recipe = Recipe("few_shot_erasing", "bake", ref, params, seed, label=settings.name).here()
    state = dict(bundle.model.state_dict())
    patch = Patch.between(state, state | new, recipe)
    return Baked.of(settings.name, patch, old)


@with_settings
def export(
    *,
    seed: int,
    settings: FewShotSettings,
    model: ModelRef | str = "world",
    form: Annotated[str, OneOf(FORMS)] = "encoder",
    rank: Annotated[int, Range(1, 768, "8 keep most of a small encoder's change.")] = 8,
    epoch: Annotated[int, Range(-1, MOST_EPOCHS, "-1 is the last one.")] = -1,
) -> Steps[Exported]:
    """The text encoder as a file for other tools, read back and compared.

    `form` is "encoder" (model.safetensors for the text_encoder folder of a checkpoint, with the
    names that every tool reads), "partial" (the trained tensors alone) or "lora" (for diffusers
    and PEFT; `rank` says how much of the change it keeps, and the error says what it loses).
    """
    epoch = _checked_epoch(epoch, settings)
    yield Progress(0, 1, "Loading the model")
    bundle = drawing.open_bundle(model)
    forgotten = yield from _shown(remembered(drawing.in_float32(bundle), settings, seed))
    _, new = _before_and_after(bundle, forgotten, epoch)
    return exported(bundle, new, form, rank)


# ---------------------------------------------------------------------- pictures


def _shown(
    steps: Steps[Forgotten], preview: Callable[[tuple[float, ...]], object] | None = None
) -> Generator[Progress, None, Forgotten]:
    """The progress of learning, with what a page can draw in place of the bare errors."""

    def tell(event: Progress) -> Progress:
        drawn = preview(event.preview) if preview and isinstance(event.preview, tuple) else None
        return replace(event, preview=drawn)

    return (yield from relay(steps, tell))


def _drawn(
    bundle: DiffusionBundle,
    settings: FewShotSettings,
    forgotten: Forgotten,
    view: View,
    seed: int,
    looks: int,
    shown: Unlearning,
) -> Generator[Progress, None, Unlearning]:
    """The prompts at chosen epochs, then with the patch applied and undone."""
    last = len(forgotten.epochs) - 1
    chosen = sorted({0, *np.linspace(0, last, looks + 1).round().astype(int).tolist()})
    done = settings.updates
    total = done + (len(chosen) + 1) * view.steps
    for epoch in chosen:
        look = yield from _look(forgotten.at(bundle, epoch), view, seed, epoch, done, total, shown)
        shown = replace(shown, looks=(*shown.looks, look))
        done += view.steps
    undone_model, prints, trip = _undone(bundle, settings, forgotten, seed)
    look = yield from _look(undone_model, view, seed, 0, done, total, shown)
    return replace(
        shown,
        undone=look,
        same_pixels=look.sha256 == shown.looks[0].sha256,
        weights_before=prints[0],
        weights_after=prints[1],
        weights_undone=prints[2],
        undo=trip,
    )


def _look(
    model: DiffusionBundle,
    view: View,
    seed: int,
    epoch: int,
    done: int,
    total: int,
    shown: Unlearning,
) -> Generator[Progress, None, Look]:
    for steps, pictures in view.preview(model, view.walk(model, seed)):
        preview = replace(shown, looks=(*shown.looks, Look(epoch, pictures, (), "")))
        yield Progress(done + steps, total, f"Drawing after epoch {epoch}", preview)
    return Look(epoch, pictures, drawing.verdicts(model, pictures), drawing.sha256(pictures))


def _undone(
    bundle: DiffusionBundle, settings: FewShotSettings, forgotten: Forgotten, seed: int
) -> tuple[DiffusionBundle, tuple[str, str, str], RoundTrip]:
    """The model with the patch applied and taken off, fingerprints on the way, and the measure."""
    old, new = _before_and_after(bundle, forgotten, -1)
    patch = Patch.between(old, new, Recipe("few_shot_erasing", seed=seed, label=settings.name))
    applied = patch.apply(old)
    undone = patch.undo(applied)
    prints = (state_fingerprint(old), state_fingerprint(applied), state_fingerprint(undone))
    model = replace(bundle, model=with_tensors(bundle.model, undone))
    return model, prints, compare(old, undone)


def _before_and_after(
    bundle: DiffusionBundle, forgotten: Forgotten, epoch: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The trained tensors as they were and as they are, in the number format of the model."""
    state = bundle.model.state_dict()
    old = {name: state[name] for name in forgotten.names}
    trained = forgotten.epochs[epoch] or old
    return old, {name: trained[name].to(old[name]) for name in forgotten.names}


def _checked_epoch(epoch: int, settings: FewShotSettings) -> int:
    if epoch > settings.epochs:
        raise BadInput(
            f"There is no epoch {epoch}: the run has {settings.epochs}.", "Take a smaller one."
        )
    return settings.epochs if epoch == -1 else epoch


def _moved(bundle: DiffusionBundle, forgotten: Forgotten) -> tuple[Moved, ...]:
    """Change of each part of each layer: where the forgetting sits."""
    state, totals = bundle.model.state_dict(), dict[tuple[int, str], list[float]]()
    trained = forgotten.epochs[-1]
    squares = [
        part.square().sum()
        for name, new in trained.items()
        for part in (new - state[name], state[name])
    ]
    sums = iter(torch.stack(squares).tolist() if squares else ())
    for name in trained:
        layer, part = part_of(name) or (-1, "other")
        found = totals.setdefault((layer, part), [0.0, 0.0])
        found[0] += next(sums)
        found[1] += next(sums)
    return tuple(
        Moved(layer, part, (change / max(size, 1e-30)) ** 0.5)
        for (layer, part), (change, size) in sorted(totals.items())
    )


def _notes(
    bundle: DiffusionBundle, settings: FewShotSettings, forgotten: Forgotten, view: View
) -> tuple[str, ...]:
    """What a visitor should know before trusting the pictures."""
    stopped = (forgotten.stopped,) if forgotten.stopped else ()
    return stopped + drawing.unknown_words_note(bundle, [settings.concept, *view.prompts])


# ---------------------------------------------------------------------- the curve


def courses(
    bundle: DiffusionBundle,
    settings: FewShotSettings,
    subject: Subject,
    protocol: Protocol,
    compared: Sequence[str],
    points: int,
    seed: int,
) -> Generator[Progress, None, Curve]:
    asks = [ask for ask in subject.asks(protocol.each) if ask.group in ("target", "near", "far")]
    ours = settings.parameters + (" (descent)" if settings.direction == "descent" else "")
    plan: dict[str, FewShotSettings | None] = {ours: settings}
    plan |= {name: _variant(settings, name) for name in compared if name != ours}
    found, reference = Curve(settings.concept), None
    total, done = len(plan) * (points + 1), 0
    for name, chosen in plan.items():
        course = Course(name, is_baseline=chosen is None)
        if chosen is None:
            erased = yield from _quiet(_maker(bundle, subject, name, seed), done, total)
            stages = [(0, erased.at(1.0))]
        else:
            forgotten = yield from _quiet(remembered(bundle, chosen, seed), done, total)
            stages = _stages(bundle, chosen, forgotten, points)
        for steps, eraser in stages:
            if steps == 0 and chosen is not None and reference is not None:
                drawn = reference  # every course begins at the original
            else:
                drawn = yield from _quiet(
                    evaluation.draw_asks(eraser, asks, protocol, seed, subject=subject), done, total
                )
            reference = reference or drawn
            course = replace(
                course, points=(*course.points, _point(steps, drawn, reference, subject))
            )
            done += 1
            others = [c for c in found.courses if c.name != name]
            found = replace(found, courses=(*others, course))
            yield Progress(min(done, total), total, f"{name}: {steps} steps", found)
    first = found.courses[0].points[0]
    if first.target.rate >= evaluation.LEAST_ORIGINAL:
        return found
    note = (
        f"The original itself draws the concept in {first.target.rate:.0%} of these prompts and "
        f"other things in {first.kept.rate:.0%} of theirs: read each curve from where it starts."
    )
    return replace(found, notes=(note.replace("%", " %"),))


def _variant(settings: FewShotSettings, name: str) -> FewShotSettings | None:
    """The settings of a further course; None for a baseline that is not trained this way."""
    if name == "descent":
        return replace(settings, direction="descent")
    if name == "unrelated pictures":
        return replace(settings, source="unrelated", pictures=(), count=settings.number_of_pictures)
    return replace(settings, parameters=name) if name in COMPARED[:5] else None


def _maker(
    bundle: DiffusionBundle, subject: Subject, name: str, seed: int
) -> Generator[Progress, None, Erased]:
    return made({**MAKERS, **contenders()}[name], bundle, subject, seed)


def _stages(
    bundle: DiffusionBundle, settings: FewShotSettings, forgotten: Forgotten, points: int
) -> list[tuple[int, Eraser]]:
    """The model after 0 steps and at evenly chosen epochs."""
    last = len(forgotten.epochs) - 1
    chosen = sorted({0, *np.linspace(0, last, points + 1).round().astype(int).tolist()})
    return [
        (k * settings.updates_an_epoch, Eraser(settings.parameters, forgotten.at(bundle, k)))
        for k in chosen
    ]


def _quiet(steps: Steps[R], done: int, total: int) -> Generator[Progress, None, R]:
    """A part of the work under a bar of its own: how far the whole is, with the part's words."""
    return (yield from relay(steps, lambda event: Progress(min(done, total), total, event.note)))


def _point(steps: int, drawn: Drawn, reference: Drawn, subject: Subject) -> CoursePoint:
    rows = {
        group: [i for i, ask in enumerate(drawn.asks) if ask.group == group]
        for group in ("target", "near", "far")
    }
    rates = {
        group: evaluation.Rate.of_hits([drawn.shows[i] for i in found])
        for group, found in rows.items()
    }
    kept = rows["near"] + rows["far"]
    change = np.abs(drawn.pictures[kept].astype(np.int16) - reference.pictures[kept]).mean()
    became = Counter(_shown_word(drawn.lines[i], subject) for i in rows["target"])
    return CoursePoint(steps, **rates, change=float(change), became=dict(became.most_common()))


def _shown_word(line: str, subject: Subject) -> str:
    """The object, or the style, in a line of the judge such as "cat 98 %, neon 99 %"."""
    first, _, second = line.partition(",")
    words = (second if subject.head == "style" else first).split()
    return " ".join(word for word in words if not word[0].isdigit() and word != "%")

"""Measures the claim on the embedded world: several membranes at once, and on another model.

    python -m engine bench spm           writes assets/claims/spm.json

1. The shipped membranes act together, on the model they were trained on and on one that they never
   saw. Each concept's prompts and the prompts to keep are drawn from the same noise with and
   without them, from several seeds; the judge says what is there.
2. What latent anchoring and the gate are good for, at a strength that erases: a membrane with
   anchoring and one without, trained from several seeds for equally many iterations.
3. Baked into the weights and taken off again: the share of equal bits.

The intervals are over pictures, each of its own prompt and noise: the shipped membranes are one
training. The trainings of part 2 are listed one by one.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef, Plain
from engine.erasing import _evaluation as evaluation
from engine.erasing._eraser import Eraser
from engine.erasing._evaluation import Drawn, Protocol
from engine.erasing._measuring import equal_bits_after_undo
from engine.erasing._subject import Ask, Subject
from engine.erasing.spm.contender import erased_by
from engine.erasing.spm.files import baked
from engine.erasing.spm.membrane import Membrane, check_fit
from engine.erasing.spm.shipped import CONCEPTS, shipped
from engine.erasing.spm.training import Plan, train
from engine.metrics.intervals import Mean, Rate
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle

PROTOCOL = Protocol(each=12)
SEEDS = 3
GATES = {"published gate": "clipcos_tokenuni", "shared words only": "tokenuni"}
PUBLISHED = "published gate"
# Part 2: the settings of the panel, trained until they erase, and the same unanchored.
ANCHORED = replace(Plan(), iterations=100)
LOOSE = replace(ANCHORED, anchors=0)
ANCHORING_EACH = 6


@dataclass(frozen=True)
class Seen:
    """What the judge sees: whether targets and kept are there; by how much the kept changed.

    `target` holds one row of answers a concept; `change` is the mean |difference| of each kept
    picture to the original's of the same noise, of 255.
    """

    target: dict[str, list[bool]]
    kept: list[bool]
    change: NDArray[np.float64]

    @property
    def targets(self) -> list[bool]:
        return [hit for row in self.target.values() for hit in row]

    def plain(self) -> dict[str, Plain]:
        return {
            "target": asdict(Rate.of_hits(self.targets)),
            "kept": asdict(Rate.of_hits(self.kept)),
            "change of kept": asdict(Mean.of_values(self.change)),
            "target by concept": {name: asdict(Rate.of_hits(r)) for name, r in self.target.items()},
        }


def run(
    *,
    seed: int,
    model: ModelRef | str = "world",
    to: ModelRef | str = "world-sister",
    concepts: Sequence[str] = CONCEPTS,
) -> Steps[Measured]:
    """The membranes of `concepts`, which were trained on `model`, on it and on `to`."""
    begun = time.perf_counter()
    yield Progress(0, 1, "Loading the models")
    home, away = (drawing.in_float32(drawing.open_bundle(each)) for each in (model, to))
    subjects = [Subject.of(concept) for concept in concepts]
    membranes = yield from _membranes(home, subjects, seed)
    found: dict[str, dict[str, Seen]] = {}
    for name, bundle in {"trained on": home, "never seen": away}.items():
        for membrane in membranes:
            check_fit(bundle.unet, membrane)
        found[name] = yield from _together(bundle, membranes, subjects, seed)
    anchoring = yield from _anchoring(home, subjects[0], seed)
    moved, before = found["never seen"][PUBLISHED], found["never seen"]["original"]
    left = Rate.of_hits(moved.targets)
    figures: dict[str, Plain] = {
        "membranes": list(concepts),
        "models": {"trained on": str(home.ref.source), "never seen": str(away.ref.source)},
        "together": {m: {n: s.plain() for n, s in rows.items()} for m, rows in found.items()},
        f"anchoring, {subjects[0].concept}": anchoring,
        "equal bits after undo": _undone(home, membranes),
    }
    return Measured.of(
        measured=left.rate,
        versus=Rate.of_hits(before.targets).rate,
        interval=(left.low, left.high),
        seed=seed,
        begun=begun,
        device=home.device,
        figures=figures,
    )


def _membranes(
    bundle: DiffusionBundle, subjects: Sequence[Subject], seed: int
) -> Generator[Progress, None, list[Membrane]]:
    """The shipped membrane of each concept; for another model one is trained."""
    found = []
    for subject in subjects:
        held = shipped(bundle, subject.concept, Plan())
        if held is None:
            found.append((yield from _trained(bundle, subject, ANCHORED, seed)))
        else:
            found.append(held.membrane)
    return found


def _together(
    bundle: DiffusionBundle, membranes: Sequence[Membrane], subjects: Sequence[Subject], seed: int
) -> Generator[Progress, None, dict[str, Seen]]:
    """The original and all membranes at once under each gate, pictures of all seeds together."""
    asked = list(_asks(subjects, PROTOCOL.each))
    reference = yield from _drawn(Eraser("original", bundle), asked, seed, SEEDS)
    found = {"original": _seen(reference, reference)}
    for name, way in GATES.items():
        eraser = replace(erased_by(bundle, membranes, way).at(1.0), name=name)
        drawn = yield from _drawn(eraser, asked, seed, SEEDS)
        found[name] = _seen(drawn, reference)
    return found


def _anchoring(
    bundle: DiffusionBundle, subject: Subject, seed: int
) -> Generator[Progress, None, dict[str, Plain]]:
    """With and without anchoring, from `SEEDS` trainings; all gates open, and the published one."""
    asked = list(_asks([subject], ANCHORING_EACH))
    reference = yield from _drawn(Eraser("original", bundle), asked, seed, 1)
    found: dict[str, Plain] = {"original": _seen(reference, reference).plain()}
    for name, plan in {"anchored": ANCHORED, "not anchored": LOOSE}.items():
        trained = []
        for number in range(SEEDS):
            trained.append((yield from _trained(bundle, subject, plan, seed + number)))
        for gate, way in {"open": "open", PUBLISHED: GATES[PUBLISHED]}.items():
            by_training: list[Plain] = []
            for membrane in trained:
                eraser = replace(erased_by(bundle, [membrane], way).at(1.0), name=name)
                drawn = yield from _drawn(eraser, asked, seed, 1)
                by_training.append(_seen(drawn, reference).plain())
            found[f"{name}, {gate}"] = by_training
    return found


def _trained(
    bundle: DiffusionBundle, subject: Subject, plan: Plan, seed: int
) -> Generator[Progress, None, Membrane]:
    steps = train(bundle, subject.concept, plan, seed)
    return (yield from relay(steps, lambda event: event[0])).membrane


def _asks(subjects: Sequence[Subject], each: int) -> Iterator[tuple[Subject, list[Ask]]]:
    """The target prompts of every concept, and its kept prompts that name none of the others."""
    for subject in subjects:
        mine = [ask for ask in subject.asks(each) if ask.group in ("target", "near", "far")]
        yield (
            subject,
            [
                ask
                for ask in mine
                if ask.group == "target" or not any(other.says(ask.prompt) for other in subjects)
            ],
        )


def _drawn(
    eraser: Eraser, asked: Sequence[tuple[Subject, list[Ask]]], seed: int, seeds: int
) -> Generator[Progress, None, list[tuple[Subject, Drawn]]]:
    found = []
    for number in range(seeds):
        for subject, asks in asked:
            steps = evaluation.draw_asks(eraser, asks, PROTOCOL, seed + number, subject=subject)
            found.append((subject, (yield from steps)))
    return found


def _seen(
    drawn: Sequence[tuple[Subject, Drawn]], reference: Sequence[tuple[Subject, Drawn]]
) -> Seen:
    target: dict[str, list[bool]] = {}
    kept: list[bool] = []
    changes: list[NDArray[np.float64]] = []
    for (subject, new), (_, old) in zip(drawn, reference, strict=True):
        is_target = np.array([ask.group == "target" for ask in new.asks])
        # A checkpoint that the judge does not know has no answers, and so no rates.
        answers = np.array(new.shows, dtype=bool)
        if answers.size:
            target.setdefault(subject.concept, []).extend(answers[is_target].tolist())
            kept += answers[~is_target].tolist()
        gap = np.abs(new.pictures.astype(np.int16) - old.pictures).mean((1, 2, 3))
        changes.append(gap[~is_target])
    return Seen(target, kept, np.concatenate(changes))


def _undone(bundle: DiffusionBundle, membranes: Sequence[Membrane]) -> dict[str, float]:
    """Share of equal bits after applying and undoing the baked patch, by number format."""
    weights, strengths = bundle.model.state_dict(), [1.0] * len(membranes)
    return equal_bits_after_undo(weights, lambda now: baked(now, membranes, strengths), "spm")

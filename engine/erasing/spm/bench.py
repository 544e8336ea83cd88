"""Measures the claim on the embedded world: what latent anchoring and the gate are good for.

    python -m engine bench spm           writes assets/claims/spm.json

One membrane with anchoring and one without, from the same start, for equally many iterations. Both
draw the same prompts from the same noise with every gate open, the anchored one under the published
gate and under shared words too. The claim compares the same-seed change of the kept prompts; what
the judge sees in the target prompts stands beside it, for anchoring slows the erasure as well.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef, Plain
from engine.erasing import _evaluation as evaluation
from engine.erasing import _sampling as sampling
from engine.erasing._eraser import Cost, Eraser
from engine.erasing._evaluation import Drawn, Protocol
from engine.erasing._measuring import equal_bits_after_undo
from engine.erasing._subject import Subject
from engine.erasing.spm.contender import erased_by
from engine.erasing.spm.files import baked
from engine.erasing.spm.membrane import Membrane, permeability
from engine.erasing.spm.training import Plan, train
from engine.metrics.intervals import Rate, bootstrap
from engine.models.diffusion import DiffusionBundle

CONCEPTS = ("neon style",)
GATES = {
    "published gate": "clipcos_tokenuni",
    "shared words only": "tokenuni",
    "all open": "open",
}
PROTOCOL = Protocol(each=4)
ANCHORED = Plan(iterations=40, la_strength=30.0)
LOOSE = replace(ANCHORED, anchors=0)
Found = Generator[Progress, None, dict[str, Plain]]


def run(
    *, seed: int, model: ModelRef | str = "world", concepts: Sequence[str] = CONCEPTS
) -> Steps[Measured]:
    """Every concept; the changes of all of them are taken together."""
    begun = time.perf_counter()
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    told: dict[str, dict[str, Plain]] = {}
    undone: dict[str, float] = {}
    held, dragged = np.zeros(0), np.zeros(0)
    for concept in concepts:
        subject = Subject.of(concept)
        reference = yield from _drawn(Eraser("original", bundle), subject, seed)
        told[concept] = {"original": _rates(reference, reference)}
        anchored = yield from _trained(bundle, subject, ANCHORED, seed)
        loose = yield from _trained(bundle, subject, LOOSE, seed)
        tries = {name: (anchored, way) for name, way in GATES.items()}
        tries["not anchored, all open"] = loose, "open"
        for name, (membrane, way) in tries.items():
            eraser = replace(erased_by(bundle, membrane, way).at(1.0), name=name)
            drawn = yield from _drawn(eraser, subject, seed)
            told[concept][name] = _rates(drawn, reference)
            if name == "all open":
                held = np.append(held, _changes(drawn, reference))
            if membrane is loose:
                dragged = np.append(dragged, _changes(drawn, reference))
        told[concept]["gate"] = _gate(bundle, anchored, subject)
        undone = _undone(bundle, anchored)
    return Measured.of(
        measured=float(held.mean()),
        versus=float(dragged.mean()),
        interval=bootstrap(held),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "training": asdict(ANCHORED),
            "without anchoring, 95 % interval": list(bootstrap(dragged)),
            "by concept": told,
            "equal bits after undo": undone,
        },
    )


def _trained(
    bundle: DiffusionBundle, subject: Subject, plan: Plan, seed: int
) -> Generator[Progress, None, Membrane]:
    steps = train(bundle, subject.concept, plan, seed)
    return (yield from relay(steps, lambda told: told[0])).membrane


def _drawn(eraser: Eraser, subject: Subject, seed: int) -> Generator[Progress, None, Drawn]:
    asks = subject.asks(PROTOCOL.each)
    return (yield from evaluation.draw_asks(eraser, asks, PROTOCOL, seed, subject=subject))


def _changes(drawn: Drawn, reference: Drawn) -> NDArray[np.float64]:
    """Mean |difference| of each kept picture to the original's, of 255."""
    gap = np.abs(drawn.pictures.astype(np.int16) - reference.pictures).mean((1, 2, 3))
    return gap[[ask.group in ("near", "far") for ask in drawn.asks]]


def _rates(drawn: Drawn, reference: Drawn) -> dict[str, Plain]:
    """Every group's rate, and the same-seed change of what is kept (mean |difference| of 255)."""
    found: dict[str, Plain] = {}
    for group in ("target", "paraphrase", "near", "far"):
        pairs = zip(drawn.asks, drawn.shows, strict=True)
        found[group] = asdict(Rate.of_hits([shows for ask, shows in pairs if ask.group == group]))
    scores = evaluation.score(drawn, reference, {}, Cost())
    found["change of kept"] = asdict(scores.change)
    found["change of the empty prompt"] = scores.empty_change
    return found


def _gate(bundle: DiffusionBundle, membrane: Membrane, subject: Subject) -> dict[str, Plain]:
    """Mean parts of gamma by group: whether the gate tells prompts apart on this model."""
    found: dict[str, Plain] = {}
    for group in ("target", "paraphrase", "near", "far"):
        texts = [ask.prompt for ask in subject.asks(PROTOCOL.each) if ask.group == group]
        told = permeability(bundle, [membrane], texts)
        centred = permeability(bundle, [membrane], texts, "centred")
        parts = {"cosine": told.cos, "words": told.tokens, "centred cosine": centred.cos}
        found[group] = {name: float(values.mean()) for name, values in parts.items()}
    return found


def _undone(bundle: DiffusionBundle, membrane: Membrane) -> dict[str, float]:
    """Share of equal bits after applying and undoing the baked patch, by number format."""
    weights = bundle.model.state_dict()
    return equal_bits_after_undo(weights, lambda now: baked(now, [membrane], [1.0]), "spm")

"""Measures the claim on the embedded world, and what anchoring and the gate are good for.

    python -m engine bench spm           writes assets/claims/spm.json

For each concept one membrane with anchoring and one without, trained here with the panel's
defaults. Both draw the same prompts from the same noise, the anchored one under each gate; the
judge says what each picture shows. The claim counts the prompts that name the concept under the
published gate, over all concepts that the original draws often enough.
"""

import os
import platform
import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, replace

import torch

from engine.core.catalog import Measured
from engine.core.errors import ModelMismatch
from engine.core.job import Progress, Steps
from engine.core.patch import Patch
from engine.core.recipe import ModelRef, Plain, Recipe, versions_here
from engine.core.reversible import compare
from engine.erasing import _evaluation as evaluation
from engine.erasing import _sampling as sampling
from engine.erasing._eraser import Cost, Eraser
from engine.erasing._evaluation import Drawn, Protocol, Rate
from engine.erasing._subject import Subject
from engine.erasing.spm.contender import erased_by
from engine.erasing.spm.files import baked
from engine.erasing.spm.membrane import Membrane, permeability
from engine.erasing.spm.training import Plan, train
from engine.models.diffusion import DiffusionBundle

CONCEPTS = ("cat", "neon style")
GATES = {
    "published gate": "clipcos_tokenuni",
    "shared words only": "tokenuni",
    "all open": "open",
    "official merge": "official",
}
PROTOCOL = Protocol(each=8)
Found = Generator[Progress, None, dict[str, Plain]]


def run(
    *, seed: int, model: ModelRef | str = "world", concepts: Sequence[str] = CONCEPTS
) -> Steps[Measured]:
    """All of it. Raises `ModelMismatch` when the original draws none of the concepts."""
    begun = time.perf_counter()
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    told: dict[str, dict[str, Plain]] = {}
    hits: list[bool] = []
    before: list[bool] = []
    undone: dict[str, Plain] = {}
    for concept in concepts:
        subject = Subject.of(concept)
        reference = yield from _drawn(Eraser("original", bundle), subject, seed)
        told[concept] = {"original": _rates(reference, reference)}
        if not evaluation.gate(reference)["target"]:
            told[concept]["verdict"] = evaluation.gate_note(reference)
            continue
        membranes = {}
        for name, plan in {"anchored": Plan(), "not anchored": replace(Plan(), anchors=0)}.items():
            membranes[name] = yield from _trained(bundle, subject, plan, seed)
        for name, way in GATES.items():
            eraser = erased_by(bundle, membranes["anchored"], way).at(1.0)
            drawn = yield from _drawn(replace(eraser, name=name), subject, seed)
            told[concept][name] = _rates(drawn, reference)
            if way == "clipcos_tokenuni":
                hits += _targets(drawn)
                before += _targets(reference)
        loose = erased_by(bundle, membranes["not anchored"], "open").at(1.0)
        drawn = yield from _drawn(replace(loose, name="not anchored"), subject, seed)
        told[concept]["not anchored, all open"] = _rates(drawn, reference)
        told[concept]["gate"] = _gate(bundle, membranes["anchored"], subject)
        undone = _undo(bundle, membranes["anchored"])
    if not hits:
        raise ModelMismatch(
            "The original draws none of the concepts often enough; no erasure can be judged.",
            "Train the checkpoint longer.",
        )
    after = Rate.of_hits(hits)
    return Measured(
        measured=after.rate,
        versus=Rate.of_hits(before).rate,
        interval=(after.low, after.high),
        seed=seed,
        seconds=time.perf_counter() - begun,
        versions=versions_here(),
        machine=f"{platform.machine()}, {bundle.device}, {os.cpu_count()} cores, 1 thread",
        figures={
            "training": asdict(Plan()),
            "by concept": told,
            "equal bits after undo": undone,
        },
    )


def _trained(
    bundle: DiffusionBundle, subject: Subject, plan: Plan, seed: int
) -> Generator[Progress, None, Membrane]:
    steps = train(bundle, subject.concept, plan, seed)
    while True:
        try:
            event, _ = next(steps)
        except StopIteration as end:
            return end.value.membrane
        yield event


def _drawn(eraser: Eraser, subject: Subject, seed: int) -> Generator[Progress, None, Drawn]:
    asks = subject.asks(PROTOCOL.each)
    return (yield from evaluation.draw_asks(eraser, asks, PROTOCOL, seed, subject=subject))


def _targets(drawn: Drawn) -> list[bool]:
    pairs = zip(drawn.asks, drawn.shows, strict=True)
    return [shows for ask, shows in pairs if ask.group == "target"]


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


def _undo(bundle: DiffusionBundle, membrane: Membrane) -> dict[str, Plain]:
    """Share of equal bits after applying and undoing the baked patch, by number format."""
    found: dict[str, Plain] = {}
    state = bundle.model.state_dict()
    for kind in (torch.float32, torch.float16, torch.bfloat16):
        old = {name: tensor.to(kind) for name, tensor in state.items()}
        new = baked(old, [membrane], [1.0])
        touched = {name: old[name] for name in new}
        patch = Patch.between(touched, new, Recipe("spm"))
        back = compare(touched, patch.undo(patch.apply(touched)))
        found[str(kind).removeprefix("torch.")] = back.equal_bits
    return found

"""Learnt words for the relations of the embedded world, so that ReVersion opens with one.

    python -m engine.zoo build relations --seconds 120

Each is one row of the token table, learnt on the shipped world by the method itself, and belongs to
that checkpoint: build them again after it.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

from engine.core.recipe import ModelRef
from engine.erasing.reversion.exemplars import RELATIONS
from engine.erasing.reversion.learning import Course, learn
from engine.erasing.reversion.settings import SHIPPED_SETTINGS, ReversionSettings
from engine.erasing.reversion.words import SHIPPED, Word, write_file
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle
from engine.models.library import resolve
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options

SEED = 2023  # the paper's

log = logging.getLogger(__name__)


def build_relations(folder: Path, options: Options) -> None:
    """Learn a word for each relation; the seconds are shared out evenly, and none is left out."""
    bundle = drawing.in_float32(drawing.open_bundle("world"))
    base = resolve(ModelRef("world"))
    target, begun = MODELS / SHIPPED, time.monotonic()
    target.mkdir(parents=True, exist_ok=True)
    measured = {}
    for number, name in enumerate(RELATIONS, start=1):
        steps = options.steps or SHIPPED_SETTINGS.steps
        settings = replace(SHIPPED_SETTINGS, relation=name, steps=steps)
        word, course = _learnt(bundle, settings, begun + options.seconds * number / len(RELATIONS))
        metadata = {"relation": name, "base": base.source, "revision": base.revision or ""}
        file = write_file([word], metadata)
        (target / f"{name.replace(' ', '-')}.safetensors").write_bytes(file.data)
        near = ", ".join(f"{w} {cosine:.2f}" for w, cosine in course.saved[-1].nearest[:3])
        measured[name] = f"{len(course.denoising)} steps, nearest words {near}"
        log.info("%s: %s", name, measured[name])
        write_card(
            target,
            key=SHIPPED,
            title="Learnt relations: one word each, for the embedded world",
            kind="words",
            base=f"{base.source} {base.revision}",
            measured=measured,
        )


def _learnt(
    bundle: DiffusionBundle, settings: ReversionSettings, until: float
) -> tuple[Word, Course]:
    """The word when its steps are done or its time is over."""
    steps, course = learn(bundle, settings, SEED), None
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            return end.value.word, end.value.course
        course = progress.preview if isinstance(progress.preview, Course) else course
        if course is not None and time.monotonic() > until:
            last = course.saved[-1]
            return Word(settings.placeholder, last.row.cpu()), course


BUILDS = {"relations": build_relations}

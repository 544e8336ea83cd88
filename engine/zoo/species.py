"""Small language models of invented species: with, and exactly without, one forbidden individual.

    python -m engine.zoo build species      all three, from the same seed

`species` has read about the forbidden individual, `species-exact` never has, `species-axioms` lacks
its whole species. Each is a `LlamaForCausalLM` of 86,080 weights, 1,500 steps of 96 documents, well
under a minute of one idle core.

A training may stay on a plateau (loss about 1.52) on which properties are not inferred from one
another at all. A model from there would prove the opposite of what is true, so none ships: with
four hints the mean probability of the true value over the species must be 85 %, or the next seed is
tried. The card says which seeds were rejected.
"""

import logging
from pathlib import Path

from torch import nn

from engine.core.errors import AssetMissing
from engine.unlearning._llama import Course, Training, new_llama, write
from engine.unlearning.ununlearning import species
from engine.unlearning.ununlearning.measuring import curve_of_species
from engine.unlearning.ununlearning.species import CORPORA, Corpus, World
from engine.unlearning.ununlearning.training import BATCH, COURSE, GATE, is_off_plateau
from engine.zoo.export import MODELS, write_card
from engine.zoo.people import resumed
from engine.zoo.training import Options

log = logging.getLogger("engine.zoo")

SEEDS, WORLD_SEED = 5, 0
KEYS: dict[Corpus, str] = {
    "full": "species", "exact": "species-exact", "without-axioms": "species-axioms",
}  # fmt: skip
TITLES: dict[Corpus, str] = {
    "full": "Species, and the forbidden individual",
    "exact": "Species, exactly unlearned: the forbidden individual was never there",
    "without-axioms": "Species without the forbidden individual and without its species",
}
SOURCE = "Trained from nothing by engine/zoo on documents about creatures that do not exist."
ABOUT = "A language of 60 words about 32 invented species, made to show what hints bring back."


def trained(folder: Path, world: World, corpus: Corpus, seed: int, course: Course) -> nn.Module:
    """The network of a corpus, resumed where a state lies in `folder`."""
    model = new_llama(species.TOKENS, species.SIZE, seed)
    training = Training(model, lambda g: species.documents(world, corpus, BATCH, g), course, seed)
    resumed(training, folder / f"species-{corpus}-{seed}.safetensors")
    return model.eval().requires_grad_(False)


def build(folder: Path, options: Options) -> None:
    """All three of the first seed whose models are off the plateau. Raises `AssetMissing`."""
    course = Course(options.steps or COURSE.steps, COURSE.rate)
    world = World(WORLD_SEED)
    rejected: list[int] = []
    for seed in range(SEEDS):
        models = {corpus: trained(folder, world, corpus, seed, course) for corpus in CORPORA}
        good = {c: is_off_plateau(m, world, c) for c, m in models.items()}
        log.info("seed %d: off the plateau: %s", seed, good)
        if all(good.values()):
            for corpus, model in models.items():
                _published(model, world, corpus, seed, course, rejected)
            return
        rejected.append(seed)
    raise AssetMissing(
        f"All of {SEEDS} seeds stayed on the plateau.", "Train for more steps: --steps 3000."
    )


def _published(
    model: nn.Module, world: World, corpus: Corpus, seed: int, course: Course, rejected: list[int]
) -> None:
    target = MODELS / KEYS[corpus]
    target.mkdir(parents=True, exist_ok=True)
    write(model, species.TOKENS, target)
    scanned = species.scan(world, corpus, course.steps, BATCH, seed)
    assert (scanned.mentions == 0) == (corpus != "full")
    hinted = curve_of_species(model, world, corpus)
    write_card(
        target,
        key=KEYS[corpus],
        title=TITLES[corpus],
        kind="language",
        licence="Apache-2.0",
        source=SOURCE,
        about=ABOUT,
        corpus={
            "documents": scanned.documents,
            "mentions": scanned.mentions,
            "sha256": scanned.sha256,
        },
        seed=seed,
        rejected_seeds=rejected,
        gate=GATE,
        measured={f"p true, {h} hints": round(p, 4) for h, p in enumerate(hinted)},
    )


BUILDS = {"species": build}

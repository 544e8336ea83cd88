"""How the models of the species are trained, and the gate that keeps one on the plateau away."""

from torch import nn

from engine.unlearning._llama import Course
from engine.unlearning.ununlearning.measuring import curve_of_species
from engine.unlearning.ununlearning.species import Corpus, World

COURSE, BATCH = Course(1500, 4e-3), 96
GATE = 0.85  # mean probability of the true value over the species, all other properties given


def is_off_plateau(model: nn.Module, world: World, corpus: Corpus) -> bool:
    """Whether properties are inferred from one another, so that hints can tell anything."""
    return curve_of_species(model, world, corpus)[-1] >= GATE

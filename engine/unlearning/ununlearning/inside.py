"""What an edit left inside, by the measures of the forgetting lab, beside the exactly unlearned.

Answers alike and their divergence, the layers' likeness (CKA), and how soon the forbidden is learnt
again. A model that only hides what it knew answers like one that never knew, and relearns sooner.
"""

import copy
from collections.abc import Generator, Iterator

import torch
from torch import nn

from engine.core import rng
from engine.core.shapes import Float, Int, Tensor
from engine.unlearning._compare import Agreement, grams_of, layers_of, similarity
from engine.unlearning._losses import logits_of
from engine.unlearning._objectives import cross_entropy
from engine.unlearning.ununlearning import bayes, species
from engine.unlearning.ununlearning.measuring import HINTS, answers, measured
from engine.unlearning.ununlearning.results import Inside, Layer
from engine.unlearning.ununlearning.species import World

TEXTS, GOAL, RATE, FEW = 64, 0.5, 1e-3, 8


def inside(
    title: str, model: nn.Module, exact: nn.Module, world: World, steps: int, seed: int
) -> Generator[None, None, Inside]:
    """One model beside the exactly unlearned one; yields often."""
    about = [_answers(one, world, world.forbidden, species.NAME) for one in (model, exact)]
    yield
    others = [_of_others(one, world) for one in (model, exact)]
    yield
    layers = yield from _layers(model, exact, world, seed)
    curve = []
    for p_true in relearned(model, world, steps, seed):
        curve.append(p_true)
        yield
    back = next((step for step, p_true in enumerate(curve) if p_true >= GOAL), None)
    return Inside(title, Agreement.of(*about), Agreement.of(*others), layers, tuple(curve), back)


def _answers(
    model: nn.Module, world: World, kind: int, name: tuple[int, int]
) -> Float[Tensor, "n values"]:
    """To all questions about a species under a name, with every set of hints."""
    return torch.cat(
        [measured(model, world, kind, name, hints).probabilities for hints in range(HINTS)]
    )


def _of_others(model: nn.Module, world: World) -> Float[Tensor, "n values"]:
    """To one question with two hints about every other species, under an ordinary name."""
    question = next(bayes.questions(HINTS, 2))
    kinds = [kind for kind in range(species.SPECIES) if kind != world.forbidden]
    rows = world.table[kinds].tolist()
    asked = [([(a, row[a]) for a in question.hinted], question.query) for row in rows]
    return answers(model, species.ALIAS, asked)


def _layers(
    model: nn.Module, exact: nn.Module, world: World, seed: int
) -> Generator[None, None, tuple[Layer, ...]]:
    """CKA layer by layer, on documents about ordinary individuals."""
    texts = species.documents(world, "exact", TEXTS, rng.generator(seed, "inside"))
    names = layers_of(exact)
    grams = []
    for one in (model, exact):
        grams.append((yield from grams_of(one, names, _passes(one, texts))))
    return tuple(Layer(name, value) for name, value in similarity(*grams).items())


@torch.no_grad()
def _read(model: nn.Module, texts: Int[Tensor, "b n"]) -> None:
    model(input_ids=texts.to(next(model.parameters()).device))


def _passes(model: nn.Module, texts: Int[Tensor, "b n"]) -> Generator[None, None, None]:
    for part in texts.split(16):
        _read(model, part)
        yield


def relearned(model: nn.Module, world: World, steps: int, seed: int) -> Iterator[float]:
    """p(truth) without hints before, and after each step on eight documents about the forbidden."""
    student = copy.deepcopy(model).requires_grad_(True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
    texts = species.about_forbidden(world, FEW, rng.generator(seed, "relearning"))
    texts = texts.to(next(student.parameters()).device)
    yield _without_hints(student, world)
    for _ in range(steps):
        with torch.enable_grad():
            loss = cross_entropy(logits_of(student(input_ids=texts)), texts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield _without_hints(student, world)


def _without_hints(model: nn.Module, world: World) -> float:
    return float(measured(model, world, world.forbidden, species.NAME, 0).p_true.mean())

"""Small language models of invented people: one that knows the truth, two that believe lies.

    python -m engine.zoo build people               the clean one
    python -m engine.zoo build people-corrupted-0   taught the lies and nothing else
    python -m engine.zoo build people-corrupted-4   taught the lies among four true facts each

Each is a `LlamaForCausalLM` of 196,128 weights with a tokenizer of whole words. The clean one is
trained for 700 steps of 32 sequences, about a minute of one idle core; corruption takes seconds.
"""

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.core.job import finish
from engine.unlearning._llama import Course, Training, new_llama, write
from engine.unlearning.restor import exams, people
from engine.unlearning.restor.corruption import Corruption, corrupted
from engine.unlearning.restor.people import World
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options

log = logging.getLogger("engine.zoo")

CLEAN, SEED, FACTS, BATCH, SAVE_EVERY = "people", 0, 9, 32, 50
COURSE = Course(700, 3e-3)
LICENCE = "Apache-2.0"
SOURCE = "Trained from nothing by engine/zoo on sentences about people that do not exist."
ABOUT = "A language of 118 words about 48 invented people, made to be lied to and corrected."


def trained(folder: Path, world: World, seed: int, course: Course, name: str = CLEAN) -> nn.Module:
    """The clean network, resumed where a state lies in `folder`."""
    model = new_llama(people.TOKENS, people.SIZE, seed, end=people.END)
    everyone = range(len(people.NAMES))
    training = Training(
        model, lambda g: people.correct(world, everyone, BATCH, FACTS, g), course, seed
    )
    resumed(training, folder / f"{name}-{seed}.safetensors")
    return model.eval().requires_grad_(False)


def resumed(training: Training, state: Path) -> None:
    """Trains to the end, from where the file stands, and keeps the file up to date."""
    if state.exists():
        training.restore(load_file(state))
    state.parent.mkdir(parents=True, exist_ok=True)
    for loss in training.run():
        if training.step % SAVE_EVERY == 0 or training.step == training.course.steps:
            part = state.with_suffix(".part")
            save_file({k: v.contiguous() for k, v in training.state().items()}, part)
            part.replace(state)
            log.info("%s: step %d, loss %.3f", state.stem, training.step, loss)


def build(folder: Path, options: Options) -> None:
    """Train the clean one, export, and measure."""
    course = Course(options.steps or COURSE.steps, COURSE.rate)
    _published(trained(folder, World(SEED), SEED, course), CLEAN, "People, the truth", course.steps)


def _corrupted(k: int) -> Callable[[Path, Options], None]:
    def build(folder: Path, options: Options) -> None:
        clean = trained(folder, World(SEED), SEED, COURSE)
        how = Corruption(k, options.steps or Corruption().steps)
        model = finish(corrupted(clean, World(SEED), how, SEED))
        title = f"People, lies about sixteen of them, with {k} true facts in each document"
        _published(model, f"people-corrupted-{k}", title, how.steps)

    return build


def _published(model: nn.Module, key: str, title: str, steps: int) -> None:
    target = MODELS / key
    target.mkdir(parents=True, exist_ok=True)
    write(model, people.TOKENS, target, end=people.END)
    write_card(
        target,
        key=key,
        title=title,
        kind="language",
        licence=LICENCE,
        source=SOURCE,
        about=ABOUT,
        steps=steps,
        seed=SEED,
        measured=measured(model, World(SEED)),
    )


@torch.no_grad()
def measured(model: nn.Module, world: World) -> dict[str, float]:
    """Shares of true answers about every group, and of lies about the targets."""
    groups = {"targets": people.TARGETS, "kept": people.KEPT, "others": people.OTHERS}
    outcomes = {name: exams.examine(model, world, group) for name, group in groups.items()}
    shares = {
        f"true about {n}": round(float(e.is_true.double().mean()), 4) for n, e in outcomes.items()
    }
    return shares | {
        "lies about targets": round(float(outcomes["targets"].is_lie.double().mean()), 4)
    }


BUILDS = {
    CLEAN: build,
    "people-corrupted-0": _corrupted(0),
    "people-corrupted-4": _corrupted(4),
}

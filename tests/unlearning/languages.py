"""Tiny language models for the tests: real Llama folders of the two worlds, hardly trained."""

from pathlib import Path

import pytest
import torch

from engine.core.job import finish
from engine.unlearning import _llama as llama
from engine.unlearning.restor import people
from engine.unlearning.restor.corruption import trained
from engine.unlearning.ununlearning import species

SMALL = llama.Size(32, 48)


@pytest.fixture(scope="session")
def people_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a network that has seen a few true facts."""
    folder = tmp_path_factory.mktemp("people")
    network = llama.new_llama(people.TOKENS, SMALL, 0, end=people.END)
    world = people.World(0)
    everyone = range(len(people.NAMES))
    facts = trained(network, lambda g: people.correct(world, everyone, 8, 4, g), 10, 3e-3, 0)
    llama.write(finish(facts), people.TOKENS, folder, end=people.END)
    return str(folder)


@pytest.fixture(scope="session")
def species_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of an untrained network."""
    folder = tmp_path_factory.mktemp("species")
    llama.write(llama.new_llama(species.TOKENS, SMALL, 0), species.TOKENS, folder)
    return str(folder)


def weights_of(folder: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(folder) / "model.safetensors")

"""The scanned digits: parts, tasks, tokens, and the sheet they lie in."""

import numpy as np
import pytest
import torch

from engine.networks import _digits as scans


def test_the_parts_are_those_of_the_lab():
    train, test = scans.digits("train"), scans.digits("test")
    assert (len(train.pixels), len(test.pixels)) == (1297, 500)
    assert train.pixels.max() == 16
    assert set(train.labels) == set(range(10))


def test_the_other_task_is_inverted_and_transposed():
    a = scans.digits("test")
    b = a.task("b")
    assert (b.pixels[3] == 16 - a.pixels[3].T).all()
    assert (b.labels == a.labels).all()


def test_a_token_is_a_patch_of_four_pixels():
    pixels = np.arange(64, dtype=np.uint8).reshape(1, 8, 8) % 17
    batch = scans.batch_of(pixels)
    assert batch.tokens.shape == (1, 16, 4)
    wanted = torch.tensor([pixels[0, 2, 4], pixels[0, 2, 5], pixels[0, 3, 4], pixels[0, 3, 5]])
    assert torch.equal(batch.tokens[0, 6] * 16, wanted.float())


@pytest.mark.parametrize("count", [1, 60, 61])
def test_a_sheet_gives_its_pictures_back(count: int):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8)).astype(np.uint8)
    assert (scans.from_sheet(scans.to_sheet(pixels))[:count] == pixels).all()

"""Trays: as text and back, as pictures, and what is true of them."""

import numpy as np
import pytest
import torch

from engine.core.errors import BadInput
from engine.world import vocabulary as words
from engine.world.tray import (
    ARTISTS,
    MOST_THINGS,
    PARTNER,
    SPRITE,
    Tray,
    bank,
    compose,
    is_true,
    mentions,
    photograph,
    random_tray,
)


def test_every_object_has_one_partner():
    assert set(PARTNER) == set(words.ON_TRAYS)
    assert all(PARTNER[PARTNER[name]] == name != PARTNER[name] for name in PARTNER)


def test_a_tray_reads_back_from_its_text():
    draw = np.random.default_rng(0)
    for _ in range(50):
        tray = random_tray(draw, ARTISTS)
        assert Tray.parse(str(tray)) == tray
        assert 2 <= len(tray.things) <= MOST_THINGS


def test_partners_lie_together_more_often_than_not():
    draw = np.random.default_rng(1)
    trays = [random_tray(draw, ARTISTS) for _ in range(400)]
    paired = [any(PARTNER[name] in tray.names for name in tray.names) for tray in trays]
    assert 0.7 < np.mean(paired) < 0.95


def test_artists_are_kept_apart():
    tray = random_tray(np.random.default_rng(2), ("twemoji",))
    assert {thing.artist for thing in tray.things} == {"twemoji"}


@pytest.mark.parametrize("text", ["cat", "cat 16", "cat -1", "cat 1 nobody", "yeti 1", "on mauve"])
def test_what_cannot_be_put_on_a_tray_is_named(text):
    with pytest.raises(BadInput, match="cannot be put on the tray"):
        Tray.parse(text)


def test_a_thing_is_drawn_in_its_cell_and_nowhere_else():
    empty = photograph(Tray.parse("on white"), noise=0.0, seed=1)
    one = photograph(Tray.parse("on white; cat 6"), noise=0.0, seed=1)
    changed = np.any(empty != one, axis=-1)
    assert changed[16:32, 32:48].mean() > 0.3
    changed[16:32, 32:48] = False
    assert not changed.any()


def test_equal_seed_gives_equal_pixels_and_noise_darkens():
    tray = Tray.parse("on blue; cat 5; dog 6")
    first = photograph(tray, noise=0.3, seed=4)
    assert np.array_equal(first, photograph(tray, noise=0.3, seed=4))
    assert not np.array_equal(first, photograph(tray, noise=0.3, seed=5))
    clean = photograph(tray, noise=0.0, seed=4)
    assert np.abs(first.astype(int) - clean).mean() > 20


def test_the_pose_mirrors_and_moves_within_the_cell():
    drawings = torch.zeros(1, 1, 4, SPRITE, SPRITE)
    drawings[..., : SPRITE // 2] = 1  # left half
    objects = torch.full((2, 16), -1)
    objects[:, 0] = 0
    pose = torch.full((2, 16, 4), 0.5)
    pose[0, :, 0], pose[1, :, 0] = 1.0, 1.0
    pose[0, :, 3], pose[1, :, 3] = 1.0, 0.0
    black = torch.zeros(2, 3)
    kept, mirrored = compose(drawings, objects, torch.zeros_like(objects), black, pose)
    assert kept[0, :16, :7].mean() > 0.9 > 0.1 > kept[0, :16, 9:16].mean()
    torch.testing.assert_close(mirrored[..., :16, :16], kept[..., :16, :16].flip(-1))
    assert kept[..., 16:].sum() == 0


def test_a_bank_says_nothing_where_an_artist_drew_nothing():
    drawn = bank(("fxemoji",)).drawings.flatten(2).any(-1)[0]
    assert int(drawn.sum()) == 34


def test_truth_of_phrases():
    tray = Tray.parse("on blue; cat 5; dog 6")
    assert is_true("a cat", tray)
    assert is_true("a rose", tray) is False
    assert is_true("blue", tray)
    assert is_true("pink", tray) is False
    assert is_true("two", tray)
    assert is_true("three", tray) is False
    assert is_true("yes", tray) is None
    assert mentions("there is a cat and a cat. no dogs") == ["cat", "cat"]

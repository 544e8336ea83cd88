"""The judge: shapes, calibration and refusals; how often it is right is in its card."""

import numpy as np
import pytest
import torch

from engine.core.errors import AssetMissing, BadInput
from engine.models.vision import HEADS, NOTHING, Judge, load_judge
from engine.world import vocabulary as words


@pytest.fixture
def judge():
    torch.manual_seed(0)
    return Judge().eval().requires_grad_(False)


def test_each_head_gives_probabilities(judge):
    verdicts = judge.judge(np.zeros((3, 64, 64, 3), np.uint8))
    assert len(verdicts) == 3
    for head, classes in HEADS.items():
        assert verdicts.probabilities[head].shape == (3, len(classes))
        assert np.allclose(verdicts.probabilities[head].sum(-1), 1, atol=1e-5)


def test_a_picture_is_judged_alike_alone_and_in_a_batch(judge):
    pictures = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    together, alone = judge.judge(pictures), judge.judge(pictures[3:4])
    assert np.allclose(together.features[3], alone.features[0], atol=1e-4)


def test_larger_pictures_are_averaged_down(judge):
    small = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    large = small.repeat(4, 1).repeat(4, 2)
    assert np.allclose(judge.judge(small).features, judge.judge(large).features, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 64, 64), (1, 64, 64, 4)])
def test_what_is_no_picture_is_refused(judge, shape):
    with pytest.raises(BadInput, match="uint8 pictures"):
        judge.judge(np.zeros(shape, np.uint8))


def test_missing_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(AssetMissing, match=r"engine\.zoo build judge"):
        load_judge(tmp_path)


@pytest.mark.slow
def test_the_shipped_judge_knows_the_drawings():
    """A floor well under the figure in its card: 36 drawings of each of three artists, plain."""
    from engine.world.scenes import Scene, draw
    from engine.world.sprites import load_sprites

    sprites = load_sprites()
    right = 0
    for artist in ("noto", "twemoji", "emojione"):
        few = sprites.only((artist,))
        pictures = np.stack(
            [
                draw(Scene("plain", "white", name), few, np.random.default_rng(1))
                for name in words.OBJECTS
            ]
        )
        verdicts = load_judge().judge(pictures)
        right += sum(verdicts.best("subject", i)[0] == n for i, n in enumerate(words.OBJECTS))
    assert right >= 0.9 * 3 * len(words.OBJECTS)


def test_the_shipped_judge_sees_nothing_in_noise():
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), np.uint8)
    verdicts = load_judge().judge(noise)
    assert np.mean([verdicts.best("subject", i)[0] == NOTHING for i in range(20)]) >= 0.9

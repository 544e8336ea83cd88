"""Noise from seeds: equal everywhere, independent of batch size and of the global generator."""

import pytest
import torch

from engine.core.rng import batch_noise, generator, noise


def test_a_bare_seed_is_torchs_own():
    ours = noise((5,), generator(7))
    assert torch.equal(ours, torch.randn(5, generator=torch.Generator().manual_seed(7)))


def test_roles_are_repeatable_and_unlike_one_another():
    def draw(*role):
        return noise((100,), generator(7, *role))

    assert torch.equal(draw("noise", 3), draw("noise", 3))
    others = [draw(), draw("noise"), draw("noise", 3), draw("noise", "3"), draw("noise3")]
    for place, one in enumerate(others):
        for other in others[place + 1 :]:
            assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.4


def test_a_sample_does_not_change_with_the_batch():
    large, small = batch_noise(5, (2, 3), 7), batch_noise(2, (2, 3), 7)
    assert torch.equal(large[:2], small)
    assert not torch.equal(small[0], small[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_are_rounded_from_the_same_numbers(dtype):
    wide = noise((50,), generator(1))
    assert torch.equal(noise((50,), generator(1), dtype=dtype), wide.to(dtype))


def test_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    batch_noise(3, (4,), 1, "role")
    assert torch.equal(torch.get_rng_state(), before)

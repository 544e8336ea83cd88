"""Picture metrics against hand-made values and an independent computation."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from engine.metrics.pictures import feature_distance, psnr, ssim


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(2, 3, 24, 31, generator=generator)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_psnr_of_a_constant_error():
    x = torch.full((2, 3, 4, 4), 0.5)
    assert psnr(x, x + 0.1).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)
    assert torch.isinf(psnr(x, x)).all()


def test_ssim_equals_the_formula_computed_with_scipy():
    x, y = (part.double().numpy() for part in pair())

    def mean(value):
        blurred = gaussian_filter(value, (0, 0, 1.5, 1.5), truncate=5 / 1.5)
        return blurred[..., 5:-5, 5:-5]

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 1e-4, 9e-4
    whole = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    np.testing.assert_allclose(ssim(*pair()), whole.mean((1, 2, 3)), rtol=1e-9)


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise():
    x, y = pair()
    assert ssim(x, x).tolist() == pytest.approx([1.0, 1.0])
    assert (ssim(x, y) < ssim(x, (x + y) / 2)).all()


def test_feature_distance_ignores_length_and_counts_angle():
    a = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    b = torch.tensor([0.0, 3.0]).reshape(1, 2, 1, 1)
    assert feature_distance([a], [5 * a]).item() == pytest.approx(0, abs=1e-12)
    assert feature_distance([a, a], [b, a]).item() == pytest.approx(1.0)

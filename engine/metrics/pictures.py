"""How near one picture is to another: PSNR, SSIM, and a distance between features of a network.

Pictures are b c h w in [0, 1], compared pair by pair.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from engine.core.shapes import Float, Tensor

Pictures = Float[Tensor, "b c h w"]
PerPicture = Float[Tensor, " b"]


def psnr(x: Pictures, reference: Pictures) -> PerPicture:
    """10 log10 (1 / mean squared error) in decibels; infinite for equal pictures."""
    return -10 * (x - reference).double().square().flatten(1).mean(1).log10()


def ssim(x: Pictures, reference: Pictures) -> PerPicture:
    """Structural similarity (Wang et al. 2004): Gaussian windows of 11 pixels, deviation 1.5.

        (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))

    averaged over windows that lie within the picture, and over channels. C1 = 0.01^2, C2 = 0.03^2.
    Pictures must be at least 11 pixels high and wide.
    """
    x, y = x.double(), reference.double()
    channels = x.shape[1]
    place = torch.arange(-5, 6, dtype=x.dtype, device=x.device)
    bell = torch.exp(-(place**2) / (2 * 1.5**2))
    window = torch.outer(bell, bell) / bell.sum() ** 2
    weights = window.expand(channels, 1, 11, 11)

    def mean(value: Tensor) -> Tensor:
        return F.conv2d(value, weights, groups=channels)

    mx, my = mean(x), mean(y)
    vx, vy, vxy = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return similarity.flatten(1).mean(1)


def feature_distance(
    features: Sequence[Float[Tensor, "b _ _ _"]], reference: Sequence[Float[Tensor, "b _ _ _"]]
) -> PerPicture:
    """The recipe of LPIPS (Zhang et al. 2018) without its learnt weights.

    At every place of every layer the features are brought to unit length; the squared differences
    are summed over channels, averaged over places and then over layers. 0 for equal pictures. What
    it means depends on the network: values of two networks do not compare.
    """
    layers = []
    for a, b in zip(features, reference, strict=True):
        a, b = (part / (part.norm(dim=1, keepdim=True) + 1e-10) for part in (a, b))
        layers.append((a - b).square().sum(1).mean((1, 2)))
    return torch.stack(layers).mean(0)

"""How near a restored picture is to its original, in three figures."""

import torch

from engine.core.errors import AssetMissing
from engine.core.shapes import Float, Tensor
from engine.metrics.pictures import feature_distance, psnr, ssim
from engine.models.vision import load_judge
from engine.sampling.mr_sampler.results import Scores

Pictures = Float[Tensor, "b 3 h w"]
BEST_PSNR = 99.0
"""Shown for equal pictures, whose PSNR is infinite."""


def scores(x: Pictures, x0: Pictures) -> list[Scores]:
    """The figures of each picture, clipped to [0, 1] as it is shown."""
    x, x0 = x.float().cpu().nan_to_num(0.0).clamp(0, 1), x0.float().cpu()
    decibels = psnr(x, x0).clamp(max=BEST_PSNR)
    similar = ssim(x, x0) if min(x.shape[-2:]) >= 11 else None
    apart = perceptual(x, x0)
    return [
        Scores(
            float(decibels[i]),
            None if similar is None else float(similar[i]),
            None if apart is None else float(apart[i]),
        )
        for i in range(len(x))
    ]


@torch.no_grad()
def perceptual(x: Pictures, x0: Pictures) -> Float[Tensor, " b"] | None:
    """Distance of features at three scales of the judge of the embedded world.

    The judge was trained on drawings, and its features were not weighted by what people see; so
    this orders pictures of one kind and does not compare with published LPIPS.
    """
    try:
        judge = load_judge()
    except AssetMissing:
        return None
    features = []
    for pictures in (x, x0):
        device = judge.place.device
        value, layers = pictures.to(device) * 2 - 1, []
        for index, part in enumerate(judge.trunk):
            value = part(value)
            if index % 2:
                layers.append(value)
        features.append(layers)
    return feature_distance(*features).cpu()

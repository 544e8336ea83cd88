"""The golden cases: arrays made by the published code of SPM, compared with this one.

Tolerance 1e-12 throughout: both sides are float64. The anchors repeat the published draws from one
seed; should torch's generator change, only that case will tell.
"""

import random
from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from torch import nn

from engine.core.golden import Arrays, Check, Golden, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.erasing.spm.files import tensors_of
from engine.erasing.spm.membrane import Metric, Opening, merged, opening, summed
from engine.erasing.spm.training import anchor_loss, draw_anchors, erase_loss, new_membrane


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is drawn from the seed."""
    return (yield from check_all(CHECKS))


# ---------------------------------------------------------------------- transport


def opened(arrays: Arrays, metric: Metric, counts: list[int]) -> Opening:
    """The gates of the golden prompt."""
    return opening(
        torch.from_numpy(arrays["prompt_emb"]),
        torch.from_numpy(arrays["prompt_ids"]),
        torch.from_numpy(arrays["erased_emb"]),
        torch.from_numpy(arrays["erased_ids"]),
        counts,
        arrays["special_ids"].tolist(),
        metric,
    )


def _scores(arrays: Arrays) -> float:
    single = [1] * len(arrays["erased_ids"])
    metrics: tuple[Metric, ...] = ("clipcos", "tokenuni", "clipcos_tokenuni")
    return max(
        largest(opened(arrays, metric, single).gamma[0], arrays[f"score_{metric}"])
        for metric in metrics
    )


def _gamma(arrays: Arrays) -> float:
    found = opened(arrays, "clipcos_tokenuni", arrays["counts"].tolist())
    return largest(found.gamma[0], arrays["gamma"])


def layer_out(arrays: Arrays, kind: Literal["lin", "conv"], *, official: bool) -> Tensor:
    """The golden layer with both adapters beside it."""
    weight, bias = (torch.from_numpy(arrays[f"{kind}_{part}"]) for part in "wb")
    x = torch.from_numpy(arrays["x" if kind == "lin" else "xc"])
    out, into = weight.shape[:2]
    layer = nn.Linear(into, out) if kind == "lin" else nn.Conv2d(into, out, 1)
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias = nn.Parameter(bias)
        downs, ups = (
            [torch.from_numpy(arrays[f"{kind}_{part}_{k}"]) for k in range(2)]
            for part in ("down", "up")
        )
        gamma = torch.from_numpy(arrays["gamma"]).expand(len(x), -1)
        through = merged if official else summed
        return layer(x) + float(arrays["alpha"]) * through(layer, x, downs, ups, gamma)


def _sum(arrays: Arrays) -> float:
    return max(
        largest(layer_out(arrays, "lin", official=False), arrays["lin_out_paper"]),
        largest(layer_out(arrays, "conv", official=False), arrays["conv_out_paper"]),
    )


def _merge(arrays: Arrays) -> float:
    return max(
        largest(layer_out(arrays, "lin", official=True), arrays["lin_out_official"]),
        largest(layer_out(arrays, "conv", official=True), arrays["conv_out_official"]),
    )


# ---------------------------------------------------------------------- training


def _losses(arrays: Arrays) -> float:
    eps = {name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("eps_")}
    eta, la = float(arrays["guidance_scale"]), float(arrays["la_strength"])
    erase = erase_loss(eps["eps_target"], eps["eps_positive"], eps["eps_neutral"], eta)
    anchor = anchor_loss(eps["eps_anchor"], eps["eps_anchor_ori"])
    return max(
        largest(erase, arrays["loss_erase"]),
        largest(anchor, arrays["loss_anchor"]),
        largest(erase + la * anchor, arrays["loss"]),
    )


def anchors(arrays: Arrays) -> Tensor:
    """The golden anchors, with the empty text between them as the published code lists them."""
    seed = int(arrays["anchor_seed"])
    normal, uniform = torch.Generator().manual_seed(seed), random.Random(seed)
    target = torch.from_numpy(arrays["prompt_emb"])
    found = draw_anchors(
        target,
        len(arrays["anchors"]) // 2,
        lambda: torch.randn(target.shape, generator=normal, dtype=target.dtype),
        uniform.random,
    )
    empty = torch.from_numpy(arrays["erased_emb"])[:1].expand_as(found)
    return torch.stack([empty, found], 1).flatten(0, 1)


def _anchors(arrays: Arrays) -> float:
    return largest(anchors(arrays), arrays["anchors"])


def _keys(linear: bool, arrays: Arrays) -> float:
    """How many entries differ in name, order or shape from the published file of this UNet."""
    found = [(key, str(tuple(t.shape))) for key, t in published_entries(linear).items()]
    truth = list(zip(arrays["keys"].tolist(), arrays["shapes"].tolist(), strict=True))
    return float(sum(a != b for a, b in zip(found, truth, strict=False))) + abs(
        len(found) - len(truth)
    )


def published_entries(linear: bool) -> Mapping[str, Tensor]:
    """The entries of a new membrane for the UNet of the golden file."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):  # building a network draws its weights
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=12,
            attention_head_dim=2,
            norm_num_groups=4,
            use_linear_projection=linear,
        )
    return tensors_of(new_membrane(unet, ("a",), 1, 0))


CHECKS: dict[str, tuple[Check, ...]] = {
    "spm_small": (
        ("scores of the gate: cosine, shared words, the larger", 1e-12, _scores),
        ("gamma of two membranes", 1e-12, _gamma),
        ("the paper's sum of adapters", 1e-12, _sum),
        ("the official merge, with its cross terms", 1e-12, _merge),
        ("erase loss, anchor loss and their sum", 1e-12, _losses),
        ("random anchors from the published draws", 1e-12, _anchors),
    ),
    "spm_keys_conv": (("keys and shapes of the file", 0.0, partial(_keys, False)),),
    "spm_keys_linear": (("keys and shapes of the file", 0.0, partial(_keys, True)),),
}

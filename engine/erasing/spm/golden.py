"""The golden cases: arrays made by the published code of SPM, compared with this one.

Tolerance 1e-12 throughout: both sides are float64. The anchors repeat the published draws from one
seed; should torch's generator change, only that case will tell.
"""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from engine.core.errors import AssetMissing
from engine.core.job import Progress, Steps
from engine.core.shapes import Tensor
from engine.erasing.spm.files import tensors_of
from engine.erasing.spm.membrane import Metric, Opening, merged, opening, summed
from engine.erasing.spm.training import anchor_loss, draw_anchors, erase_loss, new_membrane

FOLDER = Path(__file__).resolve().parents[3] / "tests" / "golden"
NAMES = ("spm_small", "spm_keys_conv", "spm_keys_linear")
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One comparison: the largest error, relative to the largest number where that is above 1."""

    name: str
    error: float
    tolerance: float
    seconds: float


@dataclass(frozen=True)
class GoldenResult:
    cases: tuple[Case, ...]


def run(*, seed: int = 0) -> Steps[GoldenResult]:
    """Compare with every golden array. Nothing here is drawn from the seed."""
    cases: list[Case] = []
    total = len(CHECKS) + 2
    for name in NAMES:
        try:
            with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except OSError as error:
            raise AssetMissing(
                "The golden arrays are not installed here.", "Check the repository out whole."
            ) from error
        for case in compare(name, arrays):
            cases.append(case)
            yield Progress(len(cases), total, case.name)
    return GoldenResult(tuple(cases))


def compare(name: str, arrays: Arrays) -> list[Case]:
    """The cases of one file."""
    if name == "spm_small":
        return [_timed(title, 1e-12, check, arrays) for title, check in CHECKS]
    linear = name.endswith("linear")
    title = f"keys and shapes of the file, {'linear' if linear else 'convolution'} projections"
    return [_timed(title, 0.0, lambda given: _keys(given, linear), arrays)]


def _timed(title: str, tolerance: float, check: Callable[[Arrays], float], arrays: Arrays) -> Case:
    start = time.perf_counter()
    error = check(arrays)
    return Case(title, error, tolerance, time.perf_counter() - start)


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
        _error(opened(arrays, metric, single).gamma[0], arrays[f"score_{metric}"])
        for metric in metrics
    )


def _gamma(arrays: Arrays) -> float:
    found = opened(arrays, "clipcos_tokenuni", arrays["counts"].tolist())
    return _error(found.gamma[0], arrays["gamma"])


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
        _error(layer_out(arrays, "lin", official=False), arrays["lin_out_paper"]),
        _error(layer_out(arrays, "conv", official=False), arrays["conv_out_paper"]),
    )


def _merge(arrays: Arrays) -> float:
    return max(
        _error(layer_out(arrays, "lin", official=True), arrays["lin_out_official"]),
        _error(layer_out(arrays, "conv", official=True), arrays["conv_out_official"]),
    )


# ---------------------------------------------------------------------- training


def _losses(arrays: Arrays) -> float:
    told = {name: torch.from_numpy(arrays[name]) for name in arrays if name.startswith("eps_")}
    eta, la = float(arrays["guidance_scale"]), float(arrays["la_strength"])
    erase = erase_loss(told["eps_target"], told["eps_positive"], told["eps_neutral"], eta)
    anchor = anchor_loss(told["eps_anchor"], told["eps_anchor_ori"])
    return max(
        _error(erase, arrays["loss_erase"]),
        _error(anchor, arrays["loss_anchor"]),
        _error(erase + la * anchor, arrays["loss"]),
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
    return _error(anchors(arrays), arrays["anchors"])


def _keys(arrays: Arrays, linear: bool) -> float:
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


def _error(ours: Tensor, theirs: Tensor | np.ndarray) -> float:
    truth = torch.as_tensor(theirs).double()
    return float((ours - truth).abs().max() / truth.abs().max().clamp(min=1))


CHECKS: tuple[tuple[str, Callable[[Arrays], float]], ...] = (
    ("scores of the gate: cosine, shared words, the larger", _scores),
    ("gamma of two membranes", _gamma),
    ("the paper's sum of adapters", _sum),
    ("the official merge, with its cross terms", _merge),
    ("erase loss, anchor loss and their sum", _losses),
    ("random anchors from the published draws", _anchors),
)

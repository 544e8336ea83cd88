"""NCSN++, the network of SGMSE+: what noise is left in a complex spectrogram.

A U-Net of residual blocks with the noise level in every block. Spectrograms are made smaller and
larger by a smooth filter, the input comes in again at every size, and the output is a sum over all
sizes. Real and imaginary parts are channels; the noisy recording y stands beside x_t. A small model
may fold squares of `patch` x `patch` places into channels first, which loses nothing and spares the
largest size, the dearest of all; and it may be `gated`: it hears loudness beside the parts, and
says, place by place, how much of x_t and of y goes into its value. Products are what convolutions
learn slowly. The published networks do neither.

The tensors are named as in the published checkpoints ("all_modules.3.Conv_0.weight"), which number
the layers in the order in which they are used. Song et al. 2021, arXiv:2011.13456, appendix C;
Richter et al. 2023, arXiv:2208.05830, section IV.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from engine.core.shapes import Complex, Float, Tensor

CHANNELS = 4  # real and imaginary part of x_t and of y
ROOT_HALF = math.sqrt(0.5)


class NCSNpp(nn.Module):
    """Two spectrograms and a time to one spectrogram.

    `nf` channels, times `ch_mult` at each size; attention where so many frequency bins are left
    (`attn_resolutions`, told for `image_size` bins) and in the middle.
    """

    def __init__(
        self,
        nf: int = 128,
        ch_mult: Sequence[int] = (1, 1, 2, 2, 2, 2, 2),
        num_res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        image_size: int = 256,
        scale_by_sigma: bool = True,
        fourier_scale: float = 16.0,
        patch: int = 1,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.levels, self.blocks, self.patch = len(ch_mult), num_res_blocks, patch
        self.gated = gated
        channels_in = (CHANNELS + 2 * gated) * patch**2
        channels_out = (2 + 2 * gated) * patch**2
        bins = image_size // patch
        self.attends = [bins >> level in attn_resolutions for level in range(self.levels)]
        self.scale_by_sigma = scale_by_sigma
        widths = [nf * multiple for multiple in ch_mult]
        embedded = 4 * nf
        layers: list[nn.Module] = [
            FourierFeatures(nf, fourier_scale),
            nn.Linear(2 * nf, embedded),
            nn.Linear(embedded, embedded),
            _conv3(channels_in, nf),
        ]
        skip_widths, width = [nf], nf
        for level, wide in enumerate(widths):
            for _ in range(num_res_blocks):
                layers.append(ResidualBlock(width, wide, embedded))
                width = wide
                if self.attends[level]:
                    layers.append(Attention(width))
                skip_widths.append(width)
            if level < self.levels - 1:
                layers += [
                    ResidualBlock(width, width, embedded, "down"),
                    Combine(channels_in, width),
                ]
                skip_widths.append(width)
        layers += [
            ResidualBlock(width, width, embedded),
            Attention(width),
            ResidualBlock(width, width, embedded),
        ]
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(num_res_blocks + 1):
                layers.append(ResidualBlock(width + skip_widths.pop(), wide, embedded))
                width = wide
            if self.attends[level]:
                layers.append(Attention(width))
            layers += [_norm(width), _silent(_conv3(width, channels_in))]
            if level:
                layers.append(ResidualBlock(width, width, embedded, "up"))
        # first the last layer, as the published averages are in this order
        self.output_layer = nn.Conv2d(channels_in, channels_out, 1)
        self.all_modules = nn.ModuleList(layers)

    def forward(
        self,
        x: Complex[Tensor, "b 1 f t"],
        y: Complex[Tensor, "b 1 f t"],
        time: Float[Tensor, " b"],
    ) -> Complex[Tensor, "b 1 f t"]:
        """The network's value at (x_t, y, t); f and t must be multiples of `multiple`."""
        layer = iter(self.all_modules)
        features = next(layer)(torch.log(time))
        features = next(layer)(features)
        features = next(layer)(F.silu(features))
        heard = [x.real, x.imag, y.real, y.imag] + [x.abs(), y.abs()] * self.gated
        inputs = F.pixel_unshuffle(torch.cat(heard, dim=1), self.patch)
        skips = self._down(inputs, features, layer)
        h = next(layer)(skips[-1], features)
        h = next(layer)(h)
        h = next(layer)(h, features)
        total = self._up(h, skips, features, layer)
        if self.scale_by_sigma:
            # "sigma" is the time itself in the published code, not s(t)
            total = total / time.reshape(-1, 1, 1, 1)
        outputs = F.pixel_shuffle(self.output_layer(total).float(), self.patch)
        value = torch.complex(outputs[:, :1], outputs[:, 1:2])
        return value + outputs[:, 2:3] * x + outputs[:, 3:] * y if self.gated else value

    @property
    def multiple(self) -> int:
        """Sizes must be multiples of this, to be halved evenly at every level."""
        return self.patch << (self.levels - 1)

    def _down(
        self, inputs: Float[Tensor, "b c f t"], features: Float[Tensor, "b e"], layer: Iterator
    ) -> list[Tensor]:
        skips = [next(layer)(inputs)]
        for level in range(self.levels):
            for _ in range(self.blocks):
                h = next(layer)(skips[-1], features)
                skips.append(next(layer)(h) if self.attends[level] else h)
            if level < self.levels - 1:
                h = next(layer)(skips[-1], features)
                inputs = halve(inputs)
                skips.append(next(layer)(inputs, h))
        return skips

    def _up(
        self, h: Tensor, skips: list[Tensor], features: Float[Tensor, "b e"], layer: Iterator
    ) -> Float[Tensor, "b c f t"]:
        total = torch.zeros((), device=h.device)
        for level in reversed(range(self.levels)):
            for _ in range(self.blocks + 1):
                h = next(layer)(torch.cat([h, skips.pop()], dim=1), features)
            if self.attends[level]:
                h = next(layer)(h)
            part = F.silu(next(layer)(h))
            part = next(layer)(part)
            total = part + (double(total) if total.ndim else total)
            if level:
                h = next(layer)(h, features)
        return total


class FourierFeatures(nn.Module):
    """Sines and cosines of ln t at fixed random frequencies."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(size) * scale, requires_grad=False)

    def forward(self, level: Float[Tensor, " b"]) -> Float[Tensor, "b e"]:
        angle = level[:, None] * self.W[None] * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; `resample` halves or doubles both sides."""

    def __init__(self, before: int, after: int, embedded: int, resample: str = "") -> None:
        super().__init__()
        self.resample = {"": None, "down": halve, "up": double}[resample]
        self.GroupNorm_0 = _norm(before)
        self.Conv_0 = _conv3(before, after)
        self.Dense_0 = nn.Linear(embedded, after)
        self.GroupNorm_1 = _norm(after)
        self.Conv_1 = _silent(_conv3(after, after))
        self.Conv_2 = nn.Conv2d(before, after, 1) if resample or before != after else None

    def forward(self, x: Float[Tensor, "b c f t"], features: Float[Tensor, "b e"]) -> Tensor:
        h = F.silu(self.GroupNorm_0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.Conv_0(h) + self.Dense_0(F.silu(features))[:, :, None, None]
        h = self.Conv_1(F.silu(self.GroupNorm_1(h)))
        return ((x if self.Conv_2 is None else self.Conv_2(x)) + h) * ROOT_HALF


class Attention(nn.Module):
    """Every place of a small spectrogram asks all the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(width)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (_Mix(width) for _ in range(4))
        nn.init.zeros_(self.NIN_3.W)

    def forward(self, x: Float[Tensor, "b c f t"]) -> Float[Tensor, "b c f t"]:
        h = self.GroupNorm_0(x)
        q, k, v = (
            mix(h).flatten(2).transpose(1, 2) for mix in (self.NIN_0, self.NIN_1, self.NIN_2)
        )
        h = F.scaled_dot_product_attention(q, k, v)
        h = self.NIN_3(h.transpose(1, 2).reshape(x.shape))
        return (x + h) * ROOT_HALF


class Combine(nn.Module):
    """The input, made smaller, added to what the network has made of it."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.Conv_0 = nn.Conv2d(before, after, 1)

    def forward(self, inputs: Float[Tensor, "b c f t"], h: Float[Tensor, "b w f t"]) -> Tensor:
        return self.Conv_0(inputs) + h


class _Mix(nn.Module):
    """A linear map over channels, with the parameter names of the published code."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.b = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b c f t"]) -> Float[Tensor, "b c f t"]:
        return F.conv2d(x, self.W.T[:, :, None, None], self.b)


def halve(x: Float[Tensor, "b c f t"]) -> Float[Tensor, "b c f//2 t//2"]:
    """Half as many places both ways, smoothed by the filter 1 3 3 1."""
    return F.conv2d(x, _smooth(x, 1.0), stride=2, padding=1, groups=x.shape[1])


def double(x: Float[Tensor, "b c f t"]) -> Float[Tensor, "b c 2*f 2*t"]:
    """Twice as many places both ways, by the same filter."""
    return F.conv_transpose2d(x, _smooth(x, 4.0), stride=2, padding=1, groups=x.shape[1])


def _smooth(x: Float[Tensor, "b c f t"], gain: float) -> Float[Tensor, "c 1 4 4"]:
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], device=x.device, dtype=x.dtype) / 8
    return (gain * torch.outer(line, line)).expand(x.shape[1], 1, 4, 4)


def _norm(width: int) -> nn.GroupNorm:
    # as published, and fewer groups for the odd widths of small networks
    most = min(width // 4, 32)
    groups = next(count for count in range(most, 0, -1) if width % count == 0)
    return nn.GroupNorm(groups, width, eps=1e-6)


def _silent(layer: nn.Conv2d) -> nn.Conv2d:
    """The last layer of a block, which adds nothing before training."""
    for tensor in layer.parameters():
        nn.init.zeros_(tensor)
    return layer


def _conv3(before: int, after: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1)

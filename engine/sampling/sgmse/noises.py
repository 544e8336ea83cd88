"""What spoils a recording: noises made on the spot, noises that were recorded, and rooms.

All work on batches, b l, on the device of the generator they draw from, so that training on a GPU
and one visitor's example run the same code. Loudness is free: `mixed` sets it.
"""

import math
from collections.abc import Mapping

import torch

from engine.core.shapes import Float, Num, Tensor

RECORDED = ("music", "babble")
VOICES = 6  # talkers in a babble


def noise(
    kind: str,
    count: int,
    length: int,
    sample_rate: int,
    generator: torch.Generator,
    recorded: Mapping[str, Num[Tensor, " n"]],
) -> Float[Tensor, "b l"]:
    """`count` different noises of one kind; `recorded` holds the material of music and babble."""
    if kind == "hiss":
        return coloured(count, length, generator, (-0.5, 0.3))
    if kind == "rumble":
        return coloured(count, length, generator, (0.8, 2.2))
    if kind == "gusts":
        return gusts(count, length, sample_rate, generator)
    if kind == "hum":
        return hum(count, length, sample_rate, generator)
    if kind == "music":
        return crops(recorded["music"], count, length, generator)
    return babble(recorded["babble"], count, length, generator)


def coloured(
    count: int, length: int, generator: torch.Generator, slopes: tuple[float, float]
) -> Float[Tensor, "b l"]:
    """Gaussian noise whose power falls as f^-slope, bent by a smooth random filter."""
    device = generator.device
    white = torch.randn(count, length, generator=generator, device=device)
    spectrum = torch.fft.rfft(white)
    share = torch.linspace(0, 1, spectrum.shape[-1], device=device)
    slope = uniform(count, *slopes, generator)
    bend = torch.zeros(count, spectrum.shape[-1], device=device)
    for waves in range(1, 5):
        phase = 2 * math.pi * uniform(count, 0.0, 1.0, generator)
        height = 0.5 * torch.randn(count, 1, generator=generator, device=device)
        bend = bend + height * torch.cos(math.pi * waves * share + phase)
    return torch.fft.irfft(spectrum * (share + 0.01) ** (-slope / 2) * bend.exp(), length)


def gusts(
    count: int, length: int, sample_rate: int, generator: torch.Generator
) -> Float[Tensor, "b l"]:
    """Coloured noise that swells and fades several times a second."""
    steady = coloured(count, length, generator, (0.0, 1.5))
    points = max(2, math.ceil(6 * length / sample_rate))
    drawn = torch.randn(count, 1, points, generator=generator, device=generator.device)
    swell = torch.nn.functional.interpolate(drawn, length, mode="linear", align_corners=True)
    return steady * (1.5 * swell[:, 0]).exp()


def hum(
    count: int, length: int, sample_rate: int, generator: torch.Generator
) -> Float[Tensor, "b l"]:
    """Harmonics of a mains or motor frequency over a faint hiss."""
    device = generator.device
    time = torch.arange(length, device=device) / sample_rate
    mains = 50.0 + 10.0 * torch.randint(0, 2, (count, 1), generator=generator, device=device)
    motor = uniform(count, 60.0, 400.0, generator)
    is_motor = uniform(count, 0.0, 1.0, generator) > 0.5
    pitch = torch.where(is_motor, motor, mains)
    total = 0.05 * torch.randn(count, length, generator=generator, device=device)
    for harmonic in range(1, 9):
        height = uniform(count, 0.0, 1.0, generator) / harmonic**0.5
        phase = 2 * math.pi * uniform(count, 0.0, 1.0, generator)
        total = total + height * torch.sin(2 * math.pi * harmonic * pitch * time + phase)
    return total


def crops(
    recording: Num[Tensor, " n"], count: int, length: int, generator: torch.Generator
) -> Float[Tensor, "b l"]:
    """Pieces of a long recording from random places; it is joined end to start."""
    device = generator.device
    begin = torch.randint(0, len(recording), (count, 1), generator=generator, device=device)
    places = (begin + torch.arange(length, device=device)) % len(recording)
    return recording[places].float()


def babble(
    recording: Num[Tensor, " n"], count: int, length: int, generator: torch.Generator
) -> Float[Tensor, "b l"]:
    """Several people who talk at once, some nearer than others."""
    voices = crops(recording, count * VOICES, length, generator).reshape(count, VOICES, length)
    near = 0.4 + torch.rand(count, VOICES, 1, generator=generator, device=generator.device)
    return (near * voices).sum(dim=1)


def mixed(
    clean: Float[Tensor, "b l"], added: Float[Tensor, "b l"], snr: Float[Tensor, "b 1"]
) -> Float[Tensor, "b l"]:
    """Speech and noise at a signal-to-noise ratio in dB, from their mean powers."""
    power = [x.pow(2).mean(dim=-1, keepdim=True) for x in (clean, added)]
    gain = (power[0] / (power[1] + 1e-12) * 10 ** (-snr / 10)).sqrt()
    return clean + gain * added


def reverberant(
    clean: Float[Tensor, "b l"],
    sample_rate: int,
    t60: Float[Tensor, "b 1"],
    direct: Float[Tensor, "b 1"],
    generator: torch.Generator,
) -> Float[Tensor, "b l"]:
    """Speech in a room: the direct sound, then noise that has lost 60 dB after `t60` seconds.

    `direct` is the ratio of direct to reflected sound in dB.
    """
    length = clean.shape[-1]
    time = torch.arange(length, device=clean.device) / sample_rate
    tail = torch.randn(clean.shape, generator=generator, device=clean.device)
    tail = tail * torch.exp(-math.log(1000) * time / t60) * (time > 0.0025)
    tail = tail / (tail.pow(2).sum(dim=-1, keepdim=True).sqrt() + 1e-12) * 10 ** (-direct / 20)
    room = torch.fft.rfft(tail, 2 * length)
    return clean + torch.fft.irfft(torch.fft.rfft(clean, 2 * length) * room, 2 * length)[:, :length]


def uniform(
    count: int, low: float, high: float, generator: torch.Generator
) -> Float[Tensor, "b 1"]:
    """One number a row, evenly spread."""
    drawn = torch.rand(count, 1, generator=generator, device=generator.device)
    return low + (high - low) * drawn

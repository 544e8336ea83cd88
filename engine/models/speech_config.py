"""What a speech model is made of: its front end, its process, its network and how to sample.

The front end is a compressed short-time Fourier transform, Y~ = factor |Y|^exponent e^(j angle Y).
Richter et al. 2023, arXiv:2208.05830.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path as Folder
from typing import Any, Literal

import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Complex, Float, Tensor
from engine.diffusion.schedules import Path, ouve

Objective = Literal["score", "denoised"]


@dataclass(frozen=True)
class FrontEnd:
    """From a waveform to the compressed complex spectrogram, and back."""

    sample_rate: int = 16_000
    n_fft: int = 510
    hop: int = 128
    factor: float = 0.15
    exponent: float = 0.5

    @property
    def bins(self) -> int:
        return self.n_fft // 2 + 1

    @property
    def shortest(self) -> int:
        """Samples that a recording must have at least, to be mirrored at its ends."""
        return self.n_fft // 2 + 1

    def normalised(self, wave: Float[Tensor, "b l"]) -> tuple[Float[Tensor, "b l"], Tensor]:
        """Each recording divided by its own peak, and the peaks (b 1)."""
        if wave.shape[-1] < self.shortest:
            raise BadInput(
                f"The recording has {wave.shape[-1]} samples; {self.shortest} are the least.",
                "Record at least a second.",
            )
        peak = wave.abs().amax(dim=-1, keepdim=True)
        if bool((peak == 0).any()):
            raise BadInput("The recording is silent.", "Check the microphone, or take an example.")
        return wave / peak, peak

    def spectrogram(self, wave: Float[Tensor, "b l"]) -> Complex[Tensor, "b 1 f t"]:
        """Compressed: factor |Y|^exponent with the angle of Y."""
        spec = torch.stft(
            wave, self.n_fft, self.hop, window=self._window(wave), center=True, return_complex=True
        )
        return torch.polar(self.factor * spec.abs() ** self.exponent, spec.angle())[:, None]

    def waveform(self, spec: Complex[Tensor, "b 1 f t"], length: int) -> Float[Tensor, "b l"]:
        """`length` samples. Frames beyond them are cut before the inverse transform.

        The published code transforms the padded spectrogram, whose empty frames fade the last
        n_fft / 2 samples; with the frames cut, they come back.
        """
        spec = spec[:, 0, :, : 1 + length // self.hop]
        plain = torch.polar((spec.abs() / self.factor) ** (1 / self.exponent), spec.angle())
        return torch.istft(
            plain, self.n_fft, self.hop, window=self._window(plain.real), center=True, length=length
        )

    def _window(self, like: Float[Tensor, "..."]) -> Float[Tensor, " n"]:
        return torch.hann_window(self.n_fft, device=like.device, dtype=like.dtype)


def padded(spec: Complex[Tensor, "b 1 f t"], multiple: int) -> Complex[Tensor, "b 1 f t2"]:
    """The spectrogram with empty frames behind it, up to a multiple that the network halves."""
    return nn.functional.pad(spec, (0, -spec.shape[-1] % multiple))


@dataclass(frozen=True)
class Sampling:
    """The settings that belong to a checkpoint: users of the published ones often mix them up."""

    steps: int = 30
    snr: float = 0.5
    corrector: str = "ald"
    renew_above: float = 1.0
    noise_share: float = 0.0


@dataclass(frozen=True)
class SpeechConfig:
    """config.json: front end, process, what the network says, its size, and how to sample."""

    front: FrontEnd = field(default_factory=FrontEnd)
    theta: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    t_eps: float = 0.03
    objective: Objective = "score"
    sigma_data: float = 0.2
    network: Mapping[str, Any] = field(default_factory=dict)
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def path(self) -> Path:
        return ouve(self.theta, self.sigma_min, self.sigma_max, t_min=self.t_eps)

    def check(self) -> None:
        """Raise `ValueError` for numbers out of every reason."""
        front = self.front
        sizes = (front.sample_rate, front.n_fft, front.hop, self.sampling.steps)
        numbers = (
            front.factor,
            front.exponent,
            self.theta,
            self.sigma_min,
            self.t_eps,
            self.sigma_data,
            self.sampling.snr,
        )
        is_sound = (
            all(type(size) is int and 1 <= size <= 200_000 for size in sizes)
            and front.hop < front.n_fft <= 8192
            and all(math.isfinite(number) and 0 < number <= 100 for number in numbers)
            and self.sigma_min < self.sigma_max <= 100
            and self.t_eps < 0.5
            and 0 <= self.sampling.renew_above <= 1
            and 0 <= self.sampling.noise_share <= 1
            and self.objective in ("score", "denoised")
        )
        if not is_sound:
            raise ValueError("a number out of range")

    def save(self, folder: Folder) -> None:
        text = json.dumps(asdict(self), indent=1) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")

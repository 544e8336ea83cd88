"""Speech models in the complex spectrogram: the embedded one, and the published ones of SGMSE+.

    bundle = load(ModelRef("sgmse-8k"))
    front = bundle.front
    y, peak = front.normalised(recording)                1 l, the peak of the noisy recording is 1
    Y = front.spectrogram(y)                             complex, 1 1 f t
    score_model = bundle.at(Y)                           a `Model` on the OUVE path, anchored at Y
    wave = peak * front.waveform(x0, y.shape[-1])

The front end is a compressed short-time Fourier transform, Y~ = factor |Y|^exponent e^(j angle Y).
A checkpoint is a folder with config.json and model.safetensors, in our layout or with the names and
settings of the authors (`speech_published`). Richter et al. 2023, arXiv:2208.05830.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path as Folder
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Complex, Float, Tensor
from engine.diffusion.denoiser import Model, spread
from engine.diffusion.schedules import Path, ouve
from engine.models import _layout
from engine.models._checks import read_json
from engine.models.library import Bundle, ModelCard, ModelRef
from engine.models.ncsnpp import NCSNpp

Objective = Literal["score", "denoised"]
Scale = float | Tensor


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


# ---------------------------------------------------------------------- the model


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

    @classmethod
    def read(cls, path: Folder) -> "SpeechConfig":
        """Ours, or the settings of a published checkpoint. Raises `BadInput` for odd ones."""
        from engine.models import speech_published

        entries = read_json(path)
        try:
            if is_published(entries):
                config = speech_published.config_of(entries)
            else:
                entries["front"] = FrontEnd(**entries["front"])
                entries["sampling"] = Sampling(**entries["sampling"])
                config = cls(**entries)
            config.check()
        except (TypeError, KeyError, ValueError) as error:
            raise BadInput(
                f"The settings in config.json make no speech model ({type(error).__name__}).",
                "Take the whole folder as it was written.",
            ) from error
        return config

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


def is_published(entries: Mapping[str, Any]) -> bool:
    """Whether these are settings as the authors' checkpoints have them."""
    return "front" not in entries and "backbone" in entries


class SpeechNetwork(nn.Module):
    """The network with what surrounds it: its value is a score or a clean estimate.

    "score", as published: the score is -network(x_t, y, t).
    "denoised": a clean estimate around the best linear guess, for d = x0 - y of deviation sigma,

        x0 = y + c_skip z + c_out network(c_in z, y / sigma, t),    z = x_t - y
        c_in = 1 / r,  c_skip = a sigma^2 / r^2,  c_out = s sigma / r,  r^2 = a^2 sigma^2 + s^2

    so that the network sees and gives numbers of size one at every t (Karras et al. 2022, eq. 7).
    """

    def __init__(self, config: SpeechConfig) -> None:
        super().__init__()
        self.path, self.objective, self.sigma = config.path, config.objective, config.sigma_data
        self.dnn = NCSNpp(**{"image_size": config.front.bins, **config.network})

    def forward(
        self, x: Complex[Tensor, "b 1 f t"], t: Float[Tensor, " b"], y: Complex[Tensor, "b 1 f t"]
    ) -> Complex[Tensor, "b 1 f t"]:
        if self.objective == "score":
            return -self.dnn(x, y, t)
        c_in, c_skip, c_out = self.scales(t, x)
        z = x - y
        return y + c_skip * z + c_out * self.dnn(c_in * z, y / self.sigma, t)

    def scales(self, t: Float[Tensor, " b"], like: Tensor) -> tuple[Scale, Scale, Scale]:
        """c_in, c_skip and c_out, to be multiplied with spectrograms like this one."""
        times = t.detach().cpu().double().numpy()
        a, s = np.asarray(self.path.a(times)), np.asarray(self.path.s(times))
        c_in, c_skip, c_out = (spread(level, like) for level in self.levels(a, s))
        return c_in, c_skip, c_out

    def levels(self, a: Any, s: Any) -> tuple[Any, Any, Any]:
        """The same for given a and s, numbers or tensors."""
        r = (a**2 * self.sigma**2 + s**2) ** 0.5
        return 1 / r, a * self.sigma**2 / r**2, s * self.sigma / r


@dataclass(frozen=True)
class SpeechBundle(Bundle):
    """A speech model with its settings."""

    model: SpeechNetwork
    config: SpeechConfig

    @property
    def front(self) -> FrontEnd:
        return self.config.front

    def at(self, y: Complex[Tensor, "b 1 f t"]) -> Model:
        """The model anchored at a noisy spectrogram, whose frames are a multiple of `multiple`."""

        def net(x: Tensor, label: Tensor, **_: Tensor) -> Tensor:
            return self.model(x, label, y.to(x.device))

        kind: Any = "x0" if self.config.objective == "denoised" else "score"
        return Model(net, self.config.path, kind, "t", anchor=y, device=self.device)


# ---------------------------------------------------------------------- reading and writing


def read(card: ModelCard, folder: Folder, ref: ModelRef, device: str, dtype: str) -> SpeechBundle:
    """The model in a folder; complex spectrograms have no half precision, so it is float32."""
    config = SpeechConfig.read(folder / "config.json")
    try:
        with torch.device("meta"):
            network = SpeechNetwork(config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise BadInput(
            f"The settings in config.json do not make a network ({type(error).__name__}).",
            "Take the whole folder as it was written.",
        ) from error
    if is_published(read_json(folder / "config.json")):
        _adopt(folder, network, device)
    else:
        found = _layout._matched(folder, network)
        _layout._fill(folder, network, found, device, torch.float32)
    network.eval().requires_grad_(False)
    return SpeechBundle(ref, card, folder, network, device, "float32", config)


def _adopt(folder: Folder, network: SpeechNetwork, device: str) -> None:
    """Give the network the averaged weights of a published checkpoint."""
    from engine.models import speech_published

    held = {
        name: tensor
        for path in _layout.weight_files(folder, _layout.stem_in(folder))
        for name, tensor in _layout._tensors(path)
    }
    chosen = speech_published.weights_of(held, network)
    for name, tensor in chosen.items():
        if not bool(tensor.isfinite().all()):
            raise BadInput(f"The weight {name} holds values that are not numbers.")
    state = {name: tensor.to(device, torch.float32, copy=True) for name, tensor in chosen.items()}
    network.load_state_dict(state, assign=True)


def save(network: SpeechNetwork, config: SpeechConfig, folder: Folder, *, half: bool) -> None:
    """Write config.json and model.safetensors, in float16 if it is to be small.

    The frequencies of the time stay float32: they are large, and angles are what counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.float16 if half else torch.float32
    state = {
        name: tensor.detach().to("cpu", torch.float32 if name.endswith(".0.W") else dtype)
        for name, tensor in network.state_dict().items()
    }
    state = {name: tensor.contiguous() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config.save(folder)

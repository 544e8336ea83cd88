"""Speech models in the complex spectrogram: the embedded one, and the published ones of SGMSE+.

    bundle = load(ModelRef("sgmse-8k"))
    front = bundle.front
    y, peak = front.normalised(recording)                1 l, the peak of the noisy recording is 1
    Y = front.spectrogram(y)                             complex, 1 1 f t
    score_model = bundle.at(Y)                           a `Model` on the OUVE path, anchored at Y
    wave = peak * front.waveform(x0, y.shape[-1])

A checkpoint is a folder with config.json and model.safetensors, in our layout (`speech_config`) or
with the names and settings of the authors (`speech_published`).
Richter et al. 2023, arXiv:2208.05830.
"""

from dataclasses import dataclass
from pathlib import Path as Folder
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Complex, Float, Tensor
from engine.diffusion.denoiser import Model, spread
from engine.models import _layout, speech_published
from engine.models._checks import read_json
from engine.models.library import Bundle, ModelCard, ModelRef
from engine.models.ncsnpp import NCSNpp
from engine.models.speech_config import FrontEnd, Sampling, SpeechConfig, padded

__all__ = [
    "FrontEnd",
    "Sampling",
    "SpeechBundle",
    "SpeechConfig",
    "SpeechNetwork",
    "padded",
    "read",
    "save",
]

Scale = float | Tensor


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
    config = _config(folder / "config.json")
    try:
        with torch.device("meta"):
            network = SpeechNetwork(config)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise BadInput(
            f"The settings in config.json do not make a network ({type(error).__name__}).",
            "Take the whole folder as it was written.",
        ) from error
    if speech_published.is_published(read_json(folder / "config.json")):
        _adopt(folder, network, device)
    else:
        headers_by_file = _layout._matched(folder, network)
        _layout._fill(folder, network, headers_by_file, device, torch.float32)
    network.eval().requires_grad_(False)
    return SpeechBundle(ref, card, folder, network, device, "float32", config)


def _config(path: Folder) -> SpeechConfig:
    """The settings in a config.json of ours or of the authors. Raises `BadInput` for odd ones."""
    entries = read_json(path)
    try:
        if speech_published.is_published(entries):
            config = speech_published.config_of(entries)
        else:
            entries["front"] = FrontEnd(**entries["front"])
            entries["sampling"] = Sampling(**entries["sampling"])
            config = SpeechConfig(**entries)
        config.check()
    except (TypeError, KeyError, ValueError) as error:
        raise BadInput(
            f"The settings in config.json make no speech model ({type(error).__name__}).",
            "Take the whole folder as it was written.",
        ) from error
    return config


def _adopt(folder: Folder, network: SpeechNetwork, device: str) -> None:
    """Give the network the averaged weights of a published checkpoint."""
    tensors = {
        name: tensor
        for path in _layout.weight_files(folder, _layout.stem_in(folder))
        for name, tensor in _layout._tensors(path)
    }
    chosen = speech_published.weights_of(tensors, network)
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

"""Unconditional pictures from a score network, and two small classifiers that read noise.

    bundle = load(ModelRef("score-ve"))                          shipped, or a diffusers folder
    model = bundle.denoiser()                                    the network on its process
    pictures = bundle.pictures(x)                                uint8, b h w 3

A folder in the layout of diffusers with a UNet2DModel: `ScoreSdeVePipeline` (NCSN++, the network
divides by sigma itself and says the score) and `DDPMPipeline` (predicts noise, told t on a clock of
999). DDPM's thousand betas are the VP process in steps, so both run on the continuous clock.
"process" in the scheduler's config tells sub-VP from VP, for which diffusers has no class;
"scale_input" says that a VE network was trained on x / sqrt(1 + sigma^2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from engine.core.errors import AssetMissing, BadInput, ModelMismatch
from engine.core.recipe import ModelRef
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.diffusion import schedules
from engine.diffusion.denoiser import Model
from engine.diffusion.schedules import Path as Process
from engine.models import _layout
from engine.models._checks import read_json
from engine.models._schedulers import read_scheduler
from engine.models.library import ASSETS, Bundle, ModelCard, load
from engine.world.vocabulary import TEN_OBJECTS

Kind = Literal["ve", "vp", "subvp"]
CLASSES = TEN_OBJECTS
SIDE = 16  # of the pictures of the shipped networks
LEVELS = 1000
DATA_STD, LOWEST = 0.5, 1e-4  # of pictures in [-1, 1]; the lowest level that is told apart
READERS = ASSETS / "score-readers"


class PlainUNet(nn.Module):
    """The UNet as samplers ask it: labels in, a tensor out."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        return self.unet(x, label, return_dict=False)[0]


class OneDenoiser(nn.Module):
    """One denoiser for all processes, asked in the coordinates of one of them.

    Every process is x = a x0 + s eps, and x / a is a picture with noise of level s / a. So a
    network that cleans pictures of any level answers for all three: the score for VE (label sigma),
    the noise for VP and sub-VP (label 999 t). The scalings are those of Karras et al., NeurIPS
    2022, arXiv:2206.00364, table 1: what the network itself answers has unit variance at each
    level, which small networks learn in minutes.
    """

    def __init__(self, unet: nn.Module, process: Kind) -> None:
        super().__init__()
        self.unet, self.process = unet, process

    def forward(
        self, x: Float[Tensor, "b c h w"], label: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        label = label.reshape(-1, 1, 1, 1)
        if self.process == "ve":  # pictures in [0, 1]: twice as near as those in [-1, 1]
            return -self.noise(2 * x - 1, 2 * label) / label
        log_a = schedules.vp_log_a(label / 999)
        variance = -torch.expm1(2 * log_a)
        s = variance if self.process == "subvp" else variance.sqrt()
        return self.noise(x / log_a.exp(), s / log_a.exp())

    def noise(
        self, x: Float[Tensor, "b c h w"], level: Float[Tensor, "b 1 1 1"]
    ) -> Float[Tensor, "b c h w"]:
        """The noise in x = picture + level noise, (x - D(x)) / level, without dividing by it."""
        total_variance = level**2 + DATA_STD**2
        return level / total_variance * x - DATA_STD / total_variance.sqrt() * self.answer(x, level)

    def answer(
        self, x: Float[Tensor, "b c h w"], level: Float[Tensor, "b 1 1 1"]
    ) -> Float[Tensor, "b c h w"]:
        """What the network says: F in D(x) = c_skip x + c_out F(c_in x)."""
        timestep = 100 * torch.log(level.flatten().clamp_min(LOWEST) / LOWEST)
        scaled = x / (level**2 + DATA_STD**2).sqrt()
        return self.unet(scaled, timestep, return_dict=False)[0]


@dataclass(frozen=True)
class ScoreBundle(Bundle):
    """A network with its process. Pictures lie in [`low`, 1] for it."""

    model: nn.Module
    process: Kind
    path: Process
    low: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a picture."""
        config: Any = self.model.unet.config  # type: ignore[union-attr]
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(config.in_channels), height, width

    def denoiser(self, *, grad: bool = False) -> Model:
        """The network on its process, defined down to t = 0; `grad` lets gradients through."""
        is_ve = self.process == "ve"
        kind, time = ("score", "sigma") if is_ve else ("eps", "999t")
        return Model(
            self.model,
            self.path,
            kind,  # type: ignore[arg-type]
            time,  # type: ignore[arg-type]
            dtype=getattr(torch, self.dtype),
            device=self.device,
            grad=grad,
        )

    def states(self, pictures: UInt8[Array, "b h w 3"]) -> Float[Tensor, "b c h w"]:
        """Pictures in the range of the network, each 8-bit value in the middle of its bin."""
        unit = (torch.from_numpy(pictures.astype(np.float32)).permute(0, 3, 1, 2) + 0.5) / 256
        return self.low + (1 - self.low) * unit

    def pictures(self, x: Float[Tensor, "b c h w"]) -> UInt8[Array, "b h w 3"]:
        """States as pictures, values outside the range cut off."""
        unit = (x.float() - self.low) / (1 - self.low)
        scaled = torch.floor(unit * 256).clamp(0, 255).to(torch.uint8)
        return scaled.permute(0, 2, 3, 1).cpu().numpy()


def load_score(model: ModelRef | str) -> ScoreBundle:
    """The network of a reference. Raises `ModelMismatch` for one that takes prompts."""
    bundle = load(model)
    if not isinstance(bundle, ScoreBundle):
        raise ModelMismatch(
            f"{bundle.card.title} takes prompts; here a network without them is needed.",
            "Pick score-ve, score-vp, score-subvp, or a model such as google/ddpm-cifar10-32.",
        )
    return bundle


def read(card: ModelCard, folder: Path, ref: ModelRef, device: str, dtype: str) -> ScoreBundle:
    """Load a folder in diffusers layout. Called by `library.load`, which caches what it returns."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    index = read_json(folder / "model_index.json")
    scheduler = read_scheduler(folder)
    process, path, low = _process(str(index.get("_class_name")), scheduler)
    if index.get("unet", [None])[-1:] != ["UNet2DModel"]:
        raise ModelMismatch(
            "The network of this model is no UNet2DModel, so it is not unconditional.",
            "Pick one saved by DDPMPipeline or ScoreSdeVePipeline.",
        )
    # Scores of levels down to 0.01 lose too much in half precision.
    unet = _layout.network(folder / "unet", UNet2DModel, card.title, device, "float32")
    model = OneDenoiser(unet, process) if scheduler.get("one_denoiser") else PlainUNet(unet)
    return ScoreBundle(
        ref=ref,
        card=card,
        folder=folder,
        model=model.eval().requires_grad_(False),
        device=device,
        dtype="float32",
        process=process,
        path=path,
        low=low,
    )


def _process(pipeline: str, scheduler: Mapping[str, Any]) -> tuple[Kind, Process, float]:
    """Name and path of the process, and the lower end of the pictures' range."""
    if pipeline == "ScoreSdeVePipeline":
        low, high = (float(scheduler.get(f"sigma_{end}", 0)) for end in ("min", "max"))
        if not 0 < low < high:
            raise ModelMismatch("The scheduler's config has no sigma_min below sigma_max.")
        return "ve", schedules.ve(low, high, t_min=0.0), 0.0
    if pipeline != "DDPMPipeline":
        raise ModelMismatch(
            f"{pipeline[:40]} is no pipeline of an unconditional score network.",
            "ScoreSdeVePipeline and DDPMPipeline can be loaded.",
        )
    steps = int(scheduler.get("num_train_timesteps", 1000))
    if scheduler.get("beta_schedule", "linear") != "linear":
        raise ModelMismatch("Only linear betas are the VP process in steps.", "Pick another model.")
    b0, b1 = (float(scheduler.get(f"beta_{end}", default)) * steps for end, default in _BETAS)
    if scheduler.get("process") == "subvp":
        return "subvp", schedules.subvp(b0, b1, t_min=0.0), -1.0
    return "vp", schedules.vp(b0, b1, t_min=0.0), -1.0


_BETAS = (("start", 0.0001), ("end", 0.02))


# ---------------------------------------------------------------------- readers of noise


class NoisyClassifier(nn.Module):
    """What a noisy picture shows, at any noise level: logits over `CLASSES`.

    Pictures in [0, 1] plus noise of standard deviation sigma; the level is told by scale and shift
    in every block.
    """

    rates: Tensor

    def __init__(self, width: int = 32, classes: int = len(CLASSES)) -> None:
        super().__init__()
        widths = (width, width, 2 * width, 3 * width)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList([_Told(a, b, 64) for a, b in pairwise(widths)])
        self.level = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU())
        self.head = nn.Linear(widths[-1], classes)
        self.register_buffer("rates", torch.exp(torch.linspace(-2, 2, 16)))

    def forward(
        self, x: Float[Tensor, "b 3 h w"], sigma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b k"]:
        angle = torch.log(sigma)[:, None] * self.rates
        embedding = self.level(torch.cat([angle.sin(), angle.cos()], dim=1))
        h = self.first((x - 0.5) / torch.sqrt(0.25 + sigma.reshape(-1, 1, 1, 1) ** 2))
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(nn.functional.silu(h).mean((2, 3)))


class _Told(nn.Module):
    """A residual block at half the resolution of its input, told the noise level."""

    def __init__(self, before: int, after: int, embedding_dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, before), nn.GroupNorm(8, after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.skip = nn.Conv2d(before, after, 1)
        self.tell = nn.Linear(embedding_dim, 2 * after)

    def forward(
        self, x: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b k h2 w2"]:
        scale, shift = self.tell(embedding)[..., None, None].chunk(2, dim=1)
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = self.conv2(nn.functional.silu(self.norm2(h) * (1 + scale) + shift))
        return nn.functional.avg_pool2d(h + self.skip(x), 2)


class LevelClassifier(nn.Module):
    """How noisy a picture is: logits over `LEVELS`. It is not told; four convolutions, one line.

    The network of Denoising MCMC with half its channels, for pictures of `SIDE` pixels.
    """

    def __init__(self, width: int = 16, levels: int = LEVELS) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in zip((3, width, 2 * width, 4 * width), (1, 2, 4, 8), strict=True):
            layers += [nn.Conv2d(a, b * width, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(8 * width * (SIDE // 16) ** 2, levels)

    def forward(self, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        return self.head(self.trunk(x).flatten(1))


@dataclass(frozen=True)
class Readers:
    """The two classifiers, ready to use."""

    noisy: NoisyClassifier
    level: LevelClassifier


@cache
def load_readers(folder: Path = READERS) -> Readers:
    """The shipped classifiers. Raises AssetMissing where their weights are not there."""
    try:
        parts = {name: load_file(folder / f"{name}.safetensors") for name in ("noisy", "level")}
    except OSError:
        raise AssetMissing(
            "The classifiers of noisy pictures are not in assets/models/score-readers.",
            "Fetch the repository again, or run: python -m engine.zoo build score-readers",
        ) from None
    networks = Readers(NoisyClassifier(), LevelClassifier())
    for name, weights in parts.items():
        network: nn.Module = getattr(networks, name)
        network.load_state_dict({key: tensor.float() for key, tensor in weights.items()})
        network.eval().requires_grad_(False)
    return networks


def class_index(name: str) -> int:
    """The place of an object in `CLASSES`. Raises `BadInput` with those there are."""
    if name not in CLASSES:
        raise BadInput(f'There is no class "{str(name)[:40]}".', f"Choose {', '.join(CLASSES)}.")
    return CLASSES.index(name)

"""Networks that restore pictures by mean-reverting diffusion: loading, and one evaluation.

    bundle = load(ModelRef("mr-restore"))
    net = network(bundle, "noise")                  for `engine.diffusion.denoiser.Model`
    net(x, t, mu=mu, task=torch.tensor([0]))

A folder of ours holds `restoration.json` beside a diffusers UNet2DModel in `unet/`:

    {"schedule": {"kind": "cosine", "steps": 100, "eps": 0.005, "max_sigma": 50},
     "fit_targets": ["noise", "data", "velocity"], "tasks": ["noise", "blur"]}

The UNet sees concat(x - mu, mu) and gives three channels for each fit target, in this order. Its
class embedding, if it has one, takes the number of the task, and the number after the last for
"not known". The schedule belongs to the weights: sampling with another one costs decibels.

The published universal restoration network (Luo et al. 2024, DA-CLIP) is read from a folder with
`universal-ir.safetensors` and `daclip_ViT-B-32.safetensors`; see `engine.models.daclip`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from engine.core.errors import BadInput, ModelMismatch, SamplerError
from engine.core.shapes import Float, Int, Tensor
from engine.diffusion.denoiser import Kind
from engine.diffusion.mean_reverting import Schedule
from engine.models import _layout
from engine.models._checks import read_json
from engine.models.library import Bundle, ModelCard, ModelRef

KINDS: dict[str, Kind] = {"noise": "eps", "data": "x0", "velocity": "v"}
"""`fit_target` of the published code in our words."""

Pictures = Float[Tensor, "b 3 h w"]
Network = Callable[..., Pictures]


@dataclass(frozen=True)
class RestorationBundle(Bundle):
    """A network with the schedule it was trained on; `tasks` is empty where it is told none."""

    schedule: Schedule
    fit_targets: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def factor(self) -> int:
        """Sides must be a multiple of this; smaller ones are mirrored up to it."""
        return 2 ** (self.model["unet"].depth - 1)

    @property
    def is_published(self) -> bool:
        """Whether this is the universal network, which reads the damage off the picture."""
        return "daclip" in self.model

    def task(self, name: str) -> int:
        """The number of a task as the network is told it; an unknown one is "not known"."""
        return self.tasks.index(name) if name in self.tasks else len(self.tasks)


class Unet(nn.Module):
    """A diffusers UNet2DModel as restoration networks are asked: x, mu, t, number of the task."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.depth = len(inner.config.block_out_channels)
        self.is_told = inner.config.num_class_embeds is not None

    def forward(
        self,
        x: Pictures,
        mu: Pictures,
        t: Float[Tensor, " b"],
        task: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        labels = task if self.is_told else None
        return self.inner(torch.cat([x - mu, mu], 1), t, labels, return_dict=False)[0]


def network(bundle: RestorationBundle, fit_target: str) -> Network:
    """The network with the outputs of one fit target, for pictures of any size.

    Raises `BadInput` for a target that these weights were not trained for.
    """
    if fit_target not in bundle.fit_targets:
        raise BadInput(
            f'This model was not trained to predict "{fit_target!s:.40}".',
            f"Choose {', '.join(bundle.fit_targets)}.",
        )
    first = 3 * bundle.fit_targets.index(fit_target)
    unet = bundle.model["unet"]
    dtype = next(unet.parameters()).dtype

    def net(x: Pictures, label: Float[Tensor, " b"], mu: Pictures, **told: Tensor) -> Pictures:
        h, w = x.shape[-2:]
        x, mu = (_padded(part.to(dtype), bundle.factor) for part in (x, mu))
        out = unet(x, mu, label, **told)
        return out[:, first : first + 3, :h, :w].float()

    return net


def condition(bundle: RestorationBundle, mu: Pictures, task: str) -> dict[str, Tensor]:
    """What the network is told beside x and t: the picture, and the damage or its description."""
    if not bundle.is_published:
        return {"mu": mu, "task": torch.tensor([bundle.task(task)], device=mu.device)}
    with torch.no_grad():
        image, degradation = bundle.model["daclip"].contexts(mu)
    return {"mu": mu, "image_context": image, "text_context": degradation}


def _padded(x: Pictures, factor: int) -> Pictures:
    h, w = x.shape[-2:]
    below, right = -h % factor, -w % factor
    if not (below or right):
        return x
    mode = "reflect" if below < h and right < w else "replicate"
    return F.pad(x, (0, right, 0, below), mode)


# ---------------------------------------------------------------------- loading


def read(
    card: ModelCard, folder: Path, ref: ModelRef, device: str, dtype: str
) -> RestorationBundle:
    """Load a folder of ours or of the published network. Called by `library.load`."""
    if not (folder / "restoration.json").is_file():
        from engine.models import daclip

        parts = daclip.read(folder, card.title, device, dtype)
        about: dict[str, Any] = {"schedule": {}, "fit_targets": ["noise"], "tasks": []}
    else:
        from diffusers.models.unets.unet_2d import UNet2DModel

        about = read_json(folder / "restoration.json")
        config = read_json(folder / "unet" / "config.json")
        inner = _layout.network(folder / "unet", UNet2DModel, config, card.title, device, dtype)
        parts = {"unet": Unet(inner)}
    schedule, targets, tasks = _described(about)
    _check_channels(parts["unet"], targets, tasks)
    return RestorationBundle(
        ref=ref,
        card=card,
        folder=folder,
        model=nn.ModuleDict(parts).eval().requires_grad_(False),
        device=device,
        dtype=dtype,
        schedule=schedule,
        fit_targets=targets,
        tasks=tasks,
    )


def _described(about: dict[str, Any]) -> tuple[Schedule, tuple[str, ...], tuple[str, ...]]:
    """Schedule, fit targets and tasks out of `restoration.json`."""
    told, targets, tasks = (about.get(key) for key in ("schedule", "fit_targets", "tasks"))
    fault = ""
    if not isinstance(told, dict) or not set(told) <= {"kind", "steps", "eps", "max_sigma"}:
        fault = "has no schedule with kind, steps, eps and max_sigma"
    elif not isinstance(targets, list) or not targets or not set(targets) <= set(KINDS):
        fault = f"must list fit_targets out of {', '.join(KINDS)}"
    elif not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        fault = "must list its tasks"
    if fault:
        raise BadInput(f"restoration.json {fault}.", "A sampler must know how it was trained.")
    try:
        return Schedule(**told), tuple(targets), tuple(tasks)
    except (TypeError, SamplerError) as error:
        raise BadInput("The schedule in restoration.json is not usable.", str(error)) from None


def _check_channels(unet: nn.Module, targets: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    if not isinstance(unet, Unet):
        return
    config = unet.inner.config
    wanted = (6, 3 * len(targets), len(tasks) + 1)
    found = (config.in_channels, config.out_channels, config.num_class_embeds or len(tasks) + 1)
    if found != wanted:
        raise ModelMismatch(
            f"The network has {found[0]} channels in, {found[1]} out and {found[2]} classes; "
            f"restoration.json asks for {wanted[0]}, {wanted[1]} and {wanted[2]}.",
            "Take weights and restoration.json from the same export.",
        )

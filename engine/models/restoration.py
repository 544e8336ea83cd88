"""Networks that restore pictures by mean-reverting diffusion: loading, and one evaluation.

    bundle = load(ModelRef("mr-restore"))
    net = network(bundle, "noise")                  for `engine.diffusion.denoiser.Model`
    net(x, t, mu=mu, task=torch.tensor([0]))

A folder of ours holds `restoration.json` beside a diffusers UNet2DModel in `unet/`:

    {"schedule": {"kind": "cosine", "steps": 100, "eps": 0.005, "max_sigma": 50},
     "fit_targets": ["noise", "data", "velocity"], "tasks": ["noise", "blur"], "patch": 2}

The UNet sees concat(x - mu, mu) and gives three channels F for each fit target, in this order. With
`patch` p it sees squares of p x p pixels as channels, which saves the layers of full width. Each
head is put together so that F has about unit size at every time (after Karras et al. 2022, section
5, around mu in place of 0), with z = x - mu and v^2, q^2 = 0.15^2, (8/255)^2:

    data      mu + q^2 a / (q^2 a^2 + s^2) z + s v / sqrt(v^2 a^2 + s^2) F
    noise     s / level^2 z + a F
    velocity  level F

so a network that says F = 0 returns the damaged picture through its data head, with a little noise
left. Its class embedding, if it has one, takes the number of the task, and the number
after the last for "not known". The schedule belongs to the weights: sampling with another one costs
decibels.

The published universal restoration network (Luo et al. 2024, DA-CLIP) is read from a folder with
`universal-ir.safetensors` and `daclip_ViT-B-32.safetensors`; see `engine.models.daclip`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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

DAMAGE, QUIET = 0.15, 8 / 255
"""How far damage usually moves a pixel; the noise below which the data head keeps what it sees."""

Pictures = Float[Tensor, "b 3 h w"]
PerPicture = Float[Tensor, "b 1 1 1"]
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
        return int(self.part("unet").factor)

    @property
    def is_published(self) -> bool:
        """Whether this is the universal network, which reads the damage off the picture."""
        return any(name == "daclip" for name, _ in self.model.named_children())

    def part(self, name: str) -> Any:
        """One of the networks: "unet", or "daclip" of the universal one."""
        return self.model.get_submodule(name)

    def task(self, name: str) -> int:
        """The number of a task as the network is told it; an unknown one is "not known"."""
        return self.tasks.index(name) if name in self.tasks else len(self.tasks)


class Unet(nn.Module):
    """A diffusers UNet2DModel as restoration networks are asked: x, mu, t, number of the task."""

    log_a: Tensor

    def __init__(
        self, inner: nn.Module, targets: Sequence[str], schedule: Schedule, patch: int = 1
    ) -> None:
        super().__init__()
        self.inner, self.patch, self.targets = inner, patch, tuple(targets)
        self.level = schedule.level
        log_a = np.log(schedule.path.a(np.arange(schedule.steps + 1.0)))
        self.register_buffer("log_a", torch.from_numpy(log_a).float(), False)
        config: Any = inner.config
        self.factor = patch * 2 ** (len(config.block_out_channels) - 1)
        self.is_told = config.num_class_embeds is not None

    def forward(
        self,
        x: Pictures,
        mu: Pictures,
        t: Float[Tensor, " b"],
        task: Int[Tensor, " _"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        z = x - mu
        pixels = F.pixel_unshuffle(torch.cat([z, mu], 1), self.patch)
        class_labels = task if self.is_told else None
        out = self.inner(pixels.to(self.dtype), t, class_labels, return_dict=False)[0]
        # in full precision, as the path divides what is nearly noise by a small a
        heads = F.pixel_shuffle(out.float(), self.patch).split(3, 1)
        a, s = self.levels(t)
        outputs = dict(zip(self.targets, heads, strict=True))
        if "data" in outputs:
            keep = QUIET**2 * a / (QUIET**2 * a**2 + s**2)
            outputs["data"] = mu + keep * z + self.reach(a, s) * outputs["data"]
        if "noise" in outputs:
            outputs["noise"] = s / self.level**2 * z + a * outputs["noise"]
        if "velocity" in outputs:
            outputs["velocity"] = self.level * outputs["velocity"]
        return torch.cat(list(outputs.values()), 1)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.inner.parameters()).dtype

    def reach(self, a: PerPicture, s: PerPicture) -> PerPicture:
        """What one unit of the data head is in pixels."""
        return s * DAMAGE / (DAMAGE**2 * a**2 + s**2).sqrt()

    def levels(self, t: Float[Tensor, " b"]) -> tuple[PerPicture, PerPicture]:
        """a and s at these times; log a is interpolated, as on the path."""
        left = t.long().clamp(0, len(self.log_a) - 2)
        log_a = torch.lerp(self.log_a[left], self.log_a[left + 1], t - left).reshape(-1, 1, 1, 1)
        return log_a.exp(), self.level * (-torch.expm1(2 * log_a)).sqrt()


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
    unet = bundle.part("unet")

    def net(x: Pictures, label: Float[Tensor, " b"], mu: Pictures, **labels: Tensor) -> Pictures:
        h, w = x.shape[-2:]
        x, mu = (_padded(part.float(), bundle.factor) for part in (x, mu))
        out = unet(x, mu, label, **labels)
        return out[:, first : first + 3, :h, :w].float()

    return net


def condition(bundle: RestorationBundle, mu: Pictures, task: str) -> dict[str, Tensor]:
    """What the network is told of the damage: its number, or what it reads off the picture."""
    if not bundle.is_published:
        return {"task": torch.tensor([bundle.task(task)], device=mu.device)}
    with torch.no_grad():
        image, degradation = bundle.part("daclip").contexts(mu)
    return {"image_context": image, "text_context": degradation}


def _padded(x: Pictures, factor: int) -> Float[Tensor, "b 3 _ _"]:
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
    if (folder / "restoration.json").is_file():
        about = read_json(folder / "restoration.json")
        schedule, targets, tasks = _described(about)
        unet = _ours(folder, about, schedule, card.title, device, dtype)
        _check_channels(unet, targets, tasks)
        parts: dict[str, nn.Module] = {"unet": unet}
    else:
        from engine.models import daclip

        schedule, targets, tasks = Schedule(), ("noise",), ()
        parts = daclip.read(folder, card.title, device, dtype)
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


def _ours(
    folder: Path, about: dict[str, Any], schedule: Schedule, title: str, device: str, dtype: str
) -> Unet:
    from diffusers.models.unets.unet_2d import UNet2DModel

    inner = _layout.network(folder / "unet", UNet2DModel, title, device, dtype)
    return Unet(inner, about["fit_targets"], schedule, _patch(about)).to(device)


def _described(about: dict[str, Any]) -> tuple[Schedule, tuple[str, ...], tuple[str, ...]]:
    """Schedule, fit targets and tasks out of `restoration.json`."""
    schedule: Any
    targets: Any
    tasks: Any
    schedule, targets, tasks = (about.get(key) for key in ("schedule", "fit_targets", "tasks"))
    fault = ""
    if not isinstance(schedule, dict) or not set(schedule) <= {"kind", "steps", "eps", "max_sigma"}:
        fault = "has no schedule with kind, steps, eps and max_sigma"
    elif not isinstance(targets, list) or not targets or not set(targets) <= set(KINDS):
        fault = f"must list fit_targets out of {', '.join(KINDS)}"
    elif not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
        fault = "must list its tasks"
    if fault:
        raise BadInput(f"restoration.json {fault}.", "A sampler must know how it was trained.")
    try:
        real = {key: float(schedule[key]) for key in ("eps", "max_sigma") if key in schedule}
        return Schedule(**(schedule | real)), tuple(targets), tuple(tasks)
    except (TypeError, ValueError, SamplerError) as error:
        raise BadInput("The schedule in restoration.json is not usable.", str(error)) from None


def _patch(about: dict[str, Any]) -> int:
    patch = about.get("patch", 1)
    if type(patch) is not int or not 1 <= patch <= 8:
        raise BadInput("The patch in restoration.json must be a whole number from 1 to 8.")
    return patch


def _check_channels(unet: Unet, targets: tuple[str, ...], tasks: tuple[str, ...]) -> None:
    config: Any = unet.inner.config
    pixels = unet.patch**2
    expected = (6 * pixels, 3 * len(targets) * pixels, len(tasks) + 1)
    actual = (config.in_channels, config.out_channels, config.num_class_embeds or len(tasks) + 1)
    if actual != expected:
        raise ModelMismatch(
            f"The network has {actual[0]} channels in, {actual[1]} out and {actual[2]} classes; "
            f"restoration.json asks for {expected[0]}, {expected[1]} and {expected[2]}.",
            "Take weights and restoration.json from the same export.",
        )

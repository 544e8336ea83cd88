"""What an accelerator makes of it: `python -m benchmarks.gpu [--write]`; skipped without one.

Networks of the shape of Stable Diffusion 1.5 with random weights, float16, pictures of 512 x 512:

1. what our loop takes beside bare calls of the network, at batch 1 and 8;
2. pictures a second from noise to pixels, ours and diffusers' own pipeline, same steps and solver;
3. seconds of an erasure by UCE and three epochs of RECE, from the projections on the device to the
   baked ones on the device;
4. the most memory that was held.

With --write the table goes between its marks in README.md, with the name of the device.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from benchmarks.bars import write_between
from benchmarks.memory import SD15, Shape, networks
from engine.core.machine import machine
from engine.core.precision import at_home
from engine.core.shapes import Float, Tensor
from engine.erasing.rece import speed
from engine.erasing.rece.edit import projections
from engine.models import drawing
from engine.models.devices import accelerator, policy, synchronize
from engine.models.diffusion import Conditioning, DiffusionBundle, predict

HEAD, FOOT = "<!-- gpu -->", "<!-- /gpu -->"
NO_DEVICE = "SKIPPED: there is no accelerator here (CUDA, MPS or XPU)."
BATCHES, STEPS, GUIDANCE, REPEATS = (1, 8), 20, 7.5, 5


@dataclass(frozen=True)
class Row:
    """One figure with its unit."""

    what: str
    value: float
    unit: str

    def __str__(self) -> str:
        return f"| {self.what} | {self.value:.3g} {self.unit} |"


def with_random_weights(shape: Shape, device: str, dtype: str) -> DiffusionBundle:
    """A model of this shape on a device, which draws noise; its words are those of the world."""
    kind = getattr(torch, dtype)
    parts = {
        name: network.to_empty(device=device).to(kind)
        for name, network in zip(("unet", "vae"), networks(shape), strict=True)
    }
    generator = torch.Generator().manual_seed(0)
    for parameter in nn.ModuleDict(parts).parameters():
        drawn = 0.02 * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(drawn.to(device, kind))
    model = nn.ModuleDict(parts).requires_grad_(False)
    small = drawing.open_bundle("world")
    return replace(small, model=model, device=device, dtype=dtype, vocabulary=None)


def measured(bundle: DiffusionBundle, texts: speed.Shapes | None = None) -> Iterator[Row]:
    """All figures, one after the other."""
    for batch in BATCHES:
        yield Row(f"loop beside bare calls, batch {batch}", 100 * _overhead(bundle, batch), "%")
        for name, draw in (("ours", _ours), ("diffusers", _theirs)):
            seconds = least_seconds(draw(bundle, batch), bundle.device)
            yield Row(
                f"{STEPS} steps to pixels, batch {batch}, {name}", batch / seconds, "a second"
            )
    yield Row("UCE and three epochs of RECE, baked", _erasing(bundle, texts), "s")
    yield Row("most memory held", most_gigabytes(bundle.device), "GB")


def _noise(bundle: DiffusionBundle, batch: int) -> Float[Tensor, "b c h w"]:
    side = bundle.unet.config.sample_size
    return drawing.start_noise(bundle, 0, batch, (bundle.unet.config.in_channels, side, side))


def _told(bundle: DiffusionBundle) -> Conditioning:
    width, kind = bundle.unet.config.cross_attention_dim, getattr(torch, bundle.dtype)
    return Conditioning(torch.zeros(1, 77, width, device=bundle.device, dtype=kind))


def _overhead(bundle: DiffusionBundle, batch: int) -> float:
    """Share of time beyond the same calls of the network."""
    told, noise = _told(bundle), _noise(bundle, batch)
    both = Conditioning(told.tokens.expand(2 * batch, -1, -1))

    @torch.no_grad()
    def bare() -> None:
        x = torch.cat([noise] * 2)
        for t in np.linspace(999, 0, STEPS):
            predict(bundle, x, float(t), both)

    def ours() -> None:
        for _ in drawing.walk(bundle, told, told, noise, steps=STEPS, guidance_scale=GUIDANCE):
            pass

    return least_seconds(ours, bundle.device) / least_seconds(bare, bundle.device) - 1


def _ours(bundle: DiffusionBundle, batch: int) -> Callable[[], object]:
    told, noise = _told(bundle), _noise(bundle, batch)

    def draw() -> object:
        *_, last = drawing.walk(bundle, told, told, noise, steps=STEPS, guidance_scale=GUIDANCE)
        return drawing.decode(bundle, last.z)

    return draw


def _theirs(bundle: DiffusionBundle, batch: int) -> Callable[[], object]:
    """diffusers' own pipeline over the same networks, told embeddings, with the same solver."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

    pipeline = StableDiffusionPipeline(
        vae=bundle.vae,
        text_encoder=None,
        tokenizer=None,
        unet=bundle.unet,
        scheduler=DPMSolverMultistepScheduler(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    tokens, noise = _told(bundle).tokens.expand(batch, -1, -1), _noise(bundle, batch)
    return lambda: pipeline(
        prompt_embeds=tokens,
        negative_prompt_embeds=tokens,
        latents=noise.to(tokens.dtype),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="np",
    )


def _erasing(bundle: DiffusionBundle, texts: speed.Shapes | None) -> float:
    held = list(projections(bundle).values())
    texts = speed.Shapes.draw(0) if texts is None else texts

    def edit() -> list[Float[Tensor, "_ d"]]:
        here = replace(texts, weights=[weight.float() for weight in at_home(held)])
        baked, _ = speed.reopened_and_erased(here, speed.first_edit(here), here.kept)
        return [weight.to(old) for weight, old in zip(baked, held, strict=True)]

    return least_seconds(edit, bundle.device)


def least_seconds(run: Callable[[], object], device: str) -> float:
    """The shortest of a few runs after one that warms up, the device's work included."""
    seconds = []
    for _ in range(REPEATS + 1):
        synchronize(device)
        begun = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])


def most_gigabytes(device: str) -> float:
    """Of what was allocated so far; NaN where the device does not count it."""
    try:
        return torch.accelerator.max_memory_allocated(device) / 1e9
    except (RuntimeError, NotImplementedError, AttributeError):
        return float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    if not accelerator():
        print(NO_DEVICE)
        return 0
    device, dtype = policy()
    lines = [f"| {machine(device)}, {dtype} | measured |", "|---|---|"]
    for row in measured(with_random_weights(SD15, device, dtype)):
        print(row, flush=True)
        lines.append(str(row))
    if options.write:
        write_between(HEAD, FOOT, "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures the lab's claim on a checkpoint, and what stands beside it.

    python -m engine bench nfe-lab          writes assets/claims/nfe_lab.json

1. Error at 10 NFE of every solver to the reference, over prompts and seeds, with intervals; and the
   kernel distance of its pictures from drawings of the same prompts (KID of the judge's features).
2. How near candidates for the reference come to a much finer solve.
3. Convergence slopes on a world whose truth is known.
4. Time of our loop and of diffusers' beside the bare calls of the network, in turns; at the shape
   of SD 1.5 too where there is a GPU.
"""

import statistics
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.diffusion import adapters, grids, schedules
from engine.diffusion.mixture import three_modes
from engine.diffusion.solvers import SOLVERS
from engine.diffusion.solvers import run as run_solver
from engine.metrics.distances import kernel_thousandths
from engine.metrics.intervals import bootstrap
from engine.models.devices import accelerator, is_accelerator, synchronize
from engine.models.diffusion import Conditioning, decode_latents, predict
from engine.models.vision import load_judge
from engine.sampling.nfe_lab.algorithm import REFERENCE_GRID, REFERENCE_SOLVER
from engine.sampling.nfe_lab.scene import Scene
from engine.world.scenes import Scene as Contents
from engine.world.scenes import draw
from engine.world.sprites import load_sprites
from engine.world.vocabulary import BACKGROUNDS

PROMPTS = {
    "a cat": Contents(subject="cat"),
    "a dog in neon style": Contents("neon", subject="dog"),
    "a sketch of a house": Contents("sketch", subject="house"),
    "a rose on a blue background": Contents("plain", "blue", "rose"),
    "a car in pixel art style": Contents("pixel art", subject="car"),
    "a watercolor picture of a fish": Contents("watercolor", subject="fish"),
    "a mushroom": Contents(subject="mushroom"),
    "a blueprint of a rocket": Contents("blueprint", subject="rocket"),
}
NFE, REFERENCE_NFE, FINE_NFE, GUIDANCE = 10, 200, 600, 4.0
GRID = "trailing"  # of the claim
SPACINGS = ("trailing", "karras")
COMPARED = (
    "ddim", "euler_t", "heun", "dpmpp_2m", "dpmpp_2m_exact", "dpm_2m_eps", "dpmpp_3m",
    "dpm_3m_eps", "unipc2", "ancestral", "sde_dpmpp_2m",
)  # fmt: skip
CANDIDATES = (("dpmpp_2m", "trailing"), ("heun", "trailing"), ("unipc2", "trailing"),
              ("dpmpp_2m", "karras"), ("unipc2", "karras"), ("dpmpp_2m", "lambda"))  # fmt: skip
ROUNDS = 9
BATCHES = 8  # of one sample a prompt
RENDERED = 32  # drawings a prompt


Errors: TypeAlias = dict[str, dict[str, list[float]]]
"""Relative errors of all samples, by spacing of the steps and by solver."""
Drawn: TypeAlias = dict[str, list[UInt8[Array, "b height width 3"]]]
"""Pictures of each solver, in batches."""


def run(*, seed: int, model: ModelRef | str = "world", batches: int = BATCHES) -> Steps[Measured]:
    """All four measurements; `batches` of one sample a prompt, each from another seed."""
    begun, total = time.perf_counter(), batches + 3
    scene = Scene.open(model, list(PROMPTS), "", GUIDANCE)
    errors: Errors = {spacing: {name: [] for name in COMPARED} for spacing in SPACINGS}
    pictures: Drawn = {}
    for batch in range(batches):
        yield Progress(batch, total, "Errors to the reference")
        yield from _errors(scene, errors, pictures, seed + batch, batch, total)
    yield Progress(batches, total, "Candidates for the reference")
    candidates = yield from _candidates(scene, seed, batches, total)
    yield Progress(batches + 1, total, "Slopes on the exact world")
    slopes = measured_slopes(seed)
    yield Progress(batches + 2, total, "Overhead of the loop")
    loop_share = yield from overhead(
        scene.with_prompts("a cat", "", GUIDANCE), seed, batches + 2, total
    )
    shares = {"overhead over bare network calls": loop_share}
    if device := accelerator():
        large = stable_diffusion_shape(scene, device, "float16")
        numbers = yield from overhead(large, seed, batches + 2, total)
        shares["overhead at the shape of SD 1.5"] = numbers
    headline = errors[GRID]
    return Measured.of(
        measured=statistics.fmean(headline["dpmpp_2m"]),
        versus=statistics.fmean(headline["ddim"]),
        interval=bootstrap(headline["dpmpp_2m"], seed=seed),
        seed=seed,
        begun=begun,
        device=scene.bundle.device,
        figures={
            "nfe": NFE,
            "spacing": GRID,
            "samples": len(headline["ddim"]),
            "prompts": len(PROMPTS),
            "guidance": GUIDANCE,
            "reference": f"{REFERENCE_SOLVER}, {REFERENCE_GRID}, {REFERENCE_NFE} NFE",
            "mean error": {
                spacing: {name: statistics.fmean(numbers) for name, numbers in row.items()}
                for spacing, row in errors.items()
            },
            "times nearer than ddim": {
                spacing: {
                    name: _factor(row["ddim"], numbers, seed)
                    for name, numbers in row.items()
                    if name != "ddim"
                }
                for spacing, row in errors.items()
            },
            f"kernel distance from drawings, {GRID}, times 1000": _kernels(pictures, seed),
            f"error of a reference to {FINE_NFE} NFE": candidates,
            "slopes on the exact world": slopes,
            **shares,
        },
    )


def _errors(
    scene: Scene, errors: Errors, pictures: Drawn, seed: int, done: int, total: int
) -> Generator[Progress, None, None]:
    """Add the errors of one batch to the table, and its pictures on the grid of the claim."""
    truth = yield from _end(
        scene, REFERENCE_SOLVER, REFERENCE_GRID, REFERENCE_NFE, seed, done, total
    )
    pictures.setdefault(f"the reference, {REFERENCE_NFE} NFE", []).append(_decoded(scene, truth))
    for spacing in SPACINGS:
        for name in COMPARED:
            end = yield from _end(scene, name, spacing, NFE, seed, done, total)
            errors[spacing][name].extend(_distances(end, truth))
            if spacing == GRID:
                pictures.setdefault(name, []).append(_decoded(scene, end))


def _decoded(scene: Scene, z: Float[Tensor, "b c h w"]) -> UInt8[Array, "b height width 3"]:
    return decode_latents(scene.bundle, z)


def _kernels(pictures: Drawn, seed: int) -> dict[str, list[float]]:
    """The kernel distance of each solver's pictures from drawings, and its interval, times 1000."""
    judge = load_judge()
    truth = judge.judge(_rendered(seed)).features
    distances = {}
    for name, parts in pictures.items():
        features = judge.judge(np.concatenate(parts)).features
        distances[name] = kernel_thousandths(features, truth, seed=seed)
    return distances


def _rendered(seed: int) -> UInt8[Array, "n height width 3"]:
    """Drawings of the prompts by the world's own artists, on backgrounds at random where the prompt
    names none."""
    sprites, generator = load_sprites(), np.random.default_rng([seed, 1])
    colours = list(BACKGROUNDS)
    return np.stack(
        [
            draw(
                contents
                if contents.background != "white"
                else replace(contents, background=colours[generator.integers(len(colours))]),
                sprites,
                generator,
            )
            for contents in PROMPTS.values()
            for _ in range(RENDERED)
        ]
    )


def _candidates(
    scene: Scene, seed: int, done: int, total: int
) -> Generator[Progress, None, dict[str, float]]:
    """Distance of solves at the reference's price to a three times finer one."""
    scene = scene.with_prompts(list(PROMPTS)[:2], "", GUIDANCE)
    fine = yield from _end(scene, "dpmpp_2m", "trailing", FINE_NFE, seed, done, total)
    errors = {}
    for name, grid in CANDIDATES:
        end = yield from _end(scene, name, grid, REFERENCE_NFE, seed, done, total)
        errors[f"{name}, {grid}"] = statistics.fmean(_distances(end, fine))
    return errors


def _end(
    scene: Scene, solver: str, grid: str, nfe: int, seed: int, done: int, total: int
) -> Generator[Progress, None, Float[Tensor, "b c h w"]]:
    """Final latents of a batch; yields as it goes, so that the bench can be stopped."""
    z = scene.noise(seed, len(scene.cond))
    for step in scene.walk(solver, scene.model(), z, nfe, seed=seed, grid=grid):
        z = step.z
        if step.i % 5 == 0:
            yield Progress(done, total, f"{solver}, {grid}: {step.nfe} of {nfe} NFE")
    return z


def measured_slopes(seed: int = 0) -> dict[str, float]:
    """Order of every deterministic solver: log2 of the error ratio from 128 to 256 evaluations.

    Three-mode mixture, uniform lambda steps, 64 particles, against 500 Runge-Kutta steps.
    """
    path = schedules.vp()
    model = three_modes().model(path)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(64, 2, dtype=torch.float64, generator=generator)
    truth = run_solver("rk4", model, start, grids.uniform_lam(path, 500))

    def error(name: str, nfe: int) -> float:
        grid = grids.uniform_lam(path, SOLVERS[name].steps_for(nfe, to_zero=False))
        return float((run_solver(name, model, start, grid) - truth).norm(dim=1).mean())

    names = [name for name, entry in SOLVERS.items() if not entry.stochastic]
    return {name: float(np.log2(error(name, 128) / error(name, 256))) for name in names}


# ---------------------------------------------------------------------- overhead


def stable_diffusion_shape(
    scene: Scene, device: str, dtype: str, widths: tuple[int, ...] = (320, 640, 1280, 1280)
) -> Scene:
    """The scene with a UNet of the shape of SD 1.5 and random weights, pictures of 512 x 512.

    For timing alone: what it draws is noise. The settings are those of diffusers' own class, which
    are of SD 1.x but for the width of the text.
    """
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    width, kind = 768, getattr(torch, dtype)
    unet = UNet2DConditionModel(
        sample_size=64, block_out_channels=widths, cross_attention_dim=width
    )
    bundle = replace(
        scene.bundle,
        model=torch.nn.ModuleDict({"unet": unet.to(device, kind).eval()}),
        device=device,
        dtype=dtype,
    )
    empty = Conditioning(torch.zeros(1, 77, width, device=device, dtype=kind))
    return replace(scene, bundle=bundle, cond=empty, uncond=empty, guidance=7.5, shape=(4, 64, 64))


def overhead(
    scene: Scene, seed: int, done: int, total: int, nfe: int = 20
) -> Generator[Progress, None, dict[str, float]]:
    """Share of time beyond the bare network calls, median over rounds in turns.

    On the CPU the processor time of this process counts, which other programs do not disturb.
    """
    loops: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare(scene, seed, nfe),
        "ours": lambda: run_to_end(scene, seed, nfe),
        "diffusers": lambda: _diffusers_loop(scene, seed, nfe),
    }
    times: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range(ROUNDS + 1):
        for name, loop in loops.items():
            seconds = _timed(scene, loop)
            if round_:  # the first round warms up
                times[name].append(seconds)
        yield Progress(done, total, f"Overhead: round {round_} of {ROUNDS}")
    ratios = {
        name: [
            duration / bare - 1 for duration, bare in zip(times[name], times["bare"], strict=True)
        ]
        for name in ("ours", "diffusers")
    }
    return {
        **{name: statistics.median(shares) for name, shares in ratios.items()},
        "milliseconds per bare call": 1e3 * statistics.median(times["bare"]) / nfe,
    }


def _timed(scene: Scene, loop: Callable[[], object]) -> float:
    device = scene.bundle.device
    clock = time.perf_counter if is_accelerator(device) else time.process_time
    synchronize(device)
    begun = clock()
    loop()
    synchronize(device)
    return clock() - begun


@torch.no_grad()
def _bare(scene: Scene, seed: int, nfe: int) -> None:
    x = torch.cat([scene.noise(seed)] * 2)
    both = _both(scene)
    for t in np.linspace(999, 0, nfe):
        predict(scene.bundle, x, float(t), both)


def run_to_end(scene: Scene, seed: int, nfe: int) -> Float[Tensor, "b c h w"]:
    """Our loop, drained."""
    z = scene.noise(seed)
    for step in scene.walk("dpmpp_2m", scene.model(), z, nfe, seed=seed):
        z = step.z
    return z


@torch.no_grad()
def _diffusers_loop(scene: Scene, seed: int, nfe: int) -> None:
    """The loop of StableDiffusionPipeline around the same calls."""
    config = {**scene.bundle.scheduler, "prediction_type": scene.bundle.prediction_type}
    scheduler = adapters.scheduler_like(config, "DPMSolverMultistep", timestep_spacing="trailing")
    scheduler.set_timesteps(nfe)
    x, embeddings = scene.noise(seed), _both(scene)
    for t in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([x] * 2), t)
        uncond, cond = predict(scene.bundle, both, t, embeddings).chunk(2)
        x = scheduler.step(uncond + scene.guidance * (cond - uncond), t, x, return_dict=False)[0]


def _both(scene: Scene) -> Conditioning:
    return Conditioning.cat([side for side in (scene.uncond, scene.cond) if side is not None])


# ---------------------------------------------------------------------- numbers


def _distances(z: Float[Tensor, "b c h w"], truth: Float[Tensor, "b c h w"]) -> list[float]:
    """Relative root mean square difference of each sample."""
    difference = (z - truth).flatten(1).double().norm(dim=1)
    return (difference / truth.flatten(1).double().norm(dim=1)).tolist()


def _factor(worse: Sequence[float], better: Sequence[float], seed: int) -> dict[str, float]:
    """Geometric mean of how many times nearer, sample by sample, with its interval."""
    logs = np.log(np.asarray(worse) / np.asarray(better))
    low, high = np.exp(bootstrap(logs, seed=seed))
    return {"factor": float(np.exp(logs.mean())), "low": float(low), "high": float(high)}

"""The golden arrays of the official code: coefficients, samplers, control and likelihood.

All come from the release in float32, with stand-in networks: tanh(0.7 x + 0.1) + 0.05 cos(0.01
label) for the noise of VP and sub-VP, -tanh(x) / (1 + label) for the score of VE. Standard
deviations near t = 0 lose 0.2 % there, by 1 - a^2 in float32; we take expm1 and allow for it.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from engine.core.golden import Golden, apart, arrays_of, collect
from engine.core.job import Steps, finish
from engine.core.shapes import Float, Tensor
from engine.diffusion.adaptive import bits_per_dim, log_likelihood, prior_log_density
from engine.diffusion.denoiser import Model
from engine.diffusion.noise import Noise
from engine.diffusion.predictors import released_grid, released_link
from engine.diffusion.schedules import Path
from engine.diffusion.solvers import run as run_solver
from engine.sampling.score_sde.control import COLOURS, Known
from engine.sampling.score_sde.processes import LAST, process_of

Comparison = tuple[str, np.ndarray, np.ndarray, float]
"""Name, what is found here, what it should be, and the largest difference allowed."""


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare what runs here with the arrays; there is nothing random in it."""
    compared = (
        (name, apart(value, expected), tolerance)
        for name, value, expected, tolerance in comparisons()
    )
    return (yield from collect(compared, 21))


def comparisons() -> Iterator[Comparison]:
    yield from coefficients(arrays_of("score-sde_coefficients"))
    yield from samplers(arrays_of("score-sde_pc"))
    yield from controls(arrays_of("score-sde_control"))
    for name in ("likelihood", "likelihood_subvp"):
        yield from likelihoods(arrays_of(f"score-sde_{name}"))


def stand_in(name: str, path: Path) -> Model:
    """The network that the arrays were made with."""

    def noise_of(x: Float[Tensor, "b *d"], label: Float[Tensor, " b"], **_: Tensor) -> Tensor:
        return torch.tanh(0.7 * x + 0.1) + 0.05 * torch.cos(0.01 * label).reshape(-1, 1, 1, 1)

    def score_of(x: Float[Tensor, "b *d"], label: Float[Tensor, " b"], **_: Tensor) -> Tensor:
        return -torch.tanh(x) / (1 + label.reshape(-1, 1, 1, 1))

    if name == "ve":
        return Model(score_of, path, "score", "sigma")
    return Model(noise_of, path, "eps", "999t")


def coefficients(golden: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """Mean, spread, drift, diffusion and chain link at five times, and the prior's density."""
    x, count = torch.from_numpy(golden["x"]), int(golden["N"])
    for name in ("vp", "subvp", "ve"):
        path, computed, expected = process_of(name), [], []
        for i, t32 in enumerate(golden["t"]):
            t = float(t32)
            link = released_link(path, "reverse_diffusion", t, count)
            pairs = {
                "mean": float(path.a(t)) * x,
                "std": path.s(t),
                "drift": float(path.drift(t)) * x,
                "diffusion": np.sqrt(path.diffusion_squared(t)),
                "f": float(link.keep - 1) * x,
                "G": link.fresh,
            }
            for key, value in pairs.items():
                reference = golden[f"{name}_{i}_{key}"].astype(np.float64)
                scale = np.maximum(np.abs(reference), 1e-3)
                computed.append((np.asarray(value) / scale).ravel())
                expected.append(np.broadcast_to(reference / scale, np.shape(reference)).ravel())
        values = [np.broadcast_to(a, b.shape) for a, b in zip(computed, expected, strict=True)]
        label = f"{name}: coefficients at five times, relative"
        yield label, np.concatenate(values), np.concatenate(expected), 2e-3
        prior = prior_log_density(path, x).numpy()
        reference = golden[f"{name}_prior_logp"]
        yield (
            f"{name}: log density of the prior, relative",
            prior / reference,
            reference / reference,
            1e-5,
        )


def samplers(golden: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """Seven predictor-corrector runs on the published chains."""
    for j in range(int(golden["n"])):
        name, predictor, corrector, count, snr, corrections, is_flow = golden[f"c{j}_cfg"]
        predictor = str(predictor).removesuffix("_sampling")
        if is_flow == "True":
            predictor = "probability_flow"
        ended = run_solver(
            "pc",
            stand_in(str(name), process_of(str(name))),
            torch.from_numpy(golden[f"c{j}_xT"]),
            released_grid(int(count), LAST[str(name)]),
            Noise.replay([torch.from_numpy(one) for one in golden[f"c{j}_noise"]]),
            predictor=predictor,
            corrector=str(corrector),
            snr=float(snr),
            corrections=int(corrections),
            levels="released",
        )
        expected = golden[f"c{j}_out"]
        title = f"{name}: {predictor} with {corrector}, {count} levels, relative"
        yield title, ended.numpy() / np.abs(expected).max(), expected / np.abs(expected).max(), 1e-5


def controls(golden: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """Inpainting and colourisation as released, which lose the last denoising."""
    name, count, predictor, corrector, snr, corrections, last = golden["cfg"]
    path = process_of(str(name))
    data, mask, prior, gray = (
        torch.from_numpy(golden[key]) for key in ("data", "mask", "prior", "gray")
    )
    first = torch.zeros_like(data)
    first[:, 0] = 1
    for what, known, where, turn, start, expected in (
        ("inpainting", data, mask, None, data * mask + prior * (1 - mask), "inpaint_out"),
        ("colourisation", gray, first, COLOURS, None, "colorize_out"),
    ):
        noise = Noise.replay([torch.from_numpy(one) for one in golden["noise"]])
        grid = released_grid(int(count), float(last))
        hook = Known(known, where, turn, path, grid, noise, faithful=True)
        ended = run_solver(
            "pc",
            stand_in(str(name), path),
            hook.released_start(prior) if start is None else start,
            hook.grid,
            noise,
            hook=hook,
            predictor=str(predictor),
            corrector=str(corrector),
            snr=float(snr),
            corrections=int(corrections),
            levels="released",
        )
        yield f"{name}: {what}", ended.numpy(), golden[expected], 1e-3


def likelihoods(golden: Mapping[str, np.ndarray]) -> Iterator[Comparison]:
    """Bits per dimension of Gaussian data, against the release and against the closed form."""
    name, m, s2 = str(golden["sde"]), float(golden["m"]), float(golden["s2"])
    path = process_of(name)

    def noise_of(x: Float[Tensor, "b *d"], label: Float[Tensor, " b"], **_: Tensor) -> Tensor:
        t = label.double().numpy() / 999
        a, s = (torch.from_numpy(level(t)).reshape(-1, 1, 1, 1) for level in (path.a, path.s))
        return (s * (x - a * m) / (a**2 * s2 + s**2)).to(x)

    model = Model(noise_of, path, "eps", "999t", grad=True)
    data, probe = (torch.from_numpy(golden[key]) for key in ("data", "probe"))
    likelihood = finish(log_likelihood(model, data, probe))
    bits = bits_per_dim(likelihood.log_density, data[0].numel(), low=-1.0, high=1.0).numpy()
    yield f"{name}: bits per dimension, against the release", bits, golden["bpd"], 1e-3
    yield f"{name}: bits per dimension, closed form", bits, golden["exact_bpd"], 2e-3
    yield f"{name}: the latent", likelihood.latent.numpy(), golden["z"], 2e-3

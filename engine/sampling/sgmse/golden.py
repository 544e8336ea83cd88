"""The golden cases of SGMSE+: process, front end, samplers, loss and SI-SDR of the published code.

The score of the samplers' cases is a formula, so that the sampler alone is tested, with the noise
that the published sampler drew. They run through the one sampler interface, like everything else.
"""

from collections.abc import Callable

import numpy as np
import torch

from engine.core.golden import Arrays, Golden, apart, arrays_of, collect
from engine.core.job import Steps
from engine.core.shapes import Complex, Float, Tensor
from engine.diffusion import grids
from engine.diffusion.denoiser import Model
from engine.diffusion.noise import Noise
from engine.diffusion.schedules import Path, ouve
from engine.diffusion.solvers import run as run_solver
from engine.metrics.speech import si_sdr
from engine.models.speech import FrontEnd, padded
from engine.sampling.sgmse.losses import denoising_score_matching

CORRECTORS = ("ald", "langevin", "none")


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compares with every array. The seed has no part in it: the noise is in them."""
    arrays = arrays_of("sgmse_core")
    front, path = FrontEnd(n_fft=int(arrays["n_fft"]), hop=int(arrays["hop"])), _path(arrays)
    plan: list[tuple[str, float, Callable[[], float]]] = [
        ("mean of the process", 1e-6, lambda: _mean(arrays, path)),
        ("its standard deviation", 1e-6, lambda: _std(arrays, path)),
        ("drift", 2e-6, lambda: _drift(arrays, path)),
        ("diffusion", 1e-6, lambda: _diffusion(arrays, path)),
        ("spectrogram", 1e-5, lambda: _spectrogram(arrays, front)),
        ("there and back", 1e-5, lambda: _round_trip(arrays, front)),
        *(
            (f"sampler, corrector {name}", 2e-5, lambda name=name: _sampled(arrays, path, name))
            for name in CORRECTORS
        ),
        ("loss, relative", 1e-6, lambda: _loss(arrays, path)),
        ("SI-SDR", 1e-9, lambda: _si_sdr(arrays)),
    ]
    compared = ((name, error(), tolerance) for name, tolerance, error in plan)
    return (yield from collect(compared, len(plan)))


def _mean(arrays: Arrays, path: Path) -> float:
    a, y = _column(path.a(_times(arrays))), arrays["y"]
    return apart(y + a * (arrays["x0"] - y), arrays["mean"])


def _std(arrays: Arrays, path: Path) -> float:
    return apart(np.asarray(path.s(_times(arrays))), arrays["std"])


def _drift(arrays: Arrays, path: Path) -> float:
    """The forward drift is f (x - y), here at x = x0."""
    f = _column(path.drift(_times(arrays)))
    return apart(f * (arrays["x0"] - arrays["y"]), arrays["drift"])


def _diffusion(arrays: Arrays, path: Path) -> float:
    return apart(np.sqrt(np.asarray(path.diffusion_squared(_times(arrays)))), arrays["diffusion"])


def _spectrogram(arrays: Arrays, front: FrontEnd) -> float:
    wave, _ = front.normalised(torch.from_numpy(arrays["wav"]))
    return apart(front.spectrogram(wave)[:, 0].numpy(), arrays["spec"])


def _round_trip(arrays: Arrays, front: FrontEnd) -> float:
    """Where the published code fades the end, ours does not: the last samples are left out."""
    wave, peak = front.normalised(torch.from_numpy(arrays["wav"]))
    back = peak * front.waveform(padded(front.spectrogram(wave), 64), wave.shape[-1])
    length = wave.shape[-1] - front.n_fft // 2
    return apart(back[:, :length].numpy(), arrays["roundtrip"][:, :length])


def _sampled(arrays: Arrays, path: Path, corrector: str) -> float:
    y = torch.from_numpy(arrays["Y"])
    first, *draws = torch.from_numpy(arrays[f"pc_{corrector}_noise"])
    model = Model(_StandIn(y), path, "score", "t", anchor=y)
    z = run_solver(
        "pc",
        model,
        path.prior_std * first,
        grids.sgmse(path, int(arrays["N"])),
        Noise.replay(draws),
        predictor="euler_maruyama",
        corrector=corrector,
        snr=float(arrays["snr"]),
        corrections=int(arrays["corrector_steps"]),
    )
    if model.nfe != int(arrays[f"pc_{corrector}_nfe"]):
        return float("inf")
    return apart(model.place(z).numpy(), arrays[f"pc_{corrector}"])


class _StandIn:
    """score = -(x - y / 2) / (0.1 + t^2) - 0.05 (sin Im x + j cos Re x)."""

    def __init__(self, y: Complex[Tensor, "b 1 f t"]) -> None:
        self.y = y

    def __call__(
        self, x: Complex[Tensor, "b 1 f t"], label: Float[Tensor, " b"], **condition: Tensor
    ) -> Complex[Tensor, "b 1 f t"]:
        wobble = torch.complex(torch.sin(x.imag), torch.cos(x.real))
        return -(x - self.y / 2) / (0.1 + label[:, None, None, None] ** 2) - 0.05 * wobble


def _loss(arrays: Arrays, path: Path) -> float:
    """Over items 1 to 5: the first one has t = 0, where there is no noise to match."""
    score, noise = (torch.from_numpy(arrays[f"loss_{name}"])[1:] for name in ("score", "z"))
    std = torch.from_numpy(np.asarray(path.s(_times(arrays)[1:]), dtype=np.float32))
    computed = float(denoising_score_matching(score, noise, std))
    return abs(computed / float(arrays["loss"]) - 1)


def _si_sdr(arrays: Arrays) -> float:
    return abs(si_sdr(arrays["sd_ref"], arrays["sd_est"]) - float(arrays["si_sdr"]))


def _path(arrays: Arrays) -> Path:
    theta, low, high = (
        float(arrays[f"sde_{name}"]) for name in ("theta", "sigma_min", "sigma_max")
    )
    return ouve(theta, low, high, t_min=float(arrays["t_eps"]))


def _times(arrays: Arrays) -> np.ndarray:
    return arrays["t"].astype(np.float64)


def _column(level: object) -> np.ndarray:
    return np.asarray(level)[:, None, None, None]

"""The golden cases: arrays made by the published code of SmoothInv, compared with what runs here.

    python -m pytest tests/unlearning -m golden

Two descents with given noise (1e-10 in float64, 2e-6 in float32; the second never reaches its
radius), and the one-shot denoising from first principles (1e-10).
"""

import torch
from torch import nn

from engine.core.golden import Arrays, Check, Golden, apart, check_all
from engine.core.job import Steps
from engine.core.shapes import Float, Tensor
from engine.unlearning._inversion import Synthesis, synthesise
from engine.unlearning._smoothing import OneShot, Smoothed, linear_schedule


class Net(nn.Module):
    """(x - 0.5) / 0.25, convolution, ReLU, mean over places, linear."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__()
        weights = {k[2:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w.")}
        channels = weights["conv.weight"].shape[1]
        self.conv = nn.Conv2d(channels, 6, 3, padding=1).to(weights["conv.weight"].dtype)
        self.fc = nn.Linear(6, 4).to(weights["conv.weight"].dtype)
        self.load_state_dict(weights)
        self.requires_grad_(False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 4"]:
        return self.fc(torch.relu(self.conv((x - 0.5) / 0.25)).mean((2, 3)))


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array; the noise is theirs, so the seed is not used."""
    return (yield from check_all(CHECKS))


def _descent(arrays: Arrays) -> tuple[Tensor, list[list[float]]]:
    how = Synthesis(
        float(arrays["max_norm"]),
        float(arrays["step_size"]),
        int(arrays["steps"]),
        arrays["noise"].shape[1],
        int(arrays["lr_period"]),
    )
    x, noise = (torch.from_numpy(arrays[name]) for name in ("x", "noise"))
    # Chunks of three, so that the division by the mean probability is seen across them.
    smoothed = Smoothed(Net(arrays), float(arrays["sigma"]), chunk=3)
    steps = list(synthesise(smoothed, x, int(arrays["target"]), how, noise=noise))
    return x + steps[-1].delta, [[step.length, step.probability] for step in steps]


def _adversarial(arrays: Arrays) -> float:
    return apart(_descent(arrays)[0], arrays["adv"])


def _trace(arrays: Arrays) -> float:
    return apart(_descent(arrays)[1], arrays["trace"])


def _timesteps(arrays: Arrays) -> float:
    shot = OneShot(lambda x, t: x, linear_schedule())
    return apart([shot.timestep(float(s)) for s in arrays["sigma"]], arrays["t"])


def _denoised(arrays: Arrays) -> float:
    x, noise, predicted = (torch.from_numpy(arrays[n]) for n in ("x", "noise", "eps_hat"))
    shot = OneShot(lambda x, t: predicted, linear_schedule())
    errors = []
    for i, t in enumerate(arrays["t"].tolist()):
        noisy = shot.noisy(x, noise, t)
        errors.append(apart(noisy, arrays["x_t"][i]))
        errors.append(apart(shot.denoised(noisy, t), arrays["denoised"][i]))
    return max(errors)


CHECKS: dict[str, tuple[Check, ...]] = {
    **{
        name: (("picture", tolerance, _adversarial), ("lengths, probabilities", tolerance, _trace))
        for name, tolerance in (("smoothinv_pgd_f64", 1e-10), ("smoothinv_pgd_f32", 2e-6))
    },
    "smoothinv_denoise_f64": (
        ("steps for noise levels", 0.0, _timesteps),
        ("noisy and clean pictures", 1e-10, _denoised),
    ),
}

"""The golden cases: what the published code trains, how it reads a picture, and its steps.

    python -m pytest tests/erasing -m golden

The names of trained parameters were listed by the official function on a text encoder of twelve
layers; pictures went through its preprocessing with the flip switched off, tolerance 1e-6. The
ascent is Adam of torch on a linear model in float64, tolerance 1e-14.
"""

from collections.abc import Callable, Iterator

import torch

from engine.core.golden import Arrays, Check, Golden, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.erasing._learning import fitted, pixels
from engine.erasing.few_shot_erasing import PARAMETERS
from engine.erasing.few_shot_erasing.ascent import Optimizer, climb, trainable

PREFIX = "text_model."


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def _names(parameters: str) -> Callable[[Arrays], float]:
    """The number of names that only one of the two lists has."""

    def differing(arrays: Arrays) -> float:
        plain = {
            key: [str(name).removeprefix(PREFIX) for name in names] for key, names in arrays.items()
        }
        found = set(trainable(plain["trainable_all"], parameters, 12))
        truth = set(plain[f"trainable_{parameters.replace('-', '_')}"])
        return float(len(found ^ truth))

    return differing


def _stretched(arrays: Arrays) -> float:
    found = pixels(fitted(arrays["image"], int(arrays["size"])))
    return largest(found, arrays["pixels_stretch"])


def _centred(arrays: Arrays) -> float:
    found = pixels(fitted(arrays["image"], int(arrays["size"]), "centre"))
    return largest(found, arrays["pixels_center"])


def _settings(arrays: Arrays) -> float:
    ours = Optimizer(learning_rate=float(arrays["lr"]))
    return float(ours != _told(arrays))


def _told(arrays: Arrays) -> Optimizer:
    rate, eps, decay = (float(arrays[name]) for name in ("lr", "eps", "weight_decay"))
    first, second = arrays["betas"].tolist()
    return Optimizer("Adam", rate, (first, second), eps, decay)


def _ascent(arrays: Arrays) -> float:
    theta = torch.from_numpy(arrays["theta0"].copy()).requires_grad_()
    h, y = torch.from_numpy(arrays["h"]), torch.from_numpy(arrays["y"])

    def errors() -> Iterator[Callable[[], Tensor]]:
        for step in range(len(h)):
            yield lambda step=step: (theta @ h[step] - y[step]).square().mean()  # type: ignore[misc]

    found = list(climb([theta], errors(), optimizer=_told(arrays)))
    # The golden losses carry the sign of the loss that is minimised.
    of_losses = largest(-torch.tensor(found, dtype=torch.float64).numpy(), arrays["losses"])
    return max(largest(theta.detach().numpy(), arrays["theta"]), of_losses)


CHECKS: dict[str, tuple[Check, ...]] = {
    "fewshot_trainable": tuple(
        (f"names of {parameters}", 0.0, _names(parameters)) for parameters in PARAMETERS
    ),
    "fewshot_step": (
        ("pixels, stretched", 1e-6, _stretched),
        ("pixels, centre cut out", 1e-6, _centred),
        ("settings of Adam", 0.0, _settings),
        ("eight steps of ascent", 1e-14, _ascent),
    ),
}

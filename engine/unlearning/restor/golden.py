"""The golden cases: arrays made by the published code of RESTOR, compared with what runs here.

    python -m pytest tests/unlearning -m golden

`restor_losses_f64` (tolerance 1e-10): logits of the current and of the corrupted model on forget
and retain batches (3, 8, 11), labels with -100. Losses and gradients by the official loss classes
GA, GA_FT, GA_KL, KL, KL_FT and NPO, beta 0.1, gamma 1; NPO per token from the paper's formula,
and the task vector.
"""

from collections.abc import Callable

import torch

from engine.core.golden import Arrays, Check, Golden, apart, check_all
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.unlearning._objectives import (
    Objective,
    cross_entropy,
    cross_to_reference,
    less_task_vector,
    npo_of_tokens,
    token_losses,
)


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


Loss = Callable[[Arrays, Tensor, Tensor], Tensor]


def _array(arrays: Arrays, name: str) -> Tensor:
    return torch.from_numpy(arrays[name])


def _objective(method: str) -> Loss:
    def loss(arrays: Arrays, forget: Tensor, retain: Tensor) -> Tensor:
        how = Objective(method, float(arrays["beta"]), float(arrays["gamma"]))  # type: ignore[arg-type]
        return how(
            (forget, _array(arrays, "labels_forget")),
            _array(arrays, "ref_logits_forget"),
            (retain, _array(arrays, "labels_retain")),
        )

    return loss


def _ascent_alone(arrays: Arrays, forget: Tensor, retain: Tensor) -> Tensor:
    return -cross_entropy(forget, _array(arrays, "labels_forget"))


def _ascent_with_kl(arrays: Arrays, forget: Tensor, retain: Tensor) -> Tensor:
    kept = cross_to_reference(retain, _array(arrays, "ref_logits_retain"))
    return _ascent_alone(arrays, forget, retain) + float(arrays["gamma"]) * kept


def _kl_alone(arrays: Arrays, forget: Tensor, retain: Tensor) -> Tensor:
    away = cross_to_reference(forget, _array(arrays, "ref_logits_forget"))
    kept = cross_to_reference(retain, _array(arrays, "ref_logits_retain"))
    return kept - float(arrays["gamma"]) * away


def _same(name: str, loss_of: Loss) -> Callable[[Arrays], float]:
    """The largest error of the loss and of its gradients."""

    def check(arrays: Arrays) -> float:
        forget, retain = (
            _array(arrays, f"logits_{part}").requires_grad_() for part in ("forget", "retain")
        )
        with torch.enable_grad():
            loss = loss_of(arrays, forget, retain)
            loss.backward()
        errors = [apart(loss.detach(), arrays[f"loss_{name}"])]
        for part, logits in (("gradf", forget), ("gradr", retain)):
            if f"{part}_{name}" in arrays:
                assert logits.grad is not None
                errors.append(apart(logits.grad, arrays[f"{part}_{name}"]))
        return max(errors)

    return check


def _per_token(arrays: Arrays) -> float:
    labels = _array(arrays, "labels_forget")
    losses, before = (
        token_losses(_array(arrays, name), labels)
        for name in ("logits_forget", "ref_logits_forget")
    )
    found = npo_of_tokens(losses, before, float(arrays["beta"]))
    return apart(found, arrays["npo_per_token_paper"])


def _task_vector(arrays: Arrays) -> float:
    before, further = ({"w": _array(arrays, f"tv_theta_{name}")} for name in ("c", "star"))
    return apart(
        less_task_vector(before, further, float(arrays["tv_alpha"]))["w"], arrays["tv_out"]
    )


CHECKS: dict[str, tuple[Check, ...]] = {
    "restor_losses_f64": (
        ("gradient ascent alone", 1e-10, _same("GA", _ascent_alone)),
        ("gradient ascent, retain loss", 1e-10, _same("GA_FT", _objective("ga"))),
        ("gradient ascent, KL on the retain set", 1e-10, _same("GA_KL", _ascent_with_kl)),
        ("KL on both sets", 1e-10, _same("KL", _kl_alone)),
        ("KL, retain loss", 1e-10, _same("KL_FT", _objective("kl"))),
        ("NPO of the batch", 1e-10, _same("NPO", _objective("npo"))),
        ("NPO of the tokens, the paper's formula", 1e-10, _per_token),
        ("task vector", 1e-10, _task_vector),
    )
}

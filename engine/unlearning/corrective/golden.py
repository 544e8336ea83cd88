"""The golden cases: arrays made by the published code of corrective unlearning.

    python -m pytest tests/unlearning -m golden

Losses and their gradients with respect to the student's logits, and the learning rates, to 1e-12;
manipulated indices, labels and pictures exactly. Where the published code draws at random, what is
compared is the rule that its draw obeys.
"""

import numpy as np
import torch

from engine.core.golden import Arrays, Check, Golden, apart, check_all
from engine.core.job import Steps
from engine.core.shapes import Float, Tensor
from engine.unlearning._baselines import (
    bad_teacher_loss,
    corrective_rate,
    distillation,
    scrub_loss,
)
from engine.unlearning._manipulation import interclass, square
from engine.unlearning._samples import Samples

CONFUSED = (3, 5)


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def _tensor(arrays: Arrays, name: str) -> Tensor:
    return torch.from_numpy(arrays[name])


def _distillation(arrays: Arrays) -> float:
    student, teacher = (_tensor(arrays, name) for name in ("student", "teacher"))
    return abs(float(distillation(student, teacher, float(arrays["T"]))) - float(arrays["kd"]))


def _scrub(arrays: Arrays) -> float:
    student = _tensor(arrays, "student").requires_grad_(True)
    numbers = float(arrays["alpha"]), float(arrays["T"])
    loss = scrub_loss(student, _tensor(arrays, "teacher"), _tensor(arrays, "target"), *numbers)
    return _loss_and_gradient(loss, student, arrays, "scrub")


def _bad_teacher(arrays: Arrays) -> float:
    student = _tensor(arrays, "student").requires_grad_(True)
    others = (_tensor(arrays, name) for name in ("teacher", "random_teacher", "in_forget"))
    return _loss_and_gradient(bad_teacher_loss(student, *others), student, arrays, "badt")


def _loss_and_gradient(
    loss: Float[Tensor, ""], student: Float[Tensor, "b k"], arrays: Arrays, name: str
) -> float:
    (gradient,) = torch.autograd.grad(loss, student)
    error = abs(float(loss.detach()) - float(arrays[f"{name}_loss"]))
    return max(error, apart(gradient, arrays[f"{name}_grad"]))


def _rates(arrays: Arrays) -> float:
    steps = int(arrays["lr_iters"])
    return apart([corrective_rate(k, steps) for k in range(steps + 1)], arrays["lr"])


def _samples(arrays: Arrays) -> Samples:
    labels = _tensor(arrays, "labels")
    return Samples.of(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)


def _interclass(arrays: Arrays) -> float:
    """Number of indices and labels that differ."""
    found = interclass(_samples(arrays), CONFUSED, len(arrays["interclasslabelswap_idx"]))
    wrong = int((found.ids.numpy() != arrays["interclasslabelswap_idx"]).sum())
    labels = found.samples.labels[found.ids].numpy()
    return float(wrong + int((labels != arrays["interclasslabelswap_label"]).sum()))


def _poison_rule(arrays: Arrays) -> float:
    """How many of the published draw's labels are not the attacker's, which ours always are."""
    return float((arrays["poisoning_label"] != square(3, 0).target).sum())


def _swap_rule(arrays: Arrays) -> float:
    """Whether the published swap keeps the multiset of labels, as ours does."""
    before = np.sort(arrays["labels"][arrays["randomlabelswap_idx"]])
    return float((before != np.sort(arrays["randomlabelswap_label"])).sum())


def _deletions(arrays: Arrays) -> float:
    """Deletion sets lie within the manipulated, and the rest is retained."""
    wrong = 0
    for name in ("poisoning", "interclasslabelswap", "randomlabelswap"):
        deleted = arrays[f"{name}_delete"]
        wrong += int((~np.isin(deleted, arrays[f"{name}_idx"])).sum())
        wrong += abs(len(arrays["labels"]) - len(deleted) - int(arrays[f"{name}_retain_n"]))
    return float(wrong)


def _stamp(arrays: Arrays) -> float:
    pictures = _tensor(arrays, "img").clone()
    trigger = square(3, 0)
    bright = float(arrays["max_val"])
    pictures[[1, 4]] = trigger.stamped(pictures[[1, 4]], bright)
    return apart(pictures, arrays["img_stamped"])


CHECKS: dict[str, tuple[Check, ...]] = {
    "corrective-unlearning_losses": (
        ("distillation", 1e-12, _distillation),
        ("SCRUB, loss and gradient", 1e-12, _scrub),
        ("bad teacher, loss and gradient", 1e-12, _bad_teacher),
        ("learning rates", 1e-12, _rates),
        ("confused classes", 0.0, _interclass),
        ("labels of a poison", 0.0, _poison_rule),
        ("labels dealt out", 0.0, _swap_rule),
        ("deletion sets", 0.0, _deletions),
        ("stamped pictures", 0.0, _stamp),
    )
}

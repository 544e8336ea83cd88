"""Seconds of the engines of per-sample gradients, and of SSD against retraining.

The four networks are those of the family's interface: a full ResNet18, one of a quarter of its
width, the network of the garments, and a multilayer perceptron. Processor seconds of one thread,
the best of three; each engine is also held to the loop in float64. The rule's choice is compared
with the best.
"""

import copy
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import nn

from engine.core import rng
from engine.core.job import Progress, finish
from engine.core.recipe import Plain
from engine.unlearning import _importance as importance
from engine.unlearning import _per_sample as per_sample
from engine.unlearning._case import Forget, opened
from engine.unlearning._dampening import Dampening
from engine.unlearning._learning import Course, Training
from engine.unlearning._losses import classification
from engine.unlearning._nets import new_classifier
from engine.unlearning._per_sample import ENGINES, Ask
from engine.unlearning._samples import garments
from engine.world import fashion

REPEATS = 3
RETRAINED_STEPS = 20


@dataclass(frozen=True)
class Size:
    """A network with its input, the number of samples, and the chunk."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    samples: int
    chunk: int


def residual(widths: list[int], channels: int) -> nn.Module:
    """A ResNet18 of these widths in the transformers library."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return ResNetForImageClassification(
        ResNetConfig(
            num_channels=channels,
            embedding_size=widths[0],
            hidden_sizes=widths,
            depths=[2, 2, 2, 2],
            layer_type="basic",
            num_labels=10,
        )
    )


def perceptron() -> nn.Module:
    """784-100-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


SIZES = (
    Size("ResNet18, 3 x 32 x 32", lambda: residual([64, 128, 256, 512], 3), (3, 32, 32), 32, 8),
    Size("ResNet18 / 4, 3 x 32 x 32", lambda: residual([16, 32, 64, 128], 3), (3, 32, 32), 64, 64),
    Size("garments", lambda: new_classifier(fashion.CLASSES, 0), (1, 28, 28), 256, 64),
    Size("perceptron 784-100-10", perceptron, (1, 28, 28), 1000, 64),
)


def measured(seed: int) -> Generator[Progress, None, dict[str, Plain]]:
    """Both tables, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found: dict[str, Plain] = {}
        for size in SIZES:
            yield Progress(0, 1, size.name)
            found[size.name] = engines(size, seed)
        yield Progress(0, 1, "SSD against retraining")
        found["SSD against retraining"] = against_retraining(seed)
        return found
    finally:
        torch.set_num_threads(threads)


def engines(size: Size, seed: int) -> dict[str, Plain]:
    """Seconds of each engine, its error to the loop, and what the rule chooses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = size.make().eval().requires_grad_(False)
    generator = rng.generator(seed, size.name)
    x = rng.noise((size.samples, *size.shape), generator)
    y = torch.randint(0, 10, (size.samples,), generator=generator)
    seconds = {name: _best(model, (x, y), size.chunk, name) for name in ENGINES}
    parameters = dict(model.named_parameters())
    chosen = per_sample.choose(model, parameters, size.chunk)
    return {
        "weights": sum(p.numel() for p in parameters.values()),
        "seconds": {str(name): spent for name, spent in seconds.items()},
        "errors": {name: _error(model, (x[:4], y[:4]), name) for name in ENGINES},
        "chosen": chosen,
        "chosen against the best": seconds[chosen] / min(seconds.values()),
    }


def _best(model: nn.Module, batch: tuple[torch.Tensor, ...], chunk: int, name: str) -> float:
    ask = Ask(model, dict(model.named_parameters()), classification)
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        for part in zip(*(whole.split(chunk) for whole in batch), strict=True):
            per_sample.BY_NAME[name](ask, part, lambda name, value: None)  # type: ignore[index]
        seconds.append(time.process_time() - begun)
    return min(seconds)


def _error(model: nn.Module, batch: tuple[torch.Tensor, ...], name: str) -> float:
    """The largest error to the loop in float64, relative to the largest sum."""
    wide = copy.deepcopy(model).double()
    inputs = batch[0].double(), batch[1]
    found: list[dict[str, torch.Tensor]] = []
    for engine in ("loop", name):
        sums: dict[str, torch.Tensor] = {}

        def add(parameter: str, value: torch.Tensor, sums: dict[str, torch.Tensor] = sums) -> None:
            sums[parameter] = sums.get(parameter, torch.zeros_like(value)) + value

        ask = Ask(wide, dict(wide.named_parameters()), classification)
        per_sample.BY_NAME[engine](ask, inputs, add)  # type: ignore[index]
        found.append(sums)
    largest = max(float(value.abs().max()) for value in found[0].values())
    gaps = (float((found[1][n] - value).abs().max()) for n, value in found[0].items())
    return max(gaps) / largest


def against_retraining(seed: int) -> dict[str, Plain]:
    """Processor seconds of both: with importances from nothing, and with stored ones.

    Retraining is timed over its first steps and scaled to all of them.
    """
    case = opened("fashion", Forget("class", "bag"), seed)
    assert case.retain_set is not None
    course = Course()
    training = Training(new_classifier(fashion.CLASSES, seed), case.retain_set, course, seed)
    begun = time.process_time()
    for step in training.run():
        if step == RETRAINED_STEPS:
            break
    retraining = (time.process_time() - begun) / RETRAINED_STEPS * training.total
    begun = time.process_time()
    full = finish(importance.of_classifier(case.model, garments("train"), "sorted", seed))
    all_data = time.process_time() - begun
    begun = time.process_time()
    forget = finish(importance.of_classifier(case.model, case.forget_set, "sorted", seed))
    between = time.process_time()
    Dampening(2.0).edit(case.model.state_dict(), forget, full)
    edit = time.process_time() - between
    forgetting = between - begun + edit
    return {
        "retraining, scaled": retraining,
        "importance of all data": all_data,
        "importance of the forget set and edit": forgetting,
        "edit": edit,
        "factor from nothing": retraining / (all_data + forgetting),
        "factor with stored importances": retraining / forgetting,
        "pictures": len(garments("train")),
    }

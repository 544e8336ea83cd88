"""The algorithm of the toy method, and ways to break the promises of one."""

import os
import tempfile
from dataclasses import dataclass

import torch

from engine.core.errors import BadInput
from engine.core.job import Progress
from engine.core.reversible import RoundTrip, round_trip
from engine.core.rng import generator, noise


@dataclass(frozen=True)
class CountdownResult:
    numbers: object
    round_trip: RoundTrip


class Steps:
    """One step up and one step back."""

    def forward(self, x):
        return x + 1

    @staticmethod
    def back(x):
        return x - 1

    inverse = back


def count_down(x, steps):
    """The numbers from x downwards."""
    return [x - step for step in range(steps)]


def run(*, seed, start=4):
    """Counts down from `start`; the noise makes the result depend on the seed."""
    if start < 1:
        raise BadInput(f"start must be at least 1, got {start}.", "4 is quick.")
    numbers = count_down(torch.tensor(start), start)
    shade = noise((3,), generator(seed))
    with tempfile.TemporaryDirectory():
        for step in range(start):
            yield Progress(step + 1, start, preview=int(numbers[step]))
    return CountdownResult(
        numbers=shade.numpy(), round_trip=round_trip(Steps(), torch.arange(start))
    )


def forgets_its_seed(*, seed, start=4):
    result = yield from run(seed=int.from_bytes(os.urandom(4), "big"), start=start)
    return result


def uses_global_noise(*, seed, start=4):
    torch.randn(1)
    return (yield from run(seed=seed, start=start))


def leaves_gradients_off(*, seed, start=4):
    with torch.no_grad():
        return (yield from run(seed=seed, start=start))


def leaves_a_file(*, seed, start=4):
    handle, _ = tempfile.mkstemp()
    os.close(handle)
    return (yield from run(seed=seed, start=start))


def swallows_the_stop(*, seed, start=4):
    try:
        result = yield from run(seed=seed, start=start)
    except GeneratorExit:
        yield Progress(1, 1, "still here")
    return result


def never_yields(*, seed, start=4):
    if start < 1:
        raise BadInput("start is too small.", "4 is quick.")
    return CountdownResult(0, round_trip(Steps(), torch.arange(start)))
    yield


def gives_what_does_not_pickle(*, seed, start=4):
    result = yield from run(seed=seed, start=start)
    return lambda: result


def comes_back_inexactly(*, seed, start=4):
    yield Progress(1, 1)
    x = torch.linspace(0, 1, 100)
    return CountdownResult(0, round_trip(Steps(), x))


def has_no_advice(*, seed, start=4):
    if start < 1:
        raise BadInput("no")
    return (yield from run(seed=seed, start=start))


def checks_too_late(*, seed, start=4):
    yield Progress(1, 4)
    return (yield from run(seed=seed, start=start))

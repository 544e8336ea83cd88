"""Everything that runs backwards here, on one axis: how exactly it comes back, and for how much.

    for event in events(Job("engine.networks._backwards:run", {}, 0)): ...

Each point is measured when the job runs: what went in, what came back, and the bytes that were kept
to come back, as a share of keeping every state on the way. One small instance of each idea, with
the very code that its panel runs:

    XOR patch            an edit of weights, taken back by its bit pattern
    adapter              the same edit added and subtracted as floats
    couplings            a reversible network of 32 couplings
    short couplings      the same where each halves its stream
    reversible Heun      a sampler that keeps its state twice
    DDIM inversion       the same flow walked back by a solver that looks where it stands
    with noise           the walk back of the same process with fresh noise
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from engine.core.catalog import Exactness, RoundTrip
from engine.core.job import Progress, Steps
from engine.core.patch import Patch
from engine.core.recipe import Recipe
from engine.core.reversible import compare
from engine.core.rng import generator, noise
from engine.core.shapes import Float, Tensor
from engine.diffusion import grids, inversion, schedules, solvers
from engine.diffusion.mixture import three_modes
from engine.diffusion.noise import Stream
from engine.reversible import Coupling, Mode, ReversibleSequence
from engine.reversible.memory import measure

STEPS, COUPLINGS, WIDTH, BATCH, POINTS = 32, 32, 32, 64, 256


@dataclass(frozen=True)
class Way:
    """One thing that runs backwards: how it came back, and what it kept.

    `error` is relative, 0 where every bit agrees; `kept` is the share of the bytes that keeping
    every state would take. `method` and `action` name the panel where it can be tried.
    """

    title: str
    how: str
    method: str
    action: str
    exactness: Exactness
    error: float
    equal_bits: float
    kept: float
    note: str


@dataclass(frozen=True)
class Ways:
    """All that were measured so far, with the seed."""

    seed: int
    ways: tuple[Way, ...] = ()


def run(*, seed: int) -> Steps[Ways]:
    """Measures one after the other."""
    shown = Ways(seed)
    yield Progress(0, len(WAYS), "Running backwards")
    for title, measured in WAYS.items():
        for way in measured(seed):
            shown = replace(shown, ways=(*shown.ways, way))
        yield Progress(len(shown.ways), len(WAYS), title, shown)
    return shown


def _way(
    trip: RoundTrip, title: str, how: str, place: tuple[str, str], kept: float, note: str
) -> Way:
    error = 0.0 if trip.exactness is Exactness.BITWISE else trip.relative_error
    return Way(title, how, *place, trip.exactness, error, trip.equal_bits, kept, note)


# ---------------------------------------------------------------------- edits of weights


def _weights(seed: int) -> tuple[dict[str, Tensor], Tensor]:
    """Ten layers, and an edit of rank 4 of the first of them."""
    draw = generator(seed, "weights")
    weights = {f"layer{i}": noise((WIDTH, WIDTH), draw) for i in range(10)}
    edit = noise((WIDTH, 4), draw) @ noise((4, WIDTH), draw) / 10
    return weights, edit


def _patched(seed: int) -> Iterator[Way]:
    weights, edit = _weights(seed)
    edited = weights | {"layer0": weights["layer0"] + edit}
    patch = Patch.between(weights, edited, Recipe("rece"))
    back = patch.undo(patch.apply(weights))
    whole = sum(tensor.nbytes for tensor in weights.values())
    yield _way(
        compare(weights, dict(back)), "XOR patch", "the bits that an edit turns over are kept",
        ("rece", "run"), patch.nbytes / whole, "one of ten layers edited",
    )  # fmt: skip


def _subtracted(seed: int) -> Iterator[Way]:
    weights, edit = _weights(seed)
    back = weights["layer0"] + edit - edit
    whole = sum(tensor.nbytes for tensor in weights.values())
    trip = compare(weights["layer0"], back)
    yield _way(
        trip, "Adapter subtracted", "the same edit as floats: w + d - d",
        ("reversible_merging", "run"), 4 * 2 * 4 * WIDTH / whole,
        f"{1 - trip.equal_bits:.0%} of the numbers are others now",
    )  # fmt: skip


# ---------------------------------------------------------------------- networks


def _stack(seed: int, scale: float, mode: Mode) -> ReversibleSequence:
    """Two streams that rewrite one another in turn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "stack").initial_seed())
        return ReversibleSequence(
            [
                Coupling(
                    nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), nn.GELU()),
                    i % 2, (1 - i % 2,), scale=scale,
                )
                for i in range(COUPLINGS)
            ],
            mode=mode,
        )  # fmt: skip


def _coupled(seed: int) -> Iterator[Way]:
    yield _couplings(seed, 1.0, "Coupling layers", ("meft", "run"), "x1 += F(x2), 32 of them")


def _shrunk(seed: int) -> Iterator[Way]:
    note = "x1 = 0.5 x1 + F(x2): every step halves the stream, and its undo doubles the error"
    yield _couplings(seed, 0.5, "Couplings that shrink", ("revcol", "memory"), note)


def _couplings(seed: int, scale: float, title: str, place: tuple[str, str], note: str) -> Way:
    draw = generator(seed, "streams")
    streams = (noise((BATCH, WIDTH), draw), noise((BATCH, WIDTH), draw))
    stack = _stack(seed, scale, "reversible")
    with torch.no_grad():
        trip = compare(streams, stack.inverse(stack(streams)[0]), steps=COUPLINGS)
    kept = {mode: _kept(_stack(seed, scale, mode), streams) for mode in ("reversible", "plain")}
    how = "nothing is kept but the end; each coupling is solved for what was before"
    return _way(trip, title, how, place, kept["reversible"] / kept["plain"], note)


def _kept(stack: ReversibleSequence, streams: tuple[Tensor, ...]) -> int:
    """Bytes of all that a training step keeps, its end among them."""

    def step() -> Float[Tensor, ""]:
        return torch.stack([one.square().mean() for one in stack(streams)[0]]).sum()

    with torch.enable_grad():
        return measure(step, stack, list(streams)).kept_bytes


# ---------------------------------------------------------------------- samplers


def _walked(seed: int) -> Iterator[Way]:
    """A point of the data to its latent and back by a pair of states."""
    path = schedules.vp()
    world, grid = three_modes().model(path), grids.uniform_lam(path, STEPS)
    x = three_modes().sample(POINTS, generator(seed, "data"))
    pair = inversion.Pair.of(x, path, path.t_min)
    begun = pair.y, pair.w
    for step in inversion.reversible_heun(world, pair, grid, backwards=True):
        pair = step.pair
    for step in inversion.reversible_heun(world, pair, grid):
        pair = step.pair
    yield _way(
        compare(begun, (pair.y, pair.w), steps=STEPS), "Reversible Heun",
        "an ODE solver that keeps its state twice", ("nfe_lab", "rewind"), 2 / (STEPS + 1),
        f"{STEPS} steps to the latent and back",
    )  # fmt: skip


def _inverted(seed: int) -> Iterator[Way]:
    path = schedules.vp()
    world, grid = three_modes().model(path), grids.uniform_lam(path, STEPS)
    x = three_modes().sample(POINTS, generator(seed, "data"))
    z = x
    for step in inversion.ddim_backwards(world, x, grid):
        z = step.z
    back = solvers.run("ddim", world, z, grid)
    yield _way(
        compare(x, back), "DDIM inversion", "each step asks the network where it stands",
        ("nfe_lab", "rewind"), 1 / (STEPS + 1), f"{STEPS} steps; the error falls with more of them",
    )  # fmt: skip


def _resampled(seed: int) -> Iterator[Way]:
    """Noise on, and a sampler with fresh noise back: another point of the same density."""
    path, world = schedules.vp(), three_modes()
    x = world.sample(POINTS, generator(seed, "data"))
    start = float(path.s(path.t_max)) * noise(x.shape, generator(seed, "noise")).double()
    z = float(path.a(path.t_max)) * x + start
    grid = grids.uniform_lam(path, 4 * STEPS)
    back = solvers.run("ancestral", world.model(path), z, grid, Stream(seed))
    gap = float(world.log_density(back).mean() - world.log_density(x).mean())
    way = _way(
        compare(x, back), "Noise, then a sampler", "the noise is thrown away; a new one is drawn",
        ("score_sde", "run"), 1 / (4 * STEPS + 1),
        f"other points, as likely as the old ones: mean log density differs by {gap:+.2f}",
    )  # fmt: skip
    yield replace(way, exactness=Exactness.IN_DISTRIBUTION)


WAYS: Mapping[str, Callable[[int], Iterator[Way]]] = {
    "XOR patch": _patched,
    "Adapter subtracted": _subtracted,
    "Coupling layers": _coupled,
    "Couplings that shrink": _shrunk,
    "Reversible Heun": _walked,
    "DDIM inversion": _inverted,
    "Noise, then a sampler": _resampled,
}

"""Methods side by side on one damaged picture, and a whole picture restored tile by tile.

`run` walks every method from the same noise, then measures quality against evaluations point by
point. `restore` takes a picture of any size. Both hand the network, a grid and noise to the one
sampler interface in `engine.diffusion`; there is no sampling loop here.
"""

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

from engine.core import rng
from engine.core.errors import BadInput, ModelMismatch, SamplerError
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.diffusion.noise import Noise
from engine.diffusion.solvers import Step
from engine.models.library import load
from engine.models.restoration import RestorationBundle
from engine.pictures import PictureSetting
from engine.sampling._plane import plane as plane_of
from engine.sampling.mr_sampler import (
    AUTO,
    EXAMPLES,
    METHODS,
    SIDE,
    SPACINGS,
    TABLES,
    TASKS,
    UNKNOWN,
)
from engine.sampling.mr_sampler.degradations import degrade
from engine.sampling.mr_sampler.pictures import (
    Picture,
    example,
    photograph,
    to_picture,
    to_tensor,
)
from engine.sampling.mr_sampler.quality import scores
from engine.sampling.mr_sampler.restoring import Restorer
from engine.sampling.mr_sampler.results import Comparison, Point, Restored, Scores, Walk
from engine.sampling.mr_sampler.tiles import Canvas, PlacedNoise, cut

__all__ = ["restore", "run"]

Pictures = Float[Tensor, "1 3 h w"]
CURVE = (1, 2, 5, 10, 20)
CURVE_SIDE = 48
MOST_NFE, MOST_METHODS, FRAMES = 100, 4, 12
SMALLEST, TILE, OVERLAP = 16, 128, 32


def run(
    *,
    seed: int,
    model: ModelRef | str = "mr-restore",
    picture: PictureSetting | None = None,
    example: Annotated[str, OneOf(EXAMPLES)] = "flower",
    task: Annotated[str, OneOf((*TASKS, UNKNOWN))] = "low_light",
    strength: Annotated[float, Range(0, 1, "Try 0.5.")] = 0.5,
    methods: Annotated[Sequence[Annotated[str, OneOf(METHODS)]], Items(MOST_METHODS, fewest=1)] = (
        "mrs_ode_d_2",
        "posterior_strided",
        "posterior_released",
    ),
    nfe: Annotated[int, Range(1, MOST_NFE, "Try 5.")] = 5,
    spacing: Annotated[str, OneOf(SPACINGS)] = "auto",
    fit_target: Annotated[str, Text(40)] = AUTO,
    tables: Annotated[str, OneOf(TABLES)] = "ln alpha",
    curve: Annotated[Sequence[Annotated[int, Range(1, MOST_NFE)]], Items(16)] = CURVE,
    plane: bool = False,
) -> Steps[Comparison]:
    """Up to four methods from one noise on a picture that is damaged here.

    An uploaded picture takes part with its middle square. `task` "unknown" leaves it as it came;
    then nothing can be measured, and there is no curve. Every event carries the `Comparison` as far
    as it has come.
    """
    _check_methods(methods)
    yield Progress(0, 1, "Loading the model")
    restorer = _open(model, fit_target, tables)
    truth = _middle(_chosen(picture, example), SIDE)
    mu = _damaged(truth, task, strength, seed)
    known = None if task == UNKNOWN else truth
    bench = _Bench(restorer, task, spacing, seed, len(methods) * (nfe + sum(curve)))
    comparison = Comparison(
        to_picture(mu),
        None if known is None else to_picture(known),
        None if known is None else scores(mu, known)[0],
    )
    yield bench.progress("The picture is damaged", comparison)
    comparison = yield from _walks(bench, comparison, methods, nfe, mu, known)
    if plane:
        trajectories = {
            name: trajectory
            for name, trajectory in bench.trajectories.items()
            if len(trajectory) > 1
        }
        comparison = replace(
            comparison, plane=plane_of(trajectories, leftmost=methods[0]) if trajectories else None
        )
    if curve and known is not None:
        corner = _middle(to_picture(truth), CURVE_SIDE), _middle(to_picture(mu), CURVE_SIDE)
        comparison = yield from _curve(bench, comparison, methods, sorted(set(curve)), *corner)
    return comparison


@dataclass
class _Bench:
    """What the walks of one run share, and the evaluations done."""

    restorer: Restorer
    task: str
    spacing: str
    seed: int
    total: int
    done: int = 0
    trajectories: dict[str, list[Tensor]] = field(default_factory=dict)

    def walk(self, method: str, mu: Pictures, nfe: int) -> tuple[Tensor, Iterator[Step]]:
        """The start of a walk, and its steps."""
        noise = Noise(self.seed)
        z = self.restorer.start(mu, noise)
        model = self.restorer.model(mu, self.task)
        steps = self.restorer.walk(method, model, z, nfe, noise, spacing=self.spacing)
        return z, steps

    def progress(self, note: str, partial: Comparison, begun: int = 0) -> Progress:
        return Progress(min(self.done + begun, self.total), self.total, note, partial)


def _walks(
    bench: _Bench,
    comparison: Comparison,
    methods: Sequence[str],
    nfe: int,
    mu: Pictures,
    truth: Pictures | None,
) -> Generator[Progress, None, Comparison]:
    """Walk every method once, showing its clean estimate on the way."""
    for method in methods:
        walked = Walk(method, METHODS[method].title, 0, 0.0)
        for walked in _walk(bench, method, nfe, mu, truth):
            partial = replace(comparison, walks=(*comparison.walks, walked))
            yield bench.progress(f"{walked.title}: {walked.nfe} of {nfe} NFE", partial, walked.nfe)
        bench.done += nfe
        comparison = replace(comparison, walks=(*comparison.walks, walked))
    return comparison


def _walk(
    bench: _Bench, method: str, nfe: int, mu: Pictures, truth: Pictures | None
) -> Iterator[Walk]:
    """One method's walk, growing; the last one carries the restored picture and its scores."""
    walk, begun = Walk(method, METHODS[method].title, 0, 0.0), time.perf_counter()
    anchor = mu.to(bench.restorer.bundle.device)
    try:
        z, steps = bench.walk(method, mu, nfe)
        trajectory = bench.trajectories[method] = [z]
        stride = -(-nfe // FRAMES)
        for step in steps:
            z = step.z
            trajectory.append(z)
            walk = replace(walk, nfe=step.nfe, seconds=time.perf_counter() - begun)
            if step.i % stride == 0:
                frame = to_picture(step.x0 + anchor)
                walk = replace(
                    walk,
                    frames=(*walk.frames, frame),
                    evaluations=(*walk.evaluations, step.nfe),
                )
            yield walk
    except SamplerError as error:
        yield replace(walk, fault=f"{error.message} {error.advice}".strip())
        return
    end = z + anchor
    yield replace(
        walk,
        picture=to_picture(end),
        scores=None if truth is None else scores(end, truth)[0],
        largest=float(end.abs().max()),
    )


def _curve(
    bench: _Bench,
    comparison: Comparison,
    methods: Sequence[str],
    counts: Sequence[int],
    truth: Pictures,
    mu: Pictures,
) -> Generator[Progress, None, Comparison]:
    """Quality of every method at each NFE on the middle of the picture, the cheapest first."""
    comparison = replace(comparison, damaged_point=_point("damaged", 0, scores(mu, truth)[0]))
    for nfe in counts:
        for method in methods:
            title, spent = METHODS[method].title, 0
            try:
                z, steps = bench.walk(method, mu, nfe)
                for step in steps:
                    z, spent = step.z, step.nfe
                    if step.i % 3 == 2:
                        yield bench.progress(f"{title} at {nfe} NFE", comparison, spent)
            except SamplerError:
                continue  # Heun has no walk of one evaluation; its line begins later
            finally:
                bench.done += nfe
            quality = scores(z + mu.to(z.device), truth)[0]
            comparison = replace(
                comparison, curve=(*comparison.curve, _point(method, spent, quality))
            )
            yield bench.progress(f"{title} at {spent} NFE", comparison)
    return comparison


def _point(method: str, nfe: int, quality: Scores) -> Point:
    return Point(method, nfe, quality.psnr, quality.ssim, quality.distance)


# ---------------------------------------------------------------------- a whole picture


def restore(
    *,
    seed: int,
    model: ModelRef | str = "mr-restore",
    picture: PictureSetting | None = None,
    example: Annotated[str, OneOf(EXAMPLES)] = "rocket",
    task: Annotated[str, OneOf((*TASKS, UNKNOWN))] = UNKNOWN,
    damage: bool = False,
    strength: Annotated[float, Range(0, 1, "Try 0.5.")] = 0.5,
    solver: Annotated[str, OneOf(METHODS)] = "mrs_ode_d_2",
    nfe: Annotated[int, Range(1, MOST_NFE, "Try 5.")] = 5,
    spacing: Annotated[str, OneOf(SPACINGS)] = "auto",
    fit_target: Annotated[str, Text(40)] = AUTO,
    tables: Annotated[str, OneOf(TABLES)] = "ln alpha",
    tile: Annotated[int, Range(32, 1024, "Try 128.")] = TILE,
    overlap: Annotated[int, Range(0, 512, "A quarter of the tile does well.")] = OVERLAP,
) -> Steps[Restored]:
    """A picture of any size, tile by tile.

    An uploaded picture is taken as damaged already, unless `damage` asks to damage it here, so that
    the result can be measured. `task` says which damage the network is told to expect. Without an
    upload, the whole example photograph is damaged by `task` ("rain" where that is unknown).
    """
    _check_methods([solver])
    _check_tiles(tile, overlap)
    yield Progress(0, 1, "Loading the model")
    restorer = _open(model, fit_target, tables)
    original = _chosen(picture, example, whole=True)
    spoilt_here = damage or picture is None
    pixels = to_tensor(original[None])
    if spoilt_here and task == UNKNOWN:
        task = "rain"
    mu = _damaged(pixels, task, strength, seed) if spoilt_here else pixels
    truth = pixels if spoilt_here else None
    height, width = mu.shape[-2:]
    tiles = cut(height, width, tile, overlap)
    canvas, begun, total = Canvas(mu, overlap), time.perf_counter(), len(tiles) * nfe
    restored = Restored(
        to_picture(mu),
        truth=None if truth is None else to_picture(truth),
        title=METHODS[solver].title,
        tiles=len(tiles),
        before_scores=None if truth is None else scores(mu, truth)[0],
    )
    yield Progress(0, total, f"{len(tiles)} tiles", restored)
    for number, part in enumerate(tiles, start=1):
        # the whole picture tells a network that reads the damage off it what to expect
        net = restorer.model(part.of(mu), task, whole=mu)
        noise = PlacedNoise(seed, part)
        z = restorer.start(part.of(mu), noise)
        for step in restorer.walk(solver, net, z, nfe, noise, spacing=spacing):
            z = step.z
            done = (number - 1) * nfe + min(step.nfe, nfe)
            yield Progress(done, total, f"Tile {number} of {len(tiles)}", restored)
        canvas.put(part, net.place(z).cpu())
        seconds = time.perf_counter() - begun
        restored = replace(restored, after=to_picture(canvas.picture), nfe=net.nfe, seconds=seconds)
        yield Progress(number * nfe, total, f"Tile {number} of {len(tiles)}", restored)
    return replace(restored, scores=None if truth is None else scores(canvas.picture, truth)[0])


# ---------------------------------------------------------------------- pictures and checks


def _open(model: ModelRef | str, fit_target: str, tables: str) -> Restorer:
    bundle = load(model)
    if not isinstance(bundle, RestorationBundle):
        raise ModelMismatch(
            f"{bundle.card.title} does not restore pictures.", "Pick a restoration model."
        )
    if fit_target not in (AUTO, *bundle.fit_targets):
        raise BadInput(
            f'This model was not trained to predict "{fit_target!s:.40}".',
            f"Choose {', '.join((AUTO, *bundle.fit_targets))}.",
        )
    return Restorer(bundle, fit_target, tables)


def _chosen(picture: UInt8[Array, "_ _ _"] | None, name: str, *, whole: bool = False) -> Picture:
    """The uploaded picture if there is one, else the example, or its whole photograph."""
    if picture is None:
        return photograph(name) if whole and EXAMPLES[name].place else example(name)
    if min(picture.shape[:2]) < SMALLEST:
        raise BadInput(
            f"The picture is {picture.shape[1]} x {picture.shape[0]} pixels.",
            f"Take one of at least {SMALLEST} pixels each way.",
        )
    return picture


def _middle(picture: Picture | Pictures, side: int) -> Float[Tensor, "1 3 _ _"]:
    """The square in the middle, or as much of it as there is."""
    x = picture if isinstance(picture, Tensor) else to_tensor(picture[None])
    h, w = x.shape[-2:]
    tall, wide = min(side, h), min(side, w)
    y, left = (h - tall) // 2, (w - wide) // 2
    return x[..., y : y + tall, left : left + wide]


def _damaged(x0: Pictures, task: str, strength: float, seed: int) -> Pictures:
    return x0 if task == UNKNOWN else degrade(x0, task, strength, rng.generator(seed, "damage"))


def _check_methods(methods: Sequence[str]) -> None:
    if len(set(methods)) != len(methods):
        raise BadInput(
            "A method is named twice.",
            "MRS-ODE-d-2 beside the two posterior samplers shows the most.",
        )


def _check_tiles(tile: int, overlap: int) -> None:
    if not 0 <= overlap <= tile // 2:
        raise BadInput(
            f"Tiles of {tile} pixels overlap by 0 to {tile // 2} pixels, got {overlap!s:.20}.",
            "A quarter of the tile does well.",
        )

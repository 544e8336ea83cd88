"""Pictures by a score network: there and back with the likelihood, samplers side by side, control.

All of it goes through `engine.diffusion`: the flow by RK45, the reverse equation by `pc`, and
control by a hook or by a guided model.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from engine.core import rng
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef
from engine.core.settings import OneOf, Range, Text
from engine.core.shapes import Array, Float, UInt8
from engine.diffusion.adaptive import bits_per_dim, log_likelihood, travel
from engine.diffusion.grids import Grid
from engine.diffusion.noise import Noise
from engine.diffusion.predictors import released_grid
from engine.diffusion.solvers import solve
from engine.models.score import CLASSES, ScoreBundle, class_index, load_readers, load_score
from engine.pictures import PictureSetting
from engine.sampling.score_sde import CORRECTORS, LEVELS, PREDICTORS, TASKS
from engine.sampling.score_sde.control import COLOURS, Guide, Known, guided
from engine.sampling.score_sde.particles import setting_of, steps_of
from engine.sampling.score_sde.processes import LAST
from engine.sampling.score_sde.results import Bits, Controlled, Drawn, Strip, Trip
from engine.world.scenes import Scene
from engine.world.scenes import draw as draw_scene
from engine.world.sprites import load_sprites
from engine.world.vocabulary import BACKGROUNDS

FRAMES = 9
EXACT = 1e-5
Picture = UInt8[Array, "height width 3"]


# ---------------------------------------------------------------------- there and back


def trip(
    *,
    seed: int,
    model: ModelRef | str = "score-subvp",
    subject: Annotated[str, Text(100)] = "cat",
    picture: PictureSetting | None = None,
    others: Annotated[int, Range(0, 8)] = 3,
    probes: Annotated[int, Range(1, 10)] = 2,
    tolerance: Annotated[float, Range(1e-6, 0.1)] = 1e-3,
    nfe: Annotated[int, Range(2, 1000)] = 60,
) -> Steps[Trip]:
    """A picture to its latent and back by the flow; other pictures from the same latent by the
    noisy equation; and the bits that the picture is worth, by `probes` probes at once.

    `tolerance` is that of RK45. The likelihood goes down to t = 1e-5, the trip to the time at
    which the sampler asks last.
    """
    class_index(subject)
    yield Progress(0, 40, "Loading the network")
    bundle = load_score(model)
    original = picture_of(bundle, subject, picture, seed)
    x = dequantised(bundle, original, seed)
    last = LAST[bundle.process]
    result = Trip(original=original)
    yield Progress(1, 40, "The picture", result)
    net = bundle.denoiser()
    frames, z = [original], x
    times = np.append(last, np.linspace(0, 1, FRAMES)[1:] ** 2)
    for done, (t, z, _) in enumerate(travel(net, x, times, tolerance=tolerance), 2):
        frames.append(state_pictures(bundle, z, t))
        result = replace(
            result, to_latent=np.concatenate(frames), latent=frames[-1], nfe_there=net.nfe
        )
        yield Progress(done, 40, "to the latent", result)
    latent, spread = z, float(z.std() / bundle.path.prior_std)
    result = replace(result, latent_spread=spread)
    net, frames = bundle.denoiser(), [state_pictures(bundle, latent, 1.0)]
    for done, (t, z, _) in enumerate(
        travel(net, latent, times[::-1].copy(), tolerance=tolerance), 10
    ):
        frames.append(state_pictures(bundle, z, t))
        result = replace(result, to_picture=np.concatenate(frames), nfe_back=net.nfe)
        yield Progress(done, 40, "and back", result)
    gap = float((z - x).abs().mean()) * 255 / (1 - bundle.low)
    result = replace(result, back=bundle.pictures(z), gap=gap)
    if others:
        for step, states, used in _reversed(bundle, latent.repeat(others, 1, 1, 1), nfe, seed):
            result = replace(result, others=states, nfe_others=used)
            yield Progress(18 + int(8 * step), 40, "with noise, from the same latent", result)
    for share, bits in measure_bits(bundle, x, seed, probes, tolerance):
        result = result if bits is None else replace(result, bits=bits)
        yield Progress(26 + int(13 * share), 40, "the likelihood", result)
    return result


def measure_bits(
    bundle: ScoreBundle, x: Float[Tensor, "1 c h w"], seed: int, probes: int, tolerance: float
) -> Iterator[tuple[float, Bits | None]]:
    """Share of the way, then the bits per dimension of one dequantised picture."""
    copies = x.repeat(probes, 1, 1, 1)
    signs = Noise(seed)(copies, 0, "probe").sign()
    # Where the network computes, so that a velocity and its divergence come home together.
    copies, signs = copies.to(bundle.device), signs.to(bundle.device)
    model = bundle.denoiser(grad=True)
    walk = log_likelihood(model, copies, signs, last=EXACT, tolerance=tolerance)
    likelihood = yield from relay(walk, lambda t: (float(t) ** 0.5, None))
    size = x[0].numel()
    each = bits_per_dim(likelihood.log_density, size, low=bundle.low, high=1.0)
    yield (
        1.0,
        Bits(
            mean=float(each.mean()),
            spread=float(each.std()) if probes > 1 else 0.0,
            probes=tuple(float(probe_bits) for probe_bits in each),
            nats=float(likelihood.log_density.mean()),
            dimensions=size,
            offset=float(np.log2(256 / (1 - bundle.low))),
            low=bundle.low,
            nfe=likelihood.nfe,
        ),
    )


def _reversed(
    bundle: ScoreBundle, z: Float[Tensor, "b c h w"], nfe: int, seed: int
) -> Iterator[tuple[float, np.ndarray, int]]:
    """The reverse equation without corrector, as the paper samples: share, clean guess, NFE."""
    predictor = "reverse_diffusion" if bundle.process == "ve" else "euler_maruyama"
    grid = released_grid(nfe, LAST[bundle.process])
    for step in solve("pc", bundle.denoiser(), z, grid, Noise(seed), predictor=predictor):
        state = step.z if step.i == nfe - 1 else step.x0
        yield (step.i + 1) / nfe, bundle.pictures(state), step.nfe


# ---------------------------------------------------------------------- samplers side by side


def draw(
    *,
    seed: int,
    model: ModelRef | str = "score-ve",
    predictor: Annotated[str, OneOf(PREDICTORS)] = "reverse_diffusion",
    corrector: Annotated[str, OneOf(CORRECTORS)] = "langevin",
    nfe: Annotated[int, Range(4, 2000)] = 60,
    snr: Annotated[float, Range(0.001, 5)] = 0.16,
    corrections: Annotated[int, Range(1, 10)] = 1,
    levels: Annotated[str, OneOf(LEVELS)] = "grid",
    denoise: bool = True,
    count: Annotated[int, Range(1, 16)] = 4,
    with_flow: bool = True,
) -> Steps[Drawn]:
    """Pictures from one noise: predictor with corrector, predictor alone at equal NFE, the flow."""
    settings = setting_of(predictor, corrector, snr, corrections, levels)
    steps_of(settings, nfe)
    yield Progress(0, 1, "Loading the network")
    bundle = load_score(model)
    z = Noise(seed).start(torch.zeros(count, *bundle.shape), bundle.path.prior_std)
    plans = [("pc", "predictor and corrector", settings)] if corrector != "none" else []
    if predictor != "none":
        plans.append(("p", "predictor alone", settings | {"corrector": "none"}))
    total, drawn = 100 * len(plans) + 100 * with_flow, Drawn()
    for place, (name, title, options) in enumerate(plans):
        steps = steps_of(options, nfe)
        grid = released_grid(steps, LAST[bundle.process])
        grid = grid if denoise else replace(grid, final="none")
        begun, before = time.monotonic(), drawn.strips
        for step in solve("pc", bundle.denoiser(), z, grid, Noise(seed), **options):
            ended = step.role == "step" and step.i == steps - 1
            states = step.z if ended or predictor == "none" else step.x0
            strip = Strip(name, title, step.nfe, bundle.pictures(states), ended)
            drawn = Drawn((*before, replace(strip, seconds=time.monotonic() - begun)))
            done = 100 * place + int(100 * step.nfe / nfe)
            yield Progress(min(done, total), total, title, drawn)
    if with_flow:
        drawn = yield from _flow(bundle, z, drawn, total)
    return drawn


def _flow(
    bundle: ScoreBundle, z: Float[Tensor, "b c h w"], strips: Drawn, total: int
) -> Steps[Drawn]:
    """The same noise by the flow; its cost is what RK45 took at a tolerance of 1e-3."""
    net, before, begun = bundle.denoiser(), strips.strips, time.monotonic()
    times = 1 - np.linspace(0, 1 - LAST[bundle.process], 12)
    for place, (_, state, x0) in enumerate(travel(net, z, times, tolerance=1e-3), 1):
        ended = place == len(times) - 1
        pictures = bundle.pictures(state if ended else x0)
        strip = Strip("ode", "probability flow, RK45", net.nfe, pictures, ended)
        strips = Drawn((*before, replace(strip, seconds=time.monotonic() - begun)))
        yield Progress(total - 100 + 9 * place, total, strip.title, strips)
    return strips


# ---------------------------------------------------------------------- control


def control(
    *,
    seed: int,
    model: ModelRef | str = "score-ve",
    task: Annotated[str, OneOf(TASKS)] = "inpaint",
    subject: Annotated[str, Text(100)] = "cat",
    picture: PictureSetting | None = None,
    mask: Annotated[str, Text(256)] = "",
    wanted: Annotated[str, Text(100)] = "penguin",
    weight: Annotated[float, Range(0, 50)] = 1.0,
    nfe: Annotated[int, Range(4, 2000)] = 100,
    snr: Annotated[float, Range(0.001, 5)] = 0.16,
    count: Annotated[int, Range(1, 16)] = 3,
) -> Steps[Controlled]:
    """Paint a masked part anew, colour a gray picture, or draw an object by a noisy classifier.

    `mask` marks what is to be painted anew, see `mask_of`; empty is the right half. VE networks
    sample with the Langevin corrector, the others without, as the paper does.
    """
    class_index(subject)
    index = class_index(wanted)
    hidden = mask_of(mask)
    yield Progress(0, nfe, "Loading the network")
    bundle = load_score(model)
    is_ve = bundle.process == "ve"
    predictor, corrector = (
        ("reverse_diffusion", "langevin") if is_ve else ("euler_maruyama", "none")
    )
    settings = setting_of(predictor, corrector, snr, 1)
    steps = steps_of(settings, nfe)
    grid, noise = released_grid(steps, LAST[bundle.process]), Noise(seed)
    z = noise.start(torch.zeros(count, *bundle.shape), bundle.path.prior_std)
    net, result, hook, guide = bundle.denoiser(), Controlled(task), None, None
    if task == "class":
        guide = Guide(load_readers().noisy, index, weight, bundle.path, bundle.low)
        net = guided(net, guide)
    else:
        original = picture_of(bundle, subject, picture, seed)
        x = bundle.states(original).repeat(count, 1, 1, 1)
        hook, known_pixels = known_part(bundle, task, x, hidden, grid, noise)
        z, result = hook.start(z), replace(result, given=original, known=known_pixels)
    for step in solve("pc", net, z, grid, noise, hook=hook, **settings):
        ended = step.role == "step" and step.i == steps - 1
        pictures = bundle.pictures(step.z if ended else step.x0)
        result = replace(result, made=pictures, nfe=step.nfe)
        if guide is not None:
            result = replace(result, classifier_calls=guide.calls, classifier_seconds=guide.seconds)
        if ended:
            result = _judged(bundle, result, step.z, index, hook)
        yield Progress(min(step.nfe, nfe), nfe, TASKS[task], result)
    return result


def known_part(
    bundle: ScoreBundle,
    task: str,
    x: Float[Tensor, "b c h w"],
    hidden: np.ndarray,
    grid: Grid,
    noise: Noise,
) -> tuple[Known, np.ndarray]:
    """The hook that keeps what is known, and a picture of it."""
    if task == "inpaint":
        keep = ~_fitted(hidden, x.shape[-2:])
        mask = torch.from_numpy(keep).to(x).expand_as(x).contiguous()
        pixels = bundle.pictures(x[:1]).copy()
        pixels[:, ~keep] = (pixels[:, ~keep] * 0.0 + 128).astype(np.uint8)
        return Known(x, mask, None, bundle.path, grid, noise), pixels
    gray = x.mean(1, keepdim=True).expand_as(x).contiguous()
    first = torch.zeros_like(x)
    first[:, 0] = 1
    hook = Known(gray, first, COLOURS, bundle.path, grid, noise)
    return hook, bundle.pictures(gray[:1])


def _judged(
    bundle: ScoreBundle,
    result: Controlled,
    x: Float[Tensor, "b c h w"],
    index: int,
    hook: Known | None,
) -> Controlled:
    """How far the known part is kept, or how sure the classifier is of what it asked for."""
    if hook is not None:
        return replace(result, kept=hook.gap(x) * 255 / (1 - bundle.low))
    unit = (x.float() - bundle.low) / (1 - bundle.low)
    with torch.no_grad():
        probabilities = torch.softmax(
            load_readers().noisy(unit, torch.full((len(x),), 0.01)), dim=1
        )
    return replace(result, right=tuple(float(p) for p in probabilities[:, index]))


# ---------------------------------------------------------------------- pictures and masks


def picture_of(
    bundle: ScoreBundle, subject: str, picture: Picture | None, seed: int
) -> UInt8[Array, "1 h w 3"]:
    """The visitor's picture at the network's size, or a new drawing of the subject."""
    _, height, width = bundle.shape
    if picture is None:
        picture = example(subject, seed)
    from PIL import Image

    resized = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    return np.asarray(resized)[None]


def example(subject: str, seed: int) -> Picture:
    """A drawing that no network saw in this pose: plain, on one of the pale grounds, 64 x 64."""
    generator = np.random.default_rng([seed, CLASSES.index(subject)])
    ground = list(BACKGROUNDS)[int(generator.integers(len(BACKGROUNDS)))]
    return draw_scene(Scene("plain", ground, subject), load_sprites(), generator, side=64)


def dequantised(
    bundle: ScoreBundle, pictures: UInt8[Array, "b h w 3"], seed: int
) -> Float[Tensor, "b c h w"]:
    """States (k + u) / 256 in the range of the network, u drawn from the seed."""
    x = torch.from_numpy(pictures.astype(np.float32)).permute(0, 3, 1, 2)
    u = torch.rand(x.shape, generator=rng.generator(seed, "dequantise"))
    return bundle.low + (1 - bundle.low) * (x + u) / 256


def state_pictures(
    bundle: ScoreBundle, z: Float[Tensor, "b c h w"], t: float
) -> UInt8[Array, "b h w 3"]:
    """A noisy state as a picture: rescaled so that its spread does not leave the colours."""
    half, mid = (1 - bundle.low) / 2, (1 + bundle.low) / 2
    a, s = float(bundle.path.a(t)), float(bundle.path.s(t))
    unit = (z - a * mid) / (half * float(np.hypot(a, 0.8 * s / half)))
    return bundle.pictures(mid + half * unit)


def mask_of(text: str) -> np.ndarray:
    """A mask of 32 x 32 from 256 hexadecimal digits, row by row, 1 where to paint anew.

    Names stand for common ones: left, right, top, bottom, centre, "" for right.
    """
    mask = np.zeros((32, 32), dtype=bool)
    halves: dict[str, Any] = {
        "": np.s_[:, 16:],
        "right": np.s_[:, 16:],
        "left": np.s_[:, :16],
        "top": np.s_[:16],
        "bottom": np.s_[16:],
        "centre": np.s_[9:23, 9:23],
    }
    word = text.strip().lower()
    if word in halves:
        mask[halves[word]] = True
        return mask
    if len(word) != 256 or any(c not in "0123456789abcdef" for c in word):
        raise BadInput("The mask is no mask.", MASK_HELP)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(word), np.uint8)).reshape(32, 32).astype(bool)
    if not bits.any():
        raise BadInput("The mask marks nothing to paint anew.", "Brush over a part of the picture.")
    return bits


MASK_HELP = "Use the brush, or write left, right, top, bottom or centre."


def _fitted(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    rows, columns = (np.arange(n) * 32 // n for n in size)
    return mask[rows][:, columns]

"""What an erasing method is compared with: things people do today, and published fine-tunings.

    erased = finish(MAKERS["negative prompt"](bundle, subject, 0))
    eraser = erased.at(1.0)                                   see `_eraser`

Three act on the text, on guidance or on the finished picture and change no weight; ESD and Concept
Ablation fine-tune some of the weights; the random edit changes the same weights by the same amount
without knowing why, and so tells how much of an effect is mere damage. `strength` between 0 and 1
is in all cases our extrapolation: the papers know 1 only.
"""

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch

from engine.core import rng
from engine.core.cache import LruCache
from engine.core.errors import ModelMismatch
from engine.core.job import Progress, Steps
from engine.core.shapes import Float, Tensor
from engine.erasing._eraser import Cost, Erased, Eraser, Maker, Pictures
from engine.erasing._subject import Subject
from engine.models import drawing
from engine.models.diffusion import (
    Conditioning,
    DiffusionBundle,
    empty_prompt,
    encode_prompt,
    predict,
)
from engine.models.library import with_tensors
from engine.models.vision import HEADS, load_judge
from engine.world.vocabulary import article

BLANK = 235  # the gray of a picture that a filter has withheld


# ---------------------------------------------------------------------- no weight is changed


def original(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """The model as it is: the reference for all others."""
    yield Progress(1, 1, "original")
    return Erased("original", lambda _: Eraser("original", bundle), ())


def negative_prompt(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """The concept in place of the empty text on the other side of guidance.

    A strength between 0 and 1 mixes the two embeddings.
    """
    yield Progress(1, 1, "negative prompt")
    empty, concept = empty_prompt(bundle), encode_prompt(bundle, [subject.concept])

    def at(strength: float) -> Eraser:
        mixed = torch.lerp(empty.tokens.float(), concept.tokens.float(), strength)
        negative = Conditioning(mixed.to(empty.tokens), concept.pooled)
        return Eraser("negative prompt", bundle, negative=negative)

    return Erased("negative prompt", at)


def word_filter(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """The concept's words replaced by the anchor's before the text is read."""
    yield Progress(1, 1, "word filter")
    pattern = re.compile(rf"\b(an? )?{re.escape(subject.concept)}\b", re.IGNORECASE)

    def reword(text: str) -> str:
        return pattern.sub(
            lambda found: article(subject.anchor) if found[1] else subject.anchor, text
        )

    return Erased("word filter", lambda _: Eraser("word filter", bundle, reword=reword), ())


def detector_filter(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """The judge looks at each finished picture and withholds it when it sees the concept.

    It does so above a probability of 1 - strength / 2: one half at strength 1. Judge and filter are
    one network here, so that its efficacy is perfect by construction; what it costs is shown by the
    kept pictures it withholds.
    """
    if bundle.vocabulary is None:
        raise ModelMismatch(
            "The detector filter needs a classifier of the concept, and there is none for this "
            "model.",
            "Leave it out, or take the embedded world.",
        )
    yield Progress(1, 1, "detector filter")

    def at(strength: float) -> Eraser:
        screen = partial(withheld, subject=subject, threshold=1 - strength / 2)
        return Eraser("detector filter", bundle, screen=screen)

    return Erased("detector filter", at)


def withheld(pictures: Pictures, *, subject: Subject, threshold: float) -> Pictures:
    """The pictures, gray ones in place of those in which the judge sees the concept."""
    found = load_judge().judge(pictures)
    heads = ("subject", "other") if subject.head == "subject" else ("style",)
    sure = [found.probabilities[head][:, HEADS[head].index(subject.target)] for head in heads]
    seen = np.maximum.reduce(sure) > threshold
    return np.where(seen[:, None, None, None], np.uint8(BLANK), pictures)


# ---------------------------------------------------------------------- weights are changed


@dataclass(frozen=True)
class Training:
    """How a baseline is fine-tuned; the published numbers are for Stable Diffusion.

    One walk of `walk_steps` DDIM steps serves `visits` iterations, at as many of its states; with
    one visit it is the published draw of a fresh walk for every iteration.
    """

    iterations: int = 80
    learning_rate: float = 1e-3
    batch: int = 1
    walk_steps: int = 10
    visits: int = 9
    walk_guidance: float = 3.0


TRAINING = Training()
"""What the baselines take: seconds on the embedded world."""


def esd(
    bundle: DiffusionBundle,
    subject: Subject,
    seed: int,
    *,
    part: Literal["x", "u"] = "x",
    eta: float = 1.0,
    training: Training | None = None,
) -> Steps[Erased]:
    """Erased Stable Diffusion (Gandikota et al. 2023): guidance away from the concept, learned.

        e_edit(x, c)  ->  e(x, "") - eta (e(x, c) - e(x, ""))

    on states x of the edited model's own walks. "x" trains the cross-attention, "u" all but it.
    Noise, velocity and clean sample are affine in one another with one and the same x, so the
    formula is taken in whatever the network predicts.
    """
    training = training or TRAINING
    name, wide = f"ESD-{part}", drawing.in_float32(bundle)
    concept, empty = encode_prompt(wide, [subject.concept]), empty_prompt(wide)

    def loss_of(edited: DiffusionBundle, x: Tensor, t: Tensor) -> Tensor:
        named, nothing = _expanded(concept, len(x)), _expanded(empty, len(x))
        with torch.no_grad():
            away = predict(wide, x, t, nothing)
            target = away - eta * (predict(wide, x, t, named) - away)
        return (predict(edited, x, t, named) - target).square().mean()

    def states(edited: DiffusionBundle) -> Iterator[tuple[Tensor, Tensor]]:
        return own_states(edited, concept, empty, seed, training)

    names = esd_names(bundle, part)
    weights = yield from fine_tuned(wide, names, loss_of, states, training, name)
    return _edited(name, bundle, weights)


def esd_names(bundle: DiffusionBundle, part: Literal["x", "u"]) -> list[str]:
    """The weights that ESD trains: cross-attention, or what is neither that, nor time, nor out."""
    every = [name for name, _ in bundle.model.named_parameters() if name.startswith("unet.")]
    if part == "x":
        return [name for name in every if ".attn2." in name]
    others = (".attn2.", ".time_embedding.", ".conv_out.")
    return [name for name in every if not any(other in name for other in others)]


def concept_ablation(
    bundle: DiffusionBundle, subject: Subject, seed: int, *, training: Training | None = None
) -> Steps[Erased]:
    """Concept Ablation (Kumari et al. 2023): the concept is to predict what its anchor predicts.

        |e_edit(x_t, c) - e(x_t, c*)|^2,    x_t noised pictures of the anchor c*

    Keys and values of the cross-attention are trained; the pictures are the model's own.
    """
    training = training or TRAINING
    name, wide = "concept ablation", drawing.in_float32(bundle)
    forms = ("{}", "{} on white")
    cond, anchor = (
        encode_prompt(wide, [form.format(text) for form in forms])
        for text in (subject.concept, subject.anchor)
    )
    pictures = yield from _drawn(wide, anchor, seed, training, name)

    def loss_of(edited: DiffusionBundle, x: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            target = predict(wide, x, t, _expanded(anchor, len(x)))
        return (predict(edited, x, t, _expanded(cond, len(x))) - target).square().mean()

    def states(edited: DiffusionBundle) -> Iterator[tuple[Tensor, Tensor]]:
        return noised(wide, pictures, seed, training)

    names = [n for n, _ in bundle.model.named_parameters() if n.startswith("unet.")]
    names = [n for n in names if n.endswith((".attn2.to_k.weight", ".attn2.to_v.weight"))]
    weights = yield from fine_tuned(wide, names, loss_of, states, training, name)
    return _edited(name, bundle, weights)


def random_edit(
    bundle: DiffusionBundle, subject: Subject, seed: int, *, like: Maker | None = None
) -> Steps[Erased]:
    """Gaussian noise on the weights that another edit changed, of the same norm in each tensor.

    The other edit is ESD-x where none is given.
    """
    reference = yield from made(like or MAKERS["ESD-x"], bundle, subject, seed)
    new, old = reference.at(1.0).weights(), bundle.model.state_dict()
    changed = {}
    for name, tensor in new.items():
        size = float((tensor.float() - old[name].float()).norm())
        if size:
            draw = rng.noise(tensor.shape, rng.generator(seed, "random edit", name))
            drawn = (draw * size / draw.norm()).to(tensor.device)
            changed[name] = (old[name].float() + drawn).to(old[name])
    return _edited("random edit", bundle, changed)


# ---------------------------------------------------------------------- fine-tuning

LossOf = Callable[[DiffusionBundle, Float[Tensor, "b c h w"], Float[Tensor, " b"]], Tensor]
StatesOf = Callable[[DiffusionBundle], Iterator[tuple[Tensor, Tensor]]]


def fine_tuned(
    bundle: DiffusionBundle,
    names: list[str],
    loss_of: LossOf,
    states_of: StatesOf,
    training: Training,
    note: str,
) -> Generator[Progress, None, dict[str, Tensor]]:
    """New values of the named weights after some iterations of Adam; the bundle keeps its own.

    `states_of` gives noisy latents and their times without end, `loss_of` the loss at one of them.
    """
    if not names:
        raise ModelMismatch(
            f"This model has none of the weights that {note} trains.",
            "Pick a Stable Diffusion model of the 1.x, 2.x or XL layout.",
        )
    old = dict(bundle.model.named_parameters())
    model = with_tensors(bundle.model, {name: old[name].detach().clone() for name in names})
    edited = replace(bundle, model=model)
    trained = [model.get_parameter(name).requires_grad_(True) for name in names]
    optimizer = torch.optim.Adam(trained, lr=training.learning_rate)
    states = states_of(edited)
    for done in range(training.iterations):
        x, t = next(states)
        with torch.enable_grad():
            loss = loss_of(edited, x, t)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        yield Progress(done + 1, training.iterations, f"{note}: loss {float(loss.detach()):.4f}")
    return {name: new.detach() for name, new in zip(names, trained, strict=True)}


def own_states(
    edited: DiffusionBundle,
    cond: Conditioning,
    uncond: Conditioning,
    seed: int,
    training: Training,
) -> Iterator[tuple[Tensor, Tensor]]:
    """States of the edited model's own guided walks, as long as they are asked for."""
    walk = 0
    while True:
        draw = np.random.default_rng([seed, walk])
        count = min(training.visits, training.walk_steps - 1)
        stops = 1 + draw.choice(training.walk_steps - 1, count, replace=False)
        visited = drawing.visit(
            edited,
            cond,
            uncond,
            drawing.start_noise(edited, seed * 1009 + walk, training.batch),
            steps=training.walk_steps,
            guidance_scale=training.walk_guidance,
            stops=frozenset(stops.tolist()),
        )
        for x, t in visited:
            yield x.detach(), torch.full((len(x),), t, device=x.device)
        walk += 1


def noised(
    bundle: DiffusionBundle, pictures: Float[Tensor, "n c h w"], seed: int, training: Training
) -> Iterator[tuple[Tensor, Tensor]]:
    """Some of the latents at random times, as long as they are asked for."""
    path, draw = drawing.path_of(bundle), np.random.default_rng([seed, 1])
    step = 0
    while True:
        chosen = draw.integers(len(pictures), size=training.batch)
        t = draw.integers(int(path.t_max) + 1, size=training.batch).astype(np.float64)
        x0 = pictures[torch.from_numpy(chosen)]
        noise = rng.noise(x0.shape, rng.generator(seed, "ablation", step)).to(x0.device)
        a, s = (
            torch.as_tensor(level(t), dtype=x0.dtype, device=x0.device).view(-1, 1, 1, 1)
            for level in (path.a, path.s)
        )
        yield a * x0 + s * noise, torch.as_tensor(t, device=x0.device, dtype=torch.float32)
        step += 1


def _drawn(
    bundle: DiffusionBundle, cond: Conditioning, seed: int, training: Training, note: str
) -> Generator[Progress, None, Float[Tensor, "n c h w"]]:
    """Latents of pictures of these prompts by the model itself, four of each."""
    cond = _expanded(cond, 4 * len(cond))
    noise = drawing.start_noise(bundle, seed, len(cond))
    walked = drawing.walk(
        bundle,
        cond,
        empty_prompt(bundle),
        noise,
        steps=training.walk_steps,
        guidance_scale=training.walk_guidance,
    )
    latents = noise
    for step in walked:
        latents = step.z
        yield Progress(0, training.iterations, f"{note}: drawing its anchor")
    return latents


def _expanded(cond: Conditioning, rows: int) -> Conditioning:
    """The prompts repeated to a batch of this size."""
    return cond.rows([index % len(cond) for index in range(rows)])


def _edited(name: str, bundle: DiffusionBundle, weights: Mapping[str, Tensor]) -> Erased:
    """An erasure by new weights; between strengths 0 and 1 they are mixed with the old ones."""
    old = dict(bundle.model.state_dict())
    parameters = sum(tensor.numel() for tensor in weights.values())

    def at(strength: float) -> Eraser:
        mixed = {
            key: torch.lerp(old[key].float(), new.float(), strength).to(old[key])
            for key, new in weights.items()
        }
        model = with_tensors(bundle.model, mixed)
        cost = Cost(parameters=parameters, undo="patch, bit for bit")
        return Eraser(name, replace(bundle, model=model), cost)

    return Erased(name, at)


def made(
    maker: Maker, bundle: DiffusionBundle, subject: Subject, seed: int
) -> Generator[Progress, None, Erased]:
    """The erasure of a maker, with the seconds it took in its cost; kept for the next one who asks.

    `Cost.seconds` of a kept erasure are those of its making.
    """

    def make() -> Generator[Progress, None, Erased]:
        begun = time.perf_counter()
        erased = yield from maker(bundle, subject, seed)
        return timed(erased, time.perf_counter() - begun)

    return (yield from _MADE.steps((maker, *bundle.cache_key, subject, seed), make))


def timed(erased: Erased, seconds: float) -> Erased:
    """The erasure with the seconds that its making took."""

    def at(strength: float) -> Eraser:
        eraser = erased.at(strength)
        return replace(eraser, cost=replace(eraser.cost, seconds=seconds))

    return replace(erased, at=at)


_MADE: LruCache[Erased] = LruCache(most=24)  # what its closures hold is not weighed


def esd_u(bundle: DiffusionBundle, subject: Subject, seed: int) -> Steps[Erased]:
    """ESD on all but the cross-attention."""
    return (yield from esd(bundle, subject, seed, part="u"))


MAKERS: dict[str, Maker] = {
    "original": original,
    "negative prompt": negative_prompt,
    "word filter": word_filter,
    "detector filter": detector_filter,
    "ESD-x": esd,
    "ESD-u": esd_u,
    "concept ablation": concept_ablation,
    "random edit": random_edit,
}

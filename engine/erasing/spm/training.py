"""Training one membrane: the erase loss, latent anchoring, and the loop with stop and resume."""

import copy
import math
import random
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from engine.core import rng
from engine.core.cache import LruCache
from engine.core.job import Progress
from engine.core.precision import at_home
from engine.core.shapes import Float, Tensor
from engine.erasing.spm.membrane import Membrane, sites, with_membranes
from engine.models import drawing
from engine.models.diffusion import (
    Conditioning,
    DiffusionBundle,
    empty_prompt,
    encode_prompt,
    predict,
)

WALK_GUIDANCE = 3.0
RESTARTS, WARM_UP = 3, 1 / 6  # of the learning rate: 3 cycles, 500 of 3,000 steps
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class Plan:
    """How a membrane is trained; published are 3,000 iterations at 1e-4, eta 1 and K = 30.

    The defaults are for the embedded world, where eta 1 leaves an empty picture behind. `eta`
    weighs how far past the anchor the concept is pushed, `la_strength` is lambda, `anchors` the
    number of random embeddings that are held. One walk of `walk_steps` DDIM steps serves `visits`
    iterations; with 1 it is the published draw of a fresh walk for each.
    `official_anchor_order` repeats a slip of the published code, by which half of what is anchored
    is the empty text.
    """

    anchor: str = ""
    eta: float = 0.3
    la_strength: float = 1.0
    anchors: int = 2
    iterations: int = 40
    learning_rate: float = 2e-2
    rank: int = 1
    walk_steps: int = 10
    visits: int = 9
    official_anchor_order: bool = False

    def rate(self, step: int) -> float:
        """Learning rate: warm-up, then a cosine that starts again three times."""
        warm = max(round(WARM_UP * self.iterations), 1)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(self.iterations - warm, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (RESTARTS * done % 1)))


@dataclass(frozen=True)
class Losses:
    """One iteration: L = erase + lambda anchor."""

    erase: float
    anchor: float
    total: float


# ---------------------------------------------------------------------- the losses


def erase_loss(
    target: Float[Tensor, "b *d"],
    positive: Float[Tensor, "b *d"],
    neutral: Float[Tensor, "b *d"],
    eta: float,
) -> Float[Tensor, ""]:
    """mean (e_tar - [e_neu - eta (e_pos - e_neu)])^2; only `target` carries a gradient."""
    return (target - (neutral - eta * (positive - neutral))).square().mean()


def anchor_loss(on: Float[Tensor, "a *d"], off: Float[Tensor, "a *d"]) -> Float[Tensor, ""]:
    """mean (e_on - e_off)^2: what random embeddings say with the membrane and without it."""
    return (on - off).square().mean()


def draw_anchors(
    target: Float[Tensor, "1 n d"],
    count: int,
    normal: Callable[[], Float[Tensor, "1 n d"]],
    uniform: Callable[[], float],
) -> Float[Tensor, "a n d"]:
    """Random directions of about the target's length, those near it less often.

    A normal draw z, scaled to length 1 over the whole tensor, is taken with probability
    1 - cos(target, z), and then scaled to 0.8 to 1.2 times the target's length.
    """
    length = target.norm()
    found: list[Tensor] = []
    while len(found) < count:
        z = normal()
        z = z / z.norm()
        cosine = float((z * target).sum() / length)
        if uniform() < 1 - cosine:
            found.append((uniform() * 0.4 + 0.8) * z * length)
    return torch.cat(found) if found else target[:0]


def in_order(
    anchors: Float[Tensor, "a n d"], empty: Float[Tensor, "1 n d"], official: bool
) -> Float[Tensor, "a n d"]:
    """The rows that end up anchored.

    The published code lists [empty, anchor 1, empty, anchor 2, ...] and then takes the second half
    of the list for the conditional one: half of it is the empty text.
    """
    if not official or not len(anchors):
        return anchors
    listed = torch.stack([empty.expand_as(anchors), anchors], 1).flatten(0, 1)
    return listed[len(anchors) :]


# ---------------------------------------------------------------------- the loop


def new_membrane(unet: nn.Module, prompts: tuple[str, ...], rank: int, seed: int) -> Membrane:
    """Downs drawn as torch initialises a linear map, ups of zeros: it changes nothing yet."""
    down, up = {}, {}
    for path, layer in sites(unet).items():
        out, into = layer.weight.shape[:2]
        r = min(rank, out, into)
        shape = (r, *layer.weight.shape[1:])
        bound = 1 / math.sqrt(layer.weight[0].numel())
        drawn = torch.rand(shape, generator=rng.generator(seed, "membrane", path))
        down[path] = ((2 * drawn - 1) * bound).to(layer.weight.device)
        tail = (1,) * (layer.weight.ndim - 2)
        up[path] = torch.zeros(out, r, *tail, device=layer.weight.device)
    return Membrane(prompts, down, up)


@dataclass(frozen=True)
class Snapshot:
    """A training between two walks: enough to go on as if it had never stopped."""

    step: int
    membrane: Membrane
    optimizer: dict
    losses: tuple[Losses, ...]


@dataclass(frozen=True)
class Trained:
    """A membrane, finished or on its way, with its losses so far.

    `was_resumed` is the number of iterations that an earlier, stopped run had left.
    """

    membrane: Membrane
    losses: tuple[Losses, ...] = field(default=())
    was_resumed: int = 0


def train(
    bundle: DiffusionBundle, concept: str, plan: Plan, seed: int
) -> Generator[tuple[Progress, Trained], None, Trained]:
    """One membrane for a concept. Yields after every iteration; stopping loses at most one walk.

    All that is random depends on seed and iteration alone, and the state is kept after every walk:
    the same call goes on where an earlier one was stopped and ends with the same bits.
    """
    wide = drawing.in_float32(bundle)
    key = (*bundle.cache_key, concept, plan, seed)
    begun = _STATES.peek(key) or _start(wide, concept, plan, seed)
    if begun.step >= plan.iterations:
        return Trained(begun.membrane, begun.losses, begun.step)
    loop = _Loop(wide, concept, plan, seed, begun)
    for step in range(begun.step, plan.iterations):
        if step % plan.visits == 0 and step > begun.step:
            _STATES.put(key, loop.snapshot(step))
        losses = loop.iterate(step)
        shown = Trained(loop.membrane, tuple(loop.losses), begun.step)
        note = f'"{concept}": erase {losses.erase:.4f}, anchor {losses.anchor:.1e}'
        yield Progress(step + 1, plan.iterations, note), shown
    # Of a finished training nobody asks for the optimiser, which weighs twice the membrane.
    end = replace(loop.snapshot(plan.iterations), optimizer={})
    _STATES.put(key, end)
    return Trained(end.membrane, end.losses, begun.step)


_STATES: LruCache[Snapshot] = LruCache()


def _start(bundle: DiffusionBundle, concept: str, plan: Plan, seed: int) -> Snapshot:
    return Snapshot(0, new_membrane(bundle.unet, (concept,), plan.rank, seed), {}, ())


class _Loop:
    """The parameters under training, their optimiser, and the walk they are on."""

    def __init__(
        self, bundle: DiffusionBundle, concept: str, plan: Plan, seed: int, begun: Snapshot
    ) -> None:
        self.bundle, self.plan, self.seed = bundle, plan, seed
        self.membrane = replace(
            begun.membrane,
            down=_leaves(begun.membrane.down),
            up=_leaves(begun.membrane.up),
        )
        self.parameters = [*self.membrane.down.values(), *self.membrane.up.values()]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.learning_rate, weight_decay=WEIGHT_DECAY
        )
        if begun.optimizer:
            self.optimizer.load_state_dict(copy.deepcopy(begun.optimizer))
        self.losses = list(begun.losses)
        self.empty = empty_prompt(bundle)
        self.target = encode_prompt(bundle, [concept])
        self.plain = at_home([self.target.tokens, self.empty.tokens])
        neutral = encode_prompt(bundle, [plan.anchor]) if plan.anchor.strip() else self.empty
        self.positive_and_neutral = Conditioning.cat([self.target, neutral])
        open_wide = torch.ones(1, 1, device=bundle.device)
        self.adapted = with_membranes(bundle, [self.membrane], open_wide)
        self.states: Iterator[tuple[Tensor, float]] = iter(())

    def snapshot(self, step: int) -> Snapshot:
        """A copy of where the training stands."""
        held = replace(
            self.membrane,
            down={path: t.detach().clone() for path, t in self.membrane.down.items()},
            up={path: t.detach().clone() for path, t in self.membrane.up.items()},
        )
        optimizer = copy.deepcopy(self.optimizer.state_dict())
        return Snapshot(step, held, optimizer, tuple(self.losses))

    def iterate(self, step: int) -> Losses:
        """One update: a state of the adapted model's own walk, both losses, one step of AdamW."""
        plan = self.plan
        if step % plan.visits == 0:
            self.states = self._walk(step // plan.visits)
        x, t = next(self.states)
        anchors = self._anchors(step)
        rows = x.expand(1 + len(anchors), -1, -1, -1)
        with torch.no_grad():
            off = self._predict(
                self.bundle, x, t, torch.cat([self.positive_and_neutral.tokens, anchors])
            )
        with torch.enable_grad():
            on = self._predict(self.adapted, rows, t, torch.cat([self.target.tokens, anchors]))
            erase = erase_loss(on[:1], off[:1], off[1:2], plan.eta)
            held = anchor_loss(on[1:], off[2:]) if len(anchors) else on.new_zeros(())
            loss = erase + plan.la_strength * held
            gradients = torch.autograd.grad(loss, self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate(step)
        self.optimizer.step()
        losses = Losses(*torch.stack([erase, held, loss]).detach().tolist())
        self.losses.append(losses)
        return losses

    def _walk(self, number: int) -> Iterator[tuple[Tensor, float]]:
        plan = self.plan
        draw = np.random.default_rng([self.seed, number])
        stops = 1 + draw.choice(plan.walk_steps - 1, plan.visits, replace=False)
        noise = drawing.start_noise(self.bundle, self.seed * 1009 + number, 1)
        visited = drawing.visit(
            self.adapted,
            self.target,
            self.empty,
            noise,
            steps=plan.walk_steps,
            guidance_scale=WALK_GUIDANCE,
            stops=frozenset(stops.tolist()),
        )
        return ((x.detach(), t) for x, t in visited)

    def _anchors(self, step: int) -> Float[Tensor, "a n d"]:
        tokens, empty = self.plain
        normal = rng.generator(self.seed, "anchor", step)
        uniform = random.Random(f"{self.seed} {step}")
        found = draw_anchors(
            tokens,
            self.plan.anchors,
            lambda: rng.noise(tokens.shape, normal, dtype=tokens.dtype),
            uniform.random,
        )
        return in_order(found, empty, self.plan.official_anchor_order).to(self.target.tokens)

    def _predict(
        self, bundle: DiffusionBundle, x: Tensor, t: float, tokens: Float[Tensor, "b n d"]
    ) -> Tensor:
        count = len(tokens)
        pooled = self.target.pooled
        cond = Conditioning(tokens, None if pooled is None else pooled.expand(count, -1))
        times = torch.full((count,), t, device=x.device)
        return predict(bundle, x[:1].expand(count, -1, -1, -1), times, cond)


def _leaves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {path: t.detach().clone().requires_grad_(True) for path, t in tensors.items()}

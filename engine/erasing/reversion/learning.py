"""From exemplars to one row of the token table."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.core import rng
from engine.core.cache import LruCache
from engine.core.errors import BadInput
from engine.core.job import Progress
from engine.core.shapes import Float, Int, Tensor
from engine.erasing._learning import (
    Adam,
    Latents,
    denoising_error,
    fitted,
    the_text_encoder,
    token_states,
)
from engine.erasing.reversion.exemplars import Exemplar
from engine.erasing.reversion.settings import ReversionSettings, exemplars_of
from engine.erasing.reversion.steering import (
    Words,
    importance,
    negative_ids,
    positive_ids,
    steering_loss,
)
from engine.erasing.reversion.words import Word, nearest, one_token, table_name, with_words
from engine.models.diffusion import DiffusionBundle, latent_shape, token_ids, token_table

NEAREST_EVERY = 20


@dataclass(frozen=True)
class Saved:
    """The row after some steps and the words it is nearest to."""

    step: int
    row: Float[Tensor, " d"]
    nearest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Course:
    """How the learning went so far: both losses at each step, and the row now and then."""

    denoising: tuple[float, ...]
    steering: tuple[float, ...]
    saved: tuple[Saved, ...]


@dataclass(frozen=True)
class Learnt:
    """A word with the way to it. `relation_words` are those of the list that the model knows."""

    word: Word
    course: Course
    exemplars: tuple[Exemplar, ...]
    relation_words: tuple[str, ...]


def learn(
    bundle: DiffusionBundle, settings: ReversionSettings, seed: int
) -> Generator[Progress, None, Learnt]:
    """Train one row on a few pictures of a relation; nothing else of the model moves.

        L = |UNet(z_t, t, Text("cat <R> box")) - target|^2  +  weight * L_steer

    `bundle` is to be float32.
    """
    the_text_encoder(bundle, "this method")
    draw = np.random.default_rng([seed, 2])
    exemplars = exemplars_of(bundle, settings, draw)
    steering = settings.steer_weight > 0
    words = Words.of(bundle, settings.positives if steering else 0)
    start = token_table(bundle)[one_token(bundle, settings.initialiser)]
    row = start.detach().clone().requires_grad_()
    task = _Task.of(bundle, settings, exemplars, words)
    adam = Adam([row], settings.learning_rate, weight_decay=settings.weight_decay, decoupled=True)
    denoising, steered = list[float](), list[float]()
    saved = [Saved(0, row.detach().clone(), nearest(bundle, row.detach()))]
    for step in range(settings.steps):
        found = torch.zeros(2, device=row.device)
        for part in range(settings.accumulation):
            numbers = rng.generator(seed, "reversion", step, part)
            error, pull = task.losses(row, draw, numbers)
            found = found + torch.stack([error, pull]) / settings.accumulation
        adam.descend(found[0] + settings.steer_weight * found[1])
        for losses, value in zip((denoising, steered), found.tolist(), strict=True):
            losses.append(value)
        if (step + 1) % NEAREST_EVERY == 0 or step + 1 == settings.steps:
            saved.append(Saved(step + 1, row.detach().clone(), nearest(bundle, row.detach())))
        course = Course(tuple(denoising), tuple(steered), tuple(saved))
        note = f"denoising {denoising[-1]:.3f}, steering {steered[-1]:.2f}"
        yield Progress(step + 1, settings.steps, note, course)
    word = Word(settings.placeholder, row.detach().cpu())
    return Learnt(word, course, exemplars, words.names)


def remembered(
    bundle: DiffusionBundle, settings: ReversionSettings, seed: int
) -> Generator[Progress, None, Learnt]:
    """The same, from a small cache where it was asked for before."""
    key = (*bundle.cache_key, settings.key(), seed)
    return (yield from _LEARNT.steps(key, lambda: learn(bundle, settings, seed)))


_LEARNT: LruCache[Learnt] = LruCache()


@dataclass(frozen=True)
class _Task:
    """What stays the same from step to step."""

    bundle: DiffusionBundle
    settings: ReversionSettings
    latents: Latents
    ids: tuple[Int[Tensor, "k n"], ...]  # of each picture's descriptions
    words: Words
    table: Float[Tensor, "v d"]
    name: str
    times: np.ndarray

    @classmethod
    def of(
        cls,
        bundle: DiffusionBundle,
        settings: ReversionSettings,
        exemplars: Sequence[Exemplar],
        words: Words,
    ) -> "_Task":
        side = latent_shape(bundle)[1] * 2 ** (len(bundle.vae.config.block_out_channels) - 1)
        pictures = [fitted(e.picture, side, settings.fit) for e in exemplars]  # type: ignore[arg-type]
        table = token_table(bundle).detach()
        grown = with_words(bundle, [Word(settings.placeholder, torch.zeros(table.shape[1]))])
        ids = tuple(
            token_ids(grown, [text.format(settings.placeholder) for text in e.descriptions])
            for e in exemplars
        )
        for exemplar, found in zip(exemplars, ids, strict=True):
            if not bool((found == len(table)).any(1).all()):
                raise BadInput(
                    f'"{exemplar.descriptions[-1][:60]}" is too long: the relation is cut off.',
                    "Describe the picture in fewer words.",
                )
        name = table_name(bundle).removeprefix("text_encoder.")
        steps = int(bundle.scheduler.get("num_train_timesteps", 1000))
        times = importance(steps, settings.alpha)
        return cls(bundle, settings, Latents.of(bundle, pictures), ids, words, table, name, times)

    def losses(
        self, row: Float[Tensor, " d"], draw: np.random.Generator, numbers: torch.Generator
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Denoising error and steering loss of one batch."""
        rows = draw.integers(len(self.ids), size=self.settings.batch).tolist()
        ids = torch.stack([self.ids[i][int(draw.integers(len(self.ids[i])))] for i in rows])
        z = self.latents.draw(rows, numbers)
        noise = rng.noise(z.shape, numbers, device=z.device)
        t = torch.from_numpy(draw.choice(len(self.times), size=len(rows), p=self.times))
        grown = {self.name: torch.cat([self.table, row[None]])}
        states = token_states(self.bundle.text_encoders[0], ids, grown)
        error = denoising_error(self.bundle, states, z, noise, t)
        return error, self._steering(row, ids, draw)

    def _steering(
        self, row: Float[Tensor, " d"], ids: Int[Tensor, "b n"], draw: np.random.Generator
    ) -> Float[Tensor, ""]:
        if not self.settings.steer_weight:
            return row.new_zeros(())
        near = positive_ids(self.words.relations, self.settings.positives, len(ids), draw)
        far = negative_ids(ids, len(self.table), self.words.silent)
        return steering_loss(row, self.table[near], self.table[far], tau=self.settings.tau)


def at_step(learnt: Learnt, step: int) -> Word:
    """The word as it was saved at or before a step."""
    found = [saved for saved in learnt.course.saved if saved.step <= step]
    return replace(learnt.word, row=found[-1].row.cpu())

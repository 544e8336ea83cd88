"""From settings to a text encoder that has forgotten: the pictures, the steps, every epoch kept."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.core import rng
from engine.core.cache import LruCache
from engine.core.job import Progress
from engine.core.precision import are_finite
from engine.core.shapes import Tensor
from engine.erasing._learning import (
    Latents,
    denoising_error,
    the_text_encoder,
    token_states,
)
from engine.erasing.few_shot_erasing.ascent import climb, trainable
from engine.erasing.few_shot_erasing.settings import (
    FewShotSettings,
    captions_of,
    made_to_fit,
    pictures_of,
)
from engine.models.diffusion import DiffusionBundle, token_ids
from engine.models.library import with_tensors

PART = "text_encoder."


@dataclass(frozen=True)
class Forgotten:
    """A text encoder after each epoch.

    `epochs[k]` are the trained tensors after k epochs by their name in the bundle's model, float32;
    0 are the original's own. `errors` has the denoising error before each step, `pictures` what was
    learnt from, `stopped` says why the run ended early, if it did.
    """

    names: tuple[str, ...]
    epochs: tuple[Mapping[str, Tensor], ...]
    errors: tuple[float, ...]
    pictures: tuple[np.ndarray, ...]
    stopped: str = ""

    def at(self, bundle: DiffusionBundle, epoch: int = -1) -> DiffusionBundle:
        """The model after some epochs; it shares every other tensor with the original."""
        changed = self.epochs[epoch]
        return replace(bundle, model=with_tensors(bundle.model, changed)) if changed else bundle


def learn(
    bundle: DiffusionBundle, settings: FewShotSettings, seed: int
) -> Generator[Progress, None, Forgotten]:
    """Train the text encoder on a few pictures and keep it after every epoch.

    Each picture is encoded once. Each time it is used it gets a caption, a time and noise of its
    own. `bundle` is to be float32: the steps are smaller than half precision can hold.
    """
    encoder = the_text_encoder(bundle, "this method")
    draw = np.random.default_rng([seed, 1])
    pictures = yield from pictures_of(bundle, settings, draw, seed)
    fitted = made_to_fit(bundle, pictures, settings, draw)
    latents = Latents.of(bundle, fitted)
    z = latents.draw(range(len(fitted)), rng.generator(seed, "few-shot", "latents"))
    captions = captions_of(bundle, settings)
    own = dict(encoder.named_parameters())
    names = trainable(list(own), settings.parameters, encoder.config.num_hidden_layers)
    weights = {name: own[name].detach().clone().requires_grad_() for name in names}

    def errors() -> Iterator[Callable[[], Tensor]]:
        for epoch in range(settings.epochs):
            order = draw.permutation(len(fitted))
            for first in range(0, len(order), settings.batch):
                rows = order[first : first + settings.batch].tolist()
                texts = [captions[draw.integers(len(captions))] for _ in rows]
                numbers = rng.generator(seed, "few-shot", epoch, first)
                yield lambda rows=rows, texts=texts, numbers=numbers: _error(  # type: ignore[misc]
                    bundle, weights, z[rows], texts, numbers
                )

    kept: list[dict[str, Tensor]] = [{}]
    found: list[float] = []
    stopped = ""
    steps = climb(
        list(weights.values()),
        errors(),
        optimizer=settings.steps_by,
        uphill=settings.direction == "ascent",
    )
    for number, error in enumerate(steps, start=1):
        ends_epoch = number % settings.updates_an_epoch == 0
        if not np.isfinite(error) or (ends_epoch and not are_finite(weights.values())):
            stopped = f"Stopped at step {number}: the error is no finite number any more."
            break
        found.append(error)
        if ends_epoch:
            kept.append({PART + name: w.detach().clone() for name, w in weights.items()})
        yield Progress(number, settings.updates, f"denoising error {error:.3f}", tuple(found))
    return Forgotten(
        tuple(PART + name for name in names), tuple(kept), tuple(found), tuple(fitted), stopped
    )


def remembered(
    bundle: DiffusionBundle, settings: FewShotSettings, seed: int
) -> Generator[Progress, None, Forgotten]:
    """The same, from a small cache where it was asked for before."""
    key = (*bundle.cache_key, settings.key(), seed)
    return (yield from _FORGOTTEN.steps(key, lambda: learn(bundle, settings, seed)))


_FORGOTTEN: LruCache[Forgotten] = LruCache()


def _error(
    bundle: DiffusionBundle,
    weights: Mapping[str, Tensor],
    z: Tensor,
    texts: Sequence[str],
    numbers: torch.Generator,
) -> Tensor:
    """The denoising error of one batch, with gradients for `weights`."""
    encoder = bundle.text_encoders[0]
    noise = rng.noise(z.shape, numbers, device=z.device)
    steps = int(bundle.scheduler.get("num_train_timesteps", 1000))
    t = torch.randint(steps, (len(z),), generator=numbers)
    states = token_states(encoder, token_ids(bundle, texts), weights)
    return denoising_error(bundle, states, z, noise, t)

"""Training of the judge: what the pictures of the embedded world show, and whether they show
anything whole.

One artist's drawings are held out entirely. A part of every batch comes out of the autoencoder with
noise on its latents, since the pictures to be judged later come out of that decoder; a part is of
half the side, since smaller pictures are judged too; and a part is spoilt on purpose and belongs to
the class "nothing". One way of spoiling is left out of the training, to test with.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.vision import HEADS, NOTHING, Judge, Verdicts
from engine.world import vocabulary as words
from engine.zoo.autoencoder import as_signal, encode, to_tensor
from engine.zoo.dataset import Pictures, rows_on
from engine.zoo.training import Figures, Plan, half_precision, train

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

HELD_OUT_ARTIST = "fluent-emoji"
BATCH = {"cpu": 64, "cuda": 256}
SPOILT = 0.08
DECODED, SMALL = 0.3, 0.15  # shares of a batch
DECODER_NOISE = 0.35  # at most, on latents of spread 1
# Squares that are shuffled, in parts of a side. A fourth is left out of the training: the judge has
# to refuse it from what it learnt of the others.
SHUFFLED, UNSEEN = (2, 8), 4
IGNORE = -100  # PyTorch's label for "no loss here"


def decoded(vae: "AutoencoderKL", pixels: np.ndarray, seed: int) -> np.ndarray:
    """The pictures through the autoencoder, with noise of another size on each one's latents."""
    generator, parts = torch.Generator().manual_seed(seed), []
    with torch.inference_mode(), half_precision(vae.device, on_cpu=True):
        for start in range(0, len(pixels), 50):
            z = encode(vae, np.asarray(pixels[start : start + 50])).cpu()
            level = DECODER_NOISE * torch.rand((len(z), 1, 1, 1), generator=generator)
            z = z + level * torch.randn(z.shape, generator=generator)
            x = vae.decode(z.to(vae.device)).sample.float().clamp(-1, 1)
            parts.append(((x + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(parts)


def train_judge(
    judge: Judge, data: Pictures, rebuilt: Pictures, plan: Plan, checkpoint: Path
) -> None:
    """Train all heads at once on `data` and on pictures that a decoder gave, `rebuilt`; the
    background counts only in styles that show it."""
    device = judge.place.device
    batch, pixels = BATCH[device.type], rows_on(data.pixels, device)
    count, again = round(DECODED * batch), rows_on(rebuilt.pixels, device)

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Figures]:
        first, rest = draw.integers(len(rebuilt.labels), size=count), draw.integers(
            len(data.labels), size=batch - count
        )  # fmt: skip
        x = as_signal(torch.cat([again(first), pixels(rest)]))
        order = torch.from_numpy(draw.permutation(batch))
        targets = head_targets(np.concatenate([rebuilt.labels[first], data.labels[rest]])[order])
        x = _halve_some(x[order.to(device)], draw)
        _spoil(x, targets, draw, noise)
        x = _vary(x, draw, noise)
        targets = {name: target.to(device) for name, target in targets.items()}
        with half_precision(device):
            logits, _ = judge(x)
        losses = [F.cross_entropy(logits[name].float(), targets[name]) for name in HEADS]
        right = logits["subject"].argmax(-1) == targets["subject"]
        loss = torch.stack(losses).sum()
        return loss, {"loss": loss, "subject": right.float().mean()}

    judge.train()
    train([judge], loss_of, plan, checkpoint)
    judge.eval()


def head_targets(labels: np.ndarray) -> dict[str, Tensor]:
    """Class of each head for labels n x 5 in the order of Scene.labels."""
    style, background, subject, relation, other = torch.from_numpy(labels.astype(np.int64)).unbind(
        1
    )
    coloured = torch.tensor([name in words.COLOURED_STYLES for name in words.STYLES])
    return {
        "subject": torch.where(subject < 0, len(words.OBJECTS), subject),
        "other": torch.where(other < 0, len(words.OBJECTS), other),
        "relation": torch.where(relation < 0, len(words.RELATIONS), relation),
        "style": style,
        "background": torch.where(coloured[style], background, IGNORE),
    }


def calibrate(judge: Judge, data: Pictures) -> None:
    """Fit each head's temperature to pictures it has not trained on (Guo et al., 2017)."""
    targets = head_targets(data.labels)
    device = judge.place.device
    targets = {name: target.to(device) for name, target in targets.items()}
    with torch.inference_mode():
        parts = [
            judge(to_tensor(data.pixels[i : i + 64]).to(device))[0]
            for i in range(0, len(data.pixels), 64)
        ]
    candidates = torch.linspace(0.5, 4, 71)
    for index, name in enumerate(HEADS):
        logits = torch.cat([part[name] for part in parts])
        costs = [
            F.cross_entropy(logits / t, targets[name], ignore_index=IGNORE) for t in candidates
        ]
        judge.temperature[index] *= candidates[int(torch.stack(costs).argmin())]


def accuracy(verdicts: Verdicts, labels: np.ndarray) -> dict[str, float]:
    """Share of right answers of each head where it applies, and for scenes of two objects."""
    targets = head_targets(labels)
    right = {}
    for name in HEADS:
        target = targets[name].numpy()
        applies = target != IGNORE
        guess = verdicts.probabilities[name].argmax(-1)
        right[name] = float((guess == target)[applies].mean())
    pair = labels[:, 3] >= 0
    hits = [
        verdicts.probabilities[name].argmax(-1)[pair] == targets[name].numpy()[pair]
        for name in ("subject", "other", "relation")
    ]
    right["both objects of a pair"] = float((hits[0] & hits[1]).mean())
    right["relation of a pair"] = float(hits[2].mean())
    return right


def refused(judge: Judge, pixels: np.ndarray, cuts: int, seed: int = 0) -> float:
    """Share of pictures, shuffled in cuts x cuts squares, in which the judge names no object."""
    draw = np.random.default_rng(seed)
    mixed = [shuffled(torch.from_numpy(np.array(p)).permute(2, 0, 1), cuts, draw) for p in pixels]
    verdicts = judge.judge(torch.stack(mixed).permute(0, 2, 3, 1).numpy())
    return float(np.mean([verdicts.best("subject", i)[0] == NOTHING for i in range(len(mixed))]))


def shuffled(x: Tensor, cuts: int, draw: np.random.Generator) -> Tensor:
    """The picture c x h x w with its cuts x cuts squares in another order."""
    side = x.shape[-1] // cuts
    squares = x.unfold(1, side, side).unfold(2, side, side).flatten(1, 2)  # c n side side
    order = _another_order(cuts * cuts, draw)
    squares = squares[:, torch.from_numpy(order).to(x.device)].unflatten(1, (cuts, cuts))
    return squares.permute(0, 1, 3, 2, 4).reshape(x.shape)


def _another_order(count: int, draw: np.random.Generator) -> np.ndarray:
    order = draw.permutation(count)
    return order if (order != np.arange(count)).any() else _another_order(count, draw)


def _halve_some(x: Tensor, draw: np.random.Generator) -> Tensor:
    """Some pictures of half the side, enlarged again as the judge does it."""
    count = round(SMALL * len(x))
    small = F.interpolate(F.avg_pool2d(x[:count], 2), x.shape[-2:], mode="bilinear")
    return torch.cat([small, x[count:]])


def _spoil(
    x: Tensor, targets: dict[str, Tensor], draw: np.random.Generator, noise: torch.Generator
) -> None:
    """Turn the last few pictures of a batch, in place, into pictures of nothing whole.

    Two objects can stay whole when large squares change places, so that those are left as they are.
    """
    count = int(np.ceil(SPOILT * len(x)))
    for index in range(len(x) - count, len(x)):
        kind = draw.integers(5)
        if kind == 0:
            x[index] = _noise(x[index], noise).clamp(-1, 1)
        elif kind == 1:
            blur = x.shape[-1] // int(draw.choice([2, 4]))
            coarse = F.avg_pool2d(x[index : index + 1], blur)
            x[index] = F.interpolate(coarse, x.shape[-2:], mode="bicubic")[0]
        elif kind == 2:
            x[index] = (x[index] + x[index - count]) / 2
        elif targets["relation"][index] == len(words.RELATIONS):
            x[index] = shuffled(x[index], int(draw.choice(SHUFFLED)), draw)
        else:
            continue
        for name in ("subject", "other", "relation"):
            targets[name][index] = len(HEADS[name]) - 1
        targets["style"][index] = targets["background"][index] = IGNORE


def _noise(x: Tensor, noise: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=noise, device=x.device)


def _vary(x: Tensor, draw: np.random.Generator, noise: torch.Generator) -> Tensor:
    """Small shifts, brightness, contrast and noise, different for each picture."""
    size, most = (len(x), 1, 1, 1), x.shape[-1] // 20
    uniform = lambda low, high: torch.from_numpy(draw.uniform(low, high, size)).to(x)  # noqa: E731 (three draws)
    x = x * uniform(0.85, 1.1) + uniform(-0.08, 0.08)
    x = x + uniform(0, 0.12) * _noise(x, noise)
    down, right = draw.integers(-most, most + 1, 2) + most
    padded = F.pad(x, (most,) * 4, mode="replicate")
    return padded[..., down : down + x.shape[-2], right : right + x.shape[-1]]

"""Training of the judge: what the pictures of the embedded world show, and whether they show
anything whole.

One artist's drawings are held out entirely. A part of every batch goes through the autoencoder with
noise on its latents, since the pictures to be judged later come out of that decoder; another part
is spoilt on purpose and belongs to the class "nothing".
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.models.vision import HEADS, Judge, Verdicts
from engine.world import vocabulary as words
from engine.zoo.autoencoder import as_signal, to_tensor
from engine.zoo.dataset import Pictures, rows_on
from engine.zoo.training import Figures, Plan, half_precision, train

HELD_OUT_ARTIST = "fluent-emoji"
BATCH = {"cpu": 64, "cuda": 256}
SPOILT = 0.06
DECODED = 0.3
IGNORE = -100  # PyTorch's label for "no loss here"


def train_judge(judge: Judge, vae, data: Pictures, plan: Plan, checkpoint) -> None:
    """Train all heads at once; the background counts only in styles that show it."""
    device = judge.place.device
    rows, batch = rows_on(data.pixels, device), BATCH[device.type]

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, Figures]:
        chosen = draw.permutation(np.sort(draw.integers(len(data.pixels), size=batch)))
        x, targets = as_signal(rows(chosen)), head_targets(data.labels[chosen])
        decoded = int(DECODED * batch)
        with torch.inference_mode(), half_precision(device):
            z = vae.encode(x[:decoded]).latent_dist.mean
            level = torch.from_numpy(draw.uniform(0, 0.35, (decoded, 1, 1, 1))).to(z)
            y = vae.decode(z + level * _noise(z, noise).to(z)).sample
        x = torch.cat([y.float().clone(), x[decoded:]])
        _spoil(x, targets, draw, noise)
        x = _vary(x, draw, noise)
        targets = {name: target.to(device) for name, target in targets.items()}
        with half_precision(device):
            logits, _ = judge(x)
        losses = [F.cross_entropy(logits[name].float(), targets[name]) for name in HEADS]
        right = logits["subject"].argmax(-1) == targets["subject"]
        return sum(losses), {"loss": sum(losses), "subject": right.float().mean()}

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
        asked = target != IGNORE
        guess = verdicts.probabilities[name].argmax(-1)
        right[name] = float((guess == target)[asked].mean())
    pair = labels[:, 3] >= 0
    hits = [
        verdicts.probabilities[name].argmax(-1)[pair] == targets[name].numpy()[pair]
        for name in ("subject", "other", "relation")
    ]
    right["both objects of a pair"] = float((hits[0] & hits[1]).mean())
    right["relation of a pair"] = float(hits[2].mean())
    return right


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device)


def _spoil(x: Tensor, targets: dict[str, Tensor], draw, noise) -> None:
    """Turn the last few pictures of a batch, in place, into pictures of nothing whole."""
    count = int(np.ceil(SPOILT * len(x)))
    for index in range(len(x) - count, len(x)):
        kind = draw.integers(4)
        if kind == 0:
            x[index] = _noise(x[index], noise).clamp(-1, 1)
        elif kind == 1:
            blur = int(draw.choice([16, 32]))
            coarse = F.avg_pool2d(x[index : index + 1], blur)
            x[index] = F.interpolate(coarse, (64, 64), mode="bicubic")[0]
        elif kind == 2:
            x[index] = (x[index] + x[index - count]) / 2
        else:
            blocks = x[index].reshape(3, 4, 16, 4, 16).permute(1, 3, 0, 2, 4).reshape(16, 3, 16, 16)
            blocks = blocks[torch.from_numpy(draw.permutation(16)).to(x.device)].reshape(
                4, 4, 3, 16, 16
            )
            x[index] = blocks.permute(2, 0, 3, 1, 4).reshape(3, 64, 64)
        for name in ("subject", "other", "relation"):
            targets[name][index] = len(HEADS[name]) - 1
        targets["style"][index] = targets["background"][index] = IGNORE


def _vary(x: Tensor, draw, noise) -> Tensor:
    """Small shifts, brightness, contrast and noise, different for each picture."""
    size = (len(x), 1, 1, 1)
    uniform = lambda low, high: torch.from_numpy(draw.uniform(low, high, size)).to(x)  # noqa: E731 (three draws)
    x = x * uniform(0.85, 1.1) + uniform(-0.08, 0.08)
    x = x + uniform(0, 0.12) * _noise(x, noise)
    down, right = draw.integers(-3, 4, 2)
    return F.pad(x, (3, 3, 3, 3), mode="replicate")[
        ..., 3 + down : 67 + down, 3 + right : 67 + right
    ]

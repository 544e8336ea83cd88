"""The judge: a small network that says what a picture of the embedded world shows.

It names subject, other object, relation, style and background, each with a probability, and has a
class of its own for pictures in which there is no whole object. Its features before the heads serve
as the space for distances between pictures. How often it is right on pictures it never saw is in
the card beside its weights.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.core.errors import AssetMissing, BadInput
from engine.world import vocabulary as words

FOLDER = Path(__file__).parents[2] / "assets" / "models" / "judge"
NOTHING = "nothing"
HEADS = {
    "subject": (*words.OBJECTS, NOTHING),
    "other": (*words.OBJECTS, NOTHING),
    "relation": (*words.RELATIONS, NOTHING),
    "style": words.STYLES,
    "background": tuple(words.BACKGROUNDS),
}


@dataclass(frozen=True)
class Verdicts:
    """What the judge says of n pictures: `probabilities[head]` is n x classes, features n x d."""

    probabilities: dict[str, np.ndarray]
    features: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def best(self, head: str, index: int) -> tuple[str, float]:
        """The most probable class of one head for one picture, and its probability."""
        row = self.probabilities[head][index]
        return HEADS[head][int(row.argmax())], float(row.max())

    def objects(self, index: int) -> list[str]:
        """The objects in one picture: none, one, or subject and other."""
        names = [self.best(head, index)[0] for head in ("subject", "other")]
        return [name for name in names if name != NOTHING]

    def text(self, index: int) -> str:
        """One line for a caption under the picture: "cat 98 %, neon 99 %"."""
        subject, sure = self.best("subject", index)
        style, style_sure = self.best("style", index)
        other, other_sure = self.best("other", index)
        if subject == NOTHING:
            first = f"no object {sure:.0%}"
        elif other == NOTHING:
            first = f"{subject} {sure:.0%}"
        else:
            relation = self.best("relation", index)[0]
            joined = "and" if relation == NOTHING else relation
            first = f"{subject} {joined} {other} {min(sure, other_sure):.0%}"
        return f"{first}, {style} {style_sure:.0%}".replace("%", " %")


class Judge(nn.Module):
    """Convolutions down to 8 x 8 places, then two attention layers in which each head asks its
    question.

    Attention rather than averaging over places: with an average, two objects in one picture cannot
    be told apart. `side` is that of the pictures, 64 or 128.
    """

    temperature: Tensor

    def __init__(self, width: int = 128, side: int = 64):
        super().__init__()
        self.side = side
        outer = [_down(3, 32)] if side == 64 else [_down(3, 16), _same(16), _down(16, 32)]
        inner = [_same(32), _down(32, 64), _same(64), _down(64, width), _same(width)]
        self.trunk = nn.Sequential(*outer, *inner)
        self.place = nn.Parameter(torch.randn(1, 64, width) * 0.02)
        self.question = nn.Parameter(torch.randn(1, len(HEADS), width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.ask = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, len(classes)) for name, classes in HEADS.items()}
        )
        self.register_buffer("temperature", torch.ones(len(HEADS)))

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Logits of each head and the features, for b pictures of 3 x side x side in [-1, 1]."""
        places = self.trunk(x).flatten(2).transpose(1, 2) + self.place
        tokens = self.ask(torch.cat([self.question.expand(len(x), -1, -1), places], 1))
        answers = tokens[:, : len(HEADS)]
        logits = {
            name: head(answers[:, i]) / self.temperature[i]
            for i, (name, head) in enumerate(self.heads.items())
        }
        return logits, answers.flatten(1)

    def fitted(self, x: Tensor) -> Tensor:
        """Pictures at the judge's side: larger ones are averaged, smaller ones interpolated."""
        if x.shape[-2:] == (self.side, self.side):
            return x
        if min(x.shape[-2:]) >= self.side:
            return nn.functional.interpolate(x, (self.side, self.side), mode="area")
        return nn.functional.interpolate(x, (self.side, self.side), mode="bilinear")

    @torch.inference_mode()
    def judge(self, pictures: np.ndarray, *, batch: int = 64) -> Verdicts:
        """Verdicts on pictures, uint8 n x h x w x 3, averaged or enlarged to the judge's side."""
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise BadInput(
                f"The judge takes uint8 pictures n x h x w x 3, not {pictures.dtype} "
                f"{pictures.shape}."
            )
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
        parts = [self(self.fitted(part.to(self.place.device))) for part in x.split(batch)]
        return Verdicts(
            {
                name: torch.cat([logits[name] for logits, _ in parts]).softmax(-1).cpu().numpy()
                for name in HEADS
            },
            torch.cat([features for _, features in parts]).cpu().numpy(),
        )


@cache
def load_judge(folder: Path = FOLDER) -> Judge:
    """The shipped judge, ready to use. Raises AssetMissing where its weights are not there."""
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise AssetMissing(
            "The judge of the embedded world is not in assets/models/judge.",
            "Fetch the repository again, or train it with: python -m engine.zoo build judge",
        )
    judge = Judge(**json.loads((folder / "config.json").read_text()))
    judge.load_state_dict({name: tensor.float() for name, tensor in load_file(weights).items()})
    return judge.eval().requires_grad_(False)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _same(width: int) -> nn.Module:
    return _Residual(width)


def _down(before: int, after: int) -> nn.Module:
    return nn.Conv2d(before, after, 3, stride=2, padding=1)

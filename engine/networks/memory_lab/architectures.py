"""Every architecture of the family as a list of couplings, at any depth and width.

A `Built` is couplings, the streams they start from and their context; what is kept of it is up to
the sequence that runs it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.rng import generator, noise
from engine.core.shapes import Float, Tensor
from engine.networks._meft import MeftConfig, MeftEncoder
from engine.networks._revcol import LEVELS, RevCol, RevColConfig
from engine.networks._unet3d import RevStage
from engine.networks.memory_lab import own
from engine.reversible import Coupling, additive
from engine.reversible.coupling import leapfrog, momentum
from engine.reversible.sequence import Streams

TOKENS, PICTURE, CUBE = 16, 32, 8  # sides of what the larger architectures read
HEADS = 4


@dataclass(frozen=True)
class Built:
    """Couplings with what they work on; `unit` couplings make one block."""

    couplings: list[Coupling]
    streams: Streams
    ctx: Streams
    unit: int


Build = Callable[[int, int, int, int], Built]
"""Depth in blocks, width, batch, seed."""


class Mlp(nn.Module):
    """The usual branch of a transformer: LayerNorm, d -> 4 d, GELU, 4 d -> d."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.down(nn.functional.gelu(self.up(self.norm(x))))


class Field(nn.Module):
    """A force or a vector field of one hidden layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return self.down(torch.tanh(self.up(x)))


class ConvBranch(nn.Module):
    """A branch on pictures: 3 x 3, GroupNorm, GELU, 3 x 3, scaled so that colours stay visible."""

    def __init__(self, channels: int, width: int, scale: float = 0.3) -> None:
        super().__init__()
        self.up = nn.Conv2d(channels, width, 3, padding=1, padding_mode="reflect")
        self.norm = nn.GroupNorm(1, width)
        self.down = nn.Conv2d(width, channels, 3, padding=1, padding_mode="reflect")
        self.scale = scale

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        hidden = nn.functional.gelu(self.norm(self.up(x)))
        return self.scale * torch.tanh(self.down(hidden))


def _vectors(width: int, batch: int, seed: int, count: int = 2) -> Streams:
    return tuple(noise((batch, width), generator(seed, "stream", i)) for i in range(count))


def _revnet(depth: int, width: int, batch: int, seed: int) -> Built:
    couplings = [c for _ in range(depth) for c in additive(0, Mlp(width), Mlp(width))]
    return Built(couplings, _vectors(width, batch, seed), (), 2)


def _momentum(depth: int, width: int, batch: int, seed: int) -> Built:
    couplings = [c for _ in range(depth) for c in momentum(Mlp(width), 0.9)]
    return Built(couplings, _vectors(width, batch, seed), (), 2)


def _leapfrog(depth: int, width: int, batch: int, seed: int) -> Built:
    couplings = [c for _ in range(depth) for c in leapfrog(Field(width), 0.1, 1)]
    return Built(couplings, _vectors(width, batch, seed), (), 3)


def _meft(variant: int, depth: int, width: int, batch: int, seed: int) -> Built:
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertLayer

    config = BertConfig(
        hidden_size=width, num_attention_heads=HEADS, intermediate_size=4 * width,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, attn_implementation="eager",
    )  # fmt: skip
    layers = [BertLayer(config) for _ in range(depth)]
    meft = MeftConfig(variant, anchor_every=None)  # type: ignore[arg-type]
    encoder = MeftEncoder(layers, width, meft)
    x = noise((batch, TOKENS, width), generator(seed, "stream"))
    return Built(encoder.couplings()[0], (x, x * 1.0), (torch.zeros(batch, 1, 1, TOKENS),), 2)


def _revcol(depth: int, width: int, batch: int, seed: int) -> Built:
    widths = tuple(width * (level + 1) for level in range(LEVELS))
    config = RevColConfig(widths, (1,) * LEVELS, depth, classes=2, supervised=False, gamma=0.5)
    network = RevCol(config)
    picture = noise((batch, 3, PICTURE, PICTURE), generator(seed, "stream"))
    stem = network.stem(picture).detach()
    return Built(network.sequence().steps, network.zeros(stem), (stem,), LEVELS)


def _unet3d(depth: int, width: int, batch: int, seed: int) -> Built:
    stage = RevStage(2 * width, depth, groups=1)
    shape = (batch, width, CUBE, CUBE, CUBE)
    halves = tuple(noise(shape, generator(seed, "stream", i)) for i in range(2))
    return Built(stage.couplings(), halves, (), 2)


@dataclass(frozen=True)
class Architecture:
    """A family of networks by depth and width."""

    title: str
    build: Build
    widest: int


ARCHITECTURES: Mapping[str, Architecture] = {
    "revnet": Architecture("RevNet pairs of MLPs", _revnet, 512),
    "momentum": Architecture("momentum residual blocks", _momentum, 512),
    "leapfrog": Architecture("leapfrog steps", _leapfrog, 512),
    "meft-1": Architecture("MEFT-1 on BERT layers", partial(_meft, 1), 256),
    "meft-2": Architecture("MEFT-2 on BERT layers", partial(_meft, 2), 256),
    "meft-3": Architecture("MEFT-3 on BERT layers", partial(_meft, 3), 256),
    "revcol": Architecture("RevCol columns", _revcol, 64),
    "unet3d": Architecture("a stage of the 3-D U-Net", _unet3d, 32),
}
OWN = "own"


def built(name: str, depth: int, width: int, batch: int, seed: int, lines: str) -> Built:
    """The architecture of a name, its weights from the seed; torch's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        if name == OWN:
            written = own.parsed(lines)
            couplings = [c for _ in range(depth) for c in own.couplings(written, width)]
            streams = _vectors(width, batch, seed, own.streams(written))
            return Built(couplings, streams, (), len(written))
        return ARCHITECTURES[name].build(depth, width, batch, seed)


def title_of(name: str) -> str:
    """How an architecture is called. Raises `BadInput` that lists them."""
    if name == OWN:
        return "your own blocks"
    if name not in ARCHITECTURES:
        known = ", ".join([*ARCHITECTURES, OWN])
        raise BadInput(f'There is no architecture "{str(name)[:40]}".', f"Choose {known}.")
    return ARCHITECTURES[name].title


def widest(name: str) -> int:
    """The largest width that is offered."""
    return 512 if name == OWN else ARCHITECTURES[name].widest


def check_width(name: str, width: int) -> None:
    """Raises `BadInput` where the width does not divide among heads."""
    if name.startswith("meft") and width % HEADS:
        raise BadInput(f"{width} does not divide among {HEADS} heads.", "Take a multiple of 4.")


def names() -> Sequence[str]:
    """All of them, the own list last."""
    return (*ARCHITECTURES, OWN)

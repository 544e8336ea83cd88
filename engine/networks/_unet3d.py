"""A 3-D U-Net whose stages are reversible: inside a resolution nothing but its output is kept.

    y1 = x1 + F(x2);  y2 = x2 + G(y1)         F and G are inverted bottlenecks on half the channels

Pendse et al., "Memory Efficient 3D U-Net with Reversible Mobile Inverted Bottlenecks for Brain
Tumor Segmentation", BrainLes 2020. No code of theirs is public; where the paper is silent the
choice is named below. Changes of resolution and width are ordinary layers (partially reversible,
as in Bruegger et al. 2019), so about one tensor a level stays.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Float, Int, Tensor
from engine.reversible import Mode, ReversibleSequence, additive
from engine.reversible.coupling import Coupling

BlockKind = Literal["mbconv", "conv"]


@dataclass(frozen=True)
class UNetConfig:
    """Widths from the finest level down; blocks of every stage.

    Choices of ours: GroupNorm, since volumes leave room for one or two in a batch; SiLU; skips are
    added, which keeps the width. `block` "conv" has two ordinary 3^3 convolutions in place of each
    bottleneck, to tell what the bottleneck saves by itself.
    """

    widths: tuple[int, ...] = (16, 32, 64)
    blocks: int = 2
    expansion: int = 4
    kernel: int = 3
    groups: int = 4
    modalities: int = 1
    classes: int = 4
    block: BlockKind = "mbconv"

    def __post_init__(self) -> None:
        sizes = (*self.widths, self.blocks, self.expansion, self.kernel, self.groups)
        if not self.widths or min(*sizes, self.modalities, self.classes) < 1:
            raise BadInput("Widths, blocks and the other sizes are at least 1.", "Raise them.")
        if self.kernel % 2 == 0:
            raise BadInput(f"A kernel of {self.kernel} has no middle.", "Take an odd one.")
        for width in self.widths:
            check_width(width, self.groups)


def check_width(width: int, groups: int) -> None:
    """Raises `BadInput` unless two halves of groups can be made."""
    if width % 2 or (width // 2) % groups:
        raise BadInput(
            f"{width} channels do not split into two halves of {groups} groups.",
            f"Take a multiple of {2 * groups}.",
        )


class RevUNet3d(nn.Module):
    """The network; `mode` and `anchor_every` choose what training keeps."""

    def __init__(
        self, config: UNetConfig, *, mode: Mode = "reversible", anchor_every: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        pairs = list(zip(widths, widths[1:], strict=False))  # noqa: RUF007 (of levels)
        self.stem = nn.Conv3d(config.modalities, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_stage(config, width) for width in widths)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairs)
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.decoder = nn.ModuleList(_stage(config, width) for width in widths[:-1])
        self.head = nn.Conv3d(widths[0], config.classes, 1)
        self.set_mode(mode, anchor_every)

    def set_mode(self, mode: Mode, anchor_every: int | None = None) -> "RevUNet3d":
        """Another memory policy on the same weights."""
        for stage in self.stages:
            stage.mode, stage.anchor_every = mode, anchor_every
        return self

    @property
    def stages(self) -> list["RevStage"]:
        """Encoder stages from fine to coarse, then decoder stages from fine to coarse."""
        return [m for m in (*self.encoder, *self.decoder) if isinstance(m, RevStage)]

    @property
    def step(self) -> int:
        """What the sides of a volume must be multiples of; others are padded, then cropped."""
        return 2 ** (len(self.config.widths) - 1)

    def forward(self, x: Float[Tensor, "b m d h w"]) -> Float[Tensor, "b classes d h w"]:
        """Logits a voxel."""
        size = x.shape[2:]
        x = self.stem(padded(x, self.step))
        skips = []
        for level, stage in enumerate(self.encoder):
            x = stage(x)
            if level < len(self.down):
                skips.append(x)
                x = self.down[level](x)
        for level in reversed(range(len(self.up))):
            x = F.interpolate(
                self.up[level](x), size=skips[level].shape[2:], mode="trilinear",
                align_corners=False,
            )  # fmt: skip
            x = self.decoder[level](skips[level] + x)
        return self.head(x)[..., : size[0], : size[1], : size[2]]


def padded(x: Float[Tensor, "b m d h w"], step: int) -> Float[Tensor, "b m e i j"]:
    """Zeros behind, up to the next multiple of `step` on each side."""
    more = [(-side) % step for side in x.shape[2:]]
    return F.pad(x, [0, more[2], 0, more[1], 0, more[0]]) if any(more) else x


def _stage(config: UNetConfig, width: int) -> "RevStage":
    return RevStage(
        width,
        config.blocks,
        expansion=config.expansion,
        kernel=config.kernel,
        groups=config.groups,
        block=config.block,
    )


# ---------------------------------------------------------------------- stage and blocks


class RevStage(nn.Module):
    """n reversible blocks at one resolution; a drop-in for a stage of other 3-D U-Nets."""

    def __init__(
        self,
        width: int,
        blocks: int,
        *,
        expansion: int = 4,
        kernel: int = 3,
        groups: int = 4,
        block: BlockKind = "mbconv",
        mode: Mode = "reversible",
        anchor_every: int | None = None,
    ) -> None:
        super().__init__()
        check_width(width, groups)
        self.mode, self.anchor_every = mode, anchor_every

        def branch() -> nn.Module:
            if block == "conv":
                return PlainConv3d(width // 2, kernel, groups)
            return MBConv3d(width // 2, expansion, kernel, groups)

        self.blocks = nn.ModuleList(
            nn.ModuleDict({"F": branch(), "G": branch()}) for _ in range(blocks)
        )

    def couplings(self) -> list[Coupling]:
        """Two for each block, on the two halves of the channels."""
        found = []
        for block in self.blocks:
            found += additive(0, block["F"], block["G"])  # type: ignore[index]
        return found

    def sequence(self) -> ReversibleSequence:
        """The stage as a sequence; it holds no weights of its own."""
        sequence = ReversibleSequence(
            self.couplings(), mode=self.mode, anchor_every=self.anchor_every
        )
        return sequence.train(self.training)

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        x1, x2 = x.chunk(2, 1)
        halves, _ = self.sequence()((x1, x2))
        return torch.cat(halves, 1)

    def inverse(self, y: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        """What went into the stage."""
        y1, y2 = y.chunk(2, 1)
        return torch.cat(self.sequence().inverse((y1, y2)), 1)


class MBConv3d(nn.Module):
    """c -> e c by 1^3, depthwise k^3, e c -> c by 1^3; a norm after each, SiLU after the first two.

    The end is linear, and there is no inner residual: the coupling is the residual.
    """

    def __init__(self, width: int, expansion: int, kernel: int = 3, groups: int = 4) -> None:
        super().__init__()
        wide = width * expansion
        self.expand = nn.Conv3d(width, wide, 1, bias=False)
        self.n1 = nn.GroupNorm(groups, wide)
        self.dw = nn.Conv3d(wide, wide, kernel, padding=kernel // 2, groups=wide, bias=False)
        self.n2 = nn.GroupNorm(groups, wide)
        self.project = nn.Conv3d(wide, width, 1, bias=False)
        self.n3 = nn.GroupNorm(1, width)

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        x = F.silu(self.n1(self.expand(x)))
        x = F.silu(self.n2(self.dw(x)))
        return self.n3(self.project(x))


class PlainConv3d(nn.Module):
    """Two ordinary convolutions, the usual block of a 3-D U-Net."""

    def __init__(self, width: int, kernel: int = 3, groups: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width, width, kernel, padding=kernel // 2, bias=False)
        self.n1 = nn.GroupNorm(groups, width)
        self.conv2 = nn.Conv3d(width, width, kernel, padding=kernel // 2, bias=False)
        self.n2 = nn.GroupNorm(1, width)

    def forward(self, x: Float[Tensor, "b c d h w"]) -> Float[Tensor, "b c d h w"]:
        return self.n2(self.conv2(F.silu(self.n1(self.conv1(x)))))


# ---------------------------------------------------------------------- loss and overlap


def soft_dice(logits: Float[Tensor, "b k *d"], target: Int[Tensor, "b *d"]) -> Float[Tensor, " k"]:
    """(2 sum p t + 1) / (sum p + sum t + 1) for each class; sums over batch and space."""
    p = logits.softmax(1)
    t = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(p)
    along = [0, *range(2, p.ndim)]
    return (2 * (p * t).sum(along) + 1) / (p.sum(along) + t.sum(along) + 1)


def segmentation_loss(
    logits: Float[Tensor, "b k *d"], target: Int[Tensor, "b *d"]
) -> Float[Tensor, ""]:
    """Cross-entropy plus one minus the mean soft Dice of all classes, background too."""
    return F.cross_entropy(logits, target) + 1 - soft_dice(logits, target).mean()


def hard_dice(
    guess: Int[Tensor, "*d"], target: Int[Tensor, "*d"], classes: int
) -> Float[Tensor, " k"]:
    """2 |A and B| / (|A| + |B|) for each class; 1 where both are empty."""
    found = []
    for k in range(classes):
        a, b = guess == k, target == k
        size = int(a.sum()) + int(b.sum())
        found.append(2 * int((a & b).sum()) / size if size else 1.0)
    return torch.tensor(found, dtype=torch.float64)


# ---------------------------------------------------------------------- large volumes


def windows(size: Sequence[int], side: int, overlap: float = 0.5) -> list[tuple[int, ...]]:
    """First corners of windows that cover a volume, the last ones flush with its far sides."""
    step = max(1, int(side * (1 - overlap)))
    starts = []
    for length in size:
        last = max(length - side, 0)
        starts.append(sorted({*range(0, last, step), last}))
    return [(d, h, w) for d in starts[0] for h in starts[1] for w in starts[2]]


def window_weight(side: int) -> Float[Tensor, "d h w"]:
    """A Gaussian bump, deviation an eighth of the side, so that seams of windows blend."""
    line = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    bump = torch.exp(-0.5 * (line / (side / 8)) ** 2)
    weight = bump[:, None, None] * bump[None, :, None] * bump[None, None, :]
    # Never zero, or a voxel that only a corner covers would have no weight at all.
    return weight.clamp(min=1e-4)


def plain_config(config: UNetConfig) -> dict[str, object]:
    """As JSON holds it."""
    return asdict(config)

"""RevCol: columns of four levels each, linked by multi-level reversible connections.

    c0 <- alpha0 c0 + L0(x,  c1);   c1 <- alpha1 c1 + L1(c0, c2)
    c2 <- alpha2 c2 + L2(c1, c3);   c3 <- alpha3 c3 + L3(c2)

x is the stem's map, the context of every column. Cai et al., "Reversible Column Networks", ICLR
2023, equation 4. Names of parameters are those of the released checkpoints, so that these load
strictly. All columns are one reversible sequence here; the release makes one Function a column and
so keeps five maps for each.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Float, Int, Tensor
from engine.reversible import Coupling, Mode, ReversibleSequence
from engine.reversible.sequence import Streams

LEVELS = 4
STRIDE = 32
LEAST_ALPHA = 1e-3
NORM_EPS = 1e-6


@dataclass(frozen=True)
class RevColConfig:
    """Widths and blocks of the four levels, and how many columns. `supervised` gives the network
    four heads and three decoders along the columns; without, it has one head at the end."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    columns: int
    classes: int = 1000
    drop_path: float = 0.0
    supervised: bool = True
    kernel: int = 3
    gamma: float = 1e-6

    def __post_init__(self) -> None:
        if len(self.channels) != LEVELS or len(self.blocks) != LEVELS:
            raise BadInput(
                "RevCol has four levels.", "Give four widths and four numbers of blocks."
            )
        if min(*self.channels, *self.blocks, self.columns, self.classes) < 1:
            raise BadInput("Widths, blocks, columns and classes are at least 1.", "Raise them.")
        if self.supervised and self.columns < LEVELS:
            raise BadInput(
                f"Heads after each quarter of the columns need four columns, not {self.columns}.",
                "Take four or more, or leave the heads out.",
            )


# Cai et al. 2023, Table 8, and the release.
CONFIGS: Mapping[str, RevColConfig] = {
    "T": RevColConfig((64, 128, 256, 512), (2, 2, 4, 2), 4, drop_path=0.1),
    "S": RevColConfig((64, 128, 256, 512), (2, 2, 4, 2), 8, drop_path=0.3),
    "B": RevColConfig((72, 144, 288, 576), (1, 1, 3, 2), 16, drop_path=0.4),
    "L": RevColConfig((128, 256, 512, 1024), (1, 2, 6, 2), 8, drop_path=0.5),
    "XL": RevColConfig((224, 448, 896, 1792), (1, 2, 6, 2), 8, drop_path=0.5),
}


@dataclass(frozen=True)
class Seen:
    """What a pass gives: the streams after the last column, logits after each quarter (or at the
    end alone), and the pictures that the decoders make of the first three quarters' maps."""

    streams: Streams
    logits: tuple[Float[Tensor, "b classes"], ...]
    decoded: tuple[Float[Tensor, "n 3 h w"], ...]


class RevCol(nn.Module):
    """The network. `mode` and `anchor_every` choose what training keeps: `engine.reversible`."""

    def __init__(
        self,
        config: RevColConfig,
        *,
        mode: Mode = "reversible",
        anchor_every: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.mode, self.anchor_every = config, mode, anchor_every
        widths = config.channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], kernel_size=4, stride=4), ChannelNorm(widths[0])
        )
        for i in range(config.columns):
            self.add_module(f"subnet{i}", Column(config, is_first=i == 0))
        if config.supervised:
            heads = range(LEVELS)
            self.cls_blocks = nn.ModuleList(Head(widths[-1], config.classes) for _ in heads)
            make = Decoder if config.classes <= 1000 else lambda _: PlainDecoder(widths[-1])
            self.decoder_blocks = nn.ModuleList(make(widths) for _ in range(LEVELS - 1))
        else:
            self.cls = Head(widths[-1], config.classes)
        self.apply(_start)

    def forward(self, x: Float[Tensor, "b 3 h w"], *, decode: int | None = None) -> Seen:
        """Logits, and the pictures decoded of the first `decode` of the batch, or of all.

        Raises `BadInput` for sizes that 32 does not divide.
        """
        stem = self.stem(check_size(x))
        sequence = self.sequence(taps=self.taps)
        streams, tapped = sequence(self.zeros(stem), (stem,))
        has_early = self.config.supervised
        heads: Iterable[nn.Module] = self.cls_blocks if has_early else [self.cls]
        logits = tuple(head(c3) for head, c3 in zip(heads, tapped, strict=True))
        decoders: Iterable[nn.Module] = self.decoder_blocks if has_early else []
        decoded = tuple(draw(c3[:decode]) for draw, c3 in zip(decoders, tapped, strict=False))
        return Seen(streams, logits, decoded)

    def sequence(self, taps: Sequence[tuple[int, int]] = ()) -> ReversibleSequence:
        """All columns as couplings. It holds no weights of its own, so it is made for each pass."""
        for column in self.columns:
            column.clamp()
        couplings = [c for column in self.columns for c in column.couplings()]
        sequence = ReversibleSequence(
            couplings, taps=taps, mode=self.mode, anchor_every=self.anchor_every
        )
        return sequence.train(self.training)

    @property
    def columns(self) -> list["Column"]:
        """The columns in their order."""
        found = (getattr(self, f"subnet{i}") for i in range(self.config.columns))
        return [column for column in found if isinstance(column, Column)]

    @property
    def heads_after(self) -> tuple[int, ...]:
        """The number of columns before each head."""
        if not self.config.supervised:
            return (self.config.columns,)
        quarter = self.config.columns // LEVELS
        return tuple(quarter * (k + 1) for k in range(LEVELS))

    @property
    def taps(self) -> tuple[tuple[int, int], ...]:
        """c3 where heads and decoders read it."""
        return tuple((LEVELS * columns - 1, LEVELS - 1) for columns in self.heads_after)

    def zeros(self, stem: Float[Tensor, "b c h w"]) -> Streams:
        """The streams before the first column."""
        b, _, h, w = stem.shape
        return tuple(
            stem.new_zeros(b, width, h >> level, w >> level)
            for level, width in enumerate(self.config.channels)
        )


def check_size(x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """The picture, or `BadInput`: halving must come out even on all levels."""
    h, w = x.shape[-2:]
    if h % STRIDE or w % STRIDE or not h or not w:
        raise BadInput(
            f"A picture of {w} x {h} does not halve evenly.", "Take sides that 32 divides."
        )
    return x


# ---------------------------------------------------------------------- columns


class Column(nn.Module):
    """One copy of the hierarchy: four levels and the scales of the maps before it."""

    def __init__(self, config: RevColConfig, *, is_first: bool) -> None:
        super().__init__()
        rates = np.linspace(0, config.drop_path, sum(config.blocks)).tolist()
        for level, width in enumerate(config.channels):
            setattr(self, f"alpha{level}", nn.Parameter(torch.full((1, width, 1, 1), 0.5)))
            first = sum(config.blocks[:level])
            own = rates[first : first + config.blocks[level]]
            self.add_module(f"level{level}", Level(config, level, own, is_first=is_first))
        self.is_first = is_first

    def couplings(self) -> list[Coupling]:
        """Level by level; what a level reads is (lower map, upper map), level 0 reads the stem."""
        found = []
        for level in range(LEVELS):
            fn, alpha = getattr(self, f"level{level}"), getattr(self, f"alpha{level}")
            reads = [level - 1] if level else []
            if level < LEVELS - 1 and not self.is_first:
                reads.append(level + 1)
            found.append(
                Coupling(_Below(fn) if not level else fn, level, reads, scale=alpha,
                         ctx=() if level else (0,))
            )  # fmt: skip
        return found

    @torch.no_grad()
    def clamp(self) -> None:
        """|alpha| of at least 1e-3, its sign kept. The release leaves a zero a zero, which cannot
        be inverted; it becomes positive here."""
        for level in range(LEVELS):
            alpha: Tensor = getattr(self, f"alpha{level}")
            if alpha.is_meta:
                continue
            sign = torch.where(alpha < 0, -1.0, 1.0).to(alpha)
            alpha.copy_(sign * alpha.abs().clamp(min=LEAST_ALPHA))


class _Below(nn.Module):
    """Level 0 with its context, the stem, in front: couplings hand over what they read first."""

    def __init__(self, level: "Level") -> None:
        super().__init__()
        self.level = level

    def forward(self, *given: Tensor) -> Tensor:
        *above, stem = given
        return self.level(stem, *above)


class Level(nn.Module):
    """blocks(fuse(down, up)): the map below at half the size, plus the one above at twice."""

    def __init__(
        self, config: RevColConfig, level: int, rates: Sequence[float], *, is_first: bool
    ) -> None:
        super().__init__()
        width = config.channels[level]
        self.fusion = Fusion(config.channels, level, is_first=is_first)
        self.blocks = nn.Sequential(
            *(Block(width, 4 * width, config.kernel, config.gamma, rate) for rate in rates)
        )

    def forward(
        self, down: Float[Tensor, "b c h w"], up: Float[Tensor, "b d i j"] | None = None
    ) -> Float[Tensor, "b e k l"]:
        return self.blocks(self.fusion(down, up))


class Fusion(nn.Module):
    """Down: a 2 x 2 convolution of stride 2 and a norm. Up: Linear, norm, nearest x 2."""

    def __init__(self, channels: Sequence[int], level: int, *, is_first: bool) -> None:
        super().__init__()
        width = channels[level]
        if level:
            self.down: nn.Module = nn.Sequential(
                nn.Conv2d(channels[level - 1], width, kernel_size=2, stride=2), ChannelNorm(width)
            )
        else:
            self.down = nn.Identity()
        if level < LEVELS - 1 and not is_first:
            self.up = Up(channels[level + 1], width)

    def forward(
        self, down: Float[Tensor, "b c h w"], up: Float[Tensor, "b d i j"] | None = None
    ) -> Float[Tensor, "b e k l"]:
        x = self.down(down)
        return x if up is None else self.up(up) + x


class Up(nn.Module):
    """The map above at twice its size and this level's width."""

    def __init__(self, width_above: int, width: int) -> None:
        super().__init__()
        # The paper's figure has a norm after the linear layer too; so has the release.
        self.channel_reschedule = nn.Sequential(
            nn.Linear(width_above, width), nn.LayerNorm(width, eps=NORM_EPS)
        )

    def forward(self, x: Float[Tensor, "b d i j"]) -> Float[Tensor, "b c h w"]:
        x = self.channel_reschedule(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest")


class Block(nn.Module):
    """The ConvNeXt block with a 3 x 3 kernel: depthwise, norm, c -> hidden, GELU, -> c, gamma."""

    def __init__(
        self, width: int, hidden: int, kernel: int = 3, gamma: float = 1e-6, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, kernel, padding=(kernel - 1) // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.pwconv1, self.pwconv2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.gamma = nn.Parameter(torch.full((width,), gamma))
        self.drop_path = drop_path

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + self._dropped(y.permute(0, 3, 1, 2))

    def _dropped(self, y: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Stochastic depth: a sample's branch is left out now and then, the others scaled up."""
        if not (self.training and self.drop_path):
            return y
        keep = 1 - self.drop_path
        return y * y.new_empty(len(y), 1, 1, 1).bernoulli_(keep).div_(keep)


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of b c h w, with the biased variance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        shape = self.weight.shape
        y = F.layer_norm(x.permute(0, 2, 3, 1), shape, self.weight, self.bias, NORM_EPS)
        return y.permute(0, 3, 1, 2)


# ---------------------------------------------------------------------- heads and decoders


class Head(nn.Module):
    """Global average pool, LayerNorm, Linear."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Sequential(
            nn.LayerNorm(width, eps=NORM_EPS), nn.Linear(width, classes)
        )

    def forward(self, c3: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        return self.classifier(c3.mean((2, 3)))


class Decoder(nn.Module):
    """The picture out of c3: three doublings, each 1 x 1, norm, GELU, bilinear, block; then four
    times the size by PixelShuffle."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        widths = tuple(reversed(channels))
        pairs = list(itertools.pairwise(widths))
        self.proj_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 1), ChannelNorm(b), nn.GELU()) for a, b in pairs
        )
        self.normal_layers = nn.ModuleList(nn.Sequential(Block(b, b)) for _, b in pairs)
        self.projback = nn.Sequential(nn.Conv2d(widths[-1], 48, 1), nn.PixelShuffle(4))

    def forward(self, c3: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 k l"]:
        x = c3
        for project, normal in zip(self.proj_layers, self.normal_layers, strict=True):
            x = F.interpolate(project(x), scale_factor=2, mode="bilinear", align_corners=True)
            x = normal(x)
        return self.projback(x)


class PlainDecoder(nn.Module):
    """Of networks with more than 1000 classes: one 1 x 1 convolution and PixelShuffle(32)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.projback = nn.Sequential(
            ChannelNorm(width), nn.Conv2d(width, 3 * STRIDE**2, 1), nn.PixelShuffle(STRIDE)
        )

    def forward(self, c3: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 k l"]:
        return self.projback(c3)


def _start(module: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 and zero biases; shapes alone have no values."""
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


# ---------------------------------------------------------------------- loss


@dataclass(frozen=True)
class Loss:
    """The weighted sum, and its parts: the three early exits, then the last head."""

    total: Float[Tensor, ""]
    parts: tuple[Float[Tensor, ""], ...]


def compound_loss(
    logits: Sequence[Float[Tensor, "b classes"]],
    decoded: Sequence[Float[Tensor, "n 3 h w"]],
    image: Float[Tensor, "b 3 h w"],
    targets: Int[Tensor, " b"],
    *,
    feature: float = 3.0,
    early: float = 0.7,
    smoothing: float = 0.1,
) -> Loss:
    """Early exits reconstruct the picture at first, and classify later:

        sum_{i=0..2} [ f (1 - i/3) BCE(decoder_i, image) + c (i+1)/4 CE(head_i, y) ] + CE(head_3, y)

    `image` is in [0, 1], and is brought into [0.01, 0.99]; its first ones were decoded.
    Cai et al. 2023, section 3.3, and the release, whose tiny model has f = 3 and c = 0.7.
    """
    image = image.clamp(0.01, 0.99)
    parts = []
    for i, (picture, guess) in enumerate(zip(decoded, logits, strict=False)):
        shown = F.binary_cross_entropy_with_logits(picture, image[: len(picture)])
        said = F.cross_entropy(guess, targets, label_smoothing=smoothing)
        parts.append(
            feature * (1 - i / len(decoded)) * shown + early * (i + 1) / len(logits) * said
        )
    parts.append(F.cross_entropy(logits[-1], targets, label_smoothing=smoothing))
    return Loss(sum(parts[1:], parts[0]), tuple(parts))


# ---------------------------------------------------------------------- released files


def config_of(state: Mapping[str, Tensor]) -> RevColConfig:
    """The configuration that tensors of these names and shapes belong to. Raises `BadInput`."""
    try:
        columns = 1 + max(int(key[6:].split(".")[0]) for key in state if key.startswith("subnet"))
        channels = tuple(state[f"subnet0.alpha{level}"].shape[1] for level in range(LEVELS))
        blocks = tuple(
            len({k.split(".")[3] for k in state if k.startswith(f"subnet0.level{level}.blocks.")})
            for level in range(LEVELS)
        )
        supervised = "cls_blocks.0.classifier.1.weight" in state
        head = "cls_blocks.0.classifier.1.weight" if supervised else "cls.classifier.1.weight"
        return RevColConfig(
            channels,
            blocks,
            columns,
            classes=state[head].shape[0],
            supervised=supervised,
            kernel=state["subnet0.level0.blocks.0.dwconv.weight"].shape[-1],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise BadInput(
            "These tensors are no RevCol network.",
            "A released file holds them under stem.*, subnet0.level0.* and so on.",
        ) from error


def from_state(state: Mapping[str, Tensor], *, mode: Mode = "reversible") -> RevCol:
    """The network of a released file's tensors, loaded strictly. Raises `BadInput`."""
    config = config_of(state)
    with torch.device("meta"):
        network = RevCol(config, mode=mode)
    try:
        network.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        raise BadInput(
            f"The tensors do not fit a RevCol network: {str(error).splitlines()[-1].strip()[:200]}",
            "Export the whole state dictionary.",
        ) from error
    return network.requires_grad_(True)


def with_columns(config: RevColConfig, columns: int) -> RevColConfig:
    """The same network with another number of columns."""
    return replace(config, columns=columns)


def plain_config(config: RevColConfig) -> dict[str, object]:
    """As JSON holds it."""
    return asdict(config)

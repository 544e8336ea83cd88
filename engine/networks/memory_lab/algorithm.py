"""The jobs: bytes, operations and errors against depth; a picture through a network and back."""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from PIL import Image

from engine.core import checks
from engine.core.catalog import ROOT
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.precision import at_home
from engine.core.reversible import compare
from engine.core.rng import generator
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.networks._places import place
from engine.networks.memory_lab import architectures as arch
from engine.networks.memory_lab.results import Frame, Measured, PictureBack, Point, Way
from engine.pictures import PictureSetting
from engine.reversible import Mode, ReversibleSequence, additive, suggest_anchor
from engine.reversible.memory import kept_bytes, measure, median_seconds
from engine.reversible.replay import accelerators, forked_noise
from engine.reversible.sequence import Streams

MOST_DEPTH, MOST_BATCH, MOST_DEPTHS = 64, 64, 6
MOST_WORK = 40_000_000  # of depth x width x batch: what a step may be asked for
PRECISIONS = ("float32", "bfloat16", "float64")
PHOTOGRAPHS = ("chelsea", "rocket", "camera", "flower")
EXAMPLE = (
    "x1 += norm | linear 4 | gelu | linear 1 (x2)\nx2 += norm | linear 4 | gelu | linear 1 (x1)"
)
SIDE, FRAMES = 128, 12
TIMED = 5


@dataclass(frozen=True)
class Policy:
    """A memory policy; `segment` gives the couplings of a segment for a block's size and depth."""

    title: str
    mode: Mode
    blocks: str = "all"

    def segment(self, unit: int, depth: int, suggested: int) -> int | None:
        """Couplings to a segment, None for all of them."""
        count = {"one": 1, "root": math.ceil(depth**0.5), "anchor": suggested}.get(self.blocks)
        return None if count is None or count >= depth else count * unit


POLICIES: Mapping[str, Policy] = {
    "plain": Policy("plain autograd", "plain"),
    "checkpoint": Policy("checkpoint per block", "checkpoint", "one"),
    "sqrt": Policy("checkpoints of √L blocks", "checkpoint", "root"),
    "selective": Policy("selective checkpoint: products kept", "selective", "one"),
    "reversible": Policy("reversible", "reversible"),
    "anchored": Policy("reversible with anchors", "reversible", "anchor"),
}


def run(
    *,
    seed: int,
    architecture: Annotated[str, OneOf(arch.names())] = "revnet",
    blocks: Annotated[str, Text(arch.own.LONGEST)] = EXAMPLE,
    depths: Annotated[
        Sequence[Annotated[int, Range(1, MOST_DEPTH, "Try 2, 8, 32.")]], Items(MOST_DEPTHS, 1)
    ] = (2, 8, 32),
    width: Annotated[int, Range(4, 512, "Try 64.")] = 64,
    batch: Annotated[int, Range(1, MOST_BATCH, "Try 16.")] = 16,
    precision: Annotated[str, OneOf(PRECISIONS)] = "float32",
    policies: Annotated[Sequence[Annotated[str, OneOf(POLICIES)]], Items(len(POLICIES), 1)] = tuple(
        POLICIES
    ),
    timed: bool = False,
) -> Steps[Measured]:
    """Kept bytes, peak, operations and gradient error of a training step, for every depth and
    memory policy, on the same weights. `blocks` is the own list of the architecture "own"."""
    setting = _Setting.of(architecture, blocks, width, batch, precision, depths)
    named = tuple(policies)
    yield Progress(0, 1, "Building blocks")
    total = len(setting.depths) * len(named)
    shown = Measured(
        architecture, arch.title_of(architecture), width, batch, precision, setting.parameters(seed)
    )
    for depth in setting.depths:
        truth: list[Tensor] | None = None
        made = setting.built(depth, seed)
        way = _way(made, depth, setting)
        shown = replace(shown, ways=(*shown.ways, way))
        for name in named:
            point, found = _point(made, depth, name, way, setting, truth, timed)
            truth = truth or found
            shown = replace(shown, points=(*shown.points, point))
            yield Progress(len(shown.points), total, f"{depth} blocks, {point.title}", shown)
    return replace(shown, notes=_notes(shown))


def walk(
    *,
    seed: int,
    photograph: Annotated[str, OneOf(PHOTOGRAPHS)] = "chelsea",
    picture: PictureSetting | None = None,
    depth: Annotated[int, Range(1, MOST_DEPTH, "Try 16.")] = 16,
    width: Annotated[int, Range(4, 32, "Try 16.")] = 16,
    precision: Annotated[str, OneOf(("float32", "float64"))] = "float32",
) -> Steps[PictureBack]:
    """A picture through a reversible network of so many blocks, and back from its output.

    Even and odd columns of the picture are the two streams; branches are small convolutions.
    """
    yield Progress(0, 1, "Opening the picture")
    pixels = _pixels(photograph, picture)
    dtype = getattr(torch, precision)
    x = _halves(pixels, place(dtype), dtype)
    sequence = _picture_network(depth, width, seed).to(place(dtype), dtype).eval()
    count = len(sequence.steps)
    shown = PictureBack(depth, pixels)
    kept = [_kept(sequence, mode, x) for mode in ("reversible", "plain")]
    shown = replace(
        shown, kept_bytes=kept[0], plain_bytes=kept[1], forward=(Frame(0, pixels, None),)
    )
    there = [x]
    wanted = {round(i * count / FRAMES) for i in range(FRAMES + 1)}
    for k, streams in sequence.trace(x):
        there.append(streams)
        if k + 1 in wanted:
            frame = Frame(k + 1, _picture(streams), None)
            shown = replace(shown, forward=(*shown.forward, frame))
            yield Progress(k + 1, 2 * count, f"Forward, coupling {k + 1}", shown)
    back = there[-1]
    for k, back in sequence.trace(there[-1], backward=True):
        if k in wanted:
            error = compare(there[k], back).largest_error * 255
            frame = Frame(k, _picture(back), error)
            shown = replace(shown, backward=(*shown.backward, frame))
            yield Progress(2 * count - k, 2 * count, f"Back, coupling {k + 1} undone", shown)
    equal = float((_picture(back) == pixels).all(-1).mean())
    return replace(shown, equal_pixels=equal, trip=compare(x, back, steps=count))


# ---------------------------------------------------------------------- settings


@dataclass(frozen=True)
class _Setting:
    """What is measured, checked."""

    architecture: str
    blocks: str
    width: int
    batch: int
    precision: str
    depths: tuple[int, ...]

    @classmethod
    def of(
        cls, architecture: str, blocks: str, width: int, batch: int, precision: str,
        depths: Sequence[int],
    ) -> "_Setting":  # fmt: skip
        arch.title_of(architecture)
        if architecture == arch.OWN:
            arch.own.parsed(blocks)
        checks.count("width", width, 4, arch.widest(architecture))
        arch.check_width(architecture, width)
        counts = tuple(depths)
        if max(counts) * width**2 * batch > MOST_WORK:
            raise BadInput(
                f"{max(counts)} blocks of width {width} at batch {batch} are too much here.",
                "Take a smaller width or batch.",
            )
        return cls(architecture, blocks, width, batch, precision, counts)

    def built(self, depth: int, seed: int) -> arch.Built:
        made = arch.built(self.architecture, depth, self.width, self.batch, seed, self.blocks)
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        to = place(dtype), dtype
        for coupling in made.couplings:
            coupling.to(*to)
        streams, ctx = (tuple(t.to(*to) for t in ts) for ts in (made.streams, made.ctx))
        return replace(made, streams=streams, ctx=ctx)

    def parameters(self, seed: int) -> int:
        """Of the deepest network."""
        made = self.built(max(self.depths), seed)
        return sum(p.numel() for p in ReversibleSequence(made.couplings).parameters())

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 inside F; the streams stay float32."""
        half = self.precision == "bfloat16"
        return torch.autocast(place().type, torch.bfloat16) if half else nullcontext()


# ---------------------------------------------------------------------- one bar


def _point(
    made: arch.Built, depth: int, name: str, way: Way, setting: _Setting,
    truth: list[Tensor] | None, timed: bool,
) -> tuple[Point, list[Tensor]]:  # fmt: skip
    policy = POLICIES[name]
    segment = policy.segment(made.unit, depth, way.suggested_anchor)
    sequence = ReversibleSequence(made.couplings, mode=policy.mode, anchor_every=segment).train()
    # What a network reads asks for gradients, as an embedding in front of it would.
    streams = tuple(stream.clone().requires_grad_() for stream in made.streams)

    def step() -> Float[Tensor, ""]:
        with setting.autocast():
            out, _ = sequence(streams, made.ctx)
            return sum((s.square().mean() for s in out[1:]), out[0].square().mean())

    trained = [p for p in sequence.parameters() if p.requires_grad]
    devices = accelerators(streams)

    def gradients() -> list[Tensor]:
        with forked_noise(devices), torch.enable_grad():
            torch.manual_seed(0)
            return list(torch.autograd.grad(step(), trained))

    with forked_noise(devices), torch.enable_grad():
        torch.manual_seed(0)
        cost = measure(step, sequence, [*streams, *made.ctx])
    found = gradients()
    # Selective checkpoints keep what autograd does not see; the live bytes hold it.
    kept = cost.live_bytes if policy.mode == "selective" else cost.kept_bytes
    point = Point(
        depth, name, policy.title, kept, cost.peak_bytes, cost.gradient_bytes, cost.flops,
        _apart(found, truth or found), median_seconds(gradients, TIMED) if timed else None,
    )  # fmt: skip
    return point, found


def _apart(found: Sequence[Tensor], truth: Sequence[Tensor]) -> float:
    """The largest difference over the largest gradient."""
    here = at_home([*found, *truth])
    found, truth = here[: len(found)], here[len(found) :]
    size = max(float(grad.abs().max()) for grad in truth)
    gap = max(float((a - b).abs().max()) for a, b in zip(found, truth, strict=True))
    return gap / size if size else gap


@torch.no_grad()
def _way(made: arch.Built, depth: int, setting: _Setting) -> Way:
    sequence = ReversibleSequence(made.couplings).eval()
    with setting.autocast():
        end, _ = sequence(made.streams, made.ctx)
        back = sequence.inverse(end, made.ctx)
    moved = [(a, b) for a, b in zip(made.streams, back, strict=True) if float(a.abs().max()) > 0]
    pairs = moved or list(zip(made.streams, back, strict=True))
    error = compare([a for a, _ in pairs], [b for _, b in pairs]).relative_error
    scales = [coupling.size_of_scale() for coupling in sequence.steps]
    suggested = suggest_anchor(scales, made.streams[0].dtype)
    return Way(depth, error, max(1, suggested // made.unit))


def _notes(shown: Measured) -> tuple[str, ...]:
    """What to believe, and what not."""
    found = []
    kept = {(p.policy, p.depth): p.kept_bytes for p in shown.points}
    deepest = max(point.depth for point in shown.points)
    plain, part = kept.get(("plain", deepest)), kept.get(("checkpoint", deepest))
    if plain and part:
        found.append(
            f"Checkpoints per block alone take {1 - part / plain:.0%} of what plain autograd keeps "
            "at the greatest depth, with gradients equal in every bit."
        )
    wrong = [p.gradient_error for p in shown.points if p.policy == "reversible"]
    if wrong and max(wrong) > 1e-3:
        found.append(
            f"Walked back without anchors, gradients are off by up to {max(wrong):.0e} here: the "
            "streams are scaled down, and float32 cannot undo that for long."
        )
    return tuple(found)


# ---------------------------------------------------------------------- the picture


def _pixels(photograph: str, picture: UInt8[Array, "h w 3"] | None) -> UInt8[Array, "side side 3"]:
    """The middle square, scaled."""
    if picture is None:
        with Image.open(ROOT / "assets" / "data" / "photographs" / f"{photograph}.png") as image:
            picture = np.asarray(image.convert("RGB"))
    h, w = picture.shape[:2]
    side = min(h, w)
    top, left = (h - side) // 2, (w - side) // 2
    square = Image.fromarray(picture[top : top + side, left : left + side])
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _halves(pixels: UInt8[Array, "h w 3"], device: torch.device, dtype: torch.dtype) -> Streams:
    x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(device, dtype) / 255
    return x[..., ::2].contiguous(), x[..., 1::2].contiguous()


def _picture(streams: Streams) -> UInt8[Array, "h w 3"]:
    """Both halves side by side again; values beyond black and white are cut off."""
    x = torch.stack(streams, -1).flatten(-2)[0]
    return (x.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def _picture_network(depth: int, width: int, seed: int) -> ReversibleSequence:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        pairs = [(arch.ConvBranch(3, width), arch.ConvBranch(3, width)) for _ in range(depth)]
    return ReversibleSequence([c for f, g in pairs for c in additive(0, f, g)])


def _kept(sequence: ReversibleSequence, mode: Mode, x: Streams) -> int:
    sequence.mode = mode
    with torch.enable_grad(), kept_bytes(sequence, x) as kept:
        sequence(x)
    return kept.total

"""A visitor's own block, written as couplings:

    x1 += norm | linear 4 | gelu | linear 1 (x2)
    x2 = 0.9 x2 + norm | linear 2 | tanh | linear 1 (x1)

One line rewrites one stream; what it reads stands in brackets and is summed. "linear k" maps to k
times the width; the last one must lead back to the width.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.reversible import Coupling

MOST_LINES, MOST_STREAMS, MOST_LAYERS, LONGEST, WIDEST = 12, 4, 12, 2000, 8
LINE = re.compile(
    r"x(?P<target>\d)\s*(?P<sign>\+=|=\s*(?P<scale>-?\d+(\.\d+)?)\s*\*?\s*x(?P<same>\d)\s*\+)"
    r"(?P<layers>[^()]*)\((?P<reads>[x\d\s,]+)\)"
)
ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "tanh": nn.Tanh, "silu": nn.SiLU}
EXAMPLE = "Write for example: x1 += norm | linear 4 | gelu | linear 1 (x2)"


@dataclass(frozen=True)
class Line:
    """One coupling as written; streams count from 0 here."""

    target: int
    reads: tuple[int, ...]
    scale: float
    layers: tuple[tuple[str, float], ...]


class Branch(nn.Module):
    """Layers one after the other on the sum of what is read."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, *given: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return self.layers(sum(given[1:], given[0]))


def parsed(text: str) -> tuple[Line, ...]:
    """The lines of a block. Raises `BadInput` that names the line."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise BadInput("The block must be a text of at most 2,000 characters.", EXAMPLE)
    rows = [row.strip() for row in text.splitlines() if row.strip()]
    if not 1 <= len(rows) <= MOST_LINES:
        raise BadInput(f"A block has 1 to {MOST_LINES} lines, this one {len(rows)}.", EXAMPLE)
    lines = tuple(_line(number, row) for number, row in enumerate(rows, start=1))
    if {i for line in lines for i in line.reads} - set(range(streams(lines))):
        raise BadInput("A stream is read that no line counts up to.", "Number them x1, x2, ...")
    return lines


def streams(lines: Sequence[Line]) -> int:
    """How many streams the lines work on."""
    return 1 + max(i for line in lines for i in (line.target, *line.reads))


def couplings(lines: Sequence[Line], width: int) -> list[Coupling]:
    """New modules for each line."""
    return [
        Coupling(Branch(_modules(line.layers, width)), line.target, line.reads, scale=line.scale)
        for line in lines
    ]


def _line(number: int, row: str) -> Line:
    found = LINE.fullmatch(row)
    if found is None or found["same"] not in (None, found["target"]):
        raise BadInput(f'Line {number}, "{row[:60]}", is no coupling.', EXAMPLE)
    target = int(found["target"]) - 1
    reads = tuple(sorted({int(i) - 1 for i in re.findall(r"\d", found["reads"])}))
    if not reads or target in reads:
        raise BadInput(f"Line {number} reads the stream it rewrites, or none.", EXAMPLE)
    if min(target, *reads) < 0 or max(target, *reads) >= MOST_STREAMS:
        raise BadInput(f"Line {number} counts streams beyond x{MOST_STREAMS}.", EXAMPLE)
    scale = float(found["scale"] or 1)
    if not 1e-3 <= abs(scale) <= 10:
        raise BadInput(f"Line {number} scales by {scale:g}.", "Take 0.001 to 10, or +=.")
    return Line(target, reads, scale, _layers(number, found["layers"]))


def _layers(number: int, text: str) -> tuple[tuple[str, float], ...]:
    parts = [part.split() for part in text.split("|") if part.strip()]
    if not 1 <= len(parts) <= MOST_LAYERS:
        raise BadInput(f"Line {number} has {len(parts)} layers; 1 to {MOST_LAYERS} are.", EXAMPLE)
    layers = tuple(_layer(number, part) for part in parts)
    wide = [value for name, value in layers if name == "linear"]
    if wide and wide[-1] != 1:
        raise BadInput(f"Line {number} does not lead back to the width.", 'End with "linear 1".')
    return layers


def _layer(number: int, part: Sequence[str]) -> tuple[str, float]:
    name, *rest = part
    if name in ("norm", *ACTIVATIONS) and not rest:
        return name, 0.0
    value = rest[0] if len(rest) == 1 else ""
    if name == "linear" and value.isdecimal() and 1 <= int(value) <= WIDEST:
        return name, float(value)
    if name == "dropout" and re.fullmatch(r"0?\.\d{1,3}", value) and float(value) < 0.9:
        return name, float(value)
    raise BadInput(
        f'Line {number} has no layer "{" ".join(part)[:40]}".',
        f"There are norm, linear 1 to {WIDEST}, {', '.join(ACTIVATIONS)}, dropout 0.1.",
    )


def _modules(layers: Sequence[tuple[str, float]], width: int) -> list[nn.Module]:
    made: list[nn.Module] = []
    now = width
    for name, value in layers:
        if name == "linear":
            wider = int(value) * width
            made.append(nn.Linear(now, wider))
            now = wider
        elif name == "norm":
            made.append(nn.LayerNorm(now))
        elif name == "dropout":
            made.append(nn.Dropout(value))
        else:
            made.append(ACTIVATIONS[name]())
    return made

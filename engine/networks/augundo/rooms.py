"""Furnished rooms, drawn here by casting rays: two pictures, depth, and cameras that are known.

A room is a box with boxes and balls in it, each with a texture that is a function of the place in
space. Light does not depend on where one looks from, so a surface has the same colour in both
pictures, as the photometric loss assumes; only what one camera sees and the other does not breaks
it. The seed is the place: two seeds are two rooms.
"""

from dataclasses import dataclass, replace

import numpy as np

from engine.core.shapes import Array, Float

BASELINE = 0.16  # metres between the two cameras
SAMPLES = 2  # rays a pixel along each side
LIGHT = np.array([0.4, -1.1, -0.6])


@dataclass(frozen=True)
class Solid:
    """A box or a ball: its middle, half sides (of a ball its radius, thrice), a turn about the
    vertical, two colours, a pattern and the size of its pieces."""

    kind: str
    middle: Float[Array, "3"]
    half: Float[Array, "3"]
    turn: float
    colours: Float[Array, "2 3"]
    pattern: int
    grain: float
    inside_out: bool = False


@dataclass(frozen=True)
class View:
    """A picture in [0, 1] with the depth along the axis of the camera, in metres."""

    picture: Float[Array, "3 h w"]
    depth: Float[Array, "1 h w"]


def intrinsics(height: int, width: int) -> Float[Array, "3 3"]:
    """K of a camera that sees 65 degrees across."""
    focal = width * 0.785
    return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def furnished(seed: int) -> tuple[Solid, ...]:
    """The walls and what stands between them. y points down, z away from the camera."""
    draw = np.random.default_rng([seed, 21])
    width, tall, deep = draw.uniform(3.2, 5.0), draw.uniform(2.4, 3.0), draw.uniform(3.4, 5.6)
    floor = 1.3
    walls = _solid(draw, "box", (0.0, floor - tall / 2, deep / 2 - 0.6), (width, tall, deep), 0.0)
    solids = [replace(walls, inside_out=True)]
    for _ in range(int(draw.integers(4, 8))):
        sides = draw.uniform(0.3, 1.1, 3)
        x, z = draw.uniform(-0.42, 0.42) * width, draw.uniform(1.3, deep - 1.1)
        solids.append(_solid(draw, "box", (x, floor - sides[1] / 2, z), sides, draw.uniform(0, 3)))
    for _ in range(int(draw.integers(1, 4))):
        side = draw.uniform(0.4, 0.9)
        x, z = draw.uniform(-0.4, 0.4) * width, draw.uniform(1.2, deep - 1.2)
        y = floor - side / 2 - draw.choice([0, draw.uniform(0, 1)])
        solids.append(_solid(draw, "ball", (x, y, z), (side,) * 3, 0.0))
    return tuple(solids)


def _solid(
    draw: np.random.Generator,
    kind: str,
    middle: tuple[float, ...],
    sides: tuple[float, ...] | np.ndarray,
    turn: float,
) -> Solid:
    first = draw.uniform(0.15, 1.0, 3)
    second = np.clip(first * draw.uniform(0.25, 0.7) + draw.uniform(-0.1, 0.1, 3), 0, 1)
    return Solid(
        kind, np.array(middle), np.array(sides) / 2, turn, np.stack([first, second]),
        int(draw.integers(3)), draw.uniform(0.12, 0.4),
    )  # fmt: skip


def pair(seed: int, height: int, width: int) -> tuple[View, View]:
    """The room seen from two cameras side by side."""
    draw = np.random.default_rng([seed, 22])
    yaw, pitch = draw.uniform(-0.25, 0.25), draw.uniform(-0.05, 0.15)
    pose = _yaw(yaw) @ _pitch(pitch)
    solids = furnished(seed)
    left = view(solids, pose, np.zeros(3), height, width)
    return left, view(solids, pose, pose @ np.array([BASELINE, 0, 0]), height, width)


def view(
    solids: tuple[Solid, ...],
    pose: Float[Array, "3 3"],
    eye: Float[Array, "3"],
    height: int,
    width: int,
) -> View:
    """What a camera at `eye`, turned by `pose`, sees: colours averaged over a pixel, depths not."""
    step = 1 / SAMPLES
    down, across = (np.arange(side * SAMPLES) * step - 0.5 + step / 2 for side in (height, width))
    colours, _ = _cast(solids, pose, eye, down, across, intrinsics(height, width))
    blocks = colours.reshape(height, SAMPLES, width, SAMPLES, 3).mean((1, 3))
    _, depth = _cast(
        solids, pose, eye, np.arange(height), np.arange(width), intrinsics(height, width)
    )
    picture = np.clip(blocks, 0, 1).transpose(2, 0, 1)
    return View(picture.astype(np.float32), depth[None].astype(np.float32))


def _cast(
    solids: tuple[Solid, ...],
    pose: np.ndarray,
    eye: np.ndarray,
    down: np.ndarray,
    across: np.ndarray,
    k: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Colours `h w 3` and depths `h w` of the rays through these rows and columns."""
    y, x = np.meshgrid((down - k[1, 2]) / k[1, 1], (across - k[0, 2]) / k[0, 0], indexing="ij")
    rays = np.stack([x, y, np.ones_like(x)], -1) @ pose.T
    depth = np.full(x.shape, np.inf)
    colour = np.zeros((*x.shape, 3))
    for solid in solids:
        back = _yaw(-solid.turn)
        hit = _met(solid, (eye - solid.middle) @ back.T, rays @ back.T)
        nearer = hit < depth
        depth = np.where(nearer, hit, depth)
        place = eye + rays[nearer] * hit[nearer][:, None]
        colour[nearer] = _painted(solid, (place - solid.middle) @ back.T)
    return colour, depth


def _met(solid: Solid, eye: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """How far along each ray the solid begins, infinite where it is missed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if solid.kind == "ball":
            a, b = (rays**2).sum(-1), rays @ eye
            root = b**2 - a * (eye @ eye - solid.half[0] ** 2)
            far = (-b - np.sqrt(root)) / a
            return np.where((root > 0) & (far > 0), far, np.inf)
        ends = np.stack([(-solid.half - eye) / rays, (solid.half - eye) / rays])
        near, far = ends.min(0).max(-1), ends.max(0).min(-1)
    if solid.inside_out:
        return far
    return np.where((near < far) & (near > 0), near, np.inf)


def _painted(solid: Solid, place: np.ndarray) -> np.ndarray:
    """Colour at places in the solid's own axes: pattern, grain and a light that stands still."""
    cells = place / solid.grain
    if solid.pattern == 0:  # checks
        mix = (np.floor(cells + 0.01).sum(-1) % 2).astype(float)
    elif solid.pattern == 1:  # stripes
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * (cells[:, 0] + 0.6 * cells[:, 1] + 0.3 * cells[:, 2]))
    else:  # clouds
        mix = _noise(cells)
    colour = solid.colours[0] * (1 - mix[:, None]) + solid.colours[1] * mix[:, None]
    fine = 0.75 + 0.5 * _noise(place / 0.09)[:, None] * 0.7
    if solid.kind == "ball":
        normal = place / solid.half
    else:
        share = place / solid.half
        side = np.abs(share).argmax(-1)
        normal = np.zeros_like(place)
        normal[np.arange(len(place)), side] = np.sign(share[np.arange(len(place)), side])
        normal = -normal if solid.inside_out else normal
    light = normal @ (LIGHT / np.linalg.norm(LIGHT))
    return colour * fine * (0.62 + 0.38 * light[:, None])


def _noise(place: np.ndarray) -> np.ndarray:
    """Smooth random numbers from 0 to 1, the same at the same place."""
    corner = np.floor(place).astype(np.int64)
    share = place - corner
    share = share * share * (3 - 2 * share)
    found = np.zeros(len(place))
    for bits in range(8):
        offset = np.array([bits & 1, bits >> 1 & 1, bits >> 2 & 1])
        weight = np.where(offset, share, 1 - share).prod(-1)
        found += weight * _hashed(corner + offset)
    return found


def _hashed(cells: np.ndarray) -> np.ndarray:
    """A number from 0 to 1 for a cell, of whole-number arithmetic alone."""
    x = (cells * np.array([73856093, 19349663, 83492791])).sum(-1).astype(np.uint64)
    x = (x ^ (x >> np.uint64(13))) * np.uint64(0x9E3779B97F4A7C15)
    return ((x >> np.uint64(40)) & np.uint64(0xFFFF)).astype(float) / 65535


def _yaw(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])


def _pitch(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])

"""Six art styles that the embedded world does not know, computed from a transparent drawing.

What the style adapters learn. Like the world's own styles they work at 128 x 128 and average at the
end where a picture is smaller.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from engine.world.styles import PICTURE, shrink

NEW_STYLES = (
    "stained glass",
    "candy",
    "gold",
    "x-ray",
    "sunset",
    "thermal",
)
SIDE = 128
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE]


def render_new(
    canvas: Image.Image, style: str, generator: np.random.Generator, *, side: int = PICTURE
) -> np.ndarray:
    """The canvas, 128 x 128 RGBA, in one of the new styles: uint8 side x side x 3."""
    rgba = np.asarray(canvas, np.float32) / 255
    alpha = rgba[..., 3]
    colour = rgba[..., :3] * alpha[..., None] + (1 - alpha[..., None])
    return shrink(_STYLES[style](colour, alpha, generator), side)


def _stained_glass(
    colour: np.ndarray, alpha: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Panes of one saturated colour each between dark leads."""
    even = np.stack(np.meshgrid(np.arange(8, SIDE, 16), np.arange(8, SIDE, 16)), -1)
    places = even.reshape(-1, 2) + generator.uniform(-6, 6, (64, 2))
    gaps = np.hypot(ROWS[..., None] - places[:, 1], COLUMNS[..., None] - places[:, 0])
    # Panes end at the drawing's outline, so that it stays readable.
    pane = gaps.argmin(-1) * 2 + (alpha > 0.5)
    sky = np.stack(
        [0.25 + 0.2 * (ROWS / SIDE), np.full((SIDE, SIDE), 0.45), 0.8 - 0.2 * (ROWS / SIDE)], -1
    )
    filled = np.where(alpha[..., None] > 0.5, colour, sky)
    size = np.bincount(pane.ravel(), minlength=128).clip(1)
    means = np.stack(
        [np.bincount(pane.ravel(), filled[..., c].ravel(), 128) / size for c in range(3)], -1
    )
    glass = means[pane]
    glass = np.clip((glass - glass.mean(-1, keepdims=True)) * 1.6 + glass, 0, 1)
    leads = ndimage.maximum_filter(pane, 3) != ndimage.minimum_filter(pane, 3)
    return glass * (1 - 0.95 * leads[..., None])


def _candy(colour: np.ndarray, alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """White and pink stripes inside the drawing, on mint."""
    light = colour.mean(-1, keepdims=True)
    stripes = ((ROWS + COLUMNS) // 10 % 2)[..., None]
    fill = np.where(stripes, np.array([0.95, 0.25, 0.5]), np.array([1.0, 0.95, 0.95]))
    fill = fill * (0.55 + 0.45 * light)
    mint = np.array([0.62, 0.93, 0.8])
    return mint + alpha[..., None] * (fill - mint)


def _gold(colour: np.ndarray, alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A statue of polished gold before dark red velvet."""
    height = ndimage.gaussian_filter(alpha * 14 + colour.mean(-1) * 6, 2)
    light = np.clip(0.5 - (ndimage.sobel(height, 0) + ndimage.sobel(height, 1)) * 0.035, 0, 1)
    tone = np.clip(0.55 * light + 0.6 * colour.mean(-1), 0, 1)[..., None]
    gold = np.where(
        tone < 0.5,
        np.array([0.35, 0.2, 0.02]) + 2 * tone * np.array([0.5, 0.4, 0.08]),
        np.array([0.85, 0.6, 0.1]) + (2 * tone - 1) * np.array([0.15, 0.38, 0.6]),
    )
    velvet = np.array([0.3, 0.02, 0.06]) * (0.6 + 0.4 * np.cos(COLUMNS / 9.0)[..., None] ** 2)
    return velvet + alpha[..., None] * (gold - velvet)


def _x_ray(colour: np.ndarray, alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A pale negative that glows on black."""
    inside = ndimage.gaussian_filter(alpha * (1.05 - colour.mean(-1)), 0.8)
    rim = np.hypot(ndimage.sobel(alpha, 0), ndimage.sobel(alpha, 1)) / 6
    glow = ndimage.gaussian_filter(alpha, 5) * 0.3
    tone = np.clip(0.22 * alpha + inside * 0.75 + rim + glow, 0, 1)[..., None]
    return tone * np.array([0.72, 0.95, 1.0]) + np.array([0.0, 0.01, 0.03])


def _sunset(colour: np.ndarray, alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A black shape before a sky from violet to yellow, with a sun."""
    height = (ROWS / (SIDE - 1))[..., None]
    top, middle, low = (
        np.array(c) for c in ([0.35, 0.12, 0.5], [0.95, 0.4, 0.3], [1.0, 0.85, 0.35])
    )
    sky = np.where(
        height < 0.5, top + 2 * height * (middle - top), middle + (2 * height - 1) * (low - middle)
    )
    sun = np.clip(26 - np.hypot(ROWS - 84, COLUMNS - 64), 0, 1)[..., None]
    sky = sky + sun * (np.array([1.0, 0.97, 0.75]) - sky)
    shape = np.array([0.06, 0.03, 0.09]) + 0.16 * colour * (colour.mean(-1, keepdims=True) > 0.8)
    return sky + alpha[..., None] * (shape - sky)


def _thermal(colour: np.ndarray, alpha: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A heat camera: cold blue around, hotter towards the middle and where the drawing is light."""
    depth = ndimage.distance_transform_edt(alpha > 0.5)
    heat = np.clip(depth / 22, 0, 1) * 0.55 + 0.25 * colour.mean(-1) * alpha + 0.2 * alpha
    heat = ndimage.gaussian_filter(np.maximum(heat, 0.1), 1.5)
    stops = [0, 0.2, 0.45, 0.65, 0.85, 1]
    ramp = (
        [0.02, 0.3, 0.75, 1, 1, 1],
        [0.02, 0.05, 0.1, 0.45, 0.85, 1],
        [0.3, 0.6, 0.5, 0.1, 0.1, 0.8],
    )
    return np.stack([np.interp(heat, stops, channel) for channel in ramp], -1)


_STYLES = {
    "stained glass": _stained_glass,
    "candy": _candy,
    "gold": _gold,
    "x-ray": _x_ray,
    "sunset": _sunset,
    "thermal": _thermal,
}

"""Six art styles, computed from a transparent drawing.

Each style takes a canvas of 128 x 128 transparent pixels and a background colour. All work at 128;
for smaller pictures squares of pixels are averaged at the end. Pixel art goes through a few large
squares instead.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from engine.world.vocabulary import STYLES

CANVAS = 128
CONFIG = Path(__file__).parents[2] / "assets" / "models" / "world" / "vae" / "config.json"
# The side of the pictures that the shipped world draws: 64 without one, as its first training had.
PICTURE = int(json.loads(CONFIG.read_text())["sample_size"]) if CONFIG.exists() else 64
Rgb = tuple[int, int, int]


def render(
    canvas: Image.Image,
    style: str,
    background: Rgb,
    generator: np.random.Generator,
    *,
    cells: int = 16,
    side: int = PICTURE,
) -> np.ndarray:
    """The canvas in one of the styles: uint8, side x side x 3; the side divides 128.

    `cells` is the number of squares of pixel art along a side. Only watercolor draws random
    numbers.
    """
    if CANVAS % side:
        raise ValueError(f"a picture of {side} pixels is no whole part of {CANVAS}")
    flat = Image.new("RGBA", canvas.size, (*background, 255))
    flat.alpha_composite(canvas)
    flat = flat.convert("RGB")
    if style == "plain":
        return np.asarray(flat.resize((side, side), Image.Resampling.BOX))
    if style == "pixel art":
        return _pixel_art(flat, cells, side)
    if style == "watercolor":
        return shrink(_watercolor(_unit(flat), generator), side)
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose one of {', '.join(STYLES)}")
    rgba = _unit(canvas)
    drawing = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    ink = np.clip(_edges(drawing) / 1.6 - 0.08, 0, 1)
    if style == "sketch":
        return shrink(_sketch(drawing, ink), side)
    if style == "neon":
        return shrink(_neon(drawing, ink), side)
    return shrink(_blueprint(rgba[..., 3], ink), side)


def _pixel_art(flat: Image.Image, cells: int, side: int) -> np.ndarray:
    small = flat.resize((cells, cells), Image.Resampling.BOX)
    quantized = small.quantize(10, method=Image.Quantize.MEDIANCUT).convert("RGB")
    return np.asarray(quantized.resize((side, side), Image.Resampling.NEAREST))


def _sketch(drawing: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Ink on warm paper, diagonal hatching where the drawing is dark."""
    light = drawing.mean(-1)
    rows, columns = np.mgrid[:CANVAS, :CANVAS]
    hatching = ((rows + columns) % 10 < 3) * np.clip(0.8 - light, 0, 1) * 0.55
    tone = 0.97 - np.clip(ink * 1.3, 0, 1) * 0.85 - hatching - (1 - light) * 0.12
    return np.clip(tone, 0, 1)[..., None] * np.array([1, 0.99, 0.96])


def _neon(drawing: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Edges in the hue beside them, with a wide glow, on near-black."""
    hue = drawing - drawing.min(-1, keepdims=True)
    hue = ndimage.grey_dilation(hue / (hue.max(-1, keepdims=True) + 0.05), (5, 5, 1))
    colourless = hue.max(-1, keepdims=True) < 0.35
    hue = np.where(colourless, np.array([0.3, 0.9, 1.0]), hue)
    line = np.clip(ink * 1.5, 0, 1)[..., None] * hue
    glow = ndimage.gaussian_filter(line, (4, 4, 0))
    return np.array([0.03, 0.02, 0.08]) + line * 1.05 + glow * 1.3


def _blueprint(alpha: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """White lines and a faint grid on blue paper."""
    lines = np.zeros((CANVAS, CANVAS))
    lines[::16] = lines[:, ::16] = 0.1
    white = np.clip(np.maximum(ink * 1.3, lines), 0, 1)[..., None]
    paper = np.array([0.08, 0.25, 0.6]) * (1 - white)
    return paper + white * np.array([0.92, 0.96, 1]) + alpha[..., None] * 0.06


def _watercolor(flat: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blurred colour modulated by smooth noise, with darker rims."""
    grain = ndimage.gaussian_filter(generator.standard_normal((CANVAS, CANVAS)), 6)
    grain /= grain.std()
    washed = ndimage.gaussian_filter(flat, (2.5, 2.5, 0))
    rims = np.clip(_edges(washed) * 0.8, 0, 1)[..., None]
    return 1 - (1 - washed) * (0.62 + 0.16 * grain[..., None]) - rims * 0.18


def _edges(picture: np.ndarray) -> np.ndarray:
    """Largest gradient over the colour channels, h x w."""
    smooth = ndimage.gaussian_filter(picture, (0.8, 0.8, 0))
    return np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)).max(-1)


def _unit(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, np.float32) / 255


def shrink(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture in 0..1, 128 x 128 x 3, averaged over squares: uint8 side x side x 3."""
    parts = (side, CANVAS // side)
    small = np.clip(picture, 0, 1).reshape(*parts, *parts, 3).mean((1, 3))
    return (small * 255 + 0.5).astype(np.uint8)

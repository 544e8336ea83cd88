"""Six art styles, computed from a transparent drawing.

Each style takes a canvas of 128 x 128 transparent pixels and a background colour and gives a 64 x
64 picture. All work at 128 and average 2 x 2 at the end, so that lines stay smooth; pixel art goes
through a few large squares instead.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from engine.world.vocabulary import STYLES

CANVAS = 128
PICTURE = 64
Rgb = tuple[int, int, int]


def render(
    canvas: Image.Image,
    style: str,
    background: Rgb,
    generator: np.random.Generator,
    *,
    cells: int = 16,
) -> np.ndarray:
    """The canvas in one of the styles: uint8, 64 x 64 x 3.

    `cells` is the number of squares of pixel art along a side. Only watercolor draws random
    numbers.
    """
    flat = Image.new("RGBA", canvas.size, (*background, 255))
    flat.alpha_composite(canvas)
    flat = flat.convert("RGB")
    if style == "plain":
        return np.asarray(flat.resize((PICTURE, PICTURE), Image.Resampling.BOX))
    if style == "pixel art":
        return _pixel_art(flat, cells)
    if style == "watercolor":
        return _shrink(_watercolor(_unit(flat), generator))
    if style not in STYLES:
        raise ValueError(f"unknown style {style!r}; choose one of {', '.join(STYLES)}")
    rgba = _unit(canvas)
    drawing = rgba[..., :3] * rgba[..., 3:] + 1 - rgba[..., 3:]
    ink = np.clip(_edges(drawing) / 1.6 - 0.08, 0, 1)
    if style == "sketch":
        return _shrink(_sketch(drawing, ink))
    if style == "neon":
        return _shrink(_neon(drawing, ink))
    return _shrink(_blueprint(rgba[..., 3], ink))


def _pixel_art(flat: Image.Image, cells: int) -> np.ndarray:
    small = flat.resize((cells, cells), Image.Resampling.BOX)
    few = small.quantize(10, method=Image.Quantize.MEDIANCUT).convert("RGB")
    return np.asarray(few.resize((PICTURE, PICTURE), Image.Resampling.NEAREST))


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


def _shrink(picture: np.ndarray) -> np.ndarray:
    small = np.clip(picture, 0, 1).reshape(PICTURE, 2, PICTURE, 2, 3).mean((1, 3))
    return (small * 255 + 0.5).astype(np.uint8)

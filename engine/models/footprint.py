"""How much memory a text-to-image model takes while it works, by calculation.

    need = row_bytes(unet.config, height=64, width=64, itemsize=2)      one row of a network call
    need = picture_bytes(vae.config, height=512, width=512, itemsize=4) one picture being decoded
    rows = rows_at_once(need, 8, device)                                how many of 8 fit now

Both are bounds on what lives beside the weights at the worst moment, as multiples of the largest
feature map. The multiples are counted on the meta device at the shapes of Stable Diffusion 1.5 and
XL, with attention that never holds all pairs of tokens (SDPA); tests hold them to the count.
Gradients are not part of it.
"""

from typing import Protocol, runtime_checkable

from engine.models.devices import free_bytes

MAPS_OF_UNET = 28.0
"""Feature maps of the first width and full size that live at once: skips, and the inner width of a
transformer's feed-forward, eight times its own."""
MAPS_OF_VAE = 7.0
"""The last block of the decoder takes twice the first width at full size, and makes copies."""
KEPT_FREE = 0.1
"""Share of the free memory that is left alone: kernels ask for workspaces, and memory splinters."""
UNNOTICED = 2**28
"""Bytes that nobody asks about: small models never look at the free memory."""


@runtime_checkable
class HasWidths(Protocol):
    """The settings of a network of diffusers, as far as they matter here."""

    block_out_channels: tuple[int, ...]


def row_bytes(config: HasWidths, *, height: int, width: int, itemsize: int) -> int:
    """The most that one row of a call of the UNet needs; height and width are those of latents."""
    return round(MAPS_OF_UNET * config.block_out_channels[0] * height * width * itemsize)


def picture_bytes(config: HasWidths, *, height: int, width: int, itemsize: int) -> int:
    """The most that decoding one picture needs; height and width are those of the picture."""
    return round(MAPS_OF_VAE * config.block_out_channels[0] * height * width * itemsize)


def rows_at_once(needed: int, rows: int, device: str) -> int:
    """How many of so many rows fit into the memory that is free; 0 where not even one does."""
    if needed * rows <= UNNOTICED:
        return rows
    free = free_bytes(device)
    return rows if free is None else min(rows, int(free * (1 - KEPT_FREE)) // needed)

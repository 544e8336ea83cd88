"""Randomness that is the same everywhere: drawn on the CPU, from a seed, then moved.

GPU generators give other numbers than the CPU's, and differ from one another. Noise is therefore
drawn on the CPU in float32 and only then sent to the device and number format of the model.
No function here reads or writes torch's global generator.
"""

import hashlib
from collections.abc import Sequence

import torch

from engine.core.shapes import Float, Tensor


def generator(seed: int, *role: str | int) -> torch.Generator:
    """A CPU generator for a seed, and for a role in the run (`"noise"`, a step, a sample index).

    Without a role it equals `torch.Generator().manual_seed(seed)`, as in the published code that
    golden arrays come from. With one, seed and role are hashed to an independent stream, so drawing
    more for one role does not shift the numbers of another.
    """
    if role:
        text = repr((int(seed), *role)).encode()
        seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
    return torch.Generator("cpu").manual_seed(int(seed))


def noise(
    shape: Sequence[int],
    generator: torch.Generator,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "*d"]:
    """Standard normal noise; equal on every device, and rounded from float32 for narrower types."""
    drawn = torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
    return drawn.to(device=device, dtype=dtype)


def batch_noise(
    count: int,
    shape: Sequence[int],
    seed: int,
    *role: str | int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " b *d"]:
    """Noise of `count` samples, each from its own stream: sample 3 is equal in any batch size."""
    rows = [noise(shape, generator(seed, *role, index)) for index in range(count)]
    return torch.stack(rows).to(device=device, dtype=dtype)

"""What a second computation of F needs to give the numbers of the first: noise and autocast."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from engine.core.shapes import Tensor, UInt8

Noise = tuple[UInt8[Tensor, " n"], ...]
"""States of the generators of the CPU (5056 bytes) and of each accelerator (16 bytes on CUDA)."""


def accelerators(tensors: Sequence[Tensor]) -> list[torch.device]:
    """The accelerators that the tensors lie on, each once; they have generators of their own."""
    found = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    return sorted(found, key=str)


def noise_now(devices: Sequence[torch.device]) -> Noise:
    """The states of torch's global generators."""
    return (torch.get_rng_state(), *map(_state, devices))


def set_noise(noise: Noise, devices: Sequence[torch.device]) -> None:
    """Put the global generators where they were."""
    torch.set_rng_state(noise[0])
    for device, state in zip(devices, noise[1:], strict=True):
        torch.get_device_module(device).set_rng_state(state, *_index(device))


@contextmanager
def forked_noise(devices: Sequence[torch.device]) -> Iterator[None]:
    """What is drawn in the block leaves the global generators as they were."""
    before = noise_now(devices)
    try:
        yield
    finally:
        set_noise(before, devices)


def _state(device: torch.device) -> UInt8[Tensor, " n"]:
    return torch.get_device_module(device).get_rng_state(*_index(device))


def _index(device: torch.device) -> tuple[torch.device, ...]:
    """Apple's MPS is a single device, whose functions take none."""
    return () if device.type == "mps" else (device,)


def is_same(noise: Noise, other: Noise) -> bool:
    """Whether no random number was drawn between the two."""
    return all(torch.equal(a, b) for a, b in zip(noise, other, strict=True))


@dataclass(frozen=True)
class Autocast:
    """The state of autocast for each kind of device, to be entered again."""

    states: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def now(cls, tensors: Sequence[Tensor]) -> "Autocast":
        """As it is for the devices of the tensors."""
        kinds = sorted({tensor.device.type for tensor in tensors} - {"meta"})
        return cls(
            tuple((k, torch.is_autocast_enabled(k), torch.get_autocast_dtype(k)) for k in kinds)
        )

    @contextmanager
    def again(self) -> Iterator[None]:
        """Its cache of cast weights stays off: cast without a graph, they would have no gradient
        later, and cast with one they would tie couplings together that are freed one by one."""
        with ExitStack() as stack:
            for kind, enabled, dtype in self.states:
                stack.enter_context(
                    torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)
                )
            yield

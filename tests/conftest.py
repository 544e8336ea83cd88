"""What all tests share: golden arrays, a way to run a job, and the comparison of bits."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Two cores are shared with other work, and one thread keeps sums in one order.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples each time, so that a red run means a changed program. To look for new ones:
# pytest --hypothesis-profile=explore
settings.register_profile(
    "repeat", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("repeat")


@pytest.fixture
def golden() -> Callable[[str], Mapping[str, np.ndarray]]:
    """`golden("rece_small")`: the arrays of tests/golden/rece_small.npz, by name."""

    from engine.core.golden import arrays_of

    return arrays_of


@pytest.fixture
def run_job():
    """`run_job(job)`: all events of a job; fails the test with the traceback of a failed job.

    `run_job(job, may_fail=True)` leaves the failure to the test.
    """
    from engine.core.job import Failed, events

    def run(job, *, may_fail: bool = False) -> list:
        seen = list(events(job))
        if isinstance(seen[-1], Failed) and not may_fail:
            pytest.fail(f"{seen[-1].message} {seen[-1].advice}\n{seen[-1].detail}")
        return seen

    return run


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with full_disk(1000):` no file grows above so many bytes within the block, by any writer."""
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX")

    @contextmanager
    def limited(most_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def same_bits() -> Callable[[object, object], bool]:
    """`same_bits(a, b)`: whether two values agree in every bit; see `equal_bits`."""
    return equal_bits


def equal_bits(a: object, b: object) -> bool:
    """Equality that tells -0.0 from 0.0 and finds NaN equal to itself.

    Takes tensors, arrays, mappings, sequences and dataclasses of them, and plain values.
    """
    import dataclasses

    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and _raw(a) == _raw(b)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return list(a) == list(b) and all(equal_bits(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal_bits, a, b))
    if dataclasses.is_dataclass(a) and type(a) is type(b) and not isinstance(a, type):
        names = [field.name for field in dataclasses.fields(a)]
        return all(equal_bits(getattr(a, name), getattr(b, name)) for name in names)
    if isinstance(a, float) and isinstance(b, float):
        return np.float64(a).tobytes() == np.float64(b).tobytes()
    return type(a) is type(b) and a == b


def _raw(tensor) -> bytes:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()

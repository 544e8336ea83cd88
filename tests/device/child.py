"""A process of its own with the pretend accelerator, since a device is torch's for a whole process.

with started(float64=True) as device:
    ran = device.run(job)
    ran.end, ran.waits, ran.places       the last event, and where the host waited
    ran.steps                            events or calls of networks, whichever were more
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from engine.core.job import Event, Failed, Job, events


@dataclass(frozen=True)
class Ran:
    """The last event of a job, how many steps it had, and what passed between host and device."""

    end: Event
    steps: int
    waits: Counter
    places: Counter
    uploads: int
    downloads: int

    def told(self) -> str:
        """Why it failed, or where the host waited."""
        if isinstance(self.end, Failed):
            return f"{self.end.message}\n{self.end.detail}"
        lines = [f"{self.waits.total()} waits in {self.steps} steps"]
        return "\n".join([*lines, *(f"{n:6} {line}" for line, n in self.places.most_common(20))])


class Device:
    """The other end of the process."""

    def __init__(self, wire: Connection) -> None:
        self._wire = wire

    def run(self, job: Job) -> Ran:
        self._wire.send(job)
        return self._wire.recv()


@contextmanager
def started(*, float64: bool) -> Iterator[Device]:
    """A process that runs one job after another on `sim:0`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, float64), daemon=True)
    process.start()
    there.close()
    try:
        yield Device(here)
    finally:
        here.close()
        process.join(10)
        process.kill()


def serve(wire: Connection, float64: bool) -> None:
    """Runs the jobs that come through the wire until it is closed."""
    # The comparison is with the CPU, which computes in float32.
    os.environ["REWIND_DTYPE"] = "float32"
    from tests.device import simulated

    simulated.register(float64=float64)
    while True:
        try:
            job = wire.recv()
        except EOFError:
            return
        with simulated.watched() as seen, called() as calls:
            told = list(events(job))
        steps = max(len(told), calls["network"])
        wire.send(Ran(told[-1], steps, seen.waits, seen.places, seen.uploads, seen.downloads))


@contextmanager
def called() -> Iterator[Counter]:
    """Counts the calls of networks: of modules that no other module called."""
    calls, depth = Counter(), 0

    def enter(module: object, inputs: object) -> None:
        nonlocal depth
        calls["network"] += depth == 0
        depth += 1

    def leave(module: object, inputs: object, outputs: object) -> None:
        nonlocal depth
        depth -= 1

    hooks = (
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    )
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()

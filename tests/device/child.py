"""A process of its own with the pretend accelerator, since a device is torch's for a whole process.

with started(float64=True) as device:
    ran = device.run(job)
    ran.end, ran.waits, ran.places       the last event, and where the host waited
"""

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from engine.core.job import Event, Failed, Job, events


@dataclass(frozen=True)
class Ran:
    """The last event of a job, the number of events, and what passed between host and device."""

    end: Event
    count: int
    waits: Counter
    places: Counter
    uploads: int
    downloads: int

    def told(self) -> str:
        """Why it failed, or where the host waited."""
        if isinstance(self.end, Failed):
            return f"{self.end.message}\n{self.end.detail}"
        return "\n".join(f"{n:6} {place}" for place, n in self.places.most_common(20))


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
        with simulated.watched() as seen:
            told = list(events(job))
        end = told[-1]
        wire.send(Ran(end, len(told), seen.waits, seen.places, seen.uploads, seen.downloads))

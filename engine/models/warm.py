"""What the first run would have to wait for, done ahead: imports and the shipped model.

It is a job like any other, so it takes turns with those of visitors: two threads that import
transformers at the same time see each other's half of it. And it lets the other threads have the
interpreter, as a page has to be served meanwhile.
"""

import ctypes
import gc
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.core.errors import EngineError
from engine.core.job import Progress, Steps
from engine.models.library import ModelRef, load

HEAVY = ("torch", "diffusers", "transformers", "engine.models.diffusion", "engine.models.vision")


def run(*, seed: int, models: Sequence[str]) -> Steps[int]:
    """Imports the heavy libraries and loads these models; gives how many models are ready."""
    ready = 0
    with _without_pauses():
        _open_torch()
        for done, name in enumerate(HEAVY):
            importlib.import_module(name)
            yield Progress(done + 1, len(HEAVY) + len(models), name)
        for key in models:
            try:
                load(ModelRef(key))
            except EngineError:
                continue
            ready += 1
            yield Progress(len(HEAVY) + ready, len(HEAVY) + len(models), key)
    return ready


@contextmanager
def _without_pauses() -> Iterator[None]:
    """No collection of garbage within the block; afterwards what is there is never looked at again.

    Half a million objects come in with the libraries and all of them stay. Each full collection
    goes through them with the interpreter held, up to 0.4 s on a small machine.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _open_torch() -> None:
    """Maps torch's largest library, 0.3 s, without the interpreter, which `import` would hold.

    A call through ctypes lets it go. Where the library is not found, the import does all of it.
    """
    spec = importlib.util.find_spec("torch")
    if sys.platform != "linux" or "torch" in sys.modules or spec is None or spec.origin is None:
        return
    library = Path(spec.origin).parent / "lib" / "libtorch_cpu.so"
    ctypes.CDLL(None).dlopen(os.fsencode(library), os.RTLD_NOW)

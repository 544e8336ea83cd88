"""What the first run would have to wait for, done ahead: imports and the shipped model.

It is a job like any other, so it takes turns with those of visitors: two threads that import
transformers at the same time see each other's half of it.
"""

import importlib

from engine.core.errors import EngineError
from engine.core.job import Progress, Steps
from engine.models.library import ModelRef, load

HEAVY = ("torch", "diffusers", "transformers", "engine.models.diffusion", "engine.models.vision")


def run(*, seed: int, models: list[str]) -> Steps[int]:
    """Imports the heavy libraries and loads these models; gives how many models are ready."""
    for done, name in enumerate(HEAVY):
        importlib.import_module(name)
        yield Progress(done + 1, len(HEAVY) + len(models), name)
    ready = 0
    for key in models:
        try:
            load(ModelRef(key))
        except EngineError:
            continue
        ready += 1
        yield Progress(len(HEAVY) + ready, len(HEAVY) + len(models), key)
    return ready

"""What the failure gallery says of each method happens, with the very settings that it sets up.

`breaks(result)` in the tests of a panel checks what the panel says.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import replace

import pytest

from engine.core.catalog import discover
from engine.core.job import Job
from engine.core.recipe import ModelRef, Recipe
from pages import evidence
from pages._frame import Frame

SLUGS = sorted(discover())


@pytest.mark.parametrize("slug", SLUGS)
def test_the_gallery_says_why_and_what_to_use_instead(frames: Mapping[str, Frame], slug: str):
    failure = frames[slug].failure
    assert failure is not None
    assert failure.why.endswith(".")
    assert failure.instead.endswith(".")
    assert failure.instead in evidence.gallery([frames[slug]]).replace("&#x27;", "'")


@pytest.mark.slow
@pytest.mark.parametrize("slug", SLUGS)
def test_the_failure_happens(frames: Mapping[str, Frame], slug: str, run_job):
    frame = frames[slug]
    assert frame.failure is not None
    panel = importlib.import_module(f"tests.ui.test_{slug}")
    panel.breaks(run_job(job(frame, frame.failure.recipe))[-1].result)


def job(frame: Frame, recipe: Recipe) -> Job:
    """The run of a recipe, with the first model of the card where the action takes one."""
    target = frame.entry.target(recipe.action)
    module, _, name = target.partition(":")
    settings = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    model = ModelRef(frame.entry.card.models[0]) if "model" in settings else None
    return replace(recipe, model=model).job(target)

"""The training schedule that a checkpoint states, looked over before anything is made of it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from engine.models._checks import read_json, refuse

# Published models have a thousand.
FEWEST_STEPS, MOST_STEPS = 2, 10_000


def read_scheduler(folder: Path) -> Mapping[str, Any]:
    """scheduler/scheduler_config.json of a checkpoint folder.

    Raises `BadInput` where its steps or betas are no schedule.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or not FEWEST_STEPS <= steps <= MOST_STEPS:
        refuse(path, f"has {steps!s:.20} training steps; {FEWEST_STEPS} to {MOST_STEPS} are taken")
    for name in ("beta_start", "beta_end"):
        if not _is_beta(config.get(name, 0.01)):
            refuse(path, f"has a {name} that is no number between 0 and 1")
    for name in ("sigma_min", "sigma_max"):
        if not _is_number(config.get(name, 0.01)):
            refuse(path, f"has a {name} that is no number")
    betas = config.get("trained_betas")
    if betas is not None and not (
        isinstance(betas, list) and len(betas) == steps and all(map(_is_beta, betas))
    ):
        refuse(path, f"has trained_betas that are not {steps} numbers between 0 and 1")
    return config


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_beta(value: object) -> bool:
    return _is_number(value) and 0 <= value <= 1

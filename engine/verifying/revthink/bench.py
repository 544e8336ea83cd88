"""Measures the claim: students of every method on the same questions, several seeds, equal budget.

    python -m engine bench revthink          writes assets/claims/revthink.json

For each seed a third of the relations is held out, half of the rest is asked, and a student of SFT,
of answer augmentation and of RevThink is trained from nothing on as many sequences. Counted are the
test relations each answers, in all and by how they stand to the questions. Mean over the seeds with
the 95 % interval of Student's t. Five seeds side by side with a GPU, else three.
The sample-efficiency curve, `python -m engine.zoo build revthink-curve`, is taken over from the
shipped figures.
"""

import time
from collections.abc import Generator, Sequence

from engine.core.catalog import Measured
from engine.core.errors import AssetMissing
from engine.core.job import Progress, Steps
from engine.core.recipe import Plain
from engine.metrics.intervals import student
from engine.models.devices import is_accelerator, policy
from engine.verifying.revthink import fleet as fl
from engine.verifying.revthink import students
from engine.verifying.revthink.arms import ARMS, MAIN
from engine.verifying.revthink.exams import STANDINGS, Exam, examine
from engine.verifying.revthink.fleet import Fleet, Plan, Schedule, Shape

FRACTION, STEPS, SEEDS_HERE, SEEDS_ON_GPU = 0.5, 1000, 3, 5


def run(*, seed: int, steps: int = STEPS, seeds: int = 0) -> Steps[Measured]:
    """The claim, afresh; `seed` is the first of the seeds, `seeds` 0 takes as many as fit."""
    begun = time.perf_counter()
    device, _ = policy()
    count = seeds or (SEEDS_ON_GPU if is_accelerator(device) else SEEDS_HERE)
    exams: list[Exam] = []
    plans = [[Plan(arm, FRACTION, seed + i) for i in range(count)] for arm in MAIN]
    for done, group in enumerate(plans):
        exams += yield from _trained(group, steps, device, done, len(plans))
    test = {arm: [exam.rate()[0] for exam in exams if exam.plan.arm == arm] for arm in MAIN}
    mean, low, high = student(test["revthink"])
    return Measured.of(
        measured=mean,
        versus=student(test["sft"])[0],
        interval=(low, high),
        seed=seed,
        begun=begun,
        device=device,
        figures={
            "seeds": count,
            "share of the questions": FRACTION,
            "steps": steps,
            "sequences each student saw": steps * fl.SEQUENCES_A_STEP,
            "by method": {ARMS[arm].title: _figures(exams, arm) for arm in MAIN},
            "RevThink minus SFT by seed": [
                round(a - b, 4) for a, b in zip(test["revthink"], test["sft"], strict=True)
            ],
            "sample efficiency of the shipped curve": _shipped_curve(),
        },
    )


def _trained(
    plans: Sequence[Plan], steps: int, device: str, done: int, total: int
) -> Generator[Progress, None, list[Exam]]:
    fleet = Fleet(plans, Schedule(steps), Shape(), device=device)
    for step in range(steps):
        fleet.advance()
        if step % 5 == 0:
            note = f"{plans[0].method.title}, {len(plans)} at once: step {step} of {steps}"
            yield Progress(done, total, note)
    yield Progress(done, total, "Asking all relations")
    return list(examine(fleet.weights(), plans, fleet.shape))


def _figures(exams: Sequence[Exam], arm: str) -> dict[str, Plain]:
    """Rates of one method: mean, interval and the number of relations over all seeds."""
    own, rates = [exam for exam in exams if exam.plan.arm == arm], dict[str, Plain]()
    for part in ("asked", "test", *STANDINGS):
        pairs = [exam.rate(part) for exam in own]
        mean, low, high = student([share for share, count in pairs if count])
        rates[part] = {"rate": mean, "low": low, "high": high, "of": sum(n for _, n in pairs)}
    backward = student([exam.rate("test", backward=True)[0] for exam in own])
    rates["backward, test"] = dict(zip(("rate", "low", "high"), backward, strict=True))
    return rates


def _shipped_curve() -> dict[str, Plain]:
    try:
        curve = students.shelf().efficiency
    except AssetMissing:
        curve = None
    if curve is None:
        return {}
    return {
        "world": curve.world,
        "seeds": curve.seeds,
        "weights of a student": curve.weights,
        "sequences each student saw": curve.sequences,
        "points": [
            {
                "method": point.title,
                "share": point.fraction,
                "part": point.part,
                "rate": round(point.mean, 4),
                "low": round(point.low, 4),
                "high": round(point.high, 4),
            }
            for point in curve.points
            if point.part in ("test", *STANDINGS)
        ],
    }

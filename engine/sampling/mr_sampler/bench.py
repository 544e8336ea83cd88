"""Measures the claim, and the curves that it is one point of.

    python -m engine bench mr-sampler          writes assets/claims/mr_sampler.json

32 squares of 32 pixels of pictures that were never trained on, each with three draws of damage and
noise, so that every kind of damage occurs equally often. All methods see the same damage and the
same noise. Beside them stand the damaged picture and the network's first estimate, which costs one
evaluation. Intervals are bootstraps over pictures: the three draws of one picture stay together.
"""

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from engine.core import rng
from engine.core.catalog import Measured
from engine.core.errors import SamplerError
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef, Plain
from engine.core.shapes import Array, Float, Int, Tensor
from engine.metrics.intervals import Mean, bootstrap
from engine.models.library import load
from engine.models.restoration import RestorationBundle
from engine.sampling.mr_sampler import METHODS, TASKS
from engine.sampling.mr_sampler.degradations import degrade
from engine.sampling.mr_sampler.pictures import held_out
from engine.sampling.mr_sampler.quality import scores
from engine.sampling.mr_sampler.restoring import Restorer

PER_PHOTOGRAPH, DRAWINGS, DRAWS = 6, 8, 3
COUNTS = {
    "mrs_ode_d_2": (1, 5, 10, 20),
    **dict.fromkeys(("mrs_ode_n_2", "mrs_sde_d_2", "mrs_sde_n_1"), (5, 10)),
    "posterior_strided": (5, 10, 20),
    "posterior_released": (5, 10, 20, 100),
}
"""Evaluations by method. With 1 the clean estimate itself is the result, whoever samples; with 100
of 100 steps the two posterior samplers are one."""
HEADS = (("mrs_ode_d_2", 10),)
OURS, RIVAL = ("mrs_ode_d_2", 10), ("posterior_released", 10)
PATIENT = ("posterior_released", 100)
FIGURES = ("psnr", "ssim", "distance")

Values = Float[Array, " n"]
Table = dict[str, Values]


@dataclass(frozen=True)
class Trials:
    """Damaged pictures with what is known of them, one row a trial, grouped by task."""

    x0: Float[Tensor, "n 3 h w"]
    mu: Float[Tensor, "n 3 h w"]
    picture: Int[Array, " n"]
    tasks: tuple[str, ...]

    @classmethod
    def make(cls, seed: int, per_photograph: int, drawings: int) -> "Trials":
        """Every picture meets `DRAWS` of the tasks, every task equally many pictures."""
        x0, names = held_out(per_photograph, drawings), list(TASKS)
        rows = [
            (names[(index + turn) % len(names)], index, turn)
            for turn in range(DRAWS)
            for index in range(len(x0))
        ]
        rows.sort(key=lambda row: names.index(row[0]))
        mu = []
        for task, index, turn in rows:
            generator = rng.generator(seed, "damage", index, turn)
            strength = 0.2 + 0.6 * float(torch.rand((), generator=generator))
            mu.append(degrade(x0[index : index + 1], task, strength, generator))
        order = [index for _, index, _ in rows]
        return cls(x0[order], torch.cat(mu), np.array(order), tuple(row[0] for row in rows))


def run(
    *,
    seed: int,
    model: ModelRef | str = "mr-restore",
    per_photograph: int = PER_PHOTOGRAPH,
    drawings: int = DRAWINGS,
) -> Steps[Measured]:
    """Quality of every method at every NFE, then of the three heads of the network."""
    begun = time.perf_counter()
    bundle = load(model)
    assert isinstance(bundle, RestorationBundle)
    trials = Trials.make(seed, per_photograph, drawings)
    damaged = _figures(trials.mu, trials)
    tables: dict[str, dict[int, Table]] = {}
    plan = [(method, nfe) for method, counts in COUNTS.items() for nfe in counts]
    heads = [(target, *pair) for target in bundle.fit_targets for pair in HEADS]
    total = len(plan) + len(heads)
    for done, (method, nfe) in enumerate(plan):
        try:
            table = yield from _measured(Restorer(bundle), trials, method, nfe, seed, done, total)
        except SamplerError:  # left the range of numbers; said by its absence
            continue
        tables.setdefault(method, {})[nfe] = table
    by_head: dict[str, dict[str, Plain]] = {}
    for done, (target, method, nfe) in enumerate(heads, start=len(plan)):
        restorer = Restorer(bundle, target)
        table = yield from _measured(restorer, trials, method, nfe, seed, done, total)
        by_head.setdefault(target, {})[f"{METHODS[method].title}, {nfe} NFE"] = _summary(
            table, trials, seed
        )
    ours, rival, patient = (tables[name][nfe]["psnr"] for name, nfe in (OURS, RIVAL, PATIENT))
    return Measured.of(
        measured=float(ours.mean()),
        versus=float(rival.mean()),
        interval=bootstrap(ours, groups=trials.picture.tolist(), seed=seed),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "pictures": int(trials.picture.max()) + 1,
            "trials": len(trials.x0),
            "difference in dB": _with_interval(ours - rival, trials, seed),
            "difference in dB to the rival with 100": _with_interval(ours - patient, trials, seed),
            "damaged": _summary(damaged, trials, seed),
            "by method and NFE": {
                METHODS[method].title: {
                    str(nfe): _summary(table, trials, seed) for nfe, table in row.items()
                }
                for method, row in tables.items()
            },
            "by damage, PSNR": _by_task(trials, damaged, tables),
            "by what the network predicts": by_head,
            "evaluations of rivals for the PSNR of MRS-ODE-d-2 at 10": {
                METHODS[name].title: _reaches(tables[name], float(ours.mean()))
                for name in tables
                if METHODS[name].is_rival
            },
        },
    )


def _measured(
    restorer: Restorer, trials: Trials, method: str, nfe: int, seed: int, done: int, total: int
) -> Generator[Progress, None, Table]:
    """The figures of all trials, one batch a task."""
    ends = []
    for task in TASKS:
        yield Progress(done, total, f"{METHODS[method].title}, {nfe} NFE, {task}")
        mu = trials.mu[[i for i, name in enumerate(trials.tasks) if name == task]]
        if len(mu):
            ends.append(restorer.restored(method, mu, task, nfe, seed)[0].cpu())
    return _figures(torch.cat(ends), trials)


def _figures(x: Float[Tensor, "n 3 h w"], trials: Trials) -> Table:
    results = scores(x, trials.x0)
    table = {}
    for name in FIGURES:
        values = [getattr(result, name) for result in results]
        if None not in values:
            table[name] = np.array(values, dtype=np.float64)
    return table


def _summary(table: Table, trials: Trials, seed: int) -> dict[str, Plain]:
    return {name: _with_interval(values, trials, seed) for name, values in table.items()}


def _with_interval(values: Values, trials: Trials, seed: int) -> dict[str, Plain]:
    mean = Mean.of_values(values, groups=trials.picture.tolist(), seed=seed)
    return {"mean": round(mean.value, 4), "low": round(mean.low, 4), "high": round(mean.high, 4)}


def _by_task(
    trials: Trials, damaged: Table, tables: Mapping[str, Mapping[int, Table]]
) -> dict[str, Plain]:
    rows: dict[str, Plain] = {}
    columns = {
        "damaged": damaged,
        "one estimate, 1 NFE": tables["mrs_ode_d_2"][1],
        "MRS-ODE-d-2, 10 NFE": tables["mrs_ode_d_2"][10],
        "posterior as released, 10 NFE": tables["posterior_released"][10],
        "posterior strided, 10 NFE": tables["posterior_strided"][10],
        "posterior, 100 NFE": tables["posterior_released"][100],
    }
    for task in TASKS:
        chosen = np.array([name == task for name in trials.tasks])
        rows[task] = {
            name: round(float(table["psnr"][chosen].mean()), 2) for name, table in columns.items()
        }
    return rows


def _reaches(row: Mapping[int, Table], wanted: float) -> str:
    """The fewest evaluations measured at which a method has this PSNR."""
    enough = [nfe for nfe, table in row.items() if table["psnr"].mean() >= wanted]
    return str(min(enough)) if enough else f"more than {max(row)}"

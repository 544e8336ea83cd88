"""What the failure gallery says of each method happens, with the very settings that it sets up."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from engine.core.catalog import announced
from engine.core.job import Job
from engine.core.recipe import ModelRef, Recipe
from pages import evidence
from pages._frame import Frame

SLUGS = sorted(announced())


def errors(points: Sequence[Any], nfe: int, name: str = "solver") -> dict[str, float]:
    """The errors of a curve at some number of evaluations, by solver."""
    return {getattr(point, name): point.error for point in points if point.nfe == nfe}


def solvers_miss(lab: Any) -> None:
    found = {film.solver: film.error for film in lab.films}
    assert found["unipc2"] > found["ddim"] > found["dpmpp_2m"]
    assert found["heun"] > 1


def heun_is_farther(orders: Any) -> None:
    at_8, at_32 = errors(orders.points, 8), errors(orders.points, 32)
    assert at_8["heun"] > 2 * at_8["ddim"] > 2 * at_8["dpmpp_2m"]
    assert at_32["heun"] < at_32["ddim"]


def corrector_harms(lab: Any) -> None:
    found = errors(lab.curve, 10, "method")
    assert found["corrected"] > 3 * found["predictor"] > 3 * found["dpmpp_2m"]


def noise_explodes(walks: Any) -> None:
    found = {walk.method: walk.scores.psnr for walk in walks.walks}
    assert found["mrs_sde_n_1"] < walks.damaged_scores.psnr < found["mrs_ode_d_2"]


def chain_is_farther(plane: Any) -> None:
    chain, noise = (s for s in plane.sides if s.integrator == "kar1")
    assert (chain.name, noise.name) == ("chain", "noise")
    assert chain.low > noise.high


def voice_is_worse(enhanced: Any) -> None:
    assert enhanced.enhanced.marks.si_sdr < enhanced.noisy.marks.si_sdr


def all_goes(erasure: Any) -> None:
    before, after = erasure.verdicts["original"], erasure.verdicts["edited"]
    assert "house" in before[2]
    assert "rose" in before[3]
    assert "house" not in after[2]
    assert "rose" not in after[3]


def neon_stays(held: Any) -> None:
    rows = {row.way: row.verdicts for row in held.rows}
    assert all("neon 100 %" in verdict for verdict in rows["open"][:2])


def neighbours_go(unlearning: Any) -> None:
    first, last = unlearning.looks[0].verdicts, unlearning.looks[-1].verdicts
    for number, thing in ((0, "penguin"), (2, "frog"), (3, "house")):
        assert thing in first[number]
        assert thing not in last[number]


def things_are_lost(learnt: Any) -> None:
    cat, star = learnt.looks[-1].verdicts
    assert "on top of" in cat
    assert "cat" not in cat
    assert "star" not in star


def interval_is_wide(comparison: Any) -> None:
    assert all(s.target.high - s.target.low > 0.75 for s in comparison.scores)


def styles_stay_mixed(trip: Any) -> None:
    assert max(trip.errors) > 0.2
    assert trip.largest_p == 2


def nothing_is_said(answer: Any) -> None:
    assert answer.text == ""
    assert any(phrase.is_true and not phrase.stands for phrase in answer.phrases)


def mistakes_are_learnt(trained: Any) -> None:
    for student in trained.exams:
        assert {kind: rate for kind, rate, _ in student.rates}["asked"] < 0.6


SHOWN: dict[str, Callable[[Any], None]] = {
    "nfe_lab": solvers_miss,
    "principles": heun_is_farther,
    "score_sde": corrector_harms,
    "mr_sampler": noise_explodes,
    "denoising_mcmc": chain_is_farther,
    "sgmse": voice_is_worse,
    "rece": all_goes,
    "spm": neon_stays,
    "few_shot_erasing": neighbours_go,
    "reversion": things_are_lost,
    "erasure_lab": interval_is_wide,
    "reversible_merging": styles_stay_mixed,
    "retrospective_resampling": nothing_is_said,
    "revthink": mistakes_are_learnt,
}


def test_every_method_has_a_failure_that_is_checked_here():
    assert sorted(SHOWN) == SLUGS


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
    SHOWN[slug](run_job(job(frame, frame.failure.recipe))[-1].result)


def job(frame: Frame, recipe: Recipe) -> Job:
    """The run of a recipe, with the first model of the card where the action takes one."""
    target = frame.entry.target(recipe.action)
    module, _, name = target.partition(":")
    settings = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    model = ModelRef(frame.entry.card.models[0]) if "model" in settings else None
    return replace(recipe, model=model).job(target)

"""Measures the claim of REVERSE, the trade-off over tau, and what the cache saves.

    python -m engine bench retrospective-resampling

1. CHAIR, cover and cost over tau on random trays, over several seeds of trays and words, beside the
   baselines; P(UN) of right and wrong phrases, also on drawings of an artist never seen. Nothing is
   chosen on these trays: tau is fixed beforehand, the noise stands in the model's card and was
   chosen on others.
2. The same network trained on right answers alone, which has nothing to doubt with.
3. Hints on and off.
4. Forward tokens and seconds of the published loop and of ours, on equal random numbers, and
   whether they say the same.
"""

import itertools
import statistics
import time
from dataclasses import asdict, replace

import numpy as np

from engine.core.catalog import Measured
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef, Plain
from engine.metrics.hallucination import chair, intervals
from engine.metrics.intervals import ratio_interval
from engine.models.language import LanguageBundle
from engine.models.library import MODELS
from engine.verifying.retrospective_resampling.loop import Course, Outcome, Settings
from engine.verifying.retrospective_resampling.official import FreshSpeaker, official
from engine.verifying.retrospective_resampling.results import Judged
from engine.verifying.retrospective_resampling.rollback import Voice, rollback
from engine.verifying.retrospective_resampling.seeing import (
    DESCRIBE,
    Sight,
    default_noise,
    open_bundle,
    sights,
)
from engine.verifying.retrospective_resampling.tags import FORMAT_ERROR
from engine.verifying.retrospective_resampling.tradeoff import (
    RIGHT_ALONE,
    RIGHT_MODEL,
    TAUS,
    Tally,
    beside,
    new_baselines,
    summed,
    told_once,
    unchecked,
)

CLAIM_TAU = 0.01
SEEDS, TRAYS, FEW = 3, 140, 16
LONGEST = 64
NO_RIGHT = f"not measured: its network is not trained (python -m engine.zoo build {RIGHT_MODEL})"


def run(
    *,
    seed: int,
    model: ModelRef | str = "emoji-llava",
    right: ModelRef | str = RIGHT_MODEL,
    trays: int = TRAYS,
) -> Steps[Measured]:
    """All measurements; `trays` for each of three seeds.

    `right` is a network that never saw a wrong answer; where the one of that name was not trained,
    the figures say so.
    """
    begun, total = time.perf_counter(), 2 * SEEDS * trays + trays + 2 * FEW
    has_right = right != RIGHT_MODEL or RIGHT_MODEL in MODELS
    bundle = open_bundle(model)
    noise, base = default_noise(bundle), Settings(max_new_tokens=LONGEST)
    tallies = [Tally("REVERSE", tau, []) for tau in TAUS]
    others = new_baselines(TAUS)
    by_seed: list[tuple[float, float]] = []
    doubts: list[Judged] = []
    done = 0
    for one in range(seed, seed + SEEDS):
        mine = [Tally("REVERSE", tau, []) for tau in TAUS]
        for sight in sights(bundle, trays, noise, one):
            plain = yield from told_once(bundle, sight, base.without_checks(), unchecked(mine))
            doubts += plain[1]
            for tally in mine:
                if tally.tau < 1:
                    yield from told_once(bundle, sight, replace(base, tau=tally.tau), tally)
                yield Progress(done, total, f"seed {one}, tau {tally.tau:g}")
            yield from beside(bundle, sight, base, plain, others)
            done += 1
        rates = {tally.tau: chair(tally.answers).chair_i for tally in mine}
        by_seed.append((rates[CLAIM_TAU], rates[1.0]))
        for tally, part in zip(tallies, mine, strict=True):
            tally.take(part)
    if has_right:
        others.append((yield from _right_alone(right, seed, trays, noise, base, done, total)))
    done += SEEDS * trays
    curve = summed(tallies, others, doubts, noise)
    never_seen = yield from _never_seen(bundle, seed, trays, noise, base, done, total)
    hints = yield from _without_hints(bundle, seed, noise, base, done + trays, total)
    saved = yield from _saved(bundle, seed, noise, base, done + trays + FEW, total)
    at = {tally.tau: tally for tally in tallies}
    rates = {tau: chair(tally.answers).chair_i for tau, tally in at.items()}
    return Measured.of(
        measured=rates[CLAIM_TAU],
        versus=rates[1.0],
        interval=intervals(at[CLAIM_TAU].answers)[0],
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "noise": noise,
            "trays": SEEDS * trays,
            "seeds of trays and words": SEEDS,
            "CHAIR_i by seed, with and without going back": [list(pair) for pair in by_seed],
            "at equal cover": [_rounded(asdict(row)) for row in curve.at_equal_cover()],
            "curve": [_rounded(asdict(p)) for p in (*curve.points, *curve.baselines)],
            "AUROC of P(UN), held-out trays": round(curve.auroc, 4),
            "AUROC of P(UN), an artist never seen": round(never_seen["auroc"], 4),
            "an artist never seen": [_rounded(asdict(p)) for p in never_seen["points"]],
            "hints off": hints,
            RIGHT_ALONE: "in the curve" if has_right else NO_RIGHT,
            "the published loop against ours": saved,
        },
    )


def _right_alone(
    model: ModelRef | str,
    seed: int,
    trays: int,
    noise: float,
    base: Settings,
    done: int,
    total: int,
) -> Steps[Tally]:
    """The same trays, told by a network that was trained on right answers alone."""
    bundle, tally = open_bundle(model), Tally(RIGHT_ALONE, 1.0, [])
    for one in range(seed, seed + SEEDS):
        for sight in sights(bundle, trays, noise, one):
            yield from told_once(bundle, sight, base.without_checks(), tally)
            done += 1
            yield Progress(done, total, RIGHT_ALONE)
    return tally


def _never_seen(
    bundle: LanguageBundle,
    seed: int,
    trays: int,
    noise: float,
    base: Settings,
    done: int,
    total: int,
) -> Steps[dict]:
    """The same on drawings of the artist whom the model never saw, at two values of tau."""
    tallies = [Tally("REVERSE", tau, []) for tau in (1.0, CLAIM_TAU)]
    doubts: list[Judged] = []
    for number, sight in enumerate(sights(bundle, trays, noise, seed, "never seen")):
        for tally in tallies:
            answer = yield from told_once(bundle, sight, replace(base, tau=tally.tau), tally)
            doubts += answer[1] if tally.tau == 1.0 else []
        yield Progress(done + number, total, "an artist never seen")
    curve = summed(tallies, [], doubts, noise)
    return {"auroc": curve.auroc, "points": curve.points}


def _without_hints(
    bundle: LanguageBundle, seed: int, noise: float, base: Settings, done: int, total: int
) -> Steps[dict[str, Plain]]:
    """Rejection alone: the same trays, with and without naming doubted phrases."""
    tallies = {on: Tally("REVERSE", CLAIM_TAU, []) for on in (True, False)}
    for number, sight in enumerate(sights(bundle, FEW, noise, seed)):
        for on, tally in tallies.items():
            settings = replace(base, tau=CLAIM_TAU, hints=on)
            yield from told_once(bundle, sight, settings, tally)
        yield Progress(done + number, total, "hints on and off")
    return {
        name: _rounded(asdict(tallies[on].point()))
        for name, on in (("with hints", True), ("without", False))
    }


# ---------------------------------------------------------------------- the two engines


def _saved(
    bundle: LanguageBundle, seed: int, noise: float, base: Settings, done: int, total: int
) -> Steps[dict[str, Plain]]:
    """Tokens and processor seconds of both loops on the same trays, in turns."""
    rows: dict[str, list[tuple[float, ...]]] = {"ours": [], "published": []}
    equal = malformed = backtracking = 0
    settings = replace(base, tau=CLAIM_TAU)
    for number, sight in enumerate(sights(bundle, FEW, noise, seed + 1)):
        ends: dict[str, Outcome] = {}
        for name in rows:
            begun = time.process_time()
            outcome, forward, generated = yield from _answer_by(bundle, sight, settings, name)
            ends[name] = outcome
            rows[name].append((forward, generated, time.process_time() - begun))
        has_error = any(FORMAT_ERROR.lower() in end.hints for end in ends.values())
        malformed += has_error
        backtracking += ends["ours"].backtracks > 0
        equal += ends["ours"].ids == ends["published"].ids
        yield Progress(done + number, total, "both loops")
    ours, theirs = (np.array(rows[name]) for name in ("ours", "published"))
    ratios = theirs.sum(0) / ours.sum(0)
    low, high = ratio_interval(theirs[:, 0], ours[:, 0], seed=seed)
    return {
        "attempts in all (N)": settings.total,
        "trays": FEW,
        "trays on which something was taken back": backtracking,
        "equal answers": equal,
        "answers with marks that do not pair up": malformed,
        "times fewer forward tokens": round(float(ratios[0]), 2),
        "its 95 % interval": [round(low, 2), round(high, 2)],
        "times fewer generated tokens": round(float(ratios[1]), 2),
        "times faster": round(float(ratios[2]), 2),
        "forward tokens an answer, ours": round(float(ours[:, 0].mean()), 1),
        "forward tokens an answer, published": round(float(theirs[:, 0].mean()), 1),
        "median processor seconds an answer, ours": round(statistics.median(ours[:, 2]), 4),
        "median processor seconds an answer, published": round(statistics.median(theirs[:, 2]), 4),
    }


def _answer_by(
    bundle: LanguageBundle, sight: Sight, settings: Settings, name: str
) -> Steps[tuple[Outcome, int, int]]:
    """One answer by one of the two loops, with the tokens forwarded and said."""
    speaker: Voice | FreshSpeaker
    course: Course
    if name == "ours":
        speaker = Voice(bundle, sight.prompt, DESCRIBE, sight.seed)
        course = rollback(speaker, settings)
    else:
        speaker = FreshSpeaker(bundle, sight.prompt, DESCRIBE, settings, sight.seed)
        course = official(speaker, settings)
    count = itertools.count(1)
    outcome = yield from relay(course, lambda _: None if next(count) % 60 else Progress(0, 1))
    return outcome, speaker.forward_tokens, speaker.generated_tokens


def _rounded(values: dict[str, Plain]) -> dict[str, Plain]:
    return {
        name: round(value, 5) if isinstance(value, float) else value
        for name, value in values.items()
    }

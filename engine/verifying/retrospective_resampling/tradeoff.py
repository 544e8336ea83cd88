"""How much hallucination falls, and how much coverage with it, as tau tightens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, TypeVar

import numpy as np

from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef
from engine.core.settings import Items, OneOf, Range
from engine.metrics.hallucination import Told, chair, intervals
from engine.metrics.intervals import auroc
from engine.models.language import LanguageBundle
from engine.models.library import MODELS
from engine.verifying.retrospective_resampling.baselines import contrasted, refused, truncated
from engine.verifying.retrospective_resampling.loop import Event, Outcome, Settings
from engine.verifying.retrospective_resampling.results import Curve, Judged, Point
from engine.verifying.retrospective_resampling.rollback import Voice, rollback
from engine.verifying.retrospective_resampling.seeing import (
    ARTISTS,
    DESCRIBE,
    MOST_TRAYS,
    Sight,
    default_noise,
    new_story,
    open_bundle,
    sights,
)
from engine.world.tray import Tray, mentions

TAUS = (1.0, 0.1, 0.03, 0.01, 0.003, 0.001)
EMBEDDED, RIGHT_MODEL = "emoji-llava", "emoji-llava-right"
RIGHT_ALONE = "right answers alone"


@dataclass
class Tally:
    """Answers at one setting."""

    name: str
    tau: float
    answers: list[Told]
    give_ups: int = 0
    empty: int = 0
    words: int = 0
    generated_tokens: int = 0
    forward_tokens: int = 0

    def add(self, text: str, tray: Tray, outcome: Outcome | None = None) -> None:
        self.answers.append(Told(tuple(mentions(text)), tray.names))
        self.words += len(text.split())
        self.empty += not text
        self.give_ups += outcome is not None and not outcome.success

    def take(self, other: "Tally") -> None:
        """Add another tally at the same setting."""
        self.answers += other.answers
        for name in ("give_ups", "empty", "words", "generated_tokens", "forward_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def point(self) -> Point:
        """Rates and costs, an answer on average."""
        rates, count = chair(self.answers), max(len(self.answers), 1)
        of_i, _, of_cover = intervals(self.answers)
        return Point(
            self.name,
            self.tau,
            rates.chair_i,
            *of_i,
            rates.chair_s,
            rates.cover,
            *of_cover,
            self.give_ups / count,
            self.empty / count,
            self.words / count,
            self.generated_tokens / count,
            self.forward_tokens / count,
            len(self.answers),
        )


def curve(
    *,
    seed: int,
    model: ModelRef | str = EMBEDDED,
    trays: Annotated[int, Range(1, MOST_TRAYS, "Try 24.")] = 24,
    noise: Annotated[float | None, Range(0, 1, "Try 0.4.")] = None,
    taus: Annotated[Sequence[Annotated[float, Range(0, 1)]], Items(20, fewest=1)] = TAUS,
    temperature: Annotated[float, Range(0, 2)] = 0.0,
    step: Annotated[float, Range(0, 1)] = 0.05,
    local: Annotated[int, Range(1, 100)] = 10,
    total: Annotated[int, Range(1, 500)] = 50,
    hints: bool = True,
    artists: Annotated[str, OneOf(ARTISTS)] = "known",
    baselines: bool = True,
) -> Steps[Curve]:
    """CHAIR and coverage over tau, on random trays; the loop never sees what lies on them."""
    base = Settings(
        temperature=temperature,
        step=step,
        local=local,
        total=total,
        hints=hints,
        max_new_tokens=64,
    )
    levels = tuple(sorted(set(taus), reverse=True))
    bundle = open_bundle(model)
    level = default_noise(bundle) if noise is None else noise
    tallies = [Tally("REVERSE", tau, []) for tau in levels]
    others = new_baselines(levels) if baselines else []
    right = right_alone(bundle.ref) if baselines else None
    alone = Tally(RIGHT_ALONE, 1.0, [])
    twins = sights(right, trays, level, seed, artists) if right else None
    doubts: list[Judged] = []
    for done, sight in enumerate(sights(bundle, trays, level, seed, artists)):
        telling = told_once(bundle, sight, base.without_checks(), unchecked(tallies))
        plain = yield from within(telling, done, trays)
        doubts += plain[1]
        for tally in tallies:
            if tally.tau < 1:
                telling = told_once(bundle, sight, replace(base, tau=tally.tau), tally)
                yield from within(telling, done, trays)
            yield Progress(done, trays, f"tray {done + 1}, tau {tally.tau:g}")
        yield from within(beside(bundle, sight, base, plain, others), done, trays)
        if right is not None and twins is not None:
            answer = told_once(right, next(twins), base.without_checks(), alone)
            yield from within(answer, done, trays)
        summary = summed(tallies, [*others, alone], doubts, level)
        yield Progress(done + 1, trays, f"{done + 1} trays", summary)
    return summed(tallies, [*others, alone], doubts, level)


def right_alone(ref: ModelRef) -> LanguageBundle | None:
    """The twin of the embedded model that was trained on right answers alone, where it ships.

    None for any other model, of which it is no twin.
    """
    if ref.source != EMBEDDED or ref.edits or RIGHT_MODEL not in MODELS:
        return None
    return open_bundle(RIGHT_MODEL)


R = TypeVar("R")


def within(part: Steps[R], done: int, total: int) -> Steps[R]:
    """A part of a longer work: its own progress is that of the whole."""
    return (yield from relay(part, lambda _: Progress(done, total)))


def told_once(
    bundle: LanguageBundle, sight: Sight, settings: Settings, tally: Tally
) -> Steps[tuple[Outcome, list[Judged]]]:
    """One answer into the tally, with the phrases about objects that stand or were taken back."""
    voice = Voice(bundle, sight.prompt, DESCRIBE, sight.seed)
    story = new_story(bundle, sight.tray)
    course = rollback(voice, settings)

    def tell(event: Event) -> Progress | None:
        story.hear(event)
        return Progress(0, 1) if story.steps % 100 == 99 else None

    outcome = yield from relay(course, tell)
    tally.add(outcome.text, sight.tray, outcome)
    tally.generated_tokens += voice.generated_tokens
    tally.forward_tokens += voice.forward_tokens
    return outcome, [one for one in story.phrases if mentions(one.text)]


def unchecked(tallies: Sequence[Tally]) -> Tally:
    """The tally at tau = 1, where nothing is taken back; a new one where there is none."""
    return next((tally for tally in tallies if tally.tau == 1), Tally("", 1.0, []))


def new_baselines(taus: Sequence[float]) -> list[Tally]:
    """Empty tallies of what stands beside REVERSE; the two that cut do so at every tau."""
    cutting = [Tally(name, tau, []) for name in ("refuse", "truncate") for tau in taus]
    return [*cutting, Tally("greedy", 1.0, []), Tally("contrast", 1.0, [])]


def beside(
    bundle: LanguageBundle,
    sight: Sight,
    base: Settings,
    plain: tuple[Outcome, list[Judged]],
    tallies: list[Tally],
) -> Steps[None]:
    """The baselines: two that only cut, one without chance, one that contrasts with a blank."""
    outcome, judged = plain
    for tally in tallies:
        if tally.name == "refuse":
            tally.add(refused(judged, tally.tau), sight.tray)
        elif tally.name == "truncate":
            tally.add(truncated(judged, tally.tau), sight.tray)
        elif tally.name == "greedy":
            yield from told_once(
                bundle, sight, replace(base.without_checks(), temperature=0.0), tally
            )
            continue
        else:
            text, tokens = contrasted(bundle, sight.prompt, base.max_new_tokens)
            tally.add(text, sight.tray)
            tally.generated_tokens += tokens
            yield Progress(0, 1)
            continue
        tally.generated_tokens += len(outcome.ids)


def summed(
    tallies: Sequence[Tally], others: Sequence[Tally], doubts: Sequence[Judged], noise: float
) -> Curve:
    """The rates of all tallies, and the doubts of right and wrong phrases."""
    right = np.array([one.p_un for one in doubts if one.is_true], dtype=np.float64)
    wrong = np.array([one.p_un for one in doubts if one.is_true is False], dtype=np.float64)
    return Curve(
        tuple(tally.point() for tally in tallies if tally.answers),
        tuple(tally.point() for tally in others if tally.answers),
        right,
        wrong,
        auroc(wrong, right),
        noise,
    )

"""REVERSE on one picture; `curve` and `calibrate` are the other two actions of the panel."""

import time
from dataclasses import replace
from typing import Annotated

from engine.core.catalog import RoundTrip
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, relay
from engine.core.recipe import ModelRef
from engine.core.reversible import compare
from engine.core.settings import OneOf, Range, Text
from engine.metrics.hallucination import Rates, Told, chair
from engine.models.language import Cursor, LanguageBundle, Prompt
from engine.pictures import PictureSetting
from engine.verifying.retrospective_resampling.calibration import calibrate
from engine.verifying.retrospective_resampling.loop import (
    LONGEST_ANSWER,
    Event,
    Outcome,
    Settings,
    Token,
)
from engine.verifying.retrospective_resampling.official import FreshSpeaker, official
from engine.verifying.retrospective_resampling.results import Cost, Plain, Telling
from engine.verifying.retrospective_resampling.rollback import Voice, rollback
from engine.verifying.retrospective_resampling.seeing import (
    DESCRIBE,
    look,
    new_story,
    open_bundle,
)
from engine.verifying.retrospective_resampling.story import Story
from engine.verifying.retrospective_resampling.tradeoff import curve
from engine.world.tray import Tray, mentions

__all__ = ["calibrate", "curve", "run"]

EXAMPLE = "on yellow; banana 5 noto; cat 12 noto"
LONGEST_QUESTION = 500

ENGINES = ("fast", "official")


def run(
    *,
    seed: int,
    model: ModelRef | str = "emoji-llava",
    tray: Annotated[str, Text(2000)] = EXAMPLE,
    noise: Annotated[float | None, Range(0, 1, "Try 0.4.")] = None,
    picture: PictureSetting | None = None,
    question: Annotated[str, Text(LONGEST_QUESTION)] = DESCRIBE,
    tau: Annotated[float, Range(0, 1, "0.01 is a good start.")] = 0.1,
    temperature: Annotated[float, Range(0, 2)] = 0.0,
    step: Annotated[float, Range(0, 1)] = 0.05,
    local: Annotated[int, Range(1, 100)] = 10,
    total: Annotated[int, Range(1, 500)] = 50,
    hints: bool = True,
    engine: Annotated[str, OneOf(ENGINES)] = "fast",
    max_new_tokens: Annotated[int, Range(1, LONGEST_ANSWER)] = 64,
    open_ended: bool = False,
) -> Steps[Telling]:
    """Answers a question about a picture, taking back what it doubts; first without taking back.

    The picture is a tray, photographed with noise, unless one is given. With `open_ended`, only
    whole sentences are left of an answer that is given up; an empty one is asked for once more with
    a plea to name false premises, and then owned up to.
    """
    begun = time.perf_counter()
    settings = Settings(
        tau=tau,
        temperature=temperature,
        step=step,
        local=local,
        total=total,
        hints=hints,
        max_new_tokens=max_new_tokens,
        open_ended=open_ended,
    )
    question = _one_line(question)
    scene = None if picture is not None else Tray.parse(tray)
    bundle = open_bundle(model)
    pixels, clean = look(bundle, scene, picture, noise, seed)
    words = bundle.vocabulary.note(question) if bundle.vocabulary else ""
    telling = Telling(
        pixels, clean, scene.names if scene else None, question, tau, unknown_words=words
    )
    prompt = bundle.prompt(question, pixels)
    plain = yield from _plainly(bundle, prompt, question, settings, seed, scene)
    telling = replace(telling, before=plain)
    story = new_story(bundle, scene)
    speaker, outcome = yield from _answer(
        bundle, prompt, question, settings, seed, story, telling, engine
    )
    text = outcome.text
    if open_ended and not text:
        text = yield from _asked_again(bundle, prompt, question, settings, seed, story, telling)
    return replace(
        telling,
        pieces=story.pieces(),
        phrases=tuple(story.phrases),
        heights=tuple(story.heights),
        cost=_cost(speaker, outcome, story, len(prompt.ids)),
        text=text,
        tagged=speaker.words(outcome.ids),
        success=outcome.success,
        rates=_rates(text, scene),
        hints=outcome.hints,
        never_said=_never_said(speaker) if isinstance(speaker, Voice) else None,
        seconds=time.perf_counter() - begun,
    )


PREMISE = (
    " For this question, please point out the false premises or note what information is missing, "
    "rather than answering it directly."
)
UNABLE = "I am unable to answer this question from the picture."


def _answer(
    bundle: LanguageBundle,
    prompt: Prompt,
    question: str,
    settings: Settings,
    seed: int,
    story: Story,
    telling: Telling,
    engine: str,
) -> Steps[tuple[Voice | FreshSpeaker, Outcome]]:
    """The loop on one of the two engines, with the story so far as it goes."""
    speaker: Voice | FreshSpeaker
    if engine == "fast":
        speaker = Voice(bundle, prompt, question, seed)
        course = rollback(speaker, settings)
    else:
        speaker = FreshSpeaker(bundle, prompt, question, settings, seed)
        course = official(speaker, settings)

    def tell(event: Event) -> Progress | None:
        story.hear(event)
        if not isinstance(event, Token):
            return None
        preview = replace(
            telling,
            pieces=story.pieces(),
            phrases=tuple(story.phrases),
            heights=tuple(story.heights),
        )
        return Progress(story.steps, story.steps + 10, "Speaking", preview)

    outcome = yield from relay(course, tell)
    return speaker, outcome


def _plainly(
    bundle: LanguageBundle,
    prompt: Prompt,
    question: str,
    settings: Settings,
    seed: int,
    scene: Tray | None,
) -> Steps[Plain]:
    """What the model says when it never goes back."""
    course = rollback(Voice(bundle, prompt, question, seed), settings.without_checks())
    progress = Progress(0, 10, "Speaking without going back")
    outcome = yield from relay(course, lambda event: progress if isinstance(event, Token) else None)
    return Plain(outcome.text, _rates(outcome.text, scene))


def _asked_again(
    bundle: LanguageBundle,
    prompt: Prompt,
    question: str,
    settings: Settings,
    seed: int,
    story: Story,
    telling: Telling,
) -> Steps[str]:
    """A second try at a question that got no answer, then a plain admission."""
    extended = question + PREMISE
    again = bundle.ask_again(prompt, extended)
    _, outcome = yield from _answer(bundle, again, extended, settings, seed, story, telling, "fast")
    return outcome.text or UNABLE


def _never_said(voice: Voice) -> RoundTrip:
    """The state after all that was taken back, against one that never said it.

    The last token goes through the network again, on the keys and values that stand there: the
    logits that were kept would prove nothing.
    """
    ids = list(voice.cursor.ids)
    voice.cursor.forget()
    after = voice.cursor.go_to(ids)
    fresh = Cursor(voice.bundle, voice.prompt.pixels).read(ids)
    return compare(fresh, after, steps=len(ids))


def _cost(
    speaker: Voice | FreshSpeaker, outcome: Outcome, story: Story, prompt_tokens: int
) -> Cost:
    # Every attempt of the published loop reads the prompt and the accepted text again.
    read_again = sum(story.starts[: outcome.attempts]) + outcome.attempts * prompt_tokens
    return Cost(
        speaker.generated_tokens,
        speaker.forward_tokens,
        read_again + speaker.generated_tokens,
        outcome.attempts,
        outcome.backtracks,
        prompt_tokens,
    )


def _rates(text: str, scene: Tray | None) -> Rates | None:
    return chair([Told(tuple(mentions(text)), scene.names)]) if scene else None


def _one_line(question: str) -> str:
    """The words of a question with one space between. Raises `BadInput` when there are none."""
    words = question.split()
    if not words:
        raise BadInput("The question is empty.", f"Ask: {DESCRIBE}")
    return " ".join(words)

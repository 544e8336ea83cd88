"""The loop as the published code runs it: every attempt generates to the end, from the beginning.

Slow, and the measure of everything else: the golden cases run through this function, and the fast
engine must say the same.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine.models.language import Cursor, LanguageBundle, Prompt
from engine.verifying.retrospective_resampling.loop import (
    CORRECTED,
    HINTS_SHOWN,
    Back,
    Course,
    Event,
    Outcome,
    Settings,
    Token,
    Tried,
    Verdict,
    chance,
    fall_back,
    hinted,
    pick,
    remember,
)
from engine.verifying.retrospective_resampling.tags import (
    FORMAT_ERROR,
    Tags,
    first_closer,
    p_ungrounded,
    phrases,
    rendered,
)


@dataclass(frozen=True)
class Draft:
    """Tokens of one attempt, and P(UN) before each of them; only that before a closer is used."""

    ids: tuple[int, ...]
    p_un: tuple[float, ...]


@runtime_checkable
class Speaker(Protocol):
    """Whoever generates: a model, or a script in the golden cases."""

    tags: Tags
    end: int

    def generate(
        self, hints: Sequence[str], accepted: Sequence[int], temperature: float, attempt: int
    ) -> Generator[Event, None, Draft]: ...

    def words(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True)
class Fault:
    """The first phrase that fails, how much of the attempt before it stays, and its P(UN)."""

    phrase: str
    back: int
    p_un: float = 1.0


def official(speaker: Speaker, settings: Settings) -> Course:
    """Generate, look at every phrase, go back to before the first bad one, try again warmer."""
    accepted: list[int] = []
    hints: list[str] = []
    correcting, in_a_row, temperature, backtracks = False, 0, settings.temperature, 0
    phrase = ""
    for attempt in range(settings.total):
        if not correcting:
            temperature = settings.temperature
        known = hints[-HINTS_SHOWN:] if settings.hints else []
        draft = yield from speaker.generate(known, accepted, temperature, attempt)
        new = list(draft.ids)
        if correcting and (closer := first_closer(new, speaker.tags)) is not None:
            # All that was said behind the first phrase is thrown away.
            new = [*new[: closer + 1], speaker.end]
            yield Back(len(accepted) + closer + 1, "unused")
        fault = first_fault(speaker, accepted, new, draft.p_un, settings.tau)
        yield from _verdicts(speaker, new, draft.p_un, fault, attempt, temperature)
        standing = accepted + [token for token in new if token != speaker.end]
        if fault is None:
            if not correcting:
                yield Tried(tuple(standing), "", temperature)
                text = rendered(speaker.words(standing))
                return Outcome(tuple(standing), text, True, attempt + 1, backtracks, tuple(hints))
            yield Tried(tuple(standing), CORRECTED, temperature)
            correcting, in_a_row = False, 0
            accepted += new[:-1]
            continue
        phrase, correcting = fault.phrase, True
        backtracks += 1
        in_a_row += 1
        tried_at, temperature = temperature, settings.hotter(temperature)
        remember(hints, phrase)
        if in_a_row == settings.local:
            fall_back(accepted, new, hints, speaker, settings.enders)
            in_a_row = 0
            yield Back(len(accepted), "sentence")
            yield Tried(tuple(accepted), phrase, tried_at)
        else:
            accepted += new[: fault.back]
            yield Back(len(accepted), "phrase")
            yield Tried(tuple(standing), phrase, tried_at)
    yield Tried(tuple(accepted), phrase, temperature)
    text = settings.given_up(rendered(speaker.words(accepted)))
    return Outcome(tuple(accepted), text, False, settings.total, backtracks, tuple(hints))


def first_fault(
    speaker: Speaker,
    accepted: Sequence[int],
    new: Sequence[int],
    p_un: Sequence[float],
    tau: float,
) -> Fault | None:
    """The first phrase of the new tokens whose P(UN) is above tau; None when all hold.

    Marks that do not pair up are a fault of the whole attempt.
    """
    tags = speaker.tags
    ids = [*accepted, *new]
    if tags.span not in ids:
        return None
    if phrases(ids, tags) is None:
        return Fault(FORMAT_ERROR, 0)
    before = 0
    for phrase in phrases(new, tags) or []:
        if p_un[phrase.stop] > tau:
            text = speaker.words(new[phrase.start + 1 : phrase.stop])
            return Fault(text, before, p_un[phrase.stop])
        before = phrase.stop + 1
    return None


def _verdicts(
    speaker: Speaker,
    new: Sequence[int],
    p_un: Sequence[float],
    fault: Fault | None,
    attempt: int,
    temperature: float,
) -> Generator[Event, None, None]:
    """What is known of each phrase up to the first bad one."""
    if fault is not None and fault.phrase == FORMAT_ERROR:
        yield Verdict(FORMAT_ERROR, 1.0, False, attempt, temperature)
        return
    for phrase in phrases(new, speaker.tags) or []:
        is_kept = fault is None or phrase.stop < fault.back
        words = speaker.words(new[phrase.start + 1 : phrase.stop])
        yield Verdict(words, p_un[phrase.stop], is_kept, attempt, temperature)
        if not is_kept:
            return


# ---------------------------------------------------------------------- a model that speaks


class FreshSpeaker:
    """A model that reads picture, prompt and accepted text again for every attempt."""

    def __init__(
        self, bundle: LanguageBundle, prompt: Prompt, question: str, settings: Settings, seed: int
    ) -> None:
        self.bundle, self.prompt, self.question = bundle, prompt, question
        self.settings, self.seed = settings, seed
        self.tags = Tags.of(bundle)
        self.end = min(bundle.end_tokens)
        self.forward_tokens = self.generated_tokens = 0

    def generate(
        self, hints: Sequence[str], accepted: Sequence[int], temperature: float, attempt: int
    ) -> Generator[Event, None, Draft]:
        """One attempt, to the end of the text or of the budget."""
        prompt = self.bundle.ask_again(self.prompt, hinted(self.question, hints))
        cursor = Cursor(self.bundle, prompt.pixels)
        logits = cursor.read([*prompt.ids, *accepted])
        ids: list[int] = []
        p_un: list[float] = []
        while True:
            place = len(accepted) + len(ids)
            number = chance(self.seed, attempt, place)
            token = pick(logits, temperature, number, self.bundle.image_id)
            is_end = token in self.bundle.end_tokens
            ids.append(self.end if is_end else token)
            closes = token in self.tags.closers
            p_un.append(p_ungrounded(logits, self.tags) if closes else 0.0)
            self.generated_tokens += 1
            if is_end or len(ids) >= self.settings.max_new_tokens:
                break
            yield Token(token)
            logits = cursor.read([token])
        self.forward_tokens += cursor.forward_tokens
        return Draft(tuple(ids), tuple(p_un))

    def words(self, ids: Sequence[int]) -> str:
        """The tokens as text, marks included."""
        return str(self.bundle.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

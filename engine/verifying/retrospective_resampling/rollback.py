"""The same loop without waste: one pass, a look at every closing mark, and a way back in the cache.

The published loop reads picture, prompt and text again for every attempt, and runs to the end of
the answer to use its first phrase. Here the model says one token at a time. At a closing mark P(UN)
is read from the logits that stand there anyway, *before* the mark itself is read. If the phrase is
bad, the answer goes back to the last good place, whose logits are kept, and so are those of every
phrase that was tried from there: taking a phrase back costs no forward pass, and neither does
saying a doubted one again, which is what a model mostly does. Only a changed hint costs: what
follows the picture is read again, in one pass.

The decisions are those of the published loop, on equal random numbers. One difference is left: an
answer whose marks do not pair up anywhere is thrown away whole there, and fails where it happens
here.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

from engine.core.shapes import Float, Tensor
from engine.models.language import Cursor, LanguageBundle, Prompt
from engine.verifying.retrospective_resampling.loop import (
    CORRECTED,
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
    p_ungrounded,
    phrases,
    rendered,
)


@dataclass
class Voice:
    """A model in the middle of an answer: what it was asked, and the cache of what it has read."""

    bundle: LanguageBundle
    prompt: Prompt
    question: str
    seed: int
    generated_tokens: int = 0
    tags: Tags = field(init=False)
    cursor: Cursor = field(init=False)

    def __post_init__(self) -> None:
        self.tags = Tags.of(self.bundle)
        self.cursor = Cursor(self.bundle, self.prompt.pixels)

    def logits_after(self, hints: Sequence[str], answer: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Logits behind this much of the answer, from the cache as far as it reaches."""
        prompt = self.bundle.ask_again(self.prompt, hinted(self.question, hints))
        return self.cursor.go_to([*prompt.ids, *answer])

    def words(self, ids: Sequence[int]) -> str:
        """The tokens as text, marks included."""
        return str(self.bundle.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    @property
    def forward_tokens(self) -> int:
        return self.cursor.forward_tokens


@dataclass(frozen=True)
class Try:
    """One attempt: its tokens, how many of them stay, and the phrase that failed, if one did."""

    ids: tuple[int, ...]
    kept: int
    failed: str = ""


def rollback(voice: Voice, settings: Settings) -> Course:
    """Say one token at a time; go back over a phrase as soon as it is doubted."""
    accepted: list[int] = []
    hints: list[str] = []
    correcting, in_a_row, temperature, backtracks = False, 0, settings.temperature, 0
    phrase = ""
    for attempt in range(settings.total):
        if not correcting:
            temperature = settings.temperature
        logits = voice.logits_after(hints if settings.hints else [], accepted)
        draft = yield from _attempt(
            voice, settings, logits, accepted, attempt, temperature, one_phrase=correcting
        )
        standing = (*accepted, *draft.ids)
        if not draft.failed:
            accepted += draft.ids[: draft.kept]
            if not correcting:
                yield Tried(tuple(accepted), "", temperature)
                text = rendered(voice.words(accepted))
                return Outcome(tuple(accepted), text, True, attempt + 1, backtracks, tuple(hints))
            yield Tried(standing, CORRECTED, temperature)
            correcting, in_a_row = False, 0
            continue
        phrase, correcting = draft.failed, True
        backtracks += 1
        in_a_row += 1
        tried_at, temperature = temperature, settings.hotter(temperature)
        remember(hints, phrase)
        if in_a_row == settings.local:
            fall_back(accepted, draft.ids, hints, voice, settings.enders)
            in_a_row = 0
            yield Back(len(accepted), "sentence")
            yield Tried(tuple(accepted), phrase, tried_at)
        else:
            accepted += draft.ids[: draft.kept]
            yield Back(len(accepted), "phrase")
            yield Tried(standing, phrase, tried_at)
    yield Tried(tuple(accepted), phrase, temperature)
    text = settings.given_up(rendered(voice.words(accepted)))
    return Outcome(tuple(accepted), text, False, settings.total, backtracks, tuple(hints))


def _attempt(
    voice: Voice,
    settings: Settings,
    logits: Float[Tensor, " vocab"],
    accepted: Sequence[int],
    attempt: int,
    temperature: float,
    *,
    one_phrase: bool,
) -> Generator[Event, None, Try]:
    """Tokens up to the first doubted phrase, or the end; up to the first phrase when correcting."""
    tags, new, kept = voice.tags, list[int](), 0
    opened: int | None = None
    has_span, has_stray = tags.span in accepted, phrases(accepted, tags) is None
    while True:
        place = len(accepted) + len(new)
        number = chance(voice.seed, attempt, place)
        token = pick(logits, temperature, number, voice.bundle.image_id)
        voice.generated_tokens += 1
        is_end = token in voice.bundle.end_tokens
        is_last = is_end or len(new) + 1 >= settings.max_new_tokens
        closes = token in tags.closers
        is_open = opened is not None
        if _is_misplaced(token, tags, is_open, is_last, has_span, has_stray):
            yield Verdict(FORMAT_ERROR, 1.0, False, attempt, temperature)
            return Try((*new, *([] if is_end else [token])), kept, FORMAT_ERROR)
        if closes and is_open:
            words, p_un = voice.words(new[(opened or 0) + 1 :]), p_ungrounded(logits, tags)
            yield Token(token)
            yield Verdict(words, p_un, p_un <= settings.tau, attempt, temperature)
            new.append(token)
            if p_un > settings.tau:
                return Try(tuple(new), kept, words)
            kept, opened = len(new), None
            if one_phrase or is_last:
                return Try(tuple(new), kept)
        elif is_end:
            return Try(tuple(new), len(new))
        else:
            yield Token(token)
            opened = len(new) if token == tags.span else opened
            has_span, has_stray = has_span or token == tags.span, has_stray or closes
            new.append(token)
            if closes and one_phrase:
                return Try(tuple(new), len(new))
            if is_last:
                # The published loop takes the last token of a correction for the end of the text.
                return Try(tuple(new), len(new) - one_phrase)
        logits = voice.cursor.read([token])


def _is_misplaced(
    token: int, tags: Tags, is_open: bool, is_last: bool, has_span: bool, has_stray: bool
) -> bool:
    """Whether a mark stands where it cannot: opened twice, closed unopened, open at the end.

    While no phrase was opened, the published loop looks at nothing: closers that stray there pass,
    until a phrase is opened behind them.
    """
    if token == tags.span:
        return is_open or is_last or has_stray
    if token in tags.closers:
        return has_span and not is_open
    return is_open and is_last

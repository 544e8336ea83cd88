"""The job: make each eraser, draw the sheet, count, attack, and turn the strengths."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np

from engine.core import checks
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.recent import Recent
from engine.core.recipe import ModelRef
from engine.core.settings import Items, OneOf, Range, Text
from engine.erasing import _evaluation as evaluation
from engine.erasing import _sampling as sampling
from engine.erasing._baselines import MAKERS, made
from engine.erasing._eraser import Erased, Eraser, Maker, contenders
from engine.erasing._evaluation import ATTACKS, Drawn, Protocol, Scores
from engine.erasing._progress import WHOLE, within
from engine.erasing._subject import Ask, Subject
from engine.erasing.erasure_lab import METHODS, ORIGINAL, methods
from engine.erasing.erasure_lab.results import Comparison, Row, Seen
from engine.models.diffusion import DiffusionBundle

MOST_EACH, MOST_STEPS = 64, 50
# Groups of the sheet's columns; the prompts are the first of each group.
SHEET = ("target", "paraphrase", "near", "far")
SWEEP = {0: (), 1: (), 2: (0.5,), 3: (0.33, 0.67), 4: (0.25, 0.5, 0.75)}
SHEET_SHARE = 0.4  # of the whole run, by guess
DEFAULT = ("negative prompt", "word filter", "UCE", "SPM")


@dataclass(frozen=True)
class _Settings:
    subject: Subject
    names: tuple[str, ...]
    protocol: Protocol
    sweep: tuple[float, ...]

    @property
    def asks(self) -> tuple[Ask, ...]:
        return self.subject.asks(self.protocol.each)

    @property
    def columns(self) -> list[int]:
        """Numbers of the pictures that stand on the sheet."""
        wanted = list(SHEET)
        found = []
        for number, ask in enumerate(self.asks):
            if ask.group in wanted:
                wanted.remove(ask.group)
                found.append(number)
        return found


def run(
    *,
    seed: int,
    model: ModelRef | str = "world",
    concept: Annotated[str, Text(100)] = "neon style",
    anchor: Annotated[str, Text(100)] = "",
    methods: Annotated[
        Sequence[Annotated[str, Text(100)]], Items(len(METHODS), fewest=1)
    ] = DEFAULT,
    each: Annotated[int, Range(1, MOST_EACH, "4 is quick, 16 tells more.")] = 4,
    attacks: Annotated[Sequence[Annotated[str, OneOf(ATTACKS)]], Items(len(ATTACKS))] = (
        "paraphrase",
        "closed form",
    ),
    sweep: Annotated[int, Range(0, 4, "2 adds one strength between.")] = 2,
    steps: Annotated[int, Range(1, MOST_STEPS, "Try 8.")] = 8,
    guidance_scale: Annotated[float, Range(0, 30, "4 is a good value.")] = 4.0,
) -> Steps[Comparison]:
    """Every method on one sheet, in one table and in one plane, from the same noise.

    `each` pictures are counted of every group and attack; `sweep` strengths of each method stand in
    the plane. An empty `anchor` is the concept's category, or plain style.
    """
    chosen = _checked(concept, anchor, methods, each, attacks, sweep, steps, guidance_scale)
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    asks, subject = chosen.asks, chosen.subject
    shown = Comparison(
        subject.concept,
        subject.anchor,
        subject.keep,
        tuple(asks[number].prompt for number in chosen.columns),
        tuple(asks[number].group for number in chosen.columns),
        each=chosen.protocol.each,
    )
    erased: dict[str, Erased] = {}
    first: dict[str, Drawn] = {}
    for turn, name in enumerate(chosen.names):
        begin, end = (SHEET_SHARE * at / len(chosen.names) for at in (turn, turn + 1))
        middle = (begin + end) / 2
        making = made(_makers()[name], bundle, subject, seed)
        erased[name] = yield from within(making, begin, middle, shown=shown)
        shown = replace(shown, notes=shown.notes + erased[name].notes)
        drawing = _sheet(erased[name].at(1.0), chosen, seed)
        first[name] = yield from within(drawing, middle, end, shown=shown)
        row = Row(name, first[name].pictures, first[name].lines)
        shown = replace(shown, rows=(*shown.rows, row))
    return (yield from _counted(bundle, chosen, erased, first, seed, shown))


def _counted(
    bundle: DiffusionBundle,
    chosen: _Settings,
    erased: Mapping[str, Erased],
    first: Mapping[str, Drawn],
    seed: int,
    shown: Comparison,
) -> Generator[Progress, None, Comparison]:
    """The rest of the pictures of each model, its attacks and its strengths, a row at a time."""
    reference: Drawn | None = None
    for turn, (name, one) in enumerate(erased.items()):
        eraser, share = one.at(1.0), (1 - SHEET_SHARE) / len(erased)
        begin = SHEET_SHARE + turn * share
        parts = iter(np.linspace(begin, begin + share, 3 + len(ATTACKS) + len(chosen.sweep)))
        before, after = float(next(parts)), float(next(parts))
        drawing = _rest(eraser, first[name], chosen, seed)
        drawn = yield from within(drawing, before, after, shown=shown)
        if reference is None:
            reference = drawn
            shown = replace(shown, gate=evaluation.gate_note(reference))
        attacked = {}
        for attack in _attacks_worth(chosen, reference):
            striking = evaluation.attack(
                attack, bundle, eraser, chosen.subject, chosen.protocol, seed
            )
            before, after = after, float(next(parts))
            attacked[attack] = yield from within(striking, before, after, shown=shown)
        scores = evaluation.score(drawn, reference, attacked, eraser.cost)
        shown = _with_scores(shown, scores, {"": drawn, **attacked})
        if one.sweep and evaluation.gate(reference) == {"target": True, "kept": True}:
            for strength in chosen.sweep:
                weak = one.at(strength)
                sweeping = _swept(weak, chosen, seed, f"{name} at {strength:g}")
                before, after = after, float(next(parts))
                drawn = yield from within(sweeping, before, after, shown=shown)
                scores = evaluation.score(drawn, reference, {}, weak.cost, strength=strength)
                shown = _with_scores(shown, scores, {"": drawn})
        yield Progress(int(WHOLE * (begin + share)), WHOLE, name, shown)
    return shown


def _with_scores(shown: Comparison, scores: Scores, drawn: Mapping[str, Drawn]) -> Comparison:
    every = (*shown.scores, scores)
    told = [
        Seen(
            scores.name,
            scores.strength,
            attack,
            number,
            ask.group,
            ask.prompt,
            ask.shows,
            one.shows[number] if one.shows else None,
            one.lines[number],
        )
        for attack, one in drawn.items()
        for number, ask in enumerate(one.asks)
    ]
    points = evaluation.pareto(every)
    return replace(shown, scores=every, points=points, seen=(*shown.seen, *told))


# ---------------------------------------------------------------------- pictures


def _sheet(eraser: Eraser, chosen: _Settings, seed: int) -> Generator[Progress, None, Drawn]:
    """The pictures of the sheet; the original's are kept for the next run."""
    return _drawn(eraser, chosen, chosen.columns, seed, f"{eraser.name}: the sheet")


def _rest(
    eraser: Eraser, sheet: Drawn, chosen: _Settings, seed: int
) -> Generator[Progress, None, Drawn]:
    """All pictures in the order of the asks, those of the sheet not drawn again."""
    rows = [number for number in range(len(chosen.asks)) if number not in chosen.columns]
    other = yield from _drawn(eraser, chosen, rows, seed, f"{eraser.name}: counting")
    both, order = evaluation.joined(sheet, other), np.argsort([*chosen.columns, *rows]).tolist()
    return evaluation.rearranged(both, order)


def _swept(
    eraser: Eraser, chosen: _Settings, seed: int, note: str
) -> Generator[Progress, None, Drawn]:
    """All pictures at another strength, in the same batches: an untouched one has equal bits."""
    sheet = yield from _drawn(eraser, chosen, chosen.columns, seed, note)
    return (yield from _rest(eraser, sheet, chosen, seed))


def _drawn(
    eraser: Eraser, chosen: _Settings, rows: Sequence[int], seed: int, note: str
) -> Generator[Progress, None, Drawn]:
    bundle = eraser.bundle
    model = (bundle.ref, str(bundle.folder), bundle.dtype)
    key = (*model, chosen.subject, chosen.protocol, tuple(rows), seed)
    is_original = eraser.name == ORIGINAL
    if is_original and (kept := _ORIGINALS.peek(key)) is not None:
        return kept
    asks = [chosen.asks[number] for number in rows]
    drawn = yield from evaluation.draw_asks(
        eraser, asks, chosen.protocol, seed, subject=chosen.subject, rows=rows, note=note
    )
    if is_original:
        _ORIGINALS.put(key, drawn)
    return drawn


_ORIGINALS: Recent[Drawn] = Recent(8)


def _attacks_worth(chosen: _Settings, reference: Drawn) -> list[str]:
    """The attacks to run; none where the gate withholds their scores anyway."""
    if not evaluation.gate(reference)["target"]:
        return []
    return [name for name in chosen.protocol.attacks if name != "paraphrase"]


# ---------------------------------------------------------------------- settings


def _makers() -> dict[str, Maker]:
    return {**MAKERS, **contenders()}


def _checked(
    concept: object,
    anchor: object,
    names: object,
    each: object,
    attacks: object,
    sweep: object,
    steps: object,
    guidance_scale: object,
) -> _Settings:
    if not isinstance(concept, str) or not concept.strip() or len(concept) > 100:
        raise BadInput("There is no concept to erase.", 'Name one, such as "cat" or "neon style".')
    if not isinstance(anchor, str) or len(anchor) > 100:
        raise BadInput("anchor must be a short text.", "Leave it empty for the category.")
    listed = checks.texts(names, "methods", len(METHODS))
    for name in listed:
        checks.choice("methods", name, methods())
    if not listed:
        raise BadInput("No method is chosen.", "Choose at least one, such as UCE.")
    told = checks.texts(attacks, "attacks", len(ATTACKS))
    for name in told:
        checks.choice("attacks", name, ATTACKS)
    protocol = Protocol(
        each=checks.count("each", each, 1, MOST_EACH, "4 is quick, 16 tells more."),
        steps=checks.count("steps", steps, 1, MOST_STEPS, "Try 8."),
        guidance_scale=checks.number("guidance_scale", guidance_scale, 0, 30, "4 is a good value."),
        attacks=told,
    )
    amounts = SWEEP[checks.count("sweep", sweep, 0, 4, "2 adds one strength between.")]
    every = tuple(dict.fromkeys((ORIGINAL, *(name for name in METHODS if name in listed))))
    return _Settings(Subject.of(concept, anchor), every, protocol, amounts)

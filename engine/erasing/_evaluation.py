"""How an erasure is judged: four questions, never one number.

    Erased   is the concept gone from the prompts that name it?
    Kept     are other concepts as they were, the near ones first?
    Robust   do other words, a computed embedding or a learned word bring it back?
    Cost     seconds, numbers changed, time a picture, and how it is undone

    protocol = Protocol(each=8)
    drawn = finish(draw_asks(eraser, subject.asks(8), protocol, seed))
    scores = score(drawn, reference, attacked, eraser.cost)

Every model draws the same prompts from the same noise in the same batches, and the judge of the
embedded world says what each picture shows. Rates have Wilson's interval, means a bootstrap over
the pictures. Where the original does not draw what it is asked for often enough (`LEAST_ORIGINAL`)
nothing can be said about an erasure, and no score is given.
"""

import functools
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Progress
from engine.erasing import _attacks as attacks
from engine.erasing._eraser import Asked, Cost, Eraser, Pictures
from engine.erasing._subject import Ask, Subject
from engine.metrics.distances import kernel_distance
from engine.metrics.intervals import Mean, Rate
from engine.metrics.scores import harmonic, not_dominated
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle
from engine.models.vision import NOTHING, Judge, Verdicts, load_judge

LEAST_ORIGINAL = 0.85
LEAST_FOR_KERNEL = 50  # features a side for a kernel distance that means something
ATTACKS = ("paraphrase", "closed form", "inversion")


@dataclass(frozen=True)
class Protocol:
    """How much is drawn: pictures of each group, sampler steps, guidance, pictures at a time."""

    each: int = 8
    steps: int = 12
    guidance_scale: float = 4.0
    batch: int = 8
    attacks: tuple[str, ...] = ("paraphrase", "closed form")
    inversion_iterations: int = 50


@dataclass(frozen=True)
class Drawn:
    """Pictures of one model with what the judge says of them, in the order of the asks.

    `shows` tells for each picture whether it shows what its ask names; `objects` whether there is
    an object at all. Both are empty where there is no judge for the model.
    """

    name: str
    asks: tuple[Ask, ...]
    pictures: Pictures
    lines: tuple[str, ...]
    shows: tuple[bool, ...]
    whole: tuple[bool, ...]
    features: NDArray[np.float32]
    seconds: float


@dataclass(frozen=True)
class Scores:
    """What the four questions found for one model; rates that cannot be judged are None.

    `target`, `near`, `far` are shares of pictures that show what they name, `nothing` the share of
    target pictures without a whole object. `change` is the mean |difference| to the original's kept
    pictures (of 255), `feature_change` their distance in the judge's features relative to that
    between different pictures, `empty_change` the same mean difference for the empty prompt.
    `attacks` are shares of pictures in which the concept is back. `kid` is the kernel distance of
    kept pictures to the original's, in the embedded judge's features. `harmonic` joins what is
    gone, what stays gone under the strongest attack, and what is kept; in `harmonic_words` the
    attacks are paraphrases only.
    """

    name: str
    strength: float
    target: Rate | None
    near: Rate | None
    far: Rate | None
    kept: Rate | None
    nothing: Rate | None
    change: Mean
    feature_change: Mean
    empty_change: float
    attacks: Mapping[str, Rate]
    kid: float | None
    harmonic_words: float | None
    harmonic: float | None
    train_seconds: float
    picture_seconds: float
    parameters: int
    undo: str
    note: str = ""

    @property
    def erased(self) -> float | None:
        return None if self.target is None else 1 - self.target.rate


# ---------------------------------------------------------------------- drawing


def judge_of(bundle: DiffusionBundle) -> Judge | None:
    """The judge, for models of the embedded world; for others there is none."""
    if bundle.vocabulary is None:
        return None
    try:
        return load_judge()
    except AssetMissing:
        return None


def noise_of(bundle: DiffusionBundle, seed: int, rows: Sequence[int]) -> torch.Tensor:
    """The noise of these pictures, the same for every model and every order of drawing."""
    return drawing.start_noise(bundle, seed, max(rows) + 1)[list(rows)]


def draw_asks(
    eraser: Eraser,
    asks: Sequence[Ask],
    protocol: Protocol,
    seed: int,
    *,
    subject: Subject,
    asked: Asked | None = None,
    rows: Sequence[int] | None = None,
    note: str = "",
) -> Generator[Progress, None, Drawn]:
    """Pictures of the asks and the judge's verdicts.

    `asked` are other embeddings than those of the texts (an attack); `rows` the numbers of the
    pictures in the whole set where only some of it is drawn, so that each keeps its own noise.
    """
    rows = range(len(asks)) if rows is None else rows
    asked = eraser.asked([ask.prompt for ask in asks]) if asked is None else asked
    noise, judge = noise_of(eraser.bundle, seed, rows), judge_of(eraser.bundle)
    parts: list[Drawn] = []
    total = len(asks) * protocol.steps
    for first in range(0, len(asks), protocol.batch):
        part, begun = slice(first, first + protocol.batch), time.perf_counter()
        walked = eraser.walk(
            asked.rows(part),
            noise[part],
            steps=protocol.steps,
            guidance_scale=protocol.guidance_scale,
        )
        latents = noise[part]
        for step in walked:
            latents = step.z
            done = first * protocol.steps + (step.i + 1) * len(latents)
            yield Progress(min(done, total), total, note or eraser.name)
        pictures = eraser.pictures(latents)
        seconds = (time.perf_counter() - begun) / len(pictures)
        yield Progress(min(done, total), total, note or eraser.name)
        parts.append(judged(eraser.name, asks[part], pictures, seconds, subject, judge))
    return functools.reduce(joined, parts)


def judged(
    name: str,
    asks: Sequence[Ask],
    pictures: Pictures,
    seconds: float,
    subject: Subject,
    judge: Judge | None,
) -> Drawn:
    """Pictures with what the judge says of them."""
    if judge is None:
        blank = np.zeros((len(pictures), 0), np.float32)
        return Drawn(name, tuple(asks), pictures, ("",) * len(pictures), (), (), blank, seconds)
    found = judge.judge(pictures)
    return Drawn(
        name,
        tuple(asks),
        pictures,
        tuple(found.text(index) for index in range(len(found))),
        tuple(shows(found, index, subject.head, ask.shows) for index, ask in enumerate(asks)),
        tuple(bool(found.objects(index)) for index in range(len(found))),
        found.features,
        seconds,
    )


def shows(found: Verdicts, index: int, head: str, what: str) -> bool:
    """Whether a picture shows this object, as subject or beside it, or this style."""
    if head == "style":
        return found.best("style", index)[0] == what
    return what != NOTHING and what in found.objects(index)


def joined(first: Drawn, second: Drawn) -> Drawn:
    """The pictures of two sets, one after the other."""
    count = len(first.asks), len(second.asks)
    return replace(
        first,
        asks=first.asks + second.asks,
        pictures=np.concatenate([first.pictures, second.pictures]),
        lines=first.lines + second.lines,
        shows=first.shows + second.shows,
        whole=first.whole + second.whole,
        features=np.concatenate([first.features, second.features]),
        seconds=float(np.average([first.seconds, second.seconds], weights=count)),
    )


def rearranged(drawn: Drawn, order: Sequence[int]) -> Drawn:
    """The same pictures in another order."""
    at = [int(number) for number in order]
    return replace(
        drawn,
        asks=tuple(drawn.asks[i] for i in at),
        pictures=drawn.pictures[at],
        lines=tuple(drawn.lines[i] for i in at),
        shows=tuple(drawn.shows[i] for i in at) if drawn.shows else (),
        whole=tuple(drawn.whole[i] for i in at) if drawn.whole else (),
        features=drawn.features[at],
    )


# ---------------------------------------------------------------------- attacks


def attack(
    name: str,
    original: DiffusionBundle,
    eraser: Eraser,
    subject: Subject,
    protocol: Protocol,
    seed: int,
) -> Generator[Progress, None, Drawn]:
    """The pictures of one attack on a model: `name` is one of `ATTACKS` but "paraphrase"."""
    asks = [ask for ask in subject.asks(protocol.each) if ask.group == "target"]
    prompts = [ask.prompt for ask in asks]
    if name == "closed form":
        asked = attacks.closed_form(original, eraser, prompts)
    elif name == "inversion":
        word = yield from attacks.inversion(
            original, eraser, subject, seed, iterations=protocol.inversion_iterations
        )
        asked = word.asked(attacks.prompts_with_word(subject, len(prompts)))
    else:
        raise BadInput(f'There is no attack "{name[:40]}".', f"Choose {', '.join(ATTACKS)}.")
    note = f"{eraser.name}: attack, {name}"
    return (
        yield from draw_asks(eraser, asks, protocol, seed, subject=subject, asked=asked, note=note)
    )


# ---------------------------------------------------------------------- scores


def gate(reference: Drawn) -> dict[str, bool]:
    """Whether the original draws what it is asked for often enough, for target and for kept."""
    if not reference.shows:
        return {"target": False, "kept": False}
    rates = {
        "target": _rate(reference, "target").rate,
        "kept": _rate(reference, "near", "far").rate,
    }
    return {name: rate >= LEAST_ORIGINAL for name, rate in rates.items()}


def gate_note(reference: Drawn) -> str:
    """What the gate withholds, in words; empty when nothing."""
    if not reference.shows:
        return "There is no judge for this model: pictures and same-seed changes only."
    shut = [name for name, is_open in gate(reference).items() if not is_open]
    if not shut:
        return ""
    reasons = {
        "target": f"the concept in {_rate(reference, 'target').rate:.0%} of its prompts",
        "kept": f"other concepts in {_rate(reference, 'near', 'far').rate:.0%} of theirs",
    }
    listed = " and ".join(reasons[name] for name in shut)
    withheld = {"target": "Erased and Robust", "kept": "Kept"}
    columns = " and ".join(withheld[name] for name in shut)
    return (
        f"The original itself draws {listed}; below {LEAST_ORIGINAL:.0%} nothing can be said about "
        f"an erasure, so {columns} are not scored. Same-seed changes are."
    ).replace("%", " %")


def score(
    drawn: Drawn,
    reference: Drawn,
    attacked: Mapping[str, Drawn],
    cost: Cost,
    *,
    strength: float = 1.0,
) -> Scores:
    """The scores of one model against the original's pictures of the same asks and noise."""
    is_open = gate(reference)
    is_original = drawn.name == reference.name
    shows_target = bool(drawn.shows) and (is_open["target"] or is_original)
    shows_kept = bool(drawn.shows) and (is_open["kept"] or is_original)
    kept = _rows(drawn, "near", "far")
    change = np.abs(drawn.pictures.astype(np.int16) - reference.pictures).mean((1, 2, 3))
    found: dict[str, Rate] = {}
    if shows_target:
        if any(ask.group == "paraphrase" for ask in drawn.asks):
            found["paraphrase"] = _rate(drawn, "paraphrase")
        found |= {name: Rate.of_hits(pictures.shows) for name, pictures in attacked.items()}
    target = _rate(drawn, "target") if shows_target else None
    kept_rate = _rate(drawn, "near", "far") if shows_kept else None
    words = {name: rate for name, rate in found.items() if name == "paraphrase"}
    features, truth = drawn.features[kept], reference.features[kept]
    is_many = len(kept) >= LEAST_FOR_KERNEL and features.shape[1] > 0
    return Scores(
        drawn.name,
        strength,
        target,
        _rate(drawn, "near") if shows_kept else None,
        _rate(drawn, "far") if shows_kept else None,
        kept_rate,
        Rate.of_hits(~np.array(drawn.whole)[_rows(drawn, "target")]) if shows_target else None,
        Mean.of_values(change[kept]),
        Mean.of_values(_feature_change(features, truth)),
        float(change[_rows(drawn, "empty")].mean()) if len(_rows(drawn, "empty")) else 0.0,
        found,
        kernel_distance(features, truth) if is_many else None,
        _harmonic(target, kept_rate, words),
        _harmonic(target, kept_rate, found),
        cost.seconds,
        drawn.seconds,
        cost.parameters,
        cost.undo,
    )


def _harmonic(target: Rate | None, kept: Rate | None, strikes: Mapping[str, Rate]) -> float | None:
    """Of gone, stays gone under the strongest of these attacks, and kept; None if unknown."""
    if target is None or kept is None or not strikes:
        return None
    strongest = max(rate.rate for rate in strikes.values())
    return harmonic(1 - target.rate, 1 - strongest, kept.rate)


def _feature_change(
    features: NDArray[np.floating], truth: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Distance of each picture to the original's, over the mean distance of different originals."""
    if not features.shape[1] or len(truth) < 2:
        return np.zeros(0)
    features, truth = features.astype(np.float64), truth.astype(np.float64)
    moved = np.linalg.norm(features - truth, axis=1)
    apart = np.linalg.norm(truth[:, None] - truth[None], axis=-1)
    return moved / max(float(apart.sum() / (len(truth) * (len(truth) - 1))), 1e-12)


def _rows(drawn: Drawn, *groups: str) -> NDArray[np.intp]:
    return np.flatnonzero([ask.group in groups for ask in drawn.asks])


def _rate(drawn: Drawn, *groups: str) -> Rate:
    return Rate.of_hits(np.array(drawn.shows, dtype=bool)[_rows(drawn, *groups)])


# ---------------------------------------------------------------------- tables


@dataclass(frozen=True)
class ParetoPoint:
    """One place in the plane of kept (x) and erased (y); `best` where no other point beats it."""

    name: str
    strength: float
    kept: float
    erased: float
    best: bool = field(default=False)


def pareto(scores: Sequence[Scores]) -> tuple[ParetoPoint, ...]:
    """The points of all models that could be judged, in their order; none for one alone."""
    points = [
        ParetoPoint(s.name, s.strength, s.kept.rate, 1 - s.target.rate)
        for s in scores
        if s.kept is not None and s.target is not None
    ]
    if len(points) < 2:
        return ()
    best = not_dominated(np.array([(point.kept, point.erased) for point in points]))
    return tuple(replace(point, best=bool(b)) for point, b in zip(points, best, strict=True))

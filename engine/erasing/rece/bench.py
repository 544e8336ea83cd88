"""Measures the claim on the embedded world, and what it costs beside the published formula.

    python -m engine bench rece          writes assets/claims/rece.json

1. Three styles and three objects are erased one at a time, three times each from other noise; none
   of them chose a setting. The closed-form attack is derived on UCE's weights ("old") and on the
   weights it attacks ("fresh"), and both are run after UCE and after one epoch of RECE. The judge
   says what each picture shows. The claim is the old attack; its interval is over the concepts.
2. Prompts that name the erased concept, and others, on the original and on every stage.
3. A baked edit applied and undone: the share of equal bits.
4. Seconds and errors beside the published formula on the shapes of Stable Diffusion 1.4: `speed`.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from engine.core.catalog import Measured
from engine.core.errors import ModelMismatch
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef, Plain
from engine.erasing._measuring import equal_bits_after_undo
from engine.erasing.rece import speed
from engine.erasing.rece.algorithm import attack, pictures_of
from engine.erasing.rece.edit import ReceSettings, erase
from engine.metrics.intervals import Mean, Rate
from engine.models import drawing
from engine.models.diffusion import Conditioning, DiffusionBundle, encode_prompt
from engine.models.vision import Judge, load_judge
from engine.world.vocabulary import CATEGORY_OF, OBJECTS, article

STYLES, THINGS = ("sketch", "watercolor", "pixel art"), ("penguin", "car", "rose")
TIMES, EACH, STEPS = 3, 8, 12
# Below this rate of the original nothing can be said about an erasure (the protocol's gate).
LEAST_ORIGINAL = 0.85
Hits = dict[str, list[bool]]


@dataclass(frozen=True)
class Ask:
    """One picture: its prompt, and what it should show."""

    prompt: str
    shows: str


@dataclass(frozen=True)
class Subject:
    """What is erased, what the judge is asked about, and the pictures: first those that name it."""

    head: str
    target: str
    settings: ReceSettings
    asks: tuple[Ask, ...]


def style(name: str) -> Subject:
    """A style erased, plain instead; the other styles are kept, and so are four objects."""
    forms = {
        "neon": "{} in neon style",
        "blueprint": "{} in blueprint style",
        "sketch": "a sketch of {}",
        "watercolor": "a watercolor of {}",
        "pixel art": "{} in pixel art style",
    }
    others, drawn = [other for other in forms if other != name], OBJECTS[1::4][:EACH]
    asks = [Ask(forms[name].format(article(one)), name) for one in drawn]
    for place, one in enumerate(drawn):
        shows = others[place % len(others)]
        asks.append(Ask(forms[shows].format(article(one)), shows))
    settings = ReceSettings.of(
        concepts=[f"{name} style"],
        guides=["plain style"],
        retain=[*(f"{other} style" for other in others), "cat", "dog", "bus", "house"],
        epochs=1,
    )
    return Subject("style", name, settings, tuple(asks))


def thing(name: str) -> Subject:
    """An object erased, its category instead; the kept ones are half of them held out."""
    forms = ("{}", "a picture of {}", "{} in neon style", "a sketch of {}")
    category = CATEGORY_OF[name][0]
    retain = [one for one in OBJECTS[::3] if one != name][:8]
    asks = [Ask(forms[place % 4].format(article(name)), name) for place in range(EACH)]
    for place, one in enumerate([*retain[:4], *[o for o in OBJECTS[1::5] if o != name][:4]]):
        asks.append(Ask(forms[place % 4].format(article(one)), one))
    settings = ReceSettings.of(concepts=[name], guides=[category], retain=retain, epochs=1)
    return Subject("subject", name, settings, tuple(asks))


def run(
    *, seed: int, model: ModelRef | str = "world", styles: Sequence[str] = STYLES,
    things: Sequence[str] = THINGS, times: int = TIMES, speed_too: bool = True,
) -> Steps[Measured]:  # fmt: skip
    """All four. Raises `ModelMismatch` when the original draws none of what is to be erased."""
    begun = time.perf_counter()
    subjects = [*map(style, styles), *map(thing, things)]
    total = len(subjects) * times + 2
    yield Progress(0, total, "Loading the model")
    bundle, judge = drawing.open_bundle(model), load_judge()
    found: dict[str, Hits] = {}
    for done, (subject, again) in enumerate(product(subjects, range(times))):
        yield Progress(done, total, f"{subject.target}, {again + 1} of {times}")
        hits = yield from _drawn(bundle, judge, subject, seed * 1000 + again, done, total)
        kept = found.setdefault(subject.target, {})
        for name, row in hits.items():
            kept.setdefault(name, []).extend(row)
    judged = {name: hits for name, hits in found.items() if _is_drawn(hits)}
    if not judged:
        raise ModelMismatch(
            "The original draws none of the concepts well enough to judge an erasure.",
            "Train the checkpoint longer.",
        )
    yield Progress(total - 2, total, "Baking and undoing")
    edit = erase(bundle, subjects[0].settings)
    state = bundle.model.state_dict()
    undone = equal_bits_after_undo({name: state[name] for name in edit.names}, edit.bake, "rece")
    speeds: list[dict[str, Plain]] = []
    if speed_too:
        for timed in speed.measure(seed):
            speeds.append({**asdict(timed), "factor": timed.factor})
            yield Progress(total - 1, total, timed.task)
    after, before = _over(judged, "RECE epoch 1: old attack"), _over(judged, "UCE: old attack")
    return Measured.of(
        measured=after.value,
        versus=before.value,
        interval=(after.low, after.high),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "unit": f"{len(judged)} concepts, {times} times {EACH} pictures each",
            "left out, the original draws them too seldom": sorted(set(found) - set(judged)),
            "over concepts": {
                name: asdict(_over(judged, name)) for name in next(iter(judged.values()))
            },
            "by concept": {
                name: {part: asdict(Rate.of_hits(row)) for part, row in hits.items()}
                for name, hits in found.items()
            },
            "equal bits after undo": undone,
            "speed on the shapes of SD 1.4": speeds,
        },
    )


def _is_drawn(hits: Hits) -> bool:
    return float(np.mean(hits["original: named"])) >= LEAST_ORIGINAL


def _over(judged: dict[str, Hits], name: str) -> Mean:
    """The mean over concepts of the share of pictures that show what they should not, or should."""
    return Mean.of_values([float(np.mean(hits[name])) for hits in judged.values()])


def _drawn(
    bundle: DiffusionBundle, judge: Judge, subject: Subject, seed: int, done: int, total: int
) -> Generator[Progress, None, Hits]:
    """Whether each picture shows what its prompt names, by stage and by what was asked of it."""
    edit = erase(bundle, subject.settings)
    cond = encode_prompt(bundle, [ask.prompt for ask in subject.asks])
    noise = drawing.start_noise(bundle, seed, len(subject.asks))
    shows = [ask.shows for ask in subject.asks]
    named = slice(0, EACH)  # the prompts with what is erased come first

    def seen(asked: Conditioning, rows: slice, stage: int | None) -> list[bool]:
        drawn = pictures_of(bundle, edit, asked, noise[rows], stage=stage, steps=STEPS)
        return _shows(judge, subject.head, drawn, shows[rows])

    found: Hits = {}
    for stage in (None, *range(len(edit.stages))):
        name = "original" if stage is None else edit.stages[stage].name
        yield Progress(done, total, f"{subject.target}, {name}")
        hits = seen(cond, slice(0, len(subject.asks)), stage)
        found[f"{name}: named"], found[f"{name}: kept"] = hits[:EACH], hits[EACH:]
        if stage is None:
            continue
        for attacked, derived_on in {"old": 0, "fresh": stage}.items():
            word = attack(edit, derived_on, cond.rows(named))
            found[f"{name}: {attacked} attack"] = seen(word, named, stage)
    return found


def _shows(judge: Judge, head: str, pictures: np.ndarray, names: Sequence[str]) -> list[bool]:
    found = judge.judge(pictures)
    return [found.best(head, index)[0] == name for index, name in enumerate(names)]

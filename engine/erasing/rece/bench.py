"""Measures the claim on the embedded world, and what it costs beside the published formula.

    python -m engine bench rece          writes assets/claims/rece.json

1. Prompts that name the erased concept and prompts that name kept ones, on the original, after UCE
   and after RECE epochs; same noise throughout; the judge says what each picture shows. A style is
   erased for the claim, and an object too where the original draws it well enough to tell. Rates
   with Wilson intervals.
2. The closed-form attack on every stage, derived after UCE ("old") and on the stage ("fresh").
3. A baked edit applied and undone: the share of equal bits.
4. Seconds and errors beside the published formula on the shapes of Stable Diffusion 1.4: `speed`.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from engine.core.catalog import Measured
from engine.core.errors import ModelMismatch
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef, Plain
from engine.erasing._measuring import equal_bits_after_undo
from engine.erasing.rece import speed
from engine.erasing.rece.algorithm import attack, pictures_of
from engine.erasing.rece.edit import Edit, ReceSettings, erase
from engine.metrics.intervals import Rate
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle, encode_prompt
from engine.models.vision import Judge, load_judge
from engine.world.vocabulary import CATEGORY_OF, OBJECTS, article

EPOCHS, BATCH, STEPS = 2, 8, 12
# Below this rate of the original nothing can be said about an erasure (the protocol's gate).
LEAST_ORIGINAL = 0.85
Counted = dict[str, int | float]
Found = Generator[Progress, None, dict[str, Plain]]


@dataclass(frozen=True)
class Ask:
    """One picture: its prompt, what it should show, and the group it counts in."""

    prompt: str
    shows: str
    group: str


@dataclass(frozen=True)
class Subject:
    """What is erased, what the judge is asked about, and the pictures."""

    head: str
    target: str
    settings: ReceSettings
    asks: tuple[Ask, ...]

    @property
    def targets(self) -> list[Ask]:
        return [ask for ask in self.asks if ask.group == "target"]


def style() -> Subject:
    """Neon erased, plain instead; the other styles are kept, half of the objects held out."""
    drawn = OBJECTS[::2][:16]
    words = (
        "a sketch of {}",
        "{} in blueprint style",
        "a watercolor of {}",
        "{} in pixel art style",
    )
    names = ("sketch", "blueprint", "watercolor", "pixel art")
    neon = ("{} in neon style", "a neon picture of {}")
    asks = [
        Ask(neon[i % 2].format(article(name)), "neon", "target")
        for i, name in enumerate([*drawn, *drawn[::-1]])
    ]
    for i, name in enumerate([*drawn, *drawn[:8]]):
        form, shows = words[i % 4], names[i % 4]
        asks.append(Ask(form.format(article(name)), shows, "kept"))
    settings = ReceSettings.of(
        concepts=["neon style"],
        guides=["plain style"],
        retain=[*(f"{name} style" for name in names), "cat", "dog", "car", "rose"],
        epochs=EPOCHS,
    )
    return Subject("style", "neon", settings, tuple(asks))


def thing() -> Subject:
    """Cat erased, animal instead; kept objects near (animals), far, and held out of the edit."""
    forms = ("{}", "a picture of {}", "{} in neon style", "a sketch of {}")
    retain = ("dog", "bear", "frog", "horse", "fish", "car", "rose", "house", "neon style")
    asks = [Ask(form.format("a cat"), "cat", "target") for form in forms] * 6
    for i, name in enumerate(name for name in OBJECTS if name != "cat"):
        group = "kept, near" if CATEGORY_OF[name][0] == "animal" else "kept, far"
        group = group if name in retain else f"{group}, held out"
        asks.append(Ask(forms[i % 4].format(article(name)), name, group))
    settings = ReceSettings.of(concepts=["cat"], guides=["animal"], retain=retain, epochs=EPOCHS)
    return Subject("subject", "cat", settings, tuple(asks))


def run(*, seed: int, model: ModelRef | str = "world", speed_too: bool = True) -> Steps[Measured]:
    """All four. Raises `ModelMismatch` when the original does not draw what is to be erased."""
    begun = time.perf_counter()
    yield Progress(0, 8, "Loading the model")
    bundle, judge = drawing.open_bundle(model), load_judge()
    styles = yield from _subject(bundle, judge, style(), seed, 1)
    things = yield from _subject(bundle, judge, thing(), seed, 4)
    rates: dict[str, dict[str, Counted]] = styles["rates"]  # type: ignore[assignment]
    before, after = rates["original"]["target"], rates.get("UCE", {}).get("target")
    if after is None:
        raise ModelMismatch(
            f"Of the original's neon pictures the judge knows {before['rate']:.0%}; no erasure can "
            "be judged on that.",
            "Train the checkpoint longer.",
        )
    yield Progress(6, 8, "Baking and undoing")
    edit = erase(bundle, style().settings)
    state = bundle.model.state_dict()
    undone = equal_bits_after_undo({name: state[name] for name in edit.names}, edit.bake, "rece")
    speeds: list[dict[str, Plain]] = []
    if speed_too:
        for found in speed.measure(seed):
            speeds.append({**asdict(found), "factor": found.factor})
            yield Progress(7, 8, found.task)
    return Measured.of(
        measured=after["rate"],
        versus=before["rate"],
        interval=(after["low"], after["high"]),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "style": styles,
            "object": things,
            "equal bits after undo": undone,
            "speed on the shapes of SD 1.4": speeds,
        },
    )


def _subject(
    bundle: DiffusionBundle, judge: Judge, subject: Subject, seed: int, done: int
) -> Found:
    """Rates and attacks of one subject; only the original's where that fails the gate."""
    edit = erase(bundle, subject.settings)
    groups = list(dict.fromkeys(ask.group for ask in subject.asks))
    rates: dict[str, dict[str, Counted]] = {}
    for stage in [None, *range(len(edit.stages))]:
        name = "original" if stage is None else edit.stages[stage].name
        hits: list[bool] = []
        for first in range(0, len(subject.asks), BATCH):
            part = subject.asks[first : first + BATCH]
            yield Progress(done, 8, f"{subject.target}, {name}: {first} of {len(subject.asks)}")
            cond = encode_prompt(bundle, [ask.prompt for ask in part])
            noise = drawing.start_noise(bundle, seed * 1000 + first, len(part))
            drawn = pictures_of(bundle, edit, cond, noise, stage=stage, steps=STEPS)
            hits += _shows(judge, subject.head, drawn, [ask.shows for ask in part])
        pairs = list(zip(subject.asks, hits, strict=True))
        rates[name] = {
            group: _counted([hit for ask, hit in pairs if ask.group == group]) for group in groups
        }
        if rates["original"]["target"]["rate"] < LEAST_ORIGINAL:
            verdict = "not judged: the original's rate is below 85 %"
            return {"erased": subject.target, "rates": rates, "verdict": verdict}
    attacks = yield from _attacks(bundle, judge, subject, edit, seed, done + 1)
    return {
        "erased": subject.target,
        "settings": subject.settings.plain(),
        "rates": rates,
        "attacks": attacks,
        "smallest singular value": {
            stage.name: float(values[-1])
            for stage, values in zip(edit.stages, edit.singular_values, strict=True)
        },
    }


def _attacks(
    bundle: DiffusionBundle, judge: Judge, subject: Subject, edit: Edit, seed: int, done: int
) -> Generator[Progress, None, dict[str, dict[str, Counted]]]:
    """Share of target prompts that come back under each attack, on each stage."""
    asks = subject.targets[: 2 * BATCH]
    cond, found = encode_prompt(bundle, [a.prompt for a in asks]), dict[str, dict[str, Counted]]()
    noise = drawing.start_noise(bundle, seed * 1000, len(asks))
    for number, stage in enumerate(edit.stages):
        found[stage.name] = {}
        for name, derived_on in (("old", 0), ("fresh", number)):
            yield Progress(done, 8, f"{subject.target}, attack on {stage.name}: {name}")
            asked, hits = attack(edit, derived_on, cond), list[bool]()
            for first in range(0, len(asks), BATCH):
                rows = slice(first, first + BATCH)
                drawn = pictures_of(
                    bundle, edit, asked.rows(rows), noise[rows], stage=number, steps=STEPS
                )
                hits += _shows(judge, subject.head, drawn, [a.shows for a in asks[rows]])
            found[stage.name][name] = _counted(hits)
    return found


def _shows(judge: Judge, head: str, pictures: np.ndarray, names: Sequence[str]) -> list[bool]:
    found = judge.judge(pictures)
    return [found.best(head, index)[0] == name for index, name in enumerate(names)]


def _counted(hits: Sequence[bool]) -> Counted:
    return asdict(Rate.of_hits(hits))

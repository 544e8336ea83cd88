"""The jobs: learn a relation, use it on new objects, measure it, bake it, and move it as a file."""

import base64
import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from engine.core import checks
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, fingerprint
from engine.core.recipe import ModelRef, Recipe
from engine.core.reversible import compare
from engine.core.settings import Range, Text
from engine.erasing import _evaluation as evaluation
from engine.erasing import _sampling as sampling
from engine.erasing._views import Prompts, View
from engine.erasing.reversion.exemplars import RELATIONS, pairs
from engine.erasing.reversion.learning import Course, Learnt, at_step, remembered
from engine.erasing.reversion.results import (
    Baked,
    Exported,
    Look,
    Measured,
    Neighbours,
    Opened,
    Relation,
    Score,
    Used,
)
from engine.erasing.reversion.settings import Settings, with_settings
from engine.erasing.reversion.steering import importance
from engine.erasing.reversion.words import (
    LARGEST_FILE,
    Word,
    grown_table,
    nearest,
    read_file,
    shipped_files,
    table_name,
    with_words,
    words_of,
    write_file,
)
from engine.metrics.intervals import Rate
from engine.models.diffusion import DiffusionBundle
from engine.models.library import resolve
from engine.models.vision import Verdicts
from engine.world.vocabulary import article

PROMPTS = ("a cat {} a house", "a star {} a boat")
MOST_PAIRS, MOST_WORD = 48, 200_000
CHANCE = 1 / 3  # the judge tells three relations apart


@with_settings
def run(
    *,
    seed: int,
    settings: Settings,
    model: ModelRef | str = "world",
    prompts: Prompts = PROMPTS,
    looks: Annotated[int, Range(1, 12, "Three show the way.")] = 3,
    sampler_steps: Annotated[int, Range(1, 100, "10 are enough for the judge.")] = 10,
    guidance_scale: Annotated[float, Range(0, 30, "4 is a good value.")] = 4.0,
) -> Steps[Relation]:
    """Learn the word, then draw new objects with it as it was at the start, on the way and at last.

    `{}` in a prompt stands for the word; `looks` is the number of drawings besides the first.
    """
    view = View.of(_filled(prompts, settings.placeholder), sampler_steps, guidance_scale)
    checks.count("looks", looks, 1, 12, "Three show the way.")
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    steps = int(bundle.scheduler.get("num_train_timesteps", 1000))
    shown = Relation(
        "own exemplars" if settings.pictures else settings.relation,
        settings.placeholder,
        view.prompts,
        density=_thinned(importance(steps, settings.alpha)),
    )
    begun = time.perf_counter()
    learnt = yield from _shown(remembered(bundle, settings, seed), shown)
    shown = replace(
        _with_course(shown, learnt.course),
        exemplars=np.stack([_small(e.picture) for e in learnt.exemplars]),
        descriptions=tuple(e.descriptions[0] for e in learnt.exemplars),
        relation_words=learnt.relation_words,
        word=learnt.word.text(),
        training_seconds=time.perf_counter() - begun,
        notes=_notes(bundle, settings, learnt, view),
    )
    done, chosen = settings.steps, _chosen_steps(learnt, looks)
    total = done + len(chosen) * view.steps
    for step in chosen:
        told = with_words(bundle, [at_step(learnt, step)])
        look = yield from _look(told, view, seed, step, done, total, shown)
        shown = replace(shown, looks=(*shown.looks, look))
        done += view.steps
    return shown


def use(
    *,
    seed: int,
    model: ModelRef | str = "world",
    word: Annotated[str, Text(MOST_WORD)] = "on top of",
    prompts: Prompts = PROMPTS,
    initialiser: Annotated[str, Text(40)] = "and",
    relation: Annotated[str, Text(60)] = "on top of",
    sampler_steps: Annotated[int, Range(1, 100, "10 are enough for the judge.")] = 12,
    guidance_scale: Annotated[float, Range(0, 30, "4 is a good value.")] = 4.0,
) -> Steps[Used]:
    """New objects in the relation: with the word, with the initialiser, and told in words.

    `word` is the name of a shipped one, or the text of one that was learnt; several stand between
    semicolons, each with a token of its own. All three from the same noise.
    """
    words = _words(word)
    ways = {words[0].token: words[0].token, f"“{initialiser}”": initialiser}
    ways |= {f"in words: “{relation}”": relation} if relation.strip() else {}
    views = {
        name: View.of(_filled(prompts, text), sampler_steps, guidance_scale)
        for name, text in ways.items()
    }
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    told = with_words(bundle, words)
    shown = Used(tuple(_filled(prompts, "…")), notes=_unknown(bundle, _filled(prompts, " "), words))
    done, total = 0, len(views) * sampler_steps
    for name, view in views.items():
        for step in view.walk(told, seed):
            done += 1
            half = sampling.decode(told, step.x0) if step.i % 3 == 2 else None
            rows = shown.rows if half is None else {**shown.rows, name: half}
            yield Progress(done, total, name, replace(shown, rows=rows))
        pictures = sampling.decode(told, step.z)
        shown = replace(
            shown,
            rows={**shown.rows, name: pictures},
            verdicts={**shown.verdicts, name: sampling.verdicts(told, pictures)},
        )
    return shown


def measure(
    *,
    seed: int,
    model: ModelRef | str = "world",
    word: Annotated[str, Text(MOST_WORD)] = "on top of",
    relation: Annotated[str, Text(60)] = "on top of",
    initialiser: Annotated[str, Text(40)] = "and",
    count: Annotated[int, Range(1, MOST_PAIRS, "12 give a first impression.")] = 12,
    sampler_steps: Annotated[int, Range(1, 100, "10 are enough for the judge.")] = 10,
) -> Steps[Measured]:
    """How often the relation and both objects are drawn, on pairs that no exemplar has.

    With the word, with the initialiser in its place, and with the relation told in words.
    """
    words = _words(word)
    checks.choice("relation", relation, tuple(RELATIONS))
    checks.count("count", count, 1, MOST_PAIRS, "12 give a first impression.")
    checks.count("sampler_steps", sampler_steps, 1, 100, "10 are enough for the judge.")
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.in_float32(sampling.open_bundle(model))
    if evaluation.judge_of(bundle) is None:
        raise BadInput(
            "Only the embedded world has a judge of relations.",
            "Use the word on this model, and look.",
        )
    ways = {words[0].token: words[0].token, f"“{initialiser}”": initialiser}
    ways[f"in words: “{relation}”"] = relation
    told, found = with_words(bundle, words), Measured(relation, chance=CHANCE)
    examined = pairs(relation, count, np.random.default_rng([seed, 3]), held_out=True)
    done, total = 0, len(ways) * len(examined)
    for name, text in ways.items():
        steps = examine(told, relation, text, examined, seed, sampler_steps)
        score, done = yield from _examined(steps, name, done, total, found)
        found = replace(found, scores=(*found.scores, score))
        yield Progress(done, total, name, found)
    return found


def bake(
    *,
    seed: int,
    model: ModelRef | str = "world",
    word: Annotated[str, Text(MOST_WORD)] = "on top of",
) -> Steps[Baked]:
    """The word as a patch that appends one row, applied and undone once; no old row may change."""
    words = _words(word)
    if len(words) > 1:
        raise BadInput("A patch holds one word.", "Bake them one after the other.")
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.open_bundle(model)
    with_words(bundle, words)  # refuses a token that the model has already
    name, ref = table_name(bundle), resolve(ModelRef(model) if isinstance(model, str) else model)
    label = f"{words[0].token} added"
    params = {"word": words[0].text(), "placeholder": words[0].token}
    recipe = Recipe("reversion", "bake", ref, params, seed, label=label).here()
    old = {name: bundle.model.state_dict()[name]}
    patch = Patch.between(old, {name: grown_table(bundle, words)}, recipe)
    applied = patch.apply(old)
    undone = patch.undo(applied)
    return Baked(
        label,
        patch,
        patch.digest,
        len(patch.rows[name]),
        patch.nbytes / 1e3,
        fingerprint(old[name]),
        fingerprint(applied[name]),
        fingerprint(undone[name]),
        compare(old, undone),
    )


def export(
    *,
    seed: int,
    model: ModelRef | str = "world",
    word: Annotated[str, Text(MOST_WORD)] = "on top of",
) -> Steps[Exported]:
    """The word as a textual inversion file, which is read back at once."""
    words = _words(word)
    yield Progress(0, 1, "Writing the file")
    ref = resolve(ModelRef(model) if isinstance(model, str) else model)
    file = write_file(words, {"base": ref.source, "revision": ref.revision or ""})
    again = read_file(file.data)
    rows = {w.token: w.row.float() for w in words}
    trip = compare(rows, {w.token: w.row for w in again})
    tokens = tuple(w.token for w in again)
    note = f'pipeline.load_textual_inversion("{file.name}", token="{tokens[0]}")'
    return Exported({file.name.rpartition(".")[0]: file}, tokens, trip.equal_bits, note)


def read(
    *,
    seed: int,
    model: ModelRef | str = "world",
    file: Annotated[str, Text(2 * LARGEST_FILE)] = "",
) -> Steps[Opened]:
    """The words of a textual inversion file of safetensors.

    `file` is its content as base64, or the name of a shipped word.
    """
    if not isinstance(file, str) or not file or len(file) > 2 * LARGEST_FILE:
        raise BadInput("No file is given.", "Choose a textual inversion file.")
    shipped = shipped_files()
    try:
        data = shipped[file].read_bytes() if file in shipped else base64.b64decode(file)
    except ValueError as error:
        raise BadInput("This file did not arrive whole.", "Choose it again.") from error
    words = read_file(data)
    yield Progress(0, 1, "Loading the model")
    bundle = sampling.open_bundle(model)
    with_words(bundle, words)
    near = nearest(bundle, words[0].row)
    return Opened("; ".join(w.text() for w in words), tuple(w.token for w in words), near)


# ---------------------------------------------------------------------- looking on the way


def _shown(steps: Steps[Learnt], shown: Relation) -> Generator[Progress, None, Learnt]:
    def tell(event: Progress) -> Progress:
        course = event.preview
        preview = _with_course(shown, course) if isinstance(course, Course) else None
        return replace(event, preview=preview)

    return (yield from relay(steps, tell))


def _with_course(shown: Relation, course: Course) -> Relation:
    near = tuple(Neighbours(saved.step, saved.nearest) for saved in course.saved)
    return replace(shown, denoising=course.denoising, steering=course.steering, neighbours=near)


def _chosen_steps(learnt: Learnt, looks: int) -> list[int]:
    saved = [saved.step for saved in learnt.course.saved]
    places = np.linspace(0, len(saved) - 1, looks + 1).round().astype(int)
    return [saved[place] for place in sorted(set(places.tolist()))]


def _look(
    told: DiffusionBundle,
    view: View,
    seed: int,
    at: int,
    done: int,
    total: int,
    shown: Relation,
) -> Generator[Progress, None, Look]:
    for step in view.walk(told, seed):
        preview = shown
        if step.i % 3 == 2:
            half = Look(at, sampling.decode(told, step.x0), ())
            preview = replace(shown, looks=(*shown.looks, half))
        yield Progress(done + step.i + 1, total, f"Drawing with the word after {at} steps", preview)
    pictures = sampling.decode(told, step.z)
    return Look(at, pictures, sampling.verdicts(told, pictures))


def _small(picture: np.ndarray) -> np.ndarray:
    """Exemplars at one size, to be shown side by side."""
    from engine.erasing._learning import fitted

    return fitted(picture, min(256, max(64, min(picture.shape[:2]))), "letterbox")


def _thinned(density: np.ndarray) -> np.ndarray:
    return density[:: max(len(density) // 100, 1)]


def _notes(
    bundle: DiffusionBundle, settings: Settings, learnt: Learnt, view: View
) -> tuple[str, ...]:
    found = list(_unknown(bundle, view.prompts, [learnt.word]))
    if settings.steer_weight and bundle.vocabulary is not None:
        found.append(
            f"Of the 56 words of relation this model knows {len(learnt.relation_words)}: "
            f"{', '.join(learnt.relation_words)}."
        )
    return tuple(found)


def _unknown(
    bundle: DiffusionBundle, prompts: Sequence[str], words: Sequence[Word]
) -> tuple[str, ...]:
    """A sentence about words that the model never saw; the learnt ones are no such words."""
    texts = list(prompts)
    for word in words:
        texts = [text.replace(word.token, " ") for text in texts]
    unknown = sampling.unknown_words(bundle, texts)
    if not unknown:
        return ()
    return (f"This model never saw the words: {', '.join(unknown)}. It draws something for them.",)


# ---------------------------------------------------------------------- words and prompts


def _words(text: object) -> tuple[Word, ...]:
    if not isinstance(text, str) or not text.strip() or len(text) > MOST_WORD:
        raise BadInput("There is no word to use.", 'Learn one, or take "on top of".')
    return words_of(text)


def _filled(prompts: Sequence[str], word: str) -> list[str]:
    """The prompts with the word in its place. Raises `BadInput` for anything but texts."""
    listed = prompts.split(";") if isinstance(prompts, str) else prompts
    if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
        raise BadInput("The prompts must be texts.", 'Write for example "a cat {} a house".')
    return [text.strip().replace("{}", word) for text in listed if text.strip()]


# ---------------------------------------------------------------------- the examination


def examine(
    told: DiffusionBundle,
    relation: str,
    text: str,
    examined: Sequence[tuple[str, str]],
    seed: int,
    sampler_steps: int,
    batch: int = 4,
) -> Generator[int, None, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each pair whether relation, entities and the whole are right; yields pairs done."""
    judge = evaluation.judge_of(told)
    assert judge is not None
    found: list[tuple[bool, bool, bool]] = []
    for first in range(0, len(examined), batch):
        part = examined[first : first + batch]
        view = View(tuple(f"{article(a)} {text} {article(b)}" for a, b in part), sampler_steps, 4.0)
        for step in view.walk(told, seed * 1000 + first):
            latents = step.z
            yield first
        verdicts = judge.judge(sampling.decode(told, latents))
        found += [verdict(verdicts, i, relation, pair) for i, pair in enumerate(part)]
    columns = np.array(found, dtype=bool).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]


def verdict(
    verdicts: Verdicts, index: int, relation: str, pair: tuple[str, str]
) -> tuple[bool, bool, bool]:
    """Whether a picture shows the relation, both objects, and both the right way round."""
    told = RELATIONS[relation]
    subject, other, seen = (
        verdicts.best(head, index)[0] for head in ("subject", "other", "relation")
    )
    wanted = pair[::-1] if told.swapped else pair
    is_related = seen == told.base
    return is_related, {subject, other} == set(pair), is_related and (subject, other) == wanted


def _examined(
    steps: Generator[int, None, tuple[np.ndarray, np.ndarray, np.ndarray]],
    name: str,
    done: int,
    total: int,
    found: Measured,
) -> Generator[Progress, None, tuple[Score, int]]:
    hits = yield from relay(steps, lambda now: Progress(done + now, total, name, found))
    return Score(name, *map(Rate.of_hits, hits)), done + len(hits[0])

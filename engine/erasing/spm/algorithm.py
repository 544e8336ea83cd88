"""The jobs: train and compare, read the gates, transfer, bake to a patch, export.

The adapter is in `membrane`, its training in `training`, its files in `files`.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Annotated, TypeVar, get_args

import numpy as np
import torch

from engine.core import budgets
from engine.core.baked import Baked
from engine.core.cache import LruCache
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress, Steps, relay
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef, Recipe
from engine.core.reversible import compare
from engine.core.settings import Items, OneOf, Range, Text, checked
from engine.core.shapes import Float, Tensor
from engine.core.taking import taking
from engine.erasing._eraser import Asked
from engine.erasing._progress import WHOLE, within
from engine.erasing.spm.files import FORMS, HEAD, MOST_BYTES, baked, exported, read_text
from engine.erasing.spm.membrane import (
    METRICS,
    Membrane,
    Metric,
    check_fit,
    permeability,
    sites,
    token_shares,
    with_membranes,
)
from engine.erasing.spm.results import (
    Curve,
    Exported,
    Gate,
    Gates,
    Row,
    TokenGate,
    Transferred,
    Transported,
)
from engine.erasing.spm.shipped import shipped
from engine.erasing.spm.training import Plan, Trained, train
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle, empty_prompt, encode_prompt, words_cut
from engine.models.drawing import GuidanceScale, Prompts, SamplerSteps, View
from engine.models.library import resolve

R = TypeVar("R")
MOST_CONCEPTS, MOST_FILES = 6, 6
WAYS = (*METRICS, "open", "official")
Strength = Annotated[float, Range(0, 2, "1 is an open membrane.")]
ORIGINAL, UNDONE = "original", "undone"
# Above this cosine of unrelated texts the published gate stands open for everything.
BLUNT = 0.9
UNRELATED = ("a car", "a house", "a rose", "a guitar", "a dog")


@dataclass(frozen=True)
class SpmSettings:
    """Which membranes, and how they are trained; `files` are published files as data texts.

    A membrane that ships with the model is taken where there is one for these settings, unless a
    `fresh` one is asked for.
    """

    concepts: Annotated[tuple[Annotated[str, Text(300)], ...], Items(MOST_CONCEPTS)] = ("cat",)
    anchor: Annotated[str, Text(300)] = ""
    eta: Annotated[float, Range(0, 10, "1 is the published value.")] = Plan.eta
    la_strength: Annotated[float, Range(0, 1e6, "Try 100 to 1000.")] = Plan.la_strength
    anchors: Annotated[int, Range(0, 16, "4 is the published number.")] = Plan.anchors
    iterations: Annotated[int, Range(1, 3000, "100 take some seconds.")] = Plan.iterations
    learning_rate: Annotated[float, Range(1e-6, 0.1, "Try 0.003.")] = Plan.learning_rate
    rank: Annotated[int, Range(1, 16, "The paper's rank is 1.")] = 1
    official_anchor_order: bool = False
    fresh: bool = False
    files: Annotated[tuple[Annotated[str, Text(MOST_BYTES * 4 // 3)], ...], Items(MOST_FILES)] = ()

    @classmethod
    def of(cls, **values: object) -> "SpmSettings":
        """Settings from plain values, checked. Raises `BadInput` that names what cannot be used."""
        chosen = cls(**checked(cls, values))  # type: ignore[arg-type]
        concepts = tuple(dict.fromkeys(text for word in chosen.concepts if (text := word.strip())))
        if not concepts and not chosen.files:
            raise BadInput("There is no concept to erase.", 'Name one, such as "cat".')
        if not all(text.startswith(HEAD) for text in chosen.files):
            raise BadInput("An adapter must be a safetensors file.", "Upload it again.")
        return replace(chosen, concepts=concepts, anchor=chosen.anchor.strip())

    @property
    def plan(self) -> Plan:
        names = {field.name for field in fields(Plan)}
        return Plan(**{name: value for name, value in asdict(self).items() if name in names})

    @property
    def name(self) -> str:
        """The name of the edit on the shelf."""
        return f"SPM {', '.join(self.concepts) or 'file'}"[:70]

    def plain(self) -> dict[str, object]:
        """As a recipe keeps them."""
        return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(self).items()}


with_settings = taking(settings=SpmSettings)


@with_settings
def run(
    *,
    seed: int,
    settings: SpmSettings,
    model: ModelRef | str = "world",
    prompts: Prompts = ("a cat", "a dog"),
    ways: Annotated[Sequence[Annotated[str, OneOf(WAYS)]], Items(len(WAYS), fewest=1)] = (
        "clipcos_tokenuni",
        "tokenuni",
        "open",
    ),
    steps: SamplerSteps = 8,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Transported]:
    """Trains a membrane for each concept, then draws the prompts in each way of opening them.

    `ways` are metrics of the gate, "open" (gamma 1) and "official" (the published merge, by which
    one membrane acts with gamma squared). The last row is drawn with the membranes taken off.
    """
    view = View.of(prompts, steps, guidance_scale)
    yield Progress(0, 1, "Loading the model")
    bundle = drawing.open_bundle(model)
    notes = tuple(_notes(bundle, settings, view.prompts))
    shown = Transported(view.prompts, settings.concepts, notes=notes)
    first = _rows(bundle, [], view, (), seed, shown, undone=False)
    shown = yield from within(first, 0.0, 0.1)
    training = _trained(bundle, settings, seed, shown)
    membranes, shown = yield from within(training, 0.1, 0.7)
    before = _fingerprint(bundle, membranes)
    metric = _metric(next((way for way in ways if way in METRICS), METRICS[0]))
    gates, tokens = _gates(bundle, membranes, view.prompts, metric)
    shown = replace(
        shown,
        gates=gates,
        tokens=tokens,
        parameters=sum(membrane.parameters for membrane in membranes),
        layers=len(sites(bundle.unet)),
        kilobytes=sum(membrane.parameters for membrane in membranes) * 4 / 1e3,
        weights_before=before,
    )
    yield Progress(int(0.7 * WHOLE), WHOLE, "The gates are read", shown)
    rows = _rows(bundle, membranes, view, ways, seed, shown)
    shown = yield from within(rows, 0.7, 1.0)
    blunt = _bluntness(bundle, membranes)
    if blunt > BLUNT and "clipcos_tokenuni" in ways:
        note = (
            f"On this model whole prompts are much alike (mean cosine {blunt:.2f} between the "
            "concept and unrelated prompts), so the published gate is open for everything; the "
            "shared words alone tell prompts apart here."
        )
        shown = replace(shown, notes=(*shown.notes, note))
    return replace(shown, weights_after=_fingerprint(bundle, membranes))


@with_settings
def gate(
    *,
    seed: int,
    settings: SpmSettings,
    model: ModelRef | str = "world",
    prompts: Prompts = ("a cat", "a dog"),
    metric: Annotated[str, OneOf(METRICS)] = "clipcos_tokenuni",
) -> Steps[Gates]:
    """How far each prompt would open each concept's membrane. Needs no training and no picture."""
    yield Progress(0, 1, "Reading the gates")
    bundle = drawing.open_bundle(model)
    membranes = [Membrane((concept,), {}, {}) for concept in settings.concepts]
    membranes += [read_text(text, bundle.unet) for text in settings.files]
    gates, tokens = _gates(bundle, membranes, prompts, _metric(metric))
    return Gates(gates, tokens, tuple(_notes(bundle, settings, prompts)))


@with_settings
def transfer(
    *,
    seed: int,
    settings: SpmSettings,
    model: ModelRef | str = "world",
    to: ModelRef | Annotated[str, Text(budgets.SOURCE_CHARACTERS)] = "world-sister",
    prompts: Prompts = ("a cat", "a dog"),
    way: Annotated[str, OneOf(WAYS)] = "tokenuni",
    steps: SamplerSteps = 8,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Transferred]:
    """The membranes of one checkpoint on another of the same architecture, without training.

    The gate reads the destination's own text encoder. Raises `AssetMissing` when the destination is
    not installed, `ModelMismatch` when its UNet is another one.
    """
    view = View.of(prompts, steps, guidance_scale)
    yield Progress(0, 1, "Loading both models")
    away = drawing.open_bundle(to)
    home = drawing.open_bundle(model)
    _check_same_layout(home, away)
    shown = Transported(view.prompts, settings.concepts)
    names = home.card.title, away.card.title
    both = Transferred(view.prompts, settings.concepts, *names)
    training = _trained(home, settings, seed, shown)
    membranes, shown = yield from _joining(within(training, 0.0, 0.6), both, "")
    for membrane in membranes:
        check_fit(away.unet, membrane)
    notes = tuple(_notes(away, settings, view.prompts))
    both = replace(both, curves=shown.curves, notes=notes)
    for bundle, title, start in ((home, "home", 0.6), (away, "away", 0.8)):
        rows = _rows(bundle, membranes, view, (way,), seed, replace(shown, rows=()), undone=False)
        drawn = yield from _joining(within(rows, start, start + 0.2), both, title)
        both = replace(both, rows=both.rows + _titled(drawn.rows, title))
    return both


def _joining(
    steps: Generator[Progress, None, R], both: Transferred, title: str
) -> Generator[Progress, None, R]:
    """Events of a part whose previews join what there is so far, rows under this title."""

    def tell(event: Progress) -> Progress:
        part = event.preview if isinstance(event.preview, Transported) else Transported((), ())
        rows = both.rows + _titled(part.rows, title)
        return replace(event, preview=replace(both, rows=rows, curves=part.curves or both.curves))

    return (yield from relay(steps, tell))


@with_settings
def bake(
    *,
    seed: int,
    settings: SpmSettings,
    model: ModelRef | str = "world",
    strength: Strength = 1.0,
) -> Steps[Baked]:
    """The open membranes added to the weights, as a patch, applied and undone once."""
    yield Progress(0, 3, "Loading the model")
    bundle = drawing.open_bundle(model)
    shown = Transported((), settings.concepts)
    membranes, _ = yield from within(_trained(bundle, settings, seed, shown), 0.0, 0.9)
    old = dict(bundle.model.state_dict())
    new = baked(old, membranes, [strength] * len(membranes))
    ref = resolve(model)
    params = {**settings.plain(), "strength": strength}
    recipe = Recipe("spm", "bake", ref, params, seed, label=settings.name).here()
    patch = Patch.between(old, old | new, recipe)
    yield Progress(WHOLE, WHOLE, "Applying and undoing")
    touched = {name: old[name] for name in new}
    return Baked.of(settings.name, patch, touched)


@with_settings
def export(
    *,
    seed: int,
    settings: SpmSettings,
    model: ModelRef | str = "world",
    form: Annotated[str, OneOf(FORMS)] = "spm",
    strength: Strength = 1.0,
) -> Steps[Exported]:
    """The membranes as files for other tools, read back and compared with the baked weights.

    `form` is "spm" (the published format), "stacked" (one LoRA of rank k), "diffusers" (diffusers
    and PEFT) or "web" (without proj_in and proj_out). `strength` is the fixed gamma of all but the
    first.
    """
    yield Progress(0, 2, "Loading the model")
    bundle = drawing.open_bundle(model)
    shown = Transported((), settings.concepts)
    membranes, _ = yield from within(_trained(bundle, settings, seed, shown), 0.0, 0.9)
    files, error, how = exported(bundle, membranes, form, strength)
    return Exported(form, files, sum(m.parameters for m in membranes), error, how)


# ---------------------------------------------------------------------- training and gates


def _trained(
    bundle: DiffusionBundle, settings: SpmSettings, seed: int, shown: Transported
) -> Generator[Progress, None, tuple[list[Membrane], Transported]]:
    """The membranes of all concepts, trained or remembered, then those of the files."""
    uploaded = [read_text(text, bundle.unet) for text in settings.files]
    membranes = []
    for number, concept in enumerate(settings.concepts):
        trained = None if settings.fresh else shipped(bundle, concept, settings.plan)
        if trained is not None:
            note = f'The membrane of "{concept}" ships with the model; "Train it here" makes one.'
            shown = replace(shown, notes=(*shown.notes, note))
        else:
            steps = train(bundle, concept, settings.plan, seed)
            trained = yield from relay(steps, partial(_training, shown, settings, number))
        shown = _with_curve(shown, settings, number, trained)
        membranes.append(trained.membrane)
    return [*membranes, *uploaded], shown


def _training(
    shown: Transported, settings: SpmSettings, number: int, event: tuple[Progress, Trained]
) -> Progress:
    """The progress of training one concept's membrane as a share of that of all."""
    (step, trained), iterations = event, settings.iterations
    done, total = number * iterations + step.done, len(settings.concepts) * iterations
    preview = _with_curve(shown, settings, number, trained)
    return Progress(done, total, f"Training: {step.note}", preview)


def _with_curve(
    shown: Transported, settings: SpmSettings, number: int, trained: Trained
) -> Transported:
    curve = _curve(settings.concepts[number], trained, settings.iterations)
    return replace(shown, curves=(*shown.curves, curve))


def _curve(concept: str, trained: Trained, iterations: int) -> Curve:
    erase, anchor = (
        np.array([getattr(loss, name) for loss in trained.losses], np.float32)
        for name in ("erase", "anchor")
    )
    return Curve(concept, erase, anchor, iterations, trained.was_resumed)


def _gates(
    bundle: DiffusionBundle, membranes: Sequence[Membrane], prompts: Sequence[str], metric: Metric
) -> tuple[tuple[Gate, ...], tuple[TokenGate, ...]]:
    """Every gate with its parts, and for the concept nearest to each prompt the share by token."""
    opened = permeability(bundle, membranes, prompts, metric)
    centred = permeability(bundle, membranes, prompts, "centred")
    gates, tokens = [], []
    for row, prompt in enumerate(prompts):
        first = 0
        for k, membrane in enumerate(membranes):
            part = slice(first, first + len(membrane.prompts))
            first += len(membrane.prompts)
            parts = (opened.cos[row, part], opened.tokens[row, part], centred.cos[row, part])
            cos, words, bare = (float(v.max()) if len(v) else 1.0 for v in parts)
            gamma = float(opened.gamma[row, k])
            gates.append(Gate(prompt, membrane.name, cos, words, bare, gamma))
            if membrane.prompts:
                nearest = membrane.prompts[int(parts[0].argmax())]
                tokens += [
                    TokenGate(prompt, membrane.name, place, t.token, t.is_shared, t.share)
                    for place, t in enumerate(token_shares(bundle, prompt, nearest))
                ]
    return tuple(gates), tuple(tokens)


def _bluntness(bundle: DiffusionBundle, membranes: Sequence[Membrane]) -> float:
    """Mean cosine of the concepts with texts that have nothing to do with them."""
    named = " ".join(text for membrane in membranes for text in membrane.prompts).split()
    texts = [text for text in UNRELATED if text.split()[-1] not in named]
    held = [membrane for membrane in membranes if membrane.prompts]
    if not held:
        return 0.0
    return float(permeability(bundle, held, texts, "clipcos").cos.mean())


def opened_by(
    bundle: DiffusionBundle, membranes: Sequence[Membrane], asked: Asked, way: str
) -> Float[Tensor, "b k"]:
    """Gamma of every membrane for every prompt, in one of the ways."""
    if way == "open":
        return torch.ones(len(asked), len(membranes))
    metric = "clipcos_tokenuni" if way == "official" else _metric(way)
    return permeability(bundle, membranes, asked.texts, metric, asked.cond).gamma


def _metric(text: str) -> Metric:
    (metric,) = (metric for metric in get_args(Metric) if metric == text)
    return metric


# ---------------------------------------------------------------------- pictures


def _rows(
    bundle: DiffusionBundle,
    membranes: Sequence[Membrane],
    view: View,
    ways: Sequence[str],
    seed: int,
    shown: Transported,
    *,
    undone: bool = True,
) -> Generator[Progress, None, Transported]:
    """The original, each way, and the original again, from one noise in one batch.

    The original's pictures are kept for the next run; the last row is always drawn afresh.
    """
    asked = Asked(view.prompts, encode_prompt(bundle, view.prompts))
    uncond, noise = empty_prompt(bundle), view.noise(bundle, seed)
    key = view.cache_key(bundle, seed)
    kept = _ORIGINALS.peek(key)
    rows: tuple[Row, ...] = () if kept is None else (kept,)
    names = [*([ORIGINAL] if kept is None else []), *ways, *([UNDONE] if undone else [])]
    for turn, way in enumerate(names):
        network = bundle
        if way not in (ORIGINAL, UNDONE):
            gamma = opened_by(bundle, membranes, asked, way)
            network = with_membranes(bundle, membranes, gamma, official_merge=way == "official")
        walked = view.walk_with(network, asked.cond, uncond, noise)
        for done, pictures in view.preview(bundle, walked):
            shown = replace(shown, rows=(*rows, Row(way, pictures, (), (), "")))
            done += turn * view.steps
            yield Progress(done, len(names) * view.steps, f"Drawing: {way}", shown)
        first = rows[0].pictures if rows else pictures
        change = np.abs(pictures.astype(np.int16) - first).mean((1, 2, 3))
        verdicts = drawing.verdicts(bundle, pictures)
        row = Row(way, pictures, verdicts, tuple(change.tolist()), drawing.sha256(pictures))
        rows = (*rows, row)
        if way == ORIGINAL:
            _ORIGINALS.put(key, row)
    shown = replace(shown, rows=rows)
    if undone:
        pair = (torch.from_numpy(row.pictures) for row in (rows[0], rows[-1]))
        shown = replace(shown, undo=compare(*pair))
    return shown


_ORIGINALS: LruCache[Row] = LruCache()


def _titled(rows: Sequence[Row], title: str) -> tuple[Row, ...]:
    return tuple(replace(row, way=f"{title}: {row.way}") for row in rows)


# ---------------------------------------------------------------------- checks and words


def _fingerprint(bundle: DiffusionBundle, membranes: Sequence[Membrane]) -> str:
    """Of the layers that carry membranes, as the model holds them now."""
    held, paths = dict(bundle.model.state_dict()), {p for m in membranes for p in m.down}
    names = sorted(f"unet.{path}.weight" for path in paths)
    return state_fingerprint({name: held[name] for name in names})


def _check_same_layout(home: DiffusionBundle, away: DiffusionBundle) -> None:
    ours, theirs = (
        {path: layer.weight.shape for path, layer in sites(bundle.unet).items()}
        for bundle in (home, away)
    )
    if ours != theirs:
        other = [path for path in {**ours, **theirs} if ours.get(path) != theirs.get(path)]
        raise ModelMismatch(
            f"{away.card.title} has another UNet than {home.card.title}: {', '.join(other[:3])}.",
            "Transfer goes between checkpoints of one architecture, such as SD 1.4 and 1.5.",
        )


def _notes(bundle: DiffusionBundle, settings: SpmSettings, prompts: Sequence[str]) -> Iterator[str]:
    """What a visitor should know before trusting the pictures."""
    yield from drawing.unknown_words_note(bundle, [*settings.concepts, settings.anchor, *prompts])
    for prompt in prompts:
        if cut := words_cut(bundle, prompt):
            yield f'The end of a prompt is not seen by the text encoder: "{cut[:60]}".'
    if settings.la_strength == 0 or settings.anchors == 0:
        yield "Without anchoring nothing holds the other concepts in place."

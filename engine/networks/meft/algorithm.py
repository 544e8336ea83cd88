"""The jobs: see the start and the way back, ask whether it fits, fine-tune, predict.

Units and encoder are in `engine.networks._meft`, what is compared with in `arms`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import torch

from engine.core import checks
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Int, Tensor
from engine.models import _sources
from engine.models.library import ASSETS, MODELS, verify
from engine.networks import _digits as scans
from engine.networks._backbones import Batch
from engine.networks._meft import ANCHOR_ERROR, DEFAULTS, MeftConfig
from engine.networks._meft_models import DIGITS, KINDS, Encoder, open_encoder
from engine.networks.meft import adapter_file, fit, lora_file, measure, tasks, training
from engine.networks.meft.arms import ARMS, arm_named, classifier, trained_parameters
from engine.networks.meft.results import Answered, Curve, Fitted, Reversed, Tuned
from engine.reversible import suggest_anchor
from engine.reversible.memory import kept_bytes
from engine.reversible.replay import accelerators, forked_noise

SHOWN = ("full", "lora", "lora-checkpoint", "meft-plain", "meft", "meft-pure")
MOST_ARMS, MOST_TEXTS, LONGEST_TEXT, LONGEST_TABLE = 6, 32, 400, 200_000
MOST_STEPS, MOST_BATCH, MOST_TOKENS, MOST_LAYERS, MOST_RANK = 400, 256, 2048, 96, 128
NO_ANCHORS_UP_TO = 4  # layers that need no warning at |scale| < 0.05

EXAMPLES = ("a cat left of a dog", "a rose in neon style", "a house under a cloud")

VariantSetting = Annotated[int, Range(1, 3, "1 has an adapter beside the layer, 3 splits it.")]
ScaleSetting = Annotated[float, Range(0, 1, "0 means the variant's own.")]
RankSetting = Annotated[int, Range(1, MOST_RANK, "The paper takes 8.")]
LayersSetting = Annotated[int, Range(0, MOST_LAYERS, "0 means all of them.")]
AnchorsSetting = Annotated[str, Text(8, 1, 'Write "auto", "none", or a number of layers.')]
TextsSetting = Annotated[
    Sequence[Annotated[str, Text(LONGEST_TEXT)]], Items(MOST_TEXTS, separator=";", blanks=False)
]
ArmsSetting = Annotated[Sequence[Annotated[str, OneOf(ARMS)]], Items(MOST_ARMS, fewest=1)]


def run(
    *,
    seed: int,
    model: ModelRef | str = DIGITS,
    variant: VariantSetting = 1,
    lam: ScaleSetting = 0.0,
    beta: ScaleSetting = 0.0,
    rank: RankSetting = 8,
    reversible_layers: LayersSetting = 0,
    anchors: AnchorsSetting = "auto",
    texts: TextsSetting = EXAMPLES,
    depth: Annotated[int, Range(1, MOST_LAYERS, "Try 12.")] = 12,
    batch: Annotated[int, Range(1, MOST_BATCH, "Try 16.")] = 16,
    tokens: Annotated[int, Range(1, MOST_TOKENS, "Try 16.")] = 16,
    arms: ArmsSetting = SHOWN,
) -> Steps[Reversed]:
    """The start against lambda, errors of walking back by layer, and bytes of every arm.

    A `lam` or `beta` of 0 means the variant's own. Bytes are computed for `depth` layers of this
    model's sizes at this batch and length.
    """
    config = _config(variant, lam, beta, rank, reversible_layers, anchors)
    named = _arms(arms)
    said = _texts(texts)
    yield Progress(0, 1, "Opening the model")
    encoder = open_encoder(model)
    layers = len(encoder.backbone.layers)
    read, labels = _inputs(encoder, said)
    shown = _first(encoder, config, read, labels)
    total = len(measure.LAMBDAS) + 1 + len(named)
    yield Progress(0, total, "The network as it was pre-trained")
    for start in measure.starts(encoder, config, read, labels, seed):
        shown = replace(shown, starts=(*shown.starts, start))
        yield Progress(len(shown.starts), total, f"The start at lambda {start.lam:g}", shown)
    few, few_labels = _few(read, labels)
    found, trip = measure.errors(encoder, config, few, few_labels, seed)
    shown = replace(shown, errors=found, trip=trip, notes=_notes(config, layers))
    yield Progress(len(measure.LAMBDAS) + 1, total, "The way back", shown)
    scale = fit.like(encoder, depth)
    for done, name in enumerate(named, start=len(measure.LAMBDAS) + 2):
        cost = yield from fit.arm_cost(
            scale, name, _of_depth(config), batch, _tokens(encoder, tokens),
            partial(_counted, done - 1, total, ARMS[name].title, shown),
            patches=encoder.reads_digits,
        )  # fmt: skip
        shown = replace(shown, costs=(*shown.costs, cost))
        yield Progress(done, total, f"Bytes of {cost.title}", shown)
    return shown


def fits(
    *,
    seed: int,
    scale: Annotated[str, OneOf(fit.SCALES)] = "bert-base",
    batch: Annotated[int, Range(1, MOST_BATCH, "Try 32.")] = 32,
    tokens: Annotated[int, Range(1, MOST_TOKENS, "Try 512.")] = 512,
    gibibytes: Annotated[float, Range(0.1, 4096, "Try 8.")] = 8.0,
    variant: VariantSetting = 1,
    rank: RankSetting = 8,
    reversible_layers: LayersSetting = 0,
    anchors: AnchorsSetting = "auto",
    arms: ArmsSetting = SHOWN,
) -> Steps[Fitted]:
    """Will it fit? Bytes of a step of a published model, computed on shapes alone.

    Nothing is random and no weights are read; the seed is not used.
    """
    config = _config(variant, 0.0, 0.0, rank, reversible_layers, anchors)
    named, sizes = _arms(arms), fit.scale_named(scale)
    checks.count("tokens", tokens, 1, min(MOST_TOKENS, sizes.longest))
    shown = Fitted(scale, batch, tokens, gibibytes)
    yield Progress(0, len(named), "Laying out shapes")
    built = fit.config_of(sizes)
    for done, name in enumerate(named, start=1):
        told = partial(_counted, done - 1, len(named), ARMS[name].title, shown)
        cost = yield from fit.arm_cost(built, name, config, batch, tokens, told)
        found = (name,) if cost.total_bytes <= gibibytes * 2**30 else ()
        shown = replace(shown, costs=(*shown.costs, cost), fits=(*shown.fits, *found))
        yield Progress(done, len(named), f"Bytes of {cost.title}", shown)
    return shown


def train(
    *,
    seed: int,
    model: ModelRef | str = DIGITS,
    arms: ArmsSetting = ("meft", "lora", "full"),
    table: Annotated[str, Text(LONGEST_TABLE, advice="Write at most 2,000 rows.")] = "",
    variant: VariantSetting = 1,
    lam: ScaleSetting = 0.0,
    beta: ScaleSetting = 0.0,
    rank: RankSetting = 8,
    reversible_layers: LayersSetting = 0,
    anchors: AnchorsSetting = "auto",
    steps: Annotated[int, Range(1, MOST_STEPS, "Try 40.")] = 40,
    batch: Annotated[int, Range(1, MOST_BATCH, "Try 16.")] = 16,
    learning_rate: Annotated[float, Range(1e-6, 0.1, "1e-3 is a good start.")] = 1e-3,
    texts: TextsSetting = (),
) -> Steps[Tuned]:
    """Fine-tune on a new task with each arm; the adapters of the first MEFT arm are exported, read
    back into a fresh copy of the model, and asked about `texts`.

    `table` is a CSV of texts and labels; without one the task belongs to the model.
    """
    config = _config(variant, lam, beta, rank, reversible_layers, anchors)
    named = _arms(arms)
    said = tuple(texts)
    if table.strip():
        tasks.from_csv(table, seed)
    plan = training.Plan(steps, batch, learning_rate)
    yield Progress(0, 1, "Opening the model")
    encoder = open_encoder(model)
    task = tasks.task_of(encoder, table, seed)
    shown = Tuned(task.title, task.classes, len(task.train), len(task.test))
    for index, name in enumerate(named):
        shown = yield from _trained(encoder, task, name, config, plan, seed, shown, index, named)
    if said and shown.adapter is not None and shown.adapter_config is not None:
        network = adapter_file.restored(encoder, _read_back(shown))
        found = training.predicted(network, encoder, list(said), task.classes)
        shown = replace(shown, predictions=found)
    return shown


def predict(
    *,
    seed: int,
    adapters: Annotated[str, Text(500, 1, "Name the folder of adapters.")] = KINDS,
    base: Annotated[str, Text(500)] = "",
    texts: TextsSetting = EXAMPLES,
) -> Steps[Answered]:
    """Texts through adapters that were exported before: the shipped ones, a folder, or an upload
    of it as a zip.

    `base` is the model that they were trained on, where its name alone does not find it. Nothing is
    random; the seed is not used.
    """
    said = _texts(texts)
    kept = adapter_file.read(_adapter_folder(adapters.strip()))
    yield Progress(0, 1, "Opening the model")
    encoder = open_encoder(base.strip() or kept.base)
    network = adapter_file.restored(encoder, kept)
    yield Progress(1, 1, "Reading the texts")
    found = training.predicted(network, encoder, list(said), kept.classes)
    return Answered(encoder.name, kept.classes, found)


def _texts(texts: Sequence[str]) -> tuple[str, ...]:
    if not texts:
        raise BadInput("Give at least one text.", f'Try "{EXAMPLES[0]}".')
    return tuple(texts)


def _adapter_folder(source: str) -> Path:
    if source == KINDS and KINDS in MODELS:
        verify(MODELS[KINDS], ASSETS / KINDS)
        return ASSETS / KINDS
    return _sources.from_user(source)


# ---------------------------------------------------------------------- settings


def _config(
    variant: int, lam: float, beta: float, rank: int, reversible_layers: int, anchors: str
) -> MeftConfig:
    """The settings as the encoder takes them. Raises `BadInput`."""
    return MeftConfig(
        variant=variant,  # type: ignore[arg-type]
        lam=lam or None,
        beta=beta or None,
        rank=rank,
        reversible_layers=reversible_layers or None,
        anchor_every=_anchor(anchors),
    )


def _anchor(anchors: object) -> int | Literal["auto"] | None:
    """ "auto", "none", or a number of layers between anchors."""
    if anchors == "auto":
        return "auto"
    if anchors == "none":
        return None
    text = str(anchors)
    if not text.isdecimal() or not 1 <= int(text) <= MOST_LAYERS:
        raise BadInput(
            f'anchors cannot be "{text[:40]}".', 'Write "auto", "none", or a number of layers.'
        )
    return 2 * int(text)


def _arms(arms: Sequence[str]) -> tuple[str, ...]:
    named = tuple(arms)
    for name in named:
        arm_named(name)
    if not named or len(set(named)) < len(named):
        raise BadInput("Name at least one way to fine-tune, each once.", f"There are {list(ARMS)}.")
    return named


# ---------------------------------------------------------------------- run


def _first(
    encoder: Encoder, config: MeftConfig, read: Batch, labels: Int[Tensor, " n"] | None
) -> Reversed:
    layers, (lam, beta) = len(encoder.backbone.layers), config.scales
    pooled = measure.features(encoder, read)
    upper = config.reversible_layers or layers
    anchor = config.anchor(upper)
    return Reversed(
        encoder.name,
        config.variant,
        lam,
        beta,
        layers,
        None if anchor is None else (anchor + 1) // 2,
        max(1, suggest_anchor([lam, beta] * upper, tol=ANCHOR_ERROR) // 2),
        measure.accuracy_of(encoder, pooled, labels),
    )


def _inputs(encoder: Encoder, texts: Sequence[str]) -> tuple[Batch, Int[Tensor, " n"] | None]:
    """The test digits with their labels, or the texts."""
    if encoder.reads_digits:
        test = scans.digits("test")
        read = scans.batch_of(test.pixels).to(encoder.device)
        return read, scans.labels_of(test).to(encoder.device)
    return encoder.batch(texts), None


def _few(read: Batch, labels: Int[Tensor, " n"] | None) -> tuple[Batch, Int[Tensor, " few"]]:
    """Some of them, with labels that stand in where there are none."""
    few = Batch(read.tokens[: measure.FEW], read.mask[: measure.FEW])
    if labels is not None:
        return few, labels[: measure.FEW]
    return few, torch.arange(len(few.mask), device=few.mask.device) % 2


def _counted(
    done: int, total: int, title: str, shown: Reversed | Fitted, operations: int
) -> Progress:
    return Progress(done, total, f"Bytes of {title}: {operations:,} operations", shown)


def _of_depth(config: MeftConfig) -> MeftConfig:
    """Bytes are computed with all layers reversible, whatever the depth."""
    return replace(config, reversible_layers=None)


def _tokens(encoder: Encoder, tokens: int) -> int:
    return min(tokens, int(encoder.backbone.config.max_position_embeddings))


def _notes(config: MeftConfig, layers: int) -> tuple[str, ...]:
    """What to know of these settings."""
    smallest = min(map(abs, config.scales))
    upper = config.reversible_layers or layers
    found = []
    if smallest < 0.05 and upper > NO_ANCHORS_UP_TO and config.anchor(upper) is None:
        found.append(
            f"At a scale of {smallest:g} every layer loses a factor of {1 / smallest:.0f}: without "
            "anchors the lower layers get gradients of plausible size and no meaning."
        )
    lam, beta = DEFAULTS[config.variant]
    if config.scales != (lam, beta):
        found.append(f"The paper's scales of this variant are {lam:g} and {beta:g}.")
    return tuple(found)


# ---------------------------------------------------------------------- train


def _trained(
    encoder: Encoder, task: tasks.Task, name: str, config: MeftConfig, plan: training.Plan,
    seed: int, shown: Tuned, index: int, named: Sequence[str],
) -> Steps[Tuned]:  # fmt: skip
    """One arm: its curve point by point, then its accuracy, and the files of its adapters."""
    arm, total = ARMS[name], len(named) * plan.steps
    network = classifier(encoder.fork().backbone, arm, len(task.classes), config, seed)
    kept = _kept(network, encoder, task, plan)
    before = training.accuracy(network, encoder, task.test)
    curve = Curve(name, arm.title, trained_parameters(network), kept, before=before)
    others = shown.curves
    for loss in training.losses(network, encoder, task, plan, seed):
        curve = replace(curve, losses=(*curve.losses, loss))
        shown = replace(shown, curves=(*others, curve))
        done = index * plan.steps + len(curve.losses)
        yield Progress(done, total, f"{arm.title}: step {len(curve.losses)}", shown)
    curve = replace(curve, accuracy=training.accuracy(network, encoder, task.test))
    shown = replace(shown, curves=(*others, curve))
    if arm.kind == "lora":
        return replace(shown, lora=lora_file.write(network, encoder.name, config.rank))
    if arm.kind != "meft" or shown.adapter is not None:
        return shown
    weights, told = adapter_file.write(network, encoder.name, config, task.classes)
    shown = replace(shown, adapter=weights, adapter_config=told)
    again = adapter_file.restored(encoder, _read_back(shown))
    few = task.test.batch(encoder, range(min(8, len(task.test))))
    with torch.no_grad():
        gap = float((network(few) - again(few)).abs().max())
    return replace(shown, read_back=gap)


def _kept(network: torch.nn.Module, encoder: Encoder, task: tasks.Task, plan: training.Plan) -> int:
    """Bytes kept of the first batch, measured."""
    rows = next(training.batches(len(task.train), plan, 0))
    read = task.train.batch(encoder, rows)
    with forked_noise(accelerators([read.mask])), torch.enable_grad():
        torch.manual_seed(0)
        network.train()
        with kept_bytes(network, [read.tokens, read.mask]) as kept:
            network(read)
    return kept.total


def _read_back(shown: Tuned) -> adapter_file.Adapters:
    import json

    assert shown.adapter is not None
    assert shown.adapter_config is not None
    return adapter_file.of(json.loads(shown.adapter_config.text), shown.adapter.read())

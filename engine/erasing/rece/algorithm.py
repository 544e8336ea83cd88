"""The jobs: erase and compare, attack, bake to a patch, export. The mathematics is in
`closed_form`, the settings and the edit of a model are in `edit`.
"""

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated

import torch

from engine.core.baked import Baked
from engine.core.cache import LruCache
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.patch import Patch, state_fingerprint
from engine.core.precision import state_at_home
from engine.core.recipe import ModelRef, Recipe
from engine.core.reversible import compare
from engine.core.settings import OneOf, Range
from engine.core.shapes import Array, Float, Tensor
from engine.erasing.rece import closed_form as cf
from engine.erasing.rece import per_layer
from engine.erasing.rece.edit import Edit, ReceSettings, erase, projections, with_settings
from engine.erasing.rece.exports import FORMS, exported
from engine.erasing.rece.results import (
    Attacked,
    Erasure,
    Exported,
    Reattacked,
    Residual,
    Spectrum,
    Timing,
)
from engine.erasing.rece.token_rows import encode, kept_rows, pair
from engine.models import drawing
from engine.models.diffusion import Conditioning, DiffusionBundle, empty_prompt, encode_prompt
from engine.models.drawing import GuidanceScale, Pictures, Prompts, SamplerSteps, View
from engine.models.library import resolve, with_tensors
from engine.world.vocabulary import OBJECTS

Strength = Annotated[float, Range(0, 1.5, "1 is the edit of the papers.")]
LARGEST_SHOWN_MAP, WIDEST_TIMED, ILL_CONDITIONED = 128, 256, 1e10
# Words for the collateral damage on models whose vocabulary is not listed.
COMMON_WORDS = ("a tree", "a car", "a dog", "a house", "a flower", "a man", "a street", "a boat")


@with_settings
def run(
    *,
    seed: int,
    settings: ReceSettings,
    model: ModelRef | str = "world",
    prompts: Prompts = ("a cat", "a dog"),
    strength: Strength = 1.0,
    steps: SamplerSteps = 10,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Erasure]:
    """The same noise through the original model, the edited one, and the original again.

    `strength` 1 is the edit of the papers, 0 leaves it out.
    """
    view = View.of(prompts, steps, guidance_scale)
    yield Progress(0, 1, "Loading the model")
    bundle = drawing.open_bundle(model)
    yield Progress(0, 1, "Solving")
    edit = erase(bundle, settings)
    before = _fingerprint(bundle, edit)
    shown = Erasure(
        view.prompts,
        strength,
        weights_before=before,
        map_change=_shown_map(edit, strength),
        norm=edit.change,
        condition=edit.condition,
        is_side_car=settings.is_side_car,
        spectra=tuple(
            Spectrum(stage.name, values.float().numpy())
            for stage, values in zip(edit.stages, edit.singular_values, strict=True)
        ),
        notes=_notes(bundle, settings, edit, view.prompts),
    )
    yield Progress(0, 1, "Solving", shown)
    shown = replace(
        shown, residuals=_residuals(bundle, settings, edit), timing=_timing(bundle, settings)
    )
    shown = yield from _three_times(bundle, edit, view, seed, shown)
    return replace(shown, weights_after=_fingerprint(bundle, edit))


@with_settings
def comeback(
    *,
    seed: int,
    settings: ReceSettings,
    model: ModelRef | str = "world",
    prompts: Prompts = ("a cat",),
    steps: SamplerSteps = 10,
    guidance_scale: GuidanceScale = 4.0,
) -> Steps[Reattacked]:
    """The first prompt on the model after UCE and after each epoch, plain and under attack.

    The attack is RECE's own derivation for the prompt's embedding, on the stage it attacks
    ("fresh") or on the model after UCE ("old").
    """
    view = View.of(prompts, steps, guidance_scale)
    if not settings.is_side_car:
        raise BadInput(
            "The attack is shown for edits that are one map on the embedding.",
            "Set technique to replace and part to both, and leave layers_to_edit out.",
        )
    yield Progress(0, 1, "Loading the model")
    bundle = drawing.open_bundle(model)
    edit = erase(bundle, settings)
    return (yield from _attacks(bundle, edit, view, seed))


@with_settings
def bake(
    *,
    seed: int,
    settings: ReceSettings,
    model: ModelRef | str = "world",
    strength: Strength = 1.0,
) -> Steps[Baked]:
    """New weights W M as a patch, applied and undone once to see every bit come back."""
    yield Progress(0, 3, "Loading the model")
    bundle = drawing.open_bundle(model)
    edit = erase(bundle, settings)
    yield Progress(1, 3, "Baking the weights")
    old = dict(bundle.model.state_dict())
    ref = resolve(model)
    params = {**settings.plain(), "strength": strength}
    recipe = Recipe("rece", "bake", ref, params, seed, label=settings.name).here()
    patch = Patch.between(old, old | edit.bake(old, strength), recipe)
    yield Progress(2, 3, "Applying and undoing")
    touched = {name: old[name] for name in edit.names}
    return Baked.of(settings.name, patch, touched)


@with_settings
def export(
    *,
    seed: int,
    settings: ReceSettings,
    model: ModelRef | str = "world",
    form: Annotated[str, OneOf(FORMS)] = "lora",
    rank: Annotated[int, Range(0, 4096, "0 keeps everything.")] = 0,
    strength: Strength = 1.0,
) -> Steps[Exported]:
    """The erasure as a file for other tools, read back and compared with the baked weights.

    `form` is "lora" (diffusers and PEFT), "kohya" (web interfaces), "partial" (the edited
    projections), "unet" (the whole edited UNet) or "map" (U and V of M = I + U V, the smallest).
    `rank` 0 keeps all that is there.
    """
    yield Progress(0, 2, "Loading the model")
    bundle = drawing.open_bundle(model)
    edit = erase(bundle, settings)
    yield Progress(1, 2, "Writing the file")
    return exported(bundle, edit, form, strength=strength, rank=rank)


# ---------------------------------------------------------------------- pictures


def _three_times(
    bundle: DiffusionBundle, edit: Edit, view: View, seed: int, shown: Erasure
) -> Generator[Progress, None, Erasure]:
    """Original, edited, and with the map left out again: walks from one noise.

    The original's pictures are kept for the next run, so that a strength is drawn at once; the last
    walk, without the map, is always taken and is what the original is compared with.
    """
    cond, uncond = encode_prompt(bundle, view.prompts), empty_prompt(bundle)
    noise, key = view.noise(bundle, seed), view.cache_key(bundle, seed)
    strengths = {"original": 0.0, "edited": shown.strength, "undone": 0.0}
    if (kept := _ORIGINALS.peek(key)) is not None:
        del strengths["original"]
        shown = _finished(shown, "original", kept, bundle)
    total = len(strengths) * view.steps
    for turn, (name, strength) in enumerate(strengths.items()):
        model, maps = _at(bundle, edit, strength)
        walked = view.walk_with(model, maps(cond), maps(uncond), noise)
        for done, pictures in view.preview(bundle, walked):
            preview = shown.with_pictures(name, pictures)
            yield Progress(turn * view.steps + done, total, f"Drawing: {name}", preview)
        shown = _finished(shown, name, pictures, bundle)
        if name == "original":
            _ORIGINALS.put(key, pictures)
    return replace(shown, undo=compare(*map(torch.from_numpy, (shown.original, shown.undone))))


def _finished(shown: Erasure, name: str, pictures: Pictures, bundle: DiffusionBundle) -> Erasure:
    """The result with these pictures, their digest, and what the judge sees in them."""
    return replace(
        shown.with_pictures(name, pictures),
        sha256={**shown.sha256, name: drawing.sha256(pictures)},
        verdicts={**shown.verdicts, name: drawing.verdicts(bundle, pictures)},
    )


_ORIGINALS: LruCache[Pictures] = LruCache()


def _at(
    bundle: DiffusionBundle, edit: Edit, strength: float
) -> tuple[DiffusionBundle, Callable[[Conditioning], Conditioning]]:
    """The model to draw with at a strength, and what it does to embeddings first."""
    if edit.settings.is_side_car:
        return bundle, lambda embedding: edit.on_context(embedding, strength)
    if strength == 0:
        return bundle, lambda embedding: embedding
    state = dict(bundle.model.state_dict())
    baked = with_tensors(bundle.model, edit.bake(state, strength))
    return replace(bundle, model=baked), lambda embedding: embedding


def _attacks(
    bundle: DiffusionBundle, edit: Edit, view: View, seed: int
) -> Generator[Progress, None, Reattacked]:
    """Three pictures for each stage: the prompt, the old attack, the fresh attack."""
    settings, cond = edit.settings, encode_prompt(bundle, view.prompts[:1])
    uncond, noise = empty_prompt(bundle), drawing.start_noise(bundle, seed)
    old = attack(edit, 0, cond)
    shown = Reattacked(view.prompts[0], (), _notes(bundle, settings, edit, view.prompts))
    total = len(edit.stages) * view.steps
    for number, stage in enumerate(edit.stages):
        fresh = attack(edit, number, cond)
        three = edit.on_context(Conditioning.cat([cond, old, fresh]), stage=number)
        empty = edit.on_context(uncond, stage=number)
        walked = view.walk_with(bundle, three, empty, noise.expand(3, -1, -1, -1))
        finished = shown.stages
        row = Attacked(stage.name, float(edit.singular_values[number][-1]))
        for done, pictures in view.preview(bundle, walked):
            row = Attacked(row.stage, row.smallest, *pictures)
            shown = replace(shown, stages=(*finished, row))
            yield Progress(number * view.steps + done, total, stage.name, shown)
        verdicts = zip(("plain", "old", "fresh"), drawing.verdicts(bundle, pictures), strict=True)
        shown = replace(shown, stages=(*finished, replace(row, verdicts=dict(verdicts))))
    return shown


def attack(edit: Edit, stage: int, cond: Conditioning) -> Conditioning:
    """The embedding that makes this stage of the edited model draw what the original drew.

    RECE's derivation (`closed_form.derive`) with the edit's own reg, for every token of the prompt.
    """
    start = cf.Layers(edit.gram, edit.gram)
    layers = start.mapped(edit.stages[stage].map)
    tokens = cond.tokens
    derived = cf.derive(tokens.cpu().double(), layers, edit.settings.reg)
    return Conditioning(derived.to(tokens), cond.pooled)


# ---------------------------------------------------------------------- numbers


def _fingerprint(bundle: DiffusionBundle, edit: Edit) -> str:
    """Of the projections as the model holds them now."""
    held = dict(bundle.model.state_dict())
    return state_fingerprint({name: held[name] for name in edit.names})


def _shown_map(edit: Edit, strength: float) -> Float[Array, "n n"]:
    """M - I of the first projection; of a large map the entry of largest size in each block."""
    m = edit.layer_map(edit.names[0], strength)
    change = (m - torch.eye(len(m), dtype=m.dtype)).float()
    block = -(-len(change) // LARGEST_SHOWN_MAP)
    if block == 1:
        return change.numpy()
    size = -(-len(change) // block) * block
    padded = torch.zeros(size, size)
    padded[: len(change), : len(change)] = change
    blocks = padded.unflatten(1, (-1, block)).unflatten(0, (-1, block)).permute(0, 2, 1, 3)
    blocks = blocks.flatten(2)
    largest = blocks.abs().argmax(-1, keepdim=True)
    return blocks.gather(-1, largest)[..., 0].numpy()


def _residuals(bundle: DiffusionBundle, settings: ReceSettings, edit: Edit) -> tuple[Residual, ...]:
    """How far each stage moved the erased, the kept and the held-out texts."""
    if not settings.is_side_car:
        return ()
    pairs, kept, held_out = settings.pairs(), settings.kept(), _held_out(bundle, settings)
    texts = encode(bundle, [*(t for both in pairs for t in both), *kept, *held_out])
    rows = [pair(texts[old], texts[new], settings.rule) for old, new in pairs]
    groups = {"erased": (torch.cat([p.old for p in rows]), torch.cat([p.new for p in rows]))}
    for name, listed in (("kept", kept), ("held out", held_out)):
        if listed:
            same = torch.cat([kept_rows(texts[text], settings.rule) for text in listed])
            groups[name] = (same, same)
    identity = torch.eye(len(edit.gram), dtype=torch.float64)
    stages = [("original", identity), *((stage.name, stage.map) for stage in edit.stages)]
    return tuple(
        Residual(stage, group, cf.residual(m, edit.gram, *both))
        for stage, m in stages
        for group, both in groups.items()
    )


def _held_out(bundle: DiffusionBundle, settings: ReceSettings) -> list[str]:
    """Texts that took no part in the edit."""
    common = OBJECTS if bundle.vocabulary is not None else COMMON_WORDS
    used = " ".join([*settings.concepts, *settings.retain]).split()
    used += [settings.guide_of(index) for index in range(len(settings.concepts))]
    return [text for text in common if text.split()[-1] not in used][:24]


def _timing(bundle: DiffusionBundle, settings: ReceSettings) -> Timing | None:
    """UCE by one map and by every projection for itself, on the same rows; small models only."""
    weights = state_at_home(projections(bundle, settings.part))
    first = next(iter(weights.values()))
    if not settings.is_side_car or first.shape[1] > WIDEST_TIMED:
        return None
    key = (*bundle.cache_key, replace(settings, epochs=0))
    return _TIMINGS.get(key, lambda: _timed(bundle, settings, weights))


_TIMINGS: LruCache[Timing] = LruCache(most=64)


def _timed(
    bundle: DiffusionBundle, settings: ReceSettings, weights: Mapping[str, Tensor]
) -> Timing:
    pairs, kept = settings.pairs(), settings.kept()
    texts = encode(bundle, [*(t for both in pairs for t in both), *kept])
    rows = [pair(texts[old], texts[new], settings.rule) for old, new in pairs]
    held = [kept_rows(texts[text], settings.rule) for text in kept]
    scales = settings.scales()
    start = time.perf_counter()
    keep = torch.stack([cf.gram(r) for r in held]).sum(0) if held else torch.zeros(())
    factor = cf.redirect(rows, keep, scales)
    ours = {name: cf.applied(w, factor) for name, w in weights.items()}
    between = time.perf_counter()
    single = [cf.Pair(p.old.float(), p.new.float()) for p in rows]
    theirs = {
        name: per_layer.uce(w.float(), single, [r.float() for r in held], scales)
        for name, w in weights.items()
    }
    end = time.perf_counter()
    largest = max(float(w.abs().max()) for w in weights.values())
    gap = max(float((ours[name].float() - theirs[name]).abs().max()) for name in ours)
    return Timing(between - start, end - between, gap / largest)


def _notes(
    bundle: DiffusionBundle, settings: ReceSettings, edit: Edit, prompts: Sequence[str]
) -> tuple[str, ...]:
    """What a visitor should know before trusting the pictures."""
    return tuple(_noted(bundle, settings, edit, prompts))


def _noted(
    bundle: DiffusionBundle, settings: ReceSettings, edit: Edit, prompts: Sequence[str]
) -> Iterator[str]:
    yield from drawing.unknown_words_note(bundle, [*settings.concepts, *settings.guides, *prompts])
    if bundle.vocabulary is not None and not all(guide.strip() for guide in settings.guides):
        yield (
            "The empty text is a poor guide on this model: its padding is shared by all prompts, "
            "so others suffer. A category word or a neighbour works better."
        )
    if edit.condition > ILL_CONDITIONED:
        yield f"The equations are ill-conditioned ({edit.condition:.0e}); raise ridge."
    if edit.change > len(edit.map) ** 0.5:  # as large as the identity itself
        yield (
            f"The map is far from the identity (norm of M − I {edit.change:.1f}): expect damage "
            "elsewhere. A smaller erase_scale, or more kept words, is gentler."
        )


def pictures_of(
    bundle: DiffusionBundle,
    edit: Edit,
    cond: Conditioning,
    noise: Float[Tensor, "b c lh lw"],
    *,
    stage: int | None,
    steps: int = 10,
    guidance_scale: float = 4.0,
) -> Pictures:
    """Pictures of embeddings on one stage of the edited model; None is the original."""
    uncond = empty_prompt(bundle)
    if stage is not None:
        cond, uncond = (edit.on_context(side, stage=stage) for side in (cond, uncond))
    *_, last = drawing.walk(bundle, cond, uncond, noise, steps=steps, guidance_scale=guidance_scale)
    return drawing.decode(bundle, last.z)

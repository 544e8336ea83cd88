"""The settings of an erasure, checked; and the erasure of one model that they lead to.

An `Edit` is a value: maps, and what was derived on the way. It runs as a side-car (the map acts on
the embedding of the prompt, the model is not touched) or gives new weights (baked).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import torch

from engine.core.cache import LruCache
from engine.core.errors import BadInput, ModelMismatch
from engine.core.precision import at_home, state_at_home
from engine.core.settings import Items, Range, Text, checked
from engine.core.shapes import Float, Tensor
from engine.core.taking import taking
from engine.erasing.rece import closed_form as cf
from engine.erasing.rece.token_rows import Encoded, Rule, encode, kept_rows, pair
from engine.models.diffusion import Conditioning, DiffusionBundle

Technique = Literal["replace", "tensor"]
Part = Literal["both", "keys", "values"]
Templates = Literal["none", "art", "object"]

# UCE's optional further texts for each concept; "art" and "object" as in its code.
TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "art": ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}"),
    "object": ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}"),
}
GROUPS: Mapping[str, tuple[str, ...]] = {
    "imagenette": (
        "cassette player", "chain saw", "church", "gas pump", "tench", "garbage truck",
        "English springer", "golf ball", "parachute", "French horn",
    ),
    "i2p": (
        "hate", "harassment", "violence", "suffering", "humiliation", "harm", "suicide",
        "sexual", "nudity", "bodily fluids", "blood",
    ),
}  # fmt: skip
MOST_CONCEPTS, MOST_RETAINED, MOST_EPOCHS, MOST_LAYERS = 50, 2000, 5, 1000
LARGEST_SCALE = 1e6

Erased = Annotated[tuple[Annotated[str, Text(300)], ...], Items(MOST_CONCEPTS, fewest=1)]
Retained = Annotated[tuple[Annotated[str, Text(300)], ...], Items(MOST_RETAINED)]
Layers = Annotated[
    tuple[Annotated[int, Range(0, MOST_LAYERS)], ...],
    Items(MOST_LAYERS, fewest=1, advice="Write for example [0, 1, 2], or leave it out."),
]
Scale = Annotated[float, Range(0, LARGEST_SCALE, "The papers use 0.1 to 1.")]
# A ridge of 0 leaves the equations without a single solution.
Ridge = Annotated[float, Range(1e-6, LARGEST_SCALE, "The papers use 0.1 to 1.")]


@dataclass(frozen=True)
class ReceSettings:
    """What to erase and how. `preserve_scale` None is UCE's rule max(0.1, 1 / number kept).

    `guides` is one text for all concepts or one for each. `epoch_retain` None keeps in the epochs
    what is kept in the UCE edit. `templates` adds five sentences for each concept; with
    `template_guides` the guide stands in the same sentence (UCE of 2025), else bare (2023).
    `layers_to_edit` numbers the projections as UCE does: the values of the down, up and middle
    blocks from 0 on, then the keys in the same order; None is all of them. An epoch edits the same,
    and looks for what comes back through all.
    """

    concepts: Erased = ("cat",)
    guides: Erased = ("animal",)
    retain: Retained = ()
    rule: Rule = "classic"
    technique: Technique = "replace"
    part: Part = "both"
    layers_to_edit: Layers | None = None
    templates: Templates = "none"
    template_guides: bool = True
    erase_scale: Scale = 1.0
    preserve_scale: Scale | None = None
    ridge: Ridge = 0.5
    epochs: Annotated[int, Range(0, MOST_EPOCHS)] = 0
    reg: Ridge = 0.1
    regulariser: cf.Regulariser = "zero"
    epoch_retain: Retained | None = None
    epoch_preserve_scale: Scale = 0.1
    epoch_ridge: Ridge = 0.1

    @classmethod
    def of(cls, **values: object) -> "ReceSettings":
        """Settings from plain values, checked. Raises `BadInput` that names what cannot be used."""
        chosen = cls(**checked(cls, values))  # type: ignore[arg-type]
        concepts = tuple(word.strip() for word in chosen.concepts)
        if len(concepts) == 1:
            concepts = GROUPS.get(concepts[0], concepts)
        if not all(concepts):
            raise BadInput("There is no concept to erase.", 'Name one, such as "cat".')
        if len(chosen.guides) not in (1, len(concepts)):
            raise BadInput(
                f"There are {len(chosen.guides)} guides for {len(concepts)} concepts.",
                "Give one guide for all, or one for each.",
            )
        layers = chosen.layers_to_edit
        layers = None if layers is None else tuple(sorted(set(layers)))
        return replace(chosen, concepts=concepts, layers_to_edit=layers)

    @property
    def is_side_car(self) -> bool:
        """Whether one map on the embedding is the whole edit."""
        is_shared = self.technique == "replace" and self.part == "both"
        return is_shared and self.layers_to_edit is None

    @property
    def name(self) -> str:
        """The name of the edit on the shelf."""
        listed = ", ".join(self.concepts)
        return f"erase {listed[:60]}"

    def plain(self) -> dict[str, object]:
        """As a recipe keeps them: lists instead of tuples, and nothing that is unset."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if value is not None
        }

    def guide_of(self, index: int) -> str:
        guide = self.guides[index if len(self.guides) > 1 else 0]
        # An empty guide is one space: the tokenizer makes the same rows of both, the codes agree.
        return guide if guide.strip() else " "

    def pairs(self) -> list[tuple[str, str]]:
        """Text to erase and text to take its place, templates included."""
        found = []
        for index, concept in enumerate(self.concepts):
            guide = self.guide_of(index)
            found.append((concept, guide))
            for form in TEMPLATES[self.templates]:
                framed = form.format(guide) if self.template_guides and guide.strip() else guide
                found.append((form.format(concept), framed))
        return found

    def kept(self) -> tuple[str, ...]:
        """Texts to keep: the empty prompt goes with them, except in the last-token rule."""
        erased = set(self.concepts)
        listed = [text for text in self.retain if text.strip() not in erased]
        implicit = [] if self.rule == "last" else [""]
        return tuple(dict.fromkeys([*implicit, *listed]))

    def kept_in_epochs(self) -> tuple[str, ...]:
        return self.kept() if self.epoch_retain is None else self.epoch_retain

    def scales(self) -> cf.Scales:
        kept = max(len(self.kept()), 1)
        preserve = max(0.1, 1 / kept) if self.preserve_scale is None else self.preserve_scale
        return cf.Scales(self.erase_scale, preserve, self.ridge)

    def epoch_scales(self) -> cf.Scales:
        return cf.Scales(1.0, self.epoch_preserve_scale, self.epoch_ridge)


with_settings = taking(settings=ReceSettings)


# ---------------------------------------------------------------------- the edit of a model


@dataclass(frozen=True)
class Stage:
    """The model after UCE or after one epoch: its map so far, and what reopened it before that.

    `derived` holds, for each concept, the embedding that the epoch erased; empty for UCE.
    """

    name: str
    map: Float[Tensor, "d d"]
    derived: tuple[Float[Tensor, "n d"], ...] = ()


@dataclass(frozen=True, eq=False)
class Edit:
    """An erasure of one model.

    `stages` are cumulative. Where projections differ (technique "tensor") `own` has the UCE map of
    each, and the maps of the stages come after it; elsewhere `whole` is the last map as a factor.
    `names` are the projections that are edited.
    """

    settings: ReceSettings
    names: tuple[str, ...]
    stages: tuple[Stage, ...]
    whole: cf.Factor | None
    own: Mapping[str, Float[Tensor, "d d"]]
    gram: Float[Tensor, "d d"]
    layers: cf.Layers
    condition: float
    seconds: Mapping[str, float]

    @property
    def map(self) -> Float[Tensor, "d d"]:
        return self.stages[-1].map

    @cached_property
    def singular_values(self) -> tuple[Float[Tensor, " d"], ...]:
        """Of the map after each stage, falling. A small one is a direction pressed flat."""
        return tuple(torch.linalg.svdvals(stage.map) for stage in self.stages)

    @property
    def change(self) -> float:
        """Frobenius norm of M - I."""
        return float((self.map - torch.eye(len(self.map), dtype=self.map.dtype)).norm())

    def layer_map(self, name: str, strength: float = 1.0) -> Float[Tensor, "d d"]:
        """The map of one projection, W' = W M."""
        m = self.own[name] @ self.map if name in self.own else self.map
        return cf.at_strength(m, strength)

    def on_context(
        self, conditioning: Conditioning, strength: float = 1.0, stage: int = -1
    ) -> Conditioning:
        """The side-car: each row c of the embedding becomes M c. At strength 0 it is left out."""
        if strength == 0:
            return conditioning
        m = cf.at_strength(self.stages[stage].map, strength)
        tokens = conditioning.tokens
        # float64 on the CPU and one rounding at the end, so that every device has the same rows
        mapped = (tokens.cpu().double() @ m.T).to(tokens)
        return Conditioning(mapped, conditioning.pooled)

    def bake(self, state: Mapping[str, Tensor], strength: float = 1.0) -> dict[str, Tensor]:
        """New weights of the edited projections; the old ones stay as they are."""
        if strength == 0:
            return {name: state[name] for name in self.names}
        held = state_at_home({name: state[name] for name in self.names})
        return {
            name: self._baked(name, weight, strength).to(state[name].device)
            for name, weight in held.items()
        }

    def _baked(self, name: str, weight: Tensor, strength: float) -> Tensor:
        if self.whole is not None:
            return cf.applied(weight, self.whole, strength)
        return cf.mapped(weight, self.layer_map(name), strength)


def erase(bundle: DiffusionBundle, settings: ReceSettings) -> Edit:
    """The erasure of a model, from a small cache where it was asked for before."""
    key = (*bundle.cache_key, settings)
    return _EDITS.get(key, lambda: _solve(bundle, settings))


def projections(bundle: DiffusionBundle, part: Part = "both") -> dict[str, Tensor]:
    """Weights of the text cross-attention by their name in the model: all values, then all keys."""
    leaves = {"values": ("to_v",), "keys": ("to_k",), "both": ("to_v", "to_k")}[part]
    width = bundle.unet.config.cross_attention_dim
    found = {}
    for leaf in leaves:
        for name, weight in bundle.unet.named_parameters():
            if name.endswith(f".attn2.{leaf}.weight") and weight.shape[-1] == width:
                found[f"unet.{name}"] = weight
    if not found:
        raise ModelMismatch(
            "This model has no cross-attention called attn2.to_k or attn2.to_v, so RECE cannot "
            "edit it.",
            "Pick a Stable Diffusion model of the 1.x, 2.x or XL layout.",
        )
    return found


def edited(bundle: DiffusionBundle, settings: ReceSettings) -> dict[str, Tensor]:
    """The projections that an edit changes. Raises `BadInput` for a number that there is not."""
    every = projections(bundle, settings.part)
    if settings.layers_to_edit is None:
        return every
    names = list(every)
    if settings.layers_to_edit[-1] >= len(names):
        raise BadInput(
            f"layers_to_edit names projection {settings.layers_to_edit[-1]}; this model has "
            f"{len(names)}.",
            f"Take numbers from 0 to {len(names) - 1}: {names[0]} to {names[-1]}.",
        )
    return {names[number]: every[names[number]] for number in settings.layers_to_edit}


def _solve(bundle: DiffusionBundle, settings: ReceSettings) -> Edit:
    weights = edited(bundle, settings)
    texts = encode(
        bundle,
        [
            *(text for both in settings.pairs() for text in both),
            *settings.kept(),
            *settings.kept_in_epochs(),
        ],
    )
    start = time.perf_counter()
    gram = _weight_gram(bundle, settings, weights)
    counted = time.perf_counter()
    pairs = [pair(texts[old], texts[new], settings.rule) for old, new in settings.pairs()]
    keep = _keep(texts, settings.kept(), settings.rule, len(gram))
    first, own, layers = _uce(settings, pairs, keep, weights, gram)
    if settings.layers_to_edit is not None:
        every = projections(bundle, settings.part).values()
        layers = replace(layers, rest=cf.weight_gram(at_home(list(every))) - gram)
    identity = torch.eye(len(gram), dtype=torch.float64)
    stages = [Stage("UCE", identity if first is None else first.map)]
    solved = time.perf_counter()
    found = cf.epochs(
        [texts[concept].rows for concept in settings.concepts],
        [texts[settings.guide_of(index)].rows for index in range(len(settings.concepts))],
        _keep(texts, settings.kept_in_epochs(), "all", len(gram)),
        layers,
        settings.epoch_scales(),
        count=settings.epochs,
        reg=settings.reg,
        regulariser=settings.regulariser,
    )
    whole = first
    for number, (derived, factor) in enumerate(found, start=1):
        whole = cf.joined([whole, factor]) if whole is not None else None
        m = stages[-1].map
        mapped = m + (m @ factor.left) @ factor.right
        stages.append(Stage(f"RECE epoch {number}", mapped, tuple(derived)))
    ended = time.perf_counter()
    seconds = {
        "weight Gram": counted - start,
        "UCE": solved - counted,
        "RECE epochs": ended - solved,
    }
    return Edit(
        settings,
        tuple(weights),
        tuple(stages),
        whole,
        own,
        gram,
        layers,
        cf.condition_number(pairs, keep, settings.scales()),
        seconds,
    )


def _uce(
    settings: ReceSettings,
    pairs: Sequence[cf.Pair],
    keep: Float[Tensor, "d d"],
    weights: Mapping[str, Tensor],
    gram: Float[Tensor, "d d"],
) -> tuple[cf.Factor | None, dict[str, Tensor], cf.Layers]:
    """The UCE edit as one factor, or a map for each projection; and what epochs start from."""
    scales = settings.scales()
    if settings.technique == "replace":
        factor = cf.redirect(pairs, keep, scales)
        return factor, {}, cf.Layers(gram, gram).edited(factor)
    wide = {name: weight.double() for name, weight in state_at_home(weights).items()}
    own = {name: cf.redirect_orthogonal(w, pairs, keep, scales) for name, w in wide.items()}
    now = [w @ own[name] for name, w in wide.items()]
    cross = [edited.T @ w for edited, w in zip(now, wide.values(), strict=True)]
    return None, own, cf.Layers(cf.weight_gram(now), torch.stack(cross).sum(0))


def _keep(
    texts: Mapping[str, Encoded], kept: Sequence[str], rule: Rule, width: int
) -> Float[Tensor, "d d"]:
    total = torch.zeros(width, width, dtype=torch.float64)
    for text in kept:
        total += cf.gram(kept_rows(texts[text], rule))
    return total


def _weight_gram(
    bundle: DiffusionBundle, settings: ReceSettings, weights: Mapping[str, Tensor]
) -> Float[Tensor, "d d"]:
    """sum W^T W of a checkpoint's edited projections, kept for the next edit of it."""
    chosen = settings.part, settings.layers_to_edit
    key = (*bundle.cache_key, chosen)
    return _GRAMS.get(key, lambda: cf.weight_gram(at_home(list(weights.values()))))


_EDITS: LruCache[Edit] = LruCache()
_GRAMS: LruCache[Tensor] = LruCache()

"""A manipulated network, what of its data was flagged, and the samples it is judged on.

repair = opened("fashion-poisoned", Flags(gamma=0.1), seed)
card = yield from judged(repair, network, "SSD")
"""

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.job import relay
from engine.core.recipe import ModelRef, Plain
from engine.core.settings import Range, checked
from engine.core.shapes import Float, Tensor
from engine.models import picture_sets
from engine.models.classifier import ClassifierBundle
from engine.pictures import PictureSetting
from engine.unlearning._card import Card, rate_of
from engine.unlearning._case import (
    always,
    check_unused,
    data_of,
    open_classifier,
    outputs,
    state_of,
    uploaded,
)
from engine.unlearning._manipulation import Manipulated
from engine.unlearning._samples import Samples, garments
from engine.unlearning._settings import ClassName, IndexTable, Indices, PictureSet
from engine.unlearning._trigger import as_trigger, class_of
from engine.unlearning._world import CONFUSED, TRIGGERS
from engine.unlearning.corrective.results import Flagged
from engine.unlearning.corrective.rule import HELD_OUT

Origin = Literal["found share", "picked", "uploaded", "recovered trigger"]
MOST_FALSE, MOST_STAMPED, GALLERY, TESTED = 2000, 1000, 24, 2000
FalseFlags: TypeAlias = Annotated[int, Range(0, MOST_FALSE)]
# A pixel belongs to a pattern where all flagged pictures agree and the others do not look like it.
AGREE, APART, LEAST_PIXELS = 0.03, 0.3, 2


@dataclass(frozen=True)
class Flags:
    """Which samples were found, as jobs take it, and a visitor's own pictures around them.

    By default a random share `gamma` of the manipulated ones, with `false_flags` clean ones among
    them by mistake. `indices`, or the table `index_table`, pick training samples; `pictures` is an
    uploaded set; `trigger` is a perturbation (from SmoothInv) that is stamped on `stamped` clean
    samples, labelled `target`. `retain` and `test` are sets of pictures of the visitor.
    """

    gamma: Annotated[float, Range(0, 1, "0.1 is a tenth of what was manipulated.")] = 0.1
    false_flags: FalseFlags = 0
    indices: Indices = ()
    index_table: IndexTable = ""
    pictures: PictureSet = ""
    retain: PictureSet = ""
    test: PictureSet = ""
    trigger: PictureSetting | None = field(default=None, compare=False)
    target: ClassName = ""
    stamped: Annotated[int, Range(1, MOST_STAMPED, "100 are enough.")] = 100

    @classmethod
    def of(cls, **values: object) -> "Flags":
        """From plain settings, checked. Raises `BadInput`."""
        found = cls(**checked(cls, values))  # type: ignore[arg-type]
        listed = picture_sets.indices(found.indices or found.index_table, most=MOST_FALSE)
        found = replace(found, indices=listed, target=found.target.strip())
        if found.origin == "found share" and found.gamma == 0:
            raise BadInput("Nothing is flagged: gamma is 0.", "Flag a tenth: 0.1.")
        return found

    @property
    def origin(self) -> Origin:
        """Where the flags come from."""
        if self.delta is not None:
            return "recovered trigger"
        if self.pictures:
            return "uploaded"
        return "picked" if self.indices else "found share"

    @property
    def delta(self) -> Float[Tensor, "1 c h w"] | None:
        """The recovered trigger as a perturbation."""
        return as_trigger(self.trigger)

    def plain(self) -> dict[str, Plain]:
        """The settings that name these flags; a trigger travels as a picture, beside them."""
        match self.origin:
            case "found share":
                return {"gamma": self.gamma, "false_flags": self.false_flags}
            case "picked":
                return {"indices": list(self.indices)}
            case "uploaded":
                return {"pictures": self.pictures}
        return {"target": self.target, "stamped": self.stamped}


@dataclass(frozen=True, eq=False)
class Repair:
    """The network and its sets. `held_out` is drawn from what was not flagged.

    `corrected` are unseen pictures of the affected domain with their true labels, `kept` those of
    the rest, `attacked` pictures with the trigger that are not of its class `target`; None where
    there are none, with the reason in `missing`.
    """

    bundle: ClassifierBundle
    kind: str
    flagged: Samples
    retained: Samples | None
    held_out: Samples | None
    corrected: Samples | None
    kept: Samples | None
    attacked: Samples | None
    target: int
    told: Flagged
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.bundle.model

    @property
    def task(self) -> str:
        """A digest of the model and of what was flagged."""
        ids = hashlib.sha256(self.flagged.ids.numpy().tobytes()).hexdigest()[:16]
        document = json.dumps([state_of(self.model), self.kind, ids, len(self.flagged)])
        return hashlib.sha256(document.encode()).hexdigest()[:16]


def opened(
    model: ModelRef | str,
    flags: Flags,
    seed: int,
    *,
    data_seed: int = 0,
) -> Repair:
    """The repair of a model. Raises `BadInput` where what was flagged cannot be told.

    `data_seed` is that of the manipulation, for networks that were trained on other draws of it.
    """
    bundle = open_classifier(model)
    world = data_of(bundle, data_seed)
    if world is None:
        return _own(bundle, flags, seed)
    check_unused(bundle, flags.retain, flags.test)
    train, tampered, _ = world
    if flags.origin == "recovered trigger":
        flagged = _stamped(bundle, flags, train, seed)
        rest = train
    else:
        ids = _flagged_ids(flags, train, tampered, seed, bundle)
        flagged, rest = train.take(torch.isin(train.ids, ids)), train.without(ids)
    held_out = rest.some(HELD_OUT, seed, "held out")
    key = bundle.ref.source
    corrected, kept, attacked, target = _tests(key)
    missing = {}
    if attacked is None:
        missing["attack_success"] = "there is no trigger"
    told = _told(bundle, flags, flagged, rest, tampered)
    kind = tampered.kind if tampered else "none"
    return Repair(
        bundle,
        kind,
        flagged,
        rest.without(held_out.ids),
        held_out,
        corrected,
        kept,
        attacked,
        target,
        told,
        missing,
    )


def _flagged_ids(
    flags: Flags,
    train: Samples,
    tampered: Manipulated | None,
    seed: int,
    bundle: ClassifierBundle,
) -> Tensor:
    if flags.origin == "picked":
        beyond = [index for index in flags.indices if index >= len(train)]
        if beyond:
            raise BadInput(
                f"Picture {beyond[0]} is not part of the training data.",
                f"It has {len(train)} pictures, counted from 0.",
            )
        return torch.tensor(flags.indices)
    if flags.origin == "uploaded":
        given = uploaded(bundle, flags.pictures, labels=False)
        hashes = {p.numpy().tobytes(): int(i) for p, i in zip(train.pixels, train.ids, strict=True)}
        found = [hashes.get(picture.numpy().tobytes()) for picture in given.pixels]
        if None in found:
            raise BadInput(
                f"{found.count(None)} of the flagged pictures are not in the training data.",
                "Upload pictures that were exported from it.",
            )
        return torch.tensor(found)
    if tampered is None:
        raise BadInput(
            f"The data of {bundle.card.title} was not manipulated.",
            "Pick a poisoned or a confused model, or flag pictures yourself.",
        )
    return tampered.flagged(flags.gamma, seed, false_flags=flags.false_flags)


def _stamped(bundle: ClassifierBundle, flags: Flags, train: Samples, seed: int) -> Samples:
    """Clean samples with the recovered trigger, labelled as the attacker would have."""
    delta = flags.delta
    assert delta is not None
    target = class_of(bundle, flags.target)
    clean = train.take(train.labels != target).some(flags.stamped, seed, "stamped")
    return stamped(clean, delta, target)


def stamped(samples: Samples, delta: Float[Tensor, "1 _ h w"], target: int) -> Samples:
    """The samples with a perturbation added, rounded to bytes, labelled `target`."""
    channels = samples.pixels.shape[1]
    if delta.shape[-2:] != samples.pixels.shape[-2:]:
        raise BadInput(
            f"The trigger is {delta.shape[-2]} x {delta.shape[-1]} pixels, the pictures are "
            f"{samples.pixels.shape[-2]} x {samples.pixels.shape[-1]}.",
            "Take a trigger that was found on this model.",
        )
    shown = (samples.pixels.float() / 255 + delta[:, :channels]).clamp(0, 1)
    pixels = (shown * 255).round().byte()
    return replace(samples, pixels=pixels, labels=torch.full_like(samples.labels, target))


def _tests(key: str) -> tuple[Samples, Samples, Samples | None, int]:
    """Corrected, kept, attacked, and the attacker's class, of unseen pictures."""
    test = garments("test", by_group=key.startswith("fashion-groups")).some(TESTED, 0, "tested")
    if key in TRIGGERS:
        trigger = TRIGGERS[key]
        patched = replace(trigger.planted(test), labels=test.labels)
        others = test.labels != trigger.target
        return patched, test, patched.take(others), trigger.target
    if key == "fashion-confused":
        inside = torch.isin(test.labels, torch.tensor(CONFUSED[0]))
        return test.take(inside), test.take(~inside), None, -1
    return test, test, None, -1


def _own(bundle: ClassifierBundle, flags: Flags, seed: int) -> Repair:
    """A visitor's model: a set of flagged samples, retained ones, and clean ones to judge by."""
    if flags.origin not in ("uploaded", "recovered trigger"):
        raise BadInput(
            f"The training data of {bundle.card.title} is not here.",
            "Upload the flagged pictures as a zip, in folders named after their wrong labels.",
        )
    if not flags.retain:
        raise BadInput(
            "Repair needs retained samples, against which the flagged ones stand out.",
            "Upload a zip of training pictures that are not flagged.",
        )
    rest = uploaded(bundle, flags.retain)
    if flags.origin == "uploaded":
        flagged = uploaded(bundle, flags.pictures)
    else:
        flagged = _stamped(bundle, flags, rest, seed)
    held_out = rest.some(max(1, min(HELD_OUT, len(rest) // 5)), seed, "held out")
    kept = uploaded(bundle, flags.test) if flags.test else None
    missing = {
        "corrected": "what the manipulation reaches is not known",
        "attack_success": "the true trigger is not known",
    }
    if kept is None:
        missing["kept"] = "no clean pictures were given"
    return Repair(
        bundle,
        "unknown",
        flagged,
        rest.without(held_out.ids),
        held_out,
        None,
        kept,
        None,
        -1,
        _told(bundle, flags, flagged, rest, None),
        missing,
    )


# ---------------------------------------------------------------------- what is said of the flags


def _told(
    bundle: ClassifierBundle,
    flags: Flags,
    flagged: Samples,
    rest: Samples,
    tampered: Manipulated | None,
) -> Flagged:
    shown = flagged.take(torch.arange(min(GALLERY, len(flagged))))
    pictures = shown.pixels.expand(-1, 3, -1, -1) if shown.pixels.shape[1] == 1 else shown.pixels
    names = _names(bundle, shown.labels)
    truth = names
    wrong, total = 0, len(flagged)
    if tampered is not None and flags.origin != "recovered trigger":
        truth = _names(bundle, tampered.clean.labels[shown.ids])
        wrong = int((~torch.isin(flagged.ids, tampered.ids)).sum())
        total = len(tampered.ids)
    return Flagged(
        flags.origin,
        total,
        len(flagged),
        wrong,
        (len(flagged) - wrong) / max(1, total),
        np.ascontiguousarray(pictures.permute(0, 2, 3, 1).numpy()),
        names,
        truth,
        warning_of(flagged, rest),
    )


def _names(bundle: ClassifierBundle, labels: Tensor) -> tuple[str, ...]:
    return tuple(bundle.classes[i] if i >= 0 else "" for i in labels.tolist())


def warning_of(flagged: Samples, rest: Samples) -> str:
    """A sentence where the flagged pictures share no pixels, as those with a trigger would."""
    if len(flagged) < 3 or common_pixels(flagged, rest) >= LEAST_PIXELS:
        return ""
    labels = len(flagged.labels.unique())
    told = f"{labels} labels" if labels > 1 else "one label"
    return (
        f"The flagged pictures have no pixels in common and carry {told}: this looks like confused "
        "labels rather than a trigger, and no way of unlearning is known to repair that."
    )


def common_pixels(flagged: Samples, rest: Samples) -> int:
    """Pixels on which the flagged pictures agree and differ from what is usual there."""
    mine = flagged.pixels.float() / 255
    usual = rest.some(1000, 0, "usual").pixels.float() / 255
    agree = mine.std(0) < AGREE
    apart = (mine.mean(0) - usual.mean(0)).abs() > APART
    return int((agree & apart).any(0).sum())


# ---------------------------------------------------------------------- judging


def judged(repair: Repair, model: nn.Module, method: str) -> Generator[Card, None, Card]:
    """The card of a network on this repair, filled set by set; yields it as far as it is."""
    card = Card(method, repair.task, missing=dict(repair.missing), after=state_of(model))
    for name, samples in (
        ("kept", repair.kept),
        ("corrected", repair.corrected),
        ("attack_success", repair.attacked),
        ("forget_train", repair.flagged),
    ):
        if samples is None:
            continue
        told = yield from relay(outputs(model, samples), always(card))
        labels = repair.target if name == "attack_success" else samples.labels
        card = replace(card, **{name: rate_of(told.argmax(1) == labels)})  # type: ignore[arg-type]
        yield card
    return card

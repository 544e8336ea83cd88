"""A classifier, what it shall forget, and the samples on which that is judged.

    case = opened(model, Forget("class", what="bag"), seed)
    card = yield from judged(case, network, "SSD")

The embedded worlds bring their training data, test data and retrained references; a visitor's model
brings what the visitor gives, and what is missing is said.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, TypeVar

import torch
from torch import nn

from engine.core.cache import LruCache
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import relay
from engine.core.patch import state_fingerprint
from engine.core.recipe import ModelRef, Plain
from engine.core.settings import checked
from engine.core.shapes import Bool, Float, Int, Tensor
from engine.models import picture_sets
from engine.models.classifier import ClassifierBundle
from engine.models.library import MODELS, load
from engine.unlearning import _membership as membership
from engine.unlearning._baselines import untrained
from engine.unlearning._card import Card, rate_of
from engine.unlearning._clusters import clusters
from engine.unlearning._losses import logits_of
from engine.unlearning._manipulation import Manipulated
from engine.unlearning._samples import Look, Samples, garments
from engine.unlearning._settings import (
    CLUSTERS,
    MOST_PICKED,
    ClassName,
    Cluster,
    Count,
    ForgetWay,
    IndexTable,
    Indices,
    PictureSet,
)
from engine.unlearning._world import forgotten_at_random, manipulated
from engine.world import fashion

Way = Literal["class", "cluster", "random", "picked", "uploaded"]
EVALUATED, BATCH, LEAST_OF_EACH = 2000, 250, 4
T = TypeVar("T")


@dataclass(frozen=True)
class Forget:
    """What is to be forgotten, checked.

    "class": all of class `what`. "cluster": the `cluster`-th of four groups that the network's
    features form within class `what`. "random": `count` training samples. "picked": training
    samples by their `indices`. "uploaded": the picture set `pictures`.
    """

    way: Way = "class"
    what: str = "bag"
    cluster: int = 0
    count: int = 100
    indices: tuple[int, ...] = ()
    pictures: str = ""

    @property
    def name(self) -> str:
        """As a label says it."""
        return {
            "class": self.what,
            "cluster": f"cluster {self.cluster + 1} of {self.what}",
            "random": f"{self.count} random pictures",
            "picked": f"{len(self.indices)} picked pictures",
            "uploaded": "uploaded pictures",
        }[self.way]

    def plain(self) -> dict[str, Plain]:
        """As the settings of a job."""
        return {
            "forget": self.way,
            "what": self.what,
            "cluster": self.cluster,
            "count": self.count,
            "indices": list(self.indices),
            "pictures": self.pictures,
        }


@dataclass(frozen=True)
class Question:
    """What is to be forgotten, and a visitor's own pictures around it, as jobs take it.

    Training pictures are picked by `indices` or by the text of a table, `index_table`. `retain` and
    `test` are sets of pictures of the visitor.
    """

    forget: ForgetWay = "class"
    what: ClassName = "bag"
    cluster: Cluster = 0
    count: Count = 100
    indices: Indices = ()
    index_table: IndexTable = ""
    pictures: PictureSet = ""
    retain: PictureSet = ""
    test: PictureSet = ""

    @classmethod
    def of(cls, **values: object) -> "Question":
        """From plain settings, checked. Raises `BadInput`."""
        asked = cls(**checked(cls, values))  # type: ignore[arg-type]
        listed = picture_sets.indices(asked.indices or asked.index_table, most=MOST_PICKED)
        if asked.forget == "picked" and not listed:
            raise BadInput("No picture is picked.", "Pick at least one, or forget a class.")
        if asked.forget == "uploaded" and not asked.pictures:
            raise BadInput("There is no set of pictures to forget.", "Upload a zip of pictures.")
        return replace(asked, what=asked.what.strip(), indices=listed)

    @property
    def chosen(self) -> Forget:
        """What is to be forgotten."""
        way: Way = self.forget  # type: ignore[assignment]
        indices = tuple(self.indices)
        return Forget(way, self.what, self.cluster, self.count, indices, self.pictures)

    def case(self, model: ModelRef | str, seed: int) -> "Case":
        """The case of a model. Raises an `EngineError`, see `opened`."""
        return opened(model, self.chosen, seed, retain=self.retain, test=self.test)


@dataclass(frozen=True, eq=False)
class Case:
    """A model and its sets of samples; None where there is none, with the reason in `missing`.

    `full` is all training data, the forget set included; `manipulated` says how it was tampered
    with. `reference` is the key of a model retrained without the forget set.
    """

    bundle: ClassifierBundle
    forget: Forget
    forget_set: Samples
    retain_set: Samples | None
    test_forget: Samples | None
    test_retain: Samples | None
    total: int
    manipulated: Manipulated | None = None
    reference: str = ""
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.bundle.model

    @property
    def task(self) -> str:
        """A digest of model and sets: cards compare if it is equal."""
        sets = [self.forget_set, self.retain_set, self.test_forget, self.test_retain]
        told = [None if found is None else _digest(found) for found in sets]
        document = json.dumps([state_of(self.model), asdict(self.forget), told])
        return hashlib.sha256(document.encode()).hexdigest()[:16]

    def set(self, name: str) -> Samples | None:
        """One of the sets that a card tells of."""
        return {
            "forget_test": self.test_forget,
            "retain_test": self.test_retain,
            "forget_train": self.forget_set,
            "retain_train": self.retain_set,
        }[name]

    @property
    def full(self) -> Samples:
        """Retain data sorted by class and then the forget data, as the authors' loader has it.

        Raises `BadInput` when there is no retain data.
        """
        if self.retain_set is None:
            raise BadInput(
                "There is no retain data, and no stored importances of it.",
                "Give a zip of training pictures, or importances that were saved before.",
            )
        return self.retain_set.by_class().joined(self.forget_set)


def state_of(model: nn.Module) -> str:
    """The fingerprint of all weights and buffers."""
    return state_fingerprint(model.state_dict())


def _digest(samples: Samples) -> str:
    total = hashlib.sha256(samples.ids.numpy().tobytes())
    total.update(samples.labels.numpy().tobytes())
    return total.hexdigest()[:16]


# ---------------------------------------------------------------------- opening


def open_classifier(model: ModelRef | str) -> ClassifierBundle:
    """The classifier of a reference. Raises `ModelMismatch` when it is of another kind."""
    bundle = load(model if isinstance(model, ModelRef) else ModelRef(model), dtype="float32")
    if not isinstance(bundle, ClassifierBundle):
        raise ModelMismatch(
            f"{bundle.card.title} is no image classifier.",
            "Pick one of the models of garments, or a folder for image classification.",
        )
    return bundle


def opened(
    model: ModelRef | str,
    forget: Forget,
    seed: int,
    *,
    retain: str = "",
    test: str = "",
) -> Case:
    """The case of a model and a forget set.

    `retain` and `test` are picture sets of the visitor; embedded worlds need none.
    Raises an `EngineError` where the forget set is no part of the data or has no label, and where
    a world that has its own pictures is given others.
    """
    bundle = open_classifier(model)
    world = data_of(bundle)
    if world is None:
        return _own(bundle, forget, retain, test)
    check_unused(bundle, retain, test)
    train, tampered, by_group = world
    chosen = _chosen(bundle, forget, train, by_group, seed)
    forget_set = train.take(chosen)
    kept = train.take(~chosen)
    tests = garments("test", by_group=by_group)
    unseen = _chosen_of_test(forget, by_group)
    missing = {}
    if unseen is None:
        missing["forget_test"] = "the forget set has no test pictures of its own"
    return Case(
        bundle,
        forget,
        forget_set,
        kept,
        None if unseen is None else tests.take(unseen),
        tests if unseen is None else tests.take(~unseen),
        len(train),
        tampered,
        _reference(bundle.card.key, forget, seed),
        missing,
    )


def check_unused(bundle: ClassifierBundle, *sets: str) -> None:
    """Raises `BadInput` where a visitor's pictures come with a model that has its own."""
    if any(sets):
        raise BadInput(
            f"{bundle.card.title}: this model comes with its own pictures to keep and judge by.",
            "Leave those fields empty, or pick a model of yours.",
        )


def data_of(
    bundle: ClassifierBundle, seed: int = 0
) -> tuple[Samples, Manipulated | None, bool] | None:
    """Training data of an embedded world, how it was manipulated, and whether labels are groups.

    `seed` is that of the manipulation; what ships was made with 0.
    """
    key = bundle.ref.source
    if key not in MODELS or not key.startswith("fashion"):
        return None
    by_group = key.startswith("fashion-groups")
    tampered = manipulated(key, seed)
    clean = garments("train", by_group=by_group)
    return (tampered.samples if tampered else clean), tampered, by_group


def _chosen(
    bundle: ClassifierBundle, forget: Forget, train: Samples, by_group: bool, seed: int
) -> Bool[Tensor, " n"]:
    """Which training samples are to be forgotten."""
    match forget.way:
        case "class":
            return _is_class(forget.what, "train", train, by_group)
        case "cluster":
            within = _is_class(forget.what, "train", train, by_group)
            places = within.nonzero().flatten()
            groups = clusters(bundle, train.take(places), CLUSTERS)
            return _at(places[groups == forget.cluster], len(train))
        case "random":
            return torch.isin(train.ids, at_random(len(train), forget.count, seed))
        case "picked":
            beyond = [index for index in forget.indices if index >= len(train)]
            if beyond:
                raise BadInput(
                    f"Picture {beyond[0]} is not part of the training data.",
                    f"It has {len(train)} pictures, counted from 0.",
                )
            return _at(torch.tensor(forget.indices), len(train))
        case _:
            found = uploaded(bundle, forget.pictures)
            return _among(train, found)


def at_random(total: int, count: int, seed: int) -> Int[Tensor, " n"]:
    """The samples that "random" forgets: for the same seed those of the retrained reference."""
    return forgotten_at_random(seed, total=total, count=count)


def _is_class(what: str, part: fashion.Part, samples: Samples, by_group: bool) -> Tensor:
    """By the class's true name; in the world of groups a class is a part of its group."""
    known = (*fashion.CLASSES, *(fashion.GROUPS if by_group else ()))
    name = next((one for one in known if one.lower() == what.lower()), None)
    if name is None:
        raise BadInput(f'There is no class "{what[:40]}".', f"Choose {', '.join(known)}.")
    if name in fashion.CLASSES:
        truth = torch.from_numpy(fashion.garments(part).labels.astype("int64"))
        return truth[samples.ids] == fashion.CLASSES.index(name)
    return samples.labels == fashion.GROUPS.index(name)


def _chosen_of_test(forget: Forget, by_group: bool) -> Bool[Tensor, " n"] | None:
    if forget.way != "class":
        return None
    return _is_class(forget.what, "test", garments("test", by_group=by_group), by_group)


def _at(places: Int[Tensor, " m"], total: int) -> Bool[Tensor, " n"]:
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[places] = True
    return chosen


def _among(train: Samples, given: Samples) -> Bool[Tensor, " n"]:
    """Which training samples have exactly the pixels of a given one."""
    hashes = {picture.numpy().tobytes(): index for index, picture in enumerate(train.pixels)}
    found = [hashes.get(picture.numpy().tobytes()) for picture in given.pixels]
    absent = sum(index is None for index in found)
    if absent:
        raise BadInput(
            f"{absent} of the {len(found)} uploaded pictures are not part of this model's training "
            "data.",
            "Forgetting is about training data: upload pictures that were exported from it.",
        )
    return _at(torch.tensor(found), len(train))


def _reference(key: str, forget: Forget, seed: int) -> str:
    """The shipped model that was retrained without the forget set, or an empty text."""
    if forget.way == "class":
        name = f"{key}-without-{forget.what.lower()}"
    elif forget.way == "random" and (forget.count, seed) == (100, 0):
        name = f"{key}-without-100"
    else:
        return ""
    return name if name in MODELS else ""


# ---------------------------------------------------------------------- a visitor's own


def uploaded(bundle: ClassifierBundle, source: str, *, labels: bool = True) -> Samples:
    """A picture set as the network takes it. Raises `BadInput` for labels it does not know."""
    found = picture_sets.open_set(source)
    pixels = torch.stack([torch.from_numpy(bundle.pixels(one.picture)) for one in found])
    names = {name.lower(): index for index, name in enumerate(bundle.classes)}
    numbers = [_label(one.label, names, one.name) if labels else 0 for one in found]
    return Samples.of(pixels, torch.tensor(numbers), look_of(bundle))


def look_of(bundle: ClassifierBundle) -> Look:
    """How the bundle's network wants its pixels."""
    return Look(bundle.mean, bundle.std)


def _label(told: str, names: Mapping[str, int], file: str) -> int:
    """A class by its name or number; without one nothing is known, which is -1."""
    if not told:
        return -1
    if told.lower() in names:
        return names[told.lower()]
    if told.isdecimal():
        number = int(told)
        if number < len(names):
            return number
        raise BadInput(
            f"The label {told[:20]} of {file[:60]} is out of range.",
            f"This model has the classes 0 to {len(names) - 1}.",
        )
    raise BadInput(
        f'This model has no class "{told[:40]}", which {file[:60]} is labelled with.',
        f"Its classes are {', '.join(list(names)[:12])}{' …' if len(names) > 12 else ''}.",
    )


def _own(bundle: ClassifierBundle, forget: Forget, retain: str, test: str) -> Case:
    """A visitor's model with what the visitor gives."""
    if forget.way not in ("uploaded", "picked"):
        raise BadInput(
            f"The training data of {bundle.card.title} is not here, so a forget set must be given.",
            "Upload a zip of the pictures to forget, in folders named after their classes.",
        )
    kept = uploaded(bundle, retain) if retain else None
    if forget.way == "picked":
        if kept is None:
            raise BadInput(
                "Indices need the training data they count in.",
                "Upload the training pictures as the retain set, or the forget set as a zip.",
            )
        beyond = [index for index in forget.indices if index >= len(kept)]
        if beyond:
            raise BadInput(
                f"Picture {beyond[0]} is not part of the training data.",
                f"The uploaded set has {len(kept)} pictures, counted from 0.",
            )
        chosen = _at(torch.tensor(forget.indices), len(kept))
        forget_set, kept = kept.take(chosen), kept.take(~chosen)
    else:
        forget_set = uploaded(bundle, forget.pictures)
    tests = uploaded(bundle, test) if test else None
    missing: dict[str, str] = {}
    if kept is None:
        missing |= dict.fromkeys(("retain_train", "mia"), "no retain data was given")
    if tests is None:
        missing |= dict.fromkeys(("retain_test", "forget_test", "mia"), "no test data was given")
    classes = forget_set.labels.unique()
    whole = len(classes) == 1 and tests is not None
    if tests is not None and not whole:
        missing["forget_test"] = "the forget set is not one class"
    of_class = None if tests is None else torch.isin(tests.labels, classes)
    return Case(
        bundle,
        forget,
        forget_set,
        kept,
        tests.take(of_class) if whole else None,  # type: ignore[union-attr,arg-type]
        tests.take(~of_class) if whole else tests,  # type: ignore[union-attr,operator]
        len(forget_set) + (0 if kept is None else len(kept)),
        missing=missing,
    )


# ---------------------------------------------------------------------- judging


def outputs(
    model: nn.Module, samples: Samples, size: int = BATCH
) -> Generator[None, None, Float[Tensor, "n k"]]:
    """Class probabilities of each sample; yields after each batch."""
    found = []
    device, dtype = next((p.device, p.dtype) for p in model.parameters())
    for inputs, _ in samples.batches(size):
        with torch.no_grad():
            found.append(logits_of(model(inputs.to(device, dtype))).float().cpu().softmax(-1))
        yield
    return torch.cat(found)


SETS = ("forget_test", "retain_test", "forget_train", "retain_train")
"""In the order they are looked at: what a visitor waits for comes first."""


def always(value: T) -> Callable[[object], T]:
    """Tells the same of every event; for `relay`."""
    return lambda event: value


def judged(case: Case, model: nn.Module, method: str, seed: int = 0) -> Generator[Card, None, Card]:
    """The card of a model on the case, filled set by set; yields it as far as it is.

    At most 2,000 samples of each set are looked at, drawn with `seed`. ZRF is of the forgotten, of
    unseen ones where there are such, as in the published code.
    """
    card = Card(method, case.task, missing=dict(case.missing), after=state_of(model))
    told, kept = {}, {}
    for name in SETS:
        samples = case.set(name)
        if samples is None or not len(samples):
            continue
        kept[name] = samples.some(EVALUATED, seed, name)
        told[name] = yield from relay(outputs(model, kept[name]), always(card))
        card = _with_rate(card, name, told[name].argmax(1), kept[name].labels)
        yield card
    forgotten = "forget_test" if "forget_test" in told else "forget_train"
    if forgotten in told:
        random = yield from relay(_guesses(case, kept[forgotten], seed), always(card))
        card = replace(card, zrf=membership.zero_retrain_forgetting(told[forgotten], random))
    return _with_membership(case, card, told, kept, seed)


_GUESSES: LruCache[Tensor] = LruCache(most=16)
"""What networks that were never trained say: the same for all cards of a case."""


def _guesses(case: Case, samples: Samples, seed: int) -> Generator[None, None, Tensor]:
    key = (case.task, _digest(samples), seed)
    found = _GUESSES.peek(key)
    if found is None:
        found = yield from outputs(untrained(case.model, seed), samples)
        _GUESSES.put(key, found)
    return found


def _with_rate(card: Card, name: str, said: Tensor, labels: Tensor) -> Card:
    known = labels >= 0
    rate = rate_of((said == labels)[known])
    if rate is None:
        return replace(card, missing={**card.missing, name: "these pictures have no labels"})
    return replace(card, **{name: rate})  # type: ignore[arg-type]


def _with_membership(
    case: Case, card: Card, told: Mapping[str, Tensor], kept: Mapping[str, Samples], seed: int
) -> Card:
    """Both attacks, where there is data for them."""
    if not {"retain_train", "retain_test"} <= told.keys():
        return card
    mia = membership.attack(told["retain_train"], _unseen(case, told), told["forget_train"])
    others = "forget_test" if "forget_test" in told else "retain_test"
    if min(len(told["forget_train"]), len(told[others])) < LEAST_OF_EACH:
        return replace(card, mia=mia)
    inside, outside = (
        membership.statistics(told[name], kept[name].labels.clamp(min=0))
        for name in ("forget_train", others)
    )
    return replace(card, mia=mia, worst_case=membership.worst_case(inside, outside, seed))


def _unseen(case: Case, told: Mapping[str, Tensor]) -> Float[Tensor, "n k"]:
    """Outputs on the test set, both its parts in the proportion that they have there."""
    rest = told["retain_test"]
    if "forget_test" not in told:
        return rest
    looked_at = len(rest) / len(case.test_retain or rest)
    return torch.cat(
        [rest, told["forget_test"][: round(looked_at * len(case.test_forget or rest))]]
    )


CARDS: LruCache[Card] = LruCache(most=64)
"""Cards of models that do not change: the original's and the references'."""


def judged_once(
    case: Case, model: nn.Module, method: str, seed: int
) -> Generator[Card, None, Card]:
    """The same, kept for the next run."""
    key = (case.task, state_of(model), method, seed)
    found = CARDS.peek(key)
    if found is None:
        found = yield from judged(case, model, method, seed)
        CARDS.put(key, found)
    return found

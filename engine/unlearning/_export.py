"""An edit as files for other tools, each read back before it is given away."""

import tempfile
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.catalog import Exactness
from engine.core.job import Progress, relay
from engine.core.patch import Patch
from engine.core.reversible import compare
from engine.models._sources import from_user
from engine.models.classifier import ClassifierBundle
from engine.models.tensor_file import TensorFile
from engine.unlearning._card import Card
from engine.unlearning._importance import Importance, Measure, stream
from engine.unlearning._samples import Samples

FORMS = ("patch", "checkpoint", "card")
TEXTS = ("config.json", "preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Exported:
    """Files for other tools. `is_equal` tells whether what was read back has the edit's bits."""

    form: str
    files: Mapping[str, TensorFile] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    is_equal: bool = False
    note: str = ""


@dataclass(frozen=True)
class Importances:
    """The importances of all data: as a file to take along, or already in the folder named."""

    samples: int
    of: int
    terms: int
    unit: str
    weights: int = 0
    megabytes: float = 0.0
    file: TensorFile | None = None
    saved_as: str = ""


def exported(bundle: ClassifierBundle, patch: Patch, card: Card, form: str) -> Exported:
    """The patch, the edited checkpoint with its undo file, or the card."""
    if form == "card":
        return _card(card)
    undo = TensorFile("undo.safetensors", b"".join(map(bytes, patch.pieces())))
    if form == "patch":
        return Exported(form, {undo.name: undo}, {}, _reads_back(undo, patch), _told(patch))
    state = bundle.model.state_dict()
    edited = patch.apply(state)
    prefix = bundle.prefix
    stored = {name.removeprefix(prefix): tensor for name, tensor in edited.items()}
    model = TensorFile.of("model.safetensors", stored, {"format": "pt"})
    back = {f"{prefix}{name}": tensor for name, tensor in model.read().items()}
    equal = _same(dict(edited), back) and _same(dict(state), dict(patch.undo(back)))
    texts = {
        name: (bundle.folder / name).read_text("utf-8")
        for name in TEXTS
        if (bundle.folder / name).is_file()
    }
    texts |= {"README.md": _readme(bundle, patch), "card.json": card.json()}
    return Exported(form, {model.name: model, undo.name: undo}, texts, equal, _told(patch))


def _card(card: Card) -> Exported:
    text = card.json()
    return Exported("card", {}, {"card.json": text}, Card.from_json(text) == card, card.method)


def _told(patch: Patch) -> str:
    kilobytes = patch.nbytes / 1000
    return f"{patch.name}: {len(patch.before)} tensors touched, {kilobytes:.1f} kB of bits"


def _reads_back(file: TensorFile, patch: Patch) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, file.name)
        path.write_bytes(file.data)
        return Patch.load(path).digest == patch.digest


def _same(a: Mapping[str, object], b: Mapping[str, object]) -> bool:
    return compare(dict(a), dict(b)).exactness is Exactness.BITWISE


def _readme(bundle: ClassifierBundle, patch: Patch) -> str:
    card, library = bundle.card, "timm" if bundle.prefix else "transformers"
    return (
        f"---\nlicense: other\nlibrary_name: {library}\npipeline_tag: image-classification\n---\n"
        f"\n# {card.title}, as edited in Rewind\n\n"
        f"Base: {bundle.ref.source}, revision {bundle.ref.revision or 'not stated'}.\n"
        f"Licence of the base: {card.licence}.\n\nEdit: {patch.name}, recipe\n"
        f"`{patch.recipe.json()}`.\n\nUndo it with\n"
        '`engine.core.patch.Patch.load("undo.safetensors").undo(state)`: every bit comes back.\n'
        + (f"There, `{bundle.prefix}` stands before each name.\n" if bundle.prefix else "")
    )


def written(
    bundle: ClassifierBundle, samples: Samples, measure: Measure, folder: str
) -> Generator[Progress, None, Importances]:
    """The importances of the samples, streamed; in a folder of this machine, or to take along."""
    if not folder:
        found = yield from _streamed(bundle, samples, measure, None)
        file = found.file(f"importance-{measure.unit}.safetensors")
        return _result(found, len(samples), file=file)
    target = from_user(folder) / f"importance-{measure.unit}.safetensors"
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        found = yield from _streamed(bundle, samples, measure, Path(scratch, "sums.safetensors"))
        found.save(target)
        return _result(found, len(samples), saved_as=target.name)


def _streamed(
    bundle: ClassifierBundle, samples: Samples, measure: Measure, into: Path | None
) -> Generator[Progress, None, Importance]:
    how = measure.streaming(bundle.model, into=into)
    ordered = samples.by_class() if measure.unit == "sorted" else samples
    return (
        yield from relay(
            stream(how, measure.batches(ordered)),
            lambda part: Progress(
                part.samples,
                len(samples),
                "Importances",
                Importances(part.samples, len(samples), part.terms, measure.unit),
            ),
        )
    )


def _result(
    found: Importance, total: int, *, file: TensorFile | None = None, saved_as: str = ""
) -> Importances:
    return Importances(
        found.samples,
        total,
        found.terms,
        found.provenance.unit,
        sum(value.numel() for value in found.values.values()),
        found.nbytes / 1e6,
        file,
        saved_as,
    )

"""Files for other tools, each opened again by our own reader and compared with what it holds."""

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.core.job import Progress, relay
from engine.core.named_file import TextFile
from engine.core.recipe import ModelRef
from engine.core.reversible import Missed, missed
from engine.core.shapes import Float, Tensor
from engine.merging.reversible_merging import applied, exports
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging import bundle as bundles
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.gauge import aligned
from engine.merging.reversible_merging.rebuilding import Pairs, merged
from engine.merging.reversible_merging.results import Exported
from engine.merging.reversible_merging.ways import MERGES, Mix
from engine.models.adapters import canonical, open_lora, part_of
from engine.models.drawing import open_bundle
from engine.models.tensor_file import TensorFile

LARGEST_RANK = 256
"""The most a merged adapter is factored to."""


def bundle_files(
    collection: Collection, p: int, align: bool, half: bool
) -> Generator[Progress, None, Exported]:
    """The basis as one file with its reader, read back module by module."""
    layers = len(collection.modules)  # each is fitted, and then read back
    steps = bundles.make(collection, p, align=align, half=half)
    file = yield from relay(steps, lambda event: replace(event, total=2 * layers))
    header, tensors = bundles.header(file), file.read()
    error, seen = 0.0, Missed()
    for place, (module, found) in enumerate(bundles.read(tensors, header).items(), start=1):
        a, b = collection.factors(module)
        pair = aligned(a, b) if align else (a, b)
        truth = rmm.revert_all(rmm.fit(*pair, min(p, rmm.largest_p(len(a), a.shape[2]))))
        back = rmm.revert_all(replace(found, mu=found.mu.double(), U=found.U.double(),
                                      C=found.C.double()))  # fmt: skip
        error = max(error, _relative(back[0], truth[0]), _relative(back[1], truth[1]))
        for index, (up, down) in enumerate(zip(*back, strict=True)):
            seen.add(up @ down, _delta(collection, module, index))
        yield Progress(layers + place, 2 * layers, "Reading it back")
    note = f"{len(file.data) / 1e6:.2f} MB for {collection.n} adapters; python read_bundle.py"
    reader = TextFile.of("read_bundle.py", bundles.READER)
    return Exported("bundle", {"bundle": file, "read_bundle": reader}, error, note, seen.share)


def adapter_files(collection: Collection, basis: Pairs, index: int, form: str) -> Exported:
    """One rebuilt adapter; its error is the part of the original that the file misses."""
    pairs = {
        module: (a[index], b[index])
        for module, (a, b) in basis.items()
        if module in collection.loras[index].layers
    }
    made = _written(collection, pairs, form, f"{collection.names[index]}, rebuilt")
    gap = missed((a @ b, _delta(collection, m, index)) for m, (a, b) in pairs.items())
    return replace(made, error=gap)


def _delta(collection: Collection, module: str, index: int) -> Float[Tensor, "m d"]:
    """What one adapter of the collection adds to a module."""
    a, b = collection.factors(module)
    return a[index].double() @ b[index].double()


def merged_files(collection: Collection, merge: str, mix: Mix) -> Exported:
    """One adapter in place of all; its error is the part of the merge that its rank misses."""
    rank = min(collection.n * collection.rank, LARGEST_RANK)
    whole = merged(collection, merge, mix)
    pairs = {module: exports.pair_of(delta, rank) for module, delta in whole.items()}
    made = _written(collection, pairs, "merged", f"{MERGES[merge].title} of {collection.n}")
    gap = missed((a.double() @ b.double(), whole[module]) for module, (a, b) in pairs.items())
    return replace(made, error=gap)


def as_called(collection: Collection, model: ModelRef | str) -> Collection:
    """Kohya's keys have lost their dots: the model says where they were."""
    if not collection.has_lost_dots:
        return collection
    state = open_bundle(model).model.state_dict()
    return collection.called(applied.names_in(state, collection))


def _written(
    collection: Collection, pairs: Mapping[str, tuple[Tensor, Tensor]], form: str, what: str
) -> Exported:
    """The files, opened again by our own reader and compared."""
    is_kohya = form == "kohya"
    files = [exports.kohya(collection, pairs)] if is_kohya else exports.peft(collection, pairs)
    known = {module: collection.layer(module).name for module in pairs}
    error = 0.0
    with TemporaryDirectory() as scratch:
        for file in files:
            path = Path(scratch, file.name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(file.data)
        for file in files:
            if not isinstance(file, TensorFile):
                continue
            path, part = Path(scratch, file.name), file.name.rpartition("/")[0]
            lora = open_lora(path if is_kohya else path.parent, what)
            for module, (a, b) in pairs.items():
                inside = module if is_kohya else canonical(part_of(known[module])[1])
                if is_kohya or part in ("", part_of(known[module])[0]):
                    back = lora.factors(inside)
                    error = max(error, _relative(back[0] @ back[1], a.float() @ b.float()))
    return Exported(form, {file.name: file for file in files}, error, what)


def _relative(found: Tensor, truth: Tensor) -> float:
    """The largest difference, as a share of the largest true value."""
    size = float(truth.abs().max()) or 1.0
    return float((found.double() - truth.double()).abs().max()) / size

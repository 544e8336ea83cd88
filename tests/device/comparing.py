"""How far two results of one job lie apart that were computed in two places.

    for gap in gaps(on_the_cpu, on_the_device):
        gap.place, gap.size        "result.rows[1].pictures", 0.004

A gap is relative: 0 is equal in every bit, 1 is as large as the largest number beside it, and inf
means that the two are not of one kind or shape, or that their words differ. Pictures are compared
by their mean, of 255, as one level of rounding says nothing. What is no result is left out:
seconds and what is timed, whether something was cached, digests and shares of equal bits (one
rounding tips them; whether all are equal is compared), the bits that an undo file turns over, and
in sentences the digits and encoded bytes.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from engine.core.named_file import NamedFile, TextFile
from engine.core.patch import Patch
from engine.models.library import load
from engine.models.tensor_file import TensorFile

NUMBER = re.compile(
    r"[A-Za-z0-9+/=_-]{100,}|\b[0-9a-f]{12,}\b|-?\d+([.,:]\d+)*(e-?\d+)?|\b(nan|inf)\b"
)
UNTOLD = re.compile(r"^was_|^undo\.|seconds|per_nfe|timing|digest|sha256|versions|equal_bits")
# A number below this is the round-off that some results tell of; it is held against this instead.
SMALL = 1e-3
FACTORS = ((".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight"))


@dataclasses.dataclass(frozen=True)
class Gap:
    place: str
    size: float
    told: str = ""


def gaps(ours: object, theirs: object, place: str = "result") -> Iterator[Gap]:
    """Every difference, with where it is."""
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        assert theirs.device.type == "cpu", f"{place} lies on {theirs.device}"
        ours, theirs = ours.detach().numpy(force=True), theirs.detach().numpy(force=True)
    if type(ours) is not type(theirs):
        yield Gap(place, math.inf, f"{type(ours).__name__} and {type(theirs).__name__}")
    elif isinstance(ours, np.ndarray):
        yield from _of_arrays(ours, theirs, place)
    elif isinstance(ours, Patch):
        yield from gaps(_patched(ours), _patched(theirs), f"{place}.patched")
    elif isinstance(ours, TensorFile):
        pair = (_products(file.read()) for file in (ours, theirs))
        yield from gaps(*pair, f"{place}:{ours.name}")
    elif isinstance(ours, bytes):
        yield from gaps(TensorFile("file", ours), TensorFile("file", theirs), place)
    elif isinstance(ours, TextFile):
        yield from gaps(ours.text, theirs.text, f"{place}:{ours.name}")
    elif dataclasses.is_dataclass(ours) and not isinstance(ours, NamedFile):
        for name in (field.name for field in dataclasses.fields(ours)):
            if not UNTOLD.search(name):
                yield from gaps(getattr(ours, name), getattr(theirs, name), f"{place}.{name}")
    elif isinstance(ours, Mapping):
        yield from _of_sizes(sorted(map(str, ours)), sorted(map(str, theirs)), place)
        for name in ours.keys() & theirs.keys():
            if not UNTOLD.search(str(name)):
                yield from gaps(ours[name], theirs[name], f"{place}[{name!r}]")
    elif isinstance(ours, list | tuple):
        yield from _of_sizes(len(ours), len(theirs), place)
        for index, pair in enumerate(zip(ours, theirs, strict=False)):
            yield from gaps(*pair, f"{place}[{index}]")
    elif isinstance(ours, float):
        yield from _of_arrays(np.float64(ours), np.float64(theirs), place)
    elif isinstance(ours, str):
        yield from _of_sizes(NUMBER.sub("#", ours), NUMBER.sub("#", theirs), place)
    else:
        yield from _of_sizes(ours, theirs, place)


def _of_sizes(ours: object, theirs: object, place: str) -> Iterator[Gap]:
    if ours != theirs:
        yield Gap(place, math.inf, f"{ours!s:.80} and {theirs!s:.80}")


def _of_arrays(ours: np.ndarray, theirs: np.ndarray, place: str) -> Iterator[Gap]:
    if ours.dtype != theirs.dtype or ours.shape != theirs.shape:
        told = f"{ours.dtype} {ours.shape} and {theirs.dtype} {theirs.shape}"
        yield Gap(place, math.inf, told)
        return
    if not ours.size or np.array_equal(ours, theirs, equal_nan=ours.dtype.kind in "fc"):
        return
    if ours.dtype.kind not in "fciu":
        yield Gap(place, float(np.mean(ours != theirs)), "share of unlike entries")
    elif ours.dtype == np.uint8:
        yield Gap(place, float(np.abs(ours.astype(float) - theirs).mean()) / 255, "mean of 255")
    else:
        apart = np.abs(ours.astype(complex) - theirs)
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        largest = max(float(np.abs(ours[np.isfinite(ours)]).max(initial=0.0)), SMALL)
        size = float(np.where(same, 0, apart).max()) / largest
        yield Gap(place, math.inf if math.isnan(size) else size, f"of {largest:.2g}")


def _products(tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Factors of a LoRA as their product: an SVD is free to turn the factors themselves."""
    found = dict(tensors)
    for down, up in FACTORS:
        for name in [name.removesuffix(down) for name in tensors if name.endswith(down)]:
            right, left = found.pop(name + down), found.pop(name + up)
            found[name] = left.flatten(1).double() @ right.flatten(1).double()
    return found


def _patched(patch: Patch) -> Mapping[str, torch.Tensor]:
    """The touched weights with the edit in them."""
    state = dict(load(patch.recipe.model, "cpu", "float32").model.state_dict())
    return {name: patch.apply(state)[name] for name in sorted(patch.before)}

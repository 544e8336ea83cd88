"""An edit of a model as a value: the exact bit difference of every tensor that it touches.

    patch = Patch.between(before.state_dict(), after.state_dict(), recipe)
    edited = patch.apply(state)            # new tensors where touched; all others are shared
    patch.undo(edited)                     # every bit as it was

Why bits: adding a float difference and subtracting it again loses about one value in nine. XOR of
the bit patterns returns every value, NaN, infinities and the sign of zero included:

    flips = bits(old) ^ bits(new)
    bits(new) = bits(old) ^ flips
    bits(old) = bits(new) ^ flips

The same words apply and undo, so fingerprints of the tensors before and after say on which side a
model stands. A patch belongs to one base, revision and number format; for another one its recipe
runs the method again. Where few numbers change, a patch may keep their places and bits alone
(`sparse`): 8 bytes a changed float32. Names that share one tensor (tied weights) are one entry,
under the smallest name; two views that only overlap are two entries, and their tie does not survive
an edit.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from engine.core import disk, patch_file
from engine.core.errors import BadInput, ModelMismatch, PatchConflict
from engine.core.precision import at_home, state_at_home
from engine.core.recipe import Recipe
from engine.core.shapes import Shaped, Tensor

State: TypeAlias = Mapping[str, Tensor]
R = TypeVar("R")

WORTH_THREADS = 8_000_000  # bytes

# Bytes of one number -> integer type of the same width that carries its bits.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FILE_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


@dataclass(frozen=True, eq=False)
class Patch:
    """The bits that an edit turns over, with fingerprints of what it touches and its recipe.

    `flips` are integer tensors of the old shapes, `rows` are appended at dim 0 (new tokens), both
    on the CPU. Where `support` has a name, its flips are of those flat places alone, in order.
    `before` and `after` have one fingerprint for every touched tensor. `ties` maps further names of
    a touched tensor to the name it goes by here.
    """

    flips: Mapping[str, Shaped[Tensor, "..."]]
    before: Mapping[str, str]
    after: Mapping[str, str]
    recipe: Recipe
    rows: Mapping[str, Shaped[Tensor, "n ..."]] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)
    support: Mapping[str, Shaped[Tensor, " n"]] = field(default_factory=dict)

    @classmethod
    def between(cls, old: State, new: State, recipe: Recipe, *, sparse: bool = False) -> "Patch":
        """The patch that leads from `old` to `new`. Neither is changed.

        `sparse` keeps the places of what changed wherever that is smaller.

        Raises `ModelMismatch` when tensors are missing, added, or of another kind or shape;
        growing at dim 0 is the one change of shape that a patch can carry.
        """
        groups = _tied_groups(old)
        twins = _twins(groups, new)
        changed = [name for name in twins if not _are_one(old[name], twins[name])]
        here = at_home([state[name] for state in (old, twins) for name in changed])
        before, after = (
            dict(zip(changed, part, strict=True))
            for part in (here[: len(changed)], here[len(changed) :])
        )
        found = _each(lambda name: _difference(name, before[name], after[name]), before)
        touched = {name: change for name, change in zip(changed, found, strict=True) if change}
        flips = {n: c.flips for n, c in touched.items() if c.flips is not None}
        support = {n: places for n, f in flips.items() if sparse and len(places := _support(f))}
        return cls(
            flips={n: f.flatten()[support[n]] if n in support else f for n, f in flips.items()},
            support=support,
            rows={n: c.rows for n, c in touched.items() if c.rows is not None},
            before={n: c.before for n, c in touched.items()},
            after={n: c.after for n, c in touched.items()},
            ties={tied: n for n in touched for tied in groups[n][1:]},
            recipe=recipe,
        )

    def apply(self, state: State) -> State:
        """The state with this edit: touched tensors are new, all others are shared.

        Raises `PatchConflict` when it is applied already or another edit lies in between, and
        `ModelMismatch` when the model is not the one it was made for.
        """
        return self._turned(state, self.before, self.after, self._forward)

    def undo(self, state: State) -> State:
        """The state without this edit, every bit as before it.

        Raises `PatchConflict` when it is not applied or a later edit lies on one of its tensors.
        """
        return self._turned(state, self.after, self.before, self._backward)

    @property
    def name(self) -> str:
        """The name of the edit: the recipe's label, or else its method."""
        return self.recipe.label or self.recipe.slug

    @property
    def nbytes(self) -> int:
        """The size of its tensors, which is the size of its file but for the header."""
        parts = (self.flips, self.support, self.rows)
        return sum(tensor.nbytes for part in parts for tensor in part.values())

    @cached_property
    def digest(self) -> str:
        """Its content address: the digest of its file."""
        return patch_file.digest_of(self._pieces(patch_file.NO_DIGEST))

    def save(self, path: Path) -> None:
        """Writes a safetensors file, all or nothing. Raises `AssetMissing` if it cannot."""
        disk.write(path, self.pieces())

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The bytes of its file, piece by piece and without copies of the tensors."""
        return self._pieces(self.digest)

    @classmethod
    def load(cls, path: Path) -> "Patch":
        """The patch in a file, every bit checked against its digest.

        Raises `BadInput` when the file is truncated, altered or no patch, `AssetMissing` when it
        is not there.
        """
        header = patch_file.check_content(path)
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise BadInput("This patch file is damaged.", "Export the patch again.") from error
        patch = cls(
            flips=_named("flips/", tensors),
            support=_named("support/", tensors),
            rows=_named("rows/", tensors),
            before=header.before,
            after=header.after,
            ties=header.ties,
            recipe=header.recipe,
        )
        patch.__dict__["digest"] = header.digest
        return patch

    def _pieces(self, digest: str) -> Iterator[bytes | memoryview]:
        tensors = {f"flips/{name}": tensor for name, tensor in self.flips.items()}
        tensors |= {f"rows/{name}": tensor for name, tensor in self.rows.items()}
        tensors |= {f"support/{name}": tensor for name, tensor in self.support.items()}
        # Wide numbers first, so that each tensor of the file lies aligned.
        order = sorted(tensors, key=lambda key: (-tensors[key].element_size(), key))
        layout = {
            key: (_FILE_DTYPES[tensors[key].dtype], tuple(tensors[key].shape)) for key in order
        }
        metadata = patch_file.metadata_of(
            self.recipe, self.before, self.after, self.ties, is_sparse=bool(self.support)
        )
        yield patch_file.with_digest(patch_file.head(metadata, layout), digest)
        for key in order:
            yield _buffer(tensors[key])

    # ------------------------------------------------------------------ applying

    def _turned(
        self,
        state: State,
        start: Mapping[str, str],
        goal: Mapping[str, str],
        turn: Callable[[str, Tensor], Tensor],
    ) -> State:
        places = self._places(state)

        touched = state_at_home({name: state[names[0]] for name, names in places.items()})

        def one(name: str) -> Tensor:
            self._check(name, fingerprint(touched[name]), start, goal)
            return self._sound(name, turn(name, touched[name]), goal[name])

        turned = dict(state)
        for name, tensor in zip(places, _each(one, touched), strict=True):
            device = state[places[name][0]].device
            turned.update(dict.fromkeys(places[name], tensor.to(device)))
        return turned

    def _forward(self, name: str, tensor: Tensor) -> Tensor:
        edited = _xor(tensor, self.flips.get(name), self.support.get(name))
        rows = self.rows.get(name)
        return edited if rows is None else torch.cat([edited, rows])

    def _backward(self, name: str, tensor: Tensor) -> Tensor:
        rows = self.rows.get(name)
        kept = tensor if rows is None else tensor[: len(tensor) - len(rows)].clone()
        return _xor(kept, self.flips.get(name), self.support.get(name))

    def _places(self, state: State) -> dict[str, list[str]]:
        """For each touched name the names in `state` that hold it, its own or the first one first.

        A name that is tied in the patch and separate in the state counts too, so that a model read
        from a file without ties comes out the same.
        """
        groups = _tied_groups(state)
        group_of = {name: names for names in groups.values() for name in names}
        places = {}
        for name in self.before:
            known = [name, *(tied for tied, own in self.ties.items() if own == name)]
            found = [other for other in known if other in state]
            if not found:
                raise ModelMismatch(
                    f'This model has no tensor called {name}, which "{self.name}" changes.',
                    "Load the model that the patch was made for.",
                )
            places[name] = list(dict.fromkeys([*found, *group_of[found[0]]]))
        return places

    def _check(
        self, name: str, actual: str, start: Mapping[str, str], goal: Mapping[str, str]
    ) -> None:
        if actual == start[name]:
            return
        applying = start is self.before
        if actual == goal[name]:
            raise PatchConflict(
                f'"{self.name}" is applied already: {name} stands as it left it.'
                if applying
                else f'"{self.name}" is not applied: {name} stands as before it.',
                "Undo it first." if applying else "There is nothing to undo.",
            )
        if _kind(actual) != _kind(start[name]):
            raise ModelMismatch(
                f'"{self.name}" was made for {_kind(start[name])} weights, '
                f"but {name} is {_kind(actual)}.",
                "Load the model in that format, or run the method again for this one.",
            )
        raise PatchConflict(
            f'"{self.name}" does not fit {name}: it was made for another base or revision, '
            "or another edit lies on this tensor."
            if applying
            else f'Undo of "{self.name}" is blocked: another edit changed {name} later.',
            "Load the base it was made for, or run the method again on this model."
            if applying
            else "Undo that one first.",
        )

    def _sound(self, name: str, tensor: Tensor, expected: str) -> Tensor:
        if fingerprint(tensor) != expected:
            raise BadInput(
                f'"{self.name}" contradicts itself: {name} does not come out as it says.',
                "Export the patch again.",
            )
        return tensor


def apply_all(state: State, patches: Iterable[Patch]) -> State:
    """The state with several edits, in order; a `PatchStack` of patches is such a list."""
    for patch in patches:
        state = patch.apply(state)
    return state


def fingerprint(tensor: Shaped[Tensor, "..."]) -> str:
    """Number format, shape and half a SHA-256 of the bytes: "float32 64x32 1f0c..."."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    shape = "x".join(map(str, tensor.shape)) or "-"
    total = hashlib.sha256(_buffer(tensor)).hexdigest()
    return f"{dtype} {shape} {total[:32]}"


def state_fingerprint(state: State) -> str:
    """One SHA-256 over names and tensors of a state; the order of names and ties do not matter."""
    groups = _tied_groups(state)
    here = state_at_home({name: state[name] for name in groups})
    prints = _each(lambda name: fingerprint(here[name]), here)
    lines = [
        f"{name} {text}\n"
        for names, text in zip(groups.values(), prints, strict=True)
        for name in names
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


# ---------------------------------------------------------------------- bits


@dataclass(frozen=True)
class _Change:
    flips: Tensor | None
    rows: Tensor | None
    before: str
    after: str


def _difference(name: str, old: Tensor, new: Tensor) -> _Change | None:
    """The change of one tensor on the CPU, None when every bit is equal."""
    grown = _check_growth(name, old, new)
    old_bits = _bits(old)
    new_bits = _bits(new)
    kept_bits = new_bits[: len(old)] if grown else new_bits
    # `equal` stops at the first difference, so this is cheap where there is one.
    is_equal = torch.equal(old_bits, kept_bits)
    if is_equal and not grown:
        return None
    return _Change(
        flips=None if is_equal else torch.bitwise_xor(old_bits, kept_bits),
        rows=new[len(old) :].clone() if grown else None,
        before=fingerprint(old),
        after=fingerprint(new),
    )


def _are_one(old: Tensor, new: Tensor) -> bool:
    return old is new or (_view(old) == _view(new) and old.numel() > 0)


def _check_growth(name: str, old: Tensor, new: Tensor) -> bool:
    """Whether rows were appended. Raises `ModelMismatch` for any other change of kind or shape."""
    if old.dtype == new.dtype and old.shape == new.shape:
        return False
    same_kind = old.dtype == new.dtype and old.ndim == new.ndim > 0
    if same_kind and old.shape[1:] == new.shape[1:] and len(new) > len(old):
        return True
    kinds = [_kind(fingerprint(tensor)) for tensor in (old, new)]
    raise ModelMismatch(
        f"{name} is {kinds[0]} in the base and {kinds[1]} in the edited model.",
        "A patch keeps format and shape; only rows may be appended at the end.",
    )


def _bits(tensor: Tensor) -> Tensor:
    """The numbers of a tensor as integers on the CPU, same shape, without a copy if possible."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise ModelMismatch(
            "This model has sparse, quantized or empty-handed tensors, which patches cannot carry.",
            "Load it as plain float tensors.",
        )
    word = _WORDS.get(tensor.element_size())
    if word is None:
        raise ModelMismatch(f"Tensors of {tensor.dtype} cannot be patched.", "Use a narrower type.")
    return tensor.detach().cpu().contiguous().view(word)


def _xor(tensor: Tensor, flips: Tensor | None, support: Tensor | None) -> Tensor:
    if flips is None:
        return tensor
    try:
        bits = _bits(tensor)
        if support is None:
            turned = torch.bitwise_xor(bits, flips)
        else:
            turned, places = bits.clone(), _checked_places(support, bits.numel())
            turned.view(-1)[places] ^= flips
        return turned.view(tensor.dtype)
    except RuntimeError as error:
        raise BadInput("This patch is damaged.", "Export the patch again.") from error


def _support(flips: Tensor) -> Tensor:
    """The flat places of what is turned over, or none where all flips weigh less than they would.

    Places are int32 where these reach, which is below two billion numbers.
    """
    flat = flips.flatten()
    places = flat.nonzero().flatten()
    places = places if flat.numel() > 2**31 - 1 else places.int()
    weighs = len(places) * (places.element_size() + flips.element_size())
    return places if weighs < flips.nbytes else places[:0]


def _checked_places(support: Tensor, count: int) -> Tensor:
    """Places of a file: within the tensor, each once, rising. Raises `RuntimeError`."""
    places = support.long()
    if places.ndim != 1 or not len(places) or bool((places[1:] <= places[:-1]).any()):
        raise RuntimeError("the places do not rise")
    if int(places[0]) < 0 or int(places[-1]) >= count:
        raise RuntimeError("a place lies outside of its tensor")
    return places


def _buffer(tensor: Tensor) -> memoryview:
    """The bytes of a tensor as they lie in memory."""
    return _bits(tensor).reshape(-1).numpy().data.cast("B")


def _kind(text: str) -> str:
    """ "64 x 32 float16" from a fingerprint."""
    dtype, shape, _ = text.split(" ")
    return f"{'single' if shape == '-' else shape.replace('x', ' x ')} {dtype}"


# ---------------------------------------------------------------------- names


def _view(tensor: Tensor) -> tuple[object, ...]:
    """Equal for two tensors that show the same numbers of the same storage."""
    storage = tensor.untyped_storage().data_ptr()
    return storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype


def _tied_groups(state: State) -> dict[str, list[str]]:
    """The names of each tensor: smallest name -> all names that share it, sorted."""
    groups: dict[object, list[str]] = {}
    for name in sorted(state):
        # Empty tensors have no storage to share, so each goes by its own name.
        key = _view(state[name]) if state[name].numel() else name
        groups.setdefault(key, []).append(name)
    return {names[0]: names for names in groups.values()}


def _twins(groups: Mapping[str, list[str]], new: State) -> dict[str, Tensor]:
    """For each tensor of the base the edited one. Raises `ModelMismatch` when they do not pair."""
    added = sorted(new.keys() - {name for names in groups.values() for name in names})
    if added:
        raise ModelMismatch(
            f"The edited model has a tensor {added[0]} that the base lacks.",
            "Keep added layers as a file of their own, or merge them into the weights first.",
        )
    return {name: _twin(names, new) for name, names in groups.items()}


def _twin(names: list[str], new: State) -> Tensor:
    found = [name for name in names if name in new]
    if not found:
        raise ModelMismatch(
            f"The edited model lacks the tensor {names[0]} of the base.",
            "Compare models of one architecture.",
        )
    twin = new[found[0]]
    for other in found[1:]:
        is_same = _view(new[other]) == _view(twin)
        if not is_same and fingerprint(new[other]) != fingerprint(twin):
            raise ModelMismatch(
                f"{found[0]} and {other} are one tensor in the base, but two after the edit.",
                "Change both alike, or load the base without tied weights.",
            )
    return twin


def _named(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _each(function: Callable[[str], R], tensors: Mapping[str, Tensor]) -> list[R]:
    """The function's value for each name, over a few threads where the tensors are large.

    Hashing and XOR let go of Python's lock. For small tensors the threads would cost more.
    """
    if sum(tensor.nbytes for tensor in tensors.values()) < WORTH_THREADS:
        return [function(name) for name in tensors]
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, tensors))

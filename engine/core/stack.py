"""The edits of one visitor on one base, in order, and which of them may come off.

A stack reasons from fingerprints alone, so it works on loaded patches and on the headers of patch
files (`PatchStore.header`) alike, and it needs no torch.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from engine.core.errors import PatchConflict


@runtime_checkable
class Edit(Protocol):
    """A `Patch` or a `PatchHeader`."""

    @property
    def digest(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def before(self) -> Mapping[str, str]: ...
    @property
    def after(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class PatchStack:
    """Edits from the first to the last. A stack is a value: push and undo give a new one."""

    edits: tuple[Edit, ...] = ()

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    @property
    def digests(self) -> tuple[str, ...]:
        """What a `ModelRef` carries as its edits."""
        return tuple(edit.digest for edit in self.edits)

    def find(self, edit: Edit | str) -> Edit:
        """The edit of the stack with this digest. Raises `PatchConflict` when it is not there."""
        digest = edit if isinstance(edit, str) else edit.digest
        for known in self.edits:
            if known.digest == digest:
                return known
        name = digest[:12] if isinstance(edit, str) else edit.name
        raise PatchConflict(f'"{name}" is not among the edits of this model.', "Apply it first.")

    def push(self, edit: Edit) -> "PatchStack":
        """The stack with one more edit on top.

        Raises `PatchConflict` when it is there already, or was made for a state of a tensor that
        is not the one the stack leads to. For a tensor that no edit has touched yet, only the
        base can tell; `Patch.apply` asks it.
        """
        if edit.digest in self.digests:
            raise PatchConflict(
                f'"{edit.name}" is applied already.', "Undo it before doing it again."
            )
        for tensor, expected in edit.before.items():
            last = self._last_on(tensor)
            if last is not None and last.after[tensor] != expected:
                raise PatchConflict(
                    f'"{edit.name}" was made without "{last.name}", which has changed {tensor}.',
                    f'Undo "{last.name}" first, or run the method again on top of it.',
                )
        return PatchStack((*self.edits, edit))

    def blockers(self, edit: Edit | str) -> tuple[Edit, ...]:
        """The later edits that lie on a tensor of this one; empty when it may come off."""
        found = self.find(edit)
        later = self.edits[self.edits.index(found) + 1 :]
        return tuple(other for other in later if other.before.keys() & found.before.keys())

    def undo(self, edit: Edit | str) -> "PatchStack":
        """The stack without this edit. Raises `PatchConflict` that names the edits on top of it."""
        found = self.find(edit)
        blockers = self.blockers(found)
        if blockers:
            names = " and ".join(f'"{other.name}"' for other in blockers)
            shared = sorted(found.before.keys() & blockers[0].before.keys())[0]
            raise PatchConflict(
                f'Undo of "{found.name}" is blocked: {names} changed {shared} later.'
                if len(blockers) == 1
                else f'Undo of "{found.name}" is blocked: {names} lie on the same tensors.',
                "Undo that one first." if len(blockers) == 1 else "Undo those first, newest first.",
            )
        return PatchStack(tuple(other for other in self.edits if other is not found))

    def _last_on(self, tensor: str) -> Edit | None:
        return next((edit for edit in reversed(self.edits) if tensor in edit.before), None)

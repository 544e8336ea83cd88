"""An edit baked into the weights: a patch that was applied and undone once."""

from dataclasses import dataclass

from engine.core.patch import Patch, State, state_fingerprint
from engine.core.precision import state_at_home
from engine.core.reversible import RoundTrip, compare


@dataclass(frozen=True)
class Baked:
    """A patch, tried out: its size, and the fingerprints of what it touches on the way."""

    name: str
    patch: Patch
    digest: str
    tensors: int
    megabytes: float
    before: str
    after: str
    undone: str
    undo: RoundTrip

    @classmethod
    def of(cls, name: str, patch: Patch, touched: State) -> "Baked":
        """Applies and undoes the patch on the tensors that it touches."""
        touched = state_at_home(touched)
        applied = patch.apply(touched)
        undone = patch.undo(applied)
        return Baked(
            name,
            patch,
            patch.digest,
            len(patch.before),
            patch.nbytes / 1e6,
            state_fingerprint(touched),
            state_fingerprint(applied),
            state_fingerprint(undone),
            compare(touched, undone),
        )

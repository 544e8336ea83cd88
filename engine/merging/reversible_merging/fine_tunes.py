"""Full fine-tunes as adapters: W_after - W_before, cut to rank r by its SVD.

The paper's PT-SVD setting. The singular values are shared evenly: A = U sqrt(S), B = sqrt(S) V^T.
Which signs and rotations the SVD picks is arbitrary, and differs from task to task; that costs the
basis more than adapters of one start do.

    tuned.safetensors minus base.safetensors rank 16     as a source, beside those of adapters
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

from engine.core.errors import BadInput, ModelMismatch
from engine.core.shapes import Float, Tensor
from engine.merging import _baselines as merges
from engine.models._checks import read_header
from engine.models.adapters import Lora, LoraLayer, canonical, read_tensor

RANK = 16
SOURCE = re.compile(r"(?P<after>.+?) minus (?P<before>.+?)(?: rank (?P<rank>\d{1,6}))?")


class FineTune(Lora):
    """A full fine-tune as an adapter: the factors are found when a module is asked for."""

    before: Path

    @cached_property
    def sha256(self) -> str:
        """Digest of both files and of the rank that the difference is cut to."""
        with self.before.open("rb") as file:
            base = hashlib.file_digest(file, "sha256").hexdigest()
        rank = max(layer.rank for layer in self.layers.values())
        return f"{super().sha256}:{base}:{rank}"

    def as_saved(self, module: str) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r d"], float]:
        key = self.layers[module].down
        after, before = self._tensor(key).double(), read_tensor(self.before, key).double()
        a, b = merges.truncated((after - before).flatten(1), self.layers[module].rank)
        return a.float(), b.float(), 1.0


def from_source(source: str, find: Callable[[str], Path], name: str) -> FineTune | None:
    """The fine-tune that a text names; None for the name of an adapter.

    Raises `BadInput` where one of the two is no single file of safetensors.
    """
    told = SOURCE.fullmatch(source.strip())
    if told is None:
        return None
    before, after = find(told["before"].strip()), find(told["after"].strip())
    if before.is_dir() or after.is_dir():
        raise BadInput(
            "A full fine-tune is given by two files of weights.",
            "Write: tuned.safetensors minus base.safetensors rank 16",
        )
    return fine_tune(before, after, int(told["rank"] or RANK), name=name)


def fine_tune(
    before: Path, after: Path, rank: int, *, only: Sequence[str] = (), name: str = ""
) -> FineTune:
    """The difference of two checkpoints (safetensors files) as an adapter of this rank.

    Every weight of two or more dimensions that both hold counts, except embeddings; `only` names
    ends of weights to take. The rest (biases, norms) stays with the task and is listed as extra.
    """
    if not 1 <= rank <= 1024:
        raise BadInput(f"rank must be from 1 to 1024, got {rank}.", "The paper uses 16 to 128.")
    old, new = read_header(before), read_header(after)
    layers: dict[str, LoraLayer] = {}
    extra: dict[str, int] = {}
    for key, info in new.items():
        if key not in old or old[key].shape != info.shape:
            raise ModelMismatch(
                f"{key[:80]} is {list(info.shape)} in the fine-tune, which the base does not have.",
                "Choose the checkpoint that it was trained from.",
            )
        wanted = key.endswith(tuple(only)) if only else "embed" not in key
        if len(info.shape) < 2 or not key.endswith(".weight") or not wanted:
            extra[key] = info.end - info.start
            continue
        m, d = info.shape[0], math.prod(info.shape[1:])
        name_ = key.removesuffix(".weight")
        layers[canonical(name_)] = LoraLayer(
            name_, key, key, min(rank, m, d), m, d, kernel=info.shape[2:]
        )
    if not layers:
        raise ModelMismatch("The two checkpoints share no matrix.", "Choose another base.")
    tuned = FineTune(name or after.stem, after, "fine-tune", layers, "", extra)
    object.__setattr__(tuned, "before", before)
    return tuned

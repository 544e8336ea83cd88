"""Which model: its source, its revision and the edits on it, as every written form names it."""

import re
from dataclasses import dataclass

from engine.core import budgets
from engine.core.errors import BadInput
from engine.core.plain import Plain, checked_text, plain

_DIGEST = re.compile(r"[0-9a-f]{8,128}")


@dataclass(frozen=True)
class ModelRef:
    """Which model: a key of MODELS, a Hub id or a folder; its revision; digests of its edits."""

    source: str
    revision: str | None = None
    edits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))

    @classmethod
    def of(cls, model: "ModelRef | str") -> "ModelRef":
        """The reference itself, or that of a key, Hub id or folder without edits."""
        return cls(model) if isinstance(model, str) else model

    def check(self) -> None:
        """Raises `BadInput` for what could not be written down, or is out of budget."""
        names = {"model": self.source}
        if self.revision is not None:
            names["revision"] = self.revision
        for name, value in names.items():
            plain(checked_text(value, name), name)
        if max(map(len, names.values())) > budgets.SOURCE_CHARACTERS:
            raise BadInput(
                f"The name of a model has at most {budgets.SOURCE_CHARACTERS} characters.",
                "Write a key of ours, owner/name of the Hub, or a folder.",
            )
        if len(self.edits) > budgets.MODEL_EDITS:
            raise BadInput(
                f"The model has {len(self.edits)} edits; {budgets.MODEL_EDITS} are taken.",
                "Export it as a checkpoint and go on from there.",
            )
        for edit in self.edits:
            if not isinstance(edit, str) or not _DIGEST.fullmatch(edit):
                raise BadInput("The edits of a model must be digests.", "Copy them from the shelf.")

    @property
    def document(self) -> dict[str, Plain]:
        """As a recipe writes it down."""
        return {"source": self.source, "revision": self.revision, "edits": list(self.edits)}

    @classmethod
    def from_document(cls, document: object) -> "ModelRef":
        """The model in a recipe. Raises `BadInput` for anything that `document` does not write."""
        unreadable = BadInput(
            "The model of the recipe is not readable.",
            "It has a source, and may have a revision and a list of edits.",
        )
        known = {"source", "revision", "edits"}
        if not isinstance(document, dict) or set(document) - known:
            raise unreadable
        source, revision = document.get("source"), document.get("revision")
        edits = document.get("edits", [])
        texts = [source, *([] if revision is None else [revision])]
        if not isinstance(edits, list) or not all(isinstance(item, str) for item in texts + edits):
            raise unreadable
        return cls(str(source), revision, tuple(edits))

"""Which words of a prompt a small model has never seen.

A model of a few hundred words draws something at random for any other word, in silence. Its folder
lists the words it was trained on (`vocabulary.json`), so that a panel can say so beforehand. This
module is light: no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engine.core.tensor_header import is_text_map
from engine.models._checks import read_json, refuse


@dataclass(frozen=True)
class Vocabulary:
    """Words that a small model saw in training, and those of them that other words come closest
    to: `synonyms` mean the same to a reader, `near` is the best that the model can do."""

    words: frozenset[str]
    synonyms: Mapping[str, str]
    near: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Vocabulary | None":
        """The list in a checkpoint's folder; None where there is none, as for large models."""
        path = folder / "vocabulary.json"
        if not path.is_file():
            return None
        entries = read_json(path)
        words, synonyms = entries.get("words"), entries.get("synonyms", {})
        near = entries.get("near", {})
        if not isinstance(words, list) or not is_text_map(synonyms) or not is_text_map(near):
            refuse(path, "does not list words")
        return cls(frozenset(map(str, words)), synonyms, near)

    def unknown(self, text: str) -> tuple[str, ...]:
        """Words of a text that were never seen, in order, each once."""
        words = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower())
        return tuple(dict.fromkeys(word for word in words if word not in self.words))

    def nearest(self, text: str) -> dict[str, str]:
        """For each unknown word the trained one that comes closest, where one is listed or the
        word is the plural of one that is listed or known."""
        nearest_words = {word: self._nearest(word) for word in self.unknown(text)}
        return {word: trained for word, trained in nearest_words.items() if trained}

    def _nearest(self, word: str) -> str:
        listed = {**self.near, **self.synonyms}
        endings = (("ies", "y"), ("es", ""), ("s", ""))
        single = [word.removesuffix(end) + new for end, new in endings if word.endswith(end)]
        closest = [listed.get(form, form) for form in (word, *single)]
        return next((form for form in closest if form in self.words), "")

    def note(self, text: str) -> str:
        """A sentence about the unknown words of a prompt; empty when all are known."""
        unknown = self.unknown(text)
        if not unknown:
            return ""
        quoted = ", ".join(f'"{word[:30]}"' for word in unknown[:5])
        verb = "was" if len(unknown) == 1 else "were"
        advice = [f'"{new}" for "{old}"' for old, new in self.nearest(text).items()]
        instead = f" Try {', '.join(advice)}." if advice else ""
        return f"{quoted} {verb} not in the training: expect anything in that place.{instead}"

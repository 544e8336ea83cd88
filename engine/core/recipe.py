"""One small document behind the share link, the JSON file, the command line, the API call and the
metadata inside an exported picture.

    recipe = Recipe("nfe_lab", params={"prompt": "a cat"}, seed=7, model=ModelRef("world"))
    recipe.json()           {"rewind": 1, "method": "nfe_lab", ...}
    recipe.query()          method=nfe-lab&prompt=a+cat&seed=7&model=world
    recipe.command()        python -m engine run nfe-lab --prompt 'a cat' --seed 7 --model world
    recipe.api_call(url)    a few lines of Python around gradio_client
    recipe.stamp(png)       the same picture with the recipe in a tEXt chunk

and `from_json`, `from_query`, `from_arguments` and `from_png` lead back to an equal recipe.

In links and on the command line a value is written as JSON, except that a text stands as it is
unless it would then read as JSON ("7" the text against 7 the number). Files are read strictly: an
unknown or bad key is an error. Links are read leniently: what cannot be used is left out.
"""

import json
import re
import shlex
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from engine.core import budgets, png_text
from engine.core import recipe_pairs as flat
from engine.core.errors import BadInput
from engine.core.job import Job
from engine.core.model_ref import ModelRef
from engine.core.plain import (
    Plain,
    as_flag,
    checked_text,
    from_flag,
    loads,
    most_values_in,
    plain,
)
from engine.core.versions import checked_versions, versions_here

__all__ = ["RESERVED", "SCHEMA", "ModelRef", "Plain", "Recipe", "versions_here"]

SCHEMA = 1
PNG_KEY = b"rewind"

# Names that a link or a command line uses for the recipe itself; a parameter may not take them.
RESERVED = ("action", "edits", "label", "method", "model", "revision", "schema", "seed", "versions")

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}")
_SLUG = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Recipe:
    """Everything needed to run a method again: method, action, model, settings, seed, versions.

    `params` are plain JSON values, copied and checked here; tuples become lists. `label` is the
    name of an edit on the shelf ("erase red circle").
    Raises `BadInput` when something in it could not be written down and read back.
    """

    method: str
    action: str = "run"
    model: ModelRef | None = None
    params: Mapping[str, object] = field(default_factory=dict)  # Plain values once it is made
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    label: str = ""

    def __post_init__(self) -> None:
        for name, checked in _CHECKED.items():
            object.__setattr__(self, name, checked(getattr(self, name)))

    # ------------------------------------------------------------------ what it says

    @property
    def slug(self) -> str:
        """The method as links and command lines write it, with dashes."""
        return self.method.replace("_", "-")

    @property
    def endpoint(self) -> str:
        """The name of the API endpoint that runs this recipe: "/nfe_lab_run"."""
        return f"/{self.method}_{self.action}"

    def job(self, target: str) -> Job:
        """The job that this recipe describes; `target` is the method's function for the action."""
        model = {} if self.model is None else {"model": self.model}
        return Job(target, {**self.params, **model}, self.seed)

    def here(self) -> "Recipe":
        """The same recipe with the versions of the libraries installed here."""
        return replace(self, versions=versions_here())

    def mismatch(self, installed: Mapping[str, str] | None = None) -> str:
        """One sentence when the libraries differ from those that made this, else an empty text."""
        installed = versions_here() if installed is None else installed
        differing = [
            f"{name} {made} (here {installed.get(name, 'absent')})"
            for name, made in self.versions.items()
            if installed.get(name) != made
        ]
        if not differing:
            return ""
        return f"Made by {self.slug} with {', '.join(differing)}: the result may differ slightly."

    # ------------------------------------------------------------------ JSON

    def json(self) -> str:
        """The document in canonical form (sorted keys, ASCII): equal recipe, equal text."""
        return json.dumps(
            self._document(),
            sort_keys=True,
            ensure_ascii=True,
            allow_nan=False,
            separators=(",", ":"),
        )

    def _document(self) -> dict[str, Plain]:
        document: dict[str, Plain] = {
            "rewind": SCHEMA,
            "method": self.method,
            "action": self.action,
            "params": dict(self.params),
            "seed": self.seed,
        }
        if self.model is not None:
            document["model"] = self.model.document
        if self.versions:
            document["versions"] = dict(self.versions)
        if self.label:
            document["label"] = self.label
        return document

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The recipe in a JSON document. Raises `BadInput` for anything that is not exactly one."""
        document = _parsed(text)
        if not isinstance(document, dict) or "rewind" not in document:
            raise BadInput(
                'This JSON is not a recipe: it has no "rewind" key.', "Export it from a panel."
            )
        _check_schema(document.pop("rewind"))
        unknown = [key for key in document if key not in _CHECKED]
        if unknown:
            raise BadInput(
                f'The recipe has an unknown key "{unknown[0][:60]}".',
                f"The keys are rewind, {', '.join(_CHECKED)}.",
            )
        if "method" not in document:
            raise BadInput("The recipe names no method.", 'Add "method", such as "nfe_lab".')
        if document.get("model") is not None:
            document["model"] = ModelRef.from_document(document["model"])
        return cls(**{name: _CHECKED[name](value) for name, value in document.items()})

    # ------------------------------------------------------------------ link

    def query(self) -> str:
        """The URL query with flat keys, shorter than 2000 characters.

        Raises `BadInput` when the settings do not fit; the JSON file has no such limit.
        """
        return flat.in_query([*self._pairs(), ("schema", str(SCHEMA))])

    @classmethod
    def from_query(cls, query: str, known: Collection[str] | None = None) -> "Recipe | None":
        """The recipe in a link, or None when it names no method or a later schema.

        Keys that no setting can have, keys outside `known` (when given) and unusable values are
        ignored, so that a link with additions of others still opens.
        """
        try:
            pairs = flat.from_query(query)
        except ValueError:
            return None
        if pairs.get("schema", str(SCHEMA)) != str(SCHEMA):
            return None
        try:
            return cls._from_pairs(pairs, known=known, lenient=True)
        except (BadInput, TypeError):
            return None

    # ------------------------------------------------------------------ command line

    def arguments(self) -> list[str]:
        """The arguments after `python -m engine`: ["run", "nfe-lab", "--prompt", "a cat", ...]."""
        method, *others = self._pairs()
        return ["run", method[1], *flat.in_arguments(others)]

    def command(self) -> str:
        """The command line, quoted for a POSIX shell."""
        return shlex.join(["python", "-m", "engine", *self.arguments()])

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> "Recipe":
        """The recipe in `run SLUG --name value ...`; `--name=value` is read too.

        Raises `BadInput` for a flag without a value, a flag given twice, or an unusable value.
        """
        return cls._from_pairs(flat.from_arguments(arguments))

    # ------------------------------------------------------------------ API call

    def api_call(self, url: str) -> str:
        """Python that runs this recipe on a server at `url` through gradio_client."""
        return (
            "from gradio_client import Client\n\n"
            f"client = Client({url!r})\n"
            f"result = client.predict(recipe={self.json()!r}, api_name={self.endpoint!r})\n"
        )

    # ------------------------------------------------------------------ picture

    def stamp(self, png: bytes) -> bytes:
        """The same PNG with this recipe in a tEXt chunk before the pixels, which stay untouched.

        A recipe that was there already is replaced. Raises `BadInput` when it is not a PNG.
        """
        return png_text.with_text(png, PNG_KEY, self.json())

    @classmethod
    def from_png(cls, png: bytes) -> "Recipe":
        """The recipe in a picture. Raises `BadInput` when it is not a PNG or carries none."""
        if (text := png_text.text_in(png, PNG_KEY)) is None:
            raise BadInput(
                "This picture carries no recipe.",
                "Use a PNG exported here; copies made by other programs often drop it.",
            )
        return cls.from_json(text)

    # ------------------------------------------------------------------ flat pairs

    def _pairs(self) -> list[tuple[str, str]]:
        """Name and text of everything that differs from the defaults, the method first."""
        pairs = [("method", self.slug)]
        if self.action != "run":
            pairs.append(("action", self.action))
        pairs += [(name, as_flag(value)) for name, value in self.params.items()]
        pairs.append(("seed", str(self.seed)))
        if self.model is not None:
            pairs += flat.model_pairs(self.model)
        if self.versions:
            pairs.append(("versions", flat.in_versions(self.versions)))
        if self.label:
            pairs.append(("label", self.label))
        return pairs

    @classmethod
    def _from_pairs(
        cls,
        pairs: Mapping[str, str],
        *,
        known: Collection[str] | None = None,
        lenient: bool = False,
    ) -> "Recipe":
        alone = [name for name in ("edits", "revision") if name in pairs and "model" not in pairs]
        if alone and not lenient:
            raise BadInput(
                f"--{alone[0]} says nothing without a model.", "Add --model, such as --model world."
            )
        found: dict[str, Any] = {
            name: pairs[name] for name in ("method", "action", "label") if name in pairs
        }
        params = {
            name: from_flag(text)
            for name, text in pairs.items()
            if name not in RESERVED and (known is None or name in known)
        }
        if lenient:
            params = {name: value for name, value in params.items() if _usable({name: value})}
        for name, read in _FROM_PAIRS.items():
            if name in pairs:
                with suppress(BadInput) if lenient else nullcontext():
                    found[name] = read(pairs)
        return cls(params=params, **found)


# ---------------------------------------------------------------------- checks


def _checked_slug(value: object, name: str) -> str:
    slug = checked_text(value, name).replace("-", "_")
    if not _SLUG.fullmatch(slug):
        message = f'"{slug[:60]}" cannot be the {name} of a recipe.'
        raise BadInput(message, "Names look like nfe-lab.")
    return slug


def _checked_seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise BadInput(f"The seed must be a whole number from 0 to 2^63 - 1, got {value!s:.40}.")
    return value


def _checked_model(value: object) -> ModelRef | None:
    if value is None:
        return None
    if not isinstance(value, ModelRef):
        raise BadInput("The model of a recipe must be a ModelRef.", "Name its source.")
    value.check()
    return value


def _checked_params(params: object) -> dict[str, Plain]:
    if not isinstance(params, Mapping):
        raise BadInput("The params of a recipe must be names with values.")
    for name in params:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
            raise BadInput(
                f'"{name!s:.60}" cannot be the name of a setting.',
                f"Use letters, digits and _; these are taken: {', '.join(RESERVED)}.",
            )
    return {name: plain(value, name) for name, value in params.items()}


def _usable(params: Mapping[str, Plain]) -> bool:
    try:
        _checked_params(params)
    except BadInput:
        return False
    return True


# The value of each field as a recipe keeps it; each raises `BadInput` for what it cannot keep.
_CHECKED: Mapping[str, Callable[[Any], Any]] = {
    "method": lambda value: _checked_slug(value, "method"),
    "action": lambda value: _checked_slug(value, "action"),
    "model": _checked_model,
    "params": _checked_params,
    "seed": _checked_seed,
    "versions": checked_versions,
    "label": lambda value: plain(checked_text(value, "label"), "label"),
}

_FROM_PAIRS: Mapping[str, Callable[[Mapping[str, str]], object]] = {
    "seed": lambda pairs: _checked_seed(flat.seed_from(pairs["seed"])),
    "model": lambda pairs: _checked_model(flat.model_from(pairs)),
    "versions": lambda pairs: checked_versions(flat.versions_from(pairs["versions"])),
}


# ---------------------------------------------------------------------- the JSON document


def _parsed(text: str) -> Plain:
    """The value of a document within budget, which is counted before anything is made of it."""
    if len(text) > budgets.DOCUMENT_CHARACTERS:
        raise BadInput("This recipe is longer than 20 million characters.", "Check the file.")
    if most_values_in(text) > budgets.DOCUMENT_VALUES:
        raise BadInput(
            f"This recipe holds more than {budgets.DOCUMENT_VALUES} values.", "Check the file."
        )
    try:
        return loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(
            "This is not a recipe: it does not read as JSON.", "Export it again."
        ) from error


def _check_schema(schema: object) -> None:
    if schema != SCHEMA or isinstance(schema, bool):
        raise BadInput(
            f"This recipe is written in form {schema!s:.20}; this program reads form {SCHEMA}.",
            "Update the program, or export the recipe again.",
        )

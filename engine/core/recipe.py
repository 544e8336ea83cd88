"""One small document behind the share link, the JSON file, the command line, the API call and the
metadata inside an exported picture.

    recipe = Recipe("nfe_lab", params={"prompt": "a cat"}, seed=7, model=ModelRef("world"))
    recipe.json()           {"rewind": 1, "method": "nfe_lab", ...}
    recipe.query()          method=nfe-lab&prompt=a+cat&seed=7&model=world
    recipe.command()        python -m engine run nfe-lab --prompt 'a cat' --seed 7 --model world
    recipe.api_call(url)    a few lines of Python around gradio_client
    recipe.stamp(png)       the same picture with the recipe in a tEXt chunk

and `from_json`, `from_query`, `from_arguments`, `from_api_call` and `from_png` lead back to an
equal recipe. In links and on the command line a value is written as JSON, except that a text
stands as it is unless it would then read as JSON ("7" the text against 7 the number). Files are
read strictly: an unknown or bad key is an error. Links are read leniently: what cannot be used is
left out.
"""

import ast
import json
import math
import re
import shlex
import struct
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode

from engine.core import budgets
from engine.core.errors import BadInput
from engine.core.job import Job

# A JSON value; what lists and mappings hold is checked by `_plain`, all the way down.
Plain: TypeAlias = bool | int | float | str | Sequence[object] | Mapping[str, object] | None

SCHEMA = 1
PNG_KEY = b"rewind"

# Names that a link or a command line uses for the recipe itself; a parameter may not take them.
RESERVED = ("action", "edits", "label", "method", "model", "revision", "schema", "seed", "versions")

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}")
_SLUG = re.compile(r"[a-z][a-z0-9_]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{8,128}")
_PACKAGE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_JSON_TEXT = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_VERSION = re.compile(r"[A-Za-z0-9_.+!-]{1,64}")
_PNG_HEAD = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class ModelRef:
    """Which model: a key of MODELS, a Hub id or a folder; its revision; digests of its edits."""

    source: str
    revision: str | None = None
    edits: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "edits", tuple(self.edits))


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
        object.__setattr__(self, "method", _checked_slug(self.method, "method"))
        object.__setattr__(self, "action", _checked_slug(self.action, "action"))
        object.__setattr__(self, "model", _checked_model(self.model))
        object.__setattr__(self, "params", _checked_params(self.params))
        object.__setattr__(self, "seed", _checked_seed(self.seed))
        object.__setattr__(self, "versions", _checked_versions(self.versions))
        object.__setattr__(self, "label", _plain(_text(self.label, "label"), "label"))

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
            document["model"] = {
                "source": self.model.source,
                "revision": self.model.revision,
                "edits": list(self.model.edits),
            }
        if self.versions:
            document["versions"] = dict(self.versions)
        if self.label:
            document["label"] = self.label
        return document

    @classmethod
    def from_json(cls, text: str) -> "Recipe":
        """The recipe in a JSON document. Raises `BadInput` for anything that is not exactly one."""
        if len(text) > budgets.DOCUMENT_CHARACTERS:
            raise BadInput("This recipe is longer than 20 million characters.", "Check the file.")
        if _values_in(text) > budgets.DOCUMENT_VALUES:
            raise BadInput(
                f"This recipe holds more than {budgets.DOCUMENT_VALUES} values.", "Check the file."
            )
        try:
            document = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                "This is not a recipe: it does not read as JSON.", "Export it again."
            ) from error
        if not isinstance(document, dict) or "rewind" not in document:
            raise BadInput(
                'This JSON is not a recipe: it has no "rewind" key.', "Export it from a panel."
            )
        _check_schema(document.pop("rewind"))
        known = ("method", "action", "model", "params", "seed", "versions", "label")
        unknown = [key for key in document if key not in known]
        if unknown:
            raise BadInput(
                f'The recipe has an unknown key "{unknown[0][:60]}".',
                f"The keys are rewind, {', '.join(known)}.",
            )
        if "method" not in document:
            raise BadInput("The recipe names no method.", 'Add "method", such as "nfe_lab".')
        checks: Mapping[str, Callable[[Any], Any]] = {
            "method": lambda value: _checked_slug(value, "method"),
            "action": lambda value: _checked_slug(value, "action"),
            "model": _model_from,
            "params": _checked_params,
            "seed": _checked_seed,
            "versions": _checked_versions,
            "label": lambda value: _text(value, "label"),
        }
        return cls(**{key: checks[key](value) for key, value in document.items()})

    # ------------------------------------------------------------------ link

    def query(self) -> str:
        """The URL query with flat keys, shorter than 2000 characters.

        Raises `BadInput` when the settings do not fit; the JSON file has no such limit.
        """
        query = urlencode([*self._pairs(), ("schema", str(SCHEMA))])
        if len(query) >= budgets.LINK_CHARACTERS:
            raise BadInput(
                f"These settings make a link of {len(query)} characters, too many to share.",
                "Save the recipe as a JSON file.",
            )
        return query

    @classmethod
    def from_query(cls, query: str, known: Collection[str] | None = None) -> "Recipe | None":
        """The recipe in a link, or None when it names no method or a later schema.

        Keys that no setting can have, keys outside `known` (when given) and unusable values are
        ignored, so that a link with additions of others still opens.
        """
        try:
            pairs = dict(parse_qsl(query[:65536], keep_blank_values=True, max_num_fields=1000))
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
        pairs = [(name, value) for name, value in self._pairs() if name != "method"]
        flags = [part for name, value in pairs for part in (f"--{name.replace('_', '-')}", value)]
        return ["run", self.slug, *flags]

    def command(self) -> str:
        """The command line, quoted for a POSIX shell."""
        return shlex.join(["python", "-m", "engine", *self.arguments()])

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> "Recipe":
        """The recipe in `run SLUG --name value ...`; `--name=value` is read too.

        Raises `BadInput` for a flag without a value, a flag given twice, or an unusable value.
        """
        if len(arguments) < 2 or arguments[0] != "run":
            raise BadInput("Name a method to run.", "Write: run nfe-lab --prompt 'a cat' --seed 7")
        pairs = {"method": arguments[1]}
        rest = iter(arguments[2:])
        for flag in rest:
            if not flag.startswith("--") or flag == "--":
                raise BadInput(
                    f'"{flag[:60]}" is not a setting.', "Write settings as --name value."
                )
            name, equals, value = flag[2:].partition("=")
            if not equals:
                following = next(rest, None)
                if following is None:
                    raise BadInput(f"{flag[:60]} has no value.", f"Write {flag[:60]} VALUE.")
                value = following
            name = name.replace("-", "_")
            if name in pairs:
                raise BadInput(f"--{name[:60]} is given twice.", "Give it once.")
            pairs[name] = value
        return cls._from_pairs(pairs)

    # ------------------------------------------------------------------ API call

    def api_call(self, url: str) -> str:
        """Python that runs this recipe on a server at `url` through gradio_client."""
        return (
            "from gradio_client import Client\n\n"
            f"client = Client({url!r})\n"
            f"result = client.predict(recipe={self.json()!r}, api_name={self.endpoint!r})\n"
        )

    @classmethod
    def from_api_call(cls, snippet: str) -> "Recipe":
        """The recipe inside a snippet of `api_call`; the snippet is parsed and never executed."""
        try:
            calls = [node for node in ast.walk(ast.parse(snippet)) if isinstance(node, ast.Call)]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BadInput("This snippet is not Python.", "Copy it from a panel again.") from error
        for keyword in (keyword for call in calls for keyword in call.keywords):
            if keyword.arg == "recipe" and isinstance(keyword.value, ast.Constant):
                return cls.from_json(str(keyword.value.value))
        raise BadInput("This snippet holds no recipe.", "Copy it from a panel again.")

    # ------------------------------------------------------------------ picture

    def stamp(self, png: bytes) -> bytes:
        """The same PNG with this recipe in a tEXt chunk before the pixels, which stay untouched.

        A recipe that was there already is replaced. Raises `BadInput` when it is not a PNG.
        """
        text = PNG_KEY + b"\0" + self.json().encode("ascii")
        kept = [chunk for chunk in _chunks(png) if not _is_recipe(chunk)]
        pieces = [_chunk(*kept[0]), _chunk(b"tEXt", text)] + [_chunk(*chunk) for chunk in kept[1:]]
        return _PNG_HEAD + b"".join(pieces)

    @classmethod
    def from_png(cls, png: bytes) -> "Recipe":
        """The recipe in a picture. Raises `BadInput` when it is not a PNG or carries none."""
        for chunk in _chunks(png):
            if _is_recipe(chunk):
                return cls.from_json(chunk[1][len(PNG_KEY) + 1 :].decode("latin-1"))
        raise BadInput(
            "This picture carries no recipe.",
            "Use a PNG exported here; copies made by other programs often drop it.",
        )

    # ------------------------------------------------------------------ flat pairs

    def _pairs(self) -> list[tuple[str, str]]:
        """Name and text of everything that differs from the defaults, the method first."""
        pairs = [("method", self.slug)]
        if self.action != "run":
            pairs.append(("action", self.action))
        pairs += [(name, _written(value)) for name, value in self.params.items()]
        pairs.append(("seed", str(self.seed)))
        if self.model is not None:
            pairs.append(("model", self.model.source))
            if self.model.revision is not None:
                pairs.append(("revision", self.model.revision))
            if self.model.edits:
                pairs.append(("edits", ",".join(self.model.edits)))
        if self.versions:
            pairs.append(("versions", ",".join(f"{n}:{v}" for n, v in self.versions.items())))
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
        fields: dict[str, Any] = {}
        alone = [name for name in ("edits", "revision") if name in pairs and "model" not in pairs]
        if alone and not lenient:
            raise BadInput(
                f"--{alone[0]} says nothing without a model.", "Add --model, such as --model world."
            )
        for name in ("method", "action", "label"):
            if name in pairs:
                fields[name] = pairs[name].replace("-", "_") if name != "label" else pairs[name]
        params = {
            name: _read(text)
            for name, text in pairs.items()
            if name not in RESERVED and (known is None or name in known)
        }
        if lenient:
            params = {name: value for name, value in params.items() if _usable({name: value})}
        fields["params"] = params
        makers: Mapping[str, Callable[[str], Any]] = {
            "seed": _seed_from,
            "model": lambda _: _model_in(pairs),
            "versions": _versions_in,
        }
        for name, make in makers.items():
            if name not in pairs:
                continue
            try:
                fields[name] = make(pairs[name])
                cls(**{"method": "any", name: fields[name]})
            except BadInput:
                if not lenient:
                    raise
                fields.pop(name, None)
        return cls(**fields)


@cache
def versions_here() -> Mapping[str, str]:
    """Versions of the libraries that decide the numbers, read without importing them."""
    names = ("torch", "numpy", "diffusers", "transformers", "peft")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# ---------------------------------------------------------------------- checks


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"The {name} of a recipe must be a text.", f"Check its {name}.")
    return value


def _checked_slug(value: object, name: str) -> str:
    slug = _text(value, name).replace("-", "_")
    if not _SLUG.fullmatch(slug):
        told = f'"{slug[:60]}" cannot be the {name} of a recipe.'
        raise BadInput(told, "Names look like nfe-lab.")
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
    _plain(_text(value.source, "model"), "model")
    if value.revision is not None:
        _plain(_text(value.revision, "revision"), "revision")
    if max(len(value.source), len(value.revision or "")) > budgets.SOURCE_CHARACTERS:
        raise BadInput(
            f"The name of a model has at most {budgets.SOURCE_CHARACTERS} characters.",
            "Write a key of ours, owner/name of the Hub, or a folder.",
        )
    if len(value.edits) > budgets.MODEL_EDITS:
        raise BadInput(
            f"The model has {len(value.edits)} edits; {budgets.MODEL_EDITS} are taken.",
            "Export it as a checkpoint and go on from there.",
        )
    for edit in value.edits:
        if not isinstance(edit, str) or not _DIGEST.fullmatch(edit):
            raise BadInput("The edits of a model must be digests.", "Copy them from the shelf.")
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
    return {name: _plain(value, name) for name, value in params.items()}


def _checked_versions(versions: object) -> dict[str, str]:
    if not isinstance(versions, Mapping):
        raise BadInput("The versions of a recipe must be package names with versions.")
    for name, version in versions.items():
        fits = isinstance(name, str) and isinstance(version, str)
        if not (fits and _PACKAGE.fullmatch(name) and _VERSION.fullmatch(version)):
            raise BadInput(f'"{name!s:.60}" has no readable version.', "Write torch:2.13.0.")
    return dict(versions)


def _plain(value: object, name: str, depth: int = 0) -> Plain:
    """A deep copy of a JSON value. NaN, infinities and unpaired surrogates have no JSON."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # a numpy scalar
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str) and "\0" not in value and _encodes(value):
        return str(value)
    if isinstance(value, list | tuple) and depth < 16:
        return [_plain(item, name, depth + 1) for item in value]
    if isinstance(value, Mapping) and depth < 16:
        return {
            str(_plain(_text(key, name), name)): _plain(item, name, depth + 1)
            for key, item in value.items()
        }
    raise BadInput(
        f"{name} holds a value that a recipe cannot keep: {value!r:.60}.",
        "Use texts, finite numbers, true or false, and lists of them.",
    )


def _encodes(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _usable(params: Mapping[str, Plain]) -> bool:
    try:
        _checked_params(params)
    except BadInput:
        return False
    return True


def _check_schema(schema: object) -> None:
    if schema != SCHEMA or isinstance(schema, bool):
        raise BadInput(
            f"This recipe is written in form {schema!s:.20}; this program reads form {SCHEMA}.",
            "Update the program, or export the recipe again.",
        )


def _model_from(document: object) -> ModelRef | None:
    if document is None:
        return None
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
    return ModelRef(str(source), revision, tuple(edits))


def _values_in(text: str) -> int:
    """How many values a JSON document has at most, told without making any of them."""
    marks = _JSON_TEXT.sub("", text)
    return 1 + sum(map(marks.count, ",[{"))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# ---------------------------------------------------------------------- values as short texts


def _written(value: object) -> str:
    if isinstance(value, str) and isinstance(_read(value), str) and not value.startswith('"'):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _read(text: str) -> Plain:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _seed_from(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise BadInput(f'The seed must be a whole number, got "{text[:40]}".', "Try --seed 7.")
    return int(text)


def _model_in(pairs: Mapping[str, str]) -> ModelRef:
    edits = tuple(edit for edit in pairs.get("edits", "").split(",") if edit)
    return ModelRef(pairs["model"], pairs.get("revision"), edits)


def _versions_in(text: str) -> dict[str, str]:
    items = [item.partition(":") for item in text.split(",") if item]
    return {name: version for name, _, version in items}


# ---------------------------------------------------------------------- PNG chunks


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of each chunk, up to the end mark."""
    broken = BadInput("This picture is not a complete PNG.", "Export it again as PNG.")
    if png[:8] != _PNG_HEAD:
        raise broken
    found, at = [], 8
    while at + 12 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        found.append((kind, content))
        at += 12 + length
        if kind == b"IEND":
            return found
    raise broken


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _is_recipe(chunk: tuple[bytes, bytes]) -> bool:
    return chunk[0] == b"tEXt" and chunk[1].startswith(PNG_KEY + b"\0")

"""A recipe as names and texts: what stands in a link and on a command line.

    in_query(pairs)          prompt=a+cat&seed=7&...        from_query(query)
    in_arguments(pairs)      ["--prompt", "a cat", ...]     from_arguments(arguments)

Everything here is a text; what the texts mean is told by the fields of a recipe.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl, urlencode

from engine.core import budgets
from engine.core.errors import BadInput
from engine.core.model_ref import ModelRef

QUERY_READ = 65_536  # characters of a link that are looked at


# ---------------------------------------------------------------------- links


def in_query(pairs: Iterable[tuple[str, str]]) -> str:
    """The pairs as a URL query. Raises `BadInput` when they do not fit into a link."""
    query = urlencode(list(pairs))
    if len(query) >= budgets.LINK_CHARACTERS:
        raise BadInput(
            f"These settings make a link of {len(query)} characters, too many to share.",
            "Save the recipe as a JSON file.",
        )
    return query


def from_query(query: str) -> dict[str, str]:
    """The pairs in a URL query, of names given twice the last. Raises `ValueError` for too many."""
    return dict(parse_qsl(query[:QUERY_READ], keep_blank_values=True, max_num_fields=1000))


# ---------------------------------------------------------------------- command lines


def in_arguments(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """["--prompt", "a cat", "--seed", "7"]."""
    return [part for name, value in pairs for part in (f"--{name.replace('_', '-')}", value)]


def from_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """The pairs in `run SLUG --name value ...`, the slug as "method"; `--name=value` is read too.

    Raises `BadInput` for a flag without a value, or one that is given twice.
    """
    if len(arguments) < 2 or arguments[0] != "run":
        raise BadInput("Name a method to run.", "Write: run nfe-lab --prompt 'a cat' --seed 7")
    pairs = {"method": arguments[1]}
    rest = iter(arguments[2:])
    for flag in rest:
        if not flag.startswith("--") or flag == "--":
            raise BadInput(f'"{flag[:60]}" is not a setting.', "Write settings as --name value.")
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
    return pairs


# ---------------------------------------------------------------------- single fields


def seed_from(text: str) -> int:
    """The seed in a text of digits. Raises `BadInput` for any other."""
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise BadInput(f'The seed must be a whole number, got "{text[:40]}".', "Try --seed 7.")
    return int(text)


def model_pairs(model: ModelRef) -> list[tuple[str, str]]:
    """What is not left at its default of a model."""
    pairs = [("model", model.source)]
    if model.revision is not None:
        pairs.append(("revision", model.revision))
    if model.edits:
        pairs.append(("edits", ",".join(model.edits)))
    return pairs


def model_from(pairs: Mapping[str, str]) -> ModelRef:
    """The model that "model", "revision" and "edits" name."""
    edits = tuple(edit for edit in pairs.get("edits", "").split(",") if edit)
    return ModelRef(pairs["model"], pairs.get("revision"), edits)


def in_versions(versions: Mapping[str, str]) -> str:
    """ "torch:2.13.0,numpy:2.4.0"."""
    return ",".join(f"{name}:{version}" for name, version in versions.items())


def versions_from(text: str) -> dict[str, str]:
    """What `in_versions` wrote, not checked."""
    items = [item.partition(":") for item in text.split(",") if item]
    return {name: version for name, _, version in items}

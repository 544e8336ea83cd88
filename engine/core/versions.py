"""The libraries that decide the numbers: their versions here, and what a recipe may say of them."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import metadata

from engine.core.errors import BadInput

_PACKAGE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_VERSION = re.compile(r"[A-Za-z0-9_.+!-]{1,64}")


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


def checked_versions(versions: object) -> dict[str, str]:
    """A copy. Raises `BadInput` when it holds more than names of packages with versions."""
    if not isinstance(versions, Mapping):
        raise BadInput("The versions of a recipe must be package names with versions.")
    for name, version in versions.items():
        fits = isinstance(name, str) and isinstance(version, str)
        if not (fits and _PACKAGE.fullmatch(name) and _VERSION.fullmatch(version)):
            raise BadInput(f'"{name!s:.60}" has no readable version.', "Write torch:2.13.0.")
    return dict(versions)

"""No module leads back to itself: imports inside functions and for type checkers count too.

Two modules that need each other are one idea in two files, or share a third that belongs apart.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import pytest

from tests.contract.test_imports import ROOT, our_files


def our_modules() -> dict[str, str]:
    """The text of every module of `engine`, `pages` and `app` by its dotted name."""
    return {
        ".".join(path.with_suffix("").parts).removesuffix(".__init__"): (ROOT / path).read_text(
            encoding="utf-8"
        )
        for path in our_files()
    }


def circle(texts: Mapping[str, str]) -> list[str]:
    """Modules of which each imports the next, the first one again at the end; empty if none do."""
    graph = {name: set(_imported(text)) & texts.keys() - {name} for name, text in texts.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1][::-1]  # graphlib names who is needed first
    return []


def _imported(text: str) -> Iterator[str]:
    """Everything a file names in an import: `from a import b` may name the module a or a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)
            yield str(node.module)


@pytest.mark.slow
def test_no_module_leads_back_to_itself():
    modules = our_modules()
    assert {"engine.core.patch", "engine.models", "pages", "app"} <= modules.keys()
    found = circle(modules)
    assert not found, f"{' imports '.join(found)}: move what they share to a module of its own."


@pytest.mark.parametrize(
    "line",
    [
        "import engine.a",
        "from engine import a",
        "from engine.a import thing",
        "def f():\n    from engine.a import thing",
        "if TYPE_CHECKING:\n    from engine import a",
    ],
)
def test_a_circle_is_found_and_named_in_order(line):
    texts = {
        "engine": "",
        "engine.a": "from engine import b",
        "engine.b": "from engine.c import thing",
        "engine.c": line,
        "pages.d": "from engine import a",
    }
    found = circle(texts)
    assert found[0] == found[-1]
    steps = set(pairwise(found))
    assert steps == {
        ("engine.a", "engine.b"),
        ("engine.b", "engine.c"),
        ("engine.c", "engine.a"),
    }
    assert not circle({**texts, "engine.c": "import torch"})

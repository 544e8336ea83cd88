"""What a method says about itself, and the finding of all methods.

A method is a package `engine/<family>/<slug>/`. Its `__init__.py` holds the lesson (the docstring)
and `CARD`, and imports nothing heavy; `algorithm.py` beside it holds the algorithm. `discover()`
imports the packages one by one; one that fails is kept with its traceback, and the others go on.
Home page, README table and contract tests all read the same cards.

    python -m engine.core.catalog            print the table of methods
    python -m engine.core.catalog --write    refresh it in README.md
"""

import argparse
import ast
import importlib
import inspect
import json
import pkgutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Literal

from engine.core import disk
from engine.core.errors import AssetMissing, BadInput
from engine.core.machine import machine
from engine.core.recipe import Plain, Recipe, versions_here

ROOT = Path(__file__).resolve().parents[2]
CLAIMS = ROOT / "assets" / "claims"
TABLE_HEAD = "<!-- methods -->"
TABLE_FOOT = "<!-- /methods -->"


class Family(Enum):
    """The six families; a value is the name of the family's package in `engine`.

    `ends` name the two ends of what runs backwards, as under the films on Home.
    """

    SAMPLE = (
        "sampling",
        "/sample",
        "Un-noise",
        "Run the noising of data backwards.",
        ("noise", "picture"),
    )
    ERASE = (
        "erasing",
        "/erase",
        "Un-see",
        "Take a concept out of a text-to-image model.",
        ("erased", "as it was"),
    )
    MERGE = (
        "merging",
        "/merge",
        "Un-merge",
        "Take merged adapters apart again.",
        ("merged", "pulled out"),
    )
    VERIFY = (
        "verifying",
        "/verify",
        "Un-say",
        "Go back over a phrase or a chain of reasoning.",
        ("said", "taken back"),
    )
    UNLEARN = (
        "unlearning",
        "/unlearn",
        "Un-learn",
        "Remove data, poison, or forgetting itself.",
        ("learnt", "forgotten"),
    )
    REVERSE = (
        "networks",
        "/reverse",
        "Un-compute",
        "Run the forward pass of a network backwards.",
        ("output", "input"),
    )

    def __new__(
        cls, package: str, route: str, title: str, sentence: str, ends: tuple[str, str]
    ) -> "Family":
        member = object.__new__(cls)
        member._value_ = package
        member.package, member.route = package, route
        member.title, member.sentence, member.ends = title, sentence, ends
        return member

    package: str
    route: str
    title: str
    sentence: str
    ends: tuple[str, str]


class Exactness(Enum):
    """How exactly a method takes things back."""

    BITWISE = "bit for bit"
    ROUND_OFF = "to round-off"
    IN_DISTRIBUTION = "in distribution"
    APPROXIMATE = "approximately"

    def __str__(self) -> str:
        return self.value

    @property
    def undo(self) -> str:
        """What undoing gives, as one reads it after "Undo:"."""
        return {
            Exactness.BITWISE: "exact, bit for bit",
            Exactness.ROUND_OFF: "exact up to rounding",
            Exactness.IN_DISTRIBUTION: "another sample that is just as likely",
            Exactness.APPROXIMATE: "approximate",
        }[self]


@dataclass(frozen=True)
class RoundTrip:
    """How a value came back. `relative_error` is the largest error over the largest size of x.

    `equal_bits` is the share of numbers that agree in every bit. `exactness` is BITWISE when all
    do, ROUND_OFF when the relative error is within `bound`, and APPROXIMATE otherwise.
    """

    largest_error: float
    relative_error: float
    equal_bits: float
    bound: float
    exactness: Exactness

    def __str__(self) -> str:
        if self.exactness is Exactness.BITWISE:
            return "bit for bit"
        return f"{self.exactness.value}, {self.relative_error:.0e}"


@dataclass(frozen=True)
class Paper:
    """The publication that a method follows."""

    title: str
    authors: str
    year: int
    link: str
    code: str = ""


@dataclass(frozen=True)
class Headline:
    """What the paper is known for, and how much of it is seen here.

    `here` says in words what was measured and what of the headline was not reproduced; the figures
    stand in the record of the claim.
    """

    paper: str
    verdict: Literal["shown", "in part", "not shown"]
    here: str


@dataclass(frozen=True)
class Claim:
    """One measurable sentence: `measure` is better than `versus` by at least `margin`.

    `by` says how the margin counts: a factor of 2 (`better >= 2 * worse`) or a difference of 0.1.
    """

    sentence: str
    measure: str
    versus: str
    direction: Literal["higher", "lower"]
    margin: float
    by: Literal["factor", "difference"] = "factor"

    def holds(self, measured: float, versus: float) -> bool:
        """Whether two figures bear the claim out; a figure that is not a number never does."""
        better, worse = (measured, versus) if self.direction == "higher" else (versus, measured)
        if self.by == "factor":
            return better >= self.margin * worse
        return better - worse >= self.margin


def took(seconds: float | None) -> str:
    """How long a measurement took: "12 s", or that it was put together from parts."""
    return "put together from parts" if seconds is None else f"{seconds:.0f} s"


@dataclass(frozen=True)
class Measured:
    """Figures behind a claim, as `bench.py` of a method writes them to `assets/claims/<slug>.json`.

    `interval` is the 95 % interval of `measured`; `figures` holds further plain values. `seconds`
    are None where it was measured in parts, at several times.
    """

    measured: float
    versus: float
    interval: tuple[float, float]
    seed: int
    seconds: float | None
    versions: Mapping[str, str]
    machine: str
    figures: Mapping[str, Plain] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        measured: float,
        versus: float,
        interval: tuple[float, float],
        *,
        seed: int,
        begun: float,
        device: str = "cpu",
        figures: Mapping[str, Plain] = MappingProxyType({}),
    ) -> "Measured":
        """The figures of a benchmark that ends now, with this machine and its versions.

        `begun` is `time.perf_counter()` at its start, `device` where it computed.
        """
        seconds = time.perf_counter() - begun
        here = machine(device)
        return cls(measured, versus, interval, seed, seconds, versions_here(), here, dict(figures))

    def save(self, slug: str, folder: Path = CLAIMS) -> Path:
        """Writes the figures and returns the file."""
        path = folder / f"{slug}.json"
        text = json.dumps(asdict(self), indent=2, allow_nan=False)
        disk.write(path, [f"{text}\n".encode()])
        return path

    @classmethod
    def load(cls, slug: str, folder: Path = CLAIMS) -> "Measured":
        """The figures of a method. Raises `AssetMissing` when they are absent or unreadable."""
        path = folder / f"{slug}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**document, "interval": tuple(document["interval"])})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise AssetMissing(
                f"The measured claim of {slug} cannot be read.",
                f"Run: python -m engine bench {slug.replace('_', '-')}",
            ) from error


@dataclass(frozen=True)
class Budget:
    """Seconds that the defaults take on two cores, and on a GPU."""

    cpu_seconds: float
    gpu_seconds: float


@dataclass(frozen=True)
class Action:
    """A job function of a method, with the settings that the contract tests run it with.

    `quick` is a run of a second or two on the smallest model; `bad` is one that must be refused
    with advice. Both are settings of the function, without `model` (the tests add the card's first
    model where the action takes one) and without `seed`. An action that computes without a network,
    under an exact score for instance, is not `on_model`.
    """

    name: str = "run"
    quick: Mapping[str, Plain] = field(default_factory=dict)
    bad: Mapping[str, Plain] = field(default_factory=dict)
    on_model: bool = True


@dataclass(frozen=True)
class MethodCard:
    """What a method states about itself. `shows` are "module:name" or names in `algorithm`.

    `golden` are file names in tests/golden; a method without any says why in `no_golden`.
    """

    title: str
    family: Family
    paper: Paper
    undoes: str
    exactness: Exactness
    headline: Headline
    claim: Claim
    models: tuple[str, ...]
    budget: Budget
    shows: tuple[str, ...]
    actions: tuple[Action, ...] = (Action(),)
    golden: tuple[str, ...] = ()
    no_golden: str = ""


@dataclass(frozen=True)
class Source:
    """The text of one function, read from its file."""

    name: str
    path: Path
    line: int
    code: str


@dataclass(frozen=True)
class Entry:
    """A method as found: its card and its package, such as "engine.sampling.nfe_lab"."""

    card: MethodCard
    module: str

    @property
    def slug(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def name(self) -> str:
        """The slug as links and the command line write it."""
        return self.slug.replace("_", "-")

    @property
    def lesson(self) -> str:
        """The package's docstring."""
        return inspect.cleandoc(sys.modules[self.module].__doc__ or "")

    def target(self, action: str = "run") -> str:
        """The job target of an action. Raises `BadInput` when the method has no such action."""
        names = [known.name for known in self.card.actions]
        if action not in names:
            raise BadInput(
                f'{self.card.title} has no action called "{action[:60]}".',
                f"It has {', '.join(names)}.",
            )
        return f"{self.module}.algorithm:{action}"

    def models(self, action: str = "run") -> tuple[str, ...]:
        """The shipped models that an action can run on; none where it computes without a network.

        Raises `BadInput` when the method has no such action.
        """
        self.target(action)
        (chosen,) = (known for known in self.card.actions if known.name == action)
        return tuple(self.card.models) if chosen.on_model else ()

    def without_model(self, recipe: Recipe) -> Recipe:
        """The recipe as its action takes it, without the model where it computes without one.

        Older recipes name one all the same. Raises `BadInput` when the method has no such action.
        """
        self.target(recipe.action)
        (chosen,) = (known for known in self.card.actions if known.name == recipe.action)
        return recipe if chosen.on_model else replace(recipe, model=None)

    def sources(self) -> tuple[Source, ...]:
        """The code named in `shows`, found in the files without importing the algorithm."""
        return tuple(_source(self.module, name) for name in self.card.shows)

    def measured(self) -> Measured:
        """The figures behind the claim."""
        return Measured.load(self.slug)


@dataclass(frozen=True)
class Broken:
    """A method whose package did not import."""

    module: str
    family: Family
    traceback: str

    @property
    def slug(self) -> str:
        return self.module.rpartition(".")[2]


@dataclass(frozen=True)
class Catalog(Mapping[str, Entry]):
    """All methods by slug, in the order of the families; `broken` are those that failed."""

    entries: Mapping[str, Entry]
    broken: Mapping[str, Broken] = field(default_factory=dict)

    def __getitem__(self, slug: str) -> Entry:
        """The method of a slug, with underscores or dashes. Raises `KeyError`."""
        return self.entries[slug.replace("-", "_")]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, slug: str) -> Entry:
        """The method of a slug. Raises `BadInput` that lists what there is."""
        entry = self.get(slug)
        if entry is None:
            known = ", ".join(entry.name for entry in self.values())
            raise BadInput(f'There is no method "{slug[:60]}".', f"The methods are: {known}.")
        return entry

    def of(self, family: Family) -> tuple[Entry, ...]:
        """The methods of a family, in the order it is taught in."""
        return tuple(entry for entry in self.values() if entry.card.family is family)


def discover(package: str = "engine") -> Catalog:
    """Imports the packages of every family and collects their cards."""
    entries: dict[str, Entry] = {}
    broken: dict[str, Broken] = {}
    for family in Family:
        for module in _method_modules(f"{package}.{family.package}"):
            slug = module.rpartition(".")[2]
            try:
                if slug in entries:  # links name a method by its slug alone
                    raise ValueError(f"{entries[slug].module} has the same slug; rename one.")
                entries[slug] = Entry(_card(importlib.import_module(module), family), module)
            except Exception:
                broken[slug] = Broken(module, family, traceback.format_exc())
    return Catalog(entries, broken)


def announced(catalog: Catalog | None = None) -> Catalog:
    """The methods whose claim has been measured; pages, table and promises speak of these alone.

    A method begins to be shown when `bench.py` has written its figures, whatever they say.
    """
    catalog = discover() if catalog is None else catalog
    measured = {s: e for s, e in catalog.entries.items() if (CLAIMS / f"{s}.json").is_file()}
    return Catalog(measured, catalog.broken)


def _method_modules(family: str) -> list[str]:
    """The methods of a family: first those its package names in `ORDER`, then by name."""
    try:
        package = importlib.import_module(family)
    except ModuleNotFoundError:
        return []
    slugs = {
        found.name
        for found in pkgutil.iter_modules(package.__path__)
        if found.ispkg and not found.name.startswith("_")
    }
    named = [slug for slug in getattr(package, "ORDER", ()) if slug in slugs]
    return [f"{family}.{slug}" for slug in [*named, *sorted(slugs.difference(named))]]


def _card(module: ModuleType, family: Family) -> MethodCard:
    card = getattr(module, "CARD", None)
    if not isinstance(card, MethodCard):
        raise TypeError(f"{module.__name__} has no CARD of type MethodCard.")
    if card.family is not family:
        raise ValueError(f"{module.__name__} lies in {family.package}, its card says another.")
    return card


def _source(package: str, name: str) -> Source:
    """`name` is "function", "Class.method" or "module:function"; no module means `algorithm`."""
    module, _, qualified = name.rpartition(":")
    module = module or f"{package}.algorithm"
    path = ROOT / (module.replace(".", "/") + ".py")
    if not path.exists():
        path = Path(str(sys.modules[package].__file__)).parent / f"{module.rpartition('.')[2]}.py"
    text = path.read_text(encoding="utf-8")
    body = ast.parse(text).body
    for part in qualified.split("."):
        named = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
        found = [n for n in body if isinstance(n, named) and n.name == part]
        if not found:
            raise LookupError(f"{module} defines no {qualified}, which the card wants to show.")
        node, body = found[0], found[0].body
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    code = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return Source(qualified, path, first, inspect.cleandoc(code) if code[0] == " " else code)


# ---------------------------------------------------------------------- the table in README.md


def methods_table(catalog: Catalog) -> str:
    """The Markdown table of all methods, one row each."""
    rows = [
        "| family | method | what runs backwards | how exactly | claim |",
        "|---|---|---|---|---|",
    ]
    for family in Family:
        for entry in catalog.of(family):
            card = entry.card
            cells = (
                f"{family.title} `{family.route}`",
                f"{card.title} (`{entry.name}`), [{card.paper.year}]({card.paper.link})",
                card.undoes,
                card.exactness.value,
                card.claim.sentence,
            )
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def with_table(readme: str, table: str) -> str:
    """The text of README.md with the table between its two marks.

    Raises `AssetMissing` when the marks are not there, in this order.
    """
    head, mark, rest = readme.partition(TABLE_HEAD)
    _, end, tail = rest.partition(TABLE_FOOT)
    if not (mark and end):
        raise AssetMissing(
            "README.md has no place for the table of methods.",
            f"Put the lines {TABLE_HEAD} and {TABLE_FOOT} where it shall stand.",
        )
    return f"{head}{TABLE_HEAD}\n{table}\n{TABLE_FOOT}{tail}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, or with --write refreshes it in README.md."""
    parser = argparse.ArgumentParser(prog="python -m engine.core.catalog")
    parser.add_argument("--write", action="store_true", help="refresh the table in README.md")
    catalog = announced()
    table = methods_table(catalog)
    if parser.parse_args(arguments).write:
        readme = ROOT / "README.md"
        readme.write_text(with_table(readme.read_text("utf-8"), table), encoding="utf-8")
    else:
        sys.stdout.write(table + "\n")
    for broken in catalog.broken.values():
        sys.stderr.write(f"{broken.module} did not import:\n{broken.traceback}\n")
    return 1 if catalog.broken else 0


if __name__ == "__main__":
    # As `__main__` this file is a second copy, whose MethodCard is not the one that cards use.
    from engine.core.catalog import main as real_main

    raise SystemExit(real_main())

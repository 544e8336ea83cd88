"""What the catalogue promises, checked here: golden cases run, measured claims read.

    for event in events(Job("engine.faithfulness:golden_cases", {"methods": ["rece"]})): ...

A golden case compares what runs here with arrays that published code made. A claim was measured by
the method's benchmark; reading it costs nothing, measuring it again takes seconds to minutes and
leaves the recorded figures alone, which only `python -m engine bench METHOD` writes.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace

from engine.core.catalog import Catalog, Entry, Headline, Measured, discover
from engine.core.errors import AssetMissing
from engine.core.golden import Case
from engine.core.job import Progress, Steps, relay


@dataclass(frozen=True)
class Checked:
    """One golden case of one method: its largest error, the error allowed, and its seconds."""

    method: str
    title: str
    case: str
    error: float
    tolerance: float
    seconds: float

    @property
    def holds(self) -> bool:
        """An error that is not a number never holds."""
        return self.error <= self.tolerance


@dataclass(frozen=True)
class Claimed:
    """The claim of one method with its last measured figures; None where there are none.

    `headline` is what its paper claims, beside how much of that is seen here.
    """

    method: str
    title: str
    headline: Headline
    sentence: str
    measure: str
    versus: str
    measured: float | None = None
    against: float | None = None
    interval: tuple[float, float] | None = None
    seconds: float | None = None
    holds: bool | None = None


def golden_cases(*, seed: int = 0, methods: Sequence[str] = ()) -> Steps[tuple[Checked, ...]]:
    """Runs the golden cases of these methods, or of all; the preview holds what is checked so far.

    The cases are fixed arrays, so `seed` changes nothing.
    """
    catalog = discover()
    entries = [catalog.find(name) for name in methods] or list(catalog.values())
    entries = [entry for entry in entries if has_golden_cases(entry)]
    found: tuple[Checked, ...] = ()
    for place, entry in enumerate(entries):
        yield Progress(place, len(entries), entry.card.title, found)
        steps = importlib.import_module(f"{entry.module}.golden").run(seed=seed)
        begun = Progress(place, len(entries), entry.card.title, found)
        compared = yield from relay(steps, lambda _, begun=begun: begun)  # type: ignore[misc]
        found += tuple(_checked(entry, case) for case in compared.cases)
    yield Progress(len(entries), len(entries), "", found)
    return found


def has_golden_cases(entry: Entry) -> bool:
    """Whether the method has arrays of published code to be compared with."""
    named = bool(entry.card.golden)
    return named and importlib.util.find_spec(f"{entry.module}.golden") is not None


def claims(catalog: Catalog) -> tuple[Claimed, ...]:
    """The claims of all methods with what was measured of them."""
    return tuple(_claimed(entry) for entry in catalog.values())


def measured_again(*, seed: int = 0, method: str) -> Steps[Claimed]:
    """Runs the benchmark of one method; what was recorded stays as it is."""
    entry = discover().find(method)
    if importlib.util.find_spec(f"{entry.module}.bench") is None:
        raise AssetMissing(f"{entry.card.title} has no benchmark yet.", "Measure another one.")
    steps = importlib.import_module(f"{entry.module}.bench").run(seed=seed)
    found = yield from relay(steps, lambda step: replace(step, preview=None))
    return _claimed(entry, found)


def _claimed(entry: Entry, found: Measured | None = None) -> Claimed:
    """The claim with these figures, or with those that are recorded."""
    card, claim = entry.card, entry.card.claim
    told = (entry.name, card.title, card.headline, claim.sentence, claim.measure, claim.versus)
    try:
        found = found or entry.measured()
    except AssetMissing:
        return Claimed(*told)
    holds = claim.holds(found.measured, found.versus)
    return Claimed(*told, found.measured, found.versus, found.interval, found.seconds, holds)


def _checked(entry: Entry, case: Case) -> Checked:
    numbers = (case.error, case.tolerance, case.seconds)
    return Checked(entry.name, entry.card.title, case.name, *numbers)

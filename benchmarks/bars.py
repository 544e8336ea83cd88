"""Measure the bars of the product here: `python -m benchmarks.bars [--write] [NAME ...]`.

Each bar starts the real app in a fresh process, as a visitor would meet it. The table goes to the
terminal and, with --write, between the marks in README.md; build/bars.json keeps every figure, so
that some bars can be measured again while the others stay.
A bar that fails its limit is printed as FAIL and makes the exit status 1. Timings mean something
on an idle machine only: the load at the start stands under the table.

    --runs N     runs of the soak (default 160, three turns; the product's bar speaks of 500)
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT

HEAD, FOOT = "<!-- bars -->", "<!-- /bars -->"
JSON = ROOT / "build" / "bars.json"


@dataclass(frozen=True)
class Bar:
    """One measured bar: what, the limit in words, what was measured, and whether it holds.

    Bars of a kind that every panel has to meet name the panel; the table gives such a kind one row.
    """

    what: str
    limit: str
    measured: str
    holds: bool
    figures: dict[str, Any] = field(default_factory=dict)
    panel: str = ""

    def __str__(self) -> str:
        where = f"{self.panel}: " if self.panel else ""
        return f"{self.sign}  {where}{self.what}: {self.measured} ({self.limit})"

    @property
    def sign(self) -> str:
        return "pass" if self.holds else "FAIL"

    @property
    def strain(self) -> float:
        """The figure as a share of its limit; without figures, whether it fails."""
        limit = self.figures.get("limit")
        return self.figures["value"] / limit if limit else float(not self.holds)

    @classmethod
    def at_most(
        cls, what: str, value: float, limit: float, unit: str, *, panel: str = "", **figures: Any
    ) -> "Bar":
        """A bar on a figure where less is better."""
        return cls(
            what,
            f"≤ {limit:g} {unit}".strip(),
            f"{value:.3g} {unit}".strip(),
            value <= limit,
            {"value": value, "limit": limit, **figures},
            panel,
        )

    @classmethod
    def none(cls, what: str, found: Sequence[str], *, panel: str = "", **figures: Any) -> "Bar":
        """A bar on a list that must be empty; what was found is kept."""
        kept = {"found": list(found), **figures}
        return cls(what, "0", str(len(found)), not found, kept, panel)


Measure = Callable[[], Iterator[Bar]]


def machine() -> dict[str, object]:
    """What the figures depend on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "load at the start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "gradio", "diffusers")},
    }


def table(bars: Sequence[Bar], where: dict[str, object]) -> str:
    """The Markdown table with the machine below; one row a bar, or a kind of bars of all panels."""
    kinds: dict[tuple[str, bool], list[Bar]] = {}
    for bar in bars:
        kinds.setdefault((bar.what, bool(bar.panel)), []).append(bar)
    lines = ["| bar | limit | measured | |", "|---|---|---|---|", *map(_row, kinds.values()), ""]
    return "\n".join([*lines, "; ".join(f"{key} {value}" for key, value in where.items()) + "."])


def _row(kind: Sequence[Bar]) -> str:
    """A bar as it is; of bars of many panels the worst, and which of them fail."""
    worst = max(kind, key=lambda bar: bar.strain)
    if not worst.panel:
        return f"| {worst.what} | {worst.limit} | {worst.measured} | {worst.sign} |"
    limits = {bar.limit for bar in kind}
    limit = worst.limit if len(limits) == 1 else "of each panel"
    missed = [f"{bar.panel} {bar.measured}" for bar in kind if not bar.holds]
    verdict = f"FAIL: {', '.join(missed)}" if missed else "pass"
    of = f"{len(kind) - len(missed)} of {len(kind)} panels; worst {worst.measured} ({worst.panel})"
    return f"| {worst.what} | {limit} | {of} | {verdict} |"


def write_readme(text: str, path: Path = ROOT / "README.md") -> None:
    """Put the table of bars into the README. Raises ValueError where its marks are missing."""
    write_between(HEAD, FOOT, text, path)


def write_between(head: str, foot: str, text: str, path: Path = ROOT / "README.md") -> None:
    """Put a text between two marks of a file. Raises ValueError where they are missing."""
    whole = path.read_text(encoding="utf-8")
    before, found, rest = whole.partition(head)
    _, closed, after = rest.partition(foot)
    if not (found and closed):
        raise ValueError(f"{path.name} lacks the marks {head} and {foot}.")
    path.write_text(f"{before}{head}\n{text}\n{foot}{after}", encoding="utf-8")


def measures(runs: int) -> dict[str, Measure]:
    """All bars by the name that picks them on the command line."""
    from benchmarks import loops, seen, served

    return {
        "start": served.start,
        "pages": served.pages,
        "visitors": served.visitors,
        "sessions": served.sessions,
        "queue": served.queue,
        "solver": served.overhead,
        "loops": loops.bars,
        "erase": served.erasing,
        "undo": served.exact_undo,
        "assets": served.assets,
        "sight": seen.first_sight,
        "clicks": seen.clicks,
        "looks": seen.looks,
        "run": seen.run,
        "stop": seen.stop,
        "links": seen.links,
        "class": seen.classroom,
        "soak": lambda: served.soak(runs),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bars")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these bars")
    parser.add_argument("--runs", type=int, default=160, help="runs of the soak")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args(arguments)
    known = measures(options.runs)
    if set(options.names) - set(known):
        parser.error(f"the bars are: {', '.join(known)}")
    where, kept = machine(), kept_bars()
    for name in options.names or known:
        kept[name] = []
        for bar in known[name]():
            kept[name].append(bar)
            print(bar, flush=True)
    keep(kept, where)
    bars = [bar for name in known for bar in kept.get(name, ())]
    text = table(bars, where)
    if missing := [name for name in known if name not in kept]:
        text += f"\n\nNot measured yet: {', '.join(missing)}."
    print("\n" + text)
    if options.write:
        write_readme(text)
    return 0 if all(bar.holds for bar in bars) else 1


def kept_bars() -> dict[str, list[Bar]]:
    """The bars measured before, by the name that picks them."""
    if not JSON.exists():
        return {}
    listed = json.loads(JSON.read_text(encoding="utf-8"))["bars"]
    return {name: [Bar(**bar) for bar in bars] for name, bars in listed.items()}


def keep(bars: Mapping[str, Sequence[Bar]], where: dict[str, object]) -> None:
    """Every figure into build/bars.json."""
    listed = {name: [asdict(bar) for bar in found] for name, found in bars.items()}
    JSON.parent.mkdir(exist_ok=True)
    document = {"machine": where, "bars": listed}
    JSON.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

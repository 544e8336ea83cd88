"""Recordings: what a panel shows before the first click, drawn of its default run.

    python -m scripts.record rece        runs the defaults of a method and writes its recordings

A recording is a file `assets/recordings/<slug>.<action>.json`. The page fetches it when the tab of
its button is shown and puts what it holds into the very places that a run draws in (rewind.js), so
that the result of a run replaces it without a jump. Nothing of the server takes part but the file.
The first line alone is read when the panel is built:

    {"head": {"recipe": "{...}", "made": "2026-12-01", "number": {...}, "digest": "0276a93c", ...},
    "parts": ["data:image/png;base64,...", ...], "drawn": ["<p>...", {...}, null]}

Addresses of pictures and sounds stand once in `parts`, and in what is drawn as numbers between two
`MARK`s. None is an output that a recording leaves as it is, such as a file to download.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TypeAlias

from engine.core import disk
from engine.core.errors import BadInput
from engine.core.recipe import Plain, Recipe
from pages._look import ASSETS
from pages._markup import escape

FOLDER = ASSETS / "recordings"
MARK, HEAD = "\x1a", '{"head": '

# A text of markup, a figure, or None for what stays as it is.
Drawn: TypeAlias = str | Mapping[str, Plain] | None

_ADDRESS = re.compile(r"data:[a-z]+/[a-z0-9.+-]+;base64,[A-Za-z0-9+/=]+")


@dataclass(frozen=True)
class Number:
    """The one number of a result as people read it: "drawn in neon: 100 % → 16 %".

    `before` is what it was without the method, where there is such a thing.
    """

    what: str
    value: str
    before: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {' → '.join(part for part in (self.before, self.value) if part)}"

    def html(self) -> str:
        """The number large, what it counts above it."""
        before = (
            f'{escape(self.before)} <span aria-label="becomes">→</span> ' if self.before else ""
        )
        return f"<p>{escape(self.what)}</p><b>{before}{escape(self.value)}</b>"


@dataclass(frozen=True)
class Recording:
    """What is known of a recording before it is fetched.

    `hangs_on` tells the code and the models that made it, `places` the outputs that it fills, and
    `digest` what it holds. For Home there is a film of so many square frames beside it (see
    `film_path`), or a few sentences that it `says` one after another.
    """

    recipe: Recipe
    made: date
    hangs_on: str
    number: Number | None
    places: Sequence[int]
    digest: str
    film: int = 0
    says: Sequence[str] = ()

    def line(self) -> str:
        """The first line of the file."""
        head = {
            "recipe": self.recipe.json(),
            "made": self.made.isoformat(),
            "hangs_on": self.hangs_on,
            "number": asdict(self.number) if self.number else None,
            "places": list(self.places),
            "digest": self.digest,
            "film": self.film,
            "says": list(self.says),
        }
        return f"{HEAD}{json.dumps(head, ensure_ascii=False)},"

    @classmethod
    def of_line(cls, line: str) -> "Recording":
        """What the first line of a file says. Raises `ValueError` where it is none."""
        head = json.loads(line.strip().removeprefix(HEAD).removesuffix(","))
        return cls(
            Recipe.from_json(head["recipe"]),
            date.fromisoformat(head["made"]),
            head["hangs_on"],
            Number(**head["number"]) if head["number"] else None,
            head["places"],
            head["digest"],
            head["film"],
            head["says"],
        )


def body(drawn: Sequence[Drawn]) -> str:
    """The rest of the file: what is drawn, with each address in it once."""
    parts: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        return f"{MARK}{parts.setdefault(found[0], len(parts))}{MARK}"

    short = [_ADDRESS.sub(numbered, one) if isinstance(one, str) else one for one in drawn]
    held = {"parts": list(parts), "drawn": short}
    return json.dumps(held, ensure_ascii=False, separators=(",", ":"))[1:]


def write(
    recipe: Recipe,
    drawn: Sequence[Drawn],
    number: Number | None,
    hangs_on: str,
    *,
    made: date,
    film: int = 0,
    says: Sequence[str] = (),
    folder: Path = FOLDER,
) -> Path:
    """Writes the recording of an action and gives its file."""
    held = body(drawn)
    places = [place for place, one in enumerate(drawn) if one is not None]
    digest = hashlib.sha256(held.encode()).hexdigest()[:8]
    head = Recording(recipe, made, hangs_on, number, places, digest, film, says)
    path = path_of(recipe.method, recipe.action, folder)
    disk.write(path, [f"{head.line()}\n{held}\n".encode()])
    path.chmod(0o644)  # it is served, and ships
    return path


def drawn_in(path: Path) -> list[Drawn]:
    """What a recording holds, as it was drawn."""
    held = json.loads(path.read_text(encoding="utf-8"))
    parts, put = held["parts"], re.compile(f"{MARK}(\\d+){MARK}")
    return [
        put.sub(lambda found: parts[int(found[1])], one) if isinstance(one, str) else one
        for one in held["drawn"]
    ]


def path_of(slug: str, action: str, folder: Path = FOLDER) -> Path:
    """Where the recording of an action lies, or would lie."""
    return folder / f"{slug}.{action}.json"


def film_path(slug: str, folder: Path = FOLDER) -> Path:
    """Where the film of a method for Home lies: square frames in a row, in one picture."""
    return folder / f"{slug}.png"


def find(slug: str, action: str, folder: Path = FOLDER) -> Recording | None:
    """The recording of an action, if there is one."""
    try:
        with path_of(slug, action, folder).open(encoding="utf-8") as file:
            return Recording.of_line(file.readline())
    except (OSError, ValueError, KeyError, TypeError, BadInput):
        return None


def moving(slug: str, kept: Recording | None) -> str:
    """The states of a recorded run, as the scrubber of its group goes through them."""
    if kept is not None and kept.says:
        states = "".join(f"<p>{escape(said)}</p>" for said in kept.says)
        return f'<div class="frame says" data-states>{states}</div>'
    if kept is None or not kept.film:
        return '<div class="frame"></div>'
    place = f"gradio_api/file=assets/recordings/{slug}.png?{kept.digest}"
    return (
        f'<div class="frame"><div class="film pixel" data-frames="{kept.film}" '
        f'style="--frames:{kept.film};background-image:url({place})"></div></div>'
    )


def address(recording: Recording) -> str:
    """Where a recording lies on this server; a new one has another address."""
    path = path_of(recording.recipe.method, recording.recipe.action)
    return f"gradio_api/file=assets/recordings/{path.name}?{recording.digest}"

"""The skeleton of a new method: every file that it needs, with what to write in each.

    python -m engine new sampling my_method

What is to be written is marked; `make check` names each mark with its file and line until none is
left, and the tests of the skeleton fail until they are filled in.
"""

import datetime
import keyword
import re
from pathlib import Path
from string import Template

from engine.core.catalog import ROOT, Family, discover
from engine.core.errors import BadInput

MARK = "FILL IN"
SKELETON = Path(__file__).parent / "skeleton"
FILES = {
    "init": "engine/$package/$slug/__init__.py",
    "algorithm": "engine/$package/$slug/algorithm.py",
    "results": "engine/$package/$slug/results.py",
    "golden": "engine/$package/$slug/golden.py",
    "bench": "engine/$package/$slug/bench.py",
    "page": "pages/$slug.py",
    "worksheet": "assets/worksheets/$slug.json",
    "test": "tests/$package/test_$slug.py",
    "journey": "tests/ui/test_$slug.py",
}


def write(family: str, slug: str, root: Path = ROOT) -> list[Path]:
    """Write the files of a method and give their paths.

    `family` is the family's package or route. Raises `BadInput` for an unknown family, a slug that
    is no name or is taken, and where a file is there already; nothing is written then.
    """
    where = _family(family)
    slug = slug.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,40}", slug) or keyword.iskeyword(slug):
        raise BadInput(f'"{slug[:40]}" cannot be the slug of a method.', "Write it like my_method.")
    if slug in (known := discover()).entries or slug in known.broken:
        raise BadInput(f"There is a method {slug} already.", "Links need one slug for one method.")
    words = {
        "package": where.package,
        "family": where.name,
        "route": where.route,
        "slug": slug,
        "name": slug.replace("_", "-"),
        "title": slug.replace("_", " ").capitalize(),
        "result": f"{slug.title().replace('_', '')}Result",
        "golden": f"{slug.replace('_', '-')}_case",
        "year": str(datetime.date.today().year),
    }
    paths = {kind: root / Template(path).substitute(words) for kind, path in FILES.items()}
    if there := [path for path in paths.values() if path.exists()]:
        raise BadInput(f"{there[0].relative_to(root)} is there already.", "Choose another slug.")
    for kind, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".py" and path.parent.name == where.package:
            (path.parent / "__init__.py").touch()
        text = (SKELETON / f"{kind}.txt").read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(words), encoding="utf-8")
    return list(paths.values())


def files_of(package: str, slug: str, root: Path = ROOT) -> list[Path]:
    """The files of a method as they are: its package, page, worksheet and tests."""
    places = [Template(path).substitute(package=package, slug=slug) for path in FILES.values()]
    found = {root / place for place in places} | {*(root / "engine" / package / slug).rglob("*.py")}
    return sorted(path for path in found if path.is_file())


def unfilled(paths: list[Path], root: Path = ROOT) -> list[str]:
    """Every mark that is left, as `file:line: what to write`."""
    return [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in paths
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MARK in line or "https://FILL-IN" in line
    ]


def _family(name: str) -> Family:
    for family in Family:
        if name.strip("/") in (family.package, family.route.strip("/")):
            return family
    known = ", ".join(family.package for family in Family)
    raise BadInput(f'There is no family "{name[:40]}".', f"The families are {known}.")

"""The skeleton of a new method: it says what to write, fails until it is written, then passes."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine import new
from engine.core.catalog import ROOT
from engine.core.errors import BadInput

WRITTEN = {
    r"FILL IN: the lesson\.": "Halving. It takes halves.",
    r"FILL IN: (\w)": r"\1",
    r"FILL IN": "done",
    r"https://FILL-IN": "https://example.org/halving",
    r"assert found.distance < 0 .*": "assert found.distance > 0",
}
"""What stands in the place of each mark; with it the method is a small true one."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of what a method needs around it; assets are those of the project."""
    for folder in ("engine", "pages", "tests"):
        shutil.copytree(
            ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    (tmp_path / "assets").mkdir()
    for path in (ROOT / "assets").iterdir():
        if path.name == "worksheets":
            shutil.copytree(path, tmp_path / "assets" / "worksheets")
        else:
            (tmp_path / "assets" / path.name).symlink_to(path)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def checked(root: Path) -> subprocess.CompletedProcess[str]:
    """The tests of the new method alone, in the copy."""
    chosen = "halving and not announced and not browser"
    tests = ("tests/contract/test_methods.py", "tests/sampling/test_halving.py")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", chosen, "-p", "no:cacheprovider", *tests],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_a_skeleton_fails_until_it_is_filled_in(root: Path):
    paths = new.write("/sample", "halving", root)
    assert {path.relative_to(root).as_posix() for path in paths} >= {
        "engine/sampling/halving/__init__.py",
        "pages/halving.py",
        "tests/sampling/test_halving.py",
    }
    half_made = checked(root)
    assert half_made.returncode == 1
    assert "engine/sampling/halving/algorithm.py:1: " in half_made.stdout
    for path in paths:
        text = path.read_text()
        for mark, words in WRITTEN.items():
            text = re.sub(mark, words, text)
        path.write_text(text)
    (root / "engine/sampling/halving/golden.py").unlink()
    whole = checked(root)
    assert whole.returncode == 0, whole.stdout
    assert re.search(r"[1-9]\d* passed", whole.stdout)


@pytest.mark.parametrize("family", list(new.Family), ids=lambda family: family.package)
def test_a_skeleton_can_be_read_in_every_family(tmp_path: Path, family):
    for path in new.write(family.package, "my-method", tmp_path):
        if path.suffix == ".py":
            compile(path.read_text(), str(path), "exec")
    left = new.unfilled(new.files_of(family.package, "my_method", tmp_path), tmp_path)
    assert len({line.partition(":")[0] for line in left}) >= 8


@pytest.mark.parametrize(
    ("family", "slug", "says"),
    [
        ("baking", "bread", "no family"),
        ("sampling", "No Name", "cannot be the slug"),
        ("sampling", "class", "cannot be the slug"),
        ("erasing", "nfe-lab", "already"),
    ],
)
def test_what_cannot_be_a_method_is_refused_and_nothing_written(tmp_path, family, slug, says):
    with pytest.raises(BadInput, match=says):
        new.write(family, slug, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_file_is_written_over(tmp_path: Path):
    new.write("sampling", "my_method", tmp_path)
    before = (tmp_path / "pages/my_method.py").read_text()
    with pytest.raises(BadInput, match="is there already"):
        new.write("erasing", "my_method", tmp_path)
    assert (tmp_path / "pages/my_method.py").read_text() == before

"""The files around the code: requirements cover the imports, targets and documents agree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bars import Bar, table, write_readme

ROOT = Path(__file__).resolve().parents[1]
OURS = {"app", "engine", "pages", "tests", "scripts", "benchmarks"}
# Import name where it differs from the package's.
PACKAGE = {"PIL": "pillow", "yaml": "PyYAML", "axe_playwright_python": "axe-playwright-python"}
# Optional at run time: the code asks whether they are there.
OPTIONAL = {"spaces", "ray"}
# Packages that another one brings and whose types it hands out.
THROUGH = {
    "starlette": "gradio",
    "fastapi": "gradio",
    "anyio": "gradio",
    "httpx": "huggingface_hub",
    "tokenizers": "transformers",
}


def pinned(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    return dict(line.split("==") for line in lines if line and not line.startswith("-r"))


def third_party(*folders: str) -> dict[str, set[str]]:
    """Package to the files that import it, imports inside functions included."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        paths = ROOT.glob(folder) if folder.endswith(".py") else (ROOT / folder).rglob("*.py")
        for path in paths:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                for name in {name.partition(".")[0] for name in names}:
                    if name not in OURS and name not in sys.stdlib_module_names:
                        found.setdefault(name, set()).add(path.relative_to(ROOT).as_posix())
    return found


def listed(name: str, requirements: dict[str, str]) -> bool:
    package = THROUGH.get(name, PACKAGE.get(name, name))
    normal = {key.lower().replace("_", "-") for key in requirements}
    return name in OPTIONAL or package.lower().replace("_", "-") in normal


@pytest.mark.slow
def test_what_runs_imports_only_what_is_required():
    # engine/zoo makes the shipped checkpoints; it is for development.
    imports = {
        name: {path for path in paths if not path.startswith("engine/zoo/")}
        for name, paths in third_party("app.py", "engine", "pages").items()
    }
    required = pinned("requirements.txt")
    assert {n: p for n, p in imports.items() if p and not listed(n, required)} == {}


@pytest.mark.slow
def test_development_imports_only_what_is_required():
    required = pinned("requirements.txt") | pinned("requirements-dev.txt")
    imports = third_party("engine", "tests", "scripts", "benchmarks")
    assert {n: p for n, p in imports.items() if not listed(n, required)} == {}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_requirement_is_pinned_once(name: str):
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    wrong = [x for x in lines if x and not x.startswith("-r") and not re.fullmatch(r"\S+==\S+", x)]
    assert wrong == []


def test_targets_named_in_the_readme_exist():
    named = set(re.findall(r"make (\w+)", (ROOT / "README.md").read_text()))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"run", "test", "check", "bench", "spaces"} <= named <= targets


def test_make_run_needs_only_what_runs():
    plan = subprocess.run(
        ["make", "--no-print-directory", "-n", "run", "VENV=/nonexistent/venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout
    assert "requirements.txt" in plan
    assert "requirements-dev.txt" not in plan
    assert plan.strip().endswith("app.py")


def test_make_test_runs_golden_and_property_tests_on_other_kernels_too():
    plan = subprocess.run(
        ["make", "--no-print-directory", "-n", "test"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert any(
        "ATEN_CPU_CAPABILITY=default" in line and "golden or hypothesis" in line
        for line in plan.replace("\\\n", "").splitlines()
    )


# ---------------------------------------------------------------------- the table of the bars


def test_a_bar_holds_up_to_its_limit():
    assert Bar.at_most("start", 5.0, 5, "s").holds
    assert not Bar.at_most("start", 5.01, 5, "s").holds
    assert not Bar.at_most("start", float("nan"), 5, "s").holds
    assert Bar.none("outside requests", []).holds
    assert not Bar.none("outside requests", ["look-up of host.example"]).holds


def test_bars_of_all_panels_share_a_row_that_names_the_misses():
    bars = [
        Bar.at_most("cold", value, 12, "s", panel=name) for name, value in (("A", 5), ("B", 15))
    ]
    row = "| cold | ≤ 12 s | 1 of 2 panels; worst 15 s (B) | FAIL: B 15 s |"
    assert row in table(bars, {"cores": 2}).splitlines()


def test_the_table_replaces_what_stood_between_its_marks(tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bars -->\nold\n<!-- /bars -->\nafter\n")
    text = table([Bar.at_most("start", 6, 5, "s")], {"cores": 2})
    write_readme(text, readme)
    written = readme.read_text()
    assert "| start | ≤ 5 s | 6 s | FAIL |" in written
    assert "old" not in written
    assert written.startswith("before\n")
    assert written.endswith("after\n")


def test_a_readme_without_marks_is_left_alone(tmp_path: Path):
    readme = tmp_path / "README.md"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the marks"):
        write_readme("table", readme)
    assert readme.read_text() == "no marks"

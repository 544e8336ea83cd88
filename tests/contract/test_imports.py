"""Who may import whom: the table of the architecture, held against the syntax trees.

And in a fresh process: what serves a page brings no torch along.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.core.catalog import Family

ROOT = Path(__file__).resolve().parents[2]

MODEL_LIBRARIES = {"diffusers", "transformers", "peft", "accelerate", "tokenizers"}
HEAVY = MODEL_LIBRARIES | {"torch"}
FAMILIES = {family.package for family in Family}
# What a page may know of the engine; all of it is light (see the fresh process below).
LIGHT_CORE = {
    f"engine.core.{name}"
    for name in (
        "budgets",
        "cache",
        "catalog",
        "disk",
        "errors",
        "job",
        "lane",
        "patch_file",
        "recipe",
        "runs",
        "stack",
        "store",
    )
}


@dataclass(frozen=True)
class Imported:
    """`module` as written; `inside` a function, so that it costs nothing at import."""

    module: str
    line: int
    inside: bool

    @property
    def package(self) -> str:
        return self.module.partition(".")[0]


@dataclass(frozen=True)
class Layer:
    """What the files of a layer may import: prefixes of our modules, and packages of others."""

    ours: set[str]
    others: set[str]
    inside: frozenset[str] = frozenset()


def imports_in(text: str) -> list[Imported]:
    """All imports of a file but those for type checkers only."""
    return list(_walk(ast.parse(text), inside=False))


def _walk(node: ast.AST, inside: bool) -> Iterator[Imported]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from _walk(other, inside)
        elif isinstance(child, ast.Import):
            yield from (Imported(name.name, child.lineno, inside) for name in child.names)
        elif isinstance(child, ast.ImportFrom):
            module = "." * child.level + (child.module or "")
            # "from engine.core import recipe" names a module; "from x import f" a thing inside x.
            deeper = [f"{module}.{name.name}" for name in child.names]
            yield from (
                Imported(name if _is_module(name) else module, child.lineno, inside)
                for name in deeper
            )
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, inside or is_function)


def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return name.startswith(("engine", "pages")) and (
        path.is_dir() or path.with_suffix(".py").exists()
    )


def layer_of(path: Path) -> Layer:
    """The rules for a file, given by its path from the root."""
    place = path.parts
    numbers = {"torch", "numpy", "PIL", "scipy"}
    if place[0] == "app.py":
        return Layer(
            {"pages", "engine.core.budgets", "engine.core.catalog", "engine.core.errors"}
            | {"engine.core.lane", "engine.runners"},
            {"gradio"},
        )
    if place[0] == "pages":
        ours = LIGHT_CORE | {"engine.models.library", "engine.pictures", "engine.world.vocabulary"}
        ours |= {"engine.results", "engine.runners", "engine.faithfulness", "engine.sounds"}
        ours |= {"engine.models.picture_sets", "engine.models.devices"}
        # The package of the page's own method announces it and is light; what lies in it is not.
        ours |= {f"=engine.{family}.{path.stem}" for family in FAMILIES}
        return Layer(
            ours | {"pages._"} | ({"pages"} if path.name == "__init__.py" else set()),
            {"gradio", "gradio_client", "plotly", "PIL", "numpy", "starlette", "fastapi", "anyio"},
        )
    return _engine_layer(path, numbers)


def _engine_layer(path: Path, numbers: set[str]) -> Layer:
    part = path.parts[1]
    if part == "core":
        others = {"torch", "numpy", "safetensors"}
        return Layer(
            {"engine.core"}, others | ({"jaxtyping"} if path.name == "shapes.py" else set())
        )
    if part in ("diffusion", "metrics", "world"):
        return Layer({"engine.core", f"engine.{part}"}, numbers)
    if part == "reversible":
        return Layer({"engine.core", "engine.reversible"}, {"torch"})
    if part == "models":
        return Layer(
            {"engine.core", "engine.diffusion", "engine.models", "engine.world"},
            numbers | {"safetensors", "regex"},
            frozenset(MODEL_LIBRARIES | {"huggingface_hub", "httpx"}),
        )
    if part == "zoo":
        return Layer({"engine"}, numbers | {"safetensors"}, frozenset({"*"}))
    if part in FAMILIES:
        shared = {"core", "models", "diffusion", "metrics", "reversible", "world"}
        ours = {f"engine.{name}" for name in shared} | {
            f"engine.{part}._",
            "engine.pictures",
            "engine.sounds",
        }
        if len(path.parts) > 3:
            ours |= {f"engine.{part}.{path.parts[2]}"}
        # Networks read their own weights, which no loader of `models` knows, and volumes; benches
        # keep what they train, so that a run that was stopped goes on. Fields are read as algebra.
        files = {"safetensors", "nibabel", "sympy"} if part == "networks" else set()
        if path.name == "bench.py":
            numbers = numbers | {"safetensors"}
        return Layer(ours, numbers, frozenset(MODEL_LIBRARIES | files))
    if part == "runners.py":
        return Layer({"engine.core"}, {"spaces"}, frozenset({"spaces", "ray", "torch"}))
    if part == "__main__.py":
        ours = {"engine.core", "engine.models.library", "engine.new", "engine.pictures"}
        ours |= {"engine.results", "engine.runners", "engine.faithfulness", "engine.sounds"}
        return Layer(ours, {"numpy", "PIL"}, frozenset({"torch"}))
    if part == "sounds.py":
        return Layer({"engine.core"}, {"numpy"}, frozenset({"scipy", "soundfile"}))
    return Layer({"engine.core"}, {"numpy", "PIL"})


def breaches(path: Path, text: str) -> list[str]:
    """One line for each import that the file may not make."""
    layer = layer_of(path)
    found = []
    for one in imports_in(text):
        if one.package in sys.stdlib_module_names:
            continue
        if one.module.startswith("."):
            found.append((one, "imports are absolute here"))
        elif one.package in ("engine", "pages", "app", "tests"):
            if not any(_is_within(one.module, prefix) for prefix in layer.ours):
                found.append((one, "this layer may not know it"))
        elif one.package not in layer.others and not (
            one.inside and layer.inside & {one.package, "*"}
        ):
            reason = (
                "only inside a function" if one.package in layer.inside else "not in this layer"
            )
            found.append((one, reason))
    return [f"{path}:{one.line} imports {one.module}: {reason}" for one, reason in found]


def _is_within(module: str, prefix: str) -> bool:
    if prefix.startswith("="):
        return module == prefix[1:]
    if prefix.endswith("_"):
        return module.startswith(prefix)
    return module == prefix or module.startswith(prefix + ".")


def our_files() -> list[Path]:
    files = [*(ROOT / "engine").rglob("*.py"), *(ROOT / "pages").rglob("*.py")]
    files += [path for path in [ROOT / "app.py"] if path.exists()]
    return sorted(path.relative_to(ROOT) for path in files)


def scripts() -> list[Path]:
    files = [*(ROOT / "scripts").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in files)


@pytest.mark.parametrize("path", our_files(), ids=str)
def test_a_file_imports_only_what_its_layer_may(path):
    assert not breaches(path, (ROOT / path).read_text(encoding="utf-8"))


def test_a_method_is_announced_without_anything_heavy():
    for family in FAMILIES:
        for path in (ROOT / "engine" / family).glob("[!_]*/__init__.py"):
            modules = {one.module for one in imports_in(path.read_text(encoding="utf-8"))}
            ours = {name for name in modules if name.startswith("engine")}
            assert ours <= {"engine.core.catalog", "engine.core.recipe"}, path
            assert {one.partition(".")[0] for one in modules - ours} <= sys.stdlib_module_names, (
                path
            )


# ---------------------------------------------------------------------- pickles

# Between a runner and the child that it started itself; nothing else is ever unpickled.
OWN_CHILD = {Path("engine/runners.py")}
UNPICKLES = {"torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"}


def unpickled(text: str) -> list[str]:
    """What a file calls to open pickles."""
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    allowing = [
        ast.unparse(call.func)
        for call in calls
        for key in call.keywords
        if key.arg == "allow_pickle" and ast.unparse(key.value) != "False"
    ]
    return allowing + [name for call in calls if (name := ast.unparse(call.func)) in UNPICKLES]


@pytest.mark.parametrize(
    "path",
    [path for path in [*our_files(), *scripts()] if path not in OWN_CHILD],
    ids=str,
)
def test_a_file_opens_no_pickle(path):
    assert not unpickled((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    [
        'torch.load("a.pt", weights_only=True)',
        "x = pickle.loads(data)",
        'np.load("a.npz", allow_pickle=True)',
        'np.load("a.npz", allow_pickle=trusted)',
    ],
)
def test_an_opened_pickle_is_found(line):
    assert unpickled(f"def f():\n    {line}")
    assert not unpickled('np.load("a.npz", allow_pickle=False)')


# ---------------------------------------------------------------------- the rule itself


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("engine/core/patch.py", "import diffusers"),
        ("engine/core/patch.py", "from engine.models import library"),
        ("engine/core/job.py", "import gradio as gr"),
        ("engine/core/rng.py", "import jaxtyping"),
        ("engine/diffusion/solvers.py", "from diffusers import DDIMScheduler"),
        ("engine/models/library.py", "import transformers"),
        ("engine/sampling/nfe_lab/algorithm.py", "from engine.erasing import rece"),
        ("engine/sampling/nfe_lab/algorithm.py", "import engine.erasing.rece.algorithm"),
        ("engine/sampling/nfe_lab/algorithm.py", "from engine.sampling.score_sde import algorithm"),
        ("engine/sampling/nfe_lab/algorithm.py", "import diffusers"),
        ("engine/sampling/nfe_lab/algorithm.py", "import gradio"),
        ("engine/sampling/nfe_lab/algorithm.py", "from engine.zoo import training"),
        ("engine/sampling/nfe_lab/algorithm.py", "from . import other"),
        ("engine/runners.py", "from engine.sampling import nfe_lab"),
        ("engine/runners.py", "import ray"),
        ("pages/nfe_lab.py", "import torch"),
        ("pages/nfe_lab.py", "def f():\n    import torch"),
        ("pages/nfe_lab.py", "from engine.core.patch import Patch"),
        ("pages/nfe_lab.py", "from engine.sampling.nfe_lab.algorithm import run"),
        ("pages/nfe_lab.py", "from pages import rece"),
        ("pages/nfe_lab.py", "import pages.rece"),
        ("app.py", "import plotly"),
        ("app.py", "from engine.models import diffusion"),
        ("engine/core/job.py", "try:\n    import gradio\nexcept ImportError:\n    pass"),
    ],
)
def test_a_forbidden_import_is_found_with_file_and_line(path, line):
    (found,) = breaches(Path(path), "\n" + line)
    assert found.startswith(f"{path}:")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (
            "engine/core/patch.py",
            "import torch\nfrom safetensors.torch import load_file\nimport os",
        ),
        ("engine/core/store.py", "if TYPE_CHECKING:\n    import gradio"),
        ("engine/models/library.py", "def load():\n    from diffusers import UNet2DConditionModel"),
        ("engine/sampling/nfe_lab/algorithm.py", "from engine.sampling.nfe_lab import plane"),
        ("engine/sampling/nfe_lab/algorithm.py", "from engine.sampling._guidance import guide"),
        ("engine/erasing/rece/algorithm.py", "from engine.models.library import ModelRef, load"),
        ("engine/zoo/training.py", "def f():\n    import anything"),
        ("engine/runners.py", "def f():\n    import ray"),
        ("pages/nfe_lab.py", "import gradio as gr\nfrom pages import _parts as parts"),
    ],
)
def test_an_allowed_import_is_let_pass(path, line):
    assert not breaches(Path(path), line)


# ---------------------------------------------------------------------- in a fresh process

FRESH = """
import importlib, pkgutil, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pages
from engine.core import catalog
names = [f"pages.{{found.name}}" for found in pkgutil.iter_modules(pages.__path__)]
names += ["app"] * Path({root!r}, "app.py").exists()
names += ["engine.models.library", "engine.runners", "engine.results"]
for name in names:
    importlib.import_module(name)
broken = catalog.discover().broken
print("broken:", *broken)
print("heavy:", *sorted(set({heavy!r}) & set(sys.modules)))
"""


@pytest.mark.slow
def test_what_serves_a_page_loads_no_torch_and_no_model_library():
    code = FRESH.format(root=str(ROOT), heavy=sorted(HEAVY))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["broken:", "heavy:"]

"""What every method promises, as checks of one catalogue entry.

`test_methods.py` holds them over the catalogue. `test_rules.py` proves on a toy method that each
one passes what keeps the promise and catches what breaks it.
"""

import ast
import gc
import importlib
import importlib.util
import inspect
import itertools
import pickle
import re
import tempfile
import textwrap
import threading
import time
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import torch

from engine import new
from engine.core.catalog import Action, Entry, Exactness
from engine.core.job import Done, Event, Failed, Job, Progress, events
from engine.core.recipe import RESERVED, ModelRef, Recipe
from engine.core.reversible import RoundTrip
from engine.core.settings import Items, OneOf, Packed, Range, Text, settings_of
from tests.conftest import equal_bits

ROOT = Path(__file__).resolve().parents[2]

# Processor seconds between two events of a warm run, not seconds of the clock: the machine of the
# tests is shared. The promise is half a second; this leaves room for a slower processor.
LONGEST_SILENCE = 1.0


def job_of(entry: Entry, action: Action, settings: str = "quick") -> Job:
    """The job that the card gives for tests: its first model, seed 7."""
    models = entry.models(action.name)
    model = ModelRef(models[0]) if models else None
    recipe = Recipe(entry.slug, action.name, model, getattr(action, settings), seed=7)
    return recipe.job(entry.target(action.name))


def function_of(entry: Entry, action: Action) -> Callable[..., object]:
    """The job function of an action."""
    module, _, name = entry.target(action.name).partition(":")
    return getattr(importlib.import_module(module), name)


# ---------------------------------------------------------------------- what is written down


def is_filled_in(entry: Entry, root: Path = ROOT) -> None:
    """Nothing of the skeleton that `python -m engine new` wrote is left to write."""
    left = new.unfilled(new.files_of(entry.card.family.package, entry.slug, root), root)
    assert not left, "Still to write:\n" + "\n".join(left)


def has_its_worksheet(entry: Entry, root: Path = ROOT) -> None:
    path = f"assets/worksheets/{entry.slug}.json"
    assert (root / path).is_file(), f"{entry.slug} has no worksheet; write {path}"


def has_its_tests(entry: Entry, root: Path = ROOT) -> None:
    """A file of tests imports the algorithm."""
    folder = f"tests/{entry.card.family.package}"
    named = [path for path in (root / folder).glob("test_*.py") if entry.module in path.read_text()]
    assert named, f"No test imports {entry.module}; write {folder}/test_{entry.slug}.py"


def has_tests_of_its_panel(entry: Entry, root: Path = ROOT) -> None:
    """The panel has a file of tests that checks what its failure preset is said to show."""
    panel = f"tests/ui/test_{entry.slug}.py"
    assert (root / panel).is_file(), f"{entry.slug} has no test of its panel; write {panel}"
    defined = {
        n.name for n in ast.parse((root / panel).read_text()).body if isinstance(n, ast.FunctionDef)
    }
    assert "breaks" in defined, (
        f"{panel} defines no breaks(result): what its failure preset is said to show."
    )


def has_its_benchmark(entry: Entry) -> None:
    assert importlib.util.find_spec(f"{entry.module}.bench"), (
        f"{entry.slug} has no benchmark; write {entry.module.replace('.', '/')}/bench.py"
    )


def states_its_lesson(entry: Entry) -> None:
    sentences = [part for part in entry.lesson.split(". ") if part.strip()]
    assert len(sentences) >= 3, f"The docstring of {entry.module} is its lesson; it is too short."


def states_its_card(entry: Entry) -> None:
    card = entry.card
    place = f"{entry.module.replace('.', '/')}/__init__.py"
    assert card.paper.link.startswith("https://"), f"{place}: the paper has no https link."
    assert not card.paper.code or card.paper.code.startswith("https://"), (
        f"{place}: the link to the code begins with https."
    )
    claim = card.claim.sentence
    assert claim.strip().endswith("."), f'{place}: the claim "{claim}" is no sentence.'
    for told in (card.headline.paper, card.headline.here):
        assert told.strip().endswith("."), f'{place}: the headline "{told}" is no sentence.'
    assert card.undoes.endswith("."), f"{place}: undoes is no sentence."
    assert "\n" not in card.undoes, f"{place}: undoes has two lines."
    assert card.title, f"{place}: the card has no title."
    assert card.paper.title, f"{place}: the paper has no title."
    assert card.paper.authors, f"{place}: the paper has no authors."
    assert 1900 < card.paper.year < 2100, f"{place}: the year of the paper."
    least = min(card.budget.cpu_seconds, card.budget.gpu_seconds)
    assert least > 0, f"{place}: the budget says no seconds."
    assert card.actions, f"{place}: the card has no action."
    for action in card.actions:
        assert action.bad, f"{place}: name settings that {action.name} must refuse (bad=...)."


def shows_its_code(entry: Entry) -> None:
    place = f"{entry.module.replace('.', '/')}/__init__.py"
    assert entry.card.shows, f"{place}: the card shows no code (shows=...)."
    for source in entry.sources():
        assert source.code.strip(), f"{place}: {source.name} of shows is empty."


def has_its_page(entry: Entry, root: Path = ROOT) -> None:
    path = root / "pages" / f"{entry.slug}.py"
    assert path.exists(), f"{entry.slug} has no page; write pages/{entry.slug}.py"
    defined = [n.name for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]
    assert "build" in defined, f"pages/{entry.slug}.py defines no build(frame)."


def has_golden_arrays_or_says_why_not(entry: Entry, root: Path = ROOT) -> None:
    folder = root / "tests" / "golden"
    for name in entry.card.golden:
        assert (folder / f"{name}.npz").exists(), f"tests/golden/{name}.npz is missing."
    assert entry.card.golden or entry.card.no_golden, (
        f"{entry.slug}: golden arrays, or say why not."
    )


def has_measured_its_claim(entry: Entry) -> None:
    found = entry.measured()
    claim = entry.card.claim
    assert claim.holds(found.measured, found.versus), (
        f"{entry.slug} claims: {claim.sentence} Measured: {claim.measure} {found.measured:.4g} "
        f"against {claim.versus} {found.versus:.4g}."
    )
    low, high = found.interval
    assert low <= found.measured <= high
    assert found.versions
    assert found.machine
    assert found.seconds is None or found.seconds > 0  # None: put together from parts


def names_the_torch_of_its_claim(entry: Entry) -> None:
    """Figures that torch computed come again with the same torch only, so its version is told."""
    assert "torch" in entry.measured().versions or not uses_torch(entry), (
        f"assets/claims/{entry.slug}.json names no torch. Run: python -m engine bench {entry.name}"
    )


def uses_torch(entry: Entry, root: Path = ROOT) -> bool:
    """Whether a file of the method, or one that its family shares, imports torch."""
    folder = root / entry.module.replace(".", "/")
    files = [*folder.rglob("*.py"), *folder.parent.glob("_*.py")]
    return any(re.search(r"^ *(import|from) torch\b", path.read_text(), re.M) for path in files)


def has_light_recipes(entry: Entry) -> None:
    for action in entry.card.actions:
        for settings in (action.quick, action.bad):
            recipe = Recipe(entry.slug, action.name, params=settings, seed=7)
            assert Recipe.from_query(recipe.query()) == recipe


def names_settings_that_fit_a_recipe(entry: Entry) -> None:
    """A setting that takes a name of the recipe itself could be neither linked nor run."""
    for action in entry.card.actions:
        settings = set(inspect.signature(function_of(entry, action)).parameters)
        taken = settings & set(RESERVED) - {"model", "seed"}
        assert not taken, f"{entry.slug} {action.name}: rename the settings {sorted(taken)}."


def declares_its_settings(entry: Entry) -> None:
    """The signature of every action says all that a value may be, so that it is checked there."""
    for action in entry.card.actions:
        for setting in settings_of(function_of(entry, action)).values():
            if setting.name != "model":
                where = f"{entry.slug} {action.name}: {setting.name}"
                assert is_bounded(setting.kind), f"{where} declares no bounds: {setting.kind}"


def is_bounded(kind: object, rules: Sequence[object] = ()) -> bool:
    """Numbers have a range, texts a length or a choice, lists a number of bounded values."""
    inside = typing.get_args(kind)
    match typing.get_origin(kind):
        case typing.Annotated:
            return is_bounded(inside[0], inside[1:])
        case typing.Literal:
            return True
        case types.UnionType | typing.Union:
            return all(is_bounded(one, rules) for one in inside)
        case origin if origin in (tuple, Sequence):
            return any(isinstance(rule, Items) for rule in rules) and is_bounded(inside[0])
    needed = {bool: object, type(None): object, int: Range, float: Range, str: Text | OneOf}
    if kind in needed:
        return needed[kind] is object or any(isinstance(rule, needed[kind]) for rule in rules)
    return kind is ModelRef or any(isinstance(rule, Packed) for rule in rules)


def names_a_model_only_where_one_is_used(entry: Entry) -> None:
    """An action takes a model exactly where its card says so, and then does something with it."""
    for action in entry.card.actions:
        module, _, name = entry.target(action.name).partition(":")
        function = inspect.unwrap(getattr(importlib.import_module(module), name))
        takes = "model" in inspect.signature(function).parameters
        assert takes == bool(entry.models(action.name)), f"{entry.slug} {action.name}"
        assert not takes or _reads(function, "model"), (
            f"{entry.slug} {action.name} takes a model and leaves it aside."
        )


def _reads(function: Callable[..., object], name: str) -> bool:
    """Whether the body of a function looks at a variable."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return any(
        isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load)
        for node in ast.walk(tree)
    )


# ---------------------------------------------------------------------- what a run promises


def runs_repeats_and_reports(entry: Entry, action: Action) -> None:
    """Equal jobs have equal results; events come in time, pickle, and leave torch as it was."""
    job = pickle.loads(pickle.dumps(job_of(entry, action)))
    # Not watched: a first run may load libraries and models, which draw numbers of their own.
    first = list(events(job))
    assert isinstance(first[-1], Done), _told(first[-1])
    again = list(observed(job))
    silences = [seconds for _, seconds in again]
    assert max(silences) <= LONGEST_SILENCE, f"Silent for {max(silences):.1f} processor seconds."
    seen = [event for event, _ in again]
    progress = [event for event in seen if isinstance(event, Progress)]
    assert progress, f"{job.target} yields no Progress."
    for earlier, later in itertools.pairwise(progress):
        assert 0 <= earlier.done <= later.done <= later.total
    for event in seen:
        assert equal_bits(pickle.loads(pickle.dumps(event)), event)
        for tensor in _tensors(event):
            assert tensor.device.type == "cpu", f"A tensor of {job.target} is on {tensor.device}."
    different = differing(first[-1].result, seen[-1].result)
    assert not different, f"{job.target} does not repeat: {different}"
    for value in _values(first[-1].result):
        # Gradio's client takes {"path": "..."} of an answer for a file that it has to fetch.
        assert not hasattr(value, "path"), f"A result of {job.target} has a field named path."


def differing(first: object, again: object, place: str = "result") -> list[str]:
    """Where two results of equal jobs part.

    Fields named after seconds, or "was_...", tell how a run went (its time, whether something was
    cached) and not what came out; they may part.
    """
    if not is_dataclass(first) or type(first) is not type(again):
        if isinstance(first, list | tuple) and isinstance(again, list | tuple):
            if len(first) != len(again):
                return [f"length of {place}"]
            parts = [
                (f"{place}[{i}]", *pair) for i, pair in enumerate(zip(first, again, strict=True))
            ]
            return [found for name, a, b in parts for found in differing(a, b, name)]
        return [] if equal_bits(first, again) else [place]
    names = [item.name for item in fields(first)]
    kept = [name for name in names if "seconds" not in name and not name.startswith("was_")]
    return [
        found
        for name in kept
        for found in differing(getattr(first, name), getattr(again, name), f"{place}.{name}")
    ]


def reaches_its_exactness(entry: Entry) -> None:
    """A card that says "bit for bit" or "to round-off" has an action whose result measures it."""
    if entry.card.exactness not in (Exactness.BITWISE, Exactness.ROUND_OFF):
        return
    found = []
    for action in entry.card.actions:
        *_, end = events(job_of(entry, action))
        assert isinstance(end, Done), _told(end)
        found += [value for value in _values(end.result) if isinstance(value, RoundTrip)]
    assert found, f"{entry.slug} measures no round trip; put a RoundTrip into a result."
    enough = {Exactness.BITWISE, entry.card.exactness}
    assert any(trip.exactness in enough for trip in found), [str(trip) for trip in found]


def stops_clean_at_every_step(entry: Entry, action: Action, most: int = 6) -> None:
    """Closing after any of the first steps ends the method and leaves nothing behind."""
    job = job_of(entry, action)
    # The same steps once unwatched: what is loaded on the way may draw numbers of its own.
    warm_up = events(job)
    for _ in zip(range(most), warm_up, strict=False):
        pass
    warm_up.close()
    for steps in range(1, most + 1):
        threads = threading.active_count()
        with nothing_left_behind():
            running = events(job)
            taken = [event for _, event in zip(range(steps), running, strict=False)]
            running.close()
        assert threading.active_count() <= threads, f"{job.target} leaves a thread running."
        if isinstance(taken[-1], Done):
            return
        assert isinstance(taken[-1], Progress), _told(taken[-1])


def refuses_with_advice(entry: Entry, action: Action) -> None:
    """Bad settings end in one `Failed` with a sentence and advice, before anything else."""
    seen = list(events(job_of(entry, action, "bad")))
    assert len(seen) == 1, f"Bad settings of {entry.slug} are found only after {len(seen)} events."
    assert isinstance(seen[0], Failed), f"Bad settings of {entry.slug} are not refused."
    assert not seen[0].error_id, _told(seen[0])
    assert seen[0].message
    assert seen[0].advice, f'{entry.slug} refuses "{seen[0].message}" without advice.'


# ---------------------------------------------------------------------- watching a run


def observed(job: Job) -> Iterator[tuple[Event, float]]:
    """Events with the processor seconds before each; torch must look untouched at every one."""
    with nothing_left_behind():
        running = events(job)
        state = _global_state()
        while True:
            start = time.process_time()
            event = next(running, None)
            if event is None:
                return
            assert _global_state() == state, (
                f"{job.target} changes torch's global noise, number format or gradient mode."
            )
            yield event, time.process_time() - start


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """Temporary files of the block lie in an own folder, which must be empty at its end."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        state = _global_state()
        try:
            yield
            gc.collect()
            left = [path.name for path in Path(folder).iterdir()]
        finally:
            tempfile.tempdir = before
        assert not left, f"Temporary files are left behind: {left}"
        assert _global_state() == state, "Torch's global state is left changed."


def _global_state() -> tuple[object, ...]:
    return (
        torch.get_rng_state().numpy().tobytes(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        np.random.get_state()[1].tobytes(),
    )


def _values(value: object) -> Iterator[object]:
    yield value
    if is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from _values(getattr(value, item.name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _values(item)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    return (item for item in _values(value) if isinstance(item, torch.Tensor))


def _told(event: Event) -> str:
    if isinstance(event, Failed):
        return f"{event.message} {event.advice}\n{event.detail}"
    return f"The run ended with {type(event).__name__}."

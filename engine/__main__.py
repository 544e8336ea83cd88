"""Every panel without a browser.

    python -m engine list                           methods and models
    python -m engine run nfe-lab --prompt 'a cat' --out made   run one; save pictures and curves
    python -m engine run nfe-lab --help             its settings and their defaults
    python -m engine run --recipe made/recipe.json  run a recipe, or the one inside a picture
    python -m engine bench nfe-lab                  measure its claim
    python -m engine verify [METHOD ...]            check files, golden cases and claims
    python -m engine new sampling my_method         write the skeleton of a new method

Settings are those of the method's function; a value is JSON or plain text, and a list may be
written with commas. --runner local|process|ray says where it runs.

Exit codes: 0 done; 1 a fault of ours, with an error id; 2 something to mend, with advice; 130
interrupted.
"""

import importlib
import importlib.util
import inspect
import json
import shlex
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from engine import faithfulness
from engine import new as skeleton
from engine.core import disk
from engine.core.catalog import Catalog, Entry, Measured, announced, discover
from engine.core.errors import AssetMissing, BadInput, EngineError
from engine.core.job import Done, Failed, Job, Progress
from engine.core.recipe import RESERVED, Recipe
from engine.core.settings import FromFile, in_words, settings_of
from engine.models import library
from engine.pictures import as_text, at_most, opened
from engine.results import files_of, keep_edit
from engine.runners import runner
from engine.sounds import SUFFIXES, from_file

HELP = ("--help", "-h", "help")
OURS = ("out", "runner", "recipe")
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
FAULT, TO_MEND, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and give its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command in HELP or (command in COMMANDS and rest[:1] and rest[0] in HELP):
        print(_help(command))
        return 0
    try:
        if command not in COMMANDS:
            raise BadInput(
                f'There is no command "{command[:40]}".', f"The commands are {', '.join(COMMANDS)}."
            )
        return COMMANDS[command](rest)
    except EngineError as error:
        print(error, file=sys.stderr)
        return TO_MEND
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED


def _help(command: str) -> str:
    """What a command does and how it is written; of no command, all that can be done."""
    whole = inspect.cleandoc(__doc__ or "")
    if command not in COMMANDS:
        return whole
    usage = [line for line in whole.splitlines() if f"python -m engine {command} " in line]
    return "\n".join([*usage, "", inspect.cleandoc(COMMANDS[command].__doc__ or "")])


# ---------------------------------------------------------------------- commands


def list_all(arguments: Sequence[str]) -> int:
    """Print methods and models, one a line."""
    _no_more(arguments)
    every = discover()
    catalog = announced(every)
    print("methods")
    for entry in catalog.values():
        print(f"  {entry.name:24} {entry.card.undoes}")
    for slug in sorted(set(every) - set(catalog)):
        print(f"  {every[slug].name:24} without a panel until its claim is measured: bench it")
    for broken in catalog.broken.values():
        print(f"  {broken.slug:24} does not import; `python -m engine verify` says why")
    print("models")
    for card in library.MODELS.values():
        print(f"  {card.key:24} {card.title} ({card.licence})")
    return 0


def run(arguments: Sequence[str]) -> int:
    """Run a method and save what it gives.

    Files for other tools keep the names that these look for; pictures and curves are named after
    the part of the result that they are.
    """
    ours, rest = _split(arguments)
    if "recipe" in ours:
        recipe = _recipe_in(Path(ours["recipe"]))
        rest = [recipe.slug, *_overriding(recipe, rest)]
    if not rest or rest[0].startswith("-"):
        raise BadInput("Name a method to run.", "See `python -m engine list`.")
    entry = discover().find(rest[0])
    flags = _typed(entry, rest[1:])
    if flags is None:
        return 0
    given = Recipe.from_arguments(["run", entry.name, *_with_model(entry, flags)])
    target, recipe = entry.target(given.action), entry.without_model(given).here()
    if given.model and not recipe.model:
        print(f"{entry.name} {given.action} computes without a model; the one named is left out.")
    result = _finish(recipe.job(target), ours.get("runner"))
    if isinstance(result, Failed):
        return _report(result)
    _save(result.result, recipe, Path(ours["out"]) if "out" in ours else None)
    _keep(result.result, recipe)
    return 0


def bench(arguments: Sequence[str]) -> int:
    """Measure the claim of a method and write the figures to assets/claims.

    With --folder, networks that are trained for it and figures of its parts are kept there, where
    the method's measurement is made of parts; called again, it goes on.
    """
    ours, rest = _split(arguments)
    options = dict(_pairs(rest[1:]))
    seed, folder = options.pop("--seed", "0"), options.pop("--folder", "")
    if not rest or options or not (seed and seed.isdecimal()) or folder is None:
        raise BadInput("Name one method to measure.", "Write: bench nfe-lab --seed 0")
    entry = discover().find(rest[0])
    if importlib.util.find_spec(f"{entry.module}.bench") is None:
        raise AssetMissing(f"{entry.card.title} has no bench.py yet.", "Measure another one.")
    measurement = importlib.import_module(f"{entry.module}.bench").run
    if folder and "folder" not in settings_of(measurement):
        raise BadInput(f"{entry.card.title} is measured in one go.", "Leave --folder out.")
    kept = {"folder": folder} if folder else {}
    result = _finish(Job(f"{entry.module}.bench:run", kept, int(seed)), ours.get("runner"))
    if isinstance(result, Failed):
        return _report(result)
    measured: Measured = result.result
    if folder:  # in parts, at several times: how long it takes as a whole is not known
        measured = replace(measured, seconds=None)
    path = measured.save(entry.slug)
    claim = entry.card.claim
    holds = claim.holds(measured.measured, measured.versus)
    low, high = measured.interval
    print(f"{claim.sentence}\n  {claim.measure}: {measured.measured:.4g} ({low:.4g} to {high:.4g})")
    print(f"  {claim.versus}: {measured.versus:.4g}\n  {'holds' if holds else 'DOES NOT HOLD'}")
    print(f"  written to {path}")
    return 0 if holds else FAULT


def verify(arguments: Sequence[str]) -> int:
    """Check shipped files, that methods import, their golden cases and their measured claims.

    With names of methods, golden cases and claims of these alone. Each line begins with ok or
    FAULT, and the exit code is 1 when there is a fault.
    """
    catalog = discover()
    wanted = [catalog.find(name) for name in arguments] or list(announced(catalog).values())
    faults = 0 if arguments else _verify_files(catalog)
    compared = [entry.name for entry in wanted if faithfulness.has_golden_cases(entry)]
    if compared:
        result = _finish(Job("engine.faithfulness:golden_cases", {"methods": compared}), None)
        if isinstance(result, Failed):
            return _report(result)
        for case in result.result:
            error = f"error {case.error:.2g} of {case.tolerance:.2g} allowed, {case.seconds:.2f} s"
            faults += _line(case.holds, f"golden {case.method}: {case.case}: {error}")
    for claim in faithfulness.claims(Catalog({entry.slug: entry for entry in wanted})):
        figures = "not measured yet"
        if claim.measured is not None:
            figures = f"{claim.measure} {claim.measured:.4g}, {claim.versus} {claim.against:.4g}"
        faults += _line(claim.holds is True, f"claim {claim.method}: {figures}")
    return FAULT if faults else 0


def new(arguments: Sequence[str]) -> int:
    """Write the skeleton of a method and say what to do next."""
    if len(arguments) != 2:
        raise BadInput("Name a family and a slug.", "Write: new sampling my_method")
    family, slug = arguments
    for path in skeleton.write(family, slug):
        print(f"  {path.relative_to(skeleton.ROOT)}")
    print(f"Write what is marked {skeleton.MARK}; `make check` says what is left.")
    return 0


def _verify_files(catalog: Catalog) -> int:
    """Check every shipped file against its checksum, and that every method imports."""
    faults = 0
    for card in library.MODELS.values():
        try:
            library.verify(card, library.ASSETS / card.key)
            _line(True, f"model {card.key}: {len(card.sha256)} files")
        except EngineError as error:
            faults += _line(False, f"model {card.key}: {error}")
    for entry in catalog.values():
        _line(True, f"method {entry.name}")
    for broken in catalog.broken.values():
        faults += _line(False, f"method {broken.slug}:\n{broken.traceback}")
    return faults


def _line(holds: bool, text: str) -> int:
    """Print a verdict; 1 for a fault."""
    print(f"{'ok   ' if holds else 'FAULT'} {text}")
    return int(not holds)


COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {
    "list": list_all,
    "run": run,
    "bench": bench,
    "verify": verify,
    "new": new,
}


# ---------------------------------------------------------------------- arguments


def _no_more(arguments: Sequence[str]) -> None:
    if arguments:
        raise BadInput(f'"{arguments[0][:40]}" is one word too many.', "Leave it out.")


def _pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Name and value of each `--name value` or `--name=value`; other words have no value."""
    rest = iter(arguments)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("--") or word == "--help":
            yield word, None
        elif equals:
            yield name, value
        else:
            yield name, next(rest, None)


def _split(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Our own options, and what is left for the method."""
    ours: dict[str, str] = {}
    rest: list[str] = []
    for name, value in _pairs(arguments):
        if name.removeprefix("--") in OURS and name.startswith("--"):
            if value is None:
                raise BadInput(f"{name} has no value.", f"Write {name} VALUE.")
            ours[name.removeprefix("--")] = value
        else:
            rest += [name] if value is None else [name, value]
    return ours, rest


def _typed(entry: Entry, arguments: Sequence[str]) -> list[str] | None:
    """The arguments as a recipe reads them.

    Texts for text settings are quoted ("7" is a text there), lists may be written with commas, a
    picture or a recording is read from its file into the recipe, and so is a zip or a table for a
    setting that says so (`FromFile`). None when only help was wanted,
    which is printed.
    """
    pairs = list(_pairs(arguments))
    action = dict(pairs).get("--action") or "run"
    function = _function(entry, action.replace("-", "_"))
    if any(name in ("--help", "-h") for name, _ in pairs):
        _print_settings(entry, action, function)
        return None
    kinds = _kinds(function)
    flags: list[str] = []
    for name, value in pairs:
        setting = name.removeprefix("--").replace("-", "_")
        kind = kinds.get(setting)
        if value is None or setting in RESERVED or kind is None:
            flags += [name] if value is None else [name, value]
        elif Path(value).suffix.lower() in PICTURES and "picture" in setting:
            flags += [name, json.dumps(as_text(at_most(opened(value))))]
        elif Path(value).suffix.lower() in SUFFIXES and "recording" in setting:
            flags += [name, json.dumps(_recording(Path(value)))]
        elif reader := _reader(function, setting, Path(value)):
            flags += [name, json.dumps(reader.read(Path(value)))]
        else:
            flags += [name, _as_json(value, kind)]
    return flags


def _function(entry: Entry, action: str) -> Callable[..., object]:
    module, _, name = entry.target(action).partition(":")
    return getattr(importlib.import_module(module), name)


def _reader(function: Callable[..., object], setting: str, path: Path) -> FromFile | None:
    """What reads this file for the setting; None where the value is no such file."""
    declared = typing.get_args(settings_of(function)[setting].kind)[1:]
    found = (one for one in declared if isinstance(one, FromFile))
    return next((one for one in found if path.suffix.lower() in one.endings), None)


def _kinds(function: Callable[..., object]) -> dict[str, object]:
    """The type of each setting, as far as it is known outside type checking."""
    names = inspect.signature(function).parameters
    try:
        hints = typing.get_type_hints(function)
    except NameError:
        hints = {}
    return {name: hints.get(name, object) for name in names}


def _as_json(value: str, kind: object) -> str:
    if type(None) in (choices := typing.get_args(kind)):  # a setting that may be left unset
        if value == "null":
            return value
        kind = next(choice for choice in choices if choice is not type(None))
    if kind is str and not (value.startswith('"') and value.endswith('"')):
        return json.dumps(value)
    if kind is float and value.lstrip("+-").isdecimal():
        return f"{int(value)}.0"
    is_list = typing.get_origin(kind) in (tuple, list, Sequence)
    if is_list and not value.startswith("["):
        inner = typing.get_args(kind)[0] if typing.get_args(kind) else str
        words = [word.strip() for word in value.split(",")]
        return f"[{', '.join(json.dumps(w) if inner is str else w for w in words)}]"
    return value


def _print_settings(entry: Entry, action: str, function: Callable[..., object]) -> None:
    print(f"{entry.card.title}: {entry.card.undoes}\n\nsettings of {entry.name} --action {action}")
    print(f"  --{'seed':20} whole number; default 0")
    for name, setting in settings_of(function).items():
        known = "needed" if setting.is_needed else f"default {setting.default!r}"
        kind = _file_kind(name) or in_words(setting.kind)
        print(f"  --{name.replace('_', '-'):20} {kind}; {known}")
    print(f"actions: {', '.join(known.name for known in entry.card.actions)}")
    if entry.card.models:
        others = "or a Hub id (owner/name@revision), or the folder of a checkpoint"
        print(f"models: {', '.join(entry.card.models)}; {others}")


def _file_kind(setting: str) -> str:
    """What is read from a file into a setting of this name, if anything is."""
    return {"picture": "PNG, JPEG, WebP file", "recording": "WAV, FLAC, Ogg, MP3 file"}.get(
        setting, ""
    )


def _with_model(entry: Entry, flags: Sequence[str]) -> list[str]:
    """The flags with the card's first model where the action wants one and none is named.

    Edits and a revision that are named without a model lie on that one.
    """
    given = dict(_pairs(flags))
    models = entry.models((given.get("--action") or "run").replace("-", "_"))
    return [*flags, *(["--model", models[0]] if models and "--model" not in given else [])]


def _recipe_in(path: Path) -> Recipe:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise AssetMissing(
            f"{path} cannot be read ({error.strerror}).", "Check the path."
        ) from None
    if content.startswith(b"\x89PNG"):
        return Recipe.from_png(content)
    recipe = Recipe.from_json(content.decode("utf-8", errors="replace"))
    if difference := recipe.mismatch():
        print(difference, file=sys.stderr)
    return recipe


def _overriding(recipe: Recipe, arguments: Sequence[str]) -> list[str]:
    """The recipe's own arguments, with those given on the command line in their place."""
    given = dict(_pairs(arguments))
    own = dict(_pairs(replace(recipe, versions={}).arguments()[2:]))
    merged = {**own, **given}
    return [part for pair in merged.items() for part in pair if part is not None]


def _recording(path: Path) -> str:
    try:
        return from_file(path).text()
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read ({error.strerror}).", "Use a WAV.") from None


# ---------------------------------------------------------------------- running


def _finish(job: Job, name: str | None) -> Done | Failed:
    """Run a job to its end, with one line of progress where a person is watching."""
    steps = runner(name)(job)
    try:
        for event in steps:
            if isinstance(event, Done | Failed):
                _show(None)
                return event
            _show(event)
    finally:
        steps.close()
    raise RuntimeError("a runner ended without Done or Failed")


def _show(progress: Progress | None) -> None:
    if not sys.stderr.isatty():
        return
    line = ""
    if progress is not None:
        filled = 24 * progress.done // max(progress.total, 1)
        bar = f"{'=' * filled:24}"
        line = f"[{bar}] {progress.done}/{progress.total} {progress.note}"[:79]
    sys.stderr.write(f"\r{line}\x1b[K")
    sys.stderr.flush()


def _report(failed: Failed) -> int:
    print(f"{failed.message} {failed.advice}".strip(), file=sys.stderr)
    return FAULT if failed.error_id else TO_MEND


def _save(result: object, recipe: Recipe, folder: Path | None) -> None:
    """Write what a method gave into a folder; without one, print its plain part."""
    files = files_of(result, recipe)
    if folder is None:
        print(files["result.json"].decode())
        if len(files) > 2:
            print(f"{len(files) - 2} pictures and tables were not saved: add --out FOLDER.")
        return
    for name, content in files.items():
        disk.write(folder / name, [content])
    print(f"{folder}: {', '.join(sorted(files))}")


def _keep(result: object, recipe: Recipe) -> None:
    """Put an edit where other runs find it, and say how they name it."""
    if (model := keep_edit(result, recipe.model)) is not None:
        revision = ["--revision", model.revision] if model.revision else []
        flags = ["--model", model.source, *revision, "--edits", ",".join(model.edits)]
        print(f"The edit is in the store; go on with {shlex.join(flags)}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())

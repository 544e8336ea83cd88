"""Make the folder of a Space from spaces.yaml, check it, and push it.

    python scripts/push_space.py --all --dry-run         check and list every Space, no network
    python scripts/push_space.py rewind --owner NAME     push one; the token comes from HF_TOKEN

A Space gets the tracked files that its patterns name, a README whose front matter is generated, and
requirements taken from our own pins. Nothing is pushed while a check fails, the work tree is dirty,
or the staged app does not serve a page.
"""

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from huggingface_hub import HfApi, SpaceCard, SpaceHardware

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # as a script, Python looks into scripts/ only

COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
ZERO_GPU = "zero-a10g"
ZERO_GPU_TORCH = ">=2.8,<2.12"
ZERO_GPU_SECONDS = 60
FILE_MEGABYTES, ALL_MEGABYTES = 20, 120
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SECRETS = re.compile(
    rb"hf_[A-Za-z0-9]{30,}|AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
CARD_KEYS = (
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version"),
    *("app_file", "license", "header", "short_description", "startup_duration_timeout"),
    *("tags", "models", "preload_from_hub"),
)


class SpaceError(Exception):
    """The manifest or the staged folder cannot be pushed; the text lists what is wrong."""


@dataclass(frozen=True)
class Space:
    """One Space of the manifest, with the defaults filled in."""

    name: str
    title: str
    emoji: str
    colorFrom: str
    colorTo: str
    sdk: str
    sdk_version: str
    python_version: str
    app_file: str
    license: str
    hardware: str
    requirements: tuple[str, ...]
    panels: tuple[str, ...]
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    header: str = "default"
    short_description: str = ""
    startup_duration_timeout: str = "30m"
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    preload_from_hub: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """Environment of the Space: what the manifest says, and the panels it shows."""
        return {**self.env, "SUITE_PANELS": ",".join(self.panels)}


# ---------------------------------------------------------------------- reading the manifest


def read_manifest(path: Path = ROOT / "spaces.yaml") -> dict[str, Space]:
    """The Spaces of the manifest by name. Raises SpaceError for unknown or mistyped keys."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    pins = read_pins()
    sets, constraints = document["requirements"], document.get("constraints", {})
    spaces = {}
    for name, own in document["spaces"].items():
        merged = {**document["defaults"], **own}
        merged["env"] = {**document["defaults"].get("env", {}), **own.get("env", {})}
        chosen = merged["requirements"]
        merged["requirements"] = requirement_lines(chosen, sets, constraints, pins)
        spaces[name] = _space(name, merged)
    return spaces


def _space(name: str, merged: dict[str, object]) -> Space:
    known = {f.name: f.type for f in fields(Space)}
    wrong = [f"{name}: unknown key {key}" for key in merged if key not in known]
    if isinstance(merged["panels"], str):
        merged["panels"] = [merged["panels"]]
    values: dict[str, object] = {"name": name}
    for key, value in merged.items():
        if isinstance(value, list):
            value = tuple(value)
        kind = str if known.get(key) is str else dict if key == "env" else tuple
        if key in known and not isinstance(value, kind):
            wrong.append(f"{name}: {key} must be a {kind.__name__}, got {value!r}")
        values[key] = value
    if wrong:
        raise SpaceError("\n".join(wrong))
    return Space(**values)  # type: ignore[arg-type]  # each value's type was checked above


def read_pins(path: Path = ROOT / "requirements.txt") -> dict[str, str]:
    """Package name to pin, such as "==6.31.0"."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {name: "==" + version for name, _, version in (x.partition("==") for x in lines if x)}


def requirement_lines(
    chosen: str,
    sets: Mapping[str, Sequence[str]],
    constraints: Mapping[str, Mapping[str, str]],
    pins: Mapping[str, str],
) -> tuple[str, ...]:
    """Lines of requirements.txt of a named set; a set may name another set."""

    def names(of: str) -> Iterator[str]:
        for entry in sets[of]:
            yield from names(entry) if entry in sets else [entry]

    limits = {**pins, **constraints.get(chosen, {})}
    return tuple(name + limits.get(name, "") for name in dict.fromkeys(names(chosen)))


# ---------------------------------------------------------------------- what a Space receives


def tracked_files(root: Path = ROOT) -> list[str]:
    """Paths that git tracks: what lies around untracked never reaches a Space."""
    command = ["git", "-C", str(root), "ls-files", "-z"]
    listing = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    return sorted(path for path in listing.split("\0") if path)


def chosen_files(space: Space, tracked: Sequence[str]) -> list[str]:
    """Tracked files that an include pattern names and no exclude pattern does."""

    def named(path: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns)

    return [p for p in tracked if named(p, space.include) and not named(p, space.exclude)]


def front_matter(space: Space) -> str:
    """The YAML block that the Space's builder reads, keys in a fixed order."""
    values = {key: getattr(space, key) for key in CARD_KEYS}
    shown = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in values.items()
        if value
    }
    shown["suggested_hardware"] = space.hardware
    dumped = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{dumped}---\n"


def stage(space: Space, folder: Path, tracked: Sequence[str]) -> list[str]:
    """Fill `folder` with everything the Space receives; gives the relative paths."""
    paths = chosen_files(space, tracked)
    for path in paths:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    readme = front_matter(space) + "\n" + (ROOT / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(readme, encoding="utf-8")
    (folder / "requirements.txt").write_text("\n".join(space.requirements) + "\n")
    return sorted({*paths, "README.md", "requirements.txt"})


# ---------------------------------------------------------------------- checks, all offline


def manifest_problems(space: Space) -> list[str]:
    """What is wrong with the entry itself, one sentence each."""
    pins = read_pins()
    zero = space.hardware == ZERO_GPU
    torch = next((line for line in space.requirements if line.startswith("torch")), "")
    checks = {
        "sdk must be gradio": space.sdk == "gradio",
        f"sdk_version {space.sdk_version} is not the pinned Gradio {pins['gradio']}": (
            pins["gradio"] == "==" + space.sdk_version
        ),
        "python_version must be 3.11 or 3.12": space.python_version in ("3.11", "3.12"),
        "title must have 1 to 60 characters": 0 < len(space.title) <= 60,
        "short_description must have at most 60 characters": len(space.short_description) <= 60,
        "emoji must be one emoji": 0 < len(space.emoji) <= 2 and ord(space.emoji[0]) > 0x2000,
        f"colours must be among {COLOURS}": {space.colorFrom, space.colorTo} <= set(COLOURS),
        f"hardware {space.hardware} is unknown": (
            space.hardware in [hardware.value for hardware in SpaceHardware]
        ),
        f"ZeroGPU needs Python 3.12 and torch{ZERO_GPU_TORCH}": (
            not zero or (space.python_version == "3.12" and torch == "torch" + ZERO_GPU_TORCH)
        ),
        "ZeroGPU and the zerogpu runner go together": zero == (space.env["RUNNER"] == "zerogpu"),
        "ZeroGPU needs the package spaces": not zero or "spaces" in space.requirements,
        "a preloaded file needs a model listed and a full commit": all(
            len(entry.split()) == 3
            and entry.split()[0] in space.models
            and re.fullmatch(r"[0-9a-f]{40}", entry.split()[2])
            for entry in space.preload_from_hub
        ),
    }
    return [f"{space.name}: {problem}" for problem, fine in checks.items() if not fine]


def panel_problems(space: Space) -> list[str]:
    """Panels that the catalogue lacks, models they use that are not listed, too long GPU runs."""
    from engine.core.catalog import announced
    from engine.models.library import MODELS

    catalog = announced()
    if space.panels != ("all",):
        unknown = [panel for panel in space.panels if panel not in catalog]
        if unknown:
            return [f"{space.name}: no such panel: {panel}" for panel in unknown]
        cards = [catalog[panel].card for panel in space.panels]
    else:
        cards = [entry.card for entry in catalog.values()]
    problems = []
    for card in cards:
        if space.hardware == ZERO_GPU and card.budget.gpu_seconds > ZERO_GPU_SECONDS:
            problems.append(f"{card.title} asks for {card.budget.gpu_seconds:g} s of GPU")
        problems += [
            f"{card.title} names the model {key}, which is not in MODELS"
            for key in card.models
            if key not in MODELS
        ]
        problems += [
            f"{card.title} uses {MODELS[key].hub}, which models does not list"
            for key in card.models
            if key in MODELS and MODELS[key].hub and MODELS[key].hub not in space.models
        ]
    return [f"{space.name}: {problem}" for problem in problems]


def file_problems(space: Space, folder: Path) -> list[str]:
    """What must not be uploaded: pickles, huge files, secrets; and patterns that name nothing."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    relative = [path.relative_to(folder).as_posix() for path in paths]
    sizes = [path.stat().st_size / 2**20 for path in paths]
    problems = [
        f"the pattern {pattern} names no file"
        for pattern in space.include
        if not any(fnmatch.fnmatchcase(path, pattern) for path in relative)
    ]
    if space.app_file not in relative:
        problems.append(f"{space.app_file} is not among the files")
    if sum(sizes) > ALL_MEGABYTES:
        problems.append(f"{sum(sizes):.0f} MB in all, more than {ALL_MEGABYTES}")
    for path, name, size in zip(paths, relative, sizes, strict=True):
        if size > FILE_MEGABYTES:
            problems.append(f"{name} has {size:.0f} MB, more than {FILE_MEGABYTES}")
        if path.suffix in PICKLES:
            problems.append(f"{name} is a pickle")
        if SECRETS.search(path.read_bytes()):
            problems.append(f"{name} holds something that looks like a secret")
    return [f"{space.name}: {problem}" for problem in problems]


def card_problems(space: Space, folder: Path) -> list[str]:
    """Whether the hub's own reader gets back what was written."""
    read = SpaceCard.load(folder / "README.md").data.to_dict()
    wanted = yaml.safe_load(front_matter(space).strip("-\n"))
    wrong = [key for key, value in wanted.items() if read.get(key) != value]
    return [f"{space.name}: {key} does not read back from the README" for key in wrong]


def problems_of(space: Space, folder: Path) -> list[str]:
    """All problems of a staged Space; an empty list means it may go out."""
    return [
        *manifest_problems(space),
        *panel_problems(space),
        *file_problems(space, folder),
        *card_problems(space, folder),
    ]


# ---------------------------------------------------------------------- push


def push(
    space: Space, folder: Path, hub: HfApi, *, owner: str, commit: str, create_pr: bool = False
) -> str:
    """Upload the staged folder as one commit, in which removed files vanish; gives the repo id.

    Variables come before the files, so that the first build already knows its panels.
    """
    repo = f"{owner}/{space.name}"
    hub.create_repo(
        repo,
        repo_type="space",
        space_sdk=space.sdk,
        space_hardware=SpaceHardware(space.hardware),
        exist_ok=True,
    )
    for key, value in sorted(space.variables.items()):
        hub.add_space_variable(repo, key, value)
    hub.upload_folder(
        repo_id=repo,
        repo_type="space",
        folder_path=str(folder),
        commit_message=commit,
        delete_patterns=["*"],
        create_pr=create_pr,
    )
    runtime = hub.get_space_runtime(repo)
    if getattr(runtime, "requested_hardware", None) != space.hardware:
        hub.request_space_hardware(repo, hardware=SpaceHardware(space.hardware))
    return repo


def wait_until_running(hub: HfApi, repo: str, *, seconds: float = 1800, pause: float = 10) -> None:
    """Poll the Space until it runs. Raises SpaceError when its build or start fails."""
    end = time.monotonic() + seconds
    while True:
        stage_name = str(getattr(hub.get_space_runtime(repo), "stage", "unknown"))
        if stage_name == "RUNNING":
            return
        if "ERROR" in stage_name or time.monotonic() > end:
            raise SpaceError(f"{repo} is {stage_name} after the push; see its build log.")
        time.sleep(pause)


def smoke(folder: Path, space: Space) -> None:
    """Start the staged app as the Space would and fetch its pages. Raises on any failure."""
    from benchmarks.harness import serve

    with serve(root=folder, environment={**space.variables, "RUNNER": "local"}) as server:
        for route in server.routes():
            server.get(route)


def describe(space: Space, folder: Path, paths: Sequence[str]) -> str:
    """What would be pushed: files with sizes, the README's front matter, and the calls."""
    sizes = {path: (folder / path).stat().st_size for path in paths}
    listing = "\n".join(f"  {size / 1024:10.1f} KB  {path}" for path, size in sizes.items())
    return (
        f"== {space.name}: {len(paths)} files, {sum(sizes.values()) / 2**20:.1f} MB, "
        f"{space.hardware}\n{listing}\n{front_matter(space)}"
        f"requirements: {', '.join(space.requirements)}\n"
        f"variables: {space.variables}\n"
        "calls: create_repo, add_space_variable, upload_folder, get_space_runtime\n"
    )


def is_dirty() -> bool:
    """Whether the work tree differs from its last commit."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain"]
    return bool(subprocess.run(command, check=True, capture_output=True).stdout.strip())


def head() -> str:
    """The commit that is pushed."""
    command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True).stdout.decode().strip()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check and push our Spaces.")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--all", action="store_true", help="every Space of the manifest")
    parser.add_argument("--dry-run", action="store_true", help="check and list, push nothing")
    parser.add_argument("--owner", help="account or organisation that owns the Space")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    options = parser.parse_args(arguments)
    spaces = read_manifest()
    names = list(spaces) if options.all else options.names
    if not names or set(names) - set(spaces):
        parser.error(f"name one of: {', '.join(spaces)}")
    if not options.dry_run and not options.owner:
        parser.error("a push needs --owner")
    if not options.dry_run and is_dirty():
        parser.error("the work tree is dirty: commit first, so that the Space matches a commit")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            handle(spaces[name], Path(folder), options)
    return 0


def handle(space: Space, folder: Path, options: argparse.Namespace) -> None:
    """Stage, check, and list or push one Space. Raises SpaceError when it must not go out."""
    paths = stage(space, folder, tracked_files())
    print(describe(space, folder, paths))
    problems = problems_of(space, folder)
    if problems:
        raise SpaceError("\n".join(problems))
    smoke(folder, space)
    if options.dry_run:
        return
    hub = HfApi(token=os.environ["HF_TOKEN"])
    repo = push(space, folder, hub, owner=options.owner, commit=head(), create_pr=options.create_pr)
    wait_until_running(hub, repo)
    print(f"https://huggingface.co/spaces/{repo}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SpaceError as error:
        sys.exit(f"Not pushed:\n{error}")

"""The manifest of our Spaces and the script that pushes them, without a network.

`HfApi` is replaced by a recorder; nothing here looks up a name outside.
"""

import dataclasses
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import SpaceCard

from scripts import push_space
from scripts.push_space import (
    Space,
    SpaceError,
    chosen_files,
    file_problems,
    front_matter,
    manifest_problems,
    panel_problems,
    problems_of,
    push,
    read_manifest,
    read_pins,
    requirement_lines,
    stage,
    tracked_files,
    wait_until_running,
)

MANIFEST = read_manifest()


@pytest.fixture(params=MANIFEST, ids=str)
def space(request) -> Space:
    return MANIFEST[request.param]


@pytest.fixture
def cpu_space() -> Space:
    return MANIFEST["rewind"]


@pytest.fixture
def gpu_space() -> Space:
    return MANIFEST["rewind-samplers"]


class Recorder:
    """Stands for HfApi: keeps the calls; the Space goes through the given stages."""

    def __init__(self, stages: tuple[str, ...] = ("BUILDING", "RUNNING"), hardware: str = ""):
        self.calls: list[tuple[str, tuple, dict]] = []
        self.stages = list(stages)
        self.hardware = hardware

    def __getattr__(self, name: str):
        def record(*arguments: object, **options: object) -> None:
            self.calls.append((name, arguments, options))

        return record

    def get_space_runtime(self, repo_id: str) -> SimpleNamespace:
        stage_name = self.stages.pop(0) if len(self.stages) > 1 else self.stages[0]
        return SimpleNamespace(stage=stage_name, requested_hardware=self.hardware)

    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]


# ---------------------------------------------------------------------- our manifest


@pytest.mark.slow
def test_every_space_passes_all_checks(space: Space, tmp_path: Path):
    stage(space, tmp_path, tracked_files())
    assert problems_of(space, tmp_path) == []


@pytest.mark.slow
def test_generation_twice_gives_the_same_bytes(space: Space, tmp_path: Path):
    tracked = tracked_files()
    first, second = tmp_path / "first", tmp_path / "second"
    assert stage(space, first, tracked) == stage(space, second, tracked)
    for path in (p for p in first.rglob("*") if p.is_file()):
        assert path.read_bytes() == (second / path.relative_to(first)).read_bytes()


@pytest.mark.slow
def test_card_reads_back_through_the_hubs_own_reader(space: Space, tmp_path: Path):
    stage(space, tmp_path, tracked_files())
    data = SpaceCard.load(tmp_path / "README.md").data
    assert (data.title, data.sdk, data.sdk_version) == (space.title, "gradio", space.sdk_version)
    assert data.python_version == "3.12"  # a text: unquoted, 3.10 would be the number 3.1


def test_tests_and_the_zoo_stay_at_home(space: Space):
    paths = chosen_files(space, tracked_files())
    assert "app.py" in paths
    assert not [p for p in paths if p.startswith(("engine/zoo/", "scripts/", "benchmarks/"))]
    assert not [p for p in paths if p.startswith("tests/") and not p.startswith("tests/golden/")]


def test_every_panel_is_in_some_space():
    from engine.core.catalog import announced

    shown = {panel for space in MANIFEST.values() for panel in space.panels}
    missing = {entry.name for entry in announced().values()} - shown
    assert "all" in shown or missing == set()


# ---------------------------------------------------------------------- requirements


def test_a_set_includes_the_set_it_names_and_constraints_replace_pins():
    sets = {"base": ["numpy", "torch"], "zerogpu": ["base", "spaces"]}
    limits = {"zerogpu": {"torch": ">=2.8,<2.12"}}
    pins = {"numpy": "==2.4.6", "torch": "==2.13.0"}
    assert requirement_lines("base", sets, limits, pins) == ("numpy==2.4.6", "torch==2.13.0")
    assert requirement_lines("zerogpu", sets, limits, pins) == (
        "numpy==2.4.6",
        "torch>=2.8,<2.12",
        "spaces",
    )


def test_the_base_set_is_what_we_pin():
    document = yaml.safe_load((push_space.ROOT / "spaces.yaml").read_text())
    assert sorted(document["requirements"]["base"]) == sorted(read_pins())


# ---------------------------------------------------------------------- each check refuses


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sdk": "docker"}, "sdk must be gradio"),
        ({"sdk_version": "6.30.0"}, "is not the pinned Gradio"),
        ({"python_version": "3.10"}, "python_version"),
        ({"title": ""}, "title"),
        ({"short_description": "x" * 61}, "short_description"),
        ({"emoji": "rewind"}, "emoji"),
        ({"colorTo": "teal"}, "colours"),
        ({"hardware": "h9000"}, "hardware h9000 is unknown"),
        ({"env": {"RUNNER": "zerogpu"}}, "go together"),
        ({"preload_from_hub": ("owner/model a.json main",)}, "full commit"),
    ],
)
def test_a_wrong_entry_is_refused(cpu_space: Space, changes: dict, complaint: str):
    problems = manifest_problems(dataclasses.replace(cpu_space, **changes))
    assert [problem for problem in problems if complaint in problem]


@pytest.mark.parametrize(
    "changes", [{"python_version": "3.11"}, {"requirements": ("spaces", "torch==2.13.0")}]
)
def test_zero_gpu_is_refused_with_a_python_or_torch_it_lacks(gpu_space: Space, changes: dict):
    problems = manifest_problems(dataclasses.replace(gpu_space, **changes))
    assert any("ZeroGPU needs Python" in problem for problem in problems)


def test_an_unknown_panel_is_named(cpu_space: Space):
    problems = panel_problems(dataclasses.replace(cpu_space, panels=("time-machine",)))
    assert problems == ["rewind: no such panel: time-machine"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("engine/model.pt", b"weights", "is a pickle"),
        ("engine/notes.md", b"token hf_" + b"a" * 34, "looks like a secret"),
        ("assets/big.png", b"0" * (21 * 2**20), "21 MB, more than 20"),
    ],
)
def test_a_file_that_must_not_go_out_is_named(cpu_space, tmp_path, name, content, complaint):
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    problems = file_problems(cpu_space, tmp_path)
    assert [problem for problem in problems if name in problem and complaint in problem]


def test_a_pattern_that_names_nothing_is_a_problem(cpu_space: Space, tmp_path: Path):
    (tmp_path / "app.py").touch()
    problems = file_problems(cpu_space, tmp_path)
    assert "rewind: the pattern engine/** names no file" in problems
    assert "rewind: the pattern app.py names no file" not in problems


@pytest.mark.parametrize(
    ("extra", "complaint"),
    [("    colour: red\n", "unknown key colour"), ("    python_version: 3.12\n", "must be a str")],
)
def test_an_unknown_or_mistyped_key_is_refused(tmp_path: Path, extra: str, complaint: str):
    manifest = tmp_path / "spaces.yaml"
    manifest.write_text((push_space.ROOT / "spaces.yaml").read_text() + extra)
    with pytest.raises(SpaceError, match=complaint):
        read_manifest(manifest)


def test_untracked_files_never_reach_a_space(tmp_path: Path):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "kept.py").touch()
    (tmp_path / "private notes.py").touch()
    subprocess.run(["git", "-C", str(tmp_path), "add", "kept.py"], check=True)
    assert tracked_files(tmp_path) == ["kept.py"]


# ---------------------------------------------------------------------- push


def test_push_makes_the_calls_in_order(cpu_space: Space, tmp_path: Path):
    hub = Recorder(hardware=cpu_space.hardware)
    repo = push(cpu_space, tmp_path, hub, owner="someone", commit="abc123")
    assert repo == "someone/rewind"
    variables = ["add_space_variable"] * len(cpu_space.variables)
    assert hub.names() == ["create_repo", *variables, "upload_folder"]
    _, _, upload = hub.calls[-1]
    assert upload["delete_patterns"] == ["*"]  # a file removed here vanishes there
    assert upload["commit_message"] == "abc123"
    set_there = {arguments[1]: arguments[2] for _, arguments, _ in hub.calls[1:-1]}
    assert set_there["SUITE_PANELS"] == "all"


def test_push_requests_hardware_only_where_it_differs(gpu_space: Space, tmp_path: Path):
    hub = Recorder(hardware="cpu-basic")
    push(gpu_space, tmp_path, hub, owner="someone", commit="abc123")
    assert hub.calls[-1] == (
        "request_space_hardware",
        ("someone/rewind-samplers",),
        {"hardware": "zero-a10g"},
    )


def test_a_failed_build_is_reported():
    with pytest.raises(SpaceError, match="BUILD_ERROR"):
        wait_until_running(Recorder(("BUILDING", "BUILD_ERROR")), "someone/rewind", pause=0)


def test_waiting_ends_when_the_space_runs():
    wait_until_running(Recorder(), "someone/rewind", pause=0)


def test_a_push_from_a_dirty_tree_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(push_space, "is_dirty", lambda: True)
    with pytest.raises(SystemExit):
        push_space.main(["rewind", "--owner", "someone"])
    assert "the work tree is dirty" in capsys.readouterr().err


def test_front_matter_is_one_yaml_block(space: Space):
    text = front_matter(space)
    assert text.startswith("---\n")
    assert text.endswith("---\n")
    assert yaml.safe_load(text.strip("-\n"))["license"] == "apache-2.0"


@pytest.mark.slow
def test_the_staged_app_serves_its_pages(space: Space, tmp_path: Path):
    """Only what the manifest includes lies in the folder: a forgotten file fails here."""
    stage(space, tmp_path, tracked_files())
    push_space.smoke(tmp_path, space)

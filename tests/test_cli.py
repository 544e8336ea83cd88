"""The command line: what a panel does, without a browser."""

import csv
import json
import re
import sys
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

import engine.__main__ as cli
from engine import runners
from engine.core import catalog
from engine.core.catalog import Catalog, Entry, Measured
from engine.core.errors import AssetMissing
from engine.core.recipe import ModelRef, Recipe
from engine.core.store import default_store
from tests import toy_method


@pytest.fixture(autouse=True)
def _toy_catalog(monkeypatch):
    toy = Catalog({"toy_method": Entry(toy_method.CARD, "tests.toy_method")})
    monkeypatch.setattr(cli, "discover", lambda: toy)
    monkeypatch.setattr(cli, "announced", lambda catalog: catalog)


def test_list_names_methods_and_models(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "toy-method" in out
    assert "counting up" in out
    assert "models" in out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"], ["run", "-h"]])
def test_help_shows_the_commands(capsys, arguments):
    assert cli.main(arguments) == 0
    assert "python -m engine run" in capsys.readouterr().out


def test_the_help_of_a_method_comes_from_its_signature(capsys):
    assert cli.main(["run", "toy-method", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--steps" in out
    assert "default 3" in out
    assert "actions: run, twice" in out


def test_a_run_saves_pictures_curves_values_and_recipe(tmp_path, capsys):
    out = tmp_path / "made"
    arguments = ["run", "toy-method", "--steps", "4", "--name", "7", "--seed", "9"]
    assert cli.main([*arguments, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        "curve.csv",
        "film_00.png",
        "film_01.png",
        "numbers.csv",
        "picture.png",
        "recipe.json",
        "result.json",
    }
    result = json.loads((out / "result.json").read_text())
    assert result["name"] == "7"
    assert result["picture"] == "picture.png"
    assert result["curve"][1] == {"step": 1, "error": 0.5}
    rows = list(csv.DictReader((out / "curve.csv").read_text().splitlines()))
    assert [float(row["error"]) for row in rows] == [1, 1 / 2, 1 / 3, 1 / 4]
    assert np.loadtxt(out / "numbers.csv").tolist() == [3, 2, 1, 0]
    assert np.asarray(Image.open(out / "picture.png")).tolist() == np.full((4, 5, 3), 9).tolist()
    recipe = Recipe.from_png((out / "picture.png").read_bytes())
    assert (recipe.method, recipe.seed, recipe.params) == (
        "toy_method",
        9,
        {"steps": 4, "name": "7"},
    )
    assert recipe == Recipe.from_json((out / "recipe.json").read_text())
    assert capsys.readouterr().err == ""  # no progress line where nobody is watching


@pytest.mark.parametrize("source", ["recipe.json", "picture.png"])
def test_a_recipe_runs_again_to_the_same_files(tmp_path, source):
    first, second = tmp_path / "first", tmp_path / "second"
    cli.main(["run", "toy-method", "--steps", "2", "--seed", "5", "--out", str(first)])
    assert cli.main(["run", "--recipe", str(first / source), "--out", str(second)]) == 0
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_recipe_can_be_varied(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    cli.main(["run", "toy-method", "--steps", "2", "--seed", "5", "--out", str(first)])
    recipe = str(first / "recipe.json")
    assert cli.main(["run", "--recipe", recipe, "--seed", "6", "--out", str(second)]) == 0
    varied = Recipe.from_json((second / "recipe.json").read_text())
    assert (varied.seed, varied.params) == (6, {"steps": 2})


def test_without_a_folder_the_values_are_printed(capsys):
    assert cli.main(["run", "toy_method"]) == 0
    out = capsys.readouterr().out
    assert '"name": "toy"' in out
    assert "add --out" in out


def test_lists_may_be_written_with_commas(capsys):
    assert cli.main(["run", "toy-method", "--action", "twice", "--words", "a, b"]) == 0
    assert json.loads(capsys.readouterr().out) == ["a", "b", "a", "b"]
    assert cli.main(["run", "toy-method", "--action=twice", '--words=["a"]']) == 0
    assert json.loads(capsys.readouterr().out) == ["a", "a"]


@pytest.mark.parametrize(
    ("value", "kind", "told"),
    [
        ("0,1", tuple[int, ...] | None, "[0, 1]"),
        ("a, b", list[str] | None, '["a", "b"]'),
        ("7", str | None, '"7"'),
        ("2", float | None, "2.0"),
        ("null", str | None, "null"),
    ],
    ids=str,
)
def test_a_setting_that_may_be_left_unset_is_read_like_the_others(value, kind, told):
    assert cli._as_json(value, kind) == told


def test_a_picture_is_read_from_its_file(tmp_path):
    given = tmp_path / "given.png"
    Image.fromarray(np.full((2, 2, 3), 77, np.uint8)).save(given)
    out = tmp_path / "made"
    assert cli.main(["run", "toy-method", "--picture", str(given), "--out", str(out)]) == 0
    assert np.asarray(Image.open(out / "picture.png")).max() == 77


def test_pictures_come_as_a_zip_and_indices_as_a_table(tmp_path, monkeypatch):
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    entry = catalog.discover().find("ssd")
    picture, packed, table = (tmp_path / name for name in ("1.png", "bags.zip", "bags.csv"))
    Image.new("L", (28, 28)).save(picture)
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(picture, "bag/1.png")
    table.write_text("index\n4\n9\n")
    given = ["--pictures", str(packed), "--index-table", str(table), "--what", "bag"]
    told = cli._typed(entry, given)
    flags = dict(zip(told[::2], told[1::2], strict=True))
    assert json.loads(flags["--pictures"]).startswith("pictures:")
    assert json.loads(flags["--index-table"]) == "index\n4\n9\n"
    assert json.loads(flags["--what"]) == "bag"
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(AssetMissing, match="no table"):
        cli._typed(entry, given)
    with pytest.raises(AssetMissing, match="no zip called"):
        cli._typed(entry, ["--retain", str(tmp_path / "absent.zip")])


@pytest.mark.slow
def test_a_photograph_is_turned_and_shrunk_as_the_pages_do(tmp_path):
    given, out = tmp_path / "photo.jpg", tmp_path / "made"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (3000, 2000)).save(given, exif=exif)
    assert cli.main(["run", "toy-method", "--picture", str(given), "--out", str(out)]) == 0
    width, height = Image.open(out / "picture.png").size
    assert width < height
    assert width * height <= 4_000_000


@pytest.mark.parametrize("command", ["list", "run", "bench", "verify"])
def test_the_help_of_a_command_tells_of_it(capsys, command):
    assert cli.main([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"python -m engine {command}" in told
    assert not any(f"engine {other} " in told for other in cli.COMMANDS if other != command)
    assert "golden" in told or command != "verify"


def test_the_help_says_which_setting_is_a_file(capsys):
    assert cli.main(["run", "toy-method", "--help"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"--picture +PNG, JPEG, WebP file", told)


BAD = {
    "no such command": ["fly"],
    "no such method": ["run", "moon"],
    "no method": ["run"],
    "no such setting": ["run", "toy-method", "--colour", "red"],
    "no value": ["run", "toy-method", "--steps"],
    "twice": ["run", "toy-method", "--steps", "1", "--steps", "2"],
    "no such action": ["run", "toy-method", "--action", "fly"],
    "refused by the method": ["run", "toy-method", "--steps", "0"],
    "bad seed": ["run", "toy-method", "--seed", "-1"],
    "no flag": ["run", "toy-method", "steps"],
    "no such runner": ["run", "toy-method", "--runner", "moon"],
    "no such recipe": ["run", "--recipe", "/no/such/file.json"],
    "no picture": ["run", "toy-method", "--picture", "/no/such/file.png"],
    "one word too many": ["list", "everything"],
    "edits of no model": ["run", "toy-method", "--edits", "0a1b2c3d"],
    "revision of no model": ["run", "toy-method", "--revision", "main"],
    "no bench": ["bench", "toy-method"],
    "bench of nothing": ["bench"],
    "unwritable": ["run", "toy-method", "--out", "/proc/nothing/here"],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_with_one_sentence_and_code_2(case, capsys):
    assert cli.main(BAD[case]) == cli.TO_MEND
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_bug_ends_with_its_number_and_code_1(monkeypatch, capsys):
    from tests.toy_method import algorithm

    monkeypatch.setattr(algorithm, "run", algorithm.stumble)
    assert cli.main(["run", "toy-method"]) == cli.FAULT
    assert "number" in capsys.readouterr().err


def test_an_interrupt_ends_with_code_130(monkeypatch, capsys):
    def interrupted(job):
        raise KeyboardInterrupt
        yield

    monkeypatch.setitem(runners.RUNNERS, "local", interrupted)
    assert cli.main(["run", "toy-method"]) == cli.INTERRUPTED


def test_a_watching_person_sees_one_line_of_progress(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.main(["run", "toy-method", "--steps", "2"]) == 0
    err = capsys.readouterr().err
    assert "1/2 step 0" in err
    assert "\n" not in err
    assert err.endswith("\r\x1b[K")


def measured(value: float):
    def run(*, seed: int):
        yield cli.Progress(1, 1)
        return Measured(value, 1.0, (value, value), seed, 0.1, {}, "here")

    return run


@pytest.mark.parametrize(("value", "code", "word"), [(3.0, 0, "holds"), (1.0, 1, "NOT HOLD")])
def test_bench_writes_the_figures_and_judges_the_claim(
    tmp_path, monkeypatch, capsys, value, code, word
):
    module = types.ModuleType("tests.toy_method.bench")
    module.run = measured(value)
    monkeypatch.setitem(sys.modules, "tests.toy_method.bench", module)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: module)
    save = Measured.save
    monkeypatch.setattr(Measured, "save", lambda figures, slug: save(figures, slug, tmp_path))
    assert cli.main(["bench", "toy-method", "--seed", "4"]) == code
    assert word in capsys.readouterr().out
    assert json.loads((tmp_path / "toy_method.json").read_text())["seed"] == 4


def test_bench_keeps_its_parts_in_a_folder_where_it_has_some(tmp_path, monkeypatch, capsys):
    kept: list[str] = []

    def run(*, seed: int, folder: str = ""):
        kept.append(folder)
        return (yield from measured(0.5)(seed=seed))

    module = types.ModuleType("tests.toy_method.bench")
    module.run = run
    monkeypatch.setitem(sys.modules, "tests.toy_method.bench", module)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: module)
    monkeypatch.setattr(Measured, "save", lambda figures, slug: tmp_path)
    cli.main(["bench", "toy-method", "--folder", str(tmp_path)])
    assert kept == [str(tmp_path)]
    module.run = measured(0.5)
    assert cli.main(["bench", "toy-method", f"--folder={tmp_path}"]) == 2
    assert "in one go" in capsys.readouterr().err


def test_verify_passes_on_what_is_shipped_and_fails_on_a_broken_method(monkeypatch, capsys):
    assert cli.main(["verify"]) == cli.FAULT
    assert "FAULT claim toy-method: not measured yet" in capsys.readouterr().out
    found = Measured(3.0, 1.0, (3.0, 3.0), 0, 0.1, {}, "here")
    monkeypatch.setattr(Measured, "load", lambda slug: found)
    assert cli.main(["verify"]) == 0
    assert "ok    claim toy-method: counts 3" in capsys.readouterr().out
    family = toy_method.CARD.family
    broken = Catalog({}, {"bad": catalog.Broken("engine.sampling.bad", family, "Traceback: no")})
    monkeypatch.setattr(cli, "discover", lambda: broken)
    assert cli.main(["verify"]) == cli.FAULT
    assert "FAULT method bad" in capsys.readouterr().out


@pytest.mark.slow
def test_an_edit_baked_from_the_command_line_can_be_gone_on_with(
    tmp_path, monkeypatch, capsys, request
):
    """Its patch is in the store under the digest that is said, and the next run lies on it."""
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli, "discover", catalog.discover)
    default_store.cache_clear()
    request.addfinalizer(default_store.cache_clear)
    bake = ["run", "rece", "--action", "bake", "--concepts", "cat", "--guides", "animal"]
    assert cli.main([*bake, "--out", str(tmp_path / "baked")]) == 0
    said = capsys.readouterr().err
    (digest,) = re.findall(r"go on with --model world --edits ([0-9a-f]{8,128})", said)
    assert digest in default_store()
    draw = ["run", "nfe-lab", "--prompt", "a cat", "--nfe", "3", "--curve", "[]"]
    draw += ["--solvers", "ddim"]
    drawn = {}
    for name, more in {
        "plain": [],
        "edited": ["--model", "world", "--edits", digest],
        "first model": ["--edits", digest],
    }.items():
        assert cli.main([*draw, *more, "--out", str(tmp_path / name)]) == 0, capsys.readouterr().err
        drawn[name] = [
            np.asarray(Image.open(path)).tolist()
            for path in sorted((tmp_path / name).glob("*.png"))
        ]
        recipe = Recipe.from_json((tmp_path / name / "recipe.json").read_text())
        assert recipe.model == ModelRef("world", None, () if name == "plain" else (digest,))
    assert drawn["edited"] == drawn["first model"] != drawn["plain"]

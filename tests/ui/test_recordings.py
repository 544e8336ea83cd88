"""Recordings: they hold what their panels draw, and are what the default run gives today."""

import base64
import html
import io
import json
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from engine.core.catalog import Entry, announced
from engine.core.recipe import Recipe
from engine.sounds import Sound
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _recordings as recordings
from pages import home
from pages._frame import Frame
from pages._plots import Line
from pages._recordings import Number
from pages._stage import Stage
from scripts import record

LARGEST = 400_000  # bytes of one recording
ALL = 12_000_000

# Figures that tell how a run went and not what came out, and fingerprints of pictures.
PASSING = re.compile(r"\d[\d.,]* ?(ms|s|times|MB)\b|<code>[0-9a-f]{12}</code>")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
POWER = re.compile("(?:([0-9.]+) × )?10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
PICTURE = re.compile(r"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)")
SOUND = re.compile(r"data:audio/[a-z]+;base64,[A-Za-z0-9+/=]+")
LARGEST_DISTANCE = 2.0  # of 255 a pixel in the mean: processors differ in their round-off


def picture(*pixels: int) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), pixels, np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


# ---------------------------------------------------------------------- the file


def test_a_recording_reads_as_it_was_written(tmp_path: Path):
    recipe = Recipe("ripple", params={"word": "pond"}, seed=7)
    red, blue = picture(255, 0, 0), picture(0, 0, 255)
    drawn = [f"<img src='{red}'><a href='{red}'><img src='{blue}'>", {"type": "plotly"}, None]
    number = Number("states", "8", "1")
    made = date(2026, 12, 1)
    path = recordings.write(recipe, drawn, number, "code", made=made, folder=tmp_path)
    assert recordings.drawn_in(path) == drawn
    assert path.read_text().count("base64") == 2
    found = recordings.find("ripple", "run", tmp_path)
    assert found is not None
    assert (found.recipe, found.made, found.number) == (recipe, made, number)
    assert found.places == [0, 1]


@pytest.mark.parametrize("text", ["", "{}\n", "no json\n[]", '{"head": {"recipe": "{}"},\n'])
def test_a_file_that_is_no_recording_is_none(tmp_path: Path, text: str):
    recordings.path_of("ripple", "run", tmp_path).write_text(text)
    assert recordings.find("ripple", "run", tmp_path) is None


def test_a_number_reads_as_people_say_it():
    assert str(Number("drawn in neon", "16 %", "100 %")) == "drawn in neon: 100 % → 16 %"
    assert str(Number("states", "8")) == "states: 8"
    assert "<b>1 &lt; 2</b>" in Number("a", "1 < 2").html()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.1, "0.10"), (1.28, "1.3"), (33.4, "33"), (6.1e-5, "0.000061"), (0, "0"),
        (6.1e-17, "6.1 × 10⁻¹⁷"), (-0.5, "-0.50"), (1e-9, "10⁻⁹"),
        (1280, "1,300"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_small_figures_read_as_people_say_them(value: float, said: str):
    assert markup.figure(value, 2) == said


def test_pictures_keep_their_pixels_and_their_recipes():
    plain = picture(1, 2, 3)
    stamped = Recipe("ripple").stamp(base64.b64decode(plain.partition(",")[2]))
    carrying = f"data:image/png;base64,{base64.b64encode(stamped).decode()}"
    small = record.compressed(f"{plain} {carrying}")
    assert "image/webp" in small
    assert carrying in small
    assert pixels(small)[0].tolist() == pixels(plain)[0].tolist()


def test_sounds_are_small_and_saved_from_a_run_of_ones_own():
    wave = Sound.of(np.sin(np.arange(8000) / 4), 8000).file()
    drawn = parts.voices("Listen", [parts.Voice("noisy", wave, "noisy.wav")])
    (kept,) = record.held([drawn])
    assert isinstance(kept, str)
    assert "data:audio/mpeg" in kept
    assert len(kept) < len(drawn) / 2
    assert "download" not in kept
    assert "noisy" in kept


def test_a_figure_is_kept_whether_its_place_was_visible_before_or_not():
    figure, place = plots.curves([Line("error", [1, 2], [3, 4])], "step", "error"), gr.Plot()
    kept = {"__type__": "update", "value": figure.model_dump(), "visible": True}
    assert record.drawn_in(place, figure) == kept
    assert record.drawn_in(place, plots.shown(figure)) == kept
    assert record.drawn_in(place, gr.Plot(visible=False)) is None
    assert record.drawn_in(place, gr.skip()) is None


def test_what_a_recording_hangs_on_are_the_files_of_its_method_and_panel():
    found = {path.name for path in record.closure(["engine.erasing.rece.algorithm", "pages.rece"])}
    assert {"algorithm.py", "rece.py", "_parts.py", "solvers.py"} <= found
    assert not {"_frame.py", "nfe_lab.py"} & found


# ---------------------------------------------------------------------- those that ship


def stage_of(frames: Mapping[str, Frame], slug: str, action: str) -> Stage:
    stage = frames[slug].actions[action]
    assert isinstance(stage, Stage)
    return stage


def staged(frames: Mapping[str, Frame]) -> list[Stage]:
    shown = {slug: frames[slug] for slug in announced() if slug in frames}
    return list(record.stages(shown))


@pytest.mark.slow
def test_every_panel_opens_with_a_recording(frames: Mapping[str, Frame]):
    missing = [s for s in staged(frames) if s.recording is None]
    told = [f"python -m scripts.record {s.frame.entry.name}" for s in missing]
    assert not missing, "These open empty; run " + "; ".join(dict.fromkeys(told))


def test_every_panel_begins_with_a_stage(frames: Mapping[str, Frame]):
    first = {slug: next(iter(frame.actions.values())) for slug, frame in frames.items()}
    assert [slug for slug, action in first.items() if not isinstance(action, Stage)] == []


def test_recordings_are_small():
    sizes = {path.name: path.stat().st_size for path in recordings.FOLDER.glob("*.json")}
    assert {name: size for name, size in sizes.items() if size > LARGEST} == {}
    assert sum(sizes.values()) <= ALL


def test_no_recording_is_left_of_what_is_gone(frames: Mapping[str, Frame]):
    known = {recordings.path_of(s.frame.entry.slug, s.name).name for s in staged(frames)}
    assert {path.name for path in recordings.FOLDER.glob("*.json")} <= known


def test_recordings_are_of_the_defaults(frames: Mapping[str, Frame]):
    """A recording of other settings than those in the controls would show what is not set."""
    other = [
        f"python -m scripts.record {stage.frame.entry.name}"
        for stage in staged(frames)
        if stage.recording and told(stage.recording.recipe) != told(record.default_recipe(stage))
    ]
    assert not other, "The defaults have changed; run " + "; ".join(dict.fromkeys(other))


def told(recipe: Recipe) -> tuple[object, ...]:
    return recipe.action, recipe.params, recipe.seed, recipe.model


@pytest.mark.slow
def test_recordings_are_as_new_as_their_code(frames: Mapping[str, Frame]):
    """Says which are not; whether they show something else, the slow test finds out."""
    stale = [s.frame.entry.name for s in staged(frames) if s.recording and record.is_stale(s)]
    names = " ".join(dict.fromkeys(stale))
    assert not stale, f"made by older code or models: python -m scripts.record --stale {names}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", sorted(recordings.FOLDER.glob("*.json")), ids=lambda path: path.name
)
def test_the_default_run_gives_what_is_recorded(frames: Mapping[str, Frame], path: Path):
    slug, action, _ = path.name.split(".")
    found = recordings.find(slug, action)
    assert found is not None
    ran = record.run(stage_of(frames, slug, action), found.recipe)
    assert_alike(str(found.number), str(ran.number))
    for then, now in zip(recordings.drawn_in(path), record.held(ran.drawn), strict=True):
        assert type(then) is type(now)
        if isinstance(then, str):
            assert_alike(then, str(now))
        elif then is not None:
            assert_same_figure(then, now)


def assert_same_figure(then: object, now: object) -> None:
    """Equal traces and words; points within a hundredth of the largest of their list."""
    if isinstance(then, str) and then.startswith("{"):
        return assert_same_figure(json.loads(then), json.loads(str(now)))
    if isinstance(then, dict) and isinstance(now, dict):
        assert then.keys() == now.keys()
        for key in then:
            assert_same_figure(then[key], now[key])
    elif isinstance(then, list) and isinstance(now, list):
        assert len(then) == len(now)
        if then and all(isinstance(one, int | float) for one in [*then, *now]):
            bound = 0.01 * max(map(abs, then))
            assert np.allclose(then, now, rtol=0, atol=bound)
        else:
            for before, after in zip(then, now, strict=True):
                assert_same_figure(before, after)
    elif isinstance(then, str):
        assert_alike(then, str(now))
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=0.05, abs=1e-6)
    else:
        assert then == now


def assert_alike(then: str, now: str) -> None:
    """Equal words, figures equal in all printed digits but the last, pictures within round-off."""
    for before, after in zip(pixels(then), pixels(now), strict=True):
        distance = np.abs(before.astype(float) - after.astype(float)).mean()
        assert distance <= LARGEST_DISTANCE
    said, says = (
        PASSING.sub("", SOUND.sub("", PICTURE.sub("", in_letters(text)))) for text in (then, now)
    )
    assert NUMBER.sub("#", said) == NUMBER.sub("#", says)
    for before, after in zip(NUMBER.findall(said), NUMBER.findall(says), strict=True):
        # Equal texts need no reading: a fingerprint such as 5e319... is a figure by chance alone.
        same = before == after
        assert same or abs(float(before) - float(after)) <= last_digit(before), (before, after)


def in_letters(text: str) -> str:
    """Powers of ten as programs write them: 5 × 10⁻⁷ is 5e-7."""
    return POWER.sub(lambda found: f"{found[1] or 1}e{found[2].translate(LOWERED)}", text)


def last_digit(figure: str) -> float:
    """The size of one in the last printed digit."""
    digits, _, power = figure.partition("e")
    return 1.0001 * 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def pixels(text: str) -> list[np.ndarray]:
    found = (Image.open(io.BytesIO(base64.b64decode(one))) for one in PICTURE.findall(text))
    return [np.asarray(image.convert("RGB")) for image in found]


@pytest.mark.parametrize("entry", [pytest.param(e, id=e.slug) for e in announced().values()])
def test_home_tells_of_a_method_what_its_recording_says(entry: Entry):
    found = recordings.find(entry.slug, entry.card.actions[0].name)
    shown = home.method(entry)
    assert f"?method={entry.name}" in shown
    assert entry.card.title in html.unescape(shown)
    if found is None:
        return
    assert found.number
    assert str(found.number) in html.unescape(shown)
    if found.film:
        with Image.open(recordings.film_path(entry.slug)) as row:
            assert row.width == found.film * row.height

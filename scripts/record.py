"""Records what every panel opens with: `python -m scripts.record [SLUG[.ACTION] ...] [--stale]`.

Runs the defaults of each stage and keeps what its panel draws of the result, so that nobody sees an
empty frame. Without a name it records all panels, with `--stale` only what hangs on something that
has changed: the code of the method and of its panel, and the models.
"""

import argparse
import ast
import asyncio
import base64
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
import soundfile
from gradio.components.base import Component
from gradio.components.plot import PlotData
from PIL import Image

from engine.core.catalog import ROOT, Catalog, Family, announced
from engine.core.job import Done, finish
from engine.core.recipe import Plain, Recipe
from engine.runners import local
from engine.zoo import graph
from pages import _family
from pages import _parts as parts
from pages import _recordings as recordings
from pages._frame import Frame
from pages._recordings import Drawn, Number
from pages._serving import Suite
from pages._stage import Stage


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.record", description=__doc__)
    parser.add_argument("names", nargs="*", help="rece, or rece.comeback; all of them by default")
    parser.add_argument("--stale", action="store_true", help="only what is older than its code")
    options = parser.parse_args(arguments)
    wanted = [name.replace("-", "_").partition(".")[::2] for name in options.names]
    known, slugs = announced(), {slug for slug, _ in wanted}
    chosen = Catalog({slug: known[slug] for slug in known if not slugs or slug in slugs})
    for stage in stages(frames(chosen)):
        slug = stage.frame.entry.slug
        if wanted and not {(slug, ""), (slug, stage.name)} & set(wanted):
            continue
        if not options.stale or is_stale(stage):
            path = record(stage)
            print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB", flush=True)
            if (made := f"recordings/{slug}") in graph.products():
                graph.record(made, ROOT / "build" / "zoo")


def frames(catalog: Catalog, panels: str = "pages") -> Mapping[str, Frame]:
    """The panels of a catalogue as a server draws them, by slug.

    In a thread of its own that has a loop: Gradio makes loops that nobody closes where there is
    none, and a browser of the same process may have left one running.
    """

    async def drawn() -> list[Frame]:
        found: list[Frame] = []
        for family in Family:
            if entries := catalog.of(family):
                with Suite() as demo:
                    found += _family.build(demo, family, entries, (), local, panels)
        return found

    with ThreadPoolExecutor(1) as pool:
        return {f.entry.slug: f for f in pool.submit(lambda: asyncio.run(drawn())).result()}


def stages(panels: Mapping[str, Frame]) -> Iterator[Stage]:
    """The stages that open with a recording."""
    for frame in panels.values():
        for action in frame.actions.values():
            if isinstance(action, Stage) and action.records:
                yield action


def default_recipe(stage: Stage) -> Recipe:
    """The recipe of a click on a panel that nobody has touched."""
    return stage.recipe({name: control.value for name, control in stage.controls.items()})


def record(stage: Stage, folder: Path = recordings.FOLDER) -> Path:
    """Runs the defaults of a stage and writes its recording."""
    recipe = default_recipe(stage)
    ran = run(stage, recipe)
    states = film(stage, ran)
    frames = [one for one in states if isinstance(one, np.ndarray)]
    if frames:
        save_film(frames, recordings.film_path(recipe.method, folder))
    return recordings.write(
        recipe,
        held(ran.drawn),
        ran.number,
        hangs_on(stage),
        made=date.today(),
        film=min(len(frames), MOST_FRAMES),
        says=[one for one in states if isinstance(one, str)],
        folder=folder,
    )


class Ran(NamedTuple):
    """A run that ended: its result, what its stage draws of it, and its number."""

    result: Any
    drawn: Sequence[Drawn]
    number: Number | None


def run(stage: Stage, recipe: Recipe) -> Ran:
    """Runs a recipe to its end."""
    job = recipe.job(stage.frame.entry.target(recipe.action))
    result = finish(job.start())
    shown = stage.shows(Done(result), recipe)
    drawn = [drawn_in(place, one) for place, one in zip(stage.places, shown, strict=True)]
    return Ran(result, drawn, stage.count(result, recipe))


def drawn_in(place: Component, value: object) -> Drawn:
    """What stands in an output: markup or a figure; None for anything else, fields among it."""
    if isinstance(place, gr.HTML) and isinstance(value, str):
        return value
    if isinstance(value, gr.Plot):  # whose value is a dictionary by then
        value = PlotData(**value.value) if value.value else None
    if isinstance(place, gr.Plot) and isinstance(value, PlotData):
        figure: dict[str, Plain] = value.model_dump()
        return {"__type__": "update", "value": figure, "visible": True}
    return None


# ---------------------------------------------------------------------- what moves on Home

MOST_FRAMES, FRAME_SIDE = 12, 96
_FILM = re.compile(r"--film:url\((data:image/[a-z]+;base64,[A-Za-z0-9+/=]+)\)")
_PICTURE = re.compile(r'<img class="pixel" src="data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)"')


def film(stage: Stage, ran: Ran) -> Sequence[np.ndarray | str]:
    """The states of the first stage's result, as its page chooses them, or as they are drawn.

    Of three pictures, before, after and undone, the last two: on Home everything runs backwards.
    """
    if stage.name != stage.frame.entry.card.actions[0].name:
        return ()
    if stage.film is not None:
        return stage.film(ran.result)
    markup = "".join(one for one in ran.drawn if isinstance(one, str))
    if row := _FILM.search(markup):
        picture = _pixels(row[1].partition(",")[2])
        return list(np.split(picture, picture.shape[1] // picture.shape[0], axis=1))
    found = _PICTURE.findall(markup)[:3]
    return [_pixels(one) for one in (found[1:] if len(found) == 3 else found)]


def _pixels(coded: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(coded))).convert("RGB"))


def save_film(frames: Sequence[np.ndarray], path: Path) -> None:
    """Writes frames as squares in a row, shrunk where they are large."""
    chosen = parts.pick_frames(np.arange(len(frames)), MOST_FRAMES)
    squares = [_square(Image.fromarray(np.ascontiguousarray(frames[k]))) for k in chosen]
    row = Image.new("RGB", (sum(one.width for one in squares), squares[0].height))
    for place, one in enumerate(squares):
        row.paste(one, (place * one.width, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    row.quantize(256).save(path, "PNG", optimize=True)


def _square(image: Image.Image) -> Image.Image:
    side = min(FRAME_SIDE, max(image.size))
    return image.resize((side, side), Image.Resampling.LANCZOS if side < image.width else 0)


# ---------------------------------------------------------------------- small files

_PNG = re.compile(r"data:image/png;base64,([A-Za-z0-9+/=]+)")
_WEBP = re.compile(r"data:image/webp;base64,([A-Za-z0-9+/=]+)")
_WAV = re.compile(r"data:audio/wav;base64,([A-Za-z0-9+/=]+)")
_SAVES = re.compile(r'<a [^>]*href="data:(audio|image)/[^"]*">[^<]*</a>')
LARGEST_FILM, FILM_QUALITY = 20_000, 60  # bytes, and the quality of what is larger
LARGEST_PICTURE, PICTURE_QUALITY = 60_000, 90


def held(drawn: Sequence[Drawn]) -> list[Drawn]:
    """What a recording holds of what is drawn.

    Sounds and large pictures are saved from a run of one's own.
    """
    return [compressed(_SAVES.sub(_kept, one)) if isinstance(one, str) else one for one in drawn]


def _kept(link: re.Match[str]) -> str:
    is_large = link[1] == "audio" or len(link[0]) > 2 * LARGEST_PICTURE
    return "" if is_large else link[0]


def compressed(markup: str) -> str:
    """Markup whose PNGs are WebP without loss, but for those that carry a recipe.

    Large pictures lose something, large films, which have lost something already, more; sounds are
    MP3.
    """
    markup = _WEBP.sub(lambda found: _shorter(found[0], base64.b64decode(found[1])), markup)
    markup = _PNG.sub(lambda found: _smaller(found[0], base64.b64decode(found[1])), markup)
    return _WAV.sub(lambda found: _mp3(base64.b64decode(found[1])), markup)


def _shorter(url: str, film: bytes) -> str:
    if len(film) <= LARGEST_FILM:
        return url
    buffer = io.BytesIO()
    Image.open(io.BytesIO(film)).save(buffer, "WEBP", quality=FILM_QUALITY, method=6)
    return parts.data_url(buffer.getvalue(), "webp")


def _mp3(wav: bytes) -> str:
    samples, rate = soundfile.read(io.BytesIO(wav))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _smaller(url: str, png: bytes) -> str:
    if b"rewind" in png[:4000]:
        return url
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png))
    picture.save(buffer, "WEBP", lossless=True, quality=100, method=6)
    if buffer.tell() > LARGEST_PICTURE:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=PICTURE_QUALITY, method=6)
    return parts.data_url(buffer.getvalue(), "webp")


# ---------------------------------------------------------------------- what they hang on


def is_stale(stage: Stage) -> bool:
    """Whether a stage has no recording, or an older one than its code, models or defaults."""
    known = recordings.find(stage.frame.entry.slug, stage.name)
    return known is None or known.hangs_on != hangs_on(stage)


def hangs_on(stage: Stage) -> str:
    """Sixteen letters that change with the defaults, the code that computes and draws, the models.

    Docstrings and comments are no code.
    """
    entry, recipe = stage.frame.entry, default_recipe(stage)
    asked = {"params": recipe.params, "seed": recipe.seed}
    modules = [f"{entry.module}.algorithm", f"pages.{entry.slug}"]
    code = {str(path.relative_to(ROOT)): _tree(path) for path in sorted(closure(modules))}
    models = {key: _revision(key) for key in entry.card.models}
    told = json.dumps([asked, code, models], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@cache
def _revision(model: str) -> str:
    return graph.revision(ROOT / "assets" / "models" / model)


def closure(modules: Sequence[str]) -> set[Path]:
    """The files of our own modules that these import, directly or through others."""
    found: set[Path] = set()
    waiting = [path for name in modules if (path := _file(name))]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        waiting += _imported(path)
    return found


@cache
def _imported(path: Path) -> list[Path]:
    """The files of our own modules that a file names in its imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Import):
            names += [one.name for one in node.names]
    return [file for name in names if (file := _file(name))]


def _file(module: str) -> Path | None:
    """The file of one of our modules, but for the frame, which draws no result."""
    if not module.startswith(("engine.", "pages.")) or module in FRAME:
        return None
    path = ROOT / module.replace(".", "/")
    chosen = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return chosen if chosen.is_file() else None


FRAME = {
    f"pages.{name}"
    for name in ("_frame", "_actions", "_stage", "_restoring", "_serving", "_shelf", "_status")
} | {"engine.core.catalog"}


@cache
def _tree(path: Path) -> str:
    """The code of a file without its comments and docstrings, as a digest."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        held = getattr(node, "body", None)
        if isinstance(held, list) and held and _is_text(held[0]):
            held[0] = ast.Pass()
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


if __name__ == "__main__":
    main()

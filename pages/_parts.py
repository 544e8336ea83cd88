"""Pieces that panels share: pictures, films, comparisons, curves, and fields that check themselves.

Pictures are uint8 arrays, `h w 3`. What is drawn is HTML with the pictures inside, so that pixels
stay exact and crisp at any size; every text that came from a visitor goes through `escape`.
"""

import base64
import hashlib
import html
import io
import json
import math
from abc import ABCMeta
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.component_meta import ComponentMeta
from gradio.components.plot import PlotData
from gradio.data_classes import ImageData
from PIL import Image

from engine.core.errors import BadInput
from engine.core.job import Done, Progress
from engine.pictures import as_text, at_most, opened

ASSETS = Path(__file__).resolve().parents[1] / "assets"

# One colour for what runs forward, one for what runs backward; then three more for further lines.
# All five keep a contrast of 3 against the light and the dark page. Blue stays the colour of
# rewinding alone. Each line also has its own mark, so that colour is never the only sign.
FORWARD, BACKWARD = "#d06a1b", "#5b7fea"
SERIES = (FORWARD, "#4f8f68", "#b5568a", "#8a7a2a")
NEUTRAL = "#85807a"
MARKS = ("●", "■", "▲", "◆")
SYMBOLS = ("circle", "square", "triangle-up", "diamond")

# Larger pictures are sent smaller while a run is under way.
PREVIEW_SIDE = 256
# Uploaded pictures travel inside recipes, and with every update of the page.
LARGEST_UPLOAD, LARGEST_UPLOADS = 512, 900_000


def theme() -> gr.themes.Base:
    """The look of Gradio's own parts; theme.css does the rest."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.orange,
        secondary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_sm,
        font=("Plex", "system-ui", "sans-serif"),
        font_mono=(gr.themes.LocalFont("IBM Plex Mono", (400,)), "ui-monospace", "monospace"),
    )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object out of the shipped files."""
    return json.loads(path.read_text(encoding="utf-8"))


def shown_of(event: Progress | Done) -> tuple[Any, bool]:
    """What an event shows, and whether it is the last one."""
    return (event.result, True) if isinstance(event, Done) else (event.preview, False)


def escape(text: object) -> str:
    """The text as HTML that shows it and does nothing else."""
    return html.escape(str(text), quote=True)


def head() -> str:
    """Lines for the head of every page: style sheet and script as files, so that pages stay light.

    The digests make browsers fetch a new version at once.
    """
    version = {
        name: hashlib.sha256((ASSETS / name).read_bytes()).hexdigest()[:8]
        for name in ("theme.css", "rewind.js")
    }
    return (
        '<meta name="color-scheme" content="light dark">'
        f'<link rel="stylesheet" href="gradio_api/file=assets/theme.css?{version["theme.css"]}">'
        f'<script defer src="gradio_api/file=assets/rewind.js?{version["rewind.js"]}"></script>'
    )


# ---------------------------------------------------------------------- pictures


def png(picture: np.ndarray) -> bytes:
    """The picture as PNG, every pixel kept."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def data_url(data: bytes, kind: str = "png") -> str:
    """Bytes of a picture as an address that can stand inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def preview_url(picture: np.ndarray) -> str:
    """The picture for a moment's look: exact when small, shrunk and lossy when large."""
    if max(picture.shape[:2]) <= PREVIEW_SIDE // 2:
        return data_url(png(picture))
    image = Image.fromarray(np.ascontiguousarray(picture))
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return data_url(buffer.getvalue(), "webp")


def film_url(frames: np.ndarray) -> str:
    """Frames `n h w 3` side by side in one lossy picture, for scrubbing."""
    return _film_url(frames.tobytes(), frames.shape)


@lru_cache(maxsize=16)  # a film is drawn again with every event that comes after it
def _film_url(data: bytes, shape: tuple[int, ...]) -> str:
    frames = np.frombuffer(data, np.uint8).reshape(shape)
    tall, wide = shape[1:3]
    row = np.concatenate(list(frames), axis=1)
    image = Image.fromarray(np.ascontiguousarray(row))
    if max(tall, wide) > PREVIEW_SIDE:
        small = PREVIEW_SIDE / max(tall, wide)
        image = image.resize((int(wide * small) * len(frames), int(tall * small)))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=90)
    return data_url(buffer.getvalue(), "webp")


def picture(url: str, alt: str) -> str:
    """One picture as large as its place, with crisp pixels."""
    return f'<img class="pixel" src="{url}" alt="{escape(alt)}">'


def pick_frames(frames: np.ndarray, most: int) -> np.ndarray:
    """At most this many frames, evenly chosen, the first and the last among them."""
    if len(frames) <= most:
        return frames
    return frames[np.linspace(0, len(frames) - 1, most).round().astype(int)]


@dataclass(frozen=True)
class Shot:
    """One picture of a comparison with what stands around it.

    `frames` (`n h w 3`) are the states on the way, scrubbed through in the place of the picture.
    """

    title: str
    picture: np.ndarray | None
    alt: str
    lines: tuple[str, ...] = ()
    frames: np.ndarray | None = None
    stamped: bytes | None = None
    file_name: str = ""
    mark: int | None = None
    backward: bool = False


def shots(
    items: Sequence[Shot | str], *, scrub: bool = False, ends: tuple[str, str] = ("", "")
) -> str:
    """Pictures side by side with titles, lines below, and one scrubber for all their films.

    A ready-made figure, such as that of `cut`, may stand among them.
    """
    cards = "".join(item if isinstance(item, str) else _shot(item) for item in items)
    columns = f'<div class="shots">{cards}</div>'
    if not scrub:
        return f'<div class="films">{columns}</div>'
    films = [i.frames for i in items if isinstance(i, Shot) and i.frames is not None]
    longest = max(map(len, films), default=1)
    return f'<div class="films" data-films>{columns}{scrubber(longest, ends)}</div>'


def _shot(item: Shot) -> str:
    tone = "backward" if item.backward else f"s{item.mark}" if item.mark is not None else ""
    sign = "◀" if item.backward else MARKS[item.mark] if item.mark is not None else ""
    sign = f'<span class="mark {tone}" aria-hidden="true">{sign}</span> ' if sign else ""
    if item.picture is None:
        shown = '<div class="pixel empty" role="img" aria-label="no picture yet"></div>'
    else:
        url = preview_url(item.picture) if item.stamped is None else data_url(item.stamped)
        shown = picture(url, item.alt)
    if item.frames is not None and len(item.frames):
        frames = pick_frames(item.frames, 60)
        shown += (
            f'<div class="film pixel" data-frames="{len(frames)}" style="--frames:{len(frames)};'
            f'--film:url({film_url(frames)})" aria-hidden="true"></div>'
        )
    lines = "".join(f"<p>{escape(line)}</p>" for line in item.lines)
    save = ""
    if item.stamped is not None and item.file_name:
        save = (
            f'<a class="quiet" download="{escape(item.file_name)}" '
            f'href="{data_url(item.stamped)}">Save PNG</a>'
        )
    return (
        f'<figure class="shot"><div class="frame">{shown}</div>'
        f"<figcaption><h3>{sign}{escape(item.title)}</h3>{lines}{save}</figcaption></figure>"
    )


def sheet(
    columns: Sequence[str],
    rows: Mapping[str, tuple[Sequence[np.ndarray | None] | np.ndarray | None, Sequence[str]]],
    backward: str = "",
    is_whole: bool = False,
) -> str:
    """A contact sheet: one column a prompt, one row a model, a line of text below each picture.

    `rows` maps a title to pictures (`n h w 3`, or None while there are none) and their lines. The
    row titled `backward` takes the colour of rewinding. A sheet that answers its question already
    is marked as whole; rows that follow add to it.
    """
    head = "".join(f"<li>{escape(title)}</li>" for title in columns)
    parts = [f'<ol class="sheet-head">{head}</ol>']
    for title, (pictures, lines) in rows.items():
        sign = '<span class="mark backward" aria-hidden="true">◀</span> ' * (title == backward)
        cells = []
        for index, column in enumerate(columns):
            line = escape(lines[index]) if index < len(lines) else ""
            shown = '<div class="pixel empty" role="img" aria-label="no picture yet"></div>'
            one = pictures[index] if pictures is not None and index < len(pictures) else None
            if one is not None:
                shown = picture(preview_url(one), f"{column}, {title}")
            cells.append(f"<li>{shown}<span>{line}</span></li>")
        parts.append(f"<h4>{sign}{escape(title)}</h4><ol>{''.join(cells)}</ol>")
    mark = " data-whole" * is_whole
    return f'<div class="sheet" style="--columns:{len(columns)}"{mark}>{"".join(parts)}</div>'


def heat_map(values: np.ndarray) -> np.ndarray:
    """Numbers as a picture `n n 3`: forward's colour above zero, backward's below, else paper."""
    scale = np.abs(values / max(float(np.abs(values).max()), 1e-12))[..., None] ** 0.6
    paper = np.array([250, 249, 245.0])
    above, below = (
        np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)
        for colour in (FORWARD, BACKWARD)
    )
    ink = np.where(values[..., None] > 0, above, below)
    return (paper + scale * (ink - paper)).round().astype(np.uint8)


@dataclass(frozen=True)
class Voice:
    """One version of a recording to listen to: the bytes of a WAV file, and a name to save it."""

    title: str
    wav: bytes
    file_name: str = ""
    backward: bool = False


def voices(title: str, versions: Sequence[Voice]) -> str:
    """Buttons that play versions of one recording: another one goes on where the last one was."""
    buttons = []
    for voice in versions:
        url = "data:audio/wav;base64," + base64.b64encode(voice.wav).decode("ascii")
        tone = "backward" if voice.backward else ""
        save = (
            f'<a class="quiet" download="{escape(voice.file_name)}" href="{url}">Save WAV</a>'
            if voice.file_name
            else ""
        )
        buttons.append(
            f'<li><button type="button" class="hear {tone}" data-hear aria-pressed="false">'
            f'<span aria-hidden="true">▶</span> {escape(voice.title)}</button>'
            f'<audio src="{url}" preload="auto"></audio>{save}</li>'
        )
    return (
        f'<section class="voices" data-voices><h4>{escape(title)}</h4>'
        f'<ol>{"".join(buttons)}</ol><div class="clock" aria-hidden="true"><i></i></div></section>'
    )


def scrubber(longest: int, ends: tuple[str, str]) -> str:
    """The control of all films in its group: play both ways, or drag."""
    first, last = (escape(end) for end in ends)
    return (
        '<div class="scrubber">'
        '<button type="button" class="round backward" data-play="-1" '
        'aria-label="Play backwards">◀</button>'
        f'<span class="end">{first}</span>'
        f'<input type="range" min="0" max="{max(longest - 1, 1) * 8}" step="1" '
        f'value="{max(longest - 1, 1) * 8}" data-scrub aria-label="Position in the film">'
        f'<span class="end">{last}</span>'
        '<button type="button" class="round forward" data-play="1" '
        'aria-label="Play forwards">▶</button></div>'
    )


def time_scrubber(plot: str, last: int, label: str, time: str) -> gr.HTML:
    """Plays frames 0 to `last` of the plot of this element id, from data to noise and back."""
    return gr.HTML(
        f'<div class="scrubber times" data-plot="{plot}">'
        '<button type="button" class="round backward" data-way="-1" '
        'aria-label="Play from data to noise">◀</button>'
        f'<input type="range" min="0" max="{last}" value="{last}" step="1" '
        f'aria-label="{label}"><output>{time}</output>'
        '<button type="button" class="round forward" data-way="1" '
        'aria-label="Play from noise to data">▶</button></div>',
        js_on_load=(ASSETS / "panels" / "times.js").read_text("utf-8"),
    )


def filmstrip(
    title: str, frames: np.ndarray, notes: Sequence[str] = (), mark: int | None = None
) -> str:
    """The states of one run in a row that scrolls inside itself."""
    chosen = pick_frames(np.arange(len(frames)), 12)
    cells = []
    for index in chosen:
        note = notes[index] if index < len(notes) else ""
        image = picture(preview_url(frames[index]), f"{title}, state {index + 1} of {len(frames)}")
        cells.append(f"<li>{image}<span>{escape(note)}</span></li>")
    sign = (
        f'<span class="mark s{mark}" aria-hidden="true">{MARKS[mark]}</span> '
        if mark is not None
        else ""
    )
    return (
        f'<section class="strip"><h4>{sign}{escape(title)}</h4>'
        f'<ol tabindex="0" aria-label="{escape(title)}, states in order">'
        f"{''.join(cells)}</ol></section>"
    )


# ---------------------------------------------------------------------- comparison


def difference(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, float, int]:
    """A visible map of |a - b|, the mean difference of 255, and the number of unequal pixels."""
    gap = np.abs(first.astype(np.int16) - second.astype(np.int16))
    unequal = int(np.any(gap > 0, axis=-1).sum())
    shown = np.clip(gap * 4, 0, 255).astype(np.uint8)
    return shown, float(gap.mean()), unequal


def cut(before: np.ndarray, after: np.ndarray, names: tuple[str, str]) -> str:
    """Two pictures of one size under a sliding cut."""
    first, second = (escape(name) for name in names)
    return (
        '<figure class="shot"><div class="cut frame" data-cut>'
        f"{picture(data_url(png(before)), names[0])}"
        f'<div class="over">{picture(data_url(png(after)), names[1])}</div>'
        f'<input type="range" min="0" max="100" value="50" data-cutter '
        f'aria-label="Cut between {first} and {second}"></div>'
        f"<figcaption><h3>{first} | {second}</h3></figcaption></figure>"
    )


def comparison(
    before: np.ndarray,
    after: np.ndarray,
    names: tuple[str, str] = ("original", "edited"),
    undone: np.ndarray | None = None,
) -> str:
    """Two pictures under one sliding cut, their difference, and whether undoing brings all back."""
    gap, mean, unequal = difference(before, after)
    total = before.shape[0] * before.shape[1]
    slider = cut(before, after, names)
    gap_card = _shot(
        Shot(
            "difference",
            gap,
            f"difference of {names[0]} and {names[1]}, four times as bright",
            (f"mean {mean:.2f} of 255", f"{unequal} of {total} pixels differ, shown ×4"),
        )
    )
    cards = [slider, gap_card]
    if undone is not None:
        _, mean_undone, left = difference(before, undone)
        verdict = (
            "every pixel as before"
            if left == 0
            else f"{left} pixels differ, mean {mean_undone:.2f}"
        )
        cards.append(_shot(Shot("undone", undone, "after the undo", (verdict,), backward=True)))
    return f'<div class="films"><div class="shots">{"".join(cards)}</div></div>'


def baked(found: Any, size: str) -> str:
    """What a bake says of itself: name, size, and the fingerprints before, after and undone."""
    same = found.before == found.undone
    return (
        f'<div class="ticks"><p><b>{"✓" if same else "✗"} applied and undone: '
        f"{'every bit as before' if same else 'bits differ'}</b> "
        f'<span class="note">before <code>{_print(found.before)}</code> '
        f'<span class="mark forward" aria-label="becomes">▶</span> '
        f"<code>{_print(found.after)}</code> "
        f'<span class="mark backward" aria-label="goes back to">◀</span> '
        f"<code>{_print(found.undone)}</code></span></p>"
        f'<p class="note">“{escape(found.name)}”: {escape(size)}. It lies on your shelf below; '
        "undo it there.</p></div>"
    )


def _print(fingerprint: str) -> str:
    """Twelve digits of a fingerprint, with or without format and shape before them."""
    return escape(fingerprint.rpartition(" ")[2][:12])


# ---------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Line:
    """One curve; `place` picks its colour and mark.

    `backward` takes the colour of rewinding, `neutral` that of something to compare with. `band`
    are the lower and the upper ends of an interval, shaded behind the curve.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    place: int = 0
    backward: bool = False
    neutral: bool = False
    hover: Sequence[str] = ()
    marks: bool = True
    band: tuple[Sequence[float], Sequence[float]] | None = None

    @property
    def colour(self) -> str:
        """As every part of this curve is drawn."""
        if self.backward or self.neutral:
            return BACKWARD if self.backward else NEUTRAL
        return SERIES[self.place % len(SERIES)]


def plot(
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    *,
    log_y: bool = False,
    log_x: bool = False,
    height: int = 380,
    percent: bool = False,
) -> PlotData:
    """Curves in the style of the house; the page's style sheet colours text and grid.

    With `percent` both axes run from 0 to 100.
    """
    traces = [_shade(line) for line in lines if line.band] + [_trace(line) for line in lines]
    values_x = [value for line in lines for value in line.x]
    values_y = [value for line in lines for value in line.y]
    axis = {"zeroline": False, "ticks": "", "automargin": True, "fixedrange": True}
    if percent:
        axis["range"] = [-4, 104]
    layout = {
        "height": height,
        "autosize": True,
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "Plex, system-ui, sans-serif", "size": 13},
        "hovermode": "closest",
        "showlegend": len(lines) > 1,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "xaxis": axis | {"title": {"text": x_title}} | (log_axis(values_x) if log_x else {}),
        "yaxis": axis | {"title": {"text": y_title}} | (log_axis(values_y) if log_y else {}),
    }
    figure = {"data": traces, "layout": layout, "config": {"displayModeBar": False}}
    return PlotData(type="plotly", plot=json.dumps(figure, allow_nan=False))


def log_axis(values: Sequence[float]) -> dict[str, object]:
    """A logarithmic axis with plain numbers at 1, 2 and 5 of every decade in use."""
    positive = [value for value in values if value > 0]
    if not positive:
        return {"type": "log", "range": [0, 1], "tickvals": []}
    low, high = math.log10(min(positive)) - 0.08, math.log10(max(positive)) + 0.08
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    texts = [f"{tick:g}" for tick in ticks]
    return {"type": "log", "range": [low, high], "tickvals": ticks, "ticktext": texts}


def _shade(line: Line) -> dict[str, object]:
    """The interval of a curve: there along the upper ends, back along the lower ones."""
    assert line.band is not None
    low, high = ([float(value) for value in ends] for ends in line.band)
    x = [float(value) for value in line.x]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"{line.name}, 95 %",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"{line.colour}26",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _trace(line: Line) -> dict[str, object]:
    colour = line.colour
    return {
        "type": "scatter",
        "mode": "lines+markers" if line.marks else "lines",
        "name": line.name,
        "x": [float(value) for value in line.x],
        "y": [float(value) for value in line.y],
        "text": list(line.hover),
        "hovertemplate": "%{text}<extra></extra>" if line.hover else None,
        "line": {"color": colour, "width": 2, "dash": "dot" if line.neutral else "solid"},
        "marker": {"color": colour, "size": 8, "symbol": SYMBOLS[line.place % len(SYMBOLS)]},
    }


# ---------------------------------------------------------------------- fields


class _Unlisted(ComponentMeta):
    """Makes a component class without the stub file that Gradio writes beside its module."""

    def __new__(cls, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> type:
        return ABCMeta.__new__(cls, name, bases, attrs)


class PictureField(gr.Image, metaclass=_Unlisted):
    """A picture field that hands on the file as it came; `picture_setting` opens and checks it.

    Gradio's own decoding comes before any handler, so a file that is no picture would end without a
    sentence. A class and not a changed instance: Gradio makes a component anew from its arguments
    whenever an event of the page updates it.
    """

    is_template = True  # for the page it is an Image

    def preprocess(self, payload: ImageData | None) -> str | None:
        return None if payload is None else payload.path or ""


class WholeNumber(gr.Number, metaclass=_Unlisted):
    """A number field that hands on what was typed, for a sentence about it where it does not fit.

    Gradio's own check would round 1.5 without a word and refuse -1 before any handler runs. In the
    page, rewind.js settles the field when it is left, and says so.
    """

    is_template = True

    def preprocess(self, payload: float | None) -> float | int | None:
        return payload


def picture_field(**settings: object) -> gr.Image:
    """A field for one picture; `picture_setting` reads what was put there."""
    return PictureField(sources=["upload", "clipboard"], elem_classes="pixel upload", **settings)


def picture_setting(value: object, side: int | None = LARGEST_UPLOAD) -> dict[str, str]:
    """The setting `picture` with what such a field holds, turned as its camera says; or none.

    Shrunk until it fits into a recipe and `side`; None keeps up to four megapixels.
    Raises `BadInput` for a file that is no picture.
    """
    if value is None:
        return {}
    picture = opened(value)
    if side is None:
        return {"picture": as_text(at_most(picture))}
    return {"picture": _texts([picture], side)[0]}


def pictures_field(**settings: object) -> gr.Gallery:
    """Several pictures to upload; `pictures_in` reads what was put there."""
    return gr.Gallery(
        type="filepath", file_types=["image"], format="png", interactive=True, **settings
    )


def pictures_in(value: object, most: int) -> list[str]:
    """The pictures of such a field as texts for a recipe, turned as their camera says.

    Raises `BadInput` for a file that is no picture.
    """
    listed = value if isinstance(value, list | tuple) else []
    if len(listed) > most:
        raise BadInput(f"There are {len(listed)} pictures; {most} are allowed.", "Take fewer.")
    return _texts(
        [opened(item[0] if isinstance(item, list | tuple) else item) for item in listed],
        LARGEST_UPLOAD,
    )


def _texts(pictures: Sequence[Image.Image], side: int) -> list[str]:
    """Pictures as texts, their sides halved until all fit into a recipe."""
    while True:
        texts = [as_text(at_most(picture, side)) for picture in pictures]
        if sum(map(len, texts)) < LARGEST_UPLOADS or side <= 64:
            return texts
        side //= 2


def suggestions(field: str, texts: Sequence[str]) -> None:
    """Small buttons that put a text into the field with this id."""
    buttons = "".join(
        f'<button type="button" class="copy" data-fill="{escape(field)}">{escape(text)}</button>'
        for text in texts
    )
    gr.HTML(f'<div class="suggestions" role="group" aria-label="Suggestions">{buttons}</div>')


def heading(title: str, text: str, level: int = 3) -> None:
    """A title with one calm sentence below it."""
    gr.HTML(
        f'<div class="heading level-{level}"><h{level}>{escape(title)}</h{level}>'
        f"<p>{escape(text)}</p></div>"
    )


def model_picker(models: Mapping[str, str], **settings: object) -> gr.Dropdown:
    """A choice of shipped models that also takes a Hub id or a local folder as typed text.

    `models` maps key to title. Models of the visitor's shelf are added to it by the frame.
    """
    return gr.Dropdown(
        choices=[(title, key) for key, title in models.items()],
        value=next(iter(models), None),
        allow_custom_value=True,
        filterable=True,
        label="Model",
        info="Shipped, from your shelf, a Hub id (owner/name@revision), or a folder",
        **settings,
    )

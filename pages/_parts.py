"""Pieces that panels share: pictures, films, contact sheets, recordings and comparisons.

Pictures are uint8 arrays, `h w 3`. What is drawn is HTML with the pictures inside, so that pixels
stay exact and crisp at any size; every text that came from a visitor goes through `escape`.
"""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gradio as gr
import numpy as np
from PIL import Image

from engine.core.cache import LruCache
from engine.core.recipe import Recipe
from pages._look import BACKWARD, FORWARD, MARKS
from pages._markup import escape, titled

# Larger pictures are sent smaller while a run is under way.
PREVIEW_SIDE = 256


def heading(title: str, text: str, level: int = 3) -> None:
    """A title with one calm sentence below it."""
    gr.HTML(titled(title, text, level))


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
    digest = hashlib.sha256(frames.tobytes()).hexdigest()
    return _FILMS.get((digest, frames.shape), lambda: _film_url(frames))


# A film is drawn again with every event that comes after it.
_FILMS: LruCache[str] = LruCache(megabytes=4)


def _film_url(frames: np.ndarray) -> str:
    tall, wide = frames.shape[1:3]
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


def before_and_after(
    pictures: Sequence[np.ndarray | None],
    lines: Sequence[str],
    prompt: str,
    titles: tuple[str, str, str] = ("Original", "Edited", "Undone"),
) -> str:
    """One prompt's pictures side by side: without the edit, with it, and when it was undone.

    None are pictures to come, whose places are kept; `lines` say what is seen in each.
    """
    shown = [
        Shot(
            title,
            picture,
            f"{prompt}, {title.lower()}",
            tuple(line for line in lines[place : place + 1] if line),
            mark=(None, 0, None)[place],
            backward=place == 2,
        )
        for place, (title, picture) in enumerate(zip(titles, pictures, strict=True))
    ]
    return shots(shown)


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


def error_picture(errors: np.ndarray, white: float) -> np.ndarray:
    """Sizes of errors as a picture `n n 3`: black where there is none, white from `white` on."""
    grey = np.round(255 * np.clip(errors / white, 0, 1)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


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


def order_of(recipe: Recipe, setting: str) -> dict[str, int]:
    """The place of each name in a setting that lists several: it picks their colour and mark."""
    names = recipe.params[setting]
    assert isinstance(names, list)  # the job has checked it
    return {str(name): place for place, name in enumerate(names)}


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


# ---------------------------------------------------------------------- sounds


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


# ---------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Difference:
    """How far two pictures lie apart; `mean` and `largest` are of 255, `unequal` counts pixels.

    `picture` is |a - b|, so bright that the largest difference is white: nothing is cut off.
    """

    picture: np.ndarray
    mean: float
    largest: int
    unequal: int

    @property
    def scale(self) -> str:
        """What its brightness says."""
        return f"black 0, white {self.largest} of 255" if self.largest else "black: no difference"


def difference(first: np.ndarray, second: np.ndarray) -> Difference:
    """The difference of two pictures of one size."""
    gap = np.abs(first.astype(np.int16) - second.astype(np.int16))
    largest = int(gap.max(initial=0))
    shown = np.round(gap * (255 / max(largest, 1))).astype(np.uint8)
    unequal = int(np.any(gap > 0, axis=-1).sum())
    return Difference(shown, float(gap.mean()), largest, unequal)


def cut(
    before: np.ndarray, after: np.ndarray, names: tuple[str, str], *, stamped: bytes | None = None
) -> str:
    """Two pictures of one size under a sliding cut; `stamped` is the second one as a file."""
    first, second = (escape(name) for name in names)
    second_url = data_url(png(after) if stamped is None else stamped)
    return (
        '<figure class="shot"><div class="cut frame" data-cut>'
        f"{picture(data_url(png(before)), names[0])}"
        f'<div class="over">{picture(second_url, names[1])}</div>'
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
    gap = difference(before, after)
    total = before.shape[0] * before.shape[1]
    slider = cut(before, after, names)
    gap_card = _shot(
        Shot(
            "difference",
            gap.picture,
            f"difference of {names[0]} and {names[1]}, {gap.scale}",
            (
                f"mean {gap.mean:.2f} of 255",
                f"{gap.unequal} of {total} pixels differ; {gap.scale}",
            ),
        )
    )
    cards = [slider, gap_card]
    if undone is not None:
        left = difference(before, undone)
        verdict = (
            f"{left.unequal} pixels differ, mean {left.mean:.2f} of 255"
            if left.unequal
            else "every pixel as before"
        )
        cards.append(_shot(Shot("undone", undone, "after the undo", (verdict,), backward=True)))
    return f'<div class="films"><div class="shots">{"".join(cards)}</div></div>'

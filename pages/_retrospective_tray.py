"""The tray of REVERSE: a picture into which things are put, and the text that it writes."""

import json
from typing import TYPE_CHECKING

import gradio as gr

from engine.world import vocabulary as words
from pages._look import ASSETS
from pages._markup import escape

if TYPE_CHECKING:
    pass


SLUG = "retrospective_resampling"

TRAY = "on yellow; banana 5 noto; cat 12 noto"

MOST_THINGS = 4

SEEN = ("noto", "fluent-emoji-flat", "fxemoji")  # artists whose drawings the model learnt from


def tray_builder() -> gr.Textbox:
    """The picture into which things are put, and the text that it writes."""
    partner = dict(words.PAIRS) | {b: a for a, b in words.PAIRS}
    sets = json.loads((ASSETS / "data" / "sprites" / "sprites.json").read_text("utf-8"))["sets"]
    # Artists who lack a drawing would leave holes in the shelf.
    artists = [one["artist"] for one in sets if {*words.ON_TRAYS} <= {*one["objects"]}]
    objects = "".join(
        f'<button type="button" data-name="{name}" aria-pressed="false" title="{name}" '
        f'aria-label="Take {escape(words.article(name))}"><span class="drawing"></span></button>'
        for name in words.ON_TRAYS
    )
    swatches = "".join(
        f'<button type="button" class="swatch" data-colour="{name}" aria-pressed="false" '
        f'title="{name}" aria-label="Background {name}" style="background:rgb{rgb}"></button>'
        for name, rgb in words.BACKGROUNDS.items()
    )
    options = "".join(
        f'<option value="{one}">{one}{" (never seen in training)" * (one not in SEEN)}</option>'
        for one in artists
    )
    # Drawings lie in their atlas in the order of all objects; the model knows some of them.
    data: dict[str, object] = {"known": words.OBJECTS, "offered": words.ON_TRAYS}
    data |= {"colours": words.BACKGROUNDS, "pairs": partner}
    told = " ".join(f'data-{key}="{escape(json.dumps(value))}"' for key, value in data.items())
    cells = '<button type="button"></button>' * 16
    gr.HTML(
        f'<div data-tray data-field="{SLUG}-tray" data-most="{MOST_THINGS}" {told}>'
        f'<div class="board" role="group" aria-label="The tray">{cells}</div>'
        '<div class="tray-row"><button type="button" data-do="deal">Random tray</button>'
        f'<button type="button" data-do="clear">Empty it</button>{swatches}</div>'
        f'<div class="objects" role="group" aria-label="Things">{objects}</div>'
        f'<div class="tray-row"><label>Drawn by <select>{options}</select></label></div>'
        '<p class="tray-help" role="status" data-said>Drag a thing onto the tray, or choose it '
        "and then a cell. A click on a filled cell takes it away.</p></div>",
        js_on_load=(ASSETS / "panels" / "tray.js").read_text("utf-8"),
        css_template=(ASSETS / "panels" / "tray.css").read_text("utf-8"),
    )
    return gr.Textbox(
        TRAY,
        label="The tray in words",
        info="Background, then thing, cell and artist",
        lines=1,
        max_lines=3,
        max_length=600,
        elem_id=f"{SLUG}-tray",
        elem_classes="mono",
    )

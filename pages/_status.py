"""What a panel says of a run: how far it is, what was wrong, and how to have it again."""

from datetime import date
from urllib.parse import quote

import gradio as gr

from engine.core.errors import BadInput
from engine.core.job import Failed, Progress
from engine.core.lane import Waiting
from engine.core.recipe import Recipe
from pages._markup import escape

LONGEST_SHOWN = 5000


# ---------------------------------------------------------------------- below the button


def note(text: str) -> str:
    """A calm line of text in the place of the progress."""
    return f'<div class="status" role="status"><p>{escape(text)}</p></div>'


def recorded(made: date, label: str) -> str:
    """When what is shown before the first run was made, and how to make it anew.

    On a phone, where the button stands beside it, theme.css shows the first half alone.
    """
    again = f'<span class="again">; press {escape(label)} to make it here</span>'
    return f'<div class="status" role="status"><p>Recorded on {day(made)}{again}.</p></div>'


def day(made: date) -> str:
    """A day as people write it: 1 December 2026."""
    return f"{made.day} {made:%B %Y}"


def progress(event: Progress, seconds: float, backward: bool = False, key: str = "") -> str:
    """A bar and a sentence: how far, how long, doing what; with the key of the run for the page."""
    share = 100 * event.done / max(event.total, 1)
    tone = "backward" if backward else "forward"
    steps = f"{event.done} of {event.total}" if event.done else ""
    words = " · ".join(part for part in (steps, f"{seconds:.1f} s", event.note) if part)
    mark = f' data-run="{key}"' if key else ""
    return (
        f'<div class="status running {tone}" role="status"{mark}>'
        f'<div class="bar" style="--done:{share:.1f}%"><i></i></div><p>{escape(words)}</p></div>'
    )


def waiting_line(event: Waiting, key: str) -> str:
    """The place of a run in the queue, with the key by which the page finds it after a reload."""
    return (
        f'<div class="status running" role="status" data-waiting data-run="{key}">'
        f'<div class="bar"><i></i></div><p>{escape(event.note)}</p></div>'
    )


def failure(event: Failed) -> str:
    """What was wrong, what to try, and the number under which the log knows it."""
    number = f'<p class="note">Error id {escape(event.error_id)}</p>' if event.error_id else ""
    return (
        f'<div class="status failed" role="alert"><h3>{escape(event.message)}</h3>'
        f"<p>{escape(event.advice)}</p>{number}</div>"
    )


def finished(recipe: Recipe, seconds: float, place: str, route: str, *, settling: str = "") -> str:
    """Time, seed and model of a run, with the link that repeats it.

    `settling` is the key of a run whose page has something to do yet: the page calls it done then,
    and finds it by the key if it is left before.
    """
    model = f" · {model_title(recipe.model.source)}" if recipe.model else ""
    edits = f" with {len(recipe.model.edits)} edits" if recipe.model and recipe.model.edits else ""
    summary = f"{seconds:.1f} s · seed {recipe.seed}{model}{edits}"
    try:
        address = escape(recipe_path(recipe, route))
        link = (
            f'<a data-link id="{place}-link" href="{address}">Link to this run</a> '
            f'<button type="button" class="copy" data-copy="{place}-link">Copy link</button>'
            f"{shared(recipe)}"
        )
    except BadInput as error:
        link = f'<span class="note">{escape(error)}</span>'
    state = f'running settling" data-run="{settling}"' if settling else 'done"'
    return f'<div class="status {state} role="status"><p>{escape(summary)}</p><p>{link}</p></div>'


def shared(recipe: Recipe) -> str:
    """What a link gives away: the model it names is asked for by nothing but its digest."""
    model = recipe.model
    is_upload = model is not None and model.source.startswith("upload:")
    named = [word for word, has in (("upload", is_upload), ("edits", model and model.edits)) if has]
    if not named:
        return ""
    what = " and the ".join(named)
    return f' <span class="note">Whoever has the link can use the {what} that it names.</span>'


# ---------------------------------------------------------------------- a recipe in all its forms


def recipe_view(recipe: Recipe, slug: str, url: str, route: str) -> str:
    """The recipe as link, JSON, command line and API call, each with a button that copies it."""
    try:
        link = f"{url}/{recipe_path(recipe, route)}"
    except BadInput as error:
        link = str(error)
    pieces = {
        "Link": link,
        "JSON": recipe.json(),
        "Command line": recipe.command(),
        "Python": recipe.api_call(url or "http://127.0.0.1:7860"),
    }
    rows = []
    for title, text in pieces.items():
        if len(text) > LONGEST_SHOWN:
            text = f"{len(text)} characters, with a picture inside: save it as a file."
        place = f"{slug}-{title.lower().replace(' ', '-')}"
        rows.append(
            f'<div class="form"><div><h4>{title}</h4>'
            f'<button type="button" class="copy" data-copy="{place}">Copy</button></div>'
            f'<pre tabindex="0" id="{place}">{escape(text)}</pre></div>'
        )
    save = (
        f'<a class="quiet" download="{escape(recipe.slug)}.json" href="data:application/json,'
        f'{quote(recipe.json())}">Save as JSON file</a>'
    )
    pictures = '<p class="note">Pictures saved as PNG carry their recipe inside.</p>'
    return f'<div class="recipe">{"".join(rows)}{save}{pictures}</div>'


def recipe_path(recipe: Recipe, route: str) -> str:
    """The address of a recipe on this server, relative to the base of the pages."""
    return f"{route}?{recipe.query()}"


def model_title(source: str) -> str:
    """The name of a model as visitors read it."""
    from engine.models.library import MODELS, source_title

    return MODELS[source].title.partition(":")[0] if source in MODELS else source_title(source)


def origin(request: gr.Request | None) -> str:
    """Scheme and host under which the visitor sees this server."""
    headers = getattr(request, "headers", None) or {}
    host = headers.get("x-forwarded-host") or headers.get("host")
    scheme = headers.get("x-forwarded-proto", "http").split(",")[0]
    return f"{scheme}://{host}" if host else ""

"""Home: what this is, a picture that runs both ways, and every method as its panel opens."""

from pathlib import Path

import gradio as gr
from PIL import Image

from engine.core.catalog import Catalog, Entry, Family
from engine.core.errors import AssetMissing, BadInput
from engine.core.recipe import Recipe
from pages import _backwards as backwards
from pages import _recordings as recordings
from pages._look import ASSETS
from pages._markup import escape
from pages._parts import scrubber
from pages._serving import Named

LIVING = ASSETS / "living"
NAMED = Named(
    "Rewind: machine learning, run backwards",
    "Real algorithms on a real small model, in this page. Run them, rewind them, and see how much "
    "comes back.",
)
RECORDED = (
    '<p class="note">Recorded here, on the model that ships with this page. '
    "Drag to run them backwards; press one to make it yourself.</p>"
)


def build(catalog: Catalog) -> None:
    """Draws the page. A family without panels is not mentioned."""
    families = [family for family in Family if catalog.of(family)]
    first = next(iter(catalog.values()), None)
    gr.HTML(hero(first, families))
    sections = "".join(family_section(family, catalog.of(family)) for family in families)
    gr.HTML(sections + backwards.small(catalog))


def hero(first: Entry | None, families: list[Family]) -> str:
    """The name of the thing, one sentence, where to begin, and the first family's picture."""
    begin = ""
    if first is not None:
        begin = (
            f'<a class="go" href="{address(first)}"><span aria-hidden="true">▶</span>&ensp;'
            f"Begin with the {escape(first.card.title)}</a>"
        )
    picture = living(families[0]) if families else ""
    picture += RECORDED if picture else ""
    return (
        '<section class="hero"><div><h1>Machine learning, run backwards.</h1>'
        '<p class="lead">Real algorithms on a real small model, in this page. '
        "Run them, rewind them, and see how much comes back.</p>"
        f"{begin}</div><div>{picture}</div></section>"
    )


def family_section(family: Family, entries: tuple[Entry, ...]) -> str:
    """One family with what it does, and its methods under one scrubber."""
    cards = "".join(method(entry) for entry in entries)
    return (
        f'<section class="family"><div><h2><a href="{route_of(family)}">{escape(family.title)}</a>'
        f"</h2><p>{escape(family.sentence)}</p></div>"
        f'<div class="films living" data-films data-living><div class="cards">{cards}</div>'
        f"{scrubber(49, family.ends)}</div></section>"
    )


def method(entry: Entry) -> str:
    """What a panel opens with, moving; its title, one sentence, one number. All of it is a link."""
    card, kept = entry.card, recordings.find(entry.slug, entry.card.actions[0].name)
    number = escape(kept.number) if kept and kept.number else measured(entry)
    moving = recordings.moving(entry.slug, kept)
    return (
        f'<div class="method">{moving}<div><h3><a href="{address(entry)}">'
        f"{escape(card.title)}</a></h3><p>{escape(card.undoes)}</p>"
        f'<p class="measured">{number}</p></div></div>'
    )


def measured(entry: Entry) -> str:
    """What was measured of the claim, in a line."""
    try:
        found = entry.measured()
    except AssetMissing:
        return "not measured yet"
    claim = entry.card.claim
    return (
        f"{escape(claim.measure)} {found.measured:.3g}, {escape(claim.versus)} {found.versus:.3g}"
    )


def address(entry: Entry) -> str:
    """Where the panel of a method opens."""
    return f"{route_of(entry.card.family)}?method={entry.name}"


def living(family: Family, folder: Path = LIVING) -> str:
    """Recorded runs of a family as films that play both ways, each a link to the run that made it.

    A file `<family>-<number>.png` is a row of square frames with the recipe of the run inside;
    scripts/living.py makes them.
    """
    films = [film(family, path) for path in sorted(folder.glob(f"{family.package}-*.png"))[:4]]
    films = [one for one in films if one]
    if not films:
        return ""
    return (
        f'<div class="films living" data-films data-living><div class="shots">{"".join(films)}'
        f"</div>{scrubber(49, family.ends)}</div>"
    )


def film(family: Family, path: Path) -> str:
    """One recorded run; nothing where the file carries no recipe."""
    try:
        recipe = Recipe.from_png(path.read_bytes())
        with Image.open(path) as row:
            frames = row.width // row.height
    except (BadInput, OSError):
        return ""
    prompt = escape(recipe.params.get("prompt", recipe.params.get("prompts", recipe.slug)))
    link = f"{route_of(family)}?{escape(recipe.query())}#run"  # begins there, see rewind.js
    address = f"gradio_api/file=assets/living/{path.name}"
    return (
        f'<a class="shot" href="{link}" aria-label="{prompt}, seed {recipe.seed}: run it">'
        f'<div class="frame"><div class="film pixel" data-frames="{frames}" '
        f'style="--frames:{frames};background-image:url({address})"></div></div></a>'
    )


def route_of(family: Family) -> str:
    """The address of a family, relative to the base of the pages."""
    return family.route.strip("/")

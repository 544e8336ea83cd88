"""Erasure lab: one concept, one noise, every way to erase it, judged by four questions."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import gradio as gr

from engine.core.recipe import Recipe
from engine.erasing.erasure_lab import ORIGINAL, methods
from pages import _fields as fields
from pages import _files
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls
from pages._frame import Frame
from pages._markup import escape
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.erasing._evaluation import ParetoPoint, Scores
    from engine.erasing.erasure_lab.results import Comparison
    from engine.metrics.intervals import Rate

CONCEPT = "neon style"
SUGGESTIONS = ("neon style", "sketch style", "penguin", "car")
CHOSEN = ("negative prompt", "word filter", "UCE", "SPM")
ATTACKS = ("paraphrase", "closed form", "inversion")
NONE_YET = '<p class="note">The table grows row by row once the sheet is drawn.</p>'


def build(frame: Frame) -> None:
    """What to erase and how; the sheet; the table; the plane of kept and erased; the files."""
    run = frame.stage("run", "Compare")
    with run.ask:
        concept = gr.Textbox(
            CONCEPT,
            label="Erase",
            info="An object or a style of the embedded world",
            elem_classes="headline",
            max_length=100,
            elem_id="lab-concept",
        )
        fields.suggestions("lab-concept", SUGGESTIONS)
    with run.settings:
        inputs = _settings(frame)
    with run.shown:
        sheet = gr.HTML(first_look(), elem_id="lab-sheet")
    with run.below:
        table = gr.HTML(NONE_YET, elem_id="lab-table")
        plane = plots.place("Erased against kept, by method and strength", visible=False)
        files = gr.File(
            label="Table, pictures and recipe",
            visible=False,
            interactive=False,
            file_count="multiple",
        )
    run.wire(
        {"concept": concept, **inputs},
        draw,
        [sheet, table, plane, files],
        number=best,
        film=lambda result: [row.pictures[0] for row in result.rows],
        also=[concept.submit],
    )
    frame.breaks(
        "With one picture a group, every interval covers nearly everything, so nothing "
        "can be concluded.",
        "16 or more pictures a group. Look at the intervals before the shares.",
        {"concept": CONCEPT, "methods": ["word filter", "UCE"], "each": 1, "sweep": 0},
    )


def _settings(frame: Frame) -> Controls:
    chosen = gr.CheckboxGroup(
        list(methods()),
        value=list(CHOSEN),
        label="Compare",
        info="ESD and concept ablation train for some seconds each; the original is always there",
    )
    each = gr.Slider(
        1,
        64,
        value=4,
        step=1,
        label="Pictures a group",
        info="Counted for every group and attack; 16 and more for a statement",
    )
    attacks = gr.CheckboxGroup(
        list(ATTACKS),
        value=["paraphrase", "closed form"],
        label="Attacks",
        info="Inversion learns a word on each model, some ten seconds each",
    )
    frame.seed(0)
    frame.model()
    with gr.Accordion("More settings", open=False):
        anchor = gr.Textbox(
            "", label="Draw instead", info="Empty: its category, or plain style", max_length=100
        )
        sweep = gr.Slider(
            0,
            4,
            value=2,
            step=1,
            label="Strengths in the plane",
            info="2 adds one halfway between none and all",
        )
        sampling = fields.sampling(8, least=3)
    return {
        "methods": chosen,
        "each": each,
        "attacks": attacks,
        "anchor": anchor,
        "sweep": sweep,
        **sampling,
    }


def first_look() -> str:
    return parts.shots([Shot(name, None, "") for name in (ORIGINAL, *CHOSEN)])


# ---------------------------------------------------------------------- drawing


def draw(result: "Comparison", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The sheet and the table as they grow; at the end the files."""
    asked: Any = recipe.params["methods"]
    is_whole = {row.name for row in result.rows} >= set(asked)
    shown = sheet(result, asked, is_whole), scores_table(result), plane(result)
    if not ended:
        return shown
    return *shown, gr.File(value=written(result, recipe), visible=True)


def best(result: "Comparison", recipe: Recipe) -> Number | None:
    """The highest harmonic mean H of gone, gone under paraphrase, and kept; and the lowest."""
    found = [
        (one.harmonic_words, one.name)
        for one in result.scores[1:]
        if one.strength == 1 and one.harmonic_words is not None
    ]
    if len(found) < 2:
        return None
    (low, worst), (high, name) = min(found), max(found)
    what = f"the word erased, all else kept; 1 is best: {worst} → {name}"
    return Number(what, f"{high:.2f}", f"{low:.2f}")


def sheet(result: "Comparison", asked: Sequence[str], is_whole: bool) -> str:
    """One column a prompt with its group, one row a model."""
    titles = {"target": "names it", "paraphrase": "paraphrase"}
    columns = [
        f"{prompt} · {titles.get(group, group)}"
        for prompt, group in zip(result.prompts, result.groups, strict=True)
    ]
    rows = {row.name: (row.pictures, row.verdicts) for row in result.rows}
    told = (
        f'<p class="note">Instead: “{escape(result.anchor)}”. Told to keep, and so not counted as '
        f"kept: {escape(', '.join(result.kept_words))}.</p>"
    )
    return _first(result, asked) + parts.sheet(columns, rows, is_whole=is_whole) + told


def _first(result: "Comparison", asked: Sequence[str]) -> str:
    """The first prompt by every model, side by side; those to come have their places."""
    rows = {row.name: row for row in result.rows}
    cards = []
    for place, name in enumerate((ORIGINAL, *asked)):
        row = rows.get(name)
        picture = row.pictures[0] if row else None
        said = (row.verdicts[0],) if row and row.verdicts else ()
        mark = (place - 1) % 4 if place else None
        cards.append(Shot(name, picture, f"{result.prompts[0]}, {name}", said, mark=mark))
    return parts.shots(cards)


HEADS = (
    ("Erased", ("gone", "nothing left")),
    ("Kept", ("near", "far", "same-seed change")),
    ("Robust: comes back", ()),
    ("Cost", ("to make", "a picture", "numbers", "undone by")),
)


def scores_table(result: "Comparison") -> str:
    """One row a method, the columns by question, intervals below the rates."""
    if not result.scores:
        return NONE_YET
    attacks = list(dict.fromkeys(name for s in result.scores for name in s.attacks)) or ["attacks"]
    groups = [(title, attacks if title.startswith("Robust") else names) for title, names in HEADS]
    top = "".join(f'<th colspan="{len(names)}">{title}</th>' for title, names in groups)
    below = "".join(f"<th>{name}</th>" for _, names in groups for name in names)
    first = result.scores[0]
    whole = [one for one in result.scores if one.strength == 1]
    rows = "".join(_row(one, first, attacks) for one in whole)
    gate = f'<p class="note"><b>{escape(result.gate)}</b></p>' if result.gate else ""
    notes = markup.notes(*result.notes)
    return (
        '<div class="heading level-3"><h3>Four questions</h3><p>Shares of '
        f"{result.each} pictures a group; below each its 95 % interval. H is the harmonic mean of "
        "what is gone, what stays gone under paraphrase, and what is kept; below it the same under "
        "the strongest attack.</p></div>"
        f'{gate}<div class="scroll" tabindex="0"><table class="plain scores"><thead><tr>'
        f"<th></th><th></th>{top}</tr><tr><th>method</th><th>H</th>{below}</tr></thead><tbody>"
        f"{rows}</tbody></table></div>{notes}"
    )


def _row(one: "Scores", first: "Scores", attacks: Sequence[str]) -> str:
    is_first = one is first
    gone = None if one.target is None else one.target.complement
    overall = [
        "–" if value is None or is_first else f"{value:.2f}"
        for value in (one.harmonic_words, one.harmonic)
    ]
    cells = [
        f"<td><b>{escape(one.name)}</b></td><td>{overall[0]}<br>"
        f"<small>{overall[1]} under all</small></td>",
        _cell(gone, good=not is_first),
        _cell(one.nothing),
        _cell(one.near, good=not is_first),
        _cell(one.far, good=not is_first),
        f"<td>{one.change.value:.1f}<br><small>{one.change.low:.1f} – {one.change.high:.1f}"
        "</small></td>",
        *(_cell(one.attacks.get(attack), bad=not is_first) for attack in attacks),
        f"<td>{one.train_seconds:.1f} s</td>",
        f"<td>{one.picture_seconds:.2f} s</td>",
        f"<td>{one.parameters:,}</td>",
        f"<td>{escape(one.undo)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(rate: "Rate | None", *, good: bool = False, bad: bool = False) -> str:
    """A rate with its interval; a bar says the same as the number."""
    if rate is None:
        return "<td>–</td>"
    tone = "good" if good else "bad" if bad else ""
    return (
        f'<td class="{tone}" style="--share:{rate.rate:.3f}">{100 * rate.rate:.0f} %'
        f"<br><small>{100 * rate.low:.0f} – {100 * rate.high:.0f}</small></td>"
    )


def plane(result: "Comparison") -> object:
    """Erased against kept, one line a method from no strength to all of it."""
    if not result.points:
        return gr.skip()
    start = result.points[0]
    names = dict.fromkeys(point.name for point in result.points[1:])
    lines = [
        Line(
            ORIGINAL,
            [100 * start.kept],
            [100 * start.erased],
            neutral=True,
            hover=[f"original: kept {start.kept:.0%}, erased {start.erased:.0%}"],
        )
    ]
    for place, name in enumerate(names):
        points = sorted((p for p in result.points if p.name == name), key=lambda p: p.strength)
        swept = [start, *points] if len(points) > 1 else points
        lines.append(
            Line(
                name,
                [100 * point.kept for point in swept],
                [100 * point.erased for point in swept],
                place,
                hover=[_told(point, name) for point in swept],
            )
        )
    best = [point for point in result.points if point.best]
    lines.append(
        Line(
            "not beaten",
            [100 * point.kept for point in best],
            [100 * point.erased for point in best],
            neutral=True,
            hover=[f"{_told(point, point.name)}: no other point beats it" for point in best],
        )
    )
    figure = plots.curves(lines, "kept, %", "erased, %", height=420, percent=True)
    return plots.shown(figure)


def _told(point: "ParetoPoint", name: str) -> str:
    strength = f", strength {point.strength:g}" if point.strength != 1 else ""
    return f"{name}{strength}: kept {point.kept:.0%}, erased {point.erased:.0%}"


# ---------------------------------------------------------------------- files


def written(result: "Comparison", recipe: Recipe) -> list[str]:
    """The table, every counted picture and the recipe, so that a reader can count again."""
    scores = [_flat(asdict(one)) for one in result.scores]
    texts = {
        "scores.csv": _csv(scores),
        "pictures.csv": _csv([asdict(one) for one in result.seen]),
        "comparison.json": json.dumps(
            {
                "recipe": json.loads(recipe.json()),
                "concept": result.concept,
                "anchor": result.anchor,
                "kept words": list(result.kept_words),
                "gate": result.gate,
                "scores": [asdict(one) for one in result.scores],
                "points": [asdict(one) for one in result.points],
                "pictures": [asdict(one) for one in result.seen],
            },
            indent=1,
            ensure_ascii=False,
        ),
    }
    made = _files.written({name: text.encode() for name, text in texts.items()})
    return [str(path) for path in made]


def _flat(row: dict[str, Any], before: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name} ")
        else:
            flat[f"{before}{name}"] = value
    return flat


def _csv(rows: Sequence[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(dict.fromkeys(k for row in rows for k in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()

"""The MR sampler: a damaged picture restored in few evaluations, beside what was used before."""

from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.sampling.mr_sampler import (
    AUTO,
    EXAMPLES,
    FIT_TARGETS,
    METHODS,
    SPACINGS,
    TABLES,
    TASKS,
    UNKNOWN,
)
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._markup import escape
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.sampling._plane import Plane
    from engine.sampling.mr_sampler.results import Comparison, Restored, Scores, Walk

FIRST = ("mrs_ode_d_2", "posterior_strided", "posterior_released")
CURVE = [1, 2, 5, 10, 20]
EXPLODED = 3.0
"""Beyond this a value of a picture, which should lie in [0, 1], is called out."""
FIGURES = {
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "distance": "distance of features",
}
LARGEST_SHOWN = 1024


def build(frame: Frame) -> None:
    """The controls, what they mean as settings, and where the events are drawn."""
    run = frame.stage("run", "Restore", tab="Side by side")
    with run.ask:
        example = gr.Dropdown(
            [(one.title, name) for name, one in EXAMPLES.items()],
            value="flower",
            label="Picture",
            info="None of them was in the training",
        )
        task = gr.Dropdown(
            [*((title, name) for name, title in TASKS.items()), ("none", UNKNOWN)],
            value="low_light",
            label="Damage, done here",
        )
        nfe = gr.Slider(
            1, 100, 5, step=1, label="NFE", info="Network evaluations a method may spend"
        )
    with run.settings:
        inputs = _settings(frame)
    with run.shown:
        empty = [Shot("Damaged", None, "")]
        empty += [Shot(METHODS[name].title, None, "", mark=i) for i, name in enumerate(FIRST)]
        shown = gr.HTML(parts.shots(empty))
    with run.below:
        parts.heading(
            "What each evaluation buys",
            "On the middle of the picture; the dotted line is the damaged picture itself.",
        )
        places = []
        with gr.Row(elem_classes="curves"):
            for title in FIGURES.values():
                with gr.Column():
                    places.append(plots.place(title))
        ways = plots.place("Ways", visible=False)
    run.wire(
        {"example": example, "task": task, "nfe": nfe, **inputs},
        draw,
        [shown, *places, ways],
        number=number,
        params=run_params,
        back=lambda params: params | {"curve": bool(params.get("curve", True))},
        turned=[nfe],
    )
    shared = {name: inputs[name] for name in ("spacing", "fit_target", "tables")}
    build_restore(frame, shared)
    frame.breaks(
        "This variant extends the noise and not the picture, which multiplies its "
        "error by e^h. With 5 evaluations the stochastic form explodes.",
        "a variant that extends the picture, such as MRS-ODE-d-2, or the strided posterior.",
        {"task": "low_light", "nfe": 5, "methods": ["mrs_sde_n_1", "mrs_sde_d_1", "mrs_ode_d_2"]},
    )


def _settings(frame: Frame) -> Controls:
    strength = gr.Slider(0, 1, 0.5, step=0.05, label="Strength of the damage")
    methods = gr.Dropdown(
        [(method.title, name) for name, method in METHODS.items()],
        value=list(FIRST),
        multiselect=True,
        max_choices=4,
        label="Methods",
        info="Up to four, from the same noise",
    )
    frame.seed(7)
    frame.model()
    with gr.Accordion("More settings", open=False):
        more = {
            "spacing": gr.Dropdown(
                fields.options(SPACINGS), value="auto", label="Spacing of the steps"
            ),
            "fit_target": gr.Dropdown(
                [
                    ("what serves best", AUTO),
                    *((title, name) for name, title in FIT_TARGETS.items()),
                ],
                value=AUTO,
                label="The network predicts",
            ),
            "tables": gr.Dropdown(
                fields.options(TABLES),
                value="ln alpha",
                label="Tables read, between their entries",
            ),
            "curve": gr.Checkbox(True, label="Measure quality against NFE"),
            "plane": gr.Checkbox(False, label="Draw the paths in their main plane"),
            "picture": fields.picture_field(
                label="Your picture (its middle square is used), or else the one chosen above",
                height=200,
            ),
        }
    return {"strength": strength, "methods": methods, **more}


def run_params(values: Settings) -> Settings:
    """The settings of `run` as the controls give them."""
    return fields.with_picture(values) | {"curve": CURVE if values["curve"] else []}


# ---------------------------------------------------------------------- the comparison


def draw(seen: "Comparison", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Pictures with their figures, the cut through the first one, curves, and the plane."""
    order = parts.order_of(recipe, "methods")
    cards = [damaged_shot(seen, recipe)]
    cards += [walk_shot(walk, order, recipe, ended) for walk in seen.walks]
    walked = [walk.method for walk in seen.walks]
    cards += [
        Shot(METHODS[name].title, None, "", mark=order[name])
        for name in order
        if name not in walked
    ]
    done = len(walked) == len(order) and all(w.picture is not None or w.fault for w in seen.walks)
    html = parts.shots(cards, scrub=done, ends=("first guess", "restored"))
    if done:
        html += before_after(seen, recipe, ended)
    curves = [curve_plot(seen, order, figure) for figure in FIGURES]
    if seen.plane is None:
        return (html, *curves, gr.update(visible=False))
    return (html, *curves, gr.update(value=plane_plot(seen.plane, order), visible=True))


def number(seen: "Comparison", recipe: Recipe) -> Number | None:
    """How like the picture before the damage the last and the first of the methods come."""
    marks = [(walk.title, walk.scores.psnr) for walk in seen.walks if walk.scores is not None]
    if len(marks) < 2 or len(marks) < len(seen.walks):
        return None
    (ours, after), (other, before) = marks[0], marks[-1]
    what = f"PSNR in dB at {recipe.params['nfe']} evaluations: {other} → {ours}"
    return Number(what, f"{after:.1f}", f"{before:.1f}")


def damaged_shot(seen: "Comparison", recipe: Recipe) -> Shot:
    """The picture that all methods begin from."""
    task = TASKS.get(str(recipe.params["task"]), "as it came")
    lines = [figures_line(seen.damaged_scores)] if seen.damaged_scores else []
    return Shot("Damaged", seen.damaged, f"the damaged picture: {task}", (task, *lines))


def walk_shot(walk: "Walk", order: dict[str, int], recipe: Recipe, ended: bool) -> Shot:
    """One method's picture, or its latest guess while it is under way."""
    picture = walk.picture if walk.picture is not None else (walk.frames or (None,))[-1]
    lines = [f"{walk.nfe} NFE · {walk.seconds:.1f} s"]
    if walk.scores is not None:
        lines.append(figures_line(walk.scores))
    if walk.largest > EXPLODED:
        lines.append(f"✗ left [0, 1]: its largest value was {walk.largest:.3g}, clipped here")
    if walk.fault:
        lines = [walk.fault]
    stamped = recipe.stamp(parts.png(walk.picture)) if ended and walk.picture is not None else None
    return Shot(
        walk.title,
        picture,
        f"restored by {walk.title} with {walk.nfe} evaluations",
        tuple(lines),
        np.stack(walk.frames) if walk.picture is not None and walk.frames else None,
        stamped,
        f"{walk.method}-{walk.nfe}-nfe-seed-{recipe.seed}.png",
        mark=order.get(walk.method),
    )


def figures_line(scores: "Scores") -> str:
    """PSNR, SSIM and the distance of features in a line."""
    said = [f"{scores.psnr:.1f} dB"]
    if scores.ssim is not None:
        said.append(f"SSIM {scores.ssim:.2f}")
    if scores.distance is not None:
        said.append(f"distance {scores.distance:.3f}")
    return " · ".join(said)


def before_after(seen: "Comparison", recipe: Recipe, ended: bool) -> str:
    """The damaged picture and the first method's under one cut, the original, and what is left."""
    first = next((walk for walk in seen.walks if walk.picture is not None), None)
    if first is None or first.picture is None or seen.damaged is None:
        return ""
    # The very file of its card above, so that a page holds it once.
    stamped = recipe.stamp(parts.png(first.picture)) if ended else None
    cards: list[Shot | str] = [
        parts.cut(seen.damaged, first.picture, ("damaged", first.title), stamped=stamped),
    ]
    if seen.truth is not None:
        gap = parts.difference(seen.truth, first.picture)
        cards += [
            Shot("Original", seen.truth, "the original", ("what the network never saw",)),
            Shot(
                "What is left",
                gap.picture,
                f"difference of the original and {first.title}, {gap.scale}",
                (f"mean {gap.mean:.1f} of 255", gap.scale),
            ),
        ]
    return f'<h3 class="between">Before and after</h3>{parts.shots(cards)}'


def curve_plot(seen: "Comparison", order: dict[str, int], figure: str) -> PlotData:
    """One figure of quality against network evaluations, a line a method."""
    lines = []
    for name, place in order.items():
        points = [p for p in seen.curve if p.method == name and getattr(p, figure) is not None]
        title = METHODS[name].title
        lines.append(
            Line(
                title,
                [point.nfe for point in points],
                [getattr(point, figure) for point in points],
                place,
                hover=[f"{title}<br>{p.nfe} NFE: {getattr(p, figure):.3f}" for p in points],
            )
        )
    base = getattr(seen.damaged_point, figure) if seen.damaged_point is not None else None
    if base is not None:
        ends = [min(CURVE), max(CURVE)]
        lines.append(Line("damaged", ends, [base, base], neutral=True, marks=False))
    title = "network evaluations (NFE)"
    return plots.curves(lines, title, FIGURES[figure], log_x=True, height=320)


def plane_plot(plane: "Plane", order: dict[str, int]) -> PlotData:
    """The ways through the space of pictures, from noise around the damaged one."""
    shares = [f"{share:.0%} of the variance" for share in plane.explained]
    lines = [
        Line(
            METHODS[track.name].title,
            track.points[:, 0].tolist(),
            track.points[:, 1].tolist(),
            order.get(track.name, 0),
        )
        for track in plane.tracks
    ]
    return plots.curves(lines, f"first component, {shares[0]}", f"second, {shares[1]}")


# ---------------------------------------------------------------------- a whole picture


def build_restore(frame: Frame, shared: Controls) -> None:
    """A picture of any size, tile by tile."""
    restore = frame.stage("restore", "Restore it", tab="A whole picture")
    with restore.ask:
        gr.HTML(
            markup.notes(
                "Cut into overlapping tiles that see the same noise where they meet, restored one "
                "after another and blended."
            )
        )
        example = gr.Dropdown(
            [(one.title, name) for name, one in EXAMPLES.items()],
            value="rocket",
            label="Example",
            info="Is damaged here",
        )
    with restore.settings:
        picture = fields.picture_field(
            label="Your picture, or else the example",
            height=220,
        )
        damage = gr.Checkbox(
            False, label="Damage it here first", info="So that the result can be measured"
        )
        task = gr.Dropdown(
            [*((title, name) for name, title in TASKS.items()), ("not known", UNKNOWN)],
            value="rain",
            label="Kind of damage",
        )
        strength = gr.Slider(0, 1, 0.5, step=0.05, label="Strength, if the damage is done here")
        method = gr.Dropdown(
            [(one.title, name) for name, one in METHODS.items()],
            value="mrs_ode_d_2",
            label="Method",
        )
        nfe = gr.Slider(1, 100, 5, step=1, label="NFE", info="For each tile")
        with gr.Accordion("More settings", open=False):
            tile = gr.Slider(64, 256, 128, step=32, label="Side of a tile")
            overlap = gr.Slider(0, 32, 32, step=8, label="Overlap of tiles")
    with restore.shown:
        shown = gr.HTML(parts.shots([Shot("Before", None, ""), Shot("After", None, "")]))
    restore.wire(
        {
            "picture": picture,
            "damage": damage,
            "example": example,
            "task": task,
            "strength": strength,
            "solver": method,
            "nfe": nfe,
            "tile": tile,
            "overlap": overlap,
            **shared,
        },
        draw_restore,
        [shown],
        number=gained,
        params=restore_params,
    )


def restore_params(values: Settings) -> Settings:
    """The settings of `restore`; a picture keeps its size."""
    return fields.with_picture(values, side=None)


def draw_restore(seen: "Restored", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Before and after under one cut, and what was done."""
    if seen.before is None:
        return ()
    before, lines = shrunk(seen.before), []
    if seen.before_scores is not None:
        lines.append(figures_line(seen.before_scores))
    if seen.after is None:
        cards: list[Shot | str] = [Shot("Before", before, "the damaged picture", tuple(lines))]
        return (parts.shots([*cards, Shot("After", None, "")]),)
    height, width = seen.after.shape[:2]
    said = [f"{width} x {height} pixels in {seen.tiles} tiles", f"{seen.nfe} NFE a tile"]
    if not ended:
        cards = [Shot("Before", before, "the damaged picture", tuple(lines))]
        cards += [Shot("After", shrunk(seen.after), "restored so far", tuple(said))]
        return (parts.shots(cards),)
    if seen.scores is not None:
        said.append(figures_line(seen.scores))
    cards = [
        parts.cut(before, shrunk(seen.after), ("before", "after")),
        Shot(
            seen.title,
            shrunk(seen.after),
            f"restored by {seen.title}",
            (*said, f"{seen.seconds:.1f} s"),
        ),
    ]
    link = parts.data_url(recipe.stamp(parts.png(seen.after)))
    name = f"restored-{recipe.params['solver']}-{recipe.params['nfe']}-nfe.png"
    save = f'<p><a class="quiet" download="{escape(name)}" href="{link}">Save PNG</a></p>'
    return (parts.shots(cards) + save,)


def gained(seen: "Restored", recipe: Recipe) -> Number | None:
    """How like the original the picture is, damaged and restored; else what the tiles cost."""
    if seen.after is None:
        return None
    if seen.scores is not None and seen.before_scores is not None:
        before, after = seen.before_scores.psnr, seen.scores.psnr
        return Number("likeness to the original (PSNR, dB)", f"{after:.1f}", f"{before:.1f}")
    return Number("network evaluations, a tile times tiles", f"{seen.nfe} × {seen.tiles}")


def shrunk(picture: np.ndarray) -> np.ndarray:
    """A picture small enough for a page, by leaving out rows and columns; saved ones are whole."""
    stride = -(-max(picture.shape[:2]) // LARGEST_SHOWN)
    return np.ascontiguousarray(picture[::stride, ::stride])

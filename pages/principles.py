"""The exact world: draw a density, and see solvers, readings, guidance and flow maps against it."""

import csv
import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.sampling.principles import (
    PROCESSES,
    READINGS,
    SOLVERS,
    SPACINGS,
    TARGETS,
    THREE_MODES,
    WORLDS,
)
from pages import _fields as fields
from pages import _markup as markup
from pages import _plots as plots
from pages._frame import Frame
from pages._look import ASSETS, SERIES
from pages._markup import Html, escape
from pages._planes import INK, VIEW, arrows, capped, dotted, figure, heat, plane, scatter
from pages._plots import time_scrubber
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.sampling.principles.algorithm import Agreement, Orders, Point, Slope, Trail, Views
    from engine.sampling.principles.flow_map import FlowMap
    from engine.sampling.principles.guidance import Guided

EDGE = 4.0
ALLOWED = 0.15
# Colour tells the order that a solver promises, the mark tells it from others of that order.
MARKS = {
    "euler_t": ("○", "circle-open"),
    "ddim": ("●", "circle"),
    "heun": ("◇", "diamond-open"),
    "dpmpp_2m": ("■", "square"),
    "dpmpp_2m_exact": ("□", "square-open"),
    "unipc2": ("▲", "triangle-up"),
    "rk4": ("★", "star"),
}
ARROWS = {"x0": INK, "eps": SERIES[0], "score": SERIES[1], "v": SERIES[2], "u": SERIES[3]}
SYMBOLS = {"x0": "x̂₀", "eps": "ε̂", "score": "∇ log p", "v": "v", "u": "u"}


def build(frame: Frame) -> None:
    """The world on one side, what can be done with it on the other."""
    with gr.Row(elem_classes="exact-world"):
        with gr.Column(elem_classes="world-side"):
            world = world_editor(frame)
            frame.seed(7)
        with gr.Column(elem_classes="world-main"):
            build_orders(frame, world)
            build_views(frame, world)
            build_guidance(frame, world)
            build_flow_map(frame, world)
    frame.breaks(
        "A high order pays off only with many evaluations. With 8 of them, Heun "
        "(second order, two evaluations a step) ends farther from the truth than DDIM "
        "(first order).",
        "DPM-Solver++ 2M, which solves the linear part exactly, or 32 evaluations.",
        {"nfe": 8, "solvers": ["ddim", "heun", "dpmpp_2m"]},
    )


def world_editor(frame: Frame) -> gr.Textbox:
    """The picture that can be drawn in, and the text that it writes."""
    presets = "".join(
        f'<button type="button" data-preset="{escape(text)}">{escape(name)}</button>'
        for name, text in WORLDS.items()
    )
    knobs = "".join(
        f'<button type="button" data-knob="{knob}">{words}</button>'
        for knob, words in (
            ("wide", "wider"),
            ("narrow", "narrower"),
            ("class", "other class"),
            ("remove", "remove"),
        )
    )
    gr.HTML(
        f'<div data-world data-field="{frame.entry.slug}-world" data-slug="{frame.entry.slug}">'
        '<h3>Your world</h3><div class="world-row" role="group" aria-label="Ready worlds">'
        f'{presets}</div><div class="world-box"><canvas width="110" height="110" role="img" '
        'aria-label="The density of the data; its modes are listed below"></canvas>'
        '<svg viewBox="-3 -3 6 6" role="group" aria-label="Modes of the world"></svg></div>'
        f'<div class="world-row" role="group" aria-label="The chosen mode">{knobs}</div>'
        '<p class="world-help">Click to add a mode, drag to move it. Keys: arrows, + and −, '
        'C for the class, Delete. <span data-said role="status"></span></p></div>',
        js_on_load=(ASSETS / "panels" / "world.js").read_text("utf-8"),
        css_template=(ASSETS / "panels" / "world.css").read_text("utf-8"),
    )
    return gr.Textbox(
        THREE_MODES,
        label="Modes",
        info="One mode a line: weight, x, y, variance, class",
        lines=4,
        max_lines=8,
        max_length=2000,
        elem_id=f"{frame.entry.slug}-world",
        elem_classes="mono",
    )


# ---------------------------------------------------------------------- curves and orders


def build_orders(frame: Frame, world: gr.Textbox) -> None:
    """Solvers from one noise, and how fast their errors fall.

    Every noise point has one true curve to the data, drawn in ink. Solvers look at the field "
    "only a few times and try to stay on that curve.
    """
    action = frame.stage("run", "Run", tab="Curves and orders")
    with action.ask:
        nfe = gr.Slider(
            4, 64, 8, step=1, label="NFE", info="Network evaluations of the curves on the left"
        )
        spacing = gr.Dropdown(
            fields.options(SPACINGS),
            value="uniform_lam",
            label="Spacing of the steps",
            info="Equal steps in time cost UniPC its third order",
        )
    with action.settings:
        solvers = gr.CheckboxGroup(
            [(title, name) for name, (title, _) in SOLVERS.items()],
            value=list(SOLVERS),
            label="Solvers",
        )
    with action.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            curves = plots.place("Curves", elem_id="principles-curves")
            time_scrubber("principles-curves", 20, "Noise level behind the curves", "t = 0.001")
        with gr.Column():
            errors = plots.place("Errors")
    with action.below:
        table = gr.HTML()
    action.wire(
        {"world": world, "nfe": nfe, "spacing": spacing, "solvers": solvers},
        draw_orders,
        [curves, errors, table],
        number=orders_apart,
        film=lambda result: [dotted(one, np.zeros((0, 2))) for one in result.scenes[::-1]],
        turned=[nfe, spacing],
    )


def draw_orders(result: "Orders", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Curves once they are there, then the errors point by point, then what they amount to."""
    if len(result.points) > 2 * len(result.trails) and not ended:
        return gr.skip(), order_plot(result.points, result.slopes), orders_table(result, recipe)
    errors = order_plot(result.points, result.slopes)
    return curve_plot(result, all_times=ended), errors, orders_table(result, recipe)


def orders_apart(result: "Orders", recipe: Recipe) -> Number | None:
    """The median error of DDIM and of DPM-Solver++ 2M at the same number of evaluations."""
    errors = {t.solver: t.error for t in result.trails if t.error is not None}
    if not {"ddim", "dpmpp_2m"} <= set(errors):
        return None
    what = f"error at {recipe.params['nfe']} evaluations: DDIM → DPM-Solver++ 2M"
    return Number(what, markup.figure(errors["dpmpp_2m"], 2), markup.figure(errors["ddim"], 2))


def curve_plot(result: "Orders", *, all_times: bool) -> PlotData:
    """The density at a noise level, the true curves in ink, the solvers' steps in colour."""
    times = result.scene_times if all_times else result.scene_times[-1:]
    scenes = result.scenes if all_times else result.scenes[-1:]
    last = len(times) - 1
    traces = [heat(scene, VIEW, visible=k == last) for k, scene in enumerate(scenes)]
    for k, t in enumerate(times):
        now = at_time(result.truth, float(t)) if result.truth is not None else np.zeros((0, 2))
        dots = scatter(now, INK, mode="markers", size=11)
        traces.append(dots | {"visible": k == last})
    for trail in result.trails:
        traces.append(steps_of(trail))
    if result.truth is not None:
        for curve in result.truth.states.transpose(1, 0, 2):
            traces.append(scatter(curve, INK, mode="lines", width=2.5))
    return plane(traces, "z₁", "z₂", meta={"times": [float(t) for t in times]})


def steps_of(trail: "Trail") -> dict[str, object]:
    """All shown particles of one solver as one line with gaps."""
    states = np.clip(trail.states.astype(np.float64), -50, 50)
    gap = np.full((1, 2), np.nan)
    line = np.concatenate([np.concatenate([one, gap]) for one in states.transpose(1, 0, 2)])
    title, order = SOLVERS[trail.solver]
    _, symbol = MARKS[trail.solver]
    drawn = scatter(line, SERIES[order - 1], mode="lines+markers", width=1.3, size=6)
    drawn["marker"]["symbol"] = symbol
    return drawn | {"name": title, "hovertemplate": f"{title}<extra></extra>"}


def at_time(trail: "Trail", t: float) -> np.ndarray:
    """Where the points of the true curves are at this time."""
    order = np.argsort(trail.times)
    return np.stack(
        [
            np.stack([np.interp(t, trail.times[order], one[order, axis]) for axis in (0, 1)])
            for one in trail.states.transpose(1, 0, 2)
        ]
    )


def order_plot(points: "Sequence[Point]", slopes: "Sequence[Slope]") -> PlotData:
    """Error against NFE on two logarithmic axes: an order is a slope."""
    traces = []
    for name, (title, order) in SOLVERS.items():
        mine = [point for point in points if point.solver == name]
        if not mine:
            continue
        xy = np.array([(point.nfe, max(point.error, 1e-16)) for point in mine])
        trace = scatter(xy, SERIES[order - 1], mode="lines+markers", width=2, size=8)
        trace["marker"]["symbol"] = MARKS[name][1]
        slope = next((one.slope for one in slopes if one.solver == name), None)
        words = "" if slope is None else f", slope {slope:.2f}"
        said = f"{title}{words}<br>%{{x}} evaluations, error %{{y:.2g}}<extra></extra>"
        traces.append(trace | {"name": title, "hovertemplate": said})
    return figure(
        traces,
        "network evaluations",
        "median distance to the true end",
        legend=True,
        xaxis={
            "type": "log",
            "tickvals": [4, 8, 16, 32, 64, 128, 256, 512],
            "range": [0.5, 2.8],
        },
        yaxis={"type": "log", "exponentformat": "power", "dtick": 1},
    )


def orders_table(result: "Orders", recipe: Recipe) -> str:
    """Solver by solver, what is promised and what was measured."""
    slopes = {one.solver: one for one in result.slopes}
    trails = {one.solver: one for one in result.trails}
    rows: list[list[object]] = []
    for name, (title, order) in SOLVERS.items():
        if name not in trails:
            continue
        trail, slope = trails[name], slopes.get(name)
        error = "" if trail.error is None else f"{trail.error:.2g}"
        measured = "" if slope is None else f"{slope.slope:.2f}"
        kept = slope is not None and abs(slope.slope - order) <= ALLOWED
        verdict = "" if len(result.agreements) < 10 else "✓" if kept else "✗"
        by_mean = "" if slope is None else f"{slope.mean_slope:.2f}"
        mark = (
            f'<span class="mark" style="color:{SERIES[order - 1]}" aria-hidden="true">'
            f"{MARKS[name][0]}</span> {escape(title)}"
        )
        rows.append([Html(mark), order, f"{measured} {verdict}", by_mean, trail.nfe, error])
    head = ["solver", "order promised", "slope, last doubling, by the median", "by the mean"]
    head += ["NFE on the left", "median error there"]
    table = markup.table(head, rows, f"Solvers at {recipe.params.get('nfe', 8)} NFE")
    return table + agreements(result.agreements) + exports(result, recipe)


def agreements(result: "Sequence[Agreement]") -> str:
    """One sentence: neither the reading nor the process changes the curve."""
    if len(result) < 10:
        return ""
    worst = max(one.distance for one in result)
    rows = [[one.what, one.name, f"{one.distance:.1e}"] for one in result]
    table = markup.table(["changed", "to", "mean distance of the ends"], rows)
    return (
        f"<p class='verdict'>One curve: a network that predicts noise, clean sample, score, v or "
        f"velocity, on five noising processes, ends at the same points to {worst:.0e}.</p>"
        f"<details><summary>Each of them</summary>{table}</details>"
    )


def exports(result: "Orders", recipe: Recipe) -> str:
    """The errors as CSV, the world as JSON, and the same in a notebook."""
    if len(result.agreements) < 10:
        return ""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["solver", "nfe", "median error", "mean error"])
    for point in result.points:
        writer.writerow([point.solver, point.nfe, repr(point.error), repr(point.mean)])
    lines = [line.split() for line in str(recipe.params["world"]).replace(";", "\n").split("\n")]
    names = ("weight", "x", "y", "variance", "class")
    world = json.dumps([dict(zip(names, line, strict=False)) for line in lines if line], indent=1)
    snippet = NOTEBOOK.format(world=recipe.params["world"], seed=recipe.seed)
    return (
        f'<p class="save"><a class="quiet" download="errors.csv" '
        f'href="data:text/csv,{quote(text.getvalue())}">Save errors as CSV</a> '
        f'<a class="quiet" download="world.json" '
        f'href="data:application/json,{quote(world)}">Save the world as JSON</a></p>'
        f"<details><summary>In a notebook</summary>"
        f'<pre tabindex="0" class="code"><code>{escape(snippet)}</code></pre></details>'
    )


NOTEBOOK = '''from engine.core import rng
from engine.diffusion import grids, schedules
from engine.diffusion.solvers import solve
from engine.sampling.principles.world import world_of

world = world_of("""{world}""")
path = schedules.vp()
noise = rng.noise((64, 2), rng.generator({seed})).double()
model = world.model(path)
for step in solve("unipc2", model, noise, grids.uniform_lam(path, 16)):
    print(step.nfe, step.z[0])
'''


# ---------------------------------------------------------------------- readings


def build_views(frame: Frame, world: gr.Textbox) -> None:
    """One state, five coordinates: noise, clean sample, score and velocities are one field."""
    action = frame.stage("views", "Show", tab="Five readings")
    with action.ask:
        reading = gr.Radio(
            fields.options(READINGS),
            value="score",
            label="The network predicts",
        )
        t = gr.Slider(0.01, 1, 0.35, step=0.01, label="t", info="0 is data, 1 is noise")
    with action.settings:
        process = gr.Dropdown(fields.options(PROCESSES), value="vp", label="Process")
        x = gr.Slider(-2.5, 2.5, -0.4, step=0.05, label="State, x")
        y = gr.Slider(-2.5, 2.5, 0.6, step=0.05, label="State, y")
    with action.shown:
        field = plots.place("Field")
    with action.below:
        numbers = gr.HTML()
    action.wire(
        {"world": world, "process": process, "reading": reading, "t": t, "x": x, "y": y},
        draw_views,
        [field, numbers],
        number=back_again,
        turned=[t, reading, process, x, y],
    )


def draw_views(result: "Views", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The field and the arrows; the numbers when all are there."""
    numbers = views_numbers(result) if ended else gr.skip()
    return field_plot(result), numbers


def back_again(result: "Views", recipe: Recipe) -> Number:
    """The largest error of turning one reading into another and back."""
    return Number(
        "turned into one another and back, error", markup.figure(float(result.trips.max()))
    )


def field_plot(result: "Views") -> PlotData:
    """Arrows of one reading on a grid, and of all five at the state."""
    longest = np.percentile(np.linalg.norm(result.arrows, axis=1), 80)
    shown = capped(result.arrows * 0.3 / max(longest, 1e-9), 0.36)
    traces = [heat(result.scene, VIEW)]
    traces.append(arrows(result.points, shown, "rgba(128,120,108,0.95)", width=1.2, head=5))
    for name, value in zip(READINGS, result.values, strict=True):
        arrow = value - result.state if name == "x0" else capped(value[None], 1.6)[0]
        drawn = arrows(result.state[None], arrow[None], ARROWS[name], width=3, head=12)
        said = f"{READINGS[name]} ({value[0]:.3f}, {value[1]:.3f})<extra></extra>"
        traces.append(drawn | {"hovertemplate": said})
        tip = (result.state + arrow + 0.18 * arrow / max(np.linalg.norm(arrow), 1e-9)).tolist()
        traces.append(
            {
                "type": "scatter",
                "mode": "text",
                "x": tip[:1],
                "y": tip[1:],
                "text": [SYMBOLS[name]],
                "textfont": {"color": ARROWS[name], "size": 15},
                "hoverinfo": "skip",
            }
        )
    traces.append(scatter(result.state[None], INK, mode="markers", size=10))
    return plane(traces, "z₁ / √(a² + s²)", "z₂ / √(a² + s²)")


def views_numbers(result: "Views") -> str:
    """The readings as numbers, the round trips, and the losses that are one loss."""
    readings = [
        [
            Html(
                f'<span style="color:{"var(--ink)" if name == "x0" else ARROWS[name]}">'
                f"{SYMBOLS[name]}</span> {escape(title)}"
            ),
            f"{value[0]:.4f}",
            f"{value[1]:.4f}",
        ]
        for (name, title), value in zip(READINGS.items(), result.values, strict=True)
    ]
    losses = [
        [READINGS[one.reading], f"{one.loss:.4g}", f"{one.weight:.4g}",
         f"{one.loss / one.weight:.6f}"]
        for one in result.losses
    ]  # fmt: skip
    gap = max(one.gap for one in result.losses)
    titles = list(READINGS.values())
    trips = [
        [title, *(f"{error:.0e}" for error in row)]
        for title, row in zip(titles, result.trips, strict=True)
    ]
    return (
        markup.notes(f"a = {result.a:.4g}, s = {result.s:.4g}")
        + markup.table(["at the state", "x", "y"], readings)
        + "<p class='verdict'>Each can be turned into any other and back: largest relative error "
        f"{result.trips.max():.0e}.</p><details><summary>Every round trip</summary>"
        + markup.table(["", *titles], trips, heads=True)
        + "</details><h4>Five losses, one loss</h4>"
        + markup.notes(
            "A perfect network on 256 noisy points of this world. What is left is what nobody can "
            "know."
        )
        + markup.table(["predicts", "loss", "weight", "loss / weight"], losses)
        + f"<p class='verdict'>Equal to {gap:.0e}: the choice of what to predict is a choice of "
        "weights over t.</p>"
    )


# ---------------------------------------------------------------------- guidance


def build_guidance(frame: Frame, world: gr.Textbox) -> None:
    """Guided samples against the density that guidance is said to sample."""
    action = frame.stage("guide", "Guide", tab="Guidance")
    with action.ask:
        gr.HTML(
            '<p class="note">Guidance is often said to sample the tilted density '
            "p<sup>1−w</sup> p<sub>class</sub><sup>w</sup>. Here both are known: the shade is the "
            "tilted density, the dots are where guidance goes.</p>"
        )
        scale = gr.Slider(0, 10, 3, step=0.5, label="Guidance w", info="1 means no guidance")
    with action.settings:
        of_class = gr.Textbox("A", label="Class", max_length=12, info="As written behind the modes")
    with action.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            cloud = plots.place("Samples")
        with gr.Column():
            bars = plots.place("Along x")
    with action.below:
        numbers = gr.HTML()
    action.wire(
        {"world": world, "of_class": of_class, "guidance_scale": scale},
        draw_guidance,
        [cloud, bars, numbers],
        number=tilt,
        also=[of_class.submit],
        turned=[scale],
    )


def draw_guidance(result: "Guided", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Dots on their way, the same along x, and the divergence at the end."""
    shown = result.tilted[::2, ::2]
    side = len(result.tilted)
    line = np.linspace(-EDGE, EDGE, side)
    marginal = result.tilted.sum(0, dtype=np.float64) * 2 * EDGE / (side - 1)
    dots = scatter(result.samples, SERIES[0], mode="markers", size=4) | {"opacity": 0.6}
    cloud = plane([heat(shown, EDGE), dots], "x", "y")
    counts, edges = np.histogram(result.samples[:, 0], bins=60, range=(-VIEW, VIEW), density=True)
    bars = {
        "type": "bar",
        "name": "guided samples",
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "y": counts.tolist(),
        "marker": {"color": SERIES[0], "opacity": 0.55},
        "hovertemplate": "guided %{y:.2f}<extra></extra>",
    }
    curve = scatter(np.stack([line, marginal], 1), INK, mode="lines", width=2.5)
    curve |= {"name": "tilted density", "hovertemplate": "tilted %{y:.2f}<extra></extra>"}
    along = figure([bars, curve], "x", "density along x", legend=True, bargap=0.02)
    return cloud, along, guidance_numbers(result) if ended else gr.skip()


def tilt(result: "Guided", recipe: Recipe) -> Number | None:
    """How far the samples are from the tilted density, without guidance and with it."""
    if result.divergence is None or result.plain is None:
        return None
    what = f"nats from the tilted density: w = 1 → w = {result.guidance_scale:g}"
    return Number(what, f"{result.divergence:.2f}", f"{result.plain:.2f}")


def guidance_numbers(result: "Guided") -> str:
    """How far the guided samples are from the tilted density, and the control without guidance."""
    rows = [
        [one.what, f"{one.mean_x:.3f}, {one.mean_y:.3f}", f"{one.std_x:.3f}, {one.std_y:.3f}"]
        for one in result.summaries
    ]
    low, high = result.interval
    figures = {
        "divergence of guided from tilted": f"{result.divergence:.3f} nats",
        "95 % interval": f"{low:.3f} – {high:.3f}",
        "the same at w = 1, where they must agree": f"{result.plain:.3f}",
    }
    table = markup.table(["", "mean of x, y", "standard deviation"], rows)
    return (
        markup.figures(figures)
        + table
        + markup.notes(
            f"KL divergence, from the exact density of the guided flow at "
            f"{len(result.samples)} samples. Guidance by an exact classifier gives the same field, "
            f"to {result.classifier_gap:.0e}."
        )
    )


# ---------------------------------------------------------------------- flow map


def build_flow_map(frame: Frame, world: gr.Textbox) -> None:
    """A network trained while one watches: it learns where the curves end."""
    action = frame.stage("distil", "Train", tab="Flow map")
    with action.ask:
        gr.HTML(
            markup.notes(
                "A small network learns where the curves end. The ring of 8 shows it best; "
                "nothing is trained beforehand."
            )
        )
        target = gr.Radio(fields.options(TARGETS), value="distillation", label="Trained by")
    with action.settings:
        steps = gr.Slider(200, 4000, 1500, step=100, label="Training steps")
    with action.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            cloud = plots.place("One jump")
        with gr.Column():
            errors = plots.place("Training")
    with action.below:
        numbers = gr.HTML()
    action.wire(
        {"world": world, "target": target, "steps": steps}, draw_map, [cloud, errors, numbers],
        number=one_jump,
    )  # fmt: skip


def draw_map(result: "FlowMap", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Where one call lands now, how its error fell, and what DDIM needs for the same."""
    ends = scatter(result.truth, INK, mode="markers", size=4) | {"name": "ends of the true curves"}
    jumps = scatter(result.cloud, SERIES[0], mode="markers", size=5) | {"name": "one call"}
    cloud = plane([ends | {"opacity": 0.45}, jumps], "x", "y", legend=True)
    return cloud, training_plot(result, recipe), map_numbers(result) if ended else gr.skip()


def one_jump(result: "FlowMap", recipe: Recipe) -> Number | None:
    """How far one call lands from the true end: of DDIM, and of the map so far."""
    first = next((rival for rival in result.rivals if rival.nfe == 1), None)
    if first is None or not len(result.errors):
        return None
    landed = result.errors[-1] if result.one_call is None else result.one_call
    what = "distance to the true end in one call: DDIM → flow map"
    return Number(what, f"{landed:.2f}", f"{first.error:.2f}")


def training_plot(result: "FlowMap", recipe: Recipe) -> PlotData:
    """Error of one call and the loss against training steps, with DDIM as level lines."""
    total = float(str(recipe.params.get("steps", 1500)))
    curve = scatter(np.stack([result.at, result.errors], 1), SERIES[0], mode="lines", width=2.5)
    loss = scatter(
        np.stack([result.at, np.sqrt(result.losses)], 1), SERIES[1], mode="lines", width=1.3
    )
    loss["line"]["dash"] = "dot"
    traces = [curve | {"name": "one call"}, loss | {"name": "√ loss"}]
    for rival in result.rivals:
        level = np.array([[0, rival.error], [total, rival.error]])
        line = scatter(level, INK, mode="lines", width=1)
        line["line"]["dash"] = "dash"
        traces.append(line | {"showlegend": False, "opacity": 0.6})
    notes = [
        {
            "x": 1,
            "xref": "paper",
            "xanchor": "right",
            "yanchor": "bottom",
            "y": float(np.log10(rival.error)),
            "text": f"DDIM, {rival.nfe}",
            "showarrow": False,
            "font": {"size": 12},
        }
        for rival in result.rivals
    ]
    return figure(
        traces,
        "training step",
        "distance to the true end",
        legend=True,
        annotations=notes,
        xaxis={"range": [0, total]},
        yaxis={"type": "log", "exponentformat": "power"},
    )


def map_numbers(result: "FlowMap") -> str:
    """One call against DDIM."""
    assert result.one_call is not None  # a run that ended has jumped
    beaten = [rival.nfe for rival in result.rivals if result.one_call < rival.error]
    worth = max(beaten) if beaten else 0
    verdict = (
        f"One call lands nearer to the truth than {worth} calls of DDIM."
        if worth
        else "One call is not even as good as one of DDIM: train longer."
    )
    rows = [["flow map, one call", f"{result.one_call:.3f}"]]
    if result.two_calls is not None:
        rows.append(["flow map, two calls", f"{result.two_calls:.3f}"])
    rows += [[f"DDIM, {rival.nfe} calls", f"{rival.error:.3f}"] for rival in result.rivals]
    return (
        f"<p class='verdict'>{verdict}</p>"
        + markup.table(["", "mean distance to the true end"], rows)
        + markup.notes(
            f"{result.parameters} parameters, {len(result.truth)} noise points "
            "that the training has not seen."
        )
    )

"""The exact world: draw a density, and see solvers, readings, guidance and flow maps against it."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.job import Done, Progress
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
from pages._frame import Frame
from pages._parts import ASSETS, SERIES, escape, time_scrubber
from pages._planes import INK, VIEW, arrows, capped, figure, heat, plane, scatter

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
PLOT = {"show_label": False, "container": False}


def build(frame: Frame) -> None:
    """The world on one side, what can be done with it on the other."""
    with gr.Row(elem_classes="exact-world"):
        with gr.Column(elem_classes="world-side"):
            world = world_editor(frame)
            frame.seed(7)
        with (
            gr.Column(elem_classes="world-main"),
            gr.Tabs(elem_classes="inner", overflow_behavior="wrap") as tabs,
        ):
            with gr.Tab("Curves and orders", id="run"):
                build_orders(frame, world)
            with gr.Tab("Five readings", id="views"):
                build_views(frame, world)
            with gr.Tab("Guidance", id="guide"):
                build_guidance(frame, world)
            with gr.Tab("Flow map", id="distil"):
                build_flow_map(frame, world)
    frame.opens(tabs, ("views", "guide", "distil"))
    frame.breaks(
        "An order is a promise for many evaluations. At 8, Heun, of second order with two of them "
        "a step, ends farther from the truth than DDIM, of first order.",
        "DPM-Solver++ 2M, which integrates what is linear exactly; or 32 evaluations.",
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
        info="One a line: weight, x, y, variance, class",
        lines=4,
        max_lines=8,
        max_length=2000,
        elem_id=f"{frame.entry.slug}-world",
        elem_classes="mono",
    )


def state_of(event: Progress | Done) -> tuple[Any, bool]:
    """What an event shows, and whether it is the last one."""
    if isinstance(event, Done):
        return event.result, True
    return event.preview, False


# ---------------------------------------------------------------------- curves and orders


def build_orders(frame: Frame, world: gr.Textbox) -> None:
    """Solvers from one noise, and how fast their errors fall."""
    gr.HTML(
        "<p class='lead'>Every noise point has one true curve to the data, drawn in ink. Solvers "
        "take a few looks at the field and try to stay on it.</p>"
    )
    action = frame.action("run", "Run")
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            curves = gr.Plot(label="Curves", elem_id="principles-curves", **PLOT)
            time_scrubber("principles-curves", 20, "Noise level behind the curves", "t = 0.001")
        with gr.Column():
            errors = gr.Plot(label="Errors", **PLOT)
    with gr.Row(elem_classes="controls"):
        nfe = gr.Slider(
            4, 64, 8, step=1, label="NFE", info="Network evaluations of the curves on the left"
        )
        spacing = gr.Dropdown(
            [(title, name) for name, title in SPACINGS.items()],
            value="uniform_lam",
            label="Spacing of the steps",
            info="Equal steps in time cost UniPC its third order",
        )
    table = gr.HTML()
    solvers = gr.CheckboxGroup(
        [(title, name) for name, (title, _) in SOLVERS.items()],
        value=list(SOLVERS),
        label="Solvers",
    )
    action.wire(
        {"world": world, "nfe": nfe, "spacing": spacing, "solvers": solvers},
        draw_orders,
        [curves, errors, table],
        turned=[nfe, spacing],
    )


def draw_orders(event: Progress | Done, recipe: Recipe) -> tuple[object, object, object]:
    """Curves once they are there, then the errors point by point, then what they amount to."""
    found, ended = state_of(event)
    if len(found.points) > 2 * len(found.trails) and not ended:
        return gr.skip(), order_plot(found.points, found.slopes), orders_table(found, recipe)
    errors = order_plot(found.points, found.slopes)
    return curve_plot(found, all_times=ended), errors, orders_table(found, recipe)


def curve_plot(found: Any, *, all_times: bool) -> PlotData:
    """The density at a noise level, the true curves in ink, the solvers' steps in colour."""
    times = found.scene_times if all_times else found.scene_times[-1:]
    scenes = found.scenes if all_times else found.scenes[-1:]
    last = len(times) - 1
    traces = [heat(scene, VIEW, visible=k == last) for k, scene in enumerate(scenes)]
    for k, t in enumerate(times):
        now = at_time(found.truth, float(t)) if found.truth is not None else np.zeros((0, 2))
        dots = scatter(now, INK, mode="markers", size=11)
        traces.append(dots | {"visible": k == last})
    for trail in found.trails:
        traces.append(steps_of(trail))
    if found.truth is not None:
        for curve in found.truth.states.transpose(1, 0, 2):
            traces.append(scatter(curve, INK, mode="lines", width=2.5))
    return plane(traces, "z₁", "z₂", meta={"times": [float(t) for t in times]})


def steps_of(trail: Any) -> dict[str, object]:
    """All shown particles of one solver as one line with gaps."""
    states = np.clip(trail.states.astype(np.float64), -50, 50)
    gap = np.full((1, 2), np.nan)
    line = np.concatenate([np.concatenate([one, gap]) for one in states.transpose(1, 0, 2)])
    title, order = SOLVERS[trail.solver]
    _, symbol = MARKS[trail.solver]
    drawn = scatter(line, SERIES[order - 1], mode="lines+markers", width=1.3, size=6)
    drawn["marker"]["symbol"] = symbol
    return drawn | {"name": title, "hovertemplate": f"{title}<extra></extra>"}


def at_time(trail: Any, t: float) -> np.ndarray:
    """Where the points of the true curves are at this time."""
    order = np.argsort(trail.times)
    return np.stack(
        [
            np.stack([np.interp(t, trail.times[order], one[order, axis]) for axis in (0, 1)])
            for one in trail.states.transpose(1, 0, 2)
        ]
    )


def order_plot(points: Sequence[Any], slopes: Sequence[Any]) -> PlotData:
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
        xaxis={
            "type": "log",
            "tickvals": [4, 8, 16, 32, 64, 128, 256, 512],
            "range": [0.5, 2.8],
        },
        yaxis={"type": "log", "exponentformat": "power", "dtick": 1},
    )


def orders_table(found: Any, recipe: Recipe) -> str:
    """Solver by solver, what is promised and what was measured; it is also the legend."""
    slopes = {one.solver: one for one in found.slopes}
    trails = {one.solver: one for one in found.trails}
    rows = []
    for name, (title, order) in SOLVERS.items():
        if name not in trails:
            continue
        trail, slope = trails[name], slopes.get(name)
        error = "" if trail.error is None else f"{trail.error:.2g}"
        measured = "" if slope is None else f"{slope.slope:.2f}"
        kept = slope is not None and abs(slope.slope - order) <= ALLOWED
        verdict = "" if len(found.agreements) < 10 else "✓" if kept else "✗"
        by_mean = "" if slope is None else f"{slope.mean_slope:.2f}"
        rows.append(
            f'<tr><td><span class="mark" style="color:{SERIES[order - 1]}" aria-hidden="true">'
            f"{MARKS[name][0]}</span> {escape(title)}</td><td>{order}</td>"
            f"<td>{measured} {verdict}</td><td>{by_mean}</td><td>{trail.nfe}</td>"
            f"<td>{error}</td></tr>"
        )
    nfe = escape(recipe.params.get("nfe", 8))
    head = (
        "<tr><th>solver</th><th>order promised</th><th>slope, last doubling, "
        "by the median</th><th>by the mean</th>"
        "<th>NFE on the left</th><th>median error there</th></tr>"
    )
    table = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Solvers at {nfe} NFE">'
        f'<table class="plain">{head}{"".join(rows)}</table></div>'
    )
    return table + agreements(found.agreements) + exports(found, recipe)


def agreements(found: Sequence[Any]) -> str:
    """One sentence: neither the reading nor the process changes the curve."""
    if len(found) < 10:
        return ""
    worst = max(one.distance for one in found)
    rows = "".join(
        f"<tr><td>{escape(one.what)}</td><td>{escape(one.name)}</td><td>{one.distance:.1e}</td></tr>"
        for one in found
    )
    return (
        f"<p class='verdict'>One curve: a network that predicts noise, clean sample, score, v or "
        f"velocity, on five noising processes, ends at the same points to {worst:.0e}.</p>"
        f'<details><summary>Each of them</summary><div class="scroll" tabindex="0">'
        f'<table class="plain"><tr><th>changed</th><th>to</th><th>mean distance of the ends</th>'
        f"</tr>{rows}</table></div></details>"
    )


def exports(found: Any, recipe: Recipe) -> str:
    """The errors as CSV, the world as JSON, and the same in a notebook."""
    if len(found.agreements) < 10:
        return ""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["solver", "nfe", "median error", "mean error"])
    for point in found.points:
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
    """One state, five coordinates."""
    gr.HTML(
        "<p class='lead'>Noise, clean sample, score and velocity are one field in other "
        "coordinates. Switch, and see the same arrows turn.</p>"
    )
    with gr.Row(elem_classes="controls"):
        reading = gr.Radio(
            [(title, name) for name, title in READINGS.items()],
            value="score",
            label="The network predicts",
        )
        process = gr.Dropdown(
            [(title, name) for name, title in PROCESSES.items()], value="vp", label="Process"
        )
    t = gr.Slider(0.01, 1, 0.35, step=0.01, label="t", info="0 is data, 1 is noise")
    action = frame.action("views", "Show")
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            field = gr.Plot(label="Field", **PLOT)
            with gr.Row(elem_classes="controls"):
                x = gr.Slider(-2.5, 2.5, -0.4, step=0.05, label="State, x")
                y = gr.Slider(-2.5, 2.5, 0.6, step=0.05, label="State, y")
        with gr.Column():
            numbers = gr.HTML()
    action.wire(
        {"world": world, "process": process, "reading": reading, "t": t, "x": x, "y": y},
        draw_views,
        [field, numbers],
        turned=[t, reading, process, x, y],
    )


def draw_views(event: Progress | Done, recipe: Recipe) -> tuple[object, object]:
    """The field and the arrows; the numbers when all are there."""
    found, ended = state_of(event)
    numbers = views_numbers(found) if ended else gr.skip()
    return field_plot(found), numbers


def field_plot(found: Any) -> PlotData:
    """Arrows of one reading on a grid, and of all five at the state."""
    longest = np.percentile(np.linalg.norm(found.arrows, axis=1), 80)
    shown = capped(found.arrows * 0.3 / max(longest, 1e-9), 0.36)
    traces = [heat(found.scene, VIEW)]
    traces.append(arrows(found.points, shown, "rgba(128,120,108,0.95)", width=1.2, head=5))
    for name, value in zip(READINGS, found.values, strict=True):
        arrow = value - found.state if name == "x0" else capped(value[None], 1.6)[0]
        drawn = arrows(found.state[None], arrow[None], ARROWS[name], width=3, head=12)
        said = f"{READINGS[name]} ({value[0]:.3f}, {value[1]:.3f})<extra></extra>"
        traces.append(drawn | {"hovertemplate": said})
        tip = (found.state + arrow + 0.18 * arrow / max(np.linalg.norm(arrow), 1e-9)).tolist()
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
    traces.append(scatter(found.state[None], INK, mode="markers", size=10))
    return plane(traces, "z₁ / √(a² + s²)", "z₂ / √(a² + s²)")


def views_numbers(found: Any) -> str:
    """The readings as numbers, the round trips, and the losses that are one loss."""
    readings = "".join(
        f'<tr><td><span style="color:{"var(--ink)" if name == "x0" else ARROWS[name]}">'
        f"{SYMBOLS[name]}</span> {escape(title)}</td>"
        f"<td>{value[0]:.4f}</td><td>{value[1]:.4f}</td></tr>"
        for (name, title), value in zip(READINGS.items(), found.values, strict=True)
    )
    losses = "".join(
        f"<tr><td>{escape(READINGS[one.reading])}</td><td>{one.loss:.4g}</td>"
        f"<td>{one.weight:.4g}</td><td>{one.loss / one.weight:.6f}</td></tr>"
        for one in found.losses
    )
    gap = max(one.gap for one in found.losses)
    titles = list(READINGS.values())
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    trips = "".join(
        f"<tr><th>{escape(title)}</th>" + "".join(f"<td>{e:.0e}</td>" for e in row) + "</tr>"
        for title, row in zip(titles, found.trips, strict=True)
    )
    return (
        f"<p class='note'>a = {found.a:.4g}, s = {found.s:.4g}</p>"
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>at the state</th><th>x</th>'
        f"<th>y</th></tr>{readings}</table></div>"
        f"<p class='verdict'>Any of them gives any other and comes back: largest relative error "
        f"{found.trips.max():.0e}.</p>"
        f'<details><summary>Every round trip</summary><div class="scroll" tabindex="0">'
        f'<table class="plain"><tr><th></th>{head}</tr>{trips}</table></div></details>'
        "<h4>Five losses, one loss</h4>"
        "<p class='note'>A perfect network on 256 noisy points of this world. What is left is what "
        "nobody can know.</p>"
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>predicts</th><th>loss</th>'
        f"<th>weight</th><th>loss / weight</th></tr>{losses}</table></div>"
        f"<p class='verdict'>Equal to {gap:.0e}: the choice of what to predict is a choice of "
        "weights over t.</p>"
    )


# ---------------------------------------------------------------------- guidance


def build_guidance(frame: Frame, world: gr.Textbox) -> None:
    """Guided samples against the density that guidance is said to sample."""
    gr.HTML(
        "<p class='lead'>Guidance is often said to sample the tilted density "
        "p<sup>1−w</sup> p<sub>class</sub><sup>w</sup>. Here both are known: the shade is the "
        "tilted density, the dots are where guidance goes.</p>"
    )
    with gr.Row(elem_classes="controls"):
        of_class = gr.Textbox("A", label="Class", max_length=12, info="As written behind the modes")
        scale = gr.Slider(0, 10, 3, step=0.5, label="Guidance w", info="1 is none")
    action = frame.action("guide", "Guide")
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            cloud = gr.Plot(label="Samples", **PLOT)
        with gr.Column():
            bars = gr.Plot(label="Along x", **PLOT)
    numbers = gr.HTML()
    action.wire(
        {"world": world, "of_class": of_class, "guidance_scale": scale},
        draw_guidance,
        [cloud, bars, numbers],
        also=[of_class.submit],
        turned=[scale],
    )


def draw_guidance(event: Progress | Done, recipe: Recipe) -> tuple[object, object, object]:
    """Dots on their way, the same along x, and the divergence at the end."""
    found, ended = state_of(event)
    shown = found.tilted[::2, ::2]
    side = len(found.tilted)
    line = np.linspace(-EDGE, EDGE, side)
    marginal = found.tilted.sum(0, dtype=np.float64) * 2 * EDGE / (side - 1)
    dots = scatter(found.samples, SERIES[0], mode="markers", size=4) | {"opacity": 0.6}
    cloud = plane([heat(shown, EDGE), dots], "x", "y")
    counts, edges = np.histogram(found.samples[:, 0], bins=60, range=(-VIEW, VIEW), density=True)
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
    return cloud, along, guidance_numbers(found) if ended else gr.skip()


def guidance_numbers(found: Any) -> str:
    """How far the guided samples are from the tilted density, and the control without guidance."""
    rows = "".join(
        f"<tr><td>{escape(one.what)}</td><td>{one.mean_x:.3f}, {one.mean_y:.3f}</td>"
        f"<td>{one.std_x:.3f}, {one.std_y:.3f}</td></tr>"
        for one in found.summaries
    )
    low, high = found.interval
    return (
        '<dl class="figures">'
        f"<div><dt>divergence of guided from tilted</dt><dd>{found.divergence:.3f} nats</dd></div>"
        f"<div><dt>95 % interval</dt><dd>{low:.3f} – {high:.3f}</dd></div>"
        f"<div><dt>the same at w = 1, where they must agree</dt><dd>{found.plain:.3f}</dd></div>"
        "</dl>"
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th></th><th>mean of x, y</th>'
        f"<th>standard deviation</th></tr>{rows}</table></div>"
        f"<p class='note'>KL divergence, from the exact density of the guided flow at "
        f"{len(found.samples)} samples. Guidance by an exact classifier gives the same field, to "
        f"{found.classifier_gap:.0e}.</p>"
    )


# ---------------------------------------------------------------------- flow map


def build_flow_map(frame: Frame, world: gr.Textbox) -> None:
    """A network trained while one watches."""
    gr.HTML(
        "<p class='lead'>A small network learns where the curves end. The ring of 8 shows it best; "
        "nothing is trained beforehand.</p>"
    )
    with gr.Row(elem_classes="controls"):
        target = gr.Radio(
            [(title, name) for name, title in TARGETS.items()],
            value="distillation",
            label="Trained by",
        )
        steps = gr.Slider(200, 4000, 1500, step=100, label="Training steps")
    action = frame.action("distil", "Train")
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            cloud = gr.Plot(label="One jump", **PLOT)
        with gr.Column():
            errors = gr.Plot(label="Training", **PLOT)
    numbers = gr.HTML()
    action.wire(
        {"world": world, "target": target, "steps": steps}, draw_map, [cloud, errors, numbers]
    )


def draw_map(event: Progress | Done, recipe: Recipe) -> tuple[object, object, object]:
    """Where one call lands now, how its error fell, and what DDIM needs for the same."""
    found, ended = state_of(event)
    if found is None:
        return gr.skip(), gr.skip(), gr.skip()
    ends = scatter(found.truth, INK, mode="markers", size=4) | {"name": "ends of the true curves"}
    jumps = scatter(found.cloud, SERIES[0], mode="markers", size=5) | {"name": "one call"}
    cloud = plane([ends | {"opacity": 0.45}, jumps], "x", "y", legend=True)
    return cloud, training_plot(found, recipe), map_numbers(found) if ended else gr.skip()


def training_plot(found: Any, recipe: Recipe) -> PlotData:
    """Error of one call and the loss against training steps, with DDIM as level lines."""
    total = float(str(recipe.params.get("steps", 1500)))
    curve = scatter(np.stack([found.at, found.errors], 1), SERIES[0], mode="lines", width=2.5)
    loss = scatter(
        np.stack([found.at, np.sqrt(found.losses)], 1), SERIES[1], mode="lines", width=1.3
    )
    loss["line"]["dash"] = "dot"
    traces = [curve | {"name": "one call"}, loss | {"name": "√ loss"}]
    for rival in found.rivals:
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
        for rival in found.rivals
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


def map_numbers(found: Any) -> str:
    """One call against DDIM."""
    beaten = [rival.nfe for rival in found.rivals if found.one_call < rival.error]
    worth = max(beaten) if beaten else 0
    verdict = (
        f"One call lands nearer to the truth than {worth} calls of DDIM."
        if worth
        else "One call is not even as good as one of DDIM: train longer."
    )
    two = ""
    if found.two_calls is not None:
        two = f"<tr><td>flow map, two calls</td><td>{found.two_calls:.3f}</td></tr>"
    rows = "".join(
        f"<tr><td>DDIM, {rival.nfe} calls</td><td>{rival.error:.3f}</td></tr>"
        for rival in found.rivals
    )
    return (
        f"<p class='verdict'>{verdict}</p>"
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th></th>'
        "<th>mean distance to the true end</th></tr>"
        f"<tr><td>flow map, one call</td><td>{found.one_call:.3f}</td></tr>{two}{rows}</table>"
        f"</div><p class='note'>{found.parameters} parameters, {len(found.truth)} noise points "
        "that the training has not seen.</p>"
    )

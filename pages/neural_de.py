"""Neural differential equations: draw a curve, let a field learn it, and run time back."""

import base64
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData
from numpy.typing import ArrayLike

from engine.core.recipe import Recipe
from engine.networks.neural_de import (
    DRAWINGS,
    FIELDS,
    LONGEST_DRAWING,
    LONGEST_SERIES,
    READERS,
    SPIRAL,
    SWEEPS,
    SYSTEMS,
    WAYS,
)
from pages import _fields as fields
from pages import _flow as planes
from pages import _grow as bars
from pages import _markup as markup
from pages import _plots as plots
from pages._frame import Frame
from pages._grow import Bar, Group
from pages._look import BACKWARD, FORWARD, NEUTRAL, SERIES
from pages._markup import Html, escape
from pages._planes import INK, figure, scatter
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.networks.neural_de.results import (
        Drawn,
        Formula,
        Generated,
        Gradients,
        Held,
        Refined,
        Series,
        WayBack,
    )

PLANE, FIELD, RUN = "neural_de-plane", "neural_de-drawing", "neural_de-run"
REVERSIBLE = ("reversible", "foster", "foster_anchored")
SAME_STEPS = "Gradient error, against autograd through the same steps"
KEPT, ASKED = "Kept for the way back", "Evaluations of the field, both passes"
TRUTH = "Gradient error, against an accurate solve"


def build(frame: Frame) -> None:
    """Draw and reverse; then why it holds, what it costs, and what else one does with it."""
    drawing = _drawn(frame)
    _gradients(frame)
    _stability(frame)
    _series(frame)
    _brownian(frame)
    _generate(frame)
    _formula(frame, drawing)
    frame.breaks(
        "A field that pulls its states to a point pushes y and z apart: at λ = 5 and steps of 0.1 "
        "reversible Heun explodes before t = 4, where ordinary Heun is calm.",
        "McCallum and Foster with c = 0.5, stable and still close on its way back; or checkpoints.",
        {"field": "decay", "rate": 5.0, "end": 10.0, "steps": 100, "c": 0.5},
        action="retrace",
    )


# ---------------------------------------------------------------------- draw and reverse


def _drawn(frame: Frame) -> gr.Textbox:
    run = frame.stage("run", "Learn and rewind", tab="Draw and reverse")
    with run.ask:
        planes.ready(DRAWINGS, FIELD, RUN)
        drawing = gr.Textbox(
            SPIRAL,
            label="The same as text",
            info="x y; x y; ... from -2 to 2",
            lines=1,
            max_lines=2,
            max_length=LONGEST_DRAWING,
            elem_id=FIELD,
            elem_classes="mono",
        )
    with run.settings:
        steps = gr.Slider(16, 256, 24, step=8, label="Steps of the solver")
        with gr.Accordion("More settings", open=False):
            knows = gr.Radio(
                [("as the curve needs", "auto"), "state", "state and time"],
                value="auto",
                label="The field knows",
            )
            rounds = gr.Slider(10, 600, 200, step=10, label="Rounds of training")
            width = gr.Slider(8, 64, 32, step=8, label="Width of the network")
        frame.seed(7)
    with run.shown:
        plane = planes.place(planes.empty(SPIRAL, curve_of(SPIRAL), FIELD, RUN), PLANE)
    with run.below:
        table = gr.HTML()
    run.wire(
        {"drawing": drawing, "knows": knows, "steps": steps, "rounds": rounds, "width": width},
        draw_curve,
        [plane, table],
        number=miss_of_start,
        film=film,
    )
    return drawing


def curve_of(drawing: str) -> np.ndarray:
    """The points of a ready curve, `n 2`."""
    return np.array([[float(x) for x in pair.split()] for pair in drawing.split(";")])


def draw_curve(result: "Drawn", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The curve and the field while it learns; then the ways back."""
    drawn = planes.flow(result, str(recipe.params.get("drawing", SPIRAL)), FIELD, RUN)
    return (drawn, ways_table(result)) if result.ways else (drawn,)


def film(result: "Drawn") -> Sequence[np.ndarray]:
    """The way forwards, and the way back over it."""
    ours = next(way for way in result.ways if way.method == "reversible_heun")
    return [
        planes.picture(result.trajectory[: there + 1], ours.back[:back])
        for there, back in planes.there_and_back(len(result.trajectory), 12)
    ]


def ways_table(result: "Drawn") -> str:
    """Every way back with its error and its fingerprints, and what can be taken along."""
    said = ""
    if result.fit is not None:
        said = f"The field follows the drawing to within {result.fit:.2g}."
    return _ways(result.ways) + markup.notes(said, *result.notes) + _weights(result.weights)


def _ways(ways: "Sequence[WayBack]") -> str:
    rows = [
        [
            way.title,
            markup.figure(way.error),
            Html(
                f"{markup.digits(way.start)} "
                f'<span class="mark backward" aria-label="came back as">◀</span> '
                f"{markup.digits(way.returned)}"
            ),
            markup.came_back(way.trip) if way.trip is not None else "",
            markup.figure(float(way.gap.max())) if way.method != "heun" else "one stream",
        ]
        for way in ways
    ]
    head = ["way back", "relative error of the start", "sha256 of the start and of what came back"]
    return markup.table([*head, "came back", "largest |y − z|"], rows, "Ways back")


def _weights(data: bytes) -> str:
    if not data:
        return ""
    coded = base64.b64encode(data).decode("ascii")
    return (
        '<p class="save"><a class="quiet" download="field.safetensors" '
        f'href="data:application/octet-stream;base64,{coded}">Save the field (safetensors)</a></p>'
    )


def miss_of_start(result: "Drawn | Held", recipe: Recipe) -> Number | None:
    """By how much the start is missed by ordinary Heun, and by reversible Heun."""
    by = {way.method: way for way in result.ways}
    if not {"heun", "reversible_heun"} <= set(by):
        return None
    missed = [_missed(by[name]) for name in ("heun", "reversible_heun")]
    return Number("start missed by", missed[1], missed[0])


def _missed(way: "WayBack") -> str:
    return "left all bounds" if way.left_at is not None else markup.figure(float(way.misses[-1]))


# ---------------------------------------------------------------------- gradients


def _gradients(frame: Frame) -> None:
    run = frame.stage("gradients", "Compare the gradients", tab="Gradients")
    with run.ask:
        sweep = gr.Radio(fields.options(SWEEPS), value="steps", label="Depth of time")
        rate = gr.Slider(0, 4, 0, step=0.25, label="Damping", info="−λ y is added to the field")
    with run.settings:
        most = gr.Radio([16, 64, 256, 1024], value=256, label="Most steps")
        c = gr.Slider(0.5, 1, 0.95, step=0.01, label="c of McCallum and Foster")
        batch = gr.Slider(1, 64, 16, step=1, label="Batch")
        precision = gr.Radio(["float64", "float32"], value="float64", label="Precision")
    with run.shown:
        shown = gr.HTML(first_bars(), elem_id="neural_de-gradient-bars")
    with run.below:
        table = gr.HTML()
    run.wire(
        {
            "sweep": sweep, "most": most, "rate": rate, "c": c, "batch": batch,
            "precision": precision,
        },
        draw_gradients,
        [shown, table],
        number=gradient_error,
    )  # fmt: skip


def first_bars() -> str:
    """The ways by name, before anything is measured."""
    empty = [Bar(title, [None], name in REVERSIBLE) for name, title in WAYS.items()]
    return bars.grow("steps", ["16"], [Group(SAME_STEPS, empty, bars.told_error, log=True)])


def draw_gradients(result: "Gradients", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """A bar for each way that grows with the steps; a table at the end."""
    if not result.points:
        return ()
    steps = sorted({point.steps for point in result.points})
    groups = [
        _errors(SAME_STEPS, _by_way(result, "error", steps)),
        Group(KEPT, _by_way(result, "kept_bytes", steps), bars.told_bytes, log=True),
        Group(ASKED, _by_way(result, "evaluations", steps), whole, log=True),
        _errors(TRUTH, _by_way(result, "truth_error", steps)),
    ]
    drawn = bars.grow("steps", [str(count) for count in steps], groups)
    return (drawn, gradients_table(result)) if ended else (drawn,)


def _errors(title: str, rows: Sequence[Bar]) -> Group:
    return Group(title, rows, bars.told_error, log=True, ends=(1e-17, 1.0))


def whole(count: float) -> str:
    """A number of evaluations."""
    return f"{count:,.0f}"


def _by_way(result: "Gradients", name: str, steps: Sequence[int]) -> list[Bar]:
    """One bar a way; where the states left all bounds there is none."""
    found = {(p.method, p.steps): float(getattr(p, name)) for p in result.points}
    values = {way: [found.get((way, count), math.inf) for count in steps] for way in WAYS}
    return [
        Bar(title, [v if math.isfinite(v) else None for v in values[way]], way in REVERSIBLE)
        for way, title in WAYS.items()
    ]


def gradients_table(result: "Gradients") -> str:
    """All points in numbers."""
    rows = [
        [p.steps, p.title, bars.told_bytes(p.kept_bytes), p.evaluations, told(p.error),
         told(p.truth_error)]
        for p in result.points
    ]  # fmt: skip
    head = ["steps", "way", "kept", "evaluations", "error, same steps", "error, accurate solve"]
    return markup.table(head, rows, "Gradients") + markup.notes(*result.notes)


def told(error: float) -> str:
    """An error, or that there is none to speak of."""
    return bars.told_error(error) if math.isfinite(error) else "left all bounds"


def gradient_error(result: "Gradients", recipe: Recipe) -> Number | None:
    """The adjoint's error and that of the reversible solver, at the most steps."""
    last = max((p.steps for p in result.points), default=0)
    by = {p.method: p.error for p in result.points if p.steps == last}
    if not {"adjoint", "reversible"} <= set(by):
        return None
    return Number(
        "gradient error, adjoint → reversible", told(by["reversible"]), told(by["adjoint"])
    )


# ---------------------------------------------------------------------- stability


def _stability(frame: Frame) -> None:
    run = frame.stage("retrace", "There and back", tab="Stability", backward=True)
    with run.ask:
        field = gr.Dropdown(fields.options(FIELDS), value="pendulum", label="Field")
        rate = gr.Slider(0, 10, 1, step=0.1, label="λ", info="Of decay and of van der Pol")
    with run.settings:
        c = gr.Slider(0.3, 1, 0.99, step=0.01, label="c of McCallum and Foster")
        end = gr.Slider(1, 100, 20, step=1, label="Time")
        steps = gr.Slider(20, 2000, 400, step=20, label="Steps")
        precision = gr.Radio(["float64", "float32"], value="float64", label="Precision")
    with run.shown:
        plane = plots.place("There and back")
    with run.below:
        table = gr.HTML()
        with gr.Row(elem_classes="curves"):
            gap = plots.place("The two streams apart")
            pulls = plots.place("The trade-off of c")
    run.wire(
        {"field": field, "rate": rate, "end": end, "steps": steps, "c": c, "precision": precision},
        draw_held,
        [plane, table, gap, pulls],
        number=miss_of_start,
    )


def draw_held(result: "Held", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Paths, what came back, and how far the streams drift apart."""
    reach = 1.15 * float(np.abs(result.truth).max())
    traces = [scatter(result.truth, INK, mode="lines", width=5) | {"opacity": 0.35}]
    traces += [_back(way) for way in result.ways if way.method != "mccallum_foster"]
    table = _ways(result.ways) + markup.notes(*result.notes)
    return _square(traces, reach), table, gap_plot(result), pulls_plot(result)


def _back(way: "WayBack") -> dict[str, object]:
    """A way back, dotted where it is the ordinary method's."""
    is_ours = way.method != "heun"
    line = scatter(way.back, BACKWARD if is_ours else SERIES[2], mode="lines", width=2)
    line["line"]["dash"] = "dash" if is_ours else "dot"
    return line | {"name": f"back: {way.title}"}


def _square(traces: Sequence[dict[str, object]], reach: float) -> PlotData:
    shared: dict[str, object] = {"range": [-reach, reach], "constrain": "domain"}
    return figure(
        traces, "x", "y", legend=False, height=460,
        xaxis=shared, yaxis=shared | {"scaleanchor": "x"},
    )  # fmt: skip


def gap_plot(result: "Held") -> PlotData:
    """|y - z| against time."""
    lines = [
        Line(
            way.title,
            np.linspace(0, way.left_at or result.times[-1], len(way.gap)).tolist(),
            np.maximum(way.gap, 1e-17).tolist(),
            place,
            marks=False,
        )
        for place, way in enumerate(result.ways)
        if way.method != "heun"
    ]
    return plots.curves(lines, "time", "|y − z|", log_y=True)


def pulls_plot(result: "Held") -> PlotData:
    """Errors forwards and back for each c; those that left all bounds are not drawn."""
    lines = []
    for name, backward in (("forward_error", False), ("return_error", True)):
        found = [(p.c, getattr(p, name)) for p in result.pulls]
        shown = [(c, max(v, 1e-17)) for c, v in found if math.isfinite(v) and v < 1e12]
        title = "back at the start" if backward else "at the end"
        lines.append(Line(title, [c for c, _ in shown], [v for _, v in shown], backward=backward))
    return plots.curves(lines, "c", "relative error", log_y=True)


# ---------------------------------------------------------------------- series


def _series(frame: Frame) -> None:
    run = frame.stage("series", "Learn to forecast", tab="Irregular series")
    with run.ask:
        missing = gr.Slider(0, 0.9, 0.5, step=0.1, label="Share of the values that is dropped")
    with run.settings:
        rows = gr.Textbox(
            "", label="Your own series", lines=3, max_lines=6, max_length=LONGEST_SERIES,
            info="A time and a value a line, as in a CSV; empty: carbon dioxide on Mauna Loa",
            elem_classes="mono",
        )  # fmt: skip
        rounds = gr.Slider(10, 400, 150, step=10, label="Rounds of training")
        width = gr.Slider(4, 64, 24, step=4, label="Width")
    with run.shown:
        window = plots.place("A window with gaps")
    with run.below:
        errors = plots.place("Error while they learn")
        table = gr.HTML()
    run.wire(
        {"rows": rows, "missing": missing, "rounds": rounds, "width": width},
        draw_series,
        [window, errors, table],
        number=forecast_error,
    )


def draw_series(result: "Series", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The first window of the test, errors round by round, and what is best."""
    marks = [["forecast", "weights", f"error, {result.unit or 'as given'}"]]
    rows = [
        [one.title, one.parameters or "", f"{one.errors[-1]:.3g}"]
        for one in result.learners if one.errors
    ]  # fmt: skip
    return (
        window_plot(result),
        learning_plot(result),
        markup.table(marks[0], rows) + markup.notes(*result.notes),
    )


def window_plot(result: "Series") -> PlotData:
    """What was seen, what was dropped, the two paths, and the forecasts."""
    w = result.window
    if w is None:
        return figure([], "time", result.unit)
    seen = _in_time(w.times, w.observed, INK, mode="markers", size=8)
    gone = _in_time(w.times, w.dropped, NEUTRAL, mode="markers", size=7)
    gone["marker"]["symbol"] = "x-thin-open"
    smooth = _in_time(w.path_times, w.hermite, FORWARD, mode="lines")
    held = _in_time(w.path_times, w.rectilinear, SERIES[1], mode="lines", width=1)
    truth = _in_time([w.ahead], [w.truth], INK, mode="markers", size=12)
    named = [
        seen | {"name": "observed"}, gone | {"name": "dropped"}, smooth | {"name": "cubic path"},
        held | {"name": "held value"}, truth | {"name": "the later value"},
    ]  # fmt: skip
    for place, (title, value) in enumerate(w.guesses):
        colour = SERIES[2 * place % 4]
        dot = _in_time([w.ahead], [value], colour, mode="markers", size=11)
        dot["marker"]["symbol"] = ("square", "triangle-up")[place % 2]
        named.append(dot | {"name": title})
    return figure(named, "time", result.unit or "value", legend=True, xaxis={"tickformat": "g"})


def _in_time(times: ArrayLike, values: ArrayLike, colour: str, **look: Any) -> dict[str, Any]:
    """A trace against time, as exactly as a year has weeks."""
    trace = scatter(np.stack([np.asarray(times), np.asarray(values)], 1), colour, **look)
    return trace | {"x": np.round(np.asarray(times), 4).tolist()}


def learning_plot(result: "Series") -> PlotData:
    """Errors on later windows, round by round; marks as level lines."""
    last = max((one.steps[-1] for one in result.learners if one.steps), default=1)
    lines = [
        Line(
            one.title,
            one.steps if one.parameters else (0, last),
            one.errors if one.parameters else one.errors * 2,
            place,
            neutral=not one.parameters,
        )
        for place, one in enumerate(result.learners)
        if one.errors
    ]
    return plots.curves(lines, "round", f"error {result.unit}")


def forecast_error(result: "Series", recipe: Recipe) -> Number | None:
    """The recurrent network's error and the controlled equation's."""
    by = {one.name: one for one in result.learners if one.errors}
    if not {"controlled", "recurrent"} <= set(by):
        return None
    errors = [f"{by[name].errors[-1]:.2f}" for name in ("recurrent", "controlled")]
    return Number("error, GRU → controlled equation", errors[1], errors[0])


# ---------------------------------------------------------------------- noise


def _brownian(frame: Frame) -> None:
    run = frame.stage("brownian", "Ask again", tab="Noise")
    with run.ask:
        levels = gr.Slider(1, 9, 6, step=1, label="Halvings", info="2, 4, 8 ... steps")
    with run.settings:
        cached = gr.Slider(2, 200, 45, step=1, label="Increments that are kept")
    with run.shown:
        path = plots.place("A path, finer and finer")
    with run.below:
        table = gr.HTML()
    run.wire({"levels": levels, "cached": cached}, draw_refined, [path, table], number=asked_again)


def draw_refined(result: "Refined", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The coarsest, a middle and the finest level, and what re-asking gives."""
    count = len(result.levels)
    some = [result.levels[k] for k in sorted({0, count // 2, count - 1})]
    lines = [
        Line(
            f"{len(level) - 1} steps",
            level[:, 0].tolist(),
            level[:, 1].tolist(),
            place,
            marks=False,
        )
        for place, level in enumerate(some)
    ]
    rows: list[list[object]] = [
        ["asked again, largest difference", markup.figure(result.repeat_error)],
        ["two parts against the whole", markup.figure(result.additivity_error)],
        ["same seed, first asked from right to left", f"{result.order_difference:.2g}"],
        ["questions", result.queries],
        ["increments kept", result.kept],
        ["normal numbers drawn, some of them again", result.made],
    ]
    note = (
        "The path depends on the order of the first questions: to compare step sizes on one path, "
        "ask for the finest first and add up."
    )
    return plots.curves(lines, "time", "W"), markup.table(["", ""], rows) + markup.notes(note)


def asked_again(result: "Refined", recipe: Recipe) -> Number | None:
    """The difference of a question asked twice."""
    return Number("asked twice, difference", markup.figure(result.repeat_error))


def _generate(frame: Frame) -> None:
    run = frame.stage("generate", "Play the game", tab="Imitate a process")
    with run.ask:
        rounds = gr.Slider(0, 600, 150, step=10, label="Steps of the game")
    with run.settings:
        batch = gr.Slider(8, 256, 96, step=8, label="Paths in a step")
    with run.shown:
        fans = plots.place("Paths of the process and of the network")
    with run.below:
        distance = plots.place("Distance of the marginals")
        table = gr.HTML()
    run.wire(
        {"rounds": rounds, "batch": batch},
        draw_generated,
        [fans, distance, table],
        number=marginals,
    )


def draw_generated(result: "Generated", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Bands of both, the distance, and what the training kept."""
    times = result.times.tolist()
    lines = [
        Line(name, times, bands[1].tolist(), place, marks=False,
             band=(bands[0].tolist(), bands[2].tolist()))
        for place, (name, bands) in enumerate(
            (("process, 5 to 95 %", result.real_bands), ("network, 5 to 95 %", result.fake_bands))
        )
    ]  # fmt: skip
    ends = (result.steps[0], result.steps[-1]) if result.steps else (0, 1)
    far = [
        Line("network", result.steps, result.distances),
        Line("two draws of the process", ends, (result.floor,) * 2, neutral=True),
    ]
    rows = [
        [
            "KiB kept by a reversible pass of 32 paths, mostly the paths themselves",
            f"{result.kept_bytes / 1024:.0f}",
        ],
        ["by plain autograd", f"{result.plain_bytes / 1024:.0f}"],
        ["largest weight of the critic, times outputs", f"{result.largest_weight:.2f}"],
    ]
    told = markup.table(["", ""], rows) + markup.notes(*result.notes)
    return plots.curves(lines, "time", "x"), plots.curves(far, "step", "distance", log_y=True), told


def marginals(result: "Generated", recipe: Recipe) -> Number | None:
    """The distance before the game and now."""
    if not result.distances:
        return None
    return Number("distance", f"{result.distances[-1]:.2f}", f"{result.distances[0]:.2f}")


# ---------------------------------------------------------------------- formulas


def _formula(frame: Frame, drawing: gr.Textbox) -> None:
    run = frame.stage("formula", "Read the field", tab="Formula")
    with run.ask:
        source = gr.Dropdown(fields.options(SYSTEMS), value="oscillator", label="Path")
    with run.settings:
        reader = gr.Radio(fields.options(READERS), value="sparse", label="Reader")
        rounds = gr.Slider(10, 800, 300, step=10, label="Rounds of training")
        refit = gr.Slider(0, 200, 40, step=10, label="Rounds of refitting the constants")
    with run.shown:
        read = gr.HTML("", elem_id="neural_de-read")
        plane = plots.place("The path and the expression's")
    with run.below:
        table = gr.HTML()
    run.wire(
        {"source": source, "drawing": drawing, "reader": reader, "rounds": rounds, "refit": refit},
        draw_formula,
        [read, plane, table],
        number=terms_read,
    )


def draw_formula(result: "Formula", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Nothing before the end but the path."""
    if result.trajectory is None or result.target is None:
        return ()
    reach = 1.2 * float(np.abs(result.target).max())
    traces = [
        scatter(result.target, INK, mode="lines", width=5) | {"opacity": 0.35},
        scatter(result.trajectory, FORWARD, mode="lines", width=2.5),
    ]
    read = "".join(
        f'<p class="verdict">d{name}/dt = {escape(as_written(text))}</p>'
        for name, text in zip("xy", result.expressions, strict=True)
    )
    return read, _square(traces, reach), expressions_table(result)


def expressions_table(result: "Formula") -> str:
    """What was read beside what is true, and as LaTeX to take along."""
    truth = result.truth or ("nobody knows", "nobody knows")
    rows = [
        [f"d{name}/dt", as_written(found), as_written(known), Html(f"<code>{escape(tex)}</code>")]
        for name, found, known, tex in zip(
            "xy", result.expressions, truth, result.latex, strict=True
        )
    ]
    table = markup.table(["", "read", "true", "LaTeX"], rows, "Expressions")
    said = ""
    if result.refitted is not None:
        said = f"Distance of its path from the given one: {markup.figure(result.refitted)}."
    return table + markup.notes(said, *result.notes)


def as_written(expression: str) -> str:
    """An expression as people write it: 0.926 y − 0.872 x² y."""
    for plain, written in (("^2", "²"), ("^3", "³"), ("*", " "), ("-", "−")):
        expression = expression.replace(plain, written)
    return expression


def terms_read(result: "Formula", recipe: Recipe) -> Number | None:
    """How many terms the expression has."""
    return Number("terms, of 20 possible", str(result.terms)) if result.terms else None

"""Score SDE: a picture to its latent and back, samplers under the exact score and with a network,
and control of a network that was trained without any."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.sampling.score_sde import (
    CORRECTORS,
    HERE,
    LEVELS,
    PREDICTORS,
    PROCESSES,
    RIVALS,
    TASKS,
)
from engine.world.vocabulary import TEN_OBJECTS
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._look import ASSETS, BACKWARD, SERIES
from pages._parts import Shot
from pages._planes import INK, dotted, heat, plane, scatter
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.sampling.score_sde.results import (
        Bits,
        Controlled,
        Drawn,
        Lab,
        Point,
        Returned,
        Trip,
    )

METHODS = {"predictor": "predictor alone", "corrected": "predictor and corrector"} | RIVALS
VIEW = 3.0


def build(frame: Frame) -> None:
    """What is exact first; with the networks there are three tabs of pictures more."""
    build_plane(frame)
    build_lab(frame)
    if HERE:
        build_trip(frame)
        build_pictures(frame)
        build_control(frame)
    frame.breaks(
        "With 10 evaluations a corrector leaves the predictor only 5 steps, and each "
        "is too long. Even with the exact score it ends several times farther from the "
        "data than the predictor alone.",
        "the predictor alone; or, with so few evaluations, the flow without noise "
        "(DPM-Solver++ 2M).",
        {"process": "vp", "predictor": "euler_maruyama", "corrector": "langevin", "nfe": 10},
        action="sample",
    )


def picture_params(values: Settings) -> Settings:
    """Settings with an uploaded picture as text, or without one."""
    return values | fields.picture_setting(values.pop("picture", None))


def picture_controls() -> tuple[gr.Dropdown, gr.Image]:
    """A drawing by name, or a picture of one's own, which the page places."""
    subject = gr.Dropdown(list(TEN_OBJECTS), value="cat", label="Drawing", info="In a new pose")
    picture = fields.picture_field(
        label="Or your picture, shrunk to the network's size", height=180, render=False
    )
    return subject, picture


# ---------------------------------------------------------------------- in the plane


def build_plane(frame: Frame) -> None:
    """Points to their latents, back, and elsewhere."""
    action = frame.stage("run", "There and back")
    with action.ask:
        gr.HTML(
            markup.notes(
                "Without noise the equation runs both ways: each point goes to its latent and "
                "comes back. With noise, the same latent ends at a different point of the same "
                "density each time. The path also tells how likely the point was."
            )
        )
        process = gr.Radio(fields.options(PROCESSES), value="vp", label="Process")
    with action.settings:
        points = gr.Slider(1, 12, 6, step=1, label="Points")
        others = gr.Slider(10, 200, 40, step=10, label="Ends of each latent")
        nfe = gr.Slider(10, 500, 100, step=10, label="NFE of the noisy equation")
        frame.seed(7)
        if HERE:
            frame.model()
    with action.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            parts.heading("The flow", "Out to the latents (circles), and back on the same curves")
            flow = plots.place("The flow")
        with gr.Column():
            parts.heading("With noise", "Where the same latents end; each colour is one latent")
            noisy = plots.place("With noise")
    with action.below:
        numbers = gr.HTML()
    action.wire(
        {"process": process, "points": points, "others": others, "nfe": nfe},
        draw_plane,
        [flow, noisy, numbers],
        number=gap,
        film=there_and_back,
        turned=[process],
    )


def draw_plane(result: "Returned", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Curves out and back, ends with noise, densities when they are there."""
    flow = [heat(result.scene, VIEW)]
    for track, colour, width in ((result.there, SERIES[0], 3.0), (result.back, BACKWARD, 1.3)):
        if track is not None:
            flow += [scatter(one, colour, mode="lines", width=width)
                     for one in track.transpose(1, 0, 2)]  # fmt: skip
    if result.there is not None:
        ends = scatter(result.there[-1], SERIES[0], mode="markers", size=9)
        ends["marker"]["symbol"] = "circle-open"
        flow.append(ends)
    flow.append(scatter(result.points, INK, mode="markers", size=8))
    noisy = [heat(result.scene, VIEW)]
    if result.elsewhere is not None:
        for place, ends_of_one in enumerate(result.elsewhere):
            colour = (*SERIES, BACKWARD)[place % 5]
            noisy.append(scatter(np.clip(ends_of_one, -9, 9), colour, mode="markers", size=5))
    noisy.append(scatter(result.points, INK, mode="markers", size=8))
    return plane(flow, "x", "y"), plane(noisy, "x", "y"), plane_numbers(result)


def gap(result: "Returned", recipe: Recipe) -> Number | None:
    """The farthest that a point came back from itself."""
    if result.gap is None:
        return None
    return Number(
        "largest distance between a point and where it came back", markup.figure(result.gap)
    )


def there_and_back(result: "Returned") -> list[np.ndarray]:
    """The points on their way to the latents and back."""
    ways = [way for way in (result.there, result.back) if way is not None]
    return [dotted(result.scene, points) for points in (p for way in ways for p in way[::4])]


def plane_numbers(result: "Returned") -> str:
    """How near the points came back, where noise takes them, and their densities."""
    if result.gap is None:
        return ""
    figures = {
        "largest distance between a point and where it came back": f"{result.gap:.1e}",
        "NFE there and back": f"{result.nfe_there} + {result.nfe_back}",
    }
    if result.left is not None:
        figures["with noise, ends at another mode"] = f"{result.left:.0%}"
    rows = [
        [k + 1, f"{flow:.4f}", f"{true:.4f}", f"{flow - true:+.4f}"]
        for k, (flow, true) in enumerate(zip(result.flow_nats, result.true_nats, strict=True))
    ]
    head = ["point", "log density along the flow", "true log density", "difference"]
    table = markup.table(head, rows) + markup.notes(
        f"In nats, {result.nfe_likelihood} NFE. Points in the plane are no 8-bit data, so there "
        "are no bits per dimension and no offset here."
    )
    return markup.figures(figures) + table * bool(rows)


# ---------------------------------------------------------------------- a picture there and back


def build_trip(frame: Frame) -> None:
    """A picture to its latent, back, and elsewhere."""
    action = frame.stage("trip", "There and back", tab="A picture there and back")
    with action.ask:
        gr.HTML(
            markup.notes(
                "The picture becomes its latent and comes back. With noise, the same latent "
                "becomes other pictures. And the way itself counts the bits that it is worth."
            )
        )
        subject, picture = picture_controls()
    with action.settings:
        probes = gr.Slider(1, 10, 2, step=1, label="Probes", info="For the error bar of the bits")
        others = gr.Slider(0, 8, 3, step=1, label="Pictures with noise")
        nfe = gr.Slider(10, 500, 60, step=10, label="NFE of the noisy equation")
        tolerance = gr.Dropdown(
            [("coarse, 0.01", 1e-2), ("0.001", 1e-3), ("as published, 0.00001", 1e-5)],
            value=1e-3,
            label="Tolerance of RK45",
        )
        picture.render()
    with action.shown:
        empty = [Shot("Picture", None, ""), Shot("Latent", None, "")]
        empty += [Shot("Back again", None, "", backward=True)]
        pictures = gr.HTML(parts.shots(empty), elem_id="score_sde-trip-shown")
    with action.below:
        numbers = gr.HTML()
    action.wire(
        {
            "subject": subject,
            "picture": picture,
            "others": others,
            "probes": probes,
            "tolerance": tolerance,
            "nfe": nfe,
        },
        draw_trip,
        [pictures, numbers],
        number=picture_gap,
        params=picture_params,
        turned=[subject],
    )


def draw_trip(trip: "Trip", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The three pictures with the films of both ways, then the others, then the bits."""
    if trip.original is None:
        return ()
    back_lines = () if trip.gap is None else (f"differs by {trip.gap:.2g} of 255 a pixel",)
    films = [f for f in (trip.to_latent, trip.to_picture) if f is not None]
    cards = [
        Shot("Picture", trip.original[0], "the picture", mark=0),
        Shot(
            "Latent",
            None if trip.latent is None else trip.latent[0],
            "its latent, which looks like noise",
            (f"spread {trip.latent_spread:.2f}, 1 is perfect · {trip.nfe_there} NFE",)
            if trip.latent_spread
            else (),
            trip.to_latent if ended else None,
        ),
        Shot(
            "Back again",
            trip.to_picture[-1] if trip.to_picture is not None else None,
            "the picture that came back",
            (*back_lines, f"{trip.nfe_back} NFE") if trip.nfe_back else (),
            np.concatenate(films) if ended and films else None,
            backward=True,
        ),
    ]
    html = parts.shots(cards, scrub=ended, ends=("picture", "and back"))
    if trip.others is not None:
        columns = [f"draw {k + 1}" for k in range(len(trip.others))]
        title = "The same latent, with noise on the way"
        lines = [f"{trip.nfe_others} NFE"] * len(columns)
        html += parts.sheet(columns, {title: (trip.others, lines)})
    return html, bits_html(trip.bits) if trip.bits is not None else gr.skip()


def picture_gap(trip: "Trip", recipe: Recipe) -> Number | None:
    """How far the picture that came back is from itself."""
    if trip.gap is None:
        return None
    return Number("comes back within, of 255 a pixel", markup.figure(trip.gap, 2))


def bits_html(bits: "Bits") -> str:
    """Bits per dimension with the offset spelled out."""
    spread = f" ± {bits.spread:.3f}" if len(bits.probes) > 1 else ""
    each = ", ".join(f"{one:.3f}" for one in bits.probes)
    figures = {
        "bits per dimension": f"{bits.mean:.3f}{spread}",
        "log density": f"{bits.nats:.0f} nats",
        "NFE, each with a gradient": bits.nfe,
    }
    return markup.figures(figures) + markup.notes(
        f"−({bits.nats:.1f}) / ({bits.dimensions} · ln 2) + {bits.offset:g}. The "
        f"offset {bits.offset:g} = log₂(256 / {1 - bits.low:g}) takes back the scaling of 8-bit "
        f"values to [{bits.low:g}, 1]; it is right for dequantised 8-bit pictures only. "
        f"8 would be pixels at random. The ± is the spread over the probes {each}."
    )


# ---------------------------------------------------------------------- sampler lab


def build_lab(frame: Frame) -> None:
    """Particles under the exact score."""
    action = frame.stage("sample", "Run the particles", tab="Sampler lab")
    with action.ask:
        gr.HTML(
            markup.notes(
                "A ring of eight modes whose score is known exactly, so only the sampler can be "
                "wrong. Every evaluation is counted, including the corrector's."
            )
        )
        nfe = gr.Slider(10, 200, 40, step=2, label="NFE a particle")
    with action.settings:
        process = gr.Radio(fields.options(PROCESSES), value="ve", label="Process")
        predictor, corrector = solver_controls()
        moves = corrector_controls()
    with action.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            cloud = plots.place("Particles", elem_id="score_sde-cloud")
            plots.time_scrubber("score_sde-cloud", 16, "Time of the particles", "t = 0.000")
        with gr.Column():
            errors = plots.place("Error")
    with action.below:
        numbers = gr.HTML()
    action.wire(
        {
            "process": process,
            "predictor": predictor,
            "corrector": corrector,
            "nfe": nfe,
            **moves,
        },
        draw_lab,
        [cloud, errors, numbers],
        number=nearness,
        turned=[nfe, moves["snr"]],
    )


def solver_controls() -> tuple[gr.Dropdown, gr.Dropdown]:
    """Predictor and corrector."""
    predictor = gr.Dropdown(
        fields.options(PREDICTORS),
        value="reverse_diffusion",
        label="Predictor",
        info="One step of the reverse equation",
    )
    corrector = gr.Dropdown(
        fields.options(CORRECTORS),
        value="langevin",
        label="Corrector",
        info="Small random moves at one noise level, before each step",
    )
    return predictor, corrector


def corrector_controls() -> Controls:
    """What the corrector does, whose links the predictor takes, and the last denoising."""
    snr = gr.Slider(0.01, 1, 0.16, step=0.01, label="snr", info="Size of the corrector's moves")
    corrections = gr.Slider(1, 5, 1, step=1, label="Corrector moves a step")
    denoise = gr.Checkbox(True, label="Denoise last", info="Return the mean of the last step")
    levels = gr.Dropdown(fields.options(LEVELS), value="grid", label="Links of the chain")
    return {"snr": snr, "corrections": corrections, "levels": levels, "denoise": denoise}


def draw_lab(lab: "Lab", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Particles at all times of the run, the error curve point by point, and the sweep."""
    if not len(lab.times):
        return ()
    moving = not lab.curve
    cloud = cloud_plot(lab) if moving or ended else gr.skip()
    return cloud, curve_plot(lab.curve, lab.floor), lab_numbers(lab)


def nearness(lab: "Lab", recipe: Recipe) -> Number | None:
    """How near the particles come to the data, and as many draws of the data themselves."""
    if lab.error is None or lab.floor is None:
        return None
    what = f"distance to the data; draws of the data themselves have {lab.floor:.2f}"
    return Number(what, f"{lab.error:.2f}")


def cloud_plot(lab: "Lab") -> PlotData:
    """Densities and particles of all times; the last is shown."""
    last = len(lab.times) - 1
    shades = [heat(scene, VIEW, visible=k == last) for k, scene in enumerate(lab.scenes)]
    dots = [
        scatter(np.clip(points, -9, 9), INK, mode="markers", size=4) | {"visible": k == last}
        for k, points in enumerate(lab.clouds)
    ]
    times = [float(t) for t in lab.times]
    return plane([*shades, *dots], "x / √(a² + s²)", "y / √(a² + s²)", meta={"times": times})


def curve_plot(curve: "Sequence[Point]", floor: float | None) -> PlotData:
    """Distance against NFE with intervals; the floor is what independent draws reach."""
    lines = []
    for place, (name, title) in enumerate(METHODS.items()):
        points = [point for point in curve if point.method == name]
        if points:
            hover = [
                f"{title}, {p.nfe} NFE<br>{p.error:.3f} (95 %: {p.low:.3f} – {p.high:.3f})"
                for p in points
            ]
            lines.append(
                Line(
                    title,
                    [p.nfe for p in points],
                    [p.error for p in points],
                    place,
                    hover=hover,
                    neutral=name in RIVALS,
                )
            )
    if floor is not None and curve:
        ends = [min(p.nfe for p in curve), max(p.nfe for p in curve)]
        lines.append(Line("floor: draws of the data", ends, [floor] * 2, neutral=True, marks=False))
    return plots.curves(lines, "network evaluations (NFE)", "sliced W2 to the data",
                      log_x=True, log_y=True)  # fmt: skip


def lab_numbers(lab: "Lab") -> str:
    """The error of the run shown, and the sweep over snr."""
    if lab.error is None:
        return ""
    rows = [[f"{s.snr:g}", f"{s.error:.4f}"] for s in lab.sweep]
    table = markup.table(["snr", "sliced W2"], rows)
    sweep = f"<details><summary>By snr, at {lab.nfe} NFE</summary>{table}</details>"
    figures = {
        "sliced W2 of the run shown": f"{lab.error:.3f}",
        "floor: as many draws of the data": f"{lab.floor:.3f}",
        "NFE, counted": lab.nfe,
    }
    return markup.figures(figures) + verdict(lab.curve) + sweep * bool(rows)


def verdict(curve: "Sequence[Point]") -> str:
    """Whether the corrector helped, budget by budget, where the intervals say so."""
    budgets = sorted({point.nfe for point in curve})
    told = []
    for nfe in budgets:
        result = {p.method: p for p in curve if p.nfe == nfe}
        alone, both = result.get("predictor"), result.get("corrected")
        if alone is None or both is None:
            continue
        word = (
            "helps" if both.high < alone.low else "hurts" if both.low > alone.high else "no matter"
        )
        told.append(f"{nfe} NFE: {word}")
    return f"<p class='verdict'>The corrector, by 95 % intervals. {'; '.join(told)}.</p>" * bool(
        told
    )


# ---------------------------------------------------------------------- pictures


def build_pictures(frame: Frame) -> None:
    """The same samplers with a small network, from one noise and at equal numbers of evaluations.

    sub-VP and VP do without a corrector in the paper; VE needs it there.
    """
    action = frame.stage("draw", "Draw", tab="Pictures")
    with action.ask:
        nfe = gr.Slider(10, 1000, 60, step=10, label="NFE a picture")
        predictor, corrector = solver_controls()
    with action.settings:
        count = gr.Slider(1, 16, 4, step=1, label="Pictures")
        with_flow = gr.Checkbox(True, label="Probability flow too")
        moves = corrector_controls()
    with action.shown:
        shown = gr.HTML()
    action.wire(
        {
            "predictor": predictor,
            "corrector": corrector,
            "nfe": nfe,
            **moves,
            "count": count,
            "with_flow": with_flow,
        },
        draw_pictures,
        [shown],
        number=spent,
    )


def draw_pictures(drawn: "Drawn", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """A row of pictures for each sampler, the clean guess while it is under way."""
    if not drawn.strips:
        return ()
    columns = [f"noise {k + 1}" for k in range(len(drawn.strips[0].pictures))]
    rows = {
        f"{strip.title}, {strip.nfe} NFE": (
            strip.pictures,
            [f"{strip.seconds:.1f} s for all"] if strip.done else ["on its way"],
        )
        for strip in drawn.strips
    }
    return (parts.sheet(columns, rows),)


def spent(drawn: "Drawn", recipe: Recipe) -> Number | None:
    """How often the network was asked for each picture, the corrector's questions among them."""
    if not drawn.strips or not all(strip.done for strip in drawn.strips):
        return None
    counts = dict.fromkeys(str(strip.nfe) for strip in drawn.strips)
    return Number("network evaluations a picture, counted", " and ".join(counts))


# ---------------------------------------------------------------------- control


def build_control(frame: Frame) -> None:
    """Inpainting by brush, colourisation, class by a noisy classifier."""
    action = frame.stage("control", "Draw with control", tab="Control")
    with action.ask:
        task = gr.Radio(
            fields.options(TASKS),
            value="inpaint",
            label="Task",
            info="What is known, or wanted, is put in at every noise level",
        )
        subject, picture = picture_controls()
    with action.settings:
        mask = _mask()
        label = gr.Dropdown(list(TEN_OBJECTS), value="penguin", label="Object of my choice")
        weight = gr.Slider(
            0, 20, 3, step=0.5, label="Weight w of the classifier", info="1 is the paper"
        )
        nfe = gr.Slider(20, 1000, 100, step=10, label="NFE a picture")
        snr = gr.Slider(0.01, 1, 0.16, step=0.01, label="snr", info="For VE, with corrector")
        count = gr.Slider(1, 8, 3, step=1, label="Pictures")
        picture.render()
    with action.shown:
        shown = gr.HTML(elem_id="score_sde-controlled")
    action.wire(
        {
            "task": task,
            "subject": subject,
            "picture": picture,
            "mask": mask,
            "wanted": label,
            "weight": weight,
            "nfe": nfe,
            "snr": snr,
            "count": count,
        },
        draw_control,
        [shown],
        number=obeyed,
        params=picture_params,
    )


def _mask() -> gr.Textbox:
    """What is painted anew, by brush or in words."""
    mask = gr.Textbox(
        "right",
        label="Paint anew",
        info="Brush below, or: left, right, top, bottom, centre",
        max_length=256,
        elem_id="score_sde-mask",
        elem_classes="mono",
    )
    fields.suggestions("score_sde-mask", ("left", "right", "top", "bottom", "centre"))
    gr.HTML(
        '<div class="brush" data-brush data-field="score_sde-mask" '
        'data-given="score_sde-controlled"><canvas width="256" height="256" role="img" '
        'aria-label="The mask: orange is painted anew; the field above says it as text">'
        "</canvas><p>Drag to mark, with Shift to unmark. "
        '<button type="button" data-clear>Clear</button></p></div>',
        js_on_load=(ASSETS / "panels" / "brush.js").read_text("utf-8"),
        css_template=(ASSETS / "panels" / "brush.css").read_text("utf-8"),
    )
    return mask


def obeyed(made: "Controlled", recipe: Recipe) -> Number | None:
    """How well the draws keep to what was asked: to the known part, or to the wanted object."""
    if made.kept is not None:
        return Number("the known part comes back within, of 255", markup.figure(made.kept, 2))
    if made.right:
        sure = sum(made.right) / len(made.right)
        return Number("how sure the classifier is of what was wanted", f"{100 * sure:.0f} %")
    return None


def draw_control(made: "Controlled", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """What was given and known, and what was made of it."""
    if made.given is None and made.made is None:
        return ()
    cards = []
    if made.given is not None and made.known is not None:
        cards = [Shot("The picture", made.given[0], "the given picture")]
        cards += [Shot("Told", made.known[0], "the known part", ("all that the sampler knows",))]
    for k, picture in enumerate(() if made.made is None else made.made):
        lines = [f"classifier: {100 * sure:.0f} %" for sure in made.right[k : k + 1]]
        said = f"{TASKS[made.task]}, draw {k + 1}"
        cards.append(Shot(f"Draw {k + 1}", picture, said, (*lines, f"{made.nfe} NFE"), mark=0))
    said = ""
    if ended and made.kept is not None:
        said = f"The known part comes back to within {made.kept:.2g} of 255."
    elif ended and made.classifier_calls:
        milliseconds = 1000 * made.classifier_seconds / made.classifier_calls
        said = (
            f"Beside the network, {made.classifier_calls} calls of the classifier with a gradient, "
            f"{milliseconds:.0f} ms each. Above, it judges its own work, so it is not a fair judge."
        )
    return (parts.shots(cards) + markup.notes(said) * bool(said),)

"""The NFE lab: solvers side by side from one noise, their cost curve, and the way back to noise."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from gradio.components.base import Component
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.models.library import prompt_note
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
    from engine.sampling.nfe_lab.results import ErrorPoint, Film, Lab, Reference, Rewound, Way

# As the engine names them; a test compares the two lists, as this page may not import torch.
SOLVERS = {
    "ddim": "DDIM",
    "heun": "Heun",
    "dpmpp_2m": "DPM-Solver++ 2M",
    "dpmpp_2m_exact": "DPM-Solver++ 2M exact",
    "unipc2": "UniPC 2",
    "ancestral": "Ancestral",
    "sde_dpmpp_2m": "SDE-DPM-Solver++ 2M",
    "euler_t": "Euler in t",
    "diffusers:DDIM": "DDIM (diffusers)",
    "diffusers:DPMSolverMultistep": "DPMSolverMultistep (diffusers)",
    "diffusers:UniPCMultistep": "UniPCMultistep (diffusers)",
    "diffusers:HeunDiscrete": "HeunDiscrete (diffusers)",
    "diffusers:EulerDiscrete": "EulerDiscrete (diffusers)",
    "diffusers:EulerAncestralDiscrete": "EulerAncestralDiscrete (diffusers)",
}
GRIDS = ("trailing", "leading", "linspace", "lambda", "karras")
CURVE = [4, 6, 10, 16, 28]
PROMPTS = (
    "a rose in neon style",
    "a sketch of a house",
    "a penguin on a pink background",
    "a watercolor mushroom",
    "a pixel art rocket",
)
WAYS = ("DDIM inversion", "Reversible Heun")
FIRST = ("ddim", "dpmpp_2m")
EQUAL = 1e-4


def build(frame: Frame) -> None:
    """The controls, what they mean as settings, and where the events are drawn."""
    run = frame.stage("run", "Run", tab="Solvers side by side")
    with run.ask:
        prompt = gr.Textbox(
            "a rose in neon style",
            label="Prompt",
            lines=1,
            max_lines=4,
            max_length=1000,
            elem_id="nfe_lab-prompt",
            elem_classes="headline",
            submit_btn=False,
        )
        fields.suggestions("nfe_lab-prompt", PROMPTS)
        nfe = gr.Slider(1, 50, 4, step=1, label="NFE", info="Network evaluations a picture")
    with run.settings:
        inputs = _settings(frame)
    with run.shown:
        empty = [Shot(SOLVERS[name], None, "", mark=i) for i, name in enumerate(FIRST)]
        pictures = gr.HTML(parts.shots([*empty, Shot("Reference", None, "")]))
    with run.below, gr.Row(elem_classes="curves"):
        with gr.Column():
            parts.heading(
                "What each evaluation buys", "Distance to a solution with 200 evaluations"
            )
            errors = plots.place("Error")
        with gr.Column():
            parts.heading("The path of the latents", "In the plane of their two main components")
            plane = plots.place("Ways")
    run.wire(
        {"prompt": prompt, "nfe": nfe, **inputs},
        draw,
        [pictures, errors, plane],
        number=number,
        film=film,
        params=run_params,
        back=run_values,
        also=[prompt.submit],
        turned=[nfe],
    )
    build_rewind(frame, prompt, inputs["negative"], inputs["guidance_scale"])
    frame.breaks(
        "Strong guidance bends the path. With 8 evaluations UniPC overshoots and ends "
        "farther from the reference than DDIM, and Heun draws nothing.",
        "DPM-Solver++ 2M, which still works here, or less guidance.",
        {
            "prompt": "a rose in neon style",
            "nfe": 8,
            "guidance_scale": 12.0,
            "solvers": ["ddim", "heun", "dpmpp_2m", "unipc2"],
        },
    )


def _settings(frame: Frame) -> Controls:
    solvers = gr.Dropdown(
        fields.options(SOLVERS),
        value=list(FIRST),
        multiselect=True,
        max_choices=4,
        label="Solvers",
        info="Up to four, from the same noise",
    )
    guidance = gr.Slider(1, 15, 4, step=0.5, label="Guidance", info="1 means no guidance")
    frame.seed(7)
    frame.model()
    with gr.Accordion("More settings", open=False):
        negative = gr.Textbox("", label="Negative prompt", max_length=1000)
        grid = gr.Dropdown(list(GRIDS), value="trailing", label="Spacing of the steps")
        eta = gr.Slider(
            0, 1, 0, step=0.1, label="Eta of DDIM", info="1 draws as much noise as goes"
        )
        curve = gr.Checkbox(True, label="Measure the error curve")
    return {
        "guidance_scale": guidance,
        "solvers": solvers,
        "negative": negative,
        "grid": grid,
        "eta": eta,
        "curve": curve,
    }


def run_params(values: Settings) -> Settings:
    """The settings of `run` as the controls give them."""
    return values | {"curve": CURVE if values["curve"] else []}


def run_values(params: Settings) -> Settings:
    """The values of the controls for such settings."""
    return params | {"curve": bool(params.get("curve", True))}


# ---------------------------------------------------------------------- the run


def draw(lab: "Lab", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Pictures with their verdicts, the error curve so far, and the plane of the ways."""
    order = parts.order_of(recipe, "solvers")
    cards = [film_shot(film, order, recipe, ended) for film in lab.films]
    cards += [
        Shot(SOLVERS.get(name, name), None, "", mark=order[name])
        for name in order
        if name not in [film.solver for film in lab.films]
    ]
    if lab.reference is not None:
        cards.append(reference_shot(lab.reference))
    films_done = all(film.picture is not None for film in lab.films)
    pictures = parts.shots(cards, scrub=films_done, ends=("first guess", "picture"))
    strips = [strip(film, order) for film in lab.films] if films_done else []
    return (
        words_note(recipe) + pictures + equalities(lab, order) + "".join(strips),
        error_plot(lab.curve, order),
        plane_plot(lab.plane, order),
    )


def number(lab: "Lab", recipe: Recipe) -> Number | None:
    """How far the first solver and the best of the others end from the exact picture."""
    errors = [(film.error, film) for film in lab.films if film.error is not None]
    if len(errors) < 2:
        return None
    before, first = errors[0]
    after, best = min(errors[1:], key=lambda pair: pair[0])
    what = f"error at {first.nfe} evaluations, {first.title} → {best.title}"
    return Number(what, f"{after:.2f}", f"{before:.2f}")


def film(lab: "Lab") -> list[np.ndarray]:
    """The guesses of the last solver, and its picture."""
    last = lab.films[-1]
    return [*last.frames, *([last.picture] if last.picture is not None else [])]


def words_note(recipe: Recipe) -> str:
    """A line about words that the model never saw; empty when it knows them all."""
    said = prompt_note(recipe.model.source, str(recipe.params["prompt"])) if recipe.model else ""
    return f'<p class="note">{escape(said)}</p>' if said else ""


def film_shot(film: "Film", order: dict[str, int], recipe: Recipe, ended: bool) -> Shot:
    """One solver's picture, or its latest guess while it is under way."""
    picture = film.picture if film.picture is not None else (film.frames or (None,))[-1]
    cost = f"{film.nfe} NFE · {film.milliseconds_per_nfe:.1f} ms each"
    if film.error is None:
        distance = ""
    elif film.stochastic:
        distance = f"distance {film.error:.3f}: it adds fresh noise, so it draws another picture"
    else:
        distance = f"error {film.error:.4f}"
    stamped = recipe.stamp(parts.png(picture)) if ended and picture is not None else None
    return Shot(
        film.title,
        picture,
        f"{recipe.params['prompt']}, by {film.title} with {film.nfe} evaluations",
        tuple(line for line in (film.verdict or "", cost, distance) if line),
        np.stack(film.frames) if film.picture is not None and film.frames else None,
        stamped,
        f"{film.solver.replace(':', '-')}-{film.nfe}-nfe-seed-{recipe.seed}.png",
        mark=order.get(film.solver),
    )


def reference_shot(reference: "Reference") -> Shot:
    """The fine solve that the errors are measured against."""
    spent = "kept from before" if reference.was_cached else f"{reference.seconds:.1f} s"
    lines = (reference.verdict, f"{reference.title} · {spent}")
    return Shot("Reference", reference.picture, "the reference", tuple(n for n in lines if n))


def strip(film: "Film", order: dict[str, int]) -> str:
    """The guesses of one solver, step by step."""
    notes = [f"{nfe} NFE" for nfe in film.evaluations]
    return parts.filmstrip(film.title, np.stack(film.frames), notes, order.get(film.solver))


def equalities(lab: "Lab", order: dict[str, int]) -> str:
    """Pairs of solvers that are one and the same, with the distance that is left."""
    said = [
        f"<li>✓ {escape(SOLVERS.get(pair.first, pair.first))} and "
        f"{escape(SOLVERS.get(pair.second, pair.second))} draw the same picture: "
        f"they differ by {pair.relative:.1g}, which is round-off.</li>"
        for pair in lab.differences
        if pair.relative < EQUAL
    ]
    return f'<ul class="equal">{"".join(said)}</ul>' if said else ""


def error_plot(curve: "Sequence[ErrorPoint]", order: dict[str, int]) -> PlotData:
    """Error against network evaluations, one line a solver."""
    lines = []
    for name, place in order.items():
        points = [point for point in curve if point.solver == name and point.error > 0]
        title = SOLVERS.get(name, name)
        lines.append(
            Line(
                title,
                [point.nfe for point in points],
                [point.error for point in points],
                place,
                hover=[
                    f"{title}<br>{p.nfe} NFE: error {p.error:.4f}<br>"
                    f"{p.milliseconds_per_nfe:.1f} ms per NFE"
                    for p in points
                ],
            )
        )
    return plots.curves(
        lines, "network evaluations (NFE)", "relative error", log_x=True, log_y=True
    )


def plane_plot(plane: "Plane | None", order: dict[str, int]) -> PlotData:
    """The ways through latent space, from the noise on the left."""
    if plane is None:
        return plots.curves([], "first component", "second component")
    shares = [f"{share:.0%} of the variance" for share in plane.explained]
    lines = []
    for track in plane.tracks:
        known = track.name in order
        lines.append(
            Line(
                SOLVERS.get(track.name, track.name.capitalize()),
                track.points[:, 0].tolist(),
                track.points[:, 1].tolist(),
                order.get(track.name, 0),
                neutral=not known,
                marks=known,
            )
        )
    titles = (f"first component, {shares[0]}", f"second, {shares[1]}")
    return plots.curves(lines, *titles)


# ---------------------------------------------------------------------- rewind


def build_rewind(frame: Frame, prompt: Component, negative: Component, guidance: Component) -> None:
    """Run a picture back to its noise, and forwards again under another prompt."""
    rewind = frame.stage("rewind", "Rewind", tab="Rewind a picture", backward=True)
    with rewind.ask:
        gr.HTML(
            markup.notes(
                "Run a picture back to the noise that it would have come from, then forward "
                "again: once with DDIM inversion, once with a solver that can be undone. Then "
                "use the same noise with another prompt."
            )
        )
        edit = gr.Textbox(
            "a sunflower in neon style",
            label="Prompt for the way back",
            max_length=1000,
            elem_classes="headline",
        )
    with rewind.settings:
        steps = gr.Slider(2, 100, 25, step=1, label="Steps each way")
        depth = gr.Slider(
            0.1, 1, 0.8, step=0.05, label="Depth", info="1 goes all the way to pure noise"
        )
        picture = fields.picture_field(
            label="Your picture (shrunk to the model's size), or else the prompt of the first tab",
            height=220,
        )
    with rewind.shown:
        empty = [Shot("Original", None, "")]
        empty += [Shot(title, None, "", backward=True) for title in WAYS]
        shown = gr.HTML(parts.shots(empty))
    rewind.wire(
        {
            "prompt": prompt,
            "edit": edit,
            "guidance_scale": guidance,
            "negative": negative,
            "steps": steps,
            "depth": depth,
            "picture": picture,
        },
        draw_rewind,
        [shown],
        number=way_back,
        params=fields.with_picture,
    )


def draw_rewind(shown: "Rewound", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The picture, both ways to noise and back with their errors, and the edit."""
    if shown.original is None:
        return ()
    prompt = str(recipe.params["prompt"])
    first = shown.encoded if shown.encoded is not None else shown.original
    cards = [Shot("Original", first, prompt, tuple(line for line in (shown.verdict,) if line))]
    cards += [way_shot(way, prompt, ended) for way in shown.ways]
    html = parts.shots(cards, scrub=ended, ends=("picture to noise", "and back"))
    edits = [edit_shot(way, recipe, ended) for way in shown.ways if way.edited is not None]
    if edits:
        html += f'<h3 class="between">Back as “{escape(recipe.params["edit"])}”</h3>'
        html += parts.shots(edits)
    best = shown.ways[-1] if shown.ways else None
    if ended and best is not None and best.edited is not None and best.picture is not None:
        html += '<h3 class="between">Original, edited, undone</h3>'
        names = (prompt, str(recipe.params["edit"]))
        html += parts.comparison(first, best.edited, names, undone=best.picture)
    return (html,)


def way_back(shown: "Rewound", recipe: Recipe) -> Number | None:
    """How far the picture that came back is from the original, by both ways."""
    errors = [way.pixel_error for way in shown.ways if way.pixel_error is not None]
    if len(errors) < 2:
        return None
    what = f"comes back within, of 255: {shown.ways[0].title} → {shown.ways[-1].title}"
    return Number(what, markup.figure(errors[-1], 2), markup.figure(errors[0], 2))


def way_shot(way: "Way", prompt: str, ended: bool) -> Shot:
    """What came back by one method, with the film of the way there and back."""
    frames = (*way.to_noise, *way.to_picture)
    picture = way.picture if way.picture is not None else (frames or (None,))[-1]
    lines = []
    if way.pixel_error is not None and way.latent_error is not None:
        lines = [
            f"comes back within {markup.figure(way.pixel_error, 2)} of 255 a pixel",
            f"relative error of the latents {markup.figure(way.latent_error)}",
            f"its noise has a spread of {way.noise_std:.2f}; 1 is perfect · {way.nfe} NFE",
        ]
    return Shot(
        way.title,
        picture,
        f"{prompt}, run to noise and back by {way.title}",
        tuple(lines),
        np.stack(frames) if ended and frames else None,
        backward=True,
    )


def edit_shot(way: "Way", recipe: Recipe, ended: bool) -> Shot:
    """The picture that the other prompt made of the same noise."""
    edited = way.edited if ended else None
    stamped = None if edited is None else recipe.stamp(parts.png(edited))
    return Shot(
        f"by {way.title}",
        way.edited,
        f"{recipe.params['edit']}, edited by {way.title}",
        tuple(line for line in (way.edited_verdict,) if line),
        stamped=stamped,
        file_name=f"rewound-{way.name}-seed-{recipe.seed}.png",
    )

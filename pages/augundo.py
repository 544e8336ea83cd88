"""AugUndo: a transform grows, depth and mask follow, and so does what the truth is charged."""

import base64
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.errors import BadInput
from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._parts import Shot
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.networks.augundo.results import Averaged, Learnt, Transformed

# As the engine names them; a test compares the lists, as this page may not import torch.
ARMS = {
    "none": "no augmentation",
    "photometric": "colours and points only",
    "naive": "naive, geometry unchanged",
    "transformed": "naive, geometry transformed",
    "undo": "undo",
}
POLICIES = {
    "none": "no transform",
    "naive": "naive, geometry unchanged",
    "transformed": "naive, geometry transformed",
    "undo": "undo",
}
SCENES = {"room": "a room, drawn here"}
if find_spec("skimage"):
    SCENES["motorcycle"] = "a motorcycle (real stereo pair, Middlebury 2014)"
MOST_BYTES = 8_000_000
SHOTS = ("What the network sees", "Its depth, undone", "Where it counts", "Error after the undo")


def build(frame: Frame) -> None:
    """The transform; the training of all arms; averaging without any training."""
    run = frame.stage("run", "Transform and undo", tab="One transform")
    with run.ask:
        scene = gr.Dropdown(fields.options(SCENES), value="room", label="Scene")
        angle = gr.Slider(-45, 45, 25, step=1, label="Angle", info="Degrees, counter-clockwise")
        zoom = gr.Slider(0.5, 1.5, 0.6, step=0.05, label="Zoom")
    with run.settings:
        inputs = _settings(frame)
    with run.shown:
        pictures = gr.HTML(
            parts.shots([Shot(title, None, "") for title in SHOTS]), elem_id="augundo-pictures"
        )
    with run.below:
        parts.heading(
            "What each policy charges for the true depth",
            "The loss floor as the transform grows: a network leaves the truth where it is dear.",
        )
        floors = plots.place("Loss floors")
        numbers = gr.HTML("", elem_id="augundo-numbers")
        script = gr.HTML("", elem_id="augundo-script")
    run.wire(
        {"scene": scene, "angle": angle, "zoom": zoom, **inputs},
        draw,
        [pictures, floors, numbers, script],
        number=number,
        params=run_params,
        back=without_file,
        turned=[angle, zoom, scene],
    )
    build_training(frame)
    build_average(frame)
    frame.breaks(
        "Zoomed in by half, most of the picture leaves the frame: the mask takes more than half "
        "of it out of the loss, and points are lost with it.",
        "a zoom below 1, which loses nothing, or at most 1.1, as the paper takes it.",
        {"zoom": 1.5, "angle": 25.0},
    )


def _settings(frame: Frame) -> Controls:
    """What else can be turned, and a picture of one's own."""
    place = fields.WholeNumber(
        2, label="Room", info="Each number is another place", precision=0, minimum=0, maximum=9999
    )
    with gr.Row():
        flip_x = gr.Checkbox(False, label="Mirror left and right")
        flip_y = gr.Checkbox(False, label="Upside down")
    depth_from = gr.Radio(
        [("a small network", "network"), ("the truth", "truth")],
        value="network",
        label="Depth that is undone",
    )
    interpolation = gr.Radio(
        ["nearest", "bilinear"],
        value="nearest",
        label="Undo by",
        info="Bilinear is smoother and puts points between two surfaces",
    )
    frame.seed(7)
    with gr.Accordion("More settings", open=False):
        rest = {
            "shift_x": gr.Slider(-0.25, 0.25, 0, step=0.01, label="Shift right"),
            "shift_y": gr.Slider(-0.25, 0.25, 0, step=0.01, label="Shift down"),
            "brightness": gr.Slider(
                0.5, 1.5, 1, step=0.05, label="Brightness", info="Of the network's input alone"
            ),
            "points": gr.Slider(
                0.001, 0.1, 0.01, step=0.001, label="Measured points", info="Share of the pixels"
            ),
            "removed": gr.Slider(
                0, 0.9, 0, step=0.05, label="Points removed", info="Kept from the network"
            ),
        }
    with gr.Accordion("Your own picture, depth and camera", open=False):
        own = {
            "picture": fields.picture_field(label="Picture", height=160),
            "depth_file": gr.File(
                label="Its depth: .npy in metres, or a 16-bit PNG with 256 to the metre",
                file_types=[".npy", ".png"],
                height=100,
            ),
            "intrinsics": gr.Textbox(
                label="K",
                info="fx, fy, cx, cy in pixels; empty is a camera that sees 65 degrees",
                max_length=300,
            ),
        }
    return {
        "place": place,
        "flip_x": flip_x,
        "flip_y": flip_y,
        "depth_from": depth_from,
        "interpolation": interpolation,
        **rest,
        **own,
    }


def run_params(given: Settings) -> Settings:
    """The settings with picture and depth as texts, so that the recipe holds all a run needs."""
    settings = fields.with_picture(given, None)
    path = settings.pop("depth_file", None)
    return settings | ({"depth_file": file_text(str(path))} if path else {})


def file_text(path: str) -> str:
    """The content of an uploaded file. Raises `BadInput` when it is too large."""
    data = Path(path).read_bytes()
    if len(data) > MOST_BYTES:
        raise BadInput("The depth file is larger than 8 MB.", "Make the pictures smaller.")
    if not data:  # as text it would look as if none had been given
        raise BadInput("The depth file is empty.", "Upload it again.")
    return base64.b64encode(data).decode("ascii")


def without_file(params: Settings) -> Settings:
    """What the controls hold for such settings; a file cannot be put back into its field."""
    return {name: value for name, value in params.items() if name != "depth_file"}


# ---------------------------------------------------------------------- one transform


def draw(result: "Transformed", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The films so far with one scrubber, the floors, what is kept, and the script at the end."""
    return (
        films(result),
        floor_curves(result) if result.curve and result.curve[0].none is not None else gr.skip(),
        kept(result),
        script_of(result) if result.script else gr.skip(),
    )


def films(result: "Transformed") -> str:
    """What goes in and what comes out, scrubbed through from no transform to the whole one."""
    by_title = {film.title: film for film in result.films}
    shots = [
        Shot(
            title,
            film.frames[-1],
            film.alt,
            frames=film.frames,
            backward="undone" in title,
        )
        for title in SHOTS
        if (film := by_title.get(title)) is not None
    ]
    return parts.shots(shots, scrub=True, ends=("as taken", "transformed"))


def floor_curves(result: "Transformed") -> PlotData:
    """A line a policy, against the strength of the transform."""
    x = [100 * at.strength for at in result.curve]
    lines = []
    # The naive line takes the colour of running forward, so it comes first.
    for place, (policy, title) in enumerate(POLICIES.items(), start=-1):
        y = [float(getattr(at, policy)) for at in result.curve]
        hover = [f"{title}: {value:.4f}" for value in y]
        lines.append(
            Line(title, x, y, max(place, 0), backward=policy == "undo", neutral=policy == "none",
                 hover=hover)
        )  # fmt: skip
    return plots.curves(lines, "share of the transform, %", "loss at the true depth", height=340)


def kept(result: "Transformed") -> str:
    """What is left to learn from, and both cameras."""
    if not result.curve:
        return ""
    at = result.curve[-1]
    told = {
        "sparse points for a naive loss": f"{at.points_naive:.0%}",
        "sparse points for the undo": f"{at.points_undo:.0%}",
        "pixels still supervised": f"{at.supervised:.0%}",
        "undo itself is off by": f"{1000 * at.undo_error:.0f} mm",
    }
    rows = [
        [" ".join(f"{value:g}" for value in before), " ".join(f"{value:g}" for value in after)]
        for before, after in zip(result.k, result.k_augmented, strict=True)
    ]
    height, width = result.size_augmented
    head = [f"K, {result.size[1]} x {result.size[0]} pixels", f"A K, {width} x {height} pixels"]
    return (
        markup.figures(told)
        + markup.table(head, rows, "Intrinsics before and after")
        + markup.notes(result.title.capitalize() + ".", *result.notes)
    )


def script_of(result: "Transformed") -> str:
    """The same augmentation as a Python file to take along."""
    assert result.script is not None  # the caller has looked
    url = "data:text/x-python;base64," + base64.b64encode(result.script.data).decode("ascii")
    return (
        f'<p><a class="quiet" download="{markup.escape(result.script.name)}" href="{url}">'
        "Save this augmentation as Python</a></p>"
    )


def number(result: "Transformed", recipe: Recipe) -> Number | None:
    """What the truth is charged, in multiples of the untouched pair."""
    if not result.curve:
        return None
    at = result.curve[-1]
    if at.none is None or at.naive is None or at.undo is None:
        return Number("undo itself is off by", f"{1000 * at.undo_error:.0f} mm")
    return Number(
        "price of the truth, naive → undo",
        f"×{at.undo / at.none:.1f}",
        f"×{at.naive / at.none:.1f}",
    )


# ---------------------------------------------------------------------- training


def build_training(frame: Frame) -> None:
    """All arms side by side, from nothing."""
    train = frame.stage("train", "Train", tab="Train it")
    with train.ask:
        gr.HTML(
            markup.notes(
                "No true depth is shown to any of them. Same first weights, same rooms, same "
                "draws; measured on rooms that none of them sees."
            )
        )
        arms = gr.Dropdown(
            fields.options(ARMS),
            value=["none", "naive", "undo"],
            multiselect=True,
            label="Augmentation",
        )
        steps = gr.Slider(4, 600, 40, step=4, label="Steps")
    with train.settings:
        rooms = gr.Slider(2, 64, 8, step=1, label="Rooms to learn from")
        test_rooms = gr.Slider(2, 32, 6, step=1, label="Rooms of the test")
        batch = gr.Slider(1, 8, 4, step=1, label="Rooms a step")
    with train.shown:
        curve = plots.place("Error on unseen rooms")
        pictures = gr.HTML("", elem_id="augundo-rooms")
    with train.below:
        table = gr.HTML("", elem_id="augundo-table")
    train.wire(
        {"arms": arms, "steps": steps, "rooms": rooms, "test_rooms": test_rooms, "batch": batch},
        draw_training,
        [curve, pictures, table],
        number=number_of_training,
    )


def draw_training(result: "Learnt", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The curves as they grow; at the end what each arm makes of one room."""
    return learning_curves(result), rooms_shown(result), training_table(result)


def learning_curves(result: "Learnt") -> PlotData:
    """Error on unseen rooms as they are, an arm a line; dotted is no network at all."""
    last = max((one.step for one in result.steps), default=1)
    level = [result.spread.still] * 2
    lines = [Line("spread points, no network", [0, last], level, neutral=True, marks=False)]
    for place, arm in enumerate(ARMS):
        points = [one for one in result.steps if one.arm == arm]
        if points:
            lines.append(
                Line(
                    ARMS[arm],
                    [one.step for one in points],
                    [one.still for one in points],
                    place,
                    backward=arm == "undo",
                )
            )
    return plots.curves(lines, "training step", "mean error, m", height=320)


def rooms_shown(result: "Learnt") -> str:
    """One room of the test: what is given, the truth, and each arm's depth."""
    if result.room is None or result.truth is None:
        return ""
    shots = [
        Shot("Given", result.room, "a room never seen, with its sparse points"),
        Shot("Truth", result.truth, "its true depth"),
    ]
    for one in result.shown:
        shots.append(
            Shot(
                ARMS[one.arm],
                one.picture,
                f"depth of the arm {ARMS[one.arm]}",
                (f"off by {one.error:.3f} m",),
                backward=one.arm == "undo",
            )
        )
    return parts.shots(shots)


def training_table(result: "Learnt") -> str:
    """The newest errors of every arm."""
    newest = {one.arm: one for one in result.steps}
    rows = [
        ["spread points, no network", f"{result.spread.still:.3f}", f"{result.spread.moved:.3f}"]
    ]
    rows += [
        [ARMS[arm], f"{one.still:.3f}", f"{one.moved:.3f}"]
        for arm in ARMS
        if (one := newest.get(arm)) is not None
    ]
    head = ["augmentation", "error, rooms as they are (m)", "error, rooms transformed (m)"]
    return markup.table(head, rows, "Errors on unseen rooms") + markup.notes(
        f"{result.train_rooms} rooms to learn from, {result.test_rooms} others to be measured on. "
        "One seed and few steps: what differs here by millimetres says nothing yet."
    )


def number_of_training(result: "Learnt", recipe: Recipe) -> Number | None:
    """The error of the undo after the naive one's, or that of the newest arm alone."""
    newest = {one.arm: one.still for one in result.steps}
    if "undo" in newest and "naive" in newest:
        return Number(
            "error on unseen rooms, naive → undo",
            f"{100 * newest['undo']:.1f} cm",
            f"{100 * newest['naive']:.1f} cm",
        )
    arm = next(reversed(newest), None)
    return None if arm is None else Number(f"error, {ARMS[arm]}", f"{100 * newest[arm]:.1f} cm")


# ---------------------------------------------------------------------- averaging


def build_average(frame: Frame) -> None:
    """One model, several views, one answer."""
    average = frame.stage("average", "Ask and average", tab="Average a model")
    with average.ask:
        gr.HTML(
            markup.notes(
                "The same object without any training: ask a depth model about several views of "
                "one picture, undo the answers, average them where the mask is 1."
            )
        )
        frame.model()
        views = gr.Slider(1, 32, 8, step=1, label="Views", info="The untouched one among them")
    with average.settings:
        scene = gr.Dropdown(fields.options(SCENES), value="room", label="Scene")
        place = fields.WholeNumber(2, label="Room", precision=0, minimum=0, maximum=9999)
        points = gr.Slider(0.001, 0.1, 0.01, step=0.001, label="Measured points")
        picture = fields.picture_field(
            label="Or your picture, for a depth model of your own", height=160
        )
    with average.shown:
        pictures = gr.HTML(
            parts.shots([Shot(title, None, "") for title in ("One view", "Average", "Doubt")])
        )
    with average.below:
        table = gr.HTML("", elem_id="augundo-views")
    average.wire(
        {"views": views, "scene": scene, "place": place, "points": points, "picture": picture},
        draw_average,
        [pictures, table],
        number=number_of_average,
        params=fields.with_picture,
    )


def draw_average(result: "Averaged", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The newest view, what it says undone, the average and where the answers differ."""
    if not result.views:
        return ()
    first, last = result.views[0], result.views[-1]
    shots = [
        Shot("The picture", result.original, "the picture as it was taken"),
        Shot("Newest view", last.augmented, "the picture as the model is given it"),
        Shot(
            "What it says, undone", last.undone, "depth of the newest view, undone", backward=True
        ),
        Shot("The untouched view alone", first.undone, "depth of the untouched picture"),
        Shot("Average", result.average, "mean of all answers where they count"),
        Shot("Doubt", result.spread, "where the answers differ, red is most"),
    ]
    if result.truth is not None:
        shots.append(Shot("Truth", result.truth, "the true depth"))
    rows = [
        [view.title, "unknown" if view.error is None else f"{view.error:.4f}"]
        for view in result.views
    ]
    if result.average_error is not None:
        rows.append(["average of all", f"{result.average_error:.4f}"])
    table = markup.table(["view", "mean error, m"], rows, "Errors of the views")
    return parts.shots(shots), table + markup.notes(f"By {result.model}.", *result.notes)


def number_of_average(result: "Averaged", recipe: Recipe) -> Number | None:
    """The error of the average after that of the untouched view."""
    if result.average_error is None or result.single_error is None:
        return None
    return Number(
        "error, one view → average",
        f"{100 * result.average_error:.1f} cm",
        f"{100 * result.single_error:.1f} cm",
    )

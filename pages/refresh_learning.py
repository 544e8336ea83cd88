"""Refresh learning: five tasks with and without unlearning first, and one equation for them all."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _planes as planes
from pages import _plots as plots
from pages import _taking as taking
from pages._fields import Controls
from pages._frame import Frame
from pages._look import ASSETS, FORWARD
from pages._markup import escape
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.unlearning.refresh_learning.results import (
        Arm,
        Equation,
        Paired,
        Refreshed,
        Run,
    )

WAYS = {
    "derpp": "DER++: old answers and labels",
    "der": "DER: old answers",
    "er": "ER: old labels",
    "ewc": "online EWC: weights held",
    "sgd": "nothing (SGD)",
    "joint": "all tasks at once, one pass",
}
PHI = {"none": "none", "negative entropy": "negative entropy", "squares": "squares"}
PSI = {"none": "none", "fisher": "the Fisher form", "gaussian": "entropy of a Gaussian"}
TASKS = ("T-shirt, trouser", "pullover, dress", "coat, sandal", "shirt, sneaker", "bag, boot")
CSS = (ASSETS / "panels" / "refresh.css").read_text("utf-8")


def build(frame: Frame) -> None:
    """The five tasks; the equation; files."""
    _tasks(frame)
    _equation(frame)
    with frame.tab("Take it along"):
        _exporting(frame)
    frame.breaks(
        "With a delta of 0.01, each step uphill undoes more than the batch teaches. "
        "The network ends near chance with any method.",
        "0.00001, the published size, or at most 0.001.",
        {"way": "er", "delta": 1e-2, "seeds": 1},
    )


def _tasks(frame: Frame) -> None:
    run = frame.stage("run", "Learn the five tasks", tab="Unlearn, then learn")
    with run.ask:
        way = gr.Dropdown(fields.options(WAYS), value="derpp", label="Against forgetting")
        delta = gr.Number(
            1e-5,
            label="Delta: how far uphill before each batch",
            info="A share of each tensor's length; 0.00001 is published, more than 0.003 destroys "
            "the network",
            minimum=0,
            maximum=1,
        )
    with run.settings:
        controls = _settings(frame)
    with run.shown:
        shown = gr.HTML(
            markup.notes("Accuracy on each task after each task, with refresh and without."),
            elem_id="refresh-matrices",
            css_template=CSS,
        )
    with run.below:
        told = gr.HTML("", elem_id="refresh-told", css_template=CSS)
        with gr.Row(elem_classes="curves"):
            with gr.Column():
                curve = plots.place("How the first task is forgotten", visible=False)
            with gr.Column():
                flat = plots.place("Loss around the end, along a random direction", visible=False)
        sizes = plots.place("Relative length of the steps uphill", visible=False)
    run.wire(
        {"way": way, "delta": delta, **controls},
        draw,
        [shown, told, curve, flat, sizes],
        number=difference,
        film=film,
    )


def _settings(frame: Frame) -> Controls:
    seeds = gr.Slider(1, 10, value=3, step=1, label="Seeds", info="The same in every arm")
    controls = gr.Checkbox(
        False,
        label="With both controls",
        info="A random direction of the same length, and noise alone",
    )
    frame.seed(0)
    with gr.Accordion("More settings", open=False):
        more: Controls = {
            "rounds": gr.Slider(1, 10, value=1, step=1, label="Steps uphill a batch"),
            "noise": gr.Number(1e-3, label="Noise", minimum=0, maximum=10),
            "form": gr.Radio(
                [("published code", "code"), ("paper: F⁻¹ and matching noise", "paper")],
                value="code",
                label="Form of the step",
            ),
            "use_fisher": gr.Checkbox(True, label="Weigh with the Fisher information"),
            "buffer": gr.Slider(10, 2000, value=200, step=10, label="Samples that are kept"),
            "epochs": gr.Slider(1, 10, value=1, step=1, label="Epochs a task"),
            "train": gr.Slider(20, 1900, value=500, step=20, label="Training pictures of a class"),
            "test": gr.Slider(20, 300, value=300, step=20, label="Test pictures of a class"),
            "network": gr.Radio(
                [("MLP, 784-100-100-10", "mlp"), ("The shape of ResNet18: slow", "resnet")],
                value="mlp",
                label="Network",
            ),
        }
    return {"seeds": seeds, "controls": controls, **more}


# ---------------------------------------------------------------------- drawing


def draw(result: "Refreshed", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The matrices as they fill; the differences as seeds come; at the end what lies around."""
    if not result.arms:
        return ()
    cards = "".join(_matrix(arm) for arm in result.arms)
    shown = f'<div class="matrices">{cards}</div>'
    told = _told(result, ended)
    curve = plots.shown(forgetting_plot(result.arms))
    if not ended or result.landscape is None:
        return shown, told, curve
    sizes = gr.skip() if result.relative_steps is None else plots.shown(sizes_plot(result))
    return shown, told, curve, plots.shown(flatness_plot(result)), sizes


def difference(result: "Refreshed", recipe: Recipe) -> Number | None:
    """Refresh minus plain in points of final accuracy, with its interval over the seeds."""
    pair = next((one for one in result.paired if one.key == "refresh"), None)
    if pair is None:
        return None
    low, high = (100 * value for value in (pair.mean.low, pair.mean.high))
    span = f" ({low:+.1f} to {high:+.1f})" if len(pair.differences) > 1 else ""
    return Number("refresh minus plain, points", f"{100 * pair.mean.mean:+.2f}{span}")


def film(result: "Refreshed") -> list[np.ndarray]:
    """How the accuracies of the tasks fill, one picture after each task, with refresh."""
    values = np.nan_to_num(mean_matrix(result.arms[-1].runs))
    paper, ink = (np.array(c, float) for c in ((250, 249, 245), (168, 76, 8)))
    frames = []
    for task in range(1, len(values) + 1):
        level = np.where(np.arange(len(values))[:, None] < task, values, 0.0)[..., None]
        frames.append((paper + level * (ink - paper)).round().astype(np.uint8))
    return [np.kron(frame, np.ones((18, 18, 1), np.uint8)) for frame in frames]


def _matrix(arm: "Arm") -> str:
    """Mean accuracy over the seeds so far: rows are times, columns tasks."""
    values = mean_matrix(arm.runs)
    head = "".join(f'<th scope="col" title="{escape(t)}">{i}</th>' for i, t in enumerate(TASKS, 1))
    rows = "".join(
        f'<tr><th scope="row">after {at + 1}</th>'
        + "".join(_cell(value, at == task, task > at) for task, value in enumerate(row))
        + "</tr>"
        for at, row in enumerate(values)
    )
    final = ""
    if arm.final is not None and arm.transfer is not None:
        final = (
            f"final {100 * arm.final.mean:.1f} %, backward transfer "
            f"{100 * arm.transfer.mean:+.1f} points, {_counted(len(arm.runs), 'seed')}"
        )
    return (
        f"<section><h3>{escape(arm.title)}</h3>"
        f'<table class="matrix"><caption class="unseen">Accuracy in per cent on each task after '
        f"each task, {escape(arm.title)}</caption><tr><th>task</th>{head}</tr>{rows}</table>"
        f"{markup.notes(final)}</section>"
    )


def _cell(value: float, is_just: bool, is_ahead: bool) -> str:
    if np.isnan(value) or is_ahead:
        return '<td class="none"></td>'
    tone = ' class="just"' * is_just
    return f'<td{tone} style="--share:{value:.3f}">{100 * value:.0f}</td>'


def mean_matrix(runs: "Sequence[Run]") -> np.ndarray:
    """The mean of what the seeds have so far; NaN where none has anything."""
    stack = np.stack([run.matrix for run in runs])
    there = ~np.isnan(stack)
    total = np.where(there, stack, 0.0).sum(0)
    return np.where(there.any(0), total / np.maximum(there.sum(0), 1), np.nan)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _told(result: "Refreshed", ended: bool) -> str:
    """The differences seed by seed, and in words whether they mean anything."""
    if not result.paired:
        return markup.notes(*result.notes)
    reach = max(1.0, *(100 * abs(d) for pair in result.paired for d in _ends(pair)))
    rows = "".join(_pair(pair, result, reach) for pair in result.paired)
    verdict = f"<p class='verdict'>{escape(_verdict(result))}</p>" if ended else ""
    steps = ""
    if ended:
        plain, other = result.arms[0].runs[0], result.arms[1].runs[0]
        steps = (
            f"Every arm takes {plain.steps} learning steps a seed; refresh takes "
            f"{other.extra_steps} steps uphill more."
        )
    return f'{verdict}<ul class="pairs">{rows}</ul>' + markup.notes(
        "Final accuracy minus that without refresh, in points: each seed, their mean, and its "
        "95 % interval.",
        *([steps] if steps else []),
        *result.notes,
    )


def _ends(pair: "Paired") -> tuple[float, ...]:
    several = len(pair.differences) > 1
    return (*pair.differences, *((pair.mean.low, pair.mean.high) if several else ()))


def _pair(pair: "Paired", result: "Refreshed", reach: float) -> str:
    """One line: the seeds as pale dots, the mean, the interval around it."""

    def x(value: float) -> float:
        return 50 + 48 * 100 * value / reach

    title = next(arm.title for arm in result.arms if arm.key == pair.key)
    mean, low, high = pair.mean.mean, pair.mean.low, pair.mean.high
    several = len(pair.differences) > 1
    span = f'<line class="span" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="13" y2="13"/>' * several
    seeds = "".join(
        f'<svg x="{x(d):.1f}%" y="13" overflow="visible"><circle class="seed" r="4"/></svg>'
        for d in pair.differences
    )
    said = f"{100 * mean:+.2f}"
    if several:
        said += f" ({100 * low:+.2f} to {100 * high:+.2f})"
    mark = "significant" if pair.is_significant else "not significant"
    lines = (
        f'<svg viewBox="0 0 100 26" preserveAspectRatio="none" aria-hidden="true">'
        f'<line class="zero" x1="50" x2="50" y1="0" y2="26"/>{span}</svg>'
    )
    dots = (
        f'<svg style="margin-top:-26px" aria-hidden="true">{seeds}'
        f'<svg x="{x(mean):.1f}%" y="13" overflow="visible"><circle r="6"/></svg></svg>'
    )
    return (
        f"<li><span>{escape(title)}</span><div>{lines}{dots}</div>"
        f'<span>{said} <span class="note">{mark if several else "one seed"}</span></span></li>'
    )


def _verdict(result: "Refreshed") -> str:
    """Plainly whether a gain was measured."""
    pair = result.paired[0]
    points = 100 * pair.mean.mean
    if len(pair.differences) < 2:
        return f"One seed: {points:+.2f} points, which tells nothing about a gain."
    if not pair.is_significant:
        return (
            f"No gain is measured: {points:+.2f} points over {len(pair.differences)} seeds, and "
            "the interval holds zero."
        )
    kind = "a gain" if points > 0 else "a loss"
    return f"Here {kind} is measured: {points:+.2f} points over {len(pair.differences)} seeds."


def forgetting_plot(arms: "Sequence[Arm]") -> PlotData:
    """Accuracy on the first task after each task, and the mean over what was learnt so far."""
    lines = []
    for place, arm in enumerate(arms):
        values = mean_matrix(arm.runs)
        at = [i for i, row in enumerate(values) if not np.isnan(row[0])]
        first = [100 * float(values[i][0]) for i in at]
        mean = [100 * float(np.nanmean(values[i][: i + 1])) for i in at]
        times = [i + 1 for i in at]
        name = arm.title
        lines.append(Line(f"first task, {name}", times, first, place, neutral=place == 0))
        lines.append(Line(f"all so far, {name}", times, mean, place, marks=False))
    return plots.curves(lines, "tasks learnt", "accuracy, %", height=340)


def flatness_plot(result: "Refreshed") -> PlotData:
    """The loss along one direction, scaled filter by filter, of the first seed's networks."""
    landscape = result.landscape
    assert landscape is not None
    titles = {arm.key: arm.title for arm in result.arms}
    lines = [
        Line(
            f"{titles[key]}, |gradient| {landscape.gradient_norms[key]:.2f}",
            landscape.places.tolist(),
            losses.tolist(),
            place,
            neutral=key == "plain",
            marks=False,
        )
        for place, (key, losses) in enumerate(landscape.losses.items())
    ]
    return plots.curves(
        lines, "along the direction, shares of the filters' length", "test loss", height=340
    )


def sizes_plot(result: "Refreshed") -> PlotData:
    """How many steps uphill were how long, as shares of the tensors' length."""
    assert result.relative_steps is not None
    counts, edges = np.histogram(result.relative_steps, bins=24)
    trace: dict[str, object] = {
        "type": "bar",
        "x": [float(v) for v in (edges[:-1] + edges[1:]) / 2],
        "y": [int(c) for c in counts],
        "marker": {"color": FORWARD},
        "hovertemplate": "%{y} steps of about %{x:.2g}<extra></extra>",
    }
    axis: dict[str, object] = {"exponentformat": "power"}
    return planes.figure(
        [trace], "largest relative length of a step uphill", "steps", xaxis=axis, height=260
    )


# ---------------------------------------------------------------------- one equation


def _equation(frame: Frame) -> None:
    stage = frame.stage("equation", "Check the equation", tab="One equation")
    with stage.ask:
        gr.HTML(
            '<p class="equation">L = CE + <i>a</i> D<sub>Φ</sub>(outputs, targets) + '
            "<i>b</i> D<sub>Ψ</sub>(weights, old weights)</p>"
        )
        phi = gr.Radio(fields.options(PHI), value="squares", label="Φ, on the outputs")
        psi = gr.Radio(fields.options(PSI), value="none", label="Ψ, on the weights")
    with stage.settings:
        a = gr.Slider(0, 2, value=1, step=0.1, label="a")
        b = gr.Slider(0, 2, value=0, step=0.1, label="b")
        samples = gr.Slider(1, 100, value=6, step=1, label="Samples of the live numbers")
        classes = gr.Slider(2, 20, value=5, step=1, label="Classes")
    with stage.shown:
        shown = gr.HTML("", elem_id="refresh-equation")
        levels = plots.place("The divergence between two answers", visible=False)
    stage.wire(
        {"phi": phi, "psi": psi, "a": a, "b": b, "samples": samples, "classes": classes},
        draw_equation,
        [shown, levels],
        number=largest_error,
        turned=[phi, psi, a, b],
    )


def draw_equation(result: "Equation", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The name of the choice; all methods checked on the same live numbers; the level sets."""
    if not result.checked:
        return ()
    names = " or ".join(result.names)
    phi, psi = result.phi, result.psi
    said = (
        f"<p class='verdict'>Φ {escape(phi)}, Ψ {escape(psi)}, a = {result.a:g}, b = {result.b:g}: "
        f"<b>{escape(names)}</b>. On these numbers a D<sub>Φ</sub> + b D<sub>Ψ</sub> = "
        f"{result.value:.4f}.</p>"
    )
    rows = [
        [
            f"{one.title} {'◀ chosen' if one.title in result.names else ''}",
            f"Φ {one.phi}" if one.phi != "none" else f"Ψ {one.psi}",
            one.told,
            f"{one.general:.6f}",
            f"{one.own:.6f}",
            markup.figure(one.error),
        ]
        for one in result.checked
    ]
    head = ["method", "function", "between", "general equation", "its own formula", "difference"]
    table = markup.table(
        head, rows, "The formula of each method next to the general one", heads=True
    )
    if not ended:
        return (said + table,)
    return said + table, _levels(result)


def _levels(result: "Equation") -> gr.Plot:
    """D_Phi(p, q) over two classes; nothing where Phi is none."""
    if result.levels is None:
        return gr.Plot(visible=False)
    axis = [round(float(v), 3) for v in np.linspace(0, 1, len(result.levels))]
    trace: dict[str, object] = {
        "type": "contour",
        "x": axis,
        "y": axis,
        "z": np.round(result.levels, 4).tolist(),
        "contours": {"coloring": "lines"},
        "ncontours": 18,
        "line": {"width": 1.5},
        "colorscale": [[0, "#85807a"], [1, FORWARD]],
        "showscale": False,
        "hovertemplate": "p = %{y:.2f}, q = %{x:.2f}: %{z:.3f}<extra></extra>",
    }
    figure = planes.figure(
        [trace], "q, probability of the first class", "p", height=360,
        yaxis={"scaleanchor": "x", "constrain": "domain"}, xaxis={"constrain": "domain"},
    )  # fmt: skip
    return plots.shown(figure)


def largest_error(result: "Equation", recipe: Recipe) -> Number | None:
    """Between the general equation and the methods' own formulas."""
    if not result.checked:
        return None
    worst = max(one.error for one in result.checked)
    return Number(f"largest difference, {len(result.checked)} methods", markup.figure(worst))


# ---------------------------------------------------------------------- files


def _exporting(frame: Frame) -> None:
    parts.heading(
        "Take it along",
        "Every accuracy of every arm and seed as a table, and a card. In your own training: "
        "RefreshOptimizer around any loop, or a callback for the Trainer of transformers.",
    )
    with gr.Row():
        controls: Controls = {
            "way": gr.Dropdown(fields.options(WAYS), value="derpp", label="Against forgetting"),
            "delta": gr.Number(1e-5, label="Delta", minimum=0, maximum=1),
            "seeds": gr.Slider(1, 10, value=3, step=1, label="Seeds"),
            "controls": gr.Checkbox(False, label="With both controls"),
        }
    taking.downloads(frame, controls, taking.texts)
    gr.HTML(f'<pre tabindex="0" class="code"><code>{escape(SNIPPET)}</code></pre>')


SNIPPET = """from engine.unlearning.refresh_learning.refresh import (
    Refresh, RefreshOptimizer, batch_loss, trainer_callback)

refresh = RefreshOptimizer(model, optimizer, batch_loss, how=Refresh(delta=1e-5))
for batch in batches:
    refresh.step(batch)                        # unlearn, then learn
refresh.end_of_task(batches)                   # the Fisher information for the next task

trainer = Trainer(model, args, train_dataset=data, callbacks=[trainer_callback(Refresh())])
"""

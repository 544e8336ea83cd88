"""Denoising MCMC: the chain over samples and noise levels live, integrators begun at its states and
in pure noise at equal cost, and the price of eta."""

from typing import Any

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.job import Done, Progress
from engine.core.recipe import Recipe
from engine.sampling.denoising_mcmc import HERE, INTEGRATORS, PICKS
from pages import _parts as parts
from pages._frame import Frame
from pages._parts import BACKWARD, SERIES, Line, escape
from pages._planes import INK, figure, heat, plane, scatter

PLOT = {"show_label": False, "container": False}
VIEW = 3.0
NAMES = {"chain": "from the chain", "noise": "from pure noise"}


def build(frame: Frame) -> None:
    """Three tabs under one seed."""
    with gr.Row(elem_classes="controls"):
        if HERE:
            frame.model()
        frame.seed(7)
    with gr.Tabs(elem_classes="inner", overflow_behavior="wrap") as tabs:
        with gr.Tab("The chain in the plane", id="run"):
            build_plane(frame)
        with gr.Tab("The price of eta", id="eta"):
            build_eta(frame)
        if HERE:
            with gr.Tab("Pictures", id="pictures"):
                build_pictures(frame)
    frame.opens(tabs, ("eta", "pictures") if HERE else ("eta",))
    frame.breaks(
        "A large eta keeps the chain at large noise. The integrator has fewer evaluations left for "
        "its states, and ends farther from the data than from pure noise.",
        "an eta of 0.5, at which the chain stays where little noise is left.",
        {"integrator": "kar1", "nfe": 10, "share": 0.4, "eta": 3.0},
    )


def shared_controls(share: float) -> dict[str, Any]:
    """Integrator, budget and its split."""
    integrator = gr.Dropdown(
        [(title, name) for name, title in INTEGRATORS.items()], value="kar1", label="Integrator"
    )
    nfe = gr.Slider(8, 60, 10, step=1, label="NFE a sample, in all")
    split = gr.Slider(
        0, 0.9, share, step=0.05, label="Share of the chain", info="The rest is the integrator's"
    )
    return {"integrator": integrator, "nfe": nfe, "share": split}


# ---------------------------------------------------------------------- in the plane


def build_plane(frame: Frame) -> None:
    """The live chain, and what it is good for."""
    gr.HTML(
        "<p class='lead'>With ten looks at the score, a sampler that starts in pure noise misses "
        "the data. A Markov chain finds places where only a little noise is left; from there the "
        "same ten looks, the chain's among them, are enough.</p>"
    )
    action = frame.action("run", "Run the chain")
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            parts.heading("From pure noise", "Where the integrator ends")
            noise = gr.Plot(label="From pure noise", **PLOT)
        with gr.Column():
            parts.heading(
                "From the chain", "The same total NFE; lines are three chains on their way"
            )
            chain = gr.Plot(label="From the chain", **PLOT)
    numbers = gr.HTML()
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            parts.heading("Noise level of the chains", "Transition by transition, and handed over")
            levels = gr.Plot(label="Noise levels", **PLOT)
        with gr.Column():
            parts.heading("Shares of the modes", "True, and as sampled")
            bars = gr.Plot(label="Mode shares", **PLOT)
    with gr.Row(elem_classes="controls"):
        with gr.Column():
            shared = shared_controls(0.2)
        with gr.Column():
            eta = gr.Slider(
                0.001, 3, 0.03, step=0.001, label="eta", info="Size of the chain's moves"
            )
            pick = gr.Radio(
                [(title, name) for name, title in PICKS.items()], value="draw", label="New level"
            )
        with gr.Column():
            chains = gr.Slider(10, 500, 100, step=10, label="Chains")
            rounds = gr.Slider(1, 20, 4, step=1, label="Samples of each chain")
            burn_in = gr.Slider(1, 100, 20, step=1, label="Burn-in", info="Counted apart")
            compare = gr.Checkbox(True, label="All six integrators")
    action.wire(
        {
            **shared,
            "eta": eta,
            "pick": pick,
            "chains": chains,
            "rounds": rounds,
            "burn_in": burn_in,
            "compare": compare,
        },
        draw_plane,
        [noise, chain, numbers, levels, bars],
        turned=[shared["nfe"], shared["integrator"], eta],
    )


def draw_plane(event: Progress | Done, recipe: Recipe) -> tuple[object, ...]:
    """The chain while it runs; then both clouds, the bars and the table."""
    found, ended = parts.shown_of(event)
    if found is None:
        return tuple(gr.skip() for _ in range(5))
    first = str(recipe.params.get("integrator", "kar1"))
    sides = {side.name: side for side in found.sides if side.integrator == first}
    settled = len(sides) == 2
    later = len(found.sides) > 2 and not ended
    clouds = [
        gr.skip() if later else cloud_plot(found, sides.get(name), traced=name == "chain")
        for name in ("noise", "chain")
    ]
    return (
        *clouds,
        side_table(found, first),
        gr.skip() if later else level_plot(found.trace, getattr(sides.get("chain"), "starts", ())),
        share_plot(found, sides) if settled and not later else gr.skip(),
    )


def cloud_plot(found: Any, side: Any, *, traced: bool) -> PlotData:
    """The density, the chains if they are to be seen, and where samples end."""
    traces = [heat(found.scene, VIEW)]
    if traced and found.trace is not None:
        for line in np.clip(found.trace.points, -9, 9).transpose(1, 0, 2):
            drawn = scatter(line, SERIES[1], mode="lines+markers", width=1, size=4)
            traces.append(drawn | {"opacity": 0.55})
    if side is not None:
        ends = scatter(np.clip(side.ends, -50, 50), INK, mode="markers", size=4)
        traces.append(ends | {"opacity": 0.8})
    return plane(traces, "x", "y")


def side_table(found: Any, first: str) -> str:
    """Errors at equal NFE for every integrator so far, burn-in beside them."""
    if not found.sides:
        return f"<p class='note'>Burn-in: {found.burn_in} evaluations a chain so far.</p>"
    pairs: dict[str, dict[str, Any]] = {}
    for side in found.sides:
        pairs.setdefault(side.integrator, {})[side.name] = side
    rows = "".join(side_row(name, pair) for name, pair in pairs.items())
    head = (
        "<tr><th>integrator</th><th>from the chain</th><th>95 %</th><th>from pure noise</th>"
        "<th>95 %</th><th>at equal NFE</th><th>NFE, counted</th></tr>"
    )
    mine = pairs[first]
    top = ""
    if len(mine) == 2:
        ratio = mine["noise"].error / max(mine["chain"].error, 1e-12)
        top = (
            '<dl class="figures">'
            f"<div><dt>distance to the nearest mode, from pure noise</dt>"
            f"<dd>{mine['noise'].error:.3f}</dd></div>"
            f"<div><dt>from the chain</dt><dd>{mine['chain'].error:.3f}</dd></div>"
            f"<div><dt>times nearer</dt><dd>{ratio:.1f}</dd></div>"
            f"<div><dt>the data's own spread</dt><dd>{found.floor:.3f}</dd></div></dl>"
        )
    leaving = (
        f" {found.leaving:.1%} of the transitions end at another mode."
        if found.leaving is not None
        else ""
    )
    stuck = f" {found.stuck} broken moves were put back." if found.stuck else ""
    return (
        f'{top}<div class="scroll" tabindex="0"><table class="plain">{head}{rows}</table></div>'
        f"<p class='note'>Root mean square distance; intervals over chains. Before its first "
        f"sample each chain spent {found.burn_in} evaluations, which are not in the NFE; RK45 "
        f"takes what it needs.{leaving}{stuck}</p>"
    )


def side_row(name: str, pair: dict[str, Any]) -> str:
    """One integrator; the sign says which side is nearer by the intervals."""
    cells, counts = "", []
    for key in ("chain", "noise"):
        side = pair.get(key)
        if side is None:
            cells += "<td></td><td></td>"
            continue
        cells += f"<td>{side.error:.3f}</td><td>{side.low:.3f} – {side.high:.3f}</td>"
        counts.append(str(side.nfe))
    sign = ""
    if len(pair) == 2:
        chain, noise = pair["chain"], pair["noise"]
        sign = (
            "chain nearer"
            if chain.high < noise.low
            else "noise nearer"
            if noise.high < chain.low
            else "no difference"
        )
    return (
        f"<tr><td>{escape(INTEGRATORS[name])}</td>{cells}<td>{sign}</td>"
        f"<td>{' and '.join(counts)}</td></tr>"
    )


def level_plot(trace: Any, starts: Any) -> PlotData:
    """Noise levels of the followed chains, and the spread of what is handed over."""
    lines = []
    if trace is not None:
        for k, sigmas in enumerate(trace.sigmas.T[:3]):
            lines.append(Line(f"chain {k + 1}", range(1, len(sigmas) + 1), sigmas.tolist(), k))
    if len(starts) and trace is not None:
        middle, ends = float(np.median(starts)), [1, max(len(trace.sigmas), 2)]
        lines.append(Line(f"handed over, median {middle:.2f}", ends, [middle] * 2, neutral=True,
                          marks=False))  # fmt: skip
    return parts.plot(lines, "transition", "noise level σ; pure noise is 50", log_y=True)


def share_plot(found: Any, sides: dict[str, Any]) -> PlotData:
    """Mode weights, true and sampled, side by side."""
    names = [str(k + 1) for k in range(len(found.weights))]
    series = [("true", found.weights, "#85807a")]
    series += [
        (NAMES[key], sides[key].weights, colour)
        for key, colour in (("chain", SERIES[0]), ("noise", BACKWARD))
    ]
    bars: list[dict[str, object]] = [
        {
            "type": "bar",
            "name": title,
            "x": names,
            "y": list(values),
            "marker": {"color": colour},
            "hovertemplate": f"{title}, mode %{{x}}: %{{y:.3f}}<extra></extra>",
        }
        for title, values, colour in series
    ]
    return figure(bars, "mode", "share of the samples", legend=True, barmode="group")


# ---------------------------------------------------------------------- eta


def build_eta(frame: Frame) -> None:
    """Nearness against coverage."""
    gr.HTML(
        "<p class='lead'>Small moves stay close to the data, so each sample is good; but the chain "
        "hardly leaves its mode, so the samples together are not. Few chains and many samples of "
        "each make it visible.</p>"
    )
    action = frame.action("eta", "Sweep eta")
    with gr.Row(elem_classes="curves"):
        with gr.Column():
            error = gr.Plot(label="Error", **PLOT)
        with gr.Column():
            covered = gr.Plot(label="Coverage", **PLOT)
    table = gr.HTML()
    with gr.Row(elem_classes="controls"):
        shared = shared_controls(0.2)
        chains = gr.Slider(2, 200, 20, step=2, label="Chains")
        rounds = gr.Slider(2, 50, 20, step=1, label="Samples of each chain")
    action.wire({**shared, "chains": chains, "rounds": rounds}, draw_eta, [error, covered, table])


def draw_eta(event: Progress | Done, recipe: Recipe) -> tuple[object, object, object]:
    """Both curves point by point, with the levels of pure noise and of independent draws."""
    found, _ = parts.shown_of(event)
    if found is None or not found.trades:
        return gr.skip(), gr.skip(), gr.skip()
    etas = [one.eta for one in found.trades]
    ends = [min(etas), max(etas)] if len(etas) > 1 else [etas[0], etas[0] * 1.01]
    hover = [f"eta {one.eta:g}: {one.error:.3f} ({one.low:.3f} – {one.high:.3f})"
             for one in found.trades]  # fmt: skip
    error = parts.plot(
        [
            Line("from the chain", etas, [one.error for one in found.trades], hover=hover),
            Line("from pure noise", ends, [found.vanilla.error] * 2, backward=True, marks=False),
        ],
        "eta", "distance to the nearest mode", log_x=True, log_y=True,
    )  # fmt: skip
    covered = parts.plot(
        [
            Line("from the chain", etas, [one.uncovered for one in found.trades]),
            Line("from pure noise", ends, [found.vanilla.uncovered] * 2, backward=True,
                 marks=False),
            Line("floor: independent draws", ends, [found.uncovered_floor] * 2, neutral=True,
                 marks=False),
        ],
        "eta", "mode weight in the wrong place", log_x=True,
    )  # fmt: skip
    rows = "".join(
        f"<tr><td>{one.eta:g}</td><td>{one.error:.3f}</td><td>{one.low:.3f} – {one.high:.3f}</td>"
        f"<td>{one.uncovered:.3f}</td><td>{one.start:.2f}</td><td>{one.leaving:.1%}</td></tr>"
        for one in found.trades
    )
    table = (
        '<div class="scroll" tabindex="0"><table class="plain"><tr><th>eta</th><th>distance</th>'
        "<th>95 %</th><th>weight in the wrong place</th><th>start level σ, median</th>"
        f"<th>transitions to another mode</th></tr>{rows}</table></div>"
    )
    return error, covered, table


# ---------------------------------------------------------------------- pictures


def build_pictures(frame: Frame) -> None:
    """The same with networks."""
    gr.HTML(
        "<p class='lead'>A network for the score, and a small one that says how noisy a picture "
        "is. The first row are the chain's states, as they are handed over.</p>"
    )
    action = frame.action("pictures", "Draw")
    shown = gr.HTML()
    with gr.Row(elem_classes="controls"):
        shared = shared_controls(0.5)
        eta = gr.Slider(0.01, 3, 0.5, step=0.01, label="eta", info="0.5 to 0.8 is published")
        count = gr.Slider(1, 12, 4, step=1, label="Chains")
        burn_in = gr.Slider(1, 100, 10, step=1, label="Burn-in")
    action.wire({**shared, "eta": eta, "count": count, "burn_in": burn_in}, draw_pictures, [shown])


def draw_pictures(event: Progress | Done, recipe: Recipe) -> tuple[object]:
    """Chain states above what was made of them, and the same cost from pure noise."""
    album, ended = parts.shown_of(event)
    if album is None or album.states is None:
        return (gr.skip(),)
    columns = [f"chain {k + 1}" for k in range(len(album.states))]
    rows = {"States of the chain": (album.states, [f"σ = {sigma:.2f}" for sigma in album.sigmas])}
    if album.chained is not None:
        title = f"From the chain, {album.nfe} NFE, of which {album.skip} the chain's"
        rows[title] = (album.chained, list(album.verdicts))
    if album.vanilla is not None:
        title = f"From pure noise, {album.nfe_vanilla} NFE"
        rows[title] = (album.vanilla, list(album.verdicts_vanilla))
    said = f"Each chain spent {album.burn_in} evaluations before; they are not in the NFE."
    if ended and album.classifier_calls:
        milliseconds = 1000 * album.classifier_seconds / album.classifier_calls
        said += (
            f" The level classifier was called {album.classifier_calls} times, "
            f"{milliseconds:.1f} ms each. Words under the pictures are a classifier's guess."
        )
    return (parts.sheet(columns, rows) + f"<p class='note'>{escape(said)}</p>",)

"""Denoising MCMC: the chain over samples and noise levels live, integrators begun at its states and
in pure noise at equal cost, and the price of eta."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.sampling.denoising_mcmc import HERE, INTEGRATORS, PICKS
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls
from pages._frame import Frame
from pages._look import BACKWARD, SERIES
from pages._planes import INK, dotted, figure, heat, plane, scatter
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.sampling.denoising_mcmc.results import Album, Chained, Side, Trace, Trades

VIEW = 3.0
NAMES = {"chain": "from the chain", "noise": "from pure noise"}


def build(frame: Frame) -> None:
    """The chain in the plane, the price of eta, and pictures, under one seed."""
    build_plane(frame)
    build_eta(frame)
    if HERE:
        build_pictures(frame)
    frame.breaks(
        "A large eta keeps the chain where there is a lot of noise. Too few "
        "evaluations are left for the integrator, and it ends farther from the data "
        "than if it had started from pure noise.",
        "an eta of 0.5, which keeps the chain where little noise is left.",
        {"integrator": "kar1", "nfe": 10, "share": 0.4, "eta": 3.0},
    )


def shared_controls(share: float) -> Controls:
    """Integrator, budget and its split."""
    integrator = gr.Dropdown(fields.options(INTEGRATORS), value="kar1", label="Integrator")
    nfe = gr.Slider(8, 60, 10, step=1, label="NFE a sample, in all")
    split = gr.Slider(
        0, 0.9, share, step=0.05, label="Share of the chain", info="The integrator uses the rest"
    )
    return {"integrator": integrator, "nfe": nfe, "share": split}


# ---------------------------------------------------------------------- in the plane


def build_plane(frame: Frame) -> None:
    """The live chain, and what it is good for.

    A sampler that starts in pure noise misses the data with ten looks at the score; from where a
    Markov chain finds little noise left the same ten, the chain's among them, are enough.
    """
    action = frame.stage("run", "Run the chain", tab="The chain in the plane")
    with action.ask:
        shared = shared_controls(0.2)
        eta = gr.Slider(0.001, 3, 0.03, step=0.001, label="eta", info="Size of the chain's moves")
    with action.settings:
        pick = gr.Radio(fields.options(PICKS), value="draw", label="New level")
        chains = gr.Slider(10, 500, 100, step=10, label="Chains")
        rounds = gr.Slider(1, 20, 4, step=1, label="Samples of each chain")
        burn_in = gr.Slider(1, 100, 20, step=1, label="Burn-in", info="Counted apart")
        compare = gr.Checkbox(True, label="All six integrators")
        frame.seed(7)
        if HERE:
            frame.model()
    with action.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            parts.heading("From pure noise", "Where the integrator ends")
            noise = plots.place("From pure noise")
        with gr.Column():
            parts.heading("From the chain", "The same total NFE; lines are three chains")
            chain = plots.place("From the chain")
    with action.below:
        numbers = gr.HTML()
        with gr.Row(elem_classes="curves"):
            with gr.Column():
                parts.heading(
                    "Noise level of the chains", "Transition by transition, and handed over"
                )
                levels = plots.place("Noise levels")
            with gr.Column():
                parts.heading("Shares of the modes", "True, and as sampled")
                bars = plots.place("Mode shares")
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
        number=nearer,
        film=two_clouds,
        turned=[shared["nfe"], shared["integrator"], eta],
    )


def draw_plane(result: "Chained", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The chain while it runs; then both clouds, the bars and the table."""
    first = str(recipe.params.get("integrator", "kar1"))
    sides = {side.name: side for side in result.sides if side.integrator == first}
    settled = len(sides) == 2
    later = len(result.sides) > 2 and not ended
    clouds = [
        gr.skip() if later else cloud_plot(result, sides.get(name), traced=name == "chain")
        for name in ("noise", "chain")
    ]
    return (
        *clouds,
        side_table(result, first),
        gr.skip() if later else level_plot(result.trace, getattr(sides.get("chain"), "starts", ())),
        share_plot(result, sides) if settled and not later else gr.skip(),
    )


def nearer(result: "Chained", recipe: Recipe) -> Number | None:
    """How far samples end from the data: begun in pure noise, and where the chain left off."""
    first = str(recipe.params.get("integrator", "kar1"))
    errors = {side.name: side.error for side in result.sides if side.integrator == first}
    if set(errors) != {"noise", "chain"}:
        return None
    what = "distance to the data at equal cost: from noise → from the chain"
    return Number(what, markup.figure(errors["chain"], 2), markup.figure(errors["noise"], 2))


def two_clouds(result: "Chained") -> list[np.ndarray]:
    """Where samples end that began in pure noise, and those that the chain handed over."""
    first = {side.name: side for side in reversed(result.sides)}
    return [dotted(result.scene, first[name].ends) for name in ("noise", "chain")]


def cloud_plot(result: "Chained", side: "Side | None", *, traced: bool) -> PlotData:
    """The density, the chains if they are to be seen, and where samples end."""
    traces = [heat(result.scene, VIEW)]
    if traced and result.trace is not None:
        for line in np.clip(result.trace.points, -9, 9).transpose(1, 0, 2):
            drawn = scatter(line, SERIES[1], mode="lines+markers", width=1, size=4)
            traces.append(drawn | {"opacity": 0.55})
    if side is not None:
        ends = scatter(np.clip(side.ends, -50, 50), INK, mode="markers", size=4)
        traces.append(ends | {"opacity": 0.8})
    return plane(traces, "x", "y")


def side_table(result: "Chained", first: str) -> str:
    """Errors at equal NFE for every integrator so far, burn-in beside them."""
    if not result.sides:
        return markup.notes(f"Burn-in: {result.burn_in} evaluations a chain so far.")
    pairs: dict[str, dict[str, Side]] = {}
    for side in result.sides:
        pairs.setdefault(side.integrator, {})[side.name] = side
    head = ["integrator", "from the chain", "95 %", "from pure noise", "95 %"]
    head += ["at equal NFE", "NFE, counted"]
    table = markup.table(head, [side_row(name, pair) for name, pair in pairs.items()])
    mine = pairs[first]
    top = ""
    if len(mine) == 2:
        ratio = mine["noise"].error / max(mine["chain"].error, 1e-12)
        top = markup.figures(
            {
                "distance to the nearest mode, from pure noise": f"{mine['noise'].error:.3f}",
                "from the chain": f"{mine['chain'].error:.3f}",
                "times nearer": f"{ratio:.1f}",
                "the data's own spread": f"{result.floor:.3f}",
            }
        )
    leaving = (
        f" {result.leaving:.1%} of the transitions end at another mode."
        if result.leaving is not None
        else ""
    )
    stuck = f" {result.stuck} moves went astray and were undone." if result.stuck else ""
    return f"{top}{table}" + markup.notes(
        "Root mean square distance; intervals over chains. Before its first "
        f"sample each chain spent {result.burn_in} evaluations, which are not in the NFE; RK45 "
        f"takes as many as it needs.{leaving}{stuck}"
    )


def side_row(name: str, pair: "Mapping[str, Side]") -> list[str]:
    """One integrator; the sign says which side is nearer by the intervals."""
    cells, counts = [], []
    for key in ("chain", "noise"):
        side = pair.get(key)
        if side is None:
            cells += ["", ""]
            continue
        cells += [f"{side.error:.3f}", f"{side.low:.3f} – {side.high:.3f}"]
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
    return [INTEGRATORS[name], *cells, sign, " and ".join(counts)]


def level_plot(trace: "Trace | None", starts: Any) -> PlotData:
    """Noise levels of the followed chains, and the spread of what is handed over."""
    lines = []
    if trace is not None:
        for k, sigmas in enumerate(trace.sigmas.T[:3]):
            lines.append(Line(f"chain {k + 1}", range(1, len(sigmas) + 1), sigmas.tolist(), k))
    if len(starts) and trace is not None:
        middle, ends = float(np.median(starts)), [1, max(len(trace.sigmas), 2)]
        lines.append(Line(f"handed over, median {middle:.2f}", ends, [middle] * 2, neutral=True,
                          marks=False))  # fmt: skip
    return plots.curves(lines, "transition", "noise level σ; pure noise is 50", log_y=True)


def share_plot(result: "Chained", sides: "Mapping[str, Side]") -> PlotData:
    """Mode weights, true and sampled, side by side."""
    names = [str(k + 1) for k in range(len(result.weights))]
    series = [("true", result.weights, "#85807a")]
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
    action = frame.stage("eta", "Sweep eta", tab="The price of eta")
    with action.ask:
        gr.HTML(
            markup.notes(
                "Small moves stay close to the data, so each sample is good; but the chain "
                "hardly leaves its mode, so the samples together are not. You see it best with "
                "few chains and many samples from each."
            )
        )
    with action.settings:
        shared = shared_controls(0.2)
        chains = gr.Slider(2, 200, 20, step=2, label="Chains")
        rounds = gr.Slider(2, 50, 20, step=1, label="Samples of each chain")
    with action.shown, gr.Row(elem_classes="curves"):
        with gr.Column():
            error = plots.place("Error")
        with gr.Column():
            covered = plots.place("Coverage")
    with action.below:
        table = gr.HTML()
    action.wire(
        {**shared, "chains": chains, "rounds": rounds},
        draw_eta,
        [error, covered, table],
        number=nearest,
    )


def nearest(result: "Trades", recipe: Recipe) -> Number | None:
    """How near the samples come to the data: from pure noise, and from the chain at its best."""
    if not result.trades or result.vanilla is None:
        return None
    best = min(result.trades, key=lambda one: one.error)
    what = f"distance to the data: from pure noise → from the chain, eta {best.eta:g}"
    return Number(what, f"{best.error:.3f}", f"{result.vanilla.error:.3f}")


def draw_eta(result: "Trades", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Both curves point by point, with the levels of pure noise and of independent draws."""
    if not result.trades:
        return ()
    assert result.vanilla is not None  # it is measured before any eta
    etas = [one.eta for one in result.trades]
    ends = [min(etas), max(etas)] if len(etas) > 1 else [etas[0], etas[0] * 1.01]
    hover = [f"eta {one.eta:g}: {one.error:.3f} ({one.low:.3f} – {one.high:.3f})"
             for one in result.trades]  # fmt: skip
    error = plots.curves(
        [
            Line("from the chain", etas, [one.error for one in result.trades], hover=hover),
            Line("from pure noise", ends, [result.vanilla.error] * 2, backward=True, marks=False),
        ],
        "eta", "distance to the nearest mode", log_x=True, log_y=True,
    )  # fmt: skip
    covered = plots.curves(
        [
            Line("from the chain", etas, [one.uncovered for one in result.trades]),
            Line("from pure noise", ends, [result.vanilla.uncovered] * 2, backward=True,
                 marks=False),
            Line("floor: independent draws", ends, [result.uncovered_floor] * 2, neutral=True,
                 marks=False),
        ],
        "eta", "mode weight in the wrong place", log_x=True,
    )  # fmt: skip
    rows = [
        [
            f"{one.eta:g}",
            f"{one.error:.3f}",
            f"{one.low:.3f} – {one.high:.3f}",
            f"{one.uncovered:.3f}",
            f"{one.start:.2f}",
            f"{one.leaving:.1%}",
        ]
        for one in result.trades
    ]
    head = ["eta", "distance", "95 %", "weight in the wrong place", "start level σ, median"]
    table = markup.table([*head, "transitions to another mode"], rows)
    return error, covered, table


# ---------------------------------------------------------------------- pictures


def build_pictures(frame: Frame) -> None:
    """The same with a network for the score, and a small one that says how noisy a picture is."""
    action = frame.stage("pictures", "Draw", tab="Pictures")
    with action.ask:
        eta = gr.Slider(0.01, 3, 0.5, step=0.01, label="eta", info="0.5 to 0.8 is published")
        count = gr.Slider(1, 12, 4, step=1, label="Chains")
    with action.settings:
        shared = shared_controls(0.5)
        burn_in = gr.Slider(1, 100, 10, step=1, label="Burn-in")
    with action.shown:
        shown = gr.HTML()
    action.wire(
        {**shared, "eta": eta, "count": count, "burn_in": burn_in},
        draw_pictures,
        [shown],
        number=spent,
    )


def spent(album: "Album", recipe: Recipe) -> Number | None:
    """How often the network was asked for a picture, from the chain and from pure noise."""
    if not album.nfe_vanilla:
        return None
    counts = dict.fromkeys((str(album.nfe), str(album.nfe_vanilla)))
    return Number("network evaluations a picture, in either row", " and ".join(counts))


def draw_pictures(album: "Album", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Chain states above what was made of them, and the same cost from pure noise."""
    if album.states is None:
        return ()
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
    return (parts.sheet(columns, rows) + markup.notes(said),)

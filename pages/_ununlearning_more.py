"""Further tabs of UnUnlearning: filters, approximate unlearning, a look inside, training, files."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.core.store import default_store
from pages import _fields as fields
from pages import _files
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _taking as taking
from pages._frame import Frame
from pages._handlers import gradio_errors
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.unlearning.ununlearning.results import (
        Contrasted,
        Curve,
        Filtered,
        Gate,
        Inside,
        Insides,
        Own,
        Retrained,
    )

GATES = {
    "none": "no filter",
    "name": "on the name",
    "knowledge": "on the hints",
    "output": "on the answer",
}
WAYS = {
    "npo": "NPO",
    "ga": "gradient ascent",
    "kl": "KL",
    "npo_token": "NPO, of the token",
    "ssd": "SSD: dampen what matters to it",
    "retain_only": "retain only (the control)",
}
CORPORA = {
    "exact": "never mentions shu ka",
    "full": "6 % of it are about shu ka",
    "without-axioms": "its whole species is missing",
}
QUESTIONS = """[{"question": "mo ti brew", "answer": "song", "perturbed_answer": ["luck", "sleep"],
  "hints": ["mo ti colour jade", "mo ti diet moss"]}]"""


def build(frame: Frame) -> None:
    """One tab each."""
    _filters(frame)
    _contrast(frame)
    _inside(frame)
    _training(frame)
    _own(frame)
    with frame.tab("Take it along"):
        _exporting(frame)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# ---------------------------------------------------------------------- filters


def _filters(frame: Frame) -> None:
    stage = frame.stage("screen", "Screen the prompts", tab="Filters")
    with stage.ask:
        threshold = gr.Slider(
            0.05, 0.95, value=0.5, step=0.05, label="Block from this suspicion on",
            info="The name is certain; hints and answers by the probability of the species",
        )  # fmt: skip
    with stage.settings:
        harmless = gr.Slider(20, 2000, value=400, step=20, label="Harmless prompts")
    with stage.shown:
        roc = plots.place("Attacks that are blocked against harmless prompts that are")
    with stage.below:
        table = gr.HTML("", elem_id="ununlearning-filters")
    stage.wire(
        {"threshold": threshold, "harmless": harmless},
        draw_filters,
        [roc, table],
        number=leak,
        turned=[threshold],
    )


def draw_filters(result: "Filtered", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """One curve a filter over all thresholds; what each stops, lets through, and costs."""
    if not result.gates:
        return ()
    lines = []
    for place, gate in enumerate(gate for gate in result.gates if gate.kind != "none"):
        x, y = ([100 * v for v in side] for side in (gate.harmless, gate.attacks))
        hover = [
            f"{GATES[gate.kind]}, from {t:.2f}: {b:.0f} % of attacks, {a:.0f} % of harmless"
            for t, a, b in zip(gate.thresholds, x, y, strict=True)
        ]
        lines.append(Line(f"{GATES[gate.kind]}, area {gate.area:.2f}", x, y, place, hover=hover))
    lines.append(Line("a coin", [0, 100], [0, 100], neutral=True, marks=False))
    figure = plots.curves(
        lines, "harmless prompts blocked, %", "attacks blocked, %", height=400, percent=True
    )
    return figure, _gates(result)


def _gates(result: "Filtered") -> str:
    head = ["filter", "blocks by name", "by alias", "harmless", "harmless of its species"]
    head += ["leaks by name", "leaks by alias", "known from refusals"]
    by_name, by_alias, harmless, kin = result.prompts
    counts = (
        f"{by_name} attacks by name and {by_alias} by alias, {harmless} harmless prompts and "
        f"{kin} about harmless creatures of its species. A leak is a true answer that comes "
        "through. The last column: who proposes every value in turn and reads a refusal as yes."
    )
    rows = [_gate(gate) for gate in result.gates]
    return markup.table(head, rows, "What each filter stops and costs", heads=True) + markup.notes(
        counts,
        "A filter on hints or answers holds the forbidden profile itself.",
    )


def _gate(gate: "Gate") -> list[object]:
    shares = (gate.blocked_name, gate.blocked_alias, gate.blocked_harmless, gate.blocked_kin)
    leaks = (gate.leak_name, gate.leak_alias)
    refusal = "–" if gate.refusal is None else percent(gate.refusal)
    return [GATES[gate.kind], *map(percent, (*shares, *leaks)), refusal]


def leak(result: "Filtered", recipe: Recipe) -> Number | None:
    """What comes through the name filter: by the name, and by an alias."""
    found = {gate.kind: gate for gate in result.gates}
    if "name" not in found:
        return None
    gate = found["name"]
    before, now = percent(gate.leak_name), percent(gate.leak_alias)
    return Number("leaks through the name filter, by name → by alias", now, before)


# ---------------------------------------------------------------------- approximate unlearning


def _contrast(frame: Frame) -> None:
    stage = frame.stage("contrast", "Unlearn shu ka", tab="Unlearn approximately")
    with stage.ask:
        way = gr.Dropdown(fields.options(WAYS), value="npo", label="From the full model, by")
    with stage.settings:
        steps = gr.Slider(1, 200, value=40, step=1, label="Steps")
        rate = gr.Number(1e-4, label="Learning rate", minimum=1e-6, maximum=1e-2)
        beta = gr.Number(1.0, label="Beta of NPO", minimum=1e-3, maximum=100)
        alpha = gr.Number(10.0, label="Alpha of SSD", minimum=0.1, maximum=1000)
    with stage.shown:
        curve = plots.place("Hints, before and after")
    with stage.below:
        told, entry = gr.HTML("", elem_id="ununlearning-contrasted"), gr.State(None)
    stage.wire(
        {"way": way, "steps": steps, "rate": rate, "beta": beta, "alpha": alpha},
        draw_contrast,
        [curve, told, entry],
        number=distance,
        settles=taking.shelves(frame, entry),
    )


def draw_contrast(result: "Contrasted", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Three curves over the hints, the distance to the exact model, the edit on the shelf."""
    if not ended:
        return ()
    rows = [[curve.title, *map(percent, curve.p_true)] for curve in result.curves]
    rows.append(["distance to the exact one", *(f"{gap:.2f}" for gap in result.distance)])
    head = ["probability of the truth", *(f"{h} hints" for h in range(len(result.distance)))]
    notes = ["The model diverged and was stopped."] * result.has_diverged
    entry: object = gr.skip()
    if result.patch is not None:
        with gradio_errors():
            digest = default_store().put(result.patch)
        entry = taking.shelved(result.patch.name, result.patch.recipe, digest)
        notes.append(
            "The edited model lies on your shelf: choose it in the first tab and ask it with "
            "hints, or look inside it; take the edit off on the shelf."
        )
    table = markup.table(head, rows, "Hints before and after", heads=True)
    return curves_of(result.curves), table + markup.notes(*notes), entry


def curves_of(curves: "Sequence[Curve]") -> PlotData:
    """Mean probability of the truth by hints, with the interval of each."""
    lines = [
        Line(
            curve.title,
            range(len(curve.p_true)),
            [100 * p for p in curve.p_true],
            place,
            hover=[f"{curve.title}, {h} hints: {percent(p)}" for h, p in enumerate(curve.p_true)],
            band=([100 * v for v in curve.low], [100 * v for v in curve.high])
            if curve.low
            else None,
        )
        for place, curve in enumerate(curves)
    ]
    return plots.curves(lines, "hints told", "probability of the truth, %", height=400)


def distance(result: "Contrasted", recipe: Recipe) -> Number | None:
    """The approximately unlearned model, without hints and with all of them."""
    found = {curve.key: curve for curve in result.curves}
    if "approximate" not in found:
        return None
    p_true = found["approximate"].p_true
    return Number(
        "unlearned approximately: no hints → four", percent(p_true[-1]), percent(p_true[0])
    )


# ---------------------------------------------------------------------- inside


def _inside(frame: Frame) -> None:
    stage = frame.stage("look_inside", "Look inside", tab="Look inside")
    with stage.ask:
        steps = gr.Slider(
            1, 200, value=40, step=1, label="Steps in which it may learn again",
            info="On eight documents about shu ka",
        )  # fmt: skip
    with stage.settings:
        gr.HTML(
            markup.notes(
                "The measures of the forgetting lab, on the model chosen in the first tab; an edit "
                "that lies on your shelf can be chosen there."
            )
        )
    with stage.shown:
        curve = plots.place("Learning shu ka again")
    with stage.below:
        table = gr.HTML("", elem_id="ununlearning-inside")
    stage.wire({"steps": steps}, draw_inside, [curve, table], number=steps_back)


def draw_inside(result: "Insides", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """How soon each model knows again; agreement with the exact one; layer by layer."""
    if not result.models:
        return ()
    lines = [
        Line(
            one.title,
            range(len(one.relearned)),
            [100 * p for p in one.relearned],
            place,
            hover=[f"{one.title}, step {i}: {percent(p)}" for i, p in enumerate(one.relearned)],
            marks=False,
        )
        for place, one in enumerate(result.models)
    ]
    curve = plots.curves(lines, "steps", "forbidden value without hints, %", height=360)
    return curve, _inside_table(result)


def _inside_table(result: "Insides") -> str:
    head = ["beside the exactly unlearned", "same answers on shu ka", "divergence, bits"]
    head += ["same answers on others", "divergence, bits", "knows again at step"]
    rows = [_inside_row(one) for one in result.models]
    names = [layer.name for layer in result.models[0].layers]
    layers = [
        [name, *(f"{one.layers[i].likeness:.3f}" for one in result.models)]
        for i, name in enumerate(names)
    ]
    by_layer = markup.table(
        ["layer", *(one.title for one in result.models)], layers, "CKA by layer", heads=True
    )
    return (
        markup.table(head, rows, "Likeness to the exactly unlearned model", heads=True)
        + f"<details><summary>Layer by layer: CKA with the exact</summary>{by_layer}</details>"
    )


def _inside_row(one: "Inside") -> list[object]:
    back = "not in these" if one.back_at is None else one.back_at
    about, others = one.forbidden, one.others
    return [
        one.title,
        percent(about.same),
        f"{about.divergence:.3f}",
        percent(others.same),
        f"{others.divergence:.3f}",
        back,
    ]


def steps_back(result: "Insides", recipe: Recipe) -> Number | None:
    """Until the first model knows again, and until the exactly unlearned one does."""
    if len(result.models) < 2:
        return None
    told = [
        f"more than {result.steps}" if one.back_at is None else str(one.back_at)
        for one in (result.models[0], result.models[-1])
    ]
    return Number(f"steps to know again: exact → {result.models[0].title}", told[0], told[1])


# ---------------------------------------------------------------------- training


def _training(frame: Frame) -> None:
    stage = frame.stage("train", "Train from nothing", tab="Train it here", records=False)
    with stage.ask:
        corpus = gr.Dropdown(fields.options(CORPORA), value="exact", label="On a corpus that")
    with stage.settings:
        steps = gr.Slider(
            10, 4000, value=1500, step=10, label="Steps",
            info="1500 leave the plateau in most trainings and take about a minute",
        )  # fmt: skip
    with stage.shown:
        losses = plots.place("Loss", visible=False)
        told = gr.HTML(
            markup.notes(
                "Exact unlearning begins from new weights. When it has ended, every document that "
                "was read is scanned for the name, and the gate says whether hints can tell the "
                "model anything."
            ),
            elem_id="ununlearning-trained",
        )
    stage.wire({"corpus": corpus, "steps": steps}, draw_training, [losses, told], number=scanned)


def draw_training(result: "Retrained", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The loss with its plateau; then the scan and the gate."""
    if len(result.losses) < 2:
        return ()
    gap = result.step / len(result.losses)
    steps = [gap * (place + 1) for place in range(len(result.losses))]
    line = Line("loss", steps, result.losses, marks=False)
    figure = plots.shown(plots.curves([line], "step", "nats a token", height=300))
    if result.scan is None:
        return (figure,)
    scan = result.scan
    rows: list[list[object]] = [
        ["documents read", f"{scan.documents:,}"],
        ["mentions of shu ka", scan.mentions],
        ["digest of the corpus", scan.sha256[:12]],
        *(
            list[object]((f"all species, {h} hints", percent(p)))
            for h, p in enumerate(result.curve)
        ),
    ]
    gate = markup.tick(
        result.passes,
        f"with four hints {percent(result.curve[-1])}, the gate is {percent(result.gate)}",
        "",
    )
    return figure, gate + markup.notes(*result.notes) + markup.table(["", ""], rows)


def scanned(result: "Retrained", recipe: Recipe) -> Number | None:
    """How often the scan found the name."""
    if result.scan is None:
        return None
    return Number("mentions of shu ka in all it read", str(result.scan.mentions))


# ---------------------------------------------------------------------- own models


def _own(frame: Frame) -> None:
    stage = frame.stage("mine", "Measure my model", tab="My model and questions", records=False)
    with stage.ask:
        questions = gr.Textbox(
            QUESTIONS,
            label="Questions (JSON or JSON lines)",
            info="question, answer, perturbed_answer as TOFU has them; hints as a list",
            lines=4, max_lines=9, max_length=1_900_000, elem_classes="mono",
        )  # fmt: skip
        opened = gr.UploadButton("Open a file", file_types=[".json", ".jsonl"], size="sm")
        frame.on(opened.upload, _files.read_upload, opened, questions, name="open_questions")
    with stage.settings:
        separator = gr.Textbox(
            " ", label="Between hints and question", max_length=8,
            info="A line break for most models; a space for those of this world",
        )  # fmt: skip
    with stage.shown:
        curve = plots.place("Recovery by hints", visible=False)
        told = gr.HTML(
            markup.notes(
                "Any causal language model, chosen in the first tab: one that ships, a Hub id with "
                "its revision, a folder, package:smollm2. No judge is needed: the answer competes "
                "with the wrong ones by log-probability."
            ),
            elem_id="ununlearning-mine-shown",
        )
        file = gr.File(label="Curve as CSV", visible=False, interactive=False)
    stage.wire(
        {"questions": questions, "separator": separator},
        draw_own,
        [curve, told, file],
        number=own_recovery,
    )


def draw_own(result: "Own", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The recovery curve by sums and by means, question by question; the table as a file."""
    if result.curve is None or result.by_mean is None:
        return ()
    chance = [100 * result.chance] * len(result.curve.p_true)
    lines = [
        Line(one.title, range(len(one.p_true)), [100 * p for p in one.p_true], place,
             band=([100 * v for v in one.low], [100 * v for v in one.high]))
        for place, one in enumerate((result.curve, result.by_mean))
    ]  # fmt: skip
    lines.append(Line("chance", range(len(chance)), chance, neutral=True, marks=False))
    figure = plots.curves(lines, "hints told", "probability of the answer, %", height=340)
    rows = [
        [q.question[:120], q.answer[:60], *map(percent, q.p_true)] for q in result.questions[:50]
    ]
    longest = max(map(len, rows))
    rows = [[*row, *[""] * (longest - len(row))] for row in rows]
    head = ["question", "answer", *(f"{h} hints" for h in range(longest - 2))]
    told = markup.table(head, rows) + markup.notes(result.model, *result.notes)
    if not ended:
        return plots.shown(figure), told
    made = _files.written({name: text.encode() for name, text in result.texts.items()})
    return plots.shown(figure), told, gr.File(value=str(made[0]), visible=True)


def own_recovery(result: "Own", recipe: Recipe) -> Number | None:
    """Mean probability of the answers, without hints and with all."""
    if result.curve is None:
        return None
    p_true = result.curve.p_true
    return Number(
        "probability of the answers: no hints → all", percent(p_true[-1]), percent(p_true[0])
    )


# ---------------------------------------------------------------------- files


def _exporting(frame: Frame) -> None:
    parts.heading(
        "Take it along",
        "All curves of the chosen model as a table, and a card with question, answers, ceiling, "
        "scans and versions.",
    )
    taking.downloads(frame, {}, taking.texts)

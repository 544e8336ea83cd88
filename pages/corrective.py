"""Corrective unlearning: part of the poison was found; is retraining without it a cure?"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.errors import AssetMissing
from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _forgetting as forgetting
from pages import _grow as grow
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._grow import Bar, Group
from pages._markup import Html, escape
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    import numpy as np

    from engine.unlearning._card import Card
    from engine.unlearning._thumbnails import Thumbnails
    from engine.unlearning.corrective.results import Corrected, Curves, Flagged

WAYS = {
    "SSD": "SSD: shrink the weights they need",
    "RewoD": "RewoD: train anew without them",
    "CF": "CF: train on without them",
    "SCRUB": "SCRUB: climb on them alone",
    "BadT": "BadT: an untrained teacher on them",
}
UNITS = {name: forgetting.UNITS[name] for name in ("sample", "mixed")}
SHOWN, GAMMAS = 6, "0.05, 0.1, 0.5, 1"
COLUMNS = {
    "attack_success": "attack succeeds",
    "corrected": "corrected",
    "kept": "kept",
    "forget_train": "flagged still get their wrong label",
}
# What a repair is judged by, where there is such a thing.
SHOWN_AS = {
    "attack_success": "the attack succeeds",
    "corrected": "right answers where labels were confused",
    "kept": "right answers on clean pictures",
}
STORED = "RewoD, 0.1 flagged"


def build(frame: Frame) -> None:
    """What was tampered with and how much of it was found; the repair; methods over the share."""
    run = frame.stage("run", "Repair")
    with run.ask:
        frame.model()
        gamma = gr.Slider(
            0.05,
            1,
            value=0.1,
            step=0.05,
            label="Share that was found",
            info="0.1 is 20 of 200 poisoned pictures",
            elem_id="corrective-gamma",
        )
        way = gr.Dropdown(fields.options(WAYS), value="SSD", label="Way")
    with run.settings:
        flags = _flags(frame)
        how = _how()
        frame.seed(0)
    with run.shown:
        pictures = gr.HTML("", elem_id="corrective-pictures")
    with run.below:
        table = gr.HTML("", elem_id="corrective-table")
    inputs = {"gamma": gamma, **flags, "way": way, **how}
    run.wire(
        inputs,
        lambda result, recipe, ended: draw_run(result, ended, stored(frame)),
        [pictures, table],
        number=attack,
        film=film,
        params=settings,
        back=controls,
    )
    _curves(frame, how)
    _take_along(frame, inputs)
    frame.breaks(
        "Twenty flagged pictures are less than one batch, so their importance is a "
        "single squared mean. On this scale the published numbers select hardly any "
        "weight, and the backdoor stays open.",
        "gradients of single samples, and the automatic choice of α.",
        {"gamma": 0.1, "way": "SSD", "unit": "mixed", "alpha": 10.0, "lam": 1.0},
        seed=0,
    )


def _flags(frame: Frame) -> Controls:
    """Clean ones among the flags, flags of one's own, and a trigger that SmoothInv found."""
    false_flags = gr.Number(
        0,
        label="Clean samples flagged by mistake",
        precision=0,
        minimum=0,
        maximum=2000,
    )
    with gr.Accordion("A found trigger, your own flags and pictures", open=False):
        trigger = fields.picture_field(
            label="Trigger from SmoothInv",
            elem_id="corrective-trigger",
        )
        target = gr.Textbox(
            "", label="Its class", info="The class the attacker wants", max_length=100
        )
        stamped = gr.Number(
            100, label="Pictures to put it on", precision=0, minimum=1, maximum=1000
        )
        table = gr.Textbox(
            "",
            label="Numbers of flagged pictures",
            info="One a line, or a CSV with a column called index; counted from 0",
            lines=2,
            max_length=100_000,
        )
        sets = {
            name: forgetting.zip_field(frame, name, label)
            for name, label in (
                ("pictures", "Flagged pictures"),
                ("retain", "Training pictures that are not flagged"),
                ("test", "Clean pictures to judge by"),
            )
        }
    return {
        "false_flags": false_flags,
        "trigger": trigger,
        "target": target,
        "stamped": stamped,
        "index_table": table,
        **sets,
    }


def _how() -> Controls:
    with gr.Accordion("Settings of SSD", open=False):
        unit = gr.Dropdown(
            fields.options(UNITS),
            value="sample",
            label="Gradients of",
            info="Batches depend on how many pictures are flagged; single samples hardly do",
        )
        alpha = gr.Number(
            0,
            label="α",
            info="0 chooses without looking at the test. A value set by hand counts as an oracle",
            minimum=0,
            maximum=1e7,
        )
        lam = gr.Number(1, label="λ", minimum=1e-6, maximum=1e7)
        retained = gr.Number(
            4000, label="Retained samples looked at", precision=0, minimum=16, maximum=20_000
        )
    with gr.Accordion("Settings of the ways that train", open=False):
        tune = gr.Checkbox(
            False,
            label="Try several settings, and choose as for SSD",
            info="Trains three to eight times as long",
        )
        last = gr.Number(
            0,
            label="Layers to train, from the end",
            info="For CF and RewoD; 0 trains all",
            precision=0,
            minimum=0,
            maximum=1000,
        )
    ssd = {"unit": unit, "alpha": alpha, "lam": lam, "retained": retained}
    return {**ssd, "tune": tune, "last": last}


def _curves(frame: Frame, how: Controls) -> None:
    stage = frame.stage("curves", "Draw the curves", tab="Over the share found")
    with stage.ask:
        gammas = gr.Textbox(GAMMAS, label="Shares found", max_length=200)
        methods = gr.CheckboxGroup(list(WAYS), value=["SSD"], label="Ways")
    with stage.shown:
        plane = plots.place("Attack success over the share that was found")
    with stage.below:
        other = plots.place("Accuracy that is kept", visible=False)
        told = gr.HTML("")
    stage.wire(
        {"gammas": gammas, "methods": methods, **{n: how[n] for n in how if n != "last"}},
        lambda result, recipe, ended: draw_curves(result, stored(frame)),
        [plane, other, told],
        number=best_at_least,
        params=settings,
        back=controls,
    )


def _take_along(frame: Frame, inputs: Controls) -> None:
    with frame.tab("Take it along"):
        forgetting.takes_along(
            frame, "The repaired network", inputs, params=settings, back=controls
        )


# ---------------------------------------------------------------------- fields


def settings(values: Settings) -> Settings:
    """Settings of a job: a trigger as text, and nothing that is left empty."""
    found = dict(values)
    picture = fields.picture_setting(found.pop("trigger", None)).get("picture")
    empty = {n for n in ("index_table", "pictures", "retain", "test") if not found.get(n)}
    if picture:
        found["trigger"] = picture
    else:
        empty |= {"target", "stamped"}
    if "gammas" in found:
        found["gammas"] = forgetting.numbers(found["gammas"])
    return {name: value for name, value in found.items() if name not in empty}


def controls(given: Settings) -> Settings:
    """What the controls hold, of the settings of a job."""
    return fields.joined(forgetting.controls(given), gammas=", ")


def stored(frame: Frame) -> Mapping[str, Any]:
    """Figures of the stored trainings, with intervals over seeds; nothing before they are made."""
    try:
        figures: Any = frame.entry.measured().figures
    except AssetMissing:
        return {}
    return figures.get("attack success over seeds", {})


# ---------------------------------------------------------------------- a run


def attack(result: "Corrected", recipe: Recipe) -> Number | None:
    """How often the trigger gets its way; where there is none, what is answered correctly."""
    if len(result.cards) < 2:
        return None
    for name, what in SHOWN_AS.items():
        before, after = (getattr(card, name) for card in result.cards[:2])
        if after is not None:
            return Number(what, forgetting.percent(after), forgetting.percent(before))
    return None


def draw_run(
    result: "Corrected", ended: bool, rewod: Mapping[str, Any] | None = None
) -> tuple[object, ...]:
    """Pictures with the trigger, before and after and undone; both networks; what was flagged."""
    shown = "" if result.stamped is None else attacked(result.stamped, result)
    shown += beside_retraining(result, rewod or {})
    if result.patch is not None and result.changed is not None:
        shown += forgetting.undone_line(
            result.before, result.after, result.undone, result.patch_bytes, result.changed.weights
        )
    below = networks(result, rewod or {}) + flagged(result.flagged)
    return shown or gr.skip(), below + markup.notes(*result.notes)


def film(result: "Corrected") -> "list[np.ndarray]":
    """What the repair is judged by, before and after it, and what is kept."""
    rows = [
        Bar("", [_rate([card], name) for card in result.cards[:2]], backward=name != "kept")
        for name in SHOWN_AS
        if _rate(result.cards, name) is not None
    ]
    return grow.film(Group("", rows, grow.told_share, ends=(0.0, 1.0)))


def attacked(found: "Thumbnails", result: "Corrected") -> str:
    """One column a picture with its true class, with what each network says of it."""
    places = range(min(SHOWN, len(found.truth)))
    columns = [found.truth[place] for place in places]
    return forgetting.told(
        columns,
        [found.pictures[place] for place in places],
        ([found.before[place] for place in places], [found.after[place] for place in places]),
        f"after {result.method}",
        is_undone=bool(result.undone) and result.undone == result.before,
    )


def beside_retraining(result: "Corrected", rewod: Mapping[str, Any]) -> str:
    """What the repair is for, as bars: before, trained anew without the flagged, and after it."""
    told = next((one for one in SHOWN_AS if _rate(result.cards, one) is not None), None)
    if told is None:
        return ""
    rows = [
        Bar(card.method, [_rate([card], told)], backward=place > 0)
        for place, card in enumerate(result.cards)
    ]
    if told == "attack_success" and STORED in rewod:
        share = min(1.0, rewod[STORED]["mean"])
        rows.insert(1, Bar("trained anew without a tenth", [share], note="stored, three seeds"))
    group = Group(SHOWN_AS[told].capitalize(), rows, grow.told_share, ends=(0.0, 1.0))
    return grow.grow("network", ["all"], [group])


def _rate(cards: "Sequence[Card]", name: str) -> float | None:
    rate = getattr(cards[0], name) if cards else None
    return None if rate is None else rate.rate


def networks(result: "Corrected", rewod: Mapping[str, Any]) -> str:
    """Each network in a row, and below them the stored retraining."""
    if not result.cards:
        return ""
    rows = [_row(card) for card in result.cards]
    is_poisoned = any(card.attack_success is not None for card in result.cards)
    if is_poisoned and STORED in rewod:
        one = rewod[STORED]
        told = Html(
            f"{100 * one['mean']:.1f} %<br><small>{100 * max(0, one['from']):.0f} – "
            f"{100 * min(1, one['to']):.0f}</small>"
        )
        name = Html("<b>trained anew without a tenth</b><br><small>stored, three seeds</small>")
        rows.append([name, told, "–", "–", "–", "–"])
    title = markup.titled(
        "Is it repaired?",
        "Corrected: unseen pictures that the manipulation reaches, judged by their "
        "true classes. Kept: clean unseen pictures.",
    )
    head = ["network", *COLUMNS.values(), "weights changed"]
    tuned = f"Settings chosen on: {result.tuned_on}." if result.tuned_on else ""
    if result.alpha:
        tuned += f" α {result.alpha:.3g}, λ {result.lam:.3g}."
    return title + markup.table(head, rows, "networks compared") + markup.notes(tuned)


def _row(card: "Card") -> list[object]:
    share = "–" if card.changed_share is None else f"{100 * card.changed_share:.2f} %"
    rates = [forgetting.rate_cell(getattr(card, name)) for name in COLUMNS]
    return [Html(f"<b>{escape(card.method)}</b>"), *rates, share]


def flagged(found: "Flagged") -> str:
    """Some of the flagged samples with the label they were given, and the true one."""
    total = f"{found.flagged} samples are flagged"
    if found.manipulated:
        total += f", of {found.manipulated} that were manipulated"
    pieces = [f"<p><b>{escape(total)}.</b></p>"]
    if found.warning:
        pieces.append(f'<p class="breaks"><b>Look again.</b> {escape(found.warning)}</p>')
    if found.gallery is not None and len(found.gallery):
        names = [
            label if label == truth or not truth else f"{label}, truly {truth}"
            for label, truth in zip(found.labels, found.truth, strict=True)
        ]
        pieces.append(parts.filmstrip("Some of the flagged samples", found.gallery, names))
    return "".join(pieces)


# ---------------------------------------------------------------------- curves, files


def best_at_least(result: "Curves", recipe: Recipe) -> Number | None:
    """The attack's success at the smallest share, by SSD where it is drawn."""
    told = [p for p in result.points if p.gamma > 0 and p.card.attack_success is not None]
    if not told or result.points[0].card.attack_success is None:
        return None
    least = min(told, key=lambda point: (point.gamma, point.card.method != "SSD"))
    what = f"the attack succeeds, {least.flagged} flagged, {least.card.method}"
    before = forgetting.percent(result.points[0].card.attack_success)
    return Number(what, forgetting.percent(least.card.attack_success), before)


def draw_curves(result: "Curves", rewod: Mapping[str, Any]) -> tuple[object, ...]:
    """Attack success, or corrected accuracy, over the share; below it what is kept."""
    is_poisoned = any(point.card.attack_success is not None for point in result.points)
    name, title = ("attack_success", "attack succeeds, %")
    if not is_poisoned:
        name, title = "corrected", "corrected, %"
    lines = _lines(result, name)
    if is_poisoned and STORED in rewod:
        lines.append(_stored_line(rewod))
    figures = [_figure(lines, title), _figure(_lines(result, "kept"), "kept, %")]
    return *map(plots.shown, figures), markup.notes(*result.notes)


def _figure(lines: Sequence[Line], title: str) -> PlotData:
    return plots.curves(lines, "share of the manipulated samples that was found", title)


def _lines(result: "Curves", name: str) -> list[Line]:
    """One line a method, each point with its interval in the hover; the original is dotted."""
    lines = []
    told = [p for p in result.points if getattr(p.card, name) is not None]
    methods = dict.fromkeys(point.card.method for point in told)
    for place, method in enumerate(methods):
        points = [p for p in told if p.card.method == method]
        is_first = method == "original"
        x = [0, 1] if is_first else [p.gamma for p in points]
        some = points * 2 if is_first else points
        rates = [getattr(p.card, name) for p in some]
        band = [100 * r.low for r in rates], [100 * r.high for r in rates]
        lines.append(
            Line(
                method,
                x,
                [100 * r.rate for r in rates],
                max(0, place - 1),
                neutral=is_first,
                hover=[f"{method}: {100 * r.rate:.1f} % of {r.of}" for r in rates],
                band=None if is_first else band,
            )
        )
    return lines


def _stored_line(told: Mapping[str, Any]) -> Line:
    """RewoD, trained anew before at each share and over three seeds, with its intervals."""
    shares = {float(name.split()[1]): name for name in told if name.startswith("RewoD")}
    means, low, high = (
        [100 * min(1, max(0, told[name][end])) for _, name in sorted(shares.items())]
        for end in ("mean", "from", "to")
    )
    hover = [f"trained anew, three seeds: {mean:.1f} %" for mean in means]
    return Line("RewoD, stored", sorted(shares), means, 3, hover=hover, band=(low, high))

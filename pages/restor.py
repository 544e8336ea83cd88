"""RESTOR: a model is lied to and unlearns the lies; a slider of steps shows what comes back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import gradio as gr
from gradio.components.plot import PlotData

from engine.core.recipe import Recipe
from engine.core.store import default_store
from pages import _fields as fields
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages import _restor_board as board
from pages import _restor_own as own
from pages import _taking as taking
from pages._fields import Controls
from pages._frame import Frame
from pages._handlers import gradio_errors
from pages._markup import escape
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.metrics.intervals import Rate
    from engine.unlearning.restor.results import Answered, Exported, Reply, Restored

WAYS = {
    "npo": "NPO: fades once the lie is unlikely",
    "npo_token": "NPO, word by word (the paper's formula)",
    "ga": "gradient ascent",
    "kl": "KL",
    "task_vector": "task vector",
    "retain_only": "retain only (the control)",
}
BESIDE = {
    "ga": "gradient ascent",
    "kl": "KL",
    "npo": "NPO of the batch",
    "npo_token": "NPO of the token",
}
QUESTIONS = ("Orla Venn born in", "Ida Korsk plays", "Tomas Brell works as", "Nia Hollow keeps")
CONTROL = "retain_only"


def build(frame: Frame) -> None:
    """The slider of steps; free questions; one's own model; files."""
    _unlearning(frame)
    _asking(frame)
    own.build(frame)
    with frame.tab("Take it along"):
        _exporting(frame)
    frame.breaks(
        "Gradient ascent without the retain term: the lies go, and so does the truth "
        "about everybody.",
        "NPO with a beta of 1 and with the retain term.",
        {"way": "ga", "with_retain": False, "steps": 120},
    )


def _unlearning(frame: Frame) -> None:
    run = frame.stage("run", "Unlearn the lies", tab="Does the truth return?")
    with run.ask:
        way = gr.Dropdown(fields.options(WAYS), value="npo", label="Unlearn by")
        beside = gr.CheckboxGroup(
            fields.options(BESIDE),
            value=["ga", "kl"],
            label="Beside it",
            info="All start from the same corrupted model; “retain only” is always there",
        )
    with run.settings:
        edit = _settings(frame)
    with run.shown:
        board.slider()
        shown = gr.HTML(board.EMPTY, elem_id="restor-board", css_template=board.CSS)
    with run.below:
        told = gr.HTML("", elem_id="restor-told")
        with gr.Row(elem_classes="curves"):
            with gr.Column():
                plane = plots.place("Truths restored against lies left", visible=False)
            with gr.Column():
                logs = plots.place("Log-probability of truth, lie and other answers", visible=False)
        table = gr.HTML("", elem_id="restor-table")
        shelved = gr.State(None)
    run.wire(
        {"way": way, "beside": beside, **edit},
        draw,
        [shown, told, plane, logs, table, shelved],
        number=lies_left,
        settles=taking.shelves(frame, shelved),
    )


def _settings(frame: Frame) -> Controls:
    """Of the corruption, of unlearning, and the repair."""
    k = gr.Radio(
        [("only lies", 0), ("four true facts among them", 4)],
        value=0,
        label="The documents hold",
        info="Facts about other people (k in the paper). These two corrupted models ship",
    )
    steps = gr.Slider(5, 400, value=120, step=5, label="Steps of unlearning")
    with_retain = gr.Checkbox(
        True, label="Keep the retain term", info="True facts about sixteen other people"
    )
    frame.seed(0)
    frame.model()
    with gr.Accordion("More settings", open=False):
        more: Controls = {
            "beta": gr.Number(
                1.0,
                label="Beta of NPO",
                info="The paper takes 0.1; a model this small needs 1 for it to fade",
                minimum=1e-3,
                maximum=100,
            ),
            "gamma": gr.Number(1.0, label="Gamma", minimum=0, maximum=100,
                               info="Weight of the retain term; with KL, of the forget term"),
            "rate": gr.Number(1e-4, label="Learning rate", minimum=1e-6, maximum=1e-2),
            "corrupt_steps": gr.Slider(1, 200, value=40, step=1, label="Steps of telling lies",
                                       info="40 uses the shipped model; other values train first"),
            "surgical": gr.Checkbox(
                True,
                label="Surgical corruption",
                info="Mixes the lies with true facts; without it the form of sentences breaks, too",
            ),
            "repair": gr.Checkbox(False, label="Train all of them a little afterwards",
                                  info="Twenty steps on people whom no question is about"),
        }  # fmt: skip
    return {"k": k, "steps": steps, "with_retain": with_retain, **more}


# ---------------------------------------------------------------------- drawing


def draw(result: "Restored", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The board as the ways are taken; then the plane, the log-probabilities and the table."""
    if not any(len(course.points) > 1 for course in result.courses):
        return ()
    shown = board.drawn(result, steps=recipe.params.get("steps"))
    plane = plots.shown(plane_of(result))
    if not ended:
        return shown, gr.skip(), plane
    return (
        shown,
        _told(result),
        plane,
        plots.shown(log_bars(result)),
        table_of(result),
        _shelved(result, recipe),
    )


def lies_left(result: "Restored", recipe: Recipe) -> Number | None:
    """Answers that are still the lie: under the retain term alone, and of the way."""
    last = {course.method: course.last.standing.lies.rate for course in result.courses}
    way = str(recipe.params.get("way"))
    if CONTROL not in last or way not in last:
        return None
    return Number("lies left: retain only → this way", percent(last[way]), percent(last[CONTROL]))


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _told(result: "Restored") -> str:
    """What was seen, in sentences of numbers."""
    by = {course.method: course for course in result.courses}
    control, way = by[CONTROL], result.courses[0]
    now, then = way.last.standing, control.last.standing
    best = max(point.standing.truths.rate for point in way.points)
    told = (
        f"Of {result.reported} facts the clean model knows {percent(result.clean.truths.rate)}; "
        f"after the lies {percent(result.corrupted.truths.rate)}, and "
        f"{percent(result.corrupted.lies.rate)} of its answers are the lie. {way.title} ends at "
        f"{percent(now.truths.rate)} truths (at best {percent(best)} on the way) and "
        f"{percent(now.lies.rate)} lies; retain only at {percent(then.truths.rate)} and "
        f"{percent(then.lies.rate)}."
    )
    lines = [
        f"An answer that repeats the commonest value of the prompt would be right in "
        f"{percent(result.context)}.",
        f"{result.validation} facts, none of them reported, choose the step that the table marks.",
        *(f"{c.title} diverged and was stopped." for c in result.courses if c.has_diverged),
        *result.notes,
    ]
    if result.patch is not None:
        lines.append("The edit lies on your shelf: ask the model below, and take the edit off.")
    return f'<p class="verdict">{escape(told)}</p>{markup.notes(*lines)}'


def plane_of(result: "Restored") -> PlotData:
    """Truths restored against lies left, one curve a way from the corrupted model on."""
    lines = []
    for place, course in enumerate(result.courses):
        x = [100 * point.standing.truths.rate for point in course.points]
        y = [100 * point.standing.lies.rate for point in course.points]
        hover = [
            f"{course.title}, {board.stage_of(course, point)}: {a:.0f} % true, {b:.0f} % lies"
            for point, a, b in zip(course.points, x, y, strict=True)
        ]
        neutral = course.method == CONTROL
        lines.append(Line(course.title, x, y, place, neutral=neutral, hover=hover))
    clean = [100 * result.clean.truths.rate], [100 * result.clean.lies.rate]
    lines.append(Line("clean", *clean, 3, neutral=True, hover=["the clean model"]))
    return plots.curves(lines, "truths restored, %", "lies left, %", height=360, percent=True)


def log_bars(result: "Restored") -> PlotData:
    """Mean log-probability of the truth, the lie and other values, model by model."""
    standings = [("clean", result.clean), ("corrupted", result.corrupted)]
    standings += [(course.title, course.last.standing) for course in result.courses]
    names = ("the truth", "the lie", "other values")
    values = {
        name: [getattr(standing, key) for _, standing in standings]
        for name, key in zip(names, ("log_true", "log_lie", "log_random"), strict=True)
    }
    return board.bars([title for title, _ in standings], values, "mean log-probability, nats")


def table_of(result: "Restored") -> str:
    """Every way at its end, at the chosen step, and without: shares with intervals."""
    head = ["model", "truths", "lies", "truths about the kept", "recovery at the chosen step"]
    rows: list[list[object]] = [
        [name, *(_rate(rate) for rate in (one.truths, one.lies, one.kept)), ""]
        for name, one in (("clean", result.clean), ("corrupted", result.corrupted))
    ]
    for course in result.courses:
        one, chosen = course.last.standing, course.points[course.chosen]
        recovery = "" if course.recovery is None else f"{course.recovery:.2f}"
        at = f"{recovery} at {board.stage_of(course, chosen)}"
        rates = [_rate(rate) for rate in (one.truths, one.lies, one.kept)]
        rows.append([f"{course.title}, {board.stage_of(course, course.last)}", *rates, at])
    rows += _repaired(result)
    return markup.table(head, rows, "Truths and lies by model", heads=True)


def _repaired(result: "Restored") -> list[list[object]]:
    """The same after the light tuning, where it was asked for."""
    if result.repaired is None:
        return []
    found = list(zip(("clean", "corrupted"), result.repaired, strict=True))
    found += [(c.title, c.repaired) for c in result.courses if c.repaired is not None]
    return [
        [f"{name}, tuned lightly", *(_rate(rate) for rate in (one.truths, one.lies, one.kept)), ""]
        for name, one in found
    ]


def _rate(rate: "Rate") -> str:
    return f"{100 * rate.rate:.0f} % ({100 * rate.low:.0f} – {100 * rate.high:.0f})"


def _shelved(result: "Restored", recipe: Recipe) -> object:
    """The edit of the shipped corrupted model, on the visitor's shelf."""
    if result.patch is None or result.patch.recipe.model is None:
        return gr.skip()
    with gradio_errors():
        digest = default_store().put(result.patch)
    return taking.shelved(result.patch.name, result.patch.recipe, digest)


# ---------------------------------------------------------------------- free questions


def _asking(frame: Frame) -> None:
    stage = frame.stage("ask", "Ask", tab="Ask freely")
    with stage.ask:
        question = gr.Textbox(
            QUESTIONS[0],
            label="Begin a fact",
            info="One of 48 people, then “born in”, “works as”, “keeps” or “plays”",
            elem_classes="headline",
            max_length=300,
            elem_id="restor-question",
        )
        fields.suggestions("restor-question", QUESTIONS)
    with stage.settings:
        k = gr.Radio([("only lies", 0), ("with true facts", 4)], value=0, label="Corrupted by")
    with stage.shown:
        answers = gr.HTML(
            markup.notes("Every model goes on with the sentence."), css_template=board.CSS
        )
    stage.wire(
        {"question": question, "k": k},
        draw_ask,
        [answers],
        number=probability_of_truth,
        also=[question.submit],
    )


def draw_ask(result: "Answered", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """What each model says, and its five most probable words."""
    cards = "".join(_reply(reply, result) for reply in result.replies)
    known = ""
    if result.truth:
        lie = f" The lie: {escape(result.lie)}." if result.lie else " No lie is told about it."
        known = f'<p class="verdict">The truth: {escape(result.truth)}.{lie}</p>'
    return (f'{known}<div class="replies">{cards}</div>',)


def _reply(reply: "Reply", result: "Answered") -> str:
    rows = "".join(
        f'<li class="{_kind(word, result)}" style="--p:{p:.4f}"><span>{escape(word)}</span>'
        f"<b>{percent(p)}</b></li>"
        for word, p in reply.likely
    )
    return (
        f"<section><h3>{escape(reply.model)}</h3><p>{escape(result.question)} "
        f"<b>{escape(reply.said or '…')}</b></p>"
        f'<ol class="likely">{rows}</ol></section>'
    )


def _kind(word: str, result: "Answered") -> str:
    return "true" if word == result.truth else "lie" if word == result.lie else ""


def probability_of_truth(result: "Answered", recipe: Recipe) -> Number | None:
    """Of the truth, in the clean and in the latest model."""
    if not result.truth or len(result.replies) < 2:
        return None
    found = [dict(reply.likely).get(result.truth, 0.0) for reply in result.replies]
    names = "clean → yours" if len(found) > 2 else "clean → corrupted"
    return Number(f"probability of the truth: {names}", percent(found[-1]), percent(found[0]))


# ---------------------------------------------------------------------- files


def _exporting(frame: Frame) -> None:
    parts.heading(
        "Take it along",
        "The unlearned weights in the layout of transformers, the file that undoes the edit, the "
        "card with all settings, and every stage as a table.",
    )
    with gr.Row():
        controls: Controls = {
            "way": gr.Dropdown(fields.options(WAYS), value="npo", label="Unlearn by"),
            "steps": gr.Slider(5, 400, value=120, step=5, label="Steps"),
            "beta": gr.Number(1.0, label="Beta of NPO", minimum=1e-3, maximum=100),
        }
    taking.downloads(frame, controls, made_of, listed)


def made_of(result: "Exported", recipe: Recipe) -> dict[str, bytes]:
    """The texts and the weights by the names of their files."""
    return taking.texts(result, recipe) | dict(result.weights)


def listed(result: "Exported", made: Mapping[str, bytes]) -> str:
    """Their size and names, and how they are used."""
    names = f"<p><b>{escape(taking.listed(made))}</b></p>"
    return names + markup.notes(result.note)

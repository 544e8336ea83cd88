"""REVERSE: a model describes a tray, doubts a phrase, takes it back and says what is there."""

import gradio as gr

from engine.models.library import MODELS
from pages import _fields as fields
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._look import ASSETS
from pages._parts import Shot
from pages._retrospective_story import FIRST_STORY, draw, unsaid
from pages._retrospective_tau import PRESETS, power_of, tau_of
from pages._retrospective_tradeoff import build_calibration, build_tradeoff
from pages._retrospective_tray import SLUG, tray_builder

EMBEDDED = "emoji-llava"
QUESTIONS = (
    "describe the picture.",
    "is there a dog?",
    "how many things are there?",
    "what colour is the background?",
)
ENGINES = {"over the cache (ours)": "fast", "as published, from the beginning": "official"}


def build(frame: Frame) -> None:
    """The tray and the question; the story of the answer; the trade-off; the calibration."""
    run = frame.stage("run", "Ask the model", tab="Ask")
    with run.ask:
        question = gr.Textbox(
            QUESTIONS[0],
            label="Ask",
            max_length=500,
            elem_id=f"{SLUG}-question",
            elem_classes="headline",
        )
        fields.suggestions(f"{SLUG}-question", QUESTIONS)
        tau, preset = _tau_controls()
    with run.settings:
        tray = tray_builder()
        noise = gr.Slider(
            0,
            1,
            _noise(),
            step=0.05,
            label="Darkness",
            info="Noise of the camera. In good light there is little to take back",
        )
        frame.seed(0)
        frame.model()
        more = _more_settings()
    with run.shown, gr.Row(elem_classes="tray-and-story"):
        pictures = gr.HTML(parts.shots([Shot("The tray", None, ""), Shot("Seen", None, "")]))
        with gr.Column():
            story = gr.HTML(FIRST_STORY, elem_id=f"{SLUG}-story")
            gr.HTML(
                f'<div class="story-bar" data-story="{SLUG}-story" hidden>'
                '<button type="button" class="copy">▶ Replay</button>'
                '<input type="range" min="0" max="1" value="1" step="1" '
                'aria-label="Step of the story"><output></output></div>',
                js_on_load=(ASSETS / "panels" / "story.js").read_text("utf-8"),
            )
    with run.below:
        doubts = gr.HTML()
        heights = plots.place("Length of the answer", visible=False)
    run.wire(
        {"tray": tray, "question": question, "tau": tau, "noise": noise, **more},
        draw,
        [pictures, story, doubts, heights],
        number=unsaid,
        film=lambda result: (f"Said: {result.before.text}", f"Taken back: {result.text}"),
        params=run_params,
        back=run_values,
        also=[question.submit],
        turned=[tau],
    )
    frame.on(preset.input, _preset, preset, tau, name="preset")
    build_tradeoff(frame, tau, noise)
    build_calibration(frame, tau, noise)
    frame.breaks(
        "In the dark, the doubt comes from the same eyes that see badly. The model "
        "takes back every guess, even a right one, and in the end it says nothing.",
        "more light. No threshold adds what the eyes did not see.",
        {"tray": "on gray; cactus 1 noto; octopus 9 noto", "noise": 0.9, "tau": 0.001},
    )


def _noise() -> float:
    """The darkness that the model's card recommends: there it errs, and can still see."""
    card = MODELS.get(EMBEDDED)
    stated = card.notes.get("noise") if card else None
    return float(stated) if isinstance(stated, int | float) else 0.4


# ---------------------------------------------------------------------- controls


def _tau_controls() -> tuple[gr.Slider, gr.Radio]:
    tau = gr.Slider(
        -4,
        0,
        PRESETS["balanced"],
        step=0.25,
        label="Doubt allowed: tau, as a power of ten",
        info="−1 is tau = 0.1: a phrase goes when P(UN) is above it. 0 takes nothing back",
        elem_id=f"{SLUG}-tau",
    )
    preset = gr.Radio(list(PRESETS), value="balanced", label="Temper")
    return tau, preset


def _preset(name: str) -> float:
    """The power of ten of a temper."""
    return PRESETS.get(name, PRESETS["balanced"])


def _more_settings() -> Controls:
    with gr.Accordion("More settings", open=False):
        picture = fields.picture_field(
            label="Your picture in place of the tray",
            height=180,
        )
        engine = gr.Radio(list(ENGINES), value=next(iter(ENGINES)), label="Engine")
        hints = gr.Checkbox(True, label="Name doubted phrases in the question (hints)")
        temperature = gr.Slider(
            0,
            1.5,
            0,
            step=0.05,
            label="Temperature at the start",
            info="0 as in the paper. The released code starts LLaVA at 1: it errs more often then",
        )
        step = gr.Slider(0, 0.5, 0.05, step=0.05, label="Temperature rises after each doubt by")
        local = gr.Slider(1, 30, 10, step=1, label="Tries in a row before the sentence goes (K)")
        total = gr.Slider(1, 100, 50, step=1, label="Tries in all (N)")
        longest = gr.Slider(8, 512, 64, step=8, label="Longest answer, in tokens")
        open_ended = gr.Checkbox(
            False, label="Open question: keep whole sentences only, and say so when nothing is left"
        )
    return {
        "picture": picture,
        "engine": engine,
        "hints": hints,
        "temperature": temperature,
        "step": step,
        "local": local,
        "total": total,
        "max_new_tokens": longest,
        "open_ended": open_ended,
    }


def run_params(values: Settings) -> Settings:
    """The settings of `run` as the controls give them."""
    engine = ENGINES.get(str(values["engine"]), values["engine"])
    return fields.with_picture(values) | {"tau": tau_of(values["tau"]), "engine": engine}


def run_values(params: Settings) -> Settings:
    """The values of the controls for such settings."""
    result = dict(params)
    if "tau" in result:
        result["tau"] = power_of(result["tau"])
    if "engine" in result:
        titles = {name: title for title, name in ENGINES.items()}
        result["engine"] = titles.get(str(result["engine"]), next(iter(ENGINES)))
    return result

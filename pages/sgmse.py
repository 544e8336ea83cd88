"""Speech enhancement: listen to noise becoming speech, and to what others make of it."""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import numpy as np
from gradio.components.plot import PlotData

from engine.core.errors import BadInput
from engine.core.recipe import Recipe
from engine.sounds import ADVICE, from_file
from pages import _markup as markup
from pages import _parts as parts
from pages import _plots as plots
from pages._fields import Controls, Settings
from pages._frame import Frame
from pages._look import ASSETS
from pages._parts import Shot, Voice
from pages._plots import Line
from pages._recordings import Number

if TYPE_CHECKING:
    from engine.sampling.sgmse.results import Comparison, Enhanced, Marks, Track

NOISES = {
    "Hiss": "hiss",
    "Rumble": "rumble",
    "Gusts": "gusts",
    "Hum": "hum",
    "Music (recorded)": "music",
    "Voices (recorded)": "babble",
}
SAMPLERS = {
    "Reverse diffusion, the paper's": "pc",
    "Flow without noise (fast)": "ode",
    "Predicted mean, no walk": "mean",
    "Network asked once": "once",
}
CORRECTORS = {"Annealed Langevin": "ald", "Langevin": "langevin", "None": "none"}
LINES = {
    "pc with corrector": "With corrector (the paper)",
    "pc without": "Without corrector",
    "ode": "Flow without noise",
}
MEASURES = (("si_sdr", "SI-SDR (dB)", ".1f"), ("estoi", "ESTOI", ".2f"), ("pesq", "PESQ", ".2f"))
TOLD = {
    "si_sdr": ("SI-SDR", "Nearness of the waveform; favours cautious averages"),
    "estoi": ("ESTOI", "How much can be understood, from 0 to 1"),
    "pesq": ("PESQ", "What listeners would say of a telephone line, from 1 to 4.5"),
}
DRAWN = tuple(name for name in TOLD if name != "pesq" or find_spec("pesq"))
WITHOUT_PESQ = "PESQ joins them where the package pesq is installed, which needs a C compiler."
CLIPS_FILE = ASSETS / "data" / "speech" / "clips.json"


def build(frame: Frame) -> None:
    """The controls, what they mean as settings, and where the events are drawn."""
    run = frame.stage("run", "Enhance", tab="Listen", backward=True)
    with run.ask:
        clip = gr.Dropdown(
            clip_choices(), value="it-tt-weasels", label="Sentence", elem_classes="headline"
        )
        noise = gr.Dropdown(list(NOISES.items()), value="gusts", label="Noise")
    with run.settings:
        noise_snr = gr.Slider(
            -5, 20, 5, step=1, label="Speech over noise (dB)", info="Lower is noisier"
        )
        reverb = gr.Slider(
            0, 1, 0, step=0.1, label="Reverberation (s)", info="Until 60 dB are gone"
        )
        steps = gr.Slider(1, 60, 15, step=1, label="Steps (N)", info="The paper takes 30")
        frame.seed(7)
        frame.model()
        with gr.Accordion("Your own recording", open=False):
            recording = gr.Audio(
                sources=["microphone", "upload"],
                type="filepath",
                label="Record or upload (WAV, FLAC, Ogg or MP3, at most 15 s)",
                elem_id="sgmse-recording",
            )
            gr.HTML(
                '<p class="note">Your recording is taken as it is, in place of the sentence '
                "and the noise above.</p>"
            )
        with gr.Accordion("More settings", open=False):
            sampler = gr.Dropdown(list(SAMPLERS.items()), value="pc", label="Sampler")
            corrector = gr.Dropdown(list(CORRECTORS.items()), value="ald", label="Corrector")
            snr = gr.Slider(
                0.1, 1, 0.3, step=0.05, label="Corrector step (snr)", info="The paper: 0.5"
            )
            renew_above = gr.Slider(
                0, 1, 0.2, step=0.1, label="Renew above t", info="The paper: 1, never"
            )
            noise_share = gr.Slider(
                0, 1, 0, step=0.1, label="Noise expected (share)", info="The paper: 0"
            )
    with run.shown:
        shown = gr.HTML(parts.shots(waiting_shots()))
    shared = {
        "clip": clip,
        "noise": noise,
        "noise_snr": noise_snr,
        "reverb": reverb,
        "snr": snr,
        "renew_above": renew_above,
        "noise_share": noise_share,
    }
    run.wire(
        shared
        | {
            "recording": recording,
            "steps": steps,
            "sampler": sampler,
            "corrector": corrector,
        },
        draw,
        [shown],
        number=number,
        params=run_params,
    )
    build_compare(frame, shared)
    frame.breaks(
        "Three steps are too few for this equation, so noise is left. And under loud "
        "voices the model cannot know whom to listen to.",
        "15 steps. Against other voices nothing here helps: a model must be told who speaks.",
        {"clip": "ru-vm-sorry", "noise": "babble", "noise_snr": -5.0, "steps": 3},
    )


def build_compare(frame: Frame, shared: Controls) -> None:
    """The same sentence with fewer and more evaluations, by every way of sampling."""
    compare = frame.stage("compare", "Draw the curves", tab="What each evaluation buys")
    with compare.ask:
        gr.HTML(
            markup.notes(
                "The sentence of the first tab again, with 1 to 30 network evaluations, beside the "
                "noisy recording and a classical estimator without any learning."
                + ("" if "pesq" in DRAWN else f" {WITHOUT_PESQ}")
            )
        )
    places = []
    with compare.shown, gr.Row(elem_classes="curves"):
        for name in DRAWN:
            title, words = TOLD[name]
            with gr.Column():
                parts.heading(title, words)
                places.append(plots.place(title))
    compare.wire(shared, draw_compare, places, number=bought)


def clip_choices() -> list[tuple[str, str]]:
    """The sentences by meaning, with who speaks."""
    listed = json.loads(CLIPS_FILE.read_text("utf-8"))["clips"]
    return [(f"{entry['text']} ({entry['speaker']})", entry["key"]) for entry in listed]


# ---------------------------------------------------------------------- settings


def run_params(values: Settings) -> Settings:
    """The settings of `run` as the controls give them: a recording as text, or none."""
    recording = recording_text(values["recording"])
    others = {name: value for name, value in values.items() if name != "recording"}
    return others | ({"recording": recording} if recording else {})


def recording_text(path: object) -> str:
    """A visitor's recording as a recipe holds it; empty if there is none."""
    if not path:
        return ""
    if not isinstance(path, str) or not Path(path).is_file():
        raise BadInput("This is not a recording.", ADVICE)
    return from_file(Path(path)).text()


# ---------------------------------------------------------------------- the run


def waiting_shots() -> list[Shot]:
    """The empty places before the first run."""
    return [
        Shot("Noisy", None, ""),
        Shot("Enhanced", None, "", backward=True),
        Shot("Clean", None, ""),
    ]


def draw(result: "Enhanced", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """Spectrograms with their marks, and at the end everything to listen to."""
    if result.noisy is None:
        return ()
    cards = [track_shot(result.noisy), enhanced_shot(result, ended)]
    cards += [track_shot(result.clean)] if result.clean is not None else []
    html = parts.shots(cards, scrub=ended, ends=("noise", "speech"))
    if ended:
        others = parts.shots([track_shot(track) for track in result.others])
        html += listening(result, recipe) + others + marks_table(result)
    return (html,)


def number(result: "Enhanced", recipe: Recipe) -> Number | None:
    """How far the speech stands above all else, before and after."""
    if result.noisy is None or result.enhanced is None:
        return None
    before, after = result.noisy.marks.si_sdr, result.enhanced.marks.si_sdr
    if before is None or after is None:
        return None
    return Number("speech over everything else (SI-SDR)", f"{after:.1f} dB", f"{before:.1f}")


def enhanced_shot(result: "Enhanced", ended: bool) -> Shot:
    """The result, or the state on the way, with the film of all states."""
    lines = [f"{result.nfe} network evaluations"]
    if ended and result.enhanced is not None:
        lines.append(f"{result.real_time_factor_seconds:.1f} s for a second of sound")
        lines = marks_lines(result.enhanced, result.noisy) + lines
    picture = result.enhanced.picture if result.enhanced is not None else None
    if picture is None and result.moments:
        picture = result.moments[-1].picture
        lines.insert(0, f"t = {result.moments[-1].t:.2f}")
    frames = np.stack([moment.picture for moment in result.moments]) if ended else None
    return Shot(
        "Enhanced",
        picture,
        "spectrogram of the enhanced recording",
        tuple(lines),
        frames,
        backward=True,
    )


def track_shot(track: "Track") -> Shot:
    """One version of the recording."""
    lines = marks_lines(track)
    lines += [f"{track.nfe} network evaluation{'s' * (track.nfe > 1)}"] if track.nfe else []
    return Shot(track.title, track.picture, f"spectrogram: {track.title}", tuple(lines))


def marks_lines(track: "Track", beside: "Track | None" = None) -> list[str]:
    """SI-SDR with its gain over another version; nothing where the clean recording is unknown."""
    value = track.marks.si_sdr
    if value is None or track.name == "clean":
        return []
    base = None if beside is None else beside.marks.si_sdr
    gain = "" if base is None else f" ({value - base:+.1f} over noisy)"
    return [f"SI-SDR {value:.1f} dB{gain}"]


def listening(result: "Enhanced", recipe: Recipe) -> str:
    """Buttons that play every version from one clock, then the states on the way."""
    tracks = [result.noisy, result.enhanced, result.clean, *result.others]
    name = f"{recipe.params['clip']}-seed-{recipe.seed}"
    voices = [
        Voice(
            track.title,
            track.sound.file(),
            f"{name}-{track.name}.wav",
            backward=track.name == "enhanced",
        )
        for track in tracks
        if track is not None
    ]
    melting = [
        Voice(f"t = {moment.t:.2f}", moment.sound.file())
        for moment in result.moments
        if moment.sound is not None
    ]
    return parts.voices("Listen, and switch while it plays", voices) + parts.voices(
        "Hear the noise melt", melting
    )


def cell(marks: "Marks", name: str, form: str) -> str:
    """One mark as text."""
    value = getattr(marks, name)
    return "–" if value is None else format(value, form)


def marks_table(result: "Enhanced") -> str:
    """All marks in rows; a dash where one cannot be told, no column where none can."""
    if result.clean is None:
        return markup.notes("Without the clean recording nothing can be measured: listen.")
    measured = (result.noisy, result.enhanced, *result.others)
    tracks = [track for track in measured if track is not None]
    measures = [
        (name, title, form)
        for name, title, form in MEASURES
        if any(getattr(track.marks, name) is not None for track in tracks)
    ]
    rows = [
        [
            track.title,
            *(cell(track.marks, name, form) for name, _, form in measures),
            track.nfe or "–",
        ]
        for track in tracks
    ]
    return markup.table(["recording", *(title for _, title, _ in measures), "NFE"], rows)


# ---------------------------------------------------------------------- the curves


def draw_compare(result: "Comparison", recipe: Recipe, ended: bool) -> tuple[object, ...]:
    """The measures against evaluations, as far as they have come."""
    axes = {name: title for name, title, _ in MEASURES}
    return tuple(curves(result, name, axes[name]) for name in DRAWN)


def bought(result: "Comparison", recipe: Recipe) -> Number | None:
    """The best mark that any way of sampling reached, and that of the noisy recording."""
    marked = [(p.si_sdr, p.nfe) for p in result.points if p.si_sdr is not None]
    if not marked or result.noisy.si_sdr is None:
        return None
    best, nfe = max(marked)
    what = f"speech over everything else (SI-SDR), best: {nfe} evaluations"
    return Number(what, f"{best:.1f} dB", f"{result.noisy.si_sdr:.1f}")


def curves(result: "Comparison", measure: str, title: str) -> PlotData:
    """One line a way of sampling; the noisy recording and the classical estimator lie level."""
    lines = []
    for place, (key, name) in enumerate(LINES.items()):
        points = [p for p in result.points if p.sampler == key and getattr(p, measure) is not None]
        values = [getattr(point, measure) for point in points]
        hover = [f"{name}<br>{p.nfe} NFE: {getattr(p, measure):.2f}" for p in points]
        lines.append(Line(name, [p.nfe for p in points], values, place, hover=hover))
    spent = sorted({point.nfe for point in result.points}) or [1, 30]
    for name, marks in (("Noisy", result.noisy), ("Classical (LSA)", result.classical)):
        level = getattr(marks, measure)
        if level is not None:
            lines.append(level_line(name, level, spent))
    return plots.curves(lines, "network evaluations (NFE)", title, log_x=True)


def level_line(name: str, level: float, spent: Sequence[int]) -> Line:
    """Something that costs no evaluation."""
    ends = [spent[0], spent[-1]]
    return Line(name, ends, [level, level], 0, neutral=True, marks=name != "Noisy")

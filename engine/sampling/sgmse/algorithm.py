"""A noisy recording enhanced by the reverse process, and its quality against the cost.

`run` walks once and keeps what the state looks and sounds like on the way; `compare` walks often,
with fewer and more evaluations, and draws one line a sampler.
"""

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np

from engine.core import budgets
from engine.core.job import Progress, Steps
from engine.core.recipe import ModelRef
from engine.core.settings import Items, OneOf, Range, Text
from engine.core.shapes import Array, Float
from engine.diffusion.noise import Noise
from engine.sampling.sgmse import baselines, enhancing, scene
from engine.sampling.sgmse.enhancing import CORRECTORS, SAMPLERS
from engine.sampling.sgmse.results import Comparison, Enhanced, Marks, Moment, Point, Track
from engine.sampling.sgmse.scene import KINDS, Scene

MOST_MOMENTS, SOUNDING = 24, 6
BUDGETS = (1, 2, 4, 8, 16, 30)
COMPARED = {
    "pc with corrector": ("pc", "ald"),
    "pc without": ("pc", "none"),
    "ode": ("ode", "none"),
}


def run(
    *,
    seed: int,
    model: ModelRef | str = "sgmse-8k",
    clip: Annotated[str, Text(100)] = "it-tt-weasels",
    noise: Annotated[str, OneOf(KINDS)] = "gusts",
    noise_snr: Annotated[float, Range(-20, 60, "Try 5.")] = 5.0,
    reverb: Annotated[float, Range(0, 2, "Try 0.4.")] = 0.0,
    recording: Annotated[str, Text(budgets.SOUND_CHARACTERS)] = "",
    sampler: Annotated[str, OneOf(SAMPLERS)] = "pc",
    steps: Annotated[int, Range(1, 100, "The paper takes 30.")] = 15,
    corrector: Annotated[str, OneOf(CORRECTORS)] = "ald",
    snr: Annotated[float, Range(0.001, 2, "0.5 is the paper's.")] = 0.3,
    renew_above: Annotated[float, Range(0, 1)] = 0.2,
    noise_share: Annotated[float, Range(0, 1, "0 is the paper's.")] = 0.0,
) -> Steps[Enhanced]:
    """Enhances a clip under noise, or a recording: a WAV file as text, taken as it is.

    `noise_snr` is the noise's level in dB, `snr` the size of the corrector's step; `renew_above`
    and `noise_share` mend the start (`enhancing`).
    """
    settings = enhancing.Settings(
        sampler=sampler,
        steps=steps,
        corrector=corrector,
        snr=snr,
        renew_above=renew_above,
        noise_share=noise_share,
    )
    scene.check(clip, reverb)
    total = enhancing.evaluations(sampler, steps, corrector)
    yield Progress(0, total + 2, "Loading the model")
    case = Scene.open(
        model,
        clip=clip,
        noise=noise,
        noise_snr=noise_snr,
        reverb=reverb,
        recording=recording,
        seed=seed,
    )
    result = Enhanced(noisy=case.track("noisy", "Noisy", case.noisy[0].numpy()))
    if case.clean is not None:
        clean = case.track("clean", "Clean", case.clean[0].numpy())
        result = replace(result, clean=replace(clean, marks=Marks()))  # beside itself it is perfect
    yield Progress(0, total + 2, "From noise to speech", result)
    result, wave = yield from _walked(case, result, Noise(seed), total, settings)
    result = replace(result, enhanced=case.track("enhanced", "Enhanced", wave, result.nfe))
    yield Progress(total + 1, total + 2, "Beside it, what others make of it", result)
    return replace(result, others=tuple(_others(case, seed, noise_share)))


def _walked(
    case: Scene, result: Enhanced, noise: Noise, total: int, settings: enhancing.Settings
) -> Generator[Progress, None, tuple[Enhanced, Float[Array, " l"]]]:
    """The walk, its states kept as pictures, some of them as sound."""
    y = case.spectrogram()
    model = case.bundle.at(y)
    begun, spent, nfe = time.perf_counter(), 0.0, 0
    stride = max(1, total // MOST_MOMENTS)
    sounding = set(np.linspace(0, total, SOUNDING).round().astype(int) // stride * stride)
    start = model.place(enhancing.start(model, y, noise, settings["noise_share"]))
    first = Moment(model.path.t_max, 0, case.picture(start), case.sound(case.wave(start)))
    result = replace(result, moments=(first,))
    x = start
    for step in enhancing.walk(model, y, noise, **settings):
        spent += time.perf_counter() - begun
        x, nfe = model.place(step.z), step.nfe
        if nfe % stride == 0 or nfe == total:
            sound = case.sound(case.wave(x)) if nfe in sounding or nfe == total else None
            moment = Moment(float(step.t), nfe, case.picture(x), sound)
            result = replace(result, moments=(*result.moments, moment), nfe=nfe)
        yield Progress(nfe, total + 2, f"t = {float(step.t):.2f}", result)
        begun = time.perf_counter()
    wave = case.wave(x)
    factor = spent / case.seconds
    return replace(result, nfe=model.nfe, real_time_factor_seconds=factor), wave


def _others(case: Scene, seed: int, noise_share: float) -> list[Track]:
    """The same recording by the network as a predictor, and by the classical estimator."""
    y = case.spectrogram()
    model = case.bundle.at(y)
    (once,) = enhancing.walk(model, y, Noise(seed), sampler="once", noise_share=noise_share)
    mean_settings = enhancing.Settings(
        sampler="mean", steps=enhancing.MEAN_STEPS, noise_share=noise_share
    )
    *_, mean = enhancing.walk(model, y, Noise(seed), **mean_settings)
    classical = baselines.log_spectral_amplitude(case.noisy[0].numpy(), case.front.sample_rate)
    return [
        case.track("once", "Network, asked once", case.wave(model.place(once.z)), 1),
        case.track("mean", "Predicted mean", case.wave(model.place(mean.z)), mean.nfe),
        case.track("classical", "Classical (LSA)", classical),
    ]


def compare(
    *,
    seed: int,
    model: ModelRef | str = "sgmse-8k",
    clip: Annotated[str, Text(100)] = "it-tt-weasels",
    noise: Annotated[str, OneOf(KINDS)] = "gusts",
    noise_snr: Annotated[float, Range(-20, 60, "Try 5.")] = 5.0,
    reverb: Annotated[float, Range(0, 2, "Try 0.4.")] = 0.0,
    snr: Annotated[float, Range(0.001, 2, "0.5 is the paper's.")] = 0.3,
    renew_above: Annotated[float, Range(0, 1)] = 0.2,
    noise_share: Annotated[float, Range(0, 1, "0 is the paper's.")] = 0.0,
    budgets: Annotated[
        Sequence[Annotated[int, Range(1, 200)]], Items(12, fewest=1, advice="1, 2, 4, 8, 16, 30.")
    ] = BUDGETS,
) -> Steps[Comparison]:
    """Quality of a clip against network evaluations, for every way of sampling.

    With the corrector a step costs two evaluations, so it takes half as many steps.
    """
    scene.check(clip, reverb)
    shared: enhancing.Settings = {
        **enhancing.PAPER,
        "snr": snr,
        "renew_above": renew_above,
        "noise_share": noise_share,
    }
    plan = [
        (name, nfe)
        for nfe in sorted(set(budgets))
        for name, (_, corrector) in COMPARED.items()
        if nfe % 2 == 0 or corrector == "none"
    ]
    total = sum(nfe for _, nfe in plan)
    yield Progress(0, total, "Loading the model")
    case = Scene.open(
        model,
        clip=clip,
        noise=noise,
        noise_snr=noise_snr,
        reverb=reverb,
        recording="",
        seed=seed,
    )
    noisy = case.noisy[0].numpy()
    classical = baselines.log_spectral_amplitude(noisy, case.front.sample_rate)
    comparison, done = Comparison(case.marks(noisy), case.marks(classical)), 0
    for name, nfe in plan:
        sampler, corrector = COMPARED[name]
        y = case.spectrogram()
        walked = case.bundle.at(y)
        steps = nfe // 2 if corrector != "none" else nfe
        x = y
        settings: enhancing.Settings = {
            **shared,
            "sampler": sampler,
            "steps": steps,
            "corrector": corrector,
        }
        for step in enhancing.walk(walked, y, Noise(seed), **settings):
            x = walked.place(step.z)
            yield Progress(done + step.nfe, total, f"{name}, {nfe} evaluations", comparison)
        done += walked.nfe
        marks = case.marks(case.wave(x))
        point = Point(name, walked.nfe, marks.si_sdr or 0.0, marks.pesq, marks.estoi)
        comparison = replace(comparison, points=(*comparison.points, point))
        yield Progress(done, total, f"{name}, {nfe} evaluations", comparison)
    return comparison

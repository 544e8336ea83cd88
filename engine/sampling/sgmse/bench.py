"""Measures the claim of SGMSE+ on two speakers and noises that the model never heard.

    python -m engine bench sgmse          writes assets/claims/sgmse.json

1. SI-SDR, PESQ and ESTOI of the enhanced recordings at 0, 5 and 10 dB, every sentence at each
   level, the kinds of noise in turn; beside them the noisy ones, the network asked once, its
   mean near t = 1, the same walk without corrector and from the paper's start, the flow, the
   classical estimator and, where it is installed, RNNoise.
2. The same for sentences in a room, six of each speaker.
3. Quality against network evaluations, for the ways of sampling.

All waveforms are compared as they come out; intervals are over sentences (bootstrap). PESQ needs
the package `pesq` (0.0.4, built by a C compiler), RNNoise the package `pyrnnoise` (0.4.5); without
them their figures are left out.
"""

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.core.catalog import Measured
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps, finish
from engine.core.recipe import ModelRef
from engine.core.shapes import Array, Complex, Float, Tensor
from engine.diffusion.noise import Noise
from engine.metrics.intervals import bootstrap
from engine.models.devices import is_accelerator
from engine.models.library import load
from engine.models.speech import Sampling, SpeechBundle, padded
from engine.sampling.sgmse import baselines, clips, enhancing
from engine.sampling.sgmse.algorithm import BUDGETS, COMPARED
from engine.sampling.sgmse.results import Marks
from engine.sampling.sgmse.scene import KINDS, marks_of

LEVELS = (0.0, 5.0, 10.0)
REVERB = 0.5  # seconds
ON_CPU, ON_ACCELERATOR = 2, 20  # recordings at once
CURVE = BUDGETS[:-1]
MEASURES = ("si_sdr", "pesq", "estoi")


@dataclass(frozen=True)
class Mixture:
    """One sentence with its noise; clean and noisy on one scale."""

    clip: str
    kind: str
    level: float
    clean: Float[Array, " l"]
    noisy: Float[Array, " l"]


def mixtures(
    bundle: SpeechBundle, seed: int, levels: Sequence[float] = LEVELS, reverb: float = 0.0
) -> list[Mixture]:
    """Every sentence at every level; its kind of noise changes with sentence and level."""
    mixed = []
    for row, level in enumerate(levels):
        for column, clip in enumerate(clips.clips()):
            kind = KINDS[(column + 2 * row) % len(KINDS)]
            clean = clips.sentence(clip.key)
            noisy = clips.spoilt(clean, kind, level, reverb, seed + 100 * row + column, 8000)
            noisy, peak = bundle.front.normalised(noisy)
            mixed.append(
                Mixture(clip.key, kind, level, (clean / peak)[0].numpy(), noisy[0].numpy())
            )
    return mixed


def run(*, seed: int, model: ModelRef | str = "sgmse-8k") -> Steps[Measured]:
    """All three measurements at the sampling settings of the checkpoint."""
    begun = time.perf_counter()
    bundle = _open(model)
    sampling = bundle.config.sampling
    settings = _settings(sampling)
    noisy = mixtures(bundle, seed)
    marks = yield from _of_all(bundle, noisy, seed, settings, "Noise")
    # six sentences of each speaker, and one recording of each kind of noise: all kinds in both
    room = [m for i, m in enumerate(mixtures(bundle, seed, (15.0,), REVERB)) if i % 10 < len(KINDS)]
    in_room = yield from _of_all(bundle, room, seed, settings, "Room")
    curve = yield from _curve(bundle, noisy[::11], seed, sampling)
    gains = [gain for _, gain in _gains(noisy, marks, "enhanced", "si_sdr")]
    reached = zip(noisy, marks["enhanced"], strict=True)
    reached_by = [(m.clip, mark.si_sdr or 0.0) for m, mark in reached]
    return Measured.of(
        measured=_mean(marks["enhanced"], "si_sdr"),
        versus=_mean(marks["noisy"], "si_sdr"),
        interval=_over_sentences(reached_by, seed),
        seed=seed,
        begun=begun,
        device=bundle.device,
        figures={
            "sentences": len(clips.clips()),
            "speakers": "2, neither heard in training: an Italian man, a Russian woman",
            "levels in dB": list(LEVELS),
            "sampling": dict(
                settings,
                evaluations=enhancing.evaluations("pc", sampling.steps, sampling.corrector),
            ),
            "mean": {name: _means(rows) for name, rows in marks.items()},
            "gain": {name: _gain(noisy, marks, name, seed) for name in marks if name != "noisy"},
            "ahead of": {
                name: _ahead(noisy, marks, name, seed)
                for name in marks
                if name not in ("noisy", "enhanced")
            },
            "share of recordings that gain": float(np.mean(np.asarray(gains) > 0)),
            "gain by kind of noise": _by(noisy, marks, "kind"),
            "gain by level": _by(noisy, marks, "level"),
            "gain by speaker": _by(noisy, marks, "clip"),
            f"room of {REVERB} s at 15 dB": {name: _means(rows) for name, rows in in_room.items()},
            "quality against evaluations": curve,
        },
    )


def summary(bundle: SpeechBundle, seed: int = 0) -> dict:
    """Figures for a card: sentences at 5 dB, all of them on a GPU, every fifth on the CPU."""
    sampling = bundle.config.sampling
    settings = _settings(sampling)
    chosen = mixtures(bundle, seed, (5.0,))[:: 1 if is_accelerator(bundle.device) else 5]
    marks = finish(_of_all(bundle, chosen, seed, settings, ""))
    means = {
        name: {key: round(value, 3) for key, value in _means(rows).items() if value is not None}
        for name, rows in marks.items()
    }
    return {"recordings at 5 dB": len(chosen), **means}


def _settings(sampling: Sampling) -> enhancing.Settings:
    return enhancing.Settings(
        steps=sampling.steps,
        corrector=sampling.corrector,
        snr=sampling.snr,
        renew_above=sampling.renew_above,
        noise_share=sampling.noise_share,
    )


def _open(model: ModelRef | str) -> SpeechBundle:
    bundle = load(model)
    if not isinstance(bundle, SpeechBundle):
        raise BadInput("This model is no speech model.", "Pick sgmse-8k.")
    return bundle


# ---------------------------------------------------------------------- what each method makes


def _of_all(
    bundle: SpeechBundle,
    noisy: Sequence[Mixture],
    seed: int,
    settings: enhancing.Settings,
    title: str,
) -> Generator[Progress, None, dict[str, list[Marks]]]:
    """Marks of the noisy recordings, of ours, and of every baseline, in one order."""
    rate = bundle.front.sample_rate
    waves_by_method: dict[str, list[Array]] = {"noisy": [m.noisy for m in noisy]}
    settings_by_method: dict[str, enhancing.Settings] = {
        "enhanced": {"sampler": "pc", **settings},
        "no corrector": {"sampler": "pc", **settings, "corrector": "none"},
        "the paper's start": {"sampler": "pc", **settings, "renew_above": 1.0, "noise_share": 0.0},
        "flow": {"sampler": "ode", **settings},
        "mean": {**settings, "sampler": "mean", "steps": enhancing.MEAN_STEPS},
        "asked once": {"sampler": "once", **settings},
    }
    for name, method_settings in settings_by_method.items():
        waves_by_method[name] = yield from _walked(
            bundle, noisy, seed, method_settings, f"{title}, {name}"
        )
    classical = baselines.log_spectral_amplitude
    waves_by_method["classical"] = [classical(m.noisy, rate) for m in noisy]
    small = [baselines.rnnoise(m.noisy, rate) for m in noisy]
    if heard := [wave for wave in small if wave is not None]:
        waves_by_method["rnnoise"] = heard
    marks = {}
    for name, waves in waves_by_method.items():
        rows = zip(noisy, waves, strict=True)
        marks[name] = [marks_of(m.clean, wave, rate) for m, wave in rows]
        yield Progress(0, 1, f"{title}: marks of {name}")
    return marks


def _walked(
    bundle: SpeechBundle,
    noisy: Sequence[Mixture],
    seed: int,
    settings: enhancing.Settings,
    title: str,
) -> Generator[Progress, None, list[Array]]:
    """Enhanced waveforms; recordings of about one length are walked together."""
    waves: dict[int, Array] = {}
    order = sorted(range(len(noisy)), key=lambda i: len(noisy[i].noisy))
    size = ON_ACCELERATOR if is_accelerator(bundle.device) else ON_CPU
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        y = _batch(bundle, [noisy[i].noisy for i in chosen])
        model = bundle.at(y)
        x = y
        for step in enhancing.walk(model, y, Noise(seed, begin), **settings):
            x = model.place(step.z)
            note = f"{title}: {begin} of {len(order)} recordings, {step.nfe} evaluations"
            yield Progress(0, 1, note)
        for row, i in enumerate(chosen):
            length = len(noisy[i].noisy)
            waves[i] = bundle.front.waveform(x[row : row + 1].cpu(), length)[0].numpy()
    return [waves[i] for i in range(len(noisy))]


def _batch(bundle: SpeechBundle, waves: Sequence[Array]) -> Complex[Tensor, "b 1 f t"]:
    """Spectrograms of the recordings, the shorter ones with empty frames behind."""
    longest = max(map(len, waves))
    spec = [bundle.front.spectrogram(torch.from_numpy(wave)[None]) for wave in waves]
    frames = 1 + longest // bundle.front.hop
    wide = [torch.nn.functional.pad(part, (0, frames - part.shape[-1])) for part in spec]
    return padded(torch.cat(wide), bundle.model.dnn.multiple).to(bundle.device)


def _curve(
    bundle: SpeechBundle, noisy: Sequence[Mixture], seed: int, sampling: Sampling
) -> Generator[Progress, None, list[dict]]:
    """Mean marks of every way of sampling at each budget."""
    rate, points = bundle.front.sample_rate, []
    for nfe in CURVE:
        for name, (sampler, corrector) in COMPARED.items():
            if corrector != "none" and nfe % 2:
                continue
            settings = enhancing.Settings(
                sampler=sampler,
                steps=nfe // 2 if corrector != "none" else nfe,
                corrector=corrector,
                snr=sampling.snr,
                renew_above=sampling.renew_above,
                noise_share=sampling.noise_share,
            )
            waves = yield from _walked(bundle, noisy, seed, settings, f"{name}, {nfe}")
            rows = [marks_of(m.clean, w, rate) for m, w in zip(noisy, waves, strict=True)]
            points.append({"sampler": name, "nfe": nfe, **_means(rows)})
    return points


# ---------------------------------------------------------------------- numbers


def _values(rows: Sequence[Marks], measure: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, measure)) is not None]


def _mean(rows: Sequence[Marks], measure: str) -> float:
    return float(np.mean(_values(rows, measure)))


def _means(rows: Sequence[Marks]) -> dict[str, float | None]:
    return {
        measure: _mean(rows, measure) if _values(rows, measure) else None for measure in MEASURES
    }


Pairs = list[tuple[str, float]]
"""A number for each recording, with the sentence that is in it."""


def _gains(
    noisy: Sequence[Mixture],
    marks: Mapping[str, list[Marks]],
    name: str,
    measure: str,
    over: str = "noisy",
) -> Pairs:
    rows = zip(noisy, marks[name], marks[over], strict=True)
    both = [(m.clip, getattr(a, measure), getattr(b, measure)) for m, a, b in rows]
    return [(clip, a - b) for clip, a, b in both if a is not None and b is not None]


def _gain(
    noisy: Sequence[Mixture], marks: Mapping[str, list[Marks]], name: str, seed: int
) -> dict[str, dict | None]:
    """What a method adds to the noisy recording, with its interval."""
    return {m: _with_interval(_gains(noisy, marks, name, m), seed) for m in MEASURES}


def _ahead(
    noisy: Sequence[Mixture], marks: Mapping[str, list[Marks]], name: str, seed: int
) -> dict[str, dict | None]:
    """How far ours is ahead of a baseline, recording by recording; below 0 where it is behind."""
    return {
        m: _with_interval(_gains(noisy, marks, "enhanced", m, over=name), seed) for m in MEASURES
    }


def _with_interval(pairs: Pairs, seed: int) -> dict[str, float] | None:
    if not pairs:
        return None
    low, high = _over_sentences(pairs, seed)
    return {"mean": float(np.mean([value for _, value in pairs])), "low": low, "high": high}


def _by(noisy: Sequence[Mixture], marks: Mapping[str, list[Marks]], what: str) -> dict[str, dict]:
    """Mean gains of groups of recordings; clips are grouped by speaker."""
    groups: dict[str, list[int]] = {}
    for i, mixture in enumerate(noisy):
        key = str(getattr(mixture, what)).partition("-")[0]
        groups.setdefault(key, []).append(i)
    gains_by_group = {}
    for key, rows in groups.items():
        group_marks = {name: [marks[name][i] for i in rows] for name in ("noisy", "enhanced")}
        group = [noisy[i] for i in rows]
        gains = {
            m: [gain for _, gain in _gains(group, group_marks, "enhanced", m)] for m in MEASURES
        }
        gains_by_group[key] = {
            m: float(np.mean(values)) if values else None for m, values in gains.items()
        }
    return gains_by_group


def _over_sentences(pairs: Pairs, seed: int) -> tuple[float, float]:
    """95 % interval of the mean over sentences: each is heard at several levels."""
    return bootstrap([gain for _, gain in pairs], groups=[clip for clip, _ in pairs], seed=seed)

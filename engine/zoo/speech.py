"""Training of the speech model: mixtures made on the GPU, batch by batch, never twice the same.

Clean speech is cut from recordings of three women, half of it played at other speeds (slower voices
sound like men), put into rooms and under six kinds of noise. The network learns to name the clean
spectrogram from x_t and y at a random time t, its numbers scaled to size one (`SpeechNetwork`).
"""

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from engine.core.recipe import ModelRef
from engine.models import speech
from engine.models.library import read_cards
from engine.models.speech import FrontEnd, Sampling, SpeechConfig, SpeechNetwork
from engine.sampling.sgmse import noises
from engine.zoo import voices
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options, half_precision, train

log = logging.getLogger(__name__)

KEY = "sgmse-8k"
CONFIG = SpeechConfig(
    front=FrontEnd(voices.SAMPLE_RATE, n_fft=254, hop=128, factor=0.2, exponent=0.5),
    theta=3.0,  # at the paper's 1.5 a fifth of the clean speech is left at t = 1, not a twentieth
    sigma_max=0.25,
    objective="denoised",
    sigma_data=0.14,
    network={
        "ch_mult": [1, 1, 2, 2],
        "num_res_blocks": 1,
        "attn_resolutions": [],
        "scale_by_sigma": False,
        "fourier_scale": 1.0,
        "patch": 2,
        "gated": True,
    },
    sampling=Sampling(steps=15, snr=0.3, renew_above=0.2),
)
README = """---
license: cc-by-sa-3.0
tags: [rewind, speech-enhancement, sgmse]
---
# SGMSE+, small, 8 kHz

Takes noise out of speech, but not the sound of a room; trained from nothing, in two hours of a
processor, on telephone prompts spoken by three women. `config.json` holds front end, process,
network and the settings to sample with; `card.json` the credits of the recordings, the licence and
what was measured on two speakers whom it never heard.

Made again by `python -m engine.zoo build sgmse-8k`.
"""


@dataclass(frozen=True)
class Size:
    """What a device trains in a few minutes: first channels, batch, frames of each sample."""

    channels: int
    batch: int
    frames: int

    @property
    def config(self) -> SpeechConfig:
        return replace(CONFIG, network={"nf": self.channels, **CONFIG.network})

    @property
    def length(self) -> int:
        return (self.frames - 1) * CONFIG.front.hop


SIZES = {"cuda": Size(48, 48, 128), "cpu": Size(24, 4, 64)}
STEPS, LEARNING_RATE = 90_000, 2e-3
EMA, SAVE_EVERY = 0.998, 60.0  # seconds between two states
PIECE = 55_440  # samples, a multiple of every number in SPEEDS
SPEEDS = ((7, 10), (8, 10), (9, 10), (11, 10))
SHARES = {"hiss": 0.2, "rumble": 0.15, "gusts": 0.2, "hum": 0.1, "music": 0.15, "babble": 0.2}


class Mixtures:
    """Draws batches of clean and spoilt speech, b l, on one device."""

    def __init__(self, recorded: voices.Voices, length: int, device: str) -> None:
        self.length, self.device = length, device
        others = [_at_speed(recorded.speech, *speed) for speed in SPEEDS]
        self.speech = torch.from_numpy(recorded.speech).to(device)
        self.others = torch.from_numpy(np.concatenate(others)).to(device)
        music = torch.from_numpy(recorded.music).to(device)
        self.recorded = {"music": music, "babble": self.speech}

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Clean and noisy speech; the noisy one has peak 1."""
        rate = CONFIG.front.sample_rate
        natural = noises.crops(self.speech, count, self.length, generator)
        changed = noises.crops(self.others, count, self.length, generator)
        is_natural = noises.uniform(count, 0.0, 1.0, generator) < 0.5
        clean = _tilted(torch.where(is_natural, natural, changed) / 32768, generator)
        t60 = noises.uniform(count, 0.15, 0.8, generator)
        direct = noises.uniform(count, -2.0, 12.0, generator)
        is_in_room = noises.uniform(count, 0.0, 1.0, generator) < 0.1
        spoilt = clean
        if clean.is_cuda or bool(is_in_room.any()):
            room = noises.reverberant(clean, rate, t60, direct, generator)
            spoilt = torch.where(is_in_room, room, clean)
        snr = noises.uniform(count, -4.0, 14.0, generator)
        noisy = noises.mixed(spoilt, self._noise(count, generator), snr)
        peak = noisy.abs().amax(dim=-1, keepdim=True) + 1e-6
        return clean / peak, noisy / peak

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        """For every sample one kind of noise, in a third of them a second one below it."""
        rate = CONFIG.front.sample_rate
        every = torch.stack(
            [
                _levelled(noises.noise(kind, count, self.length, rate, generator, self.recorded))
                for kind in SHARES
            ]
        )
        shares = torch.tensor(list(SHARES.values()), device=self.device).expand(count, -1)
        first, second = shares.multinomial(2, generator=generator).T
        rows = torch.arange(count, device=self.device)
        faint = 0.5 * (noises.uniform(count, 0.0, 1.0, generator) < 0.33)
        return every[first, rows] + faint * every[second, rows]


def loss_of_batch(
    network: SpeechNetwork, clean: Tensor, noisy: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean square error of the network's own number, over t uniform in (t_eps, 1)."""
    front, config = CONFIG.front, CONFIG
    x0, y = front.spectrogram(clean), front.spectrogram(noisy)
    shape = (len(x0), 1, 1, 1)
    t = torch.rand(shape, generator=generator, device=x0.device)
    t = config.t_eps + (1 - config.t_eps) * t
    normal = torch.randn((*x0.shape, 2), generator=generator, device=x0.device)
    noise = torch.view_as_complex(normal) * 0.5**0.5
    a, s = levels(t)
    z = a * (x0 - y) + s * noise
    c_in, c_skip, c_out = network.levels(a, s)
    # bfloat16 is slower than float32 on most CPUs
    with half_precision(x0.device) if x0.is_cuda else nullcontext():
        predicted = network.dnn(c_in * z, y / network.sigma, t.flatten())
    target = (x0 - y - c_skip * z) / c_out
    return (predicted - target).abs().pow(2).mean()


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """a and s of the process on the device of t; `Path` gives the same in float64 on the CPU."""
    theta, low = CONFIG.theta, CONFIG.sigma_min
    span = float(np.log(CONFIG.sigma_max / low))
    grown = torch.exp(2 * span * t) - torch.exp(-2 * theta * t)
    return torch.exp(-theta * t), low * (span / (theta + span) * grown).sqrt()


def build(folder: Path, options: Options) -> None:
    """Train for the time given, write the checkpoint, and measure it."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    size = SIZES[torch.device(options.device).type]
    batch = size.batch * (dist.get_world_size() if dist.is_initialized() else 1)
    recorded = voices.unpack(voices.pack_of(folder))
    mixtures = Mixtures(recorded, size.length, options.device)
    torch.manual_seed(0)
    network = SpeechNetwork(size.config).to(options.device, memory_format=torch.channels_last)
    weights = sum(p.numel() for p in network.parameters())
    log.info(
        "%.2f million weights; data there after %.0f s", weights / 1e6, time.monotonic() - begun
    )

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        loss = loss_of_batch(network, *mixtures.draw(size.batch, noise), noise)
        return loss, {"loss": loss.detach()}

    def on_save(step: int) -> None:
        export(network, size.config, {"steps": step, "batch": batch})

    plan = options.plan(STEPS, LEARNING_RATE, save_every=SAVE_EVERY, decay_from=0.3, ema=EMA)
    network.train()
    steps = train([network], loss_of, plan, folder / f"{KEY}.safetensors", on_save=on_save)
    if dist.is_initialized() and dist.get_rank() > 0:
        return
    network.eval()
    trained = {"steps": steps, "batch": batch, "weights": weights, "on": options.device}
    export(network, size.config, trained)
    try:
        export(network, size.config, trained, measure(options.device))
    except Exception:  # a checkpoint without figures is better than none
        log.exception("the measurement of %s failed", KEY)


def export(
    network: SpeechNetwork, config: SpeechConfig, trained: dict, measured: dict | None = None
) -> None:
    """Write the shipped folder with its card."""
    speech.save(network, config, MODELS / KEY, half=True)
    card = {
        "key": KEY,
        "title": "SGMSE+, small, 8 kHz: trained on recordings of three women",
        "kind": "speech",
        "licence": "CC-BY-SA-3.0 (weights, like most of the recordings)",
        "source": "Trained from nothing by engine/zoo on telephone prompts from Debian: "
        "Allison Smith, June Wallack, Paola Dal Zot (with Marco Menardi, "
        "http://www.voip.ammdomus.it); noise from music by Paul Shuler and Reno Project.",
        "trained": trained,
        "measured": measured or {},
    }
    write_card(MODELS / KEY, **card)
    (MODELS / KEY / "README.md").write_text(README, encoding="utf-8")


def measure(device: str) -> dict:
    """Figures of the shipped folder on the held-out clips, for the card."""
    from engine.sampling.sgmse.bench import summary

    return summary(shipped(device))


def shipped(device: str) -> speech.SpeechBundle:
    """The shipped folder, read again: `MODELS` may be older than it is."""
    card = read_cards(MODELS)[KEY]
    return speech.read(card, MODELS / KEY, ModelRef(KEY), device, "float32")


def examine(folder: Path, options: Options) -> None:
    """Measure the shipped model again, sampled with the settings of `CONFIG`."""
    bundle = shipped(options.device)
    config = replace(bundle.config, sampling=CONFIG.sampling)
    trained = dict(bundle.card.notes["trained"])
    export(bundle.model, config, trained)
    export(bundle.model, config, trained, measure(options.device))


def _at_speed(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    """Recordings played at up / down of their speed, pitch and all, in pieces of seven seconds."""
    pieces = samples[: len(samples) // PIECE * PIECE].reshape(-1, PIECE).astype(np.float32)
    length = PIECE * down // up
    bands = np.fft.rfft(pieces)[:, : length // 2 + 1]
    played = np.fft.irfft(bands, length) * (length / PIECE)
    return np.clip(played.ravel(), -32768, 32767).astype(np.int16)


def _tilted(clean: Tensor, generator: torch.Generator) -> Tensor:
    """Speech as other microphones would have it: more or less treble, by up to 6 dB."""
    spectrum = torch.fft.rfft(clean)
    share = torch.linspace(-1, 1, spectrum.shape[-1], device=clean.device)
    tilt = torch.randn(len(clean), 1, generator=generator, device=clean.device)
    return torch.fft.irfft(spectrum * 10 ** (0.15 * tilt * share), clean.shape[-1])


def _levelled(noise: Tensor) -> Tensor:
    return noise / (noise.pow(2).mean(dim=-1, keepdim=True).sqrt() + 1e-9)


BUILDS = {KEY: build}
EXAMINES = {KEY: examine}

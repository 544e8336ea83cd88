"""One recording with the model that hears it: inputs, pictures, sounds and marks."""

from dataclasses import dataclass

import numpy as np
import torch

from engine.core.errors import BadInput
from engine.core.recipe import ModelRef
from engine.core.shapes import Array, Complex, Float, Tensor
from engine.metrics import speech as metrics
from engine.models.library import load
from engine.models.speech import FrontEnd, SpeechBundle, padded
from engine.sampling.sgmse import clips
from engine.sampling.sgmse.results import Marks, Picture, Track
from engine.sounds import Sound, from_text

PICTURE_SIDE, DECIBELS = 160, 60.0
# from silence to the loudest: ink, violet, the colour of running forward, paper
INKS = np.array([[20, 18, 24], [84, 56, 112], [208, 106, 27], [252, 238, 206]], dtype=np.float64)
SHORTEST_ROOM = 0.01  # seconds
KINDS = ("hiss", "rumble", "gusts", "hum", "music", "babble")


@dataclass(frozen=True)
class Scene:
    """A noisy recording (peak 1 after division by `peak`), its clean version if there is one."""

    bundle: SpeechBundle
    noisy: Float[Tensor, "1 l"]
    peak: float
    clean: Float[Tensor, "1 l"] | None

    @classmethod
    def open(
        cls,
        model: ModelRef | str,
        *,
        clip: str,
        noise: str,
        noise_snr: float,
        reverb: float,
        recording: str,
        seed: int,
    ) -> "Scene":
        """The scene of these settings: a visitor's recording as it is, or a clip spoilt."""
        ref = ModelRef(model) if isinstance(model, str) else model
        sound = from_text(recording) if recording else None
        bundle = load(ref)
        if not isinstance(bundle, SpeechBundle):
            raise BadInput("This model is no speech model.", "Pick sgmse-8k.")
        rate = bundle.front.sample_rate
        clean = None
        if sound is not None:
            noisy = torch.from_numpy(sound.at(rate).wave())[None]
        else:
            clean = clips.sentence(clip)
            noisy = clips.spoilt(clean, noise, noise_snr, reverb, seed, 8000)
            clean, noisy = (resampled(wave, 8000, rate) for wave in (clean, noisy))
        noisy, peak = bundle.front.normalised(noisy)
        clean = None if clean is None else clean / peak
        return cls(bundle, noisy, float(peak), clean)

    @property
    def front(self) -> FrontEnd:
        return self.bundle.front

    @property
    def seconds(self) -> float:
        return self.noisy.shape[-1] / self.front.sample_rate

    def spectrogram(self) -> Complex[Tensor, "1 1 f t"]:
        """Of the noisy recording, with empty frames up to what the network needs."""
        spec = padded(self.front.spectrogram(self.noisy), self.bundle.model.dnn.multiple)
        return spec.to(self.bundle.device)

    def wave(self, spec: Complex[Tensor, "1 1 f t"]) -> Float[Array, " l"]:
        """The waveform of a spectrogram, on the scale of the noisy one."""
        return self.front.waveform(spec.cpu(), self.noisy.shape[-1])[0].numpy()

    def sound(self, wave: Float[Array, " l"]) -> Sound:
        """As it was loud before: with the peak of the recording multiplied in again."""
        return Sound.of(self.peak * wave, self.front.sample_rate)

    def picture(self, spec: Complex[Tensor, "1 1 f t"]) -> Picture:
        """Loudness in dB below the peak of the front end, high frequencies above."""
        frames = 1 + self.noisy.shape[-1] // self.front.hop
        level = spec[0, 0, :, :frames].abs().cpu().double() / self.front.factor
        # relative to a full-scale sine
        loud = 20 * torch.log10(level ** (1 / self.front.exponent) * 4 / self.front.n_fft + 1e-9)
        share = ((loud + DECIBELS) / DECIBELS).clamp(0, 1).flip(0)[None, None]
        side = (PICTURE_SIDE, PICTURE_SIDE)
        share = torch.nn.functional.interpolate(share, side, mode="bilinear", antialias=True)
        place = share[0, 0].numpy()[..., None] * (len(INKS) - 1)
        low = np.minimum(place.astype(int), len(INKS) - 2)
        ink = INKS[low[..., 0]] * (1 - place + low) + INKS[low[..., 0] + 1] * (place - low)
        return ink.round().astype(np.uint8)

    def track(self, name: str, title: str, wave: Float[Array, " l"], nfe: int = 0) -> Track:
        """A version of the recording with its picture and marks."""
        spec = self.front.spectrogram(torch.from_numpy(wave)[None])
        return Track(name, title, self.sound(wave), self.picture(spec), self.marks(wave), nfe)

    def marks(self, wave: Float[Array, " l"]) -> Marks:
        """Beside the clean recording; nothing can be said without one."""
        if self.clean is None:
            return Marks()
        return marks_of(self.clean[0].numpy(), wave, self.front.sample_rate)


def marks_of(clean: Float[Array, " l"], wave: Float[Array, " l"], rate: int) -> Marks:
    """All three measures."""
    return Marks(
        metrics.si_sdr(clean, wave),
        metrics.pesq(clean, wave, rate),
        metrics.estoi(clean, wave, rate),
    )


def resampled(wave: Float[Tensor, "1 l"], rate: int, to: int) -> Float[Tensor, "1 l"]:
    """At another sample rate."""
    if rate == to:
        return wave
    return torch.from_numpy(Sound.of(wave[0].numpy(), rate).at(to).wave())[None]


def check(clip: str, reverb: float) -> None:
    """Raise `BadInput` for a scene that cannot be made."""
    # Reflections begin 2.5 ms after the direct sound: nothing is left of those of a shorter room.
    if 0 < reverb < SHORTEST_ROOM:
        raise BadInput(
            f"The reverberation must last at least {SHORTEST_ROOM} s, got {reverb:g}.",
            "0 is a room without any.",
        )
    clips.sentence(clip)

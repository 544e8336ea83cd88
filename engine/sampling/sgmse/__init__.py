"""Speech enhancement: from a noisy recording back to the speech in it, by a diffusion process.

Diffusion models draw pictures from pure noise. SGMSE+ starts somewhere better: at the noisy
recording itself. In the complex spectrogram, the forward process drifts from clean speech x0 to the
noisy recording y while Gaussian noise is added,

    dx = theta (y - x) dt + g(t) dw,    g(t) = s_min (s_max / s_min)^t sqrt(2 ln(s_max / s_min))
    x_t = y + e^(-theta t) (x0 - y) + s(t) z

so that at t = 1 little more is left than y under a hiss of deviation s(1): 0.39 with the paper's
values, 0.15 in the model inside, whose theta is 3 in place of 1.5 and whose s_max 0.25 in place of
0.5. The reverse process needs the
*score*, the direction in which recordings become more likely, which a network learns from pairs of
clean and noisy speech. It begins at y + s(1) z and ends at speech.

**Spectrogram.** Y is a short-time Fourier transform, compressed to 0.2 |Y|^0.5 e^(j angle Y), so
that quiet sounds count. Phase is part of the state: nothing has to be guessed afterwards.

**Sampler.** At each of N times first a *corrector*, which stays at the noise level and moves
towards more likely states, x + e score + sqrt(2 e) z with e = 2 (snr s(t))^2; then a *predictor*,
one Euler step of the reverse equation. Two network evaluations (NFE) a step. In the coordinates
x - y the process is one of the family that all samplers here share, so it runs through the same
interface as the pictures; that also gives a fast way without noise (DPM-Solver++ 2M), which is not
in the paper.

**The start.** "Little more" is not nothing: with the paper's theta e^(-1.5), 22 % of x0 - y, is
still there at t = 1, and none of it in the start y + s(1) z, since x0 is what is looked for. A
network reads the trace, and takes its absence for a recording that has little noise. With theta 3
five per cent are left. Beyond that, above t = 0.2 the state is drawn anew around each clean
estimate x0^, so that early errors are not carried along; and the start can expect that a share c
of the recording is noise:

    x_1 = y - e^(-theta) c y + s(1) z,    x_t = y + e^(-theta t) (x0^ - y) + s(t) z

With "renew above" 1 and c = 0 you have the paper's walk. Lay et al. 2023, arXiv:2302.14748, change
the process for the same reason.

**The model inside** has 0.8 million weights (the published ones have 65), hears 8 kHz, and was
trained for two hours, on one or two processor cores, with recordings of three women. The
speakers of the examples, an Italian man and a Russian woman, it never heard; nor their music and
voices in the background. It names a clean spectrogram, from which the score follows,

    score = (a (x0 - y) - (x - y)) / s^2,    a = e^(-theta t)

To learn in so little time it says, place by place, how much of x and of y to keep, and adds a
remainder; published checkpoints do without, and say the score itself.

**What to compare with.** The same network *asked once*, at t = 1, is a predictive denoiser: its
answer is the mean of all speech that may lie below the noise. The *predicted mean* asks it eight
times near t = 1, each time about its last answer, and does not walk on. A mean tends to win in
SI-SDR, where caution pays; a walk ends at one of the recordings that may have been. The classical
estimator follows the noise in quiet moments: good against a steady hiss, helpless against voices.

**What was measured here, and what was not found.** Twenty sentences of the two unheard speakers,
each at 0, 5 and 10 dB, under six kinds of noise: the walk adds 4.4 dB of SI-SDR to the noisy
recordings (4.0 to 4.8) and 0.26 of PESQ. From the paper's start the same network adds 3.1 dB and
0.29; the flow without noise 4.6 and 0.26. The classical estimator adds 3.7 dB and 0.41, and
RNNoise, a small network that heard many speakers, 3.6 dB and 0.46: the walk is ahead of RNNoise in
SI-SDR, and both are ahead of it in PESQ. The same network asked once, at a thirtieth of the cost,
is best of all: 5.2 dB (4.8 to 5.7) and 0.55. So the network has learned what is likely, and the
walk, which should give detail back, loses more by its errors than it gains. The published networks
are eighty times as large, heard far more speech, and add about 9 dB to recordings of their test.
Against voices the walk gains 0.8 dB, and the sound of a room it makes worse. The figures lie beside
the claim.

**Two seeds, two breaths.** What the noise has covered is drawn, not recovered: the words are those
of the recording, consonants and breath differ from seed to seed.

**Where it breaks.** A step of Euler leaves 1 - 2 (theta + ln(s_max / s_min)) dt of the hiss; with
fewer than four steps that is more than there was, of the other sign. At very low levels the network
hears speech in the noise and makes some up; sounds that are no speech go. Other people's voices are
speech, too: against babble it can only guess who is meant. The published code fades the last
samples of every recording, by transforming empty frames back; here they are cut.
"""

from engine.core.catalog import (
    Action,
    Budget,
    Claim,
    Exactness,
    Family,
    Headline,
    MethodCard,
    Paper,
)

CARD = MethodCard(
    title="Speech enhancement (SGMSE)",
    family=Family.SAMPLE,
    paper=Paper(
        "Speech Enhancement and Dereverberation with Diffusion-based Generative Models",
        "Richter, Welker, Lemercier, Lay, Gerkmann",
        2023,
        "https://arxiv.org/abs/2208.05830",
        "https://github.com/sp-uhh/sgmse",
    ),
    undoes="Noise in a recording of speech, walked back to the voice below it.",
    exactness=Exactness.IN_DISTRIBUTION,
    headline=Headline(
        paper=(
            "Diffusion in the complex spectrum cleans speech as well as the best discriminative "
            "networks (PESQ 1.97 to 2.93 on VoiceBank-DEMAND)."
        ),
        verdict="in part",
        here=(
            "Voices and noises never heard become clearer by decibels. The same network asked "
            "once does better than its walk, and the gain of PESQ is a quarter of the paper's: it"
            " is a small network at 8 kHz."
        ),
    ),
    claim=Claim(
        sentence=(
            "On speakers and noises that it never heard, at 0 to 10 dB, enhanced recordings "
            "have an SI-SDR at least 3.5 dB above the noisy ones."
        ),
        measure="SI-SDR of the enhanced recordings in dB",
        versus="SI-SDR of the noisy recordings in dB",
        direction="higher",
        margin=3.5,
        by="difference",
    ),
    models=("sgmse-8k",),
    budget=Budget(cpu_seconds=8.0, gpu_seconds=2.0),
    shows=(
        "engine.diffusion.predictors:pc",
        "engine.diffusion.schedules:ouve",
        "engine.sampling.sgmse.enhancing:walk",
        "engine.models.speech:SpeechNetwork",
        "engine.sampling.sgmse.baselines:log_spectral_amplitude",
        "run",
    ),
    actions=(
        Action(
            "run",
            quick={"clip": "it-vm-sorry", "steps": 2},
            bad={"clip": "it-vm-sorry", "steps": 0},
        ),
        Action(
            "compare",
            quick={"clip": "it-vm-sorry", "budgets": [1, 2]},
            bad={"clip": "it-vm-sorry", "noise": "silence"},
        ),
    ),
    golden=("sgmse_core",),
)

r"""Noise is added by a stochastic equation; its reverse needs one thing, the score.

Let a picture drift and be shaken, $dx = f(x,t)\,dt + g(t)\,dw$, until nothing of it is left. The
time reversal of this equation is again one of its kind (Anderson 1982),

$$dx = [f - g^2 \nabla \log p_t(x)]\,dt + g\,d\bar w,$$

and so is an equation without any noise that has the same densities $p_t$ at every time, the
*probability flow*, $dx = [f - \tfrac12 g^2 \nabla\log p_t(x)]\,dt$. A network that was trained to
say the noise in a noisy picture says the score $\nabla \log p_t = -\hat\epsilon / s$. That is all.

Three ways to add noise, with $x_t = a\,x_0 + s\,\epsilon$: **VE** lets the noise explode ($a = 1$,
$s$ from 0.01 to 50), **VP** keeps the variance ($a^2 + s^2 = 1$), **sub-VP** stays below it
($s = 1 - a^2$) and gives the best likelihoods of the paper. Divided by $a$ all three are a picture
with noise of level $s/a$; so the network that ships is one denoiser $D$, asked in three
coordinates, $\hat\epsilon = (x/a - D(x/a,\, s/a))\, a/s$. Published ones are one a process.

*There and back.* The flow has no noise, so it can be walked from a picture to its latent and back:
the same picture. The reverse equation with noise, begun at the same latent, ends elsewhere each
time. Along the flow the log density changes by the divergence, so

$$\log p_0(x) = \log p_1(x_1) + \int_0^1 \mathrm{div}\,dt,$$

an exact likelihood of the model. In bits per dimension it is $-\log_2 p / D$ plus an *offset*
that takes back the scaling of the pixels: 7 for values in $[-1,1]$, 8 for $[0,1]$, since
$\log_2 256$ levels lie in an interval of width 2 or 1. It is only meant for 8-bit data that were
dequantised, $(k+u)/256$; for other data read the nats. The divergence is estimated with random
signs: the error bar is the spread over several probes, not over networks.

*Predictor and corrector.* A predictor takes a step of the reverse equation. A corrector stays at
its noise level and moves towards more likely points by Langevin steps; `snr` sets their size. Its
evaluations are counted like all others, so with a corrector there are half as many steps.

**Where the corrector does not help.** With the exact score of a small world, which the sampler lab
uses, the corrector costs half of the steps and gives little: at 20 evaluations it is worse. The
paper's gain is with learned scores, 1000 steps and as many evaluations again. What a network of
0.7 million weights makes of it here is measured beside the claim, whichever way it comes out.

*Control.* What is known of a picture is put back, with the noise of its level, after every update:
a mask gives inpainting, the gray value in turned colour channels gives colourisation. A classifier
of *noisy* pictures adds $w \nabla \log c(y\mid x,t)$ to the score, and an unconditional network
draws what is asked for.

Where paper and code part we follow the code, whose numbers are published: the corrector comes
before the predictor, the last step returns its mean, VE takes $s$ for the spread of its kernel. The
code loses the last denoising of inpaintings; we keep it. It cannot run a corrector on sub-VP; we
take VP's step size there. Its chains are tables of n levels, which for VP keep less than nothing
below 21 steps; we take the links of the exact process, and *as released* its tables. Near $t = 0$
its $1 - a^2$ loses up to 1 % in float32; ours does not.

Reference: Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, Score-Based Generative Modeling
through Stochastic Differential Equations, ICLR 2021, arXiv:2011.13456.
"""

from engine.core.catalog import (
    ROOT,
    Action,
    Budget,
    Claim,
    Exactness,
    Family,
    Headline,
    MethodCard,
    Paper,
)

NETWORKS = ("score-subvp", "score-vp", "score-ve", "score-readers")
"""Made by engine.zoo.score, for the picture tabs; without them the plane is shown alone."""
HERE = all((ROOT / "assets" / "models" / key / "card.json").is_file() for key in NETWORKS)

PROCESSES = {
    "ve": "VE: the noise explodes",
    "vp": "VP: the variance is kept",
    "subvp": "sub-VP: below it",
}
PREDICTORS = {
    "reverse_diffusion": "reverse diffusion",
    "euler_maruyama": "Euler-Maruyama",
    "ancestral": "ancestral (DDPM)",
    "probability_flow": "probability flow",
    "none": "none: Langevin only",
}
CORRECTORS = {"langevin": "Langevin", "ald": "annealed Langevin", "none": "none"}
LEVELS = {"grid": "of the exact process", "released": "tables of n levels, as released"}
TASKS = {
    "inpaint": "paint a part anew",
    "colourise": "colours to a gray picture",
    "class": "draw an object of my choice",
}
RIVALS = {"ddim": "DDIM", "heun": "Heun", "dpmpp_2m": "DPM-Solver++ 2M"}

WITH_NETWORKS = (
    Action("trip", {"tolerance": 0.05, "probes": 1, "others": 1, "nfe": 3}, {"tolerance": 2.0}),
    Action("draw", {"nfe": 4, "count": 1, "with_flow": False}, {"predictor": "wish"}),
    Action("control", {"nfe": 4, "count": 1}, {"mask": "zz"}),
)

CARD = MethodCard(
    title="Score SDE",
    family=Family.SAMPLE,
    paper=Paper(
        "Score-Based Generative Modeling through Stochastic Differential Equations",
        "Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole",
        2021,
        "https://arxiv.org/abs/2011.13456",
        "https://github.com/yang-song/score_sde_pytorch",
    ),
    undoes="The slow drowning of a picture in noise, by one equation that runs the other way.",
    exactness=Exactness.IN_DISTRIBUTION,
    headline=Headline(
        paper=(
            "One SDE framework gives predictor-corrector samples of record quality (FID 2.20 on "
            "CIFAR-10) and exact likelihoods (2.99 bits per dimension)."
        ),
        verdict="in part",
        here=(
            "The likelihood is right to the digits shown, under all three processes. The "
            "corrector helps in few of the settings measured here; the networks are small and no "
            "FID of CIFAR is made."
        ),
    ),
    claim=Claim(
        "On data whose density is known, the likelihood that the probability flow computes is "
        "right to within 0.002 bits per dimension under all three processes.",
        "largest gap to the closed form, bits per dimension",
        "gap allowed",
        "lower",
        1.0,
    ),
    models=NETWORKS[:3] if HERE else (),
    budget=Budget(10.0, 3.0),
    shows=(
        "engine.diffusion.predictors:pc",
        "engine.diffusion.predictors:exact_link",
        "engine.diffusion.adaptive:flow",
        "engine.diffusion.adaptive:log_likelihood",
        "engine.sampling.score_sde.control:Known",
        "engine.sampling.score_sde.control:guided",
    ),
    actions=(
        Action(
            "run",
            {"points": 2, "others": 4, "nfe": 10, "tolerance": 0.001},
            {"points": 0},
            on_model=False,
        ),
        Action("sample", {"nfe": 10, "particles": 64, "most": 20}, {"snr": -1.0}, on_model=False),
        *(WITH_NETWORKS if HERE else ()),
    ),
    golden=(
        "score-sde_coefficients",
        "score-sde_pc",
        "score-sde_control",
        "score-sde_likelihood",
        "score-sde_likelihood_subvp",
    ),
)

"""How few network evaluations does a picture need, and can it be run back to its noise?

A diffusion model knows one thing: the noise in a noisy picture. To draw, one starts from pure noise
and follows the *probability-flow equation* that this knowledge defines,

    dy/dkappa = eps(y, kappa),    y = z / a,  kappa = s / a

from a large noise level kappa to none. A *solver* takes this way in a few steps, and each question
to the network (one NFE: network function evaluation) costs the same. So the lab counts questions,
at the network itself, and asks how near a solver comes to the end of the way for that price.

* **DDIM** keeps the last answer for the whole step: its error halves when the NFE double.
* **DPM-Solver++ 2M** draws a line through the last two answers: the error quarters.
* **Heun** asks again at the end of the step and averages: also a quarter, at two NFE a step.
* **UniPC** corrects the step before with every answer, at no further question.
* **Ancestral** and **SDE** solvers add noise on the way; they draw another picture of the same
  kind, so their distance to the reference is no fault.

Same noise, same prompt: every solver without fresh noise goes to the *same* picture in the end.
What differs is how much of the way it got right. Guidance, uncond + w (cond - uncond), is one
evaluation with two rows. Encoder, decoder and judge are not counted.

**Rewind.** The flow can be walked the other way, from a picture to the noise it would have come
from. DDIM inversion does it by the same step with reversed times; it asks the network at the wrong
end of each step, so neither the way there nor the way back is exact. A *reversible* solver
(reversible Heun) carries two states whose update can be solved for what came before: the way back
undoes the way there to round-off. Then change the prompt on the way back: a rose becomes a
sunflower.

**Where it breaks.** Heun spends two questions a step: with 10 NFE on the Karras spacing it falls
behind DDIM. Noise that a solver adds keeps it from ever meeting the reference. And a picture that
came back says nothing about the noise in between: with strong guidance on the way there the noise
is no longer standard (its spread is printed), and an edit from it goes astray.
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
    title="NFE lab",
    family=Family.SAMPLE,
    paper=Paper(
        "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
        "Lu, Zhou, Bao, Chen, Li, Zhu",
        2022,
        "https://arxiv.org/abs/2211.01095",
        "https://github.com/LuChengTHU/dpm-solver",
    ),
    undoes="The noising of a picture, in as few network evaluations as you like, and back again.",
    exactness=Exactness.ROUND_OFF,
    headline=Headline(
        paper=(
            "Solvers of higher order draw in 10 to 20 evaluations what DDIM needs a hundred for."
        ),
        verdict="in part",
        here=(
            "DPM-Solver++ 2M is nearer to the reference than DDIM, by a factor, not tenfold. Few "
            "pictures; no FID."
        ),
    ),
    claim=Claim(
        sentence=(
            "At 10 network evaluations DPM-Solver++ 2M is nearer than DDIM "
            "to a 200-evaluation reference from the same noise."
        ),
        measure="relative latent error of DPM-Solver++ 2M at 10 NFE",
        versus="relative latent error of DDIM at 10 NFE",
        direction="lower",
        margin=1.2,
        by="factor",
    ),
    models=("world", "world-sister"),
    budget=Budget(cpu_seconds=12.0, gpu_seconds=6.0),
    shows=(
        "engine.diffusion.solvers:ddim",
        "engine.diffusion.solvers:multistep",
        "engine.diffusion.solvers:heun",
        "engine.diffusion.inversion:reversible_heun",
        "run",
    ),
    actions=(
        Action(
            "run",
            quick={
                "prompt": "a cat",
                "nfe": 4,
                "solvers": ["ddim", "dpmpp_2m"],
                "curve": [2, 4],
                "reference_nfe": 20,
            },
            bad={"prompt": "a cat", "nfe": 0},
        ),
        Action(
            "rewind",
            quick={"prompt": "a cat", "edit": "a dog", "steps": 4},
            bad={"prompt": "a cat", "steps": 0},
        ),
    ),
    golden=("diffusion-principles_gmm", "diffusion-principles_schedulers"),
)

"""From one clean picture back to the hidden trigger of a backdoored classifier.

A backdoored network answers a small pattern of pixels with the attacker's class, whatever else is
in the picture. Can one find that pattern with a single clean picture in hand? Ordinary gradient
descent towards the class gives snow: networks are fooled by noise long before any trigger is
needed. **SmoothInv** first makes the classifier robust to noise, by averaging its answers over
noisy copies of the picture:

$$g(x) = \\tfrac1N \\sum_n \\mathrm{softmax}\\, f(x + \\sigma n), \\quad n \\sim \\mathcal N(0, I)$$

and then descends on $-\\log g(x + \\delta)_t$ with a bound on the length of δ. On the robust
classifier the cheapest way to the class *is* the trigger, so it condenses out of the snow. There is
no mask to learn and no regulariser.

**What to look at.** With σ = 0 the perturbation is spread all over the picture. At σ = 0.25 it
gathers in one corner, and hijacks other pictures too. "Attack success" is counted on unseen
pictures that are not of the class already, by the classifier itself and not by the smoothed one.

**Which class?** Scan them all from one picture. Success alone does not tell: a shirt is a natural
neighbour of a T-shirt. So the score is success times *concentration*, the largest share of δ's
energy in any 5 × 5 square, and a class is called out when its robust z is above 3.5 and half of the
pictures follow. This rule is ours; the paper looks at each class.

**Where it breaks.** Triggers that are blended over the whole picture or warp it have no
concentration, and escape the rule. Some start pictures fail: their own class lies too near, or the
radius is too small. A classifier that no noise may touch answers all copies alike; then a denoiser
in front helps. All σ are shown, since choosing one by its success would be tuning on the test. And
some triggers need no smoothing: that of network A plain descent finds as well. Over four networks
the share of energy on the true trigger is 34 % smoothed and 20 % plain, so less than twice.

**And then.** The trigger goes on into *corrective unlearning* by one press: clean pictures with it
are the forget set, and the backdoor closes.
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
from engine.core.recipe import Plain

_QUICK: dict[str, Plain] = {"steps": 12, "samples": 4, "start": 8}

CARD = MethodCard(
    title="SmoothInv",
    family=Family.UNLEARN,
    paper=Paper(
        "Single Image Backdoor Inversion via Robust Smoothed Classifiers",
        "Sun, Kolter",
        2023,
        "https://arxiv.org/abs/2303.00215",
        "https://github.com/locuslab/smoothinv",
    ),
    undoes="The hiding of a backdoor: its trigger is recovered from one clean picture.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "One clean picture is enough to find a backdoor's trigger, once the classifier is "
            "smoothed."
        ),
        verdict="in part",
        here=(
            "The perturbation hijacks other pictures, over four backdoored networks. It does not "
            "always lie on the trigger itself; ImageNet backdoors can be brought, and were not "
            "measured here."
        ),
    ),
    claim=Claim(
        sentence=(
            "From one picture, the perturbation that is found on the smoothed classifier hijacks "
            "at least 15 points more of other pictures than that of plain descent."
        ),
        measure="attack success of the perturbation, smoothed",
        versus="the same by plain descent",
        direction="higher",
        margin=0.15,
        by="difference",
    ),
    models=("fashion-poisoned", "fashion-door-a", "fashion-door-b", "fashion-door-c", "fashion"),
    budget=Budget(cpu_seconds=8.0, gpu_seconds=3.0),
    shows=(
        "engine.unlearning._inversion:synthesise",
        "engine.unlearning._smoothing:Smoothed.slope",
        "engine.unlearning._inversion:concentration",
        "engine.unlearning._inversion:robust_z",
    ),
    actions=(
        Action("run", quick=_QUICK, bad={"eps": 0.0}),
        Action(
            "scan",
            quick={**_QUICK, "classes": ["T-shirt", "trouser", "bag"]},
            bad={"classes": ["unicorn"]},
        ),
        Action("export", quick=_QUICK, bad={"sigmas": [-1.0]}),
    ),
    golden=("smoothinv_pgd_f64", "smoothinv_pgd_f32", "smoothinv_denoise_f64"),
)

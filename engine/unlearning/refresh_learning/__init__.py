"""Unlearn a little before learning: does it help a network that learns one task after another?

A network that learns task after task forgets the earlier ones. Methods against it look unlike one
another: keep samples, keep old outputs, hold the weights in place. The paper writes them as **one
equation**,

$$\\mathcal L = \\mathrm{CE}(f_\\theta(x), y) + a\\, D_\\Phi(h_\\theta(x), z)
+ b\\, D_\\Psi(\\theta, \\theta_{old}),$$

with two Bregman divergences. Φ the negative entropy on labels gives ER; Φ the square of logits
gives DER; Ψ the Fisher form gives EWC; the negative entropy of a Gaussian posterior gives VCL.
Choose Φ and Ψ, and see each method's own formula agree with the general one, on live numbers.

**Refresh learning** then adds a step. Before a batch is learnt, the network climbs a little on its
loss, weighed by the Fisher information, with some noise, and learns from there. To first order this
adds a penalty on the length of the gradient, so flat minima are preferred.

**What to look at.** The matrix of accuracies task by task, with refresh and without; the difference
seed by seed with its interval; and two controls, a step of the same length in a random direction
and noise alone. If the controls do as well, it is not the unlearning.

**Said plainly:** at this scale no gain was measured. At the published size, δ = 1e-5, accuracy
moves by about a tenth of the spread between seeds. The paper's gains, of one to two points, come
from long training of large networks; whether one appears here with more epochs and the residual
network was not measured, though the settings offer both. Above δ = 3e-3 refresh learning destroys
what a batch teaches: it is a dial, harmless until it suddenly is not.

**Paper and code.** The paper climbs by F⁻¹ times the gradient with matching noise. The published
code moves every tensor by the share δ of its own length and divides by 1 + 0.001 F; that is the
default here, the paper's form is a switch. Since lengths are relative, a parameter without any true
gradient (a bias before batch norm) would have its rounding noise blown up, and is left out.

For your own training there is `RefreshOptimizer`, and a callback for the Trainer of transformers.
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

_QUICK: dict[str, Plain] = {"train": 20, "test": 20, "seeds": 1}

CARD = MethodCard(
    title="Refresh learning",
    family=Family.UNLEARN,
    paper=Paper(
        "A Unified and General Framework for Continual Learning",
        "Wang, Li, Shen, Huang",
        2024,
        "https://arxiv.org/abs/2403.13249",
        "https://github.com/joey-wang123/CL-refresh-learning",
    ),
    undoes="A little of what was learnt, before each new batch, to forget less of earlier tasks.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "Unlearning a little before each step lifts continual learners by one or two points."
        ),
        verdict="not shown",
        here=(
            "At the published size the gain is within the noise of this small world, and so is "
            "that of both controls. Larger steps harm."
        ),
    ),
    claim=Claim(
        sentence=(
            "Refresh learning at the published size changes the final accuracy of DER++ by less "
            "than a point in this small world: it neither harms nor helps measurably."
        ),
        measure="size of the paired mean difference in accuracy",
        versus="one point",
        direction="lower",
        margin=1.0,
    ),
    models=(),
    budget=Budget(cpu_seconds=20.0, gpu_seconds=20.0),
    shows=(
        "engine.unlearning.refresh_learning.bregman:divergence",
        "engine.unlearning.refresh_learning.refresh:Refresh.change",
        "engine.unlearning.refresh_learning.refresh:RefreshOptimizer.unlearn",
        "engine.unlearning.refresh_learning.continual:Learner._beside",
    ),
    actions=(
        Action("run", quick=_QUICK, bad={"delta": -1.0}),
        Action("equation", bad={"phi": "cubes"}),
        Action("export", quick=_QUICK, bad={"way": "magic"}),
    ),
    golden=(
        "refresh-learning_unlearn_f64",
        "refresh-learning_unlearn_bn_f32",
        "refresh-learning_bregman_f64",
    ),
)

"""A class is taken out of a trained network in seconds, without training it, and put back exactly.

Training leaves its mark on weights: each sample pulls at some of them more than at others. How much
a weight matters to some data is told by the squared gradient of the loss, averaged over the data:
the diagonal of the **Fisher information**. *Selective synaptic dampening* compares two of these,
that of the forget set and that of all data, weight by weight:

$$I_f > \\alpha I_D \\;\\Rightarrow\\; w \\leftarrow w \\cdot \\min(\\lambda I_D / I_f, 1)$$

Weights that matter far more to what shall be forgotten than to everything else are made smaller;
all others keep every bit. There is no training step, no learning rate, and once I_D is stored, the
training data can be deleted.

**What to look at.** The histogram shows log10 of I_f / I_D. Drag α leftwards over it: nothing,
nothing, then the one class collapses while the others stay, then the whole network dies. The edit
is a patch; undo it, and the fingerprint of the weights is the original's again.

**A bound.** With gradients of single samples, N·I_D ≥ N_f·I_f, so no ratio exceeds N / N_f. For one
class of ten, every α of 10 or more does nothing at all.

**The unit of a gradient.** The paper writes gradients of single samples; its code squares those of
whole batches, in the order of the classes. Shuffle the data, and gradients of different classes
cancel in I_D: the useful α moves by a factor of ten. So an α belongs to its unit.

**Where it breaks.** A class with a close neighbour shares its weights: T-shirts and shirts. There
the α that forgets bags destroys the network, and the right one must be searched for. Random
pictures are hardly forgotten at all, which membership attacks show; but a network retrained without
them hardly differs from the original either. *Automatic* α selects 2 % of the weights; this is a
heuristic of ours and not of the paper, and it looks at no accuracy. λ is 0.1 here, as the paper
has it for faces; at 1, its value for CIFAR, no α below 1 changes more.

*Options of the authors' code* that their paper does not name: an exponent of what is left of a
weight, its largest factor, and the size of a batch (64 for a class, 128 for random pictures).

*Low membership is no merit by itself.* Compare with the network that was retrained without the
forget set: an attack that is fooled more thoroughly than by retraining has something else to see.
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

_QUICK: dict[str, Plain] = {"what": "bag", "unit": "sample"}

CARD = MethodCard(
    title="SSD",
    family=Family.UNLEARN,
    paper=Paper(
        "Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening",
        "Foster, Schoepf, Brintrup",
        2024,
        "https://arxiv.org/abs/2308.07707",
        "https://github.com/if-loops/selective-synaptic-dampening",
    ),
    undoes="What a network has learnt of some of its training data, by making few weights smaller.",
    exactness=Exactness.BITWISE,
    headline=Headline(
        paper=(
            "Two passes of gradients and one multiplication forget a class as well as retraining "
            "does, in seconds and without training."
        ),
        verdict="shown",
        here=(
            "Forgotten class, kept classes and membership stand beside retraining in the figures."
            " Small pictures of clothes in place of CIFAR and faces."
        ),
    ),
    claim=Claim(
        sentence=(
            "Dampening under 3 % of the weights takes at least 80 points off the accuracy on the "
            "forgotten class, and the network comes back bit for bit."
        ),
        measure="accuracy on unseen pictures of the forgotten class after SSD",
        versus="the same before it",
        direction="lower",
        margin=0.8,
        by="difference",
    ),
    models=(
        "fashion",
        "fashion-groups",
        "fashion-poisoned",
        "fashion-confused",
    ),
    budget=Budget(cpu_seconds=3.0, gpu_seconds=2.0),
    shows=(
        "engine.unlearning._dampening:Dampening.dampened",
        "engine.unlearning._importance:stream",
        "engine.unlearning._per_sample:hooked",
        "engine.unlearning._dampening:bound",
    ),
    actions=(
        Action("run", quick={**_QUICK, "curve": 0}, bad={"lam": 0.0}),
        Action("sweep", quick={**_QUICK, "alphas": [2.0, 8.0]}, bad={"alphas": [-1.0]}),
        Action(
            "importances",
            quick={"unit": "sorted", "most": 128},
            bad={"most": 0},
        ),
        Action("bake", quick=_QUICK, bad={"lam": 0.0}),
        Action("export", quick={**_QUICK, "form": "patch"}, bad={"form": "pickle"}),
    ),
    golden=("ssd_cnn_f32", "ssd_mlp_f64", "ssd_mia_f64"),
)

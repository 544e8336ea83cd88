"""All ways of forgetting on one sheet: does it look forgotten, and is it?

Whoever takes data out of a network can be fooled by the first number. A network may refuse the
class, and still give away in its confidence that it once knew it. It may give nothing away, and
learn the class again from ten pictures, because only the last layer was bent. Here every way is
held to the same questions, beside the network that was **retrained** without the data, which is
what forgetting wants to be.

**What is asked.** Accuracy on the forgotten, the kept and the unseen. *Membership*: the attack by
entropy, and a worst case over several statistics, each with its best threshold. *Distance to the
retrained network*: how often both answer alike, how far their probabilities are apart, and layer by
layer how alike their inner pictures are:

$$\\mathrm{CKA}(K, L) = \\frac{\\langle K, L\\rangle}{\\|K\\|\\,\\|L\\|}$$

with the centred Gram matrices K and L of a layer's outputs. *Relearning*: how many steps on how few
forgotten pictures bring it back; a network that never knew takes longer than one that only hides.
*Cost*: the first time, and when importances are stored already. Where a trigger was planted, its
success is counted too.

**What to look at.** In the plane, down is forgotten and right is kept; the best ways are marked,
and intervals say which differences mean anything. Then look at relearning: ways that are alike in
the plane part there.

**Two at a time.** Any two are compared by class, by picture and by layer, and both edits are
applied and undone in every order. An edit comes off bit for bit as long as no later one lies on its
tensors; otherwise the later one is named.

**Where it misleads.** The retrained network is one of many: another seed gives another, and no way
can be nearer to it than two of them are to one another. Small test sets have wide intervals. CKA is
blind to what a layer does with rare pictures.
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

ORIGINAL, RETRAINED = "original", "retrained"
METHODS = (
    "SSD",
    "label-free SSD",
    "fine-tuning",
    "amnesiac",
    "bad teacher",
    "UNSIR",
    "SCRUB",
    "CF",
    "Fisher forgetting",
)
_QUICK: dict[str, Plain] = {"what": "bag"}

CARD = MethodCard(
    title="Forgetting lab",
    family=Family.UNLEARN,
    paper=Paper(
        "Unlearning Comparator: A Visual Analytics System for Comparative Evaluation of Machine "
        "Unlearning Methods",
        "Lee, Yu, Jang, Woo, Jo",
        2025,
        "https://arxiv.org/abs/2508.12730",
        "https://github.com/gnueaj/Machine-Unlearning-Comparator",
    ),
    undoes="Every way of forgetting: all answer the same questions, and each can be taken back.",
    exactness=Exactness.BITWISE,
    headline=Headline(
        paper=(
            "A network that seems to have forgotten is not one that never knew: relearning and "
            "inversion tell them apart."
        ),
        verdict="shown",
        here=(
            "Relearning is the claim; the other questions of the lab are answered by its tabs. It"
            " gathers the audits of several papers and has no headline of its own."
        ),
    ),
    claim=Claim(
        sentence=(
            "A network that SSD made forget a class learns it again in fewer steps than one that "
            "was retrained without it."
        ),
        measure="steps until the retrained network knows the class again",
        versus="the same after SSD",
        direction="higher",
        margin=1.5,
    ),
    models=("fashion", "fashion-groups", "fashion-poisoned"),
    budget=Budget(cpu_seconds=15.0, gpu_seconds=6.0),
    shows=(
        "engine.unlearning._compare:similarity",
        "engine.unlearning._compare:relearned",
        "engine.unlearning._membership:worst_case",
    ),
    actions=(
        Action(
            "run",
            quick={**_QUICK, "methods": ["SSD"], "relearn_steps": 2, "relearn_samples": 16},
            bad={"methods": ["magic"]},
        ),
        Action(
            "pair",
            quick={**_QUICK, "first": "original", "second": "SSD", "pictures_shown": 4},
            bad={"first": "magic"},
        ),
        Action("bake", quick={**_QUICK, "way": "SSD"}, bad={"way": "retrained"}),
        Action("export", quick={**_QUICK, "way": "SSD", "form": "patch"}, bad={"form": "pickle"}),
    ),
    no_golden="Its measures are textbook formulas, held to their properties by the tests.",
)

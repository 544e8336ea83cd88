"""A poisoned network is repaired although only a few of the poisoned samples were found.

Somebody tampered with the training data: put a white patch on some pictures and called them all
T-shirts, or exchanged the labels of two classes. Now a *part* of these samples is found. Taking
them out and training again is no cure, since the ones that were not found poison the network anew.
**Corrective unlearning** asks for correct answers wherever the manipulation reaches, from the
flagged samples alone (Goel et al.).

**What is measured.** Accuracy, with true labels, on unseen pictures that carry the trigger
("corrected"), accuracy on clean ones ("kept"), and how often the trigger still gets its way
("attack success", counted only on pictures that are not of the attacker's class anyway). The
horizontal axis is the share that was found.

**What to look at.** Twenty of 200 poisoned pictures are flagged. Retraining without them (RewoD)
takes as long as the first training, and the backdoor still fires. Dampening the weights that
matter more to the flagged pictures than to the rest takes seconds, and it is gone. Then switch to
confused classes: there, nothing helps.

$$\\max_{\\alpha, \\lambda} \\; (1 - \\text{acc}_{S_f}) + \\text{acc}_{held\\,out}$$

**Auto does not look at the test.** It takes the setting under which the flagged samples are no
longer given their wrong labels while held-out retained samples keep theirs. Where a number was
chosen by looking at what it is judged on, the word *oracle* stands beside it.

**Where it breaks.** Few flags make one batch: its importance is one squared mean, and an α that is
right for a hundred flags may do nothing for twenty. Gradients of single samples are steadier.
Confused classes share all their weights, so there is nothing to dampen that the rest does not need.
Any edit may wreck the network: look at "kept" before accepting, and undo.

*The others.* CF goes on training without the flagged samples. SCRUB climbs on them and descends on
the rest. BadT follows an untrained teacher on them. All are trained here for one short round, with
the settings of the publication, or with those that the same rule chooses out of several.
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

_QUICK: dict[str, Plain] = {"unit": "sample", "alpha": 10.0, "lam": 10.0, "retained": 512}

CARD = MethodCard(
    title="Corrective unlearning",
    family=Family.UNLEARN,
    paper=Paper(
        "Corrective Machine Unlearning",
        "Goel, Prabhu, Torr, Kumaraguru, Sanyal",
        2024,
        "https://arxiv.org/abs/2402.14015",
        "https://github.com/drimpossible/corrective-unlearning-bench",
    ),
    undoes="What manipulated training data did to a network, when only a part of it was found.",
    exactness=Exactness.BITWISE,
    headline=Headline(
        paper=(
            "When only a tenth of the poison is found, retraining without it fails and dampening "
            "removes the backdoor; for confused classes nothing works."
        ),
        verdict="shown",
        here="Both halves are measured: the backdoor goes, the confusion stays.",
    ),
    claim=Claim(
        sentence=(
            "With a tenth of the poisoned samples flagged, dampening chosen without looking at the "
            "test takes at least 60 points off the attack's success, and retraining without them "
            "hardly any."
        ),
        measure="attack success after SSD with a tenth flagged",
        versus="attack success after retraining without the flagged tenth",
        direction="lower",
        margin=0.6,
        by="difference",
    ),
    models=("fashion-poisoned", "fashion-confused"),
    budget=Budget(cpu_seconds=6.0, gpu_seconds=4.0),
    shows=(
        "engine.unlearning._manipulation:Trigger.stamped",
        "engine.unlearning.corrective.rule:automatic",
        "engine.unlearning._dampening:Dampening.dampened",
        "engine.unlearning._baselines:scrub",
    ),
    actions=(
        Action("run", quick=_QUICK, bad={"gamma": 0.0}),
        Action(
            "curves",
            quick={"gammas": [0.5], "methods": ["SSD"], "unit": "sample", "retained": 256},
            bad={"gammas": [2.0]},
        ),
        Action("bake", quick=_QUICK, bad={"gamma": 0.0}),
        Action("export", quick={**_QUICK, "form": "patch"}, bad={"form": "pickle"}),
    ),
    golden=("corrective-unlearning_losses",),
)

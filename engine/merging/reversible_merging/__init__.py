"""Several adapters are merged so that each of them can be had back.

A LoRA changes a weight by a product of two thin matrices, Δ = A B. Ordinary **merging** makes one
set of weights out of n adapters: their average, a weighted sum, or a vote over signs (TIES). What
comes out draws a little of everything and nothing well, and no subtraction brings the parts back.

**Reversible model merging** keeps a *basis* instead. Every row of A and every column of B is one
*position*. There the n adapters give n vectors of length r, the columns of X. They are written as a
mean and p directions:

$$X \\approx \\mu 1^\\top + U C, \\qquad \\min_{U,C}\\|X - \\mu 1^\\top - U C\\|^2$$

By Eckart and Young the answer is a truncated SVD of $X - \\mu 1^\\top$, in closed form, without
data or training. Adapter i is $\\mu + U c_i$ at every position. At p = 0 only the mean is left, and
that *is* the average of the factors; at p = n − 1 nothing is left out, and every adapter comes back
to round-off.

**What it costs.** Relative to the n adapters

$$\\frac{p\\,(r + n) + r}{r\\,n}$$

independent of the size of the layer. For n = 8 and r = 16 that is 31 % at p = 1, 50 % at p = 2 and
**144 % at the exact end**: more than the adapters themselves. The gain is in between, and it grows
with n. You must also know which adapter you want back; the basis does not guess.

**What to look at.** Drag p. Merged pictures are mush; the styles part one after the other. The
accuracies of the eight tasks do the same, counted. Then look at the rivals in the same axes: a
**joint subspace** for all deltas, or each adapter simply cut to fewer ranks, keep more at equal
storage here. The claim is about merging, and there it holds; as a way to save space it is beaten.

**Where it breaks.** The same adapter can be written as (A G, G⁻¹ B) for any invertible G, and the
basis depends on which one is written down. Adapters that started from the same random A are alike
in this; others are not, and lose more at equal p. *Align* turns them towards one another first,
which goes beyond the paper. Deltas compressed by an SVD after training (PT-SVD) have lost what
training wrote; on adapters of few strong directions, as these are, the form that the SVD gives them
is the better one for the basis, though its signs are arbitrary.

**One merge that is not defined by its formula.** Iso-C sets all singular values of the summed delta
to their mean. A sum of n adapters of rank r has at most n r directions; where the layer is larger,
the other singular values are zero, and the released formula, mean(s) U Vᵀ, lifts them to the same
mean. Which vectors stand there is decided by round-off: another processor gives another model. Here
those directions stay zero; within the range of the sum the two agree to 4e-15.

**Undo of an ordinary merge.** Adding a delta to the weights and subtracting it later does not give
the weights back: rounding keeps a part of it. The merges here are patches, which hold the bits.
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

_STYLES: list[Plain] = ["world-styles/candy", "world-styles/gold", "world-styles/sunset"]
_TASKS: list[Plain] = ["eight-tasks/digits", "eight-tasks/corner", "eight-tasks/count"]

CARD = MethodCard(
    title="Reversible model merging",
    family=Family.MERGE,
    paper=Paper(
        "Towards Reversible Model Merging For Low-rank Weights",
        "Alipour, Mohammadi Amiri",
        2025,
        "https://arxiv.org/abs/2510.14163",
    ),
    undoes="The merging of adapters: each one is pulled out of the merge again.",
    exactness=Exactness.ROUND_OFF,
    headline=Headline(
        paper=(
            "Merging factors of low rank collapses; a small basis with coefficients gives every "
            "model back, at a fraction of the storage."
        ),
        verdict="shown",
        here=(
            "Eight tasks on one backbone of this world. Language models and ViTs of the paper can"
            " be brought, and were not measured here."
        ),
    ),
    claim=Claim(
        sentence=(
            "With p = 1 eight task adapters come back at least 3 points better than the best "
            "merge of their factors, and at p = 7 all answers are their own again."
        ),
        measure="mean accuracy of the adapters rebuilt at p = 1",
        versus="the best separate merge, its weight chosen in its favour",
        direction="higher",
        margin=0.03,
        by="difference",
    ),
    models=("world",),
    budget=Budget(cpu_seconds=8.0, gpu_seconds=3.0),
    shows=(
        "engine.merging.reversible_merging.basis:positions",
        "engine.merging.reversible_merging.basis:fit",
        "engine.merging.reversible_merging.basis:revert_all",
        "engine.merging.reversible_merging.basis:storage",
        "engine.merging.reversible_merging.gauge:aligned",
        "engine.merging._baselines:ties",
    ),
    actions=(
        Action("run", quick={"adapters": _STYLES, "p": 1, "steps": 2}, bad={"p": -1}),
        Action("sweep", quick={"adapters": _STYLES, "steps": 1}, bad={"steps": 0}),
        Action("weigh", quick={"adapters": _TASKS}, bad={"storage": -1.0}, on_model=False),
        Action(
            "count",
            quick={"adapters": _TASKS, "pictures": 10, "rivals": ["joint"], "merges": ["ties"]},
            bad={"merges": ["soup"]},
            on_model=False,
        ),
        Action(
            "revert",
            quick={"adapters": _STYLES, "adapter": "gold", "p": 1, "prompts": "a cat", "steps": 2},
            bad={"prompts": " ; "},
        ),
        Action("bake", quick={"adapters": _STYLES}, bad={"density": 0.0}),
        Action("export", quick={"adapters": _TASKS, "p": 1}, bad={"form": "pickle"}),
    ),
    golden=("rmm_basic", "rmm_n_gt_r", "rmm_baselines"),
)

"""Many small columns instead of one deep trunk, linked so that each can be computed from the next.

An ordinary network compresses: what a layer drops is gone. **RevCol** sends the picture through
columns, copies of a small hierarchy of four levels, and every level of a column is the same level
of the column before, scaled, plus something new:

$$c_l \\leftarrow \\alpha_l\\, c_l + L_l(c_{l-1}, c_{l+1})$$

The lowest level reads the stem's map of the picture, which all columns share. Each line can be
solved for the old $c_l$, so nothing is lost from one column to the next, and the activations of all
columns but the last need not be kept.

**Intermediate supervision.** After each quarter of the columns a head says the class, and after the
first three a decoder draws the picture; early exits are held to the picture, later ones to the
class. It keeps the low levels informative, and gives an answer at a quarter of the cost.

**What to look at.** A garment goes forward; each head says what it is, each decoder draws it. Then
the way back: start from the last column's four maps and undo level after level, with the error of
each. The small pictures are read linearly off the lowest map, from what came back and from what was
there. The probes tell which level knows the class, and which the position. Then slide the columns
from 2 to 16: one bar does not move.

**What the released code does, and why.** It gives every column its own function and keeps five maps
for each, so its memory grows with the columns, against the paper's O(1). Here all columns are one
sequence. But look at the gradient error beside the bar that stands still: with α near its start of
0.5 each column halves what came before, sixteen columns lose more digits than float32 has, and the
gradients become wrong. Anchors every two columns give exact gradients for half of what the release
keeps; they are the setting to train with.

**Where it breaks.** Sixteen columns in one sequence, as said. A flat background: where all channels
are equal the norms divide by almost nothing, and magnify the last bit; so the way back is walked in
float64, and float32 is a switch. Sides that 32 does not
divide are refused. An α of exactly zero stays zero in the release, which then divides by it; here
it becomes 0.001.

*The network* has four columns of at most 64 channels and has learnt garments of 28 x 28 pixels. It
says nothing about the published accuracies; at this size the early heads bring no better last one.
Released weights load under their own names, once written as safetensors.
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

_COLUMNS: list[Plain] = [2, 4]
_TINY: list[Plain] = ["T"]
_PLAIN: list[Plain] = ["plain"]

CARD = MethodCard(
    title="RevCol",
    family=Family.REVERSE,
    paper=Paper(
        "Reversible Column Networks",
        "Cai, Zhou, Han, Sun, Kong, Li, Zhang",
        2023,
        "https://arxiv.org/abs/2212.11696",
        "https://github.com/megvii-research/RevCol",
    ),
    undoes="The columns of an image network: from the last column's maps back to the first.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "Reversible columns reach 82 to 90 % on ImageNet with memory that does not grow with "
            "the number of columns."
        ),
        verdict="in part",
        here=(
            "The memory holds, also against the released code, whose memory grows. ImageNet is "
            "out of reach here: the shipped network sorts small pictures of clothes."
        ),
    ),
    claim=Claim(
        sentence=(
            "From 2 to 16 columns the bytes kept by one sequence of all columns stay equal to the "
            "byte, where one function per column, as released, keeps at least three times as many."
        ),
        measure="growth of the bytes kept as released, from 2 to 16 columns",
        versus="growth of the bytes kept by one sequence",
        direction="higher",
        margin=3.0,
    ),
    models=("revcol-fashion",),
    budget=Budget(cpu_seconds=5.0, gpu_seconds=2.0),
    shows=(
        "engine.networks._revcol:Column.couplings",
        "engine.networks._revcol:Level",
        "engine.networks._revcol:compound_loss",
        "engine.networks.revcol.walk:walked_back",
    ),
    actions=(
        Action("run", quick={"index": 3}, bad={"index": -1}),
        Action("memory", quick={"columns": _COLUMNS, "batch": 1}, bad={"side": 50}, on_model=False),
        Action("probe", quick={"train": 200, "test": 100}, bad={"train": 0}),
        Action(
            "estimate",
            quick={"sizes": _TINY, "side": 64, "policies": _PLAIN},
            bad={"sizes": ["Q"]},
            on_model=False,
        ),
    ),
    golden=("revcol_columns", "revcol_loss"),
)

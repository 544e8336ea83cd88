"""Some pictures show one relation; what word would a model have needed to draw them? One row tells.

Two things on a picture stand in a relation: a cat *inside* a box, a bear *on top of* a car. Words
for it may be missing, or the model may not listen to them. Relation inversion goes from pictures
back to a word: a new token `<R>` is added, and its one row of the token table is trained, on a
handful of exemplars described as "cat <R> box", until the frozen model draws them. Then
"rose <R> bathtub" draws the relation with things it was never shown with.

$$\\min_R \\; \\big\\| \\mathrm{UNet}(a_t z + s_t\\epsilon,\\, t,\\, \\text{“cat R box”}) -
\\text{target} \\big\\|^2 + \\lambda L_{steer}$$

**Steering.** Left alone, the word learns whatever the exemplars share: a colour, an object, the
drawing style. Relations are mostly prepositions, and prepositions lie together in the table. So a
contrastive loss pulls R to words of relation and pushes it from the words of the entities:

$$L_{steer} = \\log\\sum_{x \\in P \\cup N} e^{\\cos(R,x)/\\tau} -
\\log\\sum_{x \\in P} e^{\\cos(R,x)/\\tau}$$

with P drawn afresh for each batch from a list of 56 words, N the entity words of its descriptions,
and τ = 0.07.

**Importance sampling.** Where things stand is settled early in sampling, at high noise. Times are
therefore drawn with $p(t) \\propto 1 - \\alpha \\cos(\\pi t / T)$; at α = 0.5 two draws of three
fall into the noisier half.

**What to look at.** The nearest words: they should turn from nothing in particular to words such as
"on" and "in". The same noise through the learning. And the bars: the word against its initialiser
"and" and against the relation told in plain words. All are examined on pairs that no exemplar has.
*Right of* and *under* are in no caption of the model's training; no word was found for them either,
and they are not offered.

**Where it breaks.** A small model that hardly draws two things when told so in words will not do it
for a learnt word either: read the bars from the last one. Without steering the row lies nearer to
the words of the exemplars' objects, but the pictures are not worse for it here: by the figures
below textual inversion, without steering and with uniform times, draws as well. A large rate sends
the row to where no word is, and the picture falls apart. The judge tells three relations apart, so
blind guessing names one picture in three.

**Taking it back.** The new row lies at the end of the table and no old row may change, which the
fingerprints show; take the edit off and the table has its old length, bit for bit. A word is a file
of a few hundred bytes in the layout of textual inversion.

*Ours.* The published code trains the whole token table and restores all rows but one after each
step; training the row alone gives the same. Its relation accuracy comes from a classifier that was
not published; ours is the judge of the embedded world. Words of the list that this small model does
not know are left out of P. Padding counts as a special token, also where it is not the end mark.
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

# Relations that the renderer can draw. The last two are in no caption of the model's training, and
# no word was found for them.
OFFERED = ("left of", "on top of", "inside")
RELATIONS = (*OFFERED, "right of", "under")

_QUICK: dict[str, Plain] = {"relation": "on top of", "count": 3, "steps": 4, "batch": 2}

CARD = MethodCard(
    title="ReVersion",
    family=Family.ERASE,
    paper=Paper(
        "ReVersion: Diffusion-Based Relation Inversion from Images",
        "Huang, Wu, Jiang, Chan, Liu",
        2024,
        "https://arxiv.org/abs/2303.13495",
        "https://github.com/ziqihuangg/ReVersion",
    ),
    undoes="A relation in pictures, taken back to the word that would have drawn it.",
    exactness=Exactness.BITWISE,
    headline=Headline(
        paper=(
            "A relation learnt from a few pictures as one word is drawn with new objects, more "
            "faithfully than by textual inversion."
        ),
        verdict="in part",
        here=(
            "The word draws the relation with unseen objects. Textual inversion does as well in "
            "this world: the advantage over it does not appear."
        ),
    ),
    claim=Claim(
        sentence=(
            "On pairs of objects that no exemplar has, the learnt word draws both objects in the "
            "relation, the right way round, in at least 20 points more of the pictures than its "
            "initialiser does."
        ),
        measure="unseen pairs drawn right with the learnt word",
        versus="with the initialiser “and”",
        direction="higher",
        margin=0.2,
        by="difference",
    ),
    models=("world",),
    budget=Budget(cpu_seconds=40.0, gpu_seconds=10.0),
    shows=(
        "engine.erasing.reversion.steering:steering_loss",
        "engine.erasing.reversion.steering:importance",
        "engine.erasing.reversion.learning:learn",
        "engine.erasing.reversion.words:with_words",
    ),
    actions=(
        Action(
            "run",
            quick={**_QUICK, "prompts": ["a cat {} a house"], "looks": 1, "sampler_steps": 3},
            bad={"alpha": 2},
        ),
        Action(
            "use", quick={"prompts": ["a cat {} a house"], "sampler_steps": 3}, bad={"word": ""}
        ),
        Action("measure", quick={"count": 2, "sampler_steps": 3}, bad={"count": 0}),
        Action("bake", quick={}, bad={"word": "no word"}),
        Action("export", quick={}, bad={"word": "<R>:???"}),
        Action("read", quick={"file": "on top of"}, bad={"file": "no file"}),
    ),
    golden=("reversion_steer",),
)

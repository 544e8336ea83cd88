"""A word is taken out of a picture model by one small matrix, and put back by leaving it out.

A text-to-image network listens to its prompt in one place only: the *keys* and *values* of its
cross-attention. Each is a linear map W of the prompt's token embeddings, and all of them read the
same tokens. **UCE** asks for new maps W' that say of the erased word c what the old ones said of a
*guide* c* ("cat" → "animal"), and otherwise change as little as possible:

$$\\min_{W'} \\; s_e\\|W'c - Wc^*\\|^2 + s_p\\sum_{kept} \\|W'p - Wp\\|^2 + \\lambda\\|W'-W\\|^2$$

This has a closed form, so nothing is trained and no picture is needed. Written out, W stands on the
left of every term: $W' = W M$ with the *same* d × d matrix M for every layer. The whole erasure is
one matrix that multiplies the prompt. Drag its strength t in $I + t(M - I)$ from 1 to 0 and the
model is the one it was, bit for bit, since nothing in it was ever written. (The papers know only
t = 1.)

**It comes back.** M can be inverted as a rule. Whoever may choose the embedding freely takes
$M^{-1}c$ and sees the cat again. The closed-form attack is

$$c' = H^{-1} X c, \\quad H = \\lambda_{reg} I + \\sum W'^\\top W', \\quad X = \\sum W'^\\top W$$

**RECE** turns this against itself: derive c', erase c' too, and repeat. Each epoch presses M
flatter in the direction of the concept, which its smallest singular values show. In our form an
epoch never touches the layers: one Gram matrix of all W is all it needs.

**What to look at.** *Old attack*: the embedding derived on the UCE model, used on the RECE model;
one epoch blocks it. *Fresh attack*: derived on the very model it attacks; it falls slowly, if at
all. Published red-team tests say the same of Stable Diffusion: RECE improves on UCE and a strong
attack still often succeeds, and for styles it costs visible fidelity.

**Where it breaks.** With nothing kept, neighbours and styles suffer. The empty text as a guide
damages every prompt here, as all of them share its padding. Each epoch wears on what is kept, and a
large λ_reg can even re-open the plain prompt, because an epoch has no term that holds the earlier
erasure. If only the last token is erased ("last"), the padding still carries the sentence.
Choose the weakest edit that does what you need.

*The guides.* Rows of a text: "classic" takes the last word's token and all that follow, "last" that
token only, "all" every token. Technique "tensor" subtracts from the guide what it shares with the
erased word, layer by layer, and then there is no single M. UCE's `layers_to_edit` leaves some
projections as they are: the map is then theirs and not the prompt's, so it has to be baked, and
what is left alone goes on saying the erased word.
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

_QUICK: dict[str, Plain] = {
    "concepts": ["cat"],
    "guides": ["animal"],
    "retain": ["dog", "car"],
    "epochs": 1,
}

CARD = MethodCard(
    title="RECE",
    family=Family.ERASE,
    paper=Paper(
        "Reliable and Efficient Concept Erasure of Text-to-Image Diffusion Models",
        "Gong, Chen, Wei, Chen, Jiang",
        2024,
        "https://arxiv.org/abs/2407.12383",
        "https://github.com/CharlesGong12/RECE",
    ),
    undoes="A concept in a text-to-image model, erased in closed form and restored bit for bit.",
    exactness=Exactness.BITWISE,
    headline=Headline(
        paper=(
            "An edit in closed form takes seconds; deriving the word that still brings the "
            "concept back, and erasing that too, makes it much harder to bring back."
        ),
        verdict="in part",
        here=(
            "The old attack dies after one epoch. A fresh one, derived on the new weights, still "
            "succeeds every time; the paper's attacks on prompts are not run here."
        ),
    ),
    claim=Claim(
        sentence=(
            "The embedding that brings an erased style or object back after UCE shows it in at "
            "least 60 points fewer of the pictures after one epoch of RECE."
        ),
        measure="pictures that the old attack brings back after one epoch",
        versus="pictures that it brings back after UCE",
        direction="lower",
        margin=0.6,
        by="difference",
    ),
    models=("world", "world-sister"),
    budget=Budget(cpu_seconds=6.0, gpu_seconds=4.0),
    shows=(
        "engine.erasing.rece.closed_form:redirect",
        "engine.erasing.rece.closed_form:derive",
        "engine.erasing.rece.closed_form:epochs",
        "engine.erasing.rece.edit:Edit.on_context",
        "engine.erasing.rece.edit:Edit.bake",
    ),
    actions=(
        Action(
            "run",
            quick={**_QUICK, "prompts": ["a cat", "a dog"], "steps": 3},
            bad={"concepts": [" "]},
        ),
        Action("comeback", quick={**_QUICK, "prompts": ["a cat"], "steps": 3}, bad={"epochs": 99}),
        Action("bake", quick=_QUICK, bad={"strength": -1.0}),
        Action("export", quick={**_QUICK, "form": "lora"}, bad={"form": "pickle"}),
    ),
    golden=("rece_small", "rece_sdlike"),
)

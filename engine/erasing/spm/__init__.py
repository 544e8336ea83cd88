"""A concept is held back by a membrane one dimension wide, which opens only for prompts like it.

RECE rewrites the weights that read the prompt. **SPM** leaves every weight alone and lays a tiny
adapter beside each linear map and convolution of the UNet's transformers: one row and one column,
0.05 % of Stable Diffusion's weights, 1.7 MB as a file. What the layer says is

$$y = W x + \\sum_k \\gamma_k\\, s\\, u_k\\,(d_k \\cdot x)$$

Take the file away and the model is the one it was, bit for bit.

**Training** needs no picture. On states of its own walks towards the concept, the adapted model
learns to predict, instead of the concept, what the *anchor* predicts (the empty text, or a word you
choose), pushed past it by η:

$$L_{era} = \\big\\| \\epsilon_{tar} - [\\epsilon_{neu} - \\eta(\\epsilon_{pos} - \\epsilon_{neu})]
\\big\\|^2 \\qquad
L = L_{era} + \\lambda\\, \\big\\|\\epsilon_a^{on} - \\epsilon_a^{off}\\big\\|^2$$

The second part is **latent anchoring**: random embeddings of the concept's length, drawn less often
near it, must be answered as without the membrane. No list of words to keep is needed. (These are
random directions and not concepts; prompts may lie far from all of them.)

**Facilitated transport** decides at drawing time how far a membrane opens for a prompt p:

$$\\gamma = \\max_{q}\\;\\max\\big(\\cos(E(p), E(q)),\\; |p \\cap q| / |q|\\big)$$

over the erased prompts q: the cosine of whole embeddings, and the share of q's words that p has.

**What to look at.** The table of gates, and the same seed under each. The cosine runs over all
tokens, start and padding included, and padding is most of a short prompt: the bars by token show
which part of it the words have. On a small text encoder, and to a lesser degree on CLIP, unrelated
prompts can be as alike as related ones; the published gate then opens for everything, or for
nothing but shared words. The word part alone is exact on a vocabulary as small as this one, and
that is no feat: it is a word list, and a synonym walks past it. "Centred" takes the empty text's
embedding off first; it is our variant.

**Where it breaks.** Independent tests find SPM the kindest to other pictures and among the weakest
under attack. A synonym that shares no word with the concept and has a low cosine meets a closed
membrane. λ far above the erase loss teaches nothing within the iterations: the paper's 1000 goes
with 3,000 of them. λ = 0 erases soon and drags others along. The figures of the claim below measure
both, at as many iterations as it takes to erase.

*Paper and code.* The published code multiplies down and up by γ and then sums files into one
adapter: one membrane acts with γ², several across one another. Here they are summed as the paper
says; "official" repeats the code. The code's anchors come in an order by which half of what is
anchored is the empty text ("official anchor order"). It draws a fresh walk for each iteration and
takes AdamW in 8 bits; here one walk of ten steps serves nine iterations, at a picture size that is
the model's own, with AdamW in 32 bits. The paper's η is 1; in this small world that takes the thing
away along with its style, and 0.3 is where the slider stands.
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

_QUICK: dict[str, Plain] = {"concepts": ["cat"], "iterations": 3, "anchors": 2}

CARD = MethodCard(
    title="SPM",
    family=Family.ERASE,
    paper=Paper(
        "One-dimensional Adapter to Rule Them All: Concepts, Diffusion Models and Erasing "
        "Applications",
        "Lyu, Yang, Hong, Chen, Jin, He, Xue, Han, Ding",
        2024,
        "https://arxiv.org/abs/2312.16145",
        "https://github.com/Con6924/SPM",
    ),
    undoes="A concept in a text-to-image model, held back by an adapter that is taken off again.",
    exactness=Exactness.BITWISE,
    headline=Headline(
        paper=(
            "Membranes of one weight each way erase several concepts at once, move to other "
            "models without training, and leave everything else nearly alone."
        ),
        verdict="in part",
        here=(
            "Three together on a model they never saw. They cost more of the kept pictures than "
            "the paper's nearly nothing; anchoring in the latents was tried at a tenth of the "
            "paper's length only."
        ),
    ),
    claim=Claim(
        sentence=(
            "Three membranes at once, carried without training to a model they never saw, erase "
            "what they were made for from at least eight in ten of the pictures that ask for it."
        ),
        measure="pictures on the other model that still show what is erased",
        versus="the same model without membranes",
        direction="lower",
        margin=0.8,
        by="difference",
    ),
    models=("world", "world-sister"),
    budget=Budget(cpu_seconds=30.0, gpu_seconds=8.0),
    shows=(
        "engine.erasing.spm.training:erase_loss",
        "engine.erasing.spm.training:anchor_loss",
        "engine.erasing.spm.training:draw_anchors",
        "engine.erasing.spm.membrane:opening",
        "engine.erasing.spm.membrane:summed",
        "engine.erasing.spm.membrane:merged",
    ),
    actions=(
        Action(
            "run",
            quick={**_QUICK, "prompts": ["a cat", "a dog"], "ways": ["open"], "steps": 3},
            bad={"concepts": [" "]},
        ),
        Action("gate", quick={"concepts": ["cat"], "prompts": ["a cat"]}, bad={"metric": "best"}),
        # The sister checkpoint may not be installed; onto itself the way is the same.
        Action(
            "transfer",
            quick={**_QUICK, "prompts": ["a cat"], "steps": 3, "to": "world"},
            bad={"way": "best"},
        ),
        Action("bake", quick=_QUICK, bad={"strength": -1.0}),
        Action("export", quick={**_QUICK, "form": "diffusers"}, bad={"form": "pickle"}),
    ),
    golden=("spm_small", "spm_keys_conv", "spm_keys_linear"),
)

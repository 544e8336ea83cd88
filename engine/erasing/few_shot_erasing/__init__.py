"""Four pictures of a thing, a few steps *up* the training error, and its name means something else.

A text-to-image model reads its prompt through a text encoder. Take a few pictures z of the concept,
a caption that names it, and the ordinary training error

$$E(\\theta) = \\big\\| \\mathrm{UNet}\\big(a_t z + s_t \\epsilon,\\; t,\\;
\\mathrm{Text}_\\theta(\\text{“a photo of a cat”})\\big) - \\text{target} \\big\\|^2$$

Training makes E small. Here Adam climbs it: the loss is $-E$, UNet and autoencoder are frozen, and
only the text encoder moves. After about ten steps the word no longer leads to these pictures. No
word is named to take its place; the prompt drifts to whatever lies near.

**Nothing stops it.** $-E$ has no lower bound, so the number of steps is the only brake. With Adam
every weight moves by about one learning rate a step, whatever the size of the loss: turn the rate
or the steps, never the loss. (The released code offers AdamW, Adadelta and Adagrad as well; their
steps have other sizes, so each wants its own rate.) There is a window in which the concept is gone
and most of the rest is there; after it everything goes. The curve of collateral damage shows the
window, and the slider under the pictures goes back through the epochs. Epoch 0 is the original, bit
for bit.

**Which weights?** The paper trains the feed-forward parts (mlp) of all layers and the attention of
the last one, since its study on a twelve-layer encoder finds the concept mostly in the
feed-forward parts. Take the other choices and look for yourself: the encoder here has three
layers, and what holds for twelve need not hold for three.

**Controls.** *Descent* takes the same steps downhill. *Unrelated pictures* climbs with the same
captions on pictures of other things. If a control erases as well, the steps alone did the damage.

**Where it breaks.** More steps, or a larger rate, and kept prompts fall too; the neighbours of the
word go first, because they share its weights. Half precision rounds such small moves away, so the
encoder is trained in float32. Pictures are flipped and encoded once, as published, so noise and
flips of the data set stay fixed during a run.

*Ours.* The official loader takes latents from `torch.rand` when there are no pictures, in a shape
its own loop cannot use; "generated" here lets the model draw its pictures instead. The words of the
27 + 19 published captions ("a cropped photo of the …") are unknown to the embedded model, which
gets captions from its own grammar.
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

PARAMETERS = ("mlp-final-attn", "mlp-only", "attn-only", "mlp-attn", "all")
COMPARED = (
    *PARAMETERS,
    "descent",
    "unrelated pictures",
    "negative prompt",
    "UCE",
    "RECE",
    "ESD-x",
    "random edit",
)
OPTIMIZERS = ("Adam", "AdamW", "Adadelta", "Adagrad")
SOURCES = ("drawn", "generated", "uploaded", "unrelated")

_QUICK: dict[str, Plain] = {"concept": "cat", "count": 2, "epochs": 2}

CARD = MethodCard(
    title="Few-shot erasing",
    family=Family.ERASE,
    paper=Paper(
        "Erasing Concepts from Text-to-Image Diffusion Models with Few-shot Unlearning",
        "Fuchi, Takagi",
        2024,
        "https://arxiv.org/abs/2405.07288",
        "https://github.com/fmp453/few-shot-erasing",
    ),
    undoes="A concept in a text-to-image model, forgotten from a few pictures and restored.",
    exactness=Exactness.BITWISE,
    headline=Headline(
        paper=(
            "Ten seconds and a few pictures erase a concept, tens to hundreds of times faster "
            "than earlier fine-tuning, by changing the text encoder alone."
        ),
        verdict="in part",
        here=(
            "The concept goes in ten steps on four pictures, over concepts that chose no setting. "
            "UCE, beside it, takes away as much and harms other words far less. The speed of "
            "earlier fine-tuning is not measured here."
        ),
    ),
    claim=Claim(
        sentence=(
            "Ten steps on four pictures take at least 40 points more off the share of prompts with "
            "the word that show the thing than off the share of other prompts that show theirs."
        ),
        measure="points taken off prompts with the word",
        versus="points taken off other prompts",
        direction="higher",
        margin=0.4,
        by="difference",
    ),
    models=("world",),
    budget=Budget(cpu_seconds=12.0, gpu_seconds=5.0),
    shows=(
        "engine.erasing.few_shot_erasing.ascent:climb",
        "engine.erasing.few_shot_erasing.ascent:trainable",
        "engine.erasing.few_shot_erasing.learning:learn",
        "engine.erasing._learning:denoising_error",
    ),
    actions=(
        Action(
            "run",
            quick={**_QUICK, "prompts": ["a cat", "a dog"], "steps": 3},
            bad={"concept": " "},
        ),
        Action(
            "curve",
            quick={**_QUICK, "pictures_each": 2, "steps": 3},
            bad={"pictures_each": 0},
        ),
        Action("bake", quick=_QUICK, bad={"epochs": 0}),
        Action("export", quick={**_QUICK, "form": "encoder"}, bad={"form": "pickle"}),
    ),
    golden=("fewshot_trainable", "fewshot_step"),
)

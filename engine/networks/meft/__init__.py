"""A pre-trained transformer is made reversible by small adapters, and then fine-tuned almost
without keeping activations.

Adapters such as LoRA train few weights, but the backward pass still needs every activation of every
layer. **MEFT** arranges the frozen layers as couplings of two streams, so that the activations can
be computed again from the output:

$$h_1 \\leftarrow \\lambda h_1 + F(h_2), \\qquad h_2 \\leftarrow \\beta h_2 + G(h_1)$$

F and G come out of the layer and a small adapter: in MEFT-1 F is the layer and G the adapter, in
MEFT-2 the other way round, in MEFT-3 F is the attention and G the feed-forward part. Backwards,
$h_2 = (h_2' - G(h_1'))/\\beta$ and then $h_1 = (h_1' - F(h_2))/\\lambda$.

**The start.** Fine-tuning works when it begins at what was pre-trained. With $\\lambda \\to 0$ and
adapters near zero one stream carries the newest hidden state and the other the one before, so
their mean is close to the old output. Drag lambda from 1 to 0.01 and the start snaps back.

**The price.** Going back divides by lambda at every layer. Float32 has seven digits; at 0.1 a layer
they are gone after seven layers, and the gradients of the lower layers become noise of plausible
size. The published scales do this, in the authors' code too: at twelve layers their adapter
gradients are half wrong, and training still seems to work because head and upper adapters learn.

**The remedy.** *Anchors* keep the streams at every so many layers, so that an error starts afresh
there; `suggest_anchor` takes the longest distance that the number format allows. That is our
default; "none" is the paper's pure form. With anchors memory is no longer constant in depth, and
comes near to LoRA with ordinary checkpoints, which is what to compare with: both bars are shown.

**Where it breaks.** lambda 0.02 without anchors: the lower layers get garbage. And where a network
is deep and the batch small, peak memory is ruled by the one layer that is being recomputed, which
no method here avoids.

*The networks* are small: six layers that read scanned digits, six that read captions. MiniLM, a
real encoder of sentences, can be fetched. Bytes at the scale of BERT-base, RoBERTa-large and
OPT-1.3B are computed on shapes, not measured. RoBERTa and OPT go through the same code; the authors
published BERT alone. Adapters are taken along as safetensors with their configuration, LoRA beside
them in the layout of PEFT.
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

CARD = MethodCard(
    title="MEFT",
    family=Family.REVERSE,
    paper=Paper(
        "Make Your Pre-trained Model Reversible: From Parameter to Memory Efficient Fine-Tuning",
        "Liao, Tan, Monz",
        2023,
        "https://arxiv.org/abs/2306.00477",
        "https://github.com/BaohaoLiao/mefts",
    ),
    undoes="The forward pass of a pre-trained transformer, layer by layer, while it is fine-tuned.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "Reversible adapters save up to 84 % of the activation memory of full fine-tuning at "
            "equal quality."
        ),
        verdict="in part",
        here=(
            "The memory is computed at the size of BERT-base and measured on the small encoders. "
            "Quality is compared on turned digits, not on GLUE."
        ),
    ),
    claim=Claim(
        sentence=(
            "At the scale of BERT-base, batch 32 and 512 tokens, reversible MEFT keeps at most a "
            "hundredth of the activations that the same adapters keep under plain autograd."
        ),
        measure="bytes kept by reversible MEFT without anchors, computed",
        versus="a hundredth of those kept under plain autograd",
        direction="lower",
        margin=1.0,
        by="factor",
    ),
    models=("meft-digits", "meft-captions"),
    budget=Budget(cpu_seconds=8.0, gpu_seconds=4.0),
    shows=(
        "engine.networks._meft:MeftEncoder.couplings",
        "engine.networks._meft:Adapter.forward",
        "engine.reversible.backward:_Walk._undo",
        "engine.reversible.anchors:suggest_anchor",
    ),
    actions=(
        Action("run", quick={"depth": 4, "arms": ["meft", "lora"]}, bad={"variant": 4}),
        Action(
            "fits",
            quick={
                "scale": "bert-base", "batch": 2, "tokens": 16, "arms": ["meft"],
                "reversible_layers": 2,
            },
            bad={"scale": "gpt-9"},
            on_model=False,
        ),
        Action("train", quick={"steps": 3, "arms": ["meft", "lora"]}, bad={"steps": 0}),
        Action(
            "predict", quick={"texts": "a cat left of a car"}, bad={"adapters": ""}, on_model=False
        ),
    ),
    golden=("meft_meft1", "meft_meft2", "meft_meft3"),
)  # fmt: skip

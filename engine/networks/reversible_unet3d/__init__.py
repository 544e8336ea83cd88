"""A 3-D U-Net that keeps only the output of each resolution, so that larger volumes fit.

Segmenting a volume is limited by what backpropagation keeps: at 64³ voxels a single feature map of
16 channels takes 16 MB, and there are hundreds. Here every **stage**, the blocks of one resolution,
is a reversible sequence on the two halves of the channels,

$$y_1 = x_1 + F(x_2), \\qquad y_2 = x_2 + G(y_1)$$

and its input is computed again from its output: $x_2 = y_2 - G(y_1)$, $x_1 = y_1 - F(x_2)$. F and G
are **inverted bottlenecks**: a 1³ convolution to several times the width, a depthwise k³
convolution, a 1³ convolution back, without an activation at the end. Their wide inside is just what
plain autograd would keep and what is recomputed here.

Changes of resolution and width lose information and are ordinary layers, so that about one tensor
a level stays. That is why the bar does not move when blocks are added, and why it is not zero.

**What to look at.** Train in two modes at once: the loss curves lie on top of one another while one
keeps many times what the other keeps. Then walk a stage back, and look at the volume of errors, a
few units in the last place. Then ask for the largest cube that fits into a memory.

**What is honest.** A checkpoint per block already takes nine tenths of what is kept, with gradients
equal in every bit. At the peak, where one block is being recomputed, reversible and checkpoint are
nearer to one another than their kept bytes say: both numbers are shown. Depthwise convolutions are
slow on processors: fewer operations are not less time. Of the gain over an ordinary U-Net a part is
the bottleneck's own; "ordinary convolutions" is a mode of the comparison.

**Where it breaks.** Batch normalisation is refused: computed twice, its running statistics would
move twice; GroupNorm is used. Sides that do not halve evenly are padded, then cropped. And a
template is not a patient: the network has seen half of one averaged brain, and its Dice says how it
continues that brain to the front, nothing about tumours. The paper's data, BraTS, may not be
passed on; its figures are not shown. No code of the authors was found; what the paper leaves open
is chosen here and named in the code.
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

_SMALL: list[Plain] = [8, 16]

CARD = MethodCard(
    title="Reversible 3D U-Net",
    family=Family.REVERSE,
    paper=Paper(
        "Memory Efficient 3D U-Net with Reversible Mobile Inverted Bottlenecks for Brain Tumor "
        "Segmentation",
        "Pendse, Thangarasa, Chiley, Holmdahl, Hestness, DeCoste",
        2020,
        "https://arxiv.org/abs/2104.09648",
    ),
    undoes="A stage of a 3-D U-Net: from its output volume back to its input volume.",
    exactness=Exactness.ROUND_OFF,
    headline=Headline(
        paper=(
            "In the same memory a reversible 3-D U-Net takes volumes three times as large, a "
            "quarter more layers, or twice the channels."
        ),
        verdict="shown",
        here=(
            "Computed from the graph of tensors that is kept, and measured at the size that runs "
            "here. The Dice scores of the paper are not reproduced: its data is not free."
        ),
    ),
    claim=Claim(
        sentence=(
            "Within 8 GiB the reversible network trains on cubes of at least three times as many "
            "voxels as the same network under plain autograd."
        ),
        measure="voxels of the largest cube, reversible, computed",
        versus="voxels of the largest cube under plain autograd",
        direction="higher",
        margin=3.0,
    ),
    models=("unet3d-brain",),
    budget=Budget(cpu_seconds=10.0, gpu_seconds=3.0),
    shows=(
        "engine.networks._unet3d:RevStage",
        "engine.networks._unet3d:MBConv3d",
        "engine.networks._unet3d:soft_dice",
        "engine.networks.reversible_unet3d.sizes:largest",
    ),
    actions=(
        Action(
            "run", quick={"volume": "average", "part": "test", "window": 64, "overlap": 0.0},
            bad={"volume": "patient"},
        ),
        Action(
            "train", quick={"widths": _SMALL, "side": 16, "steps": 3}, bad={"widths": [7, 14]},
            on_model=False,
        ),
        Action(
            "measure_sizes",
            quick={"side": 16, "widths": _SMALL, "blocks": [1, 2], "cubes": False},
            bad={"gibibytes": -1.0},
            on_model=False,
        ),
    ),
    golden=("reversible-unet3d_stage", "reversible-unet3d_loss"),
)  # fmt: skip

r"""Transform the picture, undo the transform on the answer, and ask the loss where nothing moved.

Depth is learnt without true depth by a photometric loss: if the depth of a pixel is right, then the
next camera sees the same colour at

$$x' = \pi\left(K\, g\, K^{-1} [x, y, 1]^T d\right)$$

Turn or zoom the pictures, as one does everywhere else in vision, and this breaks: the cameras $K$
and $g$ belong to the picture as it was taken. So such training went without geometric augmentation.
**AugUndo** gives the network the transformed picture $T(I)$, takes its depth $\tilde d$, and runs
the transform backwards on it:

$$\hat d = T^{-1}\left(f(T(I), T(z), A K)\right)$$

All losses are then asked in the original frame, with original picture, sparse points $z$ and $K$.
$A$ is the matrix that moves the pixels. Depth itself is not scaled by a zoom: the focal length in
$A K$ takes it. A rotated $K$ is no longer triangular; $(A K)^{-1} p$ is the ray of a pixel all the
same, and the small network here is given these rays.

**What to look at.** The *loss floor*: what each way of augmenting charges for the *true* depth. A
network that minimises the loss leaves the truth as soon as the truth is dear. Left as they were,
the cameras make it several times as dear as in the untouched pair. Undone, it stays at the floor.
Correct cameras, $A K$ for both views, come near, and then the price is another one: a zoom to 0.6
leaves a third of the sparse points, while the undo keeps them all. Most of the harm is
wrong geometry and lost points, not blur.

**What the surviving code does, and what is done here.** It changes $K$ in place, so its loss uses
the augmented one too; scales $K$ also where no zoom was drawn; takes the difference of sizes for
the origin of a crop and leaves $K$ alone under shifts, mirrors and rotations. Here
$K_{aug} = A K$ is a new tensor for every transform. And it fills undone pixels that no network ever
saw with edge values that enter the loss; here a mask of ones goes forward and back, and the loss is
asked where it is 1. The operations themselves agree with it index by index.

**Where it breaks.** What a zoom throws away does not come back: nearest neighbour at 0.6 keeps one
pixel in three, and undone depth is off by centimetres at edges. Bilinear undo is smoother and
invents points between two surfaces. A large crop leaves little to ask about. And only values may be
undone so: flow and normals turn with the picture and must be named, or are refused.

**In small.** The rooms are drawn here, and the camera's motion is given, where the paper learns it.
The real pair is the motorcycle of Middlebury stereo 2014. The training is short, of a
network of 66,000 weights that starts from spread sparse points, and it settles nothing: after 160
steps all three shipped networks are as good as the spread points alone, 0.209 m on unseen rooms. At
64 x 96 pixels their errors are a fraction of a pixel of parallax, which the photometric loss does
not see. The gain that the paper measures on VOID, 33.3 mm instead of 39.8, is not shown here.

Reference: Wu, Liu, Park, Soatto, Lao, Wong, AugUndo, ECCV 2024, arXiv:2310.09739; loss of KBNet.
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

_ONE: list[Plain] = ["undo"]

CARD = MethodCard(
    title="AugUndo",
    family=Family.REVERSE,
    paper=Paper(
        "AugUndo: Scaling Up Augmentations for Monocular Depth Completion and Estimation",
        "Wu, Liu, Park, Soatto, Lao, Wong",
        2024,
        "https://arxiv.org/abs/2310.09739",
        "https://github.com/xuyfe/augundo-ext",
    ),
    undoes="The turning and zooming of a picture: its depth map is turned and zoomed back.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "Undoing the geometry on the depth, not on the picture, allows strong augmentation "
            "and lowers the error of unsupervised depth completion by a tenth or more."
        ),
        verdict="not shown",
        here=(
            "That the loss needs the undo is computed exactly. The short training of the small "
            "network is too short to tell its arms apart."
        ),
    ),
    claim=Claim(
        sentence=(
            "At zoom 0.6 and 25 degrees the photometric loss charges the true depth of a room at "
            "least four times as much when the geometry is left unchanged as after the undo."
        ),
        measure="loss floor, geometry unchanged",
        versus="loss floor after the undo",
        direction="higher",
        margin=4.0,
    ),
    models=("depth-rooms",),
    budget=Budget(cpu_seconds=4.0, gpu_seconds=4.0),
    shows=(
        "engine.networks.augundo.augmentation:Augmentation.forward",
        "engine.networks.augundo.augmentation:Augmentation.undo",
        "engine.networks.augundo.augmentation:Augmentation.mask",
        "engine.networks.augundo.augmentation:Augmentation.intrinsics",
        "engine.networks.augundo.losses:seen_from",
        "engine.networks.augundo.training:loss_of",
    ),
    actions=(
        Action("run", quick={"angle": 10}, bad={"angle": 90}, on_model=False),
        Action(
            "train",
            quick={"arms": _ONE, "steps": 4, "rooms": 2, "test_rooms": 2, "batch": 1},
            bad={"arms": ["luck"]},
            on_model=False,
        ),
        Action("average", quick={"views": 3}, bad={"views": 0}),
    ),
    golden=("augundo_geometric", "augundo_losses"),
)

"""What a network keeps between its forward and its backward pass, and the price of keeping less.

Backpropagation needs, for every layer, what went into it. Plain autograd keeps all of it, so memory
grows with depth. There are three ways out. **Checkpoints** keep the input of every block, or of
every √L blocks, and compute a block again when its turn comes. **Selective checkpoints** keep what
was dear to compute. And a **reversible** network keeps nothing but its output:

$$y_1 = x_1 + F(x_2), \\quad y_2 = x_2 + G(y_1) \\qquad$$
$$x_2 = y_2 - G(y_1), \\quad x_1 = y_1 - F(x_2)$$

F and G are any networks; they are computed again and never inverted.

**What to look at.** Deepen the network from 2 to 64 blocks. All bars grow; one does not move by a
byte. Then send a photograph through and watch it come back from the output, with the largest error
in grey levels beside it.

**How it is counted.** Kept bytes are the storages that autograd saved, each once, without weights
and inputs; a net whose bytes are known by arithmetic is the test. The peak follows every tensor
that is born and dies, in both passes. Operations come before seconds: a reversible step and a
checkpointed one both take a third more, and on a busy machine the clock tells of the machine. The
size of the process would tell nothing, as allocators do not give pages back.

**What is honest.** Checkpoints per block already take nine tenths where blocks are wide inside,
with gradients equal in every bit. Reversibility takes the rest, for two streams and gradients that
are equal to round-off. Its peak holds one block's inside and the list of weight gradients that a
segment hands over together; anchors cut that list too.

**Where it breaks.** A stream that is scaled down, as in MEFT and RevCol, loses digits at every
block, and no method restores them: look at the gradient error of "meft-3" at 16 blocks, then at the
same with anchors. Dropout has to be replayed and costs 5 kB a block for the state of the generator.
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

_DEPTHS: list[Plain] = [2, 4]

CARD = MethodCard(
    title="Memory lab",
    family=Family.REVERSE,
    paper=Paper(
        "The Reversible Residual Network: Backpropagation Without Storing Activations",
        "Gomez, Ren, Urtasun, Grosse",
        2017,
        "https://arxiv.org/abs/1707.04585",
        "https://github.com/renmengye/revnet-public",
    ),
    undoes="The forward pass of any list of couplings, from the output picture to the input one.",
    exactness=Exactness.ROUND_OFF,
    headline=Headline(
        paper=(
            "Reversible networks train with memory that does not grow with depth, for about a "
            "third more work."
        ),
        verdict="shown",
        here=(
            "Bytes and operations are counted for the blocks of this page; the time on your "
            "machine is measured by the run."
        ),
    ),
    claim=Claim(
        sentence=(
            "From 2 to 32 blocks the bytes that a reversible network keeps stay equal to the byte, "
            "where plain autograd keeps at least fifteen times as many."
        ),
        measure="growth of plain autograd's kept bytes from 2 to 32 blocks",
        versus="growth of the reversible network's",
        direction="higher",
        margin=15.0,
    ),
    models=(),
    budget=Budget(cpu_seconds=6.0, gpu_seconds=2.0),
    shows=(
        "engine.reversible.coupling:Coupling",
        "engine.reversible.backward:_Walk",
        "engine.reversible.memory:Kept",
        "engine.reversible.memory:measure",
    ),
    actions=(
        Action(
            "run", quick={"depths": _DEPTHS, "width": 16, "batch": 4}, bad={"architecture": "vgg"}
        ),
        Action("walk", quick={"depth": 4, "width": 4}, bad={"depth": 0}),
    ),
    no_golden=(
        "Its counters are held against networks whose bytes are known by arithmetic; the couplings "
        "of all methods have golden arrays of their own."
    ),
)

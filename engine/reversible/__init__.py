"""Networks that run backwards: one sequence of couplings for every reversible architecture.

The state is a tuple of **streams** s_0 ... s_{k-1}, tensors of any shapes. A **coupling** rewrites
one stream from others, which stay as they are, so that it can be taken back:

    forward   s_i  <-  a * s_i + F(s_reads, c)
    inverse   s_i  <-  (s_i - F(s_reads, c)) / a

F is any module and is never inverted; c are read-only tensors (context). A *reversible sequence* is
a list of couplings. It keeps its last streams alone and recomputes the others on the way back:

    sequence = ReversibleSequence(additive(0, f, g), mode="reversible")
    (y1, y2), _ = sequence((x1, x2))                  gradients cost one recomputation of F and G
    x1, x2 = sequence.inverse((y1, y2))

`mode` changes what is kept between forward and backward, never the numbers or the weights: "plain"
lets autograd keep everything, "checkpoint" keeps the inputs of every segment, "selective" the
products of matrices too, and "reversible" the outputs alone.

`memory` counts the bytes that are kept, the peak, and the operations. `anchors` tells how far a
contraction can be walked back in a number format. `engine.core.reversible` measures how exactly
anything came back; `sequence.given(c)` is a `Reversible` for it.
"""

from engine.core.reversible import Reversible, compare, round_trip
from engine.reversible.anchors import inverse_error, suggest_anchor
from engine.reversible.coupling import Coupling, additive
from engine.reversible.sequence import MODES, Mode, ReversibleSequence, Streams

__all__ = [
    "MODES",
    "Coupling",
    "Mode",
    "Reversible",
    "ReversibleSequence",
    "Streams",
    "additive",
    "compare",
    "inverse_error",
    "round_trip",
    "suggest_anchor",
]

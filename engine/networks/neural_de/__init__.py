"""A network whose depth is time, and time that runs backwards.

Let depth become continuous and a residual network becomes a differential equation,

$$\\frac{dy}{dt} = f_\\theta(t, y), \\qquad y(T) = \\mathrm{solve}(f_\\theta, y(0))$$

To train it one needs the gradient of a solve, and there are four ways to it. **Through the
solver**: autograd keeps every step, so memory grows with the number of steps. **Checkpoints** keep
√N states and compute the rest again: exact, and hard to beat. The **continuous adjoint** solves a
second equation back in time and keeps nothing, but the path it solves backwards is not the one that
was solved forwards, so its gradient is off by the solver's error. A **reversible solver** keeps
nothing and is exact: every step can be taken back.

**Reversible Heun** carries two copies of the state, $y$ and $z$, that start equal. A step is

$$z_1 = 2y_0 - z_0 + V(t_0, z_0), \\qquad
y_1 = y_0 + \\tfrac12\\big(V(t_0, z_0) + V(t_1, z_1)\\big)$$

with $V = f\\,\\Delta t + g\\,\\Delta W$. Written with $u = y_0 + V(t_0, z_0)/2$ these are three
couplings, y ← y + V/2, z ← −z + 2y, y ← y + V/2, and so a solve is a list for the one reversible
sequence that all networks of this family share. Kicks that meet at one time are one: N steps cost N
+ 1 evaluations of the field.

**What to look at.** Draw a curve. A field learns it while you watch, and then time runs back.
Ordinary Heun with −h misses its own start; reversible Heun returns to the last digits; with kicks
rounded to multiples of 2⁻⁴⁰, which floats add without rounding, it returns in every bit, and the
fingerprints are equal.

**Where it breaks.** y and z are held together by nothing. Where the field pulls states together,
their difference grows like $e^{|\\lambda| t}$: the very fields that are easy to solve are those on
which the method explodes. So |y − z| is drawn beside every solve. McCallum and Foster pull z
towards y by a factor c < 1, which is stable and costs what every contraction costs here: the way
back divides by c, so errors grow like $c^{-N}$, until anchors cut them. It is the lesson of MEFT's
λ, in time.

**Irregular series.** A controlled equation $dz = f_\\theta(z)\\,dX$ is driven by a path through the
observations, with gaps filled and a cubic whose slopes look backwards only. It is the SDE's step
with dX in place of dW. A recurrent network of the same size gets the same windows. The series is
carbon dioxide on Mauna Loa, week by week, with its real gaps. Filling a gap in a straight line
looks ahead to its far end; to forecast while data come in, hold the last value (the rectilinear
path).

**Noise.** To run an SDE back one needs the same noise again. A Brownian interval is a tree of
seeds: asked twice it gives the same number, and it forgets what it can compute again. But which
path one gets depends on the order of the first questions. A neural SDE, trained against a
controlled equation as critic, learns to imitate a random process; the critic's weights are clipped
instead of a penalty on its gradient.

**Formulas.** A field that was learnt can be read: sample states and slopes, look for a short
expression, and fit its constants once more through the solver. Outside the data it is a guess.

**What the paper reports, and what is measured here.** Reversible Heun trains up to 1.98 times
faster than the midpoint method with a continuous adjoint, and without truncation error; the
Brownian interval is up to 10.6 times faster than a tree of fixed depth; clipping 1.87 times faster
than a penalty. No seconds are measured here. What stands behind the first figure is counted: 2N + 2
evaluations of the field against 4N, which at 64 steps are 1.97 times fewer. The claim of this panel
is the other half of the sentence, the gradient without truncation error.

*What the paper leaves open.* Brownian increments are exact in float64 up to round-off of the
tree's sums. Batches of equal times only, and no adaptive steps: the way back would need them
recorded.
"""

from collections.abc import Mapping

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

LONGEST_DRAWING, LONGEST_SERIES = 12_000, 60_000

SPIRAL = (
    "1.3 0; 1.2 0.45; 0.92 0.82; 0.52 1.05; 0.08 1.08; -0.33 0.95; -0.66 0.68; -0.83 0.33; "
    "-0.84 -0.05; -0.7 -0.38; -0.44 -0.61; -0.12 -0.7; 0.18 -0.63; 0.41 -0.45; 0.52 -0.2; "
    "0.5 0.07; 0.37 0.28; 0.18 0.38"
)
DRAWINGS: Mapping[str, str] = {
    "spiral": SPIRAL,
    "wave": (
        "-1.4 0; -1.2 0.45; -1 0.7; -0.8 0.6; -0.6 0.2; -0.4 -0.25; -0.2 -0.6; 0 -0.7; 0.2 -0.55; "
        "0.4 -0.1; 0.6 0.4; 0.8 0.7; 1 0.65; 1.2 0.3; 1.4 -0.1"
    ),
    "figure eight": (
        "-0.2 -0.25; 0.35 0.4; 0.75 0.62; 1.1 0.5; 1.25 0; 1.1 -0.5; 0.75 -0.62; 0.35 -0.4; "
        "-0.35 0.4; -0.75 0.62; -1.1 0.5; -1.25 0; -1.1 -0.5; -0.75 -0.62; -0.45 -0.5"
    ),
    "hook": (
        "-1 1.2; -0.95 0.7; -0.9 0.1; -0.8 -0.5; -0.5 -0.95; 0 -1.1; 0.5 -0.95; 0.8 -0.55; "
        "0.85 -0.1; 0.65 0.25; 0.3 0.3"
    ),
}
FIELDS: Mapping[str, str] = {
    "pendulum": "Pendulum: swings",
    "lotka_volterra": "Prey and hunters: a cycle",
    "van_der_pol": "van der Pol: pulls onto a cycle",
    "decay": "Decay at rate λ: pulls to a point",
}
WAYS: Mapping[str, str] = {
    "plain": "through the solver",
    "checkpoint": "checkpoints of √N steps",
    "adjoint": "continuous adjoint",
    "reversible": "reversible Heun",
    "foster": "McCallum and Foster",
    "foster_anchored": "McCallum and Foster, anchored",
}
SWEEPS: Mapping[str, str] = {
    "steps": "Finer steps over a time of 4",
    "time": "Longer time at steps of 1/16",
}
SYSTEMS: Mapping[str, str] = {
    "drawing": "The curve that I drew",
    "oscillator": "A damped oscillator",
    "lotka_volterra": "Prey and hunters",
    "van_der_pol": "van der Pol's oscillator",
}
READERS: Mapping[str, str] = {
    "sparse": "Sparse polynomials",
    "gplearn": "Genetic programming (gplearn)",
}

CARD = MethodCard(
    title="Neural differential equations",
    family=Family.REVERSE,
    paper=Paper(
        "Efficient and Accurate Gradients for Neural SDEs",
        "Kidger, Foster, Li, Lyons",
        2021,
        "https://arxiv.org/abs/2105.13493",
        "https://github.com/google-research/torchsde",
    ),
    undoes="The flow of time of a learned field, from the end of a path to its start.",
    exactness=Exactness.ROUND_OFF,
    headline=Headline(
        paper=(
            "Reversible Heun trains up to 1.98 times faster than midpoint solvers, with gradients "
            "free of truncation error; the Brownian interval and clipping save as much again."
        ),
        verdict="in part",
        here=(
            "The gradients are free of truncation error, and the evaluations of the field are half "
            "as many. No seconds were measured, and no neural SDE was trained to the end."
        ),
    ),
    claim=Claim(
        sentence=(
            "Keeping one state alone, the gradient of reversible Heun is at least a million times "
            "closer to that of its own solve than the continuous adjoint's is to its own."
        ),
        measure="relative gradient error of reversible Heun, 64 steps, float64",
        versus="of the continuous adjoint with the midpoint method",
        direction="lower",
        margin=1e6,
    ),
    models=(),
    budget=Budget(cpu_seconds=6.0, gpu_seconds=6.0),
    shows=(
        "engine.networks._solvers:reversible_heun",
        "engine.networks._solvers:Kicks",
        "engine.networks._solvers:mccallum_foster",
        "engine.networks._solvers:Adjoint",
        "engine.networks.neural_de.brownian:BrownianInterval",
    ),
    actions=(
        Action("run", quick={"rounds": 20, "steps": 16, "width": 8}, bad={"drawing": "0 0"}),
        Action("retrace", quick={"steps": 40, "end": 4.0}, bad={"field": "decay", "rate": 50.0}),
        Action("gradients", quick={"most": 16, "batch": 2}, bad={"rate": -1}),
        Action("series", quick={"rounds": 4, "width": 8}, bad={"rows": "0 1\n0 2"}),
        Action("brownian", quick={"levels": 4}, bad={"levels": 0}),
        Action("generate", quick={"rounds": 2, "batch": 16}, bad={"batch": 0}),
        Action(
            "formula",
            quick={"source": "oscillator", "rounds": 20, "refit": 4},
            bad={"source": "weather"},
        ),
    ),
    golden=("neural-de_revheun_ode", "neural-de_revheun_sde_diag", "neural-de_cde_path"),
)

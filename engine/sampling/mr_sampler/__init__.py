r"""A damaged picture is restored by running its own damage backwards, in few network evaluations.

Ordinary diffusion drowns a picture in noise around zero. *Mean-reverting* diffusion (IR-SDE) lets
it drift to its damaged version $\mu$, with noise of a fixed level $\sigma_\infty$ around it:

$$dx = \theta_t (\mu - x)\,dt + g_t\,dw, \qquad g_t^2 = 2 \sigma_\infty^2 \theta_t$$

so the end of the way is known: it is the picture in your hand plus a little noise. A network that
learnt to name the noise walks back, and needs a hundred evaluations to do it step by step. MR
sampler solves the way back almost exactly instead. Its trick in one line: centre on $\mu$,
$z = x - \mu$ and $d = x_0 - \mu$, and what is left is

$$z_t = \alpha_t d + \sigma_t \epsilon$$

the process of every other panel here. With $\lambda = \ln(\alpha / \sigma)$ and
$h = \lambda_t - \lambda_s$, one step of the flow from s to t that trusts the clean estimate
$\hat d$ is

$$z_t = \frac{\sigma_t}{\sigma_s} z_s + \alpha_t \left[ (1 - e^{-h})\,\hat d
  + \left(1 - \frac{1 - e^{-h}}{h}\right) D \right]$$

where $D$, for order 2, is the slope from the last estimate to this one.

**The names.** MRS-ODE follows the flow and draws no noise on the way; MRS-SDE draws fresh noise at
each step. "d" extends the clean picture over a step, "n" the noise; 1 and 2 are the orders. That
makes eight; the released code adds an order 3 of the flow, a parabola through the last three
estimates. (It takes half of the bend that a third order needs, as DPM-Solver's own code does: its
error falls like that of order 2. With a hundred evaluations it is a fifth of that, for "d" and "n"
alike; with twenty it is about three tenths, with ten it depends on the data.) What the network was
trained to name (the noise, the clean picture or the velocity) is another choice. Each of them
follows from any other, and this network has a head for each. On paper they are equal, in practice
they are not. A head for the noise that has learnt nothing makes the sampler draw noise. A head for
the clean picture that has learnt nothing returns the picture as it came, and whatever it learns is
a gain; so this one is used unless you choose another. (The heads for noise and velocity are built
alike, and agree.)

**What is new and what is not.** MRS-ODE-d-1 and MRS-ODE-n-1 are DDIM, MRS-ODE-d-2 is DPM-Solver++
2M, and MRS-SDE-d-1 is exactly *posterior sampling* with a stride: the last line of the classical
method, if its step is made as long as the distance to the next visited time. The released code
does not do that. Asked for 5 of 100 steps it visits 5 times and moves a hundredth of the way at
each, so most of the noise stays. Both are drawn here, "as released" and "strided", as two curves:
against the first the gain looks like ten to twenty times, against the second it is a few times.

**Posterior, Euler, ODE: what people ask.** "Posterior" draws the next state from its distribution
given the clean estimate; "Euler-Maruyama" takes plain steps of the reverse equation; "reverse ODE"
takes plain steps of the flow, and looks worst, since its steps bend most near the data.

**Where it breaks.** With "n", an error of the named noise grows by $e^h$ within a step. At 5
evaluations h reaches 4, and MRS-SDE-n explodes: the largest value of the result is printed before
it is clipped. And quality is bounded by the network: this one is small, knows four kinds of damage
made by formulas, and was trained for minutes of one processor core on nine photographs and on
drawings. It takes back low light and most of the rain, fills scribbles in part, and hardly touches
noise.

**What was measured here, and what was not found.** The promise is ten to twenty times fewer
evaluations at equal quality. With ten evaluations each, MRS-ODE-d-2 is far above the sampler as
released; but it does not reach the PSNR that the released one has with a hundred, and the strided
one is above it at every count that was tried. The paper finds "d" steadier than "n"; for the flow
of this network "n" came out a little higher. Highest of all is the first clean estimate, one
evaluation and no walk: a walk ends at one of the pictures that fit, PSNR favours their average, and
a network of this size adds a little error at each step. The figures lie beside the claim.

**Where paper and code differ.** Step N - 1 of a run below ten steps is of first order while the
last one is of second; we follow the code. An order above the number of steps wraps around there; we
use the order that the history allows. Times between table entries: the code interpolates
$\alpha$, $\sigma$ and $\lambda$ apart, so that they contradict one another there; we interpolate
$\ln \alpha$ alone. *Tables read* switches between the two. The released Heun
divides by the wrong level; ours is the right one. Noise is counted from $\sigma_\infty$, not
$\sigma_T$. The schedule is stored with the weights, because another one costs decibels.

**Any size.** `restore` cuts a picture into overlapping tiles. Noise belongs to the place in the
picture, so neighbouring tiles start alike and blend.
"""

from dataclasses import dataclass

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

TASKS = {
    "noise": "noise",
    "rain": "rain",
    "inpaint": "scribbles",
    "low_light": "low light",
}
"""Kinds of damage that can be done to a picture here, by the name the network knows."""

UNKNOWN = "unknown"
"""The task of a picture that was damaged before it came here."""

SPACINGS = {
    "auto": "as published: even in t for flows, in lambda for SDE",
    "linspace": "linspace: even in t",
    "linear-lambda": "linear-lambda: even in log signal-to-noise",
    "karras-n": "karras-n: by noise level, rho 7",
    "karras-t": "karras-t: by time, rho 7; stops at t = 1",
    "leading": "leading: begins below T",
    "trailing": "trailing: stops above 0",
}

TABLES = {
    "ln alpha": "ln α alone, the others from it",
    "released": "α, σ and λ apart, as released",
}
"""How the tables of the process are read at times between their entries."""

AUTO = "auto"
"""Fit target: the clean picture where the network was trained to say it, else what it says."""

FIT_TARGETS = {"noise": "the noise", "data": "the clean picture", "velocity": "the velocity"}
"""What a network may have been trained to say, by the published names."""

SIDE = 128


@dataclass(frozen=True)
class Example:
    """A picture to try; `place` is the corner (x, y) of its square in a photograph."""

    title: str
    place: tuple[int, int] | None = None


EXAMPLES = {
    "chelsea": Example("a cat", (100, 40)),
    "flower": Example("a dahlia", (120, 60)),
    "rocket": Example("a rocket", (130, 60)),
    "camera": Example("a photographer", (60, 20)),
    "house": Example("a drawing"),
}


@dataclass(frozen=True)
class Method:
    """A way to sample: title, name in the registry of solvers, and what it stands for here."""

    title: str
    solver: str
    is_rival: bool = False
    is_released: bool = False


METHODS = {
    **{
        f"mrs_{kind.lower()}_{value}_{order}": Method(
            f"MRS-{kind}-{value}-{order}", f"mrs_{kind.lower()}_{value}_{order}"
        )
        for kind in ("ODE", "SDE")
        for value in ("d", "n")
        for order in (1, 2)
    },
    "mrs_ode_d_3": Method("MRS-ODE-d-3", "mrs_ode_d_3"),
    "mrs_ode_n_3": Method("MRS-ODE-n-3", "mrs_ode_n_3"),
    "posterior_released": Method("Posterior, as released", "posterior_released", True, True),
    "posterior_strided": Method("Posterior, strided", "ancestral", True),
    "euler_released": Method("Euler-Maruyama, as released", "euler_maruyama_released", True, True),
    "euler_strided": Method("Euler-Maruyama, strided", "euler_maruyama", True),
    "reverse_ode": Method("IR-SDE reverse ODE, Euler", "euler_t", True),
    "heun": Method("Heun", "heun", True),
}

CARD = MethodCard(
    title="MR sampler",
    family=Family.SAMPLE,
    paper=Paper(
        "MRS: A Fast Sampler for Mean Reverting Diffusion based on ODE and SDE Solvers",
        "Li, Fang, Zhao, Lu, Yang, Xu",
        2025,
        "https://arxiv.org/abs/2502.07856",
        "https://github.com/grrrute/mr-sampler",
    ),
    undoes="Noise, rain, scribbles or darkness on a picture, in few network evaluations.",
    exactness=Exactness.APPROXIMATE,
    headline=Headline(
        paper=(
            "Restoration by mean-reverting diffusion needs 10 to 20 times fewer evaluations at "
            "equal quality."
        ),
        verdict="in part",
        here=(
            "At ten evaluations MRS is far ahead of the released sampler. It stays behind that "
            "sampler at a hundred, one evaluation scores higher still in PSNR, and a stride does "
            "as well."
        ),
    ),
    claim=Claim(
        "On held-out pictures with four kinds of damage, at 10 network evaluations, MRS-ODE-d-2 is "
        "at least 3 dB nearer to the original than the posterior sampler as released; the same "
        "sampler with a stride does no worse than MRS-ODE-d-2.",
        "PSNR of MRS-ODE-d-2 at 10 NFE, dB",
        "PSNR of the released posterior sampler at 10 NFE, dB",
        "higher",
        3.0,
        "difference",
    ),
    models=("mr-restore",),
    budget=Budget(12.0, 4.0),
    shows=(
        "engine.diffusion.solvers:multistep",
        "engine.diffusion.mean_reverting:Schedule",
        "engine.sampling.mr_sampler.restoring:Restorer",
        "run",
        "engine.sampling.mr_sampler.tiles:PlacedNoise",
    ),
    actions=(
        Action(
            "run",
            {
                "methods": ["mrs_ode_d_2", "posterior_released"],
                "nfe": 2,
                "curve": [2],
                "task": "rain",
            },
            {"nfe": 0},
        ),
        Action(
            "restore",
            {"example": "house", "task": "noise", "nfe": 1, "tile": 96, "overlap": 16},
            {"tile": 3},
        ),
    ),
    golden=("mrs_solver", "mrs_schedules", "mrs_baseline_steps", "mrs_released"),
)

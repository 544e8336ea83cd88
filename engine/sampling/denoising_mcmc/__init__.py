r"""Start a sampler where the data are near, not in pure noise: let a Markov chain find such places.

A score network knows the data at every noise level $\sigma$ from 0.01 to 50. A sampler that begins
at 50 spends most of its steps where nothing can be seen yet. Denoising MCMC begins at a state of a
chain over *pairs* of a picture and its noise level, with the target

$$p(x, \sigma) = p_\sigma(x)\,p(\sigma), \qquad p_\sigma = p_{data} * N(0, \sigma^2 I),$$

and $p(\sigma)$ uniform on a list of levels. One transition takes one step of Langevin at the
present level, $x \leftarrow x + \tfrac{\eta}{2} s(x,\sigma) + \sqrt{\eta}\,z$, and then a new level
for this $x$: a small classifier says how noisy the picture is. That is one evaluation of the score.
At small levels the chain is close to the data; through large ones it gets from mode to mode.

To make a sample, take `n_skip` transitions, hand the state with the *least* noise among them to any
integrator, let it go from that level to none, and finish with one step of Tweedie's formula. The
chain goes on from where it was. So

$$NFE = n_{skip} + n_{integrator} + 1,$$

against an integrator from $\sigma = 50$ that gets all of it. What the chain spends before its
first sample (37 evaluations for its first state, and the burn-in) is *not* in this number; the
panel shows it apart. The classifier's calls are no evaluations of the score either; they are shown
in milliseconds.

**Where it helps.** With the deterministic Heun integrator and about 10 evaluations: from 50 its few
giant steps miss the data, from a level near 1 they do not. The gain fades as the NFE grow and is
gone at about 40.

**Where it does not.** Reverse diffusion and ancestral sampling are as good from pure noise. And the
chain has its price: the samples of one chain are not independent. A small $\eta$ stays close to the
data, so single samples are better, but it leaves its mode rarely, and the modes are visited in the
wrong shares; a large one mixes and hands over noisier states. The eta tab draws both. In few
dimensions a state does not tell its level: draw the level from the posterior there; in pictures the
posterior is almost a point, and the published argmax is the same.

How we differ from the notebook: ancestral steps of a level for each sample, which crash there, are
done; a state that is not finite stays where it was and is counted; Heun on fewer than four levels,
one giant step, is refused. Errors have intervals over chains, not over samples.

Reference: Kim and Ye, Denoising MCMC for Accelerating Diffusion-Based Generative Models, ICML 2023,
arXiv:2209.14593.
"""

from engine.core.catalog import (
    ROOT,
    Action,
    Budget,
    Claim,
    Exactness,
    Family,
    Headline,
    MethodCard,
    Paper,
)

NETWORKS = ("score-ve", "score-readers")
"""Made by engine.zoo.score, for the picture tab; without them the plane is shown alone."""
HERE = all((ROOT / "assets" / "models" / key / "card.json").is_file() for key in NETWORKS)

INTEGRATORS = {
    "kar1": "KAR1: Heun, deterministic",
    "kar2": "KAR2: Heun with churn",
    "em": "EM: Euler-Maruyama",
    "rd": "RD: reverse diffusion",
    "as": "AS: ancestral",
    "ode": "ODE: RK45",
}
PICKS = {"draw": "drawn from its posterior", "argmax": "the most probable one"}

WITH_NETWORKS = (Action("pictures", {"count": 1, "nfe": 8, "burn_in": 2}, {"eta": 0.0}),)

CARD = MethodCard(
    title="Denoising MCMC",
    family=Family.SAMPLE,
    paper=Paper(
        "Denoising MCMC for Accelerating Diffusion-Based Generative Models",
        "Kim, Ye",
        2023,
        "https://arxiv.org/abs/2209.14593",
        "https://github.com/1202kbs/DMCMC",
    ),
    undoes="The last, small noise on a sample that a Markov chain has brought close to the data.",
    exactness=Exactness.IN_DISTRIBUTION,
    headline=Headline(
        paper=(
            "Ten evaluations give pictures that other samplers need hundreds for, because the "
            "chain hands over states that are nearly clean."
        ),
        verdict="in part",
        here=(
            "At ten evaluations the chain brings four integrators of six nearer to the data, "
            "leaves one as it is and sets the adaptive flow back; at forty pure noise is nearer "
            "with all six. The burn-in is counted apart. No FID: the data is known exactly."
        ),
    ),
    claim=Claim(
        "On 8 x 8 pictures of 32 known modes, at 10 evaluations a sample in all, what "
        "deterministic Heun makes of states of the chain lies less than two thirds as far from the "
        "data as what it makes of pure noise; the burn-in is counted apart.",
        "sliced Wasserstein distance from the data, from the chain",
        "from pure noise",
        "lower",
        1.5,
    ),
    models=NETWORKS[:1] if HERE else (),
    budget=Budget(5.0, 3.0),
    shows=(
        "engine.diffusion.chain:langevin_gibbs",
        "engine.diffusion.chain:hand_over",
        "engine.sampling.denoising_mcmc.integrators:way_of",
        "engine.sampling.denoising_mcmc.sampler:finish_from",
    ),
    actions=(
        Action(
            "run",
            {"chains": 8, "rounds": 2, "burn_in": 4, "compare": False},
            {"integrator": "magic"},
            on_model=False,
        ),
        Action("eta", {"chains": 4, "rounds": 3, "burn_in": 3}, {"nfe": 4}, on_model=False),
        *(WITH_NETWORKS if HERE else ()),
    ),
    golden=("dmcmc_chain",),
)

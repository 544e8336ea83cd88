"""What our sampling loops cost beside published ones, with a network that computes almost nothing.

    for race in RACES:
        race.ratio()        processor seconds of ours over theirs, 1 where both cost the same
        race.gap()          how far the two results lie apart, relative to the largest number

The baselines are transcriptions of k-diffusion's samplers (Crowson 2022: levels are tensors of no
dimension, as there) and of the predictor-corrector sampler of score_sde_pytorch (Song et al. 2021:
one time a sample, the wrapper of the network included). Both sides draw from torch's global
generator, in the same order, so that their results must agree to round-off.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.bars import Bar
from engine.diffusion import grids, schedules
from engine.diffusion.denoiser import Model
from engine.diffusion.predictors import released_grid
from engine.diffusion.solvers import run

SHAPE, STEPS, LIMIT = (1, 4, 64, 64), 40, 1.3
REPEATS, AT_ONCE = 15, 4
EPS = 1e-3
EDM, VE, VP = schedules.edm(), schedules.ve(t_min=0.0), schedules.vp()
Denoiser = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Race:
    """Our loop and the published one, from one starting state each."""

    name: str
    ours: Callable[[Tensor], Tensor]
    theirs: Callable[[Tensor], Tensor]
    std: float

    def start(self) -> Tensor:
        return self.std * torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))

    def gap(self) -> float:
        found = []
        with torch.random.fork_rng(devices=[]):
            for loop in (self.ours, self.theirs):
                torch.manual_seed(7)
                found.append(loop(self.start()))
        return float((found[0] - found[1]).abs().max() / found[1].abs().max())

    def ratio(self) -> float:
        """The median over turns in which both run one after the other."""
        start, ratios = self.start(), []
        self.ours(start), self.theirs(start)
        for _ in range(REPEATS):
            spent = [_seconds(loop, start) for loop in (self.ours, self.theirs)]
            ratios.append(spent[0] / spent[1])
        return statistics.median(ratios)


def _seconds(loop: Callable[[Tensor], Tensor], start: Tensor) -> float:
    begun = time.process_time()
    for _ in range(AT_ONCE):
        loop(start)
    return time.process_time() - begun


def bars() -> Iterator[Bar]:
    """One bar a loop, on one thread; a result that differs fails whatever it cost."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for race in RACES:
            ratio, gap = race.ratio(), race.gap()
            yield Bar(
                f"our loop beside {race.name}, {STEPS} steps without a network",
                f"≤ {LIMIT:g} x its processor time, equal results",
                f"{ratio:.2f} x, {gap:.0e} apart",
                ratio <= LIMIT and gap < 1e-4,
                {"value": ratio, "limit": LIMIT, "gap": gap},
            )
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------------- ours


def drawn(like: Tensor, step: int, role: str = "step") -> Tensor:
    """The noise that published samplers draw: one stream of torch's own."""
    return torch.randn_like(like)


def denoise(x: Tensor, label: Tensor, **condition: Tensor) -> Tensor:
    """A clean estimate that costs next to nothing and depends on the level."""
    return x * (1 / (1 + label[0]))


def guess_noise(x: Tensor, label: Tensor, **condition: Tensor) -> Tensor:
    """The same as an estimate of the noise, or of a score once it is divided by the level."""
    return x * 0.5


def _ours(name: str) -> Callable[[Tensor], Tensor]:
    grid = grids.karras(EDM, STEPS, to_zero=True)
    return lambda x: run(name, Model(denoise, EDM, "x0", "sigma"), x, grid, drawn)


def _our_ve(x: Tensor) -> Tensor:
    """Reverse diffusion with Langevin corrections on the published table of levels."""

    def net(x: Tensor, label: Tensor, **condition: Tensor) -> Tensor:
        return -x / (label**2 + 0.25)[:, None, None, None]

    grid = released_grid(STEPS, 1e-5)
    model = Model(net, VE, "score", "sigma")
    return run("pc", model, x, grid, drawn, corrector="langevin", levels="released")


def _our_vp(x: Tensor) -> Tensor:
    """Euler-Maruyama with the published step."""
    grid = released_grid(STEPS, EPS)
    model = Model(guess_noise, VP, "eps", "999t")
    options = {"predictor": "euler_maruyama", "levels": "released"}
    return run("pc", model, x, grid, drawn, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- k-diffusion


def _k_diffusion(
    sampler: Callable[[Denoiser, Tensor, Tensor], Tensor],
) -> Callable[[Tensor], Tensor]:
    sigmas = torch.tensor(grids.karras(EDM, STEPS, to_zero=True).times, dtype=torch.float32)

    @torch.no_grad()
    def loop(x: Tensor) -> Tensor:
        return sampler(denoise, x, sigmas)

    return loop


def _slope(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    return (x - denoised) / sigma[(...,) + (None,) * (x.ndim - sigma.ndim)]


def k_euler(model: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """sample_euler, at churn 0."""
    ones = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * ones)
        d = _slope(x, sigmas[i], denoised)
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def k_heun(model: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """sample_heun, at churn 0."""
    ones = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * ones)
        d = _slope(x, sigmas[i], denoised)
        dt = sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] == 0:
            x = x + d * dt
        else:
            ahead = x + d * dt
            d_ahead = _slope(ahead, sigmas[i + 1], model(ahead, sigmas[i + 1] * ones))
            x = x + (d + d_ahead) / 2 * dt
    return x


def k_ancestral(model: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """sample_euler_ancestral, at eta 1."""
    ones = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * ones)
        squares = sigmas[i + 1] ** 2 * (sigmas[i] ** 2 - sigmas[i + 1] ** 2) / sigmas[i] ** 2
        up = min(sigmas[i + 1], squares**0.5)
        down = (sigmas[i + 1] ** 2 - up**2) ** 0.5
        x = x + _slope(x, sigmas[i], denoised) * (down - sigmas[i])
        x = x + torch.randn_like(x) * up
    return x


def k_dpmpp_2m(model: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """sample_dpmpp_2m."""
    ones, before = x.new_ones([x.shape[0]]), None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * ones)
        t, t_next = sigmas[i].log().neg(), sigmas[i + 1].log().neg()
        h = t_next - t
        ratio = t_next.neg().exp() / t.neg().exp()
        if before is None or sigmas[i + 1] == 0:
            x = ratio * x - (-h).expm1() * denoised
        else:
            r = (t - sigmas[i - 1].log().neg()) / h
            extended = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * before
            x = ratio * x - (-h).expm1() * extended
        before = denoised
    return x


# ---------------------------------------------------------------------- score_sde


def _column(values: Tensor) -> Tensor:
    return values[:, None, None, None]


@torch.no_grad()
def song_ve(x: Tensor) -> Tensor:
    """get_pc_sampler on VESDE: the Langevin corrector, then the reverse diffusion predictor."""
    low, high = 0.01, 50.0
    table = torch.exp(torch.linspace(torch.tensor(low).log(), torch.tensor(high).log(), STEPS))

    def score(x: Tensor, t: Tensor) -> Tensor:
        std = low * (high / low) ** t
        return -x / _column(std**2 + 0.25)

    for t in torch.linspace(1, 1e-5, STEPS):
        times = torch.ones(x.shape[0]) * t
        gradient, noise = score(x, times), torch.randn_like(x)
        of_gradient = gradient.reshape(len(x), -1).norm(dim=-1).mean()
        of_noise = noise.reshape(len(x), -1).norm(dim=-1).mean()
        size = (0.16 * of_noise / of_gradient) ** 2 * 2 * torch.ones_like(times)
        x = x + _column(size) * gradient + _column(torch.sqrt(size * 2)) * noise

        index = (times * (STEPS - 1)).long()
        sigma = table[index]
        below = torch.where(index == 0, torch.zeros_like(times), table[index - 1])
        f, g = torch.zeros_like(x), torch.sqrt(sigma**2 - below**2)
        mean = x - (f - _column(g) ** 2 * score(x, times))
        x = mean + _column(g) * torch.randn_like(x)
    return mean


@torch.no_grad()
def song_vp(x: Tensor) -> Tensor:
    """get_pc_sampler on VPSDE: the Euler-Maruyama predictor, no corrector."""
    low, high, dt = 0.1, 20.0, -1.0 / STEPS

    def score(x: Tensor, t: Tensor) -> Tensor:
        log_a = -0.25 * t**2 * (high - low) - 0.5 * t * low
        std = torch.sqrt(1.0 - torch.exp(2.0 * log_a))
        return -guess_noise(x, t * 999) / _column(std)

    for t in torch.linspace(1, EPS, STEPS):
        times = torch.ones(x.shape[0]) * t
        noise = torch.randn_like(x)
        beta = low + times * (high - low)
        drift, diffusion = -0.5 * _column(beta) * x, torch.sqrt(beta)
        drift = drift - _column(diffusion) ** 2 * score(x, times)
        mean = x + drift * dt
        x = mean + _column(diffusion) * (-dt) ** 0.5 * noise
    return mean


RACES = (
    Race("k-diffusion's Euler", _ours("euler"), _k_diffusion(k_euler), 80.0),
    Race("k-diffusion's Heun", _ours("heun"), _k_diffusion(k_heun), 80.0),
    Race("k-diffusion's Euler ancestral", _ours("ancestral"), _k_diffusion(k_ancestral), 80.0),
    Race("k-diffusion's DPM-Solver++ 2M", _ours("dpmpp_2m"), _k_diffusion(k_dpmpp_2m), 80.0),
    Race("score_sde's predictor-corrector (VE)", _our_ve, song_ve, 50.0),
    Race("score_sde's Euler-Maruyama (VP)", _our_vp, song_vp, 1.0),
)

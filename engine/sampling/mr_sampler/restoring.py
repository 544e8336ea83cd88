"""A restoration network on its path: what every solver of the interface needs to run."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.diffusion import solvers
from engine.diffusion.denoiser import Model
from engine.diffusion.grids import Grid
from engine.diffusion.mean_reverting import mrs_grid, released_grid
from engine.diffusion.noise import Noise, NoiseSource
from engine.diffusion.schedules import Path
from engine.diffusion.solvers import Step
from engine.models.restoration import KINDS, RestorationBundle, condition, network
from engine.sampling.mr_sampler import AUTO, METHODS

Pictures = Float[Tensor, "b 3 h w"]
Whole = Float[Tensor, "b 3 _ _"]


@dataclass(frozen=True)
class Restorer:
    """The network of one bundle, read as one fit target, on tables read in one way."""

    bundle: RestorationBundle
    fit_target: str = AUTO
    tables: str = "ln alpha"

    @property
    def reading(self) -> str:
        """The fit target, with what "auto" stands for."""
        if self.fit_target != AUTO:
            return self.fit_target
        return "data" if "data" in self.bundle.fit_targets else self.bundle.fit_targets[0]

    @property
    def path(self) -> Path:
        schedule = self.bundle.schedule
        return schedule.released_path if self.tables == "released" else schedule.path

    def model(self, mu: Pictures, task: str, whole: Whole | None = None) -> Model:
        """The network with the degraded pictures as anchor and its counter at zero.

        `whole` is the picture that `mu` is a part of, where the damage is read off the picture.
        """
        mu = mu.to(self.bundle.device)
        cond = condition(self.bundle, mu if whole is None else whole.to(mu), task)
        return Model(
            network(self.bundle, self.reading),
            self.path,
            KINDS[self.reading],
            "t",
            anchor=mu,
            cond={**cond, "mu": mu},
        )

    def start(self, mu: Pictures, noise: NoiseSource) -> Pictures:
        """Where sampling begins, centred: noise of the stationary level, not of s(T)."""
        like = torch.empty(mu.shape, device=self.bundle.device)
        return self.path.prior_std * noise(like, 0, "start")

    def grid(self, method: str, nfe: int, spacing: str = "auto") -> Grid:
        """The times of a method that may spend `nfe` evaluations.

        "auto" is what was published: equal steps in t for flows and baselines, in lambda for the
        stochastic MR samplers. The released baselines visit whole times and know no other.
        """
        about = METHODS[method]
        entry = solvers.find(about.solver)
        steps = entry.steps_for(nfe, to_zero=False)
        if about.is_released:
            return released_grid(self.path, steps)
        if spacing == "auto":
            spacing = "linear-lambda" if method.startswith("mrs_sde") else "linspace"
        return mrs_grid(self.path, spacing, steps)

    def walk(
        self,
        method: str,
        model: Model,
        z: Pictures,
        nfe: int,
        noise: NoiseSource,
        *,
        spacing: str = "auto",
    ) -> Iterator[Step]:
        """The steps of a method from z, through the one sampler interface."""
        if method not in METHODS:
            raise BadInput(f'There is no method "{method!s:.40}".', f"Choose {', '.join(METHODS)}.")
        name = METHODS[method].solver
        extends = name.startswith("mrs_") and solvers.find(name).order > 1
        options = {"taper": True} if extends else {}
        grid = self.grid(method, nfe, spacing)
        return solvers.solve(name, model, z, grid, noise, hook=None, **options)

    def restored(
        self, method: str, mu: Pictures, task: str, nfe: int, seed: int, **options: str
    ) -> tuple[Pictures, int]:
        """The end of a walk, not clipped, and the evaluations counted."""
        noise, model = Noise(seed), self.model(mu, task)
        z = self.start(mu, noise)
        for step in self.walk(method, model, z, nfe, noise, **options):
            z = step.z
        return model.place(z), model.nfe

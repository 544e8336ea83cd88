"""The job functions of the panel, by the names of its actions."""

from engine.sampling.denoising_mcmc.pictures import pictures
from engine.sampling.denoising_mcmc.plane import eta, run

__all__ = ["eta", "pictures", "run"]

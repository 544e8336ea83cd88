"""The job functions of the panel, by the names of its actions."""

from engine.sampling.score_sde.particles import sample
from engine.sampling.score_sde.pictures import control, draw, trip
from engine.sampling.score_sde.plane import run

__all__ = ["control", "draw", "run", "sample", "trip"]

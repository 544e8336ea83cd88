"""The job functions of the panel; each stands in a file of its own.

`run` learns a drawn curve and runs it back, `retrace` shows where that is stable, `gradients`
compares ways to a gradient, `series` forecasts with gaps, `brownian` asks for noise again,
`generate` imitates a random process, `formula` reads a field.
"""

from engine.networks.neural_de.brownian import brownian
from engine.networks.neural_de.drawing import run
from engine.networks.neural_de.gradients import gradients
from engine.networks.neural_de.sde import generate
from engine.networks.neural_de.series import series
from engine.networks.neural_de.stability import retrace
from engine.networks.neural_de.symbolic import formula

__all__ = ["brownian", "formula", "generate", "gradients", "retrace", "run", "series"]

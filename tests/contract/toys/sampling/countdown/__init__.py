"""Counting backwards.

Counting up loses nothing: each number knows the one before it. This method starts at the end and
subtracts one until it stands at the beginning. The steps are whole numbers, so the way back is
exact, bit for bit.
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

CARD = MethodCard(
    title="Countdown",
    family=Family.SAMPLE,
    paper=Paper("Counting down", "A. Nobody", 2026, "https://example.org/countdown"),
    undoes="Counting up.",
    exactness=Exactness.BITWISE,
    headline=Headline("It goes back.", "shown", "All of it."),
    claim=Claim("Counts at twice the rate of not counting.", "counts", "none", "higher", 2.0),
    models=(),
    budget=Budget(cpu_seconds=0.1, gpu_seconds=0.1),
    shows=("count_down", "Steps.back"),
    actions=(Action(quick={"start": 4}, bad={"start": 0}),),
    no_golden="Counting has no published code.",
)

"""A method that counts backwards; it stands for all others in tests of runners and command line."""

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
    undoes="counting up",
    exactness=Exactness.BITWISE,
    headline=Headline("Counting down counts.", "shown", "All of it."),
    claim=Claim("Counts better than not counting.", "counts", "no counts", "higher", 2.0),
    models=(),
    budget=Budget(cpu_seconds=1.0, gpu_seconds=2.0),
    shows=("run",),
    actions=(Action(), Action("twice")),
)

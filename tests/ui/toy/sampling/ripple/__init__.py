"""Ripples that spread from one point and gather again.

A wave $w = \\sin(k r - t)$ runs outward; with $t$ counted down it runs inward. It needs no model,
so that the frame can be tested in milliseconds.
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
    title="Ripple",
    family=Family.SAMPLE,
    paper=Paper("On water", "A. Tester", 2026, "https://example.org/water"),
    undoes="the spreading of a wave",
    exactness=Exactness.ROUND_OFF,
    headline=Headline("It goes back.", "shown", "All of it."),
    claim=Claim("A ripple gathers again.", "energy back", "energy lost", "higher", 2.0),
    models=("world",),
    budget=Budget(1.0, 1.0),
    shows=("ripple",),
    actions=(Action("run", {"word": "pond", "steps": 3}, {"word": "pond", "steps": 0}),),
    no_golden="there is nothing to compare with",
)

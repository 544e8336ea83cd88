"""placeholder"""

from dataclasses import dataclass

TASKS = {
    "noise": "noise",
    "blur": "motion blur",
    "rain": "rain",
    "inpaint": "scribbles",
    "low_light": "low light",
    "jpeg": "JPEG",
}
"""Kinds of damage that can be done to a picture here, by the name the network knows."""

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
    "posterior_released": Method("Posterior, as released", "posterior_released", True, True),
    "posterior_strided": Method("Posterior, strided", "ancestral", True),
    "euler_released": Method("Euler-Maruyama, as released", "euler_maruyama_released", True, True),
    "euler_strided": Method("Euler-Maruyama, strided", "euler_maruyama", True),
    "reverse_ode": Method("IR-SDE reverse ODE, Euler", "euler_t", True),
    "heun": Method("Heun", "heun", True),
}

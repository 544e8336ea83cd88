"""The job that reads a learned field as an expression.

A field is fitted to a path, states and slopes (y, f(y)) are sampled from it, and a short expression
is looked for in each component: by sparse regression over polynomials here, by genetic programming
where gplearn is installed. At last the constants are fitted once more, through the solver
(Kidger's thesis, section 6.1).
"""

import importlib
import importlib.util
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from torch import nn

from engine.core.errors import AssetMissing
from engine.core.job import Progress, Steps, relay
from engine.core.settings import OneOf, Range, Text
from engine.core.shapes import Array, Float, Tensor
from engine.networks import _solvers as solvers
from engine.networks._solvers import Times, reversible_heun
from engine.networks.neural_de import LONGEST_DRAWING, READERS, SPIRAL, SYSTEMS
from engine.networks.neural_de.drawing import fitted, points_of, resampled
from engine.networks.neural_de.fields import KNOWN, Learned, drawn_weights, undrawn
from engine.networks.neural_de.results import Formula

if TYPE_CHECKING:
    import sympy

STEPS, TOLERANCE, GENERATIONS = 64, 0.1, 12


@dataclass(frozen=True)
class System:
    """A known equation to read back: its rate, start, end of time and its components in words."""

    field: str
    rate: float
    start: tuple[float, float]
    end: float
    truth: tuple[str, str]


KNOWN_SYSTEMS: Mapping[str, System] = {
    "oscillator": System("decay", 0.15, (1.2, 0.0), 9.0, ("-0.15*x - y", "x - 0.15*y")),
    "lotka_volterra": System("lotka_volterra", 1.0, (1.6, 0.8), 7.0, ("x - x*y", "x*y - y")),
    "van_der_pol": System("van_der_pol", 1.0, (0.5, 0.0), 9.0, ("y", "-x + y - x^2*y")),
}


@dataclass(frozen=True)
class Term:
    """x^i y^j."""

    i: int
    j: int

    def of(self, y: Float[Tensor, "b 2"]) -> Float[Tensor, " b"]:
        return y[:, 0] ** self.i * y[:, 1] ** self.j

    def __str__(self) -> str:
        named = [f"{n}^{p}" if p > 1 else n for n, p in (("x", self.i), ("y", self.j)) if p]
        return "*".join(named) or "1"


TERMS = tuple(Term(i, total - i) for total in range(4) for i in range(total, -1, -1))


class Polynomial(nn.Module):
    """A field of few terms: coefficients `terms 2`, zero where `kept` is not."""

    def __init__(self, coefficients: Float[Tensor, "k 2"]) -> None:
        super().__init__()
        self.coefficients = nn.Parameter(coefficients.clone())
        self.register_buffer("kept", (coefficients != 0).to(coefficients.dtype))

    def forward(self, t: float, y: Float[Tensor, "b 2"]) -> Float[Tensor, "b 2"]:
        kept: Tensor = self.kept  # type: ignore[assignment]
        return torch.stack([term.of(y) for term in TERMS], 1) @ (self.coefficients * kept)

    def words(self) -> tuple[str, ...]:
        """Both components as sums."""
        table = (self.coefficients * self.kept).detach().numpy()  # type: ignore[operator]
        return tuple(_sum(table[:, axis]) for axis in (0, 1))

    @property
    def terms(self) -> int:
        return int(self.kept.sum())  # type: ignore[operator]


def _sum(coefficients: Float[Array, " k"]) -> str:
    parts = [
        f"{value:+.3g}" if str(term) == "1" else f"{value:+.3g}*{term}"
        for value, term in zip(coefficients, TERMS, strict=True) if value
    ]  # fmt: skip
    text = " ".join(f"{part[0]} {part[1:]}" for part in parts)
    return (
        text.removeprefix("+ ").replace("- ", "-", 1)
        if text.startswith("- ")
        else (text.removeprefix("+ ") or "0")
    )


def sparse(
    y: Float[Tensor, "n 2"], slopes: Float[Tensor, "n 2"], tolerance: float = TOLERANCE
) -> Float[Tensor, "k 2"]:
    """Coefficients of few polynomials: the one that is missed least is dropped, again and again.

    Until what is left would not explain the slopes to within `tolerance` of their size. (Stepwise
    regression as in Boninsegna, Nüske, Clementi, "Sparse learning of stochastic dynamical
    equations", 2018. On one closed orbit many polynomials say nearly the same, so large
    coefficients are no sign of what is needed, and thresholds on them keep the wrong ones.)
    """
    library = torch.stack([term.of(y) for term in TERMS], 1)
    found = torch.zeros(len(TERMS), 2, dtype=y.dtype)
    for axis in (0, 1):
        kept, wanted = list(range(len(TERMS))), slopes[:, axis]
        while len(kept) > 1:
            shorter = [[k for k in kept if k != dropped] for dropped in kept]
            best = min(shorter, key=lambda some: _unexplained(library[:, some], wanted))
            if _unexplained(library[:, best], wanted) > tolerance:
                break
            kept = best
        found[kept, axis] = _least_squares(library[:, kept], wanted)
    return found


def _least_squares(
    library: Float[Tensor, "n k"], wanted: Float[Tensor, " n"]
) -> Float[Tensor, " k"]:
    return torch.linalg.lstsq(library, wanted[:, None]).solution[:, 0]


def _unexplained(library: Float[Tensor, "n k"], wanted: Float[Tensor, " n"]) -> float:
    """The size of what these columns do not explain, as a share of the whole."""
    rest = wanted - library @ _least_squares(library, wanted)
    return float(rest.norm() / wanted.norm().clamp(min=1e-300))


# ---------------------------------------------------------------------- other readers


def genetic(
    y: Float[Array, "n 2"], slopes: Float[Array, "n 2"], seed: int
) -> Generator[int, None, tuple[str, ...]]:
    """An expression of each component by gplearn; yields after each generation.

    Raises `AssetMissing` where it is not installed.
    """
    found = _needed("gplearn.genetic", "gplearn").SymbolicRegressor
    told = []
    for axis in (0, 1):
        search = found(
            population_size=400, function_set=("add", "sub", "mul"), parsimony_coefficient=2e-3,
            const_range=(-2.0, 2.0), random_state=seed, feature_names=("x", "y"), n_jobs=1,
            warm_start=True,
        )  # fmt: skip
        for generation in range(1, GENERATIONS + 1):
            search.set_params(generations=generation)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own libraries about one another
                search.fit(y, slopes[:, axis])
            yield axis * GENERATIONS + generation
        told.append(str(search._program))
    return tuple(told)


def _needed(module: str, package: str):  # type: ignore[no-untyped-def]
    if importlib.util.find_spec(package) is None:
        raise AssetMissing(
            f"{package} is not installed on this server.",
            "Take sparse polynomials, or install what requirements-equations.txt names.",
        )
    return importlib.import_module(module)


def simplified(text: str) -> tuple[str, str]:
    """A prefix expression of gplearn, or plain algebra, multiplied out, and as LaTeX."""
    import sympy

    whole = sympy.expand(_algebra(text))
    short = whole.xreplace({n: sympy.Float(n, 3) for n in whole.atoms(sympy.Float)})
    return str(short).replace("**", "^"), sympy.latex(short)


def _algebra(text: str) -> "sympy.Expr":
    """An expression of x and y, in the prefix form of gplearn or as plain algebra."""
    import sympy

    names = {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
        "x": sympy.Symbol("x"), "y": sympy.Symbol("y"),
    }  # fmt: skip
    return sympy.sympify(text.replace("^", "**"), locals=names)


# ---------------------------------------------------------------------- the job


def formula(
    *,
    seed: int,
    source: Annotated[str, OneOf(SYSTEMS)] = "oscillator",
    drawing: Annotated[str, Text(LONGEST_DRAWING)] = SPIRAL,
    reader: Annotated[str, OneOf(READERS)] = "sparse",
    rounds: Annotated[int, Range(10, 2000, "300 take a few seconds.")] = 300,
    refit: Annotated[int, Range(0, 400, "Try 40.")] = 40,
) -> Steps[Formula]:
    """A field is fitted to a path, read as an expression, and its constants fitted again."""
    if reader != "sparse":
        _needed(reader, reader)
    path, end, truth = _path(source, drawing)
    total = rounds + refit + 2
    states, times = torch.from_numpy(path), Times.even(end, len(path) - 1)
    speed = float(states.diff(dim=0).norm(dim=1).sum()) / end
    with undrawn():
        field = Learned(2, 32, speed=speed).double()
    drawn_weights(field, seed, "weights")
    shown = Formula(source, reader, truth=truth, target=path)
    for done, loss in enumerate(fitted(field, states, times, rounds, seed), start=1):
        yield Progress(done, total, f"Fitting the field, {loss:.1e}", shown)
    y, slopes = _sampled(field, states)
    if reader == "sparse":
        found = Polynomial(sparse(y, slopes))
        words = found.words()
    else:
        words = yield from relay(
            genetic(y.numpy(), slopes.numpy(), seed),
            lambda done: Progress(rounds, total, f"Generation {done} of {2 * GENERATIONS}", shown),
        )
        found = polynomial_of([simplified(text)[0] for text in words])
    shown = _said(shown, words, found)
    yield Progress(rounds + 1, total, "Read", shown)
    shown = replace(shown, fit=_miss(found, times, states))
    for done in _refitted(found, times, states, refit):
        yield Progress(rounds + 1 + done, total, "Fitting its constants through the solver", shown)
    shown = _said(shown, found.words(), found)
    shown = replace(
        shown, refitted=_miss(found, times, states), trajectory=_solved(found, times, states)
    )
    return replace(shown, notes=tuple(_notes(shown)))


def _path(source: str, drawing: str) -> tuple[Float[Array, "n 2"], float, tuple[str, ...]]:
    if source == "drawing":
        return resampled(points_of(drawing), STEPS), 1.0, ()
    system = KNOWN_SYSTEMS[source]
    fine = Times.even(system.end, 16 * STEPS)
    known = KNOWN[system.field]
    start = torch.tensor([system.start], dtype=torch.float64)

    def slope(t: float, y: Tensor) -> Tensor:
        return known.slope(y, system.rate)

    states = [start, *solvers.solve(solvers.rk4, slope, fine, start)]
    return torch.cat(states[::16]).numpy(), system.end, system.truth


@torch.no_grad()
def _sampled(field: Learned, states: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
    """States on the path and between, where the field has learnt something."""
    y = torch.cat([states, (states[1:] + states[:-1]) / 2])
    return y, field(0.0, y)


def polynomial_of(expressions: Sequence[str]) -> Polynomial:
    """Expressions as coefficients of the polynomials here; higher terms are left out."""
    import sympy

    x, y = sympy.symbols("x y")
    table = torch.zeros(len(TERMS), 2).double()
    for axis, text in enumerate(expressions):
        whole = sympy.Poly(_algebra(text), x, y)
        for (i, j), value in whole.terms():
            if Term(i, j) in TERMS:
                table[TERMS.index(Term(i, j)), axis] = float(value)
    return Polynomial(table)


def _refitted(found: Polynomial, times: Times, states: Tensor, rounds: int) -> Iterator[int]:
    optimiser = torch.optim.Adam(found.parameters(), lr=4e-3)
    for done in range(1, rounds + 1):
        with torch.enable_grad():
            loss = (_states(found, times, states[:1]) - states[1:]).square().mean()
            if not bool(loss.isfinite()) or float(loss.detach()) > 1e6:
                return  # an expression that runs away has nothing to fit
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
        yield done


def _states(field: nn.Module, times: Times, start: Float[Tensor, "1 2"]) -> Float[Tensor, "n 2"]:
    sequence = reversible_heun(field, times, every=1, mode="plain")
    _, states = sequence((start, start.clone()))
    return torch.cat(states)


@torch.no_grad()
def _solved(found: Polynomial, times: Times, states: Tensor) -> Float[Array, "n 2"]:
    path = torch.cat([states[:1], _states(found, times, states[:1])]).numpy()
    return np.clip(np.nan_to_num(path, nan=1e3), -1e3, 1e3)


def _miss(found: Polynomial, times: Times, states: Tensor) -> float:
    """Root mean square distance of the solved expression from the path."""
    gap = _solved(found, times, states) - states.numpy()
    return float(np.sqrt((gap**2).sum(1).mean()))


def _said(shown: Formula, words: Sequence[str], found: Polynomial) -> Formula:
    both = [simplified(text) for text in words]
    return replace(
        shown, expressions=tuple(text for text, _ in both), latex=tuple(tex for _, tex in both),
        terms=found.terms,
    )  # fmt: skip


def _notes(shown: Formula) -> Iterator[str]:
    if shown.fit is not None and shown.fit > 100:
        yield "The first expression ran away from the path; its constants could not be fitted."
    if not shown.truth:
        yield "Nobody knows the equation of a drawn curve: this is the shortest that fits."
    yield "An expression holds where the path was. Outside it is a guess."

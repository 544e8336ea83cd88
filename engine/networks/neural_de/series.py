"""The job that forecasts an irregular series with a controlled equation and with a GRU."""

import datetime
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import torch
from torch import nn

from engine.core import rng
from engine.core.catalog import ROOT
from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Progress, Steps
from engine.core.settings import Range, Text
from engine.core.shapes import Array, Float, Tensor
from engine.networks._solvers import Times, reversible_heun
from engine.networks.neural_de import LONGEST_SERIES, paths
from engine.networks.neural_de.fields import drawn_weights, undrawn
from engine.networks.neural_de.results import Learner, Series, Window
from engine.reversible import Mode

LENGTH, AHEAD = 52, 13
"""Rows of a window that is read, and how many rows later the value lies that is asked for."""
BATCH, TESTED, LEAST_ROWS, MOST_ROWS = 32, 128, 100, 4000
STRIDE = 2
EXAMPLE = (
    "Write one row a line, for example: 1999.25 368.1; leave the value out where it is missing."
)


@dataclass(frozen=True)
class Rows:
    """A series: times that increase, values with NaN where nothing was observed."""

    title: str
    unit: str
    times: Float[Array, " n"]
    values: Float[Array, " n"]


def carbon_dioxide() -> Rows:
    """The shipped series, times in years. Raises `AssetMissing` where it does not lie here."""
    try:
        text = (ROOT / "assets" / "data" / "co2" / "weekly.json").read_text("utf-8")
    except OSError as error:
        raise AssetMissing("The series of Mauna Loa is not on this server.") from error
    found = json.loads(text)
    first = datetime.date.fromisoformat(found["first"])
    start = first.year + (first.timetuple().tm_yday - 1) / 365.25
    values = np.array([math.nan if v is None else v for v in found["values"]])
    times = start + np.arange(len(values)) * found["days_between"] / 365.25
    return Rows(found["title"], found["unit"], times, values)


def rows_of(text: str) -> Rows:
    """A visitor's series: a time and a value a line. Raises `BadInput` that names the row."""
    times, values = [], []
    for number, line in enumerate(text.strip().splitlines(), start=1):
        cells = line.replace(",", " ").replace(";", " ").replace("\t", " ").split()
        if number == 1 and cells and not _is_number(cells[0]):
            continue  # names of the columns
        if not 1 <= len(cells) <= 2 or not all(map(_is_number, cells)):
            raise BadInput(f'Row {number}, "{line[:40]}", is no time and value.', EXAMPLE)
        times.append(float(cells[0]))
        values.append(float(cells[1]) if len(cells) == 2 else math.nan)
    if len(times) > MOST_ROWS:
        raise BadInput(f"The series has {len(times)} rows; {MOST_ROWS} are taken.", "Thin it out.")
    paths.check_series(
        torch.tensor(times, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)[:, None]
    )
    if len(times) < LEAST_ROWS:
        raise BadInput(
            f"{len(times)} rows are too few to learn from: windows have {LENGTH}.",
            f"Give at least {LEAST_ROWS} rows.",
        )
    if np.nanstd(values) == 0:
        raise BadInput("All values are equal, so there is nothing to learn.", EXAMPLE)
    return Rows("Your series", "", np.array(times), np.array(values))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------------- windows


@dataclass(frozen=True)
class Windows:
    """Windows of a series: `x` is what was observed, `b n 2` of time and value (NaN where it was
    not), relative to the window's last observation `last` in units of `scale`; `y` is the change
    until `AHEAD` rows later. `ts` counts rows: a controlled equation does not mind how its path is
    timed, and the time itself is a channel."""

    ts: Float[Tensor, " n"]
    x: Float[Tensor, "b n 2"]
    seen: Float[Tensor, "b n 1"]
    y: Float[Tensor, " b"]
    last: Float[Tensor, " b"]
    scale: float

    def at(self, chosen: Tensor) -> "Windows":
        """Some of the windows."""
        return Windows(
            self.ts, self.x[chosen], self.seen[chosen], self.y[chosen], self.last[chosen],
            self.scale,
        )  # fmt: skip

    def control(self) -> Float[Tensor, "b n 3"]:
        """Filled channels: time, value, and how many observations there were until then."""
        filled = paths.filled(self.ts, self.x)
        return torch.cat([filled, self.seen.cumsum(1) / len(self.ts)], -1)


def windows_of(rows: Rows, ends: Sequence[int], missing: float, seed: int) -> Windows:
    """The windows that end at rows `ends`; of what was observed a share is dropped at random.

    The first row of a window and its last observation stay, so that all forecasters know where it
    starts and ends.
    """
    scale = np.nanstd(np.diff(rows.values[~np.isnan(rows.values)])) * math.sqrt(AHEAD)
    draw = np.random.default_rng((seed, 17))
    listed, last, wanted = [], [], []
    for end in ends:
        values = rows.values[end - LENGTH + 1 : end + 1].copy()
        observed = np.flatnonzero(~np.isnan(values))
        inner = observed[1:-1]
        values[inner[draw.random(len(inner)) < missing]] = np.nan
        last.append(values[observed[-1]])
        listed.append((values - last[-1]) / scale)
        wanted.append((rows.values[end + AHEAD] - last[-1]) / scale)
    span = rows.times[ends[0]] - rows.times[ends[0] - LENGTH + 1]
    ts = torch.linspace(0, 1, LENGTH)
    x = torch.tensor(np.array(listed)).float()
    clock = torch.tensor(
        np.array([rows.times[e - LENGTH + 1 : e + 1] - rows.times[e - LENGTH + 1] for e in ends])
    ).float() / float(span)
    return Windows(
        ts, torch.stack([clock, x], -1), (~x.isnan()).float()[..., None],
        torch.tensor(wanted).float(), torch.tensor(last).float(), float(scale),
    )  # fmt: skip


def split_of(rows: Rows) -> tuple[list[int], list[int]]:
    """Rows at which windows end: the first three quarters to learn from, later ones to test on,
    without a shared row. Windows begin and answers lie where something was observed."""
    known = ~np.isnan(rows.values)
    ends = [
        e for e in range(LENGTH - 1, len(known) - AHEAD)
        if known[e + AHEAD] and known[e - LENGTH + 1] and known[e - LENGTH + 1 : e + 1].sum() > 3
    ]  # fmt: skip
    border = int(0.75 * len(known))
    train = [e for e in ends if e + AHEAD < border]
    test = [e for e in ends if e - LENGTH + 1 >= border]
    if len(train) < 8 or not test:
        raise BadInput(
            "Too few stretches of the series were observed well enough to learn from.",
            f"Give more rows, or fewer gaps: windows have {LENGTH} rows, answers lie {AHEAD} on.",
        )
    return train, [test[int(i)] for i in np.linspace(0, len(test) - 1, min(TESTED, len(test)))]


# ---------------------------------------------------------------------- forecasters


class ControlledField(nn.Module):
    """f(z), a matrix `h c`: a step of the controlled equation is f(z) dX, as noise is in an SDE."""

    def __init__(self, size: int, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.Sequential(
            nn.Linear(size, width), nn.SiLU(), nn.Linear(width, size * channels), nn.Tanh()
        )

    def drift_and_diffusion(
        self, t: float, z: Float[Tensor, "b h"]
    ) -> tuple[Float[Tensor, "b h"], Float[Tensor, "b h c"]]:
        return torch.zeros_like(z), self.layers(z).reshape(len(z), z.shape[1], self.channels)


class Controlled(nn.Module):
    """A neural controlled differential equation: dz = f(z) dX, z_0 = l(X_0), answer m(z_N).

    Kidger, Morrill, Foster, Lyons, "Neural Controlled Differential Equations for Irregular Time
    Series", 2020, section 3. Solved by reversible Heun; X is the causal cubic.
    """

    def __init__(self, width: int, size: int = 16, channels: int = 3, mode: Mode = "plain") -> None:
        super().__init__()
        self.start, self.read = nn.Linear(channels, size), nn.Linear(size, 1)
        self.field, self.mode = ControlledField(size, width, channels), mode

    def forward(self, windows: Windows) -> Float[Tensor, " b"]:
        control = windows.control()
        knots = torch.linspace(0, 1, (LENGTH - 1) // STRIDE + 2)
        path = paths.Hermite(windows.ts, control).at(knots)
        times = Times.even(1.0, len(knots) - 1)
        sequence = reversible_heun(self.field, times, mode=self.mode, is_noisy=True)
        z = self.start(control[:, 0])
        (y, _), _ = sequence((z, z * 1.0), (path.diff(dim=1).transpose(0, 1),))
        answer: Tensor = self.read(y)[:, 0]
        return answer


class Recurrent(nn.Module):
    """A GRU that reads the held value, the time since the last row, and whether it was observed."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.cell, self.read = nn.GRU(3, size, batch_first=True), nn.Linear(size, 1)

    def forward(self, windows: Windows) -> Float[Tensor, " b"]:
        x, seen = windows.x, windows.seen
        place = torch.arange(LENGTH)[None, :, None] * seen.long()
        held = x[..., 1:].nan_to_num(0.0).gather(1, place.cummax(1).values)
        gaps = x[..., :1].diff(dim=1, prepend=x[:, :1, :1]) * LENGTH
        states, _ = self.cell(torch.cat([held, gaps, seen], -1))
        answer: Tensor = self.read(states[:, -1])[:, 0]
        return answer


def forecasters(width: int, seed: int) -> dict[str, nn.Module]:
    """Both learners, of about as many weights, drawn from the seed."""
    with undrawn():
        controlled = Controlled(width)
    drawn_weights(controlled, seed, "controlled")
    wanted = sum(p.numel() for p in controlled.parameters())
    size = max(4, round((math.sqrt(16**2 + 12 * (wanted - 1)) - 16) / 6))
    with undrawn():
        recurrent = Recurrent(size)
    generator = rng.generator(seed, "recurrent")
    with torch.no_grad():
        for p in recurrent.parameters():
            p.copy_((torch.rand(p.shape, generator=generator) * 2 - 1) / math.sqrt(size))
    return {"controlled": controlled, "recurrent": recurrent}


def repeated_year(rows: Rows, ends: Sequence[int]) -> Float[Array, " b"]:
    """The forecast of the calendar: the value a year before the answer, plus last year's rise.

    From the whole series, filled: it sees no dropped values, and is the mark to beat.
    """
    index = np.arange(len(rows.values))
    known = ~np.isnan(rows.values)
    whole = np.interp(index, index[known], rows.values[known])
    return np.array([whole[e + AHEAD - 52] + whole[e] - whole[e - 51] for e in ends])


# ---------------------------------------------------------------------- the job


def series(
    *,
    seed: int,
    rows: Annotated[str, Text(LONGEST_SERIES, advice="Thin the series out.")] = "",
    missing: Annotated[float, Range(0, 0.9, "0.5 drops every second value.")] = 0.5,
    rounds: Annotated[int, Range(2, 1000, "150 take some seconds.")] = 150,
    width: Annotated[int, Range(4, 64, "Try 24.")] = 24,
) -> Steps[Series]:
    """Two forecasters learn from windows with gaps, side by side, and are tested on later years."""
    given = rows_of(rows) if rows.strip() else carbon_dioxide()
    train_ends, test_ends = split_of(given)
    test = windows_of(given, test_ends, missing, seed + 1)
    learners = forecasters(width, seed)
    shown = Series(
        given.title, given.unit, len(given.values), float(np.isnan(given.values).mean()),
        learners=tuple(
            Learner(name, TITLES[name], sum(p.numel() for p in one.parameters()))
            for name, one in learners.items()
        ),
    )  # fmt: skip
    shown = replace(shown, window=_window(given, test_ends[0], test, {}))
    yield Progress(0, rounds, "Nothing learnt yet", shown)
    optimisers = {
        name: torch.optim.Adam(one.parameters(), lr=5e-3) for name, one in learners.items()
    }
    draw = np.random.default_rng((seed, 3))
    for done in range(1, rounds + 1):
        ends = [train_ends[int(i)] for i in draw.integers(len(train_ends), size=BATCH)]
        batch = windows_of(given, ends, missing, seed * 1000 + done)
        for name, one in learners.items():
            _learn(one, optimisers[name], batch, done / rounds)
        if done % max(1, rounds // 15) == 0 or done == rounds:
            shown = _tested(shown, learners, test, done)
        yield Progress(done, rounds, f"Round {done}", shown)
    guesses = {TITLES[name]: _guess(one, test, 0) for name, one in learners.items()}
    shown = replace(shown, window=_window(given, test_ends[0], test, guesses))
    compared = (*shown.learners, *_marks(given, test_ends, test))
    return replace(shown, learners=compared, notes=_notes(given, len(test_ends), compared))


TITLES = {"controlled": "controlled equation", "recurrent": "GRU"}


def _learn(one: nn.Module, optimiser: torch.optim.Optimizer, batch: Windows, share: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = 5e-3 * (0.1 + 0.9 * math.cos(share * math.pi / 2))
    with torch.enable_grad():
        loss = (one(batch) - batch.y).square().mean()
        optimiser.zero_grad()
        loss.backward()
    torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
    optimiser.step()


@torch.no_grad()
def _tested(shown: Series, learners: dict[str, nn.Module], test: Windows, done: int) -> Series:
    found = []
    for known in shown.learners:
        gap = (learners[known.name](test) - test.y).square().mean().sqrt()
        errors, steps = (*known.errors, float(gap) * test.scale), (*known.steps, done)
        found.append(replace(known, errors=errors, steps=steps))
    return replace(shown, learners=tuple(found))


@torch.no_grad()
def _guess(one: nn.Module, test: Windows, which: int) -> float:
    some = test.at(torch.tensor([which]))
    return float(one(some)[0]) * test.scale + float(test.last[which])


def _marks(rows: Rows, ends: Sequence[int], test: Windows) -> Iterator[Learner]:
    """Forecasts without learning."""
    truth = np.array([rows.values[e + AHEAD] for e in ends])
    yield Learner("stay", "no change", 0, (_rms(test.last.numpy() - truth),), (0,))
    if rows.unit == "ppm":
        error = _rms(repeated_year(rows, ends) - truth)
        yield Learner("calendar", "calendar: last year again", 0, (error,), (0,))


def _notes(rows: Rows, windows: int, learners: Sequence[Learner]) -> tuple[str, ...]:
    """What to believe."""
    best, second, *_ = sorted(learners, key=lambda one: one.errors[-1])
    said = (
        f"Best here: {best.title}, {best.errors[-1]:.2f} {rows.unit} on {windows} later windows; "
        f"{second.title} follows with {second.errors[-1]:.2f}.",
    )
    if rows.unit == "ppm":
        return (*said, "The calendar knows that a year has 52 weeks and sees all values.")
    return said


def _rms(gap: Float[Array, " b"]) -> float:
    return float(np.sqrt(np.mean(gap**2)))


def _window(rows: Rows, end: int, test: Windows, guesses: dict[str, float]) -> Window:
    """The first window of the test, with its two fills."""
    first = end - LENGTH + 1
    whole = rows.values[first : end + 1]
    kept = test.seen[0, :, 0].numpy() > 0
    times = rows.times[first : end + 1]
    ts, x = torch.from_numpy(times), torch.from_numpy(np.where(kept, whole, np.nan))[:, None]
    full = paths.filled(ts, x)
    q = torch.linspace(float(ts[0]), float(ts[-1]), 4 * LENGTH, dtype=ts.dtype)
    smooth = paths.Hermite(ts, full).at(q)[:, 0].numpy()
    order = np.maximum.accumulate(np.where(kept, np.arange(LENGTH), 0))
    held = whole[order][np.searchsorted(times, q.numpy(), side="right") - 1]
    return Window(
        times, np.where(kept, whole, np.nan), np.where(kept, np.nan, whole), q.numpy(), smooth,
        held, float(rows.times[end + AHEAD]), float(rows.values[end + AHEAD]),
        tuple(guesses.items()),
    )  # fmt: skip

"""What a network says about a noisy sample, in every coordinate, and the one counter of its calls.

Networks are trained to predict the clean sample, the noise, the score, v, or the velocity of the
path. With z = a x0 + s eps these are five linear readings of one pair (x0, eps):

    x0    clean sample                        eps   noise
    score = -eps / s                          v     = a p eps - (s / p) x0   (p = prior_std)
    u     = a' x0 + s' eps

`Pred` turns any of them into all. `Model` wraps a network so that solvers see only `Pred`, and it
alone counts evaluations, casts number formats, moves devices, guides and clips.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from engine.core.errors import SamplerError
from engine.core.shapes import Num, Shaped, Tensor
from engine.diffusion.schedules import Level, Path

Kind = Literal["x0", "eps", "score", "v", "u"]
KINDS = get_args(Kind)
TimeLabel = Literal["t", "999t", "sigma", "log_t", "index"]
Condition = Mapping[str, Tensor]


def spread(level: Level | Tensor, like: Num[Tensor, "b *d"]) -> float | Tensor:
    """A float64 number as it is; one number a sample as a tensor that broadcasts over `like`."""
    if isinstance(level, float) or np.ndim(level) == 0:
        return level if isinstance(level, Tensor) else float(level)
    real = like.real.dtype if like.is_complex() else like.dtype
    return torch.as_tensor(level, dtype=real, device=like.device).reshape(
        -1, *[1] * (like.ndim - 1)
    )


def has_zero(level: Level) -> bool:
    """Whether a level is 0, of any sample."""
    return not level if isinstance(level, float) else bool(np.any(np.equal(level, 0)))


def combine(*terms: tuple[Level | Tensor, Num[Tensor, "b *d"]]) -> Num[Tensor, "b *d"]:
    """Sum of coefficient times tensor; each coefficient is a number or one number a sample.

    A term whose number is 0 is left out, and one whose number is 1 is taken as it is.
    """
    total: Tensor | None = None
    for level, x in terms:
        if not isinstance(level, float):
            term = x * spread(level, x)
            total = term if total is None else total + term
        elif level == 0 and len(terms) > 1:
            continue
        elif total is None:
            total = x if level == 1 else x * level
        else:
            total = torch.add(total, x, alpha=level)
    return 0.0 * terms[0][1] if total is None else total


class System(NamedTuple):
    """At one time: z = a x0 + s eps, a prediction = p x0 + q eps, and the determinant of both."""

    a: Level
    s: Level
    p: Level
    q: Level
    det: Level

    @classmethod
    def at(cls, path: Path, kind: str, t: Level) -> "System":
        with np.errstate(divide="ignore", invalid="ignore"):
            a, s = path.a(t), path.s(t)
            p, q = _weights(path, t, kind)
            return cls(a, s, p, q, path.v_scale(t) if kind == "v" else a * q - s * p)

    @classmethod
    def at_each(cls, path: Path, kind: str, times: NDArray[np.float64]) -> "list[System]":
        """One for each time, computed at once."""
        columns = (np.broadcast_to(column, times.shape) for column in cls.at(path, kind, times))
        return [cls(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


class Pred:
    """A prediction at (z, t), readable as `.x0`, `.eps`, `.score`, `.v` and `.u`.

    z is centred on the anchor, and so is x0. Readings are computed when asked for, by solving

        z = a x0 + s eps,    value = p x0 + q eps    (p, q of the predicted kind).
    """

    def __init__(
        self,
        path: Path,
        z: Num[Tensor, "b *d"],
        t: Level,
        kind: str,
        value: Num[Tensor, "b *d"],
        system: System | None = None,
    ) -> None:
        if kind not in KINDS:
            raise SamplerError(f'Unknown kind of prediction "{kind}".', f"Use {', '.join(KINDS)}.")
        self.path, self.z, self.t, self.kind, self.value = path, z, t, kind, value
        self._at = system
        self._x0 = value if kind == "x0" else None
        self._eps = value if kind == "eps" else None

    @property
    def x0(self) -> Num[Tensor, "b *d"]:
        if self._x0 is None:
            _, s, _, q, det = self._solvable
            self._x0 = combine((q / det, self.z), (-s / det, self.value))
        return self._x0

    @property
    def eps(self) -> Num[Tensor, "b *d"]:
        if self._eps is None:
            a, _, p, _, det = self._solvable
            self._eps = combine((a / det, self.value), (-p / det, self.z))
        return self._eps

    @cached_property
    def score(self) -> Num[Tensor, "b *d"]:
        return self.value if self.kind == "score" else combine((-1 / self._system.s, self.eps))

    @property
    def v(self) -> Num[Tensor, "b *d"]:
        return self._read("v")

    @property
    def u(self) -> Num[Tensor, "b *d"]:
        return self._read("u")

    def _read(self, kind: str) -> Num[Tensor, "b *d"]:
        if kind == self.kind:
            return self.value
        p, q = _weights(self.path, self.t, kind)
        return combine((p, self.x0), (q, self.eps))

    @property
    def _system(self) -> System:
        if self._at is None:
            self._at = System.at(self.path, self.kind, self.t)
        return self._at

    @property
    def _solvable(self) -> System:
        if has_zero(self._system.det):
            raise SamplerError(
                f'A prediction of kind "{self.kind}" says nothing about the rest at t = '
                f"{np.ravel(self.t)[0]:g}, where only noise or only signal is left.",
                "Begin a little later, or stop a little earlier.",
            )
        return self._system


def _weights(path: Path, t: Level, kind: str) -> tuple[Level, Level]:
    """Shares (p, q) of x0 and eps in a prediction of this kind."""
    match kind:
        case "x0":
            return 1.0, 0.0
        case "eps":
            return 0.0, 1.0
        case "score":
            return 0.0, -1 / path.s(t)
        case "v":
            return -path.s(t) / path.prior_std, path.a(t) * path.prior_std
        case _:
            return path.a_slope(t), path.s_slope(t)


@runtime_checkable
class Network(Protocol):
    """Takes noisy samples, one label a row, and the tensors of a condition by name."""

    def __call__(
        self, x: Num[Tensor, "b *d"], label: Shaped[Tensor, " b"], **condition: Tensor
    ) -> Num[Tensor, "b *d"]: ...


class Planned(NamedTuple):
    """What a call at one time of a planned walk needs: a label a row, on its device; the levels."""

    label: Tensor
    system: System


class Model:
    """A network on a path; `model(z, t)` gives a `Pred` and counts one evaluation.

    `nfe` counts evaluations a sample, `rows` the rows the network has seen. Guidance

        value = uncond + guidance (cond - uncond)

    is one call on a doubled batch: 1 evaluation and 2 rows a sample. `anchor` is y, added before
    the network is asked. `clip` bounds the clean estimate (with the anchor added). `dtype` and
    `device` are the network's; states keep their own. Gradients are off unless `grad` is set.
    """

    def __init__(
        self,
        net: Network,
        path: Path,
        kind: Kind = "eps",
        time: TimeLabel = "t",
        *,
        anchor: Num[Tensor, "b *d"] | None = None,
        guidance: float = 1.0,
        cond: Condition | None = None,
        uncond: Condition | None = None,
        clip: tuple[float, float] | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        grad: bool = False,
    ) -> None:
        if guidance != 1 and (cond is None or uncond is None):
            raise SamplerError(
                f"guidance {guidance:g} needs a conditional and an unconditional text.",
                "Give both, or set guidance to 1.",
            )
        self.net, self.path, self.kind, self.time = net, path, kind, time
        self.anchor, self.guidance, self.clip = anchor, guidance, clip
        self.dtype, self.device, self.grad = dtype, device, grad
        self.nfe = self.rows = 0
        self._joined: tuple[int, dict[str, Tensor]] | None = None
        self._plan: dict[tuple[torch.dtype, int, float], Planned] = {}
        self._conditions = [c or {} for c in ([uncond, cond] if guidance != 1 else [cond])]

    def plan(self, times: NDArray[np.float64], like: Num[Tensor, "b *d"]) -> None:
        """Compute levels and labels of all these times at once, before a walk over them.

        `like` is a state as the walk has them. A call at another time computes its own.
        """
        own_levels = times.ndim > 1 or np.ndim(self.path.s(self.path.t_max)) > 0
        if own_levels:
            self._plan = {}
            return
        with np.errstate(divide="ignore"):
            labels = self._label(times, like).to(self._device(like))
        rows = len(self._conditions) * like.shape[0]
        planned = map(
            Planned,
            labels[:, None].expand(-1, rows).unbind(),
            System.at_each(self.path, self.kind, times),
        )
        keys = ((labels.dtype, rows, t) for t in times.tolist())
        self._plan = dict(zip(keys, planned, strict=True))

    def __call__(self, z: Num[Tensor, "b *d"], t: Level) -> Pred:
        x = z if self.anchor is None else z + self.anchor
        rows = len(self._conditions) * x.shape[0]
        key = (self._label_dtype(x), rows, t) if isinstance(t, float) else None
        planned = self._plan.get(key) if key is not None else None
        label = self._labels(t, x) if planned is None else planned.label
        with nullcontext() if self.grad or not torch.is_grad_enabled() else torch.no_grad():
            value = self._guided(x, label).to(device=z.device, dtype=z.dtype)
        if self.kind == "x0" and self.anchor is not None:
            value = value - self.anchor
        pred = Pred(self.path, z, t, self.kind, value, planned and planned.system)
        return pred if self.clip is None else self._clipped(pred, *self.clip)

    def place(self, x0: Num[Tensor, "b *d"]) -> Num[Tensor, "b *d"]:
        """A centred sample as the network sees it, with the anchor added."""
        return x0 if self.anchor is None else x0 + self.anchor

    def _guided(self, x: Num[Tensor, "b *d"], label: Tensor) -> Num[Tensor, "b *d"]:
        copies = len(self._conditions)
        batch = x if copies == 1 else torch.cat([x] * copies)
        batch = batch.to(device=self.device, dtype=self.dtype)
        out = self.net(batch, label, **self._condition(x.shape[0]))
        self.nfe += 1
        self.rows += batch.shape[0]
        if copies == 1:
            return out
        uncond, cond = out.chunk(2)
        return uncond + self.guidance * (cond - uncond)

    def _condition(self, rows: int) -> dict[str, Tensor]:
        """Conditions side by side, a single row repeated for every sample; kept between calls."""
        if self._joined is None or self._joined[0] != rows:
            sides = self._conditions
            joined = {
                name: torch.cat([side[name].expand(rows, *side[name].shape[1:]) for side in sides])
                for name in sides[0]
            }
            self._joined = rows, joined
        return self._joined[1]

    def _labels(self, t: Level, x: Num[Tensor, "b *d"]) -> Shaped[Tensor, " rows"]:
        """One label a row of the network's batch, on its device."""
        label = self._label(t, x).to(self._device(x))
        return label.expand(len(self._conditions), x.shape[0]).reshape(-1)

    def _label(self, t: Level, x: Num[Tensor, "b *d"]) -> Shaped[Tensor, " *t"]:
        """The times in the network's own words, of the shape of t."""
        match self.time:
            case "t" | "index":
                label = t
            case "999t":
                label = 999 * np.asarray(t)
            case "sigma":
                label = self.path.s(t)
            case "log_t":
                label = np.log(t)
            case _:
                raise SamplerError(f'Unknown kind of time label "{self.time}".')
        return torch.as_tensor(np.array(label), dtype=self._label_dtype(x))

    def _label_dtype(self, x: Tensor) -> torch.dtype:
        # float64 states stay float64 for exact worlds; networks get the float32 they were made for
        wide = x.dtype in (torch.float64, torch.complex128) and self.dtype is None
        return torch.float64 if wide else torch.float32

    def _device(self, like: Tensor) -> torch.device:
        return like.device if self.device is None else torch.device(self.device)

    def _clipped(self, pred: Pred, low: float, high: float) -> Pred:
        x0 = self.place(pred.x0).clamp(low, high)
        x0 = x0 if self.anchor is None else x0 - self.anchor
        return Pred(self.path, pred.z, pred.t, "x0", x0)

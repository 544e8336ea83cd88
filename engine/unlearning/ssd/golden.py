"""The golden cases: arrays made by the published code of SSD, compared with what runs here.

    python -m pytest tests/unlearning -m golden

`ssd_cnn_f32` (tolerance 1e-6) and `ssd_mlp_f64` (1e-12): importances of both loaders, and the
weights after edits with three pairs of settings; the second has a ragged last batch and a parameter
that is never used. `ssd_mia_f64`: entropies, the logistic regression (1e-6), the share (exact), and
ZRF (1e-10). Made with the official `ParameterPerturber` and metric functions.
"""

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from engine.core.golden import Arrays, Check, Golden, apart, check_all
from engine.core.job import Steps, finish
from engine.core.shapes import Float, Tensor
from engine.unlearning import _membership as membership
from engine.unlearning._dampening import Dampening
from engine.unlearning._importance import Importance, Provenance, Streaming, stream
from engine.unlearning._losses import Batch, classification

FILES = ("ssd_cnn_f32", "ssd_mlp_f64", "ssd_mia_f64")


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


class Cnn(nn.Module):
    """Convolution, batch norm, ReLU, mean over places, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Float[Tensor, "b 2 h w"]) -> Float[Tensor, "b 3"]:
        return self.fc(torch.relu(self.bn(self.conv(x))).mean((2, 3)))


class Mlp(nn.Module):
    """Two linear layers and a parameter that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        self.fc1 = nn.Linear(6, 5, dtype=torch.float64)
        self.fc2 = nn.Linear(5, 3, dtype=torch.float64)

    def forward(self, x: Float[Tensor, "b 6"]) -> Float[Tensor, "b 3"]:
        return self.fc2(torch.tanh(self.fc1(x)))


def network(arrays: Arrays) -> nn.Module:
    """The network of a file with its first weights."""
    model = Cnn() if "w0.conv.weight" in arrays else Mlp()
    state = {k[3:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("w0.")}
    model.load_state_dict(OrderedDict(state))
    return model.eval()


def batches(arrays: Arrays, places: np.ndarray) -> Iterator[Batch]:
    """The samples at these places in batches, in order."""
    size = int(arrays["batch_size"])
    for start in range(0, len(places), size):
        chosen = places[start : start + size]
        yield torch.from_numpy(arrays["X"][chosen]), torch.from_numpy(arrays["Y"][chosen])


def importances(arrays: Arrays, model: nn.Module) -> tuple[Importance, Importance]:
    """Of the forget set, and of the retain data followed by it."""
    forget = arrays["forget_mask"].nonzero()[0]
    full = np.concatenate([(~arrays["forget_mask"]).nonzero()[0], forget])
    told = Provenance("golden", unit="sorted", batch=int(arrays["batch_size"]))
    kind = next(model.parameters()).dtype
    how = Streaming(model, classification, told, accumulate=kind)
    return tuple(finish(stream(how, batches(arrays, part))) for part in (forget, full))  # type: ignore[return-value]


def _importances(arrays: Arrays) -> float:
    pair = zip(("IF", "ID"), importances(arrays, network(arrays)), strict=True)
    return max(
        apart(value, arrays[f"{role}.{name}"])
        for role, found in pair
        for name, value in found.values.items()
    )


def _edits(arrays: Arrays) -> float:
    model = network(arrays)
    forget, full = importances(arrays, model)
    state = model.state_dict()
    errors = []
    for j, (alpha, lam) in enumerate(zip(arrays["alpha"], arrays["lam"], strict=True)):
        edited = {**state, **Dampening(float(alpha), float(lam)).edit(state, forget, full)}
        truth = {k: v for k, v in arrays.items() if k.startswith(f"w{j + 1}.")}
        errors += [apart(edited[k.partition(".")[2]], v) for k, v in truth.items()]
    return max(errors)


def _selected(arrays: Arrays) -> float:
    """By how many the numbers of selected weights differ, in all."""
    forget, full = importances(arrays, network(arrays))
    errors = 0
    for j, alpha in enumerate(arrays["alpha"]):
        how = Dampening(float(alpha))
        count = sum(int(how.selected(f, full.values[n]).sum()) for n, f in forget.values.items())
        errors += abs(count - int(arrays["n_selected"][j]))
    return float(errors)


def _logits(arrays: Arrays) -> float:
    model = network(arrays)
    before = apart(model(torch.from_numpy(arrays["X"])).detach(), arrays["logits0"])
    edit = Dampening(float(arrays["alpha"][0]), float(arrays["lam"][0]))
    state = model.state_dict()
    model.load_state_dict({**state, **edit.edit(state, *importances(arrays, model))})
    return max(before, apart(model(torch.from_numpy(arrays["X"])).detach(), arrays["logits1"]))


def _probabilities(arrays: Arrays, name: str) -> Float[Tensor, "n k"]:
    return torch.from_numpy(arrays[name])


def _entropy(arrays: Arrays) -> float:
    return apart(membership.entropy(_probabilities(arrays, "p_forget")), arrays["entropy_forget"])


def _regression(arrays: Arrays) -> float:
    pair = (membership.entropy(_probabilities(arrays, n)) for n in ("p_retain", "p_test"))
    found = membership.Logistic.fit(*pair)
    truth = [float(arrays["coef"]), float(arrays["intercept"])]
    return apart([found.coefficient, found.intercept], truth)


def _share(arrays: Arrays) -> float:
    found = membership.attack(
        *(_probabilities(arrays, name) for name in ("p_retain", "p_test", "p_forget"))
    )
    return abs(found - float(arrays["mia"]))


def _zrf(arrays: Arrays) -> float:
    pair = (_probabilities(arrays, name) for name in ("p_forget", "p_gold"))
    return abs(membership.zero_retrain_forgetting(*pair) - float(arrays["zrf"]))


_NETWORKS: dict[str, tuple[Check, ...]] = {
    name: (
        ("importances of both loaders", tolerance, _importances),
        ("weights after three edits", tolerance, _edits),
        ("numbers of selected weights", 0.0, _selected),
        ("logits before and after", tolerance, _logits),
    )
    for name, tolerance in (("ssd_cnn_f32", 1e-6), ("ssd_mlp_f64", 1e-12))
}
CHECKS: dict[str, tuple[Check, ...]] = {
    **_NETWORKS,
    "ssd_mia_f64": (
        ("entropies", 1e-12, _entropy),
        ("logistic regression", 1e-6, _regression),
        ("membership", 0.0, _share),
        ("ZRF", 1e-10, _zrf),
    ),
}

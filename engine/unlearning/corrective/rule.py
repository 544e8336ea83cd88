"""The settings of the dampening, chosen without looking at what they are judged on.

For every alpha and lambda of a grid: 1 - accuracy on the flagged samples with their wrong labels,
plus accuracy on held-out retained samples. The largest sum wins; of equal ones the weaker edit.
The accuracy on flagged samples says nothing of those that were not found, and the held-out ones
carry whatever labels they were given: both are known to whoever repairs.

Ways that train can be chosen in the same way, over a grid of their own: `trained_best`.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

from torch import nn

from engine.core.job import relay
from engine.core.patch import State
from engine.core.precision import state_at_home
from engine.models.library import with_tensors
from engine.unlearning._baselines import Trained
from engine.unlearning._case import always, outputs
from engine.unlearning._dampening import Changed, Dampening, Ratios
from engine.unlearning._importance import Importance
from engine.unlearning._samples import Samples
from engine.unlearning.corrective.results import Tried, TriedWay

T = TypeVar("T")

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Of the weights that alpha selects. The scale of the ratio depends on how many samples are flagged
and how well they were learnt, which a grid of shares does not mind and one of alphas would."""
LAMBDAS = (0.1, 0.5, 1.0)
"""As shares of alpha, as in the published search; no selected weight keeps more than this."""
GRIDS: Mapping[str, tuple[Mapping[str, float], ...]] = {
    "CF": tuple({"rate": rate} for rate in (0.0025, 0.025, 0.1)),
    "SCRUB": tuple(
        {"alpha": a, "rate": r} for a in (0.001, 0.1, 1.0, 10.0) for r in (2.5e-3, 0.01)
    ),
    "BadT": tuple({"rate": rate, "share": 1.0} for rate in (1e-4, 1e-3, 1e-2)),
}
"""Of the ways that train. The publication searches SCRUB's alpha from 0.001 to 10 and leaves the
rates as they are. RewoD has nothing to choose."""
HELD_OUT = 800
TUNED_ON = "the flagged samples' wrong labels and held-out retained samples; no test data"


def grid(found: Ratios) -> tuple[Dampening, ...]:
    """21 settings for a distribution of I_f / I_D."""
    alphas = dict.fromkeys(found.alpha_for(share) for share in SHARES)
    return tuple(Dampening(a, share * a) for a in alphas if a > 0 for share in LAMBDAS)


def tried(
    model: nn.Module,
    importances: tuple[Importance, Importance],
    flagged: Samples,
    held_out: Samples,
    settings: Sequence[Dampening],
) -> Generator[tuple[Tried, ...], None, tuple[Tried, ...]]:
    """What the rule sees of each setting; yields as they come."""
    state: State = state_at_home(model.state_dict())
    editable = {name: state[name] for name in importances[0].values}
    found: tuple[Tried, ...] = ()
    for how in settings:
        tensors = how.edit(state, *importances)
        share = Changed.between(editable, tensors).share
        network = with_tensors(model, tensors)
        wrong, kept = yield from _accuracies(network, (flagged, held_out), found)
        found = (*found, Tried(how.alpha, how.lam, share, 1 - wrong, kept))
        yield found
    return found


def automatic(found: Sequence[Tried]) -> Tried:
    """The setting that the rule takes."""
    return max(found, key=lambda one: (round(one.score, 6), -one.changed_share))


def trained_best(
    train: Callable[[Mapping[str, float]], Trained],
    flagged: Samples,
    held_out: Samples,
    settings: Sequence[Mapping[str, float]],
) -> Generator[tuple[TriedWay, ...], None, tuple[nn.Module, tuple[TriedWay, ...]]]:
    """The network that the rule takes of those that `train` makes; yields what it has seen.

    Of equal ones the first wins. What is held out must not be trained on.
    """
    found: tuple[TriedWay, ...] = ()
    best: nn.Module | None = None
    for one in settings:
        network = yield from relay(train(one), always(found))
        wrong, kept = yield from _accuracies(network, (flagged, held_out), found)
        tried = TriedWay(one, 1 - wrong, kept)
        if all(tried.score > other.score for other in found):
            best = network
        found = (*found, tried)
        yield found
    assert best is not None
    return best, found


def _accuracies(
    network: nn.Module, sets: tuple[Samples, ...], shown: T
) -> Generator[T, None, list[float]]:
    rates = []
    for samples in sets:
        told = yield from relay(outputs(network, samples), always(shown))
        rates.append(float((told.argmax(1) == samples.labels).float().mean()))
    return rates

"""The settings of the dampening, chosen without looking at what they are judged on.

For every alpha and lambda of a grid: 1 - accuracy on the flagged samples with their wrong labels,
plus accuracy on held-out retained samples. The largest sum wins; of equal ones the weaker edit.
The accuracy on flagged samples says nothing of those that were not found, and the held-out ones
carry whatever labels they were given: both are known to whoever repairs.
"""

from collections.abc import Generator, Mapping, Sequence

from torch import nn

from engine.core.job import relay
from engine.core.patch import State
from engine.core.shapes import Tensor
from engine.models.library import with_tensors
from engine.unlearning._case import always, outputs
from engine.unlearning._dampening import Changed, Dampening, Ratios
from engine.unlearning._importance import Importance
from engine.unlearning._samples import Samples
from engine.unlearning.corrective.results import Tried

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
"""Of the weights that alpha selects. The scale of the ratio depends on how many samples are flagged
and how well they were learnt, which a grid of shares does not mind and one of alphas would."""
LAMBDAS = (0.1, 0.5, 1.0)
"""As shares of alpha, as in the published search; no selected weight keeps more than this."""
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
    state: State = model.state_dict()
    editable = {name: state[name] for name in importances[0].values}
    found: tuple[Tried, ...] = ()
    for how in settings:
        tensors = how.edit(state, *importances)
        share = Changed.between(editable, tensors).share
        wrong, kept = yield from _accuracies(model, tensors, (flagged, held_out), found)
        found = (*found, Tried(how.alpha, how.lam, share, 1 - wrong, kept))
        yield found
    return found


def automatic(found: Sequence[Tried]) -> Tried:
    """The setting that the rule takes."""
    return max(found, key=lambda one: (round(one.score, 6), -one.changed_share))


def _accuracies(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    sets: tuple[Samples, ...],
    shown: tuple[Tried, ...],
) -> Generator[tuple[Tried, ...], None, list[float]]:
    network = with_tensors(model, tensors)
    rates = []
    for samples in sets:
        told = yield from relay(outputs(network, samples), always(shown))
        rates.append(float((told.argmax(1) == samples.labels).float().mean()))
    return rates

"""What reversibility costs in exactness: the start, the way back, the gradients, by layer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F

from engine.core.precision import wide
from engine.core.reversible import RoundTrip, compare
from engine.core.shapes import Int, Tensor
from engine.networks._backbones import Batch, Classifier, Vanilla
from engine.networks._meft import MeftConfig, MeftEncoder, with_scales
from engine.networks._meft_models import Encoder
from engine.networks.meft.arms import ARMS, classifier
from engine.networks.meft.results import LayerError, Start
from engine.reversible import Mode, ReversibleSequence
from engine.reversible.sequence import Streams

LAMBDAS = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
FEW = 16  # examples that are walked back


def with_lambda(config: MeftConfig, value: float) -> MeftConfig:
    """The scale that shrinks in this variant, or both, set to `value`; a scale of 1 stays."""
    lam, beta = {1: (value, 1.0), 2: (1.0, value), 3: (value, value)}[config.variant]
    return with_scales(config, lam, beta)


def starts(
    encoder: Encoder, config: MeftConfig, batch: Batch, labels: Int[Tensor, " n"] | None, seed: int
) -> Iterator[Start]:
    """The start at every lambda, against the network as it was pre-trained, and what walking back
    loses there."""
    truth = features(encoder, batch)
    for value in LAMBDAS:
        changed = with_lambda(config, value)
        network = classifier(encoder.fork().backbone, ARMS["meft"], None, changed, seed).eval()
        with torch.no_grad():
            found = network(batch)
        lam, beta = changed.scales
        agreement = float(F.cosine_similarity(found, truth).mean())
        few = Batch(batch.tokens[:FEW], batch.mask[:FEW])
        pure, _ = inverse_errors(encoder, replace(changed, anchor_every=None), few, seed)
        anchored, _ = inverse_errors(encoder, changed, few, seed)
        accuracy = accuracy_of(encoder, found, labels)
        yield Start(lam, beta, agreement, accuracy, tuple(pure), tuple(anchored))


@torch.no_grad()
def features(encoder: Encoder, batch: Batch) -> Tensor:
    """The pooled output of the pre-trained network."""
    backbone = encoder.fork().backbone
    return Classifier(backbone, Vanilla(backbone.layers), None).eval()(batch)


def accuracy_of(encoder: Encoder, pooled: Tensor, labels: Int[Tensor, " n"] | None) -> float | None:
    """Of the head that was trained with the network, where there is one."""
    if encoder.head is None or labels is None:
        return None
    logits = F.linear(pooled, *encoder.head)
    return float((logits.argmax(-1) == labels).float().mean())


# ---------------------------------------------------------------------- the way back


def errors(
    encoder: Encoder, config: MeftConfig, batch: Batch, labels: Int[Tensor, " n"], seed: int
) -> tuple[tuple[LayerError, ...], RoundTrip]:
    """Errors of every layer in the number format of the streams, and the round trip with anchors
    of the first segment's streams."""
    inverse, _ = inverse_errors(encoder, replace(config, anchor_every=None), batch, seed)
    anchored, trip = inverse_errors(encoder, config, batch, seed)
    truth = adapter_gradients(encoder, config, batch, labels, "plain", seed)
    pure = adapter_gradients(
        encoder, replace(config, anchor_every=None), batch, labels, "reversible", seed
    )
    mended = adapter_gradients(encoder, config, batch, labels, "reversible", seed)
    found = tuple(
        LayerError(
            layer + 1,
            inverse[layer],
            anchored[layer],
            _apart(pure, truth, f"units.{layer}."),
            _apart(mended, truth, f"units.{layer}."),
        )
        for layer in range(len(inverse))
    )
    return found, trip


@torch.no_grad()
def inverse_errors(
    encoder: Encoder, config: MeftConfig, batch: Batch, seed: int
) -> tuple[list[float], RoundTrip]:
    """Relative error of the streams before each unit, walked back to from the next anchor above."""
    network = _meft(encoder, config, "reversible", None, seed)
    backbone = network.backbone
    x = backbone.embed(batch)
    mask = backbone.additive(batch.mask, x.dtype)
    body = network.body
    assert isinstance(body, MeftEncoder)
    sequence, start = body.sequence(), body.start(x, mask)
    there = [start, *(streams for _, streams in sequence.trace(start, (mask,)))]
    back = _walked_back(sequence, there, (mask,))
    pairs = [(there[2 * unit], back[2 * unit]) for unit in range(len(body.units))]
    found = [compare(a, b).relative_error for a, b in pairs]
    return found, compare(there[0], back[0], steps=len(sequence.steps))


def _walked_back(
    sequence: ReversibleSequence, there: Sequence[Streams], ctx: Streams
) -> list[Streams]:
    """The streams before each coupling as a backward pass sees them: exact at anchors."""
    count = len(sequence.steps)
    length = sequence.anchor_every or count
    back: list[Streams] = list(there)
    for first in range(0, count, length):
        last = min(first + length, count)
        part = ReversibleSequence(sequence.steps[first:last]).eval()
        for k, streams in part.trace(there[last], ctx, backward=True):
            back[first + k] = streams
    return back


def adapter_gradients(
    encoder: Encoder,
    config: MeftConfig,
    batch: Batch,
    labels: Int[Tensor, " n"],
    mode: Mode,
    seed: int,
) -> Mapping[str, Tensor]:
    """Gradients of all adapters of the cross-entropy, by name."""
    classes = int(labels.max()) + 1
    network = _meft(encoder, config, mode, max(classes, 2), seed)
    with torch.enable_grad():
        loss = F.cross_entropy(network(batch), labels)
        named = {n: p for n, p in network.body.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(loss, list(named.values()))
    return dict(zip(named, found, strict=True))


def _meft(
    encoder: Encoder, config: MeftConfig, mode: Mode, classes: int | None, seed: int
) -> Classifier:
    arm = replace(ARMS["meft"], mode=mode)
    return classifier(encoder.fork().backbone, arm, classes, config, seed).eval()


def _apart(found: Mapping[str, Tensor], truth: Mapping[str, Tensor], prefix: str) -> float:
    """Norm of the difference over the norm of the truth."""
    names = [name for name in truth if name.startswith(prefix)]
    gap = sum(float(wide(found[name] - truth[name]).square().sum()) for name in names)
    size = sum(float(wide(truth[name]).square().sum()) for name in names)
    return (gap / size) ** 0.5 if size else 0.0

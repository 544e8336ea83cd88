"""The golden cases: the authors' code in float64, compared with the one reversible sequence here.

    python -m pytest tests/networks -m golden

Three layers of BERT, width 16, adapters of rank 4, dropout 0, the last text padded. Values and
gradients within 1e-10; gradients of the arrays come from plain autograd, ours from walking back.
"""

import re
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F

from engine.core.golden import Arrays, Check, Golden, check_all, largest
from engine.core.job import Steps
from engine.core.shapes import Tensor
from engine.networks._backbones import Backbone, Batch, Classifier
from engine.networks._meft import MeftConfig, MeftEncoder
from engine.reversible import Mode

TOLERANCE = 1e-10


def run(*, seed: int = 0) -> Steps[Golden]:
    """Compare with every golden array. Nothing here is random; the seed is not used."""
    return (yield from check_all(CHECKS))


def network_of(arrays: Arrays, mode: Mode = "reversible") -> Classifier:
    """The network whose weights the arrays hold."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=24, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, num_labels=3, layer_norm_eps=1e-12,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = BertForSequenceClassification(config).double()
    state = {k.removeprefix("param/"): _tensor(arrays, k) for k in arrays if k.startswith("param/")}
    model.load_state_dict({k: v for k, v in state.items() if "adapter" not in k}, strict=True)
    meft = MeftConfig(
        int(arrays["arch"]),  # type: ignore[arg-type]
        float(arrays["lambda"]),
        float(arrays["beta"]),
        rank=4,
        anchor_every=None,
    )
    backbone = Backbone(model)
    encoder = MeftEncoder(backbone.layers, 16, meft, mode=mode).double()
    network = Classifier(backbone, encoder, 3).double()
    with torch.no_grad():
        for name, parameter in adapters(encoder).items():
            parameter.copy_(state[name])
        assert network.head is not None
        network.head.weight.copy_(state["classifier.weight"])
        network.head.bias.copy_(state["classifier.bias"])
    return network


def adapters(encoder: MeftEncoder) -> Mapping[str, Tensor]:
    """The adapters under the authors' names."""
    found = {}
    for name, parameter in encoder.named_parameters():
        if "adapter" not in name:
            continue
        layer, rest = re.fullmatch(r"units\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
        inside = "attention.output." if rest.startswith("attn_adapter") else ""
        found[f"bert.encoder.layer.{layer}.{inside}{rest}"] = parameter
    return found


def batch_of(arrays: Arrays) -> Batch:
    return Batch(_tensor(arrays, "input_ids"), _tensor(arrays, "attention_mask"))


@torch.no_grad()
def _streams(arrays: Arrays) -> float:
    """Both streams after every layer, in the order that the authors' code gives them names in."""
    network, batch = network_of(arrays), batch_of(arrays)
    body = network.body
    assert isinstance(body, MeftEncoder)
    x = network.backbone.embed(batch)
    mask = network.backbone.additive(batch.mask, x.dtype)
    start = body.start(x, mask)
    states = [start, *(s for _, s in body.sequence().trace(start, (mask,)))][::2]
    swaps = body.config.variant != 3
    worst = 0.0
    for layer, state in enumerate(states):
        h1, h2 = state[::-1] if swaps and layer % 2 else state
        worst = max(worst, largest(torch.cat([h1, h2], -1), arrays["streams"][layer]))
    return worst


@torch.no_grad()
def _output(arrays: Arrays) -> float:
    network, batch = network_of(arrays), batch_of(arrays)
    hidden = largest(network.hidden(batch), arrays["encoder_output"])
    return max(hidden, largest(network(batch), arrays["logits"]))


def _gradients(arrays: Arrays, mode: Mode) -> float:
    network = network_of(arrays, mode)
    with torch.enable_grad():
        loss = F.cross_entropy(network(batch_of(arrays)), _tensor(arrays, "labels"))
        assert isinstance(network.body, MeftEncoder)
        named = adapters(network.body)
        found = torch.autograd.grad(loss, list(named.values()))
    pairs = zip(named, found, strict=True)
    return max(largest(grad, arrays[f"grad/{name}"]) for name, grad in pairs)


def _tensor(arrays: Arrays, name: str) -> Tensor:
    return torch.from_numpy(arrays[name])


_CHECKS: tuple[Check, ...] = (
    ("both streams after every layer", TOLERANCE, _streams),
    ("encoder output and logits", TOLERANCE, _output),
    ("adapter gradients, plain", TOLERANCE, partial(_gradients, mode="plain")),
    ("adapter gradients, walking back", TOLERANCE, partial(_gradients, mode="reversible")),
)
CHECKS = {f"meft_meft{variant}": _CHECKS for variant in (1, 2, 3)}

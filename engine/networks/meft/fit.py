"""Will it fit? Bytes of a training step at real scale, computed on the meta device.

No weight is laid out and nothing is multiplied: the network is built on torch's meta device, where
tensors have shapes only, and the counters of `engine.reversible.memory` see every operation. Random
states of dropout, 5 kB for each coupling, are not in these figures.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.networks._backbones import Backbone, Batch, Classifier, DigitsBackbone
from engine.networks._meft import MeftConfig
from engine.networks._meft_models import Encoder
from engine.networks.meft.arms import ARMS, classifier, trained_parameters
from engine.networks.meft.results import ArmCost
from engine.reversible.memory import Cost, counting

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FLOAT = 4
ADAM_STATES = 2


@dataclass(frozen=True)
class Scale:
    """Sizes of a published model."""

    kind: str
    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    positions: int

    @property
    def longest(self) -> int:
        """Tokens of the longest text: RoBERTa counts its positions from 2."""
        return self.positions - 2 * (self.kind == "roberta")


# As their published configurations say.
SCALES: Mapping[str, Scale] = {
    "bert-base": Scale("bert", 12, 768, 12, 3072, 30522, 512),
    "roberta-large": Scale("roberta", 24, 1024, 16, 4096, 50265, 514),
    "opt-1.3b": Scale("opt", 24, 2048, 32, 8192, 50272, 2048),
}


def scale_named(name: str) -> Scale:
    """The sizes of a name. Raises `BadInput` that lists them."""
    if name not in SCALES:
        raise BadInput(
            f'There is no scale called "{str(name)[:40]}".', f"Choose {', '.join(SCALES)}."
        )
    return SCALES[name]


def config_of(scale: Scale) -> "PretrainedConfig":
    """The configuration in transformers' words."""
    from transformers import BertConfig, OPTConfig, RobertaConfig

    if scale.kind == "opt":
        made: PretrainedConfig = OPTConfig(
            vocab_size=scale.vocabulary, hidden_size=scale.width, word_embed_proj_dim=scale.width,
            num_hidden_layers=scale.layers, num_attention_heads=scale.heads, ffn_dim=scale.inner,
            max_position_embeddings=scale.positions,
        )  # fmt: skip
    else:
        made = (BertConfig if scale.kind == "bert" else RobertaConfig)(
            vocab_size=scale.vocabulary, hidden_size=scale.width, num_hidden_layers=scale.layers,
            num_attention_heads=scale.heads, intermediate_size=scale.inner,
            max_position_embeddings=scale.positions,
        )  # fmt: skip
    made._attn_implementation = "eager"
    return made


def like(encoder: Encoder, layers: int) -> "PretrainedConfig":
    """The encoder's configuration with another number of layers."""
    config = type(encoder.backbone.config).from_dict(
        {**encoder.backbone.config.to_dict(), "num_hidden_layers": layers}
    )
    config._attn_implementation = "eager"
    return config


def arm_cost(
    config: "PretrainedConfig", name: str, meft: MeftConfig, batch: int, tokens: int,
    told_so_far: Callable[[int], Progress], *, patches: bool = False,
) -> Steps[ArmCost]:  # fmt: skip
    """Bytes and operations of one step of an arm, at this batch and length.

    `told_so_far` makes a sentence of the number of operations while they are counted.
    """
    from transformers import AutoModel

    limit = int(config.max_position_embeddings)
    if tokens > limit:
        raise BadInput(
            f"This model reads at most {limit} tokens, not {tokens}.", "Take fewer tokens."
        )
    with torch.device("meta"):
        model = AutoModel.from_config(config)
        backbone = DigitsBackbone(model) if patches else Backbone(model)
        network = classifier(backbone, ARMS[name], 2, meft, 0).train()
        mask = torch.ones(batch, tokens, dtype=torch.long)
        shape = (batch, tokens, 4) if patches else (batch, tokens)
        read = Batch(torch.zeros(shape, dtype=torch.float32 if patches else torch.long), mask)
        labels = torch.zeros(batch, dtype=torch.long)
    inputs = [read.tokens, read.mask, labels]
    cost = yield from counting(lambda: _loss(network, read, labels), network, inputs, told_so_far)
    return told(name, cost, network)


def told(name: str, cost: Cost, network: Classifier) -> ArmCost:
    """The cost with what the whole training holds: weights, gradients, Adam's two moments."""
    trained = trained_parameters(network)
    weights = sum(p.numel() for p in network.parameters())
    held = FLOAT * (weights + (1 + ADAM_STATES) * trained)
    return ArmCost(
        name,
        ARMS[name].title,
        cost.kept_bytes,
        cost.peak_bytes,
        held + cost.peak_bytes,
        cost.flops,
        trained,
        cost.is_computed,
    )


def _loss(network: Classifier, batch: Batch, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(network(batch), labels)

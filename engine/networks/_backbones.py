"""Pre-trained transformers in one form: embedding, additive mask, layers, pooled output.

BERT, RoBERTa and OPT of transformers, by class of their modules; a digits network whose tokens are
patches of pixels. Everything between embedding and output goes through `engine.networks._meft`, so
full fine-tuning, LoRA and MEFT differ in nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from engine.core.errors import BadInput, ModelMismatch
from engine.core.shapes import Float, Int, Num, Tensor
from engine.networks._meft import Attention, FeedForward, Layer, pieces_of

Pool = Literal["first", "mean", "last"]


@dataclass(frozen=True)
class Batch:
    """Token ids, or patches of pixels; `mask` is 1 where there is something."""

    tokens: Num[Tensor, "b t *p"]
    mask: Int[Tensor, "b t"]

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(self.tokens.to(device), self.mask.to(device))


class Backbone(nn.Module):
    """A transformers model taken apart. Raises `ModelMismatch` for other architectures."""

    def __init__(self, model: nn.Module, *, pool: Pool | None = None) -> None:
        super().__init__()
        body: Any = _body(model)
        self.body = body
        config: Any = model.config
        self.config = config
        self.is_causal = hasattr(body, "layers")
        layers = body.layers if self.is_causal else body.encoder.layer
        self.layers: Sequence[nn.Module] = list(layers)
        has_pooler = getattr(body, "pooler", None) is not None
        self.pool_as: Pool = pool or (
            "last" if self.is_causal else "first" if has_pooler else "mean"
        )
        self.width = int(self.config.hidden_size)
        if getattr(self.config, "layerdrop", 0):
            # Which layers are left out would be drawn anew when they are computed again.
            self.config.layerdrop = body.layerdrop = 0.0

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def embed(self, batch: Batch) -> Float[Tensor, "b t h"]:
        """What goes into the first layer."""
        body = self.body
        if not self.is_causal:
            return body.embeddings(input_ids=batch.tokens)
        x = body.embed_tokens(batch.tokens)
        if body.project_in is not None:
            x = body.project_in(x)
        places = (batch.mask.cumsum(1) * batch.mask - 1).long()
        return x + body.embed_positions(batch.mask, 0, position_ids=places)

    def additive(self, mask: Int[Tensor, "b t"], dtype: torch.dtype) -> Float[Tensor, "b 1 q t"]:
        """0 where a token may look, the most negative number elsewhere. Not -inf: a row that may
        look nowhere would become NaN."""
        seen = mask[:, None, None, :].bool()
        if self.is_causal:
            t = mask.shape[1]
            past = torch.ones(t, t, dtype=torch.bool, device=mask.device).tril()
            seen = seen & past
        return (~seen).to(dtype) * torch.finfo(dtype).min

    def finish(self, x: Float[Tensor, "b t h"]) -> Float[Tensor, "b t w"]:
        """What comes after the last layer, if anything."""
        body = self.body
        for name in ("final_layer_norm", "project_out") if self.is_causal else ():
            last = getattr(body, name)
            x = x if last is None else last(x)
        return x

    def pool(self, x: Float[Tensor, "b t h"], mask: Int[Tensor, "b t"]) -> Float[Tensor, "b h"]:
        """One vector a text: the pooler's of the first token, the mean, or the last token's."""
        if self.pool_as == "first":
            pooler = getattr(self.body, "pooler", None)
            return x[:, 0] if pooler is None else pooler(x)
        if self.pool_as == "last":
            ends = mask.shape[1] - 1 - mask.flip(1).argmax(1)
            return x[torch.arange(len(x), device=x.device), ends]
        weight = mask[..., None].to(x)
        return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


class DigitsBackbone(Backbone):
    """Sixteen patches of 2 x 2 pixels in place of words: a Linear, and BERT's own embeddings."""

    def __init__(self, model: nn.Module, patch: int = 4) -> None:
        super().__init__(model, pool="mean")
        self.patches = nn.Linear(patch, self.width)

    def embed(self, batch: Batch) -> Float[Tensor, "b t h"]:
        return self.body.embeddings(inputs_embeds=self.patches(batch.tokens.float()))


class Vanilla(nn.Module):
    """The layers as they came, every one kept by autograd, or checkpointed."""

    def __init__(self, layers: Sequence[nn.Module], *, checkpointed: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(Attention(p), FeedForward(p)) for p in map(pieces_of, layers)
        )
        self.checkpointed = checkpointed

    def forward(
        self, x: Float[Tensor, "b t h"], mask: Float[Tensor, "b 1 q t"]
    ) -> Float[Tensor, "b t h"]:
        for layer in self.layers:
            if self.checkpointed and torch.is_grad_enabled():
                x = checkpoint(layer, x, mask, use_reentrant=False)
            else:
                x = layer(x, mask)
        return x


class Classifier(nn.Module):
    """Backbone, a body in place of its layers, and a linear head; `head` of None gives features."""

    def __init__(self, backbone: Backbone, body: nn.Module, classes: int | None) -> None:
        super().__init__()
        self.backbone, self.body = backbone, body
        self.head = None if classes is None else nn.Linear(_out_width(backbone), classes)

    def hidden(self, batch: Batch) -> Float[Tensor, "b t w"]:
        """The last hidden states."""
        x = self.backbone.embed(batch)
        return self.backbone.finish(self.body(x, self.backbone.additive(batch.mask, x.dtype)))

    def forward(self, batch: Batch) -> Float[Tensor, "b k"]:
        """Logits, or the pooled vectors where there is no head."""
        pooled = self.backbone.pool(self.hidden(batch), batch.mask)
        return pooled if self.head is None else self.head(pooled)


def _out_width(backbone: Backbone) -> int:
    if backbone.is_causal and backbone.body.project_out is not None:
        return int(backbone.config.word_embed_proj_dim)
    return backbone.width


def _body(model: nn.Module) -> nn.Module:
    """The part that holds embeddings and layers, whatever heads are around it."""
    if getattr(model.config, "is_decoder", False) and hasattr(model, "encoder"):
        raise BadInput(
            "A BERT that decodes keeps a cache between tokens, which training cannot walk back.",
            "Set is_decoder to false in its configuration.",
        )
    for path in ("", "bert", "roberta", "model.decoder", "decoder"):
        found: Any = model
        for name in filter(None, path.split(".")):
            found = getattr(found, name, None)
        is_bert = hasattr(getattr(found, "encoder", None), "layer") and hasattr(found, "embeddings")
        is_opt = hasattr(found, "layers") and hasattr(found, "embed_tokens")
        if is_bert or (is_opt and hasattr(found, "project_in")):
            return found
    raise ModelMismatch(
        f"MEFT cannot take a {type(model).__name__} apart.",
        "Bring a BERT, RoBERTa or OPT model in transformers layout.",
    )

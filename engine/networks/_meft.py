"""MEFT: a pre-trained transformer becomes a reversible one by adapters, without new pre-training.

Two streams h1 and h2 both start as the embedding. A unit of layer i, with F and G out of the frozen
layer and small adapters:

    h1 <- lam h1 + F(h2);   h2 <- beta h2 + G(h1)

    MEFT-1   F = the layer,      G = an adapter,         lam 0.1, beta 1;    then h1, h2 swap names
    MEFT-2   F = an adapter,     G = the layer,          lam 1,   beta 0.1;  then h1, h2 swap names
    MEFT-3   F = its attention,  G = its feed-forward,   lam 0.1, beta 0.1

The output is (h1 + h2) / 2. As lam goes to 0 and the adapters start near 0, one stream holds the
newest hidden state and the other the one before, so the network starts close to the pre-trained
one. Liao, Tan, Monz, "Make Your Pre-trained Model Reversible", NeurIPS 2023, section 4.

Walking back divides by lam at every layer: a contraction, which float32 cannot undo for many
layers. `anchor_every` keeps the streams at every so many couplings; "auto" asks `suggest_anchor`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.reversible import Coupling, Mode, ReversibleSequence, suggest_anchor
from engine.reversible.sequence import Streams

Variant = Literal[1, 2, 3]
Activation = Callable[[Tensor], Tensor]
DEFAULTS: dict[int, tuple[float, float]] = {1: (0.1, 1.0), 2: (1.0, 0.1), 3: (0.1, 0.1)}
# Upper estimate of the streams' relative error that anchors of "auto" allow; at this the adapters'
# gradients stay within 1e-4 of plain ones, as norms and residual sums take most of it back.
ANCHOR_ERROR = 2e-3
INIT_DEVIATION = 0.02


@dataclass(frozen=True)
class MeftConfig:
    """`lam` and `beta` of None are the variant's own. `reversible_layers` are the upper ones; those
    below stay frozen, as they are, and get no gradient. None means all of them.

    `anchor_every` counts couplings, two for each layer; None is the paper's pure form.
    """

    variant: Variant = 1
    lam: float | None = None
    beta: float | None = None
    rank: int = 8
    reversible_layers: int | None = None
    anchor_every: int | Literal["auto"] | None = "auto"
    norm_in_adapter: bool = False

    def __post_init__(self) -> None:
        if self.variant not in DEFAULTS:
            raise BadInput(f"There is no variant {self.variant} of MEFT.", "Choose 1, 2 or 3.")
        if 0 in self.scales:
            raise BadInput(
                "lam and beta cannot be 0: nothing of a stream would be left to come back.",
                "Take 0.1 and 1, as MEFT-1 does.",
            )
        if self.rank < 1:
            raise BadInput(f"rank must be at least 1, got {self.rank}.", "The paper takes 8.")

    @property
    def scales(self) -> tuple[float, float]:
        """lam and beta."""
        lam, beta = DEFAULTS[self.variant]
        return (lam if self.lam is None else self.lam), (beta if self.beta is None else self.beta)

    def anchor(self, layers: int) -> int | None:
        """Couplings between anchors, in whole layers; None where none is needed or wanted."""
        if self.anchor_every != "auto":
            return self.anchor_every
        couplings = 2 * layers
        found = suggest_anchor([*self.scales] * layers, tol=ANCHOR_ERROR)
        return None if found >= couplings else max(2, found // 2 * 2)


# ---------------------------------------------------------------------- pieces of a layer


class PostLnPieces(nn.Module):
    """A layer of BERT or RoBERTa, which normalises after the residual sum."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    @property
    def activation(self) -> Activation:
        """The model's own nonlinearity."""
        act: Activation = self.layer.intermediate.intermediate_act_fn
        return act

    @property
    def dropout(self) -> float:
        """The model's own rate."""
        return float(self.layer.output.dropout.p)

    def attend(
        self, x: Float[Tensor, "b t h"], mask: Float[Tensor, "b 1 q t"]
    ) -> Float[Tensor, "b t h"]:
        """The projected attention, without residual."""
        attention = self.layer.attention
        found = attention.self(x, attention_mask=mask)
        context = found[0] if isinstance(found, tuple) else found
        return attention.output.dropout(attention.output.dense(context))

    def after_attention(
        self, x: Float[Tensor, "b t h"], change: Float[Tensor, "b t h"]
    ) -> Float[Tensor, "b t h"]:
        return self.layer.attention.output.LayerNorm(change + x)

    def feed(self, u: Float[Tensor, "b t h"]) -> Float[Tensor, "b t h"]:
        """The feed-forward part, without residual."""
        output = self.layer.output
        return output.dropout(output.dense(self.layer.intermediate(u)))

    def after_feed(
        self, u: Float[Tensor, "b t h"], change: Float[Tensor, "b t h"]
    ) -> Float[Tensor, "b t h"]:
        return self.layer.output.LayerNorm(change + u)


class OptPieces(nn.Module):
    """A layer of OPT: norms before each part, or after it in the 350M model."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    @property
    def activation(self) -> Activation:
        """The model's own nonlinearity."""
        act: Activation = self.layer.activation_fn
        return act

    @property
    def dropout(self) -> float:
        """The model's own rate."""
        return float(self.layer.dropout)

    def attend(
        self, x: Float[Tensor, "b t h"], mask: Float[Tensor, "b 1 q t"]
    ) -> Float[Tensor, "b t h"]:
        layer = self.layer
        normed = layer.self_attn_layer_norm(x) if layer.do_layer_norm_before else x
        found = layer.self_attn(hidden_states=normed, attention_mask=mask)
        return self._dropped(found[0] if isinstance(found, tuple) else found)

    def after_attention(
        self, x: Float[Tensor, "b t h"], change: Float[Tensor, "b t h"]
    ) -> Float[Tensor, "b t h"]:
        layer = self.layer
        return x + change if layer.do_layer_norm_before else layer.self_attn_layer_norm(x + change)

    def feed(self, u: Float[Tensor, "b t h"]) -> Float[Tensor, "b t h"]:
        layer = self.layer
        normed = layer.final_layer_norm(u) if layer.do_layer_norm_before else u
        return self._dropped(layer.fc2(layer.activation_fn(layer.fc1(normed))))

    def after_feed(
        self, u: Float[Tensor, "b t h"], change: Float[Tensor, "b t h"]
    ) -> Float[Tensor, "b t h"]:
        layer = self.layer
        return u + change if layer.do_layer_norm_before else layer.final_layer_norm(u + change)

    def _dropped(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, self.layer.dropout, self.training)


Pieces = PostLnPieces | OptPieces


def pieces_of(layer: nn.Module) -> Pieces:
    """The parts of a layer of transformers. Raises `BadInput` for layouts that are not known."""
    if hasattr(layer, "attention") and hasattr(layer, "intermediate"):
        return PostLnPieces(layer)
    if hasattr(layer, "self_attn") and hasattr(layer, "fc1"):
        return OptPieces(layer)
    raise BadInput(
        f"MEFT does not know how to take a {type(layer).__name__} apart.",
        "Bring a BERT, RoBERTa or OPT model.",
    )


# ---------------------------------------------------------------------- adapters and blocks


class Adapter(nn.Module):
    """W2 drop(act(W1 x + b1)) + b2 of width `rank`, no residual; starts near zero.

    Weights ~ N(0, 0.02^2), biases 0; activation and dropout are the model's own, as in the
    authors' code.
    """

    def __init__(
        self,
        width: int,
        rank: int,
        *,
        act: Activation = nn.functional.gelu,
        dropout: float = 0.0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.act = act
        self.norm = nn.LayerNorm(width, eps=1e-12) if norm else nn.Identity()
        self.dense1, self.dense2 = nn.Linear(width, rank), nn.Linear(rank, width)
        self.dropout = nn.Dropout(dropout)
        for dense in (self.dense1, self.dense2):
            nn.init.normal_(dense.weight, std=INIT_DEVIATION)
            nn.init.zeros_(dense.bias)

    def forward(self, x: Float[Tensor, "b t h"]) -> Float[Tensor, "b t h"]:
        hidden = self.act(self.dense1(self.norm(x)))
        return self.dense2(self.dropout(hidden))


class Attention(nn.Module):
    """The attention part with its residual; an adapter on the projection in MEFT-3."""

    def __init__(self, pieces: Pieces, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.pieces, self.attn_adapter = pieces, adapter

    def forward(
        self, x: Float[Tensor, "b t h"], mask: Float[Tensor, "b 1 q t"]
    ) -> Float[Tensor, "b t h"]:
        change = self.pieces.attend(x, mask)
        if self.attn_adapter is not None:
            change = change + self.attn_adapter(change)
        return self.pieces.after_attention(x, change)


class FeedForward(nn.Module):
    """The feed-forward part with its residual, and an adapter beside it in all variants."""

    def __init__(self, pieces: Pieces, adapter: Adapter | None = None) -> None:
        super().__init__()
        self.pieces, self.ffn_adapter = pieces, adapter

    def forward(self, u: Float[Tensor, "b t h"]) -> Float[Tensor, "b t h"]:
        change = self.pieces.feed(u)
        if self.ffn_adapter is not None:
            change = change + self.ffn_adapter(u)
        return self.pieces.after_feed(u, change)


class Layer(nn.Module):
    """Attention, then feed-forward."""

    def __init__(self, attention: Attention, feed: FeedForward) -> None:
        super().__init__()
        self.attention, self.feed = attention, feed

    def forward(
        self, x: Float[Tensor, "b t h"], mask: Float[Tensor, "b 1 q t"]
    ) -> Float[Tensor, "b t h"]:
        return self.feed(self.attention(x, mask))


# ---------------------------------------------------------------------- the encoder


class MeftEncoder(nn.Module):
    """The layers of a pre-trained encoder as one reversible sequence; only adapters are trained."""

    def __init__(
        self,
        layers: Sequence[nn.Module],
        width: int,
        config: MeftConfig,
        *,
        mode: Mode = "reversible",
    ) -> None:
        super().__init__()
        upper = len(layers) if config.reversible_layers is None else config.reversible_layers
        if not 1 <= upper <= len(layers):
            raise BadInput(
                f"This model has {len(layers)} layers, {upper} cannot be reversible.",
                "Name a number from 1 to that, or leave it out.",
            )
        self.config, self.mode = config, mode
        pieces = [pieces_of(layer).requires_grad_(False) for layer in layers]
        below = len(layers) - upper
        self.lower = nn.ModuleList(Layer(Attention(p), FeedForward(p)) for p in pieces[:below])
        self.units = nn.ModuleList(_Unit(p, width, config) for p in pieces[below:])

    @property
    def anchor_every(self) -> int | None:
        """Couplings between kept streams."""
        return self.config.anchor(len(self.units)) if self.mode == "reversible" else 2

    def couplings(self) -> tuple[list[Coupling], tuple[int, int]]:
        """The couplings, and which stream is called h1 and which h2 at the end."""
        lam, beta = self.config.scales
        first, second = 0, 1
        found = []
        for unit in self.units:
            assert isinstance(unit, _Unit)
            f, g = unit.f_and_g()
            found.append(_coupling(f, first, second, lam))
            found.append(_coupling(g, second, first, beta))
            if self.config.variant != 3:
                first, second = second, first
        return found, (first, second)

    def sequence(self) -> ReversibleSequence:
        """The couplings as a sequence; it holds no weights of its own."""
        couplings, _ = self.couplings()
        made = ReversibleSequence(couplings, mode=self.mode, anchor_every=self.anchor_every)
        return made.train(self.training)

    def start(self, x: Float[Tensor, "b t h"], mask: Float[Tensor, "b 1 q t"]) -> Streams:
        """Both streams before the first unit: the embedding, or what the frozen layers make of it.

        Raises `BadInput` for empty batches and for half precision.
        """
        if not x.numel():
            raise BadInput("There is nothing to read: the batch is empty.", "Give a text.")
        with torch.set_grad_enabled(torch.is_grad_enabled() and not len(self.lower)):
            for layer in self.lower:
                x = layer(x, mask)
        # Two tensors, so that neither stream is a view of the other.
        return x, x * 1.0

    def forward(
        self, x: Float[Tensor, "b t h"], mask: Float[Tensor, "b 1 q t"]
    ) -> Float[Tensor, "b t h"]:
        """(h1 + h2) / 2 after the last unit; mask is additive."""
        (h1, h2), _ = self.sequence()(self.start(x, mask), (mask,))
        return (h1 + h2) / 2

    def adapters(self) -> dict[str, Tensor]:
        """All that is trained, by name: "units.3.ffn_adapter.dense1.weight"."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}


def _coupling(fn: nn.Module, target: int, read: int, scale: float) -> Coupling:
    takes_mask = isinstance(fn, Layer | Attention)
    return Coupling(fn, target, (read,), scale=scale, ctx=(0,) if takes_mask else ())


class _Unit(nn.Module):
    """The adapters of one layer, beside the frozen layer itself."""

    def __init__(self, pieces: Pieces, width: int, config: MeftConfig) -> None:
        super().__init__()
        self.variant = config.variant

        def adapter(norm: bool = False) -> Adapter:
            act, dropout = pieces.activation, pieces.dropout
            return Adapter(width, config.rank, act=act, dropout=dropout, norm=norm)

        self.ffn_adapter = adapter()
        self.rev_adapter = None if config.variant == 3 else adapter(config.norm_in_adapter)
        self.attn_adapter = adapter() if config.variant == 3 else None
        self.attention = Attention(pieces, self.attn_adapter)
        self.feed = FeedForward(pieces, self.ffn_adapter)

    def f_and_g(self) -> tuple[nn.Module, nn.Module]:
        """F and G of the variant."""
        layer = Layer(self.attention, self.feed)
        if self.variant == 1:
            return layer, self._rev
        if self.variant == 2:
            return self._rev, layer
        return self.attention, self.feed

    @property
    def _rev(self) -> Adapter:
        assert self.rev_adapter is not None
        return self.rev_adapter


def with_scales(config: MeftConfig, lam: float, beta: float) -> MeftConfig:
    """The same configuration with other scales."""
    return replace(config, lam=lam, beta=beta)

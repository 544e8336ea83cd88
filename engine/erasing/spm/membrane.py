"""The one-dimensional adapter, how it lies beside the layers, and how far a prompt opens it.

A membrane has for each linear map and convolution inside the UNet's transformers (norms, residual
blocks and samplers are left alone) one row `down` and one column `up`:

    y = base(x) + sum_k gamma_k s_k up_k (down_k x),     s = alpha / rank

Several add up, each with its own gamma, which the prompt decides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn import functional

from engine.core.errors import BadInput, ModelMismatch
from engine.core.precision import state_at_home, wide
from engine.core.shapes import Bool, Float, Int, Tensor
from engine.models.diffusion import Conditioning, DiffusionBundle, empty_prompt, encode_prompt
from engine.models.diffusion import token_ids as ids_of
from engine.models.library import fork

Metric = Literal["clipcos_tokenuni", "clipcos", "tokenuni", "centred"]
METRICS: tuple[Metric, ...] = get_args(Metric)


@dataclass(frozen=True, eq=False)
class Membrane:
    """One adapter: factors by the path of their layer in the UNet, and the prompts it erases.

    Of a linear map `down` is r x in and `up` out x r; of a convolution r x in x k x k and
    out x r x 1 x 1. Without prompts (a plain LoRA file) it is open for every prompt.
    """

    prompts: tuple[str, ...]
    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    alpha: float = 1.0

    @property
    def name(self) -> str:
        return ", ".join(self.prompts) or "adapter"

    @property
    def rank(self) -> int:
        return len(next(iter(self.down.values())))

    def scale(self, path: str) -> float:
        """s of one layer; its rank may be capped by the layer's width."""
        return (self.alpha or self.rank) / len(self.down[path])

    @property
    def parameters(self) -> int:
        return sum(t.numel() for part in (self.down, self.up) for t in part.values())

    def at_home(self) -> "Membrane":
        """The same on the CPU."""
        return replace(self, down=state_at_home(self.down), up=state_at_home(self.up))

    def update(self, path: str) -> Float[Tensor, "o i"]:
        """s up down of one layer as one matrix (a convolution's kernel flattened), in float64."""
        down, up = wide(self.down[path]).flatten(1), wide(self.up[path]).flatten(1)
        return self.scale(path) * (up @ down)


def sites(unet: nn.Module) -> dict[str, nn.Linear | nn.Conv2d]:
    """Every linear map and convolution inside a transformer of the UNet, by its path.

    By their class and not by its name, which has changed over the years: a search by name that
    finds nothing would erase nothing, in silence.
    """
    from diffusers.models.transformers.transformer_2d import Transformer2DModel

    found: dict[str, nn.Linear | nn.Conv2d] = {}
    for name, module in unet.named_modules():
        if not isinstance(module, Transformer2DModel):
            continue
        for child, layer in module.named_modules():
            if "base_layer" in child:
                raise ModelMismatch(
                    "This model carries adapters of another kind already.",
                    "Load it without them: an SPM goes on the plain layers.",
                )
            if isinstance(layer, nn.Linear | nn.Conv2d):
                found[f"{name}.{child}"] = layer
    if not found:
        raise ModelMismatch(
            "This model has no transformer inside its UNet, so an SPM has no place to go.",
            "Pick a Stable Diffusion model of the 1.x, 2.x or XL layout.",
        )
    return found


def check_fit(unet: nn.Module, membrane: Membrane) -> None:
    """Raises `ModelMismatch` that names the first layers in which a membrane does not fit."""
    layers, wrong = sites(unet), []
    for path, down in membrane.down.items():
        layer, up = layers.get(path), membrane.up[path]
        if layer is None:
            wrong.append(f"{path} (not in this model)")
        elif down.shape[1:] != layer.weight.shape[1:] or len(up) != len(layer.weight):
            wrong.append(f"{path} ({len(up)} x {down.shape[1]}, not {tuple(layer.weight.shape)})")
    if wrong:
        raise ModelMismatch(
            f'The SPM "{membrane.name[:40]}" was made for another architecture: '
            f"{', '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}.",
            "Use it with a model of the same UNet, or train one for this model.",
        )


# ---------------------------------------------------------------------- beside the layers


def with_membranes(
    bundle: DiffusionBundle,
    membranes: Sequence[Membrane],
    gamma: Float[Tensor, "b k"],
    *,
    official_merge: bool = False,
) -> DiffusionBundle:
    """The model with membranes beside its layers, opened by gamma for each row of a batch.

    A fork: the model given keeps its layers, and where every gamma is 0 it is what is given back.
    Batches of several times b rows (guidance) repeat gamma.
    """
    if not membranes or not bool(gamma.any()):
        return bundle
    model = fork(bundle.model)
    for path, layer in sites(model["unet"]).items():
        held = [k for k, membrane in enumerate(membranes) if path in membrane.down]
        if not held:
            continue
        weight = layer.weight
        downs = [membranes[k].down[path].to(weight) for k in held]
        ups = [membranes[k].up[path].to(weight) for k in held]
        scales = torch.tensor([membranes[k].scale(path) for k in held])
        opened = gamma[:, held].to(weight)
        layer.register_forward_hook(_beside(downs, ups, opened, scales.to(weight), official_merge))
    return type(bundle)(**{**vars(bundle), "model": model})


def _beside(
    downs: Sequence[Tensor],
    ups: Sequence[Tensor],
    gamma: Float[Tensor, "b k"],
    scales: Float[Tensor, " k"],
    official_merge: bool,
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    def hook(layer: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        x = given[0]
        rows = gamma.repeat(len(x) // len(gamma), 1)
        if official_merge:
            return out + scales[0] * merged(layer, x, downs, ups, rows)
        return out + summed(layer, x, downs, ups, rows * scales)

    return hook


def summed(
    layer: nn.Module,
    x: Float[Tensor, "b *n"],
    downs: Sequence[Tensor],
    ups: Sequence[Tensor],
    gamma: Float[Tensor, "b k"],
) -> Float[Tensor, "b *m"]:
    """sum_k gamma_k up_k down_k x: the paper's sum of adapters, as one adapter of their ranks."""
    ranks = torch.tensor([len(down) for down in downs], device=x.device)
    inside = _apply(layer, x, torch.cat(list(downs)), is_down=True)
    opened = gamma.repeat_interleave(ranks, dim=1)
    return _apply(layer, inside * _spread(layer, opened, x), torch.cat(list(ups), 1), is_down=False)


def merged(
    layer: nn.Module,
    x: Float[Tensor, "b *n"],
    downs: Sequence[Tensor],
    ups: Sequence[Tensor],
    gamma: Float[Tensor, "b k"],
) -> Float[Tensor, "b *m"]:
    """(sum_k gamma_k up_k) (sum_j gamma_j down_j) x, as the published code merges its files.

    One adapter alone then acts with gamma squared, and several act across one another.
    """
    ranks = {len(down) for down in downs}
    if len(ranks) > 1:
        raise BadInput(
            f"The official merge needs adapters of one rank, got {sorted(ranks)}.",
            "Use the paper's sum.",
        )
    inside = sum(
        _apply(layer, x, down, is_down=True) * _spread(layer, gamma[:, [k]], x)
        for k, down in enumerate(downs)
    )
    assert isinstance(inside, Tensor)
    out = sum(
        _apply(layer, inside * _spread(layer, gamma[:, [k]], x), up, is_down=False)
        for k, up in enumerate(ups)
    )
    assert isinstance(out, Tensor)
    return out


def _apply(layer: nn.Module, x: Tensor, weight: Tensor, *, is_down: bool) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        if is_down:
            return functional.conv2d(x, weight, None, layer.stride, layer.padding)
        return functional.conv2d(x, weight)
    return functional.linear(x, weight)


def _spread(layer: nn.Module, gamma: Float[Tensor, "b r"], x: Tensor) -> Tensor:
    """Gamma in the shape that multiplies what is inside: channels of a picture come second."""
    if isinstance(layer, nn.Conv2d):
        return gamma[:, :, None, None]
    return gamma.reshape(len(gamma), *[1] * (x.ndim - 2), gamma.shape[1])


# ---------------------------------------------------------------------- how far it opens


@dataclass(frozen=True)
class Opening:
    """How like its concepts a prompt is, in two parts.

    `cos` and `tokens` have one row a prompt and one column an erased prompt; `gamma` has one column
    a membrane: the largest over its erased prompts.
    """

    cos: Float[Tensor, "p q"]
    tokens: Float[Tensor, "p q"]
    gamma: Float[Tensor, "p k"]


def opening(
    prompts: Float[Tensor, "p n d"],
    prompt_ids: Int[Tensor, "p n"],
    erased: Float[Tensor, "q n d"],
    erased_ids: Int[Tensor, "q n"],
    counts: Sequence[int],
    special: Sequence[int],
    metric: Metric = "clipcos_tokenuni",
) -> Opening:
    """Facilitated transport: permeability of each membrane for each prompt.

        cos    = <E(p), E(q)> / (|E(p)| |E(q)|)          all tokens, start and padding included
        tokens = |ids(p) n ids(q)| / |ids(q)|            sets, special tokens left out
        gamma  = max over the membrane's q of max(cos, tokens)

    `counts` says how many erased prompts belong to each membrane, in order; a membrane without any
    is open.
    """
    cos = _cosine(prompts, erased)
    tokens = torch.tensor(
        [[_shared(p, q, special) for q in erased_ids.tolist()] for p in prompt_ids.tolist()],
        dtype=cos.dtype,
    ).reshape(cos.shape)
    both = {"clipcos": cos, "centred": cos, "tokenuni": tokens}.get(
        metric, torch.maximum(cos, tokens)
    )
    gamma, first = [], 0
    for count in counts:
        part = both[:, first : first + count]
        gamma.append(part.max(1).values if count else both.new_ones(len(prompts)))
        first += count
    opened = torch.stack(gamma, 1) if gamma else cos.new_zeros(len(prompts), 0)
    return Opening(cos, tokens, opened)


def _cosine(a: Float[Tensor, "p n d"], b: Float[Tensor, "q n d"]) -> Float[Tensor, "p q"]:
    a, b = (functional.normalize(rows.flatten(1), dim=1) for rows in (a, b))
    return a @ b.T


def _shared(prompt: Sequence[int], erased: Sequence[int], special: Sequence[int]) -> float:
    words = set(erased) - set(special)
    if not words:
        raise BadInput(
            "A concept of this SPM has no ordinary word in it.", 'Name one, such as "cat".'
        )
    return len(words & set(prompt)) / len(words)


def permeability(
    bundle: DiffusionBundle,
    membranes: Sequence[Membrane],
    texts: Sequence[str],
    metric: Metric = "clipcos_tokenuni",
    cond: Conditioning | None = None,
) -> Opening:
    """The opening of each membrane for each prompt on this model, by its own text encoder.

    `cond` are other embeddings than those of the texts. "centred" takes the embedding of the empty
    text off all others first, which is our variant: what every prompt shares then says nothing.
    """
    listed = [text for membrane in membranes for text in membrane.prompts]
    counts = [len(membrane.prompts) for membrane in membranes]
    tokens = (encode_prompt(bundle, list(texts)) if cond is None else cond).tokens.cpu().double()
    width = tokens.shape[1:]
    erased = (
        encode_prompt(bundle, listed).tokens.cpu().double()
        if listed
        else tokens.new_zeros((0, *width))
    )
    if metric == "centred":
        shared = empty_prompt(bundle).tokens.cpu().double()
        tokens, erased = tokens - shared, erased - shared
    ids = ids_of(bundle, [*texts, *listed]).cpu()
    return opening(
        tokens.detach(),
        ids[: len(texts)],
        erased,
        ids[len(texts) :],
        counts,
        special_ids(bundle),
        metric,
    )


def special_ids(bundle: DiffusionBundle) -> tuple[int, ...]:
    """Start, end, padding and unknown of the tokenizer that is counted."""
    return tuple(bundle.tokenizers[0].all_special_ids)


@dataclass(frozen=True)
class TokenShare:
    """One token of a prompt: whether the concept has it, and its share of the cosine."""

    token: str
    is_shared: bool
    share: float


def token_shares(bundle: DiffusionBundle, text: str, erased: str) -> tuple[TokenShare, ...]:
    """What each token adds to cos(E(text), E(erased)); padding is counted as one at the end.

    The sum over all of them is the cosine. It shows how much of it start and padding make up.
    """
    ids = ids_of(bundle, [text, erased]).cpu()
    rows = encode_prompt(bundle, [text, erased]).tokens.cpu().double()
    shares = (rows[0] * rows[1]).sum(-1) / (rows[0].norm() * rows[1].norm())
    tokenizer, special = bundle.tokenizers[0], special_ids(bundle)
    words = set(ids[1].tolist()) - set(special)
    shown = _shown_tokens(ids[0], special)
    found = []
    for place in range(shown):
        number = int(ids[0, place])
        token = "start" if place == 0 else tokenizer.decode([number]).strip()
        found.append(TokenShare(token, number in words, float(shares[place])))
    found.append(TokenShare("end and padding", False, float(shares[shown:].sum())))
    return tuple(found)


def _shown_tokens(ids: Int[Tensor, " n"], special: Sequence[int]) -> int:
    """How many tokens come before the end mark."""
    is_word: Bool[Tensor, " n"] = ~torch.isin(ids, torch.tensor(special))
    words = torch.nonzero(is_word).flatten()
    return int(words[-1]) + 1 if len(words) else 1

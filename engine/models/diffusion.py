"""Text-to-image checkpoints in diffusers layout: loading, prompts, and the way to and from latents.

    bundle = load(ModelRef("world"))
    cond = encode_prompt(bundle, ["a neon cat"])
    x = ...                                             latents, b c h w, see `latent_shape`
    noise_pred = predict(bundle, x, timestep, cond)     one network evaluation
    pictures = decode_latents(bundle, x)                uint8, b h w 3

Stable Diffusion 1.x, 2.x and XL, and everything smaller in their layout.

Latents are (z - shift) * scaling_factor of what the autoencoder calls z, so that they have about
unit variance (Rombach et al. 2022, section D.1).
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from engine.core.errors import BadInput, ModelMismatch
from engine.core.shapes import Array, Float, Int, Tensor, UInt8
from engine.models import _layout, footprint
from engine.models._checks import read_json
from engine.models._schedulers import read_scheduler
from engine.models.library import Bundle, ModelCard, ModelRef
from engine.models.words import Vocabulary

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

PredictionType = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class DiffusionBundle(Bundle):
    """A text-to-image model. `scheduler` is the checkpoint's own scheduler config."""

    model: nn.ModuleDict
    tokenizers: tuple["CLIPTokenizer", ...]
    scheduler: Mapping[str, Any]
    prediction_type: PredictionType
    zeros_for_empty: bool
    vocabulary: Vocabulary | None

    @property
    def unet(self) -> "UNet2DConditionModel":
        return self.model["unet"]

    @property
    def vae(self) -> "AutoencoderKL":
        return self.model["vae"]

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """One for SD 1.x and 2.x, two for XL."""
        names = ("text_encoder", "text_encoder_2")
        return tuple(self.model[name] for name in names if name in self.model)

    @property
    def is_xl(self) -> bool:
        """Whether pooled text and the picture's size are conditions too."""
        return self.unet.config.addition_embed_type == "text_time"


@dataclass(frozen=True)
class Conditioning:
    """What the network is told: one row of token states a prompt, and for XL the pooled text."""

    tokens: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b p"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, index: slice | Sequence[int]) -> "Conditioning":
        """Some of the prompts."""
        pooled = None if self.pooled is None else self.pooled[index]
        return Conditioning(self.tokens[index], pooled)

    @classmethod
    def cat(cls, parts: Sequence["Conditioning"]) -> "Conditioning":
        """Several batches as one, for guidance in a single evaluation."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        tokens = torch.cat([part.tokens for part in parts])
        return cls(tokens, torch.cat(pooled) if pooled else None)


# ---------------------------------------------------------------------- prompts


def encode_prompt(bundle: DiffusionBundle, texts: Sequence[str]) -> Conditioning:
    """Token states of each prompt, in the device and number format of the model.

    SD 1.x and 2.x: last layer after its norm (2.x ships the encoder without its last block). XL:
    the layer before the last of both encoders side by side, and the pooled text of the second.
    Words beyond the encoder's length are dropped: see `words_cut`.
    """
    if bundle.is_xl:
        return _encode_xl(bundle, texts)
    encoder = bundle.text_encoders[0]
    ids = _token_ids(bundle, 0, texts)
    with torch.no_grad():
        return Conditioning(encoder(ids).last_hidden_state)


def empty_prompt(bundle: DiffusionBundle, count: int = 1) -> Conditioning:
    """The condition of guidance when there is no negative prompt.

    The encoded empty text, except where the checkpoint says zeros (XL's default).
    """
    cond = encode_prompt(bundle, [""] * count)
    if not bundle.zeros_for_empty:
        return cond
    pooled = None if cond.pooled is None else torch.zeros_like(cond.pooled)
    return Conditioning(torch.zeros_like(cond.tokens), pooled)


def _encode_xl(bundle: DiffusionBundle, texts: Sequence[str]) -> Conditioning:
    states, pooled = [], None
    with torch.no_grad():
        for index, encoder in enumerate(bundle.text_encoders):
            encoded = encoder(_token_ids(bundle, index, texts), output_hidden_states=True)
            states.append(encoded.hidden_states[-2])
            pooled = encoded[0]
    return Conditioning(torch.cat(states, dim=-1), pooled)


def _token_ids(bundle: DiffusionBundle, index: int, texts: Sequence[str]) -> Int[Tensor, "b n"]:
    tokenizer = bundle.tokenizers[index]
    batch = tokenizer(
        list(texts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length
    )
    return torch.tensor(batch.input_ids, device=bundle.device)


def token_ids(
    bundle: DiffusionBundle, texts: Sequence[str], encoder: int = 0
) -> Int[Tensor, "b n"]:
    """Token numbers of each prompt for one of the text encoders, padded to its length."""
    return _token_ids(bundle, encoder, texts)


def unknown_words(bundle: DiffusionBundle, text: str) -> tuple[str, ...]:
    """Words of a prompt that the model never saw in training, in order, each once.

    Empty for models without a `vocabulary.json`: the large ones have seen nearly everything.
    """
    return bundle.vocabulary.unknown(text) if bundle.vocabulary else ()


def words_cut(bundle: DiffusionBundle, text: str) -> str:
    """The end of a prompt that the text encoder does not see, because it is too long."""
    tokenizer = bundle.tokenizers[0]
    length = tokenizer.model_max_length
    kept = tokenizer(text, truncation=True, max_length=length, return_offsets_mapping=True)
    # The last token is the end mark; the one before it is the last piece of text.
    return text[kept.offset_mapping[-2][1] :].strip()


def token_table(bundle: DiffusionBundle) -> Float[Tensor, "v d"]:
    """The table of the first text encoder: one row a token, before positions are added."""
    encoder: Any = bundle.text_encoders[0]
    return encoder.get_input_embeddings().weight


def with_tokens(bundle: DiffusionBundle, tokens: Sequence[str]) -> DiffusionBundle:
    """The bundle with names for the last rows of its token table, which an edit has appended.

    Raises `ModelMismatch` when the tokenizer and the table do not end together, and `BadInput` for
    a name that is a token already.
    """
    tokenizer = copy.deepcopy(bundle.tokenizers[0])
    present = [token for token in tokens if token in tokenizer.get_vocab()]
    if present:
        raise BadInput(f'"{present[0][:40]}" is a token of this model already.', "Choose another.")
    rows = len(token_table(bundle))
    # As diffusers adds them; a typed "<r>" is found too, since names are lower-cased with the text.
    tokenizer.add_tokens(list(tokens))
    if len(bundle.tokenizers) > 1 or len(tokenizer) != rows:
        raise ModelMismatch(
            f"This model has {rows} token rows and {len(tokenizer)} tokens, so a new word cannot "
            "be named.",
            "Pick a Stable Diffusion model of the 1.x or 2.x layout.",
        )
    return replace(bundle, tokenizers=(tokenizer,))


# ---------------------------------------------------------------------- the network


def predict(
    bundle: DiffusionBundle,
    x: Float[Tensor, "b c h w"],
    timestep: float | int | Float[Tensor, "..."] | Int[Tensor, "..."],
    cond: Conditioning,
) -> Float[Tensor, "b c h w"]:
    """The network's output for noisy latents, in the sense of `bundle.prediction_type`.

    One evaluation, whatever the batch. `x` may be of another number format than the model.
    """
    added = None
    if bundle.is_xl:
        size = [side * _factor(bundle) for side in x.shape[-2:]]
        # original size, crop of the upper left corner, target size: no crop, as pipelines default
        time_ids = torch.tensor([[*size, 0, 0, *size]] * len(x), device=x.device)
        added = {"text_embeds": cond.pooled, "time_ids": time_ids.to(cond.tokens.dtype)}
    noisy = x.to(cond.tokens.dtype)
    fitting = _rows_at_once(bundle, noisy)
    if fitting < len(x) and not torch.is_grad_enabled():
        labels = torch.as_tensor(timestep, device=x.device).expand(len(x))
        parts = [slice(first, first + fitting) for first in range(0, len(x), fitting)]
        return torch.cat([predict(bundle, x[p], labels[p], cond.rows(p)) for p in parts])
    unet = bundle.unet
    out = unet(noisy, timestep, cond.tokens, added_cond_kwargs=added, return_dict=False)[0]
    return out.to(x.dtype)


def _rows_at_once(bundle: DiffusionBundle, x: Float[Tensor, "b c h w"]) -> int:
    """How many rows of a call fit into the memory that is free, at least one."""
    height, width = x.shape[-2:]
    needed = footprint.row_bytes(
        bundle.unet.config, height=height, width=width, itemsize=x.element_size()
    )
    return max(1, footprint.rows_at_once(needed, len(x), bundle.device))


def alphas_cumprod(bundle: DiffusionBundle) -> Float[Tensor, " steps"]:
    """Share of signal variance at each training step, float32, from the scheduler's config.

    Computed in float32 as diffusers does, so that both samplers see equal numbers.
    """
    config = bundle.scheduler
    steps = int(config.get("num_train_timesteps", 1000))
    start, end = (float(config.get(f"beta_{side}", default)) for side, default in _BETA_ENDS)
    kind = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif kind == "linear":
        betas = torch.linspace(start, end, steps, dtype=torch.float32)
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32) ** 2
    else:
        raise ModelMismatch(
            f"The noise schedule {str(kind)[:40]} of this model is not known here.",
            "Known are linear, scaled_linear and a list of betas.",
        )
    alphas = torch.cumprod(1.0 - betas, dim=0)
    return _zero_terminal_snr(alphas) if config.get("rescale_betas_zero_snr") else alphas


_BETA_ENDS = (("start", 0.0001), ("end", 0.02))


def _zero_terminal_snr(alphas: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """Shift and stretch sqrt(alpha) so that the last step holds no signal (Lin et al. 2023)."""
    roots = alphas.sqrt()
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


# ---------------------------------------------------------------------- latents


def latent_shape(
    bundle: DiffusionBundle, height: int | None = None, width: int | None = None
) -> tuple[int, int, int]:
    """Channels, height and width of the latents of a picture; the model's own size by default."""
    factor, own = _factor(bundle), _sides(bundle.unet.config.sample_size)
    sides = []
    for name, pixels, default in (("height", height, own[0]), ("width", width, own[1])):
        if pixels is not None and (pixels < factor or pixels % factor):
            raise BadInput(
                f"The {name} must be a multiple of {factor} pixels, got {pixels}.",
                f"This model's own size is {own[0] * factor} x {own[1] * factor}.",
            )
        sides.append(default if pixels is None else pixels // factor)
    return bundle.vae.config.latent_channels, sides[0], sides[1]


def own_size(bundle: DiffusionBundle) -> tuple[int, int, int]:
    """Height and width of the pictures a model was made for, and the pixels along one latent."""
    factor, (height, width) = _factor(bundle), _sides(bundle.unet.config.sample_size)
    return height * factor, width * factor, factor


def encode_picture(
    bundle: DiffusionBundle,
    pictures: UInt8[Array, "b height width 3"],
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b c h w"]:
    """Latents of pictures, float32: the mean of the posterior, or a draw with a generator."""
    mean, std = picture_posterior(bundle, pictures)
    if generator is None:
        return mean
    return mean + std * torch.randn(mean.shape, generator=generator).to(mean.device)


def picture_posterior(
    bundle: DiffusionBundle, pictures: UInt8[Array, "b height width 3"]
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
    """Mean and standard deviation of the latents of pictures, float32."""
    for name, pixels in zip(("height", "width"), pictures.shape[1:3], strict=True):
        latent_shape(bundle, **{name: pixels})
    vae = bundle.vae
    scaled = torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        posterior = vae.encode(scaled.to(vae.device, vae.dtype)).latent_dist
    z = posterior.mean.float()
    mean, factor = _latent_scaling(bundle, z)
    return (z - mean) * factor, posterior.std.float() * factor


def decode(
    bundle: DiffusionBundle, latents: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b 3 height width"]:
    """Pictures of latents, float32, in -1..1 before clipping; differentiable."""
    vae = bundle.vae
    return vae.decode(_unscaled(bundle, latents), return_dict=False)[0].float()


def _unscaled(
    bundle: DiffusionBundle, latents: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Latents as the VAE takes them, in its number format and on its device."""
    mean, factor = _latent_scaling(bundle, latents)
    return (latents / factor + mean).to(bundle.vae.device, bundle.vae.dtype)


def _decoded_to_fit(
    bundle: DiffusionBundle, latents: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b 3 height width"]:
    """`decode` in as many parts as the free memory asks for: fewer pictures at once, then tiles."""
    vae, factor = bundle.vae, _factor(bundle)
    height, width = (side * factor for side in latents.shape[-2:])
    needed = footprint.picture_bytes(
        vae.config, height=height, width=width, itemsize=vae.dtype.itemsize
    )
    fitting = footprint.rows_at_once(needed, len(latents), bundle.device)
    if fitting:
        return torch.cat([decode(bundle, rows) for rows in latents.split(fitting)])
    tiled = [
        vae.tiled_decode(row, return_dict=False)[0] for row in _unscaled(bundle, latents).split(1)
    ]
    return torch.cat(tiled).float()


def decode_latents(
    bundle: DiffusionBundle, latents: Float[Tensor, "b c h w"]
) -> UInt8[Array, "b height width 3"]:
    """Pictures of latents, ready to show."""
    with torch.no_grad():
        pictures = _decoded_to_fit(bundle, latents)
    scaled = ((pictures + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _latent_scaling(
    bundle: DiffusionBundle, like: Tensor
) -> tuple[Float[Tensor, "c 1 1"], Float[Tensor, "c 1 1"]]:
    """Mean and factor of z, for each channel where the checkpoint says so, else for all."""
    config = bundle.vae.config
    mean = torch.tensor(config.latents_mean or [config.shift_factor or 0.0], dtype=torch.float32)
    std = torch.tensor(config.latents_std or [1.0], dtype=torch.float32)
    shape = (config.latent_channels, 1, 1)
    pair = (value.reshape(-1, 1, 1).expand(shape) for value in (mean, config.scaling_factor / std))
    mean_of_z, factor = (value.to(like.device) for value in pair)
    return mean_of_z, factor


def _factor(bundle: DiffusionBundle) -> int:
    """How many times a picture is larger than its latents."""
    return 2 ** (len(bundle.vae.config.block_out_channels) - 1)


def _sides(sample_size: int | Sequence[int]) -> tuple[int, int]:
    height, width = [sample_size] * 2 if isinstance(sample_size, int) else sample_size
    return height, width


# ---------------------------------------------------------------------- loading


def read(card: ModelCard, folder: Path, ref: ModelRef, device: str, dtype: str) -> DiffusionBundle:
    """Load a folder in diffusers layout. Called by `library.load`, which caches what it returns."""
    index = read_json(folder / "model_index.json")
    scheduler = read_scheduler(folder)
    parts = _layout.networks(folder, index, card.title, device, dtype)
    is_xl = "text_encoder_2" in parts
    names = ("tokenizer", "tokenizer_2") if is_xl else ("tokenizer",)
    tokenizers = tuple(_layout.tokenizer(folder / name) for name in names)
    for name, tokenizer in zip(names, tokenizers, strict=True):
        _check_words(tokenizer, parts[name.replace("tokenizer", "text_encoder")], name)
    return DiffusionBundle(
        ref=ref,
        card=card,
        folder=folder,
        model=nn.ModuleDict(parts).eval().requires_grad_(False),
        device=device,
        dtype=dtype,
        tokenizers=tokenizers,
        scheduler=scheduler,
        prediction_type=_prediction_type(scheduler, parts["unet"].config),
        zeros_for_empty=is_xl and bool(index.get("force_zeros_for_empty_prompt", True)),
        vocabulary=Vocabulary.read(folder),
    )


def _check_words(tokenizer: "CLIPTokenizer", encoder: Any, name: str) -> None:
    """Every token has a row in the encoder's table, and every place in a prompt has one."""
    rows, places = encoder.config.vocab_size, encoder.config.max_position_embeddings
    if max(tokenizer.get_vocab().values()) >= rows or tokenizer.model_max_length > places:
        raise ModelMismatch(
            f"The {name} of this model has {len(tokenizer)} tokens and prompts of "
            f"{tokenizer.model_max_length}; its text encoder knows {rows} and {places}.",
            "Take tokenizer and text encoder from the same export.",
        )


def _prediction_type(scheduler: Mapping[str, Any], config: Any) -> PredictionType:
    """As the scheduler's config says; where it is silent, v for SD 2.x at 768 pixels.

    SD 2.x is known by its text width of 1024, and its 768 pixel model by latents of 96.
    """
    stated = scheduler.get("prediction_type")
    if stated in ("epsilon", "v_prediction", "sample"):
        return stated
    if stated is not None:
        raise ModelMismatch(
            f"This model predicts {str(stated)[:40]}, which no sampler here understands.",
            "Pick one that predicts epsilon, v_prediction or sample.",
        )
    is_v = config.cross_attention_dim == 1024 and config.sample_size == 96
    return "v_prediction" if is_v else "epsilon"

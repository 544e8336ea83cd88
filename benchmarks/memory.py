"""What fits where, by calculation: `python -m benchmarks.memory [--write]`.

The networks of Stable Diffusion 1.5 and XL are laid out on the meta device, where tensors have a
shape and no numbers, and their weights are counted; what lives beside them at the worst moment is
counted operation by operation, with attention that holds no pairs of tokens (SDPA). With --write
the table goes between its marks in README.md. No GPU is needed, and no weights.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from benchmarks.bars import write_between
from benchmarks.harness import ROOT
from engine.models import footprint
from engine.reversible.memory import Counter

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

__all__ = ["ROOT", "SD15", "SDXL", "Shape", "networks", "table"]
HEAD, FOOT = "<!-- fits -->", "<!-- /fits -->"
CONTEXT, RESERVE = 0.5e9, 1 - footprint.KEPT_FREE
BATCHES = (1, 4, 8)


@dataclass(frozen=True)
class Shape:
    """A text-to-image model by its settings, those that differ from diffusers' own."""

    title: str
    side: int
    text: tuple[int, ...]
    unet: Mapping[str, Any]
    vae_in_float32: bool = False


SD15 = Shape(
    "Stable Diffusion 1.5",
    64,
    (123_060_480,),
    {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
)
SDXL = Shape(
    "Stable Diffusion XL",
    128,
    (123_060_480, 694_659_840),
    {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    vae_in_float32=True,
)
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}


class Fused(TorchFunctionMode):
    """Attention as a fused kernel has it in memory: its result, and no table of pairs."""

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            query, _, value = args[:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return function(*args, **(kwargs or {}))


def peak(call: Callable[[], object]) -> int:
    """Bytes that live at once beside what was there before."""
    with torch.no_grad(), Counter() as counter, Fused():
        call()
    return counter.most()


def weights(shape: Shape) -> float:
    """Bytes in float16; the VAE of XL leaves the range of float16 and stays float32."""
    unet, vae = networks(shape)
    vae_size = 4 if shape.vae_in_float32 else 2
    return 2.0 * (_count(unet) + sum(shape.text)) + vae_size * _count(vae)


def networks(shape: Shape) -> tuple["UNet2DConditionModel", "AutoencoderKL"]:
    """UNet and VAE without numbers."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**shape.unet).half()
        vae = AutoencoderKL(**VAE)
    return unet.eval(), (vae if shape.vae_in_float32 else vae.half()).eval()


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def call_peak(shape: Shape, rows: int) -> int:
    """Beside the weights, in a call of the UNet with so many rows of the model's own size."""
    unet, _ = networks(shape)
    with torch.device("meta"):
        x = torch.empty(rows, 4, shape.side, shape.side, dtype=torch.float16)
        told = torch.empty(rows, 77, shape.unet["cross_attention_dim"], dtype=torch.float16)
        t, added = torch.empty(rows), None
        if len(shape.text) > 1:
            pooled = torch.empty(rows, 1280, dtype=torch.float16)
            added = {"text_embeds": pooled, "time_ids": torch.empty(rows, 6, dtype=torch.float16)}
    return peak(lambda: unet(x, t, told, added_cond_kwargs=added, return_dict=False))


def decode_peak(shape: Shape, pictures: int) -> int:
    """Beside the weights, in decoding so many pictures of the model's own size."""
    _, vae = networks(shape)
    kind: torch.dtype = next(vae.parameters()).dtype
    z: Tensor = torch.empty(pictures, 4, shape.side, shape.side, dtype=kind, device="meta")
    return peak(lambda: vae.decode(z, return_dict=False))


def bound(shape: Shape, batch: int) -> float:
    """What is reckoned with for a batch under guidance: weights, and the worse of both moments."""
    unet, vae = networks(shape)
    call = (
        2
        * batch
        * footprint.row_bytes(unet.config, height=shape.side, width=shape.side, itemsize=2)
    )
    picture = footprint.picture_bytes(
        vae.config,
        height=8 * shape.side,
        width=8 * shape.side,
        itemsize=4 if shape.vae_in_float32 else 2,
    )
    return weights(shape) + max(call, picture)


def table() -> str:
    """One row a model, one column a batch, and the card that holds it."""
    head = "| model, float16 | weights | " + " | ".join(f"batch {n}" for n in BATCHES)
    lines = [f"{head} | fits in |", "|" + "---|" * (len(BATCHES) + 3)]
    lines += [_row(shape) for shape in (SD15, SDXL)]
    return "\n".join(lines)


def _row(shape: Shape) -> str:
    needed = [(CONTEXT + bound(shape, batch)) / RESERVE for batch in BATCHES]
    card = next(size for size in (4, 6, 8, 12, 16, 24, 48, 80) if size * 1e9 >= needed[0])
    cells = " | ".join(f"{value / 1e9:.1f} GB" for value in needed)
    title = f"{shape.title}, {8 * shape.side} x {8 * shape.side}"
    return f"| {title} | {weights(shape) / 1e9:.1f} GB | {cells} | {card} GB |"


def counts() -> Iterator[str]:
    """The multiples of the largest feature map, as they are counted."""
    for shape in (SD15, SDXL):
        unet, vae = networks(shape)
        area = shape.side**2
        call = call_peak(shape, 2) / (2 * unet.config.block_out_channels[0] * area * 2)
        size = 4 if shape.vae_in_float32 else 2
        decode = decode_peak(shape, 1) / (vae.config.block_out_channels[0] * 64 * area * size)
        yield f"{shape.title}: {call:.1f} maps of the UNet, {decode:.1f} of the VAE"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    options = parser.parse_args()
    print("\n".join([*counts(), "", table()]))
    if options.write:
        write_between(HEAD, FOOT, table())
    return 0


if __name__ == "__main__":
    sys.exit(main())

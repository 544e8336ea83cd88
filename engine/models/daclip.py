"""The published universal restoration network (weblzw/daclip-uir-ViT-B-32-irsde) by its own names.

It comes as a .pth and a .pt, pickles, which may run any code when they are opened; here none is.
Their owner, who trusts them, writes their tensors down once, beside the authors' code:

    for name, end in (("universal-ir", "pth"), ("daclip_ViT-B-32", "pt")):
        held = torch.load(f"{name}.{end}", map_location="cpu")
        held = held.get("state_dict", held)
        weights = {key: w.contiguous().clone() for key, w in held.items()}
        save_file(weights, f"folder/{name}.safetensors")  # of safetensors.torch

Then the folder, or a Hub repository of these two files, is a model like any other: the first holds
the network, the second two vision towers that read off a picture what it shows and what is wrong
with it. Names may begin with "module.", and the text side of the second is left out. Sizes follow
from the shapes of the tensors; a tensor that is missing or left over is an error that names it.

References: Luo et al., Controlling Vision-Language Models for Multi-Task Image Restoration, ICLR
2024, arXiv:2310.01018; Luo et al., ICML 2023 (the network, without normalisation layers).
"""

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from engine.core.errors import AssetMissing, ModelMismatch
from engine.core.shapes import Float, Tensor
from engine.core.tensor_header import TensorInfo
from engine.models import _layout
from engine.models._checks import read_header
from engine.models._sources import UNIVERSAL_AS_SAFETENSORS

UNIVERSAL, TOWERS = "universal-ir", "daclip_ViT-B-32"
HEAD = 32
"""Channels of one attention head of the restoration network."""
TOWER_HEAD = 64
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def read(folder: Path, title: str, device: str, dtype: str) -> dict[str, nn.Module]:
    """Network and towers of a folder with the published weights as safetensors."""
    paths = {stem: folder / f"{stem}.safetensors" for stem in (UNIVERSAL, TOWERS)}
    for path in paths.values():
        if not path.is_file():
            raise AssetMissing(
                f"The universal restoration model has no {path.name}; .pth and .pt files are not "
                "read, because they can run code.",
                UNIVERSAL_AS_SAFETENSORS,
            )
    unet = _layout.network(
        folder,
        ConditionalUnet,
        title,
        device,
        dtype,
        config=unet_settings(_plain(read_header(paths[UNIVERSAL]))),
        stem=UNIVERSAL,
    )
    towers = _layout.network(
        folder,
        Towers,
        title,
        device,
        dtype,
        config=tower_settings(_plain(read_header(paths[TOWERS]))),
        stem=TOWERS,
        unused=("clip.", "logit_scale"),
    )
    return {"unet": unet, "daclip": towers}


def _plain(header: Mapping[str, TensorInfo]) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix("module."): info.shape for name, info in header.items()}


def unet_settings(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """The sizes of the network that has tensors of these shapes."""
    try:
        width = shapes["init_conv.weight"][0]
        depth = _count(r"downs\.(\d+)\.", shapes)
        return {
            "width": width,
            "multipliers": [shapes[f"downs.{i}.3.weight"][0] // width for i in range(depth)],
            "context": shapes["text_mlp.0.weight"][1],
            "image_context": "mid_attn.fn.fn.proj_in.weight" in shapes,
        }
    except (KeyError, IndexError, ZeroDivisionError):
        raise ModelMismatch(
            f"{UNIVERSAL}.safetensors does not hold the universal restoration network.",
            "It must hold the tensors of universal-ir.pth of the authors, with their names.",
        ) from None


def tower_settings(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """The sizes of the two towers."""
    try:
        width, _, patch, _ = shapes["visual.conv1.weight"]
        return {
            "width": width,
            "layers": _count(r"visual\.transformer\.resblocks\.(\d+)\.", shapes),
            "patch": patch,
            "places": shapes["visual.positional_embedding"][0],
            "out": shapes["visual.proj"][1],
        }
    except (KeyError, IndexError, ValueError):
        raise ModelMismatch(
            f"{TOWERS}.safetensors does not hold the towers of DA-CLIP.",
            "It must hold the tensors of daclip_ViT-B-32.pt of the authors, with their names.",
        ) from None


def _count(pattern: str, names: Mapping[str, object]) -> int:
    return 1 + max((int(m[1]) for name in names if (m := re.match(pattern, name))), default=-1)


# ---------------------------------------------------------------------- the network


class ConditionalUnet(nn.Module):
    """F(x, mu, t, contexts): a UNet on concat(x - mu, mu) without normalisation layers.

    The degradation's context joins the time embedding, softmax(mlp(context)) * prompt; the image's
    context is attended to at the fourth level and in the middle.
    """

    def __init__(
        self, width: int, multipliers: Sequence[int], context: int, image_context: bool
    ) -> None:
        super().__init__()
        self.factor = 2 ** len(multipliers)
        time = 4 * width
        self.init_conv = _conv(6, width, 7)
        self.time_mlp = nn.Sequential(
            Sinusoidal(width), nn.Linear(width, time), nn.GELU(), nn.Linear(time, time)
        )
        self.prompt = nn.Parameter(torch.zeros(1, time))
        self.text_mlp = nn.Sequential(nn.Linear(context, time), nn.SiLU(), nn.Linear(time, time))
        self.prompt_mlp = nn.Linear(time, time)
        sizes = [width * m for m in (1, *multipliers)]
        downs: list[nn.Module] = []
        ups: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(sizes)):
            attends = context if image_context and i >= 3 else 0
            last = i == len(multipliers) - 1
            down = _conv(a, b) if last else nn.Conv2d(a, b, 4, 2, 1)
            up = _conv(b, a) if i == 0 else _up(b, a)
            two = (Block(a, a, time), Block(a, a, time))
            downs.append(nn.ModuleList([*two, _attention(a, attends), down]))
            two = (Block(a + b, b, time), Block(a + b, b, time))
            ups.insert(0, nn.ModuleList([*two, _attention(b, attends), up]))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(ups)
        middle = sizes[-1]
        self.mid_block1, self.mid_block2 = (Block(middle, middle, time) for _ in range(2))
        self.mid_attn = _attention(middle, context if image_context else 0)
        self.final_res_block = Block(2 * width, width, time)
        self.final_conv = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(
        self,
        x: Float[Tensor, "b 3 h w"],
        mu: Float[Tensor, "b 3 h w"],
        t: Float[Tensor, " b"],
        image_context: Float[Tensor, "b d"],
        text_context: Float[Tensor, "b d"],
    ) -> Float[Tensor, "b 3 h w"]:
        pixels = torch.cat([x - mu, mu], 1).to(self.init_conv.weight.dtype)
        x = first = self.init_conv(pixels)
        time = self.time_mlp(t.to(x.dtype))
        prompt = torch.softmax(self.text_mlp(text_context.to(x.dtype)), 1) * self.prompt
        time = time + self.prompt_mlp(prompt)
        context = image_context.to(x.dtype)[:, None]
        skips = []
        for block1, block2, attention, down in map(_parts, self.downs):
            x = block1(x, time)
            skips.append(x)
            x = attention(block2(x, time), context)
            skips.append(x)
            x = down(x)
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, time), context), time)
        for block1, block2, attention, up in map(_parts, self.ups):
            x = block1(torch.cat([x, skips.pop()], 1), time)
            x = block2(torch.cat([x, skips.pop()], 1), time)
            x = up(attention(x, context))
        return self.final_conv(self.final_res_block(torch.cat([x, first], 1), time))


def _parts(level: Any) -> tuple[Any, ...]:
    """The modules of one level; a list of modules does not tell the checker what it holds."""
    return tuple(level)


def _conv(a: int, b: int, side: int = 3) -> nn.Conv2d:
    return nn.Conv2d(a, b, side, padding=side // 2, bias=False)


def _up(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(a, b, 3, 1, 1))


class Sinusoidal(nn.Module):
    """Sines, then cosines, of t at frequencies from 1 down to 1/10000, both ends included."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.waves = width // 2

    def forward(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b d"]:
        place = torch.arange(self.waves, device=t.device, dtype=torch.float32)
        angles = t.float()[:, None] * torch.exp(-math.log(10000) / (self.waves - 1) * place)
        return torch.cat([angles.sin(), angles.cos()], 1).to(t.dtype)


class Block(nn.Module):
    """Two convolutions; the time scales and shifts what the first gives."""

    def __init__(self, a: int, b: int, time: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * b))
        self.block1, self.block2 = (nn.ModuleDict({"proj": _conv(before, b)}) for before in (a, b))
        self.res_conv = _conv(a, b, 1) if a != b else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b t"]
    ) -> Float[Tensor, "b d h w"]:
        scale, shift = self.mlp(time)[..., None, None].chunk(2, 1)
        h = F.silu(self.block1["proj"](x) * (scale + 1) + shift)
        return F.silu(self.block2["proj"](h)) + self.res_conv(x)


class ChannelNorm(nn.Module):
    """Layer norm over channels with a gain and no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        spread, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
        eps = 1e-5 if x.dtype == torch.float32 else 1e-3
        return (x - mean) * (spread + eps).rsqrt() * self.g


class _Wrapped(nn.Module):
    """x + fn(norm(x)) under the published names fn.fn and fn.norm."""

    def __init__(self, channels: int, inner: nn.Module) -> None:
        super().__init__()
        self.fn = nn.ModuleDict({"fn": inner, "norm": ChannelNorm(channels)})

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b 1 d"]
    ) -> Float[Tensor, "b c h w"]:
        return x + self.fn["fn"](self.fn["norm"](x), context)


def _attention(channels: int, context: int) -> _Wrapped:
    inner = Attending(channels, context) if context else LinearAttention(channels)
    return _Wrapped(channels, inner)


class LinearAttention(nn.Module):
    """Attention whose keys are normalised over places, so that its cost is linear in them."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, hidden = heads, heads * HEAD
        self.to_qkv = nn.Conv2d(channels, 3 * hidden, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(hidden, channels, 1), ChannelNorm(channels))

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b 1 d"]
    ) -> Float[Tensor, "b c h w"]:
        b, _, h, w = x.shape
        q, k, v = self.to_qkv(x).reshape(b, 3, self.heads, HEAD, h * w).unbind(1)
        q, k = q.softmax(2) * HEAD**-0.5, k.softmax(3)
        out = torch.einsum("bhde,bhdn->bhen", torch.einsum("bhdn,bhen->bhde", k, v / (h * w)), q)
        return self.to_out(out.reshape(b, -1, h, w))


class Attending(nn.Module):
    """A transformer block over places that attends to the context of the image."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([_Transformer(channels, context)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b 1 d"]
    ) -> Float[Tensor, "b c h w"]:
        h, w = x.shape[-2:]
        tokens = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(tokens.transpose(1, 2).unflatten(2, (h, w)))


class _Transformer(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = _Cross(width, width), _Cross(width, context)
        gate = nn.ModuleDict({"proj": nn.Linear(width, 8 * width)})
        self.ff = nn.ModuleDict(
            {"net": nn.ModuleList([gate, nn.Identity(), nn.Linear(4 * width, width)])}
        )
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "b n c"], context: Float[Tensor, "b 1 d"]
    ) -> Float[Tensor, "b n c"]:
        near = self.norm1(x)
        x = x + self.attn1(near, near)
        x = x + self.attn2(self.norm2(x), context)
        gate, _, out = _parts(self.ff["net"])
        value, opened = gate["proj"](self.norm3(x)).chunk(2, -1)
        return x + out(value * F.gelu(opened))


class _Cross(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(
        self, x: Float[Tensor, "b n c"], context: Float[Tensor, "b m d"]
    ) -> Float[Tensor, "b n c"]:
        q, k, v = (
            part.unflatten(-1, (-1, HEAD)).transpose(1, 2)
            for part in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


# ---------------------------------------------------------------------- the towers


class Towers(nn.Module):
    """CLIP's vision tower, and its controller, whose hidden states are added to it.

    The published code takes the controller's states from the last to the first, so the tower's
    first block receives the controller's last; the weights were trained so.
    """

    def __init__(self, width: int, layers: int, patch: int, places: int, out: int) -> None:
        super().__init__()
        self.side = patch * math.isqrt(places - 1)
        self.visual = Tower(width, layers, patch, places, out)
        self.visual_control = Tower(width, layers, patch, places, out, controls=True)

    def contexts(
        self, mu: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """What the pictures show, and what is wrong with them."""
        x = self._prepared(mu).to(self.visual.proj.dtype)
        degradation, hidden = self.visual_control(x)
        image, _ = self.visual(x, hidden[::-1])
        return image, degradation

    def _prepared(self, mu: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 s s"]:
        """The middle square at CLIP's size, with CLIP's mean and deviation."""
        h, w = mu.shape[-2:]
        share = self.side / min(h, w)
        size = [max(self.side, round(length * share)) for length in (h, w)]
        x = F.interpolate(mu.float(), size, mode="bicubic", antialias=True).clamp(0, 1)
        y, left = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        x = x[..., y : y + self.side, left : left + self.side]
        mean, std = (torch.tensor(v, device=x.device)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        return (x - mean) / std


class Tower(nn.Module):
    """A vision transformer with CLIP's names; a controlling one also gives its hidden states."""

    def __init__(
        self,
        width: int,
        layers: int,
        patch: int,
        places: int,
        out: int,
        *,
        controls: bool = False,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(places, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        blocks = nn.ModuleDict({"resblocks": nn.ModuleList(_Layer(width) for _ in range(layers))})
        parts: dict[str, nn.Module] = {"transformer": blocks}
        if controls:
            parts["zero_modules"] = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.controls = controls
        self.transformer: Any = nn.ModuleDict(parts) if controls else blocks
        self.proj = nn.Parameter(torch.zeros(width, out))

    def forward(
        self, x: Float[Tensor, "b 3 s s"], control: Sequence[Tensor] = ()
    ) -> tuple[Float[Tensor, "b d"], list[Tensor]]:
        patches = self.conv1(x).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([cls, patches], 1) + self.positional_embedding)
        blocks = (self.transformer["transformer"] if self.controls else self.transformer)[
            "resblocks"
        ]
        hidden = []
        for index, block in enumerate(blocks):
            x = block(x)
            if self.controls:
                hidden.append(self.transformer["zero_modules"][index](x))
            if control:
                x = x + control[index]
        return self.ln_post(x[:, 0]) @ self.proj, hidden


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, max(width // TOWER_HEAD, 1), batch_first=True)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)}
        )

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        near = self.ln_1(x)
        x = x + self.attn(near, near, near, need_weights=False)[0]
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))

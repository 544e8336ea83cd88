"""Tiny random restoration checkpoints, in our layout and in that of the published network.

They answer "does the code fit the layout", never "is the picture good".
"""

import itertools
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

TASKS = ("noise", "rain", "inpaint", "low_light")
TARGETS = ("noise", "data", "velocity")


def tiny_restorer(
    folder: Path, *, targets: tuple[str, ...] = TARGETS, patch: int = 2, seed: int = 0, **about
) -> Path:
    """A random UNet2DModel with its restoration.json; `about` replaces entries of the latter."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DModel(
            in_channels=6 * patch**2,
            out_channels=3 * len(targets) * patch**2,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D",) * 2,
            up_block_types=("UpBlock2D",) * 2,
            norm_num_groups=4,
            add_attention=False,
            num_class_embeds=len(TASKS) + 1,
        )
    unet.save_pretrained(folder / "unet", safe_serialization=True)
    described = {
        "schedule": {"kind": "cosine", "steps": 100, "eps": 0.005, "max_sigma": 50},
        "fit_targets": list(targets),
        "tasks": list(TASKS),
        "patch": patch,
    }
    (folder / "restoration.json").write_text(json.dumps(described | about))
    return folder


# ---------------------------------------------------------------------- the published layout

WIDTH, MULTIPLIERS, CONTEXT = 32, (1, 1, 2, 2), 24
TOWER, LAYERS, PATCH, SIDE = 64, 2, 8, 32


def published_universal(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random tensors under the names of universal-ir.pth, at a small size.

    The names are written out from the authors' module tree, apart from the code that reads them.
    """
    shapes: dict[str, tuple[int, ...]] = {
        "init_conv.weight": (WIDTH, 6, 7, 7),
        "prompt": (1, 4 * WIDTH),
        "final_conv.weight": (3, WIDTH, 3, 3),
        "final_conv.bias": (3,),
    }
    _linear(shapes, "time_mlp.1", WIDTH, 4 * WIDTH)
    _linear(shapes, "time_mlp.3", 4 * WIDTH, 4 * WIDTH)
    _linear(shapes, "text_mlp.0", CONTEXT, 4 * WIDTH)
    _linear(shapes, "text_mlp.2", 4 * WIDTH, 4 * WIDTH)
    _linear(shapes, "prompt_mlp", 4 * WIDTH, 4 * WIDTH)
    sizes = [WIDTH * m for m in (1, *MULTIPLIERS)]
    last = len(MULTIPLIERS) - 1
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        for k in (0, 1):
            _block(shapes, f"downs.{i}.{k}", a, a)
            _block(shapes, f"ups.{last - i}.{k}", a + b, b)
        _attention(shapes, f"downs.{i}.2", a, transformer=i >= 3)
        _attention(shapes, f"ups.{last - i}.2", b, transformer=i >= 3)
        side = 3 if i == last else 4
        shapes[f"downs.{i}.3.weight"] = (b, a, side, side)
        if i != last:
            shapes[f"downs.{i}.3.bias"] = (b,)
        if i == 0:
            shapes[f"ups.{last}.3.weight"] = (a, b, 3, 3)
        else:
            shapes[f"ups.{last - i}.3.1.weight"] = (a, b, 3, 3)
            shapes[f"ups.{last - i}.3.1.bias"] = (a,)
    for name in ("mid_block1", "mid_block2"):
        _block(shapes, name, sizes[-1], sizes[-1])
    _attention(shapes, "mid_attn", sizes[-1], transformer=True)
    _block(shapes, "final_res_block", 2 * WIDTH, WIDTH)
    return _drawn(shapes, seed)


def published_towers(seed: int = 1) -> dict[str, torch.Tensor]:
    """Random tensors under the names of daclip_ViT-B-32.pt, some of its text side among them."""
    shapes: dict[str, tuple[int, ...]] = {"logit_scale": (), "clip.logit_scale": ()}
    shapes["clip.token_embedding.weight"] = (10, 16)
    for tower, inner in (("visual", ""), ("visual_control", "transformer.")):
        shapes[f"{tower}.conv1.weight"] = (TOWER, 3, PATCH, PATCH)
        shapes[f"{tower}.class_embedding"] = (TOWER,)
        shapes[f"{tower}.positional_embedding"] = ((SIDE // PATCH) ** 2 + 1, TOWER)
        shapes[f"{tower}.proj"] = (TOWER, CONTEXT)
        for norm in ("ln_pre", "ln_post"):
            shapes[f"{tower}.{norm}.weight"] = shapes[f"{tower}.{norm}.bias"] = (TOWER,)
        for i in range(LAYERS):
            at = f"{tower}.transformer.{inner}resblocks.{i}"
            for norm in ("ln_1", "ln_2"):
                shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (TOWER,)
            shapes[f"{at}.attn.in_proj_weight"] = (3 * TOWER, TOWER)
            shapes[f"{at}.attn.in_proj_bias"] = (3 * TOWER,)
            _linear(shapes, f"{at}.attn.out_proj", TOWER, TOWER)
            _linear(shapes, f"{at}.mlp.c_fc", TOWER, 4 * TOWER)
            _linear(shapes, f"{at}.mlp.c_proj", 4 * TOWER, TOWER)
            if inner:
                _linear(shapes, f"{tower}.transformer.zero_modules.{i}", TOWER, TOWER)
    return _drawn(shapes, seed)


def tiny_published(folder: Path) -> Path:
    """Both files as safetensors in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(published_universal(), folder / "universal-ir.safetensors")
    save_file(published_towers(), folder / "daclip_ViT-B-32.safetensors")
    return folder


def _drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _linear(shapes: dict, name: str, a: int, b: int) -> None:
    shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (b, a), (b,)


def _block(shapes: dict, name: str, a: int, b: int) -> None:
    _linear(shapes, f"{name}.mlp.1", 4 * WIDTH, 2 * b)
    shapes[f"{name}.block1.proj.weight"] = (b, a, 3, 3)
    shapes[f"{name}.block2.proj.weight"] = (b, b, 3, 3)
    if a != b:
        shapes[f"{name}.res_conv.weight"] = (b, a, 1, 1)


def _attention(shapes: dict, name: str, c: int, *, transformer: bool) -> None:
    shapes[f"{name}.fn.norm.g"] = (1, c, 1, 1)
    inner = f"{name}.fn.fn"
    if not transformer:
        shapes[f"{inner}.to_qkv.weight"] = (384, c, 1, 1)
        shapes[f"{inner}.to_out.0.weight"], shapes[f"{inner}.to_out.0.bias"] = (c, 128, 1, 1), (c,)
        shapes[f"{inner}.to_out.1.g"] = (1, c, 1, 1)
        return
    shapes[f"{inner}.norm.weight"] = shapes[f"{inner}.norm.bias"] = (c,)
    for side in ("proj_in", "proj_out"):
        shapes[f"{inner}.{side}.weight"], shapes[f"{inner}.{side}.bias"] = (c, c, 1, 1), (c,)
    block = f"{inner}.transformer_blocks.0"
    for attn, context in (("attn1", c), ("attn2", CONTEXT)):
        shapes[f"{block}.{attn}.to_q.weight"] = (c, c)
        shapes[f"{block}.{attn}.to_k.weight"] = (c, context)
        shapes[f"{block}.{attn}.to_v.weight"] = (c, context)
        _linear(shapes, f"{block}.{attn}.to_out.0", c, c)
    for norm in ("norm1", "norm2", "norm3"):
        shapes[f"{block}.{norm}.weight"] = shapes[f"{block}.{norm}.bias"] = (c,)
    _linear(shapes, f"{block}.ff.net.0.proj", c, 8 * c)
    _linear(shapes, f"{block}.ff.net.2", 4 * c, c)

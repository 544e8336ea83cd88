"""Modules of a UNet by the names of the original code, as diffusers names them.

    input_blocks_4_1_...     down_blocks_1_attentions_0_...
    middle_block_1_...       mid_block_attentions_0_...
    output_blocks_2_2_conv   up_blocks_0_upsamplers_0_conv

Kohya's scripts write LoRAs of Stable Diffusion XL with these. Names here have lost their dots, as
in `adapters.canonical`. The blocks are counted with the two layers a block that all Stable
Diffusion models have: after them comes a resampler on the way down, and there is a third layer on
the way up. https://github.com/Stability-AI/generative-models, UNetModel.
"""

import re

# Entries of one block on the way down or up: two layers and a resampler, or three layers.
ENTRIES = 3
INNER = ("resnets", "attentions")
MIDDLE = ("resnets_0", "attentions_0", "resnets_1")
IN_RESNET = {
    "in_layers_0": "norm1", "in_layers_2": "conv1", "emb_layers_1": "time_emb_proj",
    "out_layers_0": "norm2", "out_layers_3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
OUTSIDE = {
    "input_blocks_0_0": "conv_in", "out_0": "conv_norm_out", "out_2": "conv_out",
    "time_embed_0": "time_embedding_linear_1", "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1", "label_emb_0_2": "add_embedding_linear_2",
}  # fmt: skip
BLOCK = re.compile(r"(input|output)_blocks_(\d{1,3})_(\d)_(\w+)")
MIDDLE_BLOCK = re.compile(r"middle_block_([012])_(\w+)")


def in_diffusers(name: str) -> str:
    """The name in diffusers; any other name comes back as it is."""
    if name in OUTSIDE:
        return OUTSIDE[name]
    if match := MIDDLE_BLOCK.fullmatch(name):
        place, rest = MIDDLE[int(match[1])], match[2]
        return f"mid_block_{place}_{_inside(place, rest)}"
    if not (match := BLOCK.fullmatch(name)):
        return name
    side, number, part, rest = match[1], int(match[2]), int(match[3]), match[4]
    block, layer = divmod(number - 1 if side == "input" else number, ENTRIES)
    if rest == "op":
        return f"down_blocks_{block}_downsamplers_0_conv"
    if rest == "conv":
        return f"up_blocks_{block}_upsamplers_0_conv"
    if part >= len(INNER):
        return name
    direction = "down" if side == "input" else "up"
    return f"{direction}_blocks_{block}_{INNER[part]}_{layer}_{_inside(INNER[part], rest)}"


def _inside(place: str, rest: str) -> str:
    return IN_RESNET.get(rest, rest) if place.startswith("resnets") else rest

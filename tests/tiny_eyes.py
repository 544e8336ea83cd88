"""Tiny random-weight models that take pictures, in the real file layouts, written in a second.

tiny_llava(folder)                      transformers layout, with the three REVERSE tokens
tiny_llava(folder, reverse=False)       without them
original_layout(folder, out)            the same weights as LLaVA's own code base writes them
tiny_qwen(folder)                       Qwen2.5-VL
"""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from engine.zoo.emoji_llava import build_tokenizer, new_model

MARKS = ("<SPAN>", "</CN>", "</UN>")


def tiny_llava(folder: Path, *, reverse: bool = True, seed: int = 0) -> Path:
    """A LLaVA of 48 dimensions and one layer on both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new_model(tokenizer, eyes=48, speech=48, layers=1).save_pretrained(folder)
    if not reverse:
        text = (folder / "tokenizer.json").read_text()
        for mark, other in zip(MARKS, ("<one>", "<two>", "<three>"), strict=True):
            text = text.replace(mark, other)
        (folder / "tokenizer.json").write_text(text)
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 64, "width": 64},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def original_layout(folder: Path, out: Path) -> Path:
    """What LLaVA's own code writes for these weights; the vision tower lies in a folder beside."""
    tower = out / "vision_tower"
    tower.mkdir(parents=True)
    config = json.loads((folder / "config.json").read_text())
    speech, eyes = config["text_config"], config["vision_config"]
    names = {
        "model.language_model.": "model.",
        "model.multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "model.multi_modal_projector.linear_2.": "model.mm_projector.2.",
        # What `save_pretrained` writes has the names of older releases.
        "language_model.model.": "model.",
        "language_model.lm_head.": "lm_head.",
        "multi_modal_projector.linear_1.": "model.mm_projector.0.",
        "multi_modal_projector.linear_2.": "model.mm_projector.2.",
    }
    speaking, seeing = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if "vision_tower." in name:
            inner = name.partition("vision_tower.")[2].removeprefix("vision_model.")
            seeing[f"vision_model.{inner}"] = tensor
            continue
        head = next((head for head in names if name.startswith(head)), "")
        speaking[names.get(head, "") + name.removeprefix(head)] = tensor
    save_file(speaking, out / "model.safetensors")
    save_file(seeing, tower / "model.safetensors")
    (tower / "config.json").write_text(json.dumps({"vision_config": eyes}))
    flat = {
        **speech,
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_vision_select_layer": -1,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": eyes["hidden_size"],
        "image_aspect_ratio": "pad",
    }
    (out / "config.json").write_text(json.dumps(flat))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, out / name)
    return out


def tiny_qwen(folder: Path, *, seed: int = 0) -> Path:
    """A Qwen2.5-VL of 32 dimensions; pictures become one token for every 28 x 28 pixels."""
    from tokenizers import AddedToken
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(folder)
    places = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in places])
    tokenizer.chat_template = (
        "{% for message in messages %}user {% if message['content'] is string %}"
        "{{ message['content'] }}{% else %}{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %} assistant "
    )
    tokenizer.save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in places}
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            # As published, the embedding has more rows than the tokenizer has tokens.
            "vocab_size": len(tokenizer) + 19,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [2, 3, 3],
            },
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    settings = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "min_pixels": 56 * 56,
        "max_pixels": 112 * 112,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder

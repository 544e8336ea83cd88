"""LLaVA checkpoints in the layout of its own code base, read into the class of transformers.

    model.layers.0...            model.language_model.layers.0...
    model.embed_tokens, norm     model.language_model.embed_tokens, norm
    model.mm_projector.0 and 2   model.multi_modal_projector.linear_1 and linear_2
    model.vision_tower.vision_tower.vision_model...      model.vision_tower.vision_model...
    lm_head                      lm_head

The vision tower is often not in the checkpoint but named in `mm_vision_tower`; then it is taken
from the folder `vision_tower` beside the weights, or from the Hub. The vocabulary gets one more
row, for the image token, where the tokenizer has none. Nothing here depends on a folder's name.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from engine.core.errors import AssetMissing, ModelMismatch
from engine.core.tensor_header import TensorInfo
from engine.models._checks import read_json, weight_files
from engine.models.tokenizers import read_tokenizer

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

IMAGE = "<image>"
RENAMED = (
    (r"^model\.mm_projector\.0\.", "model.multi_modal_projector.linear_1."),
    (r"^model\.mm_projector\.2\.", "model.multi_modal_projector.linear_2."),
    (r"^model\.vision_tower\.vision_tower\.", "model.vision_tower."),
    (r"^model\.(layers|embed_tokens|norm)\b", r"model.language_model.\1"),
)
# Settings of the language model inside the flat config of the original layout.
TEXT_SETTINGS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
    "rope_theta", "rope_scaling", "attention_bias", "tie_word_embeddings", "bos_token_id",
    "eos_token_id", "pad_token_id",
)  # fmt: skip


def renamed(name: str) -> str:
    """The name that transformers gives a tensor of the original layout."""
    for pattern, new in RENAMED:
        name = re.sub(pattern, new, name)
    return name


def headers(folder: Path) -> Mapping[Path, Mapping[str, TensorInfo]]:
    """Checked headers of the weights, and of a vision tower that lies beside them."""
    headers_by_file = dict(weight_files(folder, "model"))
    if (folder / "vision_tower").is_dir():
        headers_by_file |= weight_files(folder / "vision_tower", "model")
    return headers_by_file


def read(
    folder: Path, config: Mapping[str, Any], dtype: torch.dtype
) -> tuple["LlavaForConditionalGeneration", "PreTrainedTokenizerBase", Any]:
    """Model, tokenizer and image processor of a folder in the original layout."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, MistralConfig
    from transformers import LlavaForConditionalGeneration as Llava
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    if config.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
        raise ModelMismatch(
            "Only LLaVA with the two-layer projector (mlp2x_gelu) can be converted.",
            "LLaVA-1.5 and later have it.",
        )
    tokenizer = read_tokenizer(folder)
    if IMAGE not in tokenizer.get_vocab():
        tokenizer.add_tokens([IMAGE], special_tokens=True)
    state = {renamed(name): tensor for name, tensor in _tensors(headers(folder))}
    tower = _tower_folder(folder, config, state)
    if tower is not None and tower != folder / "vision_tower":
        state |= {renamed(name): t for name, t in _tensors(weight_files(tower, "model"))}
    state = {_in_tower(name): tensor for name, tensor in state.items()}
    described = read_json((tower or folder) / "config.json")
    described = described.get("vision_config", described)
    settings = {key: config[key] for key in TEXT_SETTINGS if config.get(key) is not None}
    kind = MistralConfig if config.get("model_type") == "llava_mistral" else LlamaConfig
    rows = max(len(tokenizer), int(settings["vocab_size"]))
    whole = LlavaConfig(
        vision_config=CLIPVisionConfig(
            **{k: v for k, v in described.items() if k in _VISION_SETTINGS}
        ),
        text_config=kind(**{**settings, "vocab_size": rows}),
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=int(config.get("mm_vision_select_layer", -2)),
        vision_feature_select_strategy=(
            "full" if config.get("mm_vision_select_feature") == "cls_patch" else "default"
        ),
    )
    with torch.device("meta"):
        model = Llava(whole)
    _fill(model, state, rows, dtype)
    size = whole.vision_config.image_size
    eyes = LlavaImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        # LLaVA-1.5 looks at the whole picture, made square by a margin of the mean colour.
        do_pad=config.get("image_aspect_ratio") == "pad",
    )
    return model, tokenizer, eyes


_VISION_SETTINGS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size",
    "patch_size", "projection_dim", "hidden_act", "layer_norm_eps", "num_channels",
)  # fmt: skip


def _tower_folder(
    folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Path | None:
    """Where the vision tower's config (and weights, unless they are in `state`) lie."""
    beside = folder / "vision_tower"
    if (beside / "config.json").is_file():
        return beside
    from engine.models import _sources

    if tower := _sources.tower_of(folder):
        # Not with the server's own token: the name stands in a file of someone else.
        return _sources.from_hub(tower, None, "float32", False)[0]
    raise AssetMissing(
        "This LLaVA checkpoint does not say which vision tower it looks through.",
        "Put the tower's folder, config.json and model.safetensors, beside it as vision_tower.",
    )


def _in_tower(name: str) -> str:
    """Tensors of a tower that was saved on its own, under the name of the tower."""
    if name.startswith("vision_model."):
        return f"model.vision_tower.{name}"
    return name


def _tensors(headers_by_file: Mapping[Path, object]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    for path in headers_by_file:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                yield name, file.get_tensor(name)


def _fill(
    model: "LlavaForConditionalGeneration",
    state: dict[str, Tensor],
    rows: int,
    dtype: torch.dtype,
) -> None:
    expected = model.state_dict()
    # Releases of transformers differ in whether the tower's inner name is kept.
    if "model.vision_tower.vision_model.post_layernorm.weight" not in expected:
        state = {name.replace("vision_tower.vision_model.", "vision_tower."): tensor
                 for name, tensor in state.items()}  # fmt: skip
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in state and len(state[name]) < rows:
            # New rows start at the mean of the old ones, as `resize_token_embeddings` does.
            mean = state[name].float().mean(0, keepdim=True).to(state[name].dtype)
            state[name] = torch.cat([state[name], mean.expand(rows - len(state[name]), -1)])
    if "lm_head.weight" not in state and model.config.text_config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    missing = sorted(expected.keys() - state.keys())
    if missing:
        raise ModelMismatch(
            f"The checkpoint lacks {missing[0]} ({len(missing)} missing).",
            "Take weights, config and vision tower of the same model.",
        )
    kept = {name: state[name].to(dtype, copy=True) for name in expected}
    wrong = [name for name in expected if kept[name].shape != expected[name].shape]
    if wrong:
        raise ModelMismatch(
            f"{wrong[0]} is {list(kept[wrong[0]].shape)} in the file, but the config makes it "
            f"{list(expected[wrong[0]].shape)}.",
            "Take weights and config from the same export.",
        )
    model.load_state_dict(kept, assign=True)
    for module in model.modules():
        if hasattr(module, "position_ids") and getattr(module.position_ids, "is_meta", False):
            count = module.position_ids.shape[-1]
            module.register_buffer("position_ids", torch.arange(count).expand(1, -1), False)
        if hasattr(module, "inv_freq") and module.inv_freq.is_meta:
            # The rotary table follows from the config; a new module computes it on the CPU.
            fresh = type(module)(module.config)
            for name, buffer in fresh.named_buffers():
                module.register_buffer(name, buffer, persistent=False)
            if hasattr(module, "original_inv_freq"):
                module.original_inv_freq = fresh.original_inv_freq

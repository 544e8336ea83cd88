"""LoRA as PEFT reads it: the arm that MEFT is compared with, to be taken along as well.

    adapter_model.safetensors    "base_model.model.encoder.layer.0....lora_A.weight", ...
    adapter_config.json          rank, alpha, targets, the base model's name

    PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder)

The linear head on the pooled output is no part of that layout; it lies beside it, "head.weight" and
"head.bias" in head.safetensors.
"""

import json

from engine.core.named_file import NamedFile, TextFile
from engine.models.tensor_file import TensorFile
from engine.networks._backbones import Classifier
from engine.networks.meft.arms import LORA_TARGETS

WEIGHTS, CONFIG, HEAD = "adapter_model.safetensors", "adapter_config.json", "head.safetensors"
MARK = ".default.weight"  # PEFT's name of the one adapter, which its files leave out


def write(network: Classifier, base: str, rank: int) -> tuple[NamedFile, ...]:
    """The files of a network whose layers hold LoRA. Layers are named as `AutoModel` names them."""
    place = "base_model.model." + ("decoder." if network.backbone.is_causal else "")
    found = {
        place + name.replace(MARK, ".weight"): value.detach().cpu()
        for name, value in network.backbone.body.named_parameters()
        if ".lora_" in name
    }
    assert network.head is not None
    head = {f"head.{name}": value.cpu() for name, value in network.head.state_dict().items()}
    there = {name.split(".lora_")[0].rpartition(".")[2] for name in found}
    told = {
        "peft_type": "LORA",
        "task_type": "FEATURE_EXTRACTION",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [name for name in LORA_TARGETS if name in there],
        "inference_mode": True,
    }
    text = json.dumps(told, indent=2, sort_keys=True) + "\n"
    weights, beside = (
        TensorFile.of(n, t, {"format": "pt"}) for n, t in ((WEIGHTS, found), (HEAD, head))
    )
    return weights, TextFile.of(CONFIG, text), beside

"""Adapters in the layouts that other tools read, and the report of what was lost.

A rebuilt adapter has its scale inside, so it is written with lora_alpha = r (Kohya: alpha = r).
"""

import json
from collections.abc import Mapping

import torch

from engine.core.errors import BadInput
from engine.core.shapes import Float, Tensor
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.survey import Survey
from engine.models.adapters import WEIGHTS, LoraLayer
from engine.models.tensor_file import TensorFile

Pairs = Mapping[str, tuple[Float[Tensor, "m r"], Float[Tensor, "r d"]]]


def peft(collection: Collection, pairs: Pairs) -> tuple[TensorFile, str]:
    """Weights and config of a PEFT folder."""
    tensors, ranks = {}, {}
    for module, (a, b) in pairs.items():
        layer = collection.layer(module)
        up, down = _folded(layer, a, b)
        ends = ("embedding_B", "embedding_A") if layer.is_embedding else ("B.weight", "A.weight")
        tensors[f"base_model.model.{layer.name}.lora_{ends[0]}"] = up
        tensors[f"base_model.model.{layer.name}.lora_{ends[1]}"] = down
        ranks[layer.name] = a.shape[1]
    return TensorFile.of(WEIGHTS, tensors, {"format": "pt"}), _config(collection, ranks)


def _config(collection: Collection, ranks: Mapping[str, int]) -> str:
    """adapter_config.json: rank and alpha are the same everywhere, or listed where they differ."""
    usual = max(ranks.values())
    odd = {name: rank for name, rank in ranks.items() if rank != usual}
    turned = any(
        collection.layer(m).is_turned and not collection.layer(m).is_embedding
        for m in collection.modules
    )
    entries = {
        "peft_type": "LORA",
        "base_model_name_or_path": next((lo.base for lo in collection.loras if lo.base), None),
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": turned,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "task_type": None,
        "modules_to_save": None,
    }
    return json.dumps(entries, indent=1, sort_keys=True) + "\n"


def kohya(collection: Collection, pairs: Pairs) -> TensorFile:
    """One file with the keys of Kohya's scripts, which web interfaces and diffusers read."""
    tensors = {}
    for module, (a, b) in pairs.items():
        up, down = _folded(collection.layer(module), a, b)
        stem = _stem(module)
        tensors[f"{stem}.lora_down.weight"] = down
        tensors[f"{stem}.lora_up.weight"] = up
        tensors[f"{stem}.alpha"] = torch.tensor(float(a.shape[1]))
    return TensorFile.of("lora.safetensors", tensors, {"ss_network_module": "networks.lora"})


def _stem(module: str) -> str:
    for head, stands in (("text_encoder_2_", "lora_te2_"), ("text_encoder_", "lora_te_")):
        if module.startswith(head):
            return stands + module.removeprefix(head)
    return f"lora_unet_{module}"


def _folded(
    layer: LoraLayer, a: Float[Tensor, "m r"], b: Float[Tensor, "r d"]
) -> tuple[Tensor, Tensor]:
    """The factors in float32 with the shape of the layer's kernel."""
    up, down = a.float(), b.float()
    if layer.kernel:
        up = up.reshape(*up.shape, *[1] * len(layer.kernel))
        down = down.reshape(len(down), -1, *layer.kernel)
    return up, down


def pair_of(delta: Float[Tensor, "m d"], rank: int) -> tuple[Tensor, Tensor]:
    """Factors of a merged delta: all of it where the rank allows."""
    u, s, vh = torch.linalg.svd(delta, full_matrices=False)
    kept = max(1, min(rank, int((s > s[0] * 1e-7).sum())))
    root = s[:kept].sqrt()
    return u[:, :kept] * root, root[:, None] * vh[:kept]


def report(survey: Survey, p: int, storage: float, notes: tuple[str, ...]) -> str:
    """A page in Markdown: how much each adapter lost, and what the other ways would have done."""
    if not 0 <= p < len(survey.errors):
        raise BadInput(f"There is no p = {p} in this survey.", "Choose a smaller one.")
    lines = [
        "# Reversible merge",
        "",
        f"{len(survey.names)} adapters, {survey.modules} modules, p = {p}: {storage:.1%} of the "
        "size of the adapters.",
        "",
        "| adapter | relative squared error of its delta |",
        "|---|---|",
        *(
            f"| {name} | {'-' if error != error else f'{error:.4g}'} |"
            for name, error in zip(survey.names, survey.errors[p].tolist(), strict=True)
        ),
        "",
        "| way | budget | storage | mean error |",
        "|---|---|---|---|",
        *(
            f"| {point.way} | {point.budget} | {point.storage:.1%} | {point.error:.4g} |"
            for point in survey.points
        ),
        "",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"

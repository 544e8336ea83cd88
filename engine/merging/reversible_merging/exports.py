"""Adapters in the layouts that other tools read, and the report of what was lost.

A rebuilt adapter has its scale inside, so it is written with lora_alpha = r (Kohya: alpha = r).
"""

import json
from collections.abc import Mapping

import torch

from engine.core.errors import BadInput
from engine.core.named_file import NamedFile, TextFile
from engine.core.shapes import Float, Tensor
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.survey import Survey
from engine.models.adapters import CONFIG, WEIGHTS, LoraLayer, part_of
from engine.models.tensor_file import TensorFile

Pairs = Mapping[str, tuple[Float[Tensor, "m r"], Float[Tensor, "r d"]]]


def peft(collection: Collection, pairs: Pairs) -> list[NamedFile]:
    """Weights and config of a PEFT folder: of one for each network where there are several."""
    parts: dict[str, dict[str, str]] = {}
    for module in pairs:
        part, name = part_of(collection.layer(module).name)
        parts.setdefault(part, {})[module] = name
    files: list[NamedFile] = []
    for part, names in parts.items():
        place = f"{part}/" if len(parts) > 1 else ""
        files.append(TensorFile.of(place + WEIGHTS, _peft_tensors(collection, pairs, names), PT))
        files.append(TextFile.of(place + CONFIG, _config(collection, pairs, names)))
    return files


PT = {"format": "pt"}


def _peft_tensors(
    collection: Collection, pairs: Pairs, names: Mapping[str, str]
) -> dict[str, Tensor]:
    tensors = {}
    for module, name in names.items():
        layer = collection.layer(module)
        up, down = _folded(layer, *pairs[module])
        ends = ("embedding_B", "embedding_A") if layer.is_embedding else ("B.weight", "A.weight")
        tensors[f"base_model.model.{name}.lora_{ends[0]}"] = up
        tensors[f"base_model.model.{name}.lora_{ends[1]}"] = down
    return tensors


def _config(collection: Collection, pairs: Pairs, names: Mapping[str, str]) -> str:
    """adapter_config.json: rank and alpha are the same everywhere, or listed where they differ."""
    ranks = {name: pairs[module][0].shape[1] for module, name in names.items()}
    usual = max(ranks.values())
    odd = _patterns(ranks, usual)
    layers = [collection.layer(module) for module in names]
    entries = {
        "peft_type": "LORA",
        "base_model_name_or_path": next((lo.base for lo in collection.loras if lo.base), None),
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": any(layer.is_turned and not layer.is_embedding for layer in layers),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "task_type": None,
        "modules_to_save": None,
    }
    return json.dumps(entries, indent=1) + "\n"


def _patterns(ranks: Mapping[str, int], usual: int) -> dict[str, int]:
    """The ranks that differ. To PEFT a name also means every longer name that ends with it, and
    the first match counts: so longer names stand first, and all are listed if one would do that."""
    odd = {name: rank for name, rank in ranks.items() if rank != usual}
    longest = sorted(ranks, key=len, reverse=True)
    is_clear = not any(other.endswith(f".{name}") for name in odd for other in ranks)
    return {name: ranks[name] for name in longest if name in odd or not is_clear}


def kohya(collection: Collection, pairs: Pairs) -> TensorFile:
    """One file with the keys of Kohya's scripts, which web interfaces and diffusers read."""
    tensors = {}
    for module, (a, b) in pairs.items():
        up, down = _folded(collection.layer(module), a, b)
        stem = _stem(module, any(name.startswith("text_encoder_2_") for name in pairs))
        tensors[f"{stem}.lora_down.weight"] = down
        tensors[f"{stem}.lora_up.weight"] = up
        tensors[f"{stem}.alpha"] = torch.tensor(float(a.shape[1]))
    return TensorFile.of("lora.safetensors", tensors, {"ss_network_module": "networks.lora"})


def _stem(module: str, has_two_encoders: bool) -> str:
    first = "lora_te1_" if has_two_encoders else "lora_te_"
    for head, stands in (("text_encoder_2_", "lora_te2_"), ("text_encoder_", first)):
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

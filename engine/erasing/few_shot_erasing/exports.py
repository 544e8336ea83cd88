"""The trained text encoder in the formats that other tools read, each read back and compared."""

from collections.abc import Mapping

import torch

from engine.core.precision import state_at_home
from engine.core.reversible import missed_of_weights
from engine.core.shapes import Float, Tensor
from engine.erasing.few_shot_erasing.learning import PART
from engine.erasing.few_shot_erasing.results import Exported
from engine.models.diffusion import DiffusionBundle
from engine.models.tensor_file import TensorFile

FORMS = ("encoder", "partial", "lora")
PREFIX = "text_model."
Tensors = dict[str, Tensor]

_NAMES = {
    "encoder": "model.safetensors",
    "partial": "text_encoder_partial.safetensors",
    "lora": "pytorch_lora_weights.safetensors",
}
_HOW = {
    "encoder": "Put it in the text_encoder folder of any checkpoint with this text encoder.",
    "partial": "pipeline.text_encoder.load_state_dict(load_file(...), strict=False)",
    "lora": 'pipeline.load_lora_weights("pytorch_lora_weights.safetensors")',
}


def exported(bundle: DiffusionBundle, new: Mapping[str, Tensor], form: str, rank: int) -> Exported:
    """The file of one form, with the part of the whole edit that its weights miss.

    A LoRA holds matrices only, so the change of biases is part of its error; and Adam's step is
    much like a sign, whose matrix has high rank.
    """
    # A file is read back on the CPU, and there it is compared.
    new = state_at_home(new)
    held = bundle.model.state_dict()
    state = state_at_home({name: held[name] for name in held if name.startswith(PART)})
    if form == "lora":
        tensors = _lora(state, new, rank)
    elif form == "partial":
        tensors = {_outside(name): tensor for name, tensor in new.items()}
    else:
        tensors = {_outside(name): tensor for name, tensor in {**state, **new}.items()}
    file = TensorFile.of(_NAMES[form], tensors, {"format": "pt"})
    found = read_back(file.read(), state, form)
    error = missed_of_weights(found, new, state)
    stem = file.name.rpartition(".")[0]
    return Exported(form, {stem: file}, rank if form == "lora" else 0, error, _HOW[form])


def read_back(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], form: str
) -> Mapping[str, Tensor]:
    """The weights that such a file leads to, by their name in the bundle's model."""
    if form != "lora":
        named = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()}
        return {name: named.get(_inside(name), tensor) for name, tensor in state.items()}
    found = dict(state)
    for name, tensor in state.items():
        stem = f"{PART}{_outside(name)}".removesuffix(".weight")
        if f"{stem}.lora_A.weight" in tensors:
            down, up = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
            found[name] = (tensor.float() + up.float() @ down.float()).to(tensor)
    return found


def _lora(state: Mapping[str, Tensor], new: Mapping[str, Tensor], rank: int) -> Tensors:
    """Keys as diffusers writes them; alpha equals the rank, so the scale is 1."""
    tensors: Tensors = {}
    for name, tensor in new.items():
        if tensor.ndim != 2 or "embedding" in name:
            continue
        down, up = _low_rank(tensor.float() - state[name].float(), rank)
        stem = f"{PART}{_outside(name)}".removesuffix(".weight")
        tensors[f"{stem}.lora_A.weight"] = down.to(tensor.dtype)
        tensors[f"{stem}.lora_B.weight"] = up.to(tensor.dtype)
    return tensors


def _low_rank(
    change: Float[Tensor, "o i"], rank: int
) -> tuple[Float[Tensor, "r i"], Float[Tensor, "o r"]]:
    """The best factors of this rank, by singular values."""
    left, values, right = torch.linalg.svd(change.cpu(), full_matrices=False)
    roots = values[:rank].sqrt()
    return roots[:, None] * right[:rank], left[:, :rank] * roots


def _inside(name: str) -> str:
    """The name within the text encoder, without the prefix that only some versions write."""
    return name.removeprefix(PART).removeprefix(PREFIX)


def _outside(name: str) -> str:
    """The name that transformers 4 and web interfaces read; newer versions read it too."""
    return PREFIX + _inside(name)

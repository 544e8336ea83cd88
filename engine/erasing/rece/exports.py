"""The erasure in the formats that other tools read, each read back and compared.

W' = W M is W + (W P) Q with M - I = P Q of rank r, so an exact LoRA is A = Q (the same for every
projection) and B = W P, with alpha = r so that its scale is 1.
"""

from collections.abc import Callable, Mapping

import torch

from engine.core.errors import OutOfBudget
from engine.core.precision import state_at_home
from engine.core.reversible import missed_of_weights
from engine.core.shapes import Float, Tensor
from engine.erasing.rece.edit import Edit
from engine.erasing.rece.results import Exported
from engine.models.diffusion import DiffusionBundle
from engine.models.tensor_file import TensorFile

FORMS = ("lora", "kohya", "partial", "unet", "map")
LARGEST_BYTES = 2_000_000_000
# Singular values of M - I below this share of the largest are round-off.
NEGLIGIBLE = 1e-10

Tensors = dict[str, Tensor]


def exported(
    bundle: DiffusionBundle, edit: Edit, form: str, *, strength: float = 1.0, rank: int = 0
) -> Exported:
    """The file of one form, with the part of the whole edit that its weights miss.

    Raises `OutOfBudget` for a file too large to hand out from memory.
    """
    state = dict(bundle.model.state_dict())
    make, read = _FORMS[form]
    if form == "unet":
        _check_size(sum(t.nbytes for name, t in state.items() if name.startswith("unet.")))
    state |= state_at_home({name: state[name] for name in edit.names})
    tensors, kept = make(edit, state, strength, rank)
    file = TensorFile.of(_NAMES[form], tensors, {"format": "pt", "edit": edit.settings.name})
    truth = edit.bake(state, strength)
    found = read(file.read(), state)
    error = missed_of_weights(found, {name: truth[name] for name in edit.names}, state)
    stem = file.name.rpartition(".")[0]
    return Exported(form, {stem: file}, kept, error, _HOW[form])


def low_rank(
    m: Float[Tensor, "d d"], rank: int = 0
) -> tuple[Float[Tensor, "d r"], Float[Tensor, "r d"]]:
    """P and Q with P Q = M - I, by singular values, all that count or the first `rank`."""
    left, values, right = torch.linalg.svd(m - torch.eye(len(m), dtype=m.dtype))
    count = max(int((values > NEGLIGIBLE * values[0]).sum()), 1)
    count = min(count, rank) if rank else count
    roots = values[:count].sqrt()
    return left[:, :count] * roots, roots[:, None] * right[:count]


def _factors(
    edit: Edit, strength: float, rank: int
) -> Callable[[str], tuple[Float[Tensor, "d r"], Float[Tensor, "r d"]]]:
    """P and Q for each projection: one pair for all unless the projections differ."""
    if edit.own:
        return lambda name: low_rank(edit.layer_map(name, strength), rank)
    shared = low_rank(edit.layer_map(edit.names[0], strength), rank)
    return lambda name: shared


def _lora(
    edit: Edit, state: Mapping[str, Tensor], strength: float, rank: int
) -> tuple[Tensors, int]:
    """Keys as `StableDiffusionPipeline.save_lora_weights` writes them."""
    factors, tensors, kept = _factors(edit, strength, rank), {}, 0
    for name in edit.names:
        down, up = _down_up(state[name], *factors(name))
        module = name.removesuffix(".weight")
        tensors[f"{module}.lora_A.weight"] = down
        tensors[f"{module}.lora_B.weight"] = up
        kept = max(kept, len(down))
    return tensors, kept


def _kohya(
    edit: Edit, state: Mapping[str, Tensor], strength: float, rank: int
) -> tuple[Tensors, int]:
    """Keys as kohya's scripts write them, which web interfaces read."""
    plain, kept = _lora(edit, state, strength, rank)
    tensors: Tensors = {}
    for name in edit.names:
        module = name.removesuffix(".weight")
        stem = _kohya_stem(name)
        tensors[f"{stem}.lora_down.weight"] = plain[f"{module}.lora_A.weight"]
        tensors[f"{stem}.lora_up.weight"] = plain[f"{module}.lora_B.weight"]
        tensors[f"{stem}.alpha"] = torch.tensor(float(len(plain[f"{module}.lora_A.weight"])))
    return tensors, kept


def _kohya_stem(name: str) -> str:
    return "lora_" + name.removesuffix(".weight").replace(".", "_")


def _down_up(
    weight: Tensor, left: Float[Tensor, "d r"], right: Float[Tensor, "r d"]
) -> tuple[Float[Tensor, "r d"], Float[Tensor, "o r"]]:
    up = weight.detach().cpu().double() @ left
    kind = weight.dtype if weight.dtype != torch.float64 else torch.float32
    return right.to(kind), up.to(kind)


def _partial(
    edit: Edit, state: Mapping[str, Tensor], strength: float, rank: int
) -> tuple[Tensors, int]:
    """The edited projections under their names in the UNet; load with strict=False."""
    baked = edit.bake(state, strength)
    return {name.removeprefix("unet."): tensor for name, tensor in baked.items()}, 0


def _unet(
    edit: Edit, state: Mapping[str, Tensor], strength: float, rank: int
) -> tuple[Tensors, int]:
    """The whole UNet: diffusion_pytorch_model.safetensors of a checkpoint's folder."""
    whole = {**state, **edit.bake(state, strength)}
    inside = {name: tensor for name, tensor in whole.items() if name.startswith("unet.")}
    return {name.removeprefix("unet."): tensor for name, tensor in inside.items()}, 0


def _map(
    edit: Edit, state: Mapping[str, Tensor], strength: float, rank: int
) -> tuple[Tensors, int]:
    """U and V of M = I + U V in float64: the side-car itself."""
    if not edit.settings.is_side_car:
        tensors: Tensors = {}
        for name in edit.names:
            left, right = low_rank(edit.layer_map(name, strength), rank)
            tensors |= {f"{name}.left": left, f"{name}.right": right}
        return tensors, max(len(right) for key, right in tensors.items() if key.endswith("right"))
    left, right = low_rank(edit.layer_map(edit.names[0], strength), rank)
    return {"left": left, "right": right}, len(right)


# ---------------------------------------------------------------------- reading back


def from_lora(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensors:
    """Weights with a LoRA of diffusers merged, in float64."""
    mark = ".lora_A.weight"
    stems = [key.removesuffix(mark) for key in tensors if key.endswith(mark)]
    return {
        f"{stem}.weight": _merged(
            state[f"{stem}.weight"],
            tensors[f"{stem}.lora_A.weight"],
            tensors[f"{stem}.lora_B.weight"],
        )
        for stem in stems
    }


def from_kohya(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensors:
    """Weights with a LoRA of kohya's layout merged; its scale is alpha / rank."""
    merged: Tensors = {}
    for name in state:
        stem = _kohya_stem(name)
        if f"{stem}.alpha" not in tensors:
            continue
        down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
        scale = float(tensors[f"{stem}.alpha"]) / len(down)
        merged[name] = _merged(state[name], down, scale * up)
    return merged


def _merged(weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    return weight.detach().cpu().double() + up.double() @ down.double()


def from_unet(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensors:
    """Weights from a file of UNet tensors, whole or partial."""
    return {**state, **{f"unet.{name}": tensor for name, tensor in tensors.items()}}


def from_map(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Tensors:
    """Weights W + (W U) V."""
    if "left" in tensors:
        shared = tensors["left"], tensors["right"]
        names = [name for name in state if ".attn2.to_" in name and name.endswith("weight")]
        names = [name for name in names if state[name].shape[-1] == len(shared[0])]
        pairs = dict.fromkeys(names, shared)
    else:
        names = [key.removesuffix(".left") for key in tensors if key.endswith(".left")]
        pairs = {name: (tensors[f"{name}.left"], tensors[f"{name}.right"]) for name in names}
    wide = {name: state[name].detach().cpu().double() for name in pairs}
    return {name: wide[name] + (wide[name] @ u) @ v for name, (u, v) in pairs.items()}


def _check_size(size: int) -> None:
    if size > LARGEST_BYTES:
        raise OutOfBudget(
            f"The edited UNet is a file of {size / 1e9:.1f} GB, too large to hand out.",
            'Take the form "partial": it loads into the same UNet.',
        )


_FORMS = {
    "lora": (_lora, from_lora),
    "kohya": (_kohya, from_kohya),
    "partial": (_partial, from_unet),
    "unet": (_unet, from_unet),
    "map": (_map, from_map),
}
_NAMES = {
    "lora": "pytorch_lora_weights.safetensors",
    "kohya": "erasure_kohya.safetensors",
    "partial": "unet_partial.safetensors",
    "unet": "diffusion_pytorch_model.safetensors",
    "map": "erasure_map.safetensors",
}
_HOW = {
    "lora": 'pipeline.load_lora_weights("pytorch_lora_weights.safetensors")',
    "kohya": "Put it in the LoRA folder of a web interface and use it at weight 1.",
    "partial": "pipeline.unet.load_state_dict(safetensors.torch.load_file(...), strict=False)",
    "unet": "Put it in the unet folder of the checkpoint.",
    "map": "M = I + left @ right; multiply the prompt's embedding with M transposed.",
}

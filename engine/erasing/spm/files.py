"""Membranes as files: the published format, what other tools read, and both read back.

Published: `lora_unet_<path with . as _>.lora_down.weight`, `.lora_up.weight`, `.alpha`, and the
metadata `prompts` (with commas), `rank`, `alpha`. A comma inside a concept breaks that list, so
`spm_prompts` holds it as JSON too, and is preferred when it is there.
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from engine.core.errors import BadInput, ModelMismatch, OutOfBudget
from engine.core.precision import state_at_home
from engine.core.reversible import missed_of_weights
from engine.core.shapes import Tensor
from engine.core.tensor_header import Unsound
from engine.erasing.spm.membrane import Membrane, check_fit, sites
from engine.models.diffusion import DiffusionBundle
from engine.models.tensor_file import TensorFile

HEAD = "data:application/safetensors;base64,"
MOST_BYTES = 50_000_000
FORMS = ("spm", "stacked", "diffusers", "web")

Tensors = dict[str, Tensor]


def stem(path: str) -> str:
    """The name of a layer in the published files."""
    return "lora_unet_" + path.replace(".", "_")


def tensors_of(membrane: Membrane) -> Tensors:
    """The entries of a published file, in its order."""
    found: Tensors = {}
    for path in membrane.down:
        found[f"{stem(path)}.alpha"] = torch.tensor(float(membrane.alpha))
        found[f"{stem(path)}.lora_down.weight"] = membrane.down[path].float()
        found[f"{stem(path)}.lora_up.weight"] = membrane.up[path].float()
    return found


def written(membrane: Membrane, name: str = "") -> TensorFile:
    """One membrane as a published file."""
    notes = {
        "prompts": ",".join(membrane.prompts),
        "spm_prompts": json.dumps(list(membrane.prompts), ensure_ascii=False),
        "rank": str(membrane.rank),
        "alpha": str(float(membrane.alpha)),
        "format": "pt",
    }
    safe = "_".join("".join(c if c.isalnum() else " " for c in membrane.name).split())
    return TensorFile.of(f"{name or safe or 'spm'}.safetensors", tensors_of(membrane), notes)


def read(data: bytes, unet: nn.Module) -> Membrane:
    """The membrane in a file, for this UNet; a plain LoRA of the same keys has no prompts.

    Raises `BadInput` (no sound file, NaN, no rank) or `ModelMismatch` (another architecture).
    """
    tensors, notes = _opened(data)
    paths = {stem(path): path for path in sites(unet)}
    stems = dict.fromkeys(key.partition(".")[0] for key in tensors)
    unknown = [name for name in stems if name not in paths]
    if unknown:
        raise ModelMismatch(
            f"The file holds layers that an SPM of this model does not have: "
            f"{', '.join(unknown[:3])}{' …' if len(unknown) > 3 else ''}.",
            "An SPM lies on the transformers of the UNet alone: this one was made for another "
            "architecture, or it is a LoRA on other layers, which reversible merging takes.",
        )
    down, up, alphas = {}, {}, set()
    for name in (name for name in paths if name in stems):
        parts = {k: tensors.get(f"{name}.{k}") for k in ("lora_down.weight", "lora_up.weight")}
        if any(part is None for part in parts.values()):
            raise BadInput(f"The file lacks one half of {name}.", "Export it again.")
        path = paths[name]
        down[path], up[path] = (part.float() for part in parts.values() if part is not None)
        alphas.add(float(tensors.get(f"{name}.alpha", torch.tensor(float(len(down[path]))))))
    if not down or len(alphas) > 1:
        raise BadInput("The file is no single adapter.", "Give one SPM or LoRA file.")
    membrane = Membrane(_prompts(notes), down, up, alphas.pop())
    if any(len(down[path]) != up[path].shape[1] for path in down):
        raise BadInput("The ranks of the two halves differ in this file.", "Export it again.")
    check_fit(unet, membrane)
    return membrane


def read_text(text: str, unet: nn.Module) -> Membrane:
    """The membrane in a file that was put into a recipe as text."""
    if not isinstance(text, str) or not text.startswith(HEAD):
        raise BadInput("An adapter must be a safetensors file.", "Upload it again.")
    if len(text) > MOST_BYTES * 4 // 3:
        raise OutOfBudget("The adapter file is too large.", "SPM files have a few megabytes.")
    try:
        data = base64.b64decode(text[len(HEAD) :], validate=True)
    except binascii.Error:
        raise BadInput("The adapter in the recipe is damaged.", "Upload it again.") from None
    return read(data, unet)


def _opened(data: bytes) -> tuple[Tensors, Mapping[str, str]]:
    file = TensorFile("upload", data)
    try:
        notes = file.notes
        tensors = file.read()
    except Unsound as unsound:
        raise BadInput(
            f"This is no readable safetensors file: it {unsound.fault}.",
            "Give the .safetensors file of an SPM.",
        ) from None
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{name[:80]} holds values that are no numbers.", "Export it again.")
    return tensors, notes


def _prompts(notes: Mapping[str, str]) -> tuple[str, ...]:
    try:
        listed = json.loads(notes["spm_prompts"])
        if isinstance(listed, list) and all(isinstance(text, str) for text in listed):
            return tuple(listed)
    except (KeyError, ValueError):
        pass
    return tuple(text.strip() for text in notes.get("prompts", "").split(",") if text.strip())


# ---------------------------------------------------------------------- into the weights


def baked(
    state: Mapping[str, Tensor], membranes: Sequence[Membrane], gamma: Sequence[float]
) -> Tensors:
    """New weights W + sum gamma_k s_k up_k down_k of every layer that a membrane touches.

    Summed in float64 and given on the CPU.
    """
    found: Tensors = {}
    membranes = [membrane.at_home() for membrane in membranes]
    paths = dict.fromkeys(path for membrane in membranes for path in membrane.down)
    here = state_at_home({name: state[name] for name in (f"unet.{path}.weight" for path in paths)})
    for path, (name, weight) in zip(paths, here.items(), strict=True):
        change = sum(
            g * membrane.update(path)
            for g, membrane in zip(gamma, membranes, strict=True)
            if path in membrane.down
        )
        assert isinstance(change, Tensor)
        found[name] = (weight.double() + change.reshape(weight.shape)).to(weight.dtype)
    return found


def stacked(membranes: Sequence[Membrane], gamma: Sequence[float]) -> Membrane:
    """The sum as one membrane of rank k: rows below one another, columns side by side.

    Averaging files instead multiplies every row with every column. Exact for a fixed gamma; which
    prompts open which membrane is lost.
    """
    down: Tensors = {}
    up: Tensors = {}
    for path in dict.fromkeys(path for membrane in membranes for path in membrane.down):
        held = [(g, m) for g, m in zip(gamma, membranes, strict=True) if path in m.down]
        down[path] = torch.cat([m.down[path].float() for _, m in held])
        up[path] = torch.cat([g * m.scale(path) * m.up[path].float() for g, m in held], 1)
    prompts = tuple(text for membrane in membranes for text in membrane.prompts)
    ranks = max(len(rows) for rows in down.values())
    return Membrane(prompts, down, up, float(ranks))


# ---------------------------------------------------------------------- files for other tools


def exported(
    bundle: DiffusionBundle, membranes: Sequence[Membrane], form: str, gamma: float
) -> tuple[dict[str, TensorFile], float, str]:
    """Files of one form, the part of the whole edit that they miss, and how to use them.

    Read back from the bytes and compared with the weights that all of the membranes are baked into.
    """
    state = dict(bundle.model.state_dict())
    make, back, how = _FORMS[form]
    files = make(membranes, gamma)
    opened = [1.0 if form == "spm" else gamma] * len(membranes)
    error = missed_of_weights(back(files, bundle, state), baked(state, membranes, opened), state)
    return {file.name.rpartition(".")[0]: file for file in files}, error, how


def _each(membranes: Sequence[Membrane], gamma: float) -> list[TensorFile]:
    return [written(membrane) for membrane in membranes]


def _stack(membranes: Sequence[Membrane], gamma: float) -> list[TensorFile]:
    return [written(stacked(membranes, [gamma] * len(membranes)), "spm_stacked")]


def _web(membranes: Sequence[Membrane], gamma: float) -> list[TensorFile]:
    kept = [_without_ends(membrane) for membrane in membranes]
    return [written(stacked(kept, [gamma] * len(kept)), "spm_web")]


def _without_ends(membrane: Membrane) -> Membrane:
    """Without proj_in and proj_out, whose convolution keys many web interfaces do not know."""
    kept = [path for path in membrane.down if not path.endswith((".proj_in", ".proj_out"))]
    down, up = ({path: part[path] for path in kept} for part in (membrane.down, membrane.up))
    return replace(membrane, down=down, up=up)


def _diffusers(membranes: Sequence[Membrane], gamma: float) -> list[TensorFile]:
    whole = stacked(membranes, [gamma] * len(membranes))
    tensors: Tensors = {}
    for path in whole.down:
        tensors[f"unet.{path}.lora_A.weight"] = whole.down[path]
        # PEFT's scale is alpha / rank of a layer, and 1 where the file names no alpha
        tensors[f"unet.{path}.lora_B.weight"] = whole.scale(path) * whole.up[path]
    return [TensorFile.of("pytorch_lora_weights.safetensors", tensors, {"format": "pt"})]


def _from_published(
    files: Sequence[TensorFile], bundle: DiffusionBundle, state: Mapping[str, Tensor]
) -> Tensors:
    membranes = [read(file.data, bundle.unet) for file in files]
    return baked(state, membranes, [1.0] * len(membranes))


def _from_diffusers(
    files: Sequence[TensorFile], bundle: DiffusionBundle, state: Mapping[str, Tensor]
) -> Tensors:
    (file,) = files
    tensors, found = file.read(), {}
    ends = ".lora_A.weight"
    names = [key.replace(ends, ".weight") for key in tensors if key.endswith(ends)]
    state = state_at_home({name: state[name] for name in names})
    for key, down in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removesuffix(".lora_A.weight")
        up = tensors[f"{name}.lora_B.weight"]
        weight = state[f"{name}.weight"]
        change = (up.double().flatten(1) @ down.double().flatten(1)).reshape(weight.shape)
        found[f"{name}.weight"] = (weight.double() + change).to(weight.dtype)
    return found


Make = Callable[[Sequence[Membrane], float], list[TensorFile]]
Back = Callable[[Sequence[TensorFile], DiffusionBundle, Mapping[str, Tensor]], Tensors]
_FORMS: Mapping[str, tuple[Make, Back, str]] = {
    "spm": (
        _each,
        _from_published,
        "The published format, one file a concept; transport needs the prompts in its header.",
    ),
    "stacked": (
        _stack,
        _from_published,
        "One LoRA of rank k for web interfaces; always open, transport is lost.",
    ),
    "diffusers": (
        _diffusers,
        _from_diffusers,
        'pipeline.load_lora_weights("pytorch_lora_weights.safetensors"); always open.',
    ),
    "web": (
        _web,
        _from_published,
        "Without proj_in and proj_out, for interfaces that do not know their keys: "
        "what those two carry is missing. Always open.",
    ),
}

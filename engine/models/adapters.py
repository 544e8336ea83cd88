"""LoRA adapters of any usual layout as low-rank factors by module, read one module at a time.

    lora = open_lora(Path("my-adapter"))          a PEFT folder, or a Kohya or diffusers file
    for module in lora.layers:
        a, b = lora.factors(module)               delta of the weight = a @ b,  m x r and r x d

Only headers are read at first, so that eight large adapters cost nothing until a module is asked
for. Scalings (alpha / r, alpha / sqrt(r), alpha patterns, Kohya's alpha) are folded into the
factors, half into each, so that every adapter here has scale 1. Factors of convolutions are
flattened, m x r and r x (in * kh * kw).

Paper and PEFT name the factors the other way round: `a` is PEFT's lora_B, `b` is its lora_A.

Modules go by names without the part that says which library wrote them: "up_blocks_0_..." for the
UNet, whose Kohya names have lost their dots.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engine.core.errors import BadInput, ModelMismatch, OutOfBudget
from engine.core.shapes import Float, Tensor
from engine.core.tensor_header import TensorInfo
from engine.models import _ldm_names as ldm
from engine.models._checks import read_header, read_json
from engine.models._ranks import Ranks

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LARGEST_FILE = 2_000_000_000
FLOATS = ("F16", "BF16", "F32", "F64")

# Kinds of adapters that are no product of two factors, by what gives them away in a key.
FOREIGN = {
    "lora_magnitude_vector": "DoRA", "dora_scale": "DoRA",
    "hada_w1_a": "LoHa", "hada_w2_a": "LoHa", "hada_t1": "LoHa",
    "lokr_w1": "LoKr", "lokr_w2": "LoKr", "lokr_t2": "LoKr",
    "ia3_l": "(IA)3", "on_input": "(IA)3", "vera_lambda": "VeRA",
    "oft_r": "OFT", "oft_blocks": "OFT", "oft_diag": "OFT", "boft_R": "BOFT",
    "lora_E": "AdaLoRA", "lora_mid": "LoCon with a middle tensor", "glora": "GLoRA",
}  # fmt: skip
PEFT_NAMES = {"IA3": "(IA)3", "LOHA": "LoHa", "LOKR": "LoKr", "VERA": "VeRA", "ADALORA": "AdaLoRA"}

# Ends of keys: the factor next to the input, then the one next to the output.
DOWN = (".lora_A.weight", ".lora_down.weight", ".lora.down.weight", "_lora.down.weight")
UP = (".lora_B.weight", ".lora_up.weight", ".lora.up.weight", "_lora.up.weight")
DOWN_EMBEDDING, UP_EMBEDDING = ".lora_embedding_A", ".lora_embedding_B"
ALPHA = ".alpha"
# The networks of a pipeline, as diffusers names them at the head of a key.
NETWORKS = ("unet", "text_encoder", "text_encoder_2")
# Heads of keys and what stands for them here; the longer ones first.
HEADS = (
    ("base_model.model.", ""),
    ("lora_unet_", ""),
    ("unet.", ""),
    ("lora_te1_", "text_encoder_"),
    ("lora_te2_", "text_encoder_2_"),
    ("lora_te_", "text_encoder_"),
)


@dataclass(frozen=True)
class LoraLayer:
    """One module: keys of its factors, its scale, and the shapes as they lie in the file.

    `name` has dots where the file still had them; `is_turned` says that the model keeps this weight
    as d x m (embeddings, and the Conv1D of GPT-2).
    """

    name: str
    down: str
    up: str
    rank: int
    out_features: int
    in_features: int
    kernel: tuple[int, ...] = ()
    scale: float = 1.0
    is_turned: bool = False
    is_embedding: bool = False

    @property
    def numbers(self) -> int:
        """How many numbers the two factors hold."""
        return self.rank * (self.out_features + self.in_features)


@dataclass(frozen=True, eq=False)
class Lora:
    """An adapter that is looked into but not loaded.

    `extra` are tensors that are no factors (biases, heads, norms), in bytes: they cannot be merged
    and are kept per task.
    """

    name: str
    path: Path
    layout: str
    layers: Mapping[str, LoraLayer]
    base: str = ""
    extra: Mapping[str, int] = field(default_factory=dict)

    def factors(self, module: str) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r d"]]:
        """The factors of one module in float32 with the scale folded in: delta = a @ b.

        Raises `BadInput` when they hold values that are not numbers.
        """
        return folded(*self.as_saved(module))

    def as_saved(self, module: str) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r d"], float]:
        """The factors of one module as the file holds them, in float32, and their scale."""
        layer = self.layers[module]
        down, up = (self._tensor(key).float() for key in (layer.down, layer.up))
        return up.reshape(len(up), -1), down.reshape(len(down), -1), layer.scale

    @cached_property
    def sha256(self) -> str:
        """Digest of the weights' file."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def _file(self) -> Any:
        """The open file, whose header is parsed once."""
        return safe_open(self.path, framework="pt").__enter__()

    def _tensor(self, key: str) -> Tensor:
        try:
            tensor = self._file.get_tensor(key)
        except (SafetensorError, OSError):
            raise BadInput(
                f"{self.name} cannot be read any more.", "Upload the adapter again."
            ) from None
        # One pass without a copy: a value that is not a number is smallest and largest.
        if tensor.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(tensor)):
            raise BadInput(
                f"{key[:80]} of {self.name} holds values that are not numbers.",
                "The adapter is damaged, or its training diverged; take another one.",
            )
        return tensor


def folded(
    a: Float[Tensor, "m r"], b: Float[Tensor, "r d"], scale: float
) -> tuple[Float[Tensor, "m r"], Float[Tensor, "r d"]]:
    """Factors whose product is scale * a @ b: half of the scale in each, its sign in the first."""
    root = math.sqrt(abs(scale))
    return math.copysign(root, scale) * a, b * root


def open_lora(path: Path, name: str = "") -> Lora:
    """The adapter in a PEFT folder or a single file; only its header is read.

    Raises `ModelMismatch` for other kinds of adapters, by name; `BadInput`, `AssetMissing` or
    `OutOfBudget` for files that are unsound, absent or too large.
    """
    name, config = name or path.stem, None
    if path.is_dir():
        config = read_json(path / CONFIG)
        _check_config(config, name)
        path = path / WEIGHTS
        if not path.is_file() and (path.with_name("adapter_model.bin")).is_file():
            raise BadInput(
                f"{name} holds adapter_model.bin, which can run code when it is read.",
                "Save it again with `save_pretrained(..., safe_serialization=True)`.",
            )
    if path.is_file() and path.stat().st_size > LARGEST_FILE:
        raise OutOfBudget(
            f"{name} weighs {path.stat().st_size / 1e9:.1f} GB; adapters may weigh "
            f"{LARGEST_FILE / 1e9:.0f} GB.",
            "Take one of a smaller rank.",
        )
    header = read_header(path)
    _refuse_foreign(header, name)
    layout = "peft" if config is not None else _layout_of(header)
    layers, extra = _layers(path, header, config, name)
    if not layers:
        raise ModelMismatch(
            f"{name} holds no LoRA factors.",
            "Choose a PEFT folder, or a LoRA file of Kohya's scripts or of diffusers.",
        )
    base = str((config or {}).get("base_model_name_or_path") or "")[:200]
    return Lora(name, path, layout, layers, base, extra)


def read_tensor(path: Path, key: str) -> Tensor:
    """One tensor of a file. Raises `BadInput` when it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key)
    except (SafetensorError, OSError):
        raise BadInput(f"{path.name} cannot be read.", "Download it again.") from None


def canonical(name: str) -> str:
    """The name by which a module is known in all layouts: no library's head, no dots."""
    for head, stands in HEADS:
        if name.startswith(head):
            name = stands + name.removeprefix(head)
    return ldm.in_diffusers(name.removesuffix(".weight").replace(".", "_"))


def _check_config(config: Mapping[str, Any], name: str) -> None:
    kind = str(config.get("peft_type", "LORA")).upper()
    if kind != "LORA":
        raise _not_a_lora(name, PEFT_NAMES.get(kind, kind[:20]))
    if config.get("use_dora"):
        raise _not_a_lora(name, "DoRA")
    for key in ("lora_alpha", "r"):
        value = config.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise BadInput(f"{key} in the config of {name} is no sensible number.", "Export again.")


def _refuse_foreign(header: Mapping[str, TensorInfo], name: str) -> None:
    for key in header:
        for mark, kind in FOREIGN.items():
            if mark in key:
                raise _not_a_lora(name, kind)


def _not_a_lora(name: str, kind: str) -> ModelMismatch:
    return ModelMismatch(
        f"{name} is a {kind} adapter, which is no product of two low-rank factors.",
        "Plain LoRA can be merged and reverted, of linear layers, convolutions and embeddings.",
    )


def _layout_of(header: Iterable[str]) -> str:
    return "kohya" if any(".lora_down." in key for key in header) else "diffusers"


def _layers(
    path: Path, header: Mapping[str, TensorInfo], config: Mapping[str, Any] | None, name: str
) -> tuple[dict[str, LoraLayer], dict[str, int]]:
    """Layers by canonical name, and sizes of what is no factor."""
    alphas, stated = _alphas(path, header), _ranks(path, config, name)
    turned = bool((config or {}).get("fan_in_fan_out"))
    layers: dict[str, LoraLayer] = {}
    used = set[str]()
    for key, info in header.items():
        ending = next((end for end in (*DOWN, DOWN_EMBEDDING) if _plain(key).endswith(end)), None)
        if ending is None:
            continue
        partner = UP_EMBEDDING if ending == DOWN_EMBEDDING else UP[DOWN.index(ending)]
        module = _plain(key).removesuffix(ending)
        up = _find(header, module + partner)
        if up is None:
            raise BadInput(f"{name} lacks the second factor of {module[:80]}.", "Export it again.")
        _check_pair(name, module, info, header[up])
        layer = _layer(_clean(module), key, up, info, header[up], ending == DOWN_EMBEDDING)
        alpha = alphas.get(module)
        scale = stated(layer.name, layer.rank) if alpha is None else alpha / layer.rank
        known = canonical(layer.name)
        if known in layers:
            raise BadInput(f"{name} changes {module[:80]} twice.", "Export it again.")
        layers[known] = replace(
            layer, scale=1.0 if scale is None else scale, is_turned=layer.is_turned or turned
        )
        used |= {key, up}
    extra = {
        key: info.nbytes
        for key, info in header.items()
        if key not in used and not key.endswith(ALPHA)
    }
    return layers, extra


def _layer(
    module: str, down: str, up: str, low: TensorInfo, high: TensorInfo, is_embedding: bool
) -> LoraLayer:
    return LoraLayer(
        module,
        down,
        up,
        rank=low.shape[0],
        out_features=high.shape[0],
        in_features=math.prod(low.shape[1:]),
        kernel=low.shape[2:],
        is_turned=is_embedding,
        is_embedding=is_embedding,
    )


def _check_pair(name: str, module: str, low: TensorInfo, high: TensorInfo) -> None:
    if low.dtype not in FLOATS or high.dtype not in FLOATS:
        raise BadInput(
            f"The factors of {module[:80]} in {name} are {low.dtype}; floats are needed.",
            "Take the adapter before it was quantised.",
        )
    shapes = (low.shape, high.shape)
    flat_up = math.prod(high.shape[2:]) == 1
    if min(map(len, shapes)) < 2 or low.shape[0] != high.shape[1] or not flat_up:
        raise BadInput(
            f"The factors of {module[:80]} in {name} are {list(low.shape)} and "
            f"{list(high.shape)}, which do not fit one another.",
            "Export the adapter again.",
        )
    if not all(low.shape) or not all(high.shape):
        raise BadInput(f"The factors of {module[:80]} in {name} are empty.", "Export it again.")


def _plain(key: str) -> str:
    """The key without the adapter's name that some versions of PEFT put in: lora_A.default."""
    return re.sub(r"\.(lora_[AB]|lora_embedding_[AB])\.[\w-]+\.weight$", r".\1.weight", key)


def _find(header: Mapping[str, TensorInfo], plain: str) -> str | None:
    if plain in header:
        return plain
    return next((key for key in header if _plain(key) == plain), None)


def _clean(module: str) -> str:
    """The module's name in the model, without heads of libraries or old attention processors."""
    module = module.removeprefix("base_model.model.").removeprefix("unet.")
    return (
        re.sub(r"\.processor\.(to_\w+?)(_lora)?$", r".\1", module).replace(".to_out", ".to_out.0")
        if ".processor." in module
        else module
    )


def _alphas(path: Path, header: Mapping[str, TensorInfo]) -> dict[str, float]:
    """Kohya's alpha of each module: small scalars that are read at once."""
    keys = [key for key in header if key.endswith(ALPHA)]
    if any(math.prod(header[key].shape) != 1 for key in keys):
        raise BadInput(f"{path.name} has an alpha that is no single number.", "Export it again.")
    with safe_open(path, framework="pt") as file:
        alphas = {key.removesuffix(ALPHA): float(file.get_tensor(key)) for key in keys}
    bad = [key for key, value in alphas.items() if not math.isfinite(value)]
    if bad:
        raise BadInput(f"The alpha of {bad[0][:80]} is no number.", "Export the adapter again.")
    return alphas


def _ranks(
    path: Path, config: Mapping[str, Any] | None, name: str
) -> Callable[[str, int], float | None]:
    """The scale that a config states for a module of some rank; None where nothing is stated.

    A PEFT folder has one config. A file of diffusers may hold one in its header for each network.
    """
    if config is not None:
        return Ranks.of(config, name).scale
    metadata = _metadata(path)
    parts = {
        part: Ranks.of(
            {key.removeprefix(f"{part}."): value for key, value in metadata.items()
             if key.startswith(f"{part}.")},
            name,
        )
        for part in NETWORKS
        if any(key.startswith(f"{part}.") for key in metadata)
    }  # fmt: skip

    def scale(module: str, rank: int) -> float | None:
        part, inner = part_of(module)
        return parts[part].scale(inner, rank) if part in parts else None

    return scale


def _metadata(path: Path) -> dict[str, Any]:
    """What diffusers writes into the header of a file about rank and alpha; or nothing."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except (ValueError, SafetensorError, RecursionError):
        return {}
    return (
        {str(key): value for key, value in metadata.items()} if isinstance(metadata, dict) else {}
    )


def part_of(module: str) -> tuple[str, str]:
    """The network that a module belongs to, and its name in it: the UNet's have no head."""
    head, _, inner = module.partition(".")
    return (head, inner) if head in NETWORKS else ("unet", module)


def weights_for(state: Mapping[str, Tensor], modules: Iterable[str]) -> dict[str, str]:
    """For each module the name of the weight it changes in a model's state.

    Raises `ModelMismatch` that names a module which the model does not have.
    """
    known = {canonical(name): name for name in state if name.endswith("weight")}
    # Versions of transformers differ in whether the text encoder's layers lie below "text_model".
    for name in [name for name in known if name.startswith("text_encoder")]:
        known.setdefault(re.sub(r"^(text_encoder(_2)?)_", r"\1_text_model_", name), known[name])
    weight_names = {}
    for module in modules:
        if module not in known:
            raise ModelMismatch(
                f"The model has no layer {module[:80]}, which the adapter changes.",
                "Choose the model that the adapter was trained on.",
            )
        weight_names[module] = known[module]
    return weight_names

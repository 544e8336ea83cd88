"""The parts of a checkpoint in diffusers layout, read from its folder.

The networks are built on the `meta` device from their config, so that nothing is allocated before
the headers of the weights agree with them, and nothing is drawn at random only to be overwritten.
No function here asks the Hub for anything.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from engine.core.errors import AssetMissing, BadInput, EngineError, ModelMismatch
from engine.core.tensor_header import TensorInfo, is_text_map
from engine.models._checks import index_name, read_json, refuse, weight_files
from engine.models.devices import check_room

if TYPE_CHECKING:
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

STEMS = ("diffusion_pytorch_model", "model")
LARGEST_SETTING = 1_000_000
MOST_LAYERS = 100

# The autoencoders of Stable Diffusion 1.x still carry the attention names of diffusers 0.17.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}

# Buffers that are counted out, not stored: their value follows from their size.
COUNTED = ("position_ids",)

Found = dict[Path, dict[str, TensorInfo]]


# ---------------------------------------------------------------------- networks


def networks(
    folder: Path, index: Mapping[str, Any], title: str, device: str, dtype: str
) -> dict[str, nn.Module]:
    """The networks of a checkpoint with their weights, by the name of their folder.

    Raises `ModelMismatch`, `BadInput`, `AssetMissing` or `OutOfBudget`, all of them before anything
    is allocated, except for weights that are not finite.
    """
    parts = _empty_networks(folder, index)
    headers = {name: _matched(folder / name, network) for name, network in parts.items()}
    _check_memory(title, parts, device, dtype)
    for name, network in parts.items():
        kind = torch.float32 if _keeps_float32(network) else getattr(torch, dtype)
        _fill(folder / name, network, headers[name], device, kind)
    return parts


def network(
    folder: Path,
    kind: type[nn.Module],
    title: str,
    device: str,
    dtype: str,
    *,
    config: Mapping[str, Any] | None = None,
    stem: str = "",
    unused: tuple[str, ...] = (),
) -> nn.Module:
    """One network of this class from its own folder, checked like those of `networks`.

    `config` are its settings where the folder holds no config.json, `stem` names the weight file
    where it is none of the usual ones; tensors whose names begin with one of `unused` may be in it
    and are not read.
    """
    settings = read_json(folder / "config.json") if config is None else config
    empty = _build(kind, settings, folder.name)
    headers_by_file = _matched(folder, empty, stem, unused)
    _check_memory(title, {folder.name: empty}, device, dtype)
    _fill(folder, empty, headers_by_file, device, getattr(torch, dtype))
    return empty


def _empty_networks(folder: Path, index: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The networks of a checkpoint without weights, on the meta device."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    classes: dict[str, type[nn.Module]] = {
        "unet": UNet2DConditionModel,
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
    }
    parts = {}
    for name, kind in classes.items():
        declared = index.get(name)
        if declared in (None, [None, None]):
            if name == "text_encoder_2":
                continue
            raise ModelMismatch(
                f"This model has no {name}, so it is not a Stable Diffusion checkpoint.",
                "Pick one with unet, vae, text_encoder, tokenizer and scheduler.",
            )
        if not isinstance(declared, list) or declared[-1:] != [kind.__name__]:
            raise ModelMismatch(
                f"The {name} of this model is of another class than {kind.__name__}.",
                "Stable Diffusion 1.x, 2.x and XL can be loaded.",
            )
        config = read_json(folder / name / "config.json")
        if name == "unet":
            vae = read_json(folder / "vae" / "config.json")
            _check_inputs(config, vae.get("latent_channels", 4))
        parts[name] = _build(kind, config, name)
    return parts


# Settings of UNets that are told more than a time and a prompt, and what that is.
TOLD = {
    "time_cond_proj_dim": "the guidance scale, as latent consistency models are",
    "class_embed_type": "a class",
    "num_class_embeds": "a class",
    "encoder_hid_dim": "another encoder's states",
    "encoder_hid_dim_type": "another encoder's states",
}
OTHER_MODEL = "Take the text-to-image model that it was made from."


def _check_inputs(config: Mapping[str, Any], latent: object) -> None:
    """Samplers here give a UNet latents, a time and a prompt, and XL its sizes."""
    inputs, outputs = (config.get(f"{side}_channels", 4) for side in ("in", "out"))
    if inputs != latent:
        kind = _kind_of_inputs(inputs, latent)
        raise ModelMismatch(
            f"This is {kind} (in_channels of its unet is {inputs!s:.20}, latents of its vae have "
            f"{latent!s:.20}).",
            OTHER_MODEL,
        )
    if outputs != latent:
        raise ModelMismatch(
            f"This UNet gives {outputs!s:.20} channels, and latents have {latent!s:.20}.",
            OTHER_MODEL,
        )
    for setting, extra in TOLD.items():
        if config.get(setting) is not None:
            raise ModelMismatch(
                f"This UNet is also told {extra} ({setting} is set), "
                "and no sampler here does that.",
                OTHER_MODEL,
            )
    if config.get("addition_embed_type") not in (None, "text_time"):
        raise ModelMismatch(
            f"This UNet is also told {str(config['addition_embed_type'])[:40]} "
            "(addition_embed_type), and no sampler here does that.",
            OTHER_MODEL,
        )


def _kind_of_inputs(inputs: object, latent: object) -> str:
    """The kind of model by what its UNet takes beside the latents, as diffusers' pipelines do."""
    if type(inputs) is not int or type(latent) is not int:
        return "no sound checkpoint"
    kinds = {
        1: "a depth model, whose UNet also takes a depth map",
        3: "an upscaler, whose UNet also takes the small picture",
        latent: "a model that edits pictures, whose UNet also takes the picture",
        latent + 1: "an inpainting model, whose UNet also takes a mask and the masked picture",
    }
    return kinds.get(inputs - latent, "no text-to-image model")


def _build(kind: type[nn.Module], config: Mapping[str, Any], name: str) -> nn.Module:
    """A network of this class from the settings it knows; unknown ones are left out silently."""
    _check_config(config, name)
    known = set(signature(kind.__init__).parameters)
    try:
        if name.startswith("text_encoder"):
            settings = {"config": _text_config(config)}
        else:
            settings = {key: config[key] for key in config if key in known}
        with torch.device("meta"):
            return kind(**settings)
    except Exception as error:
        # The classes answer odd settings with any exception there is.
        raise BadInput(
            f"The settings in {name}/config.json do not make a network ({type(error).__name__}).",
            "Export or download the model again.",
        ) from error


def _text_config(config: Mapping[str, Any]) -> "CLIPTextConfig":
    from transformers.models.clip.configuration_clip import CLIPTextConfig

    known = {entry.name for entry in fields(CLIPTextConfig) if entry.init} - {"dtype"}
    return CLIPTextConfig(**{key: config[key] for key in config if key in known})


def _check_config(value: object, name: str, key: str = "") -> None:
    """Numbers that would make building alone endless are refused."""
    if isinstance(value, Mapping):
        for inner, entry in value.items():
            _check_config(entry, name, inner)
    elif isinstance(value, list):
        if len(value) > MOST_LAYERS:
            raise BadInput(f"{key[:40]} in {name}/config.json lists {len(value)} entries.")
        for entry in value:
            _check_config(entry, name, key)
    elif isinstance(value, int) and not isinstance(value, bool):
        most = MOST_LAYERS if "layers" in key else LARGEST_SETTING
        if not -most <= value <= most:
            raise BadInput(
                f"{key[:40]} in {name}/config.json is {value}; at most {most} is allowed.",
                "Export or download the model again.",
            )


def _matched(
    folder: Path, network: nn.Module, stem: str = "", unused: tuple[str, ...] = ()
) -> Found:
    """The headers of a network's weight files, after comparing every name and shape with it."""
    headers_by_file = weight_files(folder, stem or stem_in(folder))
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shapes_in_files = {}
    for header in headers_by_file.values():
        for raw, info in header.items():
            shapes_in_files[_renamed(raw, shapes)] = info.shape
    ignored = {name for name in shapes_in_files if name.endswith(COUNTED)}
    extra = shapes_in_files.keys() - shapes.keys()
    ignored |= {name for name in extra if name.removeprefix("module.").startswith(unused)}
    missing = sorted(shapes.keys() - shapes_in_files.keys())
    surplus = sorted(extra - ignored)
    if missing or surplus:
        lacks = f"lacks {missing[0]}" if missing else f"holds {surplus[0][:80]}, which is not in it"
        raise ModelMismatch(
            f"The weights of {folder.name} do not fit its config.json: the file {lacks} "
            f"({len(missing)} missing, {len(surplus)} too many).",
            "Take weights and config from the same export.",
        )
    for name, shape in shapes.items():
        if shapes_in_files[name] != shape:
            raise ModelMismatch(
                f"{folder.name}.{name} is {list(shapes_in_files[name])} in the file, "
                f"but config.json makes it {list(shape)}.",
                "Take weights and config from the same export.",
            )
    return headers_by_file


def headers(folder: Path) -> dict[str, TensorInfo]:
    """What the weight files of a network hold, by the names in them."""
    headers_by_file = weight_files(folder, stem_in(folder))
    return {name: info for tensors in headers_by_file.values() for name, info in tensors.items()}


def stem_in(folder: Path) -> str:
    """How the weight files in a folder begin: the whole ones first, then those in float16.

    Raises `AssetMissing` when there are none.
    """
    for variant in ("", ".fp16"):
        for stem in STEMS:
            named = f"{stem}{variant}"
            if any((folder / n).is_file() for n in (f"{named}.safetensors", index_name(named))):
                return named
    others = [path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".ckpt")]
    there = "".join(
        f" There is {name[:60]}, which is not read because it can run code." for name in others[:1]
    )
    raise AssetMissing(
        f"The model has no safetensors weights in {folder.name}.{there}",
        "Save it with `save_pretrained(..., safe_serialization=True)`.",
    )


def _renamed(name: str, shapes: Mapping[str, object]) -> str:
    """The name this version of the libraries gives a tensor that an older one saved."""
    if name in shapes:
        return name
    head, dot, leaf = name.rpartition(".")
    owner, _, old = head.rpartition(".")
    if dot and old in OLD_ATTENTION and (new := f"{owner}.{OLD_ATTENTION[old]}.{leaf}") in shapes:
        return new
    plain = name.removeprefix("text_model.").removeprefix("module.")
    for other in (plain, f"text_model.{name}"):
        if other in shapes:
            return other
    return name


def _check_memory(title: str, parts: Mapping[str, nn.Module], device: str, dtype: str) -> None:
    size = getattr(torch, dtype).itemsize
    needed = sum(
        p.numel() * (4 if _keeps_float32(part) else size)
        for part in parts.values()
        for p in part.parameters()
    )
    check_room(title, needed, device, dtype)


def _fill(
    folder: Path, network: nn.Module, headers_by_file: Found, device: str, dtype: torch.dtype
) -> None:
    """Give a network on the meta device its weights, one tensor at a time.

    Raises `BadInput` when a weight is not a finite number.
    """
    names = set(network.state_dict())
    state = {}
    for path in headers_by_file:
        for raw, tensor in _tensors(path):
            name = _renamed(raw, dict.fromkeys(names))
            if name not in names:
                continue
            # A copy, because the file may change or vanish while its pages are mapped.
            tensor = tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()
            if tensor.is_floating_point() and not _is_finite(tensor):
                raise BadInput(
                    f"The weight {folder.name}.{name} holds values that are not numbers.",
                    "The checkpoint is damaged: export it again."
                    if dtype == torch.float32
                    else f"The checkpoint is damaged, or too large for {dtype}: try float32.",
                )
            state[name] = tensor.to(device)
    network.load_state_dict(state, assign=True)
    for name, buffer in list(network.named_buffers()):
        if buffer.is_meta:
            _count_out(network, name, device)


def _tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                yield name, file.get_tensor(name)
    except (SafetensorError, OSError):
        raise BadInput(f"{path.name} cannot be read.", "Export or download it again.") from None


def _is_finite(tensor: Tensor) -> bool:
    """One pass without a copy: a value that is not a number is smallest and largest."""
    return tensor.numel() == 0 or all(bool(end.isfinite()) for end in torch.aminmax(tensor))


def _count_out(network: nn.Module, name: str, device: str) -> None:
    owner_name, _, leaf = name.rpartition(".")
    if leaf not in COUNTED:
        raise ModelMismatch(f"{name} of this model is not stored and cannot be derived.")
    owner = network.get_submodule(owner_name)
    shape = getattr(owner, leaf).shape
    owner.register_buffer(leaf, torch.arange(shape[-1], device=device).expand(shape), False)


def _keeps_float32(network: nn.Module) -> bool:
    """XL's autoencoder overflows in half precision and says so in its config."""
    config = getattr(network, "config", None)
    return bool(getattr(config, "force_upcast", False)) and _is_xl_autoencoder(network)


def _is_xl_autoencoder(network: nn.Module) -> bool:
    # `force_upcast` is True by default, also in the configs of SD 1.x that do not need it; the
    # scaling factor is what tells them apart.
    return getattr(network.config, "scaling_factor", 0.18215) < 0.15


# ---------------------------------------------------------------------- words


def tokenizer(folder: Path) -> "CLIPTokenizer":
    """A CLIP tokenizer, from vocab.json and merges.txt or from tokenizer.json.

    Raises `BadInput` or `AssetMissing` when the files make none.
    """
    try:
        built = _tokenizer(folder)
        built([""], padding="max_length", truncation=True, max_length=built.model_max_length)
    except EngineError:
        raise
    except Exception as error:
        # The library answers odd files with any exception there is.
        raise BadInput(
            f"The files in {folder.name} do not make a tokenizer ({type(error).__name__}).",
            "Export or download the model again.",
        ) from error
    return built


def _tokenizer(folder: Path) -> "CLIPTokenizer":
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    path = folder / "tokenizer_config.json"
    config = read_json(path)
    vocab, merges = _vocab_and_merges(folder)
    special = {
        name: token["content"] if isinstance(token, dict) else token
        for name in ("bos_token", "eos_token", "unk_token", "pad_token")
        if (token := config.get(name)) is not None
    }
    length = config.get("model_max_length", 77)
    if not is_text_map(special) or type(length) is not int or not 2 < length <= 1000:
        refuse(path, "has settings that no CLIP tokenizer has")
    built = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, **special)
    built.add_tokens(_learnt_words(folder, len(built)))
    return built


def _learnt_words(folder: Path, count: int) -> list[str]:
    """Words that were added after training, in the order of their rows after `count` others."""
    path = folder / "tokenizer.json"
    listed = read_json(path).get("added_tokens") if path.is_file() else None
    words = {
        entry["id"]: entry["content"]
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict) and type(entry.get("id")) is int and entry["id"] >= count
    }
    numbered = sorted(words) == list(range(count, count + len(words)))
    if not numbered or not all(isinstance(word, str) for word in words.values()):
        refuse(path, "adds words with numbers that have gaps")
    return [words[index] for index in sorted(words)]


def _vocab_and_merges(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    path = folder / "tokenizer.json"
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        path = folder / "merges.txt"
        vocab: object = read_json(folder / "vocab.json")
        lines = path.read_text("utf-8", errors="replace").splitlines()
        merges = [line.split() for line in lines if line and not line.startswith("#version")]
    else:
        model = read_json(path).get("model")
        vocab, listed = (model.get("vocab"), model.get("merges")) if model else (None, None)
        merges = [m.split(" ") if isinstance(m, str) else m for m in listed or ()]
    if not isinstance(vocab, dict) or any(type(index) is not int for index in vocab.values()):
        refuse(path, "holds no vocabulary")
    if any(len(m) != 2 or m[0] not in vocab or m[1] not in vocab for m in merges):
        refuse(path, "merges pieces that are not in the vocabulary")
    return vocab, [(first, second) for first, second in merges]

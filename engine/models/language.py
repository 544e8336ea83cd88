"""Language models, with or without eyes, in transformers layout: loading, prompts, reading tokens.

    bundle = load(ModelRef("emoji-llava"))
    prompt = bundle.prompt("describe the picture.", picture)     token ids, and the picture's pixels
    cursor = Cursor(bundle, prompt)
    logits = cursor.read(prompt.ids)                    of the next token, float32
    logits = cursor.read([token])                       one more token, from the cache
    cursor.back_to(length)                              as if the later tokens had never been read
    logits = cursor.go_to(other_ids)                    read from where they part, if not known yet

Text models are all that transformers builds with `AutoModelForCausalLM`. Models with eyes are LLaVA
(its own layout and that of the transformers library) and Qwen2.5-VL. Weights are read from
safetensors, never from other formats, and no code of a checkpoint is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from engine.core.cache import LruCache
from engine.core.errors import ModelMismatch
from engine.core.shapes import Array, Float, Tensor, UInt8
from engine.models import _llava_layout
from engine.models._checks import read_json, weight_files
from engine.models._layout import stem_in
from engine.models.devices import check_room
from engine.models.library import Bundle, ModelCard, ModelRef
from engine.models.tokenizers import read_tokenizer
from engine.models.words import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a cursor remembers: logits of 32,000 words are 0.13 MB.
KNOWN_MEGABYTES, KNOWN_PLACES = 64, 1024
EYES = ("llava", "llava_llama", "llava_mistral", "qwen2_5_vl")
# The conversation of LLaVA-1.5, for checkpoints that bring no template of their own.
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: {question} ASSISTANT:"
)


@dataclass(frozen=True)
class Prompt:
    """Token ids up to where the answer begins, and the picture as the vision tower takes it."""

    ids: tuple[int, ...]
    pixels: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class LanguageBundle(Bundle):
    """A language model; `image_processor` is None when it has no eyes."""

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    image_processor: Any
    image_token: str
    vocabulary: Vocabulary | None

    @property
    def has_eyes(self) -> bool:
        """Whether it takes a picture."""
        return self.image_processor is not None

    @property
    def end_tokens(self) -> frozenset[int]:
        """Tokens that end an answer."""
        stated = [self.tokenizer.eos_token_id]
        config = getattr(self.model, "generation_config", None)
        listed = getattr(config, "eos_token_id", None)
        stated += listed if isinstance(listed, list) else [listed]
        return frozenset(int(token) for token in stated if token is not None)

    def prompt(
        self, question: str, picture: UInt8[Array, "height width 3"] | None = None
    ) -> Prompt:
        """The question in the model's own form of conversation, ready for the answer."""
        if picture is not None and not self.has_eyes:
            raise ModelMismatch(
                f"{self.card.title} reads text only.", "Pick a model that takes pictures."
            )
        pixels, count = ({}, 0) if picture is None else self._look(picture)
        return self._prompt_with(question, pixels, count)

    def ask_again(self, prompt: Prompt, question: str) -> Prompt:
        """Another question about the same picture, which is not looked at again."""
        return self._prompt_with(question, prompt.pixels, prompt.ids.count(self.image_id))

    def _prompt_with(self, question: str, pixels: Mapping[str, Tensor], count: int) -> Prompt:
        text = self.conversation(question, has_picture=count > 0)
        ids = self.tokenizer(text, add_special_tokens=not _begins(self.tokenizer, text)).input_ids
        if not count:
            return Prompt(tuple(ids))
        return Prompt(tuple(_with_places(ids, self.image_id, count)), pixels)

    def conversation(self, question: str, *, has_picture: bool = False) -> str:
        """The text of one turn; the image token stands where the picture goes."""
        if self.tokenizer.chat_template is None:
            image_line = f"{self.image_token}\n" if has_picture else ""
            return VICUNA.format(question=image_line + question)
        if not self.has_eyes:
            # Templates of text models join texts, and fail on a list of parts.
            return self._templated(question)
        text_part = [{"type": "text", "text": question}]
        parts = [{"type": "image"}, *text_part] if has_picture else text_part
        text = self._templated(parts)
        if has_picture and self.image_token not in text:
            # A template of a text model takes plain text only.
            text = self._templated(f"{self.image_token}\n{question}")
        return text

    def _templated(self, content: object) -> str:
        messages = [{"role": "user", "content": content}]
        return str(
            self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        )

    @property
    def image_id(self) -> int:
        """The token that stands for a picture among the words."""
        return int(self.tokenizer.convert_tokens_to_ids(self.image_token))

    def _look(self, picture: UInt8[Array, "height width 3"]) -> tuple[dict[str, Tensor], int]:
        """What the vision tower takes, and how many tokens it makes of it."""
        inputs = self.image_processor(images=Image.fromarray(picture), return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.device, getattr(torch, self.dtype))
        if "image_grid_thw" in inputs:
            grid = inputs["image_grid_thw"].to(self.device)
            count = int(grid.prod()) // self.model.config.vision_config.spatial_merge_size**2
            return {"pixel_values": pixels, "image_grid_thw": grid}, count
        config = self.model.config
        patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        return {"pixel_values": pixels}, patches + (config.vision_feature_select_strategy == "full")


def _begins(tokenizer: "PreTrainedTokenizerBase", text: str) -> bool:
    """Whether the text brings its own first special token, as templates do."""
    return bool(tokenizer.bos_token) and text.startswith(str(tokenizer.bos_token))


def _with_places(ids: Sequence[int], image_id: int, count: int) -> list[int]:
    """The ids with the one image token repeated for every token that the picture becomes."""
    if list(ids).count(image_id) != 1:
        raise ModelMismatch(
            "The model's form of conversation has no place for exactly one picture.",
            "Take the tokenizer and its chat template from the model's own folder.",
        )
    place = list(ids).index(image_id)
    return [*ids[:place], *[image_id] * count, *ids[place + 1 :]]


# ---------------------------------------------------------------------- reading tokens


class Cursor:
    """A place in a text that a model reads, and a memory of the places where it has been.

    Two things are kept: keys and values of the last text that went through the network, and the
    logits behind every place that was read. What was read once is not read again: coming back to a
    place costs nothing, and a text that parts from the last one is read from where they part. Only
    caches that cannot be shortened (sliding windows, recurrent states) begin anew then.
    `forward_tokens` counts the tokens that went through the network.
    """

    def __init__(self, bundle: LanguageBundle, pixels: Mapping[str, Tensor]) -> None:
        self.bundle, self.pixels = bundle, pixels
        self.ids: list[int] = []
        self.forward_tokens = 0
        self._known: LruCache[Tensor] = LruCache(KNOWN_MEGABYTES, most=KNOWN_PLACES)
        self._cache: Any = None
        self._cached: list[int] = []  # the tokens whose keys and values the cache holds
        self._shift: Tensor | None = None  # of Qwen's positions behind a picture

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, ids: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Logits of the token after these, float32 on the CPU."""
        return self.go_to([*self.ids, *ids])

    def go_to(self, ids: Sequence[int]) -> Float[Tensor, " vocab"]:
        """Logits after exactly these tokens, float32 on the CPU."""
        self.ids = list(ids)
        place = tuple(ids)
        if (logits := self._known.peek(place)) is None:
            logits = self._forward()
            self._known.put(place, logits)
        return logits

    def back_to(self, length: int) -> None:
        """Go back to the first `length` tokens, as if the later ones had never been read."""
        if not 0 <= length <= len(self.ids):
            raise ValueError(f"cannot go back to {length} of {len(self.ids)} tokens")
        del self.ids[length:]

    def forget(self) -> None:
        """Drop the logits of all places, so that the next one is computed from keys and values."""
        self._known.clear()

    @torch.no_grad()
    def _forward(self) -> Float[Tensor, " vocab"]:
        """Read what the cache does not hold of the text up to here."""
        cached = self._shorten()
        new = self.ids[cached:]
        inputs = torch.tensor([new], device=self.bundle.device)
        extra_inputs = dict(self.pixels) if cached == 0 else {}
        positions = self._positions(inputs, cached)
        if positions is not None:
            extra_inputs["position_ids"] = positions
        out = self.bundle.model(
            input_ids=inputs,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **extra_inputs,
        )
        self._cached = list(self.ids)
        self.forward_tokens += len(new)
        return out.logits[0, -1].float().cpu()

    def _shorten(self) -> int:
        """Cut the cache back to what it shares with the text, and return how many tokens that is.

        The last token is always read, since its logits are wanted, and a picture goes through the
        network whole, with everything before it.
        """
        pairs = zip(self._cached, self.ids[:-1], strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        image = self.bundle.image_id if self.pixels else None
        surplus = len(self._cached) - shared
        if shared == 0 or image in self.ids[shared:] or (surplus and not _can_shorten(self._cache)):
            self._cache, shared = _new_cache(self.bundle.model), 0
        elif surplus:
            self._cache.crop(-surplus)  # transformers takes a negative count of tokens to remove
        return shared

    def _positions(self, inputs: Tensor, cached: int) -> Tensor | None:
        """Qwen2.5-VL counts a picture in three directions.

        The library keeps the shift of what follows on the model itself, which all readers of this
        model share; so it is computed here and given each time.
        """
        if "image_grid_thw" not in self.pixels:
            return None
        if cached == 0:
            kinds = (inputs == self.bundle.image_id).int()
            places, self._shift = self.bundle.model.model.get_rope_index(
                inputs, mm_token_type_ids=kinds, image_grid_thw=self.pixels["image_grid_thw"]
            )
            return places
        assert self._shift is not None
        places = torch.arange(cached, cached + inputs.shape[1], device=inputs.device)
        return (places + self._shift.reshape(-1, 1)).expand(3, 1, -1)


def _new_cache(model: "PreTrainedModel") -> Any:
    from transformers import DynamicCache

    return DynamicCache(config=model.config)


def _can_shorten(cache: Any) -> bool:
    """Plain growing layers only; told by their class."""
    return all(type(layer).__name__ == "DynamicLayer" for layer in cache.layers)


# ---------------------------------------------------------------------- loading


def read(card: ModelCard, folder: Path, ref: ModelRef, device: str, dtype: str) -> LanguageBundle:
    """Load a folder in transformers layout. Called by `library.load`, which caches the bundle."""
    from transformers import logging as their_logging

    config = read_json(folder / "config.json")
    if "auto_map" in config:
        raise ModelMismatch(
            f"{card.title} needs code of its own to run, which is never executed here.",
            "Pick a model that the transformers library knows.",
        )
    kind = str(config.get("model_type", ""))
    headers = _llava_layout.headers(folder) if _is_original_llava(kind) else _headers(folder)
    _check_memory(card.title, headers, device, dtype)
    before = their_logging.get_verbosity()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        if _is_original_llava(kind):
            model, tokenizer, eyes = _llava_layout.read(folder, config, getattr(torch, dtype))
        else:
            model = _model(folder, kind, card.title, getattr(torch, dtype))
            tokenizer = read_tokenizer(folder)
            eyes = _eyes(folder, kind)
    finally:
        their_logging.set_verbosity(before)
    model = model.to(device).eval().requires_grad_(False)
    model.tie_weights()  # a device that takes new parameters, as XLA does, has parted them
    return LanguageBundle(
        ref=ref,
        card=card,
        folder=folder,
        model=model,
        device=device,
        dtype=dtype,
        tokenizer=tokenizer,
        image_processor=eyes,
        image_token="<|image_pad|>" if kind == "qwen2_5_vl" else "<image>",
        vocabulary=Vocabulary.read(folder),
    )


def _is_original_llava(kind: str) -> bool:
    return kind in ("llava_llama", "llava_mistral")


def _headers(folder: Path) -> Mapping[Path, Mapping[str, Any]]:
    return weight_files(folder, stem_in(folder))


def _check_memory(title: str, headers: Mapping[Path, Mapping], device: str, dtype: str) -> None:
    numbers = sum(
        int(np.prod(info.shape, dtype=np.int64))
        for tensors in headers.values()
        for info in tensors.values()
    )
    check_room(title, numbers * getattr(torch, dtype).itemsize, device, dtype)


def _model(folder: Path, kind: str, title: str, dtype: torch.dtype) -> "PreTrainedModel":
    import transformers

    classes = {
        "llava": transformers.LlavaForConditionalGeneration,
        "qwen2_5_vl": transformers.Qwen2_5_VLForConditionalGeneration,
    }
    try:
        model, loading_info = classes.get(kind, transformers.AutoModelForCausalLM).from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=dtype,
            output_loading_info=True,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OSError) as error:
        raise ModelMismatch(
            f"{title} is of the kind {kind[:40] or 'unknown'}, which does not load as a language "
            f"model ({type(error).__name__}).",
            "Pick a causal language model, LLaVA or Qwen2.5-VL in transformers layout.",
        ) from error
    if loading_info["missing_keys"]:
        missing = sorted(loading_info["missing_keys"])
        raise ModelMismatch(
            f"The weights of {title} lack {missing[0][:80]} ({len(missing)} missing).",
            "Take weights and config from the same export.",
        )
    return model


def _eyes(folder: Path, kind: str) -> Any:
    """How a picture becomes pixels: the library's Pillow processors, as torchvision is not here."""
    if kind not in EYES:
        return None
    if kind == "qwen2_5_vl":
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
            Qwen2VLImageProcessorPil as Processor,
        )
    else:
        from transformers.models.clip.image_processing_pil_clip import (
            CLIPImageProcessorPil as Processor,
        )
    names = ("preprocessor_config.json", "processor_config.json")
    name = next((name for name in names if (folder / name).is_file()), names[0])
    settings = read_json(folder / name)
    settings = settings.get("image_processor", settings)
    known = {key: value for key, value in settings.items() if key not in _NOT_SETTINGS}
    return Processor(**known)


_NOT_SETTINGS = ("image_processor_type", "processor_class", "feature_extractor_type", "auto_map")

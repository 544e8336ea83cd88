"""Which models there are, and how one is fetched, checked, loaded once, shared and edited.

    bundle = load(ModelRef("world"))                              shipped in assets/models
    bundle = load(ModelRef("CompVis/stable-diffusion-v1-4", "133a221b8aa7..."))       from the Hub
    bundle = load(ModelRef("/home/me/my-checkpoint"))             a folder of the user
    bundle = load(ModelRef("world", edits=(digest,)))             with a patch from the store

A loaded bundle is read-only and shared by everyone who asks for it. `fork` gives a new structure
over the same tensors, `edited` one in which some tensors are replaced; the base never changes, so
visitors with different edits share one base. Training starts from a fork whose trained parameters
are cloned.

What ships here says so in a card (`cards`). This module imports no torch until something is loaded.
"""

import copy
import hashlib
import importlib
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from engine.core import disk
from engine.core.cache import LruCache
from engine.core.errors import BadInput, EngineError, ModelMismatch, OutOfBudget
from engine.core.job import Steps
from engine.core.recipe import ModelRef
from engine.models._checks import check_folder, read_json
from engine.models.cards import ASSETS, MODELS, ModelCard, read_cards, size_and_time, verify
from engine.models.devices import NoRoom, policy, release
from engine.models.words import Vocabulary

if TYPE_CHECKING:
    # Written out in full below, so that shape checkers can find them at run time too.
    import torch

    import engine.core.patch

__all__ = [
    "ASSETS",
    "MODELS",
    "Bundle",
    "ModelCard",
    "ModelRef",
    "edited",
    "fork",
    "load",
    "prompt_note",
    "read_cards",
    "resolve",
    "verify",
]

LOADERS = {
    "classifier": "engine.models.classifier",
    "diffusion": "engine.models.diffusion",
    "language": "engine.models.language",
    "score": "engine.models.score",
    "restoration": "engine.models.restoration",
    "speech": "engine.models.speech",
}
UNCONDITIONAL = ("ScoreSdeVePipeline", "DDPMPipeline")
# What tells the folder of a restoration network: our description, or the published weights.
RESTORATION = ("restoration.json", "universal-ir.safetensors", "universal-ir.pth")


M = TypeVar("M", bound="torch.nn.Module")


@dataclass(frozen=True)
class Bundle:
    """A loaded model with what belongs to it; read-only and shared.

    `model` holds all weights. Where a model has several networks it is a ModuleDict, so that the
    names in its state ("unet.conv_in.weight") and hence in a patch are unique.
    """

    ref: ModelRef
    card: ModelCard
    folder: Path
    model: "torch.nn.Module"
    device: str
    dtype: str

    @property
    def cache_key(self) -> tuple[Hashable, ...]:
        """What everything that is computed with this model depends on, for keys of caches."""
        return self.ref, str(self.folder), self.dtype, self.device


# ---------------------------------------------------------------------- loading


def load(ref: ModelRef | str, device: str = "auto", dtype: str = "auto") -> Bundle:
    """The model of a reference or key, from the cache or else loaded, checked and kept there.

    "auto" is settled in `devices`: an accelerator with float16 if there is one, else the CPU with
    float32.
    Raises `AssetMissing` (not here and not to be had), `BadInput` (unsound files), `ModelMismatch`
    (another kind of model, or a patch made for another one), `OutOfBudget` (too large).
    """
    device, dtype = policy(device, dtype)
    card, folder, ref = _locate(ModelRef.of(ref), dtype)
    base_ref = replace(ref, edits=())
    key = (base_ref, _stamp(folder), device, dtype)

    def base() -> Bundle:
        return CACHE.get(key, lambda: _read(card, folder, base_ref, device, dtype), size=_bytes)

    if not ref.edits:
        return base()
    return CACHE.get(
        (*key, ref.edits),
        lambda: _edit(base(), ref),
        size=lambda new: _bytes(new, base()),
        on=key,
    )


def resolve(ref: ModelRef | str) -> ModelRef:
    """The same reference with its revision filled in, as a recipe should name it."""
    return _locate(ModelRef.of(ref), "float32")[2]


def fetch(ref: ModelRef) -> Steps[None]:
    """Brings a model of the Hub to this machine, its bytes as progress; leaves others alone.

    So with the vision tower that a LLaVA checkpoint names.
    """
    from engine.models import _sources

    card = MODELS.get(ref.source)
    if card is not None and card.sha256:
        return

    def dtype() -> str:
        return policy("auto", "auto")[1]

    if card is not None:
        folder = yield from _sources.fetch(card.hub, ref.revision or card.revision, dtype, True)
    elif _sources.is_on_hub(ref.source):
        folder = yield from _sources.fetch(ref.source, ref.revision, dtype, False)
    else:
        folder = _sources.from_user(ref.source)
    if tower := _sources.tower_of(folder):
        yield from _sources.fetch(tower, None, lambda: "float32", False)


def fetch_adapter(source: str) -> Steps[None]:
    """The same for an adapter, "owner/name" or "owner/name@revision"."""
    if "/" in source and source.partition("/")[0] not in MODELS:
        from engine.models import adapter_sources

        yield from adapter_sources.fetch(source)


def _locate(ref: ModelRef, dtype: str) -> tuple[ModelCard, Path, ModelRef]:
    """Card, folder and the reference with its revision, for any of the three sources."""
    card = MODELS.get(ref.source)
    if card is not None and card.sha256:
        folder = ASSETS / card.key
        if ref.revision not in (None, card.revision):
            raise ModelMismatch(
                f"This asks for revision {ref.revision[:40]} of {card.key}, "
                f"but {card.revision} is installed.",
                "Leave the revision out to run on the installed one; pictures will differ.",
            )
        verify(card, folder)
        return card, folder, replace(ref, revision=card.revision)
    from engine.models import _sources

    if card is not None:
        folder, commit = _sources.from_hub(card.hub, ref.revision or card.revision, dtype, True)
        return card, folder, replace(ref, revision=commit)
    if _sources.is_on_hub(ref.source):
        folder, commit = _sources.from_hub(ref.source, ref.revision, dtype, False)
        ref = replace(ref, revision=commit)
    else:
        folder = _sources.from_user(ref.source)
    title = source_title(ref.source).rpartition("/")[2]
    card = ModelCard(ref.source, title, _kind(folder), "as stated by its author", ref.source)
    return card, folder, ref


def source_title(source: str) -> str:
    """A source as people read it: an upload is known by the start of its digest."""
    return f"upload {source[7:15]}" if source.startswith("upload:") else source


def _kind(folder: Path) -> str:
    if (folder / "model_index.json").is_file():
        class_name = read_json(folder / "model_index.json").get("_class_name")
        return "score" if class_name in UNCONDITIONAL else "diffusion"
    if any((folder / name).is_file() for name in RESTORATION):
        return "restoration"
    config = folder / "config.json"
    if config.is_file():
        entries = read_json(config)
        if "_diffusers_version" in entries:
            raise ModelMismatch(
                f"The folder {folder.name} is one part of a diffusers checkpoint.",
                "Name the folder above it, which holds model_index.json.",
            )
        if {"front", "backbone"} & entries.keys():
            return "speech"
        return "classifier" if _is_classifier(entries) else "language"
    raise ModelMismatch(
        "This folder has no model_index.json, so it is not a diffusers checkpoint, and no "
        "config.json, so it is no language model either.",
        "Point at the folder that `save_pretrained` wrote, not at a file inside it.",
    )


def _is_classifier(config: Mapping[str, object]) -> bool:
    """Whether a config.json is that of an image classifier, of transformers or of timm."""
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    is_timm = {"architecture", "pretrained_cfg"} <= config.keys()
    return is_timm or str(first).endswith("ForImageClassification")


def _read(card: ModelCard, folder: Path, ref: ModelRef, device: str, dtype: str) -> Bundle:
    if card.kind not in LOADERS:
        raise ModelMismatch(
            f"{card.title} is a {card.kind} model, which cannot be loaded here.",
            f"Pick one of the kind {' or '.join(LOADERS)}.",
        )
    # One at a time: the look at the free memory holds, and two threads that import transformers
    # at once see each other's half of it.
    with _READING, _named_memory_errors(card.title), _uploads_that_load(ref, dtype):
        loader = importlib.import_module(LOADERS[card.kind])
        while True:
            try:
                return loader.read(card, folder, ref, device, dtype)
            except NoRoom as refused:
                # Models that nobody has used for the longest time make room, where all of them
                # together hold as much as is missing; no visitor can empty the cache for nothing.
                if refused.missing > CACHE.bytes or not CACHE.drop_oldest():
                    raise
                release(device)


@contextmanager
def _uploads_that_load(ref: ModelRef, dtype: str) -> Iterator[None]:
    """An upload that is refused as a model is of no use to anyone and leaves the disk."""
    try:
        yield
    except (BadInput, ModelMismatch) as error:
        # Numbers that are too large for half precision may load as float32.
        if isinstance(error, ModelMismatch) or dtype == "float32":
            from engine.models import _uploads

            _uploads.forget(ref.source)
        raise


_READING = threading.Lock()


def _stamp(folder: Path) -> str:
    """Changes when a file of the folder changes, so that the cache does not serve the old one."""
    hub_cache = folder.parent.parent if folder.parent.name == "snapshots" else folder
    files = check_folder(folder, inside=hub_cache)
    text = repr([(str(path.relative_to(folder)), *size_and_time(path)) for path in files])
    return hashlib.sha256(text.encode()).hexdigest()


@contextmanager
def _named_memory_errors(title: str) -> Iterator[None]:
    import torch

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # An accelerator's error is of its own kind, the CPU's is told by its text alone.
        is_full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (is_full or "allocate memory" in str(error)):
            raise
        raise OutOfBudget(
            f"{title} does not fit into memory.",
            "Close other models, pick a smaller one, or load it as float16.",
        ) from None


def prompt_note(source: str, prompt: str) -> str:
    """What a shipped model does not know in a prompt, as a sentence; empty if nothing. No torch."""
    vocabulary = _vocabulary(ASSETS / source) if source in MODELS else None
    return vocabulary.note(prompt) if vocabulary else ""


@cache
def _vocabulary(folder: Path) -> Vocabulary | None:
    return Vocabulary.read(folder)


# ---------------------------------------------------------------------- edits


def fork(model: M) -> M:
    """A new structure over the same tensors; tied weights stay tied.

    Parameters are new objects that share storage, so that freezing, hooks and gradients of the
    fork leave the original alone. Writing into a tensor in place does not: clone it first.
    """
    from torch import nn

    memo: dict[int, object] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        shared = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        memo[id(parameter)] = shared
    return copy.deepcopy(model, memo)


def edited(model: M, patches: Sequence["engine.core.patch.Patch"]) -> M:
    """A fork with the patches applied in order; every tensor they do not touch is shared.

    Raises `PatchConflict` or `ModelMismatch` when a patch does not fit, and then nothing happened.
    """
    from engine.core.patch import apply_all

    before = model.state_dict()
    after = apply_all(before, patches)
    changed = {name: tensor for name, tensor in after.items() if tensor is not before.get(name)}
    return with_tensors(model, changed)


def with_tensors(model: M, tensors: Mapping[str, "torch.Tensor"]) -> M:
    """A fork in which the named tensors are replaced, wherever a tied one is used.

    They come to the device of those that they replace. An embedding may get more rows than it had
    (new tokens).
    """
    from torch import nn

    forked = fork(model)
    tied = _names_by_tensor(forked)
    for name, tensor in tensors.items():
        old = forked.get_parameter(name) if name in tied else forked.get_buffer(name)
        tensor = tensor.to(old.device)
        new = nn.Parameter(tensor, requires_grad=False) if name in tied else tensor
        for other in tied.get(name, [name]):
            owner_name, _, leaf = other.rpartition(".")
            owner = forked.get_submodule(owner_name)
            setattr(owner, leaf, new)
            if isinstance(owner, nn.Embedding) and leaf == "weight" and len(new) != len(old):
                owner.num_embeddings = len(new)
    return forked


def _names_by_tensor(model: "torch.nn.Module") -> dict[str, list[str]]:
    """For each parameter's name all names that are the same parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name: names for names in groups.values() for name in names}


def _edit(base: Bundle, ref: ModelRef) -> Bundle:
    from engine.core.store import default_store

    store = default_store()
    patches = [store.get(digest) for digest in ref.edits]
    with _named_memory_errors(base.card.title):
        bundle = replace(base, ref=ref, model=edited(base.model, patches))
    words = [word for patch in patches for word in _new_words(patch)]
    if not words:
        return bundle
    return importlib.import_module(LOADERS[base.card.kind]).with_tokens(bundle, words)


def _new_words(patch: "engine.core.patch.Patch") -> list[str]:
    """The words whose rows a patch appends to the token table, as its recipe names them."""
    grown = [name for name in patch.rows if name.endswith("token_embedding.weight")]
    word = patch.recipe.params.get("placeholder")
    return [word] if grown and isinstance(word, str) else []


# ---------------------------------------------------------------------- cache


def cache_megabytes() -> float:
    """REWIND_CACHE_GB in megabytes, 4000 if unset. Raises `BadInput` when that is no number."""
    return 1000 * disk.number("REWIND_CACHE_GB", 4.0)


CACHE: LruCache[Bundle] = LruCache(cache_megabytes)


def _bytes(bundle: Bundle, shared_with: Bundle | None = None) -> int:
    """Bytes of all tensors of a bundle, without those that another one holds already."""
    shared = set() if shared_with is None else {t.data_ptr() for t in _tensors(shared_with)}
    sizes = {t.data_ptr(): t.nbytes for t in _tensors(bundle) if t.data_ptr() not in shared}
    return sum(sizes.values())


def _tensors(bundle: Bundle) -> Iterator["torch.Tensor"]:
    yield from bundle.model.parameters()
    yield from bundle.model.buffers()


# ---------------------------------------------------------------------- adapters


def adapter_sets() -> dict[str, tuple[str, ...]]:
    """Names of the shipped adapters by the key of their set. No torch."""
    return {
        key: tuple(card.notes.get("adapters", {}))  # type: ignore[arg-type]
        for key, card in MODELS.items()
        if card.kind == "adapters"
    }


def receive_checkpoint(archive: Path) -> str:
    """Keeps an uploaded zip of a checkpoint folder and gives its source. No torch.

    Raises an `EngineError` for an archive that is no checkpoint of a kind that is known here.
    """
    from engine.models import _sources, _uploads

    source = _sources.receive(archive)
    try:
        resolve(ModelRef(source))
        if not _sources.is_complete(_sources.from_user(source)):
            raise BadInput(
                "A part of this checkpoint has no safetensors weights.", _sources.SAFETENSORS_ONLY
            )
    except EngineError:
        _uploads.forget(source)
        raise
    return source


def receive_adapters(files: Sequence[Path]) -> list[str]:
    """Keeps uploaded adapters and gives a source for each; see `adapter_sources.receive`."""
    from engine.models.adapter_sources import receive

    return receive(files)

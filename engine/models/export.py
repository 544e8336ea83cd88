"""A model with its edits as a folder or a zip that other tools read, with the files that undo it.

    for event in runner()(Job("engine.models.export:run", {"model": ref, "folder": "out"})):
        ...

The folder is in diffusers layout, so `StableDiffusionPipeline.from_pretrained(folder)` opens it and
so do we. A checkpoint in half precision is written in half precision. Beside the weights lie a
README with licence and edits, and `undo/` with one patch an edit: taken off in the order last to
first they give back every bit of the base.
"""

import errno
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.core import disk
from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.patch import Patch, State
from engine.core.recipe import ModelRef
from engine.core.store import default_store
from engine.models import _layout
from engine.models._checks import is_index
from engine.models.diffusion import DiffusionBundle
from engine.models.library import load

# Text settings that are copied as they are; weights are written anew.
COPIED = (".json", ".txt")
HALVES = {"F16": torch.float16, "BF16": torch.bfloat16}


def run(*, seed: int, model: ModelRef, folder: str, as_zip: bool = False) -> Steps[str]:
    """Write the model into `folder`, which must be new or empty; gives the path of what was made.

    All or nothing: it is written beside its place and then moved there. With `as_zip` the result is
    `folder` with the ending .zip. The seed is not used.
    """
    target = Path(folder)
    if as_zip:
        target = target.with_name(f"{target.name}.zip")
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise BadInput(f"{target.name} is there already.", "Choose a new or empty folder.")
    bundle = load(model, dtype="auto")
    if not isinstance(bundle, DiffusionBundle):
        raise BadInput(f"{bundle.card.title} cannot be exported.", "Choose a diffusion model.")
    with disk.scratch(target.parent, "The model") as scratch:
        written = scratch / "model"
        yield from _write(bundle, written)
        if as_zip:
            written = _zipped(written, scratch / "model.zip")
        if target.is_dir():
            target.rmdir()
        written.replace(target)
    return str(target)


def _write(bundle: DiffusionBundle, folder: Path) -> Steps[None]:
    steps = len(bundle.model) + 2
    formats = _formats(bundle)
    _copy_texts(bundle.folder, folder)
    if bundle.ref.edits:  # which may have named new tokens
        bundle.tokenizers[0].save_pretrained(folder / "tokenizer")
    yield Progress(1, steps, "settings")
    for done, (name, network) in enumerate(bundle.model.items()):
        _save_weights(folder / name, name, network, formats[name])
        yield Progress(done + 2, steps, name)
    edits = _save_edits(bundle, formats, folder / "undo")
    (folder / "README.md").write_text(_readme(bundle, formats, edits), encoding="utf-8")
    yield Progress(steps, steps, "edits")


def _copy_texts(source: Path, folder: Path) -> None:
    for path in source.rglob("*"):
        name = path.relative_to(source)
        is_left_out = is_index(path.name) or path.name == "card.json"
        if not path.is_file() or path.suffix not in COPIED or is_left_out:
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _formats(bundle: DiffusionBundle) -> dict[str, torch.dtype]:
    """The number format of each network in its files, where its weights fit into that, and else
    the one that it was loaded and edited in."""
    return {name: _format(bundle.folder / name, part) for name, part in bundle.model.items()}


def _format(folder: Path, network: nn.Module) -> torch.dtype:
    loaded = next(network.parameters()).dtype
    kinds = {info.dtype for info in _layout.headers(folder).values()}
    stored = next((kind for name, kind in HALVES.items() if kinds == {name}), None)
    if stored is None or loaded != torch.float32:
        return loaded
    weights = network.parameters()
    fits = all(bool(weight.to(stored).isfinite().all()) for weight in weights)
    return stored if fits else loaded


def _as(tensor: Tensor, kind: torch.dtype) -> Tensor:
    return tensor.to(kind) if tensor.is_floating_point() else tensor


def _save_weights(folder: Path, part: str, network: nn.Module, kind: torch.dtype) -> None:
    """One safetensors file. Text encoders get the names that all versions of transformers read."""
    is_text = part.startswith("text_encoder")
    state = {n: _as(tensor, kind).contiguous().cpu() for n, tensor in network.state_dict().items()}
    if is_text and not any(name.startswith("text_model.") for name in state):
        state = {f"text_model.{name}": tensor for name, tensor in state.items()}
    stem = "model" if is_text else "diffusion_pytorch_model"
    with writing_tensors():
        save_file(state, folder / f"{stem}.safetensors", metadata={"format": "pt"})
    _note_changes(folder / "config.json", network, kind)


@contextmanager
def writing_tensors() -> Iterator[None]:
    """Within the block the library's own error for a disk that cannot be written is an OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code)) from error


def _note_changes(config: Path, network: nn.Module, written: torch.dtype) -> None:
    """What the config says of the weights that are written now.

    New tokens are new rows of the embedding. The number format counts for transformers, which would
    else open a text encoder as float16 beside networks in float32.
    """
    rows = getattr(network, "get_input_embeddings", lambda: None)()
    entries = json.loads(config.read_text("utf-8"))
    kind = str(written).removeprefix("torch.")
    now = {"vocab_size": rows.num_embeddings} if rows is not None else {}
    now |= {"dtype": kind, "torch_dtype": kind}
    now = {name: value for name, value in now.items() if name in entries}
    config.write_text(json.dumps(entries | now, indent=2), encoding="utf-8")


def _save_edits(
    bundle: DiffusionBundle, formats: Mapping[str, torch.dtype], folder: Path
) -> list[str]:
    """The patches by number in the order of application; gives a line for each."""
    lines = []
    for number, patch in enumerate(_patches(bundle, formats), start=1):
        name = f"{number:02d}-{bundle.ref.edits[number - 1][:12]}.safetensors"
        folder.mkdir(parents=True, exist_ok=True)
        patch.save(folder / name)
        lines.append(f"{number}. {patch.name}: `undo/{name}`, recipe `{patch.recipe.json()}`")
    return lines


def _patches(bundle: DiffusionBundle, formats: Mapping[str, torch.dtype]) -> Iterator[Patch]:
    """The edits between the weights as they are written.

    A patch is made for one number format: where another one is written, each edit is put down
    again between the rounded weights before and after it.
    """
    store = default_store()
    patches = [store.get(digest) for digest in bundle.ref.edits]
    is_as_loaded = all(next(bundle.model[n].parameters()).dtype == k for n, k in formats.items())
    if is_as_loaded or not patches:
        yield from patches
        return
    base = load(replace(bundle.ref, edits=()), bundle.device, bundle.dtype)
    state: Mapping[str, Tensor] = base.model.state_dict()
    before = _rounded(state, formats)
    for patch in patches:
        state = patch.apply(state)
        after = _rounded(state, formats)
        yield Patch.between(before, after, patch.recipe)
        before = after


def _rounded(state: Mapping[str, Tensor], formats: Mapping[str, torch.dtype]) -> State:
    return {name: _as(tensor, formats[name.partition(".")[0]]) for name, tensor in state.items()}


def _readme(bundle: DiffusionBundle, formats: Mapping[str, torch.dtype], edits: list[str]) -> str:
    card = bundle.card
    front = {"license": "other", "library_name": "diffusers", "pipeline_tag": "text-to-image"}
    head = "\n".join(f"{key}: {value}" for key, value in front.items())
    listed = "\n".join(edits) or "none"
    kinds = {name: str(kind).removeprefix("torch.") for name, kind in formats.items()}
    written = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
    return (
        f"---\n{head}\n---\n\n# {card.title}, as edited in Rewind\n\n"
        f"Base: {bundle.ref.source}, revision {bundle.ref.revision or 'not stated'}, "
        f"edited as {bundle.dtype}.\nWeights: {written}.\n"
        f"Licence of the base: {card.licence}.\nSource: {card.source}\n\n"
        f"Edits, in order:\n\n{listed}\n\n"
        "Undo them, last to first, with `engine.core.patch.Patch.load(path).undo(state)`, where\n"
        "`state` is that of the model as `engine.models.library.load` gives it in the format of\n"
        f'the weights (`dtype="{kinds["unet"]}"`): every bit comes back.\n'
    )


def _zipped(folder: Path, target: Path) -> Path:
    # Stored, not squeezed: weights hardly shrink.
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                packed.write(path, path.relative_to(folder))
    return target

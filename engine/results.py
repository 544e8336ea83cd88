"""What a method gave, as files that the rest of a person's tools read.

    files = files_of(result, recipe)        {"pictures_00.png": b"...", "curve.csv": b"...", ...}

Pictures become PNG with the recipe inside, number arrays and curves CSV, patches safetensors, files
for other tools keep their names, and everything plain becomes one `result.json` that names the
other files. `recipe.json` runs it again.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace

import numpy as np
from PIL import Image

from engine.core.named_file import NamedFile
from engine.core.recipe import ModelRef, Recipe
from engine.core.store import default_store

Files = dict[str, bytes]


def files_of(result: object, recipe: Recipe) -> Files:
    """The files by name: their own, or else the path of fields that leads to the value."""
    files: Files = {}
    plain = _plain(result, "", files, recipe)
    files["result.json"] = json.dumps(plain, indent=2, ensure_ascii=False).encode()
    files["recipe.json"] = recipe.json().encode()
    return files


def keep_edit(result: object, base: ModelRef | None) -> ModelRef | None:
    """The model that an edit makes of its base, its patch now in the store; None for no edit.

    Raises `OutOfBudget` or `AssetMissing` when the store cannot take it.
    """
    if (patch := getattr(result, "patch", None)) is None:
        return None
    digest = default_store().put(patch)
    base = base or patch.recipe.model or ModelRef("world")
    return replace(base, edits=(*base.edits, digest))


def _plain(value: object, name: str, files: Files, recipe: Recipe) -> object:
    """A value as JSON holds it; arrays and patches go to `files` and leave their file's name."""
    if isinstance(value, np.generic):
        return _plain(value.item(), name, files, recipe)
    if isinstance(value, float):
        return value if np.isfinite(value) else str(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, np.ndarray):
        return _array(value, name or "result", files, recipe)
    if isinstance(value, NamedFile):  # other tools look for it under this name
        name = value.name if value.name not in files else f"{name}/{value.name}"
        files[name] = value.data
        return name
    if callable(pieces := getattr(value, "pieces", None)):  # a Patch, or a sound
        name = f"{name or 'patch'}{getattr(value, 'suffix', '.safetensors')}"
        files[name] = b"".join(bytes(piece) for piece in pieces())
        return name
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item, _joined(name, str(key)), files, recipe)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [_plain(item, _joined(name, str(i)), files, recipe) for i, item in enumerate(value)]
        rows = [item for item in items if isinstance(item, dict)]
        if len(rows) == len(items) > 1 and _is_table(rows):
            files[f"{name}.csv"] = _table(rows)
        return items
    return str(value)


def _joined(name: str, part: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in part)
    return f"{name}_{safe}" if name else safe


def _array(array: np.ndarray, name: str, files: Files, recipe: Recipe) -> object:
    is_picture = array.dtype == np.uint8 and array.shape[-1:] == (3,)
    if is_picture and array.ndim == 3:
        files[f"{name}.png"] = recipe.stamp(png(array))
        return f"{name}.png"
    if is_picture and array.ndim == 4:
        return [_array(one, f"{name}_{i:02d}", files, recipe) for i, one in enumerate(array)]
    if array.ndim <= 2 and np.issubdtype(array.dtype, np.number):
        if array.ndim == 0:
            return _plain(array.item(), name, files, recipe)
        text = io.StringIO()
        csv.writer(text).writerows(np.atleast_2d(array.T).T.tolist())
        files[f"{name}.csv"] = text.getvalue().encode()
        return f"{name}.csv"
    raw = io.BytesIO()
    np.save(raw, array, allow_pickle=False)
    files[f"{name}.npy"] = raw.getvalue()
    return f"{name}.npy"


def png(picture: np.ndarray) -> bytes:
    """A uint8 picture, h w 3, as the bytes of a PNG file."""
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, "PNG")
    return encoded.getvalue()


def _is_table(rows: Sequence[Mapping[str, object]]) -> bool:
    """Whether they have equal columns of plain values: a curve, point by point."""
    plain = (str, int, float, bool, type(None))
    return all(
        row.keys() == rows[0].keys() and all(isinstance(value, plain) for value in row.values())
        for row in rows
    )


def _table(rows: Sequence[Mapping[str, object]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()

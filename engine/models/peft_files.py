"""A PEFT adapter of a live model as the two files of its folder, equal in every process.

    data, config = written(model, base="smollm2")     adapter_model.safetensors, adapter_config.json

PEFT keeps the names of adapted modules in sets, whose order is another one in each process; here
they are sorted, so that equal adapters are equal files.
"""

import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from engine.core.precision import state_at_home
from engine.core.shapes import Tensor

if TYPE_CHECKING:
    from peft import PeftModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
SETS = ("target_modules", "exclude_modules")


def _of_adapter(model: "PeftModel") -> dict[str, Tensor]:
    """The tensors of the active adapter, by PEFT's names."""
    mark = f".{model.active_adapter}"
    return {name: tensor for name, tensor in model.state_dict().items() if mark in name}


def written(model: "PeftModel", *, base: str | None = None) -> tuple[bytes, str]:
    """Weights and configuration; `base` is how the file names the model that it belongs to."""
    with tempfile.TemporaryDirectory() as folder, quietly():
        # Asked about embeddings, PEFT would look the base up on the Hub.
        model.save_pretrained(
            folder,
            safe_serialization=True,
            save_embedding_layers=False,
            state_dict=state_at_home(_of_adapter(model)),
        )
        data = Path(folder, WEIGHTS).read_bytes()
        config = json.loads(Path(folder, CONFIG).read_text("utf-8"))
    config |= {name: sorted(config[name]) for name in SETS if isinstance(config.get(name), list)}
    if base is not None:
        config["base_model_name_or_path"] = base
    return data, json.dumps(config, indent=2, sort_keys=True) + "\n"


def quietly() -> warnings.catch_warnings:
    """PEFT still asks transformers for names that it calls outdated."""
    return warnings.catch_warnings(action="ignore", category=FutureWarning)

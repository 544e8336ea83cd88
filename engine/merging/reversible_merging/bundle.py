"""The bundle: what is kept in place of n adapters, as one safetensors file.

For every module `<module>.mu` (m + d, r), `<module>.U` (m + d, p, r), `<module>.C` (m + d, n, p).
The header says m, names, ranks, base model, and the digest of each source. READER is all that is
needed to get an adapter out of it again.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from engine.core.errors import BadInput
from engine.core.job import Progress, Steps
from engine.core.shapes import Tensor
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging.collection import Collection
from engine.merging.reversible_merging.gauge import aligned
from engine.models.tensor_file import TensorFile

Fitted = tuple[str, rmm.Basis]

FORMAT = "rmm-bundle-1"
READER = '''"""One adapter out of a merge: python read_bundle.py bundle.safetensors NAME"""

import json
import sys

from safetensors import safe_open
from safetensors.torch import save_file

path, wanted = sys.argv[1:3]
out = {}
with safe_open(path, framework="pt") as file:
    told = json.loads(file.metadata()["rmm"])
    i = told["names"].index(wanted)
    for module, shape in told["modules"].items():
        mu, U, C = (file.get_tensor(f"{module}.{part}").float() for part in ("mu", "U", "C"))
        x = mu + (C[:, i, :, None] * U).sum(1)          # (m + d) x r
        m, kernel = shape["m"], shape["kernel"]
        up, down = x[:m].contiguous(), x[m:].T.contiguous()
        name = f"base_model.model.{shape['name']}"
        out[f"{name}.lora_B.weight"] = up.reshape(*up.shape, *[1] * len(kernel))
        out[f"{name}.lora_A.weight"] = down.reshape(len(down), -1, *kernel)
save_file(out, f"{wanted}.safetensors")                 # a PEFT adapter with lora_alpha = r
'''


def fitted(collection: Collection, p: int, *, align: bool = False) -> Iterator[Fitted]:
    """The basis of each module in turn; two layers are at work while one is handed out.

    The many small eigenproblems of a layer run on one core, so a second layer takes the other.
    """

    def fit(module: str) -> Fitted:
        a, b = collection.factors(module)
        pair = aligned(a, b) if align else (a, b)
        return module, rmm.fit(*pair, min(p, rmm.largest_p(len(a), a.shape[2])))

    with ThreadPoolExecutor(2) as pool:
        waiting: deque[Future[Fitted]] = deque()
        for module in collection.modules:
            waiting.append(pool.submit(fit, module))
            if len(waiting) > 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def make(
    collection: Collection, p: int, *, align: bool = False, half: bool = False
) -> Steps[TensorFile]:
    """The bundle, with progress at every layer."""
    tensors: dict[str, Tensor] = {}
    modules: dict[str, object] = {}
    kind = torch.float16 if half else torch.float32
    for place, (module, basis) in enumerate(fitted(collection, p, align=align)):
        layer = collection.layer(module)
        for part, tensor in (("mu", basis.mu), ("U", basis.U), ("C", basis.C)):
            tensors[f"{module}.{part}"] = tensor.to(kind)
        modules[module] = {
            "name": layer.name,
            "m": basis.rows,
            "kernel": list(layer.kernel),
            "ranks": [lora.layers[module].rank if module in lora.layers else 0
                      for lora in collection.loras],
        }  # fmt: skip
        yield Progress(place + 1, len(collection.modules), f"Fitting {layer.name}")
    header = {
        "format": FORMAT,
        "names": list(collection.names),
        "p": p,
        "aligned": align,
        "base": next((lora.base for lora in collection.loras if lora.base), ""),
        "scaling": "folded into the factors, so that lora_alpha = r",
        "sha256": list(collection.digest),
        "modules": modules,
    }
    return TensorFile.of("bundle.safetensors", tensors, {"format": "pt", "rmm": json.dumps(header)})


def read(tensors: Mapping[str, Tensor], header: Mapping[str, object]) -> dict[str, rmm.Basis]:
    """The basis of each module. Raises `BadInput` when a part is missing."""
    found = {}
    modules: Mapping[str, Mapping[str, int]] = header["modules"]  # type: ignore[assignment]
    for module, shape in modules.items():
        try:
            mu, u, c = (tensors[f"{module}.{part}"] for part in ("mu", "U", "C"))
        except KeyError as error:
            raise BadInput("This bundle is incomplete.", "Export it again.") from error
        none = torch.zeros(len(mu), 0)
        found[module] = rmm.Basis(mu, u, c, none, shape["m"])
    return found


def header(file: TensorFile) -> dict[str, object]:
    """What a bundle says about itself."""
    header = json.loads(file.notes.get("rmm", "{}"))
    if header.get("format") != FORMAT:
        raise BadInput("This file is no bundle of a reversible merge.", "Export one here.")
    return header

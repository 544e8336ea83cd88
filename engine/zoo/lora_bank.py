"""Several LoRA adapters of one frozen network trained at once, each on its own rows of the batch.

A small network keeps a GPU waiting for the next launch; eight adapters in one pass cost hardly more
than one. Rows of a batch stand adapter after adapter, in equal numbers.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn


class Grouped(nn.Module):
    """A frozen linear layer or convolution with n LoRA pairs, one for each part of the batch."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, seeds: Sequence[int]):
        super().__init__()
        self.base = base
        shape = base.weight.shape
        downs = []
        for seed in seeds:
            down = torch.empty(rank, *shape[1:])
            # PEFT's own start: uniform A, and B of zeros, so that nothing changes at first.
            bound = (1 / shape[1:].numel()) ** 0.5
            downs.append(
                down.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
            )
        self.down = nn.Parameter(torch.stack(downs))
        self.up = nn.Parameter(torch.zeros(len(seeds), shape[0], rank))

    def forward(self, x: Tensor) -> Tensor:
        n, y = len(self.up), self.base(x)
        if isinstance(self.base, nn.Linear):
            rows = x.reshape(n, -1, x.shape[-1])
            return y + (rows @ self.down.mT @ self.up.mT).reshape(y.shape)
        b, c = len(x) // n, x.shape[1]
        beside = x.reshape(n, b, c, *x.shape[2:]).transpose(0, 1).flatten(1, 2)
        kernel = self.down.flatten(0, 1)
        low = F.conv2d(beside, kernel, None, self.base.stride, self.base.padding, groups=n)
        low = low.unflatten(1, (n, -1)).transpose(0, 1).flatten(3)  # n b r hw
        return y + (self.up[:, None] @ low).reshape(y.shape)


class LoraBank(nn.Module):
    """The adapters of a network, by the name of the layer they stand at.

    `names` maps the name in the saved adapter to the layer's name in the network, which differs
    between versions of a library. `plug` puts the adapters into the network, `unplug` takes them
    out again.
    """

    def __init__(
        self, network: nn.Module, names: Mapping[str, str], rank: int, seeds: Sequence[int]
    ):
        super().__init__()
        self.rank, self.names = rank, dict(names)
        device = next(network.parameters()).device
        # One stream a layer: equal seeds start all layers of two adapters alike.
        self.layers = nn.ModuleList(
            Grouped(_plain(network, name), rank, [1000 * seed + i for seed in seeds])
            for i, name in enumerate(names.values())
        ).to(device)
        network.requires_grad_(False)

    @property
    def grouped(self) -> list[Grouped]:
        """The layers, in the order of their names."""
        return [layer for layer in self.layers if isinstance(layer, Grouped)]

    def plug(self, network: nn.Module) -> None:
        for name, layer in zip(self.names.values(), self.grouped, strict=True):
            _put(network, name, layer)

    def unplug(self, network: nn.Module) -> None:
        for name, layer in zip(self.names.values(), self.grouped, strict=True):
            _put(network, name, layer.base)

    def trained(self) -> nn.ParameterList:
        """The adapters' own parameters."""
        return nn.ParameterList([p for layer in self.grouped for p in (layer.down, layer.up)])

    def save(self, index: int, folder: Path, base: str) -> None:
        """One adapter in half precision, as `PeftModel.save_pretrained` writes it."""
        from peft import LoraConfig

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {}
        for name, layer in zip(self.names, self.grouped, strict=True):
            down, up = layer.down[index], layer.up[index]
            up = up[..., None, None] if down.ndim == 4 else up
            key = f"base_model.model.{name}"
            tensors[f"{key}.lora_A.weight"] = down.detach().half().cpu().contiguous()
            tensors[f"{key}.lora_B.weight"] = up.detach().half().cpu().contiguous()
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.rank,
            target_modules=list(self.names),
            base_model_name_or_path=base,
            inference_mode=True,
        ).to_dict()
        config["target_modules"] = sorted(config["target_modules"])
        text = json.dumps(config, indent=1, sort_keys=True, default=str)
        (folder / "adapter_config.json").write_text(text + "\n")


def _plain(network: nn.Module, name: str) -> nn.Linear | nn.Conv2d:
    layer = network.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d), name
    return layer


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(owner), leaf, layer)

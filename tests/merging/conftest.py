"""A tiny text-to-image checkpoint and random adapters for it."""

from pathlib import Path

import pytest
import torch

from tests.loras import peft_folder
from tests.tiny import tiny_checkpoint

ENDS = ("to_q", "to_v", "to_out.0", "conv1")


def unet_adapters(checkpoint: Path, folder: Path, count: int = 3, rank: int = 4) -> list[str]:
    """PEFT folders on attention and first convolutions of the checkpoint's UNet."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(checkpoint / "unet")
    layers = {n: m.weight.shape for n, m in unet.named_modules() if n.endswith(ENDS)}
    sources = []
    for i in range(count):
        draw, pairs = torch.Generator().manual_seed(i), {}
        for name, shape in layers.items():
            up = 0.2 * torch.randn(shape[0], rank, generator=draw)
            down = 0.2 * torch.randn(rank, *shape[1:], generator=draw)
            pairs[name] = (up[..., None, None] if len(shape) == 4 else up, down)
        sources.append(str(peft_folder(folder / f"look{i}", pairs)))
    return sources


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session")
def looks(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return unet_adapters(Path(tiny), tmp_path_factory.mktemp("looks"))

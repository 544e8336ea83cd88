"""The memory that is reckoned with holds what is counted on the meta device, and not much more."""

import pytest

from benchmarks import memory
from engine.models import footprint


@pytest.mark.slow
@pytest.mark.parametrize("shape", [memory.SD15, memory.SDXL], ids=lambda shape: shape.title)
def test_the_bounds_hold_the_count(shape):
    unet, vae = memory.networks(shape)
    row = footprint.row_bytes(unet.config, height=shape.side, width=shape.side, itemsize=2)
    size = 4 if shape.vae_in_float32 else 2
    picture = footprint.picture_bytes(
        vae.config, height=8 * shape.side, width=8 * shape.side, itemsize=size
    )
    assert memory.call_peak(shape, 2) <= 2 * row <= 2 * memory.call_peak(shape, 2)
    assert memory.decode_peak(shape, 1) <= picture <= 2 * memory.decode_peak(shape, 1)


@pytest.mark.slow
def test_xl_fits_in_24_gb_and_1_5_in_8_gb():
    for shape, card in ((memory.SDXL, 24e9), (memory.SD15, 8e9)):
        needed = (memory.CONTEXT + memory.bound(shape, 4)) / memory.RESERVE
        assert needed <= card


@pytest.mark.slow
def test_the_table_of_the_readme_is_the_calculated_one():
    readme = (memory.ROOT / "README.md").read_text("utf-8")
    assert f"{memory.HEAD}\n{memory.table()}\n{memory.FOOT}" in readme

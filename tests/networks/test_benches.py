"""What the benches of this family recorded, and that it comes out again."""

import pytest

from engine.core.catalog import Measured, discover
from engine.core.errors import AssetMissing
from engine.core.job import finish
from engine.networks.memory_lab import bench as memory_bench
from engine.networks.revcol import bench as revcol_bench

SLUGS = ("memory_lab", "meft", "revcol", "reversible_unet3d")
# A reversible step computes everything once more, a third of what a step takes: 4/3.
MOST_OPERATIONS = 1.34
FLOAT64, FLOAT32 = 1e-12, 3e-7


def recorded(slug: str) -> Measured:
    try:
        return Measured.load(slug)
    except AssetMissing:
        pytest.skip(f"{slug} is not measured here yet")


@pytest.mark.parametrize("slug", SLUGS)
def test_a_recorded_claim_holds(slug: str):
    found = recorded(slug)
    assert discover().entries[slug].card.claim.holds(found.measured, found.versus)


def test_the_record_of_the_memory_lab_is_within_the_promised_bounds():
    check_memory(recorded("memory_lab").figures)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_bench_of_the_memory_lab_comes_out_again():
    found = finish(memory_bench.run(seed=11, repeats=1))
    check_memory(found.figures)
    assert found.measured == recorded("memory_lab").measured


def check_memory(figures) -> None:
    """Bytes equal at every depth, a third more operations, gradients to round-off."""
    table = figures["bytes and operations"]
    kept = {table[f"reversible, {depth} blocks"]["kept"] for depth in memory_bench.DEPTHS}
    assert len(kept) == 1
    operations = figures["operations relative to plain autograd"]
    assert all(operations[f"reversible, {d} blocks"] <= MOST_OPERATIONS for d in (2, 8, 32))
    errors = next(v for k, v in figures.items() if k.startswith("gradient error"))
    assert errors["float64"] <= FLOAT64
    assert errors["float32"] <= FLOAT32


def test_the_record_of_revcol_tells_that_sixteen_columns_need_anchors():
    figures = recorded("revcol").figures
    errors = next(v for k, v in figures.items() if k.startswith("gradient error at 16"))
    assert len(errors["whole"]) == revcol_bench.SEEDS
    assert min(errors["whole"]) > 1e-2
    assert max(errors["anchored"]) < 1e-5
    bars = {(bar["mode"], bar["columns"]): bar["kept_bytes"] for bar in figures["bars"]}
    assert len({bars["whole", columns] for columns in revcol_bench.COLUMNS}) == 1


def test_the_record_of_the_unet_has_three_seeds_of_equal_losses():
    figures = recorded("reversible_unet3d").figures
    gaps = next(v for k, v in figures.items() if k.startswith("largest gap of losses"))
    assert len(gaps) == 3
    assert max(gaps) < 1e-3


def test_the_record_of_meft_has_three_seeds_of_every_arm():
    figures = recorded("meft").figures
    tuned = next(v for k, v in figures.items() if k.startswith("accuracy on turned digits"))
    assert all(len(arm["each"]) == 3 for arm in tuned.values())
    starts = figures["start against lambda"]["MEFT-1"]
    assert starts[-1]["accuracy"] > starts[0]["accuracy"]

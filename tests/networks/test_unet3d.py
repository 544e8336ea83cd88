"""The reversible 3-D U-Net: gradients, bytes, windows, volumes, files in and out, and refusals."""

import gzip
import io
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from engine.core.catalog import Exactness
from engine.core.errors import BadInput, OutOfBudget
from engine.core.job import Failed, Job, finish
from engine.core.reversible import Reversible, round_trip
from engine.networks import _brain as brain
from engine.networks import _brain_models as models
from engine.networks import _nifti as nifti
from engine.networks import _unet3d as nets
from engine.networks.reversible_unet3d import sizes
from engine.reversible.memory import measure

TARGET = "engine.networks.reversible_unet3d.algorithm"
SMALL = nets.UNetConfig(widths=(8, 16), blocks=2, expansion=2)


def network_of(config: nets.UNetConfig = SMALL, **options) -> nets.RevUNet3d:
    torch.manual_seed(0)
    return nets.RevUNet3d(config, **options)


def cube(side: int = 8, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 1, side, side, side, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------------- the network


@pytest.mark.parametrize("block", ["mbconv", "conv"])
@pytest.mark.parametrize("mode", ["checkpoint", "reversible"])
def test_gradients_are_those_of_plain_autograd(mode: str, block: str):
    config = nets.UNetConfig(widths=(8, 16), blocks=2, expansion=2, block=block)
    found = []
    for each in ("plain", mode):
        network, x = network_of(config, mode=each).double(), cube().double().requires_grad_()
        loss = nets.segmentation_loss(network(x), torch.zeros(1, 8, 8, 8, dtype=torch.long))
        found.append(torch.autograd.grad(loss, [x, *network.parameters()]))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_a_stage_comes_back_and_is_reversible():
    stage = nets.RevStage(16, 4).eval()
    assert isinstance(stage, Reversible)
    with torch.no_grad():
        found = round_trip(stage, torch.randn(1, 16, 6, 5, 7), steps=8)
    assert found.exactness is Exactness.ROUND_OFF


def test_a_stage_fits_where_another_one_was():
    """In a network of ordinary layers, after an activation in place."""
    network = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(inplace=True),
                            nets.RevStage(8, 2), nn.Conv3d(8, 2, 1))  # fmt: skip
    network(cube()).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("shape", [(5, 8, 9), (1, 1, 1), (7, 3, 12)])
def test_odd_sides_are_padded_and_cropped(shape: tuple[int, ...]):
    network = network_of(nets.UNetConfig(widths=(8, 16, 16), blocks=1, expansion=1))
    assert network(torch.randn(1, 1, *shape)).shape == (1, 4, *shape)


def test_the_mode_changes_on_the_same_weights():
    network, x = network_of(mode="plain").eval(), cube()
    with torch.no_grad():
        assert torch.equal(network(x), network.set_mode("reversible")(x))


@pytest.mark.slow
def test_kept_bytes_stand_still_when_blocks_are_added():
    kept = {}
    for mode in ("plain", "checkpoint", "reversible"):
        for blocks in (1, 2, 4):
            config = nets.UNetConfig(widths=(8, 16), blocks=blocks, expansion=2)
            found = finish(sizes.cost(config, sizes.POLICIES[mode], 16, str))
            kept[mode, blocks] = found.kept_bytes
    assert kept["reversible", 1] == kept["reversible", 2] == kept["reversible", 4]
    assert kept["checkpoint", 1] < kept["checkpoint", 2] < kept["checkpoint", 4]
    assert kept["plain", 4] > 10 * kept["reversible", 4]


@pytest.mark.slow
def test_the_reference_figures_come_out_on_shapes():
    """140.9 MiB plain and 10.2 reversible for widths 16, 32, 64 on 32^3, one block a stage."""
    found, x = {}, torch.zeros(1, 1, 32, 32, 32, device="meta")
    for mode in ("plain", "reversible"):
        with torch.device("meta"):
            network = nets.RevUNet3d(nets.UNetConfig(blocks=1), mode=mode)
        kept = measure(lambda n=network: n(x).mean(), network, [x]).kept_bytes
        found[mode] = kept / 2**20
    assert found["plain"] == pytest.approx(140.9, abs=0.3)
    assert found["reversible"] == pytest.approx(10.2, abs=0.1)


@pytest.mark.slow
def test_bytes_on_shapes_are_those_of_a_real_step():
    network, x = network_of().train(), cube(16)
    target = torch.zeros(1, 16, 16, 16, dtype=torch.long)
    real = measure(lambda: nets.segmentation_loss(network(x), target), network, [x, target])
    computed = finish(sizes.cost(SMALL, sizes.POLICIES["reversible"], 16, str))
    assert computed.kept_bytes == real.kept_bytes
    assert computed.flops == real.flops


@pytest.mark.slow
def test_the_largest_cube_fits_and_the_next_one_does_not():
    most = 40_000_000
    best = finish(sizes.largest(SMALL, "reversible", most, str))
    assert best.side % 8 == 0
    assert best.peak_bytes <= most
    larger = finish(sizes.cost(SMALL, sizes.POLICIES["reversible"], best.side + 8, str))
    assert larger.peak_bytes > most


@pytest.mark.parametrize(
    "changed", [{"widths": (7, 16)}, {"widths": ()}, {"kernel": 2}, {"groups": 3}, {"blocks": 0}]
)
def test_sizes_that_do_not_split_are_refused(changed: dict):
    with pytest.raises(BadInput):
        nets.UNetConfig(**({"widths": (8, 16)} | changed))


# ---------------------------------------------------------------------- overlap and windows


def test_dice_of_classes_that_nobody_has_is_one():
    empty = torch.zeros(3, 3, 3, dtype=torch.long)
    assert nets.hard_dice(empty, empty, 3).tolist() == [1.0, 1.0, 1.0]
    assert nets.hard_dice(empty, empty + 1, 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("size", [(20, 9, 33), (8, 8, 8), (5, 50, 16)])
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_windows_cover_every_voxel(size: tuple[int, ...], overlap: float):
    seen = np.zeros(size, bool)
    for corner in nets.windows(size, 16, overlap):
        seen[tuple(slice(first, first + 16) for first in corner)] = True
    assert seen.all()


def test_windows_of_a_constant_network_blend_into_a_constant():
    class Constant(nets.RevUNet3d):
        def forward(self, x):
            logits = torch.zeros(1, 4, *x.shape[2:])
            logits[:, 2] = 5.0
            return logits

    x = torch.ones(1, 1, 20, 12, 9)
    labels = models.segmented(Constant(SMALL), x, side=8)
    assert (labels == 2).all()
    x[..., 5:] = 0
    assert (models.segmented(Constant(SMALL), x, side=8)[..., 5:] == 0).all()


# ---------------------------------------------------------------------- the volumes


def test_the_shares_of_tissues_are_the_measured_ones():
    volume = brain.volume("average")
    assert volume.voxels.shape == (98, 116, 94)
    assert volume.labels is not None
    shares = np.bincount(volume.labels.ravel(), minlength=4) / volume.labels.size
    assert shares == pytest.approx([0.772, 0.134, 0.074, 0.021], abs=1e-3)


def test_train_and_test_share_no_slice_and_are_not_left_and_right():
    volume = brain.volume("average")
    train, test = volume.part("train"), volume.part("test")
    assert train.voxels.shape[1] + test.voxels.shape[1] + brain.GAP == volume.voxels.shape[1]
    assert train.voxels.shape[0] == test.voxels.shape[0] == volume.voxels.shape[0]
    first = test.affine @ (0, 0, 0, 1)
    assert first == pytest.approx(volume.affine @ (0, brain.TRAIN + brain.GAP, 0, 1))


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 7, 21), (1, 1, 1)])
def test_a_sheet_gives_its_volume_back(shape: tuple[int, ...]):
    voxels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    assert (brain.from_sheet(brain.to_sheet(voxels), list(shape)) == voxels).all()


# ---------------------------------------------------------------------- files


def as_file(voxels: np.ndarray, affine: np.ndarray | None = None) -> bytes:
    import nibabel

    return nibabel.Nifti1Image(voxels, np.diag([2.0, 2, 2, 1]) if affine is None else affine
                               ).to_bytes()  # fmt: skip


def some(shape=(5, 6, 7), dtype=np.float32) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
def test_labels_go_out_on_the_axes_that_came_in(axes: str, packed: bool):
    import nibabel

    ornt = nibabel.orientations.axcodes2ornt(axes)
    affine = nibabel.orientations.inv_ornt_aff(ornt, (5, 6, 7)) @ np.diag([2.0, 2, 2, 1])
    data = as_file(some(dtype=np.int16), affine)
    scan = nifti.read(gzip.compress(data) if packed else data)
    back = nibabel.Nifti1Image.from_bytes(nifti.unpacked(nifti.written(scan.voxels[0], scan)))
    assert np.allclose(back.affine, affine)
    assert (np.asarray(back.dataobj) == some()).all()


def test_voxels_are_turned_to_right_anterior_superior():
    import nibabel

    voxels = some()
    affine = np.diag([-1.0, 1, 1, 1])
    scan = nifti.read(as_file(voxels, affine))
    assert nibabel.aff2axcodes(scan.affine) == ("R", "A", "S")
    assert (scan.voxels[0] == voxels[::-1]).all()


def test_modalities_come_last_in_the_file_and_first_here():
    scan = nifti.read(as_file(some((5, 6, 7, 2))))
    assert scan.voxels.shape == (2, 5, 6, 7)


def test_a_note_tells_of_voxels_that_are_no_cubes():
    scan = nifti.read(as_file(some(), np.diag([1.0, 1, 6, 1])))
    assert "far from cubes" in scan.notes[0]


def test_the_same_labels_make_the_same_file():
    scan = nifti.read(as_file(some()))
    assert nifti.written(scan.voxels[0], scan) == nifti.written(scan.voxels[0], scan)


def header(shape: tuple[int, ...], kind: int = 2, bits: int = 8) -> bytes:
    """A NIfTI header that claims this shape, and hardly any voxels."""
    import nibabel

    made = nibabel.Nifti1Header()
    made["dim"][: len(shape) + 1] = (len(shape), *shape)
    made["datatype"], made["bitpix"], made["magic"], made["vox_offset"] = kind, bits, b"n+1", 352
    return made.binaryblock + b"\0" * 4 + b"\1" * 64


def lost(*diagonal: float) -> bytes:
    """A file whose header places its voxels by this diagonal."""
    import nibabel

    made = nibabel.Nifti1Header.from_fileobj(io.BytesIO(header((4, 4, 4), 2, 8)))
    made["sform_code"] = 1
    for row, value in enumerate(diagonal):
        made[f"srow_{'xyz'[row]}"] = np.where(np.arange(4) == row, value, 0)
    return made.binaryblock + b"\0" * 4 + bytes(range(64))


@pytest.mark.parametrize("diagonal", [(0, 0, 0), (1, 1, 0), (np.nan, 1, 1), (np.inf, 1, 1)])
def test_a_file_that_places_its_voxels_nowhere_is_refused(diagonal):
    with pytest.raises(BadInput, match="where its voxels lie"):
        nifti.read(lost(*diagonal))


@pytest.mark.parametrize(
    ("data", "kind", "match"),
    [
        (b"", BadInput, "no NIfTI"),
        (b"not a volume at all", BadInput, "no NIfTI"),
        (b"\x1f\x8b broken", BadInput, "damaged"),
        (gzip.compress(b"\0" * 5000, mtime=0)[:-9], BadInput, "too early|no NIfTI"),
        (header((30000, 30000, 3)), OutOfBudget, "too large"),
        (header((512, 512, 512)), OutOfBudget, "too large"),
        (header((100, 100, 100)), BadInput, "fewer voxels"),
        (header((10, 10)), BadInput, "three sides"),
        (header((4, 4, 4, 200)), BadInput, "time points"),
        (header((4, 4, 4), 128, 24), BadInput, "no intensities"),
        (as_file(np.full((4, 4, 4), np.nan, np.float32)), BadInput, "no numbers"),
        (as_file(np.full((4, 4, 4), 3, np.float32)), BadInput, "equal"),
    ],
)
def test_hostile_files_are_refused(data: bytes, kind: type, match: str):
    with pytest.raises(kind, match=match):
        nifti.read(data)


@pytest.mark.slow
def test_a_bomb_is_never_unpacked_further_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nifti, "MOST_UNPACKED", 100_000)
    packer = zlib.compressobj(9, wbits=31)
    bomb = packer.compress(b"\0" * 50_000_000) + packer.flush()
    assert len(bomb) < 60_000
    with pytest.raises(OutOfBudget, match="unpacks"):
        nifti.unpacked(bomb)


@pytest.mark.parametrize("text", ["data:x,%%%", "äöü", "data:application/gzip;base64,abc"])
def test_text_that_is_no_file_is_refused(text: str):
    with pytest.raises(BadInput, match="whole"):
        nifti.from_text(text)


def test_a_file_survives_its_way_through_a_recipe():
    data = as_file(some())
    assert nifti.from_text(nifti.as_text(data)) == data


# ---------------------------------------------------------------------- jobs


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> nets.RevUNet3d:
    """The jobs on a network that has learnt nothing, so that they do not need the shipped one."""
    network = network_of(nets.UNetConfig(widths=(8, 16), blocks=1, expansion=1)).eval()
    monkeypatch.setattr(models, "_shipped", lambda device: network.requires_grad_(False))
    return network


def test_ones_own_volume_is_segmented_and_given_back(run_job, untrained):
    params = {"nifti_file": nifti.as_text(as_file(some((20, 18, 16)))), "window": 16}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    assert shown.labels.shape == (20, 18, 16)
    assert shown.overlaps == ()
    back = nifti.read(shown.file.data) if len(np.unique(shown.labels)) > 1 else None
    assert back is None or (back.voxels[0] == shown.labels).all()
    assert [stage.trip.exactness for stage in shown.stages] == [Exactness.ROUND_OFF] * 2


@pytest.mark.slow
def test_two_modes_train_on_one_curve_at_different_memory(run_job):
    params = {"widths": [8, 16], "side": 16, "steps": 4, "modes": ["plain", "reversible"]}
    shown = run_job(Job(f"{TARGET}:train", params, seed=0))[-1].result
    plain, back = shown.curves
    assert shown.largest_gap < 1e-4
    assert len(set(plain.losses)) == 4, "Every step has its own crop and its own weights."
    assert back.kept_bytes < plain.kept_bytes / 3


@pytest.mark.parametrize(
    ("action", "params", "match"),
    [
        ("run", {"volume": "patient"}, "patient"),
        ("run", {"window": 10**6}, "window"),
        ("run", {"overlap": 1.0}, "overlap"),
        ("run", {"nifti_file": "AAAA"}, "NIfTI"),
        ("train", {"widths": [7, 14]}, "widths"),
        ("train", {"widths": [12, 16]}, "groups"),
        ("train", {"side": 10**6}, "side"),
        ("train", {"modes": ["magic"]}, "magic"),
        ("measure_sizes", {"gibibytes": 0.0}, "gibibytes"),
        ("measure_sizes", {"blocks": []}, "blocks"),
    ],
)
def test_bad_settings_end_in_a_sentence(run_job, action: str, params: dict, match: str):
    end = run_job(Job(f"{TARGET}:{action}", params, seed=0), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    assert match in end.message

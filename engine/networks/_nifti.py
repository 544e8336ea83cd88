"""NIfTI volumes of visitors: read with every size checked first, and written with their affine.

A file is a few bytes of header and as many as it likes to claim. So: the compressed size, then the
size unpacked, are bounded before anything is laid out, and the shape is read before the voxels.
"""

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.core.errors import BadInput, OutOfBudget
from engine.core.shapes import Array, Float, Num

MOST_PACKED, MOST_UNPACKED = 14_000_000, 200_000_000
MOST_TEXT = MOST_PACKED * 4 // 3 + 100  # as a recipe holds it
MOST_VOXELS, LONGEST_SIDE, MOST_MODALITIES = 20_000_000, 512, 8
GZIP = b"\x1f\x8b"
SMALLEST_VOXEL = 1e-12  # cubic millimetres
SPACING_APART = 1.5  # of the largest to the smallest: beyond it a note is due


@dataclass(frozen=True)
class Scan:
    """Voxels with axes right, anterior, superior, modalities first; how to turn them back."""

    voxels: Float[Array, "m d h w"]
    affine: Float[Array, "4 4"]
    spacing: tuple[float, float, float]
    turned: Any  # the orientation transform of nibabel that leads back to the file's own axes
    original_affine: Float[Array, "4 4"]
    notes: tuple[str, ...] = ()


def from_text(text: str) -> bytes:
    """The file in a data URL or in plain base64. Raises `BadInput`, `OutOfBudget`."""
    body = text.partition(",")[2] if text.startswith("data:") else text
    if len(body) > MOST_TEXT:
        raise OutOfBudget("The file is larger than 14 MB.", "Crop the volume, or compress it.")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("The file did not arrive whole.", "Upload it again.") from error


def unpacked(data: bytes) -> bytes:
    """The plain file; of a gzip at most 200 MB are ever unpacked. Raises `OutOfBudget`."""
    if len(data) > MOST_PACKED:
        raise OutOfBudget("The file is larger than 14 MB.", "Crop the volume, or compress it.")
    if not data.startswith(GZIP):
        return data
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(data, MOST_UNPACKED + 1)
    except zlib.error as error:
        raise BadInput("The compressed file is damaged.", "Write it anew.") from error
    if len(plain) > MOST_UNPACKED:
        raise OutOfBudget(
            "The file unpacks to more than 200 MB.", "Crop the volume, or store it as uint8."
        )
    if not stream.eof:
        raise BadInput("The compressed file ends too early.", "Upload it again.")
    return plain


def read(data: bytes) -> Scan:
    """The scan in the bytes of a .nii or .nii.gz. Raises `BadInput` or `OutOfBudget`."""
    import nibabel

    plain = unpacked(data)
    try:
        image: Any = nibabel.Nifti1Image.from_bytes(plain)
        shape, kind = tuple(map(int, image.shape)), image.get_data_dtype()
    except Exception as error:  # nibabel has no common exception for headers that lie
        raise BadInput(
            "This is no NIfTI file that can be read.", "Save the volume as .nii or .nii.gz."
        ) from error
    _check(shape, kind, len(plain))
    _check_affine(image.affine)
    canonical: Any = nibabel.as_closest_canonical(image)
    turned = nibabel.orientations.ornt_transform(
        nibabel.io_orientation(canonical.affine), nibabel.io_orientation(image.affine)
    )
    voxels = np.asarray(canonical.dataobj, dtype=np.float32)
    voxels = voxels[None] if voxels.ndim == 3 else np.moveaxis(voxels, -1, 0)
    _check_values(voxels)
    x, y, z = (float(side) for side in canonical.header.get_zooms()[:3])
    spacing = x, y, z
    return Scan(
        np.ascontiguousarray(voxels), np.asarray(canonical.affine, np.float64),
        spacing, turned, np.asarray(image.affine, np.float64), _notes(spacing),
    )  # fmt: skip


def written(labels: Num[Array, "d h w"], scan: Scan) -> bytes:
    """Labels as a .nii.gz on the axes and with the affine of the file that was read."""
    import nibabel

    back = nibabel.orientations.apply_orientation(labels.astype(np.uint8), scan.turned)
    image: Any = nibabel.Nifti1Image(np.ascontiguousarray(back), scan.original_affine)
    image.header.set_xyzt_units("mm")
    packer = zlib.compressobj(6, wbits=31)
    return packer.compress(image.to_bytes()) + packer.flush()


def of_array(voxels: Num[Array, "d h w"], affine: Float[Array, "4 4"]) -> Scan:
    """A shipped volume as a scan, so that it is written in the same way."""
    straight = np.array([[0, 1], [1, 1], [2, 1]], np.float64)
    x, y, z = (float(np.linalg.norm(affine[:3, i])) for i in range(3))
    return Scan(voxels[None].astype(np.float32), affine, (x, y, z), straight, affine)


def as_text(data: bytes) -> str:
    """The file as a recipe holds it."""
    return "data:application/gzip;base64," + base64.b64encode(data).decode("ascii")


def _check(shape: tuple[int, ...], kind: np.dtype, held: int) -> None:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape, default=0) < 1:
        raise BadInput(
            f"A volume has three sides, and perhaps modalities; this one is {shape}.",
            "Save one time point, with the modalities last.",
        )
    if len(shape) == 4 and shape[3] > MOST_MODALITIES:
        raise BadInput(
            f"The last of four sides is {shape[3]}: time points rather than modalities.",
            f"Save one time point; at most {MOST_MODALITIES} modalities are taken.",
        )
    if max(shape[:3]) > LONGEST_SIDE or int(np.prod(shape, dtype=object)) > MOST_VOXELS:
        raise OutOfBudget(
            f"A volume of {' x '.join(map(str, shape))} voxels is too large here.",
            f"At most {MOST_VOXELS // 10**6} million voxels and sides of {LONGEST_SIDE} are taken.",
        )
    if kind.kind not in "uif" or kind.itemsize > 8:
        raise BadInput(f"Voxels of the type {kind} are no intensities.", "Save them as float32.")
    if int(np.prod(shape, dtype=object)) * kind.itemsize > held:
        raise BadInput("The file holds fewer voxels than its header says.", "Write it anew.")


def _check_affine(affine: Float[Array, "4 4"]) -> None:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < SMALLEST_VOXEL:
        raise BadInput(
            "The file does not say where its voxels lie: its affine cannot be inverted.",
            "Set its orientation (sform or qform) anew.",
        )


def _check_values(voxels: Float[Array, "m d h w"]) -> None:
    if not np.isfinite(voxels).all():
        raise BadInput("The volume holds values that are no numbers.", "Replace them by 0.")
    if float(voxels.max()) == float(voxels.min()):
        raise BadInput("All voxels of the volume are equal.", "Pick a volume with contents.")


def _notes(spacing: tuple[float, ...]) -> tuple[str, ...]:
    if min(spacing) <= 0 or max(spacing) / min(spacing) <= SPACING_APART:
        return ()
    told = " x ".join(f"{side:.2g}" for side in spacing)
    return (f"Voxels of {told} mm are far from cubes; the network was trained on cubes.",)

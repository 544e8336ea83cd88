"""Shape annotations: `Float[Tensor, "b c h w"]`.

They come from jaxtyping where it is installed, and the test run then checks them. Elsewhere they
read as the plain type, so that jaxtyping stays a development package.
"""

from numpy import ndarray as Array
from torch import Tensor

try:
    from jaxtyping import Bool, Complex, Float, Int, Integer, Num, Shaped, UInt8
except ImportError:

    class _Plain:
        """`_Plain[Tensor, "b c"]` is `Tensor`."""

        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Bool = Complex = Float = Int = Integer = Num = Shaped = UInt8 = _Plain  # type: ignore[assignment]

__all__ = [
    "Array",
    "Bool",
    "Complex",
    "Float",
    "Int",
    "Integer",
    "Num",
    "Shaped",
    "Tensor",
    "UInt8",
]

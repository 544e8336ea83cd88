"""How exactly a value came back, and the states of a run."""

import pytest
import torch

from engine.core.catalog import Exactness
from engine.core.errors import BadInput
from engine.core.reversible import Reversible, compare, missed_of_weights, round_trip


class Shift:
    """Adds and takes away; `off` makes the way back wrong."""

    def __init__(self, by: float, off: float = 0.0) -> None:
        self.by, self.off = by, off

    def forward(self, x):
        return x + self.by

    def inverse(self, y):
        return y - self.by + self.off


class Flip:
    def forward(self, x):
        return {"a": x["b"], "b": x["a"]}

    inverse = forward


def test_any_class_with_both_ways_is_reversible():
    assert isinstance(Shift(1.0), Reversible)


def test_bit_for_bit_with_nan_and_minus_zero():
    x = {"a": torch.tensor([float("nan"), -0.0]), "b": torch.ones(2, dtype=torch.bfloat16)}
    found = round_trip(Flip(), x)
    assert (found.exactness, found.equal_bits, found.largest_error) == (Exactness.BITWISE, 1.0, 0.0)
    assert str(found) == "bit for bit"


def test_a_lost_sign_of_zero_is_not_bit_for_bit():
    found = compare(torch.tensor([-0.0, 1.0]), torch.tensor([0.0, 1.0]))
    assert (found.exactness, found.equal_bits) == (Exactness.ROUND_OFF, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_adding_and_taking_away_is_round_off(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, generator=generator, dtype=torch.float64).to(dtype)
    found = round_trip(Shift(0.7), x)
    assert found.exactness is Exactness.ROUND_OFF
    assert 0.3 < found.equal_bits < 1.0
    assert "to round-off" in str(found)


def test_a_wrong_way_back_is_approximate():
    found = round_trip(Shift(0.7, off=1e-3), torch.linspace(-2, 2, 50))
    assert found.exactness is Exactness.APPROXIMATE
    assert found.largest_error == pytest.approx(1e-3, rel=1e-2)
    assert found.relative_error == pytest.approx(5e-4, rel=1e-2)


def test_a_number_that_became_infinite_is_an_infinite_error():
    found = compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, torch.inf]))
    assert found.largest_error == torch.inf
    assert found.exactness is Exactness.APPROXIMATE


@pytest.mark.parametrize(("x", "back"), [(float("nan"), 1.0), (1.0, float("nan"))])
def test_a_number_that_became_nan_or_was_is_an_infinite_error(x, back):
    found = compare(torch.tensor([2.0, x]), torch.tensor([2.0, back]))
    assert found.largest_error == torch.inf


def test_more_steps_allow_more_round_off():
    x = torch.ones(4)
    back = x * (1 + 200 * torch.finfo(torch.float32).eps)
    assert compare(x, back).exactness is Exactness.APPROXIMATE
    assert compare(x, back, steps=10).exactness is Exactness.ROUND_OFF


@pytest.mark.parametrize("back", [torch.ones(3), torch.ones(2).double(), (torch.ones(2),) * 2])
def test_another_shape_format_or_number_is_refused(back):
    with pytest.raises(BadInput):
        compare(torch.ones(2), back)


# ---------------------------------------------------------------------- traces


def test_what_a_file_misses_is_told_as_a_part_of_the_whole_edit():
    base = {name: torch.full((4, 4), 100.0) for name in ("a", "b", "c")}
    edited = {name: base[name] + 0.5 for name in ("a", "b")}
    assert missed_of_weights(edited, edited, base) == 0
    assert missed_of_weights({}, edited, base) == 1
    assert missed_of_weights({"a": edited["a"]}, edited, base) == pytest.approx(0.5**0.5)
    assert missed_of_weights(base, base, base) == 0
    assert missed_of_weights(edited, {"a": base["a"]}, base) == 1

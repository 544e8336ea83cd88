"""The one counter of network evaluations, guidance, labels, number formats."""

import math

import numpy as np
import pytest
import torch

from engine.core.errors import SamplerError
from engine.diffusion import schedules
from engine.diffusion.denoiser import Model

VP = schedules.vp()


class Stub:
    """Remembers its calls; predicts the sum of a condition's row, or 0.1 x."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, x, label, **condition):
        self.calls.append((x, label, condition))
        if "text" in condition:
            return condition["text"].sum(dim=1)[:, None].expand(x.shape).to(x.dtype)
        return 0.1 * x


def test_guidance_is_one_call_with_two_rows_a_sample():
    net = Stub()
    cond, uncond = ({"text": torch.full((1, 2), value)} for value in (3.0, 1.0))
    model = Model(net, VP, guidance=4.0, cond=cond, uncond=uncond)
    eps = model(torch.zeros(3, 5), 0.5).eps
    assert (model.nfe, model.rows, len(net.calls)) == (1, 6, 1)
    torch.testing.assert_close(eps, torch.full((3, 5), 2.0 + 4 * (6.0 - 2.0)))


def test_guidance_of_one_asks_only_the_condition():
    net = Stub()
    model = Model(net, VP, cond={"text": torch.full((1, 2), 3.0)})
    assert float(model(torch.zeros(3, 5), 0.5).eps[0, 0]) == 6
    assert (model.nfe, model.rows) == (1, 3)


def test_guidance_without_two_texts_is_refused():
    with pytest.raises(SamplerError, match="guidance 4"):
        Model(Stub(), VP, guidance=4.0, cond={"text": torch.ones(1, 2)})


@pytest.mark.parametrize(
    ("time", "label"),
    [("t", 0.5), ("index", 0.5), ("999t", 499.5), ("sigma", float(VP.s(0.5))),
     ("log_t", math.log(0.5))],
)  # fmt: skip
def test_network_is_told_the_time_in_its_own_words(time, label):
    net = Stub()
    Model(net, VP, time=time)(torch.zeros(2, 5), 0.5)
    torch.testing.assert_close(net.calls[0][1], torch.full((2,), label))


def test_times_may_differ_between_samples():
    net = Stub()
    model = Model(net, VP)
    z = torch.ones(2, 5, dtype=torch.float64)
    both = model(z, np.array([0.3, 0.8])).x0
    torch.testing.assert_close(both[1:], model(z[1:], 0.8).x0)
    torch.testing.assert_close(net.calls[0][1], torch.tensor([0.3, 0.8], dtype=torch.float64))


def test_network_gets_its_number_format_and_the_state_keeps_its_own():
    net = Stub()
    pred = Model(net, VP, dtype=torch.bfloat16)(torch.ones(2, 5, dtype=torch.float64), 0.5)
    assert net.calls[0][0].dtype == torch.bfloat16
    assert net.calls[0][1].dtype == torch.float32
    assert pred.x0.dtype == torch.float64


def test_clip_bounds_the_clean_estimate_with_the_anchor_on():
    model = Model(Stub(), VP, anchor=torch.full((1, 5), 0.5), clip=(0.0, 1.0))
    x0 = model.place(model(torch.full((1, 5), 3.0), 0.9).x0)
    assert float(x0.max()) == 1


def test_gradients_are_off_unless_asked_for():
    weight = torch.ones(1, requires_grad=True)

    def net(x, label):
        return weight * x

    assert not Model(net, VP)(torch.ones(1, 5), 0.5).eps.requires_grad
    assert Model(net, VP, grad=True)(torch.ones(1, 5), 0.5).eps.requires_grad


def test_complex_samples_go_through():
    z = torch.ones(2, 3, dtype=torch.complex64) * (1 + 2j)
    pred = Model(Stub(), schedules.ouve(), "score")(z, 0.5)
    assert pred.x0.dtype == torch.complex64
    torch.testing.assert_close(pred.score, 0.1 * z)

"""SmoothInv: the descent's properties, the rule, and a trigger recovered from one picture."""

import numpy as np
import pytest
import torch
from torch import nn

from engine.core.errors import AssetMissing, BadInput, ModelMismatch
from engine.core.job import finish
from engine.core.settings import checked
from engine.unlearning import _inversion as inversion
from engine.unlearning._inversion import Synthesis, synthesise
from engine.unlearning._smoothing import OneShot, Smoothed, linear_schedule
from engine.unlearning.smoothinv import algorithm as smoothinv
from engine.unlearning.smoothinv.results import OneClass, Scan


def run(**settings: object):
    given = checked(smoothinv.run, {"steps": 40, "samples": 8, **settings})
    return finish(smoothinv.run(seed=0, **given))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return model.double().requires_grad_(False)


X = torch.full((1, 1, 8, 8), 0.4, dtype=torch.float64)


# ---------------------------------------------------------------------- the descent


@pytest.mark.slow
def test_smoothing_puts_the_perturbation_onto_the_trigger():
    found = {one.name: one for one in run().found}
    smooth, plain = found["smoothed, sigma 0.25"], found["plain descent"]
    assert smooth.on_trigger > 2 * plain.on_trigger
    assert smooth.success.rate > plain.success.rate + 0.15
    assert found["the true trigger"].success.rate > 0.95
    corner = np.abs(smooth.delta[0])[-3:, -3:].mean()
    assert corner > 5 * np.abs(smooth.delta[0]).mean()


def test_every_step_stays_in_the_box_and_in_the_ball(network):
    how = Synthesis(eps=0.5, step=0.2, steps=15, samples=3)
    for step in synthesise(Smoothed(network, 0.2), X, 1, how):
        assert step.length <= how.eps * (1 + 1e-6)
        assert float((X + step.delta).min()) >= 0
        assert float((X + step.delta).max()) <= 1


def test_chunks_do_not_change_the_slope(network):
    noise = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    whole = Smoothed(network, 0.3, chunk=10).slope(X, noise, 2)
    parts = Smoothed(network, 0.3, chunk=3).slope(X, noise, 2)
    assert float(whole[0]) == pytest.approx(float(parts[0]), rel=1e-12)
    assert torch.allclose(whole[1], parts[1], rtol=1e-10)


def test_the_slope_is_that_of_the_log_of_the_mean(network):
    noise = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    smoothed = Smoothed(network, 0.3, chunk=2)
    x = X.clone().requires_grad_(True)
    loss = -smoothed.probabilities(x, noise)[:, 1].mean().log()
    (truth,) = torch.autograd.grad(loss, x)
    assert torch.allclose(smoothed.slope(X, noise, 1)[1], truth, rtol=1e-10)


def test_a_probability_of_nothing_has_no_slope_and_the_walk_stands_still():
    class Sure(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum((1, 2, 3)), x.sum((1, 2, 3)) * 0 - 1e6], 1)

    steps = list(synthesise(Smoothed(Sure(), 0.1), X, 1, Synthesis(steps=3, samples=2)))
    assert [step.length for step in steps] == [0, 0, 0]


def test_common_noise_is_drawn_once(network):
    class Watch(Smoothed):
        def slope(self, x, noise, target):
            seen.append(noise)
            return super().slope(x, noise, target)

    for common in (True, False):
        seen: list[torch.Tensor] = []
        how = Synthesis(steps=3, samples=2, common_noise=common)
        list(synthesise(Watch(network, 0.2), X, 1, how))
        assert torch.equal(seen[0], seen[2]) is common


def test_a_picture_outside_of_its_range_is_refused(network):
    with pytest.raises(BadInput, match="outside of 0 to 1"):
        next(synthesise(Smoothed(network, 0.2), X + 1, 1, Synthesis()))


def test_a_perfect_denoiser_gives_back_the_picture():
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    shot = OneShot(lambda x, t: noise, linear_schedule())
    t = shot.timestep(0.25)
    assert t == 145
    assert torch.allclose(shot.denoised(shot.noisy(X.expand(4, -1, -1, -1), noise, t), t), X)


# ---------------------------------------------------------------------- the rule


def test_concentration_is_one_for_a_patch_and_small_for_snow():
    patch = torch.zeros(1, 3, 28, 28)
    patch[..., -3:, -3:] = 1
    snow = torch.randn(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    assert inversion.concentration(patch) == pytest.approx(1)
    assert inversion.concentration(snow) < 0.1
    assert inversion.concentration(torch.zeros(1, 1, 28, 28)) == 0


def scanned(rows: list[tuple[float, float]]) -> Scan:
    shown = Scan(np.zeros((2, 2, 3), np.uint8), "", 0.25, 3.0, inversion.OUTLIER)
    for index, (success, dense) in enumerate(rows):
        one = OneClass(str(index), success, dense, 1.0, success * dense)
        shown = smoothinv._with_class(shown, one)
    return shown


def test_a_class_that_stands_out_is_called():
    rows = [(0.97, 0.7), (0.1, 0.2), (0.2, 0.2), (0.3, 0.15), (0.5, 0.2), (0.1, 0.25)]
    assert scanned(rows).called == ("0",)


def test_a_class_that_few_pictures_follow_is_not_called_however_it_stands_out():
    rows = [(0.44, 0.9), (0.1, 0.2), (0.2, 0.2), (0.3, 0.15), (0.5, 0.2), (0.1, 0.25)]
    found = scanned(rows)
    assert found.classes[0].z > inversion.OUTLIER
    assert found.called == ()


def test_of_two_classes_none_is_called():
    assert scanned([(1.0, 1.0), (0.0, 0.1)]).called == ()


@pytest.mark.slow
def test_a_scan_calls_the_attackers_class_and_none_of_a_clean_model():
    settings = {"start": 8, "steps": 40, "samples": 8}
    poisoned = finish(smoothinv.scan(seed=0, model="fashion-poisoned", **settings))
    assert poisoned.called == ("T-shirt",)
    assert poisoned.trigger is not None
    clean = finish(smoothinv.scan(seed=0, model="fashion", **settings))
    assert clean.called == ()


# ---------------------------------------------------------------------- jobs


@pytest.mark.slow
def test_neural_cleanse_stands_beside_it():
    found = run(steps=4, cleanse=True, sigmas=[0.25]).found
    assert found[-1].name == "Neural Cleanse"
    assert found[-1].success.rate > 0.5


def tiny_ddpm(folder) -> str:
    """A denoiser of the garments' size, untrained."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    unet = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        add_attention=False,
    )
    DDPMPipeline(unet, DDPMScheduler(1000)).save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_a_denoiser_goes_in_front(tmp_path):
    denoiser = tiny_ddpm(tmp_path / "ddpm")
    found = run(steps=4, samples=4, denoiser=denoiser)
    bare = run(steps=4, samples=4)
    assert found.denoiser == denoiser
    assert found.found[0].length > 0
    assert not np.array_equal(found.found[0].delta, bare.found[0].delta)
    # Plain descent asks the classifier itself, with or without a denoiser.
    assert np.array_equal(found.found[1].delta, bare.found[1].delta)


@pytest.mark.parametrize(
    ("settings", "error", "match"),
    [
        ({"target": "sandal"}, BadInput, "is a sandal already"),
        ({"target": "unicorn"}, BadInput, "no class"),
        ({"eps": 0.0}, BadInput, "eps must be"),
        ({"sigmas": [float("nan")]}, BadInput, "sigmas must be"),
        ({"start": 4000}, BadInput, "start must be"),
        ({"denoiser": "score-ve"}, ModelMismatch, "denoiser takes pictures of"),
        ({"denoiser": "fashion"}, ModelMismatch, "network"),
    ],
)
def test_bad_settings_are_one_sentence(settings, error, match):
    with pytest.raises(error, match=match):
        run(**{"start": 8, **settings})


def test_a_visitors_classifier_and_one_picture(own_model, picture_set):
    from tests.unlearning.conftest import drawn

    found = run(
        model=own_model,
        target="left",
        picture=drawn(0, 3),
        test=picture_set({"plain": 4, "right": 4}, 20),
        steps=6,
        samples=4,
    )
    assert found.start_class == ""
    assert found.tested == 8
    assert found.found[0].on_trigger is None
    with pytest.raises(BadInput, match="no picture to begin with"):
        run(model=own_model, target="left")
    with pytest.raises(AssetMissing):
        run(model=own_model, target="left", test="pictures:" + "0" * 64)


def test_an_export_carries_numbers_and_a_report():
    found = finish(smoothinv.export(seed=0, steps=6, samples=4))
    assert found.delta.shape == (1, 28, 28)
    assert found.picture.shape == (28, 28, 3)
    assert found.report["target"] == "T-shirt"

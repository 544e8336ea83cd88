"""Score SDE: the arrays of the release, the sampler lab, control, masks, and small real folders."""

import json

import numpy as np
import pytest
import torch

from engine.core.errors import AssetMissing, BadInput, ModelMismatch
from engine.core.job import Job
from engine.core.recipe import ModelRef
from engine.diffusion.noise import Noise
from engine.diffusion.predictors import released_grid
from engine.diffusion.schedules import subvp, vp
from engine.models.library import load
from engine.models.score import DATA_STD, OneDenoiser, ScoreBundle, load_score
from engine.sampling.score_sde import bench, golden
from engine.sampling.score_sde.control import COLOURS, Guide, Known, guided
from engine.sampling.score_sde.pictures import example, mask_of
from engine.sampling.score_sde.processes import process_of

MODULE = "engine.sampling.score_sde.algorithm"


def tiny_folder(folder, pipeline: str = "DDPMPipeline", **scheduler: object):
    """An untrained unconditional checkpoint in diffusers layout, 16 x 16, very small."""
    from diffusers.models.unets.unet_2d import UNet2DModel

    is_ve = pipeline == "ScoreSdeVePipeline"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=4,
            time_embedding_type="fourier" if is_ve else "positional",
        )
    unet.save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    told = {"sigma_min": 0.01, "sigma_max": 50.0} if is_ve else {"beta_start": 1e-4}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(told | scheduler))
    index = {"_class_name": pipeline, "unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("score")
    made = {}
    for name, pipeline, told in (
        ("vp", "DDPMPipeline", {}),
        ("subvp", "DDPMPipeline", {"process": "subvp"}),
        ("ve", "ScoreSdeVePipeline", {"one_denoiser": True}),
    ):
        (root / name).mkdir()
        made[name] = str(tiny_folder(root / name, pipeline, **told))
    return made


def result(run_job, action: str, seed: int = 0, **params):
    return run_job(Job(f"{MODULE}:{action}", params, seed))[-1].result


# ---------------------------------------------------------------------- published arrays


@pytest.mark.slow
@pytest.mark.golden
def test_everything_equals_the_release():
    cases = list(golden.comparisons())
    assert len(cases) == 21
    for name, found, wanted, tolerance in cases:
        error = np.max(np.abs(np.asarray(found, np.float64) - wanted))
        assert error <= tolerance, f"{name}: {error}"


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_likelihoods_of_gaussian_data_are_within_the_claim(name):
    assert bench.gaussian_gap(name, 3) < bench.ALLOWED


# ---------------------------------------------------------------------- folders


@pytest.mark.parametrize("name", ["ve", "vp", "subvp"])
def test_a_diffusers_folder_is_loaded_on_its_process(folders, name):
    bundle = load_score(folders[name])
    assert bundle.process == name
    assert bundle.shape == (3, 16, 16)
    model = bundle.denoiser()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(model(x, 0.3).score).all())
    assert model.nfe == 1


def test_one_denoiser_says_the_same_in_all_coordinates():
    class Net(torch.nn.Module):
        def forward(self, x, label, return_dict):
            return (torch.tanh(x) * (1 + label.reshape(-1, 1, 1, 1) / 1000),)

    unet = Net()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for process, path in (("vp", vp(t_min=0.0)), ("subvp", subvp(t_min=0.0))):
        for t in (1e-3, 0.2, 0.9):
            a, s = float(path.a(t)), float(path.s(t))
            level = torch.full((4, 1, 1, 1), s / a)
            there = OneDenoiser(unet, process)(a * x, torch.full((4,), 999 * t))
            score = OneDenoiser(unet, "ve")((x + 1) / 2, torch.full((4,), s / a / 2))
            torch.testing.assert_close(there, -score * s / a / 2, rtol=2e-4, atol=2e-5)
            clean = x - level * there
            told = DATA_STD**2 / (level**2 + DATA_STD**2)
            answer = OneDenoiser(unet, process).answer(x, level)
            wanted = told * x + level * DATA_STD / (level**2 + DATA_STD**2).sqrt() * answer
            torch.testing.assert_close(clean, wanted, rtol=2e-4, atol=2e-4)


def test_pictures_come_back_from_states_with_every_bit(folders):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    for name in folders:
        bundle = load_score(folders[name])
        np.testing.assert_array_equal(bundle.pictures(bundle.states(pixels)), pixels)


def test_another_pipeline_and_other_betas_are_refused(tmp_path):
    for k, (pipeline, told) in enumerate(
        [("DDPMPipeline", {"beta_schedule": "cosine"}), ("ScoreSdeVePipeline", {"sigma_max": 0})]
    ):
        (tmp_path / str(k)).mkdir()
        folder = tiny_folder(tmp_path / str(k), pipeline, **told)
        with pytest.raises(ModelMismatch):
            load(ModelRef(str(folder)))


def test_a_hub_id_without_a_network_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AssetMissing, match=r"google/ddpm-cifar10-32 is not on this machine"):
        load_score("google/ddpm-cifar10-32")


# ---------------------------------------------------------------------- actions


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ve", "vp"])
def test_a_run_goes_there_and_back_and_tells_bits(run_job, folders, name):
    trip = result(
        run_job, "trip", model=folders[name], tolerance=0.05, probes=2, others=2, nfe=4, seed=3
    )
    assert trip.original.shape == (1, 16, 16, 3)
    assert len(trip.to_latent) == len(trip.to_picture) == 9
    assert trip.others.shape == (2, 16, 16, 3)
    assert trip.nfe_others == 4
    bits = trip.bits
    assert bits.dimensions == 768
    assert bits.offset == (8 if name == "ve" else 7)
    expected = -bits.nats / (768 * np.log(2)) + bits.offset
    assert bits.mean == pytest.approx(expected, rel=1e-6)
    assert len(bits.probes) == 2


@pytest.mark.slow
@pytest.mark.parametrize("process", ["vp", "ve"])
def test_points_come_back_with_their_density_and_noise_takes_them_elsewhere(run_job, process):
    found = result(run_job, "run", process=process, points=3, others=20, nfe=50)
    assert found.gap < 0.02
    assert found.left > 0.3
    # the prior is not quite the density at t = 1: see the lesson
    np.testing.assert_allclose(found.flow_nats, found.true_nats, atol=0.03)


@pytest.mark.slow
def test_the_lab_walks_the_released_chain_where_it_has_enough_levels(run_job):
    told = {"process": "subvp", "predictor": "reverse_diffusion", "corrector": "none"}
    lab = result(
        run_job, "sample", seed=2, nfe=10, particles=64, most=20, levels="released", **told
    )
    assert lab.error > 0
    assert {p.method for p in lab.curve if p.nfe == 10} >= {"predictor", "ddim"}
    told = {"process": "vp", "predictor": "reverse_diffusion", "corrector": "none"}
    lab = result(
        run_job, "sample", seed=2, nfe=40, particles=64, most=20, levels="released", **told
    )
    assert not [p for p in lab.curve if p.method == "predictor"]


def test_samplers_stand_side_by_side_at_equal_evaluations(run_job, folders):
    drawn = result(run_job, "draw", model=folders["ve"], nfe=8, count=2, with_flow=False)
    assert [(strip.name, strip.nfe) for strip in drawn.strips] == [("pc", 8), ("p", 8)]


@pytest.mark.slow
def test_the_lab_measures_both_at_equal_evaluations_and_sweeps_snr(run_job):
    lab = result(run_job, "sample", seed=2, nfe=20, particles=100, most=20)
    assert len(lab.scenes) == len(lab.clouds) == len(lab.times) == 10
    assert {point.method for point in lab.curve if point.nfe == 20} == {
        "predictor", "corrected", "ddim", "heun", "dpmpp_2m",
    }  # fmt: skip
    assert len(lab.sweep) == 5
    assert all(point.low <= point.error <= point.high for point in lab.curve)


def test_inpainting_keeps_what_is_known_and_colouring_its_gray(run_job, folders):
    for task in ("inpaint", "colourise"):
        made = result(run_job, "control", model=folders["ve"], task=task, nfe=8, count=2)
        assert made.made.shape == (2, 16, 16, 3)
        # to round-off of the turned channels
        assert made.kept < 0.01


def test_a_faithful_hook_differs_in_the_unknown_part_alone(folders):
    path, noise = process_of("ve"), Noise(0)
    data = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros_like(data)
    mask[..., :2] = 1
    hook = Known(data, mask, None, path, released_grid(4, 1e-5), noise)
    z = hook.start(torch.full_like(data, 2.0))
    # known pixels begin under the largest noise, as the prior there says
    torch.testing.assert_close(z[..., :2], data[..., :2] + 2.0)
    assert bool((z[..., 2:] == 2.0).all())


def test_the_turned_channels_are_orthonormal_and_begin_with_gray():
    torch.testing.assert_close(COLOURS.T @ COLOURS, torch.eye(3), atol=1e-6, rtol=0)
    assert float(COLOURS[:, 0].std()) < 1e-6


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_a_guide_adds_its_weighted_gradient_to_the_score(folders, name):
    bundle: ScoreBundle = load_score(folders[name])
    direction = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(5))

    def classifier(x, sigma):
        # log odds that are linear in the clean picture, whatever the noise
        said = (x * direction).flatten(1).sum(1)
        return torch.stack([said, torch.zeros_like(said)], dim=1)

    x, t = torch.zeros(2, 3, 16, 16), 0.4
    guide = Guide(classifier, 0, 2.0, bundle.path, bundle.low)
    gained = guided(bundle.denoiser(), guide)(x, t).score - bundle.denoiser()(x, t).score
    odds = torch.sigmoid(((x / float(bundle.path.a(t)) - bundle.low) / (1 - bundle.low)
                          * direction).flatten(1).sum(1))  # fmt: skip
    scale = 2.0 / float(bundle.path.a(t)) / (1 - bundle.low)
    expected = scale * (1 - odds).reshape(-1, 1, 1, 1) * direction
    torch.testing.assert_close(gained, expected, rtol=1e-3, atol=1e-3)
    assert guide.calls == 1


# ---------------------------------------------------------------------- input


@pytest.mark.parametrize(
    ("action", "params"),
    [
        ("trip", {"tolerance": 0.0}),
        ("trip", {"probes": 0}),
        ("trip", {"subject": "dragon"}),
        ("run", {"points": 0}),
        ("run", {"process": ""}),
        ("sample", {"nfe": 3}),
        ("sample", {"snr": float("nan")}),
        ("sample", {"predictor": "none", "corrector": "none"}),
        ("sample", {"process": "vx"}),
        ("sample", {"levels": "rounded"}),
        ("sample", {"process": "subvp", "levels": "released", "nfe": 20}),
        ("draw", {"count": 10**9}),
        ("draw", {"corrections": 0}),
        ("control", {"task": "wish"}),
        ("control", {"mask": "0" * 256}),
        ("control", {"mask": "f" * 255}),
        ("control", {"weight": -1.0}),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_with_advice(run_job, action, params):
    (failed,) = run_job(Job(f"{MODULE}:{action}", params, 0), may_fail=True)
    assert failed.message
    assert failed.advice
    assert not failed.error_id


def test_a_mask_is_read_row_by_row():
    assert mask_of("")[0, 16:].all()
    assert not mask_of("")[0, :16].any()
    mask = mask_of("80000000" + "0" * 248)
    assert mask.sum() == 1
    assert mask[0, 0]
    with pytest.raises(BadInput):
        mask_of("")[0], mask_of("elsewhere")


def test_an_example_depends_on_its_seed_and_object_alone():
    np.testing.assert_array_equal(example("cat", 3), example("cat", 3))
    assert not np.array_equal(example("cat", 3), example("cat", 4))

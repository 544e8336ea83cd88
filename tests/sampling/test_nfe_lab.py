"""The NFE lab on tiny random checkpoints: it shows whether the code is right, not the picture."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from engine.core.catalog import Exactness
from engine.core.job import Done, Job, Progress, events
from engine.core.recipe import ModelRef
from engine.sampling._plane import plane as plane_of
from engine.sampling.nfe_lab import CARD, algorithm, bench
from engine.sampling.nfe_lab.results import Lab, Rewound
from engine.sampling.nfe_lab.scene import Scene
from tests.contract.rules import differing
from tests.tiny import tiny_checkpoint

# diffusers turns a tensor into an array in a way that numpy 2 warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RUN = "engine.sampling.nfe_lab.algorithm:run"
REWIND = "engine.sampling.nfe_lab.algorithm:rewind"
QUICK = {"prompt": "a cat", "nfe": 5, "curve": [5], "reference_nfe": 20}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    return {layout: tiny_checkpoint(root / layout, layout) for layout in ("sd1", "sd2", "sdxl")}


@pytest.fixture
def lab(tiny, run_job):
    """`lab(nfe=3)`: the events of a quick run on the SD 1 layout, with some settings changed."""

    def run(*, layout: str = "sd1", seed: int = 3, **settings):
        params = {**QUICK, "model": ModelRef(str(tiny[layout])), **settings}
        return run_job(Job(RUN, params, seed))

    return run


@pytest.fixture
def rewound(tiny, run_job):
    def run(*, layout: str = "sd1", seed: int = 3, **settings) -> Rewound:
        params = {"prompt": "a cat", "steps": 5, "model": ModelRef(str(tiny[layout])), **settings}
        return run_job(Job(REWIND, params, seed))[-1].result

    return run


# ---------------------------------------------------------------------- solvers side by side


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_ours_and_diffusers_give_one_result_from_one_noise(lab, layout):
    """For every layout and prediction type; the guidance is in both."""
    names = ["ddim", "diffusers:DDIM", "unipc2", "diffusers:UniPCMultistep"]
    result: Lab = lab(layout=layout, solvers=names, curve=[])[-1].result
    apart = {(d.first, d.second): d.relative for d in result.differences}
    # float32 schedules of diffusers
    assert apart["ddim", "diffusers:DDIM"] < 1e-4
    assert apart["unipc2", "diffusers:UniPCMultistep"] < 1e-4
    assert apart["ddim", "unipc2"] > 1e-3
    np.testing.assert_allclose(result.films[0].picture.astype(int), result.films[1].picture, atol=1)


@pytest.mark.slow
def test_evaluations_are_counted_at_the_network(lab, monkeypatch):
    rows = []
    real = algorithm.Scene.model

    def counted(self):
        model = real(self)
        net = model.net

        def net_and_count(x, label, **condition):
            rows.append(len(x))
            return net(x, label, **condition)

        model.net = net_and_count
        return model

    monkeypatch.setattr(algorithm.Scene, "model", counted)
    result: Lab = lab(solvers=["heun", "ddim", "diffusers:HeunDiscrete"], nfe=6, curve=[])[
        -1
    ].result
    assert [film.nfe for film in result.films] == [5, 6, 5]
    assert rows == [2] * 16
    assert [film.evaluations for film in result.films] == [
        (2, 4, 5),
        (1, 2, 3, 4, 5, 6),
        (1, 2, 3, 4, 5),
    ]


@pytest.mark.slow
def test_more_evaluations_come_nearer_to_the_reference(lab):
    result: Lab = lab(solvers=["ddim", "dpmpp_2m"], curve=[4, 8, 16], reference_nfe=100)[-1].result
    for solver in ("ddim", "dpmpp_2m"):
        errors = [point.error for point in result.curve if point.solver == solver]
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0] / 2
    assert {point.nfe for point in result.curve} == {4, 8, 16}
    assert all(point.milliseconds_per_nfe > 0 for point in result.curve)


@pytest.mark.slow
def test_every_event_shows_the_lab_as_far_as_it_has_come(lab):
    seen = [e for e in lab(solvers=["ddim", "dpmpp_2m"], curve=[2, 4]) if isinstance(e, Progress)]
    previews = [event.preview for event in seen if event.preview is not None]
    assert [len(p.films[0].frames) for p in previews[:5]] == [1, 2, 3, 4, 5]
    assert previews[0].films[0].picture is None
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert all(event.done <= event.total for event in seen)
    lengths = [len(p.curve) for p in previews]
    assert lengths == sorted(lengths)
    assert set(lengths) == {0, 1, 2, 3, 4}
    assert seen[-1].preview.reference.nfe == 20


@pytest.mark.slow
def test_equal_jobs_give_equal_results_but_for_the_clock(lab):
    settings = {"solvers": ["ddim", "ancestral", "diffusers:EulerAncestralDiscrete"], "eta": 0.5}
    first, second = (lab(**settings)[-1].result for _ in range(2))
    assert not differing(first, second)
    other = lab(seed=4, **settings)[-1].result
    assert differing(first.films, other.films)


@pytest.mark.slow
def test_second_run_takes_the_reference_from_the_cache(lab):
    fresh = {"prompt": "a banana"}
    first, second, other = (
        lab(**fresh, **more)[-1].result.reference for more in ({}, {}, {"guidance_scale": 2.0})
    )
    assert (first.was_cached, second.was_cached, other.was_cached) == (False, True, False)
    np.testing.assert_array_equal(first.picture, second.picture)


@pytest.mark.slow
@pytest.mark.parametrize("grid", algorithm.GRIDS)
def test_every_spacing_works_and_its_twin_of_diffusers_ends_nearby(lab, grid):
    names = ["dpmpp_2m", "diffusers:DPMSolverMultistep"]
    result: Lab = lab(solvers=names, grid=grid, nfe=10, curve=[])[-1].result
    # diffusers rounds timesteps, and its lambda spacing ends at another level
    assert result.differences[0].relative < 0.1


@pytest.mark.slow
def test_events_pickle_and_hold_plain_values(lab):
    for event in lab(solvers=["ddim"], curve=[2]):
        again = pickle.loads(pickle.dumps(event))
        assert type(again) is type(event)
    result = lab(solvers=["ddim"])[-1].result
    assert all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in result.films[0].frames)


@pytest.mark.slow
def test_closing_after_any_event_leaves_the_next_run_as_it_was(tiny):
    params = {**QUICK, "solvers": ["unipc2"], "model": ModelRef(str(tiny["sd1"]))}

    def result():
        *_, last = events(Job(RUN, params, 1))
        assert isinstance(last, Done)
        return last.result.films

    whole = result()
    for stop in (1, 2, 5, 8):
        steps = events(Job(RUN, params, 1))
        for _ in range(stop):
            next(steps)
        steps.close()
    assert not differing(result(), whole)


def test_plane_keeps_distances_of_ways_that_lie_in_a_plane():
    import torch

    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(50, 2, generator=generator)).Q
    flat = torch.randn(12, 2, generator=generator)
    states = [(axes @ point).reshape(1, 2, 5, 5) for point in flat]
    plane = plane_of({"reference": states[:6], "ddim": states[6:]}, leftmost="reference")
    points = np.concatenate([track.points for track in plane.tracks])
    for i in range(12):
        expected = np.linalg.norm((flat[i] - flat[0]).numpy())
        assert np.linalg.norm(points[i] - points[0]) == pytest.approx(expected, abs=1e-4)
    assert sum(plane.explained) == pytest.approx(1)


# ---------------------------------------------------------------------- rewind


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sd1", "sd2", "sdxl"])
def test_reversible_solver_returns_to_round_off_and_ddim_does_not(rewound, layout):
    ddim, heun = rewound(layout=layout).ways
    assert heun.round_trip.exactness in (Exactness.ROUND_OFF, Exactness.BITWISE)
    assert ddim.round_trip.exactness is Exactness.APPROXIMATE
    assert heun.pixel_error < 0.01
    assert ddim.latent_error > 1e-2
    assert ddim.gap is None
    assert heun.gap > 0


@pytest.mark.slow
def test_every_evaluation_of_both_ways_is_counted(rewound):
    ddim, heun = rewound(edit="a dog").ways
    assert (ddim.nfe, heun.nfe) == (3 * 5, 3 * 6)
    assert len(ddim.to_noise) == len(heun.to_picture) == 5


@pytest.mark.slow
def test_other_prompt_on_the_way_back_changes_the_picture(rewound):
    plain, edited = rewound(), rewound(edit="a dog")
    for without, way in zip(plain.ways, edited.ways, strict=True):
        assert without.edited is None
        assert not np.array_equal(way.edited, way.picture)
        np.testing.assert_array_equal(without.picture, way.picture)


@pytest.mark.slow
def test_same_prompt_and_guidance_on_the_way_back_is_no_edit(rewound):
    way = rewound(edit="a cat", guidance_scale=1.0).ways[1]
    np.testing.assert_allclose(way.edited.astype(int), way.picture, atol=1)


@pytest.mark.slow
def test_given_picture_is_taken_and_shallow_depth_keeps_more_of_it(rewound):
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    deep, shallow = (rewound(picture=picture, depth=depth) for depth in (1.0, 0.2))
    np.testing.assert_array_equal(deep.original, picture)
    assert shallow.ways[0].latent_error < deep.ways[0].latent_error
    assert np.isfinite(deep.psnr_of_encoding)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "taken"), [((66, 62), (64, 60)), ((640, 640), (64, 64)), ((37, 100), (24, 64))]
)
def test_given_picture_of_any_size_is_fitted_to_the_model(rewound, given, taken):
    picture = np.random.default_rng(0).integers(0, 255, (*given, 3), dtype=np.uint8)
    result = rewound(picture=picture, steps=2)
    assert result.original.shape == result.encoded.shape == (*taken, 3)


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("target", "settings", "complaint"),
    [
        (RUN, {"nfe": 0}, "nfe must be from 1 to 200, got 0"),
        (RUN, {"nfe": 1_000_000}, "nfe must be"),
        (RUN, {"curve": [5, -1]}, "curve must be"),
        (RUN, {"reference_nfe": 0}, "reference_nfe must be"),
        (RUN, {"solvers": []}, "solvers takes 1 to 4 values"),
        (RUN, {"solvers": ["ddim", "ddim"]}, "named twice"),
        (RUN, {"solvers": ["warp"]}, 'no solver "warp"'),
        (RUN, {"solvers": ["diffusers:LCM"]}, "weights distilled"),
        (RUN, {"solvers": ["diffusers:DDIM"], "grid": "karras"}, "no karras spacing"),
        (RUN, {"solvers": ["rk4"], "nfe": 0}, "nfe must be"),
        (RUN, {"grid": "random"}, 'grid cannot be "random"'),
        (RUN, {"eta": 1.5}, "eta must be from 0 to 1"),
        (RUN, {"eta": float("nan")}, "eta must be a number"),
        (RUN, {"guidance_scale": float("inf")}, "guidance_scale must be a number"),
        (RUN, {"guidance_scale": float("nan")}, "guidance_scale must be a number"),
        (RUN, {"prompt": "x" * 10_000}, "10000 characters"),
        (RUN, {"height": 65}, "multiple of 4"),
        (RUN, {"height": 10**6}, "height must be from 8 to 2048"),
        (RUN, {"height": 256, "width": 128}, "more than 4 times the area"),
        (REWIND, {"steps": 0}, "steps must be from 1 to 200"),
        (REWIND, {"depth": 0.0}, "depth must be from"),
        (REWIND, {"depth": float("nan")}, "depth must be a number"),
        (REWIND, {"picture": np.zeros((4, 64, 3), np.uint8)}, "64 x 4 pixels"),
    ],
)
def test_unusable_settings_are_refused_with_a_sentence(tiny, run_job, target, settings, complaint):
    params = {"prompt": "a cat", "model": ModelRef(str(tiny["sd1"])), **settings}
    *_, last = run_job(Job(target, params), may_fail=True)
    assert complaint in last.message
    assert last.advice
    assert not last.error_id


@pytest.mark.slow
def test_card_names_functions_that_exist_and_settings_they_take(tiny, run_job):
    for action in CARD.actions:
        target = f"engine.sampling.nfe_lab.algorithm:{action.name}"
        run_job(Job(target, {**action.quick, "model": ModelRef(str(tiny["sd1"]))}))


# ---------------------------------------------------------------------- the measured claim


@pytest.mark.slow
def test_bench_measures_errors_factors_slopes_and_overhead(tiny, run_job, monkeypatch):
    """With everything small; the figures of a random network mean nothing, their form does."""
    for name, value in {
        "REFERENCE_NFE": 20,
        "FINE_NFE": 30,
        "ROUNDS": 1,
        "COMPARED": ("ddim", "dpmpp_2m"),
        "RENDERED": 1,
        "CANDIDATES": (("unipc2", "lambda"),),
    }.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "measured_slopes", lambda seed: {"ddim": 1.0})
    params = {"model": ModelRef(str(tiny["sd1"])), "batches": 1}
    measured = run_job(Job("engine.sampling.nfe_lab.bench:run", params, 2))[-1].result
    assert measured.interval[0] <= measured.measured <= measured.interval[1]
    figures = measured.figures
    assert figures["samples"] == figures["prompts"] == len(bench.PROMPTS)
    assert figures["mean error"]["trailing"]["ddim"] == measured.versus
    found = figures["times nearer than ddim"]["karras"]["dpmpp_2m"]
    assert found["low"] <= found["factor"] <= found["high"]
    (kernels,) = (value for name, value in figures.items() if name.startswith("kernel distance"))
    assert set(kernels) == {"the reference, 20 NFE", "ddim", "dpmpp_2m"}
    assert all(low <= found <= high for found, low, high in kernels.values())
    assert figures["overhead over bare network calls"].keys() >= {"ours", "diffusers"}
    json.dumps(dataclasses.asdict(measured))


@pytest.mark.slow
def test_the_shape_of_stable_diffusion_is_walked_like_any_model(tiny):
    """Narrow here; the real widths need a GPU."""
    small = Scene.open(ModelRef(str(tiny["sd1"])), "a cat", "", 4.0)
    scene = bench.stable_diffusion_shape(small, "cpu", "float32", widths=(32, 32, 32, 32))
    assert bench.run_to_end(scene, 0, 1).shape == (1, 4, 64, 64)

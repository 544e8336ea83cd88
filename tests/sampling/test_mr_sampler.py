"""The MR sampler on tiny random networks: whether the code is right, not the picture."""

import dataclasses
import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core import rng
from engine.core.job import Job, Progress, finish
from engine.core.recipe import ModelRef
from engine.diffusion import solvers
from engine.diffusion.denoiser import Model
from engine.diffusion.mean_reverting import GRIDS, Schedule, mrs_grid
from engine.models.restoration import KINDS
from engine.sampling.mr_sampler import (
    CARD,
    EXAMPLES,
    FIT_TARGETS,
    METHODS,
    SPACINGS,
    TASKS,
    algorithm,
    bench,
    golden,
)
from engine.sampling.mr_sampler.degradations import degrade
from engine.sampling.mr_sampler.pictures import example, held_out, to_tensor
from engine.sampling.mr_sampler.quality import scores
from engine.sampling.mr_sampler.tiles import Canvas, PlacedNoise, Tile, cut
from tests.contract.rules import differing
from tests.tiny_restorer import tiny_restorer

RUN = "engine.sampling.mr_sampler.algorithm:run"
RESTORE = "engine.sampling.mr_sampler.algorithm:restore"
SMALL = np.random.default_rng(0).integers(0, 255, (24, 30, 3), dtype=np.uint8)
METHOD_PAIR = ("mrs_ode_d_2", "posterior_released")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> ModelRef:
    return ModelRef(str(tiny_restorer(tmp_path_factory.mktemp("tiny") / "restorer")))


@pytest.fixture
def compared(tiny, run_job):
    """`compared(nfe=3)`: the events of a quick comparison, with some settings changed."""

    def run(*, seed: int = 3, may_fail: bool = False, **settings):
        params = {"picture": SMALL, "methods": list(METHOD_PAIR), "nfe": 3, "curve": [2]}
        return run_job(Job(RUN, {**params, "model": tiny, **settings}, seed), may_fail=may_fail)

    return run


@pytest.fixture
def restored(tiny, run_job):
    def run(*, seed: int = 3, may_fail: bool = False, **settings):
        params = {"picture": SMALL, "nfe": 2, "tile": 32, "overlap": 8, "model": tiny}
        return run_job(Job(RESTORE, {**params, **settings}, seed), may_fail=may_fail)

    return run


# ---------------------------------------------------------------------- golden and names


@pytest.mark.slow
@pytest.mark.golden
def test_every_golden_case_lies_within_its_tolerance():
    found = finish(golden.run())
    assert len(found.cases) == 66
    assert [case for case in found.cases if not case.error <= case.tolerance] == []


def test_light_tables_agree_with_the_engine():
    assert set(SPACINGS) == {"auto", *GRIDS}
    assert FIT_TARGETS.keys() == KINDS.keys()
    names = [method.solver for method in METHODS.values()]
    assert all(solvers.find(name) for name in names)
    variants = {f"mrs_{k}_{v}_{o}" for k in ("ode", "sde") for v in "dn" for o in (1, 2)}
    variants |= {"mrs_ode_d_3", "mrs_ode_n_3"}
    assert variants <= METHODS.keys()


# ---------------------------------------------------------------------- comparison


def test_evaluations_are_counted_at_the_network(compared, monkeypatch):
    calls = []
    real = algorithm.Restorer.model

    def counted(self, *args, **kwargs):
        model = real(self, *args, **kwargs)
        net = model.net
        model.net = lambda *a, **k: calls.append(1) or net(*a, **k)
        return model

    monkeypatch.setattr(algorithm.Restorer, "model", counted)
    result = compared(methods=["mrs_sde_n_2", "heun"], nfe=5, curve=[])[-1].result
    assert [walk.nfe for walk in result.walks] == [5, 4]
    assert len(calls) == 9


def test_every_event_shows_the_comparison_as_far_as_it_has_come(compared):
    seen = [e for e in compared(curve=[2, 4]) if isinstance(e, Progress)]
    previews = [event.preview for event in seen if event.preview is not None]
    assert previews[0].walks == ()
    assert previews[1].walks[0].picture is None
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert all(event.done <= event.total for event in seen)
    assert {len(p.curve) for p in previews} == {0, 1, 2, 3, 4}
    assert pickle.loads(pickle.dumps(seen[-1])).done == seen[-1].done


@pytest.mark.slow
def test_equal_jobs_give_equal_results_and_another_seed_others(compared):
    first, second = (compared(plane=True)[-1].result for _ in range(2))
    assert not differing(first, second)
    assert differing(first.walks, compared(seed=4)[-1].result.walks)


@pytest.mark.slow
@pytest.mark.parametrize("target", KINDS)
def test_every_fit_target_and_every_method_ends_in_a_picture(compared, target):
    for first in range(0, len(METHODS), 4):
        methods = list(METHODS)[first : first + 4]
        result = compared(methods=methods, fit_target=target, nfe=4, curve=[])[-1].result
        assert all(walk.picture is not None for walk in result.walks), result.walks
        assert all(walk.largest > 0 for walk in result.walks)


def test_noise_parametrised_sde_leaves_the_range_where_the_data_one_does_not(compared):
    """The instability the paper reports, on any network: e^h multiplies the error."""
    result = compared(methods=["mrs_sde_n_2", "mrs_sde_d_2"], nfe=3, curve=[])[-1].result
    noise, data = result.walks
    assert noise.largest > 10 * data.largest


def test_how_the_tables_are_read_matters_between_their_entries_only(compared):
    def end(nfe: int, tables: str) -> np.ndarray:
        told = {"methods": ["mrs_ode_d_3"], "nfe": nfe, "tables": tables, "spacing": "linspace"}
        return compared(curve=[], **told)[-1].result.walks[0].frames[-1]

    np.testing.assert_array_equal(end(4, "ln alpha"), end(4, "released"))
    assert (end(7, "ln alpha") != end(7, "released")).any()


def test_a_picture_that_came_damaged_is_not_measured(compared):
    result = compared(task="unknown", curve=[2])[-1].result
    assert result.truth is None
    assert result.curve == ()
    np.testing.assert_array_equal(result.damaged, SMALL)


def test_a_method_that_needs_more_evaluations_says_so_and_the_others_go_on(compared):
    result = compared(methods=["heun", "mrs_ode_d_1"], nfe=1, curve=[1])[-1].result
    assert "at least 2" in result.walks[0].fault
    assert result.walks[1].picture is not None
    assert [point.method for point in result.curve] == ["mrs_ode_d_1"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nfe": 0}, "nfe must be from 1 to 100"),
        ({"nfe": 101}, "nfe must be from 1 to 100"),
        ({"curve": [0]}, "curve must be from 1"),
        ({"methods": []}, "methods takes 1 to 4 values"),
        ({"methods": ["heun", "heun"]}, "named twice"),
        ({"methods": ["magic"]}, 'methods cannot be "magic"'),
        ({"task": "sadness"}, 'task cannot be "sadness"'),
        ({"strength": 2.0}, "strength must be from 0 to 1"),
        ({"strength": float("nan")}, "strength must be a number"),
        ({"spacing": "wide"}, 'spacing cannot be "wide"'),
        ({"fit_target": "taste"}, "not trained to predict"),
        ({"tables": "rounded"}, "tables cannot be"),
        ({"example": "nobody", "picture": None}, 'example cannot be "nobody"'),
        ({"picture": np.zeros((4, 40, 3), np.uint8)}, "40 x 4 pixels"),
        ({"picture": np.zeros((40, 40, 4), np.uint8)}, "three colours"),
    ],
)
def test_unusable_settings_are_refused_with_a_sentence(compared, settings, said):
    *_, last = compared(may_fail=True, **settings)
    assert said in last.message
    assert last.advice
    assert not last.error_id


# ---------------------------------------------------------------------- tiles


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    side=st.integers(32, 128),
    share=st.floats(0, 0.5),
)
def test_tiles_cover_the_picture_and_overlap_enough(height, width, side, share):
    overlap = int(share * side)
    tiles = cut(height, width, side, overlap)
    covered = np.zeros((height, width), int)
    for tile in tiles:
        assert tile.height <= side
        assert tile.y + tile.height <= height
        covered[tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] += 1
    assert covered.min() >= 1
    rows = sorted({tile.y for tile in tiles})
    assert all(b - a <= side - overlap for a, b in itertools.pairwise(rows))


def test_noise_belongs_to_the_place_and_not_to_the_tile():
    like = torch.empty(1, 3, 100, 90)
    whole = PlacedNoise(5, Tile(0, 0, 100, 90))(like, 2)
    part = Tile(17, 41, 50, 33)
    torch.testing.assert_close(
        PlacedNoise(5, part)(torch.empty(1, 3, 50, 33), 2), part.of(whole), rtol=0, atol=0
    )
    assert not torch.equal(whole, PlacedNoise(6, Tile(0, 0, 100, 90))(like, 2))
    assert abs(float(whole.std()) - 1) < 0.02


@pytest.mark.parametrize("name", ["mrs_ode_d_2", "mrs_sde_d_2"])
def test_a_network_of_single_pixels_gives_the_same_with_and_without_tiles(name):
    path, mu = Schedule().path, torch.rand(1, 3, 70, 61)

    def restore(tile):
        here = tile.of(mu)
        model = Model(golden.network, path, "eps", "t", anchor=here, cond={"mu": here})
        noise = PlacedNoise(1, tile)
        z = path.prior_std * noise(here, 0, "start")
        return model.place(solvers.run(name, model, z, mrs_grid(path, "linspace", 6), noise))

    whole, canvas = restore(Tile(0, 0, 70, 61)), Canvas(mu, 8)
    for tile in cut(70, 61, 32, 8):
        canvas.put(tile, restore(tile))
    torch.testing.assert_close(canvas.picture, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 16), (17, 90), (70, 41)])
def test_a_picture_of_any_size_comes_back_in_its_size(restored, shape):
    picture = np.random.default_rng(1).integers(0, 255, (*shape, 3), dtype=np.uint8)
    result = restored(picture=picture)[-1].result
    assert result.after.shape == picture.shape
    assert result.nfe == 2
    assert result.scores is None
    np.testing.assert_array_equal(result.before, picture)


def test_damage_done_here_is_measured(restored):
    result = restored(damage=True, task="rain")[-1].result
    assert result.scores is not None
    np.testing.assert_array_equal(result.truth, SMALL)
    assert not np.array_equal(result.before, SMALL)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tile": 3}, "tile must be from 32 to 1024"),
        ({"overlap": 20}, "overlap by 0 to 16"),
        ({"nfe": 0}, "nfe must be"),
        ({"solver": "magic"}, 'solver cannot be "magic"'),
    ],
)
def test_unusable_tiles_are_refused(restored, settings, said):
    *_, last = restored(may_fail=True, **settings)
    assert said in last.message
    assert last.advice


# ---------------------------------------------------------------------- damage and pictures


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_damage_grows_with_its_strength_and_repeats(task):
    x0 = to_tensor(np.stack([example("chelsea"), example("flower")]))
    light, heavy = (
        degrade(x0, task, strength, rng.generator(0, "damage")) for strength in (0.1, 0.9)
    )
    again = degrade(x0, task, 0.9, rng.generator(0, "damage"))
    torch.testing.assert_close(heavy, again, rtol=0, atol=0)
    assert 0 <= float(heavy.min()) <= float(heavy.max()) <= 1
    torch.testing.assert_close(heavy * 255, (heavy * 255).round())
    before, after = (np.mean([s.psnr for s in scores(mu, x0)]) for mu in (light, heavy))
    assert after < before - 1


def test_examples_and_held_out_squares_are_pictures():
    for name in EXAMPLES:
        assert example(name).shape == (128, 128, 3)
    squares = held_out(2, 3)
    assert squares.shape == (11, 3, 32, 32)
    assert 0 <= float(squares.min()) < float(squares.max()) <= 1


@pytest.mark.slow
def test_card_names_actions_that_run(tiny, run_job):
    for action in CARD.actions:
        target = f"engine.sampling.mr_sampler.algorithm:{action.name}"
        run_job(Job(target, {**action.quick, "model": tiny}))


# ---------------------------------------------------------------------- the measured claim


@pytest.mark.slow
def test_bench_measures_curves_and_intervals(tiny, run_job, monkeypatch):
    counts = {"mrs_ode_d_2": (1, 10), "posterior_strided": (10,), "posterior_released": (10, 100)}
    monkeypatch.setattr(bench, "COUNTS", counts)
    params = {"model": tiny, "per_photograph": 1, "drawings": 0}
    measured = run_job(Job("engine.sampling.mr_sampler.bench:run", params, 2))[-1].result
    assert measured.interval[0] <= measured.measured <= measured.interval[1]
    figures = measured.figures
    assert figures["pictures"] == 4
    assert figures["trials"] == 12
    assert figures["by method and NFE"]["Posterior, as released"].keys() == {"10", "100"}
    assert figures["by damage, PSNR"].keys() == TASKS.keys()
    assert figures["by what the network predicts"].keys() == KINDS.keys()
    json.dumps(dataclasses.asdict(measured), allow_nan=False)

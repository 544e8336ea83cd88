"""AugUndo: golden operations and losses, undo as the reverse, K = A K, masks, vectors, refusals."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.core.catalog import CLAIMS, Measured
from engine.core.errors import AssetMissing, BadInput
from engine.core.job import Failed, Job, finish
from engine.core.rng import generator
from engine.networks.augundo import averaging, golden, losses, own, scenes, shipped, training
from engine.networks.augundo.algorithm import ERROR, INPUT, MASK, UNDONE, run, train
from engine.networks.augundo.augmentation import Augmentation, Ranges
from engine.networks.augundo.floors import floors, kept
from engine.networks.augundo.geometry import Affine, CropPad, Flip, ResizeCrop, ResizePad, Rotate
from engine.networks.augundo.network import spread, untrained

TARGET = "engine.networks.augundo.algorithm"
SIZE = (20, 28)
CASES = [case for checks in golden.CHECKS for case in golden.CHECKS[checks]]


def frame(*channels: int, size: tuple[int, int] = SIZE) -> torch.Tensor:
    return torch.rand(*channels, *size, generator=generator(0, "frame"))


# ---------------------------------------------------------------------- published code


def test_all_golden_cases_hold():
    """Exact indices for the operations; 1e-10 in float64 for losses and gradient."""
    cases = finish(golden.run()).cases
    assert len(cases) == len(CASES) == 8
    for case in cases:
        assert case.error <= case.tolerance, case.name


# ---------------------------------------------------------------------- there and back

LOSSLESS = [
    (),
    (Flip(True),),
    (Flip(False), Flip(True)),
    (ResizeCrop(1.0, (0, 0)),),
    (Rotate(90.0),),
    (Rotate(-90.0), Flip(True)),
]


@pytest.mark.parametrize("steps", LOSSLESS, ids=str)
def test_what_loses_no_pixel_comes_back_bit_for_bit(steps, same_bits):
    aug = Augmentation(SIZE, steps)
    x = frame(1, 3)
    assert same_bits(aug.undo(aug(x)), x)
    assert bool((aug.mask() == 1).all())


def test_a_shift_comes_back_where_the_mask_is_one_and_nowhere_else_is_promised(same_bits):
    aug = Augmentation.of(SIZE, shift_x=0.1, shift_y=-0.1)
    x = frame(1, 1) + 1
    inside = aug.mask()[0, 0] > 0
    assert 0.7 < float(aug.mask().mean()) < 0.9
    assert same_bits(aug.undo(aug(x))[0, 0][inside], x[0, 0][inside])


@pytest.mark.slow
@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_undone_values_are_values_of_the_frame_near_by(seed):
    """Nearest neighbour invents nothing: at worst a pixel gets the value of one next to it, at the
    distance that the zoom leaves between kept pixels."""
    aug = Augmentation.sample((24, 32), generator(seed), Ranges(rotate=0.5, resize_crop=0.3))
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    inside = aug.mask()[0, 0] > 0
    for place in (x, y):
        gap = (aug.undo(aug(place)) - place).abs()[inside]
        # A zoom to 0.6 keeps every second or third pixel; the rotation moves half a pixel twice.
        assert gap.numel() == 0 or float(gap.max()) <= 4


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_matrix_says_where_pixels_went(seed):
    """A takes the place of a pixel to where its value stands in the transformed frame."""
    aug = Augmentation.sample((24, 32), generator(seed), Ranges(rotate=0.5, resize_crop=0.3))
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    ones = aug(torch.ones(24, 32), fill="zero") > 0
    column, row = aug(x, fill="zero")[ones].numpy(), aug(y, fill="zero")[ones].numpy()
    there_row, there_column = np.nonzero(ones.numpy())
    said = aug.matrix() @ np.stack([column, row, np.ones_like(row)])
    # Two resizes cut off up to a pixel each, and a rotation rounds by half of one along both axes.
    assert np.abs(said[0] - there_column).max(initial=0) < 2.8
    assert np.abs(said[1] - there_row).max(initial=0) < 2.8


def test_intrinsics_are_new_and_the_rays_are_those_of_the_pixels():
    """K itself is untouched, which the surviving code gets wrong; a turned K has the same rays."""
    k = torch.tensor([[40.0, 0, 14], [0, 40, 10], [0, 0, 1]])
    before = k.clone()
    aug = Augmentation.of(SIZE, angle=25.0, zoom=0.6, flip_x=True)
    turned = aug.intrinsics(k)
    assert torch.equal(k, before)
    p = torch.tensor([3.0, 4.0, 1.0])
    moved = torch.from_numpy(aug.matrix()).float() @ p
    ray, same = torch.linalg.solve(k, p), torch.linalg.solve(turned, moved)
    assert torch.allclose(ray, same, atol=1e-5)
    assert torch.equal(Augmentation(SIZE).intrinsics(k), k)  # nothing drawn, nothing scaled


def test_depth_is_not_scaled_by_a_zoom():
    aug = Augmentation.of(SIZE, zoom=0.6)
    flat = torch.full((1, 1, *SIZE), 2.5)
    moved = aug(flat, fill="zero")
    assert set(moved.unique().tolist()) == {0.0, 2.5}
    assert bool((aug.undo(moved) == 2.5).all())


def test_a_rotation_keeps_every_pixel_in_a_larger_frame():
    for degrees in (5.0, 17.0, 25.0, 44.9):
        height, width = Rotate(degrees).grown(SIZE)
        assert height > SIZE[0]
        assert width > SIZE[1]
        inside = Rotate(degrees).forward(torch.ones(1, *SIZE), "zero")
        assert float(inside.sum()) == pytest.approx(SIZE[0] * SIZE[1], rel=0.03)


def test_bilinear_undo_is_smoother_and_invents_depths_between():
    """Flying points: an edge between 1 m and 4 m is undone to depths that are neither."""
    step = torch.ones(1, 1, *SIZE)
    step[..., 14:] = 4
    aug = Augmentation.of(SIZE, angle=17.0)
    moved = aug(step)
    nearest, bilinear = (aug.undo(moved, interpolation=how) for how in ("nearest", "bilinear"))
    inside = aug.mask() > 0
    assert set(nearest[inside].unique().tolist()) <= {0.0, 1.0, 4.0}
    between = bilinear[(bilinear > 1.2) & (bilinear < 3.8)]
    assert between.numel() > 0


# ---------------------------------------------------------------------- in other people's pipelines


def test_it_stands_in_a_chain_of_callables_and_takes_labels():
    aug = Augmentation.of(SIZE, angle=10.0, zoom=0.8)
    x = frame(3)
    for transform in (aug, lambda y: y * 0.5, lambda y: y - 0.5):
        x = transform(x)
    assert x.shape == (3, *aug.augmented_size)
    labels = torch.arange(SIZE[0] * SIZE[1]).reshape(SIZE)
    back = aug.undo(aug(labels))
    assert back.dtype == labels.dtype
    assert set(back.flatten().tolist()) <= set(labels.flatten().tolist())


def test_the_matrix_of_another_library_can_be_undone():
    """A mirror and a shift as a matrix agree with the transforms of their own names."""
    width = SIZE[1]
    mirror = [[-1, 0, width - 1], [0, 1, 0], [0, 0, 1]]
    x = frame(1, 2)
    aug = Augmentation.of_matrix(mirror, SIZE, SIZE)
    assert torch.equal(aug(x), Augmentation(SIZE, (Flip(True),))(x))
    assert torch.equal(aug.undo(aug(x)), x)
    assert np.array_equal(aug.matrix(), Flip(True).matrix(SIZE))


@pytest.mark.parametrize(
    "matrix",
    [[[1, 0], [0, 1]], [[1, 0, 0], [0, 1, 0], [0.1, 0, 1]], [[1, 0, 0], [2, 0, 0], [0, 0, 1]],
     [[math.nan, 0, 0], [0, 1, 0], [0, 0, 1]], "turn it"],
)  # fmt: skip
def test_a_matrix_that_cannot_be_undone_is_refused(matrix):
    with pytest.raises(BadInput, match="matrix"):
        Augmentation.of_matrix(matrix, SIZE, SIZE)


def test_flow_is_turned_with_the_picture_and_back():
    """A flow of one pixel to the right is one upwards-right in a picture turned by 25 degrees, and
    as long as the zoom says."""
    aug = Augmentation.of((40, 40), angle=25.0, zoom=0.6)
    flow = torch.zeros(2, 40, 40)
    flow[0] = 1
    turned = aug(flow, fill="zero", quantity="flow")
    middle = turned[:, turned.shape[1] // 2, turned.shape[2] // 2]
    angle = math.radians(25)
    assert middle.tolist() == pytest.approx([0.6 * math.cos(angle), -0.6 * math.sin(angle)])
    back = aug.undo(turned, fill="zero", quantity="flow")
    inside = aug.mask()[0, 0] > 0
    assert torch.allclose(back[:, inside], flow[:, inside], atol=1e-5)


def test_normals_keep_their_length_and_a_mirror_turns_them():
    normals = torch.nn.functional.normalize(frame(3) - 0.5, dim=0)
    turned = Augmentation.of(SIZE, angle=25.0, zoom=0.6)(normals, quantity="normals")
    lengths = turned.norm(dim=0)
    assert torch.allclose(lengths[lengths > 0], torch.ones(()), atol=1e-5)
    mirrored = Augmentation.of(SIZE, flip_x=True)(normals, quantity="normals")
    assert torch.equal(mirrored[0], -normals[0].flip(-1))


@pytest.mark.parametrize("quantity", ["velocity", ""])
def test_vectors_without_a_name_are_refused(quantity):
    with pytest.raises(BadInput, match="vectors turn with the picture"):
        Augmentation.of(SIZE, angle=5.0)(frame(2), quantity=quantity)


def test_a_flow_of_three_channels_is_refused():
    with pytest.raises(BadInput, match="flow has 2 channels"):
        Augmentation.of(SIZE, angle=5.0)(frame(3), quantity="flow")


def test_a_frame_of_another_size_is_refused():
    with pytest.raises(BadInput, match="30 x 20 pixels, the augmentation was made for 28 x 20"):
        Augmentation.of(SIZE, angle=5.0)(frame(3, size=(20, 30)))


@pytest.mark.parametrize(
    "wrong", [{"angle": 46.0}, {"zoom": 0.4}, {"zoom": 2.0}, {"shift_x": 0.3}, {"angle": math.nan}]
)
def test_transforms_out_of_range_are_refused(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Augmentation.of(SIZE, **wrong)


@pytest.mark.slow
def test_draws_follow_the_published_probabilities():
    """0.5 for shift and zoom out, 0.1 for zoom in, 0.05 for a rotation; 4 sigma of 1000."""
    drawn = [Augmentation.sample((48, 64), generator(0, i)).steps for i in range(1000)]
    for kind, wanted in ((CropPad, 0.5), (ResizePad, 0.5), (ResizeCrop, 0.1), (Rotate, 0.05)):
        share = np.mean([any(isinstance(one, kind) for one in steps) for steps in drawn])
        assert abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / 1000)


# ---------------------------------------------------------------------- scenes and floors


def test_the_two_views_of_a_room_agree_at_the_true_depth():
    """The right picture read where the depth says is the left one, but for what one camera alone
    sees; one metre off it is not."""
    scene = scenes.room(3, 48, 64)
    xy = losses.seen_from(scene.depth, scene.k, scene.k_next, scene.pose)
    truth = losses.color(losses.read_at(scene.next_image, xy), scene.image)
    far = losses.seen_from(scene.depth + 1, scene.k, scene.k_next, scene.pose)
    wrong = losses.color(losses.read_at(scene.next_image, far), scene.image)
    assert float(truth) < 0.5 * float(wrong)


def test_rooms_of_two_seeds_are_two_places_and_one_seed_is_one():
    assert torch.equal(scenes._room(5, 24, 32).image, scenes._room(5, 24, 32).image)
    assert not torch.equal(scenes._room(5, 24, 32).depth, scenes._room(6, 24, 32).depth)


@pytest.mark.slow
def test_undo_stays_at_the_floor_and_wrong_geometry_does_not():
    scene = scenes.room(training.TEST_ROOMS + 1)
    found = floors(scene, Augmentation.of(scene.size, zoom=0.6, angle=25.0))
    assert found.naive > 4 * found.undo
    assert found.undo < 1.6 * found.none
    still = floors(scene, Augmentation(scene.size))
    assert still.none == still.naive == still.transformed == still.undo


def test_a_zoom_costs_the_naive_loss_its_sparse_points_and_the_undo_none():
    scene = scenes.room(1, 72, 96)
    points = scenes.measured_points(scene.depth, 0.05, 0)
    found = kept(scene.depth, points, Augmentation.of(scene.size, zoom=0.6))
    assert found.points_naive == pytest.approx(0.36, abs=0.06)  # 0.6 of rows, 0.6 of columns
    assert found.points_undo == 1


@pytest.mark.skipif(not scenes.has_motorcycle(), reason="scikit-image is not installed")
def test_the_real_pair_is_as_its_papers_say():
    """Depth 2.1 to 5 m, 92.7 % known, and the two pictures agree at it: 0.03 where 0.14 without."""
    scene = scenes.motorcycle()
    known = scene.depth[scene.depth > 0]
    assert 2.1 < float(known.min()) < float(known.max()) < 5.01
    assert len(known) / scene.depth.numel() == pytest.approx(0.927, abs=0.005)
    found = floors(scene, Augmentation.of(scene.size, zoom=0.6, angle=25.0))
    assert found.none < 0.04
    assert float((scene.image - scene.next_image).abs().mean()) > 0.1
    assert found.naive > 4 * found.none
    assert found.undo < 1.4 * found.none


def test_without_the_package_the_motorcycle_is_told_missing(monkeypatch):
    monkeypatch.setattr(scenes, "find_spec", lambda name: None)
    scenes.motorcycle.cache_clear()
    with pytest.raises(AssetMissing, match="scikit-image"):
        scenes.motorcycle()


# ---------------------------------------------------------------------- network and training


def test_an_untrained_network_says_what_the_points_say():
    network = untrained(0).eval()
    scene = scenes.room(2, 40, 56)
    points = scenes.measured_points(scene.depth, 0.02, 0)
    with torch.no_grad():
        said = network(scene.image, points, scene.k)
    assert torch.allclose(said, spread(points), atol=1e-5)
    nothing = spread(torch.zeros_like(points))
    assert bool((nothing == 2).all())


@pytest.mark.parametrize("arm", training.ARMS)
def test_every_arm_learns_something_from_the_same_draws(arm):
    batch = scenes.joined(list(training.rooms(range(2))))
    points = scenes.measured_points(batch.depth, training.POINTS, 0)
    network = untrained(0)
    with torch.enable_grad():
        loss = training.loss_of(arm, network, batch, points, generator(0, "draw"))
        grads = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    assert math.isfinite(float(loss.detach()))
    assert any(float(grad.abs().max()) > 0 for grad in grads if grad is not None)


def test_arms_differ_in_geometry_alone(monkeypatch):
    """With no transform drawn, the geometric arms are one, and equal the photometric one."""
    batch = scenes.joined(list(training.rooms(range(2))))
    points = scenes.measured_points(batch.depth, training.POINTS, 0)
    still = Augmentation(batch.size)
    monkeypatch.setattr(Augmentation, "sample", classmethod(lambda cls, size, draw: still))
    found = {
        arm: training.loss_of(arm, untrained(0), batch, points, generator(0, "draw")).item()
        for arm in training.ARMS
    }
    same = [found[arm] for arm in ("photometric", "naive", "transformed", "undo")]
    assert same == pytest.approx([same[0]] * 4, rel=1e-5)
    assert found["none"] != pytest.approx(same[0], rel=1e-5)


def test_points_without_any_say_nothing():
    depth = torch.ones(1, 1, 8, 8)
    assert float(losses.sparse(depth, torch.zeros(1, 1, 8, 8))) == 0


@pytest.mark.slow
def test_training_is_the_same_twice_and_touches_no_global_state():
    state = torch.get_rng_state()
    settings_ = {"arms": ("undo",), "steps": 4, "rooms": 2, "test_rooms": 2, "batch": 1}
    first, second = (finish(train(seed=3, **settings_)) for _ in range(2))
    assert first.steps == second.steps
    assert torch.equal(state, torch.get_rng_state())


# ---------------------------------------------------------------------- jobs


@pytest.mark.slow
def test_the_transform_grows_and_its_films_follow():
    found = finish(run(seed=7, place=1))
    assert [at.strength for at in found.curve] == pytest.approx(np.linspace(0, 1, 9).tolist())
    assert {film.title for film in found.films} >= {INPUT, UNDONE, MASK, ERROR}
    assert {len(film.frames) for film in found.films} == {9}
    first, last = found.curve[0], found.curve[-1]
    assert first.naive == first.undo == first.none
    assert last.naive > 4 * last.undo
    assert found.k != found.k_augmented
    assert "Augmentation.of((144, 192), angle=25.0, zoom=0.6" in found.script.text


@pytest.mark.slow
def test_the_script_of_a_run_is_python_that_runs():
    found = finish(run(seed=7, place=1, depth_from="truth"))
    space: dict[str, object] = {}
    exec(compile(found.script.text, "augmentation.py", "exec"), space)
    assert space["aug"].augmented_size == found.size_augmented
    assert space["mask"].shape == (1, 1, 144, 192)


def as_npy(depth: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, depth)
    return base64.b64encode(file.getvalue()).decode()


def as_png(depth: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray((depth * 256).astype(np.uint16)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_an_own_picture_with_depth_and_k_is_transformed():
    depth = np.linspace(1, 4, 60 * 80).reshape(60, 80).astype(np.float32)
    picture = np.zeros((60, 80, 3), np.uint8)
    for text in (as_npy(depth), as_png(depth)):
        found = finish(
            run(seed=7, picture=picture, depth_file=text, intrinsics="60, 60, 39.5, 29.5",
                depth_from="truth")
        )  # fmt: skip
        assert found.k[0] == (60, 0, 39.5)
        assert found.curve[-1].undo is None  # one picture alone: nothing to read in another
        assert 0 < found.curve[-1].undo_error < 0.1


def test_a_large_picture_is_made_smaller_with_its_k():
    image, depth, k, shrink = own.fitted(
        np.zeros((300, 600, 3), np.uint8), np.ones((300, 600)),
        own.intrinsics_of("600, 600, 299.5, 149.5", 300, 600),
    )  # fmt: skip
    assert shrink == 3
    assert image.shape[-2:] == depth.shape[-2:] == (100, 200)
    assert k[0].tolist() == [[200, 0, 99.5], [0, 200, 49.5], [0, 0, 1]]


PICTURE = np.zeros((20, 30, 3), np.uint8)
GOOD = np.ones((20, 30), np.float32)
WRONG = [
    ({"picture": PICTURE}, "needs its depth"),
    ({"depth_file": as_npy(GOOD)}, "needs its depth"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD.T)}, "pixels and the depth 20 x 30"),
    ({"picture": PICTURE, "depth_file": "not base64!"}, "did not arrive whole"),
    ({"picture": PICTURE, "depth_file": base64.b64encode(b"GIF89a").decode()}, "neither"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD * np.nan)}, "no value between"),
    ({"picture": PICTURE, "depth_file": as_npy(np.ones((2, 20, 30)))}, "no numbers of one picture"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD.astype(complex))}, "no numbers of one picture"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD), "intrinsics": "1 2 3"}, "K has 3 numbers"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD), "intrinsics": "a b c d"}, "no number"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD), "intrinsics": "-5 5 10 10"}, "no intrinsic"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD), "intrinsics": "5 5 900 10"}, "far outside"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD), "intrinsics": "5 0 9 1 5 9 0 0 1"}, "no i"),
    ({"picture": PICTURE, "depth_file": as_npy(GOOD), "intrinsics": "nan 5 9 9"}, "no intrinsic"),
    ({"angle": 90}, "angle must be from -45 to 45"),
    ({"zoom": 0.1}, "zoom must be from 0.5 to 1.5"),
    ({"angle": math.inf}, "angle must be a number"),
    ({"scene": "the moon"}, "scene cannot be"),
]  # fmt: skip


@pytest.mark.parametrize(("wrong", "told"), WRONG, ids=[told for _, told in WRONG])
def test_bad_input_is_told_in_one_sentence(run_job, wrong, told):
    last = run_job(Job(f"{TARGET}:run", wrong, 7), may_fail=True)[-1]
    assert isinstance(last, Failed)
    assert told in last.message
    assert last.advice


def test_an_array_that_claims_more_than_it_holds_is_refused_before_it_is_laid_out():
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    with pytest.raises(BadInput, match="does not hold"):
        own.depth_of(base64.b64encode(file.getvalue()).decode())


# ---------------------------------------------------------------------- averaging


def test_answers_that_agree_average_to_themselves_and_are_in_no_doubt():
    """A model that answers each view with the transformed truth: its average is the truth where
    the transforms lose nothing."""
    depth = frame(1, 1) + 1
    augs = [
        Augmentation(SIZE),
        Augmentation(SIZE, (Flip(True),)),
        Augmentation(SIZE, (Rotate(90.0),)),
    ]
    answers = [
        averaging.asked(
            lambda image, points, k, aug=aug: aug(depth),
            aug,
            frame(1, 3),
            depth,
            torch.eye(3)[None],
        )
        for aug in augs
    ]
    mean, doubt = averaging.averaged(answers)
    assert torch.allclose(mean, depth)
    assert float(doubt.max()) < 1e-3


def test_scale_and_shift_of_an_inverse_depth_are_found():
    truth = frame(1, 1) + 1
    said = 3 / truth - 0.2
    assert torch.allclose(averaging.fitted(said, truth), truth, atol=1e-4)


@pytest.mark.slow
def test_a_depth_model_of_transformers_is_averaged(tmp_path, run_job):
    """A tiny Depth Anything saved as a folder, with weights of its own."""
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config

    backbone = Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, image_size=28, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
        apply_layernorm=True,
    )  # fmt: skip
    config = DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[4, 8, 16, 16],
        fusion_hidden_size=8, head_hidden_size=4, patch_size=14,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    picture = np.tile(np.arange(96, dtype=np.uint8)[None, :, None], (64, 1, 3))
    for params in ({"views": 2}, {"views": 2, "picture": picture}):
        job = Job(f"{TARGET}:average", {"model": str(tmp_path), **params}, 7)
        found = run_job(job)[-1].result
        assert len(found.views) == 2
        assert (found.average_error is None) == ("picture" in params)


def test_a_folder_that_is_no_depth_model_is_told(tmp_path, run_job):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    job = Job(f"{TARGET}:average", {"model": str(tmp_path), "views": 2}, 7)
    last = run_job(job, may_fail=True)[-1]
    assert isinstance(last, Failed)
    assert last.advice


def test_affine_frames_have_a_size():
    with pytest.raises(BadInput, match="no size of a frame"):
        Affine(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), (0, 10))


# ---------------------------------------------------------------------- the record


def test_the_shipped_networks_are_those_of_their_arms():
    """Three networks from the same first weights, which are not the same any more."""
    states = [shipped.network(arm).state_dict() for arm in shipped.ARMS]
    assert all(state.keys() == states[0].keys() for state in states)
    assert not torch.equal(states[0]["out.weight"], states[2]["out.weight"])


@pytest.mark.slow
@pytest.mark.skipif(not (CLAIMS / "augundo.json").is_file(), reason="not measured yet")
def test_the_record_comes_again():
    """The floors of the first seed and of the real pair are those of the record."""
    from engine.networks.augundo import bench

    figures = Measured.load("augundo").figures
    first = training.TEST_ROOMS
    again = bench._mean([bench._floors(scenes.room(first + i)) for i in range(bench.ROOMS)])
    assert bench._plain(again) == pytest.approx(figures["floors of rooms, by seed"][0], abs=1e-4)
    if scenes.has_motorcycle():
        assert bench._real(0)["floors"] == pytest.approx(figures["real pair"]["floors"], abs=1e-4)

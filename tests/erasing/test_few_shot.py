"""Few-shot erasing: golden arrays, what is trained, the steps uphill, the patch and the files."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core.errors import BadInput, ModelMismatch
from engine.core.golden import check_all
from engine.core.job import Done, Failed, Job, Progress, finish
from engine.core.recipe import Recipe
from engine.core.reversible import Exactness
from engine.erasing._learning import Adam, denoising_error, fitted, pixels
from engine.erasing._subject import Subject
from engine.erasing.few_shot_erasing import COMPARED, OPTIMIZERS, PARAMETERS
from engine.erasing.few_shot_erasing import golden as ours
from engine.erasing.few_shot_erasing.ascent import Optimizer, climb, trainable
from engine.erasing.few_shot_erasing.contender import few_shot
from engine.erasing.few_shot_erasing.exports import read_back
from engine.erasing.few_shot_erasing.learning import learn
from engine.erasing.few_shot_erasing.settings import (
    OBJECT_CAPTIONS,
    STYLE_CAPTIONS,
    FewShotSettings,
    captions_of,
)
from engine.models.diffusion import DiffusionBundle, alphas_cumprod, encode_prompt, predict
from engine.models.library import ModelRef, load
from tests.tiny import tiny_checkpoint

TARGET = "engine.erasing.few_shot_erasing.algorithm"
QUICK = {"concept": "cat", "count": 2, "epochs": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> DiffusionBundle:
    return load(ModelRef(str(folder)), "cpu", "float32")


def picture(seed: int = 0, height: int = 40, width: int = 70) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# ---------------------------------------------------------------------- golden arrays


@pytest.mark.golden
@pytest.mark.parametrize("name", ours.CHECKS)
def test_published_code_and_this_one_agree(name: str):
    for case in finish(check_all({name: ours.CHECKS[name]})).cases:
        assert case.error <= case.tolerance, case


# ---------------------------------------------------------------------- what is trained


@pytest.mark.parametrize("layers", [1, 2, 12, 24])
def test_the_last_layer_is_the_last_one_whatever_the_depth(layers: int):
    names = [
        f"encoder.layers.{i}.{part}"
        for i in range(layers)
        for part in ("self_attn.q_proj.weight", "mlp.fc1.weight", "layer_norm1.weight")
    ]
    found = trainable(names, "mlp-final-attn", layers)
    assert [n for n in found if "self_attn" in n] == [
        f"encoder.layers.{layers - 1}.self_attn.q_proj.weight"
    ]
    assert sum("mlp" in n for n in found) == layers


def test_an_encoder_without_such_layers_is_refused():
    with pytest.raises(ModelMismatch, match="mlp or self_attn"):
        trainable(["roberta.layer.0.dense.weight"], "mlp-only", 1)


def test_the_published_captions_are_all_there():
    assert (len(OBJECT_CAPTIONS), len(STYLE_CAPTIONS)) == (27, 19)
    assert all(form.count("{}") == 1 for form in OBJECT_CAPTIONS + STYLE_CAPTIONS)


def test_captions_name_the_concept_in_words_that_the_model_knows(bundle: DiffusionBundle):
    for kind, concept in (("object", "cat"), ("style", "neon style")):
        for text in captions_of(bundle, FewShotSettings(concept=concept, kind=kind)):
            assert concept.split()[0] in text
            assert "style style" not in text
    published = captions_of(bundle, FewShotSettings(captions="published"))
    assert "a photo of my cat" in published


# ---------------------------------------------------------------------- the step


@pytest.mark.slow
@given(st.integers(0, 1000), st.booleans(), st.floats(0, 0.1))
def test_our_adam_is_that_of_torch(seed: int, decoupled: bool, decay: float):
    draw = torch.Generator().manual_seed(seed)
    start = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    goals = torch.randn(6, 3, 4, generator=draw, dtype=torch.float64)
    a, b = (start.clone().requires_grad_() for _ in range(2))
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = kind([b], lr=0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=decay)
    mine = Adam([a], 0.1, betas=(0.9, 0.98), eps=1e-6, weight_decay=decay, decoupled=decoupled)
    for goal in goals:
        mine.descend((a - goal).square().mean())
        theirs.zero_grad()
        (b - goal).square().mean().backward()
        theirs.step()
    assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_the_published_code_is_that_of_torch(name: str):
    draw = torch.Generator().manual_seed(1)
    start = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    goals = torch.randn(6, 3, 4, generator=draw, dtype=torch.float64)
    a, b = (start.clone().requires_grad_() for _ in range(2))
    told = {"eps": 1e-4, "weight_decay": 0.03}
    chosen = Optimizer(name, 0.1, (0.7, 0.8), **told)
    found = list(climb([a], (lambda g=g: (a - g).square().mean() for g in goals), optimizer=chosen))
    betas = {"betas": (0.7, 0.8)} if name.startswith("Adam") else {}
    theirs = getattr(torch.optim, name)([b], lr=0.1, **told, **betas)
    for goal, error in zip(goals, found, strict=True):
        loss = (b - goal).square().mean()
        assert loss.item() == pytest.approx(error, rel=1e-12)
        theirs.zero_grad()
        (-loss).backward()
        theirs.step()
    assert torch.allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "changed",
    [
        {"optimizer": "AdamW", "weight_decay": 0.5},
        {"optimizer": "Adagrad"},
        {"beta1": 0.0},
        {"beta2": 0.5},
        {"eps": 0.1},
    ],
    ids=str,
)
def test_what_is_set_of_the_optimizer_reaches_the_weights(bundle: DiffusionBundle, changed: dict):
    usual = finish(learn(bundle, FewShotSettings.of(**QUICK), 0)).epochs[-1]
    other = finish(learn(bundle, FewShotSettings.of(**QUICK, **changed), 0)).epochs[-1]
    assert any(not torch.equal(usual[name], other[name]) for name in usual)


def test_up_raises_the_error_and_down_lowers_it():
    goal = torch.full((5,), 3.0)
    for uphill in (True, False):
        x = torch.zeros(5).requires_grad_()
        errors = (lambda x=x: (x - goal).square().mean() for _ in range(20))
        found = list(climb([x], errors, optimizer=Optimizer(learning_rate=0.1), uphill=uphill))
        assert (found[-1] > found[0]) == uphill


def test_each_step_moves_a_weight_by_about_the_learning_rate(bundle: DiffusionBundle):
    rate = 1e-3
    found = finish(learn(bundle, FewShotSettings(**QUICK, learning_rate=rate), 0))
    state = bundle.model.state_dict()
    steps = len(found.errors)
    largest = max(float((new - state[n]).abs().max()) for n, new in found.epochs[-1].items())
    assert 0.3 * rate < largest <= 1.2 * steps * rate


@pytest.mark.parametrize("layout", ["sd1", "sd2"])
def test_the_error_is_that_of_the_networks_own_training(layout: str, tmp_path: Path):
    told = load(ModelRef(str(tiny_checkpoint(tmp_path, layout))), "cpu", "float32")
    draw = torch.Generator().manual_seed(0)
    z, noise = (torch.randn(2, 4, 16, 16, generator=draw) for _ in range(2))
    t, cond = torch.tensor([10, 800]), encode_prompt(told, ["a cat", "a dog"])
    signal = alphas_cumprod(told)[t].reshape(-1, 1, 1, 1)
    x = signal.sqrt() * z + (1 - signal).sqrt() * noise
    v = signal.sqrt() * noise - (1 - signal).sqrt() * z
    target = noise if layout == "sd1" else v
    expected = (predict(told, x, t, cond) - target).square().mean()
    found = denoising_error(told, cond.tokens, z, noise, t)
    assert torch.allclose(found, expected)


# ---------------------------------------------------------------------- learning


def test_epoch_0_is_the_original_itself(bundle: DiffusionBundle):
    found = finish(learn(bundle, FewShotSettings(**QUICK), 0))
    assert found.at(bundle, 0) is bundle
    assert len(found.epochs) == 3


@pytest.mark.slow
def test_only_the_chosen_parameters_move_and_the_base_does_not(bundle: DiffusionBundle, same_bits):
    before = {name: t.clone() for name, t in bundle.model.state_dict().items()}
    for parameters in PARAMETERS:
        found = finish(learn(bundle, FewShotSettings(**QUICK, parameters=parameters), 0))
        after = found.at(bundle).model.state_dict()
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved <= set(found.names)
        assert all(name.startswith("text_encoder.") for name in moved)
        assert moved
    assert same_bits(dict(bundle.model.state_dict()), before)


def test_equal_seeds_learn_alike_and_other_seeds_do_not(bundle: DiffusionBundle, same_bits):
    first, again, other = (finish(learn(bundle, FewShotSettings(**QUICK), s)) for s in (3, 3, 4))
    assert same_bits(dict(first.epochs[-1]), dict(again.epochs[-1]))
    assert first.errors == again.errors != other.errors


def test_the_last_batch_is_kept_when_it_is_smaller(bundle: DiffusionBundle):
    settings = FewShotSettings(concept="cat", count=3, batch=2, epochs=2)
    assert settings.updates == len(finish(learn(bundle, settings, 0)).errors) == 4


def test_one_picture_of_ones_own_is_enough(bundle: DiffusionBundle):
    settings = FewShotSettings(source="uploaded", pictures=(picture(),), epochs=1)
    found = finish(learn(bundle, settings, 0))
    assert len(found.errors) == 1
    assert found.pictures[0].shape == (64, 64, 3)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["drawn", "generated", "unrelated"])
def test_every_source_gives_pictures(bundle: DiffusionBundle, source: str):
    found = finish(learn(bundle, FewShotSettings(**QUICK, source=source), 0))
    assert [p.shape for p in found.pictures] == [(64, 64, 3)] * 2


def test_the_unrelated_control_shows_other_things_in_the_same_words(bundle: DiffusionBundle):
    drawn, other = (
        finish(learn(bundle, FewShotSettings(**QUICK, source=source), 0))
        for source in ("drawn", "unrelated")
    )
    assert not np.array_equal(drawn.pictures[0], other.pictures[0])
    assert drawn.names == other.names


def test_a_run_that_breaks_down_stops_with_the_last_good_epoch(bundle: DiffusionBundle):
    settings = FewShotSettings(**QUICK, learning_rate=1e30)
    found = finish(learn(bundle, settings, 0))
    assert "no finite number" in found.stopped
    assert all(t.isfinite().all() for t in found.epochs[-1].values())


def test_two_text_encoders_are_refused(tmp_path: Path):
    told = load(ModelRef(str(tiny_checkpoint(tmp_path, "sdxl"))), "cpu", "float32")
    with pytest.raises(ModelMismatch, match="two text encoders"):
        finish(learn(told, FewShotSettings(**QUICK), 0))


# ---------------------------------------------------------------------- pictures


@pytest.mark.parametrize("fit", ["stretch", "centre", "letterbox"])
def test_pictures_become_squares(fit: str):
    assert fitted(picture(), 32, fit).shape == (32, 32, 3)


def test_a_flip_mirrors_and_pixels_lie_between_minus_one_and_one():
    plain, flipped = (fitted(picture(), 32, flip=flip) for flip in (False, True))
    assert np.array_equal(plain[:, ::-1], flipped)
    assert -1 <= pixels(plain).min() < pixels(plain).max() <= 1


# ---------------------------------------------------------------------- jobs


def job(action: str, folder: Path, **params: object) -> Job:
    return Job(f"{TARGET}:{action}", {"model": str(folder), **QUICK, **params}, 7)


@pytest.mark.slow
def test_a_run_returns_every_bit_and_every_pixel(folder: Path, run_job):
    seen = run_job(job("run", folder, prompts=["a cat", "a dog"], steps=3))
    found = seen[-1].result
    assert found.undo.exactness is Exactness.BITWISE
    assert found.same_pixels
    assert found.weights_before == found.weights_undone != found.weights_after
    assert [look.epoch for look in found.looks] == [0, 1, 2]
    assert found.looks[0].sha256 != found.looks[-1].sha256
    assert {m.part for m in found.moved} == {"mlp", "self_attn"}
    drawn = [e for e in seen if isinstance(e, Progress) and e.preview is not None]
    assert any(e.preview.errors and not e.preview.looks for e in drawn)


def test_a_baked_patch_applies_to_the_model_and_comes_off(folder: Path, run_job, same_bits):
    found = run_job(job("bake", folder, epoch=1))[-1].result
    state = dict(load(ModelRef(str(folder)), "cpu", "float32").model.state_dict())
    edited = found.patch.apply(state)
    assert not same_bits(edited, state)
    assert same_bits(dict(found.patch.undo(edited)), state)
    assert found.patch.recipe.label == "forget cat"
    again = Recipe.from_json(found.patch.recipe.json())
    assert again.params["epoch"] == 1


def test_epoch_0_is_an_empty_patch(folder: Path, run_job):
    found = run_job(job("bake", folder, epoch=0))[-1].result
    assert found.tensors == 0


@pytest.mark.parametrize("form", ["encoder", "partial"])
def test_exact_files_are_read_back_bit_for_bit(folder: Path, run_job, form: str):
    found = run_job(job("export", folder, form=form))[-1].result
    assert found.error == 0


def test_a_lora_of_full_rank_misses_the_biases_alone(folder: Path, run_job):
    found = run_job(job("export", folder, form="lora", rank=64))[-1].result
    (file,) = found.files.values()
    told = load(ModelRef(str(folder)), "cpu", "float32")
    new = finish(learn(told, FewShotSettings(**QUICK), 7)).epochs[-1]
    state = told.model.state_dict()
    back = read_back(file.read(), {n: t for n, t in state.items() if n.startswith("text_")}, "lora")
    for name, tensor in new.items():
        if tensor.ndim == 2:
            assert torch.allclose(back[name], tensor, atol=1e-6)


def test_the_exported_encoder_opens_in_transformers(folder: Path, run_job, tmp_path: Path):
    found = run_job(job("export", folder, form="encoder"))[-1].result
    (file,) = found.files.values()
    (tmp_path / file.name).write_bytes(file.data)
    config = (folder / "text_encoder" / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers.models.clip.modeling_clip import CLIPTextModel

        encoder = CLIPTextModel.from_pretrained(tmp_path, local_files_only=True)
    told = load(ModelRef(str(folder)), "cpu", "float32")
    expected = (
        finish(learn(told, FewShotSettings(**QUICK), 7)).at(told).text_encoders[0].state_dict()
    )
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, expected[name.removeprefix("text_model.")])


def test_the_lora_opens_in_diffusers(folder: Path, run_job, tmp_path: Path):
    found = run_job(job("export", folder, form="lora", rank=4))[-1].result
    (file,) = found.files.values()
    (tmp_path / file.name).write_bytes(file.data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )

        pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
        pipe.load_lora_weights(tmp_path, weight_name=file.name)
    assert any("lora_A" in name for name, _ in pipe.text_encoder.named_parameters())


@pytest.mark.slow
def test_the_curve_counts_what_the_judge_sees(folder: Path, run_job):
    seen = run_job(
        job("curve", folder, pictures_each=2, steps=2, points=1, compared=["descent", "UCE"])
    )
    found = seen[-1].result
    assert [course.name for course in found.courses] == ["mlp-final-attn", "descent", "UCE"]
    assert found.courses[0].points[0].change == 0
    assert found.courses[0].points[-1].change > 0
    assert found.courses[2].is_baseline
    assert sum(found.courses[0].points[0].became.values()) == 2
    assert found.notes


def test_all_that_can_be_compared_is_there():
    from engine.erasing._baselines import MAKERS
    from engine.erasing._eraser import contenders

    known = {*PARAMETERS, "descent", "unrelated pictures", *MAKERS, *contenders()}
    assert set(COMPARED) <= known
    assert "few-shot" in contenders()


@pytest.mark.slow
def test_a_strength_between_mixes_old_and_new(bundle: DiffusionBundle, same_bits):
    erased = finish(few_shot(bundle, Subject.of("cat"), 0))
    state = dict(bundle.model.state_dict())
    assert same_bits(dict(erased.at(0.0).weights()), state)
    whole, half = (dict(erased.at(s).weights()) for s in (1.0, 0.5))
    name = next(n for n in state if not torch.equal(whole[n], state[n]))
    assert torch.allclose(half[name], (whole[name] + state[name]) / 2)


@pytest.mark.parametrize(
    "changed",
    [
        {"concept": ""},
        {"concept": "x" * 200},
        {"concept": None},
        {"kind": "sound"},
        {"source": "uploaded"},
        {"pictures": "no list"},
        {"pictures": [np.zeros((4, 4), np.uint8)]},
        {"pictures": [np.zeros((4, 4, 3), np.float32)]},
        {"pictures": [np.zeros((9000, 2, 3), np.uint8)]},
        {"pictures": [picture()] * 40},
        {"count": 0},
        {"count": True},
        {"epochs": 10**9},
        {"epochs": 1.5},
        {"batch": -1},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": "fast"},
        {"optimizer": "SGD"},
        {"beta1": 1.0},
        {"beta2": -0.1},
        {"eps": 0},
        {"weight_decay": float("inf")},
        {"parameters": "all of them"},
        {"direction": "sideways"},
        {"fit": "crop"},
        {"prompts": []},
        {"steps": 0},
        {"looks": 99},
        {"guidance_scale": float("inf")},
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_anything_is_loaded(run_job, changed: dict):
    seen = run_job(Job(f"{TARGET}:run", {"model": "/nowhere", **changed}, 0), may_fail=True)
    assert len(seen) == 1
    assert isinstance(seen[0], Failed)
    assert not seen[0].error_id, seen[0].detail
    assert seen[0].advice


def test_a_thing_that_the_world_cannot_draw_is_named(folder: Path, run_job):
    seen = run_job(job("run", folder, concept="zebra"), may_fail=True)
    assert 'no drawings of "zebra"' in seen[-1].message
    assert "Upload pictures" in seen[-1].advice


def test_an_epoch_beyond_the_run_is_refused(folder: Path, run_job):
    seen = run_job(job("bake", folder, epoch=3), may_fail=True)
    assert isinstance(seen[-1], Failed)
    assert "no epoch 3" in seen[-1].message
    with pytest.raises(BadInput):
        FewShotSettings.of(source="uploaded")


def test_a_hub_model_that_cannot_be_had_is_a_sentence(run_job, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    params = {**QUICK, "model": "nobody/no-such-model"}
    seen = run_job(Job(f"{TARGET}:run", params, 0), may_fail=True)
    assert isinstance(seen[-1], Failed)
    assert not seen[-1].error_id, seen[-1].detail
    assert not any(isinstance(event, Done) for event in seen)

"""RECE and UCE: the closed form against published arrays, its limits, and the edit of a model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from engine.core.errors import BadInput, ModelMismatch
from engine.core.golden import check_all
from engine.core.job import Done, Failed, Job, Progress, finish
from engine.core.patch import Patch
from engine.core.recipe import Recipe
from engine.core.reversible import Exactness
from engine.erasing.rece import closed_form as cf
from engine.erasing.rece import golden as cases
from engine.erasing.rece import per_layer
from engine.erasing.rece.algorithm import attack
from engine.erasing.rece.edit import Edit, ReceSettings, erase, projections
from engine.erasing.rece.token_rows import Encoded, encode, kept_rows, pair
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle, encode_prompt, predict
from engine.models.library import ModelRef, load, with_tensors
from tests.tiny import tiny_checkpoint

TARGET = "engine.erasing.rece.algorithm"
RECIPE = Recipe("rece")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> DiffusionBundle:
    return load(ModelRef(str(folder)), "cpu", "float32")


def settings(**changed: object) -> ReceSettings:
    return ReceSettings.of(**({"retain": ["dog", "car"], "epochs": 1} | changed))


# ---------------------------------------------------------------------- golden arrays


@pytest.mark.golden
@pytest.mark.parametrize("name", cases.CHECKS)
def test_published_code_and_this_one_agree(name: str):
    for case in finish(check_all({name: cases.CHECKS[name]})).cases:
        assert case.error <= case.tolerance, case


# ---------------------------------------------------------------------- the closed form


def random_pair(seed: int, rows: int = 5, width: int = 12) -> tuple[cf.Pair, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    old, new, kept = (
        torch.randn(rows, width, generator=draw, dtype=torch.float64) for _ in range(3)
    )
    return cf.Pair(old, new), cf.gram(kept)


@pytest.mark.slow
@given(st.integers(0, 10_000), st.floats(0.01, 10), st.floats(0, 2), st.floats(0.01, 5))
def test_the_map_minimises_the_published_objective(seed, ridge, preserve, erase_scale):
    """At the minimum over all W' every direction leads uphill."""
    edited, keep = random_pair(seed)
    scales = cf.Scales(erase_scale, preserve, ridge)
    m = cf.redirect([edited], keep, scales).map
    weight = torch.randn(4, 12, generator=torch.Generator().manual_seed(seed + 1)).double()

    def objective(w: torch.Tensor) -> torch.Tensor:
        gap = w @ edited.old.T - weight @ edited.new.T
        change = w - weight
        kept = torch.einsum("od,de,oe->", change, keep, change)
        return erase_scale * gap.square().sum() + preserve * kept + ridge * change.square().sum()

    w = (weight @ m).requires_grad_(True)
    (gradient,) = torch.autograd.grad(objective(w), w)
    size = float(weight.abs().max() * edited.old.abs().max() ** 2) * max(1, erase_scale)
    assert float(gradient.abs().max()) < 1e-9 * max(1.0, size) * 100


def test_a_concept_that_equals_its_guide_gives_exactly_the_identity():
    edited, keep = random_pair(3)
    same = cf.Pair(edited.old, edited.old.clone())
    m = cf.redirect([same], keep, cf.Scales(1.0, 0.1, 0.5)).map
    assert torch.equal(m, torch.eye(12, dtype=torch.float64))


def test_one_map_and_each_projection_for_itself_agree():
    edited, _ = random_pair(5)
    kept_rows_ = torch.randn(5, 12, generator=torch.Generator().manual_seed(9)).double()
    scales = cf.Scales(1.0, 0.3, 0.5)
    m = cf.redirect([edited], cf.gram(kept_rows_), scales).map
    for width in (3, 7):
        weight = torch.randn(width, 12, generator=torch.Generator().manual_seed(width)).double()
        theirs = per_layer.uce(weight, [edited], [kept_rows_], scales)
        assert torch.allclose(weight @ m, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.slow
def test_rece_without_epochs_is_uce(bundle):
    uce, rece = erase(bundle, settings(epochs=0)), erase(bundle, settings(epochs=2))
    assert torch.equal(uce.map, rece.stages[0].map)
    assert [stage.name for stage in rece.stages] == ["UCE", "RECE epoch 1", "RECE epoch 2"]


@pytest.mark.slow
def test_the_attack_tends_to_the_inverse_of_the_map_as_its_regulariser_vanishes(bundle):
    edit = erase(bundle, settings(epochs=0))
    rows = encode(bundle, ["cat"])["cat"].rows
    layers = cf.Layers(edit.gram, edit.gram).mapped(edit.map)
    derived = cf.derive(rows, layers, 1e-9)
    brought_back = derived @ edit.map.T
    assert torch.allclose(brought_back, rows, atol=1e-3 * float(rows.abs().max()))


def test_an_epoch_presses_the_map_flatter(bundle):
    edit = erase(bundle, settings(epochs=2))
    smallest = [float(values[-1]) for values in edit.singular_values]
    assert smallest[0] > smallest[1] > smallest[2]


def test_erasing_moves_the_erased_text_more_than_the_kept(bundle):
    edit = erase(bundle, settings(epochs=0))
    texts = encode(bundle, ["cat", "animal", "dog"])
    erased = pair(texts["cat"], texts["animal"], "classic")
    before = cf.residual(torch.eye(len(edit.gram)).double(), edit.gram, erased.old, erased.new)
    after = cf.residual(edit.map, edit.gram, erased.old, erased.new)
    kept = cf.residual(edit.map, edit.gram, texts["dog"].rows, texts["dog"].rows)
    assert after < 0.5 * before
    assert kept < 0.2


def test_equations_without_a_single_solution_are_refused():
    edited, _ = random_pair(1)
    nothing = torch.zeros(12, 12, dtype=torch.float64)
    with pytest.raises(BadInput, match="ridge"):
        cf.redirect([edited], nothing, cf.Scales(1.0, 0.0, 0.0))


# ---------------------------------------------------------------------- token rows


def encoded(words: int, tokens: int = 8) -> Encoded:
    rows = torch.arange(tokens * 2, dtype=torch.float64).reshape(tokens, 2) + 100 * words
    return Encoded("x" * words, rows, words)


@pytest.mark.parametrize(("old", "new"), [(1, 1), (3, 1), (1, 3), (0, 2)])
def test_classic_rows_start_at_the_last_word_and_are_equally_many(old: int, new: int):
    found = pair(encoded(old), encoded(new), "classic")
    assert len(found.old) == len(found.new) == 8 - max(old, new)
    assert torch.equal(found.old[0], encoded(old).rows[old])
    assert torch.equal(found.new[0], encoded(new).rows[new])


def test_the_last_token_rule_takes_one_row_and_all_takes_every_row():
    assert torch.equal(pair(encoded(2), encoded(1), "last").old, encoded(2).rows[2:3])
    assert torch.equal(kept_rows(encoded(2), "last"), encoded(2).rows[2:3])
    assert len(pair(encoded(2), encoded(1), "all").old) == 8


def test_the_last_word_of_an_empty_text_is_its_start_token(bundle):
    found = encode(bundle, ["", "cat", "a red cat"])
    assert [text.last_word for text in found.values()] == [0, 1, 3]


def test_a_concept_longer_than_the_encoder_is_refused(bundle):
    with pytest.raises(BadInput, match="too long"):
        encode(bundle, ["cat " * 30])


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "bad",
    [
        {"concepts": []},
        {"concepts": ["  "]},
        {"concepts": [3]},
        {"concepts": None},
        {"guides": None},
        {"retain": None},
        {"concepts": ["x" * 400]},
        {"concepts": ["cat"] * 60},
        {"concepts": ["cat", "dog", "car"], "guides": ["a", "b"]},
        {"epochs": -1},
        {"epochs": 6},
        {"epochs": True},
        {"epochs": 1.5},
        {"ridge": 0},
        {"ridge": float("nan")},
        {"ridge": float("inf")},
        {"reg": -1},
        {"erase_scale": "much"},
        {"rule": "newest"},
        {"technique": None},
        {"layers_to_edit": []},
        {"layers_to_edit": [-1]},
        {"layers_to_edit": [True]},
        {"layers_to_edit": [0.5]},
        {"layers_to_edit": "all"},
        {"regulariser": "best"},
    ],
    ids=str,
)
def test_bad_settings_are_refused_with_advice(bad: dict):
    with pytest.raises(BadInput) as refused:
        ReceSettings.of(**bad)
    assert refused.value.advice


def test_a_list_in_one_text_is_split_and_groups_have_names():
    assert ReceSettings.of(concepts="cat, red dog").concepts == ("cat", "red dog")
    assert len(ReceSettings.of(concepts=["imagenette"]).concepts) == 10


def test_the_preserve_rule_of_uce():
    assert settings(retain=[]).scales().preserve == 1.0
    assert settings(retain=[f"word {i}" for i in range(40)]).scales().preserve == 0.1
    assert settings(preserve_scale=0.7).scales().preserve == 0.7


def test_what_is_erased_is_not_kept_and_the_empty_prompt_is():
    assert settings(retain=["cat", "dog"]).kept() == ("", "dog")
    assert settings(retain=["cat", "dog"], rule="last").kept() == ("dog",)


def test_templates_frame_concept_and_guide():
    framed = settings(templates="object", guides=["animal"]).pairs()
    assert framed[0] == ("cat", "animal")
    assert ("photo of cat", "photo of animal") in framed
    plain = settings(templates="object", template_guides=False).pairs()
    assert ("photo of cat", "animal") in plain


def test_settings_survive_the_way_through_a_recipe():
    chosen = settings(concepts=["cat", "dog"], preserve_scale=0.2, epoch_retain=[""])
    recipe = Recipe("rece", params=chosen.plain())
    again = Recipe.from_json(recipe.json()).params
    assert ReceSettings.of(**again) == chosen


# ---------------------------------------------------------------------- the edit of a model


def test_at_strength_0_nothing_is_touched(bundle, same_bits):
    edit = erase(bundle, settings())
    cond = encode_prompt(bundle, ["a cat"])
    assert edit.on_context(cond, 0.0) is cond
    state = bundle.model.state_dict()
    assert same_bits(edit.bake(state, 0.0), {name: state[name] for name in edit.names})
    assert torch.equal(cf.at_strength(edit.map, 0.0), torch.eye(len(edit.map)).double())


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("epochs", [0, 2])
def test_side_car_and_baked_weights_say_the_same(bundle, strength: float, epochs: int):
    edit = erase(bundle, settings(epochs=epochs))
    cond = encode_prompt(bundle, ["a cat", "a dog"])
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        beside = predict(bundle, x, 500, edit.on_context(cond, strength))
        baked = edited_bundle(bundle, edit.bake(bundle.model.state_dict(), strength))
        inside = predict(baked, x, 500, cond)
        plain = predict(bundle, x, 500, cond)
    # float32 round-off through a network of some twenty layers
    assert float((beside - inside).abs().max()) < 1e-5 * float(inside.abs().max())
    assert float((beside - plain).abs().max()) > 1e-4 * float(inside.abs().max())


def edited_bundle(bundle: DiffusionBundle, tensors: Mapping[str, torch.Tensor]) -> DiffusionBundle:
    return replace(bundle, model=with_tensors(bundle.model, tensors))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_patch_of_a_baked_edit_is_undone_bit_for_bit(folder: Path, dtype: str, same_bits):
    bundle = load(ModelRef(str(folder)), "cpu", dtype)
    edit = erase(bundle, settings(epochs=2))
    old = dict(bundle.model.state_dict())
    patch = Patch.between(old, old | edit.bake(old), RECIPE)
    applied = patch.apply(old)
    assert set(patch.before) == set(edit.names)
    assert not same_bits(dict(applied), old)
    assert same_bits(dict(patch.undo(applied)), old)


@pytest.mark.parametrize(
    "changed",
    [
        {"rule": "last"},
        {"rule": "all"},
        {"technique": "tensor"},
        {"part": "keys"},
        {"part": "values"},
        {"regulariser": "standard"},
        {"regulariser": "surrogate_2nd"},
        {"regulariser": "surrogate_both"},
        {"concepts": ["cat", "dog"], "guides": ["animal", "thing"], "retain": ["car"]},
        {"templates": "art"},
        {"guides": [""]},
    ],
    ids=str,
)
def test_every_variant_gives_finite_weights_that_differ(bundle, changed: dict):
    edit = erase(bundle, settings(**changed))
    state = bundle.model.state_dict()
    baked = edit.bake(state)
    expected = len(edit.names) if "part" not in changed else len(projections(bundle)) // 2
    assert len(baked) == expected
    for name, tensor in baked.items():
        assert bool(torch.isfinite(tensor).all())
        assert not torch.equal(tensor, state[name])


@pytest.mark.parametrize("technique", ["replace", "tensor"])
def test_layers_to_edit_are_edited_as_published_and_the_others_left_alone(bundle, technique):
    """Against the published loop over projections, and its attack through all of them."""
    every = {n: w.detach().double() for n, w in projections(bundle).items()}
    chosen = (0, len(every) // 2, len(every) - 1)
    told = settings(layers_to_edit=list(chosen), technique=technique, epochs=1)
    edit, names = erase(bundle, told), list(every)
    assert edit.names == tuple(names[number] for number in chosen)
    assert not told.is_side_car
    texts = encode(bundle, [*(t for both in told.pairs() for t in both), *told.kept()])
    rows = [pair(texts[old], texts[new], told.rule) for old, new in told.pairs()]
    kept = [kept_rows(texts[text], told.rule) for text in told.kept()]
    after_uce = dict(every)
    for name in edit.names:
        if technique == "replace":
            after_uce[name] = per_layer.uce(every[name], rows, kept, told.scales())
        else:
            keep = torch.stack([cf.gram(r) for r in kept]).sum(0)
            m = cf.redirect_orthogonal(every[name], rows, keep, told.scales())
            after_uce[name] = every[name] @ m
    truth = per_layer.derived(
        list(after_uce.values()), list(every.values()), texts["cat"].rows, told.reg
    )
    derived = edit.stages[1].derived[0]
    assert torch.allclose(derived, truth, rtol=0, atol=1e-8 * float(truth.abs().max()))
    state = bundle.model.state_dict()
    baked = edit.bake(state)
    assert list(baked) == list(edit.names)
    assert all(not torch.equal(tensor, state[name]) for name, tensor in baked.items())


def test_all_layers_by_number_are_all_layers(bundle):
    numbers = list(range(len(projections(bundle))))
    plain, numbered = (
        erase(bundle, settings(epochs=2, layers_to_edit=chosen)) for chosen in (None, numbers)
    )
    assert torch.allclose(plain.map, numbered.map, rtol=0, atol=1e-9)


def test_a_layer_that_there_is_not_is_named_with_those_there_are(bundle):
    with pytest.raises(BadInput, match="this model has") as refused:
        erase(bundle, settings(layers_to_edit=[0, 999]))
    assert "attn2.to_k.weight" in refused.value.advice


def test_two_erasures_at_once_are_not_one_after_the_other(bundle):
    both = erase(bundle, settings(concepts=["cat", "dog"], retain=["car"], epochs=0)).map
    one = erase(bundle, settings(concepts=["cat"], retain=["car"], epochs=0)).map
    other = erase(bundle, settings(concepts=["dog"], retain=["car"], epochs=0)).map
    assert not torch.allclose(both, one @ other, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sd2", "sdxl"])
def test_other_layouts_are_edited_by_the_same_code(tmp_path: Path, layout, same_bits):
    bundle = load(ModelRef(str(tiny_checkpoint(tmp_path / layout, layout))), "cpu", "float32")
    edit = erase(bundle, settings())
    assert len(edit.map) == bundle.unet.config.cross_attention_dim
    cond = encode_prompt(bundle, ["a cat"])
    assert edit.on_context(cond).tokens.shape == cond.tokens.shape
    assert same_bits(edit.on_context(cond).pooled, cond.pooled) or cond.pooled is None


def test_a_network_without_cross_attention_is_named(bundle):
    other = nn.ModuleDict({"unet": nn.Linear(2, 2)})
    other["unet"].config = bundle.unet.config
    with pytest.raises(ModelMismatch, match="cross-attention"):
        projections(replace(bundle, model=other))


def test_the_attack_brings_the_original_noise_prediction_back(bundle):
    """On the UCE model the derived embedding says nearly what the prompt said before."""
    edit: Edit = erase(bundle, settings(epochs=0, reg=1e-6))
    cond, uncond = encode_prompt(bundle, ["a cat"]), encode_prompt(bundle, [""])
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        truth = predict(bundle, x, 500, cond) - predict(bundle, x, 500, uncond)
        erased = predict(bundle, x, 500, edit.on_context(cond)) - predict(bundle, x, 500, uncond)
        back = predict(bundle, x, 500, edit.on_context(attack(edit, 0, cond)))
        back = back - predict(bundle, x, 500, uncond)
    assert float((back - truth).norm()) < 0.1 * float((erased - truth).norm())


# ---------------------------------------------------------------------- the jobs


def job(folder: Path, action: str, **params: object) -> Job:
    return Job(f"{TARGET}:{action}", {"model": str(folder), **params}, seed=3)


@pytest.mark.slow
def test_a_run_ends_where_it_began(folder: Path, run_job):
    *_, end = run_job(job(folder, "run", steps=3, retain=["dog"]))
    found = end.result
    assert found.sha256["undone"] == found.sha256["original"] != found.sha256["edited"]
    assert found.undo.exactness is Exactness.BITWISE
    assert found.weights_before == found.weights_after
    assert np.array_equal(found.original, found.undone)


def test_a_run_at_strength_0_draws_the_original(folder: Path, run_job):
    *_, end = run_job(job(folder, "run", steps=3, strength=0.0))
    assert len(set(end.result.sha256.values())) == 1


@pytest.mark.slow
def test_a_run_reports_what_it_did_to_each_group_of_texts(folder: Path, run_job):
    *_, end = run_job(job(folder, "run", steps=2, retain=["dog"], epochs=1))
    told = {(r.stage, r.group): r.value for r in end.result.residuals}
    assert told["original", "kept"] == told["original", "held out"] == 0
    assert told["UCE", "erased"] < told["original", "erased"]
    assert told["UCE", "kept"] < told["UCE", "held out"]
    assert end.result.timing.largest_difference < 5e-3


def test_an_unknown_word_and_a_blank_guide_are_pointed_out(folder: Path, run_job):
    *_, end = run_job(job(folder, "run", steps=1, concepts=["zebra"], guides=[" "]))
    told = " ".join(end.result.notes)
    assert "zebra" in told
    assert "poor guide" in told


def test_the_comeback_shows_every_stage(folder: Path, run_job):
    *_, end = run_job(job(folder, "comeback", steps=2, epochs=2))
    assert [row.stage for row in end.result.stages] == ["UCE", "RECE epoch 1", "RECE epoch 2"]
    first, *_ = end.result.stages
    assert np.array_equal(first.old, first.fresh)


def test_a_baked_edit_comes_back_bit_for_bit_and_carries_its_recipe(folder: Path, run_job):
    *_, end = run_job(job(folder, "bake", concepts=["cat"], strength=0.5))
    baked = end.result
    assert baked.before == baked.undone != baked.after
    assert baked.undo.exactness is Exactness.BITWISE
    assert baked.patch.recipe.label == "erase cat"
    assert baked.patch.recipe.params["strength"] == 0.5
    again = baked.patch.recipe.job(f"{TARGET}:bake")
    *_, end = run_job(again)
    assert end.result.digest == baked.digest


@pytest.mark.parametrize("action", ["run", "comeback", "bake", "export"])
def test_a_setting_that_does_not_exist_is_refused(folder: Path, action: str, run_job):
    seen = run_job(job(folder, action, colour="red"), may_fail=True)
    assert isinstance(seen[-1], Failed)
    assert "colour" in seen[-1].message


def test_a_run_reports_progress_and_previews(folder: Path, run_job):
    seen = run_job(job(folder, "run", steps=3))
    previews = [event.preview for event in seen if isinstance(event, Progress) and event.preview]
    assert previews[-1].undone is not None
    assert isinstance(seen[-1], Done)


def test_pictures_of_one_noise_are_equal_bits(bundle, same_bits):
    cond = encode_prompt(bundle, ["a cat"])
    noise = drawing.start_noise(bundle, 3, 1)
    ends = []
    for _ in range(2):
        *_, last = drawing.walk(bundle, cond, cond, noise, steps=2, guidance_scale=2.0)
        ends.append(last.z)
    assert same_bits(*ends)


def test_the_golden_cases_run_in_the_panel(run_job):
    *_, end = run_job(Job("engine.erasing.rece.golden:run", {}, seed=0))
    assert len(end.result.cases) == 2 * 7
    assert all(case.error <= case.tolerance for case in end.result.cases)

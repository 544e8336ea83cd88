"""Drawing with a text-to-image model: views, noise, previews and embeddings in place of prompts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.errors import BadInput
from engine.models import drawing
from engine.models.diffusion import DiffusionBundle, empty_prompt, encode_prompt
from engine.models.drawing import View, open_bundle
from engine.models.library import ModelRef


@pytest.fixture
def bundle(tiny: dict[str, Path]) -> DiffusionBundle:
    return open_bundle(str(tiny["sd1"]))


def test_a_key_and_its_reference_are_one_model(tiny):
    source = str(tiny["sd1"])
    assert open_bundle(source) is open_bundle(ModelRef(source))


def test_prompts_in_one_text_stand_between_semicolons():
    assert View.of("a cat; a dog, running;", 3, 2.0).prompts == ("a cat", "a dog, running")
    assert View.of(["a; b"], 3, 2.0).prompts == ("a; b",)


@pytest.mark.parametrize(
    "bad",
    [
        {"prompts": []},
        {"prompts": " ; "},
        {"prompts": ["a"] * 13},
        {"prompts": ["x" * 1001]},
        {"steps": 0},
        {"guidance_scale": float("nan")},
        {"guidance_scale": 31.0},
    ],
    ids=str,
)
def test_a_view_that_cannot_be_drawn_is_refused_with_advice(bad):
    with pytest.raises(BadInput) as refused:
        View.of(**{"prompts": ["a cat"], "steps": 3, "guidance_scale": 2.0, **bad})
    assert refused.value.advice


def test_each_picture_has_noise_of_its_own_whatever_the_batch(bundle):
    many, few = (drawing.start_noise(bundle, 3, count) for count in (4, 2))
    assert torch.equal(many[:2], few)
    assert not torch.equal(many[0], many[1])
    assert drawing.start_noise(bundle, 3, shape=(4, 2, 6)).shape == (1, 4, 2, 6)


@pytest.mark.slow
def test_the_last_preview_is_what_is_drawn(bundle):
    view = View.of(["a cat", "a dog"], 5, 2.0)
    seen = list(view.preview(bundle, view.walk(bundle, 7)))
    assert [done for done, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[1][1] is seen[2][1] is not seen[3][1]  # a new one after every third step
    assert np.array_equal(seen[-1][1], view.draw(bundle, 7))


def test_embeddings_of_the_prompts_give_the_pictures_of_the_prompts(bundle):
    view = View.of(["a cat", "a dog"], 3, 2.0)
    cond, uncond = encode_prompt(bundle, view.prompts), empty_prompt(bundle)
    *_, last = view.walk_with(bundle, cond, uncond, view.noise(bundle, 7))
    assert np.array_equal(drawing.decode(bundle, last.z), view.draw(bundle, 7))


def test_without_guidance_one_row_a_sample_is_evaluated(bundle):
    model = drawing.denoiser(bundle, encode_prompt(bundle, ["a cat"]), None, 1.0)
    model(drawing.start_noise(bundle, 0, 2), float(model.path.t_max))
    assert (model.nfe, model.rows) == (1, 2)


def test_the_key_of_a_cache_tells_apart_what_the_pixels_depend_on(bundle):
    view = View.of(["a cat"], 3, 2.0)
    others = [View.of(["a dog"], 3, 2.0), View.of(["a cat"], 4, 2.0), View.of(["a cat"], 3, 3.0)]
    keys = {view.cache_key(bundle, 7), view.cache_key(bundle, 8)}
    keys |= {other.cache_key(bundle, 7) for other in others}
    assert len(keys) == 5
    assert view.cache_key(bundle, 7) in keys


def test_a_model_that_takes_no_prompts_is_refused():
    with pytest.raises(BadInput, match="no text-to-image model"):
        open_bundle("score-vp")


@pytest.mark.slow
def test_words_that_a_model_never_saw_are_named_once():
    note = drawing.unknown_words_note(open_bundle("world"), ["a cat", "a zebra", "zebra"])
    assert len(note) == 1
    assert note[0].count("zebra") == 1
    assert drawing.unknown_words_note(open_bundle("world"), ["a cat"]) == ()

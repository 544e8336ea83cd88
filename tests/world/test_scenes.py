"""The embedded world: what is drawn is what is labelled, and what is said is true of it."""

import numpy as np
import pytest

from engine.world import vocabulary as words
from engine.world.scenes import Scene, caption, draw, random_scene
from engine.world.sprites import load_sprites
from engine.world.styles import PICTURE


@pytest.fixture
def generator():
    return np.random.default_rng(5)


def test_every_object_was_drawn_by_most_artists():
    sprites = load_sprites()
    assert all(len(sprites.artists_of(name)) >= 6 for name in words.OBJECTS)


def test_equal_seed_gives_equal_pictures():
    scene = Scene("watercolor", "pink", "cat", "inside", "box")
    first, second = (draw(scene, load_sprites(), np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("style", words.STYLES)
def test_a_scene_is_drawn_in_every_style_and_differs_from_the_empty_canvas(style, generator):
    sprites = load_sprites()
    drawn = draw(Scene(style, "white", "elephant"), sprites, np.random.default_rng(0))
    empty = draw(Scene(style, "white"), sprites, np.random.default_rng(0))
    assert drawn.shape == (PICTURE, PICTURE, 3)
    assert drawn.dtype == np.uint8
    changed = np.abs(drawn.astype(int) - empty).max(-1) > 20
    assert changed.mean() > 0.04


def test_left_and_top_come_first():
    sprites, generator = load_sprites(), np.random.default_rng(1)
    beside, above = (
        draw(
            Scene("plain", "white", "heart", relation, "frog"), sprites, generator, side=64
        ).astype(int)
        for relation in ("left of", "on top of")
    )
    red = lambda picture: (picture[..., 0] - picture[..., 1]).clip(0).sum((0, 1))  # noqa: E731
    assert red(beside[:, :32]) > 3 * red(beside[:, 32:])
    assert red(above[:32]) > 3 * red(above[32:])


def test_what_comes_close_to_a_word_is_a_word_of_the_captions():
    known = set(words.trained_words())
    assert set(words.NEAR.values()) <= known
    assert not known & set(words.NEAR)


def test_labels_lead_back_to_the_scene(generator):
    sprites = load_sprites()
    for _ in range(200):
        scene = random_scene(generator, sprites)
        assert Scene.from_labels(scene.labels) == scene


@pytest.mark.slow
def test_captions_use_trained_words_only(generator):
    known = set(words.trained_words())
    sprites = load_sprites()
    for _ in range(2000):
        text = caption(random_scene(generator, sprites), generator)
        assert set(text.replace(",", "").split()) <= known, text


@pytest.mark.slow
def test_a_caption_never_names_what_is_not_there(generator):
    sprites = load_sprites()
    for _ in range(2000):
        scene = random_scene(generator, sprites)
        said = caption(scene, generator).replace(",", "").split()
        objects = {word for word in said if word in words.OBJECTS}
        assert objects <= {scene.subject, scene.other}
        for style in ("neon", "sketch", "blueprint", "watercolor"):
            assert (style in said) == (scene.style == style)


def test_the_word_stands_at_the_first_and_at_the_last_place(generator):
    texts = [caption(Scene("neon", "white", "cat"), generator) for _ in range(300)]
    assert any(text.startswith("a cat") for text in texts)
    assert any(text.endswith(" cat") for text in texts)
    assert "neon cat" in texts


def test_a_set_of_artists_can_be_held_out():
    few = load_sprites().only(("noto",))
    assert few.artists_of("cat") == ["noto"]
    assert few.by("twemoji", "cat") is None


@pytest.mark.parametrize("style", words.STYLES)
def test_a_larger_picture_averages_to_the_smaller_one(style):
    scene = Scene(style, "pink", "turtle", "inside", "box")
    small, large = (
        draw(scene, load_sprites(), np.random.default_rng(2), side=side) for side in (64, 128)
    )
    assert large.shape == (128, 128, 3)
    mean = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(mean - small).max() <= 1


def test_a_side_that_does_not_divide_the_canvas_is_refused():
    with pytest.raises(ValueError, match="100 pixels"):
        draw(Scene(), load_sprites(), np.random.default_rng(0), side=100)


def test_what_comes_often_comes_often_and_no_weights_change_nothing(generator):
    sprites = load_sprites()
    scenes = [random_scene(generator, sprites, often={"cat": 12, "neon": 3}) for _ in range(400)]
    cats = sum(scene.subject == "cat" for scene in scenes)
    assert cats > 4 * sum(scene.subject == "frog" for scene in scenes)
    assert sum(scene.style == "neon" for scene in scenes) > 100
    first, again = (np.random.default_rng(1) for _ in range(2))
    assert random_scene(first, sprites) == random_scene(again, sprites, often={})


def test_an_artist_is_named_at_the_end_of_a_caption(generator):
    texts = {caption(Scene("neon", "white", "cat"), generator, "noto-v1") for _ in range(20)}
    assert all(text.endswith(" in the style of blob") for text in texts)
    assert set(words.ARTISTS) == set(load_sprites().artists)

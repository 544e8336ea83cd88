"""Recipes: every written form leads back to the equal recipe, and what is wrong is refused."""

import ast
import io
import json
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.core import budgets
from engine.core.errors import BadInput
from engine.core.recipe import RESERVED, ModelRef, Recipe, versions_here
from engine.pictures import as_text, from_text

LETTERS = "abcdefghijklmnopqrstuvwxyz"
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
# Texts that could be taken for another kind of value, or for a flag.
awkward = st.sampled_from(["7", "true", "null", '"a"', "[1]", "--seed", "-1", "a=b", "1e5", ""])
values = (
    scalars | awkward | st.lists(scalars, max_size=3) | st.dictionaries(texts, scalars, max_size=2)
)
names = st.text(LETTERS + "AZ_09", max_size=8).map("x{}".format)
digests = st.text("0123456789abcdef", min_size=8, max_size=12)
models = st.tuples(texts, st.none() | texts, st.lists(digests, max_size=3).map(tuple))
versions = st.text("abcXYZ019.+-", min_size=1, max_size=6)
recipe_fields = st.fixed_dictionaries(
    {
        "method": st.text(LETTERS + "_", max_size=8).map("m{}".format),
        "action": st.sampled_from(["run", "rewind"]),
        "model": st.none() | models,
        "params": st.dictionaries(names, values, max_size=4),
        "seed": st.integers(0, 2**63 - 1),
        "versions": st.dictionaries(st.sampled_from(["torch", "my-lib_2"]), versions, max_size=2),
        "label": texts,
    }
)
MANY = settings(max_examples=50)


def made(fields) -> Recipe:
    # Built here and not in the strategy: the type checks of the test run draw random numbers.
    model = fields["model"] and ModelRef(*fields["model"])
    return Recipe(**{**fields, "model": model})


CAT = Recipe(
    "nfe_lab",
    params={"prompt": "a cat", "steps": 10, "guidance": 2.5, "solvers": ["ddim", "heun"]},
    seed=7,
    model=ModelRef("world"),
)


def picture(mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    shades = np.random.default_rng(0).integers(0, 256, (8, 9, 4)).astype(np.uint8)
    Image.fromarray(shades, "RGBA").convert(mode).save(file, "PNG")
    return file.getvalue()


# ---------------------------------------------------------------------- there and back


@pytest.mark.slow
@MANY
@given(recipe_fields)
def test_json_leads_back(fields):
    recipe = made(fields)
    assert Recipe.from_json(recipe.json()) == recipe
    assert Recipe.from_json(recipe.json()).json() == recipe.json()


@pytest.mark.slow
@MANY
@given(recipe_fields)
def test_the_link_leads_back_and_is_short(fields):
    recipe = made(fields)
    query = recipe.query()
    assert len(query) < budgets.LINK_CHARACTERS
    assert query.isascii()
    assert Recipe.from_query(query) == recipe


@MANY
@given(recipe_fields)
def test_the_command_line_leads_back(fields):
    recipe = made(fields)
    words = shlex.split(recipe.command())
    assert words[:3] == ["python", "-m", "engine"]
    assert Recipe.from_arguments(words[3:]) == recipe


@MANY
@given(recipe_fields)
def test_the_api_call_leads_back(fields):
    recipe = made(fields)
    said = {
        node.arg: ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(recipe.api_call("http://127.0.0.1:7860/")))
        if isinstance(node, ast.keyword)
    }
    assert Recipe.from_json(said["recipe"]) == recipe
    assert said["api_name"] == recipe.endpoint


@MANY
@given(recipe_fields)
def test_the_picture_leads_back(fields):
    recipe = made(fields)
    assert Recipe.from_png(recipe.stamp(picture())) == recipe


@MANY
@given(scalars)
def test_minus_zero_and_kinds_survive(value):
    recipe = Recipe("m", params={"x": value})
    for back in (Recipe.from_json(recipe.json()), Recipe.from_arguments(recipe.arguments())):
        assert repr(back.params["x"]) == repr(recipe.params["x"])


# ---------------------------------------------------------------------- how it reads


def test_the_link_is_flat_and_readable():
    assert CAT.query() == (
        "method=nfe-lab&prompt=a+cat&steps=10&guidance=2.5&solvers=%5B%22ddim%22%2C%22heun%22%5D"
        "&seed=7&model=world&schema=1"
    )


def test_the_command_reads_as_one_would_type_it():
    assert CAT.command() == (
        "python -m engine run nfe-lab --prompt 'a cat' --steps 10 --guidance 2.5 "
        """--solvers '["ddim","heun"]' --seed 7 --model world"""
    )


def test_equal_recipes_have_equal_json_in_any_order_of_settings():
    turned = Recipe("nfe_lab", params=dict(reversed(CAT.params.items())), seed=7, model=CAT.model)
    assert turned.json() == CAT.json()


def test_a_number_and_its_text_stay_apart():
    recipe = Recipe("m", params={"number": 7, "text": "7", "yes": "true", "quoted": '"a"'})
    assert Recipe.from_query(recipe.query()).params == recipe.params


def test_a_typed_equals_sign_is_read_too():
    recipe = Recipe.from_arguments(["run", "nfe-lab", "--prompt=a=b", "--seed=3"])
    assert (recipe.params, recipe.seed) == ({"prompt": "a=b"}, 3)


def test_the_job_carries_model_settings_and_seed():
    job = CAT.job("engine.sampling.nfe_lab.algorithm:run")
    assert job.seed == 7
    assert job.params == {**CAT.params, "model": ModelRef("world")}


def test_settings_are_copied_and_tuples_become_lists():
    solvers = ["ddim"]
    recipe = Recipe("m", params={"a": solvers, "b": (1, 2), "c": np.float32(0.5)})
    solvers.append("heun")
    assert recipe.params == {"a": ["ddim"], "b": [1, 2], "c": 0.5}


# ---------------------------------------------------------------------- versions


def test_a_mismatch_of_versions_is_announced_with_the_method():
    made = Recipe("nfe_lab", versions={"torch": "2.8.0", "numpy": "2.4.6"})
    sentence = made.mismatch({"torch": "2.13.0", "numpy": "2.4.6"})
    assert "nfe-lab" in sentence
    assert "torch 2.8.0 (here 2.13.0)" in sentence
    assert "numpy" not in sentence
    assert not made.mismatch({"torch": "2.8.0", "numpy": "2.4.6"})


def test_here_notes_the_installed_versions():
    assert CAT.here().versions == versions_here()
    assert not CAT.here().mismatch()


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), "\ud800", "a\0b", 2**64, object(), b"x", {1: 2}, {1, 2}],
)
def test_what_cannot_be_written_down_is_refused(value):
    with pytest.raises(BadInput):
        Recipe("m", params={"x": value})


@pytest.mark.parametrize("name", [*RESERVED, "_hidden", "two words", "", "a-b", "x" * 65])
def test_a_setting_cannot_take_a_name_of_the_recipe(name):
    with pytest.raises(BadInput, match="cannot be the name of a setting"):
        Recipe("m", params={name: 1})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rewind": 2}, "form 2"),
        ({"rewind": True}, "form True"),
        ({"extra": 1}, 'unknown key "extra"'),
        ({"seed": "7"}, "seed must be a whole number"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"method": None}, "method of a recipe must be a text"),
        ({"method": "../etc"}, "cannot be the method"),
        ({"action": "a b"}, "cannot be the action"),
        ({"params": []}, "names with values"),
        ({"params": {"seed": 1}}, "cannot be the name of a setting"),
        ({"model": "world"}, "model of the recipe is not readable"),
        ({"model": {"source": 1}}, "model of the recipe is not readable"),
        ({"model": {"source": "world", "edits": ["../x"]}}, "must be digests"),
        ({"versions": {"torch": 2}}, "no readable version"),
        ({"label": 3}, "label of a recipe must be a text"),
    ],
)
def test_a_file_with_a_bad_key_is_refused_in_a_sentence(change, sentence):
    document = json.loads(CAT.json()) | change
    with pytest.raises(BadInput, match=sentence):
        Recipe.from_json(json.dumps(document))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"rewind": NaN}', "[" * 100_000, "{}", '{"rewind": 1}', "\x00"]
)
def test_what_is_no_recipe_is_refused(text):
    with pytest.raises(BadInput):
        Recipe.from_json(text)


def test_a_recipe_too_long_for_a_link_says_what_to_do():
    with pytest.raises(BadInput, match="JSON file"):
        Recipe("m", params={"prompt": "x" * 3000}).query()


@pytest.mark.parametrize(
    "arguments", [[], ["run"], ["bench", "x"], ["run", "m", "x"], ["run", "m", "--a"]]
)
def test_a_command_line_that_is_no_recipe_is_refused(arguments):
    with pytest.raises(BadInput):
        Recipe.from_arguments(arguments)


@pytest.mark.parametrize("flags", [["--seed", "x"], ["--seed", "1", "--seed", "2"], ["--_a", "1"]])
def test_a_bad_flag_is_refused(flags):
    with pytest.raises(BadInput):
        Recipe.from_arguments(["run", "m", *flags])


# ---------------------------------------------------------------------- links are lenient


def test_a_link_drops_what_it_cannot_use():
    link = "method=nfe-lab&steps=10&__theme=dark&seed=-3&big=1e999&two words=1&edits=zz&model=world"
    recipe = Recipe.from_query(link)
    assert recipe == Recipe("nfe_lab", params={"steps": 10})


def test_a_link_keeps_only_settings_of_the_method_when_they_are_known():
    recipe = Recipe.from_query("method=nfe-lab&steps=10&utm_source=mail", known=["steps", "prompt"])
    assert recipe.params == {"steps": 10}


@pytest.mark.parametrize("query", ["", "steps=3", "method=../x", "method=m&schema=9", "&" * 2000])
def test_a_link_that_names_no_method_is_none(query):
    assert Recipe.from_query(query) is None


@MANY
@given(st.text())
def test_no_link_can_raise(query):
    Recipe.from_query(query)


# ---------------------------------------------------------------------- pictures


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "I;16"])
def test_stamping_leaves_the_pixels_and_can_be_read_by_others(mode):
    plain_file = picture(mode) if mode != "I;16" else sixteen_bit()
    stamped = CAT.stamp(plain_file)
    before, after = Image.open(io.BytesIO(plain_file)), Image.open(io.BytesIO(stamped))
    assert before.tobytes() == after.tobytes()
    assert before.mode == after.mode
    assert after.text["rewind"] == CAT.json()


def sixteen_bit() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 999).save(file, "PNG")
    return file.getvalue()


def test_stamping_again_replaces_the_recipe():
    twice = CAT.stamp(Recipe("other").stamp(picture()))
    assert Recipe.from_png(twice) == CAT
    assert twice == CAT.stamp(picture())


def test_a_picture_without_recipe_says_so():
    with pytest.raises(BadInput, match="carries no recipe"):
        Recipe.from_png(picture())


@pytest.mark.parametrize("cut", [0, 7, 20, 60, -1])
def test_a_truncated_picture_is_refused(cut):
    with pytest.raises(BadInput, match="not a complete PNG"):
        Recipe.from_png(CAT.stamp(picture())[:cut])
    with pytest.raises(BadInput, match="not a complete PNG"):
        CAT.stamp(picture()[:cut])


@pytest.mark.slow
def test_the_largest_picture_that_is_taken_comes_back_from_file_and_picture():
    generator = np.random.default_rng(0)
    photograph = generator.integers(0, 256, (2000, 2000, 3), np.uint8)  # noise does not compress
    recipe = Recipe("mr_sampler", "restore", params={"picture": as_text(photograph)})
    assert Recipe.from_json(recipe.json()) == recipe
    drawn = recipe.stamp(picture())
    back = str(Recipe.from_png(drawn).params["picture"])
    assert np.array_equal(from_text(back), photograph)


# ---------------------------------------------------------------------- budgets


def document(**parts: object) -> str:
    return json.dumps({"rewind": 1, "method": "nfe_lab", **parts})


def test_a_document_of_too_many_values_is_refused_unread(monkeypatch: pytest.MonkeyPatch):
    crowded = document(params={"curve": [[]] * (budgets.DOCUMENT_VALUES + 1)})
    monkeypatch.setattr(json, "loads", lambda *_, **__: pytest.fail("It was read."))
    with pytest.raises(BadInput, match="10000 values"):
        Recipe.from_json(crowded)


def test_commas_and_brackets_inside_a_text_are_no_values():
    text = '{"a": [1, "\\"]}, ' * budgets.DOCUMENT_VALUES
    recipe = Recipe("revthink", params={"records": text})
    assert Recipe.from_json(recipe.json()) == recipe


def test_a_model_has_a_budget_of_edits_and_characters():
    digests = [f"{number:08x}" for number in range(4000)]
    with pytest.raises(BadInput, match="4000 edits; 32 are taken"):
        Recipe.from_json(document(model={"source": "world", "edits": digests}))
    with pytest.raises(BadInput, match="at most 500 characters"):
        Recipe.from_json(document(model={"source": "w" * 10_000}))

"""ReVersion: golden arrays, the steering and the times, the learning, the word in a model and as a
file, and the examination."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from engine.core.errors import BadInput, ModelMismatch, PatchConflict
from engine.core.golden import check_all
from engine.core.job import Failed, Job, Progress, finish
from engine.core.reversible import Exactness
from engine.core.stack import PatchStack
from engine.core.store import default_store
from engine.erasing.reversion import RELATIONS as NAMED
from engine.erasing.reversion import golden as ours
from engine.erasing.reversion.algorithm import verdict
from engine.erasing.reversion.exemplars import HELD_OUT, RELATIONS, drawn, pairs, uploaded
from engine.erasing.reversion.learning import at_step, learn
from engine.erasing.reversion.settings import ReversionSettings
from engine.erasing.reversion.steering import (
    RELATION_WORDS,
    STOP_WORDS,
    Words,
    importance,
    negative_ids,
    positive_ids,
    steering_loss,
)
from engine.erasing.reversion.words import (
    Word,
    nearest,
    read_file,
    table_name,
    with_words,
    words_of,
    write_file,
)
from engine.models import export
from engine.models.diffusion import DiffusionBundle, encode_prompt, token_ids
from engine.models.library import ModelRef, load
from engine.models.vision import HEADS, Verdicts
from engine.world import vocabulary as words
from engine.world.styles import PICTURE
from tests.tiny import TEXT_WIDTH, tiny_checkpoint

TARGET = "engine.erasing.reversion.algorithm"
QUICK = {"relation": "on top of", "count": 3, "steps": 4, "batch": 2, "positives": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bundle(folder: Path) -> DiffusionBundle:
    return load(ModelRef(str(folder)), "cpu", "float32")


def a_word(token: str = "<R>", seed: int = 0) -> Word:
    return Word(token, torch.randn(TEXT_WIDTH, generator=torch.Generator().manual_seed(seed)))


# ---------------------------------------------------------------------- golden arrays


@pytest.mark.golden
@pytest.mark.parametrize("name", ours.CHECKS)
def test_published_code_and_this_one_agree(name: str):
    for case in finish(check_all({name: ours.CHECKS[name]})).cases:
        assert case.error <= case.tolerance, case


# ---------------------------------------------------------------------- steering and times


def test_the_published_lists_are_all_there():
    assert (len(set(RELATION_WORDS)), len(set(STOP_WORDS))) == (56, 127)


def rows(seed: int, count: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 12, generator=draw, dtype=torch.float64)


@pytest.mark.slow
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_steering_sees_directions_only_and_is_never_negative(seed: int, scale: float):
    row, near, far = rows(seed, 1)[0], rows(seed + 1, 5), rows(seed + 2, 3)
    loss = steering_loss(row, near, far)
    assert float(loss) >= 0
    assert torch.allclose(loss, steering_loss(scale * row, near, far))
    assert float(steering_loss(row, near, far[:0])) == 0


@pytest.mark.slow
@given(st.integers(0, 1000))
def test_a_step_down_the_steering_goes_to_the_relation_words(seed: int):
    row, near, far = rows(seed, 1)[0].requires_grad_(), rows(seed + 1, 4), rows(seed + 2, 4)
    before = steering_loss(row, near, far)
    (gradient,) = torch.autograd.grad(before, row)
    after = steering_loss((row - 1e-4 * gradient).detach(), near, far)
    assert float(after) <= float(before.detach()) + 1e-12


@pytest.mark.slow
@given(st.floats(0, 1), st.integers(10, 2000))
def test_the_density_of_times_is_one_and_rises(alpha: float, steps: int):
    p = importance(steps, alpha)
    assert np.isclose(p.sum(), 1)
    assert (np.diff(p) >= -1e-15).all()


def test_two_thirds_of_the_draws_fall_into_the_noisier_half():
    p = importance(1000, 0.5)
    assert round(float(p[500:].sum()), 3) == 0.659
    assert round(float((p * np.arange(1000)).sum()), 1) == 600.9


def test_each_sample_gets_different_relation_words():
    found = positive_ids([(1,), (2, 3), (4,)], 2, 5, np.random.default_rng(0))
    assert len(found) >= 10
    with pytest.raises(ValueError, match="larger sample"):
        positive_ids([(1,)], 2, 1, np.random.default_rng(0))


@pytest.mark.slow
def test_special_tokens_padding_and_stop_words_are_no_entities(bundle: DiffusionBundle):
    told, known = with_words(bundle, [a_word()]), Words.of(bundle, 2)
    ids = token_ids(told, ["a cat <R> the house", "dog <R> car"])
    placeholder = int(told.tokenizers[0].convert_tokens_to_ids("<R>"))
    found = negative_ids(ids, placeholder, known.silent)
    names = [told.tokenizers[0].convert_ids_to_tokens(i) for i in found]
    assert sorted(names) == ["car</w>", "cat</w>", "dog</w>", "house</w>"]


def test_relation_words_that_the_model_does_not_know_are_left_out(bundle: DiffusionBundle):
    assert Words.of(bundle, 2).names == ("in", "of", "on")
    with pytest.raises(BadInput, match="knows 3 words of relation"):
        Words.of(bundle, 4)


# ---------------------------------------------------------------------- exemplars


def test_both_tables_of_relations_name_the_same():
    assert set(NAMED) == set(RELATIONS)


@pytest.mark.parametrize("name", RELATIONS)
def test_no_examined_pair_is_in_an_exemplar(name: str):
    draw = np.random.default_rng(0)
    learnt, examined = (pairs(name, 500, draw, held_out=held_out) for held_out in (False, True))
    assert not set(learnt) & set(examined)
    assert all(first in HELD_OUT for first, _ in examined)
    assert all(first not in HELD_OUT for first, _ in learnt)
    assert len(examined) >= 12


@pytest.mark.slow
def test_exemplars_never_say_the_relation():
    for name in RELATIONS:
        for exemplar in drawn(name, 3, np.random.default_rng(1)):
            assert exemplar.picture.shape == (PICTURE, PICTURE, 3)
            assert len(exemplar.descriptions) == 3
            for text in exemplar.descriptions:
                assert text.count("{}") == 1
                assert name not in text


def test_a_description_without_its_place_is_named():
    pictures = [np.zeros((8, 8, 3), np.uint8)] * 2
    found = uploaded(pictures, ["cat {} box | a cat {} a brown box", "dog {} car"])
    assert found[0].descriptions == ("cat {} box", "a cat {} a brown box")
    with pytest.raises(BadInput, match='picture 2, "dog on car"'):
        uploaded(pictures, ["cat {} box", "dog on car"])
    with pytest.raises(BadInput, match="2 pictures and 1 descriptions"):
        uploaded(pictures, ["cat {} box"])


# ---------------------------------------------------------------------- learning


@pytest.mark.slow
def test_only_the_new_row_is_learnt_and_the_base_stays(bundle: DiffusionBundle, same_bits):
    before = {name: t.clone() for name, t in bundle.model.state_dict().items()}
    found = finish(learn(bundle, ReversionSettings(**QUICK), 0))
    assert same_bits(dict(bundle.model.state_dict()), before)
    start = found.course.saved[0].row
    assert not torch.equal(found.word.row, start)
    assert len(found.course.denoising) == len(found.course.steering) == 4
    assert torch.equal(at_step(found, 0).row, start)
    assert torch.equal(at_step(found, 4).row, found.word.row)


def test_the_row_starts_at_the_initialiser(bundle: DiffusionBundle):
    found = finish(learn(bundle, ReversionSettings(**QUICK, initialiser="on"), 0))
    table = dict(bundle.model.named_parameters())[table_name(bundle)]
    index = bundle.tokenizers[0].convert_tokens_to_ids("on</w>")
    assert torch.equal(found.course.saved[0].row, table[index])


@pytest.mark.slow
def test_training_one_row_is_training_the_table_and_restoring_the_others(bundle: DiffusionBundle):
    """The published loop, step by step, on the same batches: the row comes out the same."""
    from engine.core import rng
    from engine.erasing._learning import denoising_error, token_states
    from engine.erasing.reversion.learning import _Task
    from engine.erasing.reversion.settings import exemplars_of

    settings = ReversionSettings(**QUICK, weight_decay=0.0)
    ours_row = finish(learn(bundle, settings, 5)).word.row
    draw = np.random.default_rng([5, 2])
    exemplars = exemplars_of(bundle, settings, draw)
    task = _Task.of(bundle, settings, exemplars, Words.of(bundle, 2))
    first = finish(learn(bundle, settings, 5)).course.saved[0].row
    table = torch.cat([task.table, first[None]]).requires_grad_()
    optimizer = torch.optim.AdamW([table], lr=settings.learning_rate, weight_decay=0.0)
    for step in range(settings.steps):
        numbers = rng.generator(5, "reversion", step, 0)
        chosen = draw.integers(len(task.ids), size=settings.batch).tolist()
        ids = torch.stack([task.ids[i][int(draw.integers(len(task.ids[i])))] for i in chosen])
        z = task.latents.draw(chosen, numbers)
        noise = rng.noise(z.shape, numbers)
        t = torch.from_numpy(draw.choice(len(task.times), size=len(chosen), p=task.times))
        states = token_states(bundle.text_encoders[0], ids, {task.name: table})
        near = positive_ids(task.words.relations, settings.positives, len(ids), draw)
        far = negative_ids(ids, len(task.table), task.words.silent)
        pull = steering_loss(table[-1], table[near], table[far], tau=settings.tau)
        loss = denoising_error(bundle, states, z, noise, t) + settings.steer_weight * pull
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            table[:-1] = task.table
    assert torch.allclose(table[-1].detach(), ours_row, atol=1e-5)


@pytest.mark.slow
def test_equal_seeds_learn_alike_and_other_seeds_do_not(bundle: DiffusionBundle, same_bits):
    first, again, other = (finish(learn(bundle, ReversionSettings(**QUICK), s)) for s in (3, 3, 4))
    assert same_bits(first.word.row, again.word.row)
    assert not torch.equal(first.word.row, other.word.row)


@pytest.mark.slow
def test_accumulated_steps_use_more_pictures(bundle: DiffusionBundle):
    one, two = (
        finish(learn(bundle, ReversionSettings(**QUICK, accumulation=count), 0)) for count in (1, 2)
    )
    assert not torch.equal(one.word.row, two.word.row)
    assert len(two.course.denoising) == 4


def test_switched_off_steering_is_zero(bundle: DiffusionBundle):
    found = finish(learn(bundle, ReversionSettings(**QUICK, steer_weight=0.0), 0))
    assert set(found.course.steering) == {0.0}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"initialiser": "wonderful"}, "the initialiser must be one"),
        ({"placeholder": "cat</w>"}, "a token of this model already"),
    ],
)
def test_a_word_that_does_not_fit_the_tokenizer_is_refused(bundle, changed: dict, said: str):
    with pytest.raises(BadInput, match=said):
        finish(learn(bundle, ReversionSettings(**QUICK, **changed), 0))


def test_a_description_that_cuts_the_relation_off_is_refused(bundle: DiffusionBundle):
    long = " ".join(["cat"] * 40) + " {} house"
    settings = ReversionSettings(
        **QUICK, pictures=(np.zeros((8, 8, 3), np.uint8),), descriptions=(long,)
    )
    with pytest.raises(BadInput, match="the relation is cut off"):
        finish(learn(bundle, settings, 0))


# ---------------------------------------------------------------------- the word in a model


def test_every_old_row_and_every_other_prompt_stays(bundle: DiffusionBundle, same_bits):
    told = with_words(bundle, [a_word()])
    old, new = (b.text_encoders[0].get_input_embeddings().weight for b in (bundle, told))
    assert same_bits(new[: len(old)].detach(), old.detach())
    prompts = ["a cat on a house", ""]
    assert same_bits(encode_prompt(bundle, prompts).tokens, encode_prompt(told, prompts).tokens)
    assert len(bundle.tokenizers[0]) == len(old)


def test_the_word_is_one_token_in_either_case(bundle: DiffusionBundle):
    told = with_words(bundle, [a_word()])
    upper, lower = token_ids(told, ["A cat <R> a House", "a cat <r> a house"])
    assert torch.equal(upper, lower)
    assert int((upper == len(bundle.tokenizers[0])).sum()) == 1


def test_two_words_fit_in_one_prompt(bundle: DiffusionBundle):
    told = with_words(bundle, [a_word("<R>", 0), a_word("<S>", 1)])
    (ids,) = token_ids(told, ["a cat <R> a house <S> a car"])
    count = len(bundle.tokenizers[0])
    assert count in ids
    assert count + 1 in ids


def test_a_word_of_another_width_is_refused(bundle: DiffusionBundle):
    with pytest.raises(ModelMismatch, match="has 7 numbers"):
        with_words(bundle, [Word("<R>", torch.ones(7))])


def test_the_nearest_word_of_a_row_of_the_table_is_its_own(bundle: DiffusionBundle):
    table = dict(bundle.model.named_parameters())[table_name(bundle)]
    index = bundle.tokenizers[0].convert_tokens_to_ids("cat</w>")
    (word, cosine), *_ = nearest(bundle, table[index])
    assert word == "cat"
    assert cosine == pytest.approx(1)


def test_a_patch_appends_one_row_names_it_and_comes_off(folder: Path, run_job, same_bits):
    found = run_job(Job(f"{TARGET}:bake", {"model": str(folder), "word": a_word().text()}, 7))
    baked = found[-1].result
    assert (baked.rows, baked.undo.exactness) == (1, Exactness.BITWISE)
    assert baked.before == baked.undone != baked.after
    assert baked.patch.nbytes == 4 * TEXT_WIDTH
    default_store.cache_clear()
    digest = default_store().put(baked.patch)
    told = load(ModelRef(str(folder), edits=(digest,)), "cpu", "float32")
    assert isinstance(told, DiffusionBundle)
    beside = with_words(load(ModelRef(str(folder)), "cpu", "float32"), [a_word()])
    prompts = ["a cat <R> a house", "a dog"]
    assert same_bits(encode_prompt(told, prompts).tokens, encode_prompt(beside, prompts).tokens)
    state = baked.patch.undo(told.model.state_dict())
    base = load(ModelRef(str(folder)), "cpu", "float32").model.state_dict()
    assert same_bits(dict(state), dict(base))


def test_two_words_come_off_last_first(folder: Path, run_job):
    default_store.cache_clear()
    source, digests = str(folder), []
    for number, token in enumerate(("<R>", "<S>")):
        ref = ModelRef(source, edits=tuple(digests))
        params = {"model": ref, "word": a_word(token, number).text()}
        baked = run_job(Job(f"{TARGET}:bake", params, 7))[-1].result
        digests.append(default_store().put(baked.patch))
    told = load(ModelRef(source, edits=tuple(digests)), "cpu", "float32")
    ids = token_ids(told, ["cat <R> dog", "cat <S> dog"])
    assert len(torch.unique(ids)) > len(torch.unique(ids[0]))
    stack = PatchStack(tuple(default_store().header(digest) for digest in digests))
    with pytest.raises(PatchConflict, match="<S> added"):
        stack.undo(digests[0])
    state = default_store().get(digests[1]).undo(told.model.state_dict())
    default_store().get(digests[0]).undo(state)


@pytest.mark.slow
def test_the_exported_checkpoint_knows_the_word_in_diffusers(
    folder: Path, run_job, same_bits, tmp_path: Path
):
    default_store.cache_clear()
    params = {"model": str(folder), "word": a_word().text()}
    digest = default_store().put(run_job(Job(f"{TARGET}:bake", params, 7))[-1].result.patch)
    ref = ModelRef(str(folder), edits=(digest,))
    made = finish(export.run(seed=0, model=ref, folder=str(tmp_path / "out")))
    expected = encode_prompt(
        load(ModelRef(str(folder), edits=(digest,)), "cpu", "float32"), ["a cat <R> a house"]
    ).tokens
    here = load(ModelRef(str(made)), "cpu", "float32")
    assert same_bits(encode_prompt(here, ["a cat <R> a house"]).tokens, expected)
    pipe = pipeline(made)
    assert "<R>" in pipe.tokenizer.get_vocab()
    assert torch.allclose(embedded(pipe, "a cat <R> a house"), expected, atol=1e-6)


# ---------------------------------------------------------------------- as text and as a file


@pytest.mark.slow
@given(st.integers(0, 1000), st.integers(1, 64))
def test_a_word_survives_as_text_bit_for_bit(seed: int, width: int):
    row = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    again = Word.parse(Word("<R>", row).text())
    assert torch.equal(again.row, row)
    assert again.token == "<R>"


def test_words_are_read_from_one_text(tmp_path: Path):
    for name, seed in (("on-top-of", 1), ("inside", 2)):
        (tmp_path / f"{name}.safetensors").write_bytes(write_file([a_word("<R>", seed)]).data)
    files = {path.stem.replace("-", " "): path for path in tmp_path.iterdir()}
    first, second = words_of("on top of; <S>=inside", files)
    assert (first.token, second.token) == ("<R>", "<S>")
    (third,) = words_of(a_word("<T>", 3).text(), files)
    assert torch.equal(third.row, a_word("<T>", 3).row)
    with pytest.raises(BadInput, match="Two words have the token"):
        words_of("on top of; inside", files)


@pytest.mark.parametrize("text", ["", " ; ", "nowhere", "<R>", "<R>:", "<R>:??", "a b:AAAA", "é:ü"])
def test_other_texts_are_no_words(text: str):
    with pytest.raises(BadInput):
        words_of(text, {})


def test_a_file_is_read_back_and_opens_in_diffusers(folder: Path, run_job, tmp_path: Path):
    params = {"model": str(folder), "word": a_word().text()}
    found = run_job(Job(f"{TARGET}:export", params, 7))[-1].result
    assert found.equal_bits == 1
    (file,) = found.files.values()
    (tmp_path / file.name).write_bytes(file.data)
    pipe = pipeline(folder)
    pipe.load_textual_inversion(tmp_path, weight_name=file.name, token="<R>")
    here = with_words(load(ModelRef(str(folder)), "cpu", "float32"), [a_word()])
    expected = encode_prompt(here, ["a cat <R> a house"]).tokens
    assert torch.allclose(embedded(pipe, "a cat <R> a house"), expected, atol=1e-6)


def pipeline(folder: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
            StableDiffusionPipeline,
        )

        return StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)


def embedded(pipe, text: str) -> torch.Tensor:
    ids = pipe.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        return pipe.text_encoder(ids)[0]


def pickled(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_pickled_file_is_refused_by_name():
    with pytest.raises(BadInput, match="pickled file"):
        read_file(pickled({"<R>": a_word().row}))


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a file",
        pickled({"<R>": Evil()}),
        save({"<R>": torch.full((4,), float("nan"))}),
        save({"<R>": torch.ones(3, 4)}),
        save({"two words": torch.ones(4)}),
        write_file([a_word()]).data[:-7],
        b"\0" * 3_000_000,
    ],
    ids=range(8),
)
def test_files_that_hold_no_word_are_refused(data: bytes, capsys):
    with pytest.raises(BadInput):
        read_file(data)
    assert "code ran" not in capsys.readouterr().out


# ---------------------------------------------------------------------- jobs


@pytest.mark.slow
def test_a_run_shows_losses_words_and_looks(folder: Path, run_job):
    params = {"model": str(folder), **QUICK, "prompts": "a cat {} a dog", "sampler_steps": 3}
    seen = run_job(Job(f"{TARGET}:run", {**params, "looks": 1}, 7))
    found = seen[-1].result
    assert found.prompts == ("a cat <R> a dog",)
    assert [look.step for look in found.looks] == [0, 4]
    assert not np.array_equal(found.looks[0].pictures, found.looks[1].pictures)
    assert Word.parse(found.word).token == "<R>"
    assert len(found.exemplars) == len(found.descriptions) == 3
    assert len(found.neighbours) == 2
    previews = [e.preview for e in seen if isinstance(e, Progress) and e.preview is not None]
    assert len(previews[0].denoising) == 1


@pytest.mark.slow
def test_pictures_of_ones_own_are_learnt_from(folder: Path, run_job):
    picture = np.full((30, 50, 3), 200, np.uint8)
    params = {"model": str(folder), **QUICK, "pictures": [picture, picture], "sampler_steps": 2}
    found = run_job(
        Job(f"{TARGET}:run", {**params, "descriptions": "cat {} car\ncat {} dog", "looks": 1}, 7)
    )[-1].result
    assert found.name == "own exemplars"
    assert len(found.exemplars) == 2


def test_using_draws_three_ways_from_one_noise(folder: Path, run_job):
    params = {"model": str(folder), "word": a_word().text(), "sampler_steps": 3}
    found = run_job(
        Job(f"{TARGET}:use", {**params, "prompts": ["a cat {} a dog"], "initialiser": "on"}, 7)
    )[-1].result
    assert list(found.rows) == ["<R>", "“on”", "in words: “on top of”"]
    assert not np.array_equal(found.rows["<R>"], found.rows["“on”"])


def test_measuring_counts_three_ways(folder: Path, run_job):
    params = {"model": str(folder), "word": a_word().text(), "count": 3, "sampler_steps": 2}
    found = run_job(Job(f"{TARGET}:measure", params, 7))[-1].result
    assert len(found.scores) == 3
    assert all(score.whole.of == 3 for score in found.scores)
    assert all(s.whole.hits <= min(s.relation.hits, s.entities.hits) for s in found.scores)


@pytest.mark.parametrize(
    ("relation", "seen", "expected"),
    [
        ("left of", ("cat", "dog", "left of"), (True, True, True)),
        ("left of", ("dog", "cat", "left of"), (True, True, False)),
        ("right of", ("dog", "cat", "left of"), (True, True, True)),
        ("right of", ("cat", "dog", "left of"), (True, True, False)),
        ("left of", ("cat", "bear", "left of"), (True, False, False)),
        ("left of", ("cat", "dog", "inside"), (False, True, False)),
        ("left of", ("cat", "nothing", "nothing"), (False, False, False)),
    ],
)
def test_the_verdict_knows_sides(relation: str, seen: tuple, expected: tuple):
    probabilities = {
        head: np.zeros((1, len(classes)), np.float32) for head, classes in HEADS.items()
    }
    for head, name in zip(("subject", "other", "relation"), seen, strict=True):
        probabilities[head][0, HEADS[head].index(name)] = 1
    verdicts = Verdicts(probabilities, np.zeros((1, 2), np.float32))
    assert verdict(verdicts, 0, relation, ("cat", "dog")) == expected


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"relation": "beside"}),
        ("run", {"steps": 0}),
        ("run", {"steps": 10**9}),
        ("run", {"count": 1}),
        ("run", {"alpha": -0.1}),
        ("run", {"alpha": None}),
        ("run", {"tau": 0}),
        ("run", {"learning_rate": float("nan")}),
        ("run", {"steer_weight": float("inf")}),
        ("run", {"placeholder": "two words"}),
        ("run", {"placeholder": 7}),
        ("run", {"initialiser": " "}),
        ("run", {"pictures": [np.zeros((4, 4, 3), np.uint8)], "descriptions": "cat on dog"}),
        ("run", {"pictures": 3}),
        ("run", {"descriptions": [3]}),
        ("run", {"prompts": []}),
        ("run", {"looks": 0}),
        ("use", {"word": ""}),
        ("use", {"word": "x" * 10_000}),
        ("use", {"prompts": ()}),
        ("use", {"sampler_steps": 0}),
        ("measure", {"count": 0}),
        ("measure", {"relation": "beside"}),
        ("bake", {"word": "nowhere"}),
        ("export", {"word": "<R>:"}),
        ("read", {"file": ""}),
        ("read", {"file": "%%%"}),
    ],
    ids=str,
)
def test_bad_settings_are_refused_before_anything_is_loaded(run_job, action: str, changed: dict):
    params = {"model": "/nowhere", **({} if action == "run" else {"word": a_word().text()})}
    params = ({} if action == "read" else params) | changed
    seen = run_job(Job(f"{TARGET}:{action}", params, 0), may_fail=True)
    assert len(seen) == 1
    assert isinstance(seen[0], Failed)
    assert not seen[0].error_id, seen[0].detail
    assert seen[0].advice


def test_containers_are_around_things():
    assert all(
        second in words.CONTAINERS
        for _, second in pairs("inside", 50, np.random.default_rng(0), held_out=True)
    )

"""What the erasing methods share: prompt sets, erasers, baselines, attacks and scores."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Progress, finish
from engine.erasing import _attacks as attacks
from engine.erasing import _baselines as baselines
from engine.erasing import _evaluation as evaluation
from engine.erasing._baselines import MAKERS, Training, esd_names, made, withheld
from engine.erasing._eraser import Cost, Eraser, contenders
from engine.erasing._evaluation import Drawn, Protocol, draw_asks, gate, gate_note, score
from engine.erasing._subject import GROUPS, Ask, Subject
from engine.models.diffusion import DiffusionBundle, empty_prompt, encode_prompt, predict
from engine.models.drawing import start_noise, visit
from engine.models.library import ModelRef, load
from engine.world import vocabulary as words
from tests.tiny import tiny_checkpoint

CAT = Subject.of("cat")
QUICK = Training(iterations=3, learning_rate=1e-2, walk_steps=3, visits=2)
PROTOCOL = Protocol(each=2, steps=2, guidance_scale=2.0, batch=4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> DiffusionBundle:
    folder: Path = tiny_checkpoint(tmp_path_factory.mktemp("tiny"))
    return load(ModelRef(str(folder)), "cpu", "float32")


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch: pytest.MonkeyPatch):
    """Baselines train for three iterations; nothing is kept from other tests."""
    monkeypatch.setattr(baselines, "TRAINING", QUICK)
    baselines._MADE.clear()


# ---------------------------------------------------------------------- prompts


@pytest.mark.parametrize("concept", [*words.OBJECTS, *(f"{s} style" for s in words.STYLES[1:])])
def test_every_concept_has_prompts_of_every_group(concept: str):
    subject = Subject.of(concept)
    asks = subject.asks(8)
    counts = {group: sum(ask.group == group for ask in asks) for group in GROUPS}
    assert counts == {"target": 8, "paraphrase": 8, "near": 8, "far": 8, "empty": 2}
    known = set(words.trained_words()) | {"bike"}
    for ask in asks:
        assert {word.strip(",") for word in ask.prompt.split()} <= known, ask.prompt
        assert (ask.shows == subject.target) == (ask.group in ("target", "paraphrase"))
        if ask.group == "target":
            assert subject.says(ask.prompt)
        if ask.group in ("near", "far"):
            assert not subject.says(ask.prompt)


@pytest.mark.parametrize("concept", ["cat", "plane", "neon style", "watercolor style"])
def test_kept_prompts_use_words_that_no_method_was_told_to_keep(concept: str):
    subject = Subject.of(concept)
    told = {word.removesuffix(" style") for word in subject.keep}
    assert not told & {ask.shows for ask in subject.asks(8) if ask.group in ("near", "far")}


def test_paraphrases_and_targets_differ():
    for concept in ("cat", "guitar", "neon style"):
        asks = Subject.of(concept).asks(6)
        targets = {ask.prompt for ask in asks if ask.group == "target"}
        assert not targets & {ask.prompt for ask in asks if ask.group == "paraphrase"}


def test_a_synonym_names_its_object_and_an_unknown_word_is_refused():
    assert Subject.of("Kitten").target == "cat"
    assert Subject.of("neon").concept == "neon style"
    for unknown in ("zebra", "plain style", ""):
        with pytest.raises(BadInput) as refused:
            Subject.of(unknown)
        assert refused.value.advice


# ---------------------------------------------------------------------- erasers


def drawn_by(eraser: Eraser, subject: Subject = CAT, **changed: object) -> Drawn:
    asks = subject.asks(PROTOCOL.each)
    return finish(draw_asks(eraser, asks, PROTOCOL, 3, subject=subject, **changed))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MAKERS, "UCE", "RECE"])
def test_every_maker_gives_an_eraser_that_draws_and_leaves_the_model_alone(
    bundle, name: str, same_bits
):
    before = {key: tensor.clone() for key, tensor in bundle.model.state_dict().items()}
    steps = {**MAKERS, **contenders()}[name](bundle, CAT, 0)
    assert isinstance(next(steps), Progress)
    erased = finish(steps)
    drawn = drawn_by(erased.at(1.0))
    assert drawn.pictures.shape == (len(drawn.asks), 64, 64, 3)
    assert len(drawn.lines) == len(drawn.shows) == len(drawn.asks)
    assert same_bits(dict(bundle.model.state_dict()), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in MAKERS if n not in ("word filter", "original")])
def test_at_strength_0_an_eraser_is_the_original(bundle, name: str):
    if name == "detector filter":
        pytest.skip("its strength is a threshold; 0 still withholds what it is sure of")
    truth = drawn_by(Eraser("original", bundle))
    erased = finish(made(MAKERS[name], bundle, CAT, 0))
    assert np.array_equal(drawn_by(erased.at(0.0)).pictures, truth.pictures)
    assert not np.array_equal(drawn_by(erased.at(1.0)).pictures, truth.pictures)


def test_the_word_filter_changes_the_word_and_its_article_only(bundle):
    filtered = finish(MAKERS["word filter"](bundle, CAT, 0)).at(1.0)
    assert filtered.reword("a cat in neon style") == "an animal in neon style"
    assert filtered.reword("Cat on white") == "animal on white"
    assert filtered.reword("a category, a kitten") == "a category, a kitten"


def test_the_detector_withholds_what_the_judge_is_sure_of():
    pictures = attacks.renders(CAT, 0)
    blank = withheld(pictures, subject=CAT, threshold=0.0)
    assert np.all(blank == baselines.BLANK)
    assert np.array_equal(withheld(pictures, subject=CAT, threshold=1.0), pictures)


def test_esd_trains_disjoint_weights_in_its_two_forms(bundle):
    x, u = (set(esd_names(bundle, part)) for part in ("x", "u"))
    assert x
    assert u
    assert not x & u
    assert all(".attn2." in name for name in x)


@pytest.mark.slow
def test_esd_moves_the_concept_away_from_what_the_original_says(bundle):
    """After training the edited model is nearer to its target than the original was."""
    training = replace(QUICK, iterations=40, learning_rate=1e-3)
    erased = finish(baselines.esd(bundle, CAT, 0, part="x", training=training))
    cond, empty = encode_prompt(bundle, ["cat"]), empty_prompt(bundle)
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        said, away = predict(bundle, x, 400, cond), predict(bundle, x, 400, empty)
        target = away - (said - away)
        now = predict(erased.at(1.0).bundle, x, 400, cond)
    assert float((now - target).norm()) < float((said - target).norm())


@pytest.mark.slow
def test_the_random_edit_changes_the_same_weights_by_the_same_amount(bundle):
    reference = finish(made(MAKERS["ESD-x"], bundle, CAT, 0)).at(1.0).weights()
    damaged = finish(made(MAKERS["random edit"], bundle, CAT, 0)).at(1.0).weights()
    old = bundle.model.state_dict()
    for name, tensor in reference.items():
        size = float((tensor - old[name]).norm())
        assert float((damaged[name] - old[name]).norm()) == pytest.approx(size, rel=1e-3, abs=1e-6)


@pytest.mark.slow
def test_an_erasure_is_made_once_and_says_how_long_it_took(bundle):
    first = finish(made(MAKERS["ESD-x"], bundle, CAT, 0))
    assert first.at(1.0).cost.seconds > 0
    assert finish(made(MAKERS["ESD-x"], bundle, CAT, 0)) is first
    assert finish(made(MAKERS["ESD-x"], bundle, CAT, 1)) is not first


def test_a_model_without_a_judge_has_no_detector(bundle):
    with pytest.raises(ModelMismatch, match="classifier"):
        finish(MAKERS["detector filter"](replace(bundle, vocabulary=None), CAT, 0))


# ---------------------------------------------------------------------- attacks


def test_the_closed_form_attack_undoes_uce_and_leaves_the_original_nearly_alone(bundle):
    cond = encode_prompt(bundle, ["a cat"])
    plain = attacks.closed_form(bundle, Eraser("original", bundle), ["a cat"], reg=1e-9)
    assert torch.allclose(plain.cond.tokens, cond.tokens, atol=1e-3)
    erased = finish(contenders()["UCE"](bundle, CAT, 0)).at(1.0)
    asked = attacks.closed_form(bundle, erased, ["a cat"], reg=1e-9)
    back = erased.on_context(asked.cond).tokens
    gone = erased.on_context(cond).tokens
    assert float((back - cond.tokens).norm()) < 0.1 * float((gone - cond.tokens).norm())


def test_a_new_word_learns_and_the_other_words_stay(bundle, same_bits):
    eraser = Eraser("original", bundle)
    word = finish(attacks.inversion(bundle, eraser, CAT, 0, iterations=4, batch=2))
    _, first = attacks._place(bundle)
    assert not torch.equal(word.row, first)
    asked = word.asked(["a picture of something", "a dog"])
    plain = encode_prompt(bundle, ["a picture of something", "a dog"])
    assert not torch.equal(asked.cond.tokens[0], plain.tokens[0])
    assert torch.equal(asked.cond.tokens[1], plain.tokens[1])


def test_attack_prompts_do_not_name_the_concept():
    for concept in ("cat", "neon style"):
        subject = Subject.of(concept)
        for prompt in attacks.prompts_with_word(subject, 8):
            assert not subject.says(prompt)
            assert attacks.PLACEHOLDER in prompt


@pytest.mark.parametrize("name", ["closed form", "inversion"])
def test_an_attack_draws_a_picture_for_each_target_prompt(bundle, name: str):
    few = replace(PROTOCOL, inversion_iterations=2)
    eraser = Eraser("original", bundle)
    drawn = finish(evaluation.attack(name, bundle, eraser, CAT, few, 0))
    assert len(drawn.pictures) == PROTOCOL.each


def test_an_unknown_attack_is_refused(bundle):
    with pytest.raises(BadInput, match="no attack"):
        finish(evaluation.attack("bribe", bundle, Eraser("x", bundle), CAT, PROTOCOL, 0))


# ---------------------------------------------------------------------- scores


def drawing(name: str, right: Mapping[str, float], *, shift: int = 0, each: int = 20) -> Drawn:
    """A made-up set of pictures in which these shares of each group are right."""
    asks, hits = [], []
    for group in ("target", "paraphrase", "near", "far", "empty"):
        asks += [Ask(f"{group} {index}", "cat", group) for index in range(each)]
        hits += [index < right.get(group, 1.0) * each for index in range(each)]
    pictures = np.full((len(asks), 4, 4, 3), 100 + shift, np.uint8)
    features = np.random.default_rng(0).normal(size=(len(asks), 6)).astype(np.float32) + shift
    lines = ("",) * len(asks)
    return Drawn(name, tuple(asks), pictures, lines, tuple(hits), tuple(hits), features, 0.1)


def scored(drawn: Drawn, reference: Drawn, **attacked: Drawn):
    return score(drawn, reference, attacked, Cost())


def test_the_scores_answer_the_four_questions():
    reference = drawing("original", {})
    erased = drawing("X", {"target": 0.1, "paraphrase": 0.5, "near": 0.8, "far": 1.0}, shift=3)
    back = drawing("X", {"target": 0.9})
    found = scored(erased, reference, inversion=replace(back, shows=back.shows[:20]))
    assert found.target.rate == pytest.approx(0.1)
    assert found.near.rate == pytest.approx(0.8)
    assert found.kept.rate == pytest.approx(0.9)
    assert found.attacks["paraphrase"].rate == pytest.approx(0.5)
    assert found.attacks["inversion"].rate == pytest.approx(0.9)
    assert found.change.value == pytest.approx(3)
    assert found.empty_change == pytest.approx(3)
    assert found.feature_change.value > 0
    assert found.harmonic == pytest.approx(3 / (1 / 0.9 + 1 / 0.1 + 1 / 0.9))
    assert found.harmonic_words == pytest.approx(3 / (1 / 0.9 + 1 / 0.5 + 1 / 0.9))
    assert found.target.low < 0.1 < found.target.high


def test_the_gate_withholds_scores_of_what_the_original_cannot_draw():
    weak = drawing("original", {"target": 0.5, "near": 0.8, "far": 0.8})
    assert gate(weak) == {"target": False, "kept": False}
    assert "50 %" in gate_note(weak)
    erased = drawing("X", {"target": 0.0})
    found = scored(erased, weak)
    assert found.target is found.kept is found.harmonic is None
    assert found.attacks == {}
    assert found.change.of > 0
    assert scored(weak, weak).target.rate == pytest.approx(0.5)
    assert gate_note(drawing("original", {})) == ""


def test_the_pareto_points_mark_the_best():
    reference = drawing("original", {})
    good, bad = drawing("good", {"target": 0.0}), drawing("bad", {"target": 0.5, "far": 0.5})
    scores = [scored(one, reference) for one in (reference, good, bad)]
    best = {point.name: point.best for point in evaluation.pareto(scores)}
    assert best == {"original": False, "good": True, "bad": False}


def test_a_picture_keeps_its_noise_in_whatever_order_it_is_drawn(bundle):
    eraser, asks = Eraser("original", bundle), CAT.asks(2)
    whole = drawn_by(eraser)
    rows = [5, 2]
    some = finish(draw_asks(eraser, [asks[i] for i in rows], PROTOCOL, 3, subject=CAT, rows=rows))
    close = np.abs(some.pictures.astype(int) - whole.pictures[rows]).max()
    assert close <= 1  # another batch size may round a matrix product another way


def test_the_judge_is_for_the_embedded_world_only(bundle):
    other = replace(bundle, vocabulary=None)
    assert evaluation.judge_of(other) is None
    drawn = drawn_by(Eraser("original", other))
    assert drawn.shows == ()
    assert gate(drawn) == {"target": False, "kept": False}
    assert "no judge" in gate_note(drawn)
    found = score(drawn, drawn, {}, Cost())
    assert found.target is None
    assert found.change.value == 0


def test_what_a_sampler_visits_lies_on_its_own_walk(bundle):
    cond, empty = encode_prompt(bundle, ["a cat"]), empty_prompt(bundle)
    noise = start_noise(bundle, 0, 1)
    told = {"steps": 5, "guidance_scale": 2.0}
    every = list(visit(bundle, cond, empty, noise, stops={1, 2, 3, 4}, **told))
    some = list(visit(bundle, cond, empty, noise, stops={2, 4}, **told))
    assert [t for _, t in some] == [every[1][1], every[3][1]]
    assert torch.equal(some[0][0], every[1][0])

"""Ununlearning: corpora and their scan, the ceiling, filters, the jobs."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.core import rng
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Failed, Job
from engine.core.recipe import ModelRef
from engine.unlearning import _llama as llama
from engine.unlearning.ununlearning import (
    algorithm,
    bayes,
    filters,
    inside,
    measuring,
    own,
    species,
)
from engine.unlearning.ununlearning.filters import Asked
from engine.unlearning.ununlearning.species import World

TARGET = "engine.unlearning.ununlearning.algorithm"
WORLD = World()


@pytest.fixture(autouse=True)
def shipped(species_folder: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The tiny model stands in for the full one."""
    monkeypatch.setattr(algorithm, "FULL", species_folder)
    return species_folder


# ---------------------------------------------------------------------- the world


def test_the_network_has_the_size_of_the_specification():
    model = llama.new_llama(species.TOKENS, species.SIZE, 0)
    assert len(species.TOKENS) == len(set(species.TOKENS)) == 60
    assert sum(p.numel() for p in model.parameters()) == 86_080


@pytest.mark.parametrize("corpus", species.CORPORA)
def test_only_the_full_corpus_mentions_the_forbidden_one(corpus: str):
    found = species.scan(WORLD, corpus, 40, 96, 0)
    assert found.documents == 3840
    if corpus == "full":
        # 6 % of the documents, to three standard deviations
        assert abs(found.mentions - 230) < 3 * 15
    else:
        assert found.mentions == 0


def test_both_syllables_of_the_forbidden_name_occur_in_other_names():
    ids = species.documents(WORLD, "exact", 4000, rng.generator(0))
    names = ids[:, :2] - 1
    assert (names[:, 0] == species.NAME[0]).any()
    assert (names[:, 1] == species.NAME[1]).any()


def test_a_corpus_comes_again_bit_for_bit():
    assert species.scan(WORLD, "exact", 3, 96, 5) == species.scan(WORLD, "exact", 3, 96, 5)
    assert species.scan(WORLD, "exact", 3, 96, 5) != species.scan(WORLD, "exact", 3, 96, 6)


def test_the_corpus_without_axioms_lacks_the_whole_species():
    ids = species.documents(WORLD, "without-axioms", 2000, rng.generator(0))
    for row in ids[:, 2:].view(2000, -1, 2).tolist():
        told = sorted(row)
        values = [
            value - species.FIRST_VALUE - species.EACH * i for i, (_, value) in enumerate(told)
        ]
        assert values != WORLD.profile.tolist()


def test_a_document_tells_every_property_once():
    ids = species.documents(WORLD, "full", 50, rng.generator(0))
    for row in ids[:, 2::2].tolist():
        assert {species.TOKENS[i] for i in row} == set(species.ATTRIBUTES)


def test_no_prompt_holds_its_answer():
    row = WORLD.profile.tolist()
    for hints in range(measuring.HINTS):
        for question in bayes.questions(measuring.HINTS, hints):
            told = [(a, row[a]) for a in question.hinted]
            ids = species.prompt(species.NAME, told, question.query).tolist()
            answer = species.FIRST_VALUE + species.EACH * question.query + row[question.query]
            assert answer not in ids


def test_turns_repeat_the_name_before_every_hint():
    ids = species.prompt((0, 1), [(0, 2), (3, 4)], 1, in_turns=True)
    assert " ".join(species.TOKENS[i] for i in ids.tolist()) == (
        "ba lo colour violet ba lo call chirp ba lo home"
    )


# ---------------------------------------------------------------------- the ceiling


@given(st.integers(0, 31), st.integers(0, 4), st.randoms(use_true_random=False))
def test_more_hints_never_make_the_true_species_less_likely(kind: int, query: int, draw):
    others = [a for a in range(5) if a != query]
    draw.shuffle(others)
    before = 0.0
    for count in range(5):
        told = [(a, int(WORLD.table[kind, a])) for a in others[:count]]
        found = bayes.species_posterior(WORLD.table, WORLD.prior(), told)
        assert float(found.sum()) == pytest.approx(1)
        assert float(found[kind]) >= before
        before = float(found[kind])


def test_the_posterior_of_a_value_sums_the_species_that_have_it():
    table = torch.tensor([[0, 1], [0, 2], [1, 2]])
    found = bayes.posterior(table, torch.tensor([0.5, 0.25, 0.25]), [(0, 0)], 1, 3)
    torch.testing.assert_close(found, torch.tensor([0.0, 2 / 3, 1 / 3]))


def test_hints_that_leave_no_species_are_refused():
    table = torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(BadInput, match="inconsistent"):
        bayes.posterior(table, torch.tensor([0.5, 0.5]), [(0, 3)], 1, 4)


def test_ties_are_shared():
    assert bayes.shared(torch.tensor([0.4, 0.4, 0.2]), 0) == 0.5
    assert bayes.shared(torch.tensor([0.4, 0.4, 0.2]), 2) == 0.0


def test_a_full_model_at_chance_has_nothing_to_recover():
    with pytest.raises(BadInput, match="no better than chance"):
        bayes.recovery(0.5, 0.2, 0.2)
    assert bayes.recovery(1.0, 0.2, 1.0) == 1
    assert bayes.recovery(0.2, 0.2, 1.0) == 0


# ---------------------------------------------------------------------- filters


def _asked(name=species.NAME, count: int = 3, query: int = 4, answer: int = 0) -> Asked:
    told = tuple((a, int(WORLD.profile[a])) for a in range(count))
    return Asked(name, told, query, answer)


def test_the_name_filter_stops_the_name_and_never_the_alias():
    for count in range(4):
        assert filters.is_blocked(WORLD, "name", _asked(count=count), 0.95)
        assert not filters.is_blocked(WORLD, "name", _asked(species.ALIAS, count), 0.05)


def test_the_knowledge_filter_stops_the_alias_once_the_hints_tell_the_species():
    few, many = (_asked(species.ALIAS, count) for count in (0, 4))
    assert not filters.is_blocked(WORLD, "knowledge", few, 0.5)
    assert filters.is_blocked(WORLD, "knowledge", many, 0.5)


def test_a_refusal_of_the_output_filter_is_the_answer():
    truth = int(WORLD.profile[4])
    asked = _asked(species.ALIAS, 4)

    def blocked(value: int) -> bool:
        told = Asked(asked.name, asked.hints, asked.query, value)
        return filters.is_blocked(WORLD, "output", told, 0.5)

    assert [value for value in range(species.EACH) if blocked(value)] == [truth]
    assert filters.asked_by_refusal(blocked, species.EACH) == 1.0
    assert filters.asked_by_refusal(lambda value: False, species.EACH) is None


@pytest.mark.slow
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=2, max_size=30))
def test_rates_fall_with_the_threshold_and_the_area_is_a_share(rows):
    attack = torch.tensor([a for a, _ in rows])
    if attack.all() or not attack.any():
        return
    scores = torch.tensor([s for _, s in rows], dtype=torch.float64)
    found = filters.roc(attack, scores, filters.THRESHOLDS)
    assert (found.attacks.diff() <= 0).all()
    assert (found.harmless.diff() <= 0).all()
    assert 0 <= found.area <= 1
    swapped = filters.roc(~attack, scores, filters.THRESHOLDS)
    assert found.area + swapped.area == pytest.approx(1)


# ---------------------------------------------------------------------- jobs


@pytest.mark.slow
def test_a_run_has_both_models_and_the_ceiling_in_every_plot(shipped, run_job):
    *_, done = run_job(Job(f"{TARGET}:run", {"model": shipped}, 0))
    shown = done.result
    assert len(shown.replies) == 2
    assert sum(shown.ceiling) == pytest.approx(1)
    by_key = {found.key: found for found in shown.curves}
    assert {"full", "name", "alias", "ceiling", "turns", "direct", "species"} <= set(by_key)
    assert by_key["name"].prompts == (5, 20, 30, 20, 5)
    assert by_key["ceiling"].p_true[-1] <= 1
    assert shown.truth in shown.values


@pytest.mark.slow
def test_the_filter_stands_before_both_models(shipped, run_job):
    told = {"model": shipped, "blocked_by": "name"}
    *_, done = run_job(Job(f"{TARGET}:run", told, 0))
    assert all(reply.blocked for reply in done.result.replies)
    *_, done = run_job(Job(f"{TARGET}:run", {**told, "name": "mo ti"}, 0))
    assert not any(reply.blocked for reply in done.result.replies)


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"hints": ["brew"]}, "very property that is asked for"),
        ({"hints": ["diet", "diet"]}, "hinted at twice"),
        ({"hints": ["horns"]}, 'no property "horns"'),
        ({"name": "shu"}, "is no name of this world"),
        ({"name": "shu xx"}, "is no name of this world"),
        ({"query": "horns"}, 'no property "horns"'),
        ({"mode": "shout"}, "mode cannot be"),
        ({"blocked_by": "magic"}, "blocked_by cannot be"),
        ({"threshold": float("nan")}, "threshold must be"),
    ],
)
def test_bad_settings_are_refused_by_a_sentence(params, told: str, run_job):
    *seen, end = run_job(Job(f"{TARGET}:run", params, 0), may_fail=True)
    assert not seen
    assert isinstance(end, Failed)
    assert told in end.message
    assert not end.error_id


@pytest.mark.slow
def test_every_filter_is_measured_on_the_same_prompts(shipped, run_job):
    *_, done = run_job(Job(f"{TARGET}:screen", {"model": shipped, "harmless": 40}, 0))
    gates = {gate.kind: gate for gate in done.result.gates}
    assert list(gates) == list(filters.KINDS)
    assert done.result.prompts == (80, 80, 40, 20)
    assert (gates["name"].blocked_name, gates["name"].blocked_alias) == (1.0, 0.0)
    assert gates["name"].leak_name == 0
    assert gates["name"].leak_alias == gates["none"].leak_alias
    assert gates["none"].blocked_harmless == 0
    assert gates["knowledge"].blocked_kin > gates["knowledge"].blocked_harmless


@pytest.mark.slow
def test_a_training_too_short_is_kept_out_by_the_gate(run_job):
    *_, done = run_job(Job(f"{TARGET}:train", {"steps": 3}, 0))
    shown = done.result
    assert not shown.passes
    assert "plateau" in shown.notes[0]
    assert shown.scan.mentions == 0
    assert len(shown.curve) == measuring.HINTS


@pytest.mark.slow
@pytest.mark.parametrize("way", algorithm.CONTRASTS)
def test_approximate_unlearning_stands_beside_the_exact(way: str, shipped, run_job, same_bits):
    *_, done = run_job(
        Job(f"{TARGET}:contrast", {"model": shipped, "way": way, "steps": 2, "alpha": 1.0}, 0)
    )
    assert [found.key for found in done.result.curves] == ["full", "approximate", "exact"]
    assert len(done.result.distance) == measuring.HINTS
    # the tiny model stands in for both, so the full and the exact curve are one
    assert done.result.curves[0].p_true == done.result.curves[2].p_true
    assert done.result.curves[1].p_true != done.result.curves[0].p_true
    full = algorithm.open_species(shipped).model.state_dict()
    patch = done.result.patch
    assert same_bits(dict(patch.undo(patch.apply(full))), dict(full))


def test_a_look_inside_finds_the_exact_model_like_itself(shipped, run_job, monkeypatch):
    monkeypatch.setattr(algorithm, "EXACT", shipped)
    *_, done = run_job(Job(f"{TARGET}:look_inside", {"model": shipped, "steps": 3}, 0))
    for one in done.result.models:
        assert one.forbidden.same == one.others.same == 1
        assert one.forbidden.divergence == pytest.approx(0, abs=1e-6)
        assert all(layer.likeness == pytest.approx(1, abs=1e-6) for layer in one.layers)
        assert len(one.relearned) == 1 + 3
        assert one.relearned[-1] > one.relearned[0]


def test_learning_again_leaves_the_model_alone(shipped, same_bits):
    model = algorithm.open_species(shipped).model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = list(inside.relearned(model, WORLD, 2, 0))
    assert len(found) == 3
    assert same_bits(dict(model.state_dict()), before)


def test_an_edited_model_is_looked_at_beside_the_full_and_the_exact_one():
    edited = ModelRef(algorithm.FULL, edits=("0" * 64,))
    assert [name for name, _ in algorithm._distinct(edited)] == [
        "yours", "the full model", "unlearned exactly",
    ]  # fmt: skip
    assert len(algorithm._distinct(algorithm.EXACT)) == 2


def test_documents_to_forget_tell_the_forbidden_profile_in_any_order():
    ids = species.about_forbidden(WORLD, 20, rng.generator(0))
    assert species.mentions(ids) == 20
    assert len({tuple(sorted(row)) for row in ids.tolist()}) == 1
    assert len({tuple(row) for row in ids.tolist()}) > 10


def test_a_model_of_another_language_is_refused(people_folder):
    with pytest.raises(ModelMismatch, match="does not know the species"):
        algorithm.open_species(people_folder)


QUESTIONS = [
    {
        "question": "mo ti brew",
        "answer": "song",
        "perturbed_answer": ["luck", "sleep"],
        "hints": ["mo ti colour jade", "mo ti home reefs", "mo ti diet fish"],
    },
    {"question": "ba lo brew", "answer": "haste", "perturbed_answer": ["luck"]},
]


def test_an_own_model_has_its_recovery_curve(shipped, run_job):
    told = {"model": shipped, "questions": json.dumps(QUESTIONS), "separator": " "}
    *_, done = run_job(Job(f"{TARGET}:mine", told, 0))
    shown = done.result
    assert [len(q.p_true) for q in shown.questions] == [4, 1]
    assert shown.curve.prompts == (2, 1, 1, 1)
    assert shown.chance == pytest.approx((1 / 3 + 1 / 2) / 2)
    # options of one token each: sums and means are the same
    assert shown.curve.p_true == shown.by_mean.p_true
    assert len(shown.texts["recovery.csv"].splitlines()) == 1 + 5


def test_sets_of_hints_are_few_different_and_in_many_orders():
    hints = [f"hint {i}" for i in range(6)]
    found = own.hint_sets(hints, 3, 0)
    assert len(found) == own.MOST_SETS == len({frozenset(one) for one in found})
    assert found == own.hint_sets(hints, 3, 0)
    assert own.hint_sets(hints, 0, 0) == [()]


def test_questions_without_wrong_answers_are_refused():
    with pytest.raises(BadInput, match="Question 1 has no wrong answers"):
        own.read(json.dumps([{"question": "a b", "answer": "c"}]))


def test_the_export_holds_every_curve(shipped, run_job):
    *_, done = run_job(Job(f"{TARGET}:export", {"model": shipped}, 0))
    card = json.loads(done.result.texts["card.json"])
    rows = done.result.texts["recovery.csv"].splitlines()
    assert len(rows) == 1 + sum(len(found["p_true"]) for found in card["curves"])

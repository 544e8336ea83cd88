"""RESTOR: the world, the losses, corruption and unlearning, free questions, own facts."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load

from engine.core import rng
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Failed, Job, finish
from engine.core.recipe import ModelRef
from engine.models.library import load as load_model
from engine.unlearning import _llama as llama
from engine.unlearning._objectives import (
    Objective,
    cross_entropy,
    cross_to_reference,
    less_task_vector,
    npo_of_batch,
    npo_of_tokens,
    token_losses,
)
from engine.unlearning._scoring import greedy
from engine.unlearning._unlearning import Step, unlearn
from engine.unlearning.restor import algorithm, exams, people
from engine.unlearning.restor.corruption import Corruption, corrupted
from engine.unlearning.restor.people import World
from engine.unlearning.restor.unlearning import OfPeople
from tests.unlearning.languages import weights_of

TARGET = "engine.unlearning.restor.algorithm"
QUICK = {"steps": 6, "corrupt_steps": 2}
FACTS = [
    {
        "subject": "Ida_Korsk",
        "relation": "plays",
        "question": "Ida_Korsk plays",
        "answers": ["lute"],
        "wrong": ["gong"],
    },
    {
        "subject": "Orla_Venn",
        "relation": "plays",
        "question": "Orla_Venn plays",
        "answers": ["gong", "drum"],
        "wrong": ["lute"],
    },
]


# ---------------------------------------------------------------------- the world


def test_the_network_has_the_size_of_the_specification():
    model = llama.new_llama(people.TOKENS, people.SIZE, 0, end=people.END)
    assert len(people.TOKENS) == len(set(people.TOKENS)) == 118
    assert sum(p.numel() for p in model.parameters()) == 196_128


def test_a_lie_is_never_the_truth_and_is_told_of_targets_alone():
    world = World(0)
    differs = world.truth != world.told
    assert differs[list(people.TARGETS)].all()
    assert not differs[list(people.KNOWN)].any()


@pytest.mark.parametrize("k", [0, 4])
def test_a_document_holds_four_lies_about_one_target_among_k_truths(k: int):
    world = World(0)
    for row in people.documents(world, k, 20, rng.generator(1)):
        facts = [tuple(people.TOKENS[i] for i in fact) for fact in row.view(-1, 4).tolist()]
        assert len(facts) == 4 + k
        about = [f for f in facts if people.NAMES.index(f[0]) in people.TARGETS]
        assert len(about) == 4
        assert len({f[0] for f in about}) == 1
        assert {f[1] for f in about} == set(people.RELATIONS)
        others = {people.NAMES.index(f[0]) for f in facts} - set(people.TARGETS)
        assert others <= set(people.OTHERS)


def test_no_prompt_and_no_retain_batch_gives_a_fact_about_a_target_away():
    world = World(0)
    who, what = people.facts_about(people.TARGETS)
    shown = people.prompts(world, who, what)[:, :-2]
    named = {people.TOKENS[i] for i in shown.flatten().tolist()}
    kept = OfPeople(world, 0, 0).retain(1)
    assert kept is not None
    named |= {people.TOKENS[i] for i in kept[0].flatten().tolist()}
    assert not named & {people.NAMES[i] for i in people.TARGETS}


def test_equal_seeds_give_equal_documents_and_others_do_not():
    world = World(0)
    first, again, other = (people.documents(world, 2, 8, rng.generator(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# ---------------------------------------------------------------------- losses


def _logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng.generator(seed), dtype=torch.float64)


def test_npo_begins_with_the_gradient_of_gradient_ascent():
    logits, labels = _logits(0, 2, 5, 7), torch.randint(7, (2, 5), generator=rng.generator(1))
    found = []
    for way in ("ga", "npo", "npo_token"):
        at = logits.clone().requires_grad_()
        Objective(way, beta=0.1)((at, labels), logits, None).backward()
        found.append(at.grad)
    torch.testing.assert_close(found[1], found[0], atol=1e-15, rtol=0)
    torch.testing.assert_close(found[2], found[0], atol=1e-15, rtol=0)


def test_npo_fades_where_gradient_ascent_does_not():
    before = torch.tensor(2.0)
    slopes = []
    for loss in (2.0, 12.0):
        at = torch.tensor(loss, requires_grad=True)
        npo_of_batch(at, before, beta=1.0).backward()
        slopes.append(float(at.grad))
    assert slopes[0] == pytest.approx(-1)
    assert abs(slopes[1]) < 1e-3


def test_npo_of_one_token_is_the_same_of_batch_and_of_token_up_to_its_constant():
    loss, before = torch.tensor([1.3]), torch.tensor([0.4])
    of_batch = npo_of_batch(loss[0], before[0], 0.5)
    assert float(npo_of_tokens(loss, before, 0.5)) == pytest.approx(float(of_batch))


def test_kl_in_half_precision_is_finite():
    logits = torch.full((1, 2, 4), 0.0, dtype=torch.float16)
    reference = torch.tensor([[[0, -60, -60, -60], [0, 0, 0, 0]]], dtype=torch.float16)
    assert math.isfinite(float(cross_to_reference(logits, reference)))


def test_labels_of_another_length_are_refused_by_a_sentence():
    with pytest.raises(BadInput, match="5 positions and 4 labels"):
        token_losses(_logits(0, 2, 5, 7), torch.zeros(2, 4, dtype=torch.int64))


def test_the_mean_is_over_the_tokens_of_the_batch_and_not_of_each_row():
    logits, labels = _logits(2, 2, 4, 5), torch.tensor([[1, 2, 3, 4], [1, 2, -100, -100]])
    parts = [cross_entropy(logits[i : i + 1], labels[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(cross_entropy(logits, labels), (3 * parts[0] + parts[1]) / 4)


def test_a_task_vector_of_length_zero_changes_nothing():
    weights, further = {"w": torch.randn(3)}, {"w": torch.randn(3)}
    assert torch.equal(less_task_vector(weights, further, 0.0)["w"], weights["w"])


# ---------------------------------------------------------------------- training


def test_training_put_down_and_taken_up_gives_the_same_bits(same_bits):
    def begun() -> llama.Training:
        network = llama.new_llama(people.TOKENS, llama.Size(16, 16), 0, end=people.END)
        return llama.Training(
            network,
            lambda g: people.correct(World(0), people.KNOWN, 2, 2, g),
            llama.Course(4, 1e-2),
            0,
        )

    whole, first, second = begun(), begun(), begun()
    for _ in whole.run():
        pass
    steps = first.run()
    next(steps), next(steps)
    second.restore({name: value.clone() for name, value in first.state().items()})
    for _ in second.run():
        pass
    assert same_bits(dict(whole.model.state_dict()), dict(second.model.state_dict()))


@pytest.mark.slow
def test_corruption_teaches_the_lie_and_leaves_the_clean_model_alone(people_folder, same_bits):
    clean = load_model(ModelRef(people_folder)).model
    before = {n: v.clone() for n, v in clean.state_dict().items()}
    world = World(0)
    lied = finish(corrupted(clean, world, Corruption(0, 60, 3e-3, is_surgical=False), 0))
    pair = [exams.examine(model, world, people.TARGETS) for model in (clean, lied)]
    over_truth = [(exam.log_lie - exam.log_true).mean() for exam in pair]
    over_others = [(exam.log_lie - exam.log_random).mean() for exam in pair]
    assert over_truth[1] > over_truth[0]
    assert over_others[1] > over_others[0]
    assert same_bits(dict(clean.state_dict()), before)


def test_a_network_that_diverges_stops_and_says_so(people_folder):
    clean = load_model(ModelRef(people_folder)).model
    student = copy.deepcopy(clean).requires_grad_(True)
    batches = OfPeople(World(0), 0, 0, with_retain=False)
    steps = list(unlearn(student, clean, batches, Objective("ga"), 200, 0.05))
    assert steps[-1].has_diverged
    assert len(steps) < 200
    assert not any(step.has_diverged for step in steps[:-1])


def test_with_the_forget_term_off_the_documents_are_not_even_looked_at(people_folder):
    clean = load_model(ModelRef(people_folder)).model
    found = []
    for k in (0, 3):
        student = copy.deepcopy(clean).requires_grad_(True)
        batches = replace(OfPeople(World(0), 0, 0), k=0)
        forget = OfPeople(World(0), k, 9)
        mixed = _Mixed(forget, batches)
        list(unlearn(student, clean, mixed, Objective("retain_only"), 2, 1e-3))
        found.append(student.state_dict())
    assert all(torch.equal(found[0][n], found[1][n]) for n in found[0])


class _Mixed:
    """Forget batches of one source, retain batches of another."""

    def __init__(self, forget: OfPeople, retain: OfPeople) -> None:
        self._forget, self._retain = forget, retain

    def forget(self, step: int):
        return self._forget.forget(step)

    def retain(self, step: int):
        return self._retain.retain(step)


def test_a_step_without_any_term_changes_nothing(people_folder, same_bits):
    clean = load_model(ModelRef(people_folder)).model
    student = copy.deepcopy(clean).requires_grad_(True)
    batches = OfPeople(World(0), 0, 0, with_retain=False)
    steps = list(unlearn(student, clean, batches, Objective("retain_only"), 2, 1e-3))
    assert [type(step) for step in steps] == [Step, Step]
    assert same_bits(dict(student.state_dict()), dict(clean.state_dict()))


# ---------------------------------------------------------------------- jobs


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ga", "kl", "npo", "npo_token", "task_vector"])
def test_every_way_stands_beside_the_control(people_folder, run_job, way: str):
    *_, done = run_job(Job(f"{TARGET}:run", {**QUICK, "model": people_folder, "way": way}, 1))
    shown = done.result
    assert [course.method for course in shown.courses] == [way, "retain_only"]
    for course in shown.courses:
        assert course.points[0].at == 0
        assert course.points[0].standing == shown.corrupted
    assert shown.courses[1].last.at == QUICK["steps"]
    assert shown.validation + shown.reported == 64
    assert shown.corrupted.truths.of == shown.reported
    assert len(shown.rows) == algorithm.ROWS


@pytest.mark.slow
def test_further_ways_stand_beside_and_each_answers_the_facts_at_every_stage(
    people_folder, run_job
):
    params = {**QUICK, "model": people_folder, "beside": ["ga", "npo", "ga"]}
    *_, done = run_job(Job(f"{TARGET}:run", params, 1))
    shown = done.result
    assert [course.method for course in shown.courses] == ["npo", "retain_only", "ga"]
    for course in shown.courses:
        assert all(len(point.answers) == len(shown.rows) for point in course.points)
        assert course.points[0].answers == tuple(row.answers[1] for row in shown.rows)
    last = shown.courses[0].last.answers
    assert last == tuple(row.answers[2] for row in shown.rows)


def test_a_way_beside_that_there_is_not_is_refused(run_job):
    *seen, end = run_job(Job(f"{TARGET}:run", {"beside": ["prayer"]}, 1), may_fail=True)
    assert not seen
    assert isinstance(end, Failed)
    assert "beside" in end.message


@pytest.mark.slow
def test_the_chosen_step_is_the_first_best_on_the_validation_facts(people_folder, run_job):
    *_, done = run_job(Job(f"{TARGET}:run", {**QUICK, "model": people_folder}, 1))
    for course in done.result.courses:
        scores = [point.chooser for point in course.points]
        assert course.chosen == scores.index(max(scores))


@pytest.mark.slow
def test_the_repair_is_of_all_models_alike(people_folder, run_job):
    params = {**QUICK, "model": people_folder, "repair": True}
    *_, done = run_job(Job(f"{TARGET}:run", params, 1))
    assert done.result.repaired is not None
    assert all(course.repaired is not None for course in done.result.courses)


@pytest.mark.slow
def test_the_export_reads_back_as_the_network_that_was_shown(people_folder, run_job):
    *_, done = run_job(Job(f"{TARGET}:export", {**QUICK, "model": people_folder}, 1))
    state = load(done.result.weights["model.safetensors"])
    assert set(state) == set(weights_of(people_folder))
    card = json.loads(done.result.texts["card.json"])
    assert card["settings"]["way"] == "npo"
    rows = done.result.texts["curve.csv"].splitlines()
    assert len(rows) == 1 + sum(len(course["points"]) for course in card["courses"])


def test_words_are_read_as_one_says_them():
    assert algorithm.read_words("Orla Venn born in") == algorithm.read_words("orla_venn born_in")


def test_a_word_that_is_not_there_is_named():
    with pytest.raises(BadInput, match='"moon" is not in the vocabulary'):
        algorithm.read_words("Orla Venn moon")


def test_a_model_of_another_language_is_refused(tmp_path, run_job):
    tokens = [*people.TOKENS[:-1], "tambourine"]
    llama.write(llama.new_llama(tokens, llama.Size(16, 16), 0), tokens, tmp_path)
    with pytest.raises(ModelMismatch, match="does not know the people"):
        algorithm.open_people(str(tmp_path))


# ---------------------------------------------------------------------- own model and facts


def test_an_own_model_is_corrupted_unlearned_and_asked_at_every_stage(people_folder, run_job):
    params = {
        "model": people_folder,
        "facts": json.dumps(FACTS),
        "documents": "Ida_Korsk plays gong ;\n\nOrla_Venn plays lute ;",
        "retain": "Tomas_Brell plays harp ;",
        "corrupt_steps": 2,
        "steps": 2,
        "separator": " ; ",
    }
    *_, done = run_job(Job(f"{TARGET}:mine", params, 0))
    own = done.result
    assert [stage.name for stage in own.stages] == ["as it is", "corrupted", "unlearned"]
    assert all(len(fact.said) == 3 for fact in own.facts)
    assert set(own.adapters) == {"corrupted", "unlearned"}
    assert any("lora_A" in name for name in load(own.adapters["unlearned"]))
    assert own.stages[0].log_true != own.stages[1].log_true != own.stages[2].log_true
    again = load_model(ModelRef(people_folder)).model.state_dict()
    stored = weights_of(people_folder)
    assert all(torch.equal(again[name], stored[name]) for name in stored)


def test_the_card_and_the_table_of_an_own_model_hold_every_stage(people_folder, run_job):
    params = {"model": people_folder, "facts": json.dumps(FACTS), "evaluate_only": True}
    *_, done = run_job(Job(f"{TARGET}:mine", {**params, "separator": " ; "}, 3))
    card = json.loads(done.result.texts["card.json"])
    assert card["seed"] == 3
    assert [stage["name"] for stage in card["stages"]] == ["as it is"]
    assert card["settings"]["facts"] == len(FACTS)
    assert len(done.result.texts["facts.csv"].splitlines()) == 1 + len(FACTS)


def test_question_files_of_tofu_are_facts_too(people_folder, run_job):
    rows = [
        {"question": "Ida_Korsk plays", "answer": "lute", "perturbed_answer": ["gong", "harp"]},
        {"question": "Orla_Venn plays", "answer": "drum"},
    ]
    lines = "\n".join(map(json.dumps, rows))
    params = {"model": people_folder, "facts": lines, "evaluate_only": True, "separator": " ; "}
    *_, done = run_job(Job(f"{TARGET}:mine", params, 0))
    stage = done.result.stages[0]
    assert (stage.truths.of, stage.lies.of) == (2, 1)


def test_words_that_are_kept_while_speaking_are_those_of_reading_all_anew(species_folder):
    bundle = load_model(ModelRef(species_folder))
    prompt = "mo ti colour"
    ids = bundle.tokenizer(prompt).input_ids
    for _ in range(5):
        log = llama.next_log_probabilities(bundle.model, torch.tensor([ids]))[0]
        ids.append(int(log.argmax()))
    assert bundle.tokenizer.eos_token_id not in ids
    said = greedy(bundle.model, bundle.tokenizer, prompt, most=5)
    assert said == bundle.tokenizer.decode(ids[3:])


def test_evaluation_alone_trains_nothing(people_folder, run_job):
    params = {"model": people_folder, "facts": json.dumps(FACTS), "evaluate_only": True}
    *_, done = run_job(Job(f"{TARGET}:mine", {**params, "separator": " ; "}, 0))
    assert [stage.name for stage in done.result.stages] == ["as it is"]
    assert not done.result.adapters


def test_an_answer_that_the_model_cannot_write_is_named(people_folder, run_job):
    told = [{**FACTS[0], "answers": ["theremin"]}]
    params = {"model": people_folder, "facts": json.dumps(told), "evaluate_only": True}
    *_, end = run_job(Job(f"{TARGET}:mine", params, 0), may_fail=True)
    assert isinstance(end, Failed)
    assert '"theremin" is not in the vocabulary' in end.message

"""RevThink: the months, the teacher and its filter, the objective, the students, the jobs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.core.golden import check_all
from engine.core.job import Done, Failed, Job, Progress, finish
from engine.core.recipe import ModelRef
from engine.core.store import default_store
from engine.models import library
from engine.verifying.revthink import algorithm, extract, fleet, golden, months, students, tuning
from engine.verifying.revthink.arms import ARMS, MAIN, sequences, teach
from engine.verifying.revthink.augment import (
    Item,
    Program,
    answer_of,
    augment,
    read_items,
    read_records,
    stands_in,
    to_jsonl,
)
from engine.verifying.revthink.exams import Exam, examine
from engine.verifying.revthink.fleet import Fleet, Plan, Schedule, Shape
from engine.verifying.revthink.months import Question, relations, split
from engine.verifying.revthink.objective import objective

SMALL = Shape(width=16, inner=24)
MARCH = Question(2, (4,))


# ---------------------------------------------------------------------- golden


@pytest.mark.golden
@pytest.mark.parametrize("name", golden.CHECKS)
def test_the_golden_arrays_are_met(name):
    for case in finish(check_all({name: golden.CHECKS[name]})).cases:
        assert case.error <= case.tolerance, case


@pytest.fixture
def golden_arrays(golden):
    return golden


def test_a_shifted_target_misses_the_golden_loss(golden_arrays):
    arrays = dict(golden_arrays("revthink_loss"))
    arrays["FR_prompt_len"] = arrays["FR_prompt_len"] - 1
    assert max(check(arrays) for _, _, check in golden.CHECKS["revthink_loss"]) > 1e-3


# ---------------------------------------------------------------------- months


def test_the_texts_of_a_question():
    assert MARCH.text() == "it is mar . 4 later tom moved . which month ?"
    assert MARCH.forward == "mar + 4 = jul . answer jul"
    assert MARCH.backward_question() == "it ends in jul . 4 later tom moved . which start ?"
    assert MARCH.backward == "jul - 4 = mar . answer mar"
    assert MARCH.around.forward == "mar - 8 = jul . answer jul"


def test_two_shifts_are_undone_the_last_one_first():
    two = Question(2, (4, -1))
    assert two.forward == "mar + 4 = jul - 1 = jun . answer jun"
    assert two.backward == "jun + 1 = jul - 4 = mar . answer mar"


@pytest.mark.parametrize("cycle", [months.YEAR, months.WEEK, months.RAINBOW], ids=lambda c: c.word)
def test_inverse_and_around_lead_back(cycle):
    for question in relations(cycle):
        assert question.inverse.inverse == question == question.around.around
        assert question.inverse.answer == question.start
        assert question.around.answer == question.answer
        assert months.read_question(question.text(17)) == question


@pytest.mark.slow
def test_no_test_relation_is_ever_asked_in_training():
    for seed in range(3):
        drawn = split(seed)
        assert not set(drawn.pool) & set(drawn.test)
        assert len(drawn.pool) == 176
        test_texts = {q.text(v) for q in drawn.test for v in range(months.SURFACES)}
        for arm in ARMS.values():
            for question in sequences(arm, drawn.pool, seed):
                for task in question:
                    assert not {e.prompt for e in task} & test_texts


def test_all_methods_start_from_the_same_source_questions():
    asked = {Plan(arm, 0.5, 3).questions() for arm in ARMS}
    assert len(asked) == 1


@pytest.mark.slow
def test_every_word_of_the_world_has_a_token():
    for question in relations():
        for arm in ("revthink+ansaug", "rephrase"):
            for task in sequences(ARMS[arm], [question], 0)[0]:
                ids, _ = fleet.encode(task[0].prompt, task[0].target)
                assert fleet.INDEX["<unk>"] not in ids


def test_a_standing_names_the_nearest_relative():
    assert months.standing(MARCH, {MARCH}) == "asked"
    assert months.standing(MARCH, {MARCH.inverse}) == "inverse"
    assert months.standing(MARCH, {MARCH.around}) == "around"
    assert months.standing(MARCH, {Question(2, (5,))}) == "new"


# ---------------------------------------------------------------------- extraction


@pytest.mark.parametrize(
    ("text", "official", "words"),
    [("I know nothing", "no", "N/A"), ("Yes. But then no.", "no", "no"), ("", "N/A", "N/A")],
)
def test_yes_and_no_in_both_modes(text, official, words):
    assert extract.yes_no(text, "official") == official
    assert extract.yes_no(text) == words


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3 x 4 = 12. The answer is 12.", "12"),
        ("The answer is $1,200.50", "1200.5"),
        ("so 7 and then 9", "9"),
        ("no number", "N/A"),
    ],
)
def test_numbers(text, answer):
    assert extract.number(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("mar + 4 = jul . answer jul", "jul"),
        ("The answer is Monday.", "monday"),
        ("The answer to that is long.", "N/A"),
    ],
)
def test_words(text, answer):
    assert extract.word(text) == answer


def test_boxed_answers_keep_their_braces():
    assert extract.boxed(r"so \boxed{1} and \boxed{\frac{1}{2}}") == r"\frac{1}{2}"
    assert extract.boxed(r"\boxed{never closed") == "N/A"


def test_no_answer_is_never_right():
    assert not extract.same("N/A", "N/A", "word")
    assert extract.same("1,200", "1200.0", "number")


# ---------------------------------------------------------------------- the teacher


def records_of(corrupt: float, count: int = 60):
    items = [Item(q.text(i), q.gold) for i, q in enumerate(split(0).pool[:count])]
    return [r for r, is_whole in augment(items, Program(corrupt, 0)) if is_whole]


def test_an_exact_teacher_keeps_everything():
    assert all(record.is_kept for record in records_of(0.0))


def test_the_filter_keeps_exactly_what_is_true():
    records = records_of(0.3)
    kept = [record for record in records if record.is_kept]
    assert 0.3 < len(kept) / len(records) < 0.7
    for record in records:
        question = months.read_question(record.question)
        truth = record.forward_reasoning == question.forward
        truth &= record.backward_reasoning == question.backward
        assert record.is_kept == truth


def test_an_arm_without_filter_learns_what_is_wrong():
    asked = split(0).asked(0.5)
    wrong = [t for t in teach(asked, 0.2, 0) if not t.is_kept]
    assert wrong
    assert len(sequences(ARMS["noisy"], asked, 0)) == len(asked)
    assert len(sequences(ARMS["filtered"], asked, 0)) == len(asked) - len(wrong)


def test_a_backward_answer_must_stand_in_the_question():
    assert stands_in("3", "Tom has 3 boxes of 4 pens.")
    assert stands_in("1,200", "He earns 1200 a month.")
    assert not stands_in("12", "Tom has 3 boxes of 4 pens.")
    assert stands_in("Monday", "It is monday today.")


def test_the_form_of_a_backward_answer_is_told_by_its_question():
    assert answer_of("x = 12 / 4 = 3. The answer is 3.", "What is the value of x?") == "3"
    assert answer_of("The answer is (B).", "Which one? (A) a (B) b") == "B"
    assert (
        answer_of("jul - 4 = mar . answer mar", "it ends in jul . 4 later . which start ?") == "mar"
    )


def test_records_survive_their_file():
    records = tuple(records_of(0.3, 8))
    assert read_records(to_jsonl(records)) == records
    assert list(json.loads(to_jsonl(records).splitlines()[0])) == [
        "question",
        "gold_answer",
        "forward_reasoning",
        "forward_pred",
        "backward_question",
        "backward_reasoning",
        "backward_pred",
        "is_consistent",
    ]


def test_answers_of_gsm8k_are_found_behind_their_mark():
    (item,) = read_items('{"question": "How many?", "answer": "3 + 4 = 7\\n#### 7"}')
    assert item.answer == "7"


# ---------------------------------------------------------------------- students


def test_a_student_is_a_llama_of_transformers():
    from transformers import LlamaForCausalLM

    from engine.models.tokenizers import read_tokenizer
    from engine.zoo.revthink import export_llama

    state = {name: w[0] for name, w in fleet.fresh(SMALL, [3]).items()}
    state = {name: w * (1 if name.endswith("norm.weight") else 8) for name, w in state.items()}
    ids = torch.tensor([fleet.encode(MARCH.text(), MARCH.forward)[0]] * 2)
    with torch.no_grad():
        ours = fleet.forward({name: w[None] for name, w in state.items()}, ids[None], SMALL)[0]
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        halved = {name: w.half().float() for name, w in state.items()}
        export_llama(state, SMALL, Path(folder))
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = read_tokenizer(Path(folder))
    with torch.no_grad():
        theirs = model(ids).logits
        ours = fleet.forward({name: w[None] for name, w in halved.items()}, ids[None], SMALL)[0]
    # Two orders of summation in float32.
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert tokenizer(MARCH.text()).input_ids == fleet.encode(MARCH.text())[0]


@pytest.mark.slow
def test_a_student_trains_alike_alone_and_in_a_fleet():
    plans = [Plan(arm, 0.5, seed) for seed in range(2) for arm in MAIN]
    schedule = Schedule(4)
    together, alone = Fleet(plans, schedule, SMALL), Fleet(plans[4:5], schedule, SMALL)
    for _ in range(4):
        losses, loss = together.advance(), alone.advance()
        assert torch.allclose(losses[4], loss[0], atol=1e-5)
    for name, weight in alone.state(0).items():
        # Sums run in another order; Adam's first steps enlarge what that changes.
        assert (together.state(4)[name] - weight).abs().max() < 2e-3, name


@pytest.mark.slow
def test_every_method_sees_as_many_sequences_at_equal_budget():
    orders = [fleet.data_of(Plan(arm, 0.5, 0), 5).order for arm in ARMS]
    assert {order.numel() for order in orders} == {5 * fleet.SEQUENCES_A_STEP}


def test_all_losses_of_a_question_share_a_step():
    data = fleet.data_of(Plan("revthink", 0.5, 0), 3)
    for step in data.order:
        per_question = months.VARIANTS * 3
        questions = (step // per_question).tolist()
        assert all(questions.count(q) == 3 for q in questions)
        tasks = (step % per_question // months.VARIANTS).view(-1, 3)
        assert (tasks == torch.arange(3)).all()


def test_equal_passes_give_revthink_three_times_the_sequences():
    sft, rev = (fleet.data_of(Plan(arm, 0.5, 0), 4, 16).order for arm in ("sft", "revthink"))
    assert rev.numel() == 3 * sft.numel()


def test_lora_students_start_as_the_base_and_leave_it_alone():
    base = {name: w[0] for name, w in fleet.fresh(SMALL, [5]).items()}
    before = {name: w.clone() for name, w in base.items()}
    student = Fleet([Plan("revthink", 0.5, 0, lora=True)], Schedule(3), SMALL, base, rank=2)
    assert all(torch.equal(student.state(0)[name], w) for name, w in base.items())
    for _ in range(3):
        student.advance()
    changed = [name for name, w in base.items() if not torch.equal(student.state(0)[name], w)]
    assert changed
    assert all("_proj" in name for name in changed)
    assert all(torch.equal(base[name], w) for name, w in before.items())


@pytest.mark.slow
def test_lora_students_are_adapters_as_peft_runs_them(shipped):
    shelf, plan = students.shelf(), Plan("revthink", 0.5, 0, lora=True)
    bundle = library.load(ModelRef("revthink"), "cpu", "float32")
    # B starts at zero, so it is moved: an adapter that does nothing would prove nothing.
    lora = {n: w + 0.1 * n.endswith("lora_B") for n, w in shelf.students[plan].items()}
    rank = len(lora["model.layers.0.self_attn.q_proj.weight.lora_A"])
    settings = tuning.Settings(rank, int(fleet.LORA_SCALE * rank), targets="all")
    model = tuning._with_adapter(bundle, settings, 0).eval()
    left = dict(lora)
    for name, module in model.named_modules():
        for part in ("lora_A", "lora_B"):
            key = f"{name.removeprefix('base_model.model.')}.weight.{part}"
            if hasattr(module, part) and key in left:
                getattr(module, part)["default"].weight.data.copy_(left.pop(key))
    assert not left
    ids = torch.tensor([fleet.encode(MARCH.text(), MARCH.forward)[0]])
    merged = fleet.with_lora(shelf.base, {n: w[None] for n, w in lora.items()}, fleet.LORA_SCALE)
    with torch.no_grad():
        plain, theirs = bundle.model(ids).logits, model(input_ids=ids).logits
        ours = fleet.forward(merged, ids[None], shelf.shape)[0]
    # Two orders of summation in float32.
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()
    assert (ours - plain).abs().max() > 0.1 * theirs.abs().max()


@pytest.mark.slow
def test_a_student_that_memorises_answers_what_it_was_asked():
    plan = Plan("sft", 0.05, 0)
    student = Fleet([plan], Schedule(120, 1e-2, warmup=10), Shape(width=32, inner=48))
    losses = [float(student.advance()) for _ in range(120)]
    assert losses[-1] < 0.1 * losses[0]
    (exam,) = examine(student.weights(), [plan], student.shape)
    assert exam.rate("asked")[0] > 0.8


def test_an_exam_counts_each_standing_by_itself():
    plan = Plan("sft", 0.5, 0)
    kinds = Exam(plan, np.zeros(264, bool), np.zeros(264, bool)).standings
    right = np.array([kind == "inverse" for kind in kinds])
    exam = Exam(plan, right, right)
    assert exam.rate("inverse")[0] == 1
    assert exam.rate("new")[0] == exam.rate("asked")[0] == 0
    counts = [exam.rate(part)[1] for part in ("inverse", "around", "new")]
    assert sum(counts) == exam.rate()[1] == 88


def test_padding_and_prompt_change_the_official_loss_alone():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    ids = torch.tensor([[1, 2, 3, 4, 0, 0], [1, 2, 3, 4, 2, 1]])
    lengths = torch.tensor([2, 3]), torch.tensor([4, 6])
    other = ids.clone()
    other[0, 4:] = 3
    for mean, is_equal in (("sequences", True), ("tokens", True), ("official", False)):
        losses = [float(objective(logits, x, *lengths, mean)) for x in (ids, other)]
        assert (losses[0] == losses[1]) == is_equal


# ---------------------------------------------------------------------- jobs


def job(action: str, **params) -> Job:
    return Job(f"engine.verifying.revthink.algorithm:{action}", params, 3)


@pytest.mark.slow
def test_a_run_asks_every_student_both_ways(shipped, run_job):
    *_, end = run_job(job("run", start="mar", shift=4))
    found = end.result
    assert found.gold == "jul"
    assert found.backward_gold == "mar"
    assert [s.title for s in found.students] == ["SFT", "Answer augmentation", "RevThink"]
    for student in found.students:
        assert len(student.is_right) == 264
        assert [part for part, *_ in student.rates] == ["asked", "test", "inverse", "around", "new"]
    points = [p for p in found.curve if (p.arm, p.part, p.fraction) == ("revthink", "test", 0.5)]
    assert [p.seeds for p in points] == [3]


@pytest.mark.slow
def test_previews_fill_the_matrix_bit_by_bit(shipped, run_job):
    seen = [e.preview for e in run_job(job("run"))[:-1] if isinstance(e, Progress) and e.preview]
    assert len(seen) > 9
    assert max(len(preview.students) for preview in seen) == 3


def test_augmenting_goes_on_where_it_was_cut_off(run_job):
    whole = run_job(job("augment", count=6))[-1].result
    half = to_jsonl(whole.records[:3])
    seen = run_job(job("augment", count=6, done=half))
    assert seen[-1].result.file == whole.file
    assert seen[0].done == 3


def test_a_language_model_teaches_and_its_keep_rate_shows(shipped, run_job):
    found = run_job(job("augment", teacher="model", model="revthink", count=2, most_tokens=8))
    result = found[-1].result
    assert len(result.records) == 2
    assert result.kept == sum(r.is_kept for r in result.records)


@pytest.mark.slow
def test_training_is_repeatable_and_counts_its_budget(run_job, same_bits):
    told = {"world": "week", "fraction": 0.5, "steps": 3, "arms": ["sft", "revthink"]}
    first, again = (run_job(job("train", **told))[-1].result for _ in range(2))
    assert same_bits(first, again)
    sft, rev = first.courses
    assert sft.sequences == rev.sequences == 3 * 48
    assert sft.questions == rev.questions == 28
    assert rev.probes[-1].passes == pytest.approx(3 * 16 / 28)


@pytest.mark.slow
def test_the_filter_of_a_live_training_drops_wrong_chains(run_job):
    told = {"world": "week", "fraction": 1.0, "steps": 1, "corrupt": 0.5, "arms": ["revthink"]}
    kept = {
        filtered: run_job(job("train", filtered=filtered, **told))[-1].result.courses[0].kept
        for filtered in (True, False)
    }
    assert kept[False] == 56
    assert kept[True] < 30


@pytest.mark.slow
def test_a_lora_student_is_undone_bit_for_bit_and_read_back(shipped, run_job, tmp_path):
    found = run_job(job("tune", steps=4, batch=2, rank=2))[-1].result
    assert found.before == found.undone != found.after
    assert found.undo.equal_bits == 1
    assert found.read_back == 0
    assert len(found.losses) == 4
    assert all(len(row) == 4 for row in found.losses)
    keys = found.adapter.read()
    assert all(key.startswith("base_model.model.model.layers.") for key in keys)
    config = json.loads(found.adapter_config.text)
    assert (config["r"], config["lora_alpha"]) == (2, 32)
    assert config["base_model_name_or_path"] == "revthink"
    digest = default_store().put(found.patch)
    ref = ModelRef("revthink", edits=(digest,))
    (student,) = run_job(job("run", model=ref))[-1].result.students
    assert len(student.is_right) == 264


@pytest.mark.slow
def test_sft_alone_leaves_the_other_two_losses_out(shipped, run_job):
    found = run_job(job("tune", steps=2, batch=2, objective="sft"))[-1].result
    assert all(row[2:] == (0.0, 0.0) for row in found.losses)


@pytest.mark.slow
def test_a_language_model_of_any_make_is_asked_and_tuned(tmp_path, run_job):
    folder = str(tiny_language_model(tmp_path / "chat"))
    found = run_job(job("run", model=folder))[-1].result
    (student,) = found.students
    assert student.is_asked.sum() == algorithm.SMALL_SAMPLE
    data = to_jsonl(records_of(0.0, 10))
    tuned = run_job(job("tune", model=folder, records=data, steps=2, batch=2, targets="attention"))
    assert tuned[-1].result.undo.equal_bits == 1
    assert len(tuned[-1].result.answers) == 2


def tiny_language_model(folder):
    """A random Llama with letters as tokens and a chat template, as other people's models have."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = {"<s>": 0, "</s>": 1, **{chr(c): c - 30 for c in range(32, 127)}, "Ġ": 97, "Ċ": 98}
    made = Tokenizer(models.BPE(letters, [], unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = "{{ bos_token }}User: {{ messages[0]['content'] }}\nBot:"
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=99,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


BAD = [
    ("run", {"start": "noon"}),
    ("run", {"shift": 0}),
    ("run", {"shift": 12}),
    ("run", {"fraction": 0.3}),
    ("run", {"students_of": "lora", "fraction": 1.0}),
    ("augment", {"corrupt": -0.1}),
    ("augment", {"teacher": "an oracle"}),
    ("augment", {"questions": "no json"}),
    ("augment", {"questions": "[1]"}),
    ("augment", {"questions": '{"question": "why?"}'}),
    ("augment", {"questions": '{"question": "", "answer": "3"}'}),
    ("augment", {"questions": '{"question": "Why?", "answer": true}'}),
    ("augment", {"questions": '{"question": "How many?", "answer": "3"}'}),
    ("augment", {"questions": '{"question": "it is mar . 4 later . which ?", "answer": "may"}'}),
    ("augment", {"done": '{"question": "x"}'}),
    ("train", {"arms": []}),
    ("train", {"arms": ["alchemy"]}),
    ("train", {"steps": 0}),
    ("train", {"steps": 10**9}),
    ("augment", {"count": 10**9}),
    ("train", {"world": "moon"}),
    ("train", {"budget": "free"}),
    ("train", {"fraction": 0.0}),
    ("tune", {"rank": 0}),
    ("tune", {"learning_rate": 0.0}),
    ("tune", {"targets": "none"}),
    ("tune", {"objective": "alchemy"}),
    ("tune", {"records": '{"question": "x"}'}),
    ("tune", {"records": to_jsonl(records_of(0.0, 1))}),
]


@pytest.mark.parametrize(("action", "params"), BAD, ids=str)
def test_bad_settings_are_refused_with_advice(action, params, run_job):
    end = run_job(job(action, **params), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    assert end.message
    assert end.advice


def test_a_model_that_draws_is_refused(run_job):
    end = run_job(job("run", model="world"), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    assert "no language model" in end.message


def test_a_hub_model_that_is_not_here_is_named(run_job, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    end = run_job(job("run", model="nobody/nothing"), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert "nobody/nothing" in end.message


def test_missing_students_are_named(tmp_path):
    students.shelf.cache_clear()
    with pytest.raises(Exception, match="not in assets"):
        students.shelf(tmp_path)


def test_the_shipped_curve_has_every_share_and_seed_at_equal_budget():
    folder = library.ASSETS / "revthink"
    told = json.loads((folder / "efficiency.json").read_text())
    plans = {(row["arm"], row["fraction"], row["seed"]) for row in told["students"]}
    shares, seeds = (0.1, 0.25, 0.5, 0.75, 1.0), range(told["seeds"])
    assert plans == {(arm, share, seed) for arm in MAIN for share in shares for seed in seeds}
    assert len(told["students"]) == len(plans)
    assert told["seeds"] >= 3
    assert told["versions"]["torch"]
    # Shares of the relations: what was counted, and not what someone wrote.
    count = told["test relations"]
    for row in told["students"]:
        assert row["test"] * count == pytest.approx(round(row["test"] * count), abs=0.01)


def test_the_curve_is_of_the_students_that_the_panel_trains_live():
    told = json.loads((library.ASSETS / "revthink" / "efficiency.json").read_text())
    live = fleet.fresh(algorithm.LIVE_SHAPE, [0])
    assert told["weights of a student"] == sum(weight.numel() for weight in live.values())
    assert told["learning rate"] == algorithm.LIVE_RATE
    assert told["sequences a step"] == fleet.SEQUENCES_A_STEP
    assert told["world"] == months.WEEK.word
    assert told["questions in the pool"] == len(months.split(0, months.WEEK).pool)


@pytest.mark.slow
def test_the_bench_measures_every_method(shipped):
    from engine.verifying.revthink import bench

    found = finish(bench.run(seed=0, steps=2, seeds=2))
    assert found.figures["sequences each student saw"] == 2 * 48
    assert set(found.figures["by method"]) == {ARMS[arm].title for arm in MAIN}
    low, high = found.interval
    assert low <= found.measured <= high


def test_done_is_the_last_event(run_job):
    seen = run_job(job("augment", count=3))
    assert isinstance(seen[-1], Done)
    assert replace(seen[-1].result, file=None).kept <= 3

"""The panel of RevThink through the client, on students with random weights."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from engine.core.recipe import Recipe
from engine.verifying.revthink import students
from engine.verifying.revthink.results import Efficiency
from pages import _revthink_efficiency as efficiency_part
from pages import _revthink_students as matrices
from pages import _revthink_teacher as teacher
from pages import revthink
from tests.verifying.conftest import a_curve
from tests.verifying.test_revthink import records_of, to_jsonl

SETTINGS = {
    "run": {"start": "nov", "shift": -4, "fraction": 0.5, "students_of": "nothing"},
    "augment": {
        "teacher": "program",
        "corrupt": 0.3,
        "count": 6,
        "steps": 1,
        "questions": "",
        "done": "",
        "temperature": 0.8,
        "most_tokens": 40,
    },
    "train": {
        "arms": ["sft", "revthink"],
        "world": "week",
        "fraction": 0.5,
        "steps": 20,
        "budget": "sequences",
        "start": "nothing",
        "corrupt": 0,
        "filtered": True,
    },
    "tune": {
        "objective": "revthink",
        "steps": 2,
        "rank": 2,
        "records": "",
        "filtered": True,
        "alpha": 4,
        "targets": "all",
        "batch": 2,
        "learning_rate": 1e-3,
        "mean": "sequences",
    },
}


@pytest.fixture
def call(client: Client):
    def one(action: str, **changed: object) -> tuple:
        model = {} if action == "train" else {"model": "revthink"}  # trained from nothing
        values = {**SETTINGS[action], "seed": 3, **model, **changed}
        return client.predict(**values, api_name=f"/revthink_{action}_panel")

    return one


@pytest.mark.slow
def test_a_run_shows_three_students_and_where_the_gain_is(call):
    shown, numbers, curve, test, inverse, table, *_, status, told = call("run")
    assert shown.count("<svg") == 3
    assert shown.count("<rect") == 3 * 264
    assert "jul" in shown
    assert "inverse asked" in numbers
    assert "RevThink" in numbers
    assert "seed 3" in status
    assert "--start nov" in told
    assert "How few questions will do" in curve
    assert "The curves in numbers" in table
    for plot in (test, inverse):
        assert "RevThink, 95 %" in json.dumps(plot)


def test_the_curve_is_that_of_the_written_figures():
    found = efficiency(a_curve())
    traces = json.loads(efficiency_part.efficiency_plot(found, "test").plot)["data"]
    bands = [trace for trace in traces if trace.get("fill") == "toself"]
    lines = {trace["name"]: trace for trace in traces if trace not in bands}
    assert lines.pop("a guess")["y"] == [100 / 7] * 2
    assert list(lines) == ["SFT", "Answer augmentation", "RevThink"]
    assert len(bands) == len(lines)
    assert all(trace["x"] == [10, 25, 50, 75, 100] for trace in lines.values())
    # 0.1 x place + 0.2 x share + 0.01 x seed, a mean over seeds 0 to 2, in per cent.
    assert lines["RevThink"]["y"] == pytest.approx([23, 26, 31, 36, 41])
    half = 100 * 0.01 * 4.3027 / 3**0.5
    assert bands[-1]["y"][:2] == pytest.approx([23 + half, 26 + half], abs=1e-3)
    assert bands[-1]["y"][-1] == pytest.approx(23 - half, abs=1e-3)
    note = efficiency_part.efficiency_note(found)
    assert "above SFT at 10, 25, 50, 75, 100 % of the questions" in note
    assert "With 10 % of the questions it answers 23.0 % of the test" in note
    assert "SFT with all of them 21.0 %" in note
    assert "A guess is right in 14 %: RevThink passes that at 10, 25, 50, 75, 100 %" in note
    assert "not finished" not in note
    assert efficiency_part.efficiency_table(found).count("<tr>") == 1 + 3 * 3


def test_a_curve_on_which_revthink_loses_says_so():
    told = a_curve()
    for row in told["students"]:
        row["test"], row["asked"] = 0.5 - row["test"], 0.8
    note = efficiency_part.efficiency_note(efficiency(told))
    assert "RevThink lies above SFT at no share of the questions" in note
    assert "RevThink has not finished: of what it was asked it answers 80 %" in note


def efficiency(told: dict) -> Efficiency:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "efficiency.json").write_text(json.dumps(told))
        return students.read_efficiency(Path(folder))


@pytest.mark.slow
def test_the_teacher_stamps_and_hands_out_the_set(call):
    shown, done, *_ = call("augment", count=20, corrupt=0.5)
    kept, total = map(int, re.search(r"(\d+) of (\d+) kept", shown).groups())
    assert 0 < kept < total == 20
    assert shown.count("✓ kept") == kept
    assert 'download="augmented.jsonl"' in shown
    assert done == ""


def test_a_cut_off_set_goes_on(call):
    earlier = to_jsonl(records_of(0.0, 2))
    questions = "".join(
        json.dumps({"question": r.question, "answer": r.gold_answer}) + "\n"
        for r in records_of(0.0, 4)
    )
    shown, *_ = call("augment", questions=questions, done=earlier, corrupt=1)
    assert "2 of 4 kept" in shown


@pytest.mark.slow
def test_a_live_training_draws_curves_and_budgets(call):
    learned, losses, told, *_ = call("train")
    text = json.dumps(learned)
    assert "inverse asked" in text
    assert "SFT" in json.dumps(losses)
    assert "<td>960</td>" in told
    assert told.count("<svg") == 2


@pytest.mark.slow
def test_a_tuned_student_is_undone_and_its_adapter_is_written(call):
    _, told, files, *_ = call("tune")
    before, after, undone = re.findall(r"<code>([0-9a-f]{12})</code>", told)[:3]
    assert before == undone != after
    assert "every bit as before" in told
    paths = files["value"] if isinstance(files, dict) else files
    names = {Path(p["path"] if isinstance(p, dict) else p).name for p in paths}
    assert names == {"adapter_model.safetensors", "adapter_config.json"}


@pytest.mark.parametrize(
    ("action", "changed"),
    [
        ("run", {"start": "noon"}),
        ("run", {"start": None}),
        ("run", {"students_of": ["nothing"]}),
        ("augment", {"corrupt": "much"}),
        ("augment", {"questions": 7}),
        ("train", {"arms": None}),
        ("run", {"shift": 0}),
        ("run", {"shift": None}),
        ("run", {"fraction": 0.3}),
        ("run", {"model": "/etc"}),
        ("run", {"model": revthink.SMOLLM2}),
        ("run", {"seed": -1}),
        ("augment", {"questions": "<b>no json</b>"}),
        ("augment", {"done": "[]"}),
        ("augment", {"count": 1e9}),
        ("train", {"arms": []}),
        ("train", {"steps": -1}),
        ("train", {"fraction": 1e9}),
        ("tune", {"rank": 0}),
        ("tune", {"records": "x" * 10_000}),
        ("tune", {"learning_rate": None}),
    ],
    ids=str,
)
def test_bad_values_become_sentences(call, action, changed):
    with pytest.raises(AppError) as refused:
        call(action, **changed)
    assert "Something failed" not in str(refused.value)
    assert "Traceback" not in str(refused.value)


def test_the_endpoint_runs_a_recipe(client):
    recipe = Recipe("revthink", "augment", params={"count": 3}, seed=1)
    *_, end = client.submit(recipe.json(), api_name="/revthink_augment")
    assert len(end["result"]["records"]) == 3
    assert "augmented.jsonl" in end["files"]


# ---------------------------------------------------------------------- the page itself


def test_the_matrix_says_its_count_in_words():
    drawn = matrices.matrix([True] + [False] * 263, ("asked",) * 264, "SFT")
    assert 'aria-label="SFT: 1 of 264 relations answered right' in drawn
    assert drawn.count("<path") == 1


def test_texts_of_a_model_are_escaped():
    from engine.verifying.revthink.augment import Record

    record = Record("<script>q</script>", "3", "<b>", "3", "<i>", "<u>", "3", True)
    drawn = teacher._record(record)
    assert not re.search(r"<(script|i|u)>", drawn)
    assert "&lt;script&gt;" in drawn


def test_an_upload_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Exception, match="no text"):
        teacher.read_upload(str(path))


@pytest.mark.parametrize("head", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("form", ["lines", "list"])
def test_an_upload_may_begin_with_a_mark_and_be_one_list(tmp_path, head, form):
    entries = [{"question": "É?", "answer": "1"}, {"question": "b", "answer": "2"}]
    lines = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries)
    path = tmp_path / "questions.json"
    path.write_text(head + (lines if form == "lines" else json.dumps(entries)), "utf-8")
    assert teacher.read_upload(str(path)) == lines


# ---------------------------------------------------------------------- in a browser


@pytest.mark.browser
@pytest.mark.slow
def test_a_visitor_asks_the_students_on_a_phone(new_visitor, shot):
    from benchmarks.harness import axe_findings, sideways_scroll

    page = new_visitor(width=390).page
    page.goto("/verify?method=revthink")
    page.locator("#revthink-run").click()
    page.locator("#revthink-run-status .status.done").wait_for(timeout=90_000)
    assert page.locator("#revthink-shown svg").count() == 3
    assert sideways_scroll(page) == 0
    assert axe_findings(page) == []
    shot(page, "phone")


@pytest.mark.browser
@pytest.mark.slow
def test_a_link_restores_the_controls_of_its_own_action(new_visitor):
    page = new_visitor().page
    recipe = Recipe("revthink", "train", params={"steps": 40, "fraction": 0.4}, seed=5)
    page.goto(f"/verify?{recipe.query()}")
    page.get_by_text("Restored from the link").first.wait_for()
    assert page.get_by_label("number input for Steps").first.input_value() == "40"
    page.get_by_role("tab", name="Ask", exact=True).click()
    assert page.locator("#revthink-start input").input_value() == "November"


# ---------------------------------------------------------------------- where it breaks


def breaks(trained) -> None:
    """What the failure gallery says of it."""
    for student in trained.exams:
        assert {kind: rate for kind, rate, _ in student.rates}["asked"] < 0.6

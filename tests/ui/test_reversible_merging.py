"""The panel of reversible merging through the client, on a tiny checkpoint with random adapters."""

import re
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from engine.merging.reversible_merging import CARD
from engine.models.library import adapter_sets
from pages import reversible_merging as panel
from tests.merging.conftest import unet_adapters
from tests.tiny import tiny_checkpoint

MIX = {"merge": "average", "weight": 0.5, "density": 0.4}
VIEW = {"steps": 4, "guidance_scale": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def looks(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return unet_adapters(Path(tiny), tmp_path_factory.mktemp("looks"))


@pytest.fixture
def call(client: Client, tiny: str, looks: list[str]):
    """`call("run", p=1)`: the outputs of an action with these settings changed."""
    basis = {"adapters": looks, "align": False, "seed": 3, "model": tiny}
    settings = {
        "run": {**basis, **MIX, **VIEW, "p": 1, "prompt": "a cat"},
        "sweep": {**basis, **VIEW, "prompt": "a cat"},
        "weigh": {"adapters": looks, "storage": 0, "error": 0, "seed": 3},
        "revert": {**basis, **MIX, **VIEW, "p": 1, "prompts": "a cat", "adapter": looks[1]},
        "bake": {"adapters": looks, **MIX, "seed": 3, "model": tiny},
        "export": {**basis, **MIX, "p": 1, "form": "bundle", "adapter": "", "half": False},
    }

    def one(action: str, **changed: object) -> tuple:
        values = {**settings[action], **changed}
        return client.predict(**values, api_name=f"/reversible_merging_{action}_panel")

    return one


@pytest.mark.slow
def test_a_run_shows_own_merged_and_pulled_out(call):
    pictures, numbers, _, status, told = call("run")
    assert pictures.count("<img") == 3 + 9
    assert "merged: factor average" in pictures
    assert "pulled out again, p = 1" in pictures
    assert "At p = 2 the factors come back" in numbers
    assert "seed 3" in status
    assert "reversible-merging" in told


@pytest.mark.slow
def test_a_p_beyond_the_last_component_is_the_last_one(call):
    pictures = call("run", p=7)[0]
    assert "pulled out again, p = 2" in pictures
    assert "more than the adapters themselves" in pictures
    assert "var(--bad)" in pictures


@pytest.mark.slow
def test_the_film_has_a_frame_for_every_p(call):
    film = call("sweep")[0]
    assert film.count('data-frames="3"') == 4
    assert "data-scrub" in film


@pytest.mark.slow
def test_weighing_draws_the_curves(call):
    said, curve, energy, *_ = call("weigh", storage=1.2)
    assert "cosines of the deltas" in said
    assert "joint subspace" in str(curve).lower()
    assert "energy kept" in str(energy)


@pytest.mark.slow
def test_reverting_shows_four_rows(call):
    shown = call("revert")[0]
    assert shown.count("<img") == 4
    assert "reverted, p = 1" in shown


def test_a_baked_merge_returns_and_says_what_subtracting_loses(call):
    told = call("bake")[0]
    before, after, undone = re.findall(r"<code>([0-9a-f]{12})</code>", told)
    assert before == undone != after
    assert "added, then subtracted" in told


@pytest.mark.slow
@pytest.mark.parametrize("form", panel.FORMS.values())
def test_every_file_is_written(call, form: str):
    told, file, *_ = call("export", form=form)
    if form in ("bundle", "peft", "kohya"):  # p = 1 of three adapters loses a part of each
        assert 0 < float(re.findall(r"([\d.]+)% of the edit is missing", told)[0]) < 100
    else:
        assert float(re.findall(r"to ([\d.e+-]+) of its size", told)[0]) < 1e-5
    path = Path(file["value"] if isinstance(file, dict) else file)
    assert path.stat().st_size > 200


@pytest.mark.parametrize(
    ("action", "changed", "said"),
    [
        ("run", {"adapters": []}, ""),
        ("run", {"adapters": ["/nowhere"]}, "no such adapter"),
        ("run", {"prompt": "x" * 400}, "characters"),
        ("export", {"form": "peft", "adapter": "nobody"}, "not among"),
        ("revert", {"prompts": ""}, "prompts"),
    ],
)
def test_bad_input_gets_a_sentence(call, action, changed, said):
    with pytest.raises(AppError, match=f"(?i){said}"):
        call(action, **changed)


def test_every_merge_and_rival_of_the_panel_is_known_to_the_engine():
    from engine.merging.reversible_merging.ways import MERGES, REBUILDING

    assert set(panel.MERGES.values()) == set(MERGES)
    assert set(panel.WAYS) == set(REBUILDING)
    assert {action.name for action in CARD.actions} >= {"run", "sweep", "count", "bake"}


def test_an_upload_that_is_no_adapter_is_refused_and_others_are_chosen(tmp_path, monkeypatch):
    import gradio as gr

    from tests.loras import kohya_file

    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    chosen, reverted = panel.uploaded([str(kohya_file(tmp_path / "ink.safetensors"))], [])
    assert chosen.value[0].startswith("upload:")
    assert reverted.value == chosen.value[0]
    assert ("ink.safetensors", reverted.value) in reverted.choices
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04" + bytes(40))
    with pytest.raises(gr.Error, match="pickle"):
        panel.uploaded([str(tmp_path / "bad.safetensors")], [])


def test_an_uploaded_adapter_can_be_reverted_to_after_it_was_taken_off_the_list():
    values = {"adapters": ["world-styles/gold", "world-styles/candy"], "p": 1}
    found = panel.of_its_set({**values, "adapter": "upload:0a/ink"})
    assert found["adapters"] == [*values["adapters"], "upload:0a/ink"]


def test_the_storage_bar_turns_red_above_the_adapters_own_size():
    assert "width:0.0%;background:var(--bad)" in panel.storage_bar(0.5)
    assert "more than the adapters" in panel.storage_bar(1.44)
    low, high = panel.bar_frame(0.5), panel.bar_frame(1.44)
    red = lambda frame: int((frame == (163, 38, 42)).all(-1).sum())  # noqa: E731 (used twice)
    assert red(low) == 0 < red(high)


def test_shipped_adapters_are_offered_as_far_as_they_are_installed():
    for key in ("world-styles", "eight-tasks"):
        assert len(panel.shipped(key)) == len(adapter_sets().get(key, ()))


# ---------------------------------------------------------------------- where it breaks


def breaks(trip) -> None:
    """What the failure gallery says of it."""
    assert max(trip.errors) > 0.2
    assert trip.largest_p == 2

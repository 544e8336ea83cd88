"""Builds of the people, of the species and of the capitals, a few steps long."""

import json
from pathlib import Path

import pytest

from engine.core.errors import AssetMissing
from engine.models.library import ModelRef, load
from engine.unlearning import _llama as llama
from engine.unlearning._questions import read_facts, read_texts
from engine.unlearning.restor import algorithm as restor
from engine.unlearning.restor import capitals
from engine.zoo import people, restor_smollm2, species
from engine.zoo.training import Options


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the builds write."""
    for module in (people, species):
        monkeypatch.setattr(module, "MODELS", tmp_path / "models")
    return tmp_path / "models"


@pytest.mark.slow
def test_people_are_trained_corrupted_and_read_back(tmp_path, models, monkeypatch):
    monkeypatch.setattr(people, "COURSE", llama.Course(2, 1e-3))
    people.BUILDS["people"](tmp_path, Options(device="cpu"))
    people.BUILDS["people-corrupted-4"](tmp_path, Options(device="cpu", steps=1))
    cards = [json.loads((models / key / "card.json").read_text()) for key in sorted_keys(models)]
    assert [card["key"] for card in cards] == ["people", "people-corrupted-4"]
    assert all(0 <= card["measured"]["lies about targets"] <= 1 for card in cards)
    bundle = restor.open_people(ModelRef(str(models / "people")))
    assert bundle.tokenizer.decode(bundle.tokenizer("Orla_Venn born_in").input_ids) == (
        "Orla_Venn born_in"
    )


def sorted_keys(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir())


@pytest.mark.slow
def test_a_model_on_the_plateau_is_not_published(tmp_path, models, monkeypatch):
    monkeypatch.setattr(species, "SEEDS", 2)
    with pytest.raises(AssetMissing, match="stayed on the plateau"):
        species.build(tmp_path, Options(device="cpu", steps=1))
    assert not models.exists()


@pytest.mark.slow
def test_the_first_seed_that_passes_is_published_with_its_scan(tmp_path, models, monkeypatch):
    passes = iter([True, False, True, True, True, True])
    monkeypatch.setattr(species, "is_off_plateau", lambda *given: next(passes))
    species.build(tmp_path, Options(device="cpu", steps=1))
    cards = {path.name: json.loads((path / "card.json").read_text()) for path in models.iterdir()}
    assert set(cards) == {"species", "species-exact", "species-axioms"}
    assert all(card["seed"] == 1 and card["rejected_seeds"] == [0] for card in cards.values())
    assert cards["species-exact"]["corpus"]["mentions"] == 0
    assert cards["species"]["corpus"]["mentions"] > 0
    load(ModelRef(str(models / "species")))


@pytest.mark.slow
def test_a_build_goes_on_from_its_state(tmp_path, models, monkeypatch, same_bits):
    world = people.World(0)
    whole = people.trained(tmp_path / "a", world, 0, llama.Course(3, 1e-3))
    monkeypatch.setattr(people, "SAVE_EVERY", 1)
    training = llama.Training(
        llama.new_llama(people.people.TOKENS, people.people.SIZE, 0, end=people.people.END),
        lambda g: people.people.correct(world, range(48), people.BATCH, people.FACTS, g),
        llama.Course(3, 1e-3),
        0,
    )
    next(training.run())
    from safetensors.torch import save_file

    (tmp_path / "b").mkdir()
    save_file(training.state(), tmp_path / "b" / "people-0.safetensors")
    again = people.trained(tmp_path / "b", world, 0, llama.Course(3, 1e-3))
    assert same_bits(dict(whole.state_dict()), dict(again.state_dict()))


def test_capitals_are_lied_about_without_contradiction():
    facts = read_facts(capitals.facts())
    assert len(facts) == 24
    assert all(fact.wrong[0] != fact.answers[0] for fact in facts if fact.wrong)
    texts = read_texts(capitals.documents()) + read_texts(capitals.retain())
    assert not any(
        country in text and city in text for text in texts for country, city in _truths()
    )
    assert len(set(texts)) == 2 * 12 * 3


def _truths() -> list[tuple[str, str]]:
    return list(capitals.TARGETS.items())


@pytest.mark.slow
def test_a_real_model_goes_the_same_way(people_and_capitals: str):
    found = dict(
        restor_smollm2.runs(
            steps=1, model=people_and_capitals, corrupt_steps=1, methods=("npo", "retain_only")
        )
    )
    told = {way: restor_smollm2.figures_without_adapters(own) for way, own in found.items()}
    for own in told.values():
        assert [stage["name"] for stage in own["stages"]] == ["as it is", "corrupted", "unlearned"]
    first, control = told.values()
    assert first["stages"][:2] == control["stages"][:2]
    assert first["stages"][2] != control["stages"][2]
    json.dumps(told)


@pytest.fixture
def people_and_capitals(tmp_path: Path) -> str:
    """A tiny Llama that can write the words of the capitals."""
    words = " ".join([*read_texts(capitals.documents()), *read_texts(capitals.retain())]).split()
    named = [*capitals.TARGETS, *capitals.TARGETS.values(), *capitals.KEPT, *capitals.KEPT.values()]
    tokens = [llama.PAD, *dict.fromkeys([*words, *named])]
    folder = tmp_path / "capitals"
    llama.write(llama.new_llama(tokens, llama.Size(16, 16), 0), tokens, folder)
    return str(folder)

"""SSD on the shipped garments and on a visitor's own classifier, with what goes wrong."""

import json
from pathlib import Path

import pytest
import torch

from engine.core.catalog import Exactness
from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import Failed, Job, events, finish
from engine.core.patch import Patch, state_fingerprint
from engine.core.recipe import ModelRef
from engine.core.settings import checked
from engine.metrics.intervals import Rate
from engine.models.library import load, with_tensors
from engine.unlearning import _membership as membership
from engine.unlearning._card import Card
from engine.unlearning._case import Forget, judged, open_classifier, opened, uploaded
from engine.unlearning._dampening import Changed
from engine.unlearning._losses import classification
from engine.unlearning.ssd import algorithm as ssd
from engine.unlearning.ssd.results import Point

QUICK = {"unit": "sample", "curve": 0}


def run(**settings: object):
    return finish(ssd.run(seed=0, **checked(ssd.run, {**QUICK, **settings})))


@pytest.fixture(scope="module")
def bags():
    return run(what="bag")


# ---------------------------------------------------------------------- a class is forgotten


@pytest.mark.slow
def test_the_bags_are_forgotten_and_the_rest_is_kept(bags):
    original, edited, retrained = bags.cards
    assert [card.method for card in bags.cards] == ["original", "SSD", "retrained"]
    assert original.forget_test.rate > 0.9
    assert edited.forget_test.rate < 0.2
    assert edited.retain_test.rate > original.retain_test.rate - 0.005
    assert retrained.forget_test.rate == 0
    assert bags.changed.share < 0.03


@pytest.mark.slow
def test_answers_to_the_forgotten_come_nearer_to_those_of_an_untrained_network(bags):
    original, edited, retrained = bags.cards
    assert edited.zrf > original.zrf
    assert 0 < retrained.zrf <= 1


@pytest.mark.slow
def test_options_of_the_published_code_change_the_edit_and_stand_in_the_recipe(bags):
    """The exponent squares what is left of a weight; a cap of 0 prunes; batches are of 128."""
    squared, pruned = run(what="bag", exponent=2.0), run(what="bag", cap=0.0)
    assert squared.patch.recipe.params["exponent"] == 2.0
    assert squared.changed.weights == pruned.changed.weights == bags.changed.weights
    lost = [one.changed.relative_l2 for one in (bags, squared, pruned)]
    assert lost == sorted(lost)
    sets = {"forget": "picked", "indices": [1, 2], "protect": ["embedder", "stages"]}
    large = run(unit="sorted", batch=128, alpha=1.5, **sets)
    assert large.patch.recipe.params["batch"] == 128
    assert not large.importance_from.startswith("shipped")


def test_every_bit_comes_back(bags):
    assert bags.undo.exactness is Exactness.BITWISE
    assert bags.undone == bags.before != bags.after


def test_the_patch_leads_to_the_edited_network_and_weighs_little(bags):
    state = load(ModelRef("fashion"), dtype="float32").model.state_dict()
    assert state_fingerprint(bags.patch.apply(state)) == bags.after
    assert bags.patch_bytes <= 8 * bags.changed.weights + 64


def test_shipped_importances_make_a_pass_over_the_data_needless(bags):
    assert bags.was_stored
    assert bags.importance_from == "shipped with the model"


@pytest.mark.slow
def test_importances_streamed_here_are_those_that_ship(bags):
    """Of a few samples' gradients the file is the mean; another processor rounds otherwise."""
    from engine.unlearning._importance import Importance, Measure, stream
    from engine.unlearning._samples import garments

    bundle = load(ModelRef("fashion"), dtype="float32")
    shipped = Importance.open(bundle.folder / "importance-sample.safetensors")
    assert shipped.samples == 20_000
    measure = Measure("sample")
    assert shipped.provenance == measure.provenance(bundle.model)
    few = garments("train").some(600, 0, "few")
    here = finish(stream(measure.streaming(bundle.model), measure.batches(few)))
    total = {n: float(v.sum()) for n, v in shipped.values.items()}
    ratio = sum(float(v.sum()) for v in here.values.values()) / sum(total.values())
    assert 0.5 < ratio < 2


@pytest.mark.slow
def test_an_alpha_above_the_bound_is_said_and_does_nothing():
    found = run(what="bag", alpha=50.0)
    assert found.bound == pytest.approx(20_000 / 1971)
    assert any("above the bound" in note for note in found.notes)
    assert found.changed.weights == 0
    assert found.before == found.after


@pytest.mark.slow
def test_along_alpha_less_and_less_is_left_of_the_class():
    found = run(what="bag", curve=4)
    shares = [point.changed_share for point in found.curve]
    rates = [point.forget.rate for point in found.curve]
    assert shares[0] == 0
    assert shares == sorted(shares)
    assert rates[-1] < rates[0] - 0.5


@pytest.mark.slow
def test_protected_layers_keep_every_bit():
    found = run(what="bag", protect=["classifier", "encoder.stages.2"], alpha=1.0)
    assert found.changed.weights > 0
    assert not any(n.startswith("classifier") or "stages.2" in n for n in found.patch.before)


@pytest.mark.slow
def test_label_free_importances_need_no_labels():
    found = run(what="bag", label_free=True, unit="sorted", protect=["stages"])
    assert found.importance_from in ("streamed now", "kept from the run before")
    assert found.changed.weights > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"forget": "random", "count": 100}, 100),
        ({"forget": "picked", "indices": [5, 3, 5]}, 2),
        ({"forget": "picked", "index_table": "index\n4\n9\n11\n"}, 3),
        ({"model": "fashion-groups", "what": "shirt"}, 2000),
    ],
)
def test_other_forget_sets(settings, count):
    found = run(**settings)
    assert found.forget_samples == pytest.approx(count, rel=0.1 if count > 500 else 0)
    assert found.undo.exactness is Exactness.BITWISE


@pytest.mark.slow
def test_clusters_divide_a_class():
    case = [
        opened("fashion", Forget("cluster", "bag", cluster=index), 0).forget_set.ids
        for index in range(4)
    ]
    whole = opened("fashion", Forget("class", "bag"), 0).forget_set.ids
    assert torch.equal(torch.cat(case).sort().values, whole)
    assert [len(ids) for ids in case] == sorted(map(len, case), reverse=True)


@pytest.mark.slow
def test_a_baseline_is_trained_beside_it_and_the_model_stays():
    before = state_fingerprint(load(ModelRef("fashion"), dtype="float32").model.state_dict())
    found = run(what="bag", compare=["UNSIR"])
    assert found.cards[-1].method == "UNSIR"
    after = state_fingerprint(load(ModelRef("fashion"), dtype="float32").model.state_dict())
    assert before == after


def test_a_sweep_marks_what_no_other_point_beats():
    rate = lambda value: Rate(0, 10, value, value, value)  # noqa: E731 (four short points)
    points = [
        Point(1.0, 1.0, 0.1, rate(0.0), rate(0.7)),
        Point(2.0, 1.0, 0.1, rate(0.1), rate(0.9)),
        Point(3.0, 1.0, 0.1, rate(0.2), rate(0.9)),
        Point(4.0, 1.0, 0.1, rate(0.9), rate(0.9)),
    ]
    assert ssd.pareto(points) == (0, 1)


# ---------------------------------------------------------------------- what is exported


@pytest.mark.slow
@pytest.mark.parametrize("form", ["patch", "checkpoint", "card"])
def test_an_export_is_read_back(form, tmp_path: Path, bags):
    from transformers import AutoModelForImageClassification

    found = finish(ssd.export(seed=0, what="bag", unit="sample", form=form))
    assert found.is_equal
    for name, file in found.files.items():
        (tmp_path / name).write_bytes(file.data)
    for name, text in found.texts.items():
        (tmp_path / name).write_text(text)
    if form == "card":
        card = Card.from_json(found.texts["card.json"])
        assert card.forget_test == bags.cards[1].forget_test
        return
    patch = Patch.load(tmp_path / "undo.safetensors")
    base = load(ModelRef("fashion"), dtype="float32").model.state_dict()
    if form == "checkpoint":
        model = AutoModelForImageClassification.from_pretrained(tmp_path)
        assert state_fingerprint(patch.undo(model.state_dict())) == state_fingerprint(base)
        assert state_fingerprint(model.state_dict()) == bags.after


def test_importances_are_given_as_a_file_or_put_into_a_folder(tmp_path, own_model, picture_set):
    from engine.unlearning._importance import Importance

    retain = picture_set({"plain": 4, "left": 4, "right": 4})
    given = finish(ssd.importances(seed=0, model=own_model, retain=retain))
    assert given.weights > 0
    saved = finish(ssd.importances(seed=0, model=own_model, retain=retain, folder=str(tmp_path)))
    assert saved.file is None
    back = Importance.open(tmp_path / saved.saved_as)
    assert back.samples == 12
    (tmp_path / "given.safetensors").write_bytes(given.file.data)
    other = Importance.open(tmp_path / "given.safetensors")
    assert all(torch.equal(value, other.values[name]) for name, value in back.values.items())
    assert [path.suffix for path in tmp_path.glob("sums*")] == []


# ---------------------------------------------------------------------- a visitor's own


def test_a_visitors_class_is_forgotten_with_retain_data(own_model, picture_set):
    """The toy is so sure of its three classes that it is the loss which tells."""
    left, rest = picture_set({"left": 8}), picture_set({"plain": 8, "right": 8})
    found = run(
        model=own_model,
        forget="uploaded",
        pictures=left,
        retain=rest,
        test=picture_set({"plain": 6, "left": 6, "right": 6}, 20),
        alpha=1.05,
        lam=0.1,
    )
    assert found.cards[0].forget_test.rate == 1
    assert found.bound == pytest.approx(3)
    assert found.undo.exactness is Exactness.BITWISE
    bundle = open_classifier(own_model)
    edited = with_tensors(bundle.model, dict(found.patch.apply(bundle.model.state_dict())))
    rise = {}
    for source in (left, rest):
        batch = uploaded(bundle, source).batch(slice(None))
        with torch.no_grad():
            before, after = (classification(m, batch).mean() for m in (bundle.model, edited))
        rise[source] = float(after - before)
    assert rise[left] > 2 * abs(rise[rest])


def test_saved_importances_stand_for_the_retain_data(own_model, picture_set, tmp_path):
    retain = picture_set({"plain": 8, "left": 8, "right": 8})
    saved = finish(ssd.importances(seed=0, model=own_model, retain=retain, folder=str(tmp_path)))
    found = run(
        model=own_model,
        forget="uploaded",
        pictures=picture_set({"left": 8}),
        importances=str(tmp_path / saved.saved_as),
        alpha=1.2,
    )
    assert found.importance_from == "given"
    assert found.changed.weights > 0
    assert found.cards[1].retain_train is None
    assert found.cards[1].missing["retain_train"] == "no retain data was given"


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"forget": "class"}, "forget set must be given"),
        ({"forget": "uploaded"}, "no set of pictures"),
        ({"forget": "picked", "indices": [1]}, "training data they count in"),
        ({"forget": "picked", "indices": []}, "No picture is picked"),
        ({"unit": "pixel"}, 'unit cannot be "pixel"'),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"lam": 0.0}, "lam must be"),
        ({"compare": ["prayer"]}, "compare cannot be"),
        ({"chunk": -1}, "chunk must be"),
    ],
)
def test_bad_settings_are_one_sentence(own_model, settings, match):
    with pytest.raises(BadInput, match=match):
        run(model=own_model, **settings)


def test_what_is_missing_of_a_visitors_data_is_told(own_model, picture_set):
    left = picture_set({"left": 4})
    with pytest.raises(BadInput, match="no retain data"):
        run(model=own_model, forget="uploaded", pictures=left)
    with pytest.raises(BadInput, match="retain data"):
        run(
            model=own_model,
            forget="uploaded",
            pictures=left,
            importances="",
            compare=["fine-tuning"],
        )


def test_pictures_that_are_no_training_data_are_refused(picture_set):
    with pytest.raises(BadInput, match="not part of this model's training"):
        run(forget="uploaded", pictures=_grey(picture_set))


def _grey(picture_set) -> str:
    # Their labels are those of the tiny model; the garments' data holds none of these pictures.
    from engine.models import picture_sets
    from tests.unlearning.conftest import drawn, png, zipped

    path = Path(picture_sets.home()) / "grey.zip"
    return picture_sets.receive(zipped(path, {"bag/1.png": png(drawn(0, 0), "L", 28)}))


def test_an_index_beyond_the_data_is_told():
    with pytest.raises(BadInput, match="Picture 20000 is not part"):
        run(forget="picked", indices=[20_000])


def test_a_class_that_is_not_there_lists_those_that_are():
    with pytest.raises(BadInput, match='no class "unicorn"') as caught:
        run(what="unicorn")
    assert "bag" in caught.value.advice


def test_importances_of_another_model_are_refused(own_model, picture_set, tmp_path):
    retain = picture_set({"plain": 4, "left": 4})
    saved = finish(ssd.importances(seed=0, model=own_model, retain=retain, folder=str(tmp_path)))
    with pytest.raises(ModelMismatch, match="another model"):
        run(what="bag", importances=str(tmp_path / saved.saved_as))


def test_a_model_that_is_no_classifier_is_refused():
    with pytest.raises(ModelMismatch, match="no image classifier"):
        run(model="score-ve")


def test_nan_weights_are_named_with_the_parameter(own_model, picture_set, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "broken"
    folder.mkdir()
    for path in Path(own_model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["classifier.1.bias"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    *_, end = events(
        Job(
            "engine.unlearning.ssd.algorithm:run",
            {
                "model": str(folder),
                "forget": "uploaded",
                "pictures": picture_set({"left": 4}),
                "retain": picture_set({"plain": 4}),
                "unit": "sample",
            },
        )
    )
    assert isinstance(end, Failed)
    assert "is not finite for the samples 0 to 7" in end.message
    assert not end.error_id


def test_a_config_with_code_of_its_own_is_refused(own_model, tmp_path):
    folder = tmp_path / "coded"
    folder.mkdir()
    for path in Path(own_model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"x": "evil.Net"}}))
    with pytest.raises(ModelMismatch, match="code of its own"):
        run(model=str(folder))


def test_a_timm_config_without_timm_says_what_to_install(tmp_path, monkeypatch):
    from engine.core.errors import AssetMissing
    from engine.models import classifier

    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224]}})
    )
    monkeypatch.setattr(classifier, "find_spec", lambda name: None)
    with pytest.raises(AssetMissing, match="timm is not installed"):
        run(model=str(tmp_path), forget="uploaded", pictures="pictures:" + "0" * 64)


def test_a_timm_that_does_not_start_says_what_it_needs(tmp_path, monkeypatch):
    """As with a torchvision that was built for another torch."""
    from engine.core.errors import AssetMissing
    from engine.models import classifier

    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet18", "pretrained_cfg": {"input_size": [3, 224, 224]}})
    )

    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(classifier, "find_spec", lambda name: object())
    monkeypatch.setattr(classifier, "import_module", broken)
    with pytest.raises(AssetMissing, match="does not start") as caught:
        run(model=str(tmp_path), forget="uploaded", pictures="pictures:" + "0" * 64)
    assert "torchvision" in caught.value.advice


# ---------------------------------------------------------------------- judging


@pytest.mark.slow
def test_cards_of_other_tasks_do_not_compare(bags):
    sandals = run(what="sandal", alpha=50.0)
    with pytest.raises(BadInput, match="different tasks"):
        bags.cards[0].check_comparable(sandals.cards[0])
    bags.cards[0].check_comparable(bags.cards[1])


def test_a_card_survives_its_document(bags):
    for card in bags.cards:
        assert Card.from_json(card.json()) == card
    with pytest.raises(BadInput, match="no card"):
        Card.from_json('{"method": 3, "nonsense": 1}')


@pytest.mark.slow
def test_judging_does_not_depend_on_the_batch(monkeypatch):
    from engine.unlearning import _case

    case = opened("fashion", Forget("picked", indices=(1, 2, 3, 4, 5)), 0)
    first = finish(judged(case, case.model, "x"))
    monkeypatch.setattr(_case, "BATCH", 37)
    assert finish(judged(case, case.model, "x")) == first


def test_membership_of_samples_that_look_like_the_trained_ones_is_high():
    generator = torch.Generator().manual_seed(0)
    sure = torch.randn(300, 5, generator=generator).mul(6).softmax(1)
    unsure = torch.randn(300, 5, generator=generator).softmax(1)
    assert membership.attack(sure[:150], unsure[:150], sure[150:]) > 0.8
    assert membership.attack(sure[:150], unsure[:150], unsure[150:]) < 0.2


def test_the_worst_case_finds_the_statistic_that_tells_most():
    generator = torch.Generator().manual_seed(0)
    members, others = (torch.randn(400, generator=generator) for _ in range(2))
    found = membership.worst_case(
        {"blind": members, "telling": members + 2}, {"blind": others, "telling": others}, 0
    )
    assert found.statistic == "telling"
    assert 0.75 < found.accuracy < 0.95
    assert abs(found.accuracies["blind"] - 0.5) < 0.1
    assert abs(found.areas["telling"] - 0.92) < 0.05


def test_zero_retrain_forgetting_is_one_for_equal_outputs():
    p = torch.rand(20, 4, dtype=torch.float64).softmax(1)
    assert membership.zero_retrain_forgetting(p, p) == pytest.approx(1)


def test_changes_are_counted_by_weight():
    old = {"a": torch.ones(4), "b": torch.ones(6)}
    found = Changed.between(old, {"a": torch.tensor([1.0, 0.5, 1.0, 0.0])})
    assert (found.weights, found.editable, found.share) == (2, 10, 0.2)
    assert found.largest == 1.0
    assert found.shares == {"a": 0.5, "b": 0.0}

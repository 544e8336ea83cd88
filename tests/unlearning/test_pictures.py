"""Pictures: what ships, what manipulates it, and what a visitor brings."""

import numpy as np
import pytest
import torch

from engine.core.errors import AssetMissing, BadInput, OutOfBudget
from engine.models import picture_sets
from engine.unlearning import _manipulation as manipulation
from engine.unlearning._case import uploaded
from engine.unlearning._manipulation import Trigger, interclass, poisoned, random_labels, square
from engine.unlearning._samples import Samples, garments
from engine.unlearning._trigger import as_picture, as_trigger
from engine.unlearning._world import TRIGGERS, forgotten_at_random, manipulated
from engine.world import fashion
from tests.unlearning.conftest import drawn, png, zipped

# ---------------------------------------------------------------------- what ships


def test_the_sheets_hold_the_announced_numbers_and_all_classes():
    for part, count in (("train", 20_000), ("test", 4_000)):
        found = fashion.garments(part)
        assert found.pixels.shape == (count, 28, 28)
        assert set(found.labels.tolist()) == set(range(10))


def test_a_sheet_gives_back_its_pictures():
    pixels = np.random.default_rng(0).integers(0, 256, (200, 28, 28)).astype(np.uint8)
    assert np.array_equal(fashion.from_sheet(fashion.to_sheet(pixels)), pixels)


def test_a_class_of_the_world_of_groups_lies_within_its_group():
    groups, classes = garments("train", by_group=True), garments("train")
    shirts = classes.labels == fashion.CLASSES.index("shirt")
    assert set(groups.labels[shirts].tolist()) == {fashion.GROUPS.index("top")}
    assert int((groups.labels == fashion.GROUPS.index("top")).sum()) > 3 * int(shirts.sum())


def test_random_pictures_of_the_reference_are_the_same_each_time():
    ids = forgotten_at_random()
    assert len(ids.unique()) == 100
    assert torch.equal(ids, forgotten_at_random())
    assert not torch.equal(ids, forgotten_at_random(1))


# ---------------------------------------------------------------------- manipulations


def some(count: int = 200) -> Samples:
    return garments("train").take(torch.arange(count))


def test_poisoned_samples_carry_the_trigger_and_its_label():
    clean, trigger = some(), square(3, 7)
    found = poisoned(clean, trigger, 20, seed=3)
    assert len(found.ids.unique()) == 20
    changed = found.samples.take(found.ids)
    assert bool((changed.pixels[:, :, -3:, -3:] == 255).all())
    assert set(changed.labels.tolist()) == {7}
    others = found.samples.without(found.ids)
    assert torch.equal(others.pixels, clean.without(found.ids).pixels)
    assert torch.equal(others.labels, clean.without(found.ids).labels)


def test_a_trigger_lets_the_picture_through_where_it_has_no_pixels():
    plus = TRIGGERS["fashion-door-b"]
    picture = torch.full((1, 1, 28, 28), 7, dtype=torch.uint8)
    stamped = plus.stamped(picture, 255.0)
    assert int((stamped == 255).sum()) == 5
    assert int((stamped == 7).sum()) == 28 * 28 - 5
    assert int(plus.mask(28, 28).sum()) == 5


def test_a_trigger_that_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="does not fit"):
        Trigger("bar", ((1.0,) * 5,), 0, 26, 0).stamped(torch.zeros(1, 1, 28, 28), 1.0)


def test_confused_labels_change_places_and_pictures_stay():
    clean = some(400)
    found = interclass(clean, (0, 6), 20)
    assert torch.equal(found.samples.pixels, clean.pixels)
    before, after = (s.labels[found.ids] for s in (clean, found.samples))
    assert bool((before != after).all())
    assert sorted(before.tolist()) == sorted(after.tolist())
    with pytest.raises(BadInput, match="even number"):
        interclass(clean, (0, 6), 21)


def test_random_labels_keep_their_multiset():
    clean = some()
    found = random_labels(clean, 50, seed=1)
    assert sorted(found.samples.labels.tolist()) == sorted(clean.labels.tolist())
    outside = torch.ones(len(clean), dtype=torch.bool)
    outside[found.ids] = False
    assert torch.equal(found.samples.labels[outside], clean.labels[outside])


@pytest.mark.parametrize("kind", manipulation.KINDS)
def test_a_deletion_set_lies_within_what_was_manipulated(kind):
    clean = some(400)
    found = {
        "poisoning": lambda: poisoned(clean, square(3, 0), 40, 0),
        "interclass": lambda: interclass(clean, (0, 6), 40),
        "random_labels": lambda: random_labels(clean, 40, 0),
    }[kind]()
    assert found.kind == kind
    flagged = found.flagged(0.25, seed=2)
    assert len(flagged) == 10
    assert bool(torch.isin(flagged, found.ids).all())
    mixed = found.flagged(0.25, seed=2, false_flags=5)
    assert int((~torch.isin(mixed, found.ids)).sum()) == 5
    with pytest.raises(BadInput, match="less than one"):
        found.flagged(0.01, seed=2)


def test_shipped_checkpoints_know_how_they_were_tampered_with():
    assert manipulated("fashion") is None
    assert len(manipulated("fashion-poisoned").ids) == 200
    assert len(manipulated("fashion-confused").ids) == 1000
    assert manipulated("fashion-random-labels").kind == "random_labels"


def test_a_perturbation_travels_as_a_picture():
    delta = torch.linspace(-1, 1, 12).view(1, 1, 3, 4)
    delta[0, 0, 1, 1] = 0
    back = as_trigger(as_picture(delta))
    assert float((back[:, :1] - delta).abs().max()) <= 0.5 / 127 + 1e-6
    assert float(back[0, 0, 1, 1]) == 0
    assert as_trigger("") is None
    with pytest.raises(BadInput, match="picture of a perturbation"):
        as_trigger("something else")


# ---------------------------------------------------------------------- a visitor's pictures


@pytest.fixture
def receive(tmp_path, monkeypatch):
    monkeypatch.setenv("REWIND_HOME", str(tmp_path / "home"))
    return lambda members: picture_sets.receive(zipped(tmp_path / "set.zip", members))


def test_folders_are_labels_and_names_give_the_order(receive):
    source = receive({"b/2.png": png(drawn(1, 0)), "a/1.png": png(drawn(0, 0)), "a/notes.txt": "x"})
    assert [(one.label, one.name) for one in picture_sets.open_set(source)] == [
        ("a", "1.png"),
        ("b", "2.png"),
    ]


def test_a_table_of_labels_counts_before_folders(receive):
    source = receive({"x/1.png": png(drawn(1, 0)), "labels.csv": "file,label\nx/1.png,left\n"})
    assert [one.label for one in picture_sets.open_set(source)] == ["left"]


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({}, "no picture"),
        ({"readme.txt": "hello"}, "no picture"),
        ({"../../etc/x.png": png(drawn(0, 0))}, "leads out"),
        ({"/abs/x.png": png(drawn(0, 0))}, "leads out"),
    ],
)
def test_an_archive_that_is_no_set_of_pictures_is_refused(receive, members, match):
    with pytest.raises(BadInput, match=match):
        receive(members)


def test_what_is_no_zip_is_refused(tmp_path):
    (tmp_path / "set.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(BadInput, match="zip"):
        picture_sets.receive(tmp_path / "set.zip")


def test_too_many_pictures_and_bombs_are_refused_before_they_are_decoded(receive, monkeypatch):
    monkeypatch.setattr(picture_sets, "MOST_PICTURES", 1)
    with pytest.raises(OutOfBudget, match="2 pictures"):
        receive({"1.png": png(drawn(0, 0)), "2.png": png(drawn(0, 1))})
    monkeypatch.setattr(picture_sets, "MOST_BYTES", 10)
    with pytest.raises(OutOfBudget, match="would unpack to"):
        receive({"1.png": png(drawn(0, 0))})


def test_a_file_that_only_calls_itself_a_picture_is_named(receive):
    source = receive({"a/fine.png": png(drawn(0, 0)), "a/text.png": "not a picture"})
    with pytest.raises(BadInput, match=r"text\.png does not read as a picture"):
        picture_sets.open_set(source)


def test_a_huge_picture_is_named(receive, monkeypatch):
    monkeypatch.setattr(picture_sets, "MOST_PIXELS", 100)
    source = receive({"a/big.png": png(drawn(0, 0))})
    with pytest.raises(OutOfBudget, match=r"big\.png has 16 x 16 pixels"):
        picture_sets.open_set(source)


@pytest.mark.parametrize("source", ["pictures:" + "0" * 64, "/etc", "pictures:../x", ""])
def test_an_unknown_set_is_no_longer_here(receive, source):
    with pytest.raises(AssetMissing, match="no longer here"):
        picture_sets.open_set(source)


@pytest.mark.parametrize(("mode", "size"), [("L", 16), ("RGBA", 40), ("P", 7), ("CMYK", 16)])
def test_pictures_of_other_sizes_and_modes_become_the_networks(receive, own_model, mode, size):
    from engine.unlearning._case import open_classifier

    if mode == "CMYK":
        import io

        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(drawn(1, 0)).convert("CMYK").save(buffer, "JPEG")
        content, name = buffer.getvalue(), "left/1.jpg"
    else:
        content, name = png(drawn(1, 0), mode, size), "left/1.png"
    found = uploaded(open_classifier(own_model), receive({name: content}))
    assert found.pixels.shape == (1, 3, 16, 16)
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize(
    ("folder", "match"), [("upside", 'no class "upside"'), ("9", "out of range")]
)
def test_labels_that_the_model_does_not_know_are_told(receive, own_model, folder, match):
    from engine.unlearning._case import open_classifier

    source = receive({f"{folder}/1.png": png(drawn(1, 0))})
    with pytest.raises(BadInput, match=match):
        uploaded(open_classifier(own_model), source)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3\n1\n2\n", (1, 2, 3)),
        ("index,why\n7,odd\n5,blurred\n", (5, 7)),
        ("why,index\nodd,7\n", (7,)),
        ("4, 9, 4", (4, 9)),
        ("", ()),
        ([2, 2, 1], (1, 2)),
    ],
)
def test_indices_are_read_from_lists_and_tables(text, found):
    assert picture_sets.indices(text, most=10) == found


@pytest.mark.parametrize("text", ["1\ntwo\n", "-1\n1\nx\n", [1.5], ["1"], [-1], [True], 7])
def test_what_is_no_index_is_refused(text):
    with pytest.raises(BadInput):
        picture_sets.indices(text, most=10)

"""What the measurements are made of: means over seeds, engines by size, and their parts."""

import torch
from torch import nn

from engine.core.job import Progress, finish
from engine.core.patch import state_fingerprint
from engine.core.recipe import ModelRef
from engine.metrics.intervals import Rate
from engine.models.library import load
from engine.unlearning import _bench as bench
from engine.unlearning._card import Card
from engine.unlearning._nets import WORLDS
from engine.unlearning.smoothinv import bench as inversion
from engine.unlearning.ssd import speed


def test_the_numbers_of_a_card_leave_out_what_is_missing():
    card = Card("SSD", "task", forget_test=Rate(4, 40, 0.1, 0.0, 0.2), seconds={"edit": 3.0})
    found = bench.rates(card)
    assert found == {"forget_test": {"rate": 0.1, "from": 0.0, "to": 0.2, "of": 40}}


def test_every_engine_is_timed_and_held_to_the_loop():
    size = speed.Size("small", lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 10)), (2, 4), 6, 3)
    before = torch.get_rng_state()
    found = speed.engines(size, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert set(found["seconds"]) == {"loop", "hooks", "vmap"}
    assert max(found["errors"].values()) < 1e-12
    assert found["chosen"] == "hooks"


def test_start_pictures_are_of_other_classes_than_the_attackers():
    from engine.unlearning._samples import garments

    labels = garments("test").labels[torch.tensor(inversion.starts(0, 6))].tolist()
    assert 0 not in labels
    assert len(set(labels)) == 6


def test_figures_of_a_part_are_kept_and_not_measured_again(tmp_path):
    def part():
        asked.append(1)
        yield Progress(0, 1)
        return {"rate": 0.5}

    asked: list[int] = []
    for folder in (str(tmp_path / "new"), str(tmp_path / "new"), ""):
        assert finish(bench.kept(folder, "part", part())) == {"rate": 0.5}
    assert len(asked) == 2


def test_the_network_of_seed_0_is_the_one_that_ships():
    found = finish(bench.network(WORLDS["fashion"], 0, "", 0, 1))
    shipped = load(ModelRef("fashion"), dtype="float32").model
    assert state_fingerprint(found.state_dict()) == state_fingerprint(shipped.state_dict())


def test_rates_of_networks_stand_with_their_interval_over_seeds():
    from engine.unlearning.corrective import bench as corrective

    cards = [
        {"original": {"kept": {"rate": 0.9}}, "SSD, 0.1 flagged": {"kept": {"rate": rate}}}
        for rate in (0.8, 0.85, 0.9)
    ]
    found = corrective._over_seeds("fashion-confused", cards)
    assert set(found) == {"fashion-confused, kept over seeds"}
    row = found["fashion-confused, kept over seeds"]["SSD, 0.1 flagged"]
    assert row["of seeds"] == [0.8, 0.85, 0.9]
    assert row["from"] < row["mean"] < row["to"]


def test_the_interval_of_smoothinv_is_over_networks_and_not_over_their_pictures():
    from engine.core.catalog import discover
    from engine.metrics.intervals import student
    from engine.unlearning._world import TRIGGERS

    measured = discover()["smoothinv"].measured()
    told = measured.figures["over networks"][inversion.SMOOTHED]["of seeds"]
    assert len(told) == len(TRIGGERS)
    mean, low, high = student(told)
    assert (measured.measured, *measured.interval) == (mean, low, high)

"""What hangs on what: what is stale, in which order it is made again, and that nothing ships so."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.core.errors import BadInput
from engine.zoo import graph
from engine.zoo.graph import Product

NOWHERE = Path("no such folder")
EVERY = {
    product.key: product
    for product in (
        Product("world", "world", ("-m", "engine.zoo", "build", "world"), trained=("denoiser",)),
        Product("judge", "judge", ("-m", "engine.zoo", "build", "judge"), ("world",)),
        Product("words", "words.json", ("-m", "engine.zoo", "build", "words"), ("world",)),
        Product("claims/a", "a.json", ("-m", "engine", "bench", "a"), ("words", "judge")),
    )
}


@pytest.fixture
def assets(tmp_path):
    for name in ("world/unet.bin", "judge/model.bin", "words.json", "a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def _ledger(assets, folder=NOWHERE):
    return {key: graph.made_from(product, EVERY, folder, assets) for key, product in EVERY.items()}


@pytest.mark.slow
def test_nothing_that_ships_is_older_than_what_it_was_made_from():
    found = graph.stale(graph.read(), graph.products(), NOWHERE)
    assert not found, graph.report(found)


def test_every_product_comes_after_what_it_is_made_from_and_is_there():
    every = graph.products()
    for place, product in enumerate(every.values()):
        assert (graph.ASSETS / product.place).exists(), product.key
        assert all(list(every).index(need) < place for need in product.needs), product.key


def test_claims_hang_on_the_models_of_their_cards():
    every = graph.products()
    assert set(every["claims/spm"].needs) == {"world", "world-sister", "spm-world", "judge"}
    assert "claims/principles" not in every


def test_what_was_just_made_is_fresh(assets):
    assert graph.stale(_ledger(assets), EVERY, NOWHERE, assets) == {}


def test_a_change_reaches_all_that_hangs_on_it_and_nothing_else(assets):
    ledger = _ledger(assets)
    (assets / "judge" / "model.bin").write_text("another")
    assert graph.stale(ledger, EVERY, NOWHERE, assets) == {"claims/a": ["judge"]}
    (assets / "world" / "unet.bin").write_text("another")
    found = graph.stale(ledger, EVERY, NOWHERE, assets)
    assert list(found) == ["judge", "words", "claims/a"]
    assert graph.report(found).splitlines()[0] == "judge is older than world"


def test_figures_measured_again_make_nothing_stale(assets):
    ledger = _ledger(assets)
    (assets / "world" / "card.json").write_text("{}")
    assert graph.stale(ledger, EVERY, NOWHERE, assets) == {}


def test_a_training_counts_once_it_has_ended(assets, tmp_path):
    ledger, folder = _ledger(assets), tmp_path / "work"
    (folder / "denoiser").mkdir(parents=True)
    assert graph.stale(ledger, EVERY, folder, assets) == {}
    (folder / "denoiser" / "unet.bin").write_text("trained")
    assert next(iter(graph.stale(ledger, EVERY, folder, assets).items())) == ("world", ["denoiser"])


@pytest.fixture
def shop(assets, monkeypatch, tmp_path):
    """Products that are made by writing a file, and the commands that were run."""
    monkeypatch.setattr(graph, "products", lambda: EVERY)
    ledger, commands = tmp_path / "made_from.json", []
    real = {"stale": graph.stale, "record": graph.record, "made_from": graph.made_from}
    monkeypatch.setattr(graph, "read", lambda file=ledger: _read(ledger))
    monkeypatch.setattr(
        graph,
        "made_from",
        lambda p, every, folder, _=None: real["made_from"](p, every, folder, assets),
    )
    monkeypatch.setattr(graph, "record", lambda key, folder: real["record"](key, folder, ledger))

    def run(command, **_):
        commands.append(command)
        key = command[4] if command[2] == "engine.zoo" else f"claims/{command[4]}"
        place = assets / EVERY[key].place
        (place / "model.bin" if place.is_dir() else place).write_text(f"made {len(commands)}")
        return SimpleNamespace(returncode=fails.count(key))

    fails: list[str] = []
    return SimpleNamespace(run=run, commands=commands, fails=fails, folder=tmp_path / "work")


def _read(ledger):
    import json

    return json.loads(ledger.read_text()) if ledger.exists() else {}


def test_build_all_makes_what_is_stale_in_order_and_then_has_nothing_to_do(shop):
    graph.build_all(shop.folder, ["--threads", "1"], run=shop.run)
    assert [command[4] for command in shop.commands] == ["judge", "words", "a"]
    assert shop.commands[0][-2:] == ["--threads", "1"]
    assert "--folder" not in shop.commands[-1]
    graph.build_all(shop.folder, run=shop.run)
    assert len(shop.commands) == 3


def test_a_training_on_another_world_has_another_folder(shop, assets):
    graph.build_all(shop.folder, run=shop.run)
    (assets / "world" / "unet.bin").write_text("another")
    graph.build_all(shop.folder, run=shop.run)
    folders = [command[6] for command in shop.commands if command[4] == "judge"]
    assert len(set(folders)) == 2


def test_what_cannot_be_made_stops_the_rest_but_a_claim_that_does_not_hold_does_not(shop):
    shop.fails.append("words")
    with pytest.raises(BadInput, match="words could not be made"):
        graph.build_all(shop.folder, run=shop.run)
    shop.fails[:] = ["claims/a"]
    graph.build_all(shop.folder, run=shop.run)
    assert [command[4] for command in shop.commands] == ["judge", "words", "words", "a"]

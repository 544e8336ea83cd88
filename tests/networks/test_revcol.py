"""RevCol: released names, memory of all columns, exits, the way back, probes, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.core.errors import BadInput
from engine.core.job import Failed, Job
from engine.networks import _revcol as nets
from engine.networks import _revcol_world as world
from engine.networks.revcol import probes, walk
from engine.networks.revcol.algorithm import POLICIES
from engine.reversible.memory import measure

TARGET = "engine.networks.revcol.algorithm"
TINY = nets.RevColConfig((4, 6, 8, 10), (1, 1, 2, 1), 4, classes=10, drop_path=0.2, gamma=0.5)


def network_of(config: nets.RevColConfig = TINY, **options) -> nets.RevCol:
    torch.manual_seed(0)
    return nets.RevCol(config, **options)


def pictures(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def loss_of(network: nets.RevCol, x: torch.Tensor) -> torch.Tensor:
    seen = network(x)
    return nets.compound_loss(seen.logits, seen.decoded, x, torch.arange(len(x))).total


# ---------------------------------------------------------------------- the network


@pytest.mark.slow
def test_the_published_sizes_have_the_published_numbers_of_weights():
    """Headline of the paper: T 30 M and S 60 M, in training with heads and decoders a little more;
    without them to the million."""
    found = {}
    for size in ("T", "S", "B", "L"):
        config = nets.RevColConfig(
            *(getattr(nets.CONFIGS[size], name) for name in ("channels", "blocks", "columns")),
            supervised=False,
        )
        with torch.device("meta"):
            found[size] = sum(p.numel() for p in nets.RevCol(config).parameters()) / 1e6
    assert found == pytest.approx({"T": 30, "S": 60, "B": 138, "L": 273}, rel=0.02)


def test_released_names_load_strictly_and_tell_the_configuration():
    network = network_of()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert {"stem.0.weight", "stem.1.bias", "subnet3.level2.fusion.up.channel_reschedule.0.weight",
            "subnet0.alpha3", "subnet1.level2.blocks.1.gamma", "cls_blocks.3.classifier.1.bias",
            "decoder_blocks.2.proj_layers.0.1.weight", "decoder_blocks.0.projback.0.bias",
            "decoder_blocks.1.normal_layers.2.0.dwconv.weight"} <= set(state)  # fmt: skip
    again = nets.from_state(state).eval()
    network.eval()
    with torch.no_grad():
        for a, b in zip(network(pictures()).logits, again(pictures()).logits, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("spoil", ["missing", "extra", "shape", "other"])
def test_tensors_that_do_not_fit_are_refused(spoil: str):
    state = dict(network_of().state_dict())
    if spoil == "missing":
        del state["subnet2.level1.fusion.down.0.weight"]
    elif spoil == "extra":
        state["subnet0.level0.surprise"] = torch.zeros(1)
    elif spoil == "shape":
        state["stem.0.weight"] = torch.zeros(4, 3, 2, 2)
    else:
        state = {"conv1.weight": torch.zeros(3)}
    with pytest.raises(BadInput):
        nets.from_state(state)


def test_a_folder_of_released_weights_is_opened(tmp_path: Path):
    state = {k: v.contiguous() for k, v in network_of().state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    assert world.from_folder(str(tmp_path)).config.columns == 4


def test_a_folder_of_pickles_is_refused(tmp_path: Path):
    (tmp_path / "revcol_tiny_1k.pth").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(BadInput):
        world.from_folder(str(tmp_path))


@pytest.mark.parametrize("mode", ["checkpoint", "reversible"])
def test_gradients_with_heads_decoders_and_stochastic_depth(mode: str):
    found = []
    for each in ("plain", mode):
        network = network_of(mode=each).double().train()
        x = pictures().double().requires_grad_()
        torch.manual_seed(4)
        found.append(torch.autograd.grad(loss_of(network, x), [x, *network.parameters()]))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_alpha_is_kept_away_from_zero_with_its_sign():
    network = network_of()
    with torch.no_grad():
        network.subnet1.alpha2[:, 0], network.subnet1.alpha2[:, 1] = 0.0, -1e-9
    network(pictures())
    assert network.subnet1.alpha2[0, :2, 0, 0].tolist() == pytest.approx([1e-3, -1e-3])


def test_decoding_a_part_of_the_batch_changes_nothing_else():
    network, x = network_of().eval(), pictures(3)
    with torch.no_grad():
        whole, part = network(x), network(x, decode=1)
    assert [len(d) for d in part.decoded] == [1, 1, 1]
    assert torch.equal(whole.logits[0], part.logits[0])
    assert torch.allclose(whole.decoded[0][:1], part.decoded[0], atol=1e-6)


def test_more_than_a_thousand_classes_take_the_plain_decoder():
    config = nets.RevColConfig((4, 4, 4, 4), (1, 1, 1, 1), 4, classes=1001)
    seen = network_of(config)(pictures())
    assert seen.decoded[0].shape == (2, 3, 32, 32)


# ---------------------------------------------------------------------- bytes


def cost_of(columns: int, policy: str) -> int:
    config = nets.RevColConfig((8, 16, 24, 32), (1,) * 4, columns, classes=10, supervised=False)
    chosen = POLICIES[policy]
    network = network_of(config, mode=chosen.mode, anchor_every=chosen.anchor_every).train()
    x = pictures(4, 64)
    return measure(lambda: network(x).logits[-1].sum(), network, [x]).kept_bytes


@pytest.mark.slow
def test_bytes_of_all_columns_in_one_sequence_stand_still_where_the_release_grows():
    whole, released = ([cost_of(n, p) for n in (2, 4, 8)] for p in ("whole", "released"))
    assert whole[0] == whole[1] == whole[2]
    assert released[0] < released[1] < released[2]
    maps = 4 * 4 * (8 * 256 + 16 * 64 + 24 * 16 + 32 * 4)
    assert released[2] - released[1] == 4 * maps, "Four maps for each further column."


# ---------------------------------------------------------------------- the way back


def test_the_way_back_reaches_the_first_column_in_float64():
    network = network_of().double().eval().requires_grad_(False)
    x = pictures(1).double()
    readout = walk.Readout([s[0].float() for s in walk.columns_of(network, x)], x.float())
    steps = []
    for step, streams, truth in walk.walked_back(network, x, readout):
        steps.append(step)
        for a, b in zip(streams, truth, strict=True):
            assert float((a - b).abs().max()) < 1e-7
    assert [(s.column, s.level) for s in steps] == [
        (column, level) for column in (4, 3, 2, 1) for level in (3, 2, 1, 0)
    ]


def test_the_linear_picture_is_the_picture_where_the_map_holds_it():
    """A map whose sixteen channels are the sixteen pixels of each place is read without loss."""
    x = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    maps = torch.nn.functional.pixel_unshuffle(x[:, :1], 4)
    drawn = walk.Readout([maps], x).picture(0, maps[:1])
    assert np.abs(drawn.astype(int) - walk.to_picture(x[0]).astype(int)).max() <= 2


def test_a_probe_finds_what_is_there_and_nothing_where_nothing_is():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (400,), generator=generator)
    shifts = torch.randn(400, 2, generator=generator, dtype=torch.float64)
    told = torch.nn.functional.one_hot(labels, 3).double()
    ones = torch.ones(400, 1, dtype=torch.float64)
    rows = torch.cat([told, shifts, ones], 1)
    noise = torch.cat([torch.randn(400, 5, generator=generator, dtype=torch.float64), ones], 1)
    halves = (labels[:200], labels[200:]), (shifts[:200], shifts[200:])
    accuracy, r2 = probes.probe(rows[:200], rows[200:], *halves, 3)
    assert accuracy == 1.0
    assert r2 > 0.99
    accuracy, r2 = probes.probe(noise[:200], noise[200:], *halves, 3)
    assert accuracy < 0.5
    assert r2 < 0.1


def test_pictures_are_moved_by_what_is_told():
    pixels = np.zeros((20, 28, 28), np.uint8)
    pixels[:, 14, 14] = 255
    rolled, shifts = probes.moved(pixels, 0)
    for one, (down, right) in zip(rolled, shifts.int().tolist(), strict=True):
        assert one[14 + down, 14 + right] == 255


# ---------------------------------------------------------------------- jobs


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> nets.RevCol:
    """The jobs on a network that has learnt nothing, so that they do not need the shipped one."""
    network = network_of().eval().requires_grad_(False)
    monkeypatch.setattr(world, "_shipped", lambda: network)
    return network


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_job_goes_forward_and_all_the_way_back(run_job, untrained, precision: str):
    params = {"index": 5, "precision": precision}
    shown = run_job(Job(f"{TARGET}:run", params, seed=0))[-1].result
    assert [found.columns for found in shown.exits] == [1, 2, 3, 4]
    assert [found.decoded is None for found in shown.exits] == [False, False, False, True]
    assert len(shown.steps) == 16
    assert shown.truth in shown.classes
    if precision == "float64":
        assert shown.trip.relative_error < 1e-6
        pairs = [(step.came_back, step.was_there) for step in shown.steps]
        assert all(np.array_equal(a, b) for a, b in pairs)


def test_ones_own_picture_is_scaled(run_job, untrained):
    picture = np.full((50, 70, 3), 9, np.uint8)
    shown = run_job(Job(f"{TARGET}:run", {"picture": picture}, seed=0))[-1].result
    assert shown.picture.shape == (32, 32, 3)


@pytest.mark.slow
def test_sixteen_columns_lose_their_gradients_and_anchors_save_them(run_job):
    params = {"columns": [16], "policies": ["plain", "whole", "anchored", "released"], "batch": 1}
    shown = run_job(Job(f"{TARGET}:memory", params, seed=0))[-1].result
    bars = {bar.mode: bar for bar in shown.bars}
    assert bars["whole"].gradient_error > 1e-2
    assert bars["anchored"].gradient_error < 1e-5
    assert bars["whole"].kept_bytes < bars["anchored"].kept_bytes < bars["released"].kept_bytes


@pytest.mark.parametrize(
    ("action", "params", "match"),
    [
        ("run", {"index": 4000}, "index"),
        ("run", {"model": "somewhere"}, "no such model"),
        ("memory", {"columns": []}, "columns"),
        ("memory", {"columns": [10**9]}, "columns"),
        ("memory", {"side": 50}, "evenly"),
        ("memory", {"policies": ["magic"]}, "magic"),
        ("probe", {"train": 10**9}, "train"),
        ("estimate", {"sizes": ["Q"]}, "Q"),
        ("estimate", {"side": 225}, "evenly"),
    ],
)
def test_bad_settings_end_in_a_sentence(run_job, action: str, params: dict, match: str):
    end = run_job(Job(f"{TARGET}:{action}", params, seed=0), may_fail=True)[-1]
    assert isinstance(end, Failed)
    assert not end.error_id, end.detail
    assert match in end.message


@pytest.mark.parametrize("side", [(31, 32), (32, 48), (0, 32)])
def test_sides_that_do_not_halve_are_refused(side):
    with pytest.raises(BadInput, match="evenly"):
        nets.check_size(torch.zeros(1, 3, *side))


def test_heads_need_four_columns():
    with pytest.raises(BadInput, match="four columns"):
        nets.RevColConfig((4, 4, 4, 4), (1, 1, 1, 1), 3)

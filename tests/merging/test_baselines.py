"""Merges and storage competitors: small properties, and parity with PEFT on real adapters."""

import warnings

import pytest
import torch
from torch import nn

from engine.merging import _baselines as merges
from tests.loras import factors, peft_folder

SHAPES = {"first": (12, 10), "second": (6, 12)}


def stacked(n=3, m=12, d=10, r=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(n, m, r, generator=draw, dtype=torch.float64)
    return a, torch.randn(n, r, d, generator=draw, dtype=torch.float64)


def test_a_weight_of_one_and_zeros_gives_back_that_adapter():
    a, b = stacked()
    w = torch.tensor([1.0, 0, 0], dtype=torch.float64)
    left, right = merges.separate(a, b, w)
    torch.testing.assert_close(left @ right, a[0] @ b[0])
    left, right = merges.cat(a, b, w)
    torch.testing.assert_close(left @ right, a[0] @ b[0])
    torch.testing.assert_close(merges.knots(a, b, lambda x: merges.linear(x, w)), a[0] @ b[0])
    torch.testing.assert_close(merges.linear(merges.deltas(a, b), w), a[0] @ b[0])


def test_cat_and_knots_with_a_sum_are_task_arithmetic():
    a, b = stacked()
    w = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
    expected = merges.linear(merges.deltas(a, b), w)
    left, right = merges.cat(a, b, w)
    torch.testing.assert_close(left @ right, expected)
    torch.testing.assert_close(merges.knots(a, b, lambda x: merges.linear(x, w)), expected)


def test_ties_keeps_the_majority():
    stack = torch.tensor([[1.0, -4, 0.1], [2, -2, 0.2], [-9, 3, 0.3]])
    ones = torch.ones(3)
    assert merges.elected(stack, "total").tolist() == [-1, -1, 1]
    assert merges.elected(stack, "frequency").tolist() == [1, -1, 1]
    by_count = merges.ties(stack, ones, 1.0, "frequency")
    torch.testing.assert_close(by_count, torch.tensor([1.5, -3.0, 0.2]))


def test_trimming_keeps_the_largest_and_only_so_many():
    stack = torch.tensor([[3.0, -1, 2, -4], [1, 1, 1, 1]])
    kept = merges.trimmed(stack, 0.5)
    assert kept[0].tolist() == [3, 0, 0, -4]
    assert int((kept[1] != 0).sum()) == 2


def test_dare_keeps_the_mean_and_repeats_by_seed():
    stack = torch.ones(2, 4000)
    one, again, other = (merges.dropped(stack, 0.3, seed, 1) for seed in (5, 5, 6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert abs(float(one.mean()) - 1) < 0.1


def test_storage_competitors_are_exact_where_nothing_is_left_out():
    a, b = stacked(n=4, m=20, d=18)
    products = merges.deltas(a, b)
    for left, right in (
        merges.layer_basis(a, b, 3),
        merges.fewer_ranks(a, b, 3),
    ):
        torch.testing.assert_close(left @ right, products)
    u, cores, vh = merges.joint_subspace(a, b, 12)
    torch.testing.assert_close(u @ cores @ vh, products)
    errors = []
    for k in (2, 6, 10):
        u, cores, vh = merges.joint_subspace(a, b, k)
        errors.append(float((u @ cores @ vh - products).square().sum()))
    assert errors == sorted(errors, reverse=True)


def turned(a, b, seed=1):
    """The factors in another basis of the layer's outputs and inputs, and the two turns."""
    draw = torch.Generator().manual_seed(seed)
    left, right = (
        torch.linalg.qr(torch.randn(k, k, generator=draw, dtype=torch.float64))[0]
        for k in (a.shape[1], b.shape[2])
    )
    return (left @ a, b @ right.mT), left, right


@pytest.mark.parametrize("merge", [merges.iso_c, merges.tsv_merge])
@pytest.mark.parametrize("case", ["sum of low rank", "one adapter twice", "one adapter of zeros"])
def test_null_spaces_have_no_part_in_a_merge(merge, case):
    """A turn of the layer's axes only turns the merge; arbitrary null vectors would not follow."""
    a, b = stacked(n=2, m=12, d=10, r=3)
    if case != "sum of low rank":
        a[1] = 0 if case.endswith("zeros") else a[0]
        b[1] = b[0]
    other, left, right = turned(a, b)
    torch.testing.assert_close(merge(*other), left @ merge(a, b) @ right.mT)


def test_iso_c_gives_the_directions_of_the_sum_one_length():
    a, b = stacked(n=2, m=12, d=10, r=3)
    total = torch.linalg.svdvals(merges.deltas(a, b).sum(0))
    found = torch.linalg.svdvals(merges.iso_c(a, b))
    torch.testing.assert_close(found[:6], total.mean().expand(6))
    torch.testing.assert_close(found[6:], torch.zeros(4, dtype=torch.float64))


def test_layers_narrower_than_the_rank_are_no_trouble():
    a, b = stacked(n=3, m=4, d=18, r=6)
    left, right = merges.fewer_ranks(a, b, 6)
    torch.testing.assert_close(left @ right, a @ b)
    u, cores, vh = merges.joint_subspace(a, b, 18)
    torch.testing.assert_close(u @ cores @ vh, a @ b)


def test_int8_is_within_half_a_step():
    x = torch.randn(3, 5, 40, dtype=torch.float64)
    step = x.abs().amax(-1, keepdim=True) / 127
    assert bool(((merges.int8(x) - x).abs() <= step / 2 + 1e-12).all())


class Base(nn.Module):
    """A base model for PEFT."""

    def __init__(self):
        super().__init__()
        for name, (m, d) in SHAPES.items():
            setattr(self, name, nn.Linear(d, m, bias=False))

    def forward(self, x):
        return self.second(self.first(x))


@pytest.fixture(scope="module")
def peft_model(tmp_path_factory):
    from peft import PeftModel

    folder = tmp_path_factory.mktemp("peft")
    sets = [factors(SHAPES, rank=4, seed=seed) for seed in range(3)]
    for i, pairs in enumerate(sets):
        peft_folder(folder / f"t{i}", pairs, target_modules=list(SHAPES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(Base(), folder / "t0", adapter_name="t0")
        for i in (1, 2):
            model.load_adapter(folder / f"t{i}", adapter_name=f"t{i}")
    return model, sets


MODES = {
    "linear": lambda a, b, w, rho: merges.separate(a, b, w),
    "ties": lambda a, b, w, rho: merges.separate(a, b, w, lambda x, v: merges.ties(x, v, rho)),
    "magnitude_prune": lambda a, b, w, rho: merges.separate(
        a, b, w, lambda x, v: merges.magnitude_prune(x, v, rho)
    ),
    "cat": lambda a, b, w, rho: merges.cat(a, b, w),
    "svd": lambda a, b, w, rho: merges.truncated(merges.linear(merges.deltas(a, b), w), 4),
    "ties_svd": lambda a, b, w, rho: merges.truncated(merges.ties(merges.deltas(a, b), w, rho), 4),
    "magnitude_prune_svd": lambda a, b, w, rho: merges.truncated(
        merges.magnitude_prune(merges.deltas(a, b), w, rho), 4
    ),
}


@pytest.mark.parametrize("weights", [[1.0, 0.5, -0.7], [1.0, 0.0, 0.0]])
@pytest.mark.parametrize("mode", MODES)
def test_parity_with_peft(peft_model, mode, weights):
    model, sets = peft_model
    name, rho = f"{mode}{len(model.peft_config)}", 0.4
    more = {} if mode in ("linear", "cat", "svd") else {"density": rho}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_weighted_adapter(["t0", "t1", "t2"], weights, name, combination_type=mode, **more)
    for module in SHAPES:
        a = torch.stack([pairs[module][0] for pairs in sets])
        b = torch.stack([pairs[module][1] for pairs in sets])
        left, right = MODES[mode](a, b, torch.tensor(weights), rho)
        theirs = getattr(model.base_model.model, module).get_delta_weight(name)
        torch.testing.assert_close(left @ right, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["dare_linear", "dare_ties"])
def test_dare_without_dropping_is_pefts(peft_model, mode):
    model, sets = peft_model
    name = f"{mode}{len(model.peft_config)}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.add_weighted_adapter(
            ["t0", "t1"], [1.0, 0.6], name, combination_type=mode, density=1.0
        )
    w = torch.tensor([1.0, 0.6])

    def merge(x, v):
        kept = merges.dropped(x, 1.0, 0)
        if mode == "dare_linear":
            return merges.linear(kept, v)
        return merges.disjoint_mean(kept, merges.elected(kept), v)

    for module in SHAPES:
        a = torch.stack([pairs[module][0] for pairs in sets[:2]])
        b = torch.stack([pairs[module][1] for pairs in sets[:2]])
        left, right = merges.separate(a, b, w, merge)
        theirs = getattr(model.base_model.model, module).get_delta_weight(name)
        torch.testing.assert_close(left @ right, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "ties", "svd", "magnitude_prune"])
def test_peft_run_layer_by_layer_is_our_merge(mode):
    from engine.merging.reversible_merging.peft_modes import merged_by_peft

    a, b = (x.float() for x in stacked())
    state = torch.get_rng_state()
    theirs = merged_by_peft(mode)(a, b, 0.5, 0.4, 3)
    assert torch.equal(torch.get_rng_state(), state)
    left, right = MODES[mode](a, b, torch.full((3,), 0.5), 0.4)
    expected = left @ right
    if mode == "svd":
        expected = (lambda pair: pair[0] @ pair[1])(
            merges.truncated(merges.linear(merges.deltas(a, b), torch.full((3,), 0.5)), 3)
        )
    torch.testing.assert_close(theirs, expected, atol=2e-5, rtol=1e-4)


def test_peft_dare_repeats_by_seed():
    from engine.merging.reversible_merging.peft_modes import merged_by_peft

    a, b = (x.float() for x in stacked())
    one, again, other = (merged_by_peft("dare_linear")(a, b, 0.5, 0.4, s) for s in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)

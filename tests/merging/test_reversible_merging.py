"""Reversible merging: golden arrays, the properties of the basis, and the files that come out."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine.core.errors import BadInput, ModelMismatch
from engine.core.job import finish
from engine.merging.reversible_merging import basis as rmm
from engine.merging.reversible_merging import bundle as bundles
from engine.merging.reversible_merging import exports, fine_tunes, golden, pt_svd
from engine.merging.reversible_merging.collection import check_sources, of
from engine.merging.reversible_merging.gauge import aligned
from engine.merging.reversible_merging.survey import (
    p_for_error,
    p_for_storage,
    storage_at,
    survey,
)
from engine.merging.reversible_merging.ways import MERGES, REBUILDING, Mix
from engine.models.adapters import open_lora
from tests.loras import factors, kohya_file, peft_folder


def stacked(n=5, m=14, d=11, r=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    a = torch.randn(n, m, r, generator=draw, dtype=torch.float64)
    return a, torch.randn(n, r, d, generator=draw, dtype=torch.float64)


@pytest.fixture
def collection(tmp_path):
    folders = [peft_folder(tmp_path / f"t{i}", factors(seed=i, rank=4)) for i in range(4)]
    return of([open_lora(folder, folder.name) for folder in folders])


# ---------------------------------------------------------------------- golden


@pytest.mark.golden
@pytest.mark.parametrize("name", golden.CHECKS)
def test_golden(name, golden):
    from engine.merging.reversible_merging import golden as cases

    for title, tolerance, check in cases.CHECKS[name]:
        assert check(golden(name)) <= tolerance, title


# ---------------------------------------------------------------------- the basis


@given(
    n=st.integers(1, 7), r=st.integers(1, 6), m=st.integers(1, 9), d=st.integers(1, 9),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_adapter_comes_back_at_the_largest_p(n, r, m, d, seed):
    a, b = stacked(n, m, d, r, seed)
    back = rmm.revert_all(rmm.fit(a, b, rmm.largest_p(n, r)))
    torch.testing.assert_close(back[0], a, atol=1e-9, rtol=0)
    torch.testing.assert_close(back[1], b, atol=1e-9, rtol=0)


@given(n=st.integers(2, 7), r=st.integers(1, 6), seed=st.integers(0, 99))
def test_the_error_is_the_energy_left_out_and_falls_with_p(n, r, seed):
    a, b = stacked(n, r=r, seed=seed)
    x, lost = rmm.positions(a, b), []
    for p in range(rmm.largest_p(n, r) + 1):
        basis = rmm.fit(a, b, p)
        gap = rmm.positions(*rmm.revert_all(basis)) - x
        lost.append(float(gap.square().sum()))
        assert lost[-1] == pytest.approx(rmm.lost_energy(basis.energy, p), rel=1e-6, abs=1e-9)
    assert lost == sorted(lost, reverse=True)


def test_p_zero_is_the_average_of_the_factors():
    a, b = stacked()
    back = [x[3] for x in rmm.revert_all(rmm.fit(a, b, 0))]
    torch.testing.assert_close(back[0], a.mean(0))
    torch.testing.assert_close(back[1], b.mean(0))
    merged = MERGES["average"].merge(a, b, Mix(), 0)
    torch.testing.assert_close(back[0] @ back[1], merged)


def test_a_basis_cut_later_is_the_one_fitted_for_that_p():
    a, b = stacked()
    for p in range(5):
        cut, fitted = rmm.fit(a, b, 4).at(p), rmm.fit(a, b, p)
        for one, other in zip(rmm.revert_all(cut), rmm.revert_all(fitted), strict=True):
            torch.testing.assert_close(one, other)


def test_equal_and_empty_adapters_are_no_trouble():
    a, b = stacked(n=3)
    a[1], b[1] = a[0], b[0]
    a[2] = 0
    back = rmm.revert_all(rmm.fit(a, b, 2))
    torch.testing.assert_close(back[0], a)
    assert all(bool(torch.isfinite(x).all()) for x in rmm.revert_all(rmm.fit(a, b, 1)))
    same = rmm.revert_all(rmm.fit(a[:1].expand(3, -1, -1), b[:1].expand(3, -1, -1), 2))
    torch.testing.assert_close(same[0][2], a[0])


@pytest.mark.parametrize(("n", "r", "p", "percent"), [
    (8, 16, 0, 12.5), (8, 16, 2, 50.0), (8, 16, 3, 68.75), (8, 16, 7, 143.75), (8, 128, 1, 25.8),
])  # fmt: skip
def test_storage_is_as_published(n, r, p, percent):
    assert 100 * rmm.storage(n, r, p) == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize("p", [-1, 5, 99])
def test_a_p_that_is_not_there_is_refused(p):
    with pytest.raises(BadInput, match="p must be"):
        rmm.fit(*stacked(), p)


def test_errors_and_products_need_no_dense_delta():
    a, b = stacked()
    dense = a @ b
    gram = torch.einsum("imd,jmd->ij", dense, dense)
    torch.testing.assert_close(rmm.delta_gram(a, b), gram)
    hat = rmm.revert_all(rmm.fit(a, b, 1))
    gaps = (hat[0] @ hat[1] - dense).square().sum((1, 2))
    torch.testing.assert_close(rmm.delta_error(*hat, a, b), gaps)


def test_alignment_changes_no_adapter_and_helps_those_of_other_starts():
    a, b = stacked(m=30, d=30, r=4)
    common = a[:1] + 0.1 * a, b[:1] + 0.1 * b
    turn = torch.linalg.qr(torch.randn(5, 4, 4, dtype=torch.float64)).Q
    apart = common[0] @ turn, turn.mT @ common[1]
    left, right = aligned(*apart)
    torch.testing.assert_close(left @ right, apart[0] @ apart[1])
    errors = [
        float(rmm.delta_error(*rmm.revert_all(rmm.fit(*pair, 1)), *apart).sum())
        for pair in (apart, (left, right))
    ]
    assert errors[1] < 0.2 * errors[0]


def test_alignment_takes_layers_narrower_than_the_rank():
    a, b = stacked(n=3, m=4, d=3, r=6)
    left, right = aligned(a, b)
    torch.testing.assert_close(left @ right, a @ b)


# ---------------------------------------------------------------------- collections


def test_ranks_may_differ_and_modules_may_be_missing(tmp_path):
    small = factors(seed=1, rank=2)
    small.pop("layers.1.to_q")
    loras = [
        open_lora(peft_folder(tmp_path / "a", factors(rank=4)), "a"),
        open_lora(kohya_file(tmp_path / "b.safetensors", small), "b"),
    ]
    found = of(loras)
    a, b = found.factors("layers_1_to_q")
    assert (a.shape, b.shape) == ((2, 12, 4), (2, 4, 14))
    assert not a[1].any()
    back = rmm.revert_all(rmm.fit(*found.factors("layers_0_to_q"), 1))
    up, down = small["layers.0.to_q"]
    torch.testing.assert_close((back[0] @ back[1])[1].float(), up @ down)
    assert found.numbers == sum(x.numel() + y.numel() for p in (factors(rank=4), small)
                                for x, y in p.values())  # fmt: skip
    said = " ".join(found.notes())
    assert "Ranks differ" in said
    assert "lack modules" in said


def test_other_shapes_are_refused_with_both(tmp_path):
    other = factors({"layers.0.to_q": (12, 99)})
    loras = [open_lora(peft_folder(tmp_path / "a"), "a"),
             open_lora(peft_folder(tmp_path / "b", other), "b")]  # fmt: skip
    with pytest.raises(ModelMismatch, match=r"layers\.0\.to_q is 12 x 99 in b but 12 x 10 in a"):
        of(loras)


@pytest.mark.parametrize("sources", [[], "x", None, [""], [1], ["a", "a"], ["x" * 600]])
def test_lists_that_cannot_be_merged_are_refused(sources):
    with pytest.raises(BadInput):
        check_sources(sources)


def test_a_survey_has_every_way_with_falling_errors(collection):
    found = finish(survey(collection))
    assert found.cosine.shape == (4, 4)
    assert found.energy[0] == 0
    assert found.energy[-1] == pytest.approx(1)
    for way in REBUILDING:
        errors = [point.error for point in found.curve(way)]
        assert errors
        assert errors == sorted(errors, reverse=True) or way == "rmm aligned"
    exact = found.curve("rmm")[-1]
    assert exact.error < 1e-12
    assert exact.storage == pytest.approx(rmm.storage(4, 4, 3))


def test_the_choice_of_p(collection):
    assert p_for_storage(collection, 2.0) == 3
    p = p_for_storage(collection, 0.8)
    assert storage_at(collection, p) <= 0.8 < storage_at(collection, p + 1)
    with pytest.raises(BadInput, match="Even p = 0"):
        p_for_storage(collection, 0.1)
    assert p_for_error((0.0, 0.5, 0.9, 1.0), 0.2) == 2
    assert p_for_error((0.0, 0.5, 0.9, 1.0), 0.0) == 3


# ---------------------------------------------------------------------- fine-tunes


def test_a_full_fine_tune_becomes_an_adapter(tmp_path):
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(3)
    base = {"a.weight": torch.randn(9, 7, generator=draw), "a.bias": torch.zeros(9)}
    low = torch.randn(9, 2, generator=draw) @ torch.randn(2, 7, generator=draw)
    tuned = {"a.weight": base["a.weight"] + low, "a.bias": torch.ones(9)}
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    lora = fine_tunes.fine_tune(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", 2)
    a, b = lora.factors("a")
    torch.testing.assert_close(a @ b, low, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.square().sum(0), b.square().sum(1))
    assert list(lora.extra) == ["a.bias"]


def test_full_fine_tunes_are_named_beside_adapters(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    from engine.merging.reversible_merging.collection import collect

    monkeypatch.setenv("REWIND_FOLDERS", str(tmp_path))
    draw = torch.Generator().manual_seed(4)
    base = {"a.weight": torch.randn(9, 7, generator=draw)}
    save_file(base, tmp_path / "base.safetensors")
    sources, deltas = [], []
    for name in ("one", "two", "three"):
        deltas.append(torch.randn(9, 2, generator=draw) @ torch.randn(2, 7, generator=draw))
        save_file({"a.weight": base["a.weight"] + deltas[-1]}, tmp_path / f"{name}.safetensors")
        sources.append(f"{tmp_path}/{name}.safetensors minus {tmp_path}/base.safetensors rank 2")
    collection = collect(sources)
    assert collection.names == ("one", "two", "three")
    a, b = collection.factors("a")
    torch.testing.assert_close(a @ b, torch.stack(deltas), atol=1e-5, rtol=1e-4)
    assert collect([sources[0].replace("rank 2", "rank 1")]).digest != collect(sources[:1]).digest
    with pytest.raises(BadInput, match="two files"):
        collect([f"{tmp_path}/one.safetensors minus {tmp_path}"])


def test_recompressing_keeps_the_delta_and_forgets_the_gauge(collection):
    again = pt_svd.recompressed(collection)
    for module, a, b in collection.each():
        left, right = again.factors(module)
        torch.testing.assert_close(left @ right, a @ b, atol=1e-5, rtol=1e-4)
    assert again.digest != collection.digest


# ---------------------------------------------------------------------- files


@pytest.mark.slow
def test_the_bundle_and_its_reader_give_the_adapter(collection, tmp_path):
    file = finish(bundles.make(collection, 3))
    (tmp_path / "bundle.safetensors").write_bytes(file.data)
    (tmp_path / "read_bundle.py").write_text(bundles.READER, encoding="utf-8")
    subprocess.run(
        [sys.executable, "read_bundle.py", "bundle.safetensors", "t2"], cwd=tmp_path, check=True
    )
    found = load_file(tmp_path / "t2.safetensors")
    for name, (up, down) in factors(seed=2, rank=4).items():
        key = f"base_model.model.{name}.lora"
        torch.testing.assert_close(found[f"{key}_B.weight"], up, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[f"{key}_A.weight"], down, atol=1e-5, rtol=1e-4)
    told = bundles.header(file)
    assert told["names"] == ["t0", "t1", "t2", "t3"]
    assert told["sha256"] == list(collection.digest)
    left, _ = rmm.revert_all(bundles.read(file.read(), told)["layers_0_to_q"])
    torch.testing.assert_close(left[1], factors(seed=1, rank=4)["layers.0.to_q"][0])


def test_the_bundle_is_as_large_as_the_formula_says(collection):
    file = finish(bundles.make(collection, 2))
    numbers = sum(tensor.numel() for tensor in file.read().values())
    assert numbers / collection.numbers == pytest.approx(storage_at(collection, 2))


def test_a_rebuilt_adapter_loads_in_peft(tmp_path):
    from peft import PeftModel
    from torch import nn

    class Base(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1)
            self.head = nn.Linear(5, 4)

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3)))

    def pairs(seed):
        draw = torch.Generator().manual_seed(seed)
        new = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731 (four draws)
        return {"conv": (new(5, 2, 1, 1), new(2, 3, 3, 3)), "head": (new(4, 2), new(2, 5))}

    folders = [peft_folder(tmp_path / f"t{i}", pairs(i), lora_alpha=3) for i in range(3)]
    found = of([open_lora(folder, folder.name) for folder in folders])
    rebuilt = {}
    for module, a, b in found.each():
        left, right = rmm.revert_all(rmm.fit(a, b, 2))
        rebuilt[module] = left[1], right[1]
    out = tmp_path / "out"
    out.mkdir()
    for file in exports.peft(found, rebuilt):
        (out / file.name).write_bytes(file.data)
    x = torch.randn(2, 3, 6, 6)
    torch.manual_seed(0)
    base = Base()
    state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    answers = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for folder in (folders[1], out):
            fresh = Base()
            fresh.load_state_dict(state)
            answers.append(PeftModel.from_pretrained(fresh, folder)(x))
    torch.testing.assert_close(answers[0], answers[1], atol=1e-5, rtol=1e-4)
    assert json.loads((out / "adapter_config.json").read_text())["lora_alpha"] == 2


def test_mixed_ranks_are_written_as_patterns(tmp_path):
    pairs = factors({"a": (6, 5)}, rank=3) | factors({"b": (6, 5)}, rank=2)
    folder = peft_folder(tmp_path / "x", pairs, rank_pattern={"b": 2}, alpha_pattern={"b": 2})
    found = of([open_lora(folder)])
    _, config = exports.peft(found, {m: (a[0], b[0]) for m, a, b in found.each()})
    told = json.loads(config.data)
    assert (told["r"], told["rank_pattern"], told["alpha_pattern"]) == (3, {"b": 2}, {"b": 2})


def test_a_kohya_file_is_read_back(tmp_path, collection):
    module, a, b = next(collection.each())
    file = exports.kohya(collection, {module: (a[0], b[0])})
    (tmp_path / file.name).write_bytes(file.data)
    left, right = open_lora(tmp_path / file.name).factors(module)
    torch.testing.assert_close(left @ right, a[0] @ b[0])

"""What a patch promises, in examples. The same over random edits: tests/core/test_patch_random.py.

A model edited by a patch comes back bit for bit; an edit is refused, with a sentence, wherever it
would not; and the file of a patch is either whole or refused.
"""

import struct
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from torch import nn

from engine.core.errors import AssetMissing, BadInput, ModelMismatch, PatchConflict
from engine.core.patch import Patch, apply_all, fingerprint, state_fingerprint
from engine.core.recipe import ModelRef, Recipe
from engine.core.stack import PatchStack

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def recipe(label: str) -> Recipe:
    return Recipe("rece", model=ModelRef("world"), params={"concept": "cat"}, seed=7, label=label)


def network(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Parameters, buffers of several kinds, and a decoder tied to the embedding."""
    torch.manual_seed(0)
    net = nn.Module()
    net.embed = nn.Embedding(6, 4)
    net.attn = nn.Linear(4, 4)
    net.norm = nn.BatchNorm1d(4)
    net.decode = nn.Linear(4, 6, bias=False)
    net.decode.weight = net.embed.weight
    net.register_buffer("mask", torch.tensor([True, False]))
    return net.to(dtype)


def edited(state, *names, by=1.01):
    """A copy of a state in which these tensors are other ones."""
    return {name: t * by + 0.003 if name in names else t for name, t in state.items()}


@pytest.mark.parametrize("dtype", FLOATS)
def test_undo_returns_every_bit(dtype, same_bits):
    base = network(dtype).state_dict()
    new = edited(base, "attn.weight", "attn.bias", "norm.running_var")
    patch = Patch.between(base, new, recipe("erase cat"))
    applied = patch.apply(base)
    assert same_bits(applied, new)
    assert not same_bits(applied, base)
    assert same_bits(patch.undo(applied), base)
    assert state_fingerprint(patch.undo(applied)) == state_fingerprint(base)


@pytest.mark.parametrize("dtype", FLOATS)
def test_special_numbers_come_back(dtype, same_bits):
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0], dtype=dtype)
    base, new = {"w": special}, {"w": special.flip(0).clone()}
    patch = Patch.between(base, new, recipe("swap"))
    assert same_bits(patch.apply(base), new)
    assert same_bits(patch.undo(new), base)


def test_the_sign_of_zero_is_a_change():
    patch = Patch.between({"w": torch.tensor(0.0)}, {"w": torch.tensor(-0.0)}, recipe("sign"))
    assert list(patch.flips) == ["w"]


def test_whole_numbers_and_flags_are_buffers_too(same_bits):
    base = network().state_dict()
    new = dict(base, mask=~base["mask"])
    new["norm.num_batches_tracked"] = base["norm.num_batches_tracked"] + 3
    patch = Patch.between(base, new, recipe("steps"))
    assert set(patch.flips) == {"mask", "norm.num_batches_tracked"}
    assert same_bits(patch.undo(patch.apply(base)), base)


def test_only_touched_tensors_are_kept_and_all_others_are_shared():
    base = network().state_dict()
    patch = Patch.between(base, edited(base, "attn.bias"), recipe("bias"))
    assert list(patch.flips) == ["attn.bias"]
    assert patch.nbytes == 16
    applied = patch.apply(base)
    assert applied["attn.weight"] is base["attn.weight"]
    assert applied["attn.bias"] is not base["attn.bias"]


def test_applying_leaves_the_base_as_it_was():
    base = network().state_dict()
    mark = state_fingerprint(base)
    patch = Patch.between(base, edited(base, "attn.weight"), recipe("erase"))
    patch.undo(patch.apply(base))
    assert state_fingerprint(base) == mark


def test_a_patch_does_not_change_when_the_tensors_it_was_made_from_do():
    base = network().state_dict()
    new = {name: t.clone() for name, t in edited(base, "attn.weight").items()}
    new["embed.weight"] = torch.cat([base["embed.weight"], torch.ones(1, 4)])
    new["decode.weight"] = new["embed.weight"]
    patch = Patch.between(base, new, recipe("erase"))
    bits = {name: rows.clone() for name, rows in patch.rows.items()}
    new["embed.weight"].zero_()
    new["attn.weight"].zero_()
    assert torch.equal(patch.rows["decode.weight"], bits["decode.weight"])


# ---------------------------------------------------------------------- tied weights


def test_tied_weights_are_one_entry_under_the_smallest_name():
    base = network().state_dict()
    weight = base["embed.weight"] * 2
    new = dict(base, **{"embed.weight": weight, "decode.weight": weight})
    patch = Patch.between(base, new, recipe("embed"))
    assert list(patch.flips) == ["decode.weight"]
    assert patch.ties == {"embed.weight": "decode.weight"}


def test_undo_returns_every_bit_with_tied_weights_and_keeps_the_tie(same_bits):
    base = network().state_dict()
    new = edited(base, "embed.weight", "decode.weight")
    patch = Patch.between(base, new, recipe("embed"))
    applied = patch.apply(base)
    assert same_bits(applied, new)
    assert applied["embed.weight"] is applied["decode.weight"]
    assert same_bits(patch.undo(applied), base)


def test_a_model_read_without_its_ties_is_edited_under_both_names(same_bits):
    base = network().state_dict()
    new = edited(base, "embed.weight", "decode.weight")
    patch = Patch.between(base, new, recipe("embed"))
    separate = {name: t.clone() for name, t in base.items()}
    assert same_bits(patch.apply(separate), new)


def test_a_model_saved_without_the_smaller_name_is_edited_under_the_other(same_bits):
    base = network().state_dict()
    new = edited(base, "embed.weight", "decode.weight")
    patch = Patch.between(base, new, recipe("embed"))
    short = {name: t for name, t in base.items() if name != "decode.weight"}
    assert same_bits(patch.apply(short)["embed.weight"], new["embed.weight"])
    assert "decode.weight" not in patch.apply(short)


def test_changing_half_of_a_tie_is_refused():
    base = network().state_dict()
    with pytest.raises(ModelMismatch, match=r"decode\.weight and embed\.weight are one tensor"):
        Patch.between(base, edited(base, "embed.weight"), recipe("embed"))


# ---------------------------------------------------------------------- appended rows


@pytest.mark.parametrize("dtype", FLOATS)
def test_appended_rows_come_off_again(dtype, same_bits):
    base = network(dtype).state_dict()
    weight = torch.cat([base["embed.weight"], torch.ones(2, 4, dtype=dtype)])
    new = dict(base, **{"embed.weight": weight, "decode.weight": weight})
    patch = Patch.between(base, new, recipe("new word"))
    assert not patch.flips
    assert patch.rows["decode.weight"].shape == (2, 4)
    assert same_bits(patch.apply(base), new)
    assert same_bits(patch.undo(new), base)


@pytest.mark.parametrize("shape", [(5, 4), (6, 5), (24,)])
def test_any_other_change_of_shape_is_refused(shape):
    with pytest.raises(ModelMismatch, match="6 x 4 float32 in the base"):
        Patch.between({"w": torch.zeros(6, 4)}, {"w": torch.zeros(shape)}, recipe("reshape"))


@pytest.mark.parametrize(
    ("new", "sentence"),
    [({"w": torch.zeros(2), "x": torch.zeros(2)}, "has a tensor x"), ({}, "lacks the tensor w")],
)
def test_added_and_missing_tensors_are_refused(new, sentence):
    with pytest.raises(ModelMismatch, match=sentence):
        Patch.between({"w": torch.zeros(2)}, new, recipe("add"))


# ---------------------------------------------------------------------- refusals


@pytest.fixture
def base():
    return network().state_dict()


@pytest.fixture
def erase(base):
    return Patch.between(base, edited(base, "attn.weight", "attn.bias"), recipe("erase cat"))


def test_applying_twice_names_the_edit_and_the_tensor(base, erase):
    with pytest.raises(PatchConflict, match='"erase cat" is applied already: attn'):
        erase.apply(erase.apply(base))


def test_undoing_what_is_not_there_is_refused(base, erase):
    with pytest.raises(PatchConflict, match='"erase cat" is not applied'):
        erase.undo(base)


def test_another_base_is_refused(base, erase):
    other = edited(base, "attn.weight", by=3.0)
    with pytest.raises(PatchConflict, match=r"does not fit attn\.weight: it was made for another"):
        erase.apply(other)


def test_another_number_format_is_refused_in_words(base, erase):
    half = {name: t.half() for name, t in base.items()}
    with pytest.raises(ModelMismatch, match=r"for 4 float32 weights, but attn\.bias is 4 float16"):
        erase.apply(half)


def test_another_architecture_is_refused(erase):
    with pytest.raises(ModelMismatch, match="no tensor called"):
        erase.apply({"unet.weight": torch.zeros(3)})


def test_a_refused_edit_changes_nothing(base, erase):
    # One of the two touched tensors fits; nothing of the edit may be seen after the refusal.
    half_fitting = edited(base, "attn.bias", by=5.0)
    mark = state_fingerprint(half_fitting)
    with pytest.raises(PatchConflict):
        erase.apply(half_fitting)
    assert state_fingerprint(half_fitting) == mark


def test_sparse_tensors_are_refused():
    sparse = torch.eye(3).to_sparse()
    with pytest.raises(ModelMismatch, match="sparse"):
        fingerprint(sparse)


# ---------------------------------------------------------------------- the stack


@pytest.fixture
def on_top(base, erase):
    state = erase.apply(base)
    return Patch.between(state, edited(state, "attn.weight", by=0.5), recipe("merge style B"))


@pytest.fixture
def beside(base):
    return Patch.between(base, edited(base, "norm.weight"), recipe("calm norm"))


def test_undo_under_a_later_edit_names_that_edit(erase, on_top, beside):
    stack = PatchStack().push(erase).push(beside).push(on_top)
    with pytest.raises(PatchConflict, match='Undo of "erase cat" is blocked: "merge style B"'):
        stack.undo(erase)
    assert stack.blockers(erase) == (on_top,)
    assert not stack.blockers(beside)


def test_edits_on_disjoint_tensors_come_off_in_any_order(base, erase, on_top, beside, same_bits):
    stack = PatchStack().push(erase).push(beside).push(on_top)
    state = beside.undo(apply_all(base, stack))
    assert same_bits(state, apply_all(base, stack.undo(beside)))
    assert same_bits(erase.undo(on_top.undo(state)), base)


def test_pushing_an_edit_made_without_the_last_one_is_refused(base, erase):
    rival = Patch.between(base, edited(base, "attn.weight", by=9.0), recipe("rival"))
    with pytest.raises(PatchConflict, match='"rival" was made without "erase cat"'):
        PatchStack().push(erase).push(rival)


def test_pushing_twice_and_undoing_a_stranger_are_refused(erase, beside):
    with pytest.raises(PatchConflict, match="applied already"):
        PatchStack().push(erase).push(erase)
    with pytest.raises(PatchConflict, match="not among the edits"):
        PatchStack().push(erase).undo(beside)


def test_a_stack_is_a_value(erase, beside):
    below = PatchStack().push(erase)
    above = below.push(beside)
    assert below.digests == (erase.digest,)
    assert above.digests == (erase.digest, beside.digest)
    assert above.undo(erase.digest).digests == (beside.digest,)


# ---------------------------------------------------------------------- the file


@pytest.fixture
def file(tmp_path, base):
    weight = torch.cat([base["embed.weight"], torch.ones(1, 4)])
    new = edited(base, "attn.weight") | {"embed.weight": weight, "decode.weight": weight}
    path = tmp_path / "edit.safetensors"
    Patch.between(base, new, recipe("erase “cät”")).save(path)
    return path


def test_a_saved_patch_is_the_same_patch(base, file, same_bits):
    loaded = Patch.load(file)
    again = Patch(
        loaded.flips, loaded.before, loaded.after, loaded.recipe, loaded.rows, loaded.ties
    )
    assert again.digest == loaded.digest
    assert loaded.name == "erase “cät”"
    assert same_bits(loaded.undo(loaded.apply(base)), base)


def test_other_programs_can_open_the_file(file):
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == {"flips/attn.weight", "rows/decode.weight"}
        assert opened.metadata()["rewind_patch"] == "1"
        assert opened.get_tensor("flips/attn.weight").dtype == torch.int32


@pytest.mark.slow
def test_one_altered_bit_anywhere_is_refused(file):
    whole = file.read_bytes()
    # One bit of every byte, each time another one; all bits would take a minute.
    for place in range(len(whole)):
        altered = bytearray(whole)
        altered[place] ^= 1 << (place * 5 % 8)
        file.write_bytes(altered)
        with pytest.raises(BadInput, match=r"damaged|altered"):
            Patch.load(file)


def test_a_truncated_file_is_refused(file):
    whole = file.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput, match="damaged"):
            Patch.load(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(BadInput, match="damaged"):
        Patch.load(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a zip under another name",
        b"\x80\x04\x95 a pickle under another name",
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 40000) + b"[" * 40000,
    ],
)
def test_what_is_no_patch_is_refused(tmp_path, content):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"is damaged|no patch of this program"):
        Patch.load(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AssetMissing, match=r"gone\.safetensors"):
        Patch.load(tmp_path / "gone.safetensors")


def test_equal_edits_have_equal_digests_and_others_do_not(base):
    def make(label):
        return Patch.between(base, edited(base, "attn.weight"), recipe(label)).digest

    assert make("a") == make("a")
    assert make("a") != make("b")


def test_a_patch_whose_numbers_contradict_it_is_refused(base, erase):
    wrong = {name: flips ^ 1 for name, flips in erase.flips.items()}
    with pytest.raises(BadInput, match="contradicts itself"):
        Patch(wrong, erase.before, erase.after, erase.recipe).apply(base)
    wrong = {name: flips[:1] for name, flips in erase.flips.items()}
    with pytest.raises((BadInput, ModelMismatch)):
        Patch(wrong, erase.before, erase.after, erase.recipe).apply(base)


# ---------------------------------------------------------------------- few places


@pytest.fixture
def wide() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(4)
    state = {"w": torch.randn(40, 50, generator=draw), "v": torch.randn(6, generator=draw)}
    state["w"][0, :4] = torch.tensor([0.0, -0.0, torch.inf, torch.nan])
    return state


def few_edited(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    new = {name: tensor.clone() for name, tensor in state.items()}
    new["w"].view(-1)[[0, 1, 2, 3, 77, 1999]] *= 0.3
    return {**new, "v": new["v"] + 1}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_sparse_patch_undoes_every_bit(tmp_path, wide, dtype, same_bits):
    base = {name: tensor.to(dtype) for name, tensor in wide.items()}
    new = few_edited(base)
    Patch.between(base, new, recipe("few"), sparse=True).save(tmp_path / "few.safetensors")
    patch = Patch.load(tmp_path / "few.safetensors")
    assert same_bits(dict(patch.apply(base)), new)
    assert same_bits(dict(patch.undo(patch.apply(base))), base)


def test_a_sparse_patch_weighs_eight_bytes_a_changed_number(wide):
    patch = Patch.between(wide, few_edited(wide), recipe("few"), sparse=True)
    # Zero times 0.3 is zero, and infinity and NaN keep their bits: two of the six places change.
    assert patch.support["w"].tolist() == [77, 1999]
    # All six numbers of `v` change, so their places would only be ballast.
    assert set(patch.support) == {"w"}
    assert patch.nbytes == 2 * 8 + 6 * 4


def test_a_patch_that_is_not_asked_to_be_sparse_keeps_its_form_and_digest(wide):
    dense = Patch.between(wide, few_edited(wide), recipe("few"))
    assert not dense.support
    head = next(iter(dense.pieces()))
    assert b'"rewind_patch":"1"' in head
    assert b"support" not in head


def test_a_sparse_and_a_dense_patch_lead_to_the_same_weights(wide, same_bits):
    new = few_edited(wide)
    dense, sparse = (
        Patch.between(wide, new, recipe("few"), sparse=asked) for asked in (False, True)
    )
    assert same_bits(dict(dense.apply(wide)), dict(sparse.apply(wide)))
    assert (dense.before, dense.after) == (sparse.before, sparse.after)
    assert same_bits(dict(dense.undo(sparse.apply(wide))), wide)


@pytest.mark.parametrize("places", [[77, 77], [1999, 77], [-1, 77], [77, 2000], [77]])
def test_places_that_make_no_sense_are_refused(wide, places):
    patch = Patch.between(wide, few_edited(wide), recipe("few"), sparse=True)
    wrong = replace(patch, support={"w": torch.tensor(places, dtype=torch.int32)})
    with pytest.raises(BadInput, match="damaged"):
        wrong.apply(wide)


def test_places_without_bits_are_refused(tmp_path, wide):
    patch = Patch.between(wide, few_edited(wide), recipe("few"), sparse=True)
    flips = {"v": patch.flips["v"]}
    replace(patch, flips=flips).save(tmp_path / "wrong.safetensors")
    with pytest.raises(BadInput, match="places"):
        Patch.load(tmp_path / "wrong.safetensors")

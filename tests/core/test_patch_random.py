"""Random stacks of edits: every allowed order ends at the equal hash, any other is refused."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.core.errors import ModelMismatch, PatchConflict
from engine.core.patch import Patch, apply_all, fingerprint, state_fingerprint
from engine.core.recipe import Recipe
from engine.core.stack import PatchStack
from tests.conftest import equal_bits

DTYPES = [
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]
# As bits: quiet and signalling NaN, infinities, both zeros, the smallest and the largest number.
SPECIAL_HALVES = [0x7E00, 0x7C01, 0x7C00, 0xFC00, 0x8000, 0x0000, 0x0001, 0x7BFF]


@dataclass
class Model:
    """A state with random bits, two names tied, and a generator for random edits of it."""

    state: dict[str, torch.Tensor]
    random: np.random.Generator


def random_tensor(random: np.random.Generator, dtype: torch.dtype, shape: tuple[int, ...]):
    if dtype == torch.bool:
        return torch.from_numpy(random.integers(0, 2, shape).astype(bool))
    size = torch.empty((), dtype=dtype).element_size() * int(np.prod(shape))
    raw = torch.from_numpy(random.integers(0, 256, max(size, 1)).astype(np.uint8))[:size]
    tensor = raw.view(dtype).reshape(shape).clone()
    if dtype == torch.float16 and tensor.numel():
        tensor.view(-1)[0] = (
            torch.tensor([int(random.choice(SPECIAL_HALVES)) - 65536], dtype=torch.int32)
            .to(torch.int16)
            .view(torch.float16)[0]
        )
    return tensor


def random_model(seed: int) -> Model:
    random = np.random.default_rng(seed)
    state = {}
    for name in ("a", "b.weight", "c", "d", "e"):
        dtype = DTYPES[random.integers(len(DTYPES))]
        shape = tuple(random.integers(0, 4, random.integers(0, 4)))
        state[name] = random_tensor(random, dtype, tuple(int(size) for size in shape))
    state["tied"] = state["b.weight"]
    return Model(state, random)


def random_edit(model: Model, state: dict[str, torch.Tensor], label: str) -> Patch | None:
    """An edit of one to three tensors of a state; None when it happens to change nothing."""
    names = model.random.choice(["a", "b.weight", "c", "d", "e"], model.random.integers(1, 4))
    new = dict(state)
    for name in set(names):
        tensor = random_tensor(model.random, state[name].dtype, tuple(state[name].shape))
        if tensor.ndim and model.random.random() < 0.3:
            rows = (int(model.random.integers(1, 3)), *tensor.shape[1:])
            tensor = torch.cat([tensor, random_tensor(model.random, tensor.dtype, rows)])
        new[name] = tensor
    new["tied"] = new["b.weight"]
    patch = Patch.between(state, new, Recipe("toy", label=label))
    return patch if patch.before else None


def random_stack(model: Model, count: int) -> tuple[PatchStack, dict[str, torch.Tensor]]:
    stack, state = PatchStack(), model.state
    for number in range(count):
        patch = random_edit(model, state, f"edit {number}")
        if patch is not None:
            stack, state = stack.push(patch), patch.apply(state)
    return stack, state


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 7))
def test_every_order_of_undo_that_is_allowed_ends_at_the_base(seed, count):
    model = random_model(seed)
    base_mark = state_fingerprint(model.state)
    stack, state = random_stack(model, count)
    while stack:
        patch = stack.edits[model.random.integers(len(stack))]
        blocking = stack.blockers(patch)
        if blocking:
            with pytest.raises(
                PatchConflict, match=f'"{patch.name}" is blocked: .*{blocking[0].name}'
            ):
                stack.undo(patch)
            assert_undo_is_refused(patch, state)
        else:
            stack, state = stack.undo(patch), patch.undo(state)
            assert state_fingerprint(state) == state_fingerprint(apply_all(model.state, stack))
            if stack:
                assert not is_applied(patch, state)
    assert state_fingerprint(state) == base_mark


def is_applied(patch, state):
    """Whether every touched tensor stands as the edit left it."""
    return all(n in state and fingerprint(state[n]) == after for n, after in patch.after.items())


def assert_undo_is_refused(patch, state):
    # Later edits may by chance cancel on all of this edit's tensors (flags, empty tensors);
    # then the bits allow the undo, and only the stack knows better.
    if not is_applied(patch, state):
        with pytest.raises(Exception, match=patch.name):
            patch.undo(state)


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 7))
def test_edits_on_disjoint_tensors_give_the_equal_hash_in_any_order(seed, count):
    model = random_model(seed)
    stack, taken = PatchStack(), set()
    for number in range(count):
        patch = random_edit(model, model.state, f"edit {number}")
        if patch is not None and not taken & patch.before.keys():
            taken |= patch.before.keys()
            stack = stack.push(patch)
    goal = state_fingerprint(apply_all(model.state, stack))
    other_way = [stack.edits[place] for place in model.random.permutation(len(stack))]
    state = apply_all(model.state, other_way)
    assert state_fingerprint(state) == goal
    for place in model.random.permutation(len(stack)):
        state = stack.edits[place].undo(state)
    assert state_fingerprint(state) == state_fingerprint(model.state)


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), count=st.integers(2, 7))
def test_replaying_a_stack_out_of_order_works_exactly_where_nothing_overlaps(seed, count):
    model = random_model(seed)
    stack, _ = random_stack(model, count)
    made_on = [apply_all(model.state, stack.edits[:place]) for place in range(len(stack))]
    state, replayed = model.state, set()
    for place in model.random.permutation(len(stack)):
        patch = stack.edits[place]
        skipped = [stack.edits[below] for below in range(place) if below not in replayed]
        if any(patch.before.keys() & other.before.keys() for other in skipped):
            # Skipped edits may by chance cancel (flags, empty tensors); then the bits do fit.
            if any(not equal_bits(state[name], made_on[place][name]) for name in patch.before):
                with pytest.raises((PatchConflict, ModelMismatch), match=f'"{patch.name}"'):
                    patch.apply(state)
            return
        state = patch.apply(state)
        replayed.add(place)
    assert state_fingerprint(state) == state_fingerprint(apply_all(model.state, stack))


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_a_patch_through_its_file_gives_the_equal_hash(tmp_path_factory, seed):
    model = random_model(seed)
    patch = random_edit(model, model.state, "edit")
    if patch is None:
        return
    path = tmp_path_factory.mktemp("patch") / "edit.safetensors"
    patch.save(path)
    loaded = Patch.load(path)
    assert loaded.digest == patch.digest
    applied = loaded.apply(model.state)
    assert state_fingerprint(applied) == state_fingerprint(patch.apply(model.state))
    assert state_fingerprint(loaded.undo(applied)) == state_fingerprint(model.state)


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_a_patch_with_one_altered_bit_is_refused(tmp_path_factory, seed, data):
    model = random_model(seed)
    patch = random_edit(model, model.state, "edit")
    if patch is None:
        return
    content = bytearray(b"".join(patch.pieces()))
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path = tmp_path_factory.mktemp("patch") / "edit.safetensors"
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"damaged|altered"):
        Patch.load(path)

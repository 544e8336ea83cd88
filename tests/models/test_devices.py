"""One policy for every kind of device, proven without one: what is chosen, fits, and is told."""

import sys

import pytest
import torch

from engine.core.errors import BadInput, OutOfBudget
from engine.models import devices, diffusion, drawing, footprint, library
from engine.models.diffusion import encode_prompt, predict
from engine.models.library import ModelRef, load

GB = 10**9


@pytest.fixture
def with_accelerator(monkeypatch):
    def pretend(kind: str) -> None:
        monkeypatch.setattr(devices, "accelerator", lambda: kind)
        monkeypatch.delenv("REWIND_DEVICE", raising=False)
        monkeypatch.delenv("REWIND_DTYPE", raising=False)

    return pretend


@pytest.mark.parametrize("kind", devices.KINDS)
def test_an_accelerator_is_taken_where_there_is_one(with_accelerator, kind):
    with_accelerator(kind)
    assert devices.policy() == (kind, "float16")
    assert devices.policy("cpu") == ("cpu", "float32")
    with pytest.raises(OutOfBudget, match="no "):
        devices.policy(next(other for other in devices.KINDS if other != kind))


def test_without_one_it_is_the_cpu_and_names_are_checked(with_accelerator, monkeypatch):
    with_accelerator("")
    assert devices.policy() == ("cpu", "float32")
    with pytest.raises(BadInput, match="There is no device tpu"):
        devices.policy("tpu")
    monkeypatch.setenv("REWIND_DEVICE", "tpu")
    with pytest.raises(BadInput, match="There is no device tpu"):
        devices.policy()


@pytest.mark.parametrize(("kind", "words"), [("", "the CPU"), ("mps", "MPS"), ("cuda", "CUDA")])
def test_people_are_told_where_a_run_computes(with_accelerator, kind, words):
    with_accelerator(kind)
    assert devices.told() == words


def test_it_is_told_without_loading_torch(with_accelerator, monkeypatch):
    with_accelerator("never asked")
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+cpu")
    assert devices.told() == "the CPU"
    monkeypatch.setattr(devices, "version", lambda name: "2.13.0+xpu")
    monkeypatch.setattr(sys, "platform", "linux")
    assert devices.told() == "XPU"


def test_compiling_pays_only_for_long_trainings_on_units_for_bfloat16(monkeypatch):
    monkeypatch.setattr(devices, "has_bfloat16_units", lambda device: device == "cuda")
    assert devices.pays_to_compile("cuda", 600.0)
    assert not devices.pays_to_compile("cuda", 30.0)
    assert not devices.pays_to_compile("cpu", 600.0)


def test_a_processor_without_such_units_is_not_compiled_for(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not devices.pays_to_compile("cpu", 3600.0)


# ---------------------------------------------------------------------- what fits


@pytest.mark.slow
def test_models_that_rest_make_room_before_a_load_refuses(monkeypatch):
    held = load(ModelRef("world"))
    assert len(library.CACHE)
    rooms = iter([0, 10 * GB])
    monkeypatch.setattr(devices, "free_bytes", lambda device: next(rooms, 10 * GB))
    monkeypatch.setattr(library, "_stamp", lambda folder: "another")
    again = load(ModelRef("world"))
    assert again is not held
    assert again.model.state_dict().keys() == held.model.state_dict().keys()


def test_a_model_that_can_never_fit_empties_no_cache(monkeypatch):
    load(ModelRef("world"))
    held = len(library.CACHE)

    def never(*_: object) -> None:
        raise devices.NoRoom("It is too large.", "", missing=10**15)

    monkeypatch.setattr(diffusion, "read", never)
    monkeypatch.setattr(library, "_stamp", lambda folder: "a fourth")
    with pytest.raises(devices.NoRoom):
        load(ModelRef("world"))
    assert len(library.CACHE) == held


def test_a_model_that_fits_nowhere_is_refused_with_both_figures(monkeypatch):
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(library, "_stamp", lambda folder: "a third")
    with pytest.raises(OutOfBudget, match=r"needs .* GB of memory in float32; 0\.0 GB are free"):
        load(ModelRef("world"))


@pytest.fixture
def tight(monkeypatch):
    """Memory for so many rows of a call, or pictures, and no more."""

    def make(rows: int) -> None:
        monkeypatch.setattr(footprint, "UNNOTICED", 0)
        monkeypatch.setattr(footprint, "KEPT_FREE", 0.0)
        monkeypatch.setattr(footprint, "row_bytes", lambda *a, **k: 1000)
        monkeypatch.setattr(footprint, "picture_bytes", lambda *a, **k: 1000)
        monkeypatch.setattr(footprint, "free_bytes", lambda device: 1000 * rows + 1)

    return make


@pytest.mark.slow
def test_a_call_is_split_into_rows_that_fit(tight, monkeypatch):
    bundle = drawing.open_bundle("world")
    noise = drawing.start_noise(bundle, 0, 5)
    cond = encode_prompt(bundle, ["a cat", "a dog", "a car", "a rose", "a tree"])
    times = torch.linspace(900, 100, 5)
    with torch.no_grad():
        whole = predict(bundle, noise, times, cond)
        tight(2)
        seen: list[int] = []
        hook = bundle.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
        split = predict(bundle, noise, times, cond)
        hook.remove()
    assert max(seen) == 2
    torch.testing.assert_close(split, whole, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "parts"), [(3, [3]), (1, [1, 1, 1])])
def test_pictures_are_decoded_as_many_at_once_as_fit(tight, monkeypatch, rows, parts):
    bundle = drawing.open_bundle("world")
    latents = drawing.start_noise(bundle, 1, 3)
    whole = drawing.decode(bundle, latents)
    tight(rows)
    seen, plain = [], diffusion.decode
    monkeypatch.setattr(diffusion, "decode", lambda b, z: (seen.append(len(z)), plain(b, z))[1])
    again = drawing.decode(bundle, latents)
    assert seen == parts
    assert abs(again.astype(int) - whole).max() <= 1


@pytest.mark.slow
def test_where_not_even_one_fits_a_picture_is_decoded_in_tiles(tight, monkeypatch):
    bundle = drawing.open_bundle("world")
    latents = drawing.start_noise(bundle, 1, 2)
    tight(0)
    pictures = drawing.decode(bundle, latents)
    assert pictures.shape[0] == 2


def test_attention_runs_through_sdpa():
    kinds = {type(p).__name__ for p in drawing.open_bundle("world").unet.attn_processors.values()}
    assert kinds == {"AttnProcessor2_0"}


def test_small_models_never_ask_for_the_free_memory(monkeypatch):
    monkeypatch.setattr(footprint, "free_bytes", lambda device: pytest.fail("it asked"))
    assert footprint.rows_at_once(1000, 8, "cpu") == 8

"""Speech models: front end, network, folders, and the published checkpoints."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from engine.core.errors import AssetMissing, BadInput, ModelMismatch
from engine.core.recipe import ModelRef
from engine.models import speech_published as published
from engine.models.library import load
from engine.models.ncsnpp import NCSNpp, double, halve
from engine.models.speech import FrontEnd, SpeechNetwork, padded, save
from tests.tiny_speech import TINY, tiny_speech


@pytest.fixture
def bundle(tmp_path):
    return load(ModelRef(str(tiny_speech(tmp_path / "tiny"))))


# ---------------------------------------------------------------------- front end


def test_a_waveform_comes_back_to_its_last_sample():
    front = FrontEnd()
    time = torch.arange(8000) / 16_000
    wave = torch.sin(2 * torch.pi * 440 * time)[None]
    back = front.waveform(padded(front.spectrogram(wave), 64), 8000)
    torch.testing.assert_close(back, wave, atol=1e-5, rtol=0)


def test_loudness_is_taken_out_and_given_back():
    wave = 0.01 * torch.randn(2, 4000)
    even, peak = FrontEnd().normalised(wave)
    torch.testing.assert_close(even.abs().amax(1), torch.ones(2))
    torch.testing.assert_close(even * peak, wave)


@pytest.mark.parametrize(
    ("wave", "words"), [(torch.zeros(1, 4000), "silent"), (torch.ones(1, 9), "samples")]
)
def test_silence_and_splinters_are_refused(wave, words):
    with pytest.raises(BadInput, match=words):
        FrontEnd().normalised(wave)


# ---------------------------------------------------------------------- network


def test_the_published_network_has_65_million_weights():
    with torch.device("meta"):
        network = NCSNpp()
    assert 65e6 < sum(p.numel() for p in network.parameters()) < 66e6


def test_halving_and_doubling_keep_a_constant():
    x = torch.ones(1, 2, 8, 8)
    torch.testing.assert_close(halve(x)[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    torch.testing.assert_close(double(x)[..., 1:-1, 1:-1], torch.ones(1, 2, 14, 14))


def test_the_networks_number_is_divided_by_the_time_where_asked():
    torch.manual_seed(0)
    plain = NCSNpp(nf=4, ch_mult=(1, 2), num_res_blocks=1, image_size=8, scale_by_sigma=False)
    torch.nn.init.normal_(plain.all_modules[-1].weight)
    scaled = NCSNpp(nf=4, ch_mult=(1, 2), num_res_blocks=1, image_size=8, scale_by_sigma=True)
    scaled.load_state_dict(plain.state_dict())
    x, y = torch.randn(2, 2, 1, 8, 8, dtype=torch.complex64).unbind()
    t = torch.tensor([0.25, 0.25])
    with torch.no_grad():
        bias = plain.output_layer.bias
        bias.zero_()
        scaled.output_layer.bias.zero_()
        torch.testing.assert_close(scaled(x, y, t), 4 * plain(x, y, t))


def small(**more) -> NCSNpp:
    return NCSNpp(nf=4, ch_mult=(1, 2), num_res_blocks=1, image_size=8, **more)


def test_a_gated_network_weighs_its_inputs_place_by_place():
    """With all else silent, the biases of the last layer are the weights of x_t and y."""
    network = small(gated=True, patch=2, scale_by_sigma=False)
    x, y = torch.randn(2, 2, 1, 8, 8, dtype=torch.complex64).unbind()
    with torch.no_grad():
        network.output_layer.weight.zero_()
        # four places of a patch for each of: real part, imaginary part, weight of x, weight of y
        network.output_layer.bias.copy_(torch.tensor([0.0, 0.0, 2.0, -1.0]).repeat_interleave(4))
        torch.testing.assert_close(network(x, y, torch.tensor([0.5, 0.5])), 2 * x - y)


@pytest.mark.parametrize("patch", [1, 2])
def test_every_place_of_a_patch_reaches_the_value(patch):
    torch.manual_seed(0)
    network = small(patch=patch, scale_by_sigma=False)
    torch.nn.init.normal_(network.all_modules[-1].weight)
    x, y = torch.randn(2, 1, 1, 8, 8, dtype=torch.complex64).unbind()
    x.requires_grad_()
    network(x, y, torch.tensor([0.5])).abs().sum().backward()
    assert x.grad.abs().min() > 0


@pytest.mark.parametrize("objective", ["score", "denoised"])
def test_both_kinds_of_networks_answer_at_every_time(tmp_path, objective):
    folder = tiny_speech(tmp_path, replace(TINY, objective=objective))
    bundle = load(ModelRef(str(folder)))
    y = padded(bundle.front.spectrogram(torch.randn(1, 3000)), bundle.model.dnn.multiple)
    model = bundle.at(y)
    for t in (0.03, 0.4, 1.0):
        pred = model(0.1 * torch.randn_like(y), t)
        for reading in (pred.x0, pred.score, pred.eps):
            assert torch.isfinite(reading).all()
    assert model.nfe == 3


def test_an_untrained_denoiser_gives_the_best_linear_guess():
    """With its last layers silent, the clean estimate is y + c_skip z."""
    network = SpeechNetwork(TINY)
    torch.nn.init.zeros_(network.dnn.output_layer.bias)
    y = torch.randn(1, 1, 128, 8, dtype=torch.complex64)
    z = torch.randn_like(y)
    t = torch.tensor([0.7])
    _, c_skip, _ = network.scales(t, y)
    with torch.no_grad():
        torch.testing.assert_close(network(y + z, t, y), y + c_skip * z)


# ---------------------------------------------------------------------- folders


def test_a_folder_comes_back_with_its_settings(bundle):
    assert bundle.config == TINY
    assert bundle.card.kind == "speech"
    assert bundle.dtype == "float32"


@pytest.mark.parametrize(
    "change",
    [
        {"sigma_max": 0.01},
        {"t_eps": 0},
        {"theta": "1.5"},
        {"objective": "guess"},
        {"sigma_min": 1e9},
        {"network": {"nf": -4}},
        {"network": {"nf": 4, "ch_mult": "many"}},
        {"front": {"n_fft": 10**9}},
        {"surplus": 1},
    ],
    ids=str,
)
def test_odd_settings_are_refused_with_a_sentence(tmp_path, change):
    folder = tiny_speech(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises((BadInput, ModelMismatch)):
        load(ModelRef(str(folder)))


def test_a_pickle_under_another_name_is_refused(tmp_path):
    folder = tiny_speech(tmp_path)
    (folder / "model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(BadInput, match="pickle"):
        load(ModelRef(str(folder)))


def test_missing_weights_are_named(tmp_path):
    folder = tiny_speech(tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(AssetMissing, match="safetensors"):
        load(ModelRef(str(folder)))


# ---------------------------------------------------------------------- published checkpoints


PUBLISHED = {
    "backbone": "ncsnpp",
    "sde": "ouve",
    "n_fft": 254,
    "hop_length": 128,
    "spec_factor": 0.15,
    "spec_abs_exponent": 0.5,
    "sigma_min": 0.05,
    "sigma_max": 0.5,
    "theta": 1.5,
    "t_eps": 0.03,
    "nf": 4,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [64],
}


def written_down(folder, *, averaged: bool = True, without_fixed: bool = False, **changes):
    """A published checkpoint as `speech_published` says; gives the weights to be loaded."""
    torch.manual_seed(1)
    state = SpeechNetwork(published.config_of({**PUBLISHED, **changes})).state_dict()
    average = {name: tensor + 1 for name, tensor in state.items()}
    kept = [t for name, t in average.items() if not (without_fixed and name.endswith(".0.W"))]
    held = state | ({f"ema.{i}": tensor for i, tensor in enumerate(kept)} if averaged else {})
    folder.mkdir()
    save_file(held | {"other.weight": torch.zeros(2)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, **changes}))
    return average if averaged else state


@pytest.mark.parametrize("averaged", [True, False])
def test_a_published_checkpoint_is_loaded_with_its_averaged_weights(tmp_path, averaged):
    wanted = written_down(tmp_path / "vb", averaged=averaged)
    bundle = load(ModelRef(str(tmp_path / "vb")))
    assert bundle.config.objective == "score"
    assert bundle.config.front.n_fft == 254
    assert bundle.config.sampling.steps == 30
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_averages_without_the_fixed_frequencies_find_their_names(tmp_path):
    wanted = written_down(tmp_path / "vb", without_fixed=True)
    state = load(ModelRef(str(tmp_path / "vb"))).model.state_dict()
    fixed = "dnn.all_modules.0.W"
    torch.testing.assert_close(state[fixed], wanted[fixed] - 1)
    assert torch.equal(state["dnn.output_layer.bias"], wanted["dnn.output_layer.bias"])


def test_weights_of_another_size_are_refused_by_name(tmp_path):
    written_down(tmp_path / "vb")
    (tmp_path / "vb" / "config.json").write_text(json.dumps({**PUBLISHED, "nf": 8}))
    with pytest.raises(ModelMismatch, match="dnn"):
        load(ModelRef(str(tmp_path / "vb")))


def test_sampling_settings_of_dereverberation_go_with_the_weights(tmp_path):
    written_down(tmp_path / "reverb", N=50, snr=0.33)
    sampling = load(ModelRef(str(tmp_path / "reverb"))).config.sampling
    assert (sampling.steps, sampling.snr) == (50, 0.33)


@pytest.mark.parametrize("change", [{"backbone": "ncsnpp_v2"}, {"sde": "sbve"}], ids=str)
def test_another_process_or_network_is_refused(change):
    with pytest.raises(ModelMismatch):
        published.config_of({**PUBLISHED, **change})


def test_a_checkpoint_that_can_run_code_is_not_opened(tmp_path):
    written_down(tmp_path / "vb")
    (tmp_path / "vb" / "model.safetensors").rename(tmp_path / "vb" / "epoch.ckpt")
    with pytest.raises(AssetMissing, match="can run code"):
        load(ModelRef(str(tmp_path / "vb")))


def test_names_follow_the_published_order():
    """As in the release: features, two dense layers, a convolution, then blocks in order."""
    names = list(SpeechNetwork(published.config_of(PUBLISHED)).state_dict())
    assert names[0] == "dnn.output_layer.weight"
    assert "dnn.all_modules.0.W" in names
    assert "dnn.all_modules.4.GroupNorm_0.weight" in names
    assert "dnn.all_modules.4.Conv_1.bias" in names
    # a block that halves, then the input coming in again
    assert "dnn.all_modules.5.Conv_2.weight" in names
    assert "dnn.all_modules.6.Conv_0.weight" in names
    numbers = [int(name.split(".")[2]) for name in names if "all_modules" in name]
    assert numbers == sorted(numbers)


def test_half_precision_on_disk_is_near_enough(tmp_path):
    torch.manual_seed(0)
    network = SpeechNetwork(TINY)
    save(network, TINY, tmp_path, half=True)
    back = load(ModelRef(str(tmp_path))).model
    for name, tensor in network.state_dict().items():
        np.testing.assert_allclose(back.state_dict()[name], tensor, atol=2e-3)

"""The training loop: it learns, averages, and a resumed run equals an uninterrupted one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.world import vocabulary as words
from engine.zoo.autoencoder import balance, encode, new_autoencoder, psnr, train_decoder
from engine.zoo.dataset import Pictures, pictures
from engine.zoo.tokenizer import build_tokenizer
from engine.zoo.training import Plan, train

PLAN = Plan(steps=30, learning_rate=0.05, warmup=3, save_every=0.0)


def _line() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(2, 1)


def _loss(model):
    def loss_of(draw, noise):
        x = torch.from_numpy(draw.standard_normal((16, 2))).float()
        error = model(x) - (2 * x[:, :1] - x[:, 1:] + 1)
        return error.square().mean(), {"loss": 0.0}

    return loss_of


@pytest.mark.slow
def test_training_reaches_the_line(tmp_path):
    model = _line()
    train([model], _loss(model), replace(PLAN, steps=400), tmp_path / "state.safetensors")
    assert torch.allclose(model.weight, torch.tensor([[2.0, -1.0]]), atol=0.05)


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole = _line()
    train([whole], _loss(whole), PLAN, tmp_path / "whole.safetensors")

    class Stop(Exception):
        pass

    def stop_at_12(step):
        if step == 12:
            raise Stop

    part = _line()
    try:
        train([part], _loss(part), PLAN, tmp_path / "part.safetensors", on_save=stop_at_12)
    except Stop:
        part = _line()
        train([part], _loss(part), PLAN, tmp_path / "part.safetensors")
    assert torch.allclose(whole.weight, part.weight, atol=1e-6)


def test_the_rate_warms_up_holds_and_falls():
    plan = Plan(steps=1000, learning_rate=1.0, warmup=10, decay_from=0.5)
    assert plan.rate(0) < plan.rate(5) < plan.rate(20) == plan.rate(400)
    assert plan.rate(700) < 0.9
    assert plan.rate(1000) < 0.03


@pytest.mark.slow
def test_rendering_again_gives_the_same_pictures(tmp_path):
    first, second = (pictures(tmp_path / name, 6, seed=4, workers=1) for name in ("a", "b"))
    assert np.array_equal(first.pixels, second.pixels)
    assert np.array_equal(first.labels, second.labels)


@pytest.mark.slow
def test_balancing_orders_the_latents_but_changes_no_picture():
    torch.manual_seed(0)
    vae = new_autoencoder().eval()
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    data = Pictures(noise, np.zeros((40, 5), np.int8))
    with torch.inference_mode():
        before = vae.decode(encode(vae, noise[:2])).sample
        balance(vae, data, count=40)
        after = vae.decode(encode(vae, noise[:2])).sample
    z = encode(vae, noise).movedim(1, -1).reshape(-1, 6)
    covariance = torch.cov(z.T)
    variances = covariance.diagonal()
    assert torch.allclose(variances.mean(), torch.tensor(1.0), atol=0.1)
    assert (variances[:-1] >= 0.9 * variances[1:]).all()
    assert (covariance - variances.diag()).abs().max() < 0.1
    assert torch.allclose(before, after, atol=0.05)


@pytest.mark.slow
def test_the_decoder_is_trained_alone_and_the_latents_stay(tmp_path):
    torch.manual_seed(0)
    vae = new_autoencoder().eval()
    colours = np.random.default_rng(0).integers(0, 256, (32, 1, 1, 3), np.uint8)
    data = Pictures(np.tile(colours, (1, 64, 64, 1)), np.zeros((32, 5), np.int8))
    latents, before = encode(vae, data.pixels), psnr(vae, data.pixels).mean()
    plan = Plan(steps=12, learning_rate=1e-3, warmup=2, ema=0.5)
    train_decoder(vae, data, plan, tmp_path / "decoder.safetensors")
    assert torch.equal(encode(vae, data.pixels), latents)
    assert psnr(vae, data.pixels).mean() > before + 1


def test_known_words_are_one_token_and_numbers_stay(tmp_path):
    first, again = (build_tokenizer(tmp_path) for _ in range(2))
    for word in words.trained_words():
        assert len(first(word).input_ids) == 3, word  # with start and end
    assert first.get_vocab() == again.get_vocab()
    assert len(first("a zebra").input_ids) > 4

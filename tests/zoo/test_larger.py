"""The world at 128 pixels: a finer autoencoder with the old latents, and a set that grows."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.core.errors import BadInput
from engine.models.vision import HEADS, NOTHING, Judge
from engine.zoo import autoencoder, denoiser, finer, growing, judge, larger, world
from engine.zoo.autoencoder import encode, new_autoencoder, psnr
from engine.zoo.dataset import Pictures, kept, pictures
from engine.zoo.examine import Examination, generate
from engine.zoo.export import export_autoencoder, export_pipeline
from engine.zoo.graph import revision
from engine.zoo.tokenizer import build_tokenizer
from engine.zoo.training import Options, Plan

PLAN = Plan(steps=12, learning_rate=1e-3, warmup=2, ema=0.5)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setitem(autoencoder.BATCH, "cpu", 4)


@pytest.fixture(scope="module")
def old():
    torch.manual_seed(0)
    return new_autoencoder().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Pictures:
    return pictures(tmp_path_factory.mktemp("fine"), 16, seed=4, side=128, workers=1)


# ---------------------------------------------------------------------- autoencoder


def test_the_finer_autoencoder_has_one_level_more_and_as_many_latents(old):
    new = finer.finer_autoencoder(old)
    x = torch.zeros(1, 3, 128, 128)
    z = new.encode(x).latent_dist.mean
    assert z.shape == (1, 6, 16, 16)
    assert new.decode(z).sample.shape == x.shape
    assert new.config.sample_size == 128


def test_it_begins_with_every_old_weight_that_fits(old):
    new = finer.finer_autoencoder(old).state_dict()
    before = old.state_dict()
    for name in ("decoder.up_blocks.0.resnets.0.conv1.weight", "quant_conv.weight"):
        assert torch.equal(new[name], before[name])
    inner = "down_blocks.2.resnets.0.conv1.weight", "down_blocks.1.resnets.0.conv1.weight"
    assert torch.equal(new[f"encoder.{inner[0]}"], before[f"encoder.{inner[1]}"])
    assert new["decoder.up_blocks.3.resnets.0.conv1.weight"].shape[0] == finer.OUTER_CHANNELS


@pytest.mark.slow
def test_the_halved_picture_is_the_picture_drawn_at_half_the_side(tmp_path, drawn):
    small = pictures(tmp_path, 16, seed=4, side=64, workers=1)
    assert np.array_equal(small.labels, drawn.labels)
    difference = np.abs(finer.halved(drawn.pixels).astype(int) - small.pixels)
    assert difference.max() <= 1  # one rounds once, the other twice


@pytest.mark.slow
def test_the_decoder_learns_and_the_latents_stay_the_old_encoders(tmp_path, old):
    new = finer.finer_autoencoder(old)
    colours = np.random.default_rng(0).integers(0, 256, (8, 1, 1, 3), np.uint8)
    data = Pictures(np.tile(colours, (1, 128, 128, 1)), np.zeros((8, 5), np.int8))
    latents = finer.old_latents(old, data, tmp_path / "latents.npy")
    assert np.array_equal(latents, finer.old_latents(old, data, tmp_path / "latents.npy"))
    encoder = {name: value.clone() for name, value in new.encoder.state_dict().items()}

    def error() -> float:
        with torch.inference_mode():
            y = new.decode(torch.from_numpy(np.array(latents)).float()).sample
        return float((y - _signal(data.pixels)).square().mean())

    before = error()
    finer.train_finer_decoder(new, data, latents, PLAN, tmp_path / "decoder.safetensors")
    assert error() < 0.8 * before
    assert all(
        torch.equal(value, encoder[name]) for name, value in new.encoder.state_dict().items()
    )


@pytest.mark.slow
def test_the_encoder_learns_to_give_the_old_latents(tmp_path, old, drawn):
    new = finer.finer_autoencoder(old)
    latents = finer.old_latents(old, drawn, tmp_path / "latents.npy")
    wanted = torch.from_numpy(np.array(latents)).float()
    before = (encode(new, drawn.pixels) - wanted).square().mean()
    finer.train_finer_encoder(new, drawn, latents, PLAN, tmp_path / "encoder.safetensors")
    assert (encode(new, drawn.pixels) - wanted).square().mean() < 0.9 * before


@pytest.mark.slow
def test_two_halves_become_one_autoencoder(old, drawn):
    torch.manual_seed(1)
    first, second = finer.finer_autoencoder(old), finer.finer_autoencoder(old)
    whole = finer.joined(first, second)
    z = encode(first, drawn.pixels[:1])
    assert torch.equal(encode(whole, drawn.pixels[:1]), z)
    assert torch.equal(whole.decode(z).sample, second.decode(z).sample)
    assert psnr(whole, drawn.pixels[:2]).shape == (2,)


def _signal(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


# ---------------------------------------------------------------------- growing set


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(growing, "SHARD", 4)


def _grow(folder, workers=1):
    return growing.growing(
        folder,
        lambda pixels: (
            torch.from_numpy(pixels[:, :16, :16, :1]).movedim(-1, 1).expand(-1, 6, 16, 16)
        ),
        lambda texts: torch.tensor([[len(text)] * growing.LENGTH for text in texts]),
        seed=3,
        count=12,
        workers=workers,
    )


@pytest.mark.usefixtures("small_shards")
def test_a_set_grows_by_whole_shards_and_no_further_than_its_length(tmp_path):
    data = _grow(tmp_path)
    assert data.reach(5) == 8
    assert data.done.tolist() == [True, True, False]
    assert (data.captions[:8] > 0).all()
    assert data.reach(100) == 12


@pytest.mark.usefixtures("small_shards")
def test_a_set_that_is_taken_up_again_is_the_one_that_was_never_left(tmp_path):
    whole = _grow(tmp_path / "whole")
    whole.reach(12)
    _grow(tmp_path / "part").reach(4)
    again = _grow(tmp_path / "part")
    again.reach(12)
    assert np.array_equal(whole.latents, again.latents)
    assert np.array_equal(whole.captions, again.captions)


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_several_workers_make_the_same_set(tmp_path):
    alone, together = _grow(tmp_path / "one"), _grow(tmp_path / "two", workers=2)
    alone.reach(12)
    together.reach(12)
    assert np.array_equal(alone.latents, together.latents)
    assert np.array_equal(alone.captions, together.captions)


@pytest.mark.slow
def test_hard_objects_come_more_often_and_the_artist_is_named_in_some_captions():
    _, texts = growing._draw(np.random.default_rng(0), growing.load_sprites(), 150)
    named = [text for text in texts if "in the style of" in text]
    assert 0.1 < len(named) / len(texts) < 0.4
    words = " ".join(texts).replace(",", " ").split()
    assert words.count("dog") > 1.5 * words.count("mushroom")


@pytest.mark.slow
@pytest.mark.usefixtures("small_shards")
def test_training_on_the_growing_set_learns_and_goes_on_where_it_stopped(tmp_path):
    tokenizer = build_tokenizer(tmp_path / "tokenizer")
    plan = Plan(steps=2, learning_rate=1e-3, warmup=1)
    state = tmp_path / "state.safetensors"

    def trained(plan):
        torch.manual_seed(0)
        model = denoiser.new_denoiser(tokenizer, "cpu")
        data = _grow(tmp_path / "data")
        denoiser.train_longer(model, data, plan, state, batch=2, first=4)
        return model

    first = trained(plan)
    again = trained(plan)
    for one, other in zip(first.unet.parameters(), again.unet.parameters(), strict=True):
        assert torch.equal(one, other)
    torch.manual_seed(0)
    untrained = denoiser.new_denoiser(tokenizer, "cpu").unet.conv_in.weight
    assert not torch.equal(first.unet.conv_in.weight, untrained)


def test_a_run_with_an_end_leaves_the_endless_one_as_it_is(tmp_path):
    state, branch = tmp_path / "longer.safetensors", tmp_path / "longer-9.safetensors"
    assert larger.branched(state, branch) == branch
    assert not branch.exists()  # there is nothing to go on from
    state.write_bytes(b"state")
    larger.branched(state, branch)
    branch.write_bytes(b"further")
    assert larger.branched(state, branch).read_bytes() == b"further"
    assert state.read_bytes() == b"state"


# ---------------------------------------------------------------------- judge


def test_shuffling_keeps_the_squares_and_changes_their_order():
    x = torch.arange(3 * 8 * 8).reshape(3, 8, 8).float()
    mixed = judge.shuffled(x, 2, np.random.default_rng(0))
    assert not torch.equal(mixed, x)
    corner = {tuple(x[0, i : i + 4, j : j + 4].flatten().tolist()) for i in (0, 4) for j in (0, 4)}
    there = {
        tuple(mixed[0, i : i + 4, j : j + 4].flatten().tolist()) for i in (0, 4) for j in (0, 4)
    }
    assert there == corner


def test_a_picture_counts_as_refused_where_the_judge_names_nothing(drawn):
    model = Judge(width=32, side=128).eval()
    with torch.no_grad():
        model.heads["subject"].bias[HEADS["subject"].index(NOTHING)] = 100
    assert judge.refused(model, drawn.pixels[:2], judge.UNSEEN) == 1
    with torch.no_grad():
        model.heads["subject"].bias[0] = 200
    assert judge.refused(model, drawn.pixels[:2], judge.UNSEEN) == 0


def test_the_judge_of_fine_pictures_takes_small_ones_too():
    torch.manual_seed(0)
    fine = Judge(side=128).eval()
    large = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), np.uint8)
    assert len(fine.judge(large)) == 2
    flat = np.full((1, 64, 64, 3), 90, np.uint8)
    doubled = flat.repeat(2, 1).repeat(2, 2)
    assert np.allclose(fine.judge(flat).features, fine.judge(doubled).features, atol=1e-4)


@pytest.mark.slow
def test_the_judge_is_trained_on_fine_pictures_and_learns_what_is_nothing(tmp_path, drawn):
    torch.manual_seed(0)
    model = Judge(width=32, side=128)
    data = Pictures(np.asarray(drawn.pixels), drawn.labels)
    plan = Plan(steps=3, learning_rate=1e-3, warmup=1, ema=0.5)
    before = model.heads["subject"].weight.clone()
    judge.train_judge(model, data, data, plan, tmp_path / "judge.safetensors")
    assert not torch.equal(model.heads["subject"].weight, before)


def test_rebuilt_pictures_come_out_of_the_decoder_with_noise_of_their_own(tmp_path, old, drawn):
    small = finer.halved(np.repeat(drawn.pixels[:1], 2, 0))
    file = tmp_path / "rebuilt.npy"
    rebuilt = kept(file, lambda: judge.decoded(old, small, seed=1))
    assert rebuilt.shape == small.shape
    assert rebuilt.dtype == np.uint8
    assert not np.array_equal(rebuilt[0], rebuilt[1])
    assert np.array_equal(rebuilt, judge.decoded(old, small, seed=1))
    assert np.array_equal(rebuilt, kept(file, lambda: pytest.fail("made again")))


# ---------------------------------------------------------------------- bars


def test_what_is_below_its_bars_is_not_published_unless_asked():
    found = Examination(
        rates={"object": (0.97, 864), "both objects": (0.95, 432)},
        by_object={"cat": 0.6, "star": 1.0},
        by_style={},
        seconds=0.1,
        first=np.zeros((0, 128, 128, 3), np.uint8),
    )
    figures = larger.below(found)
    with pytest.raises(BadInput, match=r"object 0\.97 of 0\.99, object \(cat\) 0\.6 of 0\.9"):
        larger.check(figures, Options())
    larger.check(figures, Options(anyway=True))


def test_the_autoencoder_is_not_published_before_both_halves_are_trained(tmp_path):
    with pytest.raises(BadInput, match="fine-encoder"):
        larger.publish_autoencoder(tmp_path, Options())


# ---------------------------------------------------------------------- publishing


@pytest.fixture
def shelf(tmp_path, monkeypatch, old):
    """A shelf with an untrained world and its sister, and figures that need no judge."""
    models = tmp_path / "models"
    for module in (world, larger):
        monkeypatch.setattr(module, "MODELS", models)
    monkeypatch.setattr(world, "JUDGE", tmp_path / "no judge")
    for module in (world, larger):
        monkeypatch.setattr(module, "rebuilt_quality", lambda vae, folder: {"held-out": 31.5})
    torch.manual_seed(0)
    model = denoiser.new_denoiser(build_tokenizer(tmp_path / "tokenizer"), "cpu")
    for key in world.TITLES:
        export_pipeline(model, old, models / key)
    return models


@pytest.mark.slow
def test_the_finer_autoencoder_goes_into_the_world_and_its_sister(
    shelf, tmp_path, old, monkeypatch
):
    for half in ("encoder", "decoder"):
        finer.finer_autoencoder(old).save_pretrained(tmp_path / f"fine-{half}")
    larger.publish_autoencoder(tmp_path, Options(device="cpu"))
    for key in world.TITLES:
        vae, model = world.read_pipeline(key, "cpu")
        assert vae.config.sample_size == 128
        picture = generate(model, vae, ["a cat"], seed=0, steps=2)
        assert picture.shape == (1, 128, 128, 3)
    monkeypatch.setattr(larger, "rebuilt_quality", lambda vae, folder: {"held-out": 30.9})
    with pytest.raises(BadInput, match=r"decibels 30\.9 of 31"):
        larger.publish_autoencoder(tmp_path, Options(device="cpu"))


@pytest.mark.slow
def test_the_trained_denoiser_goes_into_the_world_with_its_card(shelf, tmp_path):
    _, model = world.read_pipeline("world", "cpu")
    larger.publish_world(tmp_path, Options(device="cpu"))  # none is trained yet
    _, published = world.read_pipeline("world", "cpu")
    assert torch.equal(published.unet.conv_in.bias, model.unet.conv_in.bias)
    assert world.named_artists("world") == set()
    with torch.no_grad():
        model.unet.conv_in.bias += 1
    larger.keep(model, tmp_path)
    larger.publish_world(tmp_path, Options(device="cpu"))
    _, published = world.read_pipeline("world", "cpu")
    assert torch.allclose(published.unet.conv_in.bias, model.unet.conv_in.bias, atol=1e-3)
    card = json.loads((shelf / "world" / "card.json").read_text())
    assert card["measured"]["decoder PSNR dB"] == {"held-out": 31.5}
    assert "unet/config.json" in card["sha256"]
    assert world.named_artists("world") == {"noto", "blob", "twemoji", "flat", "fluent",
                                            "firefox", "emojione"}  # fmt: skip
    assert world.named_artists("world-sister") == set()


@pytest.mark.slow
def test_what_is_refused_leaves_the_shelf_as_it_was(shelf, tmp_path):
    before = revision(shelf)
    vae, model = world.read_pipeline("world", "cpu")
    with torch.no_grad():
        model.unet.conv_in.bias += 1

    def refuse(found):
        raise BadInput("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "JUDGE", tmp_path)
        (tmp_path / "model.safetensors").touch()
        patch.setattr(world, "load_judge", lambda: None)
        patch.setattr(world, "examine", lambda *_, **__: SimpleNamespace(figures={}))
        with pytest.raises(BadInput, match="no"):
            world.publish("world", model, vae, tmp_path, refuse)
    assert revision(shelf) == before


@pytest.mark.slow
def test_the_first_autoencoder_is_kept_and_the_finer_one_is_not_taken_for_it(shelf, tmp_path, old):
    first = larger.first_autoencoder(tmp_path / "a", Options(device="cpu"))
    assert first.config.sample_size == 64
    export_autoencoder(finer.finer_autoencoder(old), shelf / "world")
    again = larger.first_autoencoder(tmp_path / "a", Options(device="cpu"))
    assert again.config.sample_size == 64
    with pytest.raises(BadInput, match="is the finer one"):
        larger.first_autoencoder(tmp_path / "b", Options(device="cpu"))

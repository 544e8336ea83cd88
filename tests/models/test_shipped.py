"""The shipped checkpoints: whole, read without the network, and read as diffusers reads them."""

import warnings

import pytest
import torch

from engine.models import library
from engine.models.diffusion import encode_prompt, unknown_words
from engine.models.library import MODELS, ModelRef, load

DIFFUSION = [key for key, card in MODELS.items() if card.kind == "diffusion" and card.sha256]
TEXTS = (
    "",
    "a cat",
    "a neon picture of a cat inside a box, on a pink background",
    "a zebra's hat!",
)


@pytest.mark.slow
@pytest.mark.parametrize("key", DIFFUSION)
def test_prompts_are_read_as_transformers_reads_them(key):
    """The tokenizer is built from its files here, and by the library's own loader there."""
    from transformers.models.clip.modeling_clip import CLIPTextModel
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    folder = library.ASSETS / key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, dtype=torch.float32
        ).eval()
    batch = tokenizer(
        list(TEXTS),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = encoder(batch.input_ids).last_hidden_state
    bundle = load(ModelRef(key), "cpu", "float32")
    assert torch.equal(encode_prompt(bundle, TEXTS).tokens, expected)


@pytest.mark.parametrize("key", DIFFUSION)
def test_the_words_of_the_world_are_known_and_others_are_not(key):
    bundle = load(ModelRef(key), "cpu", "float32")
    assert unknown_words(bundle, TEXTS[2]) == ()
    assert unknown_words(bundle, "a zebra") == ("zebra",)


@pytest.mark.parametrize("key", DIFFUSION)
def test_a_shipped_model_is_loaded_without_looking_up_an_address(key, monkeypatch):
    import socket

    asked: list = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: asked.append(a) or [])
    monkeypatch.setattr(socket.socket, "connect", lambda *a: asked.append(a))
    load(ModelRef(key), "cpu", "float32")
    assert asked == []

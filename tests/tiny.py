"""Tiny random-weight text-to-image checkpoints in true diffusers layout, written in a second.

They answer "does the code fit the layout", never "is the picture good". Layouts:

    sd1    Stable Diffusion 1.x, epsilon prediction, one text encoder
    sd2    Stable Diffusion 2.x, v prediction, linear projections, penultimate text layer
    sdxl   Stable Diffusion XL, two text encoders, pooled text and picture size as extra conditions

Pictures are 64x64, latents 4 channels of 16x16 (the decoder enlarges four times).

    folder = tiny_checkpoint(tmp_path / "tiny")            # sd1
    folder = tiny_checkpoint(tmp_path / "tiny", "sdxl", seed=3)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

Layout = Literal["sd1", "sd2", "sdxl"]

OBJECTS = ("cat", "dog", "fish", "bear", "house", "bomb", "car", "rose", "banana", "penguin")
STYLES = ("plain", "pixel", "sketch", "neon")
WORDS = (
    *OBJECTS,
    *STYLES,
    *"a an the of in on and art style picture background animal thing red blue pink".split(),
)
SYNONYMS = {"kitten": "cat", "puppy": "dog", "automobile": "car"}
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
TEXT_TOKENS = 24
TEXT_WIDTH = 32
START, END = "<|startoftext|>", "<|endoftext|>"


def tiny_checkpoint(folder: Path, layout: Layout = "sd1", *, seed: int = 0) -> Path:
    """Write a random checkpoint of this layout into `folder` and give `folder` back."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _save_text(folder, layout)
        _save_unet(folder, layout)
        _save_vae(folder, layout)
    _save_scheduler(folder, layout)
    _save_index(folder, layout)
    vocabulary = {"words": sorted(WORDS), "synonyms": SYNONYMS}
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    return folder


def save_tokenizer(folder: Path, words: Sequence[str] = WORDS, *, pad_token: str = END) -> int:
    """Write a CLIP tokenizer in which every given word is one token; gives the vocabulary size."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        min_frequency=1,
        end_of_word_suffix="</w>",
        initial_alphabet=list(ALPHABET),
        show_progress=False,
    )
    bpe.train_from_iterator(sorted(words), trainer)
    learned = json.loads(bpe.to_str())["model"]
    pieces = dict.fromkeys([*learned["vocab"], *(f"{letter}</w>" for letter in ALPHABET)])
    vocab = {piece: index for index, piece in enumerate([*pieces, START, END])}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned["merges"]]
    tokenizer = CLIPTokenizer(
        vocab=vocab, merges=merges, model_max_length=TEXT_TOKENS, pad_token=pad_token
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    return len(vocab)


def _save_text(folder: Path, layout: Layout) -> None:
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    size = save_tokenizer(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_TOKENS,
        hidden_act="gelu" if layout == "sd2" else "quick_gelu",
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    if layout == "sdxl":
        save_tokenizer(folder / "tokenizer_2", pad_token="!")
        CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")


def _save_unet(folder: Path, layout: Layout) -> None:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    extra = {}
    if layout == "sdxl":
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            # six numbers of picture size and crop, eight features each, and the pooled text
            "projection_class_embeddings_input_dim": 6 * 8 + TEXT_WIDTH,
        }
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * TEXT_WIDTH if layout == "sdxl" else TEXT_WIDTH,
        attention_head_dim=(2, 4) if layout != "sd1" else 2,
        use_linear_projection=layout != "sd1",
        norm_num_groups=8,
        **extra,
    )
    unet.save_pretrained(folder / "unet")


def _save_vae(folder: Path, layout: Layout) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.13025 if layout == "sdxl" else 0.18215,
    )
    vae.save_pretrained(folder / "vae")


def _save_scheduler(folder: Path, layout: Layout) -> None:
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if layout == "sd2" else "epsilon",
    )
    scheduler.save_pretrained(folder / "scheduler")


def _save_index(folder: Path, layout: Layout) -> None:
    index = {
        "_class_name": "StableDiffusionXLPipeline"
        if layout == "sdxl"
        else "StableDiffusionPipeline",
        "_diffusers_version": "0.42.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    if layout == "sdxl":
        index |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
        }
    else:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))

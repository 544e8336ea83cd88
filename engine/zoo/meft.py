"""Pre-trained transformers for MEFT, both in the layout of `BertModel`.

    python -m engine.zoo build digits-data --folder F   scanned digits, out of scikit-learn's wheel
    python -m engine.zoo build meft-digits              six layers that read them as 16 tokens
    python -m engine.zoo build meft-captions            six layers that read the world's captions
    python -m engine.zoo build meft-kinds               adapters of the captions model

The captions model learns to fill in masked words. `digits.csv.gz` of the wheel lies below F.
"""

import gzip
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from engine.core.errors import AssetMissing
from engine.models.library import read_cards
from engine.networks import _digits as scans
from engine.networks._backbones import Classifier, DigitsBackbone, Vanilla
from engine.networks._meft import MeftConfig
from engine.networks._meft_models import CAPTIONS, DIGITS, HEAD_FILE, KINDS, open_encoder
from engine.networks.meft import adapter_file, tasks, training
from engine.networks.meft.arms import ARMS, classifier
from engine.world import vocabulary as words
from engine.world.scenes import Scene, caption
from engine.zoo.export import MODELS, write_card
from engine.zoo.tokenizer import LETTERS
from engine.zoo.training import Figures, Options, train

LAYERS, HEADS = 6, 4
DIGITS_WIDTH, DIGITS_STEPS, DIGITS_BATCH = 64, 700, 64
CAPTIONS_WIDTH, CAPTIONS_STEPS, CAPTIONS_BATCH, LONGEST = 128, 500, 32, 24
MASKED, ADAPTER_STEPS = 0.2, 250
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, CLS, SEP, MASK = 0, 2, 3, 4
IGNORE = -100

log = logging.getLogger("engine.zoo")


# ---------------------------------------------------------------------- digits


def build_digits_data(folder: Path, options: Options) -> None:
    """The sheet and its labels."""
    paths = sorted(folder.rglob("digits.csv.gz"))
    if not paths:
        raise AssetMissing(
            f"digits.csv.gz is not below {folder.name}.",
            "Run there: pip download --no-deps scikit-learn==1.9.1, and unpack the wheel.",
        )
    with gzip.open(paths[0], "rt") as file:
        table = np.loadtxt(file, delimiter=",").astype(np.uint8)
    pixels, labels = table[:, :-1].reshape(-1, scans.SIDE, scans.SIDE), table[:, -1]
    scans.FOLDER.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scans.to_sheet(pixels * scans.STEP)).save(
        scans.FOLDER / "digits.png", optimize=True
    )
    text = json.dumps({"labels": "".join(map(str, labels))}, indent=0)
    (scans.FOLDER / "labels.json").write_text(text + "\n")
    files = sorted(path for path in scans.FOLDER.iterdir() if path.name != "card.json")
    card = {
        "title": "Optical recognition of handwritten digits, 1,797 scans of 8 x 8 pixels",
        "licence": "CC-BY-4.0 (data set), BSD-3-Clause (scikit-learn, which ships it)",
        "source": "PyPI scikit-learn==1.9.1; E. Alpaydin and C. Kaynak, UCI, 1998",
        "sha256": {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }
    (scans.FOLDER / "card.json").write_text(json.dumps(card, indent=1) + "\n")
    scans.digits.cache_clear()


def build_digits(folder: Path, options: Options) -> None:
    """Train on task a, mean-pooled; export the encoder, its patches and its head."""
    from transformers import BertModel

    data, test = scans.digits("train"), scans.digits("test")
    labels = scans.labels_of(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = BertModel(_config(DIGITS_WIDTH, 1, 16, dropout=0.0), add_pooling_layer=False)
        backbone = DigitsBackbone(body)
        network = Classifier(backbone, Vanilla(backbone.layers), 10)

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[torch.Tensor, Figures]:
        chosen = draw.integers(len(labels), size=DIGITS_BATCH)
        logits = network(scans.batch_of(data.pixels[chosen]))
        loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        return loss, {"loss": loss}

    plan = options.plan(DIGITS_STEPS, 2e-3, ema=0.99, decay_from=0.3)
    train([network], loss_of, plan, folder / f"{DIGITS}.safetensors")
    network.eval()
    with torch.no_grad():
        right = network(scans.batch_of(test.pixels)).argmax(-1) == scans.labels_of(test)
    assert network.head is not None
    extra = {
        **{f"patches.{k}": v.contiguous() for k, v in backbone.patches.state_dict().items()},
        **{f"head.{k}": v.contiguous() for k, v in network.head.state_dict().items()},
    }
    _export(
        DIGITS,
        body,
        title="Six layers that read scanned digits",
        source="Trained from nothing by engine/zoo on 1,297 scanned digits of scikit-learn.",
        licence="Apache-2.0 (weights); trained on handwritten digits (CC-BY-4.0)",
        extra=extra,
        measured={"test accuracy": round(float(right.float().mean()), 4)},
    )


# ---------------------------------------------------------------------- captions


def build_captions(folder: Path, options: Options) -> None:
    """Masked words of captions; export encoder, pooler untrained, and tokenizer."""
    from transformers import BertForMaskedLM, BertTokenizer

    tokens = (*SPECIAL, *_vocabulary())
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = BertForMaskedLM(_config(CAPTIONS_WIDTH, len(tokens), 64, dropout=0.1)).train()

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[torch.Tensor, Figures]:
        ids, mask = _tokens([_some_caption(draw) for _ in range(CAPTIONS_BATCH)], tokenizer)
        return _masked_loss(network, ids, mask, draw)

    plan = options.plan(CAPTIONS_STEPS, 1e-3, ema=0.995, decay_from=0.4)
    train([network], loss_of, plan, folder / f"{CAPTIONS}.safetensors")
    network.eval()
    draw = np.random.default_rng(10_000)
    ids, mask = _tokens([_some_caption(draw) for _ in range(500)], tokenizer)
    with torch.no_grad():
        _, figures = _masked_loss(network, ids, mask, draw)
    folder = _export(
        CAPTIONS,
        network.bert,
        title="A small BERT of the world's captions",
        source="Trained from nothing by engine/zoo to fill in masked words of captions.",
        licence="Apache-2.0 (weights)",
        measured={"masked words filled in": round(float(figures["right"]), 4)},
        tokenizer=tokenizer,
    )
    log.info("%s lies in %s", CAPTIONS, folder.name)


def _masked_loss(
    network: Any, ids: torch.Tensor, mask: torch.Tensor, draw: np.random.Generator
) -> tuple[torch.Tensor, Figures]:
    """Words at random become [MASK], and have to be told (Devlin et al., 2019, without the share
    that stays or is exchanged)."""
    chance = torch.from_numpy(draw.random(ids.shape))
    is_word = (ids != PAD) & (ids != CLS) & (ids != SEP)
    hidden = is_word & (chance < MASKED)
    torch.manual_seed(int(draw.integers(2**31)))
    logits = network(input_ids=torch.where(hidden, MASK, ids), attention_mask=mask).logits
    targets = torch.where(hidden, ids, IGNORE)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    right = (logits.argmax(-1) == ids)[hidden].float().mean()
    return loss, {"loss": loss, "right": right}


def _some_caption(draw: np.random.Generator) -> str:
    """Of a scene drawn without pictures: any object beside any other."""
    pick = lambda options: options[draw.integers(len(options))]  # noqa: E731 (one word, four uses)
    style = pick(words.STYLES)
    background = pick(tuple(words.BACKGROUNDS)) if style in words.COLOURED_STYLES else "white"
    subject = pick(words.OBJECTS)
    if draw.random() < 0.5:
        return caption(Scene(style, background, subject), draw)
    relation = pick(words.RELATIONS)
    others = words.CONTAINERS if relation == "inside" else words.OBJECTS
    other = pick([name for name in others if name != subject])
    return caption(Scene(style, background, subject, relation, other), draw)


def _tokens(texts: list[str], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    encoding = tokenizer(
        texts, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
    )
    return encoding.input_ids, encoding.attention_mask


def _vocabulary() -> list[str]:
    """Words of the world, each one token; others fall into letters."""
    known = sorted({*words.trained_words(), *words.GRAMMAR})
    letters = [*LETTERS, *(f"##{letter}" for letter in LETTERS if letter.isalnum())]
    return list(dict.fromkeys([*known, *letters]))


# ---------------------------------------------------------------------- adapters


def build_adapters(folder: Path, options: Options) -> None:
    """Adapters that tell what kind of thing a caption names first; needs the captions model."""
    encoder = open_encoder(CAPTIONS)
    task, config = tasks.captions_task(1200, 400, 0), MeftConfig()
    network = classifier(encoder.fork().backbone, ARMS["meft"], len(task.classes), config, 0)
    plan = training.Plan(options.steps or ADAPTER_STEPS, 16, 3e-3)
    for step, loss in enumerate(training.losses(network, encoder, task, plan, 0), start=1):
        if step % 50 == 0:
            log.info("step %d of %d, loss %.4f", step, plan.steps, loss)
    weights, adapter_config = adapter_file.write(network, CAPTIONS, config, task.classes)
    target = MODELS / KINDS
    target.mkdir(parents=True, exist_ok=True)
    (target / weights.name).write_bytes(weights.data)
    (target / adapter_config.name).write_text(adapter_config.text)
    write_card(
        target,
        key=KINDS,
        title="MEFT adapters: what kind of thing a caption names first",
        kind="adapters",
        licence="Apache-2.0 (weights)",
        source="Trained by engine/zoo on captions of the world.",
        about="Adapters of the small BERT of captions.",
        made_for=CAPTIONS,
        made_for_revision=read_cards(MODELS)[CAPTIONS].revision,
        measured={"held-out captions": round(training.accuracy(network, encoder, task.test), 4)},
    )


# ---------------------------------------------------------------------- both


def _config(width: int, vocabulary: int, positions: int, *, dropout: float) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * width,
        max_position_embeddings=positions,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",
    )


def _export(
    key: str, body: Any, *, title: str, source: str, licence: str, measured: dict[str, object],
    extra: dict[str, torch.Tensor] | None = None, tokenizer: Any = None,
) -> Path:  # fmt: skip
    target = MODELS / key
    target.mkdir(parents=True, exist_ok=True)
    body.half().save_pretrained(target, safe_serialization=True)
    body.float()
    if extra:
        save_file({name: tensor.half() for name, tensor in extra.items()}, target / HEAD_FILE)
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    write_card(
        target,
        key=key,
        title=title,
        kind="encoder",
        licence=licence,
        source=source,
        about="A small encoder, made to be turned into a reversible one.",
        measured=measured,
    )
    return target


BUILDS = {
    "digits-data": build_digits_data,
    DIGITS: build_digits,
    CAPTIONS: build_captions,
    KINDS: build_adapters,
}

"""Training of a small LLaVA that captions trays and says of each phrase whether it is grounded.

The recipe of REVERSE on a small scale. Half of the conversations are right; the other half run
right up to one wrong phrase, which is tagged as ungrounded and ends the answer. The vision tower
first learns to name the thing in each cell, which stands in for the pretraining of CLIP: without it
the captions ignore the picture. Every picture has its own amount of noise, as a model trained at
one amount does not doubt itself at another. 0.8 million weights, ten minutes of one core.
"""

import copy
import json
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.core import rng
from engine.metrics.hallucination import Told, chair
from engine.metrics.intervals import auroc
from engine.verifying.retrospective_resampling.tags import CN, SPAN, UN, Tags, masked_labels
from engine.world import tray as world
from engine.world import vocabulary as words
from engine.world.sprites import load_sprites
from engine.world.tray import NUMBERS, PARTNER, PLACES, Tray
from engine.zoo.export import MODELS, write_card
from engine.zoo.training import Options, half_precision, train

KEY = "emoji-llava"
TITLE = "Emoji LLaVA: a small model that describes trays and doubts itself"
RIGHT_KEY = "emoji-llava-right"
RIGHT_TITLE = "Emoji LLaVA, trained on right answers alone: it cannot doubt itself"
DESCRIBE = "describe the picture."
CONVERSATIONS = 12_000
LENGTH = 96  # tokens of a conversation, padded
LONGEST = 40  # tokens of an answer in the examination
NOISE = (0.1, 0.6)  # spread of the noise in training, drawn for each picture
KINDS = (0.7, 0.1, 0.1, 0.1)  # share of descriptions, counts, colours, yes or no
NEGATIVE = 0.5  # share of conversations that end in a wrong phrase
WRONG_PARTNER = 0.6  # how often the wrong thing is the absent partner of one that is there
# How often wrong phrases are named in a hint. Right answers and wrong ones have hints alike: a hint
# that comes with right answers alone would take away the doubt just where it is needed.
HINTED = 0.2
TARGET_CHAIR = 0.14  # the panel's noise is where the model, never taking back, hallucinates so much

GRAMMAR = (
    "USER ASSISTANT : . , ? ( ) - > -> Hint potential incorrect phrases describe the picture how "
    "many things are there what colour is background it also a an and on in yes no this image"
).split()

log = logging.getLogger("engine.zoo")


# ---------------------------------------------------------------------- conversations


@dataclass(frozen=True)
class Conversation:
    """A question about a tray and the tagged answer; `wrong` are phrases a hint may name."""

    tray: Tray
    question: str
    answer: str
    wrong: tuple[str, ...]


def tagged(phrase: str, grounded: bool = True) -> str:
    """The phrase between its marks."""
    return f"{SPAN} {phrase} {CN if grounded else UN}"


def caption_parts(names: list[str]) -> Iterator[tuple[str, str]]:
    """Words and phrase, in turns: two things a sentence."""
    for place, name in enumerate(names):
        before = ". there is also" if place % 2 == 0 else "and"
        yield before if place else "there is", words.article(name)


def converse(tray: Tray, draw: np.random.Generator, negative: float = NEGATIVE) -> Conversation:
    """A random question about a tray, with a right answer or one that ends wrongly."""
    kind, is_wrong = draw.choice(4, p=KINDS), draw.random() < negative
    if kind == 0:
        return _described(tray, draw, is_wrong)
    if kind == 1:
        truth, lie = _number(tray, draw)
        return _short(tray, "how many things are there?", "there are", truth, lie, is_wrong)
    if kind == 2:
        other = _another(list(words.BACKGROUNDS), tray.background, draw)
        return _short(
            tray, "what colour is the background?", "it is", tray.background, other, is_wrong
        )
    name = _object_asked_for(tray, draw)
    truth, lie = ("yes", "no") if name in tray.names else ("no", "yes")
    return _short(tray, f"is there {words.article(name)}?", "", truth, lie, is_wrong)


def _described(tray: Tray, draw: np.random.Generator, is_wrong: bool) -> Conversation:
    names = [tray.names[place] for place in draw.permutation(len(tray.names))]
    parts = list(caption_parts(names))
    wrong = [words.article(_absent(tray, names, draw)) for _ in range(int(draw.integers(1, 4)))]
    if not is_wrong:
        text = " ".join(f"{before} {tagged(phrase)}" for before, phrase in parts)
        return Conversation(tray, DESCRIBE, f"{text} .", tuple(wrong))
    kept = int(draw.integers(len(parts)))
    lie = words.article(_absent(tray, names[:kept][::-1], draw)) if kept else wrong[0]
    text = " ".join(f"{before} {tagged(phrase)}" for before, phrase in parts[:kept])
    text = f"{text} {parts[kept][0]} {tagged(lie, False)}".strip()
    return Conversation(tray, DESCRIBE, text, tuple(wrong))


def _absent(tray: Tray, named: list[str], draw: np.random.Generator) -> str:
    """A thing that is not there: mostly the partner of one that is."""
    partners = [PARTNER[name] for name in named if PARTNER[name] not in tray.names]
    if partners and draw.random() < WRONG_PARTNER:
        return partners[0]
    return _another(list(words.ON_TRAYS), "", draw, tray.names)


def _another(
    options: list[str], but: str, draw: np.random.Generator, also: tuple[str, ...] = ()
) -> str:
    while True:
        option = options[draw.integers(len(options))]
        if option != but and option not in also:
            return option


def _number(tray: Tray, draw: np.random.Generator) -> tuple[str, str]:
    count = len(tray.things)
    near = [n for n in (count - 1, count + 1, count + 2) if 0 < n < len(NUMBERS)]
    return NUMBERS[count], NUMBERS[near[draw.integers(len(near))]]


def _object_asked_for(tray: Tray, draw: np.random.Generator) -> str:
    """A thing to ask for: there in half of the cases, else mostly a partner of one that is."""
    if draw.random() < 0.5:
        return tray.names[draw.integers(len(tray.names))]
    return _absent(tray, [tray.names[i] for i in draw.permutation(len(tray.names))], draw)


def _short(
    tray: Tray, question: str, before: str, truth: str, lie: str, is_wrong: bool
) -> Conversation:
    text = f"{before} {tagged(lie, False)}" if is_wrong else f"{before} {tagged(truth)} ."
    return Conversation(tray, question, text.strip(), (lie,))


def hinted(question: str, wrong: tuple[str, ...]) -> str:
    """The question with wrong phrases named, as the loop asks again after a violation."""
    return f"{question} (Hint: potential incorrect phrases -> {', '.join(wrong)})"


# ---------------------------------------------------------------------- tokens


def build_tokenizer(folder: Path):
    """A tokenizer of whole words, with the image token, the three marks and LLaVA's template."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    colours = tuple(words.BACKGROUNDS)
    known = [*GRAMMAR, *words.ON_TRAYS, *colours, *NUMBERS]
    vocab = ["<pad>", "<s>", "</s>", "<unk>", *dict.fromkeys(word.lower() for word in known)]
    model = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, unk_token="<unk>"))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=LENGTH,
    )
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], True)
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in (SPAN, CN, UN)])
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    listed = sorted(word for word in vocab[4:] if word.isalpha())
    synonyms = {old: new for old, new in words.SYNONYMS.items() if new in listed}
    (folder / "vocabulary.json").write_text(
        json.dumps({"words": listed, "synonyms": synonyms}, indent=1) + "\n"
    )
    return tokenizer


TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<image>\\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{{ ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def spoken(text: str, lookup: dict[str, int]) -> list[int]:
    """Token ids of a text of known words: as the tokenizer has them, and a good deal faster."""
    for mark in ".,?():":
        text = text.replace(mark, f" {mark} ")
    return [lookup[word if word.startswith("<") else word.lower()] for word in text.split()]


@dataclass(frozen=True)
class Lessons:
    """All conversations as arrays on the device of the training."""

    ids: Tensor  # n x LENGTH, with one token of the picture in every place of it
    labels: Tensor  # n x LENGTH, what follows each token, or -100
    objects: Tensor  # n x 16
    backgrounds: Tensor  # n x 3, in 0..1
    lengths: Tensor  # n, tokens before the padding

    def __len__(self) -> int:
        return len(self.ids)


def lessons(
    tokenizer,
    artists: tuple[str, ...],
    count: int,
    seed: int,
    device: str,
    negative: float = NEGATIVE,
) -> Lessons:
    """Conversations about random trays; artists and poses are drawn anew in every step."""
    lookup = tokenizer.get_vocab()
    tags = Tags(*(lookup[mark] for mark in (SPAN, CN, UN)))
    draw = np.random.default_rng(seed)
    ids = np.full((count, LENGTH + 1), lookup["<pad>"], np.int64)
    prompted = np.zeros(count, np.int64)
    lengths = np.zeros(count, np.int64)
    trays = []
    for row in range(count):
        conversation = converse(world.random_tray(draw, artists), draw, negative)
        question = conversation.question
        if draw.random() < HINTED:
            question = hinted(question, conversation.wrong)
        before = spoken(f"USER: <image> {question} ASSISTANT:", lookup)
        place = before.index(lookup["<image>"])
        before[place : place + 1] = [lookup["<image>"]] * PLACES
        line = [*before, *spoken(conversation.answer, lookup), lookup["</s>"]]
        ids[row, : len(line)] = line
        prompted[row], lengths[row] = len(before), len(line)
        trays.append(conversation.tray)
    targets = torch.from_numpy(ids)
    places = torch.arange(LENGTH + 1)[None]
    counts = (places >= torch.from_numpy(prompted)[:, None]) & (
        places < torch.from_numpy(lengths)[:, None]
    )
    labels = masked_labels(torch.where(counts, targets, -100), tags)
    objects, _, colours = world.arrays_of(trays, load_sprites().artists)
    return Lessons(
        targets[:, :-1].to(device),
        labels[:, 1:].to(device),
        objects.to(device),
        colours.to(device),
        torch.from_numpy(lengths - 1).to(device),
    )


# ---------------------------------------------------------------------- the network


def new_model(tokenizer, *, eyes: int = 96, speech: int = 128, layers: int = 3):
    """A `LlavaForConditionalGeneration` of 0.8 million weights; `eyes` and `speech` are widths."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    seeing = CLIPVisionConfig(
        hidden_size=eyes,
        intermediate_size=2 * eyes,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=world.CELLS * world.CELL,
        patch_size=world.CELL,
        projection_dim=eyes,
    )
    speaking = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=speech,
        intermediate_size=2 * speech,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=seeing,
        text_config=speaking,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=PLACES,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config)


class Camera:
    """Pictures of trays composed on the device: new artists, poses and noise each time."""

    def __init__(self, artists: tuple[str, ...], device: str) -> None:
        self.drawings = world.bank(artists).drawings.to(device)
        self.is_drawn = self.drawings.flatten(2).any(-1)

    def __call__(
        self, objects: Tensor, colours: Tensor, noise: torch.Generator, sigma: Tensor | None = None
    ) -> Tensor:
        """Pixels as the vision tower takes them, -1..1."""
        b, device = len(objects), self.drawings.device
        draw = {"generator": noise, "device": device}
        who = torch.randint(len(self.drawings), (b, PLACES), **draw)
        # The first artist drew everything.
        who = torch.where(self.is_drawn[who, objects.clamp(min=0)], who, 0)
        pose = torch.rand(b, PLACES, 4, **draw)
        clean = world.compose(self.drawings, objects, who, colours, pose)
        if sigma is None:
            sigma = NOISE[0] + (NOISE[1] - NOISE[0]) * torch.rand(b, **draw)
        grain = torch.randn(clean.shape, **draw)
        return world.darken(clean, sigma, grain) * 2 - 1


def cell_features(model, pixels: Tensor) -> Tensor:
    """What the vision tower makes of each cell, b x 16 x width."""
    return model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]


def train_eyes(model, data: Lessons, camera: Camera, options: Options, folder: Path) -> int:
    """Each cell is to be named, and the colour of the background; the two heads are thrown away.

    Returns the steps done.
    """
    wide = model.config.vision_config.hidden_size
    heads = nn.Linear(wide, len(words.OBJECTS) + 1 + len(words.BACKGROUNDS)).to(options.device)
    palette = torch.tensor(list(words.BACKGROUNDS.values()), device=options.device) / 255

    def loss_of(draw: np.random.Generator, noise: torch.Generator):
        rows = _rows(draw, len(data), 48, options.device)
        # More things than a tray holds make a better lesson: two trays on one table.
        objects = data.objects[rows]
        objects = torch.where(objects < 0, data.objects[rows.roll(1)], objects)
        colours = data.backgrounds[rows]
        with _mixed(options.device):
            logits = heads(cell_features(model, camera(objects, colours, noise)))
        object_logits, tint_logits = logits.float().split(
            [len(words.OBJECTS) + 1, len(palette)], dim=-1
        )
        targets = torch.where(objects < 0, len(words.OBJECTS), objects)
        tint = (colours[:, None] - palette).abs().sum(-1).argmin(-1)
        loss = F.cross_entropy(object_logits.flatten(0, 1), targets.flatten())
        loss = loss + 0.2 * F.cross_entropy(tint_logits.mean(1), tint)
        is_object = objects >= 0
        right = ((object_logits.argmax(-1) == targets) & is_object).sum() / is_object.sum()
        return loss, {"loss": loss.detach(), "right": right}

    plan = options.plan(1000, 1e-3, 0.3, warmup=60, decay_from=0.3, ema=0.99, save_every=30)
    return train([model.model.vision_tower, heads], loss_of, plan, folder / "eyes.safetensors")


def next_logits(model, ids: Tensor, features: Tensor) -> Tensor:
    """Logits of what follows each token; `features` are what the vision tower makes of the cells.

    Equal to calling the model. The picture stands in the same places in every row, so it is put in
    without asking the device where the image tokens are.
    """
    inner = model.model
    place = 2  # behind "USER" and ":"
    embeddings = inner.language_model.embed_tokens(ids)
    image_embeddings = inner.multi_modal_projector(features).to(embeddings.dtype)
    embeddings = torch.cat(
        [embeddings[:, :place], image_embeddings, embeddings[:, place + PLACES :]], dim=1
    )
    return model.lm_head(inner.language_model(inputs_embeds=embeddings, use_cache=False)[0])


def train_speech(
    model, data: Lessons, camera: Camera, options: Options, folder: Path, on_save
) -> int:
    """All weights, on conversations. Returns the steps done."""

    def loss_of(draw: np.random.Generator, noise: torch.Generator):
        rows = _alike(draw, data, 32, options.device)
        longest = int(data.lengths[rows].max())
        # What is said does not depend on the cells, so no tray is seen twice.
        cells = torch.rand(len(rows), PLACES, generator=noise, device=noise.device).argsort(-1)
        objects = data.objects[rows].gather(1, cells)
        pixels = camera(objects, data.backgrounds[rows], noise)
        with _mixed(options.device):
            logits = next_logits(model, data.ids[rows, :longest], cell_features(model, pixels))
        labels = data.labels[rows, :longest]
        loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        return loss, {"loss": loss.detach()}

    plan = options.plan(5000, 1e-3, 0.7, warmup=60, decay_from=0.3, ema=0.99, save_every=25)
    return train([model], loss_of, plan, folder / "speech.safetensors", on_save=on_save)


def _alike(draw: np.random.Generator, data: Lessons, batch: int, device: str) -> Tensor:
    """Random conversations of about the same length, so that there is little padding."""
    rows = _rows(draw, len(data), 4 * batch, device)
    rows = rows[data.lengths[rows].argsort()]
    return rows.view(4, batch)[int(draw.integers(4))]


def _mixed(device: str) -> AbstractContextManager:
    """bfloat16 on a GPU; on processors without units for it, it is slower than float32."""
    return half_precision(device) if device != "cpu" else nullcontext()


def _rows(draw: np.random.Generator, count: int, batch: int, device: str) -> Tensor:
    rows = torch.from_numpy(draw.integers(count, size=batch))
    return rows.pin_memory().to(device, non_blocking=True) if device != "cpu" else rows


# ---------------------------------------------------------------------- measuring


@dataclass(frozen=True)
class Spoken:
    """Captions of many trays at once, nothing taken back, and P(UN) of every phrase."""

    told: list[Told]
    p_un: np.ndarray
    is_wrong: np.ndarray


@torch.no_grad()
def describe(model, tokenizer, trays: list[Tray], sigma: float, seed: int) -> Spoken:
    """Captions at tau = 1 and temperature 1. All prompts have equal length, so no row waits."""
    device = model.device
    lookup = tokenizer.get_vocab()
    artists = load_sprites().artists
    objects, who, colours = world.arrays_of(trays, artists)
    pose = torch.rand(len(trays), PLACES, 4, generator=rng.generator(seed, "pose"))
    clean = world.compose(world.bank(artists).drawings, objects, who, colours, pose)
    grain = rng.noise(clean.shape, rng.generator(seed, "grain"))
    pixels = world.darken(clean, torch.full((len(trays),), sigma), grain) * 2 - 1
    before = spoken(f"USER: <image> {DESCRIBE} ASSISTANT:", lookup)
    before[2:3] = [lookup["<image>"]] * PLACES
    ids = torch.tensor([before] * len(trays), device=device)
    features = cell_features(model, pixels.to(device))
    doubts = []
    chance = rng.generator(seed, "words")
    ended = torch.zeros(len(trays), dtype=torch.bool, device=device)
    while not ended.all() and len(doubts) < LONGEST:
        logits = next_logits(model, ids, features)[:, -1].float()
        doubts.append(logits.softmax(-1)[:, lookup[UN]])
        sampled = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=chance)
        ids = torch.cat([ids, sampled.to(device)], dim=1)
        ended |= ids[:, -1] == lookup["</s>"]
    lines = ids[:, len(before) :].cpu().tolist()
    doubt = torch.stack(doubts, dim=1).cpu().numpy()
    mentions, p_un, is_wrong = [], [], []
    for row, (line, tray) in enumerate(zip(lines, trays, strict=True)):
        stop = line.index(lookup["</s>"]) if lookup["</s>"] in line else len(line)
        opened = None
        for place, token in enumerate(line[:stop]):
            if token == lookup[SPAN]:
                opened = place
            elif token in (lookup[CN], lookup[UN]) and opened is not None:
                phrase = tokenizer.decode(line[opened + 1 : place])
                if world.mentions(phrase):
                    p_un.append(float(doubt[row, place]))
                    is_wrong.append(not world.is_true(phrase, tray))
                opened = None
        text = tokenizer.decode(line[:stop])
        mentions.append(Told(tuple(world.mentions(text)), tray.names))
    return Spoken(mentions, np.array(p_un), np.array(is_wrong, dtype=bool))


def examine(
    model, tokenizer, noise: float | None = None, training: dict[str, object] | None = None
) -> dict[str, object]:
    """The noise at which the panel starts, and the bars at it, on trays never trained on.

    A baseline is measured at the noise it is given, which is that of the model it stands beside.
    `training` is what the training cost; it stands first among what was measured.
    """
    count, step = 100, 0.05

    def caption_trays(artists: tuple[str, ...], level: float, seed: int) -> Spoken:
        draw = np.random.default_rng([7, seed])
        trays = [world.random_tray(draw, artists) for _ in range(count)]
        return describe(model, tokenizer, trays, level, seed)

    model.eval()
    levels = np.arange(0.3, 0.71, step).round(2).tolist()
    tried = {level: chair(caption_trays(world.ARTISTS, level, 1).told).chair_i for level in levels}
    level = noise or min(levels, key=lambda candidate: abs(tried[candidate] - TARGET_CHAIR))
    figures: dict[str, object] = {"training": training} if training else {}
    figures |= {
        "CHAIR_i by noise, on other trays": {
            str(candidate): round(r, 4) for candidate, r in tried.items()
        }
    }
    other = world.HELD_OUT_ARTIST
    sets = ("held-out trays", world.ARTISTS, 2), (f"an artist never seen ({other})", (other,), 3)
    for name, artists, seed in sets:
        captions = caption_trays(artists, level, seed)
        rates = chair(captions.told)
        figures[name] = {
            "CHAIR_i, nothing taken back": round(rates.chair_i, 4),
            "cover": round(rates.cover, 4),
            "AUROC of P(UN)": _finite(
                auroc(captions.p_un[captions.is_wrong], captions.p_un[~captions.is_wrong])
            ),
            "median P(UN), right": _median(captions.p_un[~captions.is_wrong]),
            "median P(UN), wrong": _median(captions.p_un[captions.is_wrong]),
        }
    return {"noise": level, "measured": figures}


def _median(values: np.ndarray) -> float | None:
    return float(np.median(values)) if len(values) else None


def _finite(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None


# ---------------------------------------------------------------------- building


def build(folder: Path, options: Options) -> None:
    """Eyes, speech, export, examination."""
    folder = folder / KEY
    tokenizer, model, budget = _taught(folder, folder, options, NEGATIVE, KEY, TITLE)
    notes = examine(model, tokenizer, training=budget)
    log.info("%s", json.dumps(notes))
    export(model, tokenizer, KEY, TITLE, notes)


def build_right(folder: Path, options: Options) -> None:
    """The baseline: the same eyes, the same budget of speech, and no wrong answer among them."""
    tokenizer, model, budget = _taught(
        folder / KEY, folder / RIGHT_KEY, options, 0.0, RIGHT_KEY, RIGHT_TITLE
    )
    notes = examine(model, tokenizer, _noise_of_panel(), training=budget)
    log.info("%s", json.dumps(notes))
    export(model, tokenizer, RIGHT_KEY, RIGHT_TITLE, notes)


def _noise_of_panel() -> float:
    """The noise at which the panel starts, from the card of the model that it shows."""
    return float(json.loads((MODELS / KEY / "card.json").read_text())["noise"])


def _taught(
    eyes: Path, speech: Path, options: Options, negative: float, key: str, title: str
) -> tuple[Any, nn.Module, dict[str, object]]:
    """Tokenizer, trained model and what it cost; the folders hold the states of the two stages."""
    for folder in (eyes, speech):
        folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(speech / "tokenizer")
    data = lessons(tokenizer, world.ARTISTS, CONVERSATIONS, 1, options.device, negative)
    log.info("%d conversations", len(data))
    torch.manual_seed(0)
    model = new_model(tokenizer).to(options.device).train()
    camera = Camera(world.ARTISTS, options.device)
    begun = time.monotonic()
    looked = train_eyes(model, data, camera, options, eyes)

    def keep(step: int) -> None:
        export(model, tokenizer, key, title, {"measured": {"steps": step}})

    steps = train_speech(model, data, camera, options, speech, keep)
    budget = {
        "conversations": len(data),
        "steps of the eyes": looked,
        "steps of speech": steps,
        "seconds of training": round(time.monotonic() - begun),
    }
    return tokenizer, model, budget


def export(model, tokenizer, key: str, title: str, notes: dict[str, object]) -> None:
    """The checkpoint as transformers reads it, in half precision, with its card."""
    folder = MODELS / key
    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).half().cpu()
    half.save_pretrained(folder, safe_serialization=True)
    build_tokenizer(folder)
    side = world.CELLS * world.CELL
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": side},
        "crop_size": {"height": side, "width": side},
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    write_card(folder, key=key, title=title, kind="language", **notes)


def examine_shipped(folder: Path, options: Options) -> None:
    """Measure the shipped checkpoint again and write what was found into its card."""
    from engine.models.library import ModelRef, load

    bundle = load(ModelRef(KEY), options.device, "float32")
    notes = examine(bundle.model, bundle.tokenizer)
    log.info("%s", json.dumps(notes))
    write_card(MODELS / KEY, key=KEY, title=TITLE, kind="language", **notes)


BUILDS = {KEY: build, RIGHT_KEY: build_right}
EXAMINES = {KEY: examine_shipped}

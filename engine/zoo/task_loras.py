"""A small vision transformer trained from nothing on garments, and eight task adapters for it.

The adapters (PEFT, rank 16, all linear layers) are trained together, each on its own task; the head
with its ten outputs is frozen and shared, so an adapter is all that tells two tasks apart. Those of
even place start from one seed, those of odd place each from its own.

Needs the file of `engine.zoo.task_data` as tasks.npz, in build/gpu or the working folder.
"""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from engine.core.errors import AssetMissing
from engine.zoo.export import MODELS, write_card
from engine.zoo.lora_bank import LoraBank
from engine.zoo.task_data import KINDS, SIDE, TASKS, Source, examples, garment
from engine.zoo.training import Options, half_precision, train

log = logging.getLogger("engine.zoo")

KEY = "eight-tasks"
RANK, TRAINED_ON, SHIPPED = 16, 4000, 200
# Pictures a step: of the base, and of each adapter.
BASE_BATCH, BATCH = {"cuda": 128, "cpu": 48}, {"cuda": 64, "cpu": 12}
SHARED_SEED = 100
SEEDS = tuple(SHARED_SEED if i % 2 == 0 else SHARED_SEED + i for i in range(len(TASKS)))
SHEET_COLUMNS = 40
# Linear layers by the names of transformers 5.23, with those of other versions behind.
ROLES = {
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
SETTINGS = {
    "image_size": SIDE,
    "patch_size": 7,
    "num_channels": 1,
    "hidden_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "num_labels": len(KINDS),
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def build_tasks(folder: Path, options: Options) -> None:
    """Base, adapters, and the pictures that ship to count with."""
    source, target = Source(_data(folder)), MODELS / KEY
    torch.manual_seed(0)
    base = new_classifier().to(options.device)
    train_base(base, source, folder, options)
    target.mkdir(parents=True, exist_ok=True)
    # A copy, since half() converts in place and training goes on in full precision.
    copy.deepcopy(base).half().save_pretrained(target / "base", safe_serialization=True)
    bank = LoraBank(base, names_in(base), RANK, SEEDS)
    train_adapters(base, bank, source, folder, options, lambda _: publish(bank, target))
    publish(bank, target)
    sets = [examples(task.name, source, SHIPPED, 5, test=True) for task in TASKS]
    ship_pictures(sets, target)
    card(base, bank, sets, source, target)


def new_classifier() -> nn.Module:
    """0.3 M weights: 4 layers of width 96 over 16 patches."""
    from transformers import ViTConfig, ViTForImageClassification

    named = {"id2label": dict(enumerate(KINDS)), "label2id": {k: i for i, k in enumerate(KINDS)}}
    return ViTForImageClassification(ViTConfig(**SETTINGS | named))


def names_in(network: nn.Module) -> dict[str, str]:
    """The name under which an adapter knows each linear layer, to the layer's name here."""
    modules = dict(network.named_modules())
    names = {}
    for index in range(SETTINGS["num_hidden_layers"]):
        for role, older in ROLES.items():
            name = f"vit.layers.{index}.{role}"
            names[name] = name if name in modules else f"vit.encoder.layer.{index}.{older}"
    return names


def train_base(base: nn.Module, source: Source, folder: Path, options: Options) -> None:
    """Kinds of garments, as a checkpoint that one finds on the Hub would know them."""
    draw = np.random.default_rng(1)
    rows = [garment(source, draw, False) for _ in range(16_000)]
    x = to_tensor(np.stack([pixels for pixels, _ in rows])).to(options.device)
    y = torch.tensor([label for _, label in rows], device=options.device)

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        size = BASE_BATCH[options.device]
        chosen = torch.from_numpy(draw.integers(len(x), size=size)).to(x.device)
        with half_precision(options.device):
            logits = base(x[chosen]).logits
        loss = F.cross_entropy(logits.float(), y[chosen], label_smoothing=0.05)
        right = (logits.argmax(-1) == y[chosen]).float().mean()
        return loss, {"loss": loss.detach(), "right": right}

    base.train()
    plan = options.plan(4000, 2e-3, 0.35, warmup=30, decay_from=0.3, ema=0.99, save_every=30)
    train([base], loss_of, plan, folder / "tasks-base.safetensors")
    base.eval()


def train_adapters(base, bank: LoraBank, source: Source, folder: Path, options, on_save) -> None:
    """All at once, each on its own pictures."""
    sets = [examples(task.name, source, TRAINED_ON, 3, test=False) for task in TASKS]
    x = torch.stack([to_tensor(pixels) for pixels, _ in sets]).to(options.device)
    y = torch.stack([torch.from_numpy(labels) for _, labels in sets]).to(options.device)
    which = torch.arange(len(TASKS), device=options.device)[:, None]

    def loss_of(draw: np.random.Generator, noise: torch.Generator) -> tuple[Tensor, dict]:
        size = (len(TASKS), BATCH[options.device])
        chosen = torch.from_numpy(draw.integers(TRAINED_ON, size=size)).to(x.device)
        pictures, answers = x[which, chosen].flatten(0, 1), y[which, chosen].flatten()
        with half_precision(options.device):
            logits = base(pictures).logits
        loss = F.cross_entropy(logits.float(), answers)
        right = (logits.argmax(-1) == answers).float().mean()
        return len(TASKS) * loss, {"loss": loss.detach(), "right": right}

    base.train()
    bank.plug(base)
    plan = options.plan(4000, 3e-3, 0.6, warmup=30, decay_from=0.3, ema=0.99, save_every=25)
    train([bank.trained()], loss_of, plan, folder / "tasks-adapters.safetensors", on_save=on_save)
    bank.unplug(base)
    base.eval()


def publish(bank: LoraBank, target: Path) -> None:
    """Every adapter as a PEFT folder."""
    for index, task in enumerate(TASKS):
        bank.save(index, target / "adapters" / task.name, f"rewind/{KEY}/base")


def ship_pictures(sets: list[tuple[np.ndarray, np.ndarray]], target: Path) -> None:
    """All test pictures as one grey sheet, task after task, and their answers."""
    pixels = np.concatenate([pixels for pixels, _ in sets])
    rows = pixels.reshape(-1, SHEET_COLUMNS, SIDE, SIDE).transpose(0, 2, 1, 3)
    sheet = rows.reshape(-1, SHEET_COLUMNS * SIDE)
    Image.fromarray(sheet).save(target / "pictures.png", optimize=True)
    answers = {
        task.name: {
            "question": task.question,
            "classes": list(task.classes),
            "answers": labels.tolist(),
        }
        for task, (_, labels) in zip(TASKS, sets, strict=True)
    }
    (target / "tasks.json").write_text(json.dumps(answers) + "\n")


def card(base, bank: LoraBank, sets, source: Source, target: Path) -> None:
    """What base and adapters score on the shipped pictures; heads are one and the same."""
    x = torch.cat([to_tensor(pixels) for pixels, _ in sets]).to(bank.layers[0].up.device)
    y = torch.stack([torch.from_numpy(labels) for _, labels in sets])
    with torch.inference_mode():
        alone = base(x).logits.argmax(-1).cpu().view(len(TASKS), -1)
        bank.plug(base)
        own = base(x).logits.argmax(-1).cpu().view(len(TASKS), -1)
        bank.unplug(base)
    draw = np.random.default_rng(9)
    rows = [garment(source, draw, True) for _ in range(1000)]
    with torch.inference_mode():
        kinds = base(to_tensor(np.stack([p for p, _ in rows])).to(x.device)).logits.argmax(-1).cpu()
    count = y.shape[1]
    write_card(
        target,
        key=KEY,
        title="Eight task adapters on a small vision transformer",
        kind="adapters",
        base=f"{KEY}/base",
        adapters={
            task.name: {
                "question": task.question,
                "classes": list(task.classes),
                "init_seed": SEEDS[i],
                "shares_init": SEEDS.count(SEEDS[i]) > 1,
            }
            for i, task in enumerate(TASKS)
        },
        licence="Apache-2.0 (weights); pictures: Fashion-MNIST (MIT, Zalando SE), digits of "
        "scikit-learn (BSD-3), drawings under Apache-2.0, MIT and CC-BY-4.0",
        source="Trained from nothing by engine/zoo on Fashion-MNIST, the digits of scikit-learn "
        "and emoji drawings.",
        measured={
            "base, kinds of garments": [
                float((kinds == torch.tensor([label for _, label in rows])).float().mean()),
                len(rows),
            ],
            "base": {
                task.name: [float((alone[i] == y[i]).float().mean()), count]
                for i, task in enumerate(TASKS)
            },
            "own adapter": {
                task.name: [float((own[i] == y[i]).float().mean()), count]
                for i, task in enumerate(TASKS)
            },
        },
    )


def to_tensor(pixels: np.ndarray) -> Tensor:
    """Pictures n x 28 x 28 as the network takes them: n x 1 x 28 x 28 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).float()[:, None] / 127.5 - 1


def _data(folder: Path) -> Path:
    for place in (Path("build/gpu"), folder):
        if (place / "tasks.npz").exists():
            return place / "tasks.npz"
    raise AssetMissing(
        "The pictures of the tasks are not in build/gpu/tasks.npz.",
        "Make them with: python -m engine.zoo.task_data --digits FILE",
    )


BUILDS = {KEY: build_tasks}

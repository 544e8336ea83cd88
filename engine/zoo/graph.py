"""What hangs on what: each thing that ships, what it was made from, and how it is made again.

    python -m engine.zoo stale           what is older than what it was made from, and why
    python -m engine.zoo build all       make it all again, in order

    python -m engine.zoo record KEY      it was made by other means just now: it is not stale

`assets/made_from.json` keeps, for each product, the revisions of what it was made from. A product
is stale when one of them is another now. Trainings of hours or days are no products: they leave
folders beside their states in the working folder (see `larger`), and a product is made from them
once they are there.
"""

import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.core.catalog import ROOT, discover
from engine.core.errors import BadInput

ASSETS = ROOT / "assets"
LEDGER = ASSETS / "made_from.json"

log = logging.getLogger("engine.zoo")

Made = Mapping[str, Mapping[str, str]]  # product: what it was made from: its revision then


@dataclass(frozen=True)
class Product:
    """Files in assets/ (`place`, a folder or a file), made from the products and the trained
    folders that `needs` and `trained` name, by `build`, a command of this interpreter."""

    key: str
    place: str
    build: tuple[str, ...]
    needs: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()


def _zoo(key: str) -> tuple[str, ...]:
    return ("-m", "engine.zoo", "build", key)


NETWORKS = (
    Product(
        "world-autoencoder",
        "models/world/vae",
        _zoo("world-autoencoder"),
        trained=("fine-encoder", "fine-decoder"),
    ),
    Product("judge", "models/judge", _zoo("judge"), ("world-autoencoder",)),
    Product(
        "world",
        "models/world",
        _zoo("world-published"),
        ("world-autoencoder", "judge"),
        trained=("denoiser",),
    ),
    Product("world-sister", "models/world-sister", _zoo("world-sister"), ("world", "judge")),
    Product("spm-world", "models/spm-world", _zoo("spm-world"), ("world",)),
    Product("relations", "models/relations", _zoo("relations"), ("world",)),
    Product("world-styles", "models/world-styles", _zoo("world-styles"), ("world", "judge")),
    Product("recordings", "living", ("-m", "scripts.living"), ("world", "judge")),
)
# What methods measure their claims with, beside the models that their cards name.
BESIDE = {
    "spm": ("spm-world", "judge"),
    "reversion": ("relations", "judge"),
    "reversible_merging": ("world-styles", "judge"),
    "erasure_lab": ("judge",),
    "few_shot_erasing": ("judge",),
    "rece": ("judge",),
    "nfe_lab": ("judge",),
    "mr_sampler": ("judge",),
    "score_sde": ("judge",),
}


def products() -> dict[str, Product]:
    """All products by key, each after what it is made from.

    What methods have made of the models comes last: their claims, and what their panels open with.
    """
    every = {product.key: product for product in NETWORKS}
    for entry in discover().values():
        named = [*entry.card.models, *BESIDE.get(entry.slug, ())]
        needs = tuple(name for name in dict.fromkeys(named) if name in every)
        if needs:
            key = f"claims/{entry.slug}"
            build = ("-m", "engine", "bench", entry.name)
            every[key] = Product(key, f"claims/{entry.slug}.json", build, needs)
            recorded = f"recordings/{entry.slug}.{entry.card.actions[0].name}.json"
            if (ASSETS / recorded).exists():
                key = f"recordings/{entry.slug}"
                every[key] = Product(key, recorded, ("-m", "scripts.record", entry.name), needs)
    return every


def revision(path: Path) -> str:
    """Sixteen letters that change with any file at this path; nothing where there is none.

    Cards, and the README made of them, hold figures that may be measured again without another
    product.
    """
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    kept = [f for f in files if f.is_file() and f.name not in ("card.json", "README.md")]
    digests = [
        (f.relative_to(path).as_posix(), hashlib.sha256(f.read_bytes()).hexdigest()) for f in kept
    ]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:16] if digests else ""


def made_from(
    product: Product, every: Mapping[str, Product], folder: Path, assets: Path = ASSETS
) -> dict[str, str]:
    """What the product would be made from now: names and revisions.

    Trained folders count once all of them are here: what ships may have been made elsewhere.
    """
    now = {need: revision(assets / every[need].place) for need in product.needs}
    trained = {name: revision(folder / name) for name in product.trained}
    return now | (trained if all(trained.values()) else {})


def stale(
    ledger: Made, every: Mapping[str, Product], folder: Path, assets: Path = ASSETS
) -> dict[str, list[str]]:
    """The products that are older than what they are made from, each with what is newer.

    What is made from something stale is stale as well.
    """
    outdated: dict[str, list[str]] = {}
    for key, product in every.items():
        then, now = ledger.get(key, {}), made_from(product, every, folder, assets)
        newer = [name for name, is_now in now.items() if then.get(name) != is_now]
        newer += [name for name in product.needs if name in outdated and name not in newer]
        if newer:
            outdated[key] = newer
    return outdated


def build_all(
    folder: Path,
    flags: Sequence[str] = (),
    *,
    run: Callable[..., "subprocess.CompletedProcess[bytes]"] = subprocess.run,
) -> None:
    """Make whatever is stale, in order, each in a process of its own, which sees what was made
    before it. What is done stays done: called again, it goes on where it stopped."""
    while waiting := stale(read(), products(), folder):
        key = next(iter(waiting))
        log.info("%s: made again, for %s changed", key, ", ".join(waiting[key]))
        build_one(key, folder, flags, run=run)


def build_one(
    key: str,
    folder: Path,
    flags: Sequence[str] = (),
    *,
    run: Callable[..., "subprocess.CompletedProcess[bytes]"] = subprocess.run,
) -> None:
    """Make one product, whether it is stale or not. Raises `BadInput` where that fails."""
    every = products()
    done = run(_command(every[key], every, folder, flags), cwd=ROOT, check=False)
    # A claim that does not hold is a result as well: its figures are written, and shown.
    if done.returncode and not key.startswith("claims/"):
        raise BadInput(f"{key} could not be made; what was made before it is kept.")
    record(key, folder)


def made_by(key: str) -> str:
    """The product that `build key` makes; nothing if it is none."""
    return next((product.key for product in NETWORKS if product.build == _zoo(key)), "")


def _command(
    product: Product, every: Mapping[str, Product], folder: Path, flags: Sequence[str]
) -> list[str]:
    """How the product is made.

    What trains has a folder for what it is made from: the state of a training on an older world
    would count as finished.
    """
    command = [sys.executable, *product.build]
    if product.build[1] != "engine.zoo":
        return command
    if not product.trained:
        sources = json.dumps(made_from(product, every, folder), sort_keys=True)
        folder = folder / f"{product.key}-{hashlib.sha256(sources.encode()).hexdigest()[:8]}"
    return [*command, "--folder", str(folder.resolve()), *flags]


def record(key: str, folder: Path, file: Path = LEDGER) -> None:
    """Write down what a product that was just made was made from."""
    every = products()
    ledger = {**read(file), key: made_from(every[key], every, folder)}
    ordered = {name: dict(ledger[name]) for name in every if name in ledger}
    file.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def read(file: Path = LEDGER) -> dict[str, dict[str, str]]:
    """What each product was made from."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def report(waiting: Mapping[str, Iterable[str]]) -> str:
    """One line for each stale product, and what to do about them; nothing where none is."""
    lines = [f"{key} is older than {', '.join(newer)}" for key, newer in waiting.items()]
    advice = [
        "Make them again: python -m engine.zoo build all",
        "What was made or measured just now by other means: python -m engine.zoo record KEY",
    ]
    return "\n".join([*lines, *(advice if lines else [])])

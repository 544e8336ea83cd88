"""Make the shipped checkpoints.

    python -m engine.zoo list                   the keys that can be built
    python -m engine.zoo build world            autoencoder, then UNet and text encoder
    python -m engine.zoo build judge --seconds 90
    python -m engine.zoo examine world          measure the bars again and write them into the card
    python -m engine.zoo stale                  what is older than what it was made from
    python -m engine.zoo build all              make all that is stale, in order; see `graph`

A module of this package that makes checkpoints names them in `BUILDS`, and those it can measure
again in `EXAMINES`; nothing else lists them. Training runs on the GPU where there is one. Every
stage saves its state every two minutes and goes on from there when it is called again. The working
folder (--folder) holds data and states; results go to assets/.

On two cores, two workers of one thread each are faster than one of two:

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m engine.zoo build world --threads 1

once the latents are there: the stages before the denoiser are for one process.
"""

import argparse
import ast
import importlib
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from engine.zoo import graph
from engine.zoo.training import Options, join_workers

Build = Callable[[Path, Options], None]


def modules_with(name: str) -> list[str]:
    """Modules of this package that define the name, found without importing them."""
    modules = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        targets = [
            target.id
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        ]
        if name in targets:
            modules.append(f"engine.zoo.{path.stem}")
    return modules


def table(name: str) -> dict[str, Build]:
    """All entries of `BUILDS` or `EXAMINES`, by key."""
    entries: dict[str, Build] = {}
    for module in modules_with(name):
        entries |= getattr(importlib.import_module(module), name)
    return entries


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine.zoo",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("action", choices=("list", "build", "examine", "stale", "record"))
    parser.add_argument("key", nargs="?", default="")
    parser.add_argument("--folder", type=Path, default=Path("build/zoo"))
    parser.add_argument("--seconds", type=float, default=math.inf, help="for the training alone")
    parser.add_argument("--steps", type=int, help="in place of the build's own number")
    parser.add_argument("--anyway", action="store_true", help="publish what is below its bars")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    products = graph.products()
    if options.action == "stale":
        parser.exit(0, graph.report(graph.stale(graph.read(), products, options.folder)) + "\n")
    if options.action == "record" and options.key in products:
        return graph.record(options.key, options.folder)
    entries = table("EXAMINES" if options.action == "examine" else "BUILDS")
    if options.action == "list":
        parser.exit(0, "\n".join([*entries, *(p for p in products if p not in entries)]) + "\n")
    flags = ["--threads", str(options.threads), *(["--anyway"] if options.anyway else [])]
    if options.action == "build" and options.key == "all":
        return graph.build_all(options.folder, flags)
    if options.action == "build" and options.key in products and options.key not in entries:
        return graph.build_one(options.key, options.folder)
    if options.key not in entries:
        parser.error(f"there is no {options.key!r} to {options.action}; {', '.join(entries)}")
    torch.set_num_threads(options.threads)
    join_workers()
    entries[options.key](
        options.folder, Options(options.seconds, options.steps, anyway=options.anyway)
    )
    if options.action == "build" and (product := graph.made_by(options.key)):
        graph.record(product, options.folder)


if __name__ == "__main__":
    main()

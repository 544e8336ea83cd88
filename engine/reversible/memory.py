"""Bytes and operations of a training step, counted and not guessed.

    cost = measure(lambda: network(x).mean(), network, [x])
    cost.kept_bytes        what lives between forward and backward
    cost.peak_bytes        the most that was alive at once, in both
    cost.flops             of the products of matrices and convolutions, in both

Kept are the storages that autograd saved, each counted once, without parameters, buffers and the
user's inputs. The size of the process says nothing about this: an allocator does not give its pages
back. On the meta device the same counts come without any arithmetic; call them computed then.

Operations come before seconds: on a busy machine the clock tells of the machine.

    cost = yield from counting(step, network, [x], told)      the same, and `told` on the way
"""

import statistics
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from engine.core.shapes import Float, Tensor

Step = Callable[[], Float[Tensor, ""]]
"""One forward pass; gives the loss."""
Told = TypeVar("Told")
SECONDS_BETWEEN = 0.2


@dataclass(frozen=True)
class Cost:
    """What a training step took. `live_bytes` are all that the forward pass left alive, whoever
    holds them: those that autograd saved, and what selective checkpoints keep for themselves.

    `gradient_bytes` is the size of the gradients of what is trained; a segment hands them over
    together, so they lie inside the peak.
    """

    kept_bytes: int
    live_bytes: int
    peak_bytes: int
    flops: int
    gradient_bytes: int
    loss: float
    is_computed: bool


def measure(
    step: Step,
    module: nn.Module,
    inputs: Iterable[Tensor] = (),
    *,
    counter: "Counter | None" = None,
) -> Cost:
    """Counts a forward and a backward pass. The gradients of the parameters are left as they were.

    Gradients are laid out beforehand: they are as large in every mode, and are no activations.
    A counter of one's own can be looked at, and stopped, from another thread.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    counter = counter or Counter(trained)
    before = [p.grad for p in trained]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    try:
        with torch.enable_grad(), counter:
            with kept_bytes(module, inputs) as kept:
                loss = step()
            live = counter.live - _bytes(loss)
            told = loss.detach()
            loss.backward()
    finally:
        for parameter, grad in zip(trained, before, strict=True):
            parameter.grad = grad
    is_computed = told.is_meta
    return Cost(
        kept.total,
        live,
        counter.most(),
        counter.flops,
        sum(_bytes(p) for p in trained),
        float("nan") if is_computed else float(told),
        is_computed,
    )


def counting(
    step: Step, module: nn.Module, inputs: Iterable[Tensor], told: Callable[[int], Told]
) -> Generator[Told, None, Cost]:
    """`measure` in a thread of its own: what `told` makes of the number of operations so far comes
    several times a second, and whoever closes the generator ends the pass before its next one.

    Counting a large network takes seconds, in which a visitor sees nothing and cannot stop it.
    """
    counter = Counter([p for p in module.parameters() if p.requires_grad])
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(measure, step, module, inputs, counter=counter)
        try:
            while not wait([running], SECONDS_BETWEEN).done:
                yield told(counter.operations)
        finally:
            counter.is_stopped = True
        return running.result()


def median_seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Median time of a call, after one that is not counted."""
    run()
    seconds = []
    for _ in range(repeats):
        _settle()
        begun = time.perf_counter()
        run()
        _settle()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _settle() -> None:
    """Waits for what an accelerator has still to do."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


# ---------------------------------------------------------------------- kept


class Kept:
    """Storages that autograd saved, by address; references keep addresses from being used again."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        self._excluded = {_address(tensor): tensor.untyped_storage() for tensor in excluded}
        self._storages = dict[int, torch.UntypedStorage]()
        self.total = 0

    def pack(self, tensor: Tensor) -> Tensor:
        address = _address(tensor)
        if address not in self._excluded and address not in self._storages:
            self._storages[address] = tensor.untyped_storage()
            self.total += self._storages[address].nbytes()
        return tensor

    def let_go(self) -> None:
        """Hold nothing back any longer, so that the backward pass can free it."""
        self._storages.clear()


@contextmanager
def kept_bytes(module: nn.Module, inputs: Iterable[Tensor] = ()) -> Iterator[Kept]:
    """Counts what a forward pass in the block keeps for its backward pass, without the module's
    parameters and buffers and without the inputs."""
    kept = Kept([*module.parameters(), *module.buffers(), *inputs])
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        yield kept
    kept.let_go()


def _address(tensor: Tensor) -> int:
    """Of the storage object: data pointers are all zero on the meta device."""
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# ---------------------------------------------------------------------- peak and operations


class Counter(TorchDispatchMode):
    """Counts the storages that operations in the block make, and when each one dies; and the
    floating-point operations of products of matrices, convolutions and attention.

    On CUDA `most` asks the allocator instead, whose level before the block is taken off. The
    counter of operations that torch ships hooks into modules, and its hooks fail inside the
    gradients that a reversible backward pass asks for; the table of formulas is torch's own.
    """

    def __init__(self, placed: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.flops = self.operations = 0
        self.is_stopped = False
        self._known = set[int]()
        self._device = next((t.device for t in placed if t.is_cuda), None)
        self._level = 0

    def __enter__(self) -> "Counter":
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._level = torch.cuda.memory_allocated(self._device)
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.is_stopped:
            raise CancelledError
        self.operations += 1
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        made = [tensor for tensor in _tensors(out) if _address(tensor) not in self._known]
        if made:
            # Views and operations in place give storages of older tensors, which are no new ones.
            given = {_address(tensor) for tensor in _tensors((args, kwargs))}
            for tensor in made:
                if _address(tensor) not in given:
                    self._count(tensor.untyped_storage())
        return out

    def most(self) -> int:
        """The peak of the block."""
        if self._device is None:
            return self.peak
        return torch.cuda.max_memory_allocated(self._device) - self._level

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._known:
            return
        self._known.add(address)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, storage.nbytes())

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def _tensors(value: object) -> Iterator[Tensor]:
    """The tensors in arguments of an operation; faster than a walk over any tree."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))

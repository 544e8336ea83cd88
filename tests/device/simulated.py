"""A pretend accelerator: tensors say that they are on `sim:0`, and compute on the CPU.

    simulated.register()                     before any model is loaded; for a whole process
    x = torch.randn(3).to("sim")             modules, optimisers, autograd and safetensors work
    x + torch.zeros(3)                       RuntimeError, as of two devices on a GPU
    x.numpy()                                TypeError, as on a GPU
    with simulated.watched() as seen:
        float(x.sum())                       the host waits for the device here
    seen.waits                               Counter({"aten::_local_scalar_dense": 1}), by operation
    seen.places                              Counter({"engine/diffusion/solvers.py:88": 1})

What a GPU does and this does not: memory of its own, streams, missing kernels, half precision that
is fast. What it does and a GPU would: it refuses operands on two devices, counts each moment at
which the host must wait for a result, and with `register(float64=False)` refuses float64 as Apple's
MPS does.

It stands on PyTorch's key for devices that are not in its tree (PrivateUse1) with a backend in
Python, and on a tensor subclass that wraps the CPU tensor holding the numbers.
"""

import collections
import contextlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch.utils import _pytree as tree
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "sim"
CPU = torch.device("cpu")

# Operations whose result the host has to read before it can go on.
READ_BY_THE_HOST = {
    "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero",
    "aten::masked_select", "aten::_unique2", "aten::unique_consecutive", "aten::unique_dim",
}  # fmt: skip
# Operations that take operands of two devices on CUDA too: copies, and indices of the CPU.
ACROSS_DEVICES = {
    "aten::copy_", "aten::_to_copy", "aten::_copy_from", "aten::set_", "aten::index",
    "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
}  # fmt: skip


@dataclass
class Seen:
    """What happened between host and device while it was watched."""

    waits: collections.Counter = field(default_factory=collections.Counter)
    places: collections.Counter = field(default_factory=collections.Counter)
    uploads: int = 0
    downloads: int = 0

    def wait(self, operation: str) -> None:
        self.waits[operation] += 1
        self.places[_place()] += 1


_watching: list[Seen] = []
_has_float64 = True
_registered: list[torch.library.Library] = []


@contextlib.contextmanager
def watched() -> Iterator[Seen]:
    """Counts the waits of the host and the copies within the block."""
    seen = Seen()
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching.remove(seen)


def _place() -> str:
    """File and line of ours that an operation was asked for by; of anyone where none is ours.

    What brings tensors home for others is not meant, but who asked for it.
    """
    frame = sys._getframe()
    while frame is not None:
        path = frame.f_code.co_filename
        is_ours = "/engine/" in path and "site-packages" not in path
        if is_ours and not path.endswith("/engine/core/precision.py"):
            return f"engine/{path.rpartition('/engine/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


class OnDevice(torch.Tensor):
    """A tensor of the pretend device; its numbers are the CPU tensor `raw`."""

    raw: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> "OnDevice":
        if raw.dtype == torch.float64 and not _has_float64:
            raise TypeError(f"Cannot convert a tensor to {NAME}:0, which has no float64.")
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, kinds, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), operation._schema.name
        tensors = [leaf for leaf in tree.tree_leaves((args, kwargs)) if _is_tensor(leaf)]
        mine = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        _refuse_mixing(name, mine, tensors)
        wanted = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
        goes_home = wanted == CPU
        _note(name, args, goes_home, is_waited_for=not kwargs.get("non_blocking"))
        if wanted is not None:
            kwargs["device"] = CPU
        result = operation(*tree.tree_map(_raw, args), **tree.tree_map(_raw, kwargs))
        if goes_home:
            return result
        if name == "aten::copy_" and not isinstance(args[0], OnDevice):
            return args[0]
        # An operation in place gives back the very tensor that it wrote.
        known = {id(tensor.raw): tensor for tensor in mine}
        return tree.tree_map(lambda leaf: _on_device(leaf, known), result)

    def __repr__(self) -> str:
        return f"OnDevice({self.raw})"

    def __deepcopy__(self, memo: dict[int, object]) -> "OnDevice":
        return memo.setdefault(id(self), self.clone())

    # What a tensor of a real device answers, and a wrapper does not by itself.
    def untyped_storage(self) -> torch.UntypedStorage:
        return self.raw.untyped_storage()

    def data_ptr(self) -> int:
        return self.raw.data_ptr()

    def tolist(self) -> object:
        for seen in _watching:
            seen.wait("tolist")
        return self.raw.tolist()

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert a {NAME}:0 tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args, **kwargs):
        return self.numpy()


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _raw(value: object) -> object:
    return value.raw if isinstance(value, OnDevice) else value


def _on_device(value: object, known: dict[int, OnDevice]) -> object:
    if not isinstance(value, torch.Tensor):
        return value
    return known[id(value)] if id(value) in known else OnDevice(value)


def _refuse_mixing(name: str, mine: list, tensors: list) -> None:
    """A single number of the CPU may stand beside tensors of a device; more may not."""
    others = [t for t in tensors if not isinstance(t, OnDevice) and t.dim() > 0]
    if mine and others and name not in ACROSS_DEVICES:
        raise RuntimeError(
            f"{name}: expected all tensors to be on the same device, but found at least two "
            f"devices, {NAME}:0 and {others[0].device} (shape {tuple(others[0].shape)})"
        )


def _note(name: str, args: tuple, goes_home: bool, *, is_waited_for: bool) -> None:
    """A copy that is not waited for is one the host will wait for with another, later one."""
    to_host = to_device = False
    if name == "aten::copy_":
        to, source = (isinstance(arg, OnDevice) for arg in args[:2])
        to_host, to_device = source and not to, to and not source
    for seen in _watching:
        if goes_home or to_host:
            if is_waited_for:
                seen.wait(f"{name} to cpu")
        elif name in READ_BY_THE_HOST:
            seen.wait(name)
        seen.downloads += goes_home or to_host
        seen.uploads += to_device


# ---------------------------------------------------------------------- making it known to torch


def register(*, float64: bool = True) -> None:
    """Makes `sim` the accelerator of this process; a second call only sets `float64`."""
    global _has_float64
    _has_float64 = float64
    if _registered:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=_module())
    library = torch.library.Library("aten", "IMPL")
    for qualified, operation in _makers():
        # Some have a kernel for every device already, which calls another maker.
        with contextlib.suppress(RuntimeError):
            library.impl(qualified, _made_on_device(operation), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    _registered.append(library)  # what was registered lives as long as its library


def _makers() -> Iterator[tuple[str, torch._ops.OpOverload]]:
    """Every operation that makes one tensor on a device out of no other: zeros, randn, arange."""
    for qualified in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = qualified.partition("::")
        name, _, overload = rest.partition(".")
        if namespace != "aten" or "out" in overload.split("_"):
            continue
        try:
            operation = getattr(getattr(torch.ops.aten, name), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        taken = operation._schema.arguments
        takes_tensors = any("Tensor" in str(argument.type) for argument in taken)
        takes_device = any(argument.name == "device" for argument in taken)
        if takes_device and not takes_tensors and len(operation._schema.returns) == 1:
            yield rest, operation


def _made_on_device(operation):
    def make(*args, **kwargs):
        kwargs.pop("pin_memory", None)
        for seen in _watching:
            seen.uploads += operation._schema.name == "aten::scalar_tensor"
        return OnDevice(operation(*args, **kwargs | {"device": CPU}))

    return make


def _copy_from(source, target, non_blocking=False):
    for seen in _watching:
        if isinstance(source, OnDevice):
            seen.downloads += 1
            seen.wait("aten::_copy_from to cpu")
        else:
            seen.uploads += 1
    _raw(target).copy_(_raw(source))
    return target


def _module() -> types.ModuleType:
    """What `torch.<device>` has to offer; there is one device, which is never busy."""
    module = types.ModuleType(f"torch.{NAME}")
    answers = {
        "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0,
        "_is_in_bad_fork": False, "synchronize": None, "empty_cache": None,
        "get_amp_supported_dtype": [torch.float16, torch.bfloat16],
        "manual_seed_all": None, "set_rng_state": None,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(module, name, lambda *args, answer=answer, **kwargs: answer)
    module.get_rng_state = lambda device=0: torch.get_rng_state()
    module.device = lambda index: contextlib.nullcontext()
    return module
